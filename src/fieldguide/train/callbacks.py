"""What else happens during training: logs, checkpoints, traces – and whatever you add."""

import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import (
    Tensor,
    _foreach_copy_,  # pyright: ignore[reportPrivateImportUsage]
    _foreach_sub_,  # pyright: ignore[reportPrivateImportUsage]
    nn,
)

from fieldguide.errors import FieldguideError
from fieldguide.optim import global_norm
from fieldguide.trace import Log, Record
from fieldguide.train.checkpoint import Unconfirmed
from fieldguide.train.distributed import ALONE
from fieldguide.train.measuring import gradient_norms, memory_of
from fieldguide.train.run import RunFolder

if TYPE_CHECKING:
    from fieldguide.train.loop import Loop


_LAYERS_EVERY = 10
"""Samples of a trace of which one also has the gradient layer by layer."""


class TrainingWarning(UserWarning):
    """Something went wrong that training can live with, for now."""


class Callback:
    """Listens to a training; override what you need.

    A record is a plain dict as ``fieldguide.trace`` describes. Callbacks are called in their order; what they
    keep between steps goes through ``state_dict`` and comes back on resume, before ``on_start``.
    """

    loop: "Loop"

    def on_start(self, loop: "Loop") -> None:
        """Training starts or goes on; ``loop`` gives access to everything, as ``loop.steps``."""
        self.loop = loop

    def on_backward(self, part: str, share: float) -> None:
        """One more micro-batch, this share of the step's loss, has added its gradient to a part's; scaled in fp16."""

    def before_update(self, part: str) -> None:
        """The gradients of a part are final, clipped and finite, and its optimizer is about to use them."""

    def on_step(self, record: Record) -> None:
        """An optimizer step is done."""

    def on_epoch(self, record: Record) -> None:
        """An epoch is done and evaluated."""

    def on_test(self, record: Record) -> None:
        """The trained model was evaluated on the held-out part."""

    def on_failure(self, record: Record) -> None:
        """Something failed: a save, which training can live with, or the loss, which it cannot."""

    def on_end(self) -> None:
        """Training is complete and the model has its final weights; not called when it stops early on request."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class History(Callback):
    """Keeps every record in memory, for a look at a short training without a run folder."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def on_step(self, record: Record) -> None:
        self.records.append(record)

    on_epoch = on_test = on_step

    def state_dict(self) -> dict[str, Any]:
        return {"records": self.records}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.records = list(state["records"])


class MetricsLog(Callback):
    """Writes every step and epoch to ``metrics.jsonl``; a resume cuts the file back to its checkpoint."""

    def __init__(self, path: Path):
        self.log = Log(path)

    def on_step(self, record: Record) -> None:
        self.log.write(record)
        if self.log.failure:
            warnings.warn(f"{self.log.failure}; training goes on", TrainingWarning, stacklevel=2)

    on_epoch = on_test = on_failure = on_step

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.log.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if missing := state["position"] - self.log.position:
            if missing > 0:
                what = f"{self.log.path} lacks {missing:,} bytes that it had at this checkpoint"
                warnings.warn(f"{what}; training goes on", TrainingWarning, stacklevel=2)
            self.log.rewind(state["position"])


