"""``fieldguide train MODEL --weights SOURCE``: whose head is new, how images are prepared, what is refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models import resnet18

from fieldguide.cli import run
from fieldguide.cli.job import Job
from fieldguide.cli.pretrained import Pretrained
from fieldguide.cli.tasks.images import open_data
from fieldguide.data import open_images
from fieldguide.models import create_model, load_model, read_config, save_model
from fieldguide.weights import export_weights
from fieldguide.weights.preprocessing import Preprocessing

QUICK = ["--epochs", "1", "--threads", "1", "--batch-size", "32"]


def train(*arguments: str | Path) -> int:
    return run(["train", *map(str, arguments), *QUICK])


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source of three classes: bars across, bars down, noise; 12×12 grey."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 60, (150, 12, 12), dtype=np.uint8)
    labels = np.arange(150) % 3
    images[labels == 0, ::3] = 250
    images[labels == 1, :, ::3] = 250
    path = tmp_path_factory.mktemp("shapes") / "shapes.npz"
    np.savez(path, images=images, labels=labels)
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    assert train("resnet_mini", "--out", folder, "--name", "base") == 0
    return folder / "base"


def test_the_head_is_new_and_alone_learns_in_the_first_epoch(base, shapes, tmp_path, capsys):
    assert train("resnet_mini", "--weights", base, "--data", shapes, "--out", tmp_path, "--name", "tuned") == 0
    assert f"weights   {base / 'model'}" in capsys.readouterr().out
    old, new = (load_file(folder / "model" / "model.safetensors") for folder in (base, tmp_path / "tuned"))
    assert (len(old["head.weight"]), len(new["head.weight"])) == (10, 3)
    learned = {name for name in old if not name.startswith("head") and "running" not in name and "num_" not in name}
    assert all(torch.equal(old[name], new[name]) for name in learned), "one epoch is the head's alone"
    recipe = (tmp_path / "tuned" / "recipe.toml").read_text()
    assert "head_epochs = 1" in recipe


def test_images_are_prepared_as_the_weights_know_them(base, shapes, tmp_path):
    assert train("resnet_mini", "--weights", base, "--data", shapes, "--out", tmp_path, "--name", "tuned") == 0
    old, new = (read_config(folder / "model").data for folder in (base, tmp_path / "tuned"))
    assert old
    assert new
    assert {key: new[key] for key in ("mean", "std", "image_size")} == {
        key: old[key] for key in ("mean", "std", "image_size")
    }
    assert new["classes"] == ["0", "1", "2"]


def test_the_same_classes_keep_their_head(base):
    start = Pretrained.of(Job(model="resnet_mini", data="digits", weights=str(base / "model")))
    head = start.model.head.weight.clone()
    assert torch.equal(start.network(open_images("digits")).head.weight, head)


@pytest.mark.parametrize("channels", ["1", "3"])
def test_a_public_checkpoint_for_other_classes(channels, shapes, tmp_path):
    published = create_model("resnet_mini", num_classes=7)
    save_file(export_weights(published, "cifar"), tmp_path / "published.safetensors")
    target = ["--data", shapes, "--channels", channels, "--out", tmp_path, "--name", "tuned"]
    assert train("resnet_mini", "--weights", tmp_path / "published.safetensors", *target) == 0
    tuned = load_file(tmp_path / "tuned" / "model" / "model.safetensors")
    assert tuned["stem.conv.weight"].shape[1] == int(channels)
    last = "stages.2.0.conv2.conv.weight"
    assert torch.equal(tuned[last], published.state_dict()[last])


def test_what_the_weights_want_is_asked_of_the_data():
    wants = Preprocessing(mean=(0.5, 0.25, 0.0), std=(0.1, 0.2, 0.3), size=96, resize=110)
    job = Job(model="resnet18", data="digits", weights="somewhere")
    colour = Pretrained(model=create_model("resnet18"), preprocessing=wants, classes=None)
    prepared = colour.prepare(job)
    assert (prepared.image_size, prepared.channels, prepared.mean) == (96, 3, (0.5, 0.25, 0.0))
    assert colour.prepare(Job(model="resnet18", data="digits", image_size=64)).image_size == 64
    grey = Pretrained(model=create_model("resnet18", in_channels=1), preprocessing=wants, classes=None).prepare(job)
    assert (grey.channels, grey.mean) == (1, (0.25,))
    job = Job(model="resnet_mini", data="digits", image_size=16, channels=3, mean=(0.1,) * 3, std=(0.2,) * 3)
    data = open_data(job)
    assert (data.size, data.channels, data.mean) == ((16, 16), 3, (0.1, 0.1, 0.1))


def test_an_interrupted_fine_tuning_goes_on_without_the_weights(base, shapes, tmp_path):
    arguments = ["--weights", base, "--data", shapes, "--out", tmp_path, "--name", "tuned"]
    assert train("resnet_mini", *arguments) == 0
    done = load_file(tmp_path / "tuned" / "model" / "model.safetensors")
    environment = tmp_path / "tuned" / "environment.json"
    facts = json.loads(environment.read_text())
    facts["job"]["weights"] = str(tmp_path / "gone")
    environment.write_text(json.dumps(facts))
    assert run(["train", "--resume", str(tmp_path / "tuned")]) == 0
    again = load_model(tmp_path / "tuned" / "model").state_dict()
    assert all(torch.equal(done[name], again[name]) for name in done)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("nowhere.pth", "there are no weights at"),
        ("other", "does not fit resnet_mini: .*looks like resnet18 in torchvision layout"),
        ("lenet", "holds 'lenet_mini', not 'resnet_mini'"),
    ],
)
def test_weights_of_something_else_leave_one_line_and_no_run(weights, said, shapes, tmp_path, capsys):
    torch.save(resnet18().state_dict(), tmp_path / "other.pth")
    save_model(create_model("lenet_mini"), tmp_path / "lenet")
    where = {"other": tmp_path / "other.pth", "lenet": tmp_path / "lenet"}.get(weights, tmp_path / weights)
    assert train("resnet_mini", "--weights", where, "--data", shapes, "--out", tmp_path / "runs") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(said, error)
    assert not (tmp_path / "runs").exists()
