"""Every benchmark in turn: ``python -m benchmarks``. Keep the machine idle; each prints its own table.

``benchmarks.transfer`` and ``benchmarks.tables`` need data of yours and ``benchmarks.optimizers`` a folder and twenty
minutes; they are run by themselves.
"""

import subprocess
import sys

BENCHMARKS = (
    "overhead",
    "attention",
    "zoo",
    "accuracy",
    "hashes",
    "kills",
    "faults",
    "saves",
    "generate",
    "clipping",
    "texts",
    "profiles",
)

if __name__ == "__main__":
    failed = []
    for name in BENCHMARKS:
        print(f"\n== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode:
            failed.append(name)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
