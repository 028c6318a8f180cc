"""Text from a trained run: prompts become tokens, tokens become text again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fieldguide.blocks.decoding import Half, Int8, LanguageModel, Packed, TextToText, Weight, left_padded
from fieldguide.blocks.decoding.choice import Choice, sampling
from fieldguide.cli.tasks import trained
from fieldguide.cli.tasks.text import TrainedText
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Tensor
from fieldguide.train.run import RunFolder

WEIGHTS = {"fp32": Packed, "fp16": Half, "int8": Int8}
MOST = 200
"""New tokens, unless more or fewer are asked for."""
UNFINISHED = "\ufffd"
"""What stands for bytes that are no whole character yet."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen; see ``fieldguide generate --help``."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int = 0

    def choice(self, device: torch.device) -> Choice:
        return sampling(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            generator=torch.Generator(device).manual_seed(self.seed),
        )


@dataclass(frozen=True)
class Generation:
    """A network that writes, with its tokenizer."""

    text: TrainedText
    model: LanguageModel | TextToText
    weights: type[Weight] = Packed

    @classmethod
    def of(cls, run: RunFolder, device: str = "cpu", precision: str = "fp32") -> "Generation":
        """Raises FieldguideError for a run whose network does not write."""
        network = trained(run, device)
        if not isinstance(network, TrainedText) or not isinstance(network.model, LanguageModel | TextToText):
            raise FieldguideError(
                f"{run.path} holds no network that writes text; ask it with: fieldguide predict {run.path} INPUT"
            )
        return cls(network, network.model, WEIGHTS[precision])

    def write(self, prompts: Sequence[str], most: int | None, how: Sampling, stop: Sequence[str] = ()) -> list[str]:
        """The new text for each prompt, without the stop text that ended it."""
        texts, rows = [], []
        for rows in self._growing(prompts, most, how):
            texts = [self.text.decoded(row) for row in rows] if stop else []
            if texts and all(any(word in text for word in stop) for text in texts):
                break
        return [_cut(text, stop) for text in texts or (self.text.decoded(row) for row in rows)]

    def stream(self, prompt: str, most: int | None, how: Sampling, stop: Sequence[str] = ()) -> Iterator[str]:
        """The new text in pieces, as soon as each is sure."""
        held = max((len(word) - 1 for word in stop), default=0)  # the beginning of a stop text must not be shown
        shown, whole = 0, ""
        for rows in self._growing([prompt], most, how):
            decoded = self.text.decoded(rows[0])
            whole = _cut(decoded, stop)
            if len(whole) < len(decoded):
                break
            sure = len(whole.rstrip(UNFINISHED)) - held
            if sure > shown:
                yield whole[shown:sure]
                shown = sure
        yield whole[shown:]

    def _growing(self, prompts: Sequence[str], most: int | None, how: Sampling) -> Iterator[list[list[int]]]:
        """The new tokens of every prompt so far, after each step."""
        tokens, keep = self._prompts(prompts)
        new = self.model.stream(
            tokens,
            max_new_tokens=self._room(tokens, most),
            choice=how.choice(self.text.device),
            eos=self.text.end,
            keep=None if keep.all() else keep,
            weights=self.weights,
        )
        rows: list[list[int]] = [[] for _ in prompts]
        for chosen in new:
            for row, token in zip(rows, chosen.tolist(), strict=True):
                row.append(token)
            yield rows

    def search(
        self, prompts: Sequence[str], most: int | None, *, width: int, best: int, length_penalty: float
    ) -> list[list[dict[str, Any]]]:
        """The best texts of a beam search for each prompt, with their scores."""
        tokens, keep = self._prompts(prompts)
        found = self.model.beams(
            tokens,
            max_new_tokens=self._room(tokens, most),
            width=width,
            best=best,
            length_penalty=length_penalty,
            eos=self.text.end,
            keep=None if keep.all() else keep,
            weights=self.weights,
        )
        return [[{"text": self.text.decoded(h.tokens.tolist()), "score": float(h.score)} for h in row] for row in found]

    def _prompts(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        rows = [self.text.prompt(prompt) for prompt in prompts]
        if not all(prompts):
            raise FieldguideError("a prompt is empty; give it at least one character")
        tokens, keep = left_padded(rows, pad=self.text.tokenizer.specials.get("pad", 0))
        return tokens.to(self.text.device), keep.to(self.text.device)

    def _room(self, tokens: Tensor, most: int | None) -> int:
        """As many new tokens as asked for, else as fit."""
        longest = getattr(self.model.config, "max_len", None)
        if most is not None or longest is None:
            return most or MOST
        read = tokens.shape[1] if isinstance(self.model, LanguageModel) else 1
        return max(1, min(MOST, longest + 1 - read))


def _cut(text: str, stop: Sequence[str]) -> str:
    return text[: min((at for at in (text.find(word) for word in stop) if at >= 0), default=len(text))]
