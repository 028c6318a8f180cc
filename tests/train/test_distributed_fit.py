"""Whole trainings on many processes: they end where one process ends, stop together, and go on with another number."""

import os
import signal
import warnings
from itertools import chain

import pytest
import torch
from torch import nn

from fieldguide.blocks.attention import Attention
from fieldguide.blocks.feedforward import FeedForward
from fieldguide.blocks.transformer import PreNormBlock, Stack
from fieldguide.errors import FieldguideError
from fieldguide.objectives import Classification, Phase
from fieldguide.train import Diverged, Recipe, RunFolder, Stopped, TrainingWarning, fit
from fieldguide.train.callbacks import Callback, History
from fieldguide.train.distributed import ALONE, build_strategy
from fieldguide.train.recipe import OptimizerRecipe, ScheduleRecipe, StoppingRecipe

STEPS = 12


class Network(nn.Module):
    """A Transformer with batch norm and a head, in fp64."""

    def __init__(self, dropout):
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.BatchNorm1d(8)
        blocks = (PreNormBlock(Attention(8, 4), FeedForward(8, 16, dropout=dropout)) for _ in range(2))
        self.stack, self.head = Stack(blocks), nn.Linear(8, 3)
        self.double()

    def forward(self, x):
        return self.head(self.stack(self.norm(x.unflatten(1, (3, 8)).transpose(1, 2)).transpose(1, 2)).mean(1))


def _data(n=52):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(n, 24, generator=generator, dtype=torch.float64)
    inputs[:, 0] = torch.arange(n)  # who it is
    return inputs, torch.randint(3, (n,), generator=generator)


class Watching(Classification):
    """Remembers which samples this process has computed in each training step."""

    def step(self, model, batch):
        if model.training:
            SEEN.append([int(i) for i in batch[0][:, 0]])
        yield from super().step(model, batch)


SEEN: list[list[int]] = []


class Signal(Callback):
    """A real signal, to one process only, in the middle of a step."""

    def __init__(self, step):
        self.step = step

    def before_update(self, part):
        if self.loop.progress.step + 1 == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


class Spoiled(Classification):
    """A loss that is not a number wherever sample 7 is."""

    def step(self, model, batch):
        for phase in super().step(model, batch):
            bad = bool((batch[0][:, 0] == 7).any()) and model.training
            yield Phase(phase.parameters, phase.loss * (float("nan") if bad else 1.0))


def _recipe(**changes):
    settings = {"epochs": 2, "steps": STEPS, "batch_size": 8, "clip": 0.5, "threads": 1, "checkpoint_every": 4}
    settings |= {"schedule": ScheduleRecipe(warmup=0.1), "optimizer": OptimizerRecipe(lr=0.01), "ema": 0.9}
    return Recipe(**settings | changes)


def _fit(group, strategy, folder, resume=False, stop=None, objective=None, dropout=0.0, **recipe):
    """``stop`` is (rank, step) of a signal. What this process has seen, and on the leading one how it ended."""
    SEEN.clear()
    run = RunFolder(folder) if folder else None
    shared = build_strategy(strategy, group) if group else ALONE
    history, rank = History(), group.rank if group else 0
    signals = [Signal(stop[1])] if stop and stop[0] == rank else []
    listeners = [history, *signals]
    network, code = Network(dropout), 0
    data, objective = (_data(), _data(20)), objective or Watching()
    try:
        fit(network, data, objective, _recipe(**recipe), run=run, resume=resume, callbacks=listeners, strategy=shared)
    except Stopped as stopped:
        code = stopped.code
    weights = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    return {"seen": list(SEEN), "code": code, "weights": weights, "records": history.records}


def _assert_same(there, here, tolerance):
    for name, tensor in here.items():
        torch.testing.assert_close(
            there[name], tensor, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def _order(results):
    """The samples of each step, in the order of the global batch."""
    return [[i for rank in step for i in rank] for step in zip(*(result["seen"] for result in results), strict=True)]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "tensor"])
