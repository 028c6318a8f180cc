"""The doctor beside a training: observes it, examines what was observed, and keeps both on disk while it runs."""

import json
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from fieldguide.doctor.examination import Diagnosis, Examination
from fieldguide.doctor.finding import Finding
from fieldguide.doctor.history import Intent
from fieldguide.doctor.observe import Observer
from fieldguide.doctor.observe.replay import Recording
from fieldguide.doctor.probes import Bench, carry_out
from fieldguide.doctor.treatment import STEPS, Beginning, Treatment, treat
from fieldguide.trace import Log, Record

TRACE, REPORT = "trace.jsonl", "doctor.json"


class Enough(BaseException):
    """Ends a training at its first step, when only what stands before it was asked for."""


class Doctor:
    """Watches the trainings of this process from its making to ``close``; the numbers of none of them change.

        doctor = Doctor(model, optimizer)
        for x, y in loader:
            …
            optimizer.step()
            for finding in doctor.step(loss):
                print(finding.slug, finding.evidence)
        print(doctor.diagnosis().verdict)

    Network and optimizer are found by themselves when they are used; they are arguments so that a loop reads well.
    With ``folder``, ``trace.jsonl`` receives every record as it is made and ``doctor.json`` the diagnosis after every
    new finding. ``probes``: whether suspicions may be tried on copies, for some seconds in all. ``first_step_only``
    raises ``Enough`` when everything before the first step is known. ``treatable`` keeps how the training began, from
    where ``treat`` begins it anew.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        folder: Path | None = None,
        probes: bool = True,
        first_step_only: bool = False,
        treatable: bool = False,
    ):
        self.examination = Examination()
        self.folder, self.probes, self.first_step_only = folder, probes, first_step_only
        self._log = Log(folder / TRACE) if folder else None
        self._fresh: list[Finding] = []
        self._closed = False
        self.observer = Observer(self._take, recording=Beginning if treatable else Recording)
        self.observer.__enter__()

    def expect(self, *, frozen: tuple[str, ...] = (), accumulation: int = 1, gan: bool = False) -> "Doctor":
        """What is done on purpose: parameters that stand still, by pattern; backward passes a step; adversaries."""
        self.examination.history.intent = Intent(frozen=frozen, accumulation=accumulation, gan=gan)
        return self

    def step(self, loss: Tensor | None = None) -> list[Finding]:
        """What was found since the last call."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def diagnosis(self) -> Diagnosis:
        """What is known so far; of everything after ``close``."""
        seconds = max(self.observer.seconds, 1e-9)
        return self.examination.diagnosis({"seconds": self.observer.cost, "share": self.observer.cost / seconds})

    def treat(self, steps: int = STEPS) -> Treatment:
        """After ``close``: the fixes of the likeliest causes, each tried for so many steps on copies."""
        return treat(self.observer.recording, self.examination.history, self.diagnosis().causes, steps)

    def close(self, problem: BaseException | None = None) -> Diagnosis:
        """Ends the observation; a run that crashed says by what."""
        if not self._closed:
            self._closed = True
            self.observer.__exit__(type(problem), problem, None)
            self._save()
            if self._log:
                self._log.close()
        return self.diagnosis()

    def __enter__(self) -> "Doctor":
        return self

    def __exit__(self, kind: Any, problem: BaseException | None, traceback: Any) -> None:
        self.close(problem)

    def _take(self, record: Record) -> None:
        found = self._enter(record)
        if record["kind"] == "sample" and self.probes and self.observer.recording is not None:
            bench = Bench(self.observer.recording, self.observer.optimizer)
            if bench.replay.batches:
                started = perf_counter()
                for probe in carry_out(self.examination.history, bench):
                    found += self._enter(probe)
                self.observer.excused += perf_counter() - started
        self._fresh += found
        if found or record["kind"] == "setup":
            self._save()
        if self.first_step_only and record["kind"] == "setup":
            raise Enough

    def _enter(self, record: Record) -> list[Finding]:
        if self._log:
            self._log.write(record)
        return self.examination.add(record)

    def _save(self) -> None:
        if self.folder:
            path = self.folder / REPORT
            text = json.dumps(self.diagnosis().to_json(), ensure_ascii=False, indent=2)
            path.with_name(f".{REPORT}").write_text(text + "\n", encoding="utf-8")
            path.with_name(f".{REPORT}").replace(path)
