"""``tune`` in a recipe: measured once, written down as plain settings, and repeated bit for bit without measuring."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fieldguide as fg
from fieldguide.data import open_images
from fieldguide.objectives import Classification
from fieldguide.train import tuning
from fieldguide.train.recipe import load_recipe
from fieldguide.train.run import RunFolder

RECIPE = fg.Recipe(epochs=1, steps=3, batch_size=16, tune="bf16")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "SECONDS", 0.05)


def weights(recipe: fg.Recipe, run: RunFolder | None = None) -> tuple[dict[str, torch.Tensor], fg.Recipe]:
    torch.manual_seed(0)
    model = fg.create_model("resnet_mini", num_classes=10, in_channels=1)
    done = fg.fit(model, open_images("digits"), Classification(), recipe, run=run)
    return model.state_dict(), done.recipe


def test_what_was_found_is_in_the_recipe_and_repeats(tmp_path: Path) -> None:
    run = RunFolder.create_at(tmp_path / "a")
    found, recipe = weights(RECIPE, run)
    assert recipe.tune == "off"
    assert recipe.threads != "auto"
    assert load_recipe(file=run.recipe) == recipe
    assert (run.path / "tuning.json").is_file()
    again, _ = weights(recipe)
    assert all(torch.equal(found[name], again[name]) for name in found)
    assert torch.get_float32_matmul_precision() == "highest"


def test_what_the_user_has_set_stays() -> None:
    given = replace(RECIPE, tune="fp32", threads=1, memory_format="channels_last", matmul_precision="high")
    _, recipe = weights(given)
    fields = ("threads", "memory_format", "matmul_precision", "precision")
    assert [getattr(recipe, name) for name in fields] == [1, "channels_last", "high", "fp32"]


def test_fp32_lets_no_bf16_in() -> None:
    _, recipe = weights(replace(RECIPE, tune="fp32"))
    assert recipe.precision == "fp32"
