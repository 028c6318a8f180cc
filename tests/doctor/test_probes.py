"""Probes: what they find on trainings that are ill in the way they look for, and that they leave everything alone."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fieldguide.doctor.history import History
from fieldguide.doctor.probes import PROBES, Bench, carry_out
from fieldguide.doctor.probes.fork import Fork, end
from fieldguide.doctor.probes.label_permutation import run as label_permutation
from fieldguide.doctor.probes.lr_fork import run as lr_fork
from fieldguide.doctor.probes.one_batch import run as one_batch
from fieldguide.doctor.probes.train_eval import run as train_eval
from fieldguide.doctor.probes.zero_input import run as zero_input


@dataclass(frozen=True)
class Batch:
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    target: Tensor


class Classes:
    """A training of a classifier on four batches of points around three centres."""

    def __init__(self, model: nn.Module):
        torch.manual_seed(0)
        self.model = model
        centres = 3 * torch.randn(3, 8)
        targets = [torch.randint(3, (32,)) for _ in range(4)]
        self.batches: Sequence[Any] = [Batch((centres[y] + torch.randn(32, 8),), {}, y) for y in targets]

    def output(self, model: nn.Module, batch: Any) -> Tensor:
        return model(*batch.args, **batch.kwargs)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(self.output(model, batch), batch.target)


def network(*last: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3), *last)


def bench(model: nn.Module, lr: float = 1e-2) -> Bench:
    return Bench(Classes(model), torch.optim.Adam(model.parameters(), lr=lr))


def test_a_sound_network_learns_a_batch_by_heart_and_a_spoiled_one_does_not():
    sound = one_batch(bench(network()))
    assert sound["end"] < 0.05 < sound["start"]

    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0 * x

    spoiled = one_batch(bench(network(Constant())))
    assert spoiled["end"] > 0.9


def test_zeros_are_as_good_as_an_input_that_is_not_used():
    used = zero_input(bench(network()))
    assert used["real"] < 0.5 * used["zero"]
    model = network()
    with torch.no_grad():
        model[0].bias.fill_(-100.0)  # pyright: ignore[reportIndexIssue]
    unused = zero_input(bench(model))
    assert unused["real"] == pytest.approx(unused["zero"], rel=1e-3)


def test_real_labels_are_learned_faster_than_permuted_ones_unless_they_mean_nothing():
    real = label_permutation(bench(network()))
    assert real["real"] < 0.8 * real["permuted"] < real["start"]
    meaningless = bench(network())
    for number, batch in enumerate(meaningless.replay.batches):
        y = torch.randint(3, (32,), generator=torch.Generator().manual_seed(number))
        meaningless.replay.batches[number] = Batch(batch.args, {}, y)  # pyright: ignore[reportIndexIssue]
    other = label_permutation(meaningless)
    assert other["real"] > 0.8 * other["permuted"]


def test_a_rate_far_off_is_told_by_its_neighbours():
    low = lr_fork(bench(network(), lr=1e-6))
    assert low["10"] < low["1"]
    assert low["1"] == pytest.approx(low["start"], rel=0.05)
    model = network()
    high = lr_fork(Bench(Classes(model), torch.optim.SGD(model.parameters(), lr=10.0)))
    assert high["0.1"] < 0.5 * high["1"]


def test_the_optimizers_moments_go_along():
    its = bench(network())
    for batch in its.replay.batches:
        its.replay.loss(its.replay.model, batch).backward()
        its.optimizer.step()  # pyright: ignore[reportOptionalMemberAccess]
        its.optimizer.zero_grad()  # pyright: ignore[reportOptionalMemberAccess]
    fork = Fork(its.replay, its.optimizer)
    fork.learn(3)
    twin, optimizer = copy.deepcopy((its.replay.model, its.optimizer))
    for batch in its.replay.batches[:3]:
        optimizer.zero_grad()  # pyright: ignore[reportOptionalMemberAccess]
        its.replay.loss(twin, batch).backward()
        optimizer.step()  # pyright: ignore[reportOptionalMemberAccess]
    for one, other in zip(fork.model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other)


def test_modes_that_disagree_are_seen():
    model = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32, momentum=1e-6), nn.ReLU(), nn.Linear(32, 3))
    its = bench(model)
    fork = Fork(its.replay)
    fork.learn(60)
    model.load_state_dict(fork.model.state_dict())
    with torch.no_grad():
        model[1].running_mean += 20.0  # pyright: ignore
    figures = train_eval(its)
    assert figures["eval"] > 3 * figures["train"]


def test_probes_leave_the_training_and_the_random_generators_alone():
    its = bench(network(nn.Dropout(0.5)))
    history = History.of({"kind": "step", "step": n, "loss": 1.1} for n in range(1, 80))
    assert history.failing
    before = copy.deepcopy(its.replay.model.state_dict())
    torch.manual_seed(5)
    records = list(carry_out(history, its))
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))
    assert all(torch.equal(tensor, before[name]) for name, tensor in its.replay.model.state_dict().items())
    assert all(parameter.grad is None for parameter in its.replay.model.parameters())
    assert {record["name"] for record in records} <= {probe.name for probe in PROBES}
    assert all(record["figures"] for record in records)
    for record in records:
        history.add(record)
    assert not list(carry_out(history, its)), "each is made once"


def test_a_healthy_run_is_not_probed():
    history = History.of({"kind": "step", "step": n, "loss": 2.0 * 0.97**n + 0.1} for n in range(1, 200))
    assert not list(carry_out(history, bench(network())))


def test_losses_that_blow_up_end_a_fork():
    fork = Fork(Classes(network()), rate=1e30)
    losses = fork.learn(50)
    assert end(losses) > 1e3
