import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.objectives import Classification, Phase
from fieldguide.train import Diverged, Recipe, fit
from fieldguide.train.callbacks import Callback, History
from fieldguide.train.feeds import as_feed
from fieldguide.train.loop import Loop
from fieldguide.train.recipe import OptimizerRecipe, ScheduleRecipe, StoppingRecipe

FLAT = ScheduleRecipe(name="constant", warmup=0.0)


def _data(n=40, dtype=torch.float64):
    torch.manual_seed(1)
    return torch.randn(n, 5, dtype=dtype), torch.randint(3, (n,))


def _network(dtype=torch.float64, hidden=7):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, hidden), nn.Tanh(), nn.Linear(hidden, 3)).to(dtype)


def _train(model, data, objective=None, callbacks=(), **recipe):
    settings = {"epochs": 1, "batch_size": 8, "clip": 0.0, "threads": 1, "schedule": FLAT} | recipe
    return fit(model, data, objective or Classification(), Recipe(**settings), callbacks=callbacks)


class InOrder:
    """A feed that keeps the order of its tensors."""

    def __init__(self, inputs, labels, batch_size):
        self.parts = list(zip(inputs.split(batch_size), labels.split(batch_size), strict=True))

    def __len__(self):
        return len(self.parts)

    def batches(self, epoch, start=0):
        return iter(self.parts[start:])


class Gradients(Callback):
    """Keeps the gradient of every step."""

    def __init__(self):
        self.steps = []

    def before_update(self, part):
        self.steps.append(torch.cat([p.grad.flatten() for p in self.loop.parameters[part]]))


@settings(max_examples=12)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 6))
def test_an_accumulated_step_has_the_gradient_of_the_whole_window(n, batch_size, accumulation):
    inputs, labels = _data(n)
    model, seen = _network(), Gradients()
    tiny = OptimizerRecipe(name="sgd", lr=1e-300, momentum=0.0, weight_decay=0.0)
    _train(
        model, (InOrder(inputs, labels, batch_size), None), callbacks=[seen], optimizer=tiny, accumulation=accumulation
    )
    window = batch_size * accumulation
    assert len(seen.steps) == math.ceil(n / window)  # nothing is dropped, a ragged last window included
    for gradient, xs, ys in zip(seen.steps, inputs.split(window), labels.split(window), strict=True):
        loss = nn.functional.cross_entropy(model(xs), ys)
        expected = torch.autograd.grad(loss, list(model.parameters()))
        torch.testing.assert_close(gradient, torch.cat([g.flatten() for g in expected]), rtol=1e-10, atol=1e-14)


def test_a_ragged_window_is_not_a_mean_of_means():
    """The same check must notice the classic mistake."""
    inputs, labels = _data(10)
    model = _network()
    whole = torch.autograd.grad(nn.functional.cross_entropy(model(inputs), labels), list(model.parameters()))[0]
    halves = [nn.functional.cross_entropy(model(x), y) for x, y in zip(inputs.split(8), labels.split(8), strict=True)]
    mean_of_means = torch.autograd.grad(sum(halves) / 2, list(model.parameters()))[0]
    assert (whole - mean_of_means).norm() / whole.norm() > 0.01


def test_accumulation_changes_nothing_but_memory():
    whole, parts = _network(), _network()
    data = (_data(), None)
    _train(whole, data, batch_size=12, epochs=3)
    _train(parts, data, batch_size=4, accumulation=3, epochs=3)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_a_plateau_needs_validation():
    with pytest.raises(FieldguideError, match="plateau needs validation data"):
        _train(_network(), (_data(), None), schedule=ScheduleRecipe(name="plateau"))


def test_a_cycle_of_momentum_needs_momentum():
    settings = {"optimizer": OptimizerRecipe(name="sgd", momentum=0.0), "schedule": ScheduleRecipe(name="one_cycle")}
    with pytest.raises(FieldguideError, match=r"moves the momentum .* set optimizer\.momentum above 0"):
        _train(_network(), (_data(), None), **settings)


