"""Treatment: the right fix wins on a small ill training, and nothing of the training is touched."""

import copy

import torch
from tests.doctor.test_probes import bench, network
from torch import nn

from fieldguide.doctor.finding import Fix
from fieldguide.doctor.treatment import treat, treatable

FIXES = [Fix("lower", "lr / 100"), Fix("raise", "lr * 10"), Fix("anew", "init"), Fix("rewrite", "linear head")]


def test_a_rate_that_is_too_low_is_raised_and_the_training_is_left_alone():
    training = bench(network(), lr=1e-5)
    state, random = copy.deepcopy(training.replay.model.state_dict()), torch.get_rng_state()
    best, *others = treat(training, [Fix("lower", "lr / 100"), Fix("raise", "lr * 10")], steps=100)
    assert best.fix.title == "raise"
    assert best.gain > 0 > others[0].gain
    assert all(torch.equal(value, state[name]) for name, value in training.replay.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert training.optimizer is not None
    assert training.optimizer.param_groups[0]["lr"] == 1e-5
    assert not training.optimizer.state


def test_dead_units_are_drawn_anew():
    model = network()
    hidden = model.get_submodule("0")
    assert isinstance(hidden, nn.Linear)
    with torch.no_grad():
        hidden.bias.fill_(-100.0)
    assert treat(bench(model), FIXES, steps=60)[0].fix.apply == "init"


def test_what_needs_a_change_of_the_code_is_not_tried():
    assert not treatable(FIXES[-1])
    assert treat(bench(network()), FIXES[-1:], steps=2) == []
