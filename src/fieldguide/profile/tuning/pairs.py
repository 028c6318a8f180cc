"""Which layer follows which, found out by watching one pass: works for any network, however its code is written."""

from typing import Any

import torch
from torch import Tensor, nn

from fieldguide.profile.tuning.candidate import Arguments


@torch.no_grad()
def pairs(model: nn.Module, arguments: Arguments) -> dict[nn.Module, nn.Module]:
    """Each layer with the one that is given its output next, unchanged; layers that run more than once are left out.

    That nobody else is given the output too cannot be seen; whoever joins the pair compares the answers.
    """
    last: list[Any] = [None, None, 0]  # a layer, its output, and how often that had been overwritten by then
    found: dict[nn.Module, nn.Module] = {}
    runs: dict[nn.Module, int] = {}

    def start(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        runs[module] = runs.get(module, 0) + 1
        layer, output, version = last
        if layer and len(inputs) == 1 and inputs[0] is output and output._version == version:
            found[layer] = module

    def stop(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        last[:] = [module, output, output._version] if isinstance(output, Tensor) else [None, None, 0]

    leaves = [module for module in model.modules() if not module._modules]
    handles = [leaf.register_forward_pre_hook(start) for leaf in leaves]
    handles += [leaf.register_forward_hook(stop) for leaf in leaves]
    try:
        model(*arguments)
    finally:
        for handle in handles:
            handle.remove()
    return {one: other for one, other in found.items() if runs[one] == runs[other] == 1}


@torch.no_grad()
def input_sizes(model: nn.Module, arguments: Arguments) -> dict[nn.Module, list[int]]:
    """The size of the tensor that each convolution over images was last given."""
    sizes: dict[nn.Module, list[int]] = {}

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        sizes[module] = list(inputs[0].shape)

    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    handles = [conv.register_forward_pre_hook(note) for conv in convs]
    try:
        model(*arguments)
    finally:
        for handle in handles:
            handle.remove()
    return sizes
