import torch
from torch import nn

from fieldguide.optim import centralize_gradients


def test_it_is_the_projection_of_the_paper():
    """Eq. 2 and 3: each unit's gradient g becomes P·g with P = I − e·eᵀ and e the unit vector of equal numbers."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(16, 6)).double()
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    before = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    centralize_gradients(list(model.parameters()))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert torch.equal(parameter.grad, before[name])
            continue
        rows = before[name].flatten(1)
        e = torch.full((rows.shape[1], 1), rows.shape[1] ** -0.5, dtype=torch.float64)
        projection = torch.eye(rows.shape[1], dtype=torch.float64) - e @ e.T
        torch.testing.assert_close(parameter.grad.flatten(1), rows @ projection, rtol=1e-12, atol=1e-14)


def test_parameters_without_a_gradient_are_passed_over():
    layer = nn.Linear(2, 2)
    centralize_gradients(list(layer.parameters()))
    assert layer.weight.grad is None
