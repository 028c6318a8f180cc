"""The cards of symptoms: all of every rule's page, one look away from the finding."""

from pathlib import Path

import pytest

from fieldguide.cli import run
from fieldguide.doctor.cards import cards
from fieldguide.doctor.rules import RULES
from fieldguide.report.health import build_diagnosis

PAGE = Path(__file__).parents[2] / "docs" / "symptoms.md"


def test_the_cards_are_the_page_and_every_rule_has_one(capsys: pytest.CaptureFixture[str]) -> None:
    """`fieldguide lookup symptom > docs/symptoms.md` writes them."""
    assert run(["lookup", "symptom"]) == 0
    assert capsys.readouterr().out == PAGE.read_text(encoding="utf-8")
    assert [card.slug for card in cards()] == [rule.slug for rule in RULES]
    assert all(len(card.parts) == 5 and all(text for _, text in card.parts) and card.title for card in cards())


def test_one_is_found_by_its_slug_or_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for name in ("dead-relu", "P14", "p14"):
        assert run(["lookup", "symptom", name]) == 0
        said.append(capsys.readouterr().out)
    assert said[0].startswith("## P14 dead-relu\n")
    assert len(set(said)) == 1
    assert run(["lookup", "symptom", "dead-rely"]) == 2
    assert "did you mean 'dead-relu'" in capsys.readouterr().err


def test_a_finding_of_a_report_leads_to_its_card(tmp_path: Path) -> None:
    found = {"rule": "P14", "slug": "dead-relu", "severity": "warning", "evidence": "0.weight", "suppressed_by": None}
    more = {"threshold": "half", "refute": "It fires.", "fixes": [{"title": "lower the rate"}]}
    diagnosis = {"verdict": "warning", "step": 9, "findings": [{**found, **more}]}
    page = build_diagnosis(tmp_path, [], diagnosis, cards()).read_text(encoding="utf-8")
    assert '<a href="#P14-dead-relu">P14 dead-relu</a>' in page
    assert page.count("<article") == page.count('<article id="P14-dead-relu">') == 1
    assert next(text for heading, text in next(c for c in cards() if c.code == "P14").parts if heading == "Fix") in page
