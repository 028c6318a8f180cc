"""What a training does, from outside, as records: see ``fieldguide.doctor.records``.

    forward of a network ── loss function ── backward ── (clip) ── optimizer step
         its batch kept      name, value       loss        norm     gradients, update

It changes no number, draws nothing, prints nothing and raises nothing of its own. Between samples a step costs a few
microseconds; losses stay on their device until the next sample.
"""

import math
import os
import weakref
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fieldguide.doctor.observe.crash import LastCall, what_was_seen
from fieldguide.doctor.observe.hooks import Hooks, compiled
from fieldguide.doctor.observe.layers import LayerWatch
from fieldguide.doctor.observe.loaders import loader_facts
from fieldguide.doctor.observe.losses import LossCall, Targets, broadcast_in_graph, call_in_graph, loss_facts
from fieldguide.doctor.observe.replay import Recording, tensors
from fieldguide.doctor.observe.room import memory_share
from fieldguide.doctor.observe.sampling import StepFigures, fetched, gradients_gone, kept, rate_of
from fieldguide.doctor.observe.structure import (
    alive,
    layer_facts,
    learned_by,
    model_facts,
    optimizer_facts,
    parameters_of,
    players,
    tensor_facts,
    wraps,
)
from fieldguide.doctor.preflight import random_state_kept, tests
from fieldguide.doctor.preflight.batches import Evaluations, Feed, Order, Rows, worker_generators
from fieldguide.doctor.preflight.worker_draws import worker_repeats
from fieldguide.trace import Record

Sink = Callable[[Record], None]
Optimizer = torch.optim.Optimizer

DISCOVERY = 4  # optimizer steps for which every module call is looked at
WITHOUT_STEP = 10  # backward passes before a first step after which it is asked whether anything has moved
LOOKED = 40  # training batches that are looked at in full
TOLD = (2, 5, 20, 40)  # steps after which facts about the data are told again
COSTLY = 0.02  # share of the time above which samples become rarer


def every(step: int) -> int:
    """Distance to the next sample."""
    return 1 if step < 5 else 5 if step < 50 else 10 if step < 200 else 25 if step < 1000 else 50


