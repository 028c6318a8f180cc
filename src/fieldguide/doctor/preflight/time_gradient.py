"""How much of the gradient reaches the first time step of a recurrent network? Its norm there over the largest."""

import torch
from torch import nn

from fieldguide.doctor.preflight.twin import Twin, changed
from fieldguide.doctor.records import Test


def time_gradient(twin: Twin) -> Test:
    cells = [module for module in twin.model.modules() if isinstance(module, nn.RNNBase)]
    place, x = twin.main_input()
    if not cells or x.ndim != 3 or not x.is_floating_point():
        return {"ok": None, "says": "no recurrent network over a sequence"}
    x = x.detach().clone().requires_grad_()
    loss = twin.loss(changed(twin.batch, (place, x)))
    (gradient,) = torch.autograd.grad(loss, x)
    over_time = gradient.movedim(1 if cells[0].batch_first else 0, 0).flatten(1).norm(dim=1)
    largest = over_time.max().item()
    if not largest:
        return {"ok": None, "says": "no gradient reaches the input"}
    figure = over_time[0].item() / largest
    says = f"the gradient at the first of {len(over_time)} time steps is {figure:.1g} of the largest"
    return {"ok": figure > 1e-4, "figure": figure, "says": says}
