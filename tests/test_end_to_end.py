"""The command itself, as a user types it: train, look, interrupt, go on."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits

import fieldguide
from fieldguide import trace
from fieldguide.cli import run
from fieldguide.train.recipe import load_recipe

COMMAND = (sys.executable, "-m", "fieldguide")
LEFT = {
    "recipe.toml", "environment.json", "metrics.jsonl", "trace.jsonl", "checkpoints", "model", "doctor.json", "figures",
    "report.html",
}  # fmt: skip
FIGURES = {
    "calibration.png", "curves.png", "confusion.png", "health.png", "mistakes.png", "monitor.png",
    "predictions.safetensors",
}  # fmt: skip


def fieldguide_(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=240, **options)


def answer(capsys: pytest.CaptureFixture[str], *arguments: object):
    """What a verb prints as JSON, in this process to save the start of another."""
    capsys.readouterr()
    assert run([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    """A short training on the embedded scans and the JSON lines that it printed."""
    out = tmp_path_factory.mktemp("runs")
    done = fieldguide_("train", "resnet_mini", "--epochs", 3, "--threads", 1, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    return out / "resnet_mini-digits-1", [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 of the scans as image files, one sub-folder per class."""
    root, digits = tmp_path_factory.mktemp("images") / "scans", load_digits()
    for number, (image, label) in enumerate(zip(digits.images[:300], digits.target, strict=False)):
        file = root / f"class {label}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 255 / 16).astype(np.uint8)).save(file)
    return root


def test_a_run_leaves_exactly_what_it_promises(digits_run: tuple[Path, list[dict]]) -> None:
    folder, lines = digits_run
    assert {p.name for p in folder.iterdir() if p.name != ".lock"} == LEFT
    assert {p.name for p in (folder / "figures").iterdir()} <= FIGURES
    assert {"last", "best"} <= {p.name for p in (folder / "checkpoints").iterdir()}
    assert {p.name for p in (folder / "model").iterdir()} == {"config.json", "model.safetensors"}
    assert [line["kind"] for line in lines] == ["epoch"] * 3 + ["result"]
    kinds = [record["kind"] for record in trace.read(folder / "metrics.jsonl")]
    assert kinds.count("step") == 3 * 21
    assert kinds[-1] == "test"
    assert load_recipe(file=folder / "recipe.toml").epochs == 3
    assert json.loads((folder / "environment.json").read_text())["job"]["model"] == "resnet_mini"
    assert lines[-1]["test_accuracy"] > 0.8


def test_the_report_shows_the_run(digits_run: tuple[Path, list[dict]]) -> None:
    folder, lines = digits_run
    page = (folder / "report.html").read_text()
    assert "resnet_mini on digits" in page
    assert f"{lines[-1]['test_accuracy']:.2%}" in page
    assert not re.search(r"https?://", page)
    (folder / "report.html").unlink()
    assert run(["report", str(folder)]) == 0
    assert (folder / "report.html").read_text() == page


def test_eval_repeats_the_test(digits_run: tuple[Path, list[dict]], folder: Path, capsys) -> None:
    trained, lines = digits_run
    result = answer(capsys, "eval", trained)
    assert result["accuracy"] == pytest.approx(lines[-1]["test_accuracy"])
    assert result["loss"] == pytest.approx(lines[-1]["test_loss"], rel=1e-4)
    assert result["images"] == sum(row["support"] for row in result["classes"]) == 359
    assert run(["eval", str(trained)]) == 0
    assert f"{result['accuracy']:.2%}" in capsys.readouterr().out
    assert run(["eval", str(trained), "--data", str(folder)]) == 2
    assert "'class 0'" in capsys.readouterr().err


