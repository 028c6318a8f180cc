"""``fieldguide compare RUN RUN …``: several runs beside each other, what differs in their recipes first."""

from pathlib import Path

from fieldguide.cli.options import Json
from fieldguide.cli.terminal import console, say_facts, say_json, table
from fieldguide.errors import FieldguideError


def compare(*runs: Path, out: Path = Path("comparison.html"), json: Json = False) -> None:
    """Set runs beside each other: how their recipes differ, what came of it, and one page with their curves.

    Parameters
    ----------
    runs
        Two run folders or more, such as runs/resnet_mini-digits-1 runs/resnet_mini-digits-2.
    out
        The page to write; one that compare wrote before is replaced.
    """
    from fieldguide.report.comparison import compare as beside
    from fieldguide.report.comparison import write_comparison
    from fieldguide.train.run import RunFolder

    found = beside([RunFolder.open(run).path for run in runs])
    if out.suffix != ".html":
        raise FieldguideError(f"--out {out}: the page is HTML; give a name that ends with .html")
    names = [run.name for run in found.runs]
    page = write_comparison(found, out)
    if json:
        say_json({"runs": [str(run) for run in runs], "page": str(page), "recipes": found.recipes,
                  "results": found.measured, "different": found.environments})  # fmt: skip
        return
    for title, rows in (("recipes", found.recipes), ("results", found.results)):
        listing = table(title, *names, right=tuple(names))
        for name, cells in rows.items():
            listing.add_row(name, *cells)
        if rows:
            console().print(listing)
    say_facts(page=page)