class Observer:
    """Sends the records of whatever trains inside ``with Observer(sink):`` to ``sink``, in their order."""

    def __init__(self, sink: Sink, *, preflight: bool = True, recording: Callable[[nn.Module], Recording] = Recording):
        self.sink, self.preflight, self._recorded = sink, preflight, recording
        self.cost = 0.0
        """Seconds spent on samples and on the set-up."""
        self.excused = 0.0
        """Seconds of the set-up and of experiments, which happen once and make no sample rarer."""
        self.optimizer: Optimizer | None = None
        self.hooks = Hooks(self)
        self._former: list[weakref.ref[Optimizer]] = []
        self._trained: list[weakref.ref[Tensor]] = []
        """What earlier trainings of this script have learned."""
        self._layers = LayerWatch()
        self._scaler: Any = None
        self._training = True
        self._loader: DataLoader | None = None
        self._began = perf_counter()
        self._begin()

    def _begin(self) -> None:
        """Nothing is known of the training that begins."""
        self.step = 0
        self.recording: Recording | None = None
        self._models: list[weakref.ref[nn.Module]] = []
        self._optimizers: list[weakref.ref[Optimizer]] = []
        self._learned: list[weakref.ref[Tensor]] = []
        self._targets, self._eval_targets = Targets(), Targets()
        self._inputs, self._labels, self._eval_inputs = Feed(), Feed(labels=True), Feed()
        self._rows, self._order = Rows(), Order()
        self._evaluations = Evaluations(self._rows)
        self._loss: dict[str, Any] = {}
        self._detached = False
        self._broadcast: list[list[int]] | None = None
        self._calls = 0
        self._loss_call: LossCall | None = None
        """The last of these calls; no more are kept, for each keeps a graph alive."""
        self._accuracy: Tensor | None = None
        self._output: Any = None
        self._call: LastCall | None = None
        self._main: weakref.ref[Tensor] | None = None
        """What the network was given since the last backward pass."""
        self._train_loader: DataLoader | None = None
        self._waited = self._fetching = 0.0
        self._batches = self._batches_before = 0
        self._losses: list[tuple[Tensor | float, Tensor | float | None]] = []
        self._counted = 0
        """Of these when the step began; a closure that is called again within it tries other weights."""
        self._steps: list[tuple[int, float, list[tuple[Tensor | float, Tensor | float | None]], float]] = []
        self._evaluated: list[tuple[Tensor, int, tuple[Tensor, Tensor] | None]] = []
        self._eval_mode = False
        self._eval_main: Tensor | None = None
        self._eval_seen = 0
        self._clean: dict[int, bool] = {}
        self._asked = self._stale = False
        self._at_first: list[Tensor] = []
        self._moved = False
        self._clips: list[tuple[Tensor, float]] = []
        self._skipped = 0
        self._scaled_step = 0
        self._sampling = True
        self._next = 1
        self._spacing = 1
        self._figures: StepFigures | None = None
        self._before: StepFigures | None = None
        self._cosine: Tensor | None = None
        self._level = math.nan
        self._set_up_done = False
        self._last = self._sampled = perf_counter()

    def __enter__(self) -> "Observer":
        self.hooks.attach()
        return self

    def __exit__(self, kind: Any, problem: BaseException | None, traceback: Any) -> None:
        self.hooks.detach()
        self._layers.close()
        try:
            with torch.no_grad():
                self._finish(problem)
        except Exception as trouble:
            self.trouble(trouble)

    @property
    def seconds(self) -> float:
        return perf_counter() - self._began

    @property
    def _open(self) -> Recording | None:
        """The recording, as long as it takes more batches."""
        recording = self.recording
        return recording if recording is not None and self._batches < recording.within and not recording.full else None

    # ------------------------------------------------------------------------------------ what is told to it

    def network_called(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], learning: bool) -> None:
        for ref in self._models:
            if ref() is model:
                break
        else:
            self._models.append(weakref.ref(model))
            self.recording = self.recording or self._recorded(model)
            if self._sampling and not compiled(model):
                self._layers.open([known for ref in self._models if (known := ref()) is not None])
        self._call = LastCall(model, args, kwargs)
        if learning and self._batches >= LOOKED:
            self._training = model.training
            if (recording := self._open) is not None and model is recording.model:
                recording.given(args, kwargs)
            return
        given = tensors((args, kwargs))
        if not given:
            return
        main = next((t for t in given if t.is_floating_point() and t.ndim > 1), given[0])
        if not learning:
            self._eval_mode, self._eval_main = model.training, main
            return
        self._training = model.training
        again, self._main = self._main is not None and self._main() is main, weakref.ref(main)
        if not again:
            self._inputs.add(main)
            self._rows.add(main)
        if self.recording is not None and model is self.recording.model:
            self.recording.given(args, kwargs)

    def network_answered(self, model: nn.Module, output: Any) -> None:
        if (recording := self._open) is None:
            self.hooks.overlook_answers()
        elif model is recording.model:
            self._output = output

    def loss_called(self, call: LossCall) -> None:
        if call.learning:
            self._calls, self._loss_call = self._calls + 1, call
            return
        size = len(call.target) if call.target.ndim else 1
        self._evaluated.append((call.value.detach().float().mean(), size, call.correct()))
        self._eval_targets.add(call)
        if self._eval_main is not None and self._eval_seen < LOOKED:
            self._eval_seen += 1
            self._eval_inputs.add(self._eval_main)
            self._evaluations.add(self._eval_main, call.target)

    def batch_read(self, loader: DataLoader, seconds: float) -> None:
        self._loader = loader
        self._waited += seconds

    def number_fetched(self, seconds: float) -> None:
        self._fetching += seconds

    def before_backward(self, loss: Tensor) -> None:
        whole = kept(loss.detach().sum() if loss.ndim else loss)
        alone = self._loss_call.value if self._loss_call is not None and self._calls == 1 else None
        own = whole if alone is loss else kept(alone) if alone is not None and alone.numel() == 1 else None
        self._losses.append((whole, own))
        self._detached = self._detached or loss.grad_fn is None
        if self._sampling or self._batches < LOOKED:
            self._look_at(loss)
        if self._output is not None and self.recording is not None:
            self.recording.answered(self._output, loss, self._loss_call or call_in_graph(loss))
        self._calls, self._loss_call, self._output, self._main = 0, None, None, None
        self._batches += 1
        self._train_loader = self._loader or self._train_loader

    @torch.no_grad()
    def _look_at(self, loss: Tensor) -> None:
        """At what backward is about to be called on, and at what it was made of."""
        if self._sampling:
            self._asked = True
            for ref in self._optimizers:
                optimizer = ref()
                if optimizer is not None and not self._clean.get(id(optimizer), True):
                    self._clean[id(optimizer)] = gradients_gone(optimizer)
        if not self._batches and (pair := broadcast_in_graph(loss)) is not None:
            self._broadcast = pair
        call = self._loss_call or call_in_graph(loss)
        if not self.step and self._batches in {0, WITHOUT_STEP - 1}:
            norms = self._norms()
            self._moved = any(not torch.equal(a, b) for a, b in zip(self._at_first, norms, strict=False))
            self._at_first = norms
        if call is not None:
            self._targets.add(call)
            if self._sampling and (pair := call.correct()) is not None and len(pair[0]):
                self._accuracy = (pair[0] == pair[1]).float().mean()
            if self._batches < LOOKED:
                self._labels.add(call.target, call.ignore_index)
                if call.target.ndim:
                    self._order.add(call.target)
            self._loss = self._loss or loss_facts(call, loss)

    def clipped(self, norm: Tensor, limit: float) -> None:
        self._clips.append((norm, limit))

    def scaled(self, scaler: Any, optimizer: Optimizer) -> None:
        self._scaler = scaler
        self._skipped += self.step == self._scaled_step
        self._scaled_step = self.step

    def trouble(self, problem: Exception) -> None:
        self.sink({"kind": "trouble", "step": self.step, "says": f"{type(problem).__name__}: {problem}"[:300]})

    def before_step(self, optimizer: Optimizer) -> None:
        started = perf_counter()
        if optimizer is not self.optimizer or not self._set_up_done:
            self.optimizer = optimizer
            if self._set_up_done and self._is_another(optimizer):
                self._begin_another()
            self._know(optimizer)
        if self.recording is not None:
            self.recording.stepping(optimizer)
        self._counted = len(self._losses)
        if not self._set_up_done and (self.step or not self._former):  # a later one has called its network unseen
            self._set_up()
            self.excused += perf_counter() - started
        if self._evaluated:
            self._end_evaluation()
        if self._sampling:
            self._figures = StepFigures(optimizer)
            self.cost += perf_counter() - started

    def after_step(self, optimizer: Optimizer) -> None:
        now = perf_counter()
        self.step += 1
        self._steps.append((self.step, now - self._last, self._losses[: self._counted], rate_of(optimizer)))
        self._losses = []
        if self._asked and self.step > 1 and not self._clean.get(id(optimizer), True):
            self._stale = True
        if self._before is not None and self._before.optimizer is optimizer:
            self._cosine, self._before = self._before.cosine_with_next(), None
        if self._figures is not None:
            self._figures.finish()
            self._take_sample(self._figures)
            self.cost += perf_counter() - now + self._layers.cost
            self._layers.cost = 0.0
            self._before, self._figures = self._figures, None
            self._next = self.step + max(every(self.step), self._spacing if self.step > 50 else 1)
            if self.step > 50 and self.cost - self.excused > COSTLY * self.seconds:
                self._spacing = min(2 * max(self._spacing, every(self.step)), 1000)
        if self.step == DISCOVERY:
            self.hooks.settle()
        self._sampling, self._asked = self.step + 1 >= self._next, False
        self._clean[id(optimizer)] = False
        if self._sampling:
            models = [model for ref in self._models if (model := ref()) is not None]
            plain = [model for model in models if not compiled(model)]
            self._layers.open(plain)
            if len(plain) == len(models):
                self.hooks.fetches.open()
        self._last = perf_counter()

    # ---------------------------------------------------------------------------------------------- records

    def _know(self, optimizer: Optimizer) -> None:
        if not any(ref() is optimizer for ref in (*self._optimizers, *self._former)):
            self._optimizers.append(weakref.ref(optimizer))

    def _is_another(self, optimizer: Optimizer) -> bool:
        """It came after the set-up and learns other parameters: the next fold, trial or phase of a script."""
        if any(ref() is optimizer for ref in self._optimizers):
            return False
        if any(ref() is optimizer for ref in self._former):  # they take turns after all
            self._optimizers, self._former = self._former + self._optimizers, []
            self.sink({"kind": "setup", "step": self.step, "model": {"models": len(self._optimizers)}})
            return False
        own = {id(known) for ref in self._learned if (known := ref()) is not None}
        return own != parameters_of(optimizer)

    def _begin_another(self) -> None:
        """The records of another training follow, which counts its own steps."""
        self._flush()
        self.sink({"kind": "training", "step": self.step})
        former, losses = self._former + self._optimizers, self._losses
        self._layers.close()
        self._trained += self._learned
        self._begin()
        self._former, self._losses = former, losses
        self.hooks.discover()

    @torch.no_grad()
    def _set_up(self) -> None:
        """Everything that is known before the first step is taken."""
        self._set_up_done = True
        models = [model for ref in self._models if (model := ref()) is not None]
        known = [parameters_of(optimizer) for ref in self._optimizers if (optimizer := ref()) is not None]
        left = {id(p) for model in models for p in model.parameters() if p.requires_grad}.difference(*known)
        if left:  # the second optimizer of a GAN has not stepped yet
            self._find(models)
        optimizers = [optimizer for ref in self._optimizers if (optimizer := ref()) is not None]
        self._learned = learned_by(optimizers)
        record: Record = {
            "kind": "setup",
            "step": 0,
            "model": model_facts(models, players(optimizers), self._training),
            "layers": layer_facts(models),
            "tensors": tensor_facts(models, optimizers),
            "optimizers": optimizer_facts(optimizers),
            **self._facts(),
        }
        if self.preflight and self.recording is not None and self.recording.batches:
            record["tests"] = tests(self.recording)
            trained = {id(parameter) for ref in self._trained if (parameter := ref()) is not None}
            if not trained.isdisjoint(map(id, self.recording.model.parameters())):
                record["tests"].pop("frozen_trained")  # whatever its values look like
        if self.preflight and self._train_loader is not None and not record["loader"]["generators"]:
            with random_state_kept():
                if (repeats := worker_repeats(self._train_loader)) is not None:
                    record["loader"]["worker_repeats"] = repeats
        self.sink(record)

    def _find(self, models: list[nn.Module]) -> None:
        """Optimizers of these networks that have not stepped yet, among all that there are, which takes a while."""
        learned = {id(parameter) for model in models for parameter in model.parameters()}
        for optimizer in alive():
            if not learned.isdisjoint(parameters_of(optimizer)) and not wraps(optimizer):
                self._know(optimizer)

    def _facts(self) -> Record:
        loss = {**(self._loss or {"name": "unknown"}), "detached": self._detached}
        if self._broadcast:
            loss["broadcast"] = self._broadcast
        known = {"baseline": self._targets.baseline, "expected": self._targets.expected}
        loader = dict(self._order.facts())
        if self._train_loader is not None:
            loader |= {**loader_facts(self._train_loader), "generators": worker_generators(self._train_loader)}
        inputs = self._inputs.facts()
        if self._rows.total:
            inputs["duplicates"] = self._rows.repeats
        return {
            "loss": loss | {name: value for name, value in known.items() if value is not None},
            "inputs": inputs,
            "targets": self._labels.facts(),
            "loader": loader,
        }

    @torch.no_grad()
    def _end_evaluation(self) -> None:
        values = fetched([value for value, *_ in self._evaluated])
        sizes = [size for _, size, _ in self._evaluated]
        pairs = [pair for *_, pair in self._evaluated if pair is not None]
        record: Record = {
            "kind": "eval",
            "step": self.step,
            "loss": sum(v * n for v, n in zip(values, sizes, strict=True)) / max(1, sum(sizes)),
            "samples": sum(sizes),
            "training": self._eval_mode,
        }
        if pairs:
            predicted, true = (torch.cat(part) for part in zip(*pairs, strict=True))
            right = (predicted == true).double()
            record["accuracy"] = right.mean().item() if len(right) else 0.0
            classes, place = true.unique(return_inverse=True)
            if 1 < len(classes) <= 100:
                total = torch.zeros(len(classes), dtype=torch.double, device=true.device)
                hit = total.scatter_add(0, place, right)
                total = total.scatter_add(0, place, torch.ones_like(right))
                record["recalls"] = {str(c): r for c, r in zip(classes.tolist(), (hit / total).tolist(), strict=True)}
        if self._eval_targets.baseline is not None:
            record["baseline"] = self._eval_targets.baseline
        self._evaluations.end()
        self._evaluated, self._eval_targets = [], Targets()
        self.sink(record)
        facts = {**self._eval_inputs.facts(self._inputs), **self._evaluations.facts()}
        self.sink({"kind": "setup", "step": self.step, "eval_inputs": facts})

    @torch.no_grad()
    def _take_sample(self, figures: StepFigures) -> None:
        losses = [value for _, _, pairs, _ in self._steps for pair in pairs for value in pair if value is not None]
        signs = [
            (name, key, v)
            for name, own in self._layers.signs.items()
            for key, v in own.items()
            if isinstance(v, Tensor)
        ]
        measured = figures.measured()
        extra = [] if self._cosine is None else [self._cosine]
        values = fetched([*losses, *measured, *(v for *_, v in signs), *(norm for norm, _ in self._clips), *extra])
        at = iter(values)
        seconds = self._write_steps(at)
        sample: Record = {"kind": "sample", "step": self.step, "loss": self._level, "lr": rate_of(figures.optimizer)}
        sample |= figures.read([next(at) for _ in measured], self._layers)
        layers: dict[str, dict[str, Any]] = {}
        for name, own in self._layers.signs.items():
            layers[name] = {"type": own["type"], **sample.get("layers", {}).get(name, {})}
        for name, key, _ in signs:
            layers[name][key] = next(at)
        sample["layers"] = layers
        clips = [(next(at), limit) for _, limit in self._clips]
        if clips:
            sample["clip_norm"], sample["clip_limit"] = clips[-1]
            sample["clipped"] = sum(norm > limit for norm, limit in clips) / len(clips)
        if extra:
            sample["update_cosine"] = next(at)
        sample |= self._surroundings(seconds)
        self.sink(sample)
        if self.step in TOLD or self.step % 200 == 0:
            self.sink({"kind": "setup", "step": self.step, **self._facts()})
        self._layers.close()
        self._clips, self._cosine, self._stale = [], None, False

    def _write_steps(self, values: Any) -> list[float]:
        """The steps since the last sample as records; their wall times."""
        steps, self._steps = self._steps, []
        for step, seconds, pairs, rate in steps:
            whole = [(next(values), next(values) if own is not None else None) for _, own in pairs]
            if whole:
                self._level = _in_its_unit(whole, self._scale)
            self.sink({"kind": "step", "step": step, "loss": self._level, "lr": rate, "seconds": seconds})
        return [seconds for _, seconds, _, _ in steps]

    @property
    def _scale(self) -> float:
        return float(self._scaler.get_scale()) if self._scaler is not None else 1.0

    def _surroundings(self, seconds: list[float]) -> Record:
        now = perf_counter()
        more: Record = {
            "data_wait": min(1.0, self._waited / max(now - self._sampled, 1e-9)),
            "seconds": median(seconds),
            "backwards": (self._batches - self._batches_before) / max(1, len(seconds)),
            "training": self._training,
            "memory": _memory(),
            "memory_share": memory_share(),
        }
        if self.hooks.fetches.is_open:
            more["sync_wait"] = min(1.0, self._fetching / max(seconds[-1], 1e-9))
            self.hooks.fetches.close()
        if self._asked:
            more["stale_gradient"] = self._stale
        if (baseline := self._targets.baseline) is not None:
            more["baseline"] = baseline
        if self._accuracy is not None:
            more["accuracy"] = self._accuracy.item()
        if self._scaler is not None:
            more |= {"scale": self._scale, "skipped": self._skipped}
        self._waited = self._fetching = 0.0
        self._batches_before, self._sampled = self._batches, now
        self._accuracy = None
        return more

    def _norms(self) -> list[Tensor]:
        """Of every parameter, to see later whether anything has changed them."""
        return [p.norm() for ref in self._models if (model := ref()) is not None for p in model.parameters()]

    def _flush(self) -> None:
        if self._steps:
            losses = [value for _, _, pairs, _ in self._steps for pair in pairs for value in pair if value is not None]
            self._write_steps(iter(fetched(losses)))
        if self._evaluated:
            self._end_evaluation()

    def _finish(self, problem: BaseException | None) -> None:
        self._flush()
        if not self._set_up_done and self._models and self._batches:
            self._set_up()  # it never took a step
        end: Record = {"kind": "end", "step": self.step, "batches": self._batches, "networks": len(self._models)}
        if not self.step:
            end["moved"] = self._moved
        if problem is not None and not isinstance(problem, SystemExit):
            end["error"] = f"{type(problem).__name__}: {problem}".splitlines()[0][:300]
            if isinstance(problem, Exception) and (seen := what_was_seen(problem, self._call)):
                end["where"] = seen
        self.sink(end)


