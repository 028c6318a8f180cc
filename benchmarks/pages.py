"""Tables that benchmarks write into the documentation, between two markers that are there already."""

import re
from collections.abc import Mapping
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def write(page: str, name: str, text: str) -> None:
    """``text`` between ``<!-- name -->`` and ``<!-- /name -->`` of ``docs/page.md``, in place of what was there."""
    before, _, after = _parts(page, name)
    (DOCS / f"{page}.md").write_text(f"{before}\n{text.strip()}\n{after}", encoding="utf-8")


def read(page: str, name: str) -> str:
    """What was written there."""
    return _parts(page, name)[1].strip()


def merged(page: str, name: str, new: Mapping[str, str]) -> None:
    """Sections, each under a heading in bold, in place of those of the same headings; the others stay."""
    there = dict(re.findall(r"(?ms)^\*\*(.+?)\*\*(.*?)(?=^\*\*|\Z)", read(page, name)))
    write(page, name, "\n\n".join(f"**{heading}**{text.rstrip()}" for heading, text in {**there, **new}.items()))


def _parts(page: str, name: str) -> tuple[str, str, str]:
    """Everything before the text, the text, and everything after it; markers belong to the outside."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = (DOCS / f"{page}.md").read_text(encoding="utf-8").partition(begin)
    text, _, after = rest.partition(end)
    return before + begin, text, end + after
