"""An interrupted and resumed training is bit-identical to the unbroken one: weights, every state and the logs."""

import json
import os
import signal
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import nn

from fieldguide import trace
from fieldguide.errors import FieldguideError
from fieldguide.objectives import Classification
from fieldguide.train import Callback, Recipe, RunFolder, Stopped, fit
from fieldguide.train.recipe import OptimizerRecipe, ScheduleRecipe, StoppingRecipe

PLATEAU = ScheduleRecipe(name="plateau", plateau_epochs=1, gamma=0.5, warmup=0.0)
CLOCK = {"seconds", "samples_per_second", "data_wait", "resident_bytes"}


class Jittered(torch.utils.data.Dataset):
    """Augmentation that draws from torch's and NumPy's global generators.

    Python's ``random`` is checked in test_randomness: beartype, which checks types in these tests, draws from it.
    """

    def __init__(self):
        images, labels = load_digits(return_X_y=True)
        self.images, self.labels = torch.tensor(images[:100], dtype=torch.float32) / 16, torch.tensor(labels[:100])

    def __len__(self):
        return 100

    def __getitem__(self, i):
        shift = torch.randn(64) * 0.1 + float(np.random.randn()) * 0.1
        return self.images[i] + shift, self.labels[i]


def _model(convolutions=False):
    torch.manual_seed(5)
    if convolutions:
        stem = nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3)
        return nn.Sequential(*stem, nn.Flatten(), nn.Linear(96, 10))
    hidden = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3))
    return nn.Sequential(OrderedDict(hidden=hidden, head=nn.Linear(16, 10)))


class PullThePlug(Callback):
    """Ends the process, as far as training can tell, after these steps."""

    def __init__(self, steps):
        self.steps = set(steps)

    def on_step(self, record):
        if self.loop.progress.step in self.steps:
            self.steps.discard(self.loop.progress.step)
            raise ConnectionAbortedError


class StopPolitely(PullThePlug):
    """SIGTERM, as a cluster sends it before it takes the machine away."""

    def on_step(self, record):
        if self.loop.progress.step in self.steps:
            self.steps.discard(self.loop.progress.step)
            os.kill(os.getpid(), signal.SIGTERM)


def _recipe(**changes):
    """Seven micro-batches an epoch in windows of three: 3 steps an epoch, the last one ragged."""
    return Recipe(**({"epochs": 4, "batch_size": 16, "accumulation": 3, "ema": 0.9, "threads": 1} | changes))


def _carry_out(path, recipe, plug=None):
    """Trains until it is through, resuming after every interruption; the run and how often it was interrupted."""
    data = (Jittered(), Jittered())
    folder, interruptions = RunFolder.create_at(path), 0
    callbacks = [plug] if plug else []
    while True:
        try:
            model = _model(convolutions=recipe.memory_format == "channels_last")
            run = fit(model, data, Classification(), recipe, run=folder, resume=interruptions > 0, callbacks=callbacks)
            return run, interruptions
        except (ConnectionAbortedError, Stopped):
            interruptions += 1
            torch.randn(interruptions)  # whatever the generators do between two processes
            np.random.randn(3)


