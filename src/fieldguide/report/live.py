"""The state of a training that may still go on, as a page shows it. Reads only."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from fieldguide.report import story
from fieldguide.report.figures import shown
from fieldguide.report.live_log import LiveLog
from fieldguide.report.live_rows import LiveRows
from fieldguide.report.records import is_number, read_environment, read_recipe
from fieldguide.trace import Record

NOTES = 20
"""Failures that are shown, the newest."""
_RECENT = 400
"""Rows from which the pace is taken."""


class Judge(Protocol):
    """Reads the records of a training, whatever they hold, and says what is wrong with it."""

    def add(self, record: Record) -> None: ...

    def verdict(self) -> Mapping[str, Any]:
        """``verdict`` and ``findings`` as ``doctor.json`` has them."""
        ...


class Live:
    """A run's folder, read along; ``judge`` makes the one who reads it from the beginning."""

    def __init__(self, run: Path, judge: Callable[[], Judge]):
        self.run, self._new_judge = run, judge
        self._lock = Lock()
        self._logs = [LiveLog(run / "metrics.jsonl"), LiveLog(run / "trace.jsonl")]
        self._title, self._unit, self._recipe = run.resolve().name, "samples", {}
        self.rows = LiveRows()
        self._begin()

    def _begin(self) -> None:
        self.rows.clear()
        self._judge, self._unjudged = self._new_judge(), []
        self._newest: dict[str, Record] = {}
        self._epoch_steps = 0
        self._notes: list[str] = []

    def state(self, since: int = 0) -> dict[str, Any]:
        """Where the training is, the rows from number ``since`` on, and what the doctor says: plain values.

        ``fresh`` says that the rows are all there are, whatever came before. ``problem`` says in a line what could not
        be read; the rest is then as it was.
        """
        with self._lock:
            problem = self._read()
            rows = self.rows.since(since)
            return {
                "run": str(self.run),
                "title": self._title,
                "unit": self._unit,
                "rows": rows,
                "end": self.rows.end,
                "fresh": len(rows) != self.rows.end - since or not since,
                **self._progress(),
                "results": shown(self._newest.get("test", {}), "test_"),
                "doctor": self._judge.verdict(),
                "notes": self._notes[-NOTES:],
                "problem": problem,
            }

    def _read(self) -> str | None:
        if not self.run.is_dir():
            return f"{self.run} is gone; this is what was read of it"
        try:
            self._title = story.title(self.run)
            self._unit = read_environment(self.run).get("job", {}).get("unit", "samples")
            self._recipe = read_recipe(self.run)
            while self._read_more():
                pass
        except OSError as problem:
            return f"{problem.filename}: {problem.strerror}"
        except ValueError as problem:
            return str(problem)
        return None

    def _read_more(self) -> bool:
        looks = [log.look() for log in self._logs]
        if not all(same for same, _ in looks):  # the training went back, and its other log with it
            self._logs = [LiveLog(log.path) for log in self._logs]
            self._begin()
            return True
        records = [record for _, found in looks for record in found]
        for record in records:
            if isinstance(record.get("kind"), str) and is_number(record.setdefault("step", 0)):
                self._take(record)
        self._judge_what_is_whole()
        return bool(records)

    def _take(self, record: Record) -> None:
        self._newest[record["kind"]] = {name: value for name, value in record.items() if is_number(value)}
        self._unjudged.append(record)
        self.rows.add(record)
        if record["kind"] == "epoch" and not self._epoch_steps:
            self._epoch_steps = record["step"]
        if record["kind"] == "failure" and isinstance(said := record.get("message"), str):
            self._notes.append(said)

    def _judge_what_is_whole(self) -> None:
        """In the order of the steps. Those of the newest may still be on their way in the other log."""
        newest = self._newest.get("step", {}).get("step", 0)
        ready = [record for record in self._unjudged if self._over or record["step"] < newest]
        self._unjudged = [record for record in self._unjudged if not self._over and record["step"] >= newest]
        for record in sorted(ready, key=lambda record: record["step"]):
            self._judge.add(record)

    @property
    def _over(self) -> bool:
        return bool({"test", "end"} & self._newest.keys())

    def _progress(self) -> dict[str, Any]:
        """Steps and epochs, done and in all (None where that is not known yet), and seconds: left, and without news."""
        step, epochs, limit = self._newest.get("step", {}), self._recipe.get("epochs"), self._recipe.get("steps")
        done = step.get("step", 0)
        most = self._epoch_steps * epochs if isinstance(epochs, int) else 0
        steps = min(limit, most or limit) if isinstance(limit, int) and limit else most
        finished = self._over or bool(steps and done >= steps)
        recent = [row for row in self.rows.rows[-_RECENT:] if row["kind"] == "step" and "seconds" in row]
        pace = sum(float(row["seconds"]) for row in recent) / len(recent) if recent else 0.0
        written = max(log.written for log in self._logs)
        return {
            "step": done,
            "steps": steps or None,
            "epoch": step.get("epoch", -1) + 1,
            "epochs": epochs,
            "finished": finished,
            "seconds_left": pace * (steps - done) if steps and recent and not finished else None,
            "seconds_quiet": max(0.0, time.time() - written) if written else None,
        }
