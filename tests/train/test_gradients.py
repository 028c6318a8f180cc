"""What happens to gradients on their way to the optimizer: accumulated, centralized, their noise measured."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fieldguide
from fieldguide.errors import FieldguideError
from fieldguide.objectives import Classification, NextToken, Regression
from fieldguide.train import Callback, Recipe, RunFolder, fit
from fieldguide.train.gradients import advice
from fieldguide.train.recipe import OptimizerRecipe, ScheduleRecipe

STILL = OptimizerRecipe(name="sgd", lr=1e-300, momentum=0.0, weight_decay=0.0)


class InOrder:
    """A feed of these batches."""

    def __init__(self, *batches):
        self.parts = batches

    def __len__(self):
        return len(self.parts)

    def batches(self, epoch, start=0):
        return iter(self.parts[start:])


class Gradients(Callback):
    def __init__(self):
        self.steps = []

    def before_update(self, part):
        self.steps.append(torch.cat([p.grad.flatten() for p in self.loop.parameters[part]]))


def _gradients(model, objective, batches, accumulation, **recipe):
    seen = Gradients()
    asked = {"epochs": 1, "clip": 0.0, "threads": 1, "optimizer": STILL} | recipe
    fit(model, (InOrder(*batches), None), objective, Recipe(accumulation=accumulation, **asked), callbacks=[seen])
    return seen.steps


# ------------------------------------------------------------------------------------------------- accumulation


@settings(max_examples=15)
@given(st.lists(st.integers(2, 9), min_size=5, max_size=5))
def test_accumulated_tokens_have_the_gradient_of_one_large_batch(lengths):
    """Sequences of unequal length in micro-batches: each token counts once, wherever it stands."""
    torch.manual_seed(0)
    model = fieldguide.create_model("gpt_mini", vocab_size=11, max_len=12, d_model=8, num_heads=2, dropout=0.0).double()
    tokens = torch.randint(11, (5, 9))
    keep = torch.arange(9) < torch.tensor(lengths)[:, None]
    whole = _gradients(model, NextToken(), [(tokens, keep)], 1)
    parts = _gradients(model, NextToken(), [*zip(tokens.split(2), keep.split(2), strict=True)], 3)
    assert len(whole) == len(parts) == 1
    torch.testing.assert_close(parts[0], whole[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("objective", "outputs", "targets"),
    [
        (Classification(0.1), 3, torch.tensor([0, 1, 2, 2, 1, 0, 0])),
        (Classification(focal=2.0, class_weights=(0.2, 1.0, 4.0)), 3, torch.tensor([0, 1, 2, 2, 1, 0, 0])),
        (Regression("huber", units=(2.0,)), 1, torch.linspace(-4, 4, 7).double()),
        (Regression("gaussian"), 2, torch.linspace(-4, 4, 7).double()),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_accumulated_samples_have_the_gradient_of_one_large_batch(objective, outputs, targets, size):
    torch.manual_seed(0)
    model, inputs = (
        nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, outputs)).double(),
        torch.randn(7, 5).double(),
    )
    whole = _gradients(model, objective, [(inputs, targets)], 1)
    parts = _gradients(model, objective, [*zip(inputs.split(size), targets.split(size), strict=True)], 7)
    assert len(parts) == 1
    torch.testing.assert_close(parts[0], whole[0], rtol=1e-12, atol=1e-12)


# ----------------------------------------------------------------------------------------------- centralization


def test_a_recipe_centralizes_matrices_but_not_embeddings():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 3)).double()
    batch = (torch.randint(9, (8, 3)), torch.randint(3, (8,)))
    (plain,), (central,) = (_gradients(model, Classification(), [batch], 1, centralize=on) for on in (False, True))
    assert torch.equal(plain[:36], central[:36])
    rows, again = (flat[36:72].view(3, 12) for flat in (plain, central))
    torch.testing.assert_close(again, rows - rows.mean(1, keepdim=True), rtol=1e-12, atol=1e-15)
    assert torch.equal(plain[72:], central[72:])


# ------------------------------------------------------------------------------------------------ gradient noise


class Targets:
    """For a bias alone the gradient of the squared error is 2 · (bias − target): true values are known."""

    def __init__(self, batches, size, spread):
        self.count, self.size, self.spread = batches, size, spread

    def __len__(self):
        return self.count

    def batches(self, epoch, start=0):
        generator = torch.Generator().manual_seed(epoch)
        for _ in range(self.count):
            noise = torch.randn(self.size, 100, dtype=torch.float64, generator=generator)
            yield torch.zeros(self.size, 1, dtype=torch.float64), 1.0 + self.spread * noise


def _noise_of(precision="fp32", spread=0.5, batches=400, accumulation=2, size=3, clip=0.01):
    model = nn.Linear(1, 100).double()
    model.weight.data.zero_()
    model.bias.data.zero_()
    recipe = Recipe(
        epochs=1, accumulation=accumulation, noise_scale=True, clip=clip, precision=precision, threads=1,
        optimizer=STILL, schedule=ScheduleRecipe(name="constant"),
    )  # fmt: skip
    return fit(model, (Targets(batches, size, spread), None), Regression(), recipe).history[0]


@pytest.mark.parametrize("accumulation", [2, 5])
def test_the_noise_scale_is_trace_over_squared_gradient(accumulation):
    """The mean over t targets has |G|² = t · (2/t)² and tr Σ = t · (2/t)² · σ²; clipping does not disturb it."""
    record = _noise_of(accumulation=accumulation)
    assert record["noise_scale"] == pytest.approx(0.5**2, rel=0.15)


def test_the_estimates_have_no_bias():
    """Even where one step says little: noise of 9 times the signal in steps of 6 samples."""
    record = _noise_of(spread=3.0, batches=600)
    assert record["noise_scale"] == pytest.approx(9, rel=0.25)
    assert "a good balance" in record["batch_advice"]


def test_without_noise_there_is_none():
    assert _noise_of(spread=0.0, batches=20)["noise_scale"] == pytest.approx(0, abs=1e-9)


def test_the_scaled_gradients_of_fp16_are_seen_in_their_true_size():
    record = _noise_of("fp16")
    assert record["noise_scale"] == pytest.approx(0.5**2, rel=0.15)


def test_a_last_window_of_one_micro_batch_is_left_out():
    record, whole = _noise_of(batches=21), _noise_of(batches=20)
    assert record["noise_scale"] == whole["noise_scale"]
    assert "noise_scale" not in _noise_of(batches=1)


def test_one_micro_batch_a_step_cannot_tell():
    with pytest.raises(FieldguideError, match=r"noise_scale = true .* halve batch_size and set accumulation = 2"):
        Recipe(noise_scale=True)


@pytest.mark.parametrize(
    ("scale", "batch", "words"),
    [
        (1000.0, 64.0, "the gradient noise scale is 1e\\+03 and a step has 64 samples: up to about 1e\\+03 a step"),
        (3.0, 64.0, "about 3 would do"),
        (60.0, 64.0, "good balance"),
        (math.inf, 64.0, "steps of 64 samples are so noisy that no gradient shows through"),
    ],
)
def test_advice_is_one_sentence(scale, batch, words):
    assert re.search(words, advice(scale, batch))


class Unplugged(Callback):
    def on_step(self, record):
        if record["step"] == 3:
            raise ConnectionAbortedError


def test_the_measurement_resumes_bit_for_bit(tmp_path):
    data = (torch.randn(40, 5), torch.randint(3, (40,)))

    def train(folder, resume=False, callbacks=()):
        torch.manual_seed(0)
        recipe = Recipe(
            epochs=2, batch_size=4, accumulation=2, noise_scale=True, centralize=True, clip=0.05, clip_by="adaptive",
            threads=1, checkpoint_every=1,
        )  # fmt: skip
        model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
        return fit(model, (data, None), Classification(), recipe, run=folder, resume=resume, callbacks=callbacks)

    unbroken = train(RunFolder.create_at(tmp_path / "unbroken"))
    folder = RunFolder.create_at(tmp_path / "broken")
    with pytest.raises(ConnectionAbortedError):
        train(folder, callbacks=[Unplugged()])
    resumed = train(folder, resume=True)
    for ours, theirs in zip(unbroken.history, resumed.history, strict=True):
        assert ours["noise_scale"] == theirs["noise_scale"]
        assert ours["batch_advice"] == theirs["batch_advice"]
    assert all(torch.equal(a, b) for a, b in zip(unbroken.model.parameters(), resumed.model.parameters(), strict=True))
    assert (tmp_path / "unbroken" / "metrics.jsonl").read_text().count("noise_scale") == 2