def test_a_training_ends_where_that_of_one_process_ends(two, strategy, tmp_path):
    alone = _fit(None, "", None)
    run = RunFolder.create_at(tmp_path / "run")
    results = two(_fit, strategy, run.path)
    _assert_same(results[0]["weights"], alone["weights"], 1e-9)
    _assert_same(results[1]["weights"], results[0]["weights"], 0)
    assert len(results[0]["records"]) == len(alone["records"])
    for there, here in zip(results[0]["records"], alone["records"], strict=True):
        assert there.keys() == here.keys()
        for name in here.keys() - {"kind", "seconds", "samples_per_second"}:
            assert there[name] == pytest.approx(here[name], rel=1e-9), name
    assert _order(results) == alone["seen"] if strategy != "tensor" else results[1]["seen"] == alone["seen"]
    assert len(run.metrics.read_text().splitlines()) == len(alone["records"])  # one process writes


@pytest.mark.parametrize(
    ("strategy", "changes"),
    [
        *[(strategy, {"accumulation": 3, "clip": 0.0}) for strategy in ("ddp", "fsdp", "tensor")],
        *[(strategy, {"recompute": "stack.layers"}) for strategy in ("ddp", "fsdp", "tensor")],
        *[(strategy, {"lookahead": 2, "ema": 0.0}) for strategy in ("fsdp", "tensor")],
        *[("fsdp", {"optimizer": OptimizerRecipe(name=name, lr=0.01)}) for name in ("sgd", "nadam", "rmsprop")],
        ("ddp", {"optimizer": OptimizerRecipe(name="muon", lr=0.01)}),
        ("ddp", {"head_epochs": 1}),
        ("ddp", {"clip_by": "adaptive", "clip": 0.01}),
    ],
)
def test_settings_mean_the_same(two, strategy, changes):
    alone = _fit(None, "", None, **changes)
    _assert_same(two(_changed, strategy, changes)[0]["weights"], alone["weights"], 1e-9)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "tensor"])
def test_a_signal_to_one_process_stops_all_and_other_numbers_go_on(two, strategy, tmp_path):
    alone = _fit(None, "", None)
    run = RunFolder.create_at(tmp_path / "run")
    first = two(_fit, strategy, run.path, False, (1, 5))
    assert [result["code"] for result in first] == [143, 143]
    second = _fit(None, "", run.path, True, (0, 9))
    assert second["code"] == 143
    third = two(_fit, strategy, run.path, True)
    assert [result["code"] for result in third] == [0, 0]
    seen = [_order(first), second["seen"], _order(third)]
    if strategy == "tensor":  # all processes see all
        seen = [first[0]["seen"], second["seen"], third[0]["seen"]]
    assert [len(steps) for steps in seen] == [5, 4, 3]
    assert [*chain.from_iterable(seen)] == alone["seen"]  # each sample once, in the same global order
    _assert_same(third[0]["weights"], alone["weights"], 1e-9)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "tensor"])
def test_the_same_number_goes_on_bit_for_bit_whatever_is_random(two, strategy, tmp_path):
    unbroken = two(_random, strategy, None)
    run = RunFolder.create_at(tmp_path / "run")
    assert two(_random, strategy, run.path, False, (0, 5))[1]["code"] == 143
    resumed = two(_random, strategy, run.path, True)
    _assert_same(resumed[0]["weights"], unbroken[0]["weights"], 0)
    assert not torch.equal(unbroken[0]["weights"]["head.weight"], _fit(None, "", None)["weights"]["head.weight"])


