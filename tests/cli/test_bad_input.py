"""Whatever a user types wrong is answered by one line that says what, where and what to do, and by exit code 2."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fieldguide.cli import run


def picture(file: Path, shade: int = 0, channels: int = 1) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    shape = (12, 12) if channels == 1 else (12, 12, channels)
    Image.fromarray(np.full(shape, shade, dtype=np.uint8)).save(file)
    return file


def class_folder(root: Path, classes: str = "ab", count: int = 6) -> Path:
    for number, name in enumerate(classes):
        for i in range(count):
            picture(root / name / f"{i}.png", shade=100 * number + i)
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources and files that are wrong in every way the table below needs."""
    place = tmp_path_factory.mktemp("place")
    (place / "empty").mkdir()
    class_folder(place / "single", "a")
    class_folder(place / "good")
    class_folder(place / "truncated")
    file = place / "truncated" / "a" / "0.png"
    file.write_bytes(file.read_bytes()[:40])
    class_folder(place / "mixed")
    picture(place / "mixed" / "a" / "colour.png", channels=3)
    class_folder(place / "labels" / "train")
    class_folder(place / "labels" / "test", "abz")
    np.savez(place / "infinite.npz", x=np.full((20, 8, 8), np.nan, dtype=np.float32), y=np.arange(20) % 2)
    (place / "typo.toml").write_text("[optimizer]\nlrr = 0.1\n")
    (place / "value.toml").write_text('[optimizer]\nname = "adamv"\n')
    (place / "broken.toml").write_text("[optimizer\n")
    (place / "runs" / "taken").mkdir(parents=True)
    (place / "bare" / "checkpoints").mkdir(parents=True)
    return place


TABLE = [
    ("modls", ["modls", "models"]),
    ("train resnet_mni", ["resnet_mni", "resnet_mini", "fieldguide models"]),
    ("train", ["needs a model"]),
    ("info resnet5O", ["resnet5O", "resnet50"]),
    ("models zzz", ["zzz"]),
    ("models --task clasify", ["clasify", "classify"]),
    ("models --tsk classify", ["--tsk", "--task"]),
    ("lookup msk Full()", ["msk", "mask"]),
    ("train resnet_mini --optimzer.lr 1", ["--optimzer.lr", "--optimizer.lr"]),
    ("train resnet_mini --optimizer.lr fast", ["--optimizer.lr", "fast"]),
    ("train resnet_mini --optimizer.lr=-1", ["optimizer.lr", "-1"]),
    ("train resnet_mini --optimizer.name adamv", ["adamv", "adamw"]),
    ("train resnet_mini --epochs some", ["--epochs", "some"]),
    ("train resnet_mini --channels 2", ["--channels", "2"]),
    ("train resnet_mini --recipe PLACE/typo.toml", ["lrr", "lr", "typo.toml"]),
    ("train resnet_mini --recipe PLACE/broken.toml", ["broken.toml", "TOML"]),
    ("train resnet_mini --recipe PLACE/none.toml", ["none.toml"]),
    ("train resnet_mini --device warp", ["warp"]),
    ("train resnet_mini --data PLACE/missing", ["missing"]),
    ("train resnet_mini --data PLACE/empty", ["empty"]),
    ("train resnet_mini --data PLACE/single", ["single", "class"]),
    ("train resnet_mini --data PLACE/truncated", ["0.png"]),
    ("train resnet_mini --data PLACE/mixed", ["colour", "channels"]),
    ("train resnet_mini --data PLACE/labels", ["'z'"]),
    ("train resnet_mini --data PLACE/infinite.npz", ["infinite.npz", "finite"]),
    ("train resnet_mini --data digts", ["digts", "digits"]),
    ("train resnet_mini --data PLACE/good --batch-size 64", ["batch_size 64"]),
    ("train lenet5 --data PLACE/good --image-size 20 --batch-size 4", ["20", "32"]),
    ("train resnet_mini --name taken --out PLACE/runs", ["taken", "exists"]),
    ("train --resume PLACE/runs/none", ["none"]),
    ("train --resume PLACE/good", ["good", "not a run folder"]),
    ("train resnet_mini --resume PLACE/good", ["--resume"]),
    ("train --resume PLACE/bare", ["environment.json"]),
    ("predict PLACE/bare x.png", ["no trained model", "--resume"]),
    ("report PLACE/bare", ["nothing to report"]),
    ("predict PLACE/bare x.png --top 0", ["--top"]),
    ("lookup mask Causl()", ["Causl", "Causal"]),
    ("lookup mask Causal() --png PLACE/nowhere/mask.png", ["nowhere"]),
    ("eval PLACE/runs/none", ["none"]),
    ("predict PLACE/good", ["good", "not a run folder"]),
    ("report PLACE/good", ["good", "not a run folder"]),
]


@pytest.mark.parametrize(("command", "words"), TABLE, ids=[command for command, _ in TABLE])
def test_one_line_and_exit_code_2(command: str, words: list[str], place: Path, tmp_path: Path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(place.rglob("*"))
    arguments = [part.replace("PLACE", str(place)) for part in command.split()]
    assert run(arguments) == 2
    out, err = capfd.readouterr()
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    for word in words:
        assert word in err
    assert out == "" or "data" in out  # what a training says before it meets the mistake
    assert sorted(place.rglob("*")) == before, "a refused command leaves nothing behind"
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


# The test runner's type checks would see a wrong value before the recipe's own; a process of its own has none.
@pytest.mark.parametrize(
    ("command", "words"),
    [("train resnet_mini --recipe PLACE/value.toml", ["adamv", "adamw", "value.toml"]), ("trian", ["'train'"])],
)
def test_in_a_process_of_its_own(command: str, words: list[str], place: Path, tmp_path: Path):
    arguments = [part.replace("PLACE", str(place)) for part in command.split()]
    done = subprocess.run(
        [sys.executable, "-m", "fieldguide", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in words)
    assert list(tmp_path.iterdir()) == []
