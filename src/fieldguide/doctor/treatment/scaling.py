"""Inputs and targets brought to a mean of 0 and a deviation of 1, by the samples that a course learns from."""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fieldguide.doctor.observe.replay import Kept, tensors
from fieldguide.doctor.treatment.course import Course
from fieldguide.doctor.treatment.samples import mapped

SMALLEST = 1e-12  # deviation


def standardise_inputs(course: Course) -> None:
    """Every floating-point input, feature by feature: the axis after the samples, the last one of sequences."""
    given = [[t for t in tensors((batch.args, batch.kwargs)) if _has_features(t)] for batch in course.batches]
    if not given[0]:
        raise LookupError("the network has no floating-point input")
    scales = [_scale([own[place] for own in given]) for place in range(len(given[0]))]

    def scaled(batch: Kept) -> Kept:
        left = iter(scales)
        change: Callable[[Tensor], Tensor] = lambda t: _standard(t, *next(left)) if _has_features(t) else t  # noqa: E731
        return dataclasses.replace(batch, args=mapped(batch.args, change), kwargs=mapped(batch.kwargs, change))

    course.inputs = scaled


def standardise_targets(course: Course) -> None:
    """The network answers in standard units; its answers are turned back, and the loss counts in those units."""
    targets = [batch.target for batch in course.batches if batch.target is not None]
    if not targets or not targets[0].is_floating_point():
        raise LookupError("the targets are no measurements")
    mean, std = _scale([target if target.ndim > 1 else target[:, None] for target in targets])
    mean, std = (mean, std) if targets[0].ndim > 1 else (mean[0], std[0])
    call, target = course.batches[0].call, targets[0]
    if call is None:
        raise LookupError("the network makes its loss itself")
    raw = call(mean.expand_as(target), target)
    standard = call(torch.zeros_like(target), (target - mean) / std)
    course.outputs = lambda output: output * std + mean
    course.factor *= float(standard / raw)


def _has_features(value: Tensor) -> bool:
    return value.is_floating_point() and value.ndim > 1


def _axes(value: Tensor) -> list[int]:
    """All but the one that numbers the features."""
    return [0, *range(2, value.ndim)] if value.ndim == 4 else [*range(value.ndim - 1)]


def _scale(values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    whole = torch.cat(list(values)).double()
    axes = _axes(whole)
    mean = whole.mean(axes, keepdim=True)
    std = (whole - mean).square().mean(axes, keepdim=True).sqrt()
    std = torch.where(std > SMALLEST, std, torch.ones_like(std))
    return mean[0].to(values[0].dtype), std[0].to(values[0].dtype)


def _standard(value: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (value - mean) / std