class Trace(MetricsLog):
    """Writes scale-free scalars of every ``every``-th step to ``trace.jsonl``, with one copy from device to host."""

    def __init__(self, path: Path, every: int = 10):
        super().__init__(path)
        self.every = every
        self._copies: dict[str, list[Tensor]] = {}  # kept between samples: fresh memory is slower than the copying
        self._parts: list[str] = []
        self._gradients: dict[str, float] = {}
        self._waited = self._seconds = 0.0

    def on_start(self, loop: "Loop") -> None:
        super().on_start(loop)
        self._waited = loop.progress.waited

    @torch.no_grad()
    def before_update(self, part: str) -> None:
        samples, rest = divmod(self.loop.progress.step + 1, self.every)
        if rest == 0:
            if samples % _LAYERS_EVERY == 1 and self.loop.strategy is ALONE:  # else a layer may be in many processes
                self._gradients |= gradient_norms(self.loop.model, self.loop.parameters[part])
            parameters = self.loop.strategy.local(self.loop.parameters[part])
            if part not in self._copies:
                self._copies[part] = [torch.empty_like(parameter) for parameter in parameters]
            _foreach_copy_(self._copies[part], parameters)
            self._parts.append(part)

    @torch.no_grad()
    def on_step(self, record: Record) -> None:
        self._seconds += record["seconds"]
        if not self._parts:
            return
        before = [copy for part in self._parts for copy in self._copies[part]]
        size = global_norm(before)
        after = [parameter for part in self._parts for parameter in self.loop.parameters[part]]
        _foreach_sub_(before, self.loop.strategy.local(after))
        change, size = torch.stack([global_norm(before), size]).tolist()
        sample = {key: record[key] for key in ("step", "epoch", "loss", "lr", "grad_norm")}
        sample["update_ratio"] = change / size if size else 0.0
        sample["data_wait"] = (self.loop.progress.waited - self._waited) / max(self._seconds, 1e-9)
        sample |= memory_of(before[0].device)
        if self._gradients:
            sample["gradients"] = self._gradients
        super().on_step({"kind": "sample", **sample})
        self._parts, self._gradients, self._seconds = [], {}, 0.0
        self._waited = self.loop.progress.waited

    def on_epoch(self, record: Record) -> None: ...

    on_test = on_failure = on_epoch


class BestWeights(Callback):
    """Keeps the weights of the best epoch and puts them back at the end: what early stopping is for."""

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] = {}

    def on_epoch(self, record: Record) -> None:
        if self.loop.best.improved:
            with self.loop.average.applied():
                self.weights = {name: tensor.clone() for name, tensor in self.loop.model.state_dict().items()}

    def on_end(self) -> None:
        if self.weights:
            self.loop.model.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weights = state["weights"]


class HeadFirst(Callback):
    """Lets only the head learn in the first ``epochs``, then everything that was trainable.

    A fresh head's first gradients are noise; passed on, they would spoil what the features have learned (Kumar et al.
    2022, "Fine-Tuning can Distort Pretrained Features", §4).
    """

    def __init__(self, model: nn.Module, epochs: int):
        heads = [name for name, _ in model.named_modules() if name.rpartition(".")[2] == "head"]
        if not heads:
            raise FieldguideError(f"head_epochs: {type(model).__name__} has no module named head; set head_epochs = 0")
        in_heads = {id(parameter) for name in heads for parameter in model.get_submodule(name).parameters()}
        self.epochs = epochs if in_heads else 0  # fixed codes have nothing to learn
        self.body = [parameter for parameter in model.parameters() if id(parameter) not in in_heads]
        self.body = [parameter for parameter in self.body if parameter.requires_grad]

    def on_start(self, loop: "Loop") -> None:
        super().on_start(loop)
        self._set()

    def on_epoch(self, record: Record) -> None:
        self._set()

    def on_end(self) -> None:
        self._set(everything=True)

    def _set(self, everything: bool = False) -> None:
        for parameter in self.body:
            parameter.requires_grad_(everything or self.loop.progress.epoch >= self.epochs)


