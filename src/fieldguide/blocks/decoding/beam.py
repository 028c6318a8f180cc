"""Beam search: the k most probable beginnings are all continued, and the best of what they end in is kept.

Axes: b batch, k beams, v vocabulary, t places for new tokens.
"""

import math
from typing import NamedTuple

import torch

from fieldguide.blocks.decoding.steps import Steps
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Int, Tensor


class Hypothesis(NamedTuple):
    """A continuation that a beam search found."""

    tokens: Tensor
    """Its new tokens, the one that ends it included."""
    log_probability: float
    """Of all of them together."""
    score: float
    """log_probability / length^penalty."""


class _Beams(NamedTuple):
    """Continuations side by side."""

    tokens: Tensor  # (b, k, t)
    log_probability: Tensor  # (b, k)
    length: Tensor  # (b, k)

    def take(self, which: Int[Tensor, "b j"]) -> "_Beams":
        tokens = self.tokens.take_along_dim(which[:, :, None], 1)
        return _Beams(tokens, self.log_probability.take_along_dim(which, 1), self.length.take_along_dim(which, 1))

    def followed_by(self, token: Tensor | int, log_probability: Tensor, place: int) -> "_Beams":
        tokens = self.tokens.clone()
        tokens[:, :, place] = token
        return _Beams(tokens, log_probability, self.length + 1)

    def score(self, penalty: float) -> Tensor:
        return self.log_probability / self.length.double() ** penalty

    def best(self, count: int, penalty: float, *others: "_Beams") -> "_Beams":
        """The ``count`` with the highest scores, of these and others."""
        everyone = _Beams(*(torch.cat(parts, 1) for parts in zip(self, *others, strict=True)))
        return everyone.take(everyone.score(penalty).topk(min(count, everyone.length.shape[1])).indices)


def search(
    steps: Steps, max_new_tokens: int, *, width: int, best: int, length_penalty: float, eos: int | None
) -> list[list[Hypothesis]]:
    """For each row at most ``best`` hypotheses, best first (Sutskever et al. 2014, §3.2; penalty: Wu et al. 2016, §7).

    Ends as soon as no beam can still reach the worst of them. Against Wu et al.: length^α, not ((5 + length) / 6)^α.
    """
    if min(width, best) < 1 or max_new_tokens < 1:
        raise FieldguideError(
            f"beams: width={width}, best={best} and max_new_tokens={max_new_tokens} must all be at least 1"
        )
    fed, rows = steps.prompt, torch.arange(len(steps.prompt), device=steps.prompt.device)[:, None]
    zeros = torch.zeros_like(rows)
    live = _Beams(zeros[:, :, None].expand(-1, -1, max_new_tokens), zeros.double(), zeros)
    ended = live.take(zeros[:, :0])
    for place in range(max_new_tokens):
        total = live.log_probability[:, :, None] + steps(fed).double().log_softmax(-1).unflatten(0, live.length.shape)
        _, beams, vocabulary = total.shape
        choices = vocabulary
        if eos is not None:
            _require_token(eos, vocabulary)
            now = live.followed_by(eos, total[:, :, eos], place)
            ended = ended.best(best, length_penalty, now)
            total[:, :, eos] = -math.inf
            choices -= 1
        values, flat = total.flatten(1).topk(min(width, beams * choices))
        parents = flat // vocabulary
        live = live.take(parents).followed_by(flat % vocabulary, values, place)
        if _settled(live, ended, best, length_penalty, max_new_tokens):
            break
        steps.select((rows * beams + parents).flatten())
        fed = live.tokens[:, :, place].flatten()[:, None]
    ended = ended.best(best, length_penalty, live)
    return [
        [Hypothesis(tokens[:length], value, score) for tokens, value, length, score in zip(*row, strict=True)]
        for row in zip(
            ended.tokens,
            ended.log_probability.tolist(),
            ended.length.tolist(),
            ended.score(length_penalty).tolist(),
            strict=True,
        )
    ]


def _settled(live: _Beams, ended: _Beams, best: int, penalty: float, longest: int) -> bool:
    """Whether no beam, at its most favourable length, can still come among the best of any row."""
    if ended.length.shape[1] < best:
        return False
    lengths = live.length.clamp_min(longest) if penalty > 0 else live.length
    hope = live._replace(length=lengths).score(penalty)
    return bool((hope.amax(1) <= ended.score(penalty).amin(1)).all())


def _require_token(eos: int, vocabulary: int) -> None:
    if not 0 <= eos < vocabulary:
        raise FieldguideError(f"beams: eos={eos} is outside the vocabulary of {vocabulary} tokens")
