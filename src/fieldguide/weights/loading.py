"""From a checkpoint of any known layout into a model: every tensor is accounted for, or nothing changes."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fieldguide.errors import DamagedFile, FieldguideError
from fieldguide.weights.family import family_of
from fieldguide.weights.grids import grid_beside, grid_of
from fieldguide.weights.layouts import Fit, best_fit
from fieldguide.weights.misfit import misfit_error, misfits
from fieldguide.weights.preprocessing import preprocessing_of
from fieldguide.weights.report import Report, few
from fieldguide.weights.source import Source, describe, place_of, read_source


def load_weights(
    model: nn.Module, source: Source, *, layout: str | None = None, strict: bool = True, family: str | None = None
) -> Report:
    """Fill a model with a checkpoint: a state dict, a file, a folder, or ``"hub:org/name"``.

    The layout (torchvision, timm, transformers, …) is the one whose names fit, or ``layout``. Values take the model's
    dtype and device. ``strict=False`` allows what fine-tuning needs and nothing else: a head of another size, broken or
    absent, stays as the model has it, and what the family knows how to adapt (a first convolution to other input
    channels, positions to another length or image, a vocabulary) is adapted; the report names each. ``family`` is for
    models that are not of the catalog. A head that is nothing but NaN is passed over with a warning.
    ``model.preprocessing`` then says how images must be prepared.

    Raises :class:`FieldguideError` that lists missing, surplus and misshapen tensors and says what the checkpoint looks
    like, :class:`DamagedFile` for a file that cannot be believed or holds NaN; the model is then as it was.
    """
    where, place = describe(source), place_of(source)
    theirs, ours = read_source(source if place is None else place), distinct_tensors(model)
    fit = best_fit(theirs, ours, family_of(model, family), layout)
    if (grid := grid_of(model)) and not strict:
        fit = fit.laid_out(grid, grid_beside(place))
    problems = misfits(fit)
    allowed = {} if strict else problems
    adapted = {name: problem for name, problem in allowed.items() if fit.can_adapt(name)}
    kept = {name: problem for name, problem in allowed.items() if fit.family.is_head(name) and name not in adapted}
    if problems.keys() - kept.keys() - adapted.keys():
        raise misfit_error(where, getattr(model, "name", type(model).__name__), fit, strict=strict)

    values = fit.values(kept)
    values |= {name: fitted for name in adapted if (fitted := fit.adapt(name, values[name])) is not None}
    kept |= _broken(values, fit, where, strict=strict)
    values = {name: tensor for name, tensor in values.items() if name not in kept}
    size = getattr(model, "name", "")
    preprocessing = preprocessing_of(place, size, fit.layout)
    _fill(model, ours, values)
    if preprocessing is not None:
        model.preprocessing = preprocessing  # pyright: ignore[reportArgumentType]
    conventions = _follow(model, fit.family.conventions_of(fit.layout, size))
    absent = {name: fit.table.why_missing(name) or "" for name in ours if name not in fit.arriving}
    repeats = {name: f"the same tensor as {first}" for name, first in fit.plan.repeats.items()}
    repeats |= {move.targets[0]: f"it follows from {move.sources[0]}" for move in fit.plan.derived}
    unused = {fit.origins[name]: reason for name, reason in kept.items() if name in fit.surplus}
    return Report(
        source=where,
        layout=fit.layout,
        loaded=tuple(values),
        adapted=adapted,
        kept={name: reason for name, reason in (absent | kept).items() if name in ours},
        ignored=fit.plan.ignored | repeats | unused,
        conventions=conventions,
        preprocessing=preprocessing,
    )


def _broken(values: Mapping[str, Tensor], fit: Fit, where: str, *, strict: bool) -> dict[str, str]:
    """Tensors with NaN or infinity that the model can do without, and why; DamagedFile for all others.

    A head of nothing but NaN is no damage: files of features only are published like that.
    """
    broken = [name for name, tensor in values.items() if not _is_finite(tensor)]
    in_head = [name for name in broken if fit.family.is_head(name)]
    absent = [name for name in in_head if values[name].isnan().all()]
    tolerable = absent if strict else in_head
    if len(broken) > len(tolerable):
        advice = "; pass strict=False to keep the model's own head" if broken == in_head else ""
        raise DamagedFile(
            f"{where} has NaN or infinite values in {few([fit.origins[name] for name in broken])}{advice}"
        )
    if absent:
        warnings.warn(
            f"{where} holds features only: {few([fit.origins[name] for name in absent])} are nothing but NaN, so the "
            "model keeps its own random values there; train it before use",
            stacklevel=3,
        )
    return dict.fromkeys(broken, "NaN or infinite in the checkpoint")


def distinct_tensors(model: nn.Module) -> dict[str, Tensor]:
    """A model's parameters and persistent buffers, each under the first of its names."""
    names: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        names.setdefault(id(tensor), name)
    return {name: state[name].detach() for name in names.values()}


def _follow(model: Any, conventions: Mapping[str, Any]) -> dict[str, str]:
    """Give a model of the catalog the constants of the checkpoint's library; what changed, and how."""
    config = getattr(model, "config", None)
    changed = {name: value for name, value in conventions.items() if getattr(config, name, value) != value}
    if not changed:
        return {}
    model.follow(replace(config, **changed))  # pyright: ignore[reportCallIssue,reportArgumentType]
    return {name: f"{getattr(config, name)} → {value}" for name, value in changed.items()}


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    wide = tensor.float() if tensor.itemsize == 1 else tensor
    return bool(wide.sum().isfinite()) or bool(wide.isfinite().all())  # the sum is cheap, but may overflow


def _fill(model: nn.Module, ours: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copy values into a model; one on the meta device gets its memory here."""
    everything = [*model.named_parameters(), *model.named_buffers()]
    if not any(tensor.is_meta for _, tensor in everything):
        with torch.no_grad():
            for name, tensor in values.items():
                ours[name].copy_(tensor)
        return
    left = [name for name, tensor in everything if tensor.is_meta and name not in values]
    if left:
        raise FieldguideError(
            f"the model is on the meta device and gets no values for {few(left)}; create it on the CPU"
        )
    fresh = {name: tensor.to(ours[name].dtype, copy=True) for name, tensor in values.items()}
    model.load_state_dict(fresh, strict=False, assign=True)
