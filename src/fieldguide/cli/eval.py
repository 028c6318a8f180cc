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
    """Measure a trained run on its test images, or on others of the same classes.

    Parameters
    ----------
    run
        The run's folder, such as runs/resnet_mini-digits-1.
    data
        Another source of images: its test part, or all of it when it has none. Without it the run's own test images.
    on_bad_file
        Stop at files that cannot be read, or skip them.
    device
        "cpu", "cuda", …; "auto" takes an accelerator when there is one.
    """
    from fieldguide.cli.evaluation import evaluate

    result = evaluate(run, data, on_bad_file, device)
    if json:
        say_json(result)
        return
    shown = table("class", "precision", "recall", "F1", "images", right=("precision", "recall", "F1", "images"))
    for row in result["classes"]:
        shown.add_row(row["name"], *(f"{row[key]:.1%}" for key in ("precision", "recall", "f1")), f"{row['support']:,}")
    console().print(shown)
    say_facts(accuracy=f"{result['accuracy']:.2%} of {result['images']:,} images", loss=f"{result['loss']:.4f}")
