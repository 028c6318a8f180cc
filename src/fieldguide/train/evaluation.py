"""Metrics of a model over a data set."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from fieldguide.objectives.phase import Metrics, Objective
from fieldguide.train.feeds import Feed, readable
from fieldguide.train.pieces import Pieces
from fieldguide.train.precision import Precision
from fieldguide.train.randomness import untouched
from fieldguide.train.signals import Stop


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts the model in eval mode and afterwards every module back in its own: a frozen norm stays frozen."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@torch.no_grad()
def evaluate(
    model: nn.Module,
    feed: Feed,
    metrics: Metrics,
    precision: Precision | None = None,
    stop: Stop | None = None,
    pieces: Pieces | None = None,
) -> dict[str, float]:
    """Adds every batch of the feed, perhaps in ``pieces``, to ``metrics`` in eval mode; returns what they compute.

    The random generators stand where they stood, so training goes on as if there had been no evaluation.

    Raises:
        Stopped: ``stop`` was requested between two batches.
        BadData: a batch cannot be read.
    """
    with untouched(), evaluating(model), precision.autocast() if precision else nullcontext():
        for batch in readable(feed.batches(0), "the evaluation"):
            for piece in pieces.cut(batch) if pieces else [batch]:
                metrics.update(model, piece)
            if stop:
                stop.heed()
    return metrics.compute()


@torch.no_grad()
def pass_over(model: nn.Module, feed: Feed, objective: Objective, precision: Precision, stop: Stop) -> None:
    """Shows the model every batch once without learning, in its present mode: for new statistics of batch norms.

    The random generators stand where they stood. Raises ``Stopped`` as ``evaluate``.
    """
    with untouched(), precision.autocast():
        for batch in readable(feed.batches(0), "the training part"):
            next(objective.step(model, batch))
            stop.heed()
