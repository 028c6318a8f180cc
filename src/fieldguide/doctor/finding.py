"""What the doctor says: one symptom that a run shows, with its evidence and what would mend it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from fieldguide.doctor.history import History

Severity = Literal["info", "warning", "critical"]
"""``info`` is advice and never an alarm; ``warning``: the run suffers; ``critical``: it is lost as it is."""


@dataclass(frozen=True)
class Fix:
    """One thing to do, in words, and as an action that a treatment can try on a fork of the run."""

    title: str
    apply: str = ""
    """``"lr / 10"``, ``"clip 1"``, ``"zero_grad"``: the same in a word for programs; empty when only a person can do
    it."""


@dataclass(frozen=True)
class Sign:
    """What a rule has seen in a run: a sentence with its numbers, and the threshold they crossed."""

    evidence: str
    threshold: str = ""
    severity: Severity | None = None
    """None: as severe as the rule usually is."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One symptom: how it is recognised in a history, and what to do about it.

    The file of a rule begins with its page: what it looks for, why it matters, usual causes, known false alarms, fix.
    """

    code: str
    slug: str
    judge: "Callable[[History], Sign | None]"
    """Whether a run shows the symptom now; reads plain numbers only."""
    on: frozenset[str] = frozenset({"sample"})
    """Kinds of record after which it judges."""
    gated: bool = True
    """It speaks only of runs that are failing (``History.failing``). Exact rules speak of any run."""
    persistent: bool = True
    """It has to hold at 3 of the last 5 samples; exact rules and those of whole runs speak at once."""
    severity: Severity = "warning"
    fixes: tuple[Fix, ...] = ()
    refute: str = ""
    """The test that would show this finding to be wrong."""


def exact(*kinds: str) -> dict[str, Any]:
    """The settings of a rule that is certain whenever it holds: ``Rule(…, **exact("setup"))``."""
    return {"on": frozenset(kinds or ("setup",)), "gated": False, "persistent": False}


@dataclass(kw_only=True)
class Finding:
    """A symptom that a run showed."""

    rule: str
    slug: str
    severity: Severity
    step: int
    """Optimizer steps done when it was first certain."""
    evidence: str
    threshold: str = ""
    refute: str = ""
    likelihood: float = 0.0
    """Probability that this is a cause of the trouble, given all that was seen; 0 to 1."""
    suppressed_by: str | None = None
    """Slug of the cause that explains it."""
    fixes: list[Fix] = field(default_factory=list)
