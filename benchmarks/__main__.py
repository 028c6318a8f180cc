"""Every benchmark in turn: ``python -m benchmarks``, or ``make bench``. Keep the machine idle.

Each prints its own table, and writes it into the page where it stands.

``benchmarks.transfer`` and ``benchmarks.tables`` need data of yours and ``benchmarks.optimizers`` a folder and twenty
minutes; they are run by themselves.
"""

import subprocess
import sys

BENCHMARKS = (
    "overhead --docs",
    "attention",
    "zoo --docs",
    "tuned --docs",
    "gpu --docs",
    "accuracy",
    "hashes --check",
    "kills",
    "faults --docs",
    "saves --docs",
    "generate",
    "clipping",
    "texts",
    "profiles",
)

if __name__ == "__main__":
    failed = []
    for words in BENCHMARKS:
        print(f"\n== {words}", flush=True)
        if subprocess.run([sys.executable, "-m", *f"benchmarks.{words}".split()], check=False).returncode:
            failed.append(words)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
