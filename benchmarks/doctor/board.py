"""The scoreboard: records trainings that are ill, well and of families held out, and judges the recordings.

A recording is made once (``record``) and judged as often as rules change (``judge``). A faulty run counts as ill when
its outcome says so: its validation score lost at least a tenth of what the healthy twin gained over a constant answer,
and more than three standard deviations of the twin's seeds. A run of the healthy list counts as healthy unless its own
score is not finite.
"""

import json
import math
import multiprocessing
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from statistics import mean, median, stdev

import torch
import torch._dynamo

from benchmarks.doctor.baselines import SYSTEMS
from benchmarks.doctor.faults import FAULTS
from benchmarks.doctor.healthy import HEALTHY
from benchmarks.doctor.programs import DEVELOPMENT, HELD_OUT, Program, train
from fieldguide import trace
from fieldguide.doctor.attending import TRACE, Doctor
from fieldguide.doctor.examination import Diagnosis, examine
from fieldguide.doctor.history import History
from fieldguide.doctor.rules import RULES

GROUPS = {"development": DEVELOPMENT, "held out": HELD_OUT}
CAUSES = {fault.name: fault for fault in FAULTS}
SPARED = {"none", "well"}
"""What stands for a fault where nothing was spoiled."""
ADVICE = {rule.slug for rule in RULES if rule.severity == "info"}


@dataclass(frozen=True)
class Case:
    """One training: a program, what was done to it (``"none"``, a fault; ``"well"`` for the healthy list), a seed."""

    program: str
    fault: str
    seed: int

    def folder(self, root: Path) -> Path:
        return root / f"{self.program}--{self.fault}--{self.seed}"

    def outcome(self, root: Path) -> Path:
        return self.folder(root) / "outcome.json"


def cases(seeds: int) -> Iterator[Case]:
    for seed in range(seeds):
        yield from (Case(name, "well", seed) for name in HEALTHY)
        for programs in GROUPS.values():
            for name in programs:
                yield Case(name, "none", seed)
                yield from (Case(name, fault.name, seed) for fault in FAULTS)


def build(case: Case) -> Program | None:
    """The program of a case; None when its fault makes no sense there."""
    torch.manual_seed(case.seed)
    if case.fault == "well":
        return HEALTHY[case.program]()
    program = {**DEVELOPMENT, **HELD_OUT}[case.program]()
    if case.fault != "none" and CAUSES[case.fault].spoil(program) is False:
        return None
    return program


def record(case: Case, folder: Path) -> None:
    """Runs a case under observation in this process and leaves its records and its outcome."""
    if case.outcome(folder).exists():
        return
    torch.set_num_threads(1)
    shutil.rmtree(case.folder(folder), ignore_errors=True)
    case.folder(folder).mkdir()
    outcome: dict[str, object] = {}
    with Doctor(folder=case.folder(folder)) as doctor:  # the program is made under its eyes, as a script would be
        program, error = build(case), ""
        try:
            if program is not None:
                outcome["score"] = train(program)
        except Exception as problem:  # a faulty program may crash: that is an outcome
            error = f"{type(problem).__name__}: {problem}"
    outcome |= {"applies": program is not None, "error": error[:200], **doctor.diagnosis().overhead}
    if program is not None:
        outcome["chance"] = chance(program)
    case.outcome(folder).write_text(json.dumps(outcome))


