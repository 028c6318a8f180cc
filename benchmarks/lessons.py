"""A short training for each family: its mini, its own recipe, and a few samples that need neither file nor network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fieldguide import catalog
from fieldguide.catalog import Architecture
from fieldguide.data import bytes_for, normalize, open_images, resize
from fieldguide.data.dates import dates
from fieldguide.models import create_model
from fieldguide.objectives import Classification, MaskedToken, NextToken, Objective, Regression, SequenceToSequence
from fieldguide.train import Recipe
from fieldguide.train.recipe import load_recipe

FAMILIES = {row.family: row for row in catalog.ARCHITECTURES}
TRAIN, VAL = 40, 16
"""Samples."""


@dataclass(frozen=True)
class Lesson:
    """What ``fit`` needs; the network has the weights of seed 5."""

    model: nn.Module
    data: tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
    objective: Objective
    recipe: Recipe


def lesson(family: str) -> Lesson:
    """Two epochs of five steps, on one thread and with algorithms that repeat."""
    row = FAMILIES[family]
    torch.manual_seed(5)
    model = create_model(f"{family}_mini", **({"head": "masked_lm"} if row.task == "encode" else {}))
    inputs, objective = TASKS[row.task](row, model.config)
    steady = {"epochs": 2, "batch_size": 8, "threads": 1, "deterministic": True, "checkpoint_every": 2}
    recipe = load_recipe(family, overrides={**steady, "accumulation": 1, "stopping.patience": 0})
    data = tuple(part[:TRAIN] for part in inputs), tuple(part[TRAIN : TRAIN + VAL] for part in inputs)
    return Lesson(model, data, objective, recipe)


def classes(row: Architecture, config: Any) -> tuple[Sequence[Tensor], Objective]:
    """Scans of digits at the largest side that the mini is made for."""
    assert row.mini_image
    scans = open_images("digits")
    images, labels = scans.train.batch(torch.arange(TRAIN + VAL))
    side = row.mini_image[1]
    images = normalize(resize(images, (side, side)), torch.tensor(scans.mean), torch.tensor(scans.std))
    return (images.repeat(1, config.in_channels, 1, 1), labels), Classification()


def values(row: Architecture, config: Any) -> tuple[Sequence[Tensor], Objective]:
    """How bright a scan is, from its first pixels."""
    pixels = open_images("digits").train.batch(torch.arange(TRAIN + VAL))[0].flatten(1).float() / 255
    return (pixels[:, : config.in_features], pixels.mean(1)), Regression()


def written(family: str, width: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Dates as people write them, and in ISO 8601: tokens (n, width) and which of them are real."""
    tokenizer, sides = bytes_for(family), zip(*dates()["train"][: TRAIN + VAL], strict=True)
    return tuple(padded([tokenizer.encode(text) for text in texts], width) for texts in sides)  # pyright: ignore


def padded(rows: Sequence[Sequence[int]], width: int) -> tuple[Tensor, Tensor]:
    tokens = torch.tensor([[*row[:width], *[0] * (width - len(row))] for row in rows])
    return tokens, torch.tensor([[i < len(row) for i in range(width)] for row in rows])


def next_token(row: Architecture, config: Any) -> tuple[Sequence[Tensor], Objective]:
    return written(row.family, 24)[0], NextToken()


def hidden(row: Architecture, config: Any) -> tuple[Sequence[Tensor], Objective]:
    specials, vocab_size = bytes_for(row.family).specials, config.vocab_size
    first = max(specials.values()) + 1
    objective = MaskedToken(specials["mask"], vocab_size, first if first < vocab_size // 2 else 0)
    return written(row.family, 24)[0], objective


def translation(row: Architecture, config: Any) -> tuple[Sequence[Tensor], Objective]:
    (sources, source_keep), (answers, answer_keep) = written(row.family, 16)
    return (sources, answers, source_keep, answer_keep), SequenceToSequence(getattr(config, "start", 0))


TASKS = {
    "classify": classes,
    "encode": hidden,
    "generate": next_token,
    "translate": translation,
    "regress": values,
}
"""By the catalog's task."""
