"""What the default recipe of ``mlp`` reaches on five small regressions of the UCI repository.

    python -m benchmarks.tables FOLDER [--sets yacht …] [--splits 20] [--out FILE.json]

FOLDER holds a folder for each set, with ``data/data.txt`` and the published ``index_*.txt`` (Hernández-Lobato & Adams
2015; the splits are those of Gal & Ghahramani 2016). Of each split's training rows a tenth is for validation, which
decides the epoch whose weights are kept; the test rows take no part in anything but the last measurement.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter

import numpy as np
import torch

from fieldguide.data.tabular import open_table
from fieldguide.models import create_model
from fieldguide.objectives import Regression
from fieldguide.train import Recipe, fit
from fieldguide.train.recipe import load_recipe

GOALS = {"concrete": 5.0, "energy": 0.6, "power-plant": 4.1, "yacht": 0.9, "wine-quality-red": 0.65}
"""Root mean squared errors in the units of each target, mean over the splits."""


def write_split(folder: Path, split: int, file: Path) -> Path:
    """One published split as a CSV with a column ``split``."""
    values = np.loadtxt(folder / "data.txt")
    inputs = np.loadtxt(folder / "index_features.txt").astype(int)
    target = int(np.loadtxt(folder / "index_target.txt"))
    test = set(np.loadtxt(folder / f"index_test_{split}.txt").astype(int).tolist())
    train = set(np.loadtxt(folder / f"index_train_{split}.txt").astype(int).tolist())
    lines = [",".join([*(f"x{i}" for i in range(len(inputs))), "y", "split"])]
    for row in sorted(test | train):
        cells = [repr(float(values[row, column])) for column in (*inputs, target)]
        lines.append(",".join([*cells, "test" if row in test else "train"]))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def train(file: Path, recipe: Recipe) -> float:
    """The test error of one training."""
    data = open_table(file, "y", kind="regress")
    torch.manual_seed(recipe.seed)
    model = create_model("mlp", in_features=len(data.mean))
    model.inputs.set(data.mean, data.std)
    model.outputs.set([data.target_mean], [data.target_std])
    return fit(model, data, Regression(units=(data.target_std,)), recipe).history[-1]["test_rmse"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", choices=GOALS, default=list(GOALS))
    parser.add_argument("--splits", type=int, default=20, help="the first so many of each set")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    recipe = load_recipe("mlp", overrides={"threads": 1})
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.sets:
            folder, errors, started = options.folder / name / "data", [], perf_counter()
            splits = min(options.splits, int(np.loadtxt(folder / "n_splits.txt")))
            for split in range(splits):
                errors.append(train(write_split(folder, split, Path(temporary, "table.csv")), recipe))
            seconds = (perf_counter() - started) / splits
            spread = f" ± {stdev(errors) / splits**0.5:.3f}" if splits > 1 else ""
            results[name] = {"rmse": mean(errors), "goal": GOALS[name], "errors": errors, "seconds": seconds}
            print(
                f"{name:<17} RMSE {mean(errors):.3f}{spread} over {splits} splits (goal {GOALS[name]:g}), "
                f"{seconds:.1f} s a split",
                flush=True,
            )
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
