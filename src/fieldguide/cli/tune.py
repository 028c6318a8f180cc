"""``fieldguide tune NAME|RUN``: the fastest way that this machine has to compute the same answers, in a table."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

from fieldguide.cli.options import Flag, Json, Positive
from fieldguide.cli.terminal import console, say_facts, say_json, table

if TYPE_CHECKING:
    from fieldguide.profile.tuning import Tuned

NOT_TRIED = "not tried: "
NotNegative = Annotated[float, Parameter(validator=validators.Number(gte=0))]


def tune(
    name: str,
    /,
    *,
    train: Flag = False,
    tolerance: NotNegative = 1e-4,
    batch: Positive = 1,
    image_size: Positive | None = None,
    length: Positive | None = None,
    device: str = "auto",
    seconds: Annotated[float, Parameter(validator=validators.Number(gt=0))] = 30.0,
    compile_seconds: NotNegative = 60.0,
    remember: Path | None = None,
    json: Json = False,
) -> None:
    """Find the fastest settings on this machine that keep a network's answers; never slower ones than the default.

    Parameters
    ----------
    name
        A name from `fieldguide models`, such as resnet50, or the folder of a finished run, which is tuned on samples of
        its own data and remembers the result in its tuned.json.
    train
        Tune a training step instead of a call: forward, backward, AdamW.
    tolerance
        Largest relative difference from the original's answers, or from a step's loss; 1e-2 lets bf16 in.
    batch
        Samples of one call.
    image_size
        Side of the image in pixels; without it the network's own.
    length
        Tokens in a text, for networks that take text.
    device
        "cpu", "cuda", …; "auto" takes an accelerator when there is one.
    seconds
        How long to measure, about.
    compile_seconds
        How long to wait for a compiler; 0 does not try it.
    remember
        A JSON file that keeps what was found for this machine and network, and is asked first.
    """
    from fieldguide.cli.devices import choose_device
    from fieldguide.cli.examples import sample_of
    from fieldguide.cli.samples import own_samples
    from fieldguide.profile.tuning import tune as search

    place = choose_device(device)
    model, example, _ = sample_of(name, batch=batch, image_size=image_size, length=length, device=place)
    run = Path(name) if Path(name).is_dir() else None
    own = own_samples(run, model, batch) if run and image_size is None and length is None else None
    given, file = own or example, remember or (run and run / "tuned.json")
    found = search(
        model, given, tolerance, train=train, seconds=seconds, compile_seconds=compile_seconds, remember_in=file
    )
    samples = "its own validation data" if own else "random numbers"
    if json:
        say_json({"name": name, "input": list(given[0].shape), "samples": samples, **found.to_json()})
        return
    shape = "×".join(map(str, given[0].shape))
    work = "training steps" if train else "calls"
    print(f"{name}: {work} with {shape} of {samples}, on {place}, relative tolerance {tolerance:g}")
    _say(found)


def _say(found: "Tuned") -> None:
    columns = ("time", "speed-up", "error", "made in")
    shown = table("settings", *columns, "", right=columns)
    for row in found.table:
        if not row.verdict.startswith(NOT_TRIED):
            shown.add_row(
                row.title,
                f"{row.seconds * 1e3:,.2f} ms" if row.seconds else "",
                f"{row.speedup:.2f}×" if row.speedup else "",
                f"{row.error:.0e}" if row.error else "",
                f"{row.preparation:.1f} s" if row.preparation else "",
                row.verdict,
            )
    console().print(shown)
    reasons: dict[str, list[str]] = {}
    for row in found.table:
        if row.verdict.startswith(NOT_TRIED):
            reasons.setdefault(row.verdict.removeprefix(NOT_TRIED), []).append(row.title)
    for reason, names in reasons.items():
        print(f"not tried: {', '.join(names)}: {reason}")
    print()
    for note in found.notes:
        print(note)
    chosen = " + ".join(found.settings) or "none"
    recipe = (
        {"recipe": ", ".join(f"{field} = {value}" for field, value in found.recipe.items())} if found.recipe else {}
    )
    speed = f"{found.speedup:.2f} times the original's"
    say_facts(settings=chosen, **recipe, speed=speed, error=f"{found.error:.1e}")
