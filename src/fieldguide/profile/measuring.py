"""``profile``: time, memory and limits of a network on this machine, measured so that the figures can be trusted."""

import copy
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity
from torch.profiler import profile as record
from torch.utils._pytree import tree_leaves

from fieldguide.errors import FieldguideError
from fieldguide.profile.clock import Quiet, Times, synchronize, take_turns
from fieldguide.profile.layers import Layer, LayerTable, layer_table
from fieldguide.profile.machine import Machine, measure_machine
from fieldguide.profile.memory import bytes_of, peak_of
from fieldguide.profile.operations import Loss, Operation, operations_of
from fieldguide.profile.roofline import Roofline, roofline
from fieldguide.profile.trying import Example, arguments_of, device_of, explaining, fitting, in_mode

ROUNDS = 100
LAYER_ROUNDS = 12


@dataclass(frozen=True)
class LayerTime:
    """What one layer costs in a forward pass; parts included, so that the rows of one depth do not overlap."""

    name: str
    kind: str
    parameters: int
    flops: int
    moved_bytes: int
    """What its operations read and write."""
    activation_bytes: int
    """What autograd keeps of it."""
    seconds: float


@dataclass(frozen=True)
class BatchTime:
    """A forward pass with one size of batch."""

    batch: int
    times: Times

    @property
    def throughput(self) -> float:
        """Samples a second, at the median."""
        return self.batch / self.times.median


@dataclass(frozen=True)
class Profile:
    """What :func:`profile` found; times in seconds, memory in bytes."""

    model: str
    machine: Machine
    batch: int
    table: LayerTable
    batches: tuple[BatchTime, ...]
    """Forward passes, among them one of the example's own batch."""
    step: Times | None
    """A training step."""
    resident_bytes: int
    """Parameters, buffers and the example."""
    forward_peak: int
    """What a forward pass needs at most beside them."""
    step_peak: int | None
    """What a training step needs at most beside them and the optimizer's state: activations, gradients, work space."""
    optimizer_bytes: int | None
    layer_seconds: dict[str, float]
    operations: tuple[Operation, ...]
    """Of a training step where there is one, else of a forward pass."""
    roof: Roofline
    """Over the same."""
    quiet: Quiet

    @property
    def forward(self) -> Times:
        return next(x.times for x in self.batches if x.batch == self.batch)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why the times should not be trusted; empty on a quiet machine."""
        return self.quiet.warnings

    def rows(self, depth: int = 2) -> list[LayerTime]:
        """The layers of a depth, and last what runs between them; they add up to the whole forward pass."""
        rows = [self._row(layer) for layer in self.table.rows(depth) if layer.name]
        whole = self._row(self.table.total)
        rest = [
            getattr(whole, field) - sum(getattr(row, field) for row in rows)
            for field in ("parameters", "flops", "moved_bytes", "activation_bytes", "seconds")
        ]
        return [*rows, LayerTime("(between layers)", "", *rest)]

    def _row(self, layer: Layer) -> LayerTime:
        within = f"{layer.name}." if layer.name else ""
        own = (o for o in self.operations if o.layer is not None and f"{o.layer}.".startswith(within))
        return LayerTime(
            layer.name,
            layer.kind,
            layer.parameters,
            layer.flops,
            sum(operation.bytes for operation in own),
            layer.activation_bytes,
            self.layer_seconds.get(layer.name, 0.0),
        )


def mean_square(output: Any) -> Tensor:
    """The loss of a training step when none is given: the mean square of everything that has a gradient."""
    learned = [x for x in tree_leaves(output) if isinstance(x, Tensor) and x.requires_grad]
    if not learned:
        raise FieldguideError("the model gives nothing that has a gradient; give profile(…, loss=) one that has")
    return torch.stack([x.float().square().mean() for x in learned]).sum()


def profile(
    model: nn.Module,
    example: Example,
    *,
    train: bool = False,
    loss: Loss = mean_square,
    batches: Sequence[int] = (),
    data: Iterable[Any] | None = None,
    seconds: float = 5.0,
    trace: Path | str | None = None,
    strict: bool = False,
) -> Profile:
    """Measure a module on an example, or a tuple of arguments, where it lies: processor or accelerator.

    Forward passes run in evaluation mode without gradients, on the example and on it repeated to each size of
    ``batches``; ``train`` adds training steps of a copy: forward, ``loss(output)``, backward, fused AdamW. All take
    turns for about ``seconds``, synchronised, after a warm-up. ``data``, the loader of a training, is timed by itself;
    where it is slower than the step, it binds. ``trace`` is a new file for one pass as a Chrome trace. The module, its
    gradients and torch's random numbers are afterwards as they were.

    Raises FieldguideError for a module that cannot run on the example (with the layer and what it was given), parts on
    several devices, a batch that does not fit the memory, a trace that cannot be written and, when ``strict``, for a
    machine too busy to trust its times; without, ``warnings`` of the result say so.
    """
    arguments = arguments_of(example)
    device = device_of(model, arguments)
    file = _new_file(Path(trace)) if trace is not None else None
    own = arguments[0].shape[0] if arguments and arguments[0].ndim else 1
    if min(batches, default=1) < 1:
        raise FieldguideError(f"batches={list(batches)}: a batch has at least one sample")
    with torch.random.fork_rng([device] if device.type == "cuda" else []), in_mode(model, False):
        inputs = {size: tuple(_repeated(x, own, size) for x in arguments) for size in sorted({own, *batches})}
        forwards = {size: _forward(model, given) for size, given in inputs.items()}
        for size, run in forwards.items():
            with explaining(model, inputs[size]), fitting(size, device):
                run()
        step, state = _step(model, arguments, loss) if train else (None, None)
        candidates: dict[str, Callable[[], object]] = {str(size): run for size, run in forwards.items()}
        if step:
            with fitting(own, device):
                step()
            candidates["step"] = step
        times, quiet = take_turns(candidates, device, seconds=seconds, rounds=ROUNDS)
        if strict and quiet.warnings:
            raise FieldguideError(f"this machine is too busy to time: {'; '.join(quiet.warnings)}; try again later")
        work = "step" if train else str(own)
        machine = measure_machine(device, _dtype(model, arguments))
        waiting = _data_seconds(data) if data is not None else 0.0
        if file:
            _write_trace(candidates[work], file, device)
        with torch.no_grad():
            layer_seconds = _layer_seconds(model, arguments, device)
        with in_mode(model, train):
            table = layer_table(model, arguments)
            noted = operations_of(model, arguments, loss if train else None)
        return Profile(
            type(model).__name__,
            machine,
            own,
            table,
            tuple(BatchTime(size, times[str(size)]) for size in forwards),
            times.get("step"),
            bytes_of(model) + sum(x.numel() * x.element_size() for x in arguments),
            peak_of(forwards[own], device),
            peak_of(step, device) if step else None,
            state() if state else None,
            layer_seconds,
            noted,
            roofline(noted, machine, times[work].median, waiting),
            quiet,
        )


def _forward(model: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
    @torch.no_grad()
    def run() -> None:
        model(*inputs)

    return run


def _step(model: nn.Module, inputs: tuple[Tensor, ...], loss: Loss) -> tuple[Callable[[], object], Callable[[], int]]:
    """A training step of a copy, which leaves no gradients behind, and the bytes of its optimizer's state."""
    trial = copy.deepcopy(model).train()
    learned = [parameter for parameter in trial.parameters() if parameter.requires_grad]
    if not learned:
        raise FieldguideError(f"{type(model).__name__} has no parameter that can be trained; profile it without train")
    optimizer = torch.optim.AdamW(learned, lr=1e-6, fused=True)

    def run() -> None:
        value = loss(trial(*inputs))
        if not value.requires_grad or value.numel() != 1:
            raise FieldguideError(
                f"loss gave {tuple(value.shape)}, {value.dtype}; a step needs one number with a gradient"
            )
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    def state_bytes() -> int:
        return sum(x.numel() * x.element_size() for x in tree_leaves(optimizer.state_dict()) if isinstance(x, Tensor))

    return run, state_bytes


