"""``python -m benchmarks.doctor.repair``: how much of what a fault costs the doctor's treatment wins back.

--seeds N       trainings of every case (1)
--runs FOLDER   where outcomes are kept, case by case (runs/doctor-repair); what is there is not run again
--steps N       budget of every trial (100)
--program NAME …, --fault NAME   only these
--write         the table into docs/doctor.md
--cases         a line for every case

A case is a program spoiled by a fault that a change of settings, samples or layers undoes (``REPAIRABLE``). The judge
is the loss of the unspoiled program on its validation part, which neither the trials nor the choice of the winner have
seen, after as many steps in every course:

    healthy   the unspoiled program      sick   the spoiled one as it was run, or its untrained network if that is less
    closed    (sick − repaired) / (sick − healthy)

A case counts where the gap is a tenth of what the healthy program gained, whether or not the doctor named the cause.
"""

import argparse
import json
import math
import multiprocessing
import random
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.doctor.board import CAUSES, GROUPS, Case, build, share
from benchmarks.doctor.programs import Program, train
from fieldguide.doctor.attending import Doctor
from fieldguide.doctor.observe.replay import Kept
from fieldguide.doctor.treatment import REMEDIES, STEPS, Remedy
from fieldguide.doctor.treatment.course import Course, Start
from fieldguide.doctor.treatment.trials import course_of, doses, proposed

PAGE = Path(__file__).parents[2] / "docs" / "doctor.md"
BEGIN, END = "<!-- repair -->\n", "<!-- /repair -->"
ENOUGH, LEAST = 0.8, 0.1  # of the gap; of what the healthy program gained

REPAIRABLE = (
    "lr_times_100", "lr_times_1e_4", "schedule_collapses", "plain_sgd", "no_zero_grad", "no_step",
    "part_not_in_optimizer", "frozen", "decay_of_1", "clip_at_1e_4", "eps_of_0_1", "betas_swapped",
    "batch_of_2_with_norm", "huge_batch_low_rate", "zero_init", "constant_init", "init_times_30", "init_times_1e_3",
    "deep_sigmoid", "plain_rnn", "thirty_layers_without_residuals", "dead_relu", "saturated_tanh", "double_softmax",
    "no_nonlinearity", "sum_instead_of_mean", "sign_flipped", "detached", "inputs_times_1000",
    "inputs_over_255_twice", "targets_times_1e4", "sorted_by_class", "nan_in_one_sample", "dropout_of_0_95",
    "train_never_restored",
)  # fmt: skip
"""The others need other data, more of them, another loss, or a change of the network's code."""
PROGRAMS = [name for programs in GROUPS.values() for name in programs if name != "gan"]  # its loss measures nothing


@dataclass(frozen=True)
class Outcome:
    """Losses of one case, by the judge; infinite where they are not finite."""

    case: Case
    right: bool
    """The cause was among the first three."""
    untrained: float
    healthy: float
    control: float
    winner: float
    first: float
    """The likeliest cause's first fix, untried."""
    random: float
    """Any of all fixes."""
    what: str
    """The winner, or why there is none."""

    @property
    def sick(self) -> float:
        return min(self.control, self.untrained)

    @property
    def counts(self) -> bool:
        gained = self.untrained - self.healthy
        return gained > 0 and self.sick - self.healthy >= LEAST * gained

    def closed(self, loss: float) -> float:
        """Share of the gap."""
        return (self.sick - loss) / (self.sick - self.healthy) if math.isfinite(loss) else -math.inf


def observed(case: Case) -> tuple[Program | None, Doctor]:
    """The program, made and trained under the doctor's eyes."""
    with Doctor(treatable=True) as doctor:
        program = build(case)
        if program is not None:
            with suppress(Exception):  # a faulty program may crash
                train(program)
    return program, doctor


@torch.no_grad()
def judged(course: Course, program: Program, base: Program) -> float:
    """The unspoiled program's loss of a course on the validation part, in units of the unspoiled target."""
    x, y = program.val
    course.model.eval()
    try:
        output = course.model(*course.inputs(Kept((x,), {})).args)
    except Exception:
        return math.inf
    answer = course.outputs(output) if isinstance(output, Tensor) else output
    unit = float(y.var() / base.val[1].var()) if base.kind == "regression" else 1.0
    loss = base.loss(answer, y).item() / unit
    return loss if math.isfinite(loss) else math.inf


def outcomes(case: Case, steps: int) -> list[Outcome]:
    """One, or none where the program cannot have that fault."""
    torch.set_num_threads(1)
    program, spoiled = observed(case)
    if program is None:
        return []
    base, doctor = observed(Case(case.program, "none", case.seed))
    assert base
    start = Start(doctor.observer.recording, doctor.examination.history)  # pyright: ignore[reportArgumentType]
    untrained, healthy = (judged(course_of(start, None, so_far), base, base) for so_far in (0, steps))
    return [outcome(case, program, spoiled, base, untrained, healthy, steps)]


