"""``fieldguide profile NAME|RUN``: time, memory and limits of a network on this machine, on one page."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter, validators

from fieldguide import catalog
from fieldguide.cli.options import Flag, Json, Positive
from fieldguide.cli.terminal import bytes_in_words, console, say_facts, say_json, table
from fieldguide.errors import FieldguideError

if TYPE_CHECKING:
    from fieldguide.objectives.phase import Batch
    from fieldguide.profile import Complexity, Profile
    from fieldguide.profile.clock import Times

BAR, WIDTH = 30, 80


def profile(
    name: str,
    /,
    *,
    batch: list[Positive] | None = None,
    train: Flag = False,
    image_size: Positive | None = None,
    length: Positive | None = None,
    depth: Positive = 2,
    device: str = "auto",
    seconds: Annotated[float, Parameter(validator=validators.Number(gt=0))] = 5.0,
    trace: Path | None = None,
    roofline: Path | None = None,
    strict: Flag = False,
    json: Json = False,
) -> None:
    """Measure a network on this machine: time, memory, layers, and which limit binds.

    Of a run, its loader is timed too, with batches of the same size: where it is the slowest, data bind.

    Parameters
    ----------
    name
        A name from `fieldguide models`, such as resnet50, or the folder of a finished run.
    batch
        Samples of one pass; several (--batch 1 --batch 8) are compared, and the first is taken apart.
    train
        Also measure training steps: forward, backward, AdamW.
    image_size
        Side of the image in pixels; without it the network's own.
    length
        Tokens in a text, for networks that take text.
    depth
        How deep the layer table looks into the network.
    device
        "cpu", "cuda", …; "auto" takes an accelerator when there is one.
    seconds
        How long to measure, about.
    trace
        A new file for one pass as a Chrome trace (chrome://tracing, Perfetto).
    roofline
        A new file for the roofline as a picture (.svg or .png): what each layer reached, and what it could.
    strict
        Stop with an error where the machine is too busy to trust its times.
    """
    from fieldguide.cli.devices import choose_device
    from fieldguide.cli.examples import sample_of
    from fieldguide.profile import complexity
    from fieldguide.profile.measuring import profile as measure

    if roofline:
        _require_new_picture(roofline)
    own, *others = batch or [1]
    place = choose_device(device)
    model, example, build = sample_of(name, batch=own, image_size=image_size, length=length, device=place)
    data, unmeasured = _loader(name, own, place)
    found = measure(model, example, train=train, batches=others, data=data, seconds=seconds, trace=trace, strict=strict)
    if roofline:
        from fieldguide.report.roofline_picture import draw_roofline

        draw_roofline(found, roofline, depth)
    costs = complexity(model, example, build=build)
    shape = "×".join(map(str, example[0].shape))
    if json:
        say_json({"name": name, "input": list(example[0].shape), **_facts(found, costs, depth)})
        return
    _say(name, shape, found, costs, depth, unmeasured)
    for warning in found.warnings:
        warnings.warn(f"not a quiet machine: {warning}", stacklevel=1)
    if trace:
        print(f"trace     {trace}")
    if roofline:
        print(f"roofline  {roofline}")


def _loader(name: str, batch: int, device: str) -> "tuple[Iterator[Batch] | None, str | None]":
    """The batches of a run, or why there are none; neither for a network of the catalog."""
    from fieldguide.cli.examples import batches_of

    if catalog.find(name) is not None:
        return None, None
    try:
        return batches_of(Path(name), batch, device), None
    except FieldguideError as problem:
        return None, str(problem)


def _require_new_picture(file: Path) -> None:
    if file.suffix not in {".svg", ".png"}:
        raise FieldguideError(f"--roofline {file}: the picture is SVG or PNG; give a name that ends with .svg or .png")
    if not file.parent.is_dir():
        raise FieldguideError(f"--roofline {file}: there is no folder {file.parent}")
    if file.exists():
        raise FieldguideError(f"--roofline {file} exists already; choose another name")


def _say(
    name: str, shape: str, found: "Profile", costs: "Complexity", depth: int, unmeasured: str | None = None
) -> None:
    machine, roof = found.machine, found.roof
    print(f"{name}: {shape}, {machine.dtype} on {machine.device}, {machine.threads} threads\n")
    lines = [(f"forward, batch {x.batch}", x.times, x.batch) for x in found.batches]
    lines += [(f"training step, batch {found.batch}", found.step, found.batch)] if found.step else []
    columns = ("median", "p90", "p99", "spread", "samples/s")
    shown = table("", *columns, right=columns)
    for title, times, batch in lines:
        cells = (_time(times.median), _time(times.percentile(90)), _time(times.percentile(99)))
        shown.add_row(title, *cells, f"{times.spread:.0%}", f"{batch / times.median:,.1f}")
    console().print(shown)

    shown = table(
        "layer", "kind", "weights", "MFLOPs", "kept", "time", "", right=("weights", "MFLOPs", "kept", "time", "")
    )
    shown.collapse_padding = True
    layer, kind = shown.columns[:2]  # what could make the page wider than it should be
    layer.max_width, kind.max_width, kind.overflow, kind.no_wrap = 20, 10, "ellipsis", True
    rows = found.rows(depth)
    whole = sum(row.seconds for row in rows)
    for row in rows:
        cells = (_count(row.parameters), f"{row.flops / 1e6:,.1f}", bytes_in_words(row.activation_bytes))
        shown.add_row(row.name, row.kind, *cells, _time(row.seconds), f"{row.seconds / whole:.0%}")
    console().print(shown, width=WIDTH)

    work = "training step" if found.step else "forward pass"
    limits = ("arithmetic", "bandwidth", "launch", *["data"] * bool(roof.data))
    for limit in limits:
        share = getattr(roof, limit) / sum(getattr(roof, each) for each in limits)
        print(f"{limit:<12}{'█' * round(share * BAR):<{BAR}} {share:4.0%}  {_time(getattr(roof, limit))} at least")
    print()
    say_facts(
        **{
            "limit": f"{roof.binds} binds the {work}, at {roof.share:.0%} of what is attainable",
            "speed": f"{_rate(roof.achieved)} of {_rate(roof.attainable)} attainable",
            "machine": f"{_rate(machine.flops)}, {machine.bandwidths[-1] / 1e9:,.0f} GB/s (cache "
            f"{machine.bandwidths[0] / 1e9:,.0f}), {machine.launch * 1e6:.1f} µs a launch",
            "memory": f"{bytes_in_words(found.resident_bytes)} weights and input, "
            f"{bytes_in_words(found.forward_peak)} more at the peak of a pass",
            **_training_memory(found),
            **({"data": f"not measured: {unmeasured}"} if unmeasured else {}),
            "size": f"{costs.parameters:,} parameters, {costs.trainable:,} trainable",
            "FLOPs": f"{costs.flops / 1e9:,.3f} G a forward pass; {_agreement(costs)}",
            **_growth(costs),
        }
    )


def _training_memory(found: "Profile") -> dict[str, str]:
    if found.step_peak is None or found.optimizer_bytes is None:
        return {}
    return {
        "training": f"{bytes_in_words(found.optimizer_bytes)} of AdamW's averages, "
        f"{bytes_in_words(found.step_peak)} more at the peak of a step"
    }


def _agreement(costs: "Complexity") -> str:
    if costs.flops == costs.formula_flops:
        return "the layers' formulas agree"
    return f"the layers' formulas give {costs.formula_flops / 1e9:,.3f}, without {', '.join(costs.unexplained[:3])}"


def _growth(costs: "Complexity") -> dict[str, str]:
    growth = costs.growth
    if growth is None:
        return {}
    return {
        "growth": f"FLOPs O(n^{growth.exponent:.1f}), activations O(n^{growth.memory_exponent:.1f}) "
        f"in the {growth.axis}, {growth.sizes[0]:,} to {growth.sizes[-1]:,}"
    }


def _facts(found: "Profile", costs: "Complexity", depth: int) -> dict[str, Any]:
    roof, machine, growth = found.roof, found.machine, costs.growth
    return {
        "device": machine.device,
        "dtype": machine.dtype,
        "threads": machine.threads,
        "forward": [{"batch": x.batch, "samples_per_second": x.throughput, **_times(x.times)} for x in found.batches],
        "step": _times(found.step) if found.step else None,
        "memory": {
            "resident_bytes": found.resident_bytes,
            "forward_peak": found.forward_peak,
            "step_peak": found.step_peak,
            "optimizer_bytes": found.optimizer_bytes,
        },
        "layers": [vars(row) for row in found.rows(depth)],
        "roofline": {
            **{
                key: getattr(roof, key)
                for key in ("flops", "bytes", "operations", "arithmetic", "bandwidth", "launch", "data")
            },
            **{key: getattr(roof, key) for key in ("binds", "achieved", "attainable", "share")},
        },
        "machine": {
            "flops_per_second": machine.flops,
            "bytes_per_second": machine.bandwidths[-1],
            "cache_bytes_per_second": machine.bandwidths[0],
            "launch_seconds": machine.launch,
        },
        "parameters": costs.parameters,
        "trainable": costs.trainable,
        "flops": costs.flops,
        "formula_flops": costs.formula_flops,
        "activation_bytes": costs.activation_bytes,
        "growth": growth
        and {
            "axis": growth.axis,
            "sizes": growth.sizes,
            "flops": growth.exponent,
            "predicted": growth.predicted,
            "activations": growth.memory_exponent,
        },
        "warnings": found.warnings,
    }


def _times(times: "Times") -> dict[str, Any]:
    percentiles = {f"p{percent}": times.percentile(percent) for percent in (50, 90, 99)}
    return {**percentiles, "spread": times.spread, "passes": len(times.seconds)}


def _time(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:,.0f} µs"
    return f"{seconds * 1e3:,.2f} ms" if seconds < 1 else f"{seconds:,.2f} s"


def _count(number: int | float) -> str:
    for unit in ("", "k", "M"):
        if number < 1000:
            return f"{number:.3g} {unit}".rstrip()
        number /= 1000
    return f"{number:.3g} G"


def _rate(flops: float) -> str:
    return f"{flops / 1e12:,.1f} TFLOP/s" if flops >= 1e12 else f"{flops / 1e9:,.1f} GFLOP/s"
