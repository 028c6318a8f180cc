"""What a training minimises, seen at PyTorch's own loss functions: its name, its prediction, its target, its value.

``nn.CrossEntropyLoss`` and the other modules call these functions, so one wrapper serves both. What was called is
passed on untouched and at once; the wrapper steps aside while a graph is compiled.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fieldguide.metrics.constant import entropy

NAMES = (
    "cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss",
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "gaussian_nll_loss", "kl_div",
)  # fmt: skip
CLASSES = frozenset({"cross_entropy", "nll_loss"})
BINARY = frozenset({"binary_cross_entropy", "binary_cross_entropy_with_logits"})
SQUARES = frozenset({"mse_loss"})


@dataclass(slots=True)
class LossCall:
    """One call of a loss function. Made at every step: what few steps ask of it is worked out when they do."""

    name: str
    prediction: Tensor
    target: Tensor
    value: Tensor
    function: Callable[..., Tensor]
    options: dict[str, Any]
    """Given by name; positional ones are rare and left out."""
    learning: bool = True
    """Gradients were on."""

    @property
    def reduction(self) -> str:
        return str(self.options.get("reduction", "mean"))

    @property
    def smoothing(self) -> float:
        return float(self.options.get("label_smoothing", 0.0))

    @property
    def ignore_index(self) -> int:
        return int(self.options.get("ignore_index", -100))

    @property
    def again(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The same function with the same options, for another prediction and target."""
        settings = {name: value for name, value in self.options.items() if name not in {"input", "target"}}
        return functools.partial(self.function, **settings)

    @property
    def made_by(self) -> str:
        """The operation that made the prediction, reshaping left out: ``Softmax``, ``Sigmoid``, ``Addmm``, …"""
        node = self.prediction.grad_fn
        while node is not None and _name(node) in _SHAPING:
            node = node.next_functions[0][0] if node.next_functions else None
        return _name(node) if node is not None else ""

    def correct(self) -> tuple[Tensor, Tensor] | None:
        """Predicted and true classes, flat, ignored ones left out; None where the loss knows no classes."""
        if self.name in CLASSES and not self.target.is_floating_point() and self.prediction.ndim > 1:
            predicted, true = self.prediction.argmax(1).flatten(), self.target.flatten()
            seen = true != self.ignore_index
            return predicted[seen], true[seen]
        if self.name in BINARY:
            border = 0.0 if self.name.endswith("logits") else 0.5
            return (self.prediction > border).long().flatten(), (self.target > 0.5).long().flatten()
        return None


@dataclass(slots=True)
class CallInGraph(LossCall):
    """One that was not seen and is read from the graph behind its loss, which keeps no more than this."""

    maker: str = ""

    @property
    def again(self) -> Callable[[Tensor, Tensor], Tensor]:
        return self.function

    @property
    def made_by(self) -> str:
        return self.maker


def _name(node: Any) -> str:
    return type(node).__name__.removesuffix("Backward0").removesuffix("Backward1")


_SHAPING = {"View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Permute", "T", "Slice", "Select",
            "ReshapeAlias", "Clone", "ToCopy", "Expand", "Contiguous"}  # fmt: skip


def call_in_graph(loss: Tensor) -> LossCall | None:
    """The loss function behind a tensor that backward is called on, where its call was not seen: from its graph.

    Found through scaling and shaping only, so that a sum of several losses is none of them. What the graph holds of a
    cross entropy are log-probabilities, which are as good as the scores.
    """
    node = loss.grad_fn
    while node is not None and _name(node) in _SCALING | _SHAPING:
        inner = [following for following, _ in node.next_functions if following is not None]
        node = inner[0] if len(inner) == 1 else None
    entry = _IN_GRAPH.get(_name(node)) if node is not None else None
    if node is None or entry is None:
        return None
    name, function = entry
    saved: Any = node
    prediction, target = saved._saved_self, saved._saved_target
    first = node.next_functions[0][0]
    while first is not None and _name(first) in {*_SHAPING, "LogSoftmax"}:
        first = first.next_functions[0][0] if first.next_functions else None
    ignore = int(getattr(saved, "_saved_ignore_index", -100))
    ignore = ignore - 2**64 if ignore >= 2**63 else ignore
    options = {"reduction": ("none", "mean", "sum")[int(saved._saved_reduction)], "ignore_index": ignore}
    maker = _name(first) if first is not None else ""
    return CallInGraph(name, prediction, target, loss.detach(), function, options, maker=maker)


def broadcast_in_graph(loss: Tensor) -> list[list[int]] | None:
    """Shapes of a prediction and of the larger difference that it was spread to, near the end of a loss by hand."""
    nodes = [loss.grad_fn]
    for _ in range(6):
        nodes = [inner for node in nodes if node is not None for inner, _ in node.next_functions][:8]
        for node in nodes:
            if node is None or _name(node) != "Sub":
                continue
            made = _shape(node)
            for inner, _ in node.next_functions:
                given = _shape(inner) if inner is not None else None
                if made and given and len(made) == 2 and made[0] == made[1] > 1 and given in ([made[0], 1], [made[0]]):
                    return [given, made]
    return None


def _shape(node: Any) -> list[int] | None:
    """Of what an operation made."""
    metadata = getattr(node, "_input_metadata", None)
    return list(metadata[0].shape) if metadata else None


