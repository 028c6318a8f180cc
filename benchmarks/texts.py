"""What trainings on text reach: the real command, the held-out parts.

    python -m benchmarks.texts [--shakespeare FILE] [--only dates lines shakespeare] [--out FILE.json]

``dates``: transformer_mini with its default recipe on written dates, share of answers that are right to the letter.
``lines``: bert_mini with its default recipe on lines of Python's library, accuracy. ``shakespeare``: a byte-level GPT
of four layers of 128 units, 2,000 steps of 12 windows of 64; nats per byte of the last tenth of FILE, which is its
validation and test part together. Seconds are of training, on as many cores as the recipe finds faster.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

SMALL_GPT = ["--steps", "2000", "--batch-size", "12", "--length", "64"]
SMALL_GPT += ["--config.num_layers", "4", "--config.d_model", "128"]


def train(model: str, data: str, *options: str) -> tuple[dict, dict]:
    """The last epoch's record and the result."""
    command = [sys.executable, "-m", "fieldguide", "train", model, "--data", data, "--json", *options]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([*command, "--out", folder], check=True, stdout=subprocess.PIPE, text=True)
    epoch, result = done.stdout.splitlines()[-2:]
    return json.loads(epoch), json.loads(result)


def dates() -> tuple[str, float, float]:
    result = train("transformer_mini", "dates")[1]
    return "exact answers", result["test_exact_match"], result["seconds"]


def lines() -> tuple[str, float, float]:
    result = train("bert_mini", "python-lines")[1]
    return "accuracy", result["test_accuracy"], result["seconds"]


def shakespeare(file: Path) -> tuple[str, float, float]:
    epoch, result = train("gpt_mini", str(file), *SMALL_GPT)
    return "nats per byte", (epoch["val_loss"] + result["test_loss"]) / 2, result["seconds"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shakespeare", type=Path)
    parser.add_argument("--only", nargs="+", choices=["dates", "lines", "shakespeare"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    tasks = {"dates": dates, "lines": lines}
    if options.shakespeare:
        tasks["shakespeare"] = lambda: shakespeare(options.shakespeare)
    results = {}
    for name in options.only or tasks:
        figure, value, seconds = results[name] = tasks[name]()
        print(f"{name:<12} {value:.4f} {figure}, {seconds:.0f} s of training", flush=True)
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n")
