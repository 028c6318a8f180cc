"""What is done to the logits of the next token before one is chosen; each a frozen value, ``logits → logits``.

``filter(logits (b, v), seen (b, n))``, where ``seen`` are the tokens so far. A token that is ruled out gets −∞. Filters
apply one after the other, so ``Temperature`` before ``TopP`` is not ``TopP`` before ``Temperature``.

b batch · v vocabulary · n tokens.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from fieldguide.errors import FieldguideError
from fieldguide.shapes import Float, Int, Tensor

Filter = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Temperature:
    """logits / T: below 1 sharper, above 1 flatter (Ackley, Hinton & Sejnowski 1985)."""

    temperature: float

    def __post_init__(self):
        _require(self, self.temperature > 0, "must be above 0; for the most probable token use Greedy()")

    def __call__(self, logits: Float[Tensor, "b v"], seen: Int[Tensor, "b n"]) -> Float[Tensor, "b v"]:
        return logits / self.temperature


@dataclass(frozen=True)
class TopK:
    """Only the k most probable tokens, and those that tie with the last of them (Fan et al. 2018, §5.4)."""

    k: int

    def __post_init__(self):
        _require(self, self.k >= 1, "must be at least 1")

    def __call__(self, logits: Float[Tensor, "b v"], seen: Int[Tensor, "b n"]) -> Float[Tensor, "b v"]:
        last = logits.topk(min(self.k, logits.shape[-1])).values[:, -1:]
        return logits.masked_fill(logits < last, -math.inf)


@dataclass(frozen=True)
class TopP:
    """The nucleus: the fewest most probable tokens whose probabilities add up to at least p (Holtzman et al. 2020)."""

    p: float

    def __post_init__(self):
        _require(self, 0 < self.p <= 1, "must be above 0 and at most 1")

    def __call__(self, logits: Float[Tensor, "b v"], seen: Int[Tensor, "b n"]) -> Float[Tensor, "b v"]:
        ordered, tokens = logits.sort(descending=True, stable=True)
        probabilities = ordered.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities  # how much the tokens ahead of each one hold
        outside = (before >= self.p).scatter(-1, tokens, before >= self.p)
        return logits.masked_fill(outside, -math.inf)


@dataclass(frozen=True)
class MinP:
    """Only tokens at least p times as probable as the most probable one (Nguyen et al. 2025, §3)."""

    p: float

    def __post_init__(self):
        _require(self, 0 < self.p <= 1, "must be above 0 and at most 1")

    def __call__(self, logits: Float[Tensor, "b v"], seen: Int[Tensor, "b n"]) -> Float[Tensor, "b v"]:
        least = logits.amax(-1, keepdim=True) + math.log(self.p)
        return logits.masked_fill(logits < least, -math.inf)


@dataclass(frozen=True)
class RepetitionPenalty:
    """The logits of tokens seen before are divided by θ where positive, else multiplied (Keskar et al. 2019, §4.1).

    Against the paper, whose formula divides whatever the sign and so would favour tokens with negative logits.
    """

    theta: float

    def __post_init__(self):
        _require(self, self.theta > 0, "must be above 0; 1 changes nothing")

    def __call__(self, logits: Float[Tensor, "b v"], seen: Int[Tensor, "b n"]) -> Float[Tensor, "b v"]:
        again = logits.gather(-1, seen)
        return logits.scatter(-1, seen, (again / self.theta).where(again > 0, again * self.theta))


def _require(given: object, condition: bool, rule: str) -> None:
    if not condition:
        raise FieldguideError(f"{given} {rule}")