def record_all(wanted: Iterable[Case], folder: Path, processes: int) -> None:
    """Every case in a fresh fork, so that nothing of one reaches the next."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # imports what every fork would import again
    fork, running = multiprocessing.get_context("fork"), []
    for case in wanted:
        while len(running) >= processes:
            connection.wait([process.sentinel for process in running])
            running = [process for process in running if process.is_alive()]
        running.append(
            fork.Process(target=record, args=(case, folder))
        )  # no daemon: loaders have children of their own
        running[-1].start()
    for process in running:
        process.join()


def chance(program: Program) -> float:
    """The score of the best constant answer."""
    y = program.val[1]
    if program.kind in {"classes", "binary"}:
        return y.flatten().long().bincount().max().item() / len(y)
    if program.kind == "gan":
        return -1.5
    if y.is_floating_point():
        return -y.var().item()
    shares = y[y >= 0].bincount().float() / max(1, (y >= 0).sum().item())
    return -torch.special.entr(shares).sum().item()


# ------------------------------------------------------------------------------------------------------ judging


@dataclass
class Judged:
    case: Case
    ill: bool
    diagnosis: Diagnosis
    history: History

    @property
    def alarms(self) -> list[int]:
        """Steps at which warnings and critical findings that nothing explains were certain."""
        found = self.diagnosis.findings
        return [f.step for f in found if f.severity != "info" and f.suppressed_by is None]

    @property
    def advised(self) -> bool:
        """What a fault asks for is among the findings, of whatever severity."""
        return not CAUSES[self.case.fault].causes.isdisjoint(found.slug for found in self.diagnosis.findings)

    def named(self, first: int) -> bool:
        return bool(CAUSES[self.case.fault].causes & set(self.diagnosis.causes[:first]))


def judge(wanted: Iterable[Case], folder: Path) -> list[Judged]:
    outcomes = {case: json.loads(case.outcome(folder).read_text()) for case in wanted}
    twins: dict[str, list[dict]] = {}
    for case, outcome in outcomes.items():
        if case.fault == "none":
            twins.setdefault(case.program, []).append(outcome)
    judged = []
    for case, outcome in outcomes.items():
        if outcome["applies"] and not (case.fault in SPARED and diverged(outcome)):
            records = list(trace.read(case.folder(folder) / TRACE))
            ill = case.fault not in SPARED and not advice(case) and hurt(case, outcome, twins[case.program])
            judged.append(Judged(case, ill, examine(records), History.of(records)))
    return judged


def advice(case: Case) -> bool:
    """A fault that costs time, room or repeatability alone, which the doctor answers with advice and no alarm."""
    return case.fault in CAUSES and CAUSES[case.fault].causes <= ADVICE


def diverged(outcome: dict) -> bool:
    """It crashed, or its score is not finite."""
    score = outcome.get("score")
    return score is None or not math.isfinite(score)


def hurt(case: Case, outcome: dict, twins: list[dict]) -> bool:
    if CAUSES[case.fault].resource:
        return True
    if diverged(outcome):
        return True
    score, healthy = outcome["score"], [twin["score"] for twin in twins]
    spread = stdev(healthy) if len(healthy) > 1 else 0.0
    return score < mean(healthy) - max(0.1 * (mean(healthy) - twins[0]["chance"]), 3 * spread)


def wilson(hits: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share."""
    if not total:
        return 0.0, 1.0
    z, share = 1.96, hits / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def share(hits: Iterable[bool]) -> str:
    values = list(hits)
    low, high = wilson(sum(values), len(values))
    part = sum(values) / len(values) if values else math.nan
    return f"{part:6.1%} ({sum(values)}/{len(values)}; {low:.0%}–{high:.0%})"


def table(judged: list[Judged]) -> list[tuple[str, str]]:
    """The figures of the doctor, and those of the other systems' rules on the same recordings."""
    lines: list[tuple[str, str]] = []
    well = [one for one in judged if one.case.fault in SPARED]
    for title, programs in GROUPS.items():
        ill = [one for one in judged if one.ill and one.case.program in programs]
        times = [min(one.alarms) for one in ill if one.alarms]
        lines += [
            (f"{title}: detected", share(bool(one.alarms) for one in ill)),
            (f"{title}: cause named first", share(one.named(1) for one in ill)),
            (f"{title}: cause among three", share(one.named(3) for one in ill)),
            (f"{title}: median steps to the first alarm", f"{median(times) if times else math.nan:.0f}"),
        ]
    lines += [
        ("advice given where it is due", share(one.advised for one in judged if advice(one.case))),
        ("healthy runs with an alarm", share(bool(one.alarms) for one in well)),
        ("healthy runs with a critical one", share(one.diagnosis.verdict == "critical" for one in well)),
    ]
    ill = [one for one in judged if one.ill]
    for system, rules in SYSTEMS.items():
        for title, runs in (("detected", ill), ("healthy runs with an alarm", well)):
            fired = (any(rule(one.history) for rule in rules) for one in runs)
            lines.append((f"{system}: {title}", share(fired)))
    return lines


def likelihoods(judged: list[Judged]) -> Iterator[tuple[str, float, int]]:
    """How often each finding that nothing explains is a right cause, over the ill runs of the development part.

    Slug, share with one success and one failure added (Laplace), count; ``causes.WEIGHTS`` is made from them.
    """
    right: dict[str, list[bool]] = {}
    for one in judged:
        if one.ill and one.case.program in DEVELOPMENT:
            for found in one.diagnosis.findings:
                if found.severity != "info" and found.suppressed_by is None:
                    right.setdefault(found.slug, []).append(found.slug in CAUSES[one.case.fault].causes)
    for slug, hits in sorted(right.items(), key=lambda pair: -len(pair[1])):
        yield slug, (sum(hits) + 1) / (len(hits) + 2), len(hits)


def mistakes(judged: list[Judged]) -> list[str]:
    """One line for every run that was missed, misnamed or falsely alarmed."""
    lines = []
    for one in judged:
        name = f"{one.case.program} / {one.case.fault} / {one.case.seed}"
        causes = ", ".join(one.diagnosis.causes[:3]) or "nothing"
        if one.ill and not one.alarms:
            lines.append(f"missed   {name}: {one.history.failing or 'does not look failing'}")
        elif one.ill and not one.named(3):
            lines.append(f"misnamed {name}: {causes} instead of {', '.join(sorted(CAUSES[one.case.fault].causes))}")
        elif one.alarms and one.case.fault in SPARED:
            lines.append(f"false    {name}: {one.diagnosis.findings[0].slug}: {one.diagnosis.findings[0].evidence}")
    return lines
