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


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "rmsprop"])
def test_each_layer_moves_at_its_own_rate_and_the_whole_rate_is_reported(name):
    """One step of a layer with a share of the rate is a step of a network that has this rate throughout."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double(), torch.randn(8, 5).double()
    options = {"lr": LR, "weight_decay": DECAY}

    def stepped(layer, factor, **rates):
        twin = copy.deepcopy(model)
        optimizer = build_optimizer(twin, name, **(options | rates))
        assert set_rate(optimizer, factor) == pytest.approx(rates.get("lr", LR) * factor)
        twin(x).square().mean().backward()
        optimizer.step()
        return twin[layer].weight

    assert torch.equal(stepped(2, 0.5, layer_decay=0.25), stepped(2, 0.5))
    torch.testing.assert_close(stepped(0, 0.5, layer_decay=0.25), stepped(0, 0.5, lr=LR * 0.25), rtol=0, atol=1e-12)
    torch.testing.assert_close(stepped(0, 0.5, rates={"0": 3.0}), stepped(0, 0.5, lr=LR * 3), rtol=0, atol=1e-12)
    assert not torch.equal(stepped(0, 0.5, layer_decay=0.25), stepped(0, 0.5))


def test_rates_hold_before_the_first_schedule():
    optimizer = build_optimizer(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), lr=0.5, layer_decay=0.1)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.5, 0.5, 0.05, 0.05])


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
