"""Verbs that need no training, and what every verb has in common."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from fieldguide import catalog
from fieldguide.cli import VERBS, main, run
from fieldguide.train.recipe import Recipe, load_recipe


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([verb, "--help"]) == 0
    assert f"Usage: fieldguide {verb}" in capsys.readouterr().out


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    listing = capsys.readouterr().out
    places = [listing.index(f"│ {verb} ") for verb in VERBS]
    assert places == sorted(places)
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip()[0].isdigit()


def test_models_lists_the_catalog(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(catalog.names())
    assert run(["models", "*50*", "--task", "classify"]) == 0
    table = capsys.readouterr().out
    assert "25,557,032" in table
    assert "vit_b_16" not in table


def test_info_measures_without_computing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", "resnet50", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["parameters"] == 25_557_032
    assert facts["input"] == [1, 3, 224, 224]
    assert facts["flops"] == pytest.approx(8.18e9, rel=0.01)  # 4.09 G multiply-adds (torchvision's figure)
    assert sum(layer["parameters"] for layer in facts["layers"]) == facts["parameters"]
    assert run(["info", "vit_mini", "--image-size", "16", "--batch", "3"]) == 0
    out = capsys.readouterr().out
    assert "3×1×16×16" in out
    assert "Dosovitskiy" in out


def test_lookup_draws_a_mask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mask.png"
    assert run(["lookup", "mask", "Causal() & Window(2)", "--length", "8", "--png", str(file)]) == 0
    out = capsys.readouterr().out
    assert f"{15 / 64:.1%} of 8 × 8 pairs" in out
    assert "attend picks dense" in out
    assert file.read_bytes().startswith(b"\x89PNG")
    assert str(file) in out
    assert run(["lookup", "mask", "Causal() & Window(64)", "--length", "512"]) == 0
    assert "attend picks banded" in capsys.readouterr().out


def test_check_is_json_and_text(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    assert run(["check", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["torch"] == torch.__version__.split("+")[0]
    assert run(["check"]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= len(facts)


def test_print_recipe_lays_options_over_file_over_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("epochs = 7\nbatch_size = 16\n[optimizer]\nlr = 0.5\n")
    assert run(["train", "resnet_mini", "--recipe", str(file), "--optimizer.lr", "3e-4", "--print-recipe"]) == 0
    printed = tmp_path / "printed.toml"
    printed.write_text(capsys.readouterr().out)
    expected = load_recipe("resnet", file, {"optimizer.lr": 3e-4})
    assert load_recipe(file=printed) == expected
    assert (expected.epochs, expected.batch_size, expected.optimizer.lr) == (7, 16, 3e-4)


def test_an_option_equal_to_the_default_still_wins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f"batch_size = {2 * Recipe().batch_size}\n[augment]\nflip = true\n")
    options = ["--batch-size", str(Recipe().batch_size), "--augment.no-flip", "--epochs", "auto"]
    assert run(["train", "resnet_mini", "--recipe", str(file), *options, "--print-recipe"]) == 0
    out = capsys.readouterr().out
    assert f"batch_size = {Recipe().batch_size}\n" in out
    assert "flip = false" in out
    assert 'epochs = "auto"' in out


def test_recipe_options_cover_every_field() -> None:
    from fieldguide.cli.settings import RecipeOptions, given, options_of

    assert options_of(Recipe).__dataclass_fields__.keys() == Recipe.__dataclass_fields__.keys()
    assert given(RecipeOptions()) == {}


def test_ascii_terminal_and_no_colour() -> None:
    """A terminal that cannot show ``×`` or a box is served in plain letters, without escapes."""
    environment = {"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin:/bin", "NO_COLOR": "1", "HOME": "/nowhere"}
    command = [sys.executable, "-m", "fieldguide", "models", "*net*"]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert b"\x1b" not in done.stdout
    assert b"resnet50" in done.stdout


def test_a_reader_that_leaves_early_is_no_error() -> None:
    code = f"{sys.executable} -m fieldguide models | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", code], capture_output=True, timeout=60)
    assert done.stderr == b""


def test_a_defect_asks_for_a_report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr("fieldguide.cli.build_app", lambda: lambda *_, **__: broken())
    assert run(["check"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "fieldguide check" in err
    monkeypatch.setenv("FIELDGUIDE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run(["check"])


def test_main_exits_with_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # main sets it for the process
    with pytest.raises(SystemExit) as exit_:
        main(["no-such-verb"])
    assert exit_.value.code == 2
