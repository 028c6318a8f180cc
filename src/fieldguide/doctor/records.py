"""The records of a diagnosis, one JSON object a line: what an observer measures and the rules read. Needs no torch.

They extend ``fieldguide.trace``: a run's own ``step``, ``epoch`` and ``sample`` records are understood too, so every
field but ``kind`` and ``step`` may be missing, and a rule says nothing about what was not measured. Numbers that are
not finite are written as the words of ``fieldguide.trace``. Every tensor statistic is over one batch.
"""

from functools import cache
from types import UnionType
from typing import Any, Literal, TypedDict, Union, get_args, get_origin, get_type_hints, is_typeddict

from fieldguide.trace import Epoch, Step


class Setup(TypedDict, total=False):
    """Facts about the parts of a training, known at its first optimizer step; later ones are laid over earlier."""

    kind: Literal["setup"]
    step: int
    model: "ModelFacts"
    layers: "list[LayerFacts]"
    """Leaf modules in the order in which they are called."""
    tensors: "dict[str, TensorFacts]"
    """Parameters by name."""
    optimizers: "list[OptimizerFacts]"
    loss: "LossFacts"
    inputs: "BatchFacts"
    """Over the first training batches."""
    targets: "BatchFacts"
    eval_inputs: "BatchFacts"
    loader: "LoaderFacts"
    tests: "dict[str, Test]"
    """What pre-flight tests of copies have shown, by name: a file of ``doctor/preflight`` each."""


class ModelFacts(TypedDict, total=False):
    type: str
    parameters: int
    trainable: int
    training: bool
    """Whether the first training forward was in training mode."""
    has_dropout: bool
    has_batch_norm: bool
    batch_statistics: bool
    """Some batch normalisation uses those of the batch: it is in training mode, or keeps none."""
    device: str
    """``cpu``, ``cuda``, …: of the first parameter."""
    attention: list[list[int]]
    """Width and number of heads of every attention."""
    models: int
    """How many root modules are trained: 2 for a GAN."""


class LayerFacts(TypedDict, total=False):
    name: str
    type: str
    """Class: Linear, Conv2d, ReLU, Dropout, BatchNorm1d, …"""
    parameters: int
    trainable: bool
    p: float
    """Of dropout, also that between the layers of a recurrent network."""


class TensorFacts(TypedDict, total=False):
    shape: list[int]
    layer: str
    trainable: bool
    in_optimizer: bool
    gradient: Literal["missing", "zero", "there"]
    """After the first backward pass."""
    equal_rows: bool
    """All rows (output units) are the same: a constant initial value."""
    std: float


class OptimizerFacts(TypedDict, total=False):
    type: str
    """Class: SGD, Adam, AdamW, …"""
    lr: float
    weight_decay: float
    momentum: float
    betas: list[float]
    eps: float
    parameters: int


class LossFacts(TypedDict, total=False):
    name: str
    """``cross_entropy``, ``nll_loss``, ``mse_loss``, ``binary_cross_entropy``, ``binary_cross_entropy_with_logits``,
    ``l1_loss``, …; ``"unknown"`` for one written by hand."""
    reduction: str
    value: float
    """Of the first batch."""
    factor: float
    """What backward is called on over what the loss function said."""
    baseline: float
    """What the best constant answer would cost on the targets seen so far, in the loss's own unit."""
    expected: float
    """At random initial values: ln K for cross entropy, the baseline for regression."""
    output_shape: list[int]
    target_shape: list[int]
    target_dtype: str
    output_min: float
    output_max: float
    output_std: float
    row_sum_one: bool
    """Rows of the output are not negative and sum to one."""
    column_sum_one: bool
    """Columns of the output are not negative and sum to one over the batch."""
    broadcast: list[list[int]]
    """Shape of a prediction and of the difference that it was spread to, in a loss written by hand."""
    made_by: str
    """What made the output: ``Softmax``, ``Sigmoid``, ``Tanh``, ``ReLU``, ``LogSoftmax``, ``Linear``, …"""
    softmax_dim: int
    smoothing: float
    detached: bool
    """The tensor that backward was called on has no graph behind it, or none was asked for."""
    batch_growth: float
    """Loss of the whole batch over that of half of it: 2 for a sum, 1 for a mean."""


