"""What ``fieldguide look attention`` draws: the attention of a run's network for one image or text."""

import re
from pathlib import Path

import torch
from torch import Tensor

from fieldguide.blocks.attention import Attention
from fieldguide.blocks.capture import capture
from fieldguide.blocks.decoding import LanguageModel, TextToText
from fieldguide.blocks.windows import WindowAttention
from fieldguide.cli.tasks import kind_of, trained_images
from fieldguide.cli.tasks import trained as trained_run
from fieldguide.cli.tasks.images import Images, TrainedImages
from fieldguide.cli.tasks.text import TrainedText
from fieldguide.errors import FieldguideError
from fieldguide.report.attention import Chosen, draw_patch_attention, draw_token_attention, rollout
from fieldguide.train.run import RunFolder

MOST = 256
"""Tokens of a text that a picture shows."""


def show_attention(
    folder: RunFolder, input: str, layer: int | None, head: int | None, cross: bool, out: Path | None
) -> None:
    """Draws and prints where; ``cross`` is what an answer attends to in the text that it answers."""
    images = kind_of(folder) is Images
    part = "".join(f"-{name}{n}" for name, n in (("layer", layer), ("head", head)) if n) + "-cross" * cross
    title = Path(input).stem if images else re.sub(r"\W+", "-", input).strip("-")[:24] or "text"
    file = out or folder.figures / f"attention-{title}{part}.png"
    if images:
        trained, weights, pixels = _patch_maps(folder, Path(input), cross)
        grid: tuple[int, int] = trained.model.patches.grid  # pyright: ignore
        of_class = weights[:, :, 0, 1:].unflatten(-1, grid)
        reached = rollout(list(weights))[0, 1:].unflatten(0, grid)
        print(draw_patch_attention(pixels, of_class, reached, file, _chosen(weights, layer, head)))
    else:
        queries, keys, weights = _token_maps(folder, input, cross)
        reached = None if cross else rollout(list(weights))
        print(draw_token_attention(queries, keys, weights, reached, file, _chosen(weights, layer, head)))


def _patch_maps(folder: RunFolder, image: Path, cross: bool) -> tuple[TrainedImages, Tensor, Tensor]:
    """A network for images, its attention (layers, heads, tokens, tokens), and the image."""
    trained = trained_images(folder)
    name, modules = trained.model.name, list(trained.model.modules())
    if cross:
        raise FieldguideError(f"{name} answers no text, so it has no attention from an answer; leave --cross out")
    if any(isinstance(module, WindowAttention) for module in modules):
        raise FieldguideError(
            f"{name} attends within windows of the image and never across all of it, so there is no map of the whole; "
            "fieldguide look maps shows its stages, fieldguide.capture the windows"
        )
    if not any(isinstance(module, Attention) for module in modules):
        raise FieldguideError(f"{name} has no attention; fieldguide look cam and look maps show what it sees")
    pixels = trained.read(image)
    with torch.no_grad(), capture(trained.model) as maps:
        trained.model(trained.prepare(pixels[None]))
    return trained, torch.cat(list(maps.values())), pixels


def _token_maps(folder: RunFolder, text: str, cross: bool) -> tuple[list[str], list[str], Tensor]:
    """The tokens that attend and those attended to, and a text network's attention (layers, heads, queries, keys)."""
    trained = trained_run(folder)
    if not isinstance(trained, TrainedText):
        raise FieldguideError(f"{folder.path} holds a network without attention; this draws that of Transformers")
    model, tokenizer = trained.model, trained.tokenizer
    if cross and not isinstance(model, TextToText):
        raise FieldguideError(f"{model.name} answers no text, so it has no attention from an answer; leave --cross out")
    encoder = not isinstance(model, LanguageModel | TextToText)
    tokens = tokenizer.frame(tokenizer.encode(text)) if encoder else trained.prompt(text)
    most = min(MOST, trained.length or MOST)
    if not text or len(tokens) > most:
        raise FieldguideError(f"the text has {len(tokens)} tokens; give 1 to {most}")
    source = torch.tensor([tokens])
    inputs, where = [source], "encoder" if hasattr(model, "encoder") else "decoder"
    queries = keys = _labels(trained, tokens)
    if isinstance(model, TextToText):
        answer = model.generate(source, max_new_tokens=most, eos=trained.end)[0].tolist()
        answer = [model.config.start, *answer[:-1]]  # pyright: ignore[reportAttributeAccessIssue]
        inputs.append(torch.tensor([answer]))
    if cross:
        queries, where = _labels(trained, answer), "*.cross_attention"
    with torch.no_grad(), capture(model, where=where) as maps:
        model(*inputs)
    return queries, keys, torch.cat(list(maps.values()))


def _labels(trained: TrainedText, tokens: list[int]) -> list[str]:
    """Each token as it can be seen: special ones by what they are for, spaces and ends of lines by their signs."""
    roles = {token: f"[{role}]" for role, token in trained.tokenizer.specials.items()}
    pieces = [roles.get(token) or trained.tokenizer.decode([token]) for token in tokens]
    return [piece.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥") for piece in pieces]


def _chosen(weights: Tensor, layer: int | None, head: int | None) -> Chosen:
    for name, number, count in (("layer", layer, weights.shape[0]), ("head", head, weights.shape[1])):
        if number is not None and number > count:
            raise FieldguideError(f"there is no {name} {number}; this network has {count}, numbered from 1")
    layers, heads = (
        [number] if number else list(range(1, count + 1))
        for number, count in zip((layer, head), weights.shape[:2], strict=True)
    )
    return Chosen(layers=layers, heads=heads)
