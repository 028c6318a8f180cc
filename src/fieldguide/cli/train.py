"""``fieldguide train MODEL --data SOURCE``: a complete run folder from one command."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter, validators

from fieldguide import catalog
from fieldguide.cli.options import Flag, Json
from fieldguide.cli.settings import RecipeOptions, given
from fieldguide.cli.tracking import Tracker, require_log
from fieldguide.errors import FieldguideError, unknown
from fieldguide.train.recipe import load_recipe, plain_value, to_toml

IMAGES, TEXT, TABLES = (Group(name, sort_key=place) for place, name in enumerate(("Images", "Text", "Tables"), 1))
PROCESSES = Group("Many processes (torchrun --nproc-per-node N -m fieldguide train …)", sort_key=4)
RECIPE = Group("Recipe (general defaults; --print-recipe shows what a model gets)", sort_key=5)
NOTHING = RecipeOptions()


def train(
    model: str | None = None,
    /,
    *,
    data: str | None = None,
    weights: str | None = None,
    config: Annotated[dict[str, str] | None, Parameter(show_default=False)] = None,
    recipe: Path | None = None,
    print_recipe: Flag = False,
    resume: Path | None = None,
    accept_changes: Flag = False,
    out: Path = Path("runs"),
    name: str | None = None,
    device: str = "auto",
    distributed: Annotated[Literal["ddp", "fsdp", "tensor"] | None, Parameter(group=PROCESSES)] = None,
    process_timeout: Annotated[float, Parameter(group=PROCESSES, validator=validators.Number(gt=0))] = 300.0,
    json: Json = False,
    doctor: Literal["treat"] | None = None,
    log: Tracker | None = None,
    image_size: Annotated[int | None, Parameter(group=IMAGES)] = None,
    channels: Annotated[Literal[1, 3] | None, Parameter(group=IMAGES)] = None,
    on_bad_file: Annotated[Literal["stop", "skip"] | None, Parameter(group=IMAGES)] = None,
    tokenizer: Annotated[str | None, Parameter(group=TEXT)] = None,
    length: Annotated[int | None, Parameter(group=TEXT)] = None,
    on_long: Annotated[Literal["stop", "cut"] | None, Parameter(group=TEXT)] = None,
    head: Annotated[Literal["masked_lm", "classify"] | None, Parameter(group=TEXT)] = None,
    target: Annotated[str | None, Parameter(group=TABLES)] = None,
    on_missing: Annotated[Literal["stop", "drop", "mean"] | None, Parameter(group=TABLES)] = None,
    settings: Annotated[RecipeOptions, Parameter(name="*", group=RECIPE)] = NOTHING,  # pyright: ignore
) -> None:
    """Train a network and leave a complete run folder: weights, figures, report and all that repeats it.

    Parameters
    ----------
    model
        A name from `fieldguide models`, such as resnet_mini, gpt_mini or mlp.
    data
        What to learn from. Images: "digits", a folder with a sub-folder per class, or with train/, val/, test/ of
        such; a CSV of path,label; MNIST-style IDX files; an .npz with arrays. Text: "python-source", a file, a folder;
        texts with labels: "python-lines", a CSV, TSV or JSONL of text,label; translation: "dates", SOURCE,TARGET of two
        aligned files, a TSV of both. Tables: a CSV. Without it what is there for the network's task.
    weights
        Trained weights to begin with: a public checkpoint (.safetensors, .pth, a folder, hub:ORG/NAME) or a run of
        yours. The head is made anew and learns first; inputs are prepared as the weights know them.
    config
        Numbers of the network that are to differ from its size's, such as --config.num_layers 4.
    recipe
        A TOML file laid over the family's defaults; the options below are laid over both.
    print_recipe
        Print the resolved recipe as TOML and stop.
    resume
        Go on with an interrupted run, from its newest good checkpoint.
    accept_changes
        Resume even with another recipe, other data, or another fieldguide, torch, Python or processor than the run
        began with: its bits may be others. The run folder keeps what changed.
    out
        Where run folders are made.
    name
        Name of the run folder instead of MODEL-DATA-NUMBER.
    device
        "cpu", "cuda", …; "auto" takes an accelerator when there is one.
    distributed
        How the processes that torchrun has started share the training: each has the whole network and a part of every
        batch (ddp), and a slice of the network as well (fsdp), or some heads and units of every block (tensor).
    process_timeout
        Seconds without a sign of life from another process after which all end.
    doctor
        "treat": at a critical finding, try recipes that may mend it from the newest good checkpoint, and go on with the
        best.
    log
        "tensorboard": also write the figures for TensorBoard, into the run's folder tensorboard/.
    image_size
        Side in pixels; without it the images' own, as far as the model takes it.
    channels
        1 for grey, 3 for colour; without it as the images are.
    on_bad_file
        Stop before training, or skip files that cannot be read.
    tokenizer
        "bytes", "bpe:8000" (trained on your text, with so many tokens) or a file or folder of a public tokenizer;
        without it bytes, or the tokenizer of the weights.
    length
        Tokens of a window of text, and the most that a text may have.
    on_long
        Stop at longer texts, or cut them.
    head
        What an encoder learns: to find masked tokens, or the class of a text; without it as the data suggest.
    target
        The column to predict.
    on_missing
        Stop at missing values, drop their rows, or put the column's mean there.
    """
    require_log(log)
    if resume is not None:
        others = (model, data, weights, config, recipe, name, image_size, channels, on_bad_file, tokenizer, length,
                  on_long, head, target, on_missing)  # fmt: skip
        if any(other is not None for other in others):
            raise FieldguideError(
                "--resume goes on with the run's own model, data and weights; beside it stand only options of the "
                "recipe, such as --epochs 20, which --accept-changes lets change"
            )
        from fieldguide.cli.processes import processes
        from fieldguide.cli.training import Training

        with processes(distributed, device, process_timeout) as (strategy, place):
            training = Training.resumed(resume, given(settings), device=place, strategy=strategy, json=json)
            replace(training, accept_changes=accept_changes, doctor=doctor, log=log).carry_out()
        return
    if model is None:
        raise FieldguideError("train needs a model: fieldguide train resnet_mini; `fieldguide models` lists all")
    row = catalog.find(model)
    if row is None:
        raise unknown("model", model, catalog.names(), "`fieldguide models` lists all")
    plan = load_recipe(row.family, recipe, given(settings), finetune=weights is not None)
    if print_recipe:
        print(to_toml(plan), end="")
        return
    from fieldguide.cli.job import Job, source
    from fieldguide.cli.pretrained import weights_source
    from fieldguide.cli.processes import processes
    from fieldguide.cli.training import Training

    overrides: dict[str, Any] = {key.replace("-", "_"): plain_value(value) for key, value in (config or {}).items()}
    job = Job(
        model=model,
        data=source(data) if data else "",
        weights=weights_source(weights) if weights else None,
        overrides=overrides,
        image_size=image_size,
        channels=channels,
        on_bad_file=on_bad_file,
        tokenizer=tokenizer,
        length=length,
        on_long=on_long,
        head=head,
        target=target,
        on_missing=on_missing,
    )
    with processes(distributed, device, process_timeout) as (strategy, place):
        training = Training.new(job, plan, out, name, device=place, strategy=strategy, json=json)
        replace(training, doctor=doctor, log=log).carry_out()
