import copy

import pytest
import torch
from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.optim import Optimizers, build_optimizer, set_rate

LR, DECAY, MOMENTUM, BETAS, EPS = 0.01, 0.1, 0.9, (0.8, 0.95), 1e-6


def _adamw(p, g, s, t):
    p = p * (1 - LR * DECAY)
    s["m"] = BETAS[0] * s.get("m", 0) + (1 - BETAS[0]) * g
    s["v"] = BETAS[1] * s.get("v", 0) + (1 - BETAS[1]) * g * g
    return p - LR * (s["m"] / (1 - BETAS[0] ** t)) / ((s["v"] / (1 - BETAS[1] ** t)).sqrt() + EPS)


def _adam(p, g, s, t):
    g = g + DECAY * p
    s["m"] = BETAS[0] * s.get("m", 0) + (1 - BETAS[0]) * g
    s["v"] = BETAS[1] * s.get("v", 0) + (1 - BETAS[1]) * g * g
    return p - LR * (s["m"] / (1 - BETAS[0] ** t)) / ((s["v"] / (1 - BETAS[1] ** t)).sqrt() + EPS)


def _sgd(p, g, s, t):
    g = g + DECAY * p
    s["b"] = g if t == 1 else MOMENTUM * s["b"] + g
    return p - LR * (g + MOMENTUM * s["b"])


def _rmsprop(p, g, s, t):
    g = g + DECAY * p
    s["v"] = 0.99 * s.get("v", 0) + 0.01 * g * g
    s["b"] = MOMENTUM * s.get("b", 0) + g / (s["v"].sqrt() + EPS)
    return p - LR * s["b"]


@pytest.mark.parametrize(("name", "rule"), [("adamw", _adamw), ("adam", _adam), ("sgd", _sgd), ("rmsprop", _rmsprop)])
def test_agrees_with_the_equations_over_fifty_steps(name, rule):
    torch.manual_seed(0)
    model = nn.Linear(6, 4, bias=False).double()
    target, inputs = torch.randn(32, 4, dtype=torch.float64), torch.randn(32, 6, dtype=torch.float64)
    optimizer = build_optimizer(model, name, lr=LR, weight_decay=DECAY, momentum=MOMENTUM, betas=BETAS, eps=EPS)
    weight, state = model.weight.detach().clone(), {}
    for t in range(1, 51):
        optimizer.zero_grad()
        (model(inputs) - target).square().mean().backward()
        gradient = 2 * (inputs @ weight.T - target).T @ inputs / target.numel()
        weight = rule(weight, gradient, state, t)
        optimizer.step()
    torch.testing.assert_close(model.weight.detach(), weight, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_fused_wherever_torch_has_it(name):
    assert all(group["fused"] for group in build_optimizer(nn.Linear(2, 2), name).param_groups)


def test_groups_know_their_parameters_names_and_base_rates():
    optimizer = build_optimizer(nn.Linear(3, 2), "sgd", lr=0.5)
    assert [group["param_names"] for group in optimizer.param_groups] == [["weight"], ["bias"]]
    assert set_rate(optimizer, 0.1) == pytest.approx(0.05)
    assert [group["base_lr"] for group in optimizer.param_groups] == [0.5, 0.5]


def test_no_momentum_is_plain_sgd():
    assert not build_optimizer(nn.Linear(2, 2), "sgd", momentum=0.0).param_groups[0]["nesterov"]


def test_unknown_name_suggests():
    with pytest.raises(FieldguideError, match="did you mean 'adamw'"):
        build_optimizer(nn.Linear(2, 2), "adamww")


def test_nothing_to_train():
    with pytest.raises(FieldguideError, match="nothing to train"):
        build_optimizer(nn.Linear(2, 2).requires_grad_(False))


@pytest.mark.parametrize("name", ["adamw", "sgd", "rmsprop"])
def test_a_restored_optimizer_goes_on_bit_for_bit_in_any_memory_layout(name):
    """Torch's own loading leaves contiguous moments beside channels-last weights, and fused kernels mix them up."""
    torch.manual_seed(0)
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 5, 5)

    def step(model, optimizers):
        model(images).square().mean().backward()
        optimizers["model"].step()
        optimizers["model"].zero_grad()

    first = Optimizers({"model": build_optimizer(model, name)})
    step(model, first)
    twin = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    twin.load_state_dict(model.state_dict())
    second = Optimizers({"model": build_optimizer(twin, name)})
    state = copy.deepcopy(first.state_dict())
    for moments in state["model"]["state"].values():
        moments |= {name: value.clone(memory_format=torch.contiguous_format) for name, value in moments.items()}
    second.load_state_dict(state)
    for _ in range(3):
        step(model, first)
        step(twin, second)
    assert torch.equal(model.weight, twin.weight)
