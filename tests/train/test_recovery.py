"""A batch whose loss or gradient is not finite, or whose loss is a spike: stop, skip, roll back."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fieldguide import trace
from fieldguide.errors import FieldguideError
from fieldguide.objectives import Classification, Phase
from fieldguide.train import Callback, Diverged, Recipe, RunFolder, TrainingWarning, fit
from fieldguide.train.callbacks import History
from fieldguide.train.recipe import OptimizerRecipe, ScheduleRecipe

BAD = {5: math.nan}
"""Number of a bad batch in the run, and what is in it."""


def network() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, 3))


class Numbered:
    """Eight batches an epoch of which some are bad: from epoch 1 on the others are as in the first."""

    def __init__(self, bad: dict[int, float], batches: int = 8):
        self.bad, self.number = bad, batches

    def __len__(self) -> int:
        return self.number

    def batches(self, epoch: int, start: int = 0):
        for i in range(start, self.number):
            generator = torch.Generator().manual_seed(i)
            inputs = torch.randn(10, 6, generator=generator)
            targets = (inputs[:, :3] + 0.1).argmax(1)
            inputs[3, 2] = self.bad.get(i + epoch * self.number, float(inputs[3, 2]))
            yield inputs, targets


def train(
    bad: dict[int, float] = BAD,
    run: RunFolder | None = None,
    model: nn.Module | None = None,
    *callbacks: Callback,
    **recipe: Any,
) -> nn.Module:
    settings = {"epochs": 3, "batch_size": 10, "threads": 1, "checkpoint_every": 2, "ema": 0.9} | recipe
    model = model or network()
    resume = settings.pop("resume", False)
    data = (Numbered(bad), Numbered({}, 2))
    fit(model, data, Classification(), Recipe(**settings), run=run, resume=resume, callbacks=callbacks)
    return model


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def folder(path: Path) -> RunFolder:
    return RunFolder.create(path, "m", "d")


# ---------------------------------------------------------------------------------------------------------- skip


def test_a_skipped_step_leaves_nothing_behind(tmp_path: Path) -> None:
    """Weights, running statistics, optimizer, average, random generators: all as before; only counters move."""
    states = {}

    class Keep(Callback):
        def on_step(self, record: dict) -> None:
            state = self.loop.state_dict()
            states[record["step"]] = {
                "model": {k: v.clone() for k, v in state["model"].items()},
                "average": {k: v.clone() for k, v in state["average"]["average"].items()},
                "optimizer": [v.clone() for s in state["optimizers"]["model"]["state"].values() for v in s.values()],
                "random": state["random"]["torch"],
            }

    record = History()
    with pytest.warns(TrainingWarning, match=r"step 6 \(epoch 0\): the loss is nan .*; the step is left out"):
        train(BAD, None, None, Keep(), record, on_bad_batch="skip")
    for part in ("model", "average"):
        for name, tensor in states[5][part].items():
            assert torch.equal(tensor, states[6][part][name]), name
    assert all(map(torch.equal, states[5]["optimizer"], states[6]["optimizer"]))
    assert torch.equal(states[5]["random"], states[6]["random"])
    assert not torch.equal(states[6]["random"], states[7]["random"])
    step = next(r for r in record.records if r["step"] == 6)
    assert step["left_out"]
    assert math.isnan(step["loss"])
    assert step["samples"] == 10
    epoch = next(r for r in record.records if r["kind"] == "epoch")
    losses = [r["loss"] for r in record.records if r["kind"] == "step" and r["epoch"] == 0 and r["step"] != 6]
    assert epoch["train_loss"] == pytest.approx(sum(losses) / 7)


@pytest.mark.filterwarnings("ignore::fieldguide.train.TrainingWarning")
@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("bad", [{5: math.nan}, {0: math.inf, 23: math.nan}, {8: math.nan, 9: math.nan, 10: math.nan}])
def test_skip_and_rollback_end_with_the_same_bits(tmp_path: Path, bad: dict[int, float], accumulation: int) -> None:
    skipped = train(bad, folder(tmp_path), on_bad_batch="skip", accumulation=accumulation)
    again = train(bad, folder(tmp_path), on_bad_batch="rollback", accumulation=accumulation)
    assert same(skipped, again)
    assert all(tensor.isfinite().all() for tensor in again.state_dict().values())
    assert not same(skipped, train({}, None, accumulation=accumulation))


def test_too_many_bad_steps_in_a_row_end_the_training() -> None:
    with (
        pytest.warns(TrainingWarning),
        pytest.raises(Diverged, match="10 steps before it were left out already") as end,
    ):
        train(dict.fromkeys(range(4, 24), math.nan), None, on_bad_batch="skip")
    assert "\n" not in str(end.value)
    assert end.value.record["step"] == 15


def test_skipping_survives_a_resume(tmp_path: Path) -> None:
    class Die(Callback):
        def on_step(self, record: dict) -> None:
            if record["step"] == 7 and self.loop.progress.epoch == 0:
                raise ConnectionAbortedError

    run = folder(tmp_path)
    with pytest.warns(TrainingWarning):
        whole = train(BAD, folder(tmp_path), on_bad_batch="skip")
    with pytest.warns(TrainingWarning), pytest.raises(ConnectionAbortedError):
        train(BAD, run, None, Die(), on_bad_batch="skip")
    assert same(whole, train(BAD, run, on_bad_batch="skip", resume=True))


def test_a_gradient_that_is_not_finite_is_skipped_too() -> None:
    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * math.inf

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.count = network(), 0

        def forward(self, x: Tensor) -> Tensor:
            self.count += self.training
            return Steep.apply(self.inner(x)) if self.count == 3 else self.inner(x)  # pyright: ignore

    record = History()
    with pytest.warns(TrainingWarning, match="gradients not finite: inner.0.weight"):
        model = train({}, None, Network(), record, on_bad_batch="skip")
    assert [r["step"] for r in record.records if r.get("left_out")] == [3]
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


# ------------------------------------------------------------------------------------------------------ rollback


def test_a_rollback_is_exact(tmp_path: Path) -> None:
    """What the loop holds after going back is, bit for bit, what the checkpoint holds."""
    run, seen = folder(tmp_path), []

    class Compare(Callback):
        def on_start(self, loop: Any) -> None:
            super().on_start(loop)
            if loop.recovery.left_out:
                restored = run.checkpoints.newest()
                assert restored
                state = loop.state_dict()
                assert restored.step == 4
                for values in (state, restored.state):
                    del values["random"]["python"]  # beartype, which checks types in these tests, draws from it
                for part in ("model", "optimizers", "average", "plan", "best", "progress", "random", "precision"):
                    assert flat(state[part]) == flat(restored.state[part]), part
            seen.append(loop.progress.step)

    record = History()
    with pytest.warns(TrainingWarning, match=r"step 6 .* loss is nan .*; back to step 4, to leave it out"):
        train(BAD, run, None, Compare(), record, on_bad_batch="rollback")
    assert seen == [0, 4]
    assert [r["step"] for r in record.records if r["kind"] == "step"] == [*range(1, 25)]
    lines = list(trace.read(run.metrics))
    assert [r["step"] for r in lines if r["kind"] == "step"] == [*range(1, 25)]
    failure = next(r for r in lines if r["kind"] == "failure")
    assert (failure["step"], failure["epoch"], failure["batch"]) == (6, 0, 5)


def flat(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist(), str(value.dtype)
    if isinstance(value, dict):
        return {key: flat(inner) for key, inner in value.items()}
    return [flat(inner) for inner in value] if isinstance(value, list | tuple) else value


class Blow(Callback):
    """A finite loss whose update makes the weights infinite."""

    def before_update(self, part: str) -> None:
        if self.loop.progress.step == 4:
            self.loop.parameters[part][0].data.fill_(math.inf)


def test_a_rollback_cures_what_an_earlier_update_began(tmp_path: Path) -> None:
    """It is seen at the next loss, and the step before is left out."""
    record = History()
    with pytest.warns(TrainingWarning, match="back to step 4"):
        model = train({}, folder(tmp_path), None, Blow(), record, on_bad_batch="rollback")
    assert [r["step"] for r in record.records if r.get("left_out")] == [5]
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def test_skipping_a_step_is_no_cure_for_it() -> None:
    with pytest.raises(Diverged, match=r"step 6 .*; an earlier update has left weights that are not finite"):
        train({}, None, None, Blow(), on_bad_batch="skip")


def test_going_back_in_vain_ends_with_a_report(tmp_path: Path) -> None:
    run = folder(tmp_path)
    with pytest.warns(TrainingWarning), pytest.raises(Diverged, match="going back 3 times and leaving out") as end:
        train(dict.fromkeys(range(4, 24), math.nan), run, on_bad_batch="rollback")
    assert "batch 4 of epoch 0, 5 of epoch 0, 6 of epoch 0 did not help" in str(end.value)
    assert "\n" not in str(end.value)
    assert [r["step"] for r in trace.read(run.metrics, "failure")][-1] == 8


def test_rollback_needs_checkpoints() -> None:
    with pytest.raises(FieldguideError, match='on_bad_batch: "rollback" goes back to checkpoints; give a run folder'):
        train({}, None, on_bad_batch="rollback")


# -------------------------------------------------------------------------------------- nothing bad is ever saved


@pytest.mark.parametrize("every", [1, 2])
def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, every: int) -> None:
    class Blow(Callback):
        def on_step(self, record: dict) -> None:
            if record["step"] == 6:
                self.loop.parameters["model"][2].data[1] = math.nan

    run = folder(tmp_path)
    with pytest.raises(
        Diverged, match=r"step 6 \(epoch 0\): parameters that are not finite .*: 1\.weight; they are not saved"
    ):
        train({}, run, None, Blow(), checkpoint_every=every)
    for path in run.checkpoints.numbered():
        restored = run.checkpoints.newest()
        assert restored
        assert restored.step == 6 - every
        assert all(tensor.isfinite().all() for tensor in restored.state["model"].values()), path


def test_a_bad_batch_leaves_no_trace_in_running_statistics_when_training_stops() -> None:
    model = network()
    with pytest.raises(Diverged, match="step 6"):
        train(BAD, None, model)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    assert int(model.get_buffer("1.num_batches_tracked")) == 5


def test_an_fp16_overflow_leaves_no_trace_in_running_statistics() -> None:
    record, model = History(), network()
    train({5: 1e38}, None, model, record, precision="fp16")
    assert any(not math.isfinite(r["loss"] + r["grad_norm"]) for r in record.records if r["kind"] == "step")
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


# --------------------------------------------------------------------------------------------------------- spikes

CALM: dict[str, Any] = {
    "epochs": 12,
    "schedule": ScheduleRecipe(name="constant", warmup=0.0),
    "optimizer": OptimizerRecipe(lr=1e-4),
    "loss_spike": 8.0,
}


def linear() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(6, 3))


def test_a_spike_is_left_out_and_an_ordinary_loss_is_not() -> None:
    record = History()
    with pytest.warns(TrainingWarning, match=r"more than 8 deviations of .* above the recent median"):
        train({85: 1e6}, None, linear(), record, on_bad_batch="skip", **CALM)
    assert [r["step"] for r in record.records if r.get("left_out")] == [86]


def test_the_history_of_losses_resumes_bit_for_bit(tmp_path: Path) -> None:
    class Die(Callback):
        def on_step(self, record: dict) -> None:
            if record["step"] == 83 and not self.loop.recovery.left_out:
                raise ConnectionAbortedError

    with pytest.warns(TrainingWarning, match="median"):
        whole = train({85: 1e6}, folder(tmp_path), linear(), on_bad_batch="skip", **CALM)
    run = folder(tmp_path)
    with pytest.raises(ConnectionAbortedError):
        train({85: 1e6}, run, linear(), Die(), on_bad_batch="skip", **CALM)
    with pytest.warns(TrainingWarning, match="median"):
        assert same(whole, train({85: 1e6}, run, linear(), on_bad_batch="skip", resume=True, **CALM))


def test_nothing_is_a_spike_before_there_is_a_history_and_without_being_asked() -> None:
    record = History()
    train({20: 1e6, 85: 1e6}, None, linear(), record, **{**CALM, "loss_spike": 0.0})
    train({20: 1e6}, None, linear(), record, **CALM)
    assert not [r for r in record.records if r.get("left_out")]


# ------------------------------------------------------------------------------------------------- several parts


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(6, 4), nn.Linear(4, 3)


class Turns:
    """Two parts in turn; a bad number reaches the second one only, when the first has moved already."""

    monitor = ("loss", "min")

    def parts(self, model: Any) -> dict[str, nn.Module]:
        return {"first": model.first, "second": model.second}

    def weight(self, batch: Any) -> int:
        return len(batch[0])

    def step(self, model: Any, batch: Any):
        inputs, targets = batch
        clean = inputs.nan_to_num()
        yield Phase("first", model.first(clean).square().mean())
        hidden = model.first(inputs).detach()
        yield Phase("second", nn.functional.cross_entropy(model.second(hidden), targets))

    def metrics(self) -> Any:
        return Classification().metrics()


@pytest.mark.filterwarnings("ignore::fieldguide.train.TrainingWarning")
def test_a_part_that_has_moved_is_taken_back(tmp_path: Path) -> None:
    skipped, again = Pair(), Pair()
    recipe = Recipe(epochs=2, batch_size=10, threads=1, on_bad_batch="skip", checkpoint_every=2)
    fit(skipped, (Numbered(BAD), None), Turns(), recipe)
    fit(again, (Numbered(BAD), None), Turns(), replace(recipe, on_bad_batch="rollback"), run=folder(tmp_path))
    assert same(skipped, again)