def _evidence(run):
    """Everything that must be the same."""
    logs = [
        {key: value for key, value in record.items() if key not in CLOCK}
        for name in ("metrics.jsonl", "trace.jsonl")
        for record in trace.read(run.folder / name)
    ]
    return logs, {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def _assert_same(run, other):
    (logs, weights), (other_logs, other_weights) = _evidence(run), _evidence(other)
    assert logs == other_logs
    for name, tensor in weights.items():
        assert torch.equal(tensor, other_weights[name]), name
    assert (run.best, run.best_epoch) == (other.best, other.best_epoch)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    run, _ = _carry_out(tmp_path_factory.mktemp("unbroken") / "run", _recipe(checkpoint_every=1))
    return run


def test_two_unbroken_runs_are_identical_and_the_seed_matters(unbroken, tmp_path):
    _assert_same(unbroken, _carry_out(tmp_path / "twin", _recipe(checkpoint_every=1))[0])
    other, _ = _carry_out(tmp_path / "other", _recipe(seed=1))
    assert not torch.equal(other.model.head.weight, unbroken.model.head.weight)


@settings(max_examples=8)
@given(st.sets(st.integers(1, 12), min_size=1, max_size=5), st.sampled_from([1, 2, 100]))
def test_killed_at_any_steps(unbroken, tmp_path_factory, steps, every):
    """Including several times in one epoch, on its boundary, and before the first checkpoint inside it."""
    path = tmp_path_factory.mktemp("killed") / "run"
    run, interruptions = _carry_out(path, _recipe(checkpoint_every=every), PullThePlug(steps))
    assert interruptions == len(steps)
    _assert_same(run, unbroken)


def test_stopped_politely_at_every_step(unbroken, tmp_path):
    run, interruptions = _carry_out(tmp_path / "run", _recipe(), StopPolitely(range(1, 13)))
    assert interruptions == 12
    _assert_same(run, unbroken)


def test_killed_before_the_first_checkpoint(unbroken, tmp_path, monkeypatch):
    class Early(Callback):
        def on_start(self, loop):
            monkeypatch.undo()
            (tmp_path / "run" / "metrics.jsonl").write_text('{"kind":"step","step":1}\n')
            raise ConnectionAbortedError

    run, interruptions = _carry_out(tmp_path / "run", _recipe(), _Once(Early()))
    assert interruptions == 1
    _assert_same(run, unbroken)


class _Once(Callback):
    def __init__(self, callback):
        self.callback = callback

    def on_start(self, loop):
        callback, self.callback = self.callback, Callback()
        callback.on_start(loop)


def test_sigterm_ends_with_143(tmp_path):
    folder = RunFolder.create_at(tmp_path / "run")
    with pytest.raises(Stopped) as caught:
        fit(_model(), (Jittered(), None), Classification(), _recipe(), run=folder, callbacks=[StopPolitely({4})])
    assert caught.value.code == 143
    assert folder.checkpoints.newest().step == 4


def test_stopped_during_evaluation(unbroken, tmp_path):
    class AskDuringEvaluation(StopPolitely):
        def on_start(self, loop):
            super().on_start(loop)
            loop.model.register_forward_hook(self.after_forward)

        def after_forward(self, model, inputs, output):
            if not model.training and self.loop.progress.step in self.steps:
                self.steps.discard(self.loop.progress.step)
                os.kill(os.getpid(), signal.SIGTERM)

        def on_step(self, record): ...

    run, interruptions = _carry_out(tmp_path / "run", _recipe(), AskDuringEvaluation({3, 6, 12}))
    assert interruptions == 3
    _assert_same(run, unbroken)


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"optimizer": OptimizerRecipe(name="sgd", lr=0.05)},
        {"optimizer": OptimizerRecipe(name="rmsprop"), "ema": 0.0},
        {"stopping": StoppingRecipe(patience=1), "epochs": 8, "optimizer": OptimizerRecipe(lr=0.05)},
        {"memory_format": "channels_last", "accumulation": 1},
        {"head_epochs": 1, "optimizer": OptimizerRecipe(layer_decay=0.5)},
        {"schedule": PLATEAU, "stopping": StoppingRecipe(min_delta=0.5)},
        {"schedule": ScheduleRecipe(name="one_cycle", weight_decay_final=3.0)},
    ],
    ids=["bf16", "fp16", "sgd", "rmsprop", "early stopping", "channels last", "head first", "plateau", "one cycle"],
)
def test_other_recipes(tmp_path, changes):
    whole, _ = _carry_out(tmp_path / "whole", _recipe(**changes))
    broken, interruptions = _carry_out(
        tmp_path / "broken", _recipe(**changes, checkpoint_every=2), PullThePlug({2, 4, 5})
    )
    assert interruptions == 3
    _assert_same(whole, broken)
    assert len(whole.history) > 1


def test_the_rate_of_a_resumed_plateau_has_fallen(tmp_path):
    """Else the comparison above would say nothing about it."""
    run, _ = _carry_out(tmp_path / "run", _recipe(schedule=PLATEAU, stopping=StoppingRecipe(min_delta=0.5)))
    rates = [record["lr"] for record in trace.read(run.folder / "metrics.jsonl", "step")]
    assert max(record["val_accuracy"] for record in run.history) < 0.5 + run.history[0]["val_accuracy"]
    assert rates == pytest.approx([1e-3] * 6 + [5e-4] * 3 + [2.5e-4] * 3)


