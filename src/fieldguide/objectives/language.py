"""Predicting tokens: the next one, those that were hidden, or those of an answer.

b batch · n tokens · m source tokens · v vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fieldguide.metrics.language import IGNORED, TokenMetrics
from fieldguide.objectives.phase import Phase
from fieldguide.shapes import Bool, Float, Int, Tensor

Predicted = tuple[Tensor, Tensor]
"""Logits (b, n, v), and the token that was to be found at each place (b, n), IGNORED where none was."""


class _Tokens(ABC):
    """What the three have in common: softmax cross-entropy, a mean over the tokens that were to be found."""

    label_smoothing: float

    @property
    def monitor(self) -> tuple[str, Literal["min", "max"]]:
        return "loss", "min"

    def parts(self, model: nn.Module) -> dict[str, nn.Module]:
        return {"model": model}

    @abstractmethod
    def predict(self, model: nn.Module, batch: Sequence[Tensor]) -> Predicted: ...

    @abstractmethod
    def weight(self, batch: Sequence[Tensor]) -> int: ...

    def step(self, model: nn.Module, batch: Sequence[Tensor]) -> Iterator[Phase]:
        yield Phase("model", self._loss(model, batch))

    def _loss(self, model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        # Apart from ``step``, which waits for the other micro-batches and would keep the logits meanwhile.
        loss = _compiled_loss() if _is_compiled(model) else token_loss
        return loss(*self.predict(model, batch), self.label_smoothing)

    def metrics(self) -> TokenMetrics:
        return TokenMetrics(self.predict)


def token_loss(
    logits: Float[Tensor, "b n v"], targets: Int[Tensor, "b n"], label_smoothing: float = 0.0
) -> Float[Tensor, ""]:
    """Softmax cross-entropy, a mean over the places that are not IGNORED."""
    return cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, label_smoothing=label_smoothing)


@cache
def _compiled_loss() -> Callable[[Tensor, Tensor, float], Tensor]:
    """In fewer passes over the logits, the largest tensors of a training with a large vocabulary."""
    return torch.compile(token_loss)


def _is_compiled(model: nn.Module) -> bool:
    """By its own ``compile()``, or wrapped by ``torch.compile``."""
    return getattr(model, "_compiled_call_impl", None) is not None or hasattr(model, "_orig_mod")


@dataclass(frozen=True)
class NextToken(_Tokens):
    """−log p(token | all before it), for language models (Bengio et al. 2003, eq. 1, without its penalty).

    A batch is ``(tokens (b, n + 1),)`` or ``(tokens, keep)``: every token but the last is read, every one but the first
    is to be found. ``token_bytes`` is the length of each token in bytes, for the metrics.
    """

    label_smoothing: float = 0.0
    token_bytes: Sequence[int] | None = None

    def metrics(self) -> TokenMetrics:
        return TokenMetrics(self.predict, self.token_bytes)

    def weight(self, batch: Sequence[Tensor]) -> int:
        return int(batch[1][:, 1:].sum()) if len(batch) > 1 else batch[0][:, 1:].numel()

    def predict(self, model: nn.Module, batch: Sequence[Tensor]) -> Predicted:
        tokens, keep = batch[0], batch[1] if len(batch) > 1 else None
        if keep is None:
            return model(tokens[:, :-1]), tokens[:, 1:]
        return model(tokens[:, :-1], keep=keep[:, :-1]), tokens[:, 1:].masked_fill(~keep[:, 1:], IGNORED)


@dataclass(frozen=True)
class MaskedToken(_Tokens):
    """Finding hidden tokens, for encoders with a ``masked_lm`` head (Devlin et al. 2019, §3.1 and appendix A.1).

    A batch is ``(tokens (b, n),)`` or ``(tokens, keep)``. Of the real tokens from ``first_real`` on, a ``share`` is to
    be found, at least one a batch: 80 % of these are replaced by ``mask_token``, 10 % by another token, 10 % stay.
    Training hides others each time, evaluation always the same. Which are hidden is only drawn in the step, so
    micro-batches count by their real tokens.
    """

    mask_token: int
    vocab_size: int
    first_real: int = 0
    """Tokens below this number, such as those that begin and end a text, are never hidden and never put in."""
    share: float = 0.15
    label_smoothing: float = 0.0

    def weight(self, batch: Sequence[Tensor]) -> int:
        return int(batch[1].sum()) if len(batch) > 1 else batch[0].numel()

    def predict(self, model: nn.Module, batch: Sequence[Tensor]) -> Predicted:
        tokens, keep = batch[0], batch[1] if len(batch) > 1 else None
        generator = None if model.training else torch.Generator(tokens.device).manual_seed(0)
        inputs, targets = self.hide(tokens, keep, generator)
        return (model(inputs) if keep is None else model(inputs, keep=keep)), targets

    def hide(
        self, tokens: Int[Tensor, "b n"], keep: Bool[Tensor, "b n"] | None, generator: torch.Generator | None = None
    ) -> tuple[Int[Tensor, "b n"], Int[Tensor, "b n"]]:
        """What the network reads, and what it is to find."""
        chance, kind = torch.rand(2, *tokens.shape, generator=generator, device=tokens.device)
        real = tokens >= self.first_real if keep is None else keep & (tokens >= self.first_real)
        chance = chance.where(real, 2.0)
        hidden = (chance < self.share) | ((chance == chance.min()) & real)
        others = torch.randint(
            self.first_real, self.vocab_size, tokens.shape, generator=generator, device=tokens.device
        )
        inputs = tokens.where(~hidden | (kind >= 0.8), self.mask_token)
        inputs = inputs.where(~hidden | (kind < 0.8) | (kind >= 0.9), others)
        return inputs, tokens.masked_fill(~hidden, IGNORED)


@dataclass(frozen=True)
class SequenceToSequence(_Tokens):
    """−log p(answer | source), for text-to-text networks; label smoothing 0.1 in Vaswani et al. 2017, §5.4.

    A batch is ``(source (b, m), answer (b, n), source_keep, answer_keep)``; the decoder reads ``start`` and all of the
    answer but its last token.
    """

    start: int
    label_smoothing: float = 0.1

    def weight(self, batch: Sequence[Tensor]) -> int:
        return int(batch[3].sum())

    def predict(self, model: nn.Module, batch: Sequence[Tensor]) -> Predicted:
        source, answer, source_keep, answer_keep = batch
        first = torch.full_like(answer[:, :1], self.start)
        read = torch.cat((first, answer[:, :-1]), 1)
        read_keep = torch.cat((torch.ones_like(answer_keep[:, :1]), answer_keep[:, :-1]), 1)
        logits = model(source, read, source_keep, read_keep)
        return logits, answer.masked_fill(~answer_keep, IGNORED)
