"""The two kinds of network that generate text, and what each is asked for while it does.

b batch · n tokens · m memory tokens · v vocabulary.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from fieldguide.blocks.cache import Cache, StaticCache
from fieldguide.blocks.decoding.beam import Hypothesis, search
from fieldguide.blocks.decoding.choice import Choice, Greedy, sampling
from fieldguide.blocks.decoding.prepared import prepared
from fieldguide.blocks.decoding.replay import Replayed
from fieldguide.blocks.decoding.steps import Answer, Continuation, Steps, predicting, require_ends, stream
from fieldguide.blocks.decoding.weights import Packed, Weight
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Bool, Float, Int, Tensor

GREEDY = Greedy()
LONG = 32  # new tokens from which it pays to prepare a network first


Network = TypeVar("Network", bound="_Generates")


class _Generates(nn.Module):
    """What both kinds can do; they differ in how a prompt becomes the first step."""

    config: Any

    @abstractmethod
    def begin(self, prompt: Tensor, keep: Tensor | None, cache: Cache | None, max_new_tokens: int) -> Steps:
        """The prompt, checked, and a cache with room for all that follows."""

    def _ready(self: Network, cache: Cache | None, max_new_tokens: int, weights: type[Weight] | None) -> Network:
        """This network, or where that pays a prepared copy; a cache that is given knows the layers of this one."""
        if weights is None or (weights is Packed and (cache is not None or max_new_tokens < LONG)):
            return self
        if cache is not None:
            raise FieldguideError(
                f"a cache serves the layers of one network; for {weights.__name__} weights and a cache of yours, "
                f"generate from the network that prepared(model, {weights.__name__}) gives"
            )
        return prepared(self, weights)

    def generate(
        self,
        prompt: Int[Tensor, "b n"],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        eos: int | None = None,
        stop: Sequence[Sequence[int]] = (),
        keep: Bool[Tensor, "b kept"] | None = None,
        cache: Cache | None = None,
        generator: torch.Generator | None = None,
        weights: type[Weight] | None = Packed,
    ) -> Int[Tensor, "b new"]:
        """The new tokens; greedy unless there is a ``temperature``.

        A row ends with the token ``eos`` or with any of the ``stop`` sequences, and then repeats its last token until
        all have ended. ``keep`` marks the real tokens of prompts that are padded on the left (:func:`left_padded`);
        ``generator`` makes it repeatable. Longer texts come from a copy of the network whose ``weights`` are read
        faster (:func:`prepared`); it takes memory for a second set of them, and None does without.

        Raises :class:`FieldguideError` for an empty prompt, one that leaves no room for ``max_new_tokens``, and numbers
        out of range.
        """
        choice = sampling(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            generator=generator,
        )
        new = self.stream(
            prompt,
            max_new_tokens=max_new_tokens,
            choice=choice,
            eos=eos,
            stop=stop,
            keep=keep,
            cache=cache,
            weights=weights,
        )
        return torch.cat([prompt[:, :0], *(tokens[:, None] for tokens in new)], 1)

    def stream(
        self,
        prompt: Int[Tensor, "b n"],
        *,
        max_new_tokens: int,
        choice: Choice = GREEDY,
        eos: int | None = None,
        stop: Sequence[Sequence[int]] = (),
        keep: Bool[Tensor, "b kept"] | None = None,
        cache: Cache | None = None,
        weights: type[Weight] | None = Packed,
    ) -> Iterator[Int[Tensor, "b"]]:
        """The new tokens as they come, one a row and step, by any ``choice``; the rest as in :meth:`generate`."""
        ends = [*([[eos]] if eos is not None else []), *stop]
        require_ends(ends)
        steps = self._ready(cache, max_new_tokens, weights).begin(prompt, keep, cache, max_new_tokens)
        if cache is None and max_new_tokens >= LONG and Replayed.suits(steps):
            steps = Replayed(steps, steps.prompt.shape[1] + max_new_tokens - 1)
        return stream(steps, max_new_tokens, choice, ends)

    def beams(
        self,
        prompt: Int[Tensor, "b n"],
        *,
        max_new_tokens: int,
        width: int = 4,
        best: int = 1,
        length_penalty: float = 1.0,
        eos: int | None = None,
        keep: Bool[Tensor, "b kept"] | None = None,
        cache: Cache | None = None,
        weights: type[Weight] | None = Packed,
    ) -> list[list[Hypothesis]]:
        """For each row the ``best`` continuations that a beam search of some ``width`` finds, best first.

        They are compared by log-probability / length^``length_penalty``: 0 favours short ones, 1 takes the mean.
        """
        steps = self._ready(cache, max_new_tokens, weights).begin(prompt, keep, cache, max_new_tokens)
        return search(steps, max_new_tokens, width=width, best=best, length_penalty=length_penalty, eos=eos)

    def _require_room(self, length: int, max_new_tokens: int) -> None:
        """The last new token is not read again, so it needs no place."""
        max_len = getattr(self.config, "max_len", None)
        if max_new_tokens < 0:
            raise FieldguideError(f"max_new_tokens={max_new_tokens} must be at least 0")
        if max_len is not None and length + max_new_tokens - 1 > max_len:
            left = max_len - length + 1
            shorter = f"keep the last {max(1, max_len + 1 - max_new_tokens)} tokens of the prompt"
            advice = f"ask for at most {left}" if left > 0 else shorter
            raise FieldguideError(
                f"{type(self).__name__} reads at most max_len={max_len} tokens; a prompt of {length} leaves no room "
                f"for max_new_tokens={max_new_tokens}; {advice}"
            )


class LanguageModel(_Generates):
    """A network that continues a text; see the package for what it must define."""

    @abstractmethod
    def hidden(
        self, tokens: Int[Tensor, "b n"], keep: Bool[Tensor, "b total"] | None = None, cache: Cache | None = None
    ) -> Tensor:
        """What is known after each token, (b, n, d)."""

    @abstractmethod
    def logits(self, hidden: Float[Tensor, "*n d"]) -> Tensor:
        """Of the token that follows, (*n, v)."""

    def forward(
        self, tokens: Int[Tensor, "b n"], keep: Bool[Tensor, "b total"] | None = None, cache: Cache | None = None
    ) -> Float[Tensor, "b n v"]:
        return self.logits(self.hidden(tokens, keep, cache))

    def next_logits(
        self, tokens: Int[Tensor, "b n"], keep: Bool[Tensor, "b total"] | None, cache: Cache
    ) -> Float[Tensor, "b v"]:
        """Of what follows the last token, without the cost of those of the others."""
        return self.logits(self.hidden(tokens, keep, cache)[:, -1])

    def begin(self, prompt: Tensor, keep: Tensor | None, cache: Cache | None, max_new_tokens: int) -> Steps:
        length = _require_prompt(prompt, keep)
        if keep is not None and not keep[:, -1].all():
            raise FieldguideError("the prompts are padded on the right; pad on the left, as left_padded does")
        self._require_room(length, max_new_tokens)
        return Continuation(self, self.next_logits, prompt, keep, cache or StaticCache(length + max_new_tokens))


class TextToText(_Generates):
    """A network that answers one text with another; see the package for what it must define."""

    @abstractmethod
    def encode(self, source: Int[Tensor, "b m"], source_keep: Bool[Tensor, "b m"] | None = None) -> Tensor: ...

    @abstractmethod
    def decode(
        self,
        target: Int[Tensor, "b n"],
        memory: Float[Tensor, "b m d"],
        *,
        source_keep: Bool[Tensor, "b m"] | None = None,
        target_keep: Bool[Tensor, "b total"] | None = None,
        cache: Cache | None = None,
    ) -> Tensor: ...

    def begin(self, prompt: Tensor, keep: Tensor | None, cache: Cache | None, max_new_tokens: int) -> Steps:
        _require_prompt(prompt, keep)
        self._require_room(1, max_new_tokens)
        with predicting(self):
            memory = self.encode(prompt, keep)
        first = prompt.new_full((len(prompt), 1), self.config.start)
        return Answer(self, self.decode, memory, keep, first, cache or StaticCache(1 + max_new_tokens))


def left_padded(prompts: Sequence[Sequence[int]], *, pad: int = 0) -> tuple[Int[Tensor, "b n"], Bool[Tensor, "b n"]]:
    """Prompts of unequal length as ``(tokens, keep)``, the shorter ones filled with ``pad`` on the left."""
    longest = max(map(len, prompts), default=0)
    rows = [[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    keep = [[i >= longest - len(prompt) for i in range(longest)] for prompt in prompts]
    return torch.tensor(rows, dtype=torch.long), torch.tensor(keep, dtype=torch.bool)


def _require_prompt(prompt: Tensor, keep: Tensor | None) -> int:
    """Its length."""
    if prompt.numel() == 0:
        raise FieldguideError(
            f"the prompt is empty, {tuple(prompt.shape)}; begin with at least one token, such as the one for a new text"
        )
    if keep is not None and keep.shape != prompt.shape:
        raise FieldguideError(f"keep is {tuple(keep.shape)} and the prompt {tuple(prompt.shape)}; they must be alike")
    if keep is not None and not (real := keep.any(1)).all():
        raise FieldguideError(f"prompt {int(real.int().argmin())} has no real token; leave empty prompts out")
    return prompt.shape[1]
