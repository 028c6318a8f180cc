"""How a network is trained: one frozen tree of numbers, complete enough to repeat the run.

A recipe is data. Every family has its tuned defaults in ``recipes/<family>.toml``; a file given by the user and
then dotted overrides (``--optimizer.lr 3e-4``) are laid over them, and the resolved copy goes into the run folder.
The schema is closed and every value is checked, so a typo costs one line and not one night.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from math import isfinite
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import tomli_w

from fieldguide.errors import FieldguideError, UnknownField, did_you_mean


def _require(ok: bool, key: str, value: object, accepted: str) -> None:
    if not ok:
        raise FieldguideError(f"recipe: {key} = {_shown(value)} must be {accepted}")


@dataclass(frozen=True, kw_only=True)
class OptimizerRecipe:
    name: Literal["adamw", "adam", "sgd", "rmsprop"] = "adamw"
    lr: float = 1e-3
    """Base learning rate; the schedule multiplies it."""
    weight_decay: float = 0.01
    """Decoupled for AdamW, L2 for the others; never applied to norms, biases and embeddings."""
    momentum: float = 0.9
    """SGD (with Nesterov) and RMSprop only."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    layer_decay: float = 1.0
    """Each layer learns at this times the rate of the layer after it; below 1 for fine-tuning."""

    def __post_init__(self) -> None:
        _check_types(self, "optimizer.")
        _require(self.lr > 0, "optimizer.lr", self.lr, "above 0")
        _require(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, "at least 0")
        _require(0 <= self.momentum < 1, "optimizer.momentum", self.momentum, "at least 0 and below 1")
        _require(
            all(0 <= b < 1 for b in self.betas), "optimizer.betas", self.betas, "two numbers of at least 0, below 1"
        )
        _require(self.eps > 0, "optimizer.eps", self.eps, "above 0")
        _require(0 < self.layer_decay <= 1, "optimizer.layer_decay", self.layer_decay, "above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class ScheduleRecipe:
    name: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = 0.05
    """Share of all optimizer steps during which the rate rises linearly."""
    final: float = 0.0
    """The rate at the end as a share of the base rate."""

    def __post_init__(self) -> None:
        _check_types(self, "schedule.")
        _require(0 <= self.warmup <= 1, "schedule.warmup", self.warmup, "a share of the steps, 0 to 1")
        _require(0 <= self.final <= 1, "schedule.final", self.final, "a share of the base rate, 0 to 1")


@dataclass(frozen=True, kw_only=True)
class AugmentRecipe:
    """Random changes of training images, drawn for each sample; all off by default."""

    shift: float = 0.0
    """Largest translation as a share of the side."""
    rotate: float = 0.0
    """Largest rotation in degrees."""
    scale: float = 0.0
    """Largest relative change of size."""
    flip: bool = False
    """Mirror left and right with probability 1/2."""
    erase: float = 0.0
    """Probability of blanking a random rectangle (Zhong et al. 2020)."""
    mixup: float = 0.0
    """Beta(α, α) mixing of pairs and their labels (Zhang et al. 2018); 0 is off."""

    def __post_init__(self) -> None:
        _check_types(self, "augment.")
        _require(0 <= self.shift < 1, "augment.shift", self.shift, "a share of the side, at least 0 and below 1")
        _require(0 <= self.rotate <= 180, "augment.rotate", self.rotate, "degrees, 0 to 180")
        _require(0 <= self.scale < 1, "augment.scale", self.scale, "a relative change, at least 0 and below 1")
        _require(0 <= self.erase <= 1, "augment.erase", self.erase, "a probability, 0 to 1")
        _require(self.mixup >= 0, "augment.mixup", self.mixup, "at least 0")


@dataclass(frozen=True, kw_only=True)
class StoppingRecipe:
    patience: int = 0
    """Epochs without improvement of the validation metric before training stops and the best epoch's weights come
    back; 0 never stops early and keeps the last weights."""
    min_delta: float = 0.0
    """Smallest change that counts as an improvement."""

    def __post_init__(self) -> None:
        _check_types(self, "stopping.")
        _require(self.patience >= 0, "stopping.patience", self.patience, "a number of epochs, at least 0")
        _require(self.min_delta >= 0, "stopping.min_delta", self.min_delta, "at least 0")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    epochs: int | Literal["auto"] = "auto"
    """``"auto"`` gives small data sets more passes: about 450 / ∛samples, between 3 and 60."""
    batch_size: int = 64
    """Samples in one forward pass."""
    accumulation: int = 1
    """Forward passes summed into one optimizer step."""
    clip: float = 1.0
    """Largest global gradient norm; 0 is off."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    label_smoothing: float = 0.0
    ema: float = 0.0
    """Decay per step of an averaged copy of the weights that is evaluated and saved; 0 is off."""
    head_epochs: int = 0
    """Epochs at the start in which only the head learns, so that a fresh one does not spoil trained features."""
    seed: int = 0
    threads: int | Literal["auto"] = "auto"
    """CPU threads; ``"auto"`` times a few steps with one and with all and keeps the faster."""
    checkpoint_every: int = 0
    """Optimizer steps between checkpoints inside an epoch; 0 saves at the end of each epoch only."""
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    stopping: StoppingRecipe = field(default_factory=StoppingRecipe)

    def __post_init__(self) -> None:
        _check_types(self)
        _require(self.epochs == "auto" or self.epochs >= 1, "epochs", self.epochs, 'at least 1, or "auto"')
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        _require(self.accumulation >= 1, "accumulation", self.accumulation, "at least 1")
        _require(self.clip >= 0, "clip", self.clip, "a gradient norm above 0, or 0 for no clipping")
        _require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "at least 0 and below 1")
        _require(0 <= self.ema < 1, "ema", self.ema, "a decay of at least 0 and below 1")
        _require(self.head_epochs >= 0, "head_epochs", self.head_epochs, "a number of epochs, at least 0")
        _require(0 <= self.seed < 2**63, "seed", self.seed, "a whole number of at least 0 and below 2^63")
        _require(self.threads == "auto" or self.threads >= 1, "threads", self.threads, 'at least 1, or "auto"')
        _require(self.checkpoint_every >= 0, "checkpoint_every", self.checkpoint_every, "a number of steps, or 0")

    def with_epochs(self, samples: int) -> "Recipe":
        """The same recipe with ``epochs`` as a number, for a training part of this many samples."""
        if self.epochs != "auto":
            return self
        return replace(self, epochs=min(60, max(3, round(450 / samples ** (1 / 3)))))


# -------------------------------------------------------------------------------------------- reading and writing

RECIPES = Path(__file__).with_name("recipes")


def load_recipe(
    family: str | None = None,
    file: Path | str | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    finetune: bool = False,
) -> Recipe:
    """The family's defaults, then the values of ``file`` (TOML), then ``overrides`` with dotted keys.

    ``finetune`` lays ``recipes/finetune.toml``, what trained weights need, over the family's. A family without tuned
    defaults has the general ones. Text in ``overrides`` is read like a value in the file, so
    ``{"optimizer.lr": "3e-4"}`` is a number.

    Raises:
        UnknownField: a key that no recipe has; the nearest one is suggested.
        FieldguideError: the file cannot be read, or a value is of the wrong type or out of range.
    """
    tree: dict[str, Any] = {}
    defaults = RECIPES / f"{family}.toml"
    layers = [defaults] * bool(family and defaults.exists()) + [RECIPES / "finetune.toml"] * finetune
    for path in [*layers, Path(file) if file else None]:
        if path:
            layer = _parse(path)
            _named(path.name, Recipe, layer)  # each file is checked alone, so that the message names the right one
            tree = _laid_over(tree, layer)
    for key, value in (overrides or {}).items():
        layer = _nested(key.replace("-", "_"), _value(value) if isinstance(value, str) else value)
        tree = _laid_over(tree, layer)
    return _build(Recipe, tree, "")


def from_mapping(tree: Mapping[str, Any]) -> Recipe:
    """The recipe that a nested mapping (``dataclasses.asdict`` or parsed TOML) describes. Raises as ``load_recipe``."""
    return _build(Recipe, tree, "")


def to_toml(recipe: Recipe) -> str:
    """The recipe as TOML; ``load_recipe`` reads it back to an equal one."""
    return tomli_w.dumps(asdict(recipe))


def differences(old: Recipe, new: Recipe) -> dict[str, tuple[Any, Any]]:
    """``{dotted key: (old, new)}`` of the values that differ."""
    before, after = _flat(asdict(old)), _flat(asdict(new))
    return {key: (before[key], after[key]) for key in before if before[key] != after[key]}


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise FieldguideError(f"{path}: the recipe cannot be read ({problem.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise FieldguideError(f"{path}: not a TOML file ({problem})") from None


def _named(name: str, kind: type, tree: Mapping[str, Any]) -> None:
    try:
        _build(kind, tree, "")
    except FieldguideError as problem:
        raise type(problem)(f"{name}: {str(problem).removeprefix('recipe: ')}") from None


def _build(kind: type, tree: Mapping[str, Any], prefix: str) -> Any:
    hints = get_type_hints(kind)
    values = {}
    for key, value in tree.items():
        if key not in hints:
            raise UnknownField(f"recipe: unknown key {prefix + key!r}{_nearest(key, prefix, hints)}")
        if is_dataclass(hints[key]):
            _require(isinstance(value, Mapping), prefix + key, value, f"a table, [{key}] with its own keys")
            values[key] = _build(hints[key], value, f"{prefix}{key}.")  # pyright: ignore[reportArgumentType]
        else:
            values[key] = _typed(prefix + key, value, hints[key])
    return kind(**values)


def _nearest(key: str, prefix: str, siblings: Iterable[str]) -> str:
    """The suggestion for an unknown key: one of this name elsewhere (``optimizer.lr`` for ``lr``), or a similar one."""
    everything = _flat(asdict(Recipe()))
    elsewhere = [name for name in everything if name.rpartition(".")[2] == key]
    if len(elsewhere) == 1:
        return f"; did you mean {elsewhere[0]!r}?"
    beside = [prefix + name for name in siblings]
    return did_you_mean(prefix + key, beside) or did_you_mean(prefix + key, everything)


def _check_types(recipe: Any, prefix: str = "") -> None:
    for name, hint in get_type_hints(type(recipe)).items():
        object.__setattr__(recipe, name, _typed(prefix + name, getattr(recipe, name), hint))


def _typed(key: str, value: Any, hint: Any) -> Any:
    """The value in its field's type: whole numbers may stand for floats and lists for tuples, nothing else changes."""
    if hint is float and _fits(value, int):
        value = float(value)
    elif get_origin(hint) is tuple and isinstance(value, list | tuple):
        value = tuple(float(item) if _fits(item, int) else item for item in value)
    _require(_fits(value, hint), key, value, _accepted(hint))
    return value


def _fits(value: object, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) in (UnionType, Union):
        return any(_fits(value, part) for part in get_args(hint))
    if get_origin(hint) is tuple:
        parts = get_args(hint)
        return isinstance(value, tuple) and len(value) == len(parts) and all(map(_fits, value, parts))
    if hint is float:
        return isinstance(value, float) and isfinite(value)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _accepted(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(_shown(choice) for choice in get_args(hint))
    if get_origin(hint) in (UnionType, Union):
        return " or ".join(_accepted(part) for part in get_args(hint))
    if get_origin(hint) is tuple:
        return f"a list of {len(get_args(hint))} numbers"
    return {float: "a number", int: "a whole number", bool: "true or false"}.get(hint, f"a {hint.__name__}")


def _shown(value: object) -> str:
    """As TOML spells it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(list(value) if isinstance(value, tuple) else value)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _laid_over(tree: dict[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(tree)
    for key, value in layer.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _laid_over(merged[key], value) if both else value
    return merged


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
