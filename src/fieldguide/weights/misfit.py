"""Why a checkpoint and a model do not go together, and what would help."""

from torch import Tensor

from fieldguide.catalog import find
from fieldguide.errors import FieldguideError
from fieldguide.weights.adapt import class_token_and_grid, vocabulary
from fieldguide.weights.layouts import Fit, looks_like
from fieldguide.weights.report import few


def misfits(fit: Fit) -> dict[str, str]:
    """What is wrong with each tensor, under our name, or theirs where there is none of ours."""
    return {
        **dict.fromkeys(fit.missing, "not in the checkpoint"),
        **dict.fromkeys(fit.surplus, "not in the model"),
        **dict.fromkeys(fit.plan.surplus, "not a name of this layout"),
        **{
            name: f"{_text(fit.arriving[name])} in the checkpoint, {_text(fit.ours[name])} here{_patches(fit, name)}"
            for name in fit.misshapen
        },
    }


def misfit_error(where: str, model: str, fit: Fit, *, strict: bool) -> FieldguideError:
    """The error for a checkpoint that does not fit: what differs, in the checkpoint's own words, then advice."""
    problems = misfits(fit)
    surplus = [*(fit.origins[name] for name in fit.surplus), *fit.plan.surplus]
    lists = [
        f"{len(names)} {label} ({few(names)})"
        for label, names in (("missing", fit.table.theirs(fit.missing)), ("surplus", surplus))
        if names
    ]
    misshapen = [f"{fit.origins[name]} is {problems[name]}" for name in fit.misshapen]
    more = [f"{len(misshapen) - 2} more of another shape"] if len(misshapen) > 2 else []
    advice = (_relaxed(fit, problems) if strict else None) or _likeness(fit, model)
    return FieldguideError(f"{where} does not fit {model}: {'; '.join([*lists, *misshapen[:2], *more, advice])}")


def _relaxed(fit: Fit, problems: dict[str, str]) -> str | None:
    """How ``strict=False`` would help, when it would."""
    adaptable = [name for name in problems if fit.can_adapt(name)]
    head = [name for name in problems if fit.family.is_head(name) and name not in adaptable]
    if len(problems) > len(head) + len(adaptable):
        return None
    words = {fit.arriving[name].shape[0] for name in adaptable if fit.family.adaptation(name) is vocabulary}
    classes = {fit.arriving[name].shape[0] for name in head if name in fit.misshapen}
    create = f"create the model with num_classes={classes.pop()} or " if classes and not adaptable else ""
    create = f"create the model with vocab_size={words.pop()} or " if words else create
    wishes = ["keep the model's own head"] * bool(head) + [f"adapt {few(adaptable)}"] * bool(adaptable)
    return f"{create}pass strict=False to {' and '.join(wishes)}"


def _likeness(fit: Fit, model: str) -> str:
    looks = looks_like(fit.theirs, fit.family.name)
    if not looks:
        return "its names are of no known layout"
    size, _, rest = looks.partition(" ")
    known = find(size) is not None and "parameters" not in rest and size != model
    return f"it looks like {looks}{f'; create {size} for it' * known}"


def _patches(fit: Fit, name: str) -> str:
    is_table = fit.grid is not None and fit.family.adaptation(name) is class_token_and_grid
    return " for {}×{} patches".format(*fit.grid) if is_table and fit.grid else ""


def _text(tensor: Tensor) -> str:
    return (
        f"{tuple(tensor.shape)}" if tensor.is_floating_point() else f"{tuple(tensor.shape)} of {str(tensor.dtype)[6:]}"
    )