@pytest.mark.parametrize(("steps", "last"), [(0, 15), (7, 7), (10, 10), (99, 15)])
def test_the_schedule_ends_where_the_training_does(steps, last):
    record = History()
    _train(_network(), (_data(), None), callbacks=[record], epochs=3, steps=steps, schedule=ScheduleRecipe(warmup=0.0))
    rates = [said["lr"] for said in record.records if said["kind"] == "step"]
    assert rates == pytest.approx([1e-3 * (1 + math.cos(math.pi * step / last)) / 2 for step in range(last)])
    assert sum(said["kind"] == "epoch" for said in record.records) == -(-last // 5)


def test_equals_a_loop_written_by_hand():
    model, twin = _network(), _network()
    feed = as_feed(_data(), 8, seed=3, shuffle=True)
    record = History()
    _train(
        model, (feed, None), callbacks=[record], epochs=4, clip=0.5, seed=3,
        optimizer=OptimizerRecipe(lr=0.01, weight_decay=0.1), schedule=ScheduleRecipe(warmup=0.2),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(
        [{"params": [twin[0].weight, twin[2].weight]}, {"params": [twin[0].bias, twin[2].bias], "weight_decay": 0.0}],
        weight_decay=0.1,
    )
    step = 0
    for epoch in range(4):
        for inputs, labels in feed.batches(epoch):
            factor = min(1, (step + 1) / 4) * 0.5 * (1 + math.cos(math.pi * max(0, (step - 4) / 16)))
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * factor
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(twin(inputs), labels)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
            optimizer.step()
            said = record.records[step + epoch]
            assert (said["step"], said["epoch"], said["samples"]) == (step + 1, epoch, 8)
            assert said["loss"] == pytest.approx(loss.item(), rel=1e-9)
            assert said["grad_norm"] == pytest.approx(norm.item(), rel=1e-9)
            assert said["lr"] == pytest.approx(0.01 * factor, rel=1e-12)
            step += 1
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_old_gradients_do_not_leak_into_the_first_step():
    clean, dirty = _network(), _network()
    for parameter in dirty.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    for model in (clean, dirty):
        _train(model, (_data(), None))
    assert torch.equal(clean[0].weight, dirty[0].weight)


def test_the_epoch_says_the_mean_over_its_samples():
    record = History()
    _train(_network(), (_data(41), _data(9)), callbacks=[record], batch_size=16, epochs=2)
    epochs = [r for r in record.records if r["kind"] == "epoch"]
    steps = [r for r in record.records if r["kind"] == "step" and r["epoch"] == 1]
    assert [r["samples"] for r in steps] == [16, 16, 9]
    assert epochs[1]["train_loss"] == pytest.approx(sum(r["loss"] * r["samples"] for r in steps) / 41)
    assert {"val_loss", "val_accuracy", "seconds", "samples_per_second"} <= epochs[1].keys()


# ---------------------------------------------------------------------------------------------- several phases


class Pair(nn.Module):
    """A generator of numbers and a judge of them."""

    def __init__(self):
        super().__init__()
        self.generator = nn.Linear(2, 5).double()
        self.discriminator = nn.Linear(5, 1).double()


class Adversarial:
    monitor = ("loss", "min")

    def parts(self, model):
        return {"discriminator": model.discriminator, "generator": model.generator}

    def weight(self, batch):
        return len(batch)

    def metrics(self):
        raise AssertionError("there is nothing to evaluate on")

    def step(self, model, batch) -> Iterator[Phase]:
        fake = model.generator(batch[:, :2])
        judged = model.discriminator(torch.cat([batch, fake.detach()]))
        truth = torch.cat([torch.ones(len(batch), 1), torch.zeros(len(batch), 1)]).double()
        loss = nn.functional.binary_cross_entropy_with_logits(judged, truth)
        yield Phase("discriminator", loss, {"discriminator_loss": loss})
        deceived = nn.functional.softplus(-model.discriminator(fake)).mean()
        yield Phase("generator", deceived, {"generator_loss": deceived})


def _by_hand(model, windows):
    optimizers = [
        torch.optim.AdamW(p.parameters(), lr=0.01, weight_decay=0) for p in (model.discriminator, model.generator)
    ]
    losses = []
    for batch in windows:
        fake = model.generator(batch[:, :2])
        judged = model.discriminator(torch.cat([batch, fake.detach()]))
        truth = torch.cat([torch.ones(len(batch), 1), torch.zeros(len(batch), 1)]).double()
        model.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(judged, truth)
        loss.backward()
        optimizers[0].step()
        model.zero_grad()
        deceived = nn.functional.softplus(-model.discriminator(fake)).mean()
        deceived.backward()
        optimizers[1].step()
        losses.append((loss.item(), deceived.item()))
    return losses


@pytest.mark.parametrize(("batch_size", "accumulation"), [(7, 1), (2, 3)])
def test_two_phases_in_lockstep(batch_size, accumulation):
    torch.manual_seed(2)
    real = torch.randn(20, 5, dtype=torch.float64)
    torch.manual_seed(0)
    model = Pair()
    twin = Pair()
    twin.load_state_dict(model.state_dict())

    class Numbers:
        def __len__(self):
            return math.ceil(20 / batch_size)

        def batches(self, epoch, start=0):
            return iter(real.split(batch_size)[start:])

    record = History()
    optimizer = OptimizerRecipe(lr=0.01, weight_decay=0.0)
    _train(model, (Numbers(), None), Adversarial(), [record], epochs=3, accumulation=accumulation, optimizer=optimizer)
    losses = _by_hand(twin, list(real.split(batch_size * accumulation)) * 3)
    steps = [r for r in record.records if r["kind"] == "step"]
    for said, (discriminator, generator) in zip(steps, losses, strict=True):
        assert said["discriminator_loss"] == pytest.approx(discriminator, rel=1e-8)
        assert said["generator_loss"] == pytest.approx(generator, rel=1e-8)
        assert said["loss"] == pytest.approx(discriminator + generator, rel=1e-8)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-11)


# ------------------------------------------------------------------------------------------------- everything else


def test_early_stopping_ends_and_brings_the_best_weights_back():
    record = History()

    class Best(Callback):
        def __init__(self):
            self.weights = []

        def on_epoch(self, record):
            self.weights.append(self.loop.model[0].weight.detach().clone())

    kept, model = Best(), _network()
    run = _train(
        model, (_data(), _data(15)), callbacks=[record, kept], epochs=50, stopping=StoppingRecipe(patience=3),
        optimizer=OptimizerRecipe(lr=0.3),
    )  # fmt: skip
    assert len(run.history) < 50
    assert len(run.history) - 1 - run.best_epoch == 3
    assert run.best == max(r["val_accuracy"] for r in run.history)
    assert torch.equal(model[0].weight, kept.weights[run.best_epoch])
    assert not torch.equal(model[0].weight, kept.weights[-1])


def test_ema_is_what_is_evaluated_and_returned():
    plain, averaged = _network(), _network()
    data = (_data(), _data(15))
    before = _train(plain, data, epochs=2)
    after = _train(averaged, data, epochs=2, ema=0.9)
    assert before.history[0]["train_loss"] == after.history[0]["train_loss"]
    assert before.history[0]["val_loss"] != after.history[0]["val_loss"]
    inputs, labels = data[1]
    assert after.history[-1]["val_loss"] == pytest.approx(
        nn.functional.cross_entropy(averaged(inputs).float(), labels).item(), rel=1e-6
    )


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_what_is_not_finite_stops_before_it_reaches_the_parameters(poison):
    model = _network()

    class Poisoned(nn.Module):
        def __init__(self):
            super().__init__()
            self.network, self.count = model, 0

        def forward(self, x):
            self.count += 1
            if self.count == 3 and poison == "loss":
                return self.network(x) * float("nan")
            if self.count == 3:
                self.network[2].bias.register_hook(lambda g: g * float("inf"))
            return self.network(x)

    seen = Gradients()
    with pytest.raises(Diverged, match=r"step 3 \(epoch 0\)") as caught:
        _train(Poisoned(), (_data(), None), callbacks=[seen], batch_size=8)
    assert "2.bias" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.record["parameters"][-1] == "network.2.bias"
    assert len(seen.steps) == 2
    assert all(p.isfinite().all() for p in model.parameters())


def test_frozen_parts_keep_their_values_and_their_mode():
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3)).double()
    model[0].requires_grad_(False)
    model[1].eval()
    before = [model[0].weight.clone(), model[1].running_mean.clone(), model[2].weight.clone()]
    _train(model, (_data(), _data(9)), epochs=2)
    assert torch.equal(model[0].weight, before[0])
    assert torch.equal(model[1].running_mean, before[1])
    assert not torch.equal(model[2].weight, before[2])
    assert [m.training for m in model] == [True, False, True]