_IN_GRAPH: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "NllLoss": ("nll_loss", F.nll_loss),
    "NllLoss2D": ("nll_loss", F.nll_loss),
    "MseLoss": ("mse_loss", F.mse_loss),
    "BinaryCrossEntropy": ("binary_cross_entropy", F.binary_cross_entropy),
    "BinaryCrossEntropyWithLogits": ("binary_cross_entropy_with_logits", F.binary_cross_entropy_with_logits),
}
_SCALING = {"Mul", "Div", "Mean", "Sum", "Neg"}


def loss_facts(call: LossCall, loss: Tensor) -> dict[str, Any]:
    """``records.LossFacts`` of a first call; ``loss`` is what backward is called on."""
    x = call.prediction.detach().float()
    facts: dict[str, Any] = {
        "name": call.name,
        "reduction": call.reduction,
        "value": float(loss.detach().sum()),
        "factor": float(loss.detach().sum()) / float(call.value.detach().sum() or 1.0),
        "output_shape": list(x.shape),
        "target_shape": list(call.target.shape),
        "target_dtype": str(call.target.dtype).removeprefix("torch."),
        "made_by": call.made_by,
        "smoothing": call.smoothing,
    }
    if x.numel():
        facts |= {"output_min": float(x.min()), "output_max": float(x.max()), "output_std": float(x.std(correction=0))}
        sums = x.sum(1) if x.ndim > 1 else x
        columns = x.sum(0) if x.ndim == 2 and len(x) > 1 else None
        facts["column_sum_one"] = columns is not None and bool((x >= 0).all() and ((columns - 1).abs() < 1e-3).all())
        facts["row_sum_one"] = bool(
            x.ndim > 1 and x.shape[1] > 1 and (x >= 0).all() and ((sums - 1).abs() < 1e-3).all()
        )
    return facts


class LossWatch:
    """While it is open, every call of a loss function is told to ``tell``, after it was made."""

    def __init__(self, tell: Callable[[LossCall], None]):
        self.tell = tell
        self._originals: dict[str, Callable[..., Any]] = {}
        self._inside = False

    def open(self) -> None:
        for name in NAMES:
            self._originals[name] = getattr(F, name)
            setattr(F, name, self._wrapped(name, self._originals[name]))

    def close(self) -> None:
        for name, original in self._originals.items():
            setattr(F, name, original)
        self._originals.clear()

    def _wrapped(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(*args: Any, **options: Any) -> Any:
            value = original(*args, **options)
            if self._originals and not torch.compiler.is_compiling() and not self._inside:  # it may outlive the watch
                self._inside = True  # a loss may be made of others
                try:
                    self._tell(name, value, args, options)
                finally:
                    self._inside = False
            return value

        return call

    def _tell(self, name: str, value: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        prediction = args[0] if args else options.get("input")
        target = args[1] if len(args) > 1 else options.get("target")
        if isinstance(prediction, Tensor) and isinstance(target, Tensor) and isinstance(value, Tensor):
            function = self._originals[name]
            self.tell(LossCall(name, prediction, target, value, function, options, torch.is_grad_enabled()))


class Targets:
    """Counts and moments of the targets that a training has seen, and what the best constant answer would cost."""

    def __init__(self) -> None:
        self.counts: Tensor | None = None
        self.sums: Tensor | None = None
        self.squares: Tensor | None = None
        self.rows = 0
        self.kind = ""
        self.smoothing = 0.0
        self.width = 0

    @torch.no_grad()
    def add(self, call: LossCall) -> None:
        target = call.target.detach()
        self.kind, self.smoothing = call.name, call.smoothing
        if call.name in CLASSES and not target.is_floating_point():
            self.width = call.prediction.shape[1] if call.prediction.ndim > 1 else call.prediction.shape[0]
            target = target.flatten().cpu()
            seen = target[target != call.ignore_index]
            if seen.numel() and (reach := torch.stack(seen.aminmax()).tolist())[0] >= 0 and reach[1] < 1_000_000:
                least = self.width if self.counts is None else max(self.width, len(self.counts))
                counts = torch.bincount(seen, minlength=least)
                if self.counts is not None:
                    counts[: len(self.counts)] += self.counts
                self.counts = counts
        elif target.is_floating_point() and target.ndim:
            rows = target.reshape(len(target), -1)[:, :4096].double()
            same = self.sums is not None and len(self.sums) == rows.shape[1]
            self.sums = rows.sum(0) + (self.sums if same and self.sums is not None else 0)
            self.squares = (rows**2).sum(0) + (self.squares if same and self.squares is not None else 0)
            self.rows = len(rows) + (self.rows if same else 0)

    @property
    def baseline(self) -> float | None:
        """In the unit of the mean-reduced loss; None where no constant answer is known."""
        if self.kind in CLASSES and self.counts is not None and self.counts.sum() > 0:
            return float(entropy(self.counts, self.smoothing))
        if self.sums is None or self.squares is None or self.rows < 2:
            return None
        mean = self.sums / self.rows
        if self.kind in SQUARES:
            return float((self.squares / self.rows - mean**2).clamp_min(0).mean())
        if self.kind in BINARY and bool(((mean >= 0) & (mean <= 1)).all()):
            return float((torch.special.entr(mean) + torch.special.entr(1 - mean)).mean())
        return None

    @property
    def expected(self) -> float | None:
        """Of an untrained network: ln K for K classes, ln 2 for a binary one, the baseline for regression."""
        if self.kind in CLASSES and self.width > 1:
            return math.log(self.width)
        return math.log(2) if self.kind in BINARY else None
