"""Memory runs out: the batch goes through in pieces, and the step is the same."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from fieldguide.data.buckets import Buckets
from fieldguide.errors import FieldguideError
from fieldguide.objectives import Classification, NextToken
from fieldguide.train import Callback, Recipe, RunFolder, TrainingWarning, fit
from fieldguide.train.callbacks import History
from fieldguide.train.pieces import Pieces

FULL = torch.OutOfMemoryError("CUDA out of memory.")


class Hungry(nn.Module):
    """A network for which memory runs out in training on more samples than ``room``, ``where`` it is said."""

    def __init__(self, room: int, where: str = "forward", inner: nn.Module | None = None, after: int = 0):
        super().__init__()
        torch.manual_seed(0)
        self.inner = inner or nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
        self.room, self.where, self.after, self.sizes, self.random = room, where, after, [], []

    def forward(self, x: Tensor) -> Tensor:
        self.random.append(torch.get_rng_state())
        self.after -= self.training
        y = self.inner(x)
        if len(x) > self.room and self.after < 0 and self.training == (self.where != "evaluation"):
            if self.where != "backward":
                raise FULL
            y.register_hook(self.refuse)
        self.sizes += [len(x)] * self.training
        return y

    @staticmethod
    def refuse(gradient: Tensor) -> None:
        raise FULL


def data(n: int = 40) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(n, 5), torch.randint(3, (n,))


class Gradients(Callback):
    """Keeps the gradient of every step."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def before_update(self, part: str) -> None:
        self.steps.append(torch.cat([p.grad.flatten() for p in self.loop.parameters[part] if p.grad is not None]))


def train(
    model: nn.Module, *callbacks: Callback, run: RunFolder | None = None, resume: bool = False, **recipe: Any
) -> nn.Module:
    settings = {"epochs": 2, "batch_size": 16, "threads": 1, "clip": 0.0} | recipe
    fit(model, (data(), data(12)), Classification(), Recipe(**settings), run=run, resume=resume, callbacks=callbacks)
    return model


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_loss_and_gradients_stay_and_no_sample_counts_twice(where: str, accumulation: int) -> None:
    plain, small = Gradients(), Gradients()
    whole, pieces = History(), History()
    train(Hungry(99), plain, whole, accumulation=accumulation)
    with pytest.warns(
        TrainingWarning, match="step 1: out of memory: from here on each batch goes through in 2 pieces"
    ) as said:
        model = train(Hungry(5, where), small, pieces, accumulation=accumulation)
    assert len(said) == 2  # into 2 and into 4 pieces, and never again
    for a, b in zip(plain.steps, small.steps, strict=True):
        assert (a - b).norm() <= 1e-6 * a.norm()
    kept = [(r["step"], r["samples"]) for r in whole.records if r["kind"] == "step"]
    assert [(r["step"], r["samples"]) for r in pieces.records if r["kind"] == "step"] == kept
    for a, b in zip(whole.records, pieces.records, strict=True):
        assert a["kind"] == b["kind"]
        name = "loss" if a["kind"] == "step" else "val_loss"
        assert b[name] == pytest.approx(a[name], rel=1e-6)
    assert isinstance(model, Hungry)
    assert sum(size for size in model.sizes if size <= 4) == 2 * 40


def test_random_numbers_begin_anew_with_the_step() -> None:
    model = Hungry(8, inner=nn.Sequential(nn.Dropout(0.5), nn.Linear(5, 3)))
    with pytest.warns(TrainingWarning):
        train(model)
    assert torch.equal(model.random[0], model.random[1])
    assert not torch.equal(model.random[1], model.random[2])


def test_batch_norm_sees_the_pieces_once_and_that_is_said() -> None:
    model = Hungry(8, "backward", nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 3)))
    with pytest.warns(TrainingWarning, match="with the same result, only that batch norms see the pieces"):
        train(model, epochs=1)
    assert int(model.get_buffer("inner.0.num_batches_tracked")) == 2 + 2 + 2  # the last batch has 8 samples


def test_the_pieces_are_remembered_and_a_resumed_run_has_the_same_bits(tmp_path: Path) -> None:
    def network() -> Hungry:
        torch.manual_seed(0)
        return Hungry(8, inner=nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.3), nn.Linear(8, 3)), after=1)

    class Die(Callback):
        def on_step(self, record: dict) -> None:
            if record["step"] == 4:
                raise ConnectionAbortedError

    runs = [RunFolder.create(tmp_path, "m", "d") for _ in range(2)]
    with pytest.warns(TrainingWarning, match="step 2: out of memory"):
        unbroken = train(network(), run=runs[0], checkpoint_every=4)
    with pytest.warns(TrainingWarning, match="step 2: out of memory"), pytest.raises(ConnectionAbortedError):
        train(network(), Die(), run=runs[1], checkpoint_every=3)
    resumed = network()
    resumed.after = 0
    train(resumed, run=runs[1], resume=True, checkpoint_every=3)  # and no warning: it knows
    assert max(resumed.sizes) == 8
    assert all(map(torch.equal, unbroken.state_dict().values(), resumed.state_dict().values()))


def test_evaluation_goes_on_in_pieces_of_its_own() -> None:
    plain, small = History(), History()
    train(Hungry(99, "evaluation"), plain)
    with pytest.warns(TrainingWarning, match="this evaluation again") as said:
        model = train(Hungry(6, "evaluation"), small)
    assert len(said) == 1
    assert isinstance(model, Hungry)
    assert max(model.sizes) == 16
    for a, b in zip(plain.records, small.records, strict=True):
        if a["kind"] == "epoch":
            assert b["val_loss"] == pytest.approx(a["val_loss"], rel=1e-6)
            assert b["val_accuracy"] == a["val_accuracy"]


