"""Gradients without their mean."""

from collections.abc import Sequence

from torch import (
    _foreach_sub_,  # pyright: ignore[reportPrivateImportUsage]
    nn,
)


def centralize_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Takes from each unit's gradient its mean, in place, where a parameter has two or more axes.

    Yong et al. 2020, "Gradient Centralization", eq. 1: the mean over all axes but the first, a row of a matrix or the
    kernels of one output channel. Vectors, such as biases and norms, stay as they are.
    """
    gradients = [p.grad for p in parameters if p.grad is not None and p.ndim > 1]
    if gradients:
        _foreach_sub_(gradients, [g.mean(tuple(range(1, g.ndim)), keepdim=True) for g in gradients])
