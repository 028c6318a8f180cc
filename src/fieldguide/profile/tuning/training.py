"""``tune(model, example, train=True)``: the fastest way to the same training step – its loss and its gradient."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import AdamW, Optimizer
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from fieldguide.errors import FieldguideError
from fieldguide.profile.tuning.candidate import Candidate, Choice, Subject, copied
from fieldguide.profile.tuning.compiling import Compiled
from fieldguide.profile.tuning.depthwise import Fp32Depthwise
from fieldguide.profile.tuning.folding import NORMS
from fieldguide.profile.tuning.layout import ChannelsLast
from fieldguide.profile.tuning.memory import KeptMemory
from fieldguide.profile.tuning.precision import Autocast, Products
from fieldguide.profile.tuning.search import Groups, Search
from fieldguide.profile.tuning.surroundings import KERNELS, AttentionKernel, fewer_threads
from fieldguide.profile.tuning.tuned import Trial, Tuned

Losses = Callable[[nn.Module, Any], Iterable[Tensor]]
"""The losses of a step on a batch, one after the other; each is followed back before the next is asked for."""
MakeOptimizer = Callable[[nn.Module, Mapping[str, Any]], Optimizer]


def adamw(model: nn.Module, options: Mapping[str, Any]) -> Optimizer:
    """PyTorch's AdamW as it comes, but for the options; its steps are too small to lead anywhere."""
    return AdamW([w for w in model.parameters() if w.requires_grad], lr=1e-6, **options)


@dataclass(frozen=True)
class Fused(Candidate):
    """One pass over all parameters instead of one for each operation of the optimizer."""

    def __str__(self) -> str:
        return "fused optimizer"

    def optimizer(self) -> Mapping[str, Any]:
        return {"fused": True}


@dataclass(frozen=True)
class MicroBatches(Candidate):
    """The batch in parts, whose gradients add up; smaller parts may stay in the caches."""

    count: int

    def __str__(self) -> str:
        return f"{self.count} micro-batches"

    def refusal(self, subject: Subject, chosen: Choice) -> str | None:
        if subject.has(*NORMS):
            return "the statistics of batch norms are the whole batch's"
        sizes = {len(x) for x in subject.arguments if x.ndim}
        return (
            None if len(sizes) == 1 and min(sizes) % self.count == 0 else f"the batch has no {self.count} equal parts"
        )


NUMBERS: Sequence[Choice] = ((Autocast(),), (Products("medium"),), (Products("high"),))


def candidates() -> Groups:
    """What is tried of a step of PyTorch's own kind, first what gains most: a slow step leaves no time for the rest.

    A fused optimizer comes with each kind of number: where a plain one takes most of the step, it hides their gains.
    """
    return (
        (*((*numbers, Fused()) for numbers in NUMBERS), (Fused(),)),
        ((ChannelsLast(), Fp32Depthwise()), (ChannelsLast(),)),
        tuple((AttentionKernel(kernel),) for kernel in KERNELS),
        fewer_threads(),
        ((MicroBatches(2),),),
        ((Compiled(),),),
    )


class TrainingStep:
    """A copy of the network with its optimizer, and what they do with one batch."""

    def __init__(self, model: nn.Module, batch: Any, losses: Losses, chosen: Choice, make_optimizer: MakeOptimizer):
        network = copied(model).train()
        leaves, structure = tree_flatten(batch)
        arguments = tuple(leaves)
        for setting in chosen:
            if not isinstance(setting, Autocast):  # around the loss too, so not around the network alone
                network = setting.apply(network, arguments)
            arguments = setting.given(arguments)
        self.network, self.losses, self.chosen = network, losses, chosen
        self.device = next(model.parameters()).device
        batch = tree_unflatten(list(arguments), structure)
        count = next((setting.count for setting in chosen if isinstance(setting, MicroBatches)), 1)
        self.parts = [tree_map(lambda x, i=i: x.chunk(count)[i], batch) for i in range(count)] if count > 1 else [batch]
        options = {name: value for setting in chosen for name, value in setting.optimizer().items()}
        self.optimizer = make_optimizer(network, options)

    def __call__(self) -> float:
        """One step; returns its loss."""
        with ExitStack() as surroundings:
            for setting in self.chosen:
                surroundings.enter_context(setting.around())
            loss = self.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss

    def backward(self) -> float:
        """The loss of the batch, with its gradients in place."""
        total = 0.0
        for part in self.parts:
            losses = iter(self.losses(self.network, part))
            while (loss := self._forward(losses)) is not None:
                (loss / len(self.parts)).backward()
                total += loss.item() / len(self.parts)
        return total

    def _forward(self, losses: Any) -> Tensor | None:
        with ExitStack() as precision:
            for setting in self.chosen:
                precision.enter_context(setting.forward(self.device))
            return next(losses, None)

    def gradient(self) -> list[Tensor]:
        weights = (w for w in self.network.parameters() if w.requires_grad)
        return [torch.zeros_like(w) if w.grad is None else w.grad.detach().clone() for w in weights]


