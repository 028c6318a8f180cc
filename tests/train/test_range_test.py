"""The range test finds rates that learn, stops when the loss explodes, and leaves everything as it was."""

import random

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from sklearn.datasets import load_digits
from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.objectives import Classification
from fieldguide.report.rate_range import draw_range
from fieldguide.train import Recipe, fit
from fieldguide.train.range_test import lr_range_test
from fieldguide.train.recipe import OptimizerRecipe, ScheduleRecipe

RECIPE = Recipe(batch_size=32, threads=1, optimizer=OptimizerRecipe(name="sgd", lr=0.1))


def _digits():
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images[:600], dtype=torch.float32) / 8 - 1, torch.tensor(labels[:600])


def _model():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10))


class Jittered(torch.utils.data.Dataset):
    """Draws from torch's and NumPy's global generators, as augmentation of one's own does."""

    def __init__(self):
        self.images, self.labels = _digits()

    def __len__(self):
        return 600

    def __getitem__(self, i):
        return self.images[i] + 0.1 * torch.randn(64) + 0.1 * float(np.random.randn()), self.labels[i]


@pytest.fixture(scope="module")
def found():
    return lr_range_test(_model(), (_digits(), None), Classification(), RECIPE, lowest=1e-5, highest=1e3, steps=80)


def test_everything_stays_bit_identical():
    model = _model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model.eval()[1].train()  # a mode of each kind
    model(torch.randn(8, 64)).square().sum().backward()
    optimizer.step()
    states = optimizer.state_dict()["state"]
    everything = {
        **{name: tensor.clone() for name, tensor in model.state_dict().items()},
        **{f"gradient {name}": parameter.grad.clone() for name, parameter in model.named_parameters()},
        **{f"{i} {name}": value.clone() for i, state in states.items() for name, value in state.items()},
    }
    modes = [module.training for module in model.modules()]
    groups = repr(optimizer.state_dict()["param_groups"])
    before = torch.get_rng_state(), np.random.get_state()[1:3]
    lr_range_test(model, (Jittered(), None), Classification(), RECIPE, steps=40)
    after = torch.get_rng_state(), np.random.get_state()[1:3]
    assert torch.equal(before[0], after[0])
    assert np.array_equal(before[1][0], after[1][0])
    assert before[1][1] == after[1][1]
    assert [module.training for module in model.modules()] == modes
    assert repr(optimizer.state_dict()["param_groups"]) == groups
    now = {
        **model.state_dict(),
        **{f"gradient {name}": parameter.grad for name, parameter in model.named_parameters()},
        **{f"{i} {name}": value for i, s in optimizer.state_dict()["state"].items() for name, value in s.items()},
    }
    assert everything.keys() == now.keys()
    assert not [name for name, tensor in everything.items() if not torch.equal(tensor, now[name])]


def test_pythons_generator_stays_too():
    """Its words; its place among them moves because beartype, which checks types in these tests, draws a few."""

    class Reseeding(Jittered):
        def __getitem__(self, i):
            random.seed(i)
            return super().__getitem__(i)

    random.seed(12345)
    random.random()
    before = random.getstate()[1][:-1]
    lr_range_test(_model(), (Reseeding(), None), Classification(), RECIPE, steps=30)
    assert random.getstate()[1][:-1] == before


def test_a_training_after_it_is_the_training_without_it():
    plain, tested = _model(), _model()
    lr_range_test(tested, (Jittered(), None), Classification(), RECIPE, steps=30)
    for model in (plain, tested):
        fit(model, (Jittered(), None), Classification(), Recipe(epochs=1, threads=1))
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, tested.state_dict()[name]), name


def test_the_rates_grow_by_one_factor_and_it_stops_when_the_loss_explodes(found):
    growth = [later / earlier for earlier, later in zip(found.rates, found.rates[1:], strict=False)]
    assert growth == pytest.approx([1e8 ** (1 / 79)] * len(growth))
    assert found.rates[0] == pytest.approx(1e-5)
    assert 20 < len(found.rates) < 80
    assert found.smoothed[-1] > 2 * min(found.smoothed)
    assert len(found.rates) == len(found.losses) == len(found.smoothed)


def test_the_suggestion_learns_better_than_rates_far_from_it(found):
    assert found.steepest < found.rates[found.smoothed.index(min(found.smoothed))]
    assert found.tenth == pytest.approx(found.rates[found.smoothed.index(min(found.smoothed))] / 10)

    def trained(rate):
        recipe = Recipe(
            epochs=2, batch_size=32, threads=1, optimizer=OptimizerRecipe(name="sgd", lr=rate),
            schedule=ScheduleRecipe(warmup=0.1),
        )  # fmt: skip
        return fit(_model(), (_digits(), None), Classification(), recipe).history[-1]["train_loss"]

    for suggestion in (found.steepest, found.tenth):
        assert trained(suggestion) < min(trained(suggestion / 300), trained(suggestion * 300))


def test_the_same_seed_finds_the_same(found):
    again = lr_range_test(_model(), (_digits(), None), Classification(), RECIPE, lowest=1e-5, highest=1e3, steps=80)
    assert again == found


def test_a_loss_that_becomes_infinite_ends_it():
    model = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 10))
    recipe = Recipe(batch_size=32, clip=0.0, threads=1, optimizer=OptimizerRecipe(name="sgd"))
    found = lr_range_test(model, (_digits(), None), Classification(), recipe, lowest=1e-3, highest=1e30, steps=60)
    assert len(found.rates) < 60
    assert all(np.isfinite(found.losses))


def test_a_picture(found, tmp_path):
    file = draw_range(found, tmp_path / "range.png")
    assert np.ptp(imread(file)[..., :3], axis=-1).max() > 0.3  # coloured lines


def test_what_is_refused():
    data = (_digits(), None)
    with pytest.raises(FieldguideError, match="does not fall anywhere between 1e-12 and 1e-11"):
        lr_range_test(_frozen_loss(), data, Classification(), RECIPE, lowest=1e-12, highest=1e-11, steps=20)
    with pytest.raises(FieldguideError, match="needs 0 < lowest < highest"):
        lr_range_test(_model(), data, Classification(), lowest=1.0, highest=0.1)


def _frozen_loss():
    """A model whose logits are the same whatever it learns."""

    class Nothing(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(10))

        def forward(self, inputs):
            return (self.weight.sum() * 0).expand(len(inputs), 10)

    return Nothing()