def _layer_seconds(model: nn.Module, inputs: tuple[Tensor, ...], device: torch.device) -> dict[str, float]:
    """Per layer, the mean of the middle half of the passes by their length: robust, and it still adds up."""
    passes: list[dict[str, float]] = []
    running: list[float] = []

    def start(module: nn.Module, inputs: Any) -> None:
        synchronize(device)
        running.append(perf_counter())

    def stop_of(name: str) -> Callable[..., None]:
        def stop(module: nn.Module, inputs: Any, output: Any) -> None:
            synchronize(device)
            passes[-1][name] = passes[-1].get(name, 0.0) + perf_counter() - running.pop()

        return stop

    handles = [module.register_forward_pre_hook(start) for module in model.modules()]
    handles += [module.register_forward_hook(stop_of(name)) for name, module in model.named_modules()]
    try:
        for _ in range(LAYER_ROUNDS):
            passes.append({})
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    passes.sort(key=lambda one: one[""])
    middle = passes[LAYER_ROUNDS // 4 : -(LAYER_ROUNDS // 4)]
    return {name: fmean(one[name] for one in middle) for name in middle[0]}


def _data_seconds(data: Iterable[Any], most: int = 20) -> float:
    """The median time in which the next batch comes, the first apart."""
    batches, seconds = iter(data), []
    for _ in range(most):
        started = perf_counter()
        if next(batches, None) is None:
            break
        seconds.append(perf_counter() - started)
    if not seconds:
        raise FieldguideError("data gives no batch")
    return median(seconds[1:] or seconds)


def _write_trace(work: Callable[[], object], file: Path, device: torch.device) -> None:
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with record(activities=activities, record_shapes=True, with_modules=False) as recorder:
        work()
        synchronize(device)
    recorder.export_chrome_trace(str(file))


def _new_file(file: Path) -> Path:
    if not file.parent.is_dir():
        raise FieldguideError(f"there is no folder {file.parent} for the trace")
    if file.exists():
        raise FieldguideError(f"{file} exists already; choose another name for the trace")
    if not os.access(file.parent, os.W_OK):
        raise FieldguideError(f"the folder {file.parent} cannot be written, so the trace cannot go there")
    return file


def _repeated(x: Tensor, own: int, size: int) -> Tensor:
    """The samples again and again up to a size; an argument without that many rows stays as it is."""
    if size == own or not x.ndim or x.shape[0] != own:
        return x
    return x[torch.arange(size, device=x.device) % own]


def _dtype(model: nn.Module, example: tuple[Tensor, ...]) -> torch.dtype:
    floats = (x.dtype for x in (*model.parameters(), *example) if x.is_floating_point())
    return next(floats, torch.float32)
