"""Where healthy trainings lie, from recordings of the board: ``python -m benchmarks.doctor.bands --runs FOLDER``.

Writes ``fieldguide/report/healthy.py``, which the doctor's report draws behind what it shows of a training.
"""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles

from fieldguide import trace
from fieldguide.doctor.attending import TRACE
from fieldguide.doctor.history import History

PAGE = Path(__file__).parents[2] / "src" / "fieldguide" / "report" / "healthy.py"
Curve = Sequence[float]


def resampled(values: Curve, parts: int = 10) -> list[float]:
    """Medians of equal parts of a curve."""
    borders = [part * len(values) // parts for part in range(parts + 1)]
    return [median(values[a : max(b, a + 1)]) for a, b in pairwise(borders)]


def band(curves: Iterable[Curve]) -> list[tuple[float, float]]:
    """The middle 80 % at every point."""
    cuts = [quantiles(values, n=10) for values in zip(*curves, strict=True)]
    return [(float(f"{cut[0]:.2g}"), float(f"{cut[-1]:.2g}")) for cut in cuts]


def losses(history: History) -> Curve | None:
    """Over what the best constant answer costs."""
    constant = history.baseline
    return resampled([loss / constant for loss in history.finite]) if constant and len(history.finite) >= 50 else None


def updates(history: History) -> Curve | None:
    ratios = [ratio for ratio in history.series("update_ratio") if ratio > 0]
    return resampled(ratios) if len(ratios) >= 10 else None


def flow(history: History) -> Curve | None:
    """Gradient over weight by depth, in the middle of the training."""
    middle = history.samples[len(history.samples) // 2].get("layers", {}) if history.samples else {}
    sizes = [own["grad"] / own["weight"] for own in middle.values() if own.get("grad") and own.get("weight")]
    sizes = [size for size in sizes if math.isfinite(size)]
    return resampled(sizes, 3) if len(sizes) >= 3 else None


def dead(history: History) -> Curve | None:
    shares = list(history.layers("dead").values())
    return [max(shares)] if shares else None


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=Path, default=Path("runs/doctor-board"))
    folders = [
        file.parent
        for file in sorted(options.parse_args().runs.glob("*/outcome.json"))
        if file.parent.name.split("--")[1] in {"none", "well"} and json.loads(file.read_text())["applies"]
    ]
    histories = [History.of(trace.read(folder / TRACE)) for folder in folders]
    parts = {"LOSS": losses, "UPDATES": updates, "FLOW": flow, "DEAD": dead}
    text = (
        f'"""Where {len(histories)} healthy trainings lie, the middle 80 %; see ``benchmarks/doctor/bands.py``."""\n\n'
        "Band = tuple[tuple[float, float], ...]\n"
    )
    said = {
        "LOSS": "Over a constant answer's, in ten equal parts of a training.",
        "UPDATES": "‖update‖ / ‖weights‖, in ten equal parts of a training.",
        "FLOW": "Gradient over weight, in the first, middle and last third of the layers.",
        "DEAD": "Of the worst layer: the share of its inputs that are zero for a whole batch.",
    }
    for name, curve in parts.items():
        found = tuple(band(values for history in histories if (values := curve(history)) is not None))
        text += f'\n{name}: Band = {found}\n"""{said[name]}"""\n'
    PAGE.write_text(text, encoding="utf-8")
    subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", PAGE], check=True)


if __name__ == "__main__":
    main()