class BatchFacts(TypedDict, total=False):
    """A tensor that a training feeds, over the first batches; counts over everything seen."""

    shape: list[int]
    dtype: str
    samples: int
    min: float
    max: float
    mean: float
    std: float
    abs_mean: float
    non_finite: int
    constant: int
    """Samples without any variation."""
    feature_std_ratio: float
    """Largest over smallest standard deviation of a feature (axis 1 of a matrix), constant features left out."""
    shifted: float
    """Share of features whose mean differs from the training part's by more than half a standard deviation."""
    duplicates: float
    """Share of samples that the training part has too, bit for bit; of training inputs: seen before in one epoch."""
    covered: float
    """Share of the training samples that an evaluation has seen: near 1 when it evaluates the training part."""
    changed: float
    """Share of inputs that the evaluation before did not have, although its targets were the same in the same order."""
    distinct: int
    """Different values among the targets, counted up to 1,000."""
    classes: dict[str, int]
    """How often each whole-number target occurs; at most 1,000 of them."""
    whole: bool
    """Every value is a whole number."""
    low: float
    """Of targets: one in a hundred is smaller."""
    high: float
    """Of targets: one in a hundred is larger."""


class LoaderFacts(TypedDict, total=False):
    batch_size: int
    shuffle: bool
    workers: int
    drop_last: bool
    dataset_size: int
    order_z: float
    """Runs test on the labels within an epoch: far above 0 when classes come one after another."""
    batch_purity: float
    """Mean share of a batch that is its most frequent class."""
    generators: list[str]
    """Random generators that the data set reads when it is asked for a sample, and that no worker_init_fn seeds."""
    worker_repeats: float
    """Share of random draws that two workers have in common."""
    epoch_repeats: bool
    """Every epoch shows the samples in the same order."""


class Test(TypedDict, total=False):
    """A pre-flight test of a copy."""

    ok: bool | None
    """None: it could not be done here."""
    figure: float
    says: str


class Training(TypedDict, total=False):
    """The records that follow are of another training of the same script, which counts its own steps."""

    kind: Literal["training"]
    step: int
    """Steps of the one before."""


class Sample(TypedDict, total=False):
    """Scale-free scalars at one optimizer step, taken just before or after it."""

    kind: Literal["sample"]
    step: int
    epoch: int
    loss: float
    lr: float
    grad_norm: float
    """Over all trained parameters, as the optimizer saw it."""
    update_ratio: float
    """‖change of the parameters‖ / ‖parameters‖."""
    update_cosine: float
    """Of this update and the one before, over a fixed draw of entries."""
    weight_norm: float
    data_wait: float
    """Share of the wall time since the last sample spent waiting for data."""
    seconds: float
    """Median wall time of a step since the last sample."""
    accuracy: float
    baseline: float
    """See LossFacts: of the targets seen so far."""
    unchanged: bool
    """No parameter changed a bit since the last sample although optimizer steps were taken."""
    stale_gradient: bool
    """The first backward pass after an optimizer step found gradients of the step before still there."""
    backwards: float
    """Backward passes for each optimizer step since the last sample."""
    clip_norm: float
    """Gradient norm that clipping met, and what it was cut to."""
    clip_limit: float
    clipped: float
    """Share of steps that were clipped since the last sample."""
    decay_ratio: float
    """‖weight decay's part of the gradient or update‖ over the data's."""
    scale: float
    """Of the gradient scaler."""
    skipped: int
    """Optimizer steps that the scaler left out so far."""
    first_non_finite: str
    """Name of the first module whose output is not finite."""
    memory: float
    """MiB held by the process (CPU) or allocated (accelerator), always at the same place of a step."""
    memory_share: float
    """Peak over total, of the accelerator or of what the process may have."""
    sync_wait: float
    """Share of this step that went into fetching numbers from tensors: ``item()``, ``tolist()``, ``cpu()``."""
    training: bool
    """The forward pass of this step was in training mode."""
    layers: "dict[str, LayerSigns]"
    """Parametric leaf modules by name, in the order in which they are called."""


