from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from fieldguide import trace
from fieldguide.errors import FieldguideError
from fieldguide.objectives import Classification
from fieldguide.train import Diverged, Recipe, RunFolder, fit
from fieldguide.train.callbacks import Callback, Callbacks, History, TrainingWarning
from fieldguide.train.checkpoint import disk, folder
from fieldguide.train.recipe import OptimizerRecipe, StoppingRecipe


def _data(n=40):
    torch.manual_seed(1)
    return torch.randn(n, 5), torch.randint(3, (n,))


def _model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def _fit(run=None, callbacks=(), data=None, model=None, **recipe):
    settings = Recipe(**({"epochs": 2, "batch_size": 8, "threads": 1} | recipe))
    return fit(model or _model(), data or (_data(), _data(9)), Classification(), settings, run=run, callbacks=callbacks)


class Diary(Callback):
    def __init__(self):
        self.events = []

    def on_start(self, loop):
        super().on_start(loop)
        self.events.append("start")

    def before_update(self, part):
        self.events.append(f"update {part}")

    def on_step(self, record):
        self.events.append(f"step {record['step']}")

    def on_epoch(self, record):
        self.events.append(f"epoch {record['epoch']}")

    def on_end(self):
        self.events.append("end")


def test_order_of_events():
    diary = Diary()
    _fit(callbacks=[diary], batch_size=20)
    assert diary.events == [
        *("start", "update model", "step 1", "update model", "step 2", "epoch 0"),
        *("update model", "step 3", "update model", "step 4", "epoch 1", "end"),
    ]


def test_states_are_kept_by_class_and_survive_a_change_of_company():
    first = Callbacks([History(), Diary(), History()])
    first.named["History"].records.append({"step": 1})
    first.named["History#2"].records.append({"step": 2})
    state = first.state_dict()
    assert state == {"History": {"records": [{"step": 1}]}, "Diary": {}, "History#2": {"records": [{"step": 2}]}}
    second = Callbacks([Diary(), History()])
    second.load_state_dict(state)
    assert second.named["History"].records == [{"step": 1}]


def test_the_logs_hold_every_record(tmp_path):
    run, history = RunFolder.create_at(tmp_path / "run"), History()
    done = _fit(run, [history])
    records = list(trace.read(run.metrics))
    assert records == history.records
    assert [r["kind"] for r in records] == (["step"] * 5 + ["epoch"]) * 2
    assert done.history == [r for r in records if r["kind"] == "epoch"]
    assert trace.Step.__required_keys__ == set(records[0])
    assert trace.Epoch.__required_keys__ < set(records[5]) <= set(trace.Epoch.__annotations__)


def test_the_trace_is_its_definition(tmp_path):
    run, history = RunFolder.create_at(tmp_path / "run"), History()

    class Weights(Callback):
        def __init__(self):
            self.kept = []

        def keep(self, *_):
            self.kept.append(nn.utils.parameters_to_vector(self.loop.model.parameters()).detach().clone())

        def on_start(self, loop):
            super().on_start(loop)
            self.keep()

        on_step = keep

    weights = Weights()
    _fit(run, [history, weights], epochs=5)
    samples = list(trace.read(run.trace))
    assert [s["step"] for s in samples] == [10, 20]
    assert trace.Sample.__required_keys__ < set(samples[0]) <= set(trace.Sample.__annotations__)
    steps = [r for r in history.records if r["kind"] == "step"]
    for sample in samples:
        step = sample["step"]
        before, after = weights.kept[step - 1], weights.kept[step]
        assert sample["update_ratio"] == pytest.approx(((after - before).norm() / before.norm()).item(), rel=1e-4)
        assert 0 <= sample["data_wait"] <= 1
        assert all(sample[key] == steps[step - 1][key] for key in ("loss", "lr", "grad_norm", "epoch"))


def test_checkpoints_at_the_start_every_few_steps_and_after_each_epoch(tmp_path):
    run = RunFolder.create_at(tmp_path / "run")
    saved = []

    class Watch(Callback):
        def on_start(self, loop):
            saving = loop.callbacks.named["Saving"]
            begin = saving.run.checkpoints.begin

            def watched(state, *, step, best, refers_to, crew):
                saved.append((step, best))
                return begin(state, step=step, best=best, refers_to=refers_to, crew=crew)

            saving.run.checkpoints.begin = watched

    _fit(run, [Watch()], checkpoint_every=2, stopping=StoppingRecipe(patience=9))
    assert [step for step, _ in saved] == [0, 2, 4, 5, 6, 8, 10, 10]
    assert saved[3] == (5, True)
    assert not any(best for step, best in saved if step not in (5, 10))