class Saving(Callback):
    """Saves a checkpoint at the start, after every epoch and every ``every`` steps; comes after the logs it remembers.

    With ``beside`` the training waits only until its state is copied, and until an earlier save is done. A disk that
    refuses does not end the training: the older checkpoints stay, it is said at the next step at the latest, and the
    next save tries again.
    """

    def __init__(self, run: RunFolder, every: int = 0, beside: bool = True):
        self.run, self.every, self.beside = run, every, beside
        self._under_way: tuple[Future[Path], int, int] | None = None
        self._saved: tuple[int, int] | None = None

    def on_start(self, loop: "Loop") -> None:
        super().on_start(loop)
        if loop.progress.step == 0:
            self._say_what_does_not_fit()
            self.save()

    def on_step(self, record: Record) -> None:
        if self._under_way and self._under_way[0].done():
            self.settle()
        if self.every and self.loop.progress.step % self.every == 0:
            self.save()

    def on_epoch(self, record: Record) -> None:
        self.save(best=self.loop.best.improved)

    def save(self, best: bool = False) -> None:
        self.settle()
        step, epoch = self.loop.progress.step, self.loop.progress.epoch
        with self._survived(step, epoch):
            state, logs = self.loop.state_dict(), (self.run.metrics, self.run.trace)
            if (crew := self.loop.strategy.writers()) is None:
                return
            if self.beside:
                begun = self.run.checkpoints.begin(state, step=step, best=best, refers_to=logs, crew=crew)
                self._under_way = begun, step, epoch
            else:
                self.run.checkpoints.save(state, step=step, best=best, refers_to=logs, crew=crew)
                self._saved = step, epoch

    def save_last(self) -> None:
        """Save, unless the last save was of this very step: a stop asked for during a save costs no second one."""
        self.settle()
        here, strategy = (self.loop.progress.step, self.loop.progress.epoch), self.loop.strategy
        if strategy.agree(strategy.leads and self._saved != here):  # it knows best whether the last one is whole
            self.save()

    def settle(self) -> None:
        """Wait for the save under way, and say how it failed."""
        if self._under_way:
            (begun, step, epoch), self._under_way = self._under_way, None
            with self._survived(step, epoch):
                begun.result()
                self._saved = step, epoch

    def finish(self) -> None:
        """The training is over, however it ended; after an abort the save under way is left to itself."""
        if isinstance(sys.exception(), KeyboardInterrupt):
            return
        try:
            self.settle()
        finally:
            self.run.checkpoints.release()

    @contextmanager
    def _survived(self, step: int, epoch: int) -> Iterator[None]:
        try:
            yield
        except Unconfirmed as problem:
            self._say(step, epoch, f"the checkpoint is saved, with a reservation ({problem})")
        except OSError as problem:
            self._say(step, epoch, f"the checkpoint could not be saved ({problem})")

    def _say(self, step: int, epoch: int, what: str) -> None:
        message = f"step {step}: {what}; training goes on"
        warnings.warn(message, TrainingWarning, stacklevel=2)
        self.loop.callbacks.tell("on_failure", {"kind": "failure", "step": step, "epoch": epoch, "message": message})

    def _say_what_does_not_fit(self) -> None:
        weights = [weight for part in self.loop.parameters.values() for weight in part]
        growth = 2 * sum(weight.nbytes for weight in self.loop.strategy.local(weights))
        with self._survived(0, 0):
            state = self.loop.state_dict()
            if (crew := self.loop.strategy.writers()) is None:
                return
            needed, free = self.run.checkpoints.room(state, growth, crew)
            if needed > free and crew.leads:
                what = f"checkpoints need up to {needed:,} bytes in {self.run.path} and {free:,} are free"
                self._say(0, 0, f"{what}; saves will fail when it is full")


class Callbacks:
    """Several callbacks, told in their order; their states are kept under the names of their classes."""

    def __init__(self, callbacks: Sequence[Callback]):
        self.named: dict[str, Callback] = {}
        for callback in callbacks:
            name = type(callback).__name__
            twins = sum(key.split("#")[0] == name for key in self.named)
            self.named[f"{name}#{twins + 1}" if twins else name] = callback

    def tell(self, event: str, *details: Any) -> None:
        for callback in self.named.values():
            getattr(callback, event)(*details)

    def state_dict(self) -> dict[str, Any]:
        return {name: callback.state_dict() for name, callback in self.named.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Gives each callback what its namesake kept; those that were not there start afresh."""
        for name, callback in self.named.items():
            if name in state:
                callback.load_state_dict(state[name])