@pytest.mark.parametrize(
    "changes",
    [
        *({"optimizer": OptimizerRecipe(name=name)} for name in ("muon", "lion", "lamb", "soap", "nadam", "adafactor")),
        {"optimizer": OptimizerRecipe(name="schedule_free"), "schedule": ScheduleRecipe(name="constant"), "ema": 0.0},
        {"swa": 0.5, "ema": 0.0},
        {"lookahead": 2, "ema": 0.0, "optimizer": OptimizerRecipe(rates={"1": 0.5})},
        {"sharpness": 0.05, "precision": "fp16"},
    ],
    ids=["muon", "lion", "lamb", "soap", "nadam", "adafactor", "schedule free", "swa", "lookahead", "sharpness"],
)
def test_other_optimizers_and_averages_beside_channels_last_kernels(tmp_path, changes):
    if changes.get("optimizer") == OptimizerRecipe(name="lion"):
        pytest.importorskip("pytorch_optimizer")
    recipe = {"memory_format": "channels_last", "accumulation": 1, "epochs": 2} | changes
    whole, _ = _carry_out(tmp_path / "whole", _recipe(**recipe))
    broken, interruptions = _carry_out(
        tmp_path / "broken", _recipe(**recipe, checkpoint_every=2), PullThePlug({3, 7, 11})
    )
    assert interruptions == 3
    _assert_same(whole, broken)


def test_the_growth_counter_of_fp16_resumes(tmp_path):
    folder = RunFolder.create_at(tmp_path / "run")
    recipe = _recipe(precision="fp16", checkpoint_every=1)
    with pytest.raises(ConnectionAbortedError):
        fit(_model(), (Jittered(), None), Classification(), recipe, run=folder, callbacks=[PullThePlug({6})])
    state = folder.checkpoints.newest().state
    assert state["precision"]["_growth_tracker"] == 5
    assert state["progress"]["step"] == 5


def test_the_threads_of_the_first_start_are_kept(tmp_path, monkeypatch):
    folder = RunFolder.create_at(tmp_path / "run")
    monkeypatch.setattr("fieldguide.train.fitting.faster_threads", lambda *_: 2)
    with pytest.raises(ConnectionAbortedError):
        fit(
            _model(),
            (Jittered(), None),
            Classification(),
            _recipe(threads="auto"),
            run=folder,
            callbacks=[PullThePlug({4})],
        )
    monkeypatch.setattr("fieldguide.train.fitting.faster_threads", lambda *_: 1)
    run = fit(
        _model(), (Jittered(), None), Classification(), _recipe(threads="auto", epochs=4), run=folder, resume=True
    )
    assert run.recipe.threads == 2


def test_resuming_a_finished_run_changes_nothing(unbroken, tmp_path):
    folder = RunFolder.create_at(tmp_path / "run")
    first = fit(_model(), (Jittered(), Jittered()), Classification(), _recipe(), run=folder)
    again = fit(_model(), (Jittered(), Jittered()), Classification(), _recipe(), run=folder, resume=True)
    _assert_same(first, again)
    assert [r["epoch"] for r in again.history] == [0, 1, 2, 3]


# -------------------------------------------------------------------------------------------------- what is refused


@pytest.fixture
def interrupted(tmp_path):
    folder = RunFolder.create_at(tmp_path / "run")
    with pytest.raises(ConnectionAbortedError):
        fit(_model(), (Jittered(), None), Classification(), _recipe(), run=folder, callbacks=[PullThePlug({4})])
    return folder


def test_another_recipe_is_refused_with_the_difference(interrupted):
    recipe = _recipe(optimizer=OptimizerRecipe(lr=0.1))
    with pytest.raises(FieldguideError, match=r"optimizer\.lr 0\.001 → 0\.1"):
        fit(_model(), (Jittered(), None), Classification(), recipe, run=interrupted, resume=True)


def test_another_architecture_is_refused_with_the_reason(interrupted):
    model = nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 10))
    with pytest.raises(FieldguideError, match="does not fit this model") as caught:
        fit(model, (Jittered(), None), Classification(), _recipe(), run=interrupted, resume=True)
    assert "\n" not in str(caught.value)


def test_other_data_are_refused(interrupted):
    class Named(tuple):
        fingerprint = "another"

    with pytest.raises(FieldguideError, match="fingerprint of the data: nothing → another"):
        fit(_model(), Named((Jittered(), None)), Classification(), _recipe(), run=interrupted, resume=True)


def test_a_run_in_use_is_refused(interrupted):
    with interrupted.locked(), pytest.raises(FieldguideError, match="in use"):
        fit(_model(), (Jittered(), None), Classification(), _recipe(), run=interrupted, resume=True)


def test_resume_needs_a_folder():
    with pytest.raises(FieldguideError, match="give the run folder"):
        fit(_model(), (Jittered(), None), Classification(), _recipe(), resume=True)


def test_the_run_folder_holds_the_resolved_recipe_and_standard_json(unbroken):
    text = (unbroken.folder / "recipe.toml").read_text()
    assert "threads = 1" in text
    for line in (unbroken.folder / "metrics.jsonl").read_text().splitlines():
        assert json.loads(line)["kind"] in {"step", "epoch"}
