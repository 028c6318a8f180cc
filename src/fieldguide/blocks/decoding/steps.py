"""Step by step: tokens go in, the logits of what follows come out, and a cache remembers the rest.

b batch · n tokens · m memory tokens · v vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from fieldguide.blocks.cache import Cache
from fieldguide.blocks.decoding.choice import Choice
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Float, Int, Tensor


class Steps(ABC):
    """One batch under way: first :attr:`prompt` goes in, then the tokens that were chosen."""

    prompt: Tensor
    """What the network reads first, (b, n)."""
    seen: Tensor
    """The tokens so far, for filters; padding is replaced by a real token of its row."""
    keep: Tensor | None = None
    """Real tokens among those so far, (b, n); None where all are."""

    def __init__(self, model: nn.Module, prompt: Tensor, cache: Cache):
        self.model, self.prompt, self.seen, self.cache = model, prompt, prompt, cache

    def __call__(self, tokens: Int[Tensor, "b n"]) -> Float[Tensor, "b v"]:
        with predicting(self.model):
            return self._predict(tokens)

    def _predict(self, tokens: Tensor) -> Tensor:
        return self.following(tokens, self.keep, self.cache)

    @abstractmethod
    def following(self, tokens: Tensor, keep: Tensor | None, cache: Cache) -> Tensor:
        """Logits of what follows ``tokens``, of which ``keep`` are real, after what the cache has seen."""

    def select(self, rows: Int[Tensor, "new"]) -> None:
        """Row i goes on from row ``rows[i]``, which is of the same prompt unless the batch changes its size."""
        self.cache.reorder(rows)


class Continuation(Steps):
    """A language model after a prompt; ``next_logits(tokens, keep, cache)``."""

    def __init__(
        self, model: nn.Module, next_logits: Callable[..., Tensor], prompt: Tensor, keep: Tensor | None, cache: Cache
    ):
        super().__init__(model, prompt, cache)
        self.next_logits = next_logits
        if keep is not None and not keep.all():
            self.keep, self.seen = keep, prompt.where(keep, prompt[:, -1:])

    def _predict(self, tokens: Tensor) -> Tensor:
        logits = super()._predict(tokens)
        if self.keep is not None:
            self.keep = torch.cat((self.keep, self.keep.new_ones(len(self.keep), 1)), 1)
        return logits

    def following(self, tokens: Tensor, keep: Tensor | None, cache: Cache) -> Tensor:
        return self.next_logits(tokens, keep, cache)

    def select(self, rows: Int[Tensor, "new"]) -> None:
        super().select(rows)
        self.keep = self.keep if self.keep is None else self.keep[rows]


class Answer(Steps):
    """The decoder of a text-to-text network after a source; ``decode(target, memory, source_keep=…, cache=…)``."""

    def __init__(
        self,
        model: nn.Module,
        decode: Callable[..., Tensor],
        memory: Tensor,
        source_keep: Tensor | None,
        prompt: Tensor,
        cache: Cache,
    ):
        super().__init__(model, prompt, cache)
        self.decode, self.memory, self.source_keep = decode, memory, source_keep

    def following(self, tokens: Tensor, keep: Tensor | None, cache: Cache) -> Tensor:
        return self.decode(tokens, self.memory, source_keep=self.source_keep, target_keep=keep, cache=cache)[:, -1]

    def select(self, rows: Int[Tensor, "new"]) -> None:
        super().select(rows)
        if len(rows) != len(self.memory):  # otherwise the sources are the same, and their keys and values are kept
            self.memory = self.memory[rows]
            self.source_keep = self.source_keep if self.source_keep is None else self.source_keep[rows]


def stream(
    steps: Steps, max_new_tokens: int, choice: Choice, ends: Sequence[Sequence[int]]
) -> Iterator[Int[Tensor, "b"]]:
    """The chosen tokens until every row has ended or there are enough; a row that has ended repeats its last token."""
    seen, tokens = steps.seen, steps.prompt
    start, ended = seen.shape[1], seen.new_zeros(len(seen), dtype=torch.bool)
    stops = [seen.new_tensor(end) for end in ends]
    for _ in range(max_new_tokens):
        chosen = seen[:, -1].where(ended, choice(steps(tokens), seen))
        seen, tokens = torch.cat((seen, chosen[:, None]), 1), chosen[:, None]
        yield chosen
        for stop in stops:
            ended = ended | _ends_in(seen[:, start:], stop)
        if stops and ended.all():
            return


def require_ends(ends: Sequence[Sequence[int]]) -> None:
    """FieldguideError for an empty one, which every text would end in."""
    if not all(ends):
        raise FieldguideError("a stop sequence is empty; it needs at least one token")


def _ends_in(tokens: Int[Tensor, "b n"], stop: Int[Tensor, "s"]) -> Tensor:
    if tokens.shape[1] < len(stop):
        return tokens.new_zeros(len(tokens), dtype=torch.bool)
    return (tokens[:, -len(stop) :] == stop).all(1)


@contextmanager
def predicting(model: nn.Module) -> Iterator[None]:
    """Without gradients and without dropout; every module is then in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()] if model.training else []
    if modes:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
