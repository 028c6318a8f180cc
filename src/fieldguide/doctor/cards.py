"""What a finding means, as a card: the page that the file of its rule begins with."""

import re
import sys
from collections.abc import Iterable
from typing import NamedTuple

from fieldguide.doctor.finding import Rule
from fieldguide.doctor.rules import RULES

_HEADINGS = re.compile(r"(What it looks for|Why it matters|Usual causes|Known false alarms|Fix): ")


class Card(NamedTuple):
    """One symptom in words."""

    code: str
    slug: str
    title: str
    parts: tuple[tuple[str, str], ...]
    """Heading and text: what it looks for, why it matters, usual causes, known false alarms, fix."""
    refute: str
    """The test that would show a finding of it to be wrong."""

    @property
    def name(self) -> str:
        return f"{self.code} {self.slug}"

    def __str__(self) -> str:
        """As Markdown."""
        rows = [*self.parts, ("It would be wrong if", self.refute)]
        return f"## {self.name}\n\n{self.title}\n\n" + "".join(f"- **{heading}**: {text}\n" for heading, text in rows)


def card(rule: Rule) -> Card:
    page = " ".join((sys.modules[rule.judge.__module__].__doc__ or "").split())
    head, *rest = _HEADINGS.split(page)
    title = head.partition(": ")[2].strip()
    parts = tuple((heading, _sentence(text)) for heading, text in zip(rest[::2], rest[1::2], strict=True))
    return Card(rule.code, rule.slug, _sentence(title), parts, _sentence(rule.refute))


def cards() -> list[Card]:
    """Of all symptoms: data, model, loss, optimisation, outcome, speed."""
    return [card(rule) for rule in RULES]


def page(all_of_them: Iterable[Card]) -> str:
    """A page of cards."""
    return "# Symptoms\n\nWritten by `fieldguide lookup symptom`.\n\n" + "\n".join(map(str, all_of_them))


def _sentence(text: str) -> str:
    return text.strip()[:1].upper() + text.strip()[1:]
