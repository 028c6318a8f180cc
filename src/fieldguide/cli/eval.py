"""``fieldguide eval RUN``: how good a trained run is, class by class."""

from pathlib import Path
from typing import Literal

from fieldguide.cli.options import Json
from fieldguide.cli.terminal import console, say_facts, say_json, table


def eval(
    run: Path,
    /,
    *,
    data: str | None = None,
    on_bad_file: Literal["stop", "skip"] = "stop",
    device: str = "auto",
    json: Json = False,
) -> None:
    """Measure a trained run on its test part, or on other data of the same kind.

    Parameters
    ----------
    run
        The run's folder, such as runs/resnet_mini-digits-1.
    data
        Another source: its test part, or all of it when it has none. Without it the run's own test part.
    on_bad_file
        Stop at images that cannot be read, or skip them.
    device
        "cpu", "cuda", …; "auto" takes an accelerator when there is one.
    """
    from fieldguide.cli.devices import choose_device
    from fieldguide.cli.tasks import kind_of
    from fieldguide.report.figures import shown
    from fieldguide.train.run import RunFolder

    folder = RunFolder.open(run)
    figures = kind_of(folder).evaluate(folder, data, choose_device(device), on_bad_file)
    if json:
        say_json({"run": str(folder.path), **figures})
        return
    unit, count = next(iter(figures.items()))
    if "classes" in figures:
        listing = table("class", "precision", "recall", "F1", unit, right=("precision", "recall", "F1", unit))
        for row in figures["classes"]:
            shares = (f"{row[key]:.1%}" for key in ("precision", "recall", "f1"))
            listing.add_row(row["name"], *shares, f"{row['support']:,}")
        console().print(listing)
    say_facts(**{"of": f"{count:,} {unit}", **shown(figures)})
