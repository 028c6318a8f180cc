import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fieldguide.optim import clip_gradients, non_finite_gradients


def _with_gradients(scale=1.0, dtype=torch.float64):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).to(dtype)
    for parameter in model.parameters():
        parameter.grad = scale * torch.randn_like(parameter)
    return model


@given(st.floats(1e-3, 1e3), st.floats(1e-2, 1e2))
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