def test_what_no_piece_can_cure_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.warns(TrainingWarning),
        pytest.raises(FieldguideError, match="even with one sample of the batch at a") as end,
    ):
        train(Hungry(0))
    assert "\n" not in str(end.value)

    def refuse(*_: object) -> None:
        raise FULL

    monkeypatch.setattr(torch.optim.AdamW, "step", refuse)
    with pytest.raises(FieldguideError, match="out of memory for the optimizer's state: smaller batches do not help"):
        train(Hungry(99))


def test_memory_that_runs_out_for_other_reasons_says_which_setting_to_change() -> None:
    class Full(Callback):
        def on_step(self, record: dict) -> None:
            torch.empty(2**56)

    message = r"out of memory on cpu: set batch_size 4 and accumulation 4 \(still 16 samples a step\)"
    with pytest.raises(FieldguideError, match=message):
        train(Hungry(99), Full(), batch_size=8, accumulation=2)


# ------------------------------------------------------------------------------------------- what can be cut, and how


class Named(NamedTuple):
    inputs: Tensor
    texts: list[str]


@dataclass(frozen=True)
class Whole:
    inputs: Tensor
    scale: float


def joined(pieces: list[Any], pick: Callable[[Any], Any]) -> list[Any]:
    return [entry for piece in pieces for entry in pick(piece)]


def test_batches_of_any_kind_are_cut_and_nothing_is_lost() -> None:
    inputs, texts = torch.arange(10), list("abcdefghij")
    batches: list[tuple[Any, Callable[[Any], Any]]] = [
        (inputs, lambda p: p),
        ((inputs, inputs[:, None]), lambda p: p[1][:, 0]),
        ([inputs, texts], lambda p: p[0]),
        ({"x": inputs, "more": {"y": inputs}, "name": "train", "size": torch.tensor(3)}, lambda p: p["more"]["y"]),
        (Named(inputs, texts), lambda p: p.inputs),
        (Whole(inputs, 0.5), lambda p: p.inputs),
    ]
    for batch, pick in batches:
        cutting = Pieces(nn.Linear(1, 1), "step")
        assert cutting.cut(batch)[0] is batch
        cutting.count = 4
        pieces = cutting.cut(batch)
        assert len(pieces) == 4
        assert [int(entry) for entry in joined(pieces, pick)] == [*range(10)]
        assert {type(piece) for piece in pieces} == {type(batch)}
    cutting.count = 16
    assert [len(p.texts) for p in cutting.cut(Named(inputs, texts))] == [1] * 10
    assert joined(cutting.cut(Named(inputs, texts)), lambda p: p.texts) == texts
    assert cutting.cut({"name": "train"}) == [{"name": "train"}]
    assert cutting.cut(Whole(inputs, 0.5))[3].scale == 0.5


class Words(nn.Module):
    """A language model with room for so many texts."""

    def __init__(self, room: int):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.out, self.room = nn.Embedding(20, 8), nn.Linear(8, 20), room

    def forward(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        if self.training and len(tokens) > self.room:
            raise FULL
        return self.out(self.table(tokens))


def test_ragged_texts_count_by_their_tokens_also_those_with_nothing_to_predict() -> None:
    torch.manual_seed(2)
    lengths = [1, 9, 2, 7, 1, 1, 5, 3]
    texts = [(torch.randint(1, 20, (n,)).tolist(),) for n in lengths]

    class InOrder:
        def __len__(self) -> int:
            return 1

        def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
            return Buckets(texts, 8, shuffle=False, pad=[0]).batches(epoch, start)

    def gradient(room: int) -> Tensor:
        seen = Gradients()
        recipe = Recipe(epochs=1, batch_size=8, threads=1, clip=0.0)
        fit(Words(room), (InOrder(), None), NextToken(), recipe, callbacks=[seen])
        return seen.steps[0]

    whole = gradient(8)
    with pytest.warns(TrainingWarning):
        pieces = gradient(1)
    assert (whole - pieces).norm() <= 1e-6 * whole.norm()


LIMITED = """
import resource, sys, torch
from torch import nn
from fieldguide.objectives import Classification
from fieldguide.train import Callback, Recipe, fit

class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 1), nn.Linear(4, 2)
    def forward(self, x):
        wide = self.first(x).expand(-1, 1_000_000).tanh().sin()
        return self.last(x) + wide.mean(1, keepdim=True)

class Limit(Callback):
    def on_start(self, loop):
        if sys.argv[1] == "limited":
            pages = int(open("/proc/self/statm").read().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 300_000_000,) * 2)

torch.manual_seed(0)
data = (torch.randn(64, 4), torch.randint(2, (64,)))
recipe = Recipe(epochs=1, batch_size=32, threads=1)
run = fit(Wide(), (data, None), Classification(), recipe, callbacks=[Limit()])
print(run.history[-1]["train_loss"])
"""


@pytest.mark.slow
def test_a_machine_with_little_memory() -> None:
    """A limit of the system on the process, and nothing made up."""
    done = [
        subprocess.run([sys.executable, "-c", LIMITED, kind], capture_output=True, text=True, timeout=200)
        for kind in ("limited", "unlimited")
    ]
    assert [d.returncode for d in done] == [0, 0], done[0].stderr
    assert "out of memory" in done[0].stderr
    assert "out of memory" not in done[1].stderr
    assert float(done[0].stdout) == pytest.approx(float(done[1].stdout), rel=1e-6)
