"""``fieldguide tune``: a table, JSON, the run's own samples, and mistakes in one line."""

import json
from pathlib import Path

import pytest
import torch

from fieldguide.cli import run
from fieldguide.cli.samples import arguments_of_first_call, own_samples
from fieldguide.data import open_images
from fieldguide.models import create_model, load_model
from fieldguide.objectives import NextToken
from fieldguide.train import Recipe

QUICK = ["--seconds", "0.05", "--compile-seconds", "0", "--device", "cpu"]


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tune", "resnet_mini", "--batch", "2", "--tolerance", "1e-2", *QUICK]) == 0
    page = capsys.readouterr().out
    for part in ("resnet_mini: calls with 2×", "random numbers", "original", "speed-up", "times the original's"):
        assert part in page
    assert "not tried: compiled, compiled, one graph: no time for a compiler was given" in page


def test_a_training_step_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tune", "gpt_mini", "--train", "--batch", "2", "--length", "16", "--json", *QUICK]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["speedup"] >= 1
    assert facts["error"] <= facts["tolerance"] == 1e-4
    assert not any(row["verdict"] == "chosen" for row in facts["table"] if "bf16 autocast" in row["settings"])


def test_a_run_is_tuned_on_its_own_samples(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "r"
    train = ["train", "resnet_mini", "--steps", "1", "--epochs", "1", "--threads", "1"]
    assert run([*train, "--out", str(tmp_path), "--name", "r"]) == 0
    capsys.readouterr()
    (images,) = own_samples(folder, load_model(folder / "model"), 3) or ()
    _, val, _ = open_images("digits").feeds(Recipe())
    assert torch.equal(images, next(val.batches(0))[0][:3])
    assert run(["tune", str(folder), "--batch", "2", "--json", *QUICK]) == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["samples"], first["remembered"]) == ("its own validation data", False)
    assert run(["tune", str(folder), "--batch", "2", "--json", *QUICK]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["remembered"]
    assert again["settings"] == first["settings"]
    (folder / "tuned.json").write_text("{}")
    assert run(["tune", str(folder), "--batch", "3", *QUICK]) == 2
    assert "tuned.json does not hold" in capsys.readouterr().err


def test_what_an_objective_gives_to_its_network() -> None:
    model, tokens = create_model("gpt_mini"), torch.randint(9, (2, 8))
    keep = torch.arange(8) < torch.tensor([[8], [5]])
    given = arguments_of_first_call(model, NextToken(), (tokens, keep))
    assert len(given) == 2
    assert torch.equal(given[0], tokens[:, :-1])
    assert torch.equal(given[1], keep[:, :-1])
    assert not model._forward_pre_hooks


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnet5O"], ["resnet5O", "resnet50"]),
        (["no/such/run"], ["no/such/run"]),
        (["resnet_mini", "--device", "cuda:99"], ["cuda:99", "there is"]),
        (["resnet_mini", "--tolerance", "-1"], ["tolerance"]),
        (["resnet_mini", "--image-size", "2"], ["at least 4 pixels"]),
        (["resnet_mini", "--remember", "no/such/folder/tuned.json"], ["cannot be written"]),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tune", *arguments, "--seconds", "0.02", "--compile-seconds", "0"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert not [word for word in words if word not in lines[0]]
