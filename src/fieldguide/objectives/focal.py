"""Losses for classes that are unequal: more weight for what is hard, and for what is rare.

b batch · c classes · n samples of the training part.
"""

from math import log

import torch

from fieldguide.errors import FieldguideError
from fieldguide.shapes import Float, Int, Tensor


def focal_loss(
    logits: Float[Tensor, "b c"], shares: Float[Tensor, "b c"], gamma: float, weights: Float[Tensor, " c"] | None = None
) -> Float[Tensor, ""]:
    """The mean over b of −Σ wᶜ · tᶜ · (1 − pᶜ)^γ · log pᶜ, with p the softmax of the logits and t the target shares.

    Lin et al. 2017, "Focal Loss for Dense Object Detection", eq. 5, there for two classes; their α is ``weights``. With
    γ = 0 and no weights it is cross-entropy.
    """
    log_p = logits.log_softmax(1)
    # At p = 1 the power has no finite slope for γ < 1, and nothing is left to learn either.
    missing = (-log_p.expm1()).clamp_min(torch.finfo(log_p.dtype).eps)
    loss = -shares * missing**gamma * log_p
    return (loss if weights is None else loss * weights).sum(1).mean()


def class_weights(labels: Int[Tensor, " n"], num_classes: int, balance: float) -> tuple[float, ...]:
    """A weight for each class, the larger the rarer it is among the training labels; none for a ``balance`` of 0.

    A class of n samples weighs (1 − β)/(1 − βⁿ) with β the ``balance``: Cui et al. 2019, "Class-Balanced Loss Based on
    Effective Number of Samples", eq. 5. 1 is the limit, inverse frequency. The paper makes the weights of the classes 1
    in the mean; here it is those of the samples, so that the loss keeps its size. A class without samples weighs 0.

    Raises:
        FieldguideError: a balance outside 0 … 1, no labels, or a label outside the classes.
    """
    if not 0 <= balance <= 1:
        raise FieldguideError(f"class_balance = {balance} must be between 0 and 1")
    if not len(labels) or not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise FieldguideError(f"class_balance: needs labels between 0 and {num_classes - 1}")
    if not balance:
        return ()
    counts = torch.bincount(labels.cpu(), minlength=num_classes).double()
    effective = counts if balance == 1 else -torch.expm1(counts * log(balance)) / (1 - balance)
    weights = torch.where(counts > 0, 1 / effective, 0.0)
    return tuple((weights * (len(labels) / (counts * weights).sum())).tolist())
