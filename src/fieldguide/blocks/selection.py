"""One pattern language for the parts of any network, wherever some of them are meant.

stem                    the module or parameter of this name, and everything inside it
stem|layers.0-5         alternatives; ``0-5`` is every part numbered 0 to 5
*.query, layers.?.norm  shell wildcards over the whole dotted name: ``*`` is any text, dots too, ``?`` one character,
                        ``[abc]`` one of these
"""

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from itertools import accumulate, product
from typing import TypeVar

from torch import nn

from fieldguide.errors import FieldguideError, did_you_mean

Kind = TypeVar("Kind", bound=nn.Module)
Part = TypeVar("Part", nn.Module, nn.Parameter)


def select(model: nn.Module, pattern: str, *kinds: type[Kind]) -> dict[str, Kind]:
    """The modules that a pattern selects, by name and in the model's order; with ``kinds`` only modules of these.

    The model itself has the empty name, which ``*`` alone selects. A module in several places has all its names.
    Raises FieldguideError for an alternative that selects nothing.
    """
    named = dict(model.named_modules(remove_duplicate=False))
    named = {name: module for name, module in named.items() if isinstance(module, kinds or nn.Module)}
    return _select(named, pattern, " or ".join(kind.__name__ for kind in kinds) or "module", model)  # pyright: ignore


def selected_parameters(model: nn.Module, pattern: str) -> dict[str, nn.Parameter]:
    """The parameters that a pattern selects, by name and in the model's order; a shared one has all its names.

    Raises FieldguideError for an alternative that selects nothing.
    """
    return _select(dict(model.named_parameters(remove_duplicate=False)), pattern, "parameter", model)


def matching(names: Iterable[str], pattern: str) -> set[str]:
    """Those of the dotted names that a pattern selects; there may be none."""
    names = set(names)
    numbers = {part for name in names for part in name.split(".") if part.isdecimal()}
    plain = [form for alternative in pattern.split("|") for form in _without_ranges(alternative.strip(), numbers)]
    return {name for name in names if any(fnmatchcase(part, form) for part in _path(name) for form in plain)}


def _select(named: Mapping[str, Part], pattern: str, what: str, model: nn.Module) -> dict[str, Part]:
    found = {alternative: matching(named, alternative) for alternative in pattern.split("|")}
    for alternative, names in found.items():
        if not names:
            raise _nothing(alternative.strip(), named, f"{what} of {type(model).__name__}")
    chosen = set().union(*found.values())
    return {name: part for name, part in named.items() if name in chosen}


def _path(name: str) -> Iterable[str]:
    """``a.b.c`` → a, a.b, a.b.c."""
    return accumulate(name.split("."), "{}.{}".format)


def _without_ranges(alternative: str, numbers: Iterable[str]) -> Iterable[str]:
    """``layers.0-1.norm`` → layers.0.norm, layers.1.norm; a range stands for those numbers that occur."""
    choices = []
    for part in alternative.split("."):
        ends = re.fullmatch(r"(\d+)-(\d+)", part)
        choices.append([n for n in numbers if int(ends[1]) <= int(n) <= int(ends[2])] if ends else [part])
    return map(".".join, product(*choices))


def _nothing(alternative: str, names: Iterable[str], what: str) -> FieldguideError:
    known = {part: None for name in names for part in _path(name)}
    anywhere = {f"*.{name.rpartition('.')[2]}": None for name in known}
    first = [*{name.partition(".")[0]: None for name in known}]
    listing = f"names begin with {', '.join(first[:12])}{', …' * (len(first) > 12)}" if any(first) else "there are none"
    return FieldguideError(
        f"{alternative!r} selects no {what}{did_you_mean(alternative, known | anywhere)} ({listing})"
    )
