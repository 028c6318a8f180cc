import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.optim import build_clip, clip_gradients, clip_units, clip_values, non_finite_gradients


def _with_gradients(scale=1.0, dtype=torch.float64):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).to(dtype)
    for parameter in model.parameters():
        parameter.grad = scale * torch.randn_like(parameter)
    return model


@given(st.floats(1e-7, 1e3), st.floats(1e-7, 1e2))
def test_equals_torch(scale, max_norm):
    ours, theirs = _with_gradients(scale), _with_gradients(scale)
    norm = clip_gradients(list(ours.parameters()), max_norm)
    expected = nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
    assert norm.item() == pytest.approx(expected.item(), rel=1e-12)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=0)


def test_norm_is_that_of_one_long_vector_and_small_gradients_stay():
    model = _with_gradients(1e-3)
    flat = torch.cat([p.grad.flatten() for p in model.parameters()])
    norm = clip_gradients(list(model.parameters()), 1.0)
    assert norm.item() == pytest.approx(flat.norm().item(), rel=1e-12)
    assert torch.equal(flat, torch.cat([p.grad.flatten() for p in model.parameters()]))


def test_zero_only_measures():
    model = _with_gradients(100.0)
    before = [p.grad.clone() for p in model.parameters()]
    assert clip_gradients(list(model.parameters()), 0.0) > 1
    assert all(torch.equal(p.grad, old) for p, old in zip(model.parameters(), before, strict=True))


def test_without_gradients_the_norm_is_zero():
    assert clip_gradients(list(nn.Linear(2, 2).parameters()), 1.0) == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_seen_and_named(bad):
    model = _with_gradients()
    model[2].bias.grad[1] = bad
    assert not clip_gradients(list(model.parameters()), 0.0).isfinite()
    assert non_finite_gradients(model.named_parameters()) == ["2.bias"]


def _convolutional(scale):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 6), nn.Linear(6, 2))
    for parameter in model.double().parameters():
        parameter.data.mul_(torch.rand(len(parameter)).view(-1, *[1] * (parameter.ndim - 1)))  # small units, and large
        parameter.grad = scale * torch.randn_like(parameter)
    model[0].weight.data[0] = 0.0
    return model


@given(st.floats(1e-4, 1e3), st.floats(1e-2, 1e2))
def test_values_equal_torch(scale, limit):
    ours, theirs = _with_gradients(scale), _with_gradients(scale)
    flat = torch.cat([p.grad.flatten() for p in theirs.parameters()])
    assert clip_values(list(ours.parameters()), limit).item() == pytest.approx(flat.norm().item(), rel=1e-12)
    nn.utils.clip_grad_value_(theirs.parameters(), limit)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@given(st.floats(1e-4, 1e2), st.floats(1e-3, 1))
def test_adaptive_is_its_equation_unit_by_unit(scale, limit):
    model = _convolutional(scale)
    before = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    build_clip("adaptive", limit, model)(list(model.parameters()))
    for name, parameter in model.named_parameters():
        if name.startswith("4."):
            assert torch.equal(parameter.grad, before[name]), "the last layer is left alone"
            continue
        pairs = zip(parameter, before[name], parameter.grad, strict=True)
        for weight, old, new in pairs if parameter.ndim > 1 else [(parameter, before[name], parameter.grad)]:
            most = limit * max(weight.norm().item(), 1e-3)
            factor = most / old.norm().item() if old.norm() > most else 1.0
            torch.testing.assert_close(new, old * factor, rtol=1e-12, atol=1e-18)


@given(st.floats(1e-2, 1e2), st.floats(1e-3, 1))
def test_adaptive_equals_timm(scale, limit):
    agc = pytest.importorskip("timm.utils.agc")
    ours, theirs = _convolutional(scale), _convolutional(scale)
    clip_units(list(ours.parameters()), limit)
    agc.adaptive_clip_grad(theirs.parameters(), clip_factor=limit, eps=1e-3)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-12, atol=1e-18)


def test_a_head_is_the_last_layer_wherever_it_stands():
    model = nn.ModuleDict({"head": nn.Linear(3, 2), "body": nn.Linear(3, 3)})
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    build_clip("adaptive", 0.01, model)(list(model.parameters()))
    assert (model["head"].weight.grad == 100).all()
    assert (model["body"].weight.grad < 1).all()


@pytest.mark.parametrize("name", ["norm", "value", "adaptive"])
def test_every_way_measures_and_keeps_what_is_not_finite(name):
    model = _convolutional(3.0)
    parameters, norm = list(model.parameters()), _flat(model).norm().item()
    before = _flat(model)
    assert build_clip(name, 0.0, model)(parameters).item() == pytest.approx(norm)
    assert torch.equal(before, _flat(model)), "0 only measures"
    assert build_clip(name, 0.01, model)(parameters).item() == pytest.approx(norm), "the norm is that before clipping"
    assert not torch.equal(before, _flat(model))
    model[3].weight.grad[0, 0] = float("nan")
    assert build_clip(name, 0.01, model)(parameters).isnan()
    assert build_clip(name, 0.01, model)(list(nn.Linear(2, 2).parameters())) == 0


def _flat(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_an_unknown_way_is_refused():
    with pytest.raises(FieldguideError, match="unknown way to clip 'adaptiv'; did you mean 'adaptive'"):
        build_clip("adaptiv", 1.0, nn.Linear(2, 2))