def test_predict_sees_what_training_saw(digits_run: tuple[Path, list[dict]], folder: Path, capsys) -> None:
    trained, _ = digits_run
    files = sorted(folder.glob("*/*.png"))[::10]
    answers = answer(capsys, "predict", trained, *files)
    assert [a["image"] for a in answers] == [str(f) for f in files]
    for guesses in (a["classes"] for a in answers):
        chances = [g["probability"] for g in guesses]
        assert len(guesses) == 5
        assert chances == sorted(chances, reverse=True)
        assert 0 < sum(chances) <= 1 + 1e-6
    right = sum(a["classes"][0]["name"] == Path(a["image"]).parent.name.split()[1] for a in answers)
    assert right / len(answers) > 0.8

    model = fieldguide.load_model(trained / "model")
    data = json.loads((trained / "model" / "config.json").read_text())["data"]
    pixels = torch.from_numpy(np.array(Image.open(files[0]))).double() / 255
    inputs = (pixels - data["mean"][0]) / data["std"][0]
    expected = model.double()(inputs[None, None]).softmax(1).max().item()
    assert answers[0]["classes"][0]["probability"] == pytest.approx(expected, rel=1e-4)

    (folder.parent / "text.png").write_text("not an image")
    assert run(["predict", str(trained), str(folder.parent / "text.png")]) == 2
    assert "text.png" in capsys.readouterr().err


def test_own_images(folder: Path, tmp_path: Path, capsys) -> None:
    command = ["train", "resnet_mini", "--data", str(folder), "--epochs", "2", "--out", str(tmp_path), "--threads", "1"]
    assert run([*command, "--batch-size", "16", "--channels", "3", "--name", "mine"]) == 0
    assert "10 classes" in capsys.readouterr().out
    trained = tmp_path / "mine"
    assert answer(capsys, "eval", trained)["images"] == 60
    assert answer(capsys, "eval", trained, "--data", folder)["images"] == 60, "its training images are not its test"
    config = json.loads((trained / "model" / "config.json").read_text())
    assert config["data"]["classes"] == [f"class {i}" for i in range(10)]
    assert config["config"]["in_channels"] == 3


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_interrupted_and_resumed(number: signal.Signals, code: int, tmp_path: Path, monkeypatch) -> None:
    command = [*COMMAND, "train", "resnet_mini", "--epochs", "8", "--threads", "1", "--json", "--name", "it"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as training:
        assert training.stdout
        training.stdout.readline()  # the first epoch is done
        training.send_signal(number)
        _, err = training.communicate(timeout=120)
    assert training.returncode == code
    assert "fieldguide train --resume runs/it" in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs" / "it" / "model").exists()

    monkeypatch.chdir(tmp_path)
    assert run(["train", "--resume", "runs/it"]) == 0
    epochs = [r["epoch"] for r in trace.read(tmp_path / "runs" / "it" / "metrics.jsonl", "epoch")]
    assert epochs == list(range(8))


@pytest.mark.slow
def test_resumed_weights_are_those_of_an_unbroken_run(tmp_path: Path) -> None:
    command = ["train", "lenet5", "--epochs", "4", "--threads", "1", "--augment.shift", "0.1", "--name"]
    assert fieldguide_(*command, "whole", cwd=tmp_path).returncode == 0
    with subprocess.Popen(
        [*COMMAND, *command, "broken", "--checkpoint-every", "7"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as training:
        assert training.stdout
        while "epoch 2" not in training.stdout.readline():
            pass
        training.kill()
    assert fieldguide_("train", "--resume", "runs/broken", cwd=tmp_path).returncode == 0
    whole, broken = (
        load_file(tmp_path / "runs" / name / "model" / "model.safetensors") for name in ("whole", "broken")
    )
    assert whole.keys() == broken.keys()
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    done = fieldguide_("demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "runs/resnet_mini-digits-1/report.html" in done.stdout
    assert "fieldguide train resnet_mini --data FOLDER" in done.stdout
    test = next(trace.read(tmp_path / "runs" / "resnet_mini-digits-1" / "metrics.jsonl", "test"))
    assert test["test_accuracy"] > 0.97
