"""P04 missing-step: gradients are computed and no parameter moves.

What it looks for: backward passes without any optimizer step; or optimizer steps after none of which a parameter has
changed by a bit.
Why it matters: nothing is learned.
Usual causes: optimizer.step() missing; an optimizer over other parameters than the network's; a rate of zero.
Known false alarms: updates written by hand, which do change the parameters; a schedule that begins at a rate of
exactly zero, for a step or two; a run that has arrived and moves no more.
Fix: call optimizer.step() after backward, on the optimizer of this network.
"""

from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    end = history.end or {}
    if end and history.step == 0 and end.get("batches", 0) >= 10 and not end.get("moved"):
        return Sign(f"backward was called {end['batches']} times and no optimizer took a step", "any")
    samples = history.samples
    if len(samples) >= 3 and all(sample.get("unchanged") for sample in samples):
        return Sign(f"no parameter has changed in {history.step} optimizer steps", "not one bit in all samples")
    return None


RULE = Rule(
    code="P04",
    slug="missing-step",
    judge=judge,
    severity="critical",
    fixes=(Fix("Call optimizer.step() after backward", "step"),),
    refute="The parameters differ before and after a step.",
    **exact("sample", "end"),
)
