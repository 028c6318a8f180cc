"""``train --resume RUN`` beside options of the recipe, and after the data or a file of the run have changed."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fieldguide import trace
from fieldguide.cli import run
from fieldguide.data.files import read_listing
from fieldguide.train import fit
from fieldguide.train.recipe import load_recipe


def table(rows: int) -> str:
    return "\n".join(["a,b,y", *(f"{i % 7},{(i * 5) % 11},{(i % 7) * 2 - (i * 5) % 11}" for i in range(rows))]) + "\n"


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("table.csv").write_text(table(80))
    command = "train mlp_mini --data table.csv --target y --name run --out . --epochs 2 --batch-size 16 --threads 1"
    assert run(command.split()) == 0
    return tmp_path / "run"


def test_more_epochs_and_another_rate(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resume = ["train", "--resume", "run", "--epochs", "3", "--optimizer.lr", "0.02"]
    assert run(resume) == 2
    assert (
        "epochs 2 → 3; optimizer.lr 0.003 → 0.02; go on all the same with --accept-changes" in capsys.readouterr().err
    )
    assert load_recipe(file=trained / "recipe.toml").epochs == 2
    with pytest.warns(UserWarning, match="epochs 2 → 3"):
        assert run([*resume, "--accept-changes"]) == 0
    recipe = load_recipe(file=trained / "recipe.toml")
    assert (recipe.epochs, recipe.optimizer.lr) == (3, 0.02)
    assert [record["epoch"] for record in trace.read(trained / "metrics.jsonl", "epoch")] == [0, 1, 2]
    facts = json.loads((trained / "environment.json").read_text())
    assert facts["job"]["model"] == "mlp_mini"
    assert len(facts["later"]) == 1
    assert len([*trained.glob("recipe-*.toml")]) == 1
    assert run(["train", "--resume", "run"]) == 0, "the accepted recipe is now the run's"


def test_other_data(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("table.csv").write_text(table(96))
    assert run(["train", "--resume", "run"]) == 2
    assert "training samples of the data: 58 → 69" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="fingerprint of the data"):
        assert run(["train", "--resume", "run", "--accept-changes"]) == 0
    assert run(["eval", "run"]) == 0, "its test part is that of the data it has accepted"


@pytest.mark.parametrize("option", ["--data table.csv", "--config.hidden 8", "--target z", "--recipe run/recipe.toml"])
def test_what_a_resume_takes_from_the_run_is_refused_beside_it(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--resume", "run", *option.split()]) == 2
    assert capsys.readouterr().err.startswith("error: --resume goes on with the run's own model, data and weights;")


def test_an_unknown_value_is_the_usual_error(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--resume", "run", "--batch-size", "0"]) == 2
    assert capsys.readouterr().err == "error: recipe: batch_size = 0 must be at least 1\n"


def test_an_image_that_is_spoiled_once_training_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    on_disk = partial(read_listing, memory_limit=0)  # as for more images than fit into memory
    monkeypatch.setattr("fieldguide.data.sources.read_listing", on_disk)
    chance = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "pets" / label).mkdir(parents=True)
        for i in range(20):
            image = Image.fromarray(chance.integers(0, 255, (32, 32), dtype=np.uint8))
            image.save(tmp_path / "pets" / label / f"{i}.png")
    files = {file: file.read_bytes() for file in tmp_path.rglob("*.png")}

    def spoiling(*arguments: Any, **rest: Any) -> Any:
        for file, content in files.items():
            file.write_bytes(content[:90])
        return fit(*arguments, **rest)

    monkeypatch.setattr("fieldguide.cli.training.fit", spoiling)
    command = "train lenet_mini --data pets --name run --out . --epochs 1 --batch-size 8 --threads 1"
    assert run(command.split()) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-2] == "stopped; go on with: fieldguide train --resume run"
    assert re.fullmatch(r"error: data: batch 0 of epoch 0 cannot be read: cannot read image '.*\.png': .*", said[-1])
    for file, content in files.items():
        file.write_bytes(content)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert run(["train", "--resume", "run"]) == 0
