"""``fieldguide train MODEL --data SOURCE``: a complete run folder from one command."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from fieldguide import catalog
from fieldguide.cli.options import Flag, Json
from fieldguide.cli.settings import RecipeOptions, given
from fieldguide.errors import FieldguideError, unknown
from fieldguide.train.recipe import load_recipe, to_toml

RECIPE = Group("Recipe (general defaults; --print-recipe shows what a model gets)", sort_key=1)
NOTHING = RecipeOptions()


def train(
    model: str | None = None,
    /,
    *,
    data: str = "digits",
    weights: str | None = None,
    recipe: Path | None = None,
    print_recipe: Flag = False,
    resume: Path | None = None,
    out: Path = Path("runs"),
    name: str | None = None,
    image_size: int | None = None,
    channels: Literal[1, 3] | None = None,
    on_bad_file: Literal["stop", "skip"] = "stop",
    device: str = "auto",
    json: Json = False,
    settings: Annotated[RecipeOptions, Parameter(name="*", group=RECIPE)] = NOTHING,  # pyright: ignore
) -> None:
    """Train a network on images and leave a complete run folder: weights, figures, report and all that repeats it.

    Parameters
    ----------
    model
        A name from `fieldguide models`, such as resnet_mini.
    data
        The source: "digits"; a folder with a sub-folder per class, or with train/, val/, test/ of such; a CSV of
        path,label; MNIST-style IDX files; an .npz with arrays.
    weights
        Trained weights to begin with: a public checkpoint (.safetensors, .pth, a folder, hub:ORG/NAME) or a run of
        yours. The head is made anew and learns first; images are prepared as the weights know them.
    recipe
        A TOML file laid over the family's defaults; the options below are laid over both.
    print_recipe
        Print the resolved recipe as TOML and stop.
    resume
        Go on with an interrupted run, from its newest good checkpoint.
    out
        Where run folders are made.
    name
        Name of the run folder instead of MODEL-DATA-NUMBER.
    image_size
        Side in pixels; without it the images' own, as far as the model takes it.
    channels
        1 for grey, 3 for colour; without it as the images are.
    on_bad_file
        Stop before training, or skip files that cannot be read.
    device
        "cpu", "cuda", …; "auto" takes an accelerator when there is one.
    """
    if resume is not None:
        if model is not None or recipe is not None or weights is not None or given(settings):
            raise FieldguideError("--resume goes on with the run's own model, weights and recipe; leave the others out")
        from fieldguide.cli.devices import choose_device
        from fieldguide.cli.training import Training

        Training.resumed(resume, device=choose_device(device), json=json).carry_out()
        return
    if model is None:
        raise FieldguideError("train needs a model: fieldguide train resnet_mini; `fieldguide models` lists all")
    row = catalog.find(model)
    if row is None:
        raise unknown("model", model, catalog.names(), "`fieldguide models` lists all")
    if row.image is None:
        raise FieldguideError(f"{model} does not take images, and train cannot read text yet; use fieldguide.fit")
    plan = load_recipe(row.family, recipe, given(settings), finetune=weights is not None)
    if print_recipe:
        print(to_toml(plan), end="")
        return
    from fieldguide.cli.devices import choose_device
    from fieldguide.cli.job import Job, source
    from fieldguide.cli.pretrained import weights_source
    from fieldguide.cli.training import Training

    job = Job(
        model=model,
        data=source(data),
        weights=weights_source(weights) if weights else None,
        image_size=image_size,
        channels=channels,
        on_bad_file=on_bad_file,
    )
    Training.new(job, plan, out, name, device=choose_device(device), json=json).carry_out()