class LayerSigns(TypedDict, total=False):
    type: str
    weight: float
    """Root mean square of the weight."""
    grad: float
    """Root mean square of the weight's gradient."""
    update: float
    """‖change‖ / ‖weight‖ in this step."""
    input: float
    """Root mean square of the input."""
    output: float
    dead: float
    """Share of input units that were zero for every sample in this batch."""
    zeros: float
    """Share of zeros in the input."""
    saturated: float
    """Share of inputs where tanh or sigmoid, if one made them, has less than 1 % of its largest slope."""
    similarity: float
    """Mean cosine between the positions of one sequence in the output (rank collapse: towards 1)."""


class Eval(TypedDict, total=False):
    """One pass without gradients between two optimizer steps."""

    kind: Literal["eval"]
    step: int
    loss: float
    accuracy: float
    samples: int
    training: bool
    """It was in training mode."""
    baseline: float
    recalls: dict[str, float]
    """Of every class."""


class Probe(TypedDict, total=False):
    """An experiment on a copy that a suspicion asked for; ``figures`` are named by its file in ``doctor/probes``.

    ``one_batch``: losses ``start`` and ``end`` of learning one batch by heart for ``steps``.
    ``zero_input``: losses ``real`` and ``zero`` after as many steps on real and on zeroed inputs.
    ``label_permutation``: losses ``start``, ``real`` and ``permuted`` of learning a few batches for as many steps.
    ``lr_fork``: ``start`` and the losses of forks at ``0.1``, ``1`` and ``10`` times the rate.
    ``train_eval``: losses ``train`` and ``eval`` of the same batches in either mode.
    """

    kind: Literal["probe"]
    step: int
    name: str
    figures: dict[str, float]


class End(TypedDict, total=False):
    """How the script ended."""

    kind: Literal["end"]
    step: int
    exit: int
    error: str
    """Last line of its traceback."""
    where: str
    """The last five modules with their shapes, a line each, or the first whose output is not finite."""
    moved: bool
    """Without any optimizer step: parameters changed during the first backward passes, by hand."""
    steps_per_epoch: int


KINDS: dict[str, Any] = {
    "setup": Setup, "training": Training, "step": Step, "sample": Sample, "eval": Eval, "epoch": Epoch, "probe": Probe,
    "end": End,
}  # fmt: skip
_hints = cache(get_type_hints)
_SAID = {float: "a number", int: "a whole number", str: "a word", bool: "true or false"}


def flaw(record: dict[str, Any]) -> str | None:
    """What is wrong with a record of a known kind, as ``"layers.0.dead is 'many' and not a number"``; None if nothing.

    Fields that are not known may hold anything.
    """
    kind = KINDS.get(record.get("kind", ""))
    return _flaw(record, kind) if kind else None


def _flaw(value: Any, wanted: Any, at: str = "") -> str | None:
    inner = f"{at}." if at else ""
    if is_typeddict(wanted) and isinstance(value, dict):
        known = _hints(wanted)
        return _first(_flaw(part, known[name], inner + name) for name, part in value.items() if name in known)
    if get_origin(wanted) is dict and isinstance(value, dict):
        return _first(_flaw(part, get_args(wanted)[1], inner + name) for name, part in value.items())
    if get_origin(wanted) is list and isinstance(value, list):
        return _first(_flaw(part, get_args(wanted)[0], f"{inner}{place}") for place, part in enumerate(value))
    if get_origin(wanted) in {Union, UnionType}:
        return None if any(_flaw(value, option, at) is None for option in get_args(wanted)) else f"{at} is {value!r}"
    if get_origin(wanted) is Literal:
        return None if value in get_args(wanted) else f"{at} is {value!r} and not one of {', '.join(get_args(wanted))}"
    plain = {float: int | float, int: int}.get(wanted, wanted)
    if isinstance(plain, type | UnionType) and not is_typeddict(plain) and isinstance(value, plain):
        return None if wanted is bool or not isinstance(value, bool) else f"{at} is {value!r} and not {_SAID[wanted]}"
    said = _SAID.get(wanted) or ("a list" if get_origin(wanted) is list else "a table")
    return f"{at} is {value!r:.40} and not {said}"


def _first(flaws: Any) -> str | None:
    return next((found for found in flaws if found), None)
