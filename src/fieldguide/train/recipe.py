"""How a network is trained: one frozen tree of numbers, complete enough to repeat the run.

A recipe is data. Every family has its tuned defaults in ``recipes/<family>.toml``; a file given by the user and
then dotted overrides (``--optimizer.lr 3e-4``) are laid over them, and the resolved copy goes into the run folder.
The schema is closed and every value is checked, so a typo costs one line and not one night.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from math import ceil, isfinite
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import tomli_w

from fieldguide.bounded import MB, read_plain
from fieldguide.errors import FieldguideError, UnknownField, did_you_mean


def _require(ok: bool, key: str, value: object, accepted: str) -> None:
    if not ok:
        raise FieldguideError(f"recipe: {key} = {_shown(value)} must be {accepted}")


class Contradiction(FieldguideError):
    """Values that are right by themselves and do not go together; another layer of a recipe may still mend it."""


def _agree(ok: object, problem: str, where: str = "schedule") -> None:
    if not ok:
        raise Contradiction(f"recipe: {where}: {problem}")


@dataclass(frozen=True, kw_only=True)
class OptimizerRecipe:
    name: Literal[
        "adamw", "adam", "sgd", "rmsprop", "nadam", "radam", "adafactor",
        "muon", "lion", "lamb", "soap", "schedule_free",
    ] = "adamw"  # fmt: skip
    """`fieldguide lookup optimizer` says what each is for and which numbers it wants."""
    lr: float = 1e-3
    """Base learning rate; the schedule multiplies it."""
    weight_decay: float = 0.01
    """Decoupled, but for Adam, SGD and RMSprop added to the gradient; never applied to norms, biases, embeddings."""
    momentum: float = 0.9
    """SGD (with Nesterov), RMSprop and Muon only."""
    betas: tuple[float, float] = (0.9, 0.999)
    """How long first and second moment last; Lion wants 0.9 0.99, SOAP 0.95 0.95."""
    eps: float = 1e-8
    layer_decay: float = 1.0
    """Each layer learns at this times the rate of the layer after it; below 1 for fine-tuning."""
    rates: dict[str, float] = field(default_factory=dict)
    """Shares of the rate for parts of the network, by pattern, in place of those of layer_decay: as an option
    `--optimizer.rates.stem 0.1`; patterns with dots stand in a file."""

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
        for part, share in self.rates.items():
            _require(share > 0, f"optimizer.rates.{part}", share, "above 0; freeze what is not to learn")


@dataclass(frozen=True, kw_only=True)
class ScheduleRecipe:
    name: Literal[
        "cosine", "linear", "constant", "polynomial", "exponential", "step", "inverse_sqrt",
        "warmup_stable_decay", "restarts", "plateau", "one_cycle", "three_phase",
    ] = "cosine"  # fmt: skip
    """The curve of the learning rate; `docs/recipes.md` has the formulas, `fieldguide look schedule` draws them."""
    warmup: float = 0.05
    """Share of all optimizer steps during which the rate rises linearly; the one-cycle policies have `rise` instead."""
    final: float = 0.0
    """The rate at the end as a share of the base rate; for plateau, the lowest."""
    weight_decay_final: float = 1.0
    """Weight decay at the end as a share of the optimizer's, reached along half a cosine; 1 keeps it."""
    power: float = 0.9
    """Polynomial: the power."""
    milestones: tuple[float, ...] = ()
    """Step: the shares of the training at which the rate falls, such as 0.5 0.75."""
    gamma: float = 0.1
    """Step and plateau: the factor of each fall."""
    plateau_epochs: int = 5
    """Plateau: epochs without improvement of the validation metric before the rate falls."""
    cooldown: float = 0.2
    """Warmup_stable_decay: share of the steps at the end in which the rate falls."""
    cycles: int = 3
    """Restarts: how many cosines."""
    growth: float = 2.0
    """Restarts: how much longer each cosine is than the one before."""
    rise: float = 0.3
    """One_cycle and three_phase: share of the steps in which the rate rises."""
    start: float = 0.04
    """One_cycle and three_phase: the first rate as a share of the peak, which is the optimizer's."""
    cycle_momentum: tuple[float, float] = (0.85, 0.95)
    """One_cycle and three_phase: momentum (Adam's first beta) at the peak and at the start; equal numbers leave the
    optimizer's own."""

    def __post_init__(self) -> None:
        _check_types(self, "schedule.")
        share = "a share of the steps, 0 to 1"
        _require(0 <= self.warmup <= 1, "schedule.warmup", self.warmup, share)
        _require(0 <= self.final <= 1, "schedule.final", self.final, "a share of the base rate, 0 to 1")
        _require(self.weight_decay_final >= 0, "schedule.weight_decay_final", self.weight_decay_final, "at least 0")
        _require(self.power > 0, "schedule.power", self.power, "above 0")
        _require(
            all(0 < at < 1 for at in self.milestones), "schedule.milestones", self.milestones, "shares between 0 and 1"
        )
        _require(0 < self.gamma < 1, "schedule.gamma", self.gamma, "above 0 and below 1")
        _require(self.plateau_epochs >= 1, "schedule.plateau_epochs", self.plateau_epochs, "at least 1")
        _require(0 <= self.cooldown <= 1, "schedule.cooldown", self.cooldown, share)
        _require(1 <= self.cycles <= 100, "schedule.cycles", self.cycles, "a number of cosines, 1 to 100")
        _require(1 <= self.growth <= 10, "schedule.growth", self.growth, "a factor, 1 to 10")
        _require(0 < self.rise < 1, "schedule.rise", self.rise, "a share of the steps, above 0 and below 1")
        _require(0 < self.start <= 1, "schedule.start", self.start, "a share of the peak, above 0 and at most 1")
        low, high = self.cycle_momentum
        _require(0 <= low <= high < 1, "schedule.cycle_momentum", (low, high), "the lower and the higher, 0 to below 1")
        _agree(self.name != "step" or self.milestones, "step needs schedule.milestones, for example [0.5, 0.75]")
        _agree(
            self.name != "step" or min(self.milestones) > self.warmup,
            f"the first of the milestones lies in the warm-up, which is {self.warmup} of the training",
        )
        _agree(self.name != "exponential" or self.final, "exponential never reaches 0; set schedule.final, as 0.01")
        _agree(
            self.name != "warmup_stable_decay" or self.warmup + self.cooldown <= 1,
            f"warmup = {self.warmup} and cooldown = {self.cooldown} together are longer than the training",
        )
        _agree(
            self.name != "three_phase" or self.rise <= 0.5,
            f"three_phase rises for {self.rise} of the training and falls as long; set schedule.rise to 0.5 at most",
        )


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
    cutmix: float = 0.0
    """Pasting boxes of Beta(α, α) area and mixing the labels (Yun et al. 2019); with ``mixup`` too, batches take
    turns at random."""

    def __post_init__(self) -> None:
        _check_types(self, "augment.")
        _require(0 <= self.shift < 1, "augment.shift", self.shift, "a share of the side, at least 0 and below 1")
        _require(0 <= self.rotate <= 180, "augment.rotate", self.rotate, "degrees, 0 to 180")
        _require(0 <= self.scale < 1, "augment.scale", self.scale, "a relative change, at least 0 and below 1")
        _require(0 <= self.erase <= 1, "augment.erase", self.erase, "a probability, 0 to 1")
        _require(self.mixup >= 0, "augment.mixup", self.mixup, "at least 0")
        _require(self.cutmix >= 0, "augment.cutmix", self.cutmix, "at least 0")


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
    steps: int = 0
    """Optimizer steps after which training ends, even within an epoch; 0 is as many as the epochs have."""
    batch_size: int = 64
    """Samples in one forward pass."""
    accumulation: int = 1
    """Forward passes summed into one optimizer step."""
    clip: float = 1.0
    """Largest gradient, as ``clip_by`` measures it; 0 is off."""
    clip_by: Literal["norm", "value", "adaptive"] = "norm"
    """The norm of all gradients together; each number by itself; or each unit's norm as a share of its weights' norm,
    where a ``clip`` of 0.01 to 0.1 is usual."""
    centralize: bool = False
    """Take the mean out of the gradient of each unit's weights (Yong et al. 2020)."""
    noise_scale: bool = False
    """Measure how noisy the gradients are, which says what batch size pays; needs an ``accumulation`` of 2 or more."""
    recompute: str = ""
    """Parts, such as ``"*.layers"``, that save memory by computing inner results again for the gradient."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    """How PyTorch may compute products of fp32: "high" is TF32 on NVIDIA's accelerators, "medium" gives a processor's
    to oneDNN."""
    keep_memory: bool = False
    """Keep freed memory for the next step instead of giving it back to the system; for processors."""
    tune: Literal["off", "fp32", "bf16"] = "off"
    """Measure on the first batch which precision, memory format, products, threads and memory make a step fastest, and
    put them in place of those above: "fp32" keeps to rounding, "bf16" lets its precision in."""
    label_smoothing: float = 0.0
    focal: float = 0.0
    """The γ of the focal loss for classes (Lin et al. 2017), often 2; 0 is cross-entropy."""
    class_balance: float = 0.0
    """Weight of rare classes: 0 all alike, 1 by inverse frequency, between by effective number (Cui et al. 2019)."""
    ema: float = 0.0
    """Decay per step of an averaged copy of the weights that is evaluated and saved; 0 is off."""
    swa: float = 0.0
    """Share of the steps at the end whose plain mean is evaluated and saved, as 0.25; 0 is off. Batch norms then cost
    a pass over the training data per evaluation."""
    lookahead: int = 0
    """Steps after which slow weights follow half-way and the optimizer starts from them, usually 5; 0 is off."""
    sharpness: float = 0.0
    """Radius in which the loss is to be low, usually 0.05 (SAM), for twice the time per step; 0 is off."""
    head_epochs: int = 0
    """Epochs at the start in which only the head learns, so that a fresh one does not spoil trained features."""
    seed: int = 0
    threads: int | Literal["auto"] = "auto"
    """CPU threads; ``"auto"`` times a few steps with one and with all and keeps the faster."""
    workers: int = 0
    """Processes that read a map-style data set of torch; any number of them gives the same batches."""
    on_bad_batch: Literal["stop", "skip", "rollback"] = "stop"
    """When a loss or gradient is not finite: end the training, leave the step out, or go back to the newest checkpoint
    and leave it out on the way again."""
    loss_spike: float = 0.0
    """Deviations above the recent median from which a finite loss is a bad one too, such as 6; 0 never looks."""
    deterministic: bool = False
    """Only algorithms of torch that repeat bit for bit; slower, and an operation that has none ends the training."""
    checkpoint_every: int = 0
    """Optimizer steps between checkpoints inside an epoch; 0 saves at the end of each epoch only."""
    keep_last: int = 2
    """The newest checkpoints that are kept, beside the best one; at least 2, so that a damaged one can be replaced."""
    async_save: bool = True
    """Copy the state and write the copy while training goes on; off, training waits for the disk and saves memory."""
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    stopping: StoppingRecipe = field(default_factory=StoppingRecipe)

    def __post_init__(self) -> None:
        _check_types(self)
        _require(self.epochs == "auto" or self.epochs >= 1, "epochs", self.epochs, 'at least 1, or "auto"')
        _require(self.steps >= 0, "steps", self.steps, "a number of steps, or 0 for as many as the epochs have")
        _require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        _require(self.accumulation >= 1, "accumulation", self.accumulation, "at least 1")
        _require(self.clip >= 0, "clip", self.clip, "a limit above 0, or 0 for no clipping")
        _require(
            not self.noise_scale or self.accumulation > 1, "noise_scale", self.noise_scale,
            "false with accumulation = 1; it compares two batch sizes, so halve batch_size and set accumulation = 2",
        )  # fmt: skip
        _require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "at least 0 and below 1")
        _require(self.focal >= 0, "focal", self.focal, "at least 0")
        _require(0 <= self.class_balance <= 1, "class_balance", self.class_balance, "0 to 1")
        _require(0 <= self.ema < 1, "ema", self.ema, "a decay of at least 0 and below 1")
        _require(0 <= self.swa <= 1, "swa", self.swa, "a share of the steps, 0 to 1")
        _require(self.lookahead >= 0, "lookahead", self.lookahead, "a number of steps, or 0")
        _require(self.sharpness >= 0, "sharpness", self.sharpness, "a radius of at least 0")
        _require(self.head_epochs >= 0, "head_epochs", self.head_epochs, "a number of epochs, at least 0")
        _require(0 <= self.seed < 2**63, "seed", self.seed, "a whole number of at least 0 and below 2^63")
        _require(self.threads == "auto" or self.threads >= 1, "threads", self.threads, 'at least 1, or "auto"')
        _require(self.workers >= 0, "workers", self.workers, "a number of processes, at least 0")
        _require(self.loss_spike >= 0, "loss_spike", self.loss_spike, "a number of deviations, or 0")
        _require(self.checkpoint_every >= 0, "checkpoint_every", self.checkpoint_every, "a number of steps, or 0")
        _require(self.keep_last >= 2, "keep_last", self.keep_last, "at least 2")
        _agree(
            self.schedule.name != "plateau" or not 0 < self.stopping.patience <= self.schedule.plateau_epochs,
            f"plateau waits {self.schedule.plateau_epochs} epochs, but stopping.patience ends the training after "
            f"{self.stopping.patience}; make schedule.plateau_epochs smaller",
        )
        _agree(
            not (self.sharpness and self.recompute),
            "inner results would be computed again with other weights than the loss; set one of sharpness and "
            "recompute off",
            "sharpness",
        )
        averages = [name for name in ("ema", "swa", "lookahead") if getattr(self, name)]
        free = self.optimizer.name == "schedule_free"
        _agree(
            len(averages) + free <= 1,
            f"two averages of the weights ({', '.join([*averages, *['schedule_free'] * free])}); "
            f"set {' and '.join(averages[not free :])} to 0",
            "averages",
        )
        _agree(
            not free or self.schedule.name == "constant",
            'schedule_free takes the place of a falling rate; set schedule.name = "constant"',
            "optimizer",
        )
        low, high = self.schedule.cycle_momentum
        moves = self.schedule.name in ("one_cycle", "three_phase") and low < high
        own = {"sgd": self.optimizer.momentum, "rmsprop": self.optimizer.momentum, "muon": self.optimizer.momentum}
        _agree(
            not moves or (self.optimizer.name != "adafactor" and own.get(self.optimizer.name, True)),
            f"{self.schedule.name} moves the momentum and {self.optimizer.name} has none; "
            + "set optimizer.momentum above 0, or " * (self.optimizer.name != "adafactor")
            + "set two equal numbers as schedule.cycle_momentum",
        )

    def length(self, batches: int) -> tuple[int, int]:
        """Epochs, the last perhaps unfinished, and optimizer steps of a training whose epochs have so many batches."""
        an_epoch = ceil(batches / self.accumulation)
        most = int(self.epochs) * an_epoch
        steps = min(self.steps or most, most)
        return ceil(steps / an_epoch), steps

    def with_epochs(self, samples: int) -> "Recipe":
        """The same recipe with ``epochs`` as a number, for a training part of this many samples."""
        if self.epochs != "auto":
            return self
        if self.steps:
            return replace(self, epochs=ceil(self.steps / ceil(samples / (self.batch_size * self.accumulation))))
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
        layer = _nested(key.replace("-", "_"), plain_value(value) if isinstance(value, str) else value)
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
    keys = [*before, *(key for key in after if key not in before)]
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_plain(path, MB).decode())
    except FieldguideError:
        raise
    except OSError as problem:
        raise FieldguideError(f"{path}: the recipe cannot be read ({problem.strerror})") from None
    except (ValueError, RecursionError) as problem:  # also text of another encoding, and numbers of 5,000 digits
        raise FieldguideError(f"{path}: not a TOML file ({problem})") from None


def _named(name: str, kind: type, tree: Mapping[str, Any]) -> None:
    try:
        _build(kind, tree, "")
    except Contradiction:
        pass  # the whole decides
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
    elif get_origin(hint) is dict and isinstance(value, Mapping):
        value = {name: float(item) if _fits(item, int) else item for name, item in _flat(value).items()}
    _require(_fits(value, hint), key, value, _accepted(hint))
    return value


def _fits(value: object, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) in (UnionType, Union):
        return any(_fits(value, part) for part in get_args(hint))
    if get_origin(hint) is tuple:
        parts = get_args(hint)
        if parts[1:] == (...,):
            return isinstance(value, tuple) and all(_fits(item, parts[0]) for item in value)
        return isinstance(value, tuple) and len(value) == len(parts) and all(map(_fits, value, parts))
    if get_origin(hint) is dict:
        return isinstance(value, dict) and all(_fits(item, get_args(hint)[1]) for item in value.values())
    if hint is float:
        return isinstance(value, float) and isfinite(value)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _accepted(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(_shown(choice) for choice in get_args(hint))
    if get_origin(hint) in (UnionType, Union):
        return " or ".join(_accepted(part) for part in get_args(hint))
    if get_origin(hint) is tuple:
        return "a list of numbers" if ... in get_args(hint) else f"a list of {len(get_args(hint))} numbers"
    if get_origin(hint) is dict:
        return "a table of patterns and numbers"
    return {float: "a number", int: "a whole number", bool: "true or false"}.get(hint, f"a {hint.__name__}")


def _shown(value: object) -> str:
    """As TOML spells it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(list(value) if isinstance(value, tuple) else value)


def plain_value(text: str) -> Any:
    """A value as TOML writes it; what is none of those is text."""
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
