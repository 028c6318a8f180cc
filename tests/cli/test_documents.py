"""What the README and the documentation show is what happens."""

import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from fieldguide.blocks.mask_text import MASKS, parse
from fieldguide.cli import VERBS, run
from fieldguide.cli.optimizer_cards import CARDS
from fieldguide.report.mask_picture import mask_text
from fieldguide.train.recipe import OptimizerRecipe, Recipe, ScheduleRecipe, load_recipe

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", range(len(blocks(ROOT / "README.md", "python"))))
def test_the_examples_run(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(blocks(ROOT / "README.md", "python")[number], f"README example {number}", "exec"), {})
    assert capsys.readouterr().out


def test_the_example_of_fine_tuning_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(blocks(ROOT / "docs" / "finetuning.md", "python")[0], "docs/finetuning.md", "exec"), {})
    assert "stages.2" in capsys.readouterr().out


def test_the_example_of_text_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(blocks(ROOT / "docs" / "text.md", "python")[0], "docs/text.md", "exec"), {})
    bits, _, text = capsys.readouterr().out.partition("\n")
    assert float(bits.split()[0]) < 5, "8 is what knowing nothing costs"
    assert text.strip()


def test_the_mask_is_what_the_command_draws() -> None:
    assert mask_text(parse("Causal() & Window(8) | Global([0])"), 32) in README


def test_every_verb_is_shown() -> None:
    assert not [verb for verb in VERBS if not re.search(rf"[` ]{verb}[ `]", README)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_that_are_shown_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in (
        "train",
        "eval",
        "profile",
        "export",
        "look cam",
        "look maps",
        "look schedule",
        "look rate",
        "look attention",
        "generate",
        "doctor check",
        "watch",
        "tune",
    ):
        assert run([*verb.split(), "--help"]) == 0
    known = capsys.readouterr().out + " --png --length --resume --help --version --kills"
    shown = set(re.findall(r"(?<![\w-])--[a-z][\w.-]+", page.read_text(encoding="utf-8")))
    assert not [option for option in shown if option not in known]


def test_the_recipe_is_one(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(blocks(ROOT / "docs" / "recipes.md", "toml")[0])
    assert load_recipe(file=file).stopping.patience == 5


def test_every_schedule_is_in_the_table() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert not [name for name in get_args(get_type_hints(ScheduleRecipe)["name"]) if f"| `{name}` |" not in page]


def test_every_mask_is_in_the_table() -> None:
    page = (ROOT / "docs" / "masks.md").read_text(encoding="utf-8")
    assert not [name for name in [*MASKS, "Documents", "Padding"] if f"`{name}(" not in page]


def test_the_cards_of_optimizers_are_the_page_and_every_optimizer_has_one(capsys: pytest.CaptureFixture[str]) -> None:
    """`fieldguide lookup optimizer > docs/optimizers.md` writes them."""
    assert run(["lookup", "optimizer"]) == 0
    assert capsys.readouterr().out == (ROOT / "docs" / "optimizers.md").read_text(encoding="utf-8")
    extras = ("sharpness", "ema", "swa", "lookahead")
    assert {card.name for card in CARDS} == {*get_args(get_type_hints(OptimizerRecipe)["name"]), *extras}
    assert all(hasattr(Recipe(), name) for name in extras)
    assert run(["lookup", "optimizer", "muon"]) == 0
    assert "Newton–Schulz" in capsys.readouterr().out
    assert run(["lookup", "optimizer", "muom"]) == 2
    assert "did you mean 'muon'" in capsys.readouterr().err


def test_the_cards_are_those_of_the_catalog(capsys: pytest.CaptureFixture[str]) -> None:
    """`fieldguide lookup model > docs/models.md` writes them."""
    assert run(["lookup", "model"]) == 0
    assert capsys.readouterr().out == (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
