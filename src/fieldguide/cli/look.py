"""``fieldguide look cam RUN IMAGE``, ``filters RUN``, ``maps RUN IMAGE``, ``attention RUN INPUT``: what a trained
network sees, as pictures; ``schedule SOURCE`` and ``rate MODEL``: how fast it learns.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Group, Parameter

from fieldguide.cli.options import Flag, Positive
from fieldguide.cli.settings import RecipeOptions, given
from fieldguide.errors import FieldguideError, unknown

if TYPE_CHECKING:
    from fieldguide.cli.tasks.images import TrainedImages

app = App(name="look", help_format="plaintext", help_epilogue="")
RECIPE = Group("Recipe", sort_key=1)
NOTHING = RecipeOptions()


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


@app.command
def schedule(
    source: str,
    /,
    *,
    steps: Positive | None = None,
    out: Path | None = None,
    settings: Annotated[RecipeOptions, Parameter(name="*", group=RECIPE)] = NOTHING,  # pyright: ignore
) -> None:
    """Draw what a recipe does to learning rate, weight decay and momentum, before an hour is spent on it.

    Parameters
    ----------
    source
        A recipe file (.toml), a model or family such as vit, or a run's folder; options below are laid over it.
    steps
        Optimizer steps of the training; without it the run's, or 1,000.
    out
        A new PNG file; without it figures/schedule.png in the run's folder, and none for a recipe.
    """
    from fieldguide.cli.schedule_picture import show_schedule

    _require_free(out)
    show_schedule(source, given(settings), steps, out)


@app.command
def rate(
    model: str,
    /,
    *,
    data: str | None = None,
    target: str | None = None,
    recipe: Path | None = None,
    steps: Positive = 100,
    out: Path | None = None,
    settings: Annotated[RecipeOptions, Parameter(name="*", group=RECIPE)] = NOTHING,  # pyright: ignore
) -> None:
    """Find a learning rate: train a little while it grows from step to step (Smith's range test), and keep nothing.

    Parameters
    ----------
    model
        A name from `fieldguide models`, such as resnet_mini.
    data
        What to learn from, as for train; without it what is there for the network's task.
    target
        Of a table, the column to predict.
    recipe
        A TOML file laid over the family's defaults; the options below are laid over both.
    steps
        Optimizer steps, at rates from 1e-6 to 10.
    out
        A new PNG file for the curve.
    """
    from fieldguide.catalog import find, names
    from fieldguide.cli.job import Job, source
    from fieldguide.cli.rate_picture import show_rates
    from fieldguide.train.recipe import load_recipe

    row = find(model)
    if row is None:
        raise unknown("model", model, names(), "`fieldguide models` lists all")
    _require_free(out)
    job = Job(model=model, data=source(data) if data else "", target=target)
    show_rates(job, load_recipe(row.family, recipe, given(settings)), steps, out)


def _require_free(out: Path | None) -> None:
    if out and out.suffix != ".png":
        raise FieldguideError(f"--out {out} must end in .png")
    if out and not out.parent.is_dir():
        raise FieldguideError(f"there is no folder {out.parent} for the picture")
    if out and out.exists():
        raise FieldguideError(f"{out} exists already; choose another name")


@app.command
def attention(
    run: Path,
    input: str,
    /,
    *,
    layer: Positive | None = None,
    head: Positive | None = None,
    cross: Flag = False,
    out: Path | None = None,
) -> None:
    """Draw what a Transformer attends to, head by head, and through all layers together (rollout).

    Parameters
    ----------
    run
        The run's folder, such as runs/vit_mini-digits-1.
    input
        A text in quotes, or for a network for images an image file.
    layer
        Only this layer, 1 the first.
    head
        Only this head, from 1; with --layer its map alone, large.
    cross
        Of a network that answers a text with another: what the answer attends to in the text.
    out
        A new PNG file; without it figures/attention-INPUT.png in the run's folder.
    """
    from fieldguide.cli.attention_picture import show_attention
    from fieldguide.train.run import RunFolder

    folder = RunFolder.open(run)
    _require_free(out)
    show_attention(folder, input, layer, head, cross, out)


def _open(run: Path, out: Path | None, name: str) -> "tuple[TrainedImages, Path]":
    """The run's network, and where its picture goes."""
    from fieldguide.cli.tasks import trained_images
    from fieldguide.train.run import RunFolder

    folder = RunFolder.open(run)
    _require_free(out)
    return trained_images(folder), out or folder.figures / name


def _stage(trained: "TrainedImages", number: int) -> int:
    count = len(trained.model.feature_info)  # pyright: ignore[reportArgumentType]
    if number > count:
        raise FieldguideError(f"there is no stage {number}; this network has {count}, numbered from 1, the finest")
    return number - 1
