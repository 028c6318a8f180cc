"""Which of several findings is the cause: exact ones explain their consequences, the others are weighed.

A finding that another one explains is kept and marked, and is no alarm. The likelihoods are the shares of the findings
that are left, weighed by how often each is the cause when it is found (``WEIGHTS``, from the development part of
``benchmarks.doctor``).
"""

from dataclasses import replace
from statistics import median

from fieldguide.doctor.finding import Finding
from fieldguide.doctor.history import History

CONSEQUENCES = frozenset({
    "non-finite-loss", "exploding-gradient", "vanishing-gradient", "dead-relu", "saturation", "loss-at-init",
    "underfitting", "capacity-too-small", "attention-collapse", "stopped-too-early", "lr-too-low",
    "val-better-than-train", "train-val-shift",
})  # fmt: skip
"""What nearly any deeper trouble can bring about."""

EXPLAINS: dict[str, frozenset[str]] = {
    "non-finite-data": CONSEQUENCES | {"lr-too-high", "disconnected-layer", "samples-mixed-in-batch"},
    "unscaled-input": CONSEQUENCES | {"lr-too-high"},
    "unscaled-target": CONSEQUENCES | {"lr-too-high", "loss-at-init"},
    "double-normalised-input": CONSEQUENCES | {"init-scale"},
    "label-out-of-range": CONSEQUENCES | {"head-size-mismatch"},
    "shuffled-labels": CONSEQUENCES | {"overfitting", "dataset-too-small"},
    "unshuffled-loader": CONSEQUENCES | {"lr-too-high", "overfitting", "train-eval-mismatch", "shuffled-labels"},
    "class-imbalance": frozenset(
        {"shuffled-labels", "overfitting", "underfitting", "stopped-too-early", "train-val-shift"}
    ),
    "dataset-too-small": frozenset({"overfitting"}),
    "double-softmax": CONSEQUENCES | {"missing-output-activation"},
    "missing-output-activation": CONSEQUENCES | {"disconnected-layer", "missing-step", "unreachable-output-range"},
    "unreachable-output-range": CONSEQUENCES,
    "softmax-wrong-axis": CONSEQUENCES | {"samples-mixed-in-batch", "double-softmax"},
    "missing-nonlinearity": CONSEQUENCES,
    "parameter-not-in-optimizer": CONSEQUENCES | {"frozen-parameters"},
    "frozen-parameters": CONSEQUENCES,
    "samples-mixed-in-batch": CONSEQUENCES | {"shuffled-labels", "overfitting", "dataset-too-small"},
    "excessive-dropout": CONSEQUENCES | {"over-strong-augmentation"},
    "batchnorm-tiny-batch": CONSEQUENCES | {"train-eval-mismatch"},
    "train-eval-mismatch": frozenset({"overfitting", "val-better-than-train", "train-val-shift"}),
    "recurrent-gradient-decay": frozenset({"vanishing-gradient", "underfitting", "capacity-too-small"}),
    "mask-leak": CONSEQUENCES | {"lr-too-high"},
    "loss-wrong-sign": CONSEQUENCES
    | {"lr-too-high", "excessive-weight-decay", "init-scale", "shuffled-labels", "overfitting"},
    "sum-reduction": CONSEQUENCES | {"lr-too-high", "overfitting", "train-eval-mismatch", "over-strong-augmentation"},
    "loss-task-mismatch": CONSEQUENCES | {"broadcast-loss"},
    "broadcast-loss": CONSEQUENCES | {"shuffled-labels"},
    "detached-loss": CONSEQUENCES | {"missing-step", "disconnected-layer"},
    "missing-zero-grad": CONSEQUENCES | {"lr-too-high", "overfitting", "train-eval-mismatch"},
    "missing-step": CONSEQUENCES - {"non-finite-loss"} | {"disconnected-layer", "shuffled-labels"},
    "scheduler-collapse": CONSEQUENCES,
    "symmetric-init": CONSEQUENCES | {"init-scale", "missing-step", "disconnected-layer", "shuffled-labels"},
    "init-scale": CONSEQUENCES | {"lr-too-high", "unscaled-input"},
    "excessive-weight-decay": CONSEQUENCES | {"lr-too-high"},
    "optimizer-constants": CONSEQUENCES,
    "excessive-clipping": CONSEQUENCES,
    "lr-too-high": CONSEQUENCES | {"shuffled-labels", "train-eval-mismatch", "overfitting", "dataset-too-small"},
}
"""By slug: the findings that each of them accounts for. Of two that explain each other the earlier code wins."""

WEIGHTS: dict[str, float] = {
    "init-scale": 0.97, "vanishing-gradient": 0.93, "unscaled-input": 0.9, "overfitting": 0.83,
    "excessive-weight-decay": 0.81, "recurrent-gradient-decay": 0.75, "unshuffled-loader": 0.75, "lr-too-high": 0.72,
    "lr-too-low": 0.71, "shuffled-labels": 0.71, "stopped-too-early": 0.69, "non-finite-loss": 0.67, "dead-relu": 0.5,
    "saturation": 0.4, "dataset-too-small": 0.36, "over-strong-augmentation": 0.33, "exploding-gradient": 0.3,
    "loss-at-init": 0.2, "attention-collapse": 0.2, "underfitting": 0.13, "capacity-too-small": 0.1,
}  # fmt: skip
"""How often each is the cause when it is found and nothing explains it: ``benchmarks.doctor --likelihoods``, over the
development part. 1 where nothing is said: certain when it is found. Saturation, exploding gradients, a first loss and
collapsed attention were hardly ever found alone there, and have a guess."""


def candidates(history: History) -> list[str]:
    """Likely causes of a run that fails for no reason that was found, by what such runs usually have in common."""
    ratios = history.series("update_ratio", 5)
    ratio = median(ratios) if ratios else 0.0
    fork, batch = history.probes.get("lr_fork"), history.probes.get("one_batch")
    likely: list[str] = []
    if history.levels and max(history.levels) > 3 * abs(history.start):
        likely.append("lr-too-high")  # whatever its steps have become since: a schedule ends with small ones
    if fork and fork["10"] < min(fork["1"], fork["0.1"]):
        likely.append("lr-too-low")
    if fork and fork["0.1"] < min(fork["1"], fork["10"]):
        likely.append("lr-too-high")
    if batch and batch["end"] < 0.1 * abs(batch["start"]):
        likely.append("shuffled-labels")  # what can be learned by heart but not in general
    likely += ["lr-too-low", "vanishing-gradient"] if ratio < 1e-3 else ["lr-too-high", "underfitting"]
    return list(dict.fromkeys([*likely, "shuffled-labels", "capacity-too-small"]))


def explain(findings: list[Finding]) -> list[Finding]:
    """The same findings with their likelihoods, and with what explains those that are consequences."""
    alarms = [found for found in findings if found.severity != "info"]
    explained: dict[str, str] = {}
    for cause in sorted(alarms, key=lambda found: (-WEIGHTS.get(found.slug, 1.0), found.rule)):
        if cause.slug not in explained:
            for slug in EXPLAINS.get(cause.slug, frozenset()):
                explained.setdefault(slug, cause.slug)
    left = {found.slug: WEIGHTS.get(found.slug, 1.0) for found in alarms if found.slug not in explained}
    total = sum(left.values())
    return [
        replace(
            found,
            likelihood=left.get(found.slug, 0.0) / total if total else 0.0,
            suppressed_by=explained.get(found.slug) if found.severity != "info" else None,
        )
        for found in findings
    ]
