"""A save beside the training writes the state of its moment, one at a time, and nobody reads before it is done."""

import copy
import math
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fieldguide.train.checkpoint import Checkpoints, folder, image, load

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.int64, torch.bool)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    tensor = torch.arange(1, 1 + math.prod(shape)).reshape(shape).to(draw(st.sampled_from(DTYPES)))
    match draw(st.sampled_from(["plain", "transposed", "every second", "conjugate"])):
        case "transposed" if tensor.ndim > 1:
            return tensor.transpose(0, -1)
        case "every second" if tensor.ndim:
            return tensor[::2]
        case "conjugate" if tensor.is_complex():
            return (tensor * 1j).conj()
    return tensor


states = st.recursive(
    tensors() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)


def spoil(state: Any) -> None:
    """What a next step does: changes everything in place."""
    if isinstance(state, Tensor):
        state.zero_()
    elif isinstance(state, list):
        for item in state:
            spoil(item)
        state.clear()
    elif isinstance(state, dict):
        for item in state.values():
            spoil(item)
        state.clear()


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and a.shape == b.shape and a.tolist() == b.tolist()
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


class Gate:
    """Holds every write to the disk until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.opened, self.writing, self.most, self.write = threading.Event(), 0, 0, folder.write
        monkeypatch.setattr(folder, "write", self)

    def __call__(self, *arguments: Any) -> Any:
        self.writing += 1
        self.most = max(self.most, self.writing)
        self.opened.wait(60)
        self.writing -= 1
        return self.write(*arguments)


@given(states)
@settings(max_examples=60, deadline=None)
def test_later_changes_never_reach_the_disk(tmp_path_factory: pytest.TempPathFactory, state: Any) -> None:
    checkpoints = Checkpoints(tmp_path_factory.mktemp("run") / "checkpoints")
    with pytest.MonkeyPatch.context() as patch:
        gate, expected = Gate(patch), copy.deepcopy(state)
        begun = checkpoints.begin({"state": state, "again": state}, step=1)
        spoil(state)
        gate.opened.set()
        back = load(begun.result())
    assert equal(back["state"], expected)
    assert equal(back["again"], expected)


def test_tied_tensors_stay_tied_and_memory_is_used_again(tmp_path: Path) -> None:
    checkpoints, weight = Checkpoints(tmp_path / "checkpoints"), torch.ones(1000)
    for step in (1, 2, 3):
        begun = checkpoints.begin({"a": weight, "b": weight[:500], "c": weight}, step=step)
        room = checkpoints._room
        assert room is not None
        assert room.nbytes == 6000
        weight += 1
        begun.result()
        assert checkpoints._room is room
    back = load(checkpoints.folder / "last")
    assert back["a"] is back["c"]
    assert back["a"].eq(3).all()
    checkpoints.release()
    assert checkpoints._room is None


@pytest.mark.parametrize("other", ["begin", "save", "newest", "clean", "release"])
def test_what_comes_next_waits_for_the_save_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    checkpoints, gate = Checkpoints(tmp_path / "checkpoints"), Gate(monkeypatch)
    begun = checkpoints.begin({"step": 1}, step=1)
    details = {"begin": [{"step": 2}], "save": [{"step": 2}]}.get(other, [])
    act = partial(getattr(checkpoints, other), *details, **({"step": 2} if details else {}))
    waiting = threading.Thread(target=act)
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    gate.opened.set()
    waiting.join(60)
    checkpoints.wait()
    assert gate.most == 1
    assert begun.result().name == "0001-step-000001"
    restored = checkpoints.newest()
    assert restored
    assert restored.step == (2 if details else 1)


def test_its_failure_is_in_its_future_and_the_next_save_is_free_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    with monkeypatch.context() as patch:
        patch.setattr(folder, "write", lambda path, chunks: 1 / 0)
        failed = checkpoints.begin({"step": 1}, step=1)
        with pytest.raises(ZeroDivisionError):
            failed.result()
    assert checkpoints.numbered() == []
    assert load(checkpoints.begin({"step": 2}, step=2).result()) == {"step": 2}


def test_without_memory_for_a_copy_the_training_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    checkpoints, weight = Checkpoints(tmp_path / "checkpoints"), torch.ones(3)
    monkeypatch.setattr(image.torch, "empty", full)
    begun = checkpoints.begin({"weight": weight}, step=1)
    weight.zero_()
    assert load(begun.result())["weight"].tolist() == [1, 1, 1]


def test_what_cannot_be_saved_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot save odd"):
        Checkpoints(tmp_path / "checkpoints").begin({"odd": object()}, step=1)
