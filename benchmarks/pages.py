"""Tables that benchmarks write into the documentation, between two markers that are there already."""

from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def write(page: str, name: str, text: str) -> None:
    """``text`` between ``<!-- name -->`` and ``<!-- /name -->`` of ``docs/page.md``, in place of what was there."""
    file, begin, end = DOCS / f"{page}.md", f"<!-- {name} -->", f"<!-- /{name} -->"
    head, rest = file.read_text(encoding="utf-8").split(begin)
    file.write_text(f"{head}{begin}\n{text.strip()}\n{end}{rest.split(end)[1]}", encoding="utf-8")
