"""Why a checkpoint and a model do not go together, and what would help."""

from torch import Tensor

from fieldguide.errors import FieldguideError
from fieldguide.weights.layouts import Fit, looks_like
from fieldguide.weights.report import few


def misfits(fit: Fit) -> dict[str, str]:
    """What is wrong with each tensor, under our name, or theirs where there is none of ours."""
    return {
        **dict.fromkeys(fit.missing, "not in the checkpoint"),
        **dict.fromkeys(fit.surplus, "not in the model"),
        **dict.fromkeys(fit.plan.surplus, "not a name of this layout"),
        **{
            name: f"{_text(fit.arriving[name])} in the checkpoint, {_text(fit.ours[name])} here"
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
    advice = (_relaxed(fit, problems) if strict else None) or _likeness(fit)
    return FieldguideError(f"{where} does not fit {model}: {'; '.join([*lists, *misshapen[:2], *more, advice])}")


def _relaxed(fit: Fit, problems: dict[str, str]) -> str | None:
    """How ``strict=False`` would help, when it would."""
    head = [name for name in problems if fit.family.is_head(name)]
    adaptable = [name for name in problems if name not in head and fit.can_adapt(name)]
    if len(problems) > len(head) + len(adaptable):
        return None
    classes = {fit.arriving[name].shape[0] for name in head if name in fit.misshapen}
    create = f"create the model with num_classes={classes.pop()} or " if classes and not adaptable else ""
    wishes = ["keep the model's own head"] * bool(head) + [f"adapt {few(adaptable)}"] * bool(adaptable)
    return f"{create}pass strict=False to {' and '.join(wishes)}"


def _likeness(fit: Fit) -> str:
    looks = looks_like(fit.theirs, fit.family.name)
    return f"it looks like {looks}" if looks else "its names are of no known layout"


def _text(tensor: Tensor) -> str:
    return (
        f"{tuple(tensor.shape)}" if tensor.is_floating_point() else f"{tuple(tensor.shape)} of {str(tensor.dtype)[6:]}"
    )
