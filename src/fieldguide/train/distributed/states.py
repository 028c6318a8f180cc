"""The tensors of a training's state that belong to parameters, wherever in its tree they stand."""

from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor

from fieldguide.train.checkpoint import Stored

Change = Callable[[str, Any], Any]
"""From a parameter's name and a tensor that is kept for it (the parameter, a moment, an average), here or in a
checkpoint, to what is to stand in its place."""


def changed(state: Any, names: Collection[str], change: Change, name: str = "") -> Any:
    """The same tree with every tensor that belongs to one of the named parameters changed, in one fixed order.

    A tensor belongs to the parameter under whose name it, or the dict around it, stands; an optimizer's state has
    numbers for names, and says in ``param_groups`` what they are.
    """
    match state:
        case Tensor() | Stored():
            return change(name, state) if name else state
        case {"state": dict() as states, "param_groups": [*groups]}:
            named = {i: n for group in groups for i, n in zip(group["params"], group["param_names"], strict=True)}
            inner = {i: changed(states[i], names, change, _among(names, named[i])) for i in sorted(states)}
            return {**state, "state": inner}
        case dict():
            return {key: changed(value, names, change, _among(names, key) or name) for key, value in state.items()}
        case list() | tuple():
            return type(state)(changed(value, names, change, name) for value in state)
    return state


def _among(names: Collection[str], key: Any) -> str:
    return key if key in names else ""
