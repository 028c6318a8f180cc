import subprocess
import sys
import tomllib
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldguide.errors import FieldguideError, UnknownField
from fieldguide.train.recipe import (
    RECIPES,
    AugmentRecipe,
    OptimizerRecipe,
    Recipe,
    ScheduleRecipe,
    StoppingRecipe,
    differences,
    from_mapping,
    load_recipe,
    to_toml,
)

shares = st.floats(0, 1)
recipes = st.builds(
    Recipe,
    epochs=st.one_of(st.just("auto"), st.integers(1, 500)),
    batch_size=st.integers(1, 4096),
    clip=st.floats(0, 100),
    precision=st.sampled_from(["fp32", "bf16", "fp16"]),
    ema=st.floats(0, 0.9999),
    seed=st.integers(0, 2**62),
    optimizer=st.builds(OptimizerRecipe, name=st.sampled_from(["adamw", "sgd"]), lr=st.floats(1e-8, 10)),
    schedule=st.builds(ScheduleRecipe, warmup=shares, final=shares),
    augment=st.builds(AugmentRecipe, flip=st.booleans(), erase=shares),
    stopping=st.builds(StoppingRecipe, patience=st.integers(0, 100)),
)


@given(recipes)
def test_toml_and_back(recipe):
    assert from_mapping(tomllib.loads(to_toml(recipe))) == recipe
    assert from_mapping(asdict(recipe)) == recipe


def test_the_default_file_is_the_dataclass():
    assert tomllib.loads((RECIPES / "default.toml").read_text()) == tomllib.loads(to_toml(Recipe()))
    assert load_recipe() == Recipe()


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_family_recipe_is_valid(path):
    assert load_recipe(path.stem) == load_recipe(file=path)


def test_layers(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("batch_size = 7\n[optimizer]\nlr = 0.5\n")
    family = load_recipe("resnet")
    recipe = load_recipe("resnet", file, {"optimizer.lr": "3e-4", "checkpoint-every": 5})
    assert recipe == replace(family, batch_size=7, checkpoint_every=5, optimizer=replace(family.optimizer, lr=3e-4))


def test_a_family_without_a_file_has_the_defaults():
    assert load_recipe("nobody") == Recipe()


def test_text_is_read_like_toml():
    recipe = load_recipe(overrides={"augment.flip": "true", "epochs": "auto", "optimizer.betas": "[0.5, 0.9]"})
    assert (recipe.augment.flip, recipe.epochs, recipe.optimizer.betas) == (True, "auto", (0.5, 0.9))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimzer = 3", r"mine\.toml: unknown key 'optimzer'; did you mean 'optimizer'\?"),
        ("lr = 3", r"unknown key 'lr'; did you mean 'optimizer\.lr'\?"),
        ("[optimizer]\nrate = 3", r"unknown key 'optimizer\.rate'"),
        ("[optimizer]\nlr = 'fast'", r'optimizer\.lr = "fast" must be a number'),
        ("[optimizer]\nlr = 0", r"optimizer\.lr = 0\.0 must be above 0"),
        ("[optimizer]\nlayer_decay = 0", r"optimizer\.layer_decay = 0\.0 must be above 0 and at most 1"),
        ("[optimizer]\nlr = nan", r"optimizer\.lr = nan must be a number"),
        ("[optimizer]\nname = 'lion'", r'optimizer\.name = "lion" must be "adamw" or "adam" or "sgd" or "rmsprop"'),
        ("[optimizer]\nbetas = [0.9]", r"optimizer\.betas = \[0\.9\] must be a list of 2 numbers"),
        ("[schedule]\nwarmup = 1.5", r"schedule\.warmup = 1\.5 must be a share of the steps, 0 to 1"),
        ("batch_size = 2.5", r"batch_size = 2\.5 must be a whole number"),
        ("batch_size = true", r"batch_size = true must be a whole number"),
        ("batch_size = 0", r"batch_size = 0 must be at least 1"),
        ("epochs = 'many'", r'epochs = "many" must be a whole number or "auto"'),
        ("threads = 0", r'threads = 0 must be at least 1, or "auto"'),
        ("optimizer = 3", r"optimizer = 3 must be a table, \[optimizer\] with its own keys"),
        ("[augment]\nflip = 1", r"augment\.flip = 1 must be true or false"),
        ("batch_size = ", r"mine\.toml: not a TOML file"),
    ],
)
def test_bad_recipes_get_one_line_with_the_files_name(tmp_path, text, message):
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(FieldguideError, match=message) as caught:
        load_recipe(file=file)
    assert "mine.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named():
    with pytest.raises(FieldguideError, match=r"nowhere\.toml: the recipe cannot be read \(No such file"):
        load_recipe(file="nowhere.toml")


def test_unknown_override():
    with pytest.raises(UnknownField, match=r"unknown key 'optimizer\.lrr'; did you mean 'optimizer\.lr'"):
        load_recipe(overrides={"optimizer.lrr": "1"})
    with pytest.raises(FieldguideError, match=r"seed = .* must be a whole number"):
        load_recipe(overrides={"seed.x": 1})


def test_python_gets_the_same_checks():
    with pytest.raises(FieldguideError, match=r"recipe: schedule\.final = 2\.0 must be"):
        ScheduleRecipe(final=2.0)
    with pytest.raises(FieldguideError, match=r"recipe: ema = 1\.0 must be"):
        Recipe(ema=1.0)
    assert isinstance(from_mapping({"optimizer": {"lr": 1}}).optimizer.lr, float)


def test_differences():
    old, new = Recipe(), Recipe(seed=3, optimizer=OptimizerRecipe(lr=0.5))
    assert differences(old, new) == {"seed": (0, 3), "optimizer.lr": (1e-3, 0.5)}


@given(st.integers(1, 10**7))
def test_auto_epochs(samples):
    epochs = Recipe().with_epochs(samples).epochs
    assert epochs == min(60, max(3, round(450 / samples ** (1 / 3))))
    assert Recipe(epochs=7).with_epochs(samples).epochs == 7


def test_needs_no_torch():
    code = (
        "import sys; from fieldguide.train.recipe import load_recipe; load_recipe(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_fine_tuning_lays_its_own_defaults_over_the_familys():
    plain, tuned = load_recipe("resnet"), load_recipe("resnet", finetune=True)
    assert (plain.head_epochs, plain.optimizer.layer_decay) == (0, 1.0)
    assert tuned.head_epochs == 1
    assert tuned.optimizer.layer_decay < 1
    assert tuned.memory_format == plain.memory_format
    assert load_recipe("resnet", overrides={"head_epochs": 0}, finetune=True).head_epochs == 0
    with pytest.raises(FieldguideError, match="head_epochs = -1 must be a number of epochs"):
        Recipe(head_epochs=-1)
