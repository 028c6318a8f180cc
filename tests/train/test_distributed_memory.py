"""Memory runs out in one of many processes: all go on in smaller pieces, or all end with one line."""

import re

import pytest
import torch
from tests.train.rank_pool import two_ranks
from torch import nn

from fieldguide.objectives import Classification
from fieldguide.train import Recipe, TrainingWarning, fit
from fieldguide.train.callbacks import Callback, History
from fieldguide.train.distributed import ALONE, build_strategy


class Hungry(nn.Module):
    """A network for which memory runs out on more samples than ``room``, ``where`` it is said, ``after`` some calls."""

    def __init__(self, room, where="forward", after=0):
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
        self.room, self.where, self.after = room, where, after
        self.done = []  # the samples of each piece that went forward in training

    def forward(self, x):
        here = self.training == (self.where != "evaluation")
        self.after -= here
        y = self.inner(x)
        if here and len(x) > self.room and self.after < 0:
            if self.where != "backward":
                raise torch.OutOfMemoryError("CUDA out of memory.")
            y.register_hook(self.refuse)
        self.done += [len(x)] * self.training
        return y

    @staticmethod
    def refuse(gradient):
        raise torch.OutOfMemoryError("CUDA out of memory.")


class Gradients(Callback):
    def __init__(self):
        self.steps = []

    def before_update(self, part):
        own = self.loop.strategy.local([p.grad for p in self.loop.parameters[part]])
        self.steps.append(torch.cat([gradient.flatten() for gradient in own]))


def data(n=40):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 5, generator=generator, dtype=torch.float64), torch.randint(3, (n,), generator=generator)


def trained(group, strategy, model, accumulation):
    gradients, history = Gradients(), History()
    shared = build_strategy(strategy, group) if group else ALONE
    recipe = Recipe(epochs=2, batch_size=16, accumulation=accumulation, threads=1)
    fit(model, (data(), data(12)), Classification(), recipe, callbacks=[gradients, history], strategy=shared)
    return gradients.steps, history.records, model.done


def hungry(group, where, after, accumulation):
    """Only the second process is short of memory."""
    room = 2 if group.rank == 1 else 99
    with pytest.warns(TrainingWarning, match="out of memory") as said:
        steps, records, done = trained(group, "ddp", Hungry(room, where, after), accumulation)
    return steps, records, done, [str(one.message) for one in said]


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(("where", "after"), [("forward", 0), ("forward", 3), ("backward", 0), ("evaluation", 0)])
def test_pieces_become_smaller_in_all_and_the_step_stays(two, where, after, accumulation):
    steps, records, _ = trained(None, "", Hungry(99), accumulation)
    results = two(hungry, where, after, accumulation)
    for there, _, _, said in results:
        for a, b in zip(steps, there, strict=True):
            assert (a - b).norm() <= 1e-12 * a.norm()
        unit = "evaluation" if where == "evaluation" else "step"
        assert [re.search(r"in (\d+) pieces, this (\w+)", line).groups() for line in said] == [
            (str(2**n), unit) for n in range(1, 1 + len(said))
        ]
    assert results[0][3] == results[1][3]
    for a, b in zip(records, results[0][1], strict=True):
        for name in a.keys() - {"kind", "seconds", "samples_per_second"}:
            assert b[name] == pytest.approx(a[name], rel=1e-6), name
    if where == "forward" and not after:
        assert max(results[1][2]) <= 2 < max(results[0][2])  # only where they fit


RANK = """
import sys, torch
from fieldguide.errors import FieldguideError
from fieldguide.train.distributed import Place, joined
from tests.train.test_distributed_memory import Hungry, trained

torch.set_num_threads(1)
strategy, where, after = sys.argv[1], sys.argv[2], int(sys.argv[3])
place = Place.found()
try:
    with joined(place, torch.device("cpu"), timeout=20.0) as group:
        trained(group, strategy, Hungry(2 if place.rank == 1 else 99, where, after), 2)
except FieldguideError as problem:
    sys.exit(f"error: {problem}")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "where", "after", "place"),
    [
        ("ddp", "backward", 4, "step 3, micro-batch 2"),
        ("fsdp", "forward", 0, "step 1, micro-batch 1"),
        ("fsdp", "backward", 3, "step 3, micro-batch 1"),
        ("fsdp", "evaluation", 0, "the evaluation after step 2"),
    ],
)
def test_in_the_middle_of_an_exchange_all_end_with_one_line(strategy, where, after, place):
    ranks = two_ranks(RANK, strategy, where, after)
    for rank, process in enumerate(ranks):
        said = process.communicate(timeout=120)[1]
        assert process.returncode not in (0, None)
        (line,) = [line for line in said.splitlines() if line.startswith("error:")]
        assert f"rank 1: out of memory in {place}: set batch_size 8 and accumulation 4 (still 32 samples a" in line, (
            rank
        )