def _in_its_unit(pairs: list[tuple[float, float | None]], scale: float) -> float:
    """The loss of a step from what backward was called on and what the loss function said, for each micro-batch.

    When one is a fixed multiple of the other (a gradient scaler, accumulation), the function's own mean is meant;
    otherwise backward's sum, without the scaler's factor.
    """
    factors = [whole / own for whole, own in pairs if own and math.isfinite(own) and math.isfinite(whole)]
    alike = len(factors) == len(pairs) and all(math.isclose(a, b, rel_tol=1e-3) for a, b in pairwise(factors))
    if alike and factors and factors[0] > 0 and not math.isclose(factors[0], 1.0, rel_tol=1e-3) and _usual(factors[0]):
        return sum(own for _, own in pairs if own is not None) / len(pairs)
    return sum(whole for whole, _ in pairs) / scale


def _usual(factor: float) -> bool:
    """One over a small number, or a power of two as scalers have it."""
    return math.isclose(1 / factor, round(1 / factor), rel_tol=1e-3) if factor < 1 else math.log2(factor) % 1 < 1e-3


def _memory() -> float:
    """MiB allocated on the accelerator, or held by the process."""
    if torch.cuda.is_initialized():
        return torch.cuda.memory_allocated() / 2**20
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return math.nan
