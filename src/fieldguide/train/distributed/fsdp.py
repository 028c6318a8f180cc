"""Fully sharded data parallel: every process owns a slice of each parameter and borrows the rest block by block."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from fieldguide.objectives.classification import DeeplySupervised
from fieldguide.objectives.phase import Objective
from fieldguide.optim import Clip
from fieldguide.optim.exchange import here
from fieldguide.train.checkpoint import Slice, Stored, read
from fieldguide.train.distributed.norms import synchronised
from fieldguide.train.distributed.replicas import SplitBatches, broadcast
from fieldguide.train.distributed.sharded import clip_norm, receive, require_parts
from fieldguide.train.distributed.states import changed
from fieldguide.train.recipe import Recipe

_METHODS = ("deep_supervision", "loss", "log_prob")
"""What objectives call besides the model itself."""


class FSDP(SplitBatches):
    """Parameters, gradients and optimizer states are cut along the first axis, a slice for each process; a block's
    are put together while it computes (Rajbhandari et al. 2020, "ZeRO", stage 3; Zhao et al. 2023, "PyTorch FSDP").

    The network is copied to be cut, so the one that was given stays whole and receives the trained weights at the end.
    """

    def require(self, recipe: Recipe, objective: Objective, model: nn.Module) -> None:
        super().require(recipe, objective, model)
        require_parts("fsdp", recipe, objective, model)

    @contextmanager
    def spread(self, model: nn.Module) -> Iterator[nn.Module]:
        broadcast(model)
        own = copy.deepcopy(model).to(memory_format=torch.contiguous_format)  # all that FSDP cuts
        with synchronised(own):
            shard(own, init_device_mesh(self.group.device.type, (self.size,)))
            self._layout = {name: p for name, p in own.named_parameters() if isinstance(p, DTensor)}
            self._model = own
            yield own

    def collect(self, trained: nn.Module, model: nn.Module) -> None:
        receive(model, trained, _gathered)

    def expect(self, last: bool) -> None:
        assert isinstance(self._model, FSDPModule)
        self._model.set_requires_gradient_sync(last)

    def reduce(self, part: str, parameters: Sequence[nn.Parameter]) -> None: ...

    def clip(self, clip: Clip, limit: float) -> Clip:
        def by_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
            return clip_norm(self.local([p.grad for p in parameters if p.grad is not None]), [], limit, self.group)

        return by_norm

    def local(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return here(tensors)

    def parts(self, state: Any) -> Any:
        def part(name: str, tensor: Tensor) -> Tensor | Slice:
            if not isinstance(tensor, DTensor):
                return tensor
            return Slice(tensor.to_local(), tensor.shape, 0, self._rows(tensor)[0])

        return changed(state, self._layout, part)

    def shards(self, stored: Any) -> Any:
        def own(name: str, tensor: Stored) -> Tensor | Stored:
            like = self._layout[name]
            if tensor.shape != like.shape:
                return tensor
            local = tensor.read(0, *self._rows(like)).to(self.group.device)
            return DTensor.from_local(local, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())

        return read(changed(stored, self._layout, own))

    def _rows(self, tensor: DTensor) -> tuple[int, int]:
        """The first row that this process owns, and the one after its last."""
        rows, each = len(tensor), -(-len(tensor) // self.size)
        return min(self.group.rank * each, rows), min((self.group.rank + 1) * each, rows)


def shard(model: nn.Module, mesh: DeviceMesh) -> list[str]:
    """Cuts a model over a mesh, block by block; returns the names of the blocks.

    A block is an element, with modules of its own, of an outermost list or sequence: a Transformer's layers, a CNN's
    stages. What lies outside of them, or is shared with the outside, stays together with the root.
    """
    # A loss on inner maps goes through the blocks' own parts, past what puts a block together.
    names = [] if isinstance(model, DeeplySupervised) else blocks(model)
    for name in names:
        fully_shard(model.get_submodule(name), mesh=mesh, reshard_after_forward=True)
    # The root too: an evaluation is not followed by a backward pass, which would put its parameters away.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # shares are parts of the mean already
            module.set_force_sum_reduction_for_comms(True)
    for method in _METHODS:
        if hasattr(model, method):
            register_fsdp_forward_method(model, method)
    return names


def blocks(model: nn.Module) -> list[str]:
    """The names of the modules that ``shard`` cuts one by one."""
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList | nn.Sequential)]
    outermost = [name for name in lists if not any(name.startswith(f"{other}.") or not other for other in lists)]
    found: list[str] = []
    for name in outermost:
        for key, element in model.get_submodule(name).named_children():
            if [*element.children()] and [*element.parameters()] and not _shared(model, f"{name}.{key}"):
                found.append(f"{name}.{key}")
    return found


def _shared(model: nn.Module, block: str) -> bool:
    """Whether a parameter of a block also stands elsewhere."""
    inside = {id(parameter) for parameter in model.get_submodule(block).parameters()}
    everywhere = model.named_parameters(remove_duplicate=False)
    return any(id(parameter) in inside and not name.startswith(f"{block}.") for name, parameter in everywhere)


def _gathered(name: str, tensor: Tensor) -> Tensor:
    with torch.no_grad():
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
