"""``fieldguide look cam RUN IMAGE``, ``filters RUN``, ``maps RUN IMAGE``: what a trained network sees, as pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from fieldguide.cli.options import Positive
from fieldguide.errors import FieldguideError, unknown

if TYPE_CHECKING:
    from fieldguide.cli.trained import Trained

app = App(name="look", help_format="plaintext", help_epilogue="")


@app.command
def cam(
    run: Path,
    image: Path,
    /,
    *,
    class_name: Annotated[str | None, Parameter(name="--class")] = None,
    stage: Positive | None = None,
    out: Path | None = None,
) -> None:
    """Draw where in an image a convolutional network finds its reasons for a class (Grad-CAM).

    Parameters
    ----------
    run
        The run's folder, such as runs/resnet_mini-digits-1.
    image
        An image file; it is prepared exactly as the training images were.
    class_name
        Explain this class instead of the likeliest; the next likeliest is drawn beside it.
    stage
        Use the maps of this stage, 1 the finest; without it the last, whose channels say most about classes.
    out
        A new PNG file; without it figures/cam-IMAGE.png in the run's folder.
    """
    import torch

    from fieldguide.report.cam import draw_cam, grad_cam
    from fieldguide.report.style import shortened

    trained, file = _open(run, out, f"cam-{image.stem}.png")
    if class_name is not None and class_name not in trained.classes:
        raise unknown("class", class_name, trained.classes)
    place = -1 if stage is None else _stage(trained, stage)
    pixels = trained.read(image)
    chances = trained.logits(pixels[None])[0].softmax(0)
    order = chances.argsort(descending=True).tolist()
    wanted = order[0] if class_name is None else trained.classes.index(class_name)
    shown = [wanted, next(c for c in order if c != wanted)]
    heat = grad_cam(trained.model, trained.prepare(pixels.expand(2, -1, -1, -1)), torch.tensor(shown), place)
    names = [f"{shortened(trained.classes[c])}, {chances[c]:.1%}" for c in shown]
    print(draw_cam(pixels, heat, names, file))
    for c in shown:
        print(f"  {chances[c]:7.2%}  {trained.classes[c]}")


@app.command
def filters(run: Path, /, *, out: Path | None = None) -> None:
    """Draw the filters that the first convolution has learned.

    Parameters
    ----------
    run
        The run's folder, such as runs/resnet_mini-digits-1.
    out
        A new PNG file; without it figures/filters.png in the run's folder.
    """
    from fieldguide.report.features import draw_filters

    trained, file = _open(run, out, "filters.png")
    print(draw_filters(trained.model, file))


@app.command
def maps(run: Path, image: Path, /, *, stage: Positive | None = None, out: Path | None = None) -> None:
    """Draw what each stage of a network makes of an image, the channels that answer most first.

    Parameters
    ----------
    run
        The run's folder, such as runs/resnet_mini-digits-1.
    image
        An image file; it is prepared exactly as the training images were.
    stage
        Only this stage, 1 the finest.
    out
        A new PNG file; without it figures/maps-IMAGE.png in the run's folder.
    """
    from fieldguide.report.features import draw_maps

    trained, file = _open(run, out, f"maps-{image.stem}.png")
    places = None if stage is None else [_stage(trained, stage)]
    pixels = trained.read(image)
    print(draw_maps(trained.model, pixels, trained.prepare(pixels[None]), file, places))


def _open(run: Path, out: Path | None, name: str) -> "tuple[Trained, Path]":
    """The run's network, and where its picture goes."""
    from fieldguide.cli.trained import Trained
    from fieldguide.train.run import RunFolder

    folder = RunFolder.open(run)
    if out and out.suffix != ".png":
        raise FieldguideError(f"--out {out} must end in .png")
    if out and not out.parent.is_dir():
        raise FieldguideError(f"there is no folder {out.parent} for the picture")
    if out and out.exists():
        raise FieldguideError(f"{out} exists already; choose another name")
    return Trained.of(folder), out or folder.figures / name


def _stage(trained: "Trained", number: int) -> int:
    count = len(trained.model.feature_info)  # pyright: ignore[reportArgumentType]
    if number > count:
        raise FieldguideError(f"there is no stage {number}; this network has {count}, numbered from 1, the finest")
    return number - 1
