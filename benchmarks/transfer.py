"""What trained features are worth: ResNet-mini learns MNIST's digits, then Fashion-MNIST from 1,000 labelled images.

    python -m benchmarks.transfer --mnist FOLDER --fashion FOLDER [--epochs 5 10 20 auto] [--seeds 5] [--out FILE.json]

Both folders hold MNIST-style IDX files. Of Fashion-MNIST, 100 training images a class are drawn anew for each seed, and
its whole test part measures. Every training is ``fieldguide train resnet_mini`` with the same augmentation and
number of epochs; one begins with ``--weights RUN``, the other from scratch, each with its own default recipe otherwise.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from fieldguide.data.idx import read_idx_folder

AUGMENT = ("--augment.flip", "--augment.erase", "0.25")
"""Clothes look alike from either side. Both trainings get it."""


def train(data: Path, folder: Path, seed: int, epochs: str, *options: str) -> float:
    """The test accuracy of one command."""
    command = [sys.executable, "-m", "fieldguide", "train", "resnet_mini", "--data", str(data), "--out", str(folder)]
    command += ["--seed", str(seed), "--epochs", epochs, "--json", *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])["test_accuracy"]


def draw(fashion: Path, file: Path, seed: int, each: int = 100) -> Path:
    """A file of ``each`` training images a class, and all test images."""
    parts = read_idx_folder(fashion).parts
    images, labels = (np.asarray(part) for part in parts["train"])
    generator = np.random.default_rng(seed)
    classes = np.unique(labels)
    chosen = np.concatenate([generator.choice(np.flatnonzero(labels == c), each, replace=False) for c in classes])
    generator.shuffle(chosen)
    test_images, test_labels = (np.asarray(part) for part in parts["test"])
    np.savez(file, x_train=images[chosen], y_train=labels[chosen], x_test=test_images, y_test=test_labels)
    return file


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--fashion", type=Path, required=True)
    parser.add_argument("--epochs", nargs="+", default=["5", "10", "20", "auto"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print(f"MNIST: {train(options.mnist, folder, 0, 'auto', '--name', 'mnist'):.2%}", flush=True)
        samples = [draw(options.fashion, folder / f"fashion{seed}.npz", seed) for seed in range(options.seeds)]
        for epochs in options.epochs:
            pairs = []
            for seed, data in enumerate(samples):
                weights = ("--weights", str(folder / "mnist"))
                pairs.append([train(data, folder, seed, epochs, *AUGMENT, *start) for start in ((), weights)])
            scratch, tuned = (list(column) for column in zip(*pairs, strict=True))
            gains = [100 * (b - a) for a, b in pairs]
            spread = f" ± {stdev(gains):.1f}" if len(gains) > 1 else ""
            results.append({"epochs": epochs, "scratch": scratch, "fine-tuned": tuned})
            print(
                f"{epochs:>4} epochs: from scratch {mean(scratch):.2%}, fine-tuned {mean(tuned):.2%}, "
                f"gain {mean(gains):+.1f}{spread} points",
                flush=True,
            )
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n")
