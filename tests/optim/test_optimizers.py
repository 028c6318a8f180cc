import copy
import re
import sys

import pytest
import torch
from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.models import create_model
from fieldguide.optim import LAMB, OPTIMIZERS, SOAP, Muon, Optimizers, ScheduleFreeAdamW, build_optimizer, set_rate
from fieldguide.optim.muon import hidden_matrices, orthogonal

LR, DECAY = 0.01, 0.1


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_fused_wherever_torch_has_it(name):
    assert all(group["fused"] for group in build_optimizer(nn.Linear(2, 2), name).param_groups)


def test_groups_know_their_parameters_names_and_base_rates():
    optimizer = build_optimizer(nn.Linear(3, 2), "sgd", lr=0.5)
    assert [group["param_names"] for group in optimizer.param_groups] == [["weight"], ["bias"]]
    assert set_rate(optimizer, 0.1) == pytest.approx(0.05)
    assert [group["base_lr"] for group in optimizer.param_groups] == [0.5, 0.5]


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "rmsprop", "nadam", "lamb", "schedule_free"])
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


def _skip_without_its_library(name):
    if name == "lion":
        pytest.importorskip("pytorch_optimizer")


def _convolutions():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 6, 3, bias=False), nn.Flatten(), nn.Linear(6, 5))
    return model.to(memory_format=torch.channels_last)


def _steps(model, optimizers, count):
    images = torch.linspace(-2, 2, 300).sin().view(4, 3, 5, 5).to(memory_format=torch.channels_last)
    for _ in range(count):
        model(images).square().mean().backward()
        optimizers["model"].step()
        optimizers["model"].zero_grad()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_restored_optimizer_goes_on_bit_for_bit_in_any_memory_layout(name):
    """Torch's own loading leaves contiguous moments beside channels-last weights, and fused kernels mix them up."""
    _skip_without_its_library(name)
    model, twin = _convolutions(), _convolutions()
    first = Optimizers({"model": build_optimizer(model, name)})
    second = Optimizers({"model": build_optimizer(twin, name)})
    _steps(model, first, 12)  # past SOAP's first renewal
    twin.load_state_dict(model.state_dict())
    second.load_state_dict(_as_on_disk(first.state_dict()))
    _steps(model, first, 12)
    _steps(twin, second, 12)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def _as_on_disk(state):
    """Every tensor by itself and contiguous."""
    if isinstance(state, torch.Tensor):
        return state.clone(memory_format=torch.contiguous_format)
    if isinstance(state, dict):
        return {key: _as_on_disk(value) for key, value in state.items()}
    return [_as_on_disk(value) for value in state] if isinstance(state, list) else state


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_vectors_never_decay_and_matrices_do(name):
    """The first step that moves anything, with weight decay and without, differs in the matrices only."""
    _skip_without_its_library(name)

    def stepped(weight_decay):
        model = _convolutions()
        optimizers = Optimizers({"model": build_optimizer(model, name, lr=LR, weight_decay=weight_decay)})
        _steps(model, optimizers, 2 if name == "soap" else 1)
        return dict(model.named_parameters())

    plain, decayed = stepped(0.0), stepped(0.5)
    vectors = {"0.bias", "4.bias"}
    if name == "soap":  # whose first step moves vectors no more than matrices
        vectors = {key for key in vectors if torch.equal(plain[key], decayed[key])}
        assert vectors == {"0.bias", "4.bias"}
    assert {key for key in plain if not torch.equal(plain[key], decayed[key])} == set(plain) - vectors


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_bf16_weights_and_a_parameter_that_begins_later(name):
    _skip_without_its_library(name)
    model = _convolutions().bfloat16()
    optimizer = build_optimizer(model, name, lr=LR)
    images = torch.randn(4, 3, 5, 5).bfloat16()
    model[2].weight.requires_grad_(False)
    before = model[2].weight.clone()
    for frozen in (True, True, True, False, False, False):
        model[2].weight.requires_grad_(not frozen)
        optimizer.zero_grad()
        model(images).float().square().sum().backward()
        optimizer.step()
        assert torch.equal(model[2].weight, before) or not frozen
    assert not torch.equal(model[2].weight, before)
    assert all(p.dtype is torch.bfloat16 and p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_closure_is_called_once_with_gradients_on(name):
    _skip_without_its_library(name)
    model, calls = _convolutions(), []
    optimizer = build_optimizer(model, name)

    def closure():
        calls.append(torch.is_grad_enabled())
        loss = model(torch.ones(1, 3, 5, 5)).square().mean()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() > 0
    assert calls == [True]


# ------------------------------------------------------------------------------------------------ beside other code


def test_muon_is_torchs_up_to_bf16():
    torch.manual_seed(0)
    ours = nn.Parameter(torch.randn(12, 20))
    theirs = nn.Parameter(ours.detach().clone())
    muon = Muon([{"params": [ours]}], lr=0.01, momentum=0.9, weight_decay=0.1)
    options = {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    torchs = torch.optim.Muon([theirs], **options)
    for _ in range(10):
        gradient = torch.randn(12, 20)
        ours.grad, theirs.grad = gradient.clone(), gradient
        muon.step()
        torchs.step()
    moved = 10 * 0.01 * 0.2 * 20**0.5
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.03 * moved)


def test_orthogonal_keeps_directions_and_evens_out_singular_values():
    matrix = torch.randn(8, 12, dtype=torch.float64) * torch.logspace(-1, 1, 8, dtype=torch.float64)[:, None]
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.T @ orthogonal(matrix) @ vt.T
    torch.testing.assert_close(inside, inside.diag().diag(), rtol=0, atol=1e-10)
    assert inside.diag().min() > 0.6
    assert inside.diag().max() < 1.3
    torch.testing.assert_close(orthogonal(matrix.T), orthogonal(matrix).T)


def test_muon_moves_what_lies_between_the_ends():
    def names(model):
        return {name for name, w in model.named_parameters() if w in hidden_matrices(model)}

    resnet = names(create_model("resnet_mini"))
    assert "stem.conv.weight" not in resnet
    assert not [name for name in resnet if name.startswith("head")]
    assert [name for name in resnet if name.startswith("stages.2")]
    gpt = names(create_model("gpt_mini"))
    assert not [name for name in gpt if "tokens" in name or "positions" in name]
    assert set("".join(re.findall(r"layers\.(\d)", " ".join(gpt)))) == {"0", "1"}
    grouped = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 1), nn.Linear(4, 2))
    assert names(grouped) == {"2.weight"}
    optimizer = build_optimizer(grouped, "muon")
    assert [group["param_names"] for group in optimizer.param_groups if "betas" not in group] == [["2.weight"]]
    assert sorted(name for group in optimizer.param_groups for name in group["param_names"]) == sorted(
        name for name, _ in grouped.named_parameters()
    )


