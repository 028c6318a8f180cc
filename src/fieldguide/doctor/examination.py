"""From records to a diagnosis: which rules hold, for how long, and which cause explains the others.

A rule opens a finding when it holds at 3 of the last 5 samples (exact rules: at once) and the finding closes when it
holds at neither of the last 2: a passing shadow is no alarm.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fieldguide.doctor.causes import CONSEQUENCES, candidates, explain
from fieldguide.doctor.finding import Finding, Rule, Sign
from fieldguide.doctor.history import History, Intent
from fieldguide.doctor.rules import RULES
from fieldguide.trace import Record

Verdict = Literal["healthy", "warning", "critical"]
UNEXPLAINED = "underfitting"
NOTHING = Finding(rule="", slug="", severity="info", step=0, evidence="")
_RANK = {"info": 0, "warning": 1, "critical": 2}


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The verdict on a run, its findings (gravest first) and the causes (likeliest first) by slug."""

    verdict: Verdict
    findings: list[Finding]
    causes: list[str]
    step: int
    overhead: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain values, as ``doctor.json`` and ``--json`` have them."""
        return {"schema": 1, **asdict(self)}


class Examination:
    """Judges a run while it goes. ``add`` takes its records; ``diagnosis`` says what is known so far."""

    def __init__(self, intent: Intent | None = None, rules: Sequence[Rule] = RULES):
        self.rules = rules
        self._on = {kind: [rule for rule in rules if kind in rule.on] for kind in set().union(*(r.on for r in rules))}
        self.earlier: list[list[Finding]] = []
        """Findings of the trainings before this one, where a script makes several: folds, trials, phases."""
        self._begin(intent or Intent())

    def _begin(self, intent: Intent) -> None:
        self.history = History(intent)
        self.findings: dict[str, Finding] = {}
        """Open findings by slug."""
        self._failing: deque[bool] = deque(maxlen=5)
        self._unexplained: Finding | None = None
        self._seen: dict[str, deque[bool]] = {rule.slug: deque(maxlen=5) for rule in self.rules if rule.persistent}

    def add(self, record: Record) -> list[Finding]:
        """Takes the next record and returns the findings that it opened."""
        kind = record.get("kind", "")
        if kind == "training":
            self.earlier.append(explain(list(self.findings.values())))
            self._begin(self.history.intent)
            return []
        self.history.add(record)
        opened = [found for rule in self._on.get(kind, ()) if (found := self._judge(rule))]
        if kind == "end" and not self.history.failing:
            for rule in self.rules:  # samples may be far apart: what a failing run showed has passed with its failing
                if rule.gated and rule.persistent:
                    self.findings.pop(rule.slug, None)
        if kind in {"sample", "end"}:
            opened += self._judge_unexplained(kind == "end")
        return opened

    def _judge_unexplained(self, last: bool) -> list[Finding]:
        """A run that fails and shows no symptom is ill all the same."""
        self._failing.append(self.history.failing is not None)
        well = not self._failing[-1] and (last or len(self._failing) < 2 or not self._failing[-2])
        others = [found for slug, found in self.findings.items() if found.severity != "info" and slug != UNEXPLAINED]
        said = self.findings.get(UNEXPLAINED, NOTHING)
        if others or well:
            if said is self._unexplained:
                del self.findings[UNEXPLAINED]
            return []
        rule = next((rule for rule in self.rules if rule.slug == UNEXPLAINED), None)
        if rule is None or said.severity == "warning" or not (last or sum(self._failing) == 5):
            return []
        sign = Sign(f"{self.history.failing}, and no symptom tells why", "5 samples", "warning")
        self.findings[UNEXPLAINED] = self._unexplained = self._finding(rule, sign)
        return [self._unexplained]

    def _judge(self, rule: Rule) -> Finding | None:
        sign = rule.judge(self.history) if not rule.gated or self.history.failing else None
        if rule.persistent:
            seen = self._seen[rule.slug]
            seen.append(sign is not None)
            if len(seen) > 1 and not seen[-1] and not seen[-2]:
                self.findings.pop(rule.slug, None)
            if sum(seen) < 3:
                return None
        if sign is None or rule.slug in self.findings:
            return None
        self.findings[rule.slug] = found = self._finding(rule, sign)
        return found

    def _finding(self, rule: Rule, sign: Sign) -> Finding:
        which = f"training {len(self.earlier) + 1}: " if self.earlier else ""
        return Finding(
            rule=rule.code,
            slug=rule.slug,
            severity=sign.severity or rule.severity,
            step=self.history.step,
            evidence=which + sign.evidence,
            threshold=sign.threshold,
            refute=rule.refute,
            fixes=list(rule.fixes),
        )

    def _ranked(self, causes: list[str]) -> list[str]:
        """With what usually lies behind a failing run after it, up to three."""
        if causes == ["stopped-too-early"]:  # a longer run and a larger step are the same remedy
            return [*causes, "lr-too-low"]
        if not causes or not (self.history.failing or CONSEQUENCES.issuperset(causes)):
            return causes
        usual = [slug for slug in candidates(self.history) if slug not in causes]
        if causes == [UNEXPLAINED]:
            return [*usual[:2], UNEXPLAINED]
        return causes + usual[: max(0, 3 - len(causes))]

    def diagnosis(self, overhead: dict[str, float] | None = None) -> Diagnosis:
        trainings = [*self.earlier, explain(list(self.findings.values()))]
        first = {found.slug: found for findings in reversed(trainings) for found in findings}
        explained = list(first.values())
        alarms = [found for found in explained if found.suppressed_by is None]
        worst = max((_RANK[found.severity] for found in alarms), default=0)
        verdict: Verdict = ("healthy", "warning", "critical")[worst]  # pyright: ignore[reportAssignmentType]
        findings = sorted(explained, key=lambda found: (-_RANK[found.severity], -found.likelihood, found.step))
        causes = sorted((found for found in alarms if found.severity != "info"), key=lambda found: -found.likelihood)
        return Diagnosis(
            verdict=verdict,
            findings=findings,
            causes=self._ranked([found.slug for found in causes]),
            step=self.history.step,
            overhead=overhead or {},
        )


def examine(records: Iterable[Record], intent: Intent | None = None) -> Diagnosis:
    """The diagnosis of a whole recording, as it would have been given live."""
    examination = Examination(intent)
    for record in records:
        examination.add(record)
    return examination.diagnosis()
