"""The way through the candidates: group by group, the best few choices so far with each setting laid over them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import torch

from fieldguide.profile.clock import synchronize
from fieldguide.profile.memory import bytes_of
from fieldguide.profile.tuning.candidate import Candidate, Choice, Subject
from fieldguide.profile.tuning.compiling import Compiled, OutOfTime, at_most
from fieldguide.profile.tuning.memory import KeptMemory, free_bytes, keep_memory
from fieldguide.profile.tuning.race import SURE, Result, confirm, gain_of_kept_memory, race
from fieldguide.profile.tuning.remembering import Found, key_of, recall, remember
from fieldguide.profile.tuning.tuned import Row, Trial, Tuned, names

Groups = Sequence[Sequence[Choice]]
"""Groups of alternatives, in the order in which they are tried and laid over each other."""

BEAM, NEAR = 2, 1.05
"""So many choices go on to the next group, if they are so near to the fastest."""
WORTH = 0.02
"""What a setting must gain to be worth having."""
COPIES = 4
"""So many times must the weights fit the free memory for something further to be tried: copies, averages, gradients."""
SHARES = 4
"""The last comparison gets this part of the time."""
PATIENCE = 2
"""After so many times the time that was given, nothing further is tried."""
HOPELESS = 1.3
"""Who takes so many times as long as the fastest of a group in the first calls does not enter the race."""
FEW = 3, 0.1
"""The first calls that are timed: so many at most, and no further one after so many seconds."""
OTHER = "other answers"


class Search:
    """Collects in ``rows`` what was tried. ``build`` makes a trial of a choice; ``original`` is what it must beat."""

    def __init__(
        self,
        subject: Subject,
        build: Callable[[Choice], Trial],
        original: Callable[[], object],
        *,
        tolerance: float,
        seconds: float,
        compile_seconds: float,
    ):
        self.subject, self.build = subject, build
        self.tolerance, self.seconds, self.compile_seconds = tolerance, seconds, compile_seconds
        keep_memory(False)
        self.original = Trial(subject.model, original, 0.0, self._seconds_of(original))
        self.rows: dict[object, Row] = {}
        self.began, self.compiling = perf_counter(), 0.0

    def tuned(self, groups: Groups, file: Path | None) -> Tuned:
        """By what is remembered, if its answers are still good; else by a search, which is remembered."""
        key = key_of(self.subject, self.tolerance)
        return self._again(groups, recall(key, file)) or self._new(groups, key, file)

    def _new(self, groups: Groups, key: str, file: Path | None) -> Tuned:
        chosen, trial = self._fastest(groups)
        fast, base, sure, quiet = confirm(trial, self.original, self.subject.device, self.seconds / SHARES)
        notes = [f"not a quiet machine: {warning}" for warning in quiet.warnings]
        if chosen:
            verdict = "chosen" if sure else "no faster when measured again"
            self._note(chosen, verdict=verdict, seconds=fast.seconds, speedup=fast.speedup)
        why = self._why_none(chosen)
        if not (chosen and sure):
            chosen, trial, fast = (), self.original, Result(base.seconds, 1.0)
        chosen, trial, fast = self._with_kept_memory(chosen, trial, fast)
        if not chosen:
            notes.insert(0, why)
        found = Found(names(chosen), fast.seconds, fast.speedup)
        remember(key, found, file)
        original = Row((), "" if chosen else "chosen", 0.0, base.seconds, 1.0)
        return self._tuned(found, trial, original, notes)

    def _with_kept_memory(self, chosen: Choice, trial: Trial, fast: Result) -> tuple[Choice, Trial, Result]:
        """Tried last and by itself: it is of the whole process, so it cannot take turns with what has none of it."""
        setting = KeptMemory()
        why = self._refusal(setting, chosen)
        if any(isinstance(other, Compiled) for other in chosen):
            why = "it would have to be compiled again"
        if why:
            self.rows[str(setting)] = Row((str(setting),), f"not tried: {why}")
            return chosen, trial, fast
        choice = (*chosen, setting)
        kept = self._try(choice)
        if kept is None:
            keep_memory(False)
            return chosen, trial, fast
        gain = gain_of_kept_memory(kept, trial, self.subject.device, self.seconds / (2 * SHARES))
        better = Result(fast.seconds / gain, fast.speedup * gain)
        verdict = "chosen" if gain >= SURE else "slower"
        self._note(choice, verdict=verdict, seconds=better.seconds, speedup=better.speedup)
        if gain < SURE:
            keep_memory(False)
            return chosen, trial, fast
        if chosen:
            self._note(chosen, verdict="kept for a while")
        return choice, kept, better

    def _again(self, groups: Groups, found: Found | None) -> Tuned | None:
        """What was found, made anew; None where nothing was, or where its answers are others now."""
        every = (*groups, ((KeptMemory(),),))
        known = {str(setting): setting for group in every for choice in group for setting in choice}
        if found is None or not known.keys() >= set(found.settings):
            return None
        chosen = tuple(known[name] for name in found.settings)
        trial = self._try(chosen) if chosen else self.original
        if trial is None:
            return None
        if chosen:
            self._note(chosen, verdict="chosen", seconds=found.seconds, speedup=found.speedup)
        original = Row((), "" if chosen else "chosen", 0.0, found.seconds * found.speedup, 1.0)
        notes = ["measured before; only the answers were compared again"]
        return replace(self._tuned(found, trial, original, notes), remembered=True)

    def _tuned(self, found: Found, trial: Trial, original: Row, notes: Sequence[str]) -> Tuned:
        tried = {name for choice, row in self.rows.items() if isinstance(choice, tuple) for name in row.settings}
        table = (original, *(row for choice, row in self.rows.items() if choice not in tried))
        numbers = (found.settings, found.seconds, found.speedup, trial.error, self.tolerance)
        step = trial.run if self.subject.training and found.settings else None
        return Tuned(trial.model, *numbers, table, tuple(notes), step=step)

    def _fastest(self, groups: Groups) -> tuple[Choice, Trial]:
        """The choice that won the last race it was in; a race is only run among those that are near each other."""
        best: dict[Choice, Trial] = {(): self.original}
        known: dict[Choice, Result] = {(): Result(self.original.once, 1.0)}
        for group in groups:
            trials = dict(best)
            for choice in self._choices(list(best), group):
                if trial := self._try(choice):
                    trials[choice] = trial
                    known[choice] = Result(trial.once, self.original.once / trial.once)
            if len(trials) == len(best):
                continue
            limit = HOPELESS * min(trial.once for trial in trials.values())
            leader, *others = (choice for choice, trial in trials.items() if trial.once <= limit)
            if others:
                racing, share = {choice: trials[choice] for choice in others}, self.seconds / (len(groups) + 1)
                for choice, result in race(racing, trials[leader], self.subject.device, share).items():
                    known[choice] = replace(result, speedup=result.speedup * known[leader].speedup)
            best = {
                choice: trials[choice] for choice in self._judged({each: known[each] for each in (leader, *others)})
            }
        return next(iter(best.items()))

    def _choices(self, bases: Sequence[Choice], group: Sequence[Choice]) -> Iterator[Choice]:
        """Each base with each alternative over it, as far as its settings are worth trying there."""
        for alternative in group:
            compiling = any(isinstance(setting, Compiled) for setting in alternative)
            for base in bases[:1] if compiling else bases:
                choice = base
                for setting in alternative:
                    if why := self._refusal(setting, choice):
                        self.rows.setdefault(str(setting), Row((str(setting),), f"not tried: {why}"))
                    else:
                        choice = setting.after(choice)
                if choice not in self.rows and choice not in bases:
                    yield choice

    def _refusal(self, setting: Candidate, chosen: Choice) -> str | None:
        if isinstance(setting, Compiled) and not self.compile_seconds > 0:
            return "no time for a compiler was given"
        if perf_counter() - self.began - self.compiling > PATIENCE * self.seconds:
            return "the time was over"
        if free_bytes(self.subject.device) < COPIES * bytes_of(self.subject.model):
            return "there is no memory for another copy of the network"
        return setting.refusal(self.subject, chosen)

    def _try(self, choice: Choice) -> Trial | None:
        """A trial with good answers; None, with its row saying why, for a choice that gives none."""
        compiling = any(isinstance(setting, Compiled) for setting in choice)
        self.rows[choice] = Row(names(choice), "")
        started = perf_counter()
        try:
            with at_most(self.compile_seconds) if compiling else nullcontext():
                with torch.random.fork_rng(self.subject.generators):
                    trial = self.build(choice)
                preparation = perf_counter() - started
                once = self._seconds_of(trial.run)
            self.compiling += preparation * compiling
        except OutOfTime:
            return self._note(choice, verdict=f"not ready after {self.compile_seconds:g} s")
        except Exception as problem:  # whatever a setting fails by, there are others
            reason = (str(problem).splitlines() or [""])[0] or type(problem).__name__
            return self._note(choice, verdict=f"failed: {reason[:100]}")
        self._note(choice, error=trial.error, preparation=preparation)
        if not trial.error <= self.tolerance:
            return self._note(choice, verdict=OTHER)
        self._note(choice, verdict="slower", seconds=once, speedup=self.original.once / once)
        return replace(trial, once=once)

    def _seconds_of(self, run: Callable[[], object]) -> float:
        """The best of a few calls; of one, where that takes long."""
        times: list[float] = []
        while len(times) < FEW[0] and sum(times) < FEW[1]:
            started = perf_counter()
            run()
            synchronize(self.subject.device)
            times.append(perf_counter() - started)
        return min(times)

    def _judged(self, results: dict[Choice, Result]) -> list[Choice]:
        """The choices that go on, fastest first."""
        worth = {choice: result.speedup * (1 - WORTH) ** len(choice) for choice, result in results.items()}
        order = sorted(worth, key=lambda choice: -worth[choice])
        near = [choice for choice in order if worth[choice] * NEAR >= worth[order[0]]][:BEAM]
        for choice, result in results.items():
            if choice:
                verdict = "kept for a while" if choice in near else "slower"
                self._note(choice, verdict=verdict, seconds=result.seconds, speedup=result.speedup)
        return near

    def _why_none(self, chosen: Choice) -> str:
        if chosen:
            return f"{' + '.join(names(chosen))} was no faster when measured again, so the original is kept"
        others = sum(row.verdict == OTHER for row in self.rows.values())
        rejected = f"; {others} settings gave answers that differ by more than {self.tolerance:g}" if others else ""
        return f"nothing was faster, so the original is kept{rejected}"

    def _note(
        self,
        choice: Choice,
        *,
        verdict: str = "",
        error: float | None = None,
        seconds: float | None = None,
        speedup: float | None = None,
        preparation: float | None = None,
    ) -> None:
        """Fill in what is known now of a choice's row."""
        row = self.rows[choice]
        self.rows[choice] = Row(
            row.settings,
            verdict or row.verdict,
            row.error if error is None else error,
            row.seconds if seconds is None else seconds,
            row.speedup if speedup is None else speedup,
            row.preparation if preparation is None else preparation,
        )