def test_the_seed_decides_everything():
    def weights(seed):
        model = nn.Sequential(_network(), nn.Dropout(0.5)).double()
        _train(model, (_data(), None), seed=seed)
        return model[0][0].weight

    torch.manual_seed(123)
    first = weights(0)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


def test_a_map_style_data_set():
    inputs, labels = _data()
    data_set = torch.utils.data.TensorDataset(inputs, labels)
    a, b = _network(), _network()
    _train(a, (data_set, data_set))
    _train(b, ((inputs, labels), (inputs, labels)))
    assert torch.equal(a[0].weight, b[0].weight)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (((torch.zeros(10, 5), torch.zeros(9).long()), None), "different lengths: 10, 9"),
        (([1, 2, 3], None), "batch_size 8 is larger than the training part \\(3 samples\\)"),
        ((iter([]), None), "cannot read batches from a list_iterator"),
        (7, "expected a data set with feeds"),
    ],
)
def test_data_that_cannot_be_trained_on(data, message):
    with pytest.raises(FieldguideError, match=message):
        _train(_network(), data)


def test_other_errors_pass_unchanged():
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        _train(_network(), ((torch.zeros(80, 4).double(), torch.zeros(80).long()), None))


def test_the_loop_needs_no_run_folder_and_prints_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = _train(_network(), (_data(), _data(9)))
    assert run.folder is None
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


def test_loop_counts_every_step_of_a_ragged_epoch():
    feed = as_feed(_data(41), 4, shuffle=True)
    loop = Loop(_network(), feed, None, Classification(), Recipe(epochs=2, batch_size=4, accumulation=3))
    assert loop.steps == 2 * 4
    loop.run()
    assert (loop.progress.step, loop.progress.epoch, loop.progress.position) == (8, 2, 0)
