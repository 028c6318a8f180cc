import subprocess
import sys
import tomllib
from dataclasses import asdict, replace
from typing import get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldguide.errors import FieldguideError, UnknownField
from fieldguide.optim import OPTIMIZERS
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
    schedule=st.builds(
        ScheduleRecipe,
        warmup=shares,
        final=shares,
        weight_decay_final=st.floats(0, 100),
        milestones=st.sampled_from([(), (0.5,), (0.25, 0.5, 0.75)]),
    ),
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
        ("[optimizer]\nname = 'lyon'", r'optimizer\.name = "lyon" must be "adamw" or "adam" or "sgd" or "rmsprop" or'),
        ("[optimizer]\nrates = 3", r"optimizer\.rates = 3 must be a table of patterns and numbers"),
        ("[optimizer.rates]\nstem = 'low'", r"optimizer\.rates = .*'low'.* must be a table of patterns and numbers"),
        ("[optimizer.rates]\nstem = 0", r"optimizer\.rates\.stem = 0\.0 must be above 0; freeze what is not to learn"),
        ("swa = 2", r"swa = 2\.0 must be a share of the steps, 0 to 1"),
        ("lookahead = -1", r"lookahead = -1 must be a number of steps, or 0"),
        ("sharpness = -1", r"sharpness = -1\.0 must be a radius of at least 0"),
        ("[optimizer]\nbetas = [0.9]", r"optimizer\.betas = \[0\.9\] must be a list of 2 numbers"),
        ("[schedule]\nmilestones = [0.5, 2]", r"schedule\.milestones = \[0\.5, 2\.0\] must be shares between 0 and 1"),
        ("[schedule]\nmilestones = 0.5", r"schedule\.milestones = 0\.5 must be a list of numbers"),
        (
            "[schedule]\ncycle_momentum = [0.9, 0.8]",
            r"cycle_momentum = \[0\.9, 0\.8\] must be the lower and the higher",
        ),
        ("[schedule]\nname = 'cosin'", r'schedule\.name = "cosin" must be "cosine" or'),
        ("[schedule]\nwarmup = 1.5", r"schedule\.warmup = 1\.5 must be a share of the steps, 0 to 1"),
        ("batch_size = 2.5", r"batch_size = 2\.5 must be a whole number"),
        ("batch_size = true", r"batch_size = true must be a whole number"),
        ("batch_size = 0", r"batch_size = 0 must be at least 1"),
        ("epochs = 'many'", r'epochs = "many" must be a whole number or "auto"'),
        ("threads = 0", r'threads = 0 must be at least 1, or "auto"'),
        ("optimizer = 3", r"optimizer = 3 must be a table, \[optimizer\] with its own keys"),
        ("[augment]\nflip = 1", r"augment\.flip = 1 must be true or false"),
        ("clip_by = 'length'", r'clip_by = "length" must be "norm" or "value" or "adaptive"'),
        ("focal = -1", r"focal = -1\.0 must be at least 0"),
        ("class_balance = 2", r"class_balance = 2\.0 must be 0 to 1"),
        ("[augment]\ncutmix = -1", r"augment\.cutmix = -1\.0 must be at least 0"),
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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": {"name": "step"}}, r"step needs schedule\.milestones"),
        ({"schedule": {"name": "step", "warmup": 0.3, "milestones": [0.2]}}, "lies in the warm-up, which is 0.3"),
        ({"schedule": {"name": "exponential"}}, r"exponential never reaches 0; set schedule\.final"),
        ({"schedule": {"name": "warmup_stable_decay", "warmup": 0.9}}, "together are longer than the training"),
        ({"schedule": {"name": "three_phase", "rise": 0.7}}, r"set schedule\.rise to 0\.5 at most"),
        ({"schedule": {"name": "plateau"}, "stopping": {"patience": 3}}, "plateau waits 5 epochs, but .* after 3"),
    ],
)
def test_schedules_that_contradict_themselves(settings, message):
    with pytest.raises(FieldguideError, match=message) as caught:
        from_mapping(settings)
    assert "\n" not in str(caught.value)


def test_a_later_layer_may_complete_an_earlier_one(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[schedule]\nname = 'step'\n")
    assert load_recipe("resnet", file, {"schedule.milestones": "[0.5, 0.75]"}).schedule.milestones == (0.5, 0.75)
    with pytest.raises(FieldguideError, match=r"step needs schedule\.milestones"):
        load_recipe("resnet", file)


def test_the_names_of_optimizers_are_those_that_can_be_built():
    assert get_args(get_type_hints(OptimizerRecipe)["name"]) == OPTIMIZERS


def test_rates_of_patterns_with_dots(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('[optimizer.rates]\n"stem|stages.0" = 0.1\nhead = 10\n')
    recipe = load_recipe(file=file, overrides={"optimizer.rates.stages.1": "0.5"})
    assert recipe.optimizer.rates == {"stem|stages.0": 0.1, "head": 10.0, "stages.1": 0.5}
    assert from_mapping(tomllib.loads(to_toml(recipe))) == recipe
    assert differences(Recipe(), load_recipe(overrides={"optimizer.rates.head": 2})) == {
        "optimizer.rates.head": (None, 2)
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ema": 0.9, "swa": 0.2}, r"two averages of the weights \(ema, swa\); set swa to 0"),
        (
            {
                "ema": 0.9,
                "optimizer": OptimizerRecipe(name="schedule_free"),
                "schedule": ScheduleRecipe(name="constant"),
            },
            r"two averages of the weights \(ema, schedule_free\); set ema to 0",
        ),
        ({"optimizer": OptimizerRecipe(name="schedule_free")}, r'set schedule\.name = "constant"'),
        ({"sharpness": 0.1, "recompute": "layers"}, "set one of sharpness and recompute off"),
        (
            {"optimizer": OptimizerRecipe(name="sgd", momentum=0.0), "schedule": ScheduleRecipe(name="one_cycle")},
            r"one_cycle moves the momentum and sgd has none; set optimizer\.momentum above 0, or set two equal",
        ),
        (
            {"optimizer": OptimizerRecipe(name="adafactor"), "schedule": ScheduleRecipe(name="three_phase")},
            "three_phase moves the momentum and adafactor has none; set two equal numbers",
        ),
    ],
)
def test_what_does_not_go_together(changes, message):
    with pytest.raises(FieldguideError, match=message):
        Recipe(**changes)