def test_muon_needs_something_between():
    with pytest.raises(FieldguideError, match=r'no matrix between its first and its last layer for muon .*use "adamw"'):
        build_optimizer(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "muon")


def _same_course(ours, theirs, steps=50, tolerance=1e-6):
    """Two optimizers on one parameter each, fed the same gradients."""
    for step in range(steps):
        torch.manual_seed(step)
        gradient = torch.randn(4, 4) + ours.param_groups[0]["params"][0].detach()
        for optimizer in (ours, theirs):
            optimizer.param_groups[0]["params"][0].grad = gradient.clone()
            optimizer.step()
    first, second = (optimizer.param_groups[0]["params"][0] for optimizer in (ours, theirs))
    torch.testing.assert_close(first, second, rtol=0, atol=tolerance)


def _pair():
    torch.manual_seed(0)
    weight = torch.randn(4, 4)
    return [nn.Parameter(weight.clone())], [nn.Parameter(weight.clone())]


def test_lamb_is_timms():
    timms = pytest.importorskip("timm.optim")
    ours, theirs = _pair()
    other = timms.Lamb(theirs, lr=LR, weight_decay=DECAY, max_grad_norm=None)
    _same_course(LAMB([{"params": ours}], lr=LR, weight_decay=DECAY), other)


def test_schedule_free_is_the_librarys():
    library = pytest.importorskip("pytorch_optimizer")
    ours, theirs = _pair()
    other = library.ScheduleFreeAdamW(theirs, lr=LR, weight_decay=DECAY)
    mine = ScheduleFreeAdamW([{"params": ours}], lr=LR, weight_decay=DECAY)
    _same_course(mine, other)
    other.eval()
    torch.testing.assert_close(mine.averaged()[ours[0]], theirs[0].detach(), rtol=0, atol=1e-6)


def test_soap_is_the_librarys_without_decay():
    library = pytest.importorskip("pytorch_optimizer")
    ours, theirs = _pair()
    other = library.SOAP(theirs, lr=1e-3, weight_decay=0.0, precondition_frequency=5)
    _same_course(SOAP([{"params": ours}], lr=1e-3, weight_decay=0.0, every=5), other, steps=20, tolerance=1e-5)


def test_a_library_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(FieldguideError, match=r"install fieldguide\[optimizers\]"):
        build_optimizer(nn.Linear(2, 2), "lion")


def test_schedule_free_cannot_do_without_mixing():
    with pytest.raises(FieldguideError, match=r"betas\[0\], which is 0"):
        build_optimizer(nn.Linear(2, 2), "schedule_free", betas=(0.0, 0.9))
