"""The final weights of a short training of each family, as a hash: have they changed, and are they the same twice?

    python -m benchmarks.hashes [--families gpt …] [--check | --docs]

Two processes train every family's mini from the same seed (``benchmarks.lessons``) and must end with the same
bits. Bits depend on torch and on the processor's instructions, so ``--check`` compares with the table in
docs/reliability.md only where both are those of the table, and says so where they are not.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256

import torch
from torch import Tensor

from benchmarks import pages
from benchmarks.lessons import FAMILIES, lesson
from fieldguide.train import fit

SHORT = 16
"""Digits of a hash that are shown."""


@dataclass(frozen=True)
class Row:
    family: str
    steps: int
    loss: float
    """Mean of the last epoch's training steps."""
    hash: str

    def __str__(self) -> str:
        return f"| {self.family} | {self.steps} | {self.loss:.6f} | `{self.hash[:SHORT]}` |"


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over the tensors by name: name, type, shape and bytes of each."""
    total = sha256()
    for name, tensor in sorted(state.items()):
        total.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def train(family: str) -> Row:
    own = lesson(family)
    last = fit(own.model, own.data, own.objective, own.recipe).history[-1]
    return Row(family, last["step"], last["train_loss"], weights_hash(own.model.state_dict()))


def elsewhere(families: Sequence[str]) -> list[Row]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.hashes", "--json", "--families", *families]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    return [Row(**row) for row in json.loads(said)]


def place() -> str:
    """What bits depend on."""
    return f"torch {torch.__version__}, {platform.machine()} with {torch.backends.cpu.get_cpu_capability()}"


def table(rows: Sequence[Row]) -> str:
    lines = [f"{place()}:", "", "| family | steps | loss | weights |", "|---|---:|---:|---|"]
    return "\n".join([*lines, *map(str, rows)])


def published() -> tuple[str, dict[str, str]]:
    """Where the table of the page was made, and each family's row of it."""
    text = pages.read("reliability", "hashes")
    return text.partition(":\n")[0], {row[1]: row[0] for row in re.finditer(r"^\| (\w+) \| \d.*$", text, re.MULTILINE)}


def compared(rows: Sequence[Row]) -> list[str]:
    """The rows that are not those of the page; says why where they cannot be compared."""
    there, known = published()
    if there != place():
        print(f"not compared: the page's hashes are of {there}, and this is {place()}")
        return []
    wrong = [row for row in rows if known.get(row.family) != str(row)]
    return [f"{row.family}: {known.get(row.family, 'nothing')} → {row}" for row in wrong]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--check", action="store_true", help="compare with the page; exit code 1 when a hash differs")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/reliability.md")
    parser.add_argument("--json", action="store_true", help="train in this process alone and print the rows")
    options = parser.parse_args()
    if options.json:
        torch.set_num_threads(1)
        print(json.dumps([asdict(train(family)) for family in options.families]))
        return 0
    rows, again = elsewhere(options.families), elsewhere(options.families)
    wrong = [f"twice, and not the same: {a} and {b}" for a, b in zip(rows, again, strict=True) if a != b]
    wrong += compared(rows) if options.check else []
    print("\n".join([table(rows), *wrong]))
    if options.docs and not wrong:
        pages.write("reliability", "hashes", table(rows))
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