class Reference:
    """Loss and gradient of the original step, which others are compared with. Raises FieldguideError without one.

    How far a gradient may go astray depends on the network: that of a deep one with batch norms and random weights
    turns at the slightest rounding. So the measure is what the original's does when each weight is changed by a
    relative ``tolerance``: a step that stays within that is the exact step of a network that near (backward error,
    Wilkinson 1963). However far that is, a gradient that does not lead downhill with the original's is none.
    """

    def __init__(self, step: TrainingStep, nearby: TrainingStep, tolerance: float):
        torch.manual_seed(0)
        loss = step.backward()
        step.optimizer.zero_grad()
        torch.manual_seed(1)
        self.random = step.backward() != loss
        step.optimizer.zero_grad()
        self.tolerance = tolerance
        self.loss, self.gradient = self._of(step)
        norm = _norm(self.gradient)
        if not norm < float("inf"):
            raise FieldguideError("the gradient of a step on the example is not finite; mend the loss or the example")
        with torch.no_grad():
            for weight in nearby.network.parameters():
                weight.mul_(1 + tolerance * torch.randn_like(weight))
        self.reach = max(tolerance * norm, self._distance(self._of(nearby)[1]))

    def error(self, step: TrainingStep) -> float:
        """At most ``tolerance`` when loss and gradient are near enough.

        The larger of two: the relative difference of the losses, and ``tolerance`` times the distance of the gradients
        over the one that is allowed.
        """
        loss, gradient = self._of(step)
        error = abs(loss - self.loss) / (abs(self.loss) or 1.0)
        error = max(error, self.tolerance * self._distance(gradient) / (self.reach or 1.0))
        pairs = zip(gradient, self.gradient, strict=True)
        downhill = sum(torch.dot(a.flatten(), b.flatten()).item() for a, b in pairs) > 0 or not self.reach
        return error if error == error and downhill else float("inf")

    def _distance(self, gradient: list[Tensor]) -> float:
        return _norm(a - b for a, b in zip(gradient, self.gradient, strict=True))

    def _of(self, step: TrainingStep) -> tuple[float, list[Tensor]]:
        """Where numbers are drawn, without them: layers other than batch norms then compute as in evaluation.

        Ends with a step of the optimizer, which then has its state before anything is timed.
        """
        for module in step.network.modules() if self.random else ():
            module.training = isinstance(module, _BatchNorm)
        with ExitStack() as surroundings:
            for setting in step.chosen:
                surroundings.enter_context(setting.around())
            torch.manual_seed(0)
            loss = step.backward()
        gradient = step.gradient()
        step.optimizer.step()
        step.optimizer.zero_grad()
        step.network.train()
        return loss, gradient


def _norm(gradient: Iterable[Tensor]) -> float:
    return torch.stack([torch.linalg.vector_norm(g, dtype=torch.float64) for g in gradient]).norm().item()


def tune_training(
    model: nn.Module,
    batch: Any,
    losses: Losses,
    tolerance: float,
    *,
    groups: Groups,
    make_optimizer: MakeOptimizer = adamw,
    seconds: float,
    compile_seconds: float = 0.0,
    remember_in: Path | None = None,
) -> Tuned:
    """The fastest settings of a training step whose loss and gradient keep within ``tolerance`` of the original's.

    The result's ``model`` is the original; its ``recipe`` holds the settings as fields of ``fieldguide.Recipe``.
    """
    weights = [w for w in model.parameters() if w.requires_grad]
    if not weights:
        raise FieldguideError(f"{type(model).__name__} has no parameter that can be trained; tune it without train")
    arguments = tuple(x for x in tree_flatten(batch)[0] if isinstance(x, Tensor))
    subject = Subject(model, arguments, weights[0].device, training=True)
    with torch.random.fork_rng(subject.generators), torch.enable_grad():
        original = TrainingStep(model, batch, losses, (), make_optimizer)
        nearby = TrainingStep(model, batch, losses, (), make_optimizer)
        reference = Reference(original, nearby, tolerance)
        del nearby

        def build(chosen: Choice) -> Trial:
            step = TrainingStep(model, batch, losses, chosen, make_optimizer)
            return Trial(model, step, reference.error(step))

        search = Search(
            *(subject, build, original), tolerance=tolerance, seconds=seconds, compile_seconds=compile_seconds
        )
        found = search.tuned(groups, remember_in)
    every = (*groups, ((KeptMemory(),),))
    known = {str(setting): setting for group in every for choice in group for setting in choice}
    fields = {name: value for each in found.settings for name, value in known[each].recipe().items()}
    return replace(found, recipe=fields)
