"""Names from data and logs stand on a page as text, whatever they are: read by a parser of HTML, not by us."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.report.conftest import digit_predictions, write_log

from fieldguide.report import Examples, build_report
from fieldguide.report.comparison import compare, write_comparison
from fieldguide.report.health import build_diagnosis

EVIL = '</title><script>alert(1)</script><img src=x onerror=alert(2)>"\'><a href="javascript:alert(3)">$\\frac{'
HARMLESS = {"src", "href"}


class Page(HTMLParser):
    """Collects what could run or load something."""

    def __init__(self, file: Path):
        super().__init__()
        self.found: list[str] = []
        self.text = ""
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"script", "iframe", "object", "embed", "link", "base", "form", "a"}:
            self.found.append(tag)
        for name, value in attrs:
            if name.startswith("on") or (name in HARMLESS and not (value or "").startswith("data:image/png;base64,")):
                self.found.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def evil_run(tmp_path: Path) -> Path:
    run = tmp_path / "<script>alert(0)<" / "run<img src=x onerror=alert(4)>"
    run.mkdir(parents=True)
    write_log(run)
    found = digit_predictions([f"{n}{EVIL}" for n in range(10)])
    found.worst_names[0] = EVIL  # pyright: ignore[reportIndexIssue]
    found.save(run)
    job = {"model": EVIL, "data": EVIL, "unit": EVIL, "next": [f"fieldguide predict {EVIL}"]}
    (run / "environment.json").write_text(json.dumps({"fieldguide": EVIL, EVIL: EVIL, "job": job}))
    (run / "recipe.toml").write_text(f"epochs = 1\n{json.dumps(EVIL)} = {json.dumps(EVIL)}\n")
    Examples(title=EVIL, story=EVIL, columns=(EVIL,), rows=[(EVIL,)]).save(run)
    return run


def test_the_report(evil_run: Path):
    page = Page(build_report(evil_run))
    assert page.found == []
    assert page.text.count("<script>alert(1)</script>") > 20


def test_the_comparison(evil_run: Path, tmp_path: Path):
    other = shutil.copytree(evil_run, evil_run.with_name("other<svg onload=alert(5)>"))
    (other / "recipe.toml").write_text("epochs = 2\n")
    page = Page(write_comparison(compare([evil_run, other]), tmp_path / "comparison.html"))
    assert page.found == []
    assert "<svg onload=alert(5)>" in page.text
    assert "<script>alert(1)</script>" in page.text


def test_the_diagnosis(evil_run: Path):
    finding = {"rule": EVIL, "slug": EVIL, "severity": EVIL, "evidence": EVIL, "suppressed_by": EVIL,
               "threshold": EVIL, "refute": EVIL, "fixes": [{"title": EVIL}]}  # fmt: skip
    diagnosis = {"findings": [finding], "step": EVIL, "verdict": EVIL}
    for file in (build_diagnosis(evil_run, [], diagnosis), build_report(evil_run, diagnosis)):
        page = Page(file)
        assert page.found == []
        assert page.text.count("<script>alert(1)</script>") > 7


def test_the_parser_would_see_it(tmp_path: Path):
    (tmp_path / "x.html").write_text(f"<title>{EVIL}</title>")
    assert {"script", "a", "img onerror=alert(2)", "img src=x"} <= set(Page(tmp_path / "x.html").found)
