"""Memory that runs out outside of a training: fewer samples at a time, and one line when that does not help."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from fieldguide.cli import run
from fieldguide.train.pieces import as_many_as_fit

MODELS = {
    "mlp_mini": "--data table.csv --target y",
    "lenet_mini": "--data digits",
    "bert_mini": "--data texts.csv --head classify",
}


@pytest.fixture
def room() -> Iterator[list[int]]:
    """Samples that fit, once it holds a number: for more a network asks for memory that no machine has."""
    most: list[int] = []

    def ask(module: nn.Module, inputs: Any) -> None:
        if most and inputs and len(inputs[0]) > most[0]:
            torch.empty(2**56)

    hook = register_module_forward_pre_hook(ask)
    yield most
    hook.remove()


def figures(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert run(["eval", "run", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("model", [pytest.param(m, marks=[pytest.mark.slow] * (m != "mlp_mini")) for m in MODELS])
def test_an_evaluation_goes_on_with_fewer_samples_at_a_time(
    model: str, room: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("table.csv").write_text("\n".join(["a,y", *(f"{i},{i % 5}" for i in range(60))]) + "\n")
    Path("texts.csv").write_text("text,label\n" + "".join(f"{'ab'[i % 2]} {i},{i % 2}\n" for i in range(60)))
    common = f"train {model} --name run --out . --threads 1 --epochs 1 --steps 2 --batch-size 16"
    assert run([*common.split(), *MODELS[model].split()]) == 0
    capsys.readouterr()
    whole = figures(capsys)
    room.append(3)
    fewer = figures(capsys)
    assert whole.keys() == fewer.keys()
    assert fewer["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    room[0] = 0
    assert run(["eval", "run"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: out of memory, even with one sample at a time: name another device (--device), or")
    assert said.count("\n") == 1


def test_only_memory_counts() -> None:
    tried = []

    def attempt(size: int) -> int:
        tried.append(size)
        if size > 5:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return size

    assert as_many_as_fit(33, attempt) == 5
    assert tried == [33, 17, 9, 5]
    with pytest.raises(RuntimeError, match="size mismatch"):
        as_many_as_fit(8, lambda size: (_ for _ in ()).throw(RuntimeError("size mismatch")))
