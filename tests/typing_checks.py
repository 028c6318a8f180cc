"""Types are checked in every call of fieldguide, and shapes where a function names some.

jaxtyping looks after shapes and takes fifty times as long for a call as beartype, which sees to everything else.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import jaxtyping
from beartype import BeartypeConf

_jaxtyped = jaxtyping.jaxtyped
_RAISING = BeartypeConf(violation_type=jaxtyping.TypeCheckError)


def checked(*, typechecker: Callable[..., Any]) -> Callable[[Any], Any]:
    """Takes the place of ``jaxtyping.jaxtyped``, which its import hook puts on every function."""

    def decorate(made: Any) -> Any:
        if inspect.isfunction(made) and not any(map(_for_jaxtyping, made.__annotations__.values())):
            return _switched(made, typechecker(made, conf=_RAISING))
        return _jaxtyped(made, typechecker=typechecker)

    return decorate


def _switched(made: Callable[..., Any], seen_to: Callable[..., Any]) -> Callable[..., Any]:
    """Unchecked while jaxtyping is told to check nothing."""

    @wraps(made)
    def call(*arguments: Any, **named: Any) -> Any:
        return (made if jaxtyping.config.jaxtyping_disable else seen_to)(*arguments, **named)

    return call


def _for_jaxtyping(annotation: Any) -> bool:
    """Shapes, and names in quotes, which beartype follows only where they lead to something at run time."""
    if isinstance(annotation, type):
        return inspect.formatannotation(annotation).startswith("jaxtyping.")
    return "'" in repr(annotation)


jaxtyping.jaxtyped = checked