def outcome(
    case: Case, program: Program, doctor: Doctor, base: Program, untrained: float, healthy: float, steps: int
) -> Outcome:
    causes = doctor.diagnosis().causes
    right = bool(CAUSES[case.fault].causes & set(causes[:3]))
    treatment = doctor.treat(steps)
    every = {remedy.title: remedy for group in REMEDIES.values() for remedy in group}
    first = next((remedy for _, _, remedy in doses(proposed(causes))), None)
    drawn = random.Random(str(case)).choice(sorted(every))
    try:
        start = Start(doctor.observer.recording, doctor.examination.history)  # pyright: ignore[reportArgumentType]
    except ValueError as problem:  # it cannot be begun anew: nothing is closed
        lost = untrained
        return Outcome(case, right, untrained, healthy, lost, lost, lost, lost, f"not tried: {problem}")

    def after(remedy: Remedy | None) -> float:
        try:
            return judged(course_of(start, remedy, steps), program, base)
        except LookupError:
            return control

    control = judged(course_of(start, None, steps), program, base)
    winner = treatment.winner
    repaired = after(every[winner.dose]) if winner else control
    what = winner.dose if winner else treatment.obstacle or "no winner"
    return Outcome(case, right, untrained, healthy, control, repaired, after(first), after(every[drawn]), what)


def rows(found: list[Outcome]) -> list[tuple[str, str]]:
    """The table: what each way of choosing a fix closes of the gap."""
    lines = []
    for title, programs in [*GROUPS.items(), ("all", {**GROUPS["development"], **GROUPS["held out"]})]:
        cases = [one for one in found if one.counts and one.case.program in programs]
        lines += cases and [
            (f"{title}: treatment", share(one.closed(one.winner) >= ENOUGH for one in cases)),
            (f"{title}: first fix of the likeliest cause", share(one.closed(one.first) >= ENOUGH for one in cases)),
            (f"{title}: any fix at random", share(one.closed(one.random) >= ENOUGH for one in cases)),
        ]
    return lines


def write(lines: list[tuple[str, str]], found: list[Outcome], steps: int) -> None:
    cases, programs = sum(one.counts for one in found), len({one.case.program for one in found})
    head = (
        f"{cases} cases of {programs} programs, {steps} steps each; share of the cases in which at least {ENOUGH:.0%} "
        "of the gap was closed (count; 95 % interval of Wilson).\n\n| | |\n|---|---|\n"
    )
    before, _, rest = PAGE.read_text().partition(BEGIN)
    body = "".join(f"| {name} | {figure.strip()} |\n" for name, figure in lines)
    PAGE.write_text(before + BEGIN + head + body + END + rest.partition(END)[2])


def task(asked: tuple[Path, Case, int]) -> list[Outcome]:
    """From its file where it was run before."""
    file, case, steps = asked
    if not file.exists():
        file.write_text(json.dumps([asdict(one) for one in outcomes(case, steps)]))
    return [Outcome(**{**one, "case": Case(**one["case"])}) for one in json.loads(file.read_text())]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--runs", type=Path, default=Path("runs/doctor-repair"))
    options.add_argument("--steps", type=int, default=STEPS)
    options.add_argument("--processes", type=int, default=2)
    options.add_argument("--write", action="store_true")
    options.add_argument("--cases", action="store_true")
    options.add_argument("--program", choices=PROGRAMS, nargs="+", default=PROGRAMS)
    options.add_argument("--fault", choices=REPAIRABLE, nargs="+")
    asked = options.parse_args()
    asked.runs.mkdir(parents=True, exist_ok=True)
    tasks = [
        (asked.runs / f"{name}-{fault}-{seed}-{asked.steps}.json", Case(name, fault, seed), asked.steps)
        for seed in range(asked.seeds)
        for name in asked.program
        for fault in asked.fault or REPAIRABLE
    ]
    found: list[Outcome] = []
    with multiprocessing.get_context("fork").Pool(asked.processes, maxtasksperchild=1) as pool:
        for some in pool.imap_unordered(task, tasks):
            found += some
            for one in some if asked.cases else ():
                mark = " " if not one.counts else "+" if one.closed(one.winner) >= ENOUGH else "-"
                losses = "  ".join(f"{value:8.3g}" for value in (one.healthy, one.sick, one.winner))
                name = f"{one.case.program} / {one.case.fault}"
                print(f"{mark} {name:<48} {losses}  {'' if one.right else 'misnamed, '}{one.what}", flush=True)
    lines = rows(found)
    print(*(f"{name:<50} {figure}" for name, figure in lines), sep="\n")
    if asked.write:
        write(lines, found, asked.steps)


if __name__ == "__main__":
    main()
