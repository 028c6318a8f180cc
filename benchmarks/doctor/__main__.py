"""``python -m benchmarks.doctor``: recall, causes and false alarms of the doctor, and of other systems' rules.

--seeds N       trainings of every case (3)
--runs FOLDER   where recordings are kept (runs/doctor-board); what is there already is not run again
--judge         only judge what has been recorded
--likelihoods   how often each finding is the cause: what causes.WEIGHTS is made from
--mistakes      a line for every run that was missed, misnamed or falsely alarmed
--program NAME, --fault NAME   only these, and the healthy twins that they are compared with
"""

import argparse
from pathlib import Path

from benchmarks.doctor.board import SPARED, Judged, cases, judge, likelihoods, mistakes, record_all, table

PAGE = Path(__file__).parents[2] / "docs" / "doctor.md"
BEGIN, END = "<!-- scoreboard -->\n", "<!-- /scoreboard -->"


def write(figures: list[tuple[str, str]], judged: list[Judged]) -> None:
    """Between the markers of the page."""
    spoiled, well = (
        len({one.case.seed for one in judged if (one.case.fault in SPARED) == spared}) for spared in (0, 1)
    )
    head = (
        f"{sum(one.ill for one in judged):,} ill trainings, {spoiled} of every case, and {well} of every healthy one; "
        "share (count; 95 % interval of Wilson).\n\n| | |\n|---|---|\n"
    )
    before, _, rest = PAGE.read_text().partition(BEGIN)
    rows = "".join(f"| {name} | {figure.strip()} |\n" for name, figure in figures)
    PAGE.write_text(before + BEGIN + head + rows + END + rest.partition(END)[2])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--runs", type=Path, default=Path("runs/doctor-board"))
    options.add_argument("--processes", type=int, default=2)
    options.add_argument("--judge", action="store_true")
    options.add_argument("--write", action="store_true")
    options.add_argument("--mistakes", action="store_true")
    options.add_argument("--likelihoods", action="store_true")
    options.add_argument("--program")
    options.add_argument("--fault")
    asked = options.parse_args()
    wanted = [
        case
        for case in cases(asked.seeds)
        if asked.program in {None, case.program} and (asked.fault is None or case.fault in {asked.fault, "none"})
    ]
    if not asked.judge:
        record_all(wanted, asked.runs, asked.processes)
    wanted = [case for case in wanted if case.outcome(asked.runs).exists()]
    judged = judge(wanted, asked.runs)
    figures = table(judged)
    for name, figure in figures:
        print(f"{name:<50} {figure}")
    if asked.write:
        write(figures, judged)
    if asked.likelihoods:
        print(*(f"{slug:<30} {share:.2f} ({count})" for slug, share, count in likelihoods(judged)), sep="\n")
    if asked.mistakes:
        print(*mistakes(judged), sep="\n")


if __name__ == "__main__":
    main()
