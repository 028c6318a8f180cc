import copy
import random

import numpy as np
import torch
from torch import nn

from fieldguide.objectives import Classification
from fieldguide.profile.tuning.surroundings import threads
from fieldguide.train.precision import Precision
from fieldguide.train.randomness import random_state
from fieldguide.train.threads import faster_threads

CPU = torch.device("cpu")


def _model(width=8):
    return nn.Sequential(nn.Linear(5, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.5), nn.Linear(width, 3))


def _batch(n=16):
    return torch.randn(n, 5), torch.randint(3, (n,))


def _equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_trying_out_leaves_everything_as_it_was():
    model, batch = _model(), _batch()
    optimizer = torch.optim.AdamW(model.parameters())
    Classification().step(model, batch)
    next(Classification().step(model, batch)).loss.backward()
    optimizer.step()
    model.eval()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict(), [p.grad for p in model.parameters()]))
    # Not Python's generator: beartype, which checks types in these tests, draws from it.
    generators = {key: value for key, value in random_state().items() if key != "python"}
    with threads(2):
        assert faster_threads(model, Classification(), batch, Precision("fp32", CPU)) in (1, 2)
        assert torch.get_num_threads() == 2
    assert _equal(before[0], model.state_dict())
    assert _equal(before[1]["state"], optimizer.state_dict()["state"])
    assert all(torch.equal(old, p.grad) for old, p in zip(before[2], model.parameters(), strict=True))
    assert _equal(generators, {key: value for key, value in random_state().items() if key != "python"})
    assert not model.training


def test_the_faster_number_is_kept(monkeypatch):
    def pretend(seconds):
        def step(model, objective, batch, precision):
            random.random(), np.random.rand()
            return seconds[torch.get_num_threads()]

        monkeypatch.setattr("fieldguide.train.threads._time_step", step)
        with threads(4):
            return faster_threads(_model(), Classification(), _batch(), Precision("fp32", CPU))

    assert pretend({1: 2.0, 4: 1.0}) == 4
    assert pretend({1: 1.0, 4: 2.0}) == 1
    assert pretend({1: 1.0, 4: 0.99}) == 1  # too close to be worth the other cores


def test_nothing_is_timed_when_there_is_no_choice(monkeypatch):
    monkeypatch.setattr("fieldguide.train.threads._time_step", None)
    with threads(1):
        assert faster_threads(_model(), Classification(), _batch(), Precision("fp32", CPU)) == 1


def test_threads_come_back_after_an_error():
    before = torch.get_num_threads()
    try:
        with threads(before + 1):
            assert torch.get_num_threads() == before + 1
            raise KeyError
    except KeyError:
        pass
    assert torch.get_num_threads() == before


def test_a_batch_that_does_not_fit_is_left_to_the_training():
    class Hungry(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, x):
            return self.layer(x) + torch.empty(2**56).sum()

    with threads(2):
        assert faster_threads(Hungry(), Classification(), _batch(), Precision("fp32", CPU)) == 1
