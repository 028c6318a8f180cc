"""How the next token is chosen from its logits: the most probable one, or one drawn by chance.

b batch · v vocabulary · n tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch

from fieldguide.blocks.decoding.filters import Filter, MinP, RepetitionPenalty, Temperature, TopK, TopP
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Float, Int, Tensor


@dataclass(frozen=True)
class Choice:
    """A way to choose, after ``filters`` have changed the logits one after the other."""

    filters: Sequence[Filter] = ()

    def __call__(self, logits: Float[Tensor, "b v"], seen: Int[Tensor, "b n"]) -> Int[Tensor, "b"]:
        """One token for each row, given the logits of what follows and the tokens so far."""
        return self.choose(reduce(lambda scores, change: change(scores, seen), self.filters, logits))

    def choose(self, logits: Float[Tensor, "b v"]) -> Int[Tensor, "b"]:
        raise NotImplementedError


@dataclass(frozen=True)
class Greedy(Choice):
    """The most probable token; of equals, the one with the smallest number."""

    def choose(self, logits: Float[Tensor, "b v"]) -> Int[Tensor, "b"]:
        return logits.argmax(-1)


@dataclass(frozen=True)
class Sample(Choice):
    """A token drawn with its probability. The same ``generator`` state draws the same tokens; torch's own if None."""

    generator: torch.Generator | None = None

    def choose(self, logits: Float[Tensor, "b v"]) -> Int[Tensor, "b"]:
        return logits.float().softmax(-1).multinomial(1, generator=self.generator).squeeze(1)


def sampling(
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    generator: torch.Generator | None = None,
) -> Choice:
    """The usual choice of these numbers: a temperature of 0 is greedy; filters in the order of the usual libraries.

    Raises :class:`FieldguideError` for a number out of range, or one that a greedy choice would ignore.
    """
    penalty = [RepetitionPenalty(repetition_penalty)] if repetition_penalty is not None else []
    narrowing = [TopK(top_k)] if top_k is not None else []
    narrowing += [kind(p) for kind, p in ((TopP, top_p), (MinP, min_p)) if p is not None]
    if temperature == 0:
        if narrowing:
            raise FieldguideError(f"{narrowing[0]} changes nothing at temperature=0; give a temperature such as 1")
        return Greedy(penalty)
    return Sample([*penalty, Temperature(temperature), *narrowing], generator)
