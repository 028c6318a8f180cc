"""Changes of a copied network: initial values, activations, cells. LookupError where there is nothing to change."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fieldguide.doctor.observe.replay import Kept, tensors

AFFINE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
ACTIVATIONS = (nn.Sigmoid, nn.Tanh, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardtanh, nn.Softsign)
BETWEEN = (nn.Identity, nn.Dropout, nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)
SMALL = 0.02  # deviation of parameters that belong to no layer of PyTorch (Radford et al. 2019)


class Normalised(nn.Module):
    """GELU of what is brought to a mean of 0 and a deviation of 1 over each sample's last axis, or its channels."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(F.layer_norm(x, x.shape[-1:]) if x.ndim < 4 else F.group_norm(x, 1))


class Shortcut(nn.Module):
    """What goes around ``inner`` is added to what comes out of it, where both have one shape (He et al. 2016)."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return x + y if x.shape == y.shape else y


@torch.no_grad()
def afresh(model: nn.Module) -> None:
    """New initial values: those that PyTorch's layers draw, small normal ones for parameters of other modules."""
    for module in model.modules():
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if callable(reset):
            reset()
            continue
        for parameter in module.parameters(recurse=False):
            if parameter.ndim > 1:
                parameter.normal_(0.0, SMALL)


def normalised(model: nn.Module) -> None:
    """Every activation normalised, as GELU, with a shortcut around it and its layer; initial values drawn anew."""
    found = 0
    for parent in list(model.modules()):
        before = ""
        for name, child in list(parent.named_children()):
            if isinstance(child, ACTIVATIONS):
                found += 1
                setattr(parent, name, Normalised())
                layer = getattr(parent, before, None)
                if isinstance(parent, nn.Sequential) and isinstance(layer, AFFINE):
                    setattr(parent, before, Shortcut(nn.Sequential(layer, Normalised())))
                    setattr(parent, name, nn.Identity())
            before = name
    if not found:
        raise LookupError("the network has no activations that are modules")
    afresh(model)


def activated(model: nn.Module) -> None:
    """GELU between layers of a sequence that follow one another without anything that bends."""
    found = 0
    for sequence in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        open_layer = None
        for place, layer in enumerate(list(sequence)):
            if isinstance(layer, AFFINE):
                if open_layer is not None:
                    sequence[open_layer] = nn.Sequential(sequence[open_layer], nn.GELU())
                    found += 1
                open_layer = place
            elif not isinstance(layer, (*BETWEEN, nn.Flatten, nn.MaxPool2d)):
                open_layer = None
    if not found:
        raise LookupError("no layers follow one another directly in a sequence")


def gated(model: nn.Module) -> None:
    """A GRU in place of every plain recurrent network."""
    found = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.RNN:
                own = (child.input_size, child.hidden_size, child.num_layers)
                cell = nn.GRU(*own, bias=child.bias, batch_first=child.batch_first, dropout=child.dropout,
                              bidirectional=child.bidirectional)  # fmt: skip
                setattr(parent, name, cell)
                found += 1
    if not found:
        raise LookupError("the network has no plain recurrent layer")


def linear_head(model: nn.Module) -> None:
    """The last module of the outermost sequence gone, where it is an activation."""
    if not isinstance(model, nn.Sequential) or not isinstance(model[-1], ACTIVATIONS):
        raise LookupError("the network's last module is no activation")
    model[-1] = nn.Identity()


def dropout(model: nn.Module, share: float) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = min(module.p, share)


def finite(batch: Kept) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in tensors((batch.args, batch.kwargs, batch.target)))
