"""Signs of health over a training and through its layers, from what the doctor measured: sick and healthy side by side.

Grey is where the middle 80 % of healthy trainings lie (``report.healthy``): what is sick leaves it.
"""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fieldguide.report.curves import smooth
from fieldguide.report.examples import Examples
from fieldguide.report.healthy import DEAD, FLOW, LOSS, UPDATES, Band
from fieldguide.report.page import Picture, Tile, write_page
from fieldguide.report.style import BLUE, GRID, ORANGE, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = Mapping[str, Any]
MOST_LAYERS = 60


def build_diagnosis(
    folder: Path, records: Sequence[Record], diagnosis: Mapping[str, Any], cards: Sequence[Any] = ()
) -> Path:
    """Write ``report.html`` into a folder of ``doctor run``: the signs of health, and every finding with its remedy.

    ``cards`` say what findings mean (``doctor.cards``); a finding leads to its own.
    """
    picture = draw_health(records, folder / "figures" / "health.png")
    return write_page(
        folder,
        title=f"Diagnosis of {folder.resolve().name}",
        subtitle=f"{diagnosis['step']} optimizer steps",
        tiles=[verdict_of(diagnosis)],
        pictures=[picture] if picture else [],
        scores=[],
        unit="",
        tables=findings_of(diagnosis),
        cards=cards_of(diagnosis, cards),
        mistakes=(),
        commands=[f"fieldguide doctor check {folder}"],
    )


def verdict_of(diagnosis: Mapping[str, Any]) -> Tile:
    count = len(diagnosis["findings"])
    return Tile("doctor", diagnosis["verdict"], f"{count or 'no'} finding{'s' * (count != 1)}")


def findings_of(diagnosis: Mapping[str, Any]) -> list[Examples]:
    """A table of every finding, or none where nothing was found."""
    rows = [
        (
            f"{found['rule']} {found['slug']}",
            found["severity"],
            found["evidence"] + (f" (explained by {found['suppressed_by']})" if found["suppressed_by"] else ""),
            found["threshold"],
            "; ".join(fix["title"] for fix in found["fixes"]),
            found["refute"],
        )
        for found in diagnosis["findings"]
    ]
    columns = ("rule", "severity", "seen", "limit", "what to do", "it would be wrong if")
    story = "What the doctor found, the gravest first."
    return [Examples(title="Findings", story=story, columns=columns, rows=rows)] if rows else []


def cards_of(diagnosis: Mapping[str, Any], cards: Sequence[Any]) -> list[Any]:
    """Those that a finding leads to."""
    found = {finding["slug"] for finding in diagnosis["findings"]}
    return [card for card in cards if card.slug in found]


def draw_health(records: Sequence[Record], file: Path) -> Picture | None:
    """Four panels, each where it was measured: loss against a constant answer's, size of the updates, gradient by
    depth, and dead units by depth. None when nothing of it was."""
    panels: dict[str, Callable[[Axes], None]] = {}
    steps = [r for r in records if r.get("kind") == "step" and isfinite(r.get("loss", float("nan")))]
    samples = [r for r in records if r.get("kind") == "sample"]
    if len(steps) > 1:
        panels["its loss beside that of the best constant answer"] = lambda axis: _learning(
            axis, steps, _newest(samples, "baseline")
        )
    ratios = [r for r in samples if 0 < r.get("update_ratio", 0) < float("inf")]
    if len(ratios) > 1:
        panels["its updates over its weights"] = lambda axis: _updates(axis, ratios)
    layers = [r["layers"] for r in samples if r.get("layers")]
    if layers and any(own.get("grad", 0) > 0 for own in layers[0].values()):
        panels["the gradient over the weight of every layer"] = lambda axis: _flow(axis, layers[0], layers[-1])
    if layers and any(own.get("dead", 0) > 0 for own in layers[-1].values()):
        panels["inputs of every layer that are zero for a whole batch"] = lambda axis: _dead(axis, layers[-1])
    if not panels:
        return None
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    with figure(file, 7.2, 2.6 * rows) as drawing:
        axes = drawing.subplots(rows, columns, squeeze=False).flatten()
        for panel, axis in zip(panels.values(), axes, strict=False):
            panel(axis)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
    story = (
        f"What was measured of the training: {', '.join(panels)}. Grey is where the middle 80 % of small healthy "
        "trainings lie, most of them at a steady rate: a rate that falls to zero takes the updates below it."
    )
    return Picture("Signs of health", file, story)


def _learning(axis: "Axes", steps: Sequence[Record], constant: float | None) -> None:
    losses = [r["loss"] for r in steps]
    if constant is not None and min(losses) > 0:
        _healthy(axis, LOSS, steps[0]["step"], steps[-1]["step"], constant)
    axis.plot([r["step"] for r in steps], smooth(losses), color=BLUE, label="training")
    if constant is not None:
        axis.axhline(constant, color=ORANGE, linestyle="--", linewidth=1.0, label="best constant answer")
    if min(losses) > 0 and max(losses) > 30 * min(losses):
        _logarithmic(axis)
    axis.set_title("loss")
    axis.set_xlabel("step")
    axis.legend(loc="upper right", labelcolor="linecolor", handlelength=1.2)


def _updates(axis: "Axes", samples: Sequence[Record]) -> None:
    _healthy(axis, UPDATES, samples[0]["step"], samples[-1]["step"])
    axis.plot([r["step"] for r in samples], [r["update_ratio"] for r in samples], color=BLUE)
    _logarithmic(axis)
    axis.set_title("‖update‖ / ‖weights‖")
    axis.set_xlabel("step")


def _flow(axis: "Axes", first: Mapping[str, Any], last: Mapping[str, Any]) -> None:
    _healthy(axis, FLOW, 1, sum(bool(own.get("grad") and own.get("weight")) for own in last.values()))
    for layers, colour, name in ((first, ORANGE, "first step"), (last, BLUE, "last sample")):
        flow = [(own["grad"] / own["weight"]) for own in layers.values() if own.get("grad") and own.get("weight")]
        axis.plot(range(1, len(flow) + 1), flow, color=colour, marker="o", markersize=3, label=name)
    _logarithmic(axis)
    axis.set_title("gradient / weight")
    axis.set_xlabel("layer")
    axis.locator_params(axis="x", integer=True)
    axis.legend(labelcolor="linecolor", handlelength=1.2)


def _dead(axis: "Axes", layers: Mapping[str, Any]) -> None:
    axis.axhspan(*(100 * share for share in DEAD[0]), color=GRID, zorder=0)
    shares = [100 * own["dead"] for own in layers.values() if "dead" in own][:MOST_LAYERS]
    axis.bar(range(1, len(shares) + 1), shares, color=BLUE, width=0.6)
    axis.set_ylim(0, 100)
    axis.set_title("dead inputs, %")
    axis.set_xlabel("layer")
    axis.locator_params(axis="x", integer=True)


def _healthy(axis: "Axes", band: Band, first: int, last: int, unit: float = 1.0) -> None:
    """A band behind a curve, its parts spread evenly over the curve's length."""
    part = (last - first) / len(band)
    at = [first, *(first + (place + 0.5) * part for place in range(len(band))), last]
    low, high = zip(band[0], *band, band[-1], strict=True)
    axis.fill_between(at, [unit * v for v in low], [unit * v for v in high], color=GRID, linewidth=0, zorder=0)


def _logarithmic(axis: "Axes") -> None:
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("")


def _newest(records: Sequence[Record], name: str) -> float | None:
    return next((record[name] for record in reversed(records) if name in record), None)
