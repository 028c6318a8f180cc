"""L06 detached-loss: the loss has no way back to the network.

What it looks for: backward on a tensor that no operation made, or a crash that says so.
Why it matters: no parameter gets a gradient.
Usual causes: .item(), .detach(), torch.tensor(loss) or numpy in between.
Known false alarms: none.
Fix: keep the tensor that the loss function returned.
"""

from fieldguide.doctor.facts import error
from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    if history.fact("loss", "detached"):
        return Sign("backward is called on a tensor that has no graph behind it", "any")
    if "does not require grad" in error(history):
        return Sign(f"the script crashed: {error(history)}", "any")
    return None


RULE = Rule(
    code="L06",
    slug="detached-loss",
    judge=judge,
    severity="critical",
    fixes=(Fix("Call backward on what the loss function returned", "keep graph"),),
    refute="loss.grad_fn is not None.",
    **exact("setup", "end"),
)