def test_a_save_that_fails_does_not_end_the_training(tmp_path, monkeypatch):
    run = RunFolder.create_at(tmp_path / "run")
    write = disk.write

    def full(path, chunks):
        if "step-000005" in path.parent.name:
            raise OSError(28, "No space left on device")
        return write(path, chunks)

    monkeypatch.setattr(folder, "write", full)
    with pytest.warns(TrainingWarning, match=r"step 5: the checkpoint could not be saved \(.*No space left"):
        done = _fit(run)
    assert len(done.history) == 2
    assert run.checkpoints.newest().step == 10


def test_a_log_that_cannot_be_written_does_not_end_the_training(tmp_path):
    run = RunFolder.create_at(tmp_path / "run")
    run.trace = run.path / "gone" / "trace.jsonl"
    with pytest.warns(
        TrainingWarning, match=r"cannot write .*trace\.jsonl: No such file or directory; training goes on"
    ):
        done = _fit(run, epochs=3)
    assert len(done.history) == 3


def test_a_divergence_is_in_the_log_and_the_last_checkpoint_is_good(tmp_path):
    run = RunFolder.create_at(tmp_path / "run")
    inputs, labels = _data()
    inputs[7, 2] = float("nan")
    with pytest.raises(Diverged):
        _fit(run, data=((inputs, labels), None), checkpoint_every=1)
    *steps, failure = trace.read(run.metrics)
    assert failure["kind"] == "failure"
    assert failure["loss"] != failure["loss"]
    assert failure["parameters"] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    state = run.checkpoints.newest().state
    assert state["progress"]["step"] == len(steps)
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


def test_the_best_checkpoint_holds_the_best_epoch(tmp_path):
    run = RunFolder.create_at(tmp_path / "run")
    done = _fit(run, epochs=6, optimizer=OptimizerRecipe(lr=0.3))
    state = run.checkpoints.newest().state
    assert state["best"]["epoch"] == done.best_epoch
    best = run.checkpoints.best()
    assert best is not None
    assert best.name.endswith(f"step-{5 * (done.best_epoch + 1):06d}")


def test_the_head_learns_first_and_then_everything():
    model = nn.Sequential(OrderedDict(body=nn.Linear(5, 7), fixed=nn.Linear(7, 7), head=nn.Linear(7, 3)))
    model.fixed.requires_grad_(False)
    weights = []

    class Watch(Callback):
        def on_epoch(self, record):
            weights.append({name: parameter.detach().clone() for name, parameter in model.named_parameters()})

    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    _fit(model=model, callbacks=[Watch()], epochs=3, head_epochs=2)
    for epoch, learns in enumerate([{"head"}, {"head"}, {"head", "body"}]):
        last = weights[epoch - 1] if epoch else before
        changed = {name.split(".")[0] for name in before if not torch.equal(weights[epoch][name], last[name])}
        assert changed == learns, f"epoch {epoch}"
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == [
        "fixed.weight",
        "fixed.bias",
    ]
    _fit(model=model, epochs=1, head_epochs=1)
    assert model.body.weight.requires_grad


def test_a_head_without_parameters_has_nothing_to_learn_first():
    model = nn.Sequential(OrderedDict(body=nn.Linear(5, 3), head=nn.Identity()))
    before = model.body.weight.detach().clone()
    _fit(model=model, epochs=1, head_epochs=1)
    assert not torch.equal(model.body.weight, before)


def test_a_model_without_a_head_cannot_learn_it_first():
    with pytest.raises(FieldguideError, match="Sequential has no module named head; set head_epochs = 0"):
        _fit(head_epochs=1)


def test_the_trace_has_memory_and_in_one_of_ten_samples_the_gradient_of_every_matrix(tmp_path):
    run = RunFolder.create_at(tmp_path / "run")
    norms = {}

    class Gradients(Callback):
        def before_update(self, part):
            named = self.loop.model.named_parameters()
            norms[self.loop.progress.step + 1] = {
                name.removesuffix(".weight"): p.grad.norm().item() for name, p in named if p.ndim > 1
            }

    _fit(run, [Gradients()], epochs=23)
    samples = list(trace.read(run.trace))
    assert [s["step"] for s in samples] == list(range(10, 116, 10))
    assert [s["step"] for s in samples if "gradients" in s] == [10, 110]
    for step in (10, 110):
        found = samples[step // 10 - 1]["gradients"]
        assert list(found) == list(norms[step])
        assert found == pytest.approx(norms[step])
    status = Path("/proc/self/status").read_text()
    peak = 1024 * int(status.partition("VmHWM:")[2].split()[0])
    held = [s["resident_bytes"] for s in samples]
    assert held == sorted(held)
    assert 0.99 * peak < held[-1] < 2 * peak  # what ran before in this process may have held more
