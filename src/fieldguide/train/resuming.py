"""What a resume looks at before it goes on: recipe, data, the network's source and the machine, then and now."""

import inspect
import sys
import warnings
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn

from fieldguide.errors import FieldguideError
from fieldguide.train.callbacks import Callback, TrainingWarning
from fieldguide.train.environment import changes
from fieldguide.train.feeds import Feed, kind_of
from fieldguide.train.randomness import seed_everything, untouched
from fieldguide.train.recipe import Recipe, differences, from_mapping, to_toml
from fieldguide.train.run import RunFolder

Facts = dict[str, str | int]
FREE = ("workers", "keep_last", "async_save")
"""Fields of a recipe that change no step."""
FIXED = ("optimizer.name", "ema", "swa", "lookahead")
"""Fields whose state is of no use to another value."""
_SPOKEN_FOR = {*sys.stdlib_module_names, "torch", "fieldguide"} - {"__main__"}
"""Where classes come from that the environment tells apart."""
_ROWS, _SHOWN = 64, 40


class Origin(Callback):
    """Keeps in every checkpoint what the training is made of, for a resume to compare.

    Without ``look`` no sample of a map-style data set is read: what its workers are to open may not be open before.
    """

    def __init__(self, data: Any, model: nn.Module, look: bool = True):
        self.data, self.source = data_facts(data, look), source_facts(model)

    def state_dict(self) -> dict[str, Any]:
        return {"data": self.data, "source": self.source}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """A sample that was looked at once is known from then on, and one that was not is not."""
        known = {name: value for name, value in state["data"].items() if _of_a_sample(name)}
        seen = {name: value for name, value in self.data.items() if name in known or not _of_a_sample(name)}
        self.data = known | seen


@dataclass(frozen=True)
class Resumption:
    """A training that goes on, and what has changed since its checkpoint."""

    state: Mapping[str, Any]
    """Of the checkpoint."""
    old: Recipe
    recipe: Recipe
    """The one to go on with."""
    changed: list[str]
    """One clause each, with the old and the new value."""

    @property
    def retuned(self) -> bool:
        """Whether the optimizer has other numbers than those in the checkpoint."""
        return self.old.optimizer != self.recipe.optimizer

    def keep(self, run: RunFolder) -> None:
        """Leaves in the run folder what is used from this step on, and what was before."""
        if self.changed:
            recipes = (to_toml(self.old), to_toml(self.recipe)) if self.old != self.recipe else None
            run.goes_on(self.state["progress"]["step"], self.changed, recipes)


def resumption(run: RunFolder, state: Mapping[str, Any], asked: Recipe, now: Origin, accept: bool) -> Resumption:
    """What to go on with: the recipe of the checkpoint, or, where changes are accepted, the one that is asked for.

    ``"auto"`` in it agrees with any value.

    Raises:
        FieldguideError: something has changed and ``accept`` is False, or a change that no state can go on from.
    """
    old = replace(from_mapping(state["recipe"]), **{name: getattr(asked, name) for name in FREE})
    auto = {name: getattr(old, name) for name in ("epochs", "threads") if getattr(asked, name) == "auto"}
    recipe = replace(asked, **auto)
    other = {key: f"{key} {before} → {after}" for key, (before, after) in differences(old, recipe).items()}
    if fixed := [line for key, line in other.items() if key in FIXED]:
        raise FieldguideError(
            f"resume: {', '.join(fixed)} cannot change within a run; leave it out, or start a new run from the weights"
        )
    then = state["callbacks"].get("Origin", {"data": {}, "source": {}})
    seen = {name for name in {**then["data"], **now.data} if not _of_a_sample(name)}
    both = then["data"].keys() & now.data.keys()
    data = _differing("{} of the data", then["data"], now.data, sorted(seen | both))
    source = _differing("source of {}", then["source"], now.source, sorted(then["source"].keys() & now.source.keys()))
    changed = [*other.values(), *data, *source, *changes(run.environment)]
    if changed and not accept:
        raise FieldguideError(
            f"resume: since the run began this has changed, so its bits may be others from here on: "
            f"{'; '.join(changed)}; go on all the same with --accept-changes (accept_changes=True)"
        )
    if changed:
        warnings.warn(f"resume: changed since the run began: {'; '.join(changed)}", TrainingWarning, stacklevel=3)
    return Resumption(state, old, recipe, changed)


def _of_a_sample(name: str) -> bool:
    """Whether a fact takes a look at a sample, which not every life of a training has."""
    return name.endswith(" sample")


def data_facts(data: Any, look: bool = True) -> Facts:
    """What data say of themselves, else their lengths, the kind of their samples and some of their content."""
    pair, names = isinstance(data, tuple | list), ("training", "validation", "test")
    held = data if pair else [getattr(data, part, None) for part in ("train", "val", "test")]
    parts = dict(zip(names, held, strict=False))
    classes = getattr(data, "classes", None) or getattr(held[0], "classes", None)
    facts = {"fingerprint": getattr(data, "fingerprint", None), "classes": ", ".join(map(str, classes or ())) or None}
    for name, part in parts.items():
        facts |= {f"{name} {what}": value for what, value in _part_facts(part, look and pair).items()}
    return {what: value for what, value in facts.items() if value is not None}


def _part_facts(part: Any, look: bool) -> Facts:
    if isinstance(part, Feed):
        return {"batches": len(part)}
    if isinstance(part, tuple | list) and part and all(isinstance(tensor, Tensor) for tensor in part):
        some = [tensor[:: -(-len(tensor) // _ROWS) or 1].detach().cpu().contiguous() for tensor in part]
        content = sha256(b"".join(tensor.flatten().view(torch.uint8).numpy().tobytes() for tensor in some))
        kind = kind_of([tensor[:1].squeeze(0) for tensor in some])
        return {"samples": len(part[0]), "sample": kind, "content": content.hexdigest()}
    if not isinstance(part, Sized):
        return {}
    return {"samples": len(part), **(_first_sample(part) if look else {})}


def _first_sample(source: Any) -> Facts:
    try:
        with untouched():
            seed_everything(0)
            return {"sample": kind_of(source[0])}
    except Exception:  # whoever reads it to learn from it will say so
        return {}


def source_facts(model: nn.Module) -> Facts:
    """A hash of the source of every class in a network that is neither torch's nor ours, where Python can show it."""
    facts = {}
    kinds = {kind for module in model.modules() for kind in type(module).__mro__}
    for kind in sorted(kinds, key=lambda kind: (kind.__qualname__, kind.__module__)):
        if kind.__module__.partition(".")[0] not in _SPOKEN_FOR:
            try:
                facts[kind.__qualname__] = sha256(inspect.getsource(kind).encode()).hexdigest()
            except (OSError, TypeError):  # typed into a console
                continue
    return facts


def _differing(what: str, then: Facts, now: Facts, names: Iterable[str]) -> list[str]:
    pairs = ((name, then.get(name, "nothing"), now.get(name, "nothing")) for name in names)
    return [f"{what.format(name)}: {_short(old)} → {_short(new)}" for name, old, new in pairs if old != new]


def _short(value: str | int) -> str:
    text = f"{value:,}" if isinstance(value, int) else value
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
