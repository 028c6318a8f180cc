"""P16 optimizer-constants: constants of the optimizer far from anything in use.

What it looks for: for the Adam family an eps of 0.01 or more, betas in the wrong order, a second moment shorter than
2 steps or a first one longer than 1,000.
Why it matters: the update is no longer what the method means by it.
Usual causes: arguments in the wrong place; constants of another method.
Known false alarms: constants that a paper asks for on purpose: rare.
Fix: eps 1e-8, betas (0.9, 0.999).
"""

from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History

ADAMS = {"Adam", "AdamW", "NAdam", "RAdam", "Adamax"}


def judge(history: History) -> Sign | None:
    for facts in history.setup.get("optimizers", []):
        eps, betas = facts.get("eps", 1e-8), facts.get("betas", [0.9, 0.999])
        if facts.get("type") not in ADAMS or len(betas) < 2:
            continue
        if eps >= 1e-2:
            return Sign(f"{facts['type']} has an eps of {eps:g}: updates are cut to a part of their length", "0.01")
        if betas[0] > betas[1] or betas[1] < 0.5 or betas[0] > 0.999:
            return Sign(
                f"{facts['type']} has betas of {betas[0]:g} and {betas[1]:g}", "first below second, 0.5 and 0.999"
            )
    return None


RULE = Rule(
    code="P16",
    slug="optimizer-constants",
    judge=judge,
    fixes=(Fix("Use eps 1e-8 and betas (0.9, 0.999)", "constants"),),
    refute="With the usual constants the loss falls no faster.",
    **exact("setup"),
)
