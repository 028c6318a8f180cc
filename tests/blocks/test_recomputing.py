"""The same numbers with less memory, measured by what the CPU's allocator says."""

from copy import deepcopy

import pytest
import torch
from torch import nn

import fieldguide
from fieldguide.blocks.recomputing import recomputing
from fieldguide.errors import FieldguideError
from fieldguide.objectives import Classification
from fieldguide.train import Recipe, fit


def _vit():
    return fieldguide.create_model("vit_mini", image_size=32, in_channels=3, num_layers=6, dropout=0.1).train()


def _resnet():
    return fieldguide.create_model("resnet_mini", in_channels=3).train()


def _gpt():
    return fieldguide.create_model("gpt_mini", dropout=0.2).train()


def _after_a_step(model, inputs, where=None):
    """Output, gradients, buffers and the random numbers that come next."""
    torch.manual_seed(3)
    if where:
        with recomputing(model, where):
            output = model(inputs)
            output.float().logsumexp(-1).sum().backward()
    else:
        output = model(inputs)
        output.float().logsumexp(-1).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return output, gradients, dict(model.named_buffers()), torch.rand(3)


@pytest.mark.parametrize(
    ("build", "shape", "where", "parts"),
    [
        (_vit, (2, 3, 32, 32), "*.layers", 6),
        (_vit, (2, 3, 32, 32), "*.layers.1-2|*.layers.4.attention", 3),
        (_resnet, (4, 3, 16, 16), "stages.?.?", None),
        (_resnet, (4, 3, 16, 16), "stages", 1),
        (_gpt, (2, 12), "decoder.layers|decoder.norm", 3),
    ],
)
def test_outputs_gradients_buffers_and_random_numbers_stay_bit_identical(build, shape, where, parts):
    inputs = torch.randn(shape) if len(shape) > 2 else torch.randint(256, shape)
    model = build()
    twin = deepcopy(model)
    with recomputing(twin, where) as names:
        assert parts is None or len(names) == parts
    plain, again = _after_a_step(model, inputs), _after_a_step(twin, inputs, where)
    assert torch.equal(plain[0], again[0])
    assert torch.equal(plain[3], again[3])
    for ours, theirs in zip(plain[1:3], again[1:3], strict=True):
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert torch.equal(tensor, theirs[name]), name


def _peak(model, inputs, where=None):
    """Bytes above those at the start, from every allocation of a forward and backward pass."""
    with torch.profiler.profile(profile_memory=True) as profiler:
        _after_a_step(model, inputs, where)
    events, totals = [*profiler.profiler.kineto_results.experimental_event_tree()], []
    while events:
        event = events.pop()
        events += event.children
        if event.tag == torch._C._profiler._EventType.Allocation:
            totals.append((event.start_time_ns, event.extra_fields.total_allocated))
    totals = [total for _, total in sorted(totals)]
    return max(totals) - totals[0]


@pytest.mark.parametrize(
    ("build", "shape", "where", "at_most"),
    [(_vit, (16, 3, 32, 32), "*.layers", 0.5), (_resnet, (16, 3, 32, 32), "stages.?.?", 0.8)],
)
def test_the_peak_of_memory_falls(build, shape, where, at_most):
    model, inputs = build(), torch.randn(shape)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    assert _peak(model, inputs, where) < at_most * _peak(model, inputs)


def _interrupted(model):
    with recomputing(model, "*.layers"):
        assert "forward" in vars(model.get_submodule("encoder.layers.0"))
        raise ConnectionAbortedError


def test_the_model_is_afterwards_what_it_was():
    model = _vit()
    before = [dict(module.__dict__) for module in model.modules()]
    with pytest.raises(ConnectionAbortedError):
        _interrupted(model)
    assert [module.__dict__ for module in model.modules()] == before


def test_evaluation_is_left_alone():
    calls = []
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    model.register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(2, 3)
    with recomputing(model, "0"), torch.no_grad():
        model(x)
    model.eval()
    with recomputing(model, "0"):
        model(x).sum().backward()
    assert len(calls) == 2


def test_a_pattern_without_a_part_is_refused():
    with (
        pytest.raises(FieldguideError, match=r"'encoder\.layer' selects no module of ViT"),
        recomputing(_vit(), "encoder.layer"),
    ):
        pass


def test_a_recipe_can_ask_for_it_and_learns_the_same():
    data = (torch.randn(24, 3, 16, 16), torch.randint(10, (24,)))
    weights = []
    for recompute in ("", "stages.?.?"):
        torch.manual_seed(0)
        model = fieldguide.create_model("resnet_mini", in_channels=3)
        recipe = Recipe(epochs=2, batch_size=8, threads=1, recompute=recompute)
        fit(model, (data, data), Classification(), recipe)
        weights.append(model.state_dict())
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
