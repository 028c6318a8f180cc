"""``fieldguide profile``: a page of 80 characters, JSON, and mistakes in one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fieldguide.cli import run

QUICK = ["--seconds", "0.02", "--device", "cpu"]


@pytest.mark.filterwarnings("ignore:not a quiet machine")
def test_the_page_fits_a_narrow_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["profile", "gpt_mini", "--train", "--batch", "2", "--batch", "1", "--depth", "3", *QUICK]) == 0
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= 80
    for part in ("gpt_mini: 2×128, float32 on cpu", "training step, batch 2", "forward, batch 1", "decoder.layers.1"):
        assert part in page
    assert "O(n^1.4), activations O(n^1.0) in the length, 128 to 512" in page
    assert "the layers' formulas agree" in page


@pytest.mark.filterwarnings("ignore:not a quiet machine")
def test_a_program_reads_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    assert run(["profile", "resnet_mini", "--batch", "2", "--trace", str(trace), "--json", *QUICK]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert run(["info", "resnet_mini", "--batch", "2", "--json"]) == 0
    known = json.loads(capsys.readouterr().out)
    assert facts["flops"] == facts["formula_flops"] == known["flops"] == sum(x["flops"] for x in facts["layers"])
    assert facts["input"] == known["input"]
    assert facts["growth"]["flops"] == pytest.approx(2, abs=0.01)
    assert facts["forward"][0]["p50"] <= facts["forward"][0]["p99"]
    assert json.loads(trace.read_text())["traceEvents"]


@pytest.mark.filterwarnings("ignore:not a quiet machine")
def test_a_run_is_measured_as_it_was_trained(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["train", "resnet_mini", "--epochs", "1", "--threads", "1", "--out", str(tmp_path), "--name", "r"]) == 0
    capsys.readouterr()
    assert run(["profile", str(tmp_path / "r"), "--json", *QUICK]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["input"] == [1, 1, 8, 8]
    assert 0 < facts["roofline"]["data"] < 1


@pytest.mark.filterwarnings("ignore:not a quiet machine")
def test_the_loader_of_a_run_can_bind(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Large images as files for a tiny network; without the files the rest is measured all the same."""
    pixels = np.random.default_rng(0).integers(0, 255, (900, 900, 3), dtype=np.uint8)
    for place in range(12):
        (folder := tmp_path / "images" / "ab"[place % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{place}.png")
    train = ["train", "lenet_mini", "--data", str(tmp_path / "images"), "--epochs", "1", "--batch-size", "4"]
    assert run([*train, "--image-size", "32", "--threads", "1", "--out", str(tmp_path), "--name", "r"]) == 0
    capsys.readouterr()
    picture = tmp_path / "roof.svg"
    assert run(["profile", str(tmp_path / "r"), "--batch", "4", "--roofline", str(picture), *QUICK]) == 0
    page = capsys.readouterr().out
    assert "data binds the forward pass" in page
    assert "data          " not in page.split("limit")[0].splitlines()[-2]  # its bar is not empty
    assert "data binds the forward pass" in picture.read_text()
    shutil.rmtree(tmp_path / "images")
    assert run(["profile", str(tmp_path / "r"), "--batch", "4", *QUICK]) == 0
    assert "not measured: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnet5O"], ["resnet5O", "resnet50"]),
        (["no/such/run"], ["no/such/run"]),
        (["resnet_mini", "--device", "cuda:99"], ["cuda:99", "there is"]),
        (["resnet_mini", "--image-size", "2"], ["at least 4 pixels"]),
        (["gpt_mini", "--length", "999"], ["999", "max_len=128"]),
        (["resnet_mini", "--batch", "0"], ["batch", "1"]),
        (["resnet_mini", "--trace", "no/such/file.json"], ["no/such"]),
        (["resnet_mini", "--roofline", "no/such/file.svg"], ["no/such"]),
        (["resnet_mini", "--roofline", "roof.jpg"], ["roof.jpg", ".svg or .png"]),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["profile", *arguments, "--seconds", "0.02"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert [word for word in words if word not in lines[0]] == []
