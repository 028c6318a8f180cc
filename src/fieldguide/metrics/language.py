"""Figures for predicted tokens. Axis letters: b batch, n tokens, v vocabulary."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fieldguide.errors import FieldguideError
from fieldguide.metrics.constant import entropy

IGNORED = -100
"""A target where nothing was to be found; PyTorch's own number for it."""


class TokenMetrics:
    """Mean cross-entropy in nats, perplexity, bits and accuracy per token over a data set.

    ``predict(model, batch)`` gives logits (b, n, v) and targets (b, n), ``IGNORED`` where none counts. Perplexity is
    exp(loss) (Jelinek et al. 1977), bits are loss / ln 2. ``token_bytes`` says how many bytes of text each token of the
    vocabulary stands for; with it there are bits per byte too, which alone compare different vocabularies.
    """

    def __init__(
        self, predict: Callable[[nn.Module, Any], tuple[Tensor, Tensor]], token_bytes: Sequence[int] | None = None
    ):
        self.predict = predict
        self.token_bytes = None if token_bytes is None else torch.tensor(token_bytes)
        self._bytes: Tensor | float = 0.0
        self._loss: Tensor | float = 0.0
        self._hits: Tensor | float = 0.0
        self._count: Tensor | float = 0.0
        self._wanted: Tensor | None = None

    def update(self, model: nn.Module, batch: Any) -> None:
        logits, targets = self.predict(model, batch)
        self._loss += cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        ).double()
        self._hits += (logits.argmax(-1) == targets).sum()
        self._count += (targets != IGNORED).sum()
        if self._wanted is None:  # of each token how often, and before them of places where none was
            self._wanted = targets.new_zeros(logits.shape[-1] + 1)
        places = targets.flatten().clamp_min(-1) + 1
        self._wanted.scatter_add_(0, places, torch.ones_like(places))  # unlike bincount it waits for no device
        if self.token_bytes is not None:
            found = targets[targets != IGNORED]
            self._bytes += self.token_bytes.to(found.device)[found].sum()

    @property
    def baseline(self) -> float:
        """The ``loss`` of the best constant answer; NaN before the first token that was to be found."""
        return math.nan if self._wanted is None else float(entropy(self._wanted[1:]))

    def compute(self) -> dict[str, float]:
        """Raises FieldguideError when no token was to be found."""
        count = int(self._count)
        if not count:
            raise FieldguideError("metrics: nothing to evaluate, there was no token to be found")
        loss = float(self._loss) / count
        perplexity = math.exp(loss) if loss < 700 else math.inf
        bits, size = loss / math.log(2), float(self._bytes)
        return {
            "loss": loss,
            "perplexity": perplexity,
            "bits_per_token": bits,
            **({"bits_per_byte": bits * count / size} if size else {}),
            "token_accuracy": float(torch.as_tensor(self._hits)) / count,
        }