def _random(group, strategy, folder, resume=False, stop=None):
    return _fit(group, strategy, folder, resume, stop, dropout=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("strategies", [["ddp"] * 3, ["fsdp"] * 3, ["tensor", "fsdp", "ddp"]], ids=">".join)
def test_four_two_one_two_processes_see_every_sample_once(two, four, strategies, tmp_path):
    alone = _fit(None, "", None)
    run = RunFolder.create_at(tmp_path / "run")
    parts = [
        four(_fit, strategies[0], run.path, False, (3, 4)),
        two(_fit, strategies[1], run.path, True, (1, 7)),
        [_fit(None, "", run.path, True, (0, 9))],
        two(_fit, strategies[2], run.path, True),
    ]
    assert [{result["code"] for result in part} for part in parts] == [{143}, {143}, {143}, {0}]
    named = [*strategies[:2], "", strategies[2]]
    seen = [part[0]["seen"] if s == "tensor" else _order(part) for s, part in zip(named, parts, strict=True)]
    assert [len(steps) for steps in seen] == [4, 3, 2, 3]
    assert [*chain.from_iterable(seen)] == alone["seen"]
    _assert_same(parts[-1][0]["weights"], alone["weights"], 1e-9)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_bad_batch_in_one_process_is_bad_in_all(two, strategy):
    alone = _spoiled(None, "")
    assert "the loss is nan and the gradient norm nan" in alone
    assert two(_spoiled, strategy)[0] == alone


@pytest.mark.parametrize("policy", ["skip", "rollback"])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_bad_batch_is_left_out_as_by_one_process(two, strategy, policy, tmp_path):
    alone = _survived(None, "", RunFolder.create_at(tmp_path / "alone").path, policy)
    there = two(_survived, strategy, RunFolder.create_at(tmp_path / "two").path, policy)
    assert sum("left_out" in record for record in alone["records"]) == 1
    assert len(there[0]["records"]) == len(alone["records"])
    _assert_same(there[0]["weights"], alone["weights"], 1e-9)


def _survived(group, strategy, folder, policy):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        return _fit(group, strategy, folder, objective=Spoiled(), on_bad_batch=policy, epochs=1, steps=0)


def _spoiled(group, strategy):
    with pytest.raises(Diverged) as caught:
        _fit(group, strategy, None, objective=Spoiled())
    return str(caught.value).split(";")[0]


@pytest.mark.parametrize(
    ("strategy", "changes", "said"),
    [
        ("ddp", {"batch_size": 9}, "batch_size 9 does not divide among 2 processes; set batch_size = 8"),
        ("ddp", {"noise_scale": True, "accumulation": 2}, "noise_scale needs all gradients in one process"),
        ("fsdp", {"optimizer": OptimizerRecipe(name="muon")}, "fsdp splits matrices, which muon needs whole"),
        ("fsdp", {"clip_by": "adaptive"}, "fsdp splits tensors, which clip_by = 'adaptive' needs whole"),
        ("tensor", {"sharpness": 0.05, "ema": 0.0}, "tensor splits tensors, which sharpness = 0.05 needs whole"),
        ("tensor", {"precision": "fp16"}, 'tensor cannot scale losses for fp16; use precision = "bf16"'),
    ],
)
def test_what_cannot_be_shared_is_one_line(two, strategy, changes, said):
    for text in two(_refused, strategy, changes):
        assert said in text
        assert "\n" not in text


def _refused(group, strategy, changes):
    with pytest.raises(FieldguideError) as caught:
        _fit(group, strategy, None, **changes)
    return str(caught.value)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "tensor"])
def test_early_stopping_brings_back_the_best_weights(two, strategy):
    changes = {"stopping": StoppingRecipe(patience=1), "epochs": 6, "steps": 0, "ema": 0.0, "clip": 0.0}
    changes["optimizer"] = OptimizerRecipe(lr=0.3)
    alone = _fit(None, "", None, **changes)
    there = two(_changed, strategy, changes)
    assert there[0]["records"][-1]["epoch"] == alone["records"][-1]["epoch"]
    _assert_same(there[0]["weights"], alone["weights"], 1e-6)


def _changed(group, strategy, changes):
    return _fit(group, strategy, None, **changes)
