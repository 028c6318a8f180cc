"""What the default recipes reach: the real command, the held-out part, several seeds.

    python -m benchmarks.accuracy [--data digits] [--seeds 5] [--models resnet_mini lenet5 vit_mini] [--out FILE.json]

Every training is ``fieldguide train MODEL --data SOURCE --seed S`` with nothing else set. The test part is the same
for all seeds and no decision is made on it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean


@dataclass(frozen=True)
class Result:
    model: str
    accuracies: list[float]
    seconds: list[float]
    """Of training, without the start of Python and the reading of data."""

    def __str__(self) -> str:
        accuracies = " ".join(f"{accuracy:.2%}" for accuracy in self.accuracies)
        return (
            f"{self.model:<12} mean {mean(self.accuracies):.2%}   ({accuracies})   "
            f"training {mean(self.seconds):.1f} s, at most {max(self.seconds):.1f} s"
        )


def measure(model: str, data: str, seeds: int) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        results = [train(model, data, seed, Path(folder)) for seed in range(seeds)]
    return Result(model, [r["test_accuracy"] for r in results], [r["seconds"] for r in results])


def train(model: str, data: str, seed: int, folder: Path) -> dict:
    command = [sys.executable, "-m", "fieldguide", "train", model, "--data", data, "--seed", str(seed), "--json"]
    done = subprocess.run([*command, "--out", str(folder)], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=["resnet_mini", "lenet5", "vit_mini"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results = []
    for model in options.models:
        results.append(measure(model, options.data, options.seeds))
        print(results[-1], flush=True)
    if options.out:
        options.out.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")
