"""Runs beside each other, from folders made by hand."""

import json
import re
from pathlib import Path

import pytest
from tests.report.conftest import write_log

from fieldguide.cli import run as fieldguide
from fieldguide.errors import DamagedFile, FieldguideError
from fieldguide.report.comparison import ABSENT, compare, write_comparison


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    folders = [tmp_path / name for name in ("a-1", "a-2", "<b>&-1")]
    for number, folder in enumerate(folders):
        (folder / "checkpoints").mkdir(parents=True)
        write_log(folder, epochs=4 + 2 * number)
        moment = f"momentum = 0.{number}\n" if number else ""
        (folder / "recipe.toml").write_text(f"seed = 0\nepochs = {4 + 2 * number}\n[optimizer]\nlr = 0.001\n{moment}")
        (folder / "environment.json").write_text(json.dumps({"job": {"model": "mlp" if number < 2 else "gpt_mini"}}))
    return folders


def test_what_differs_comes_first_and_only_that(runs: list[Path]) -> None:
    found = compare(runs)
    assert found.recipes == {"epochs": ["4", "6", "8"], "optimizer.momentum": [ABSENT, "0.1", "0.2"]}
    assert found.environments == {"job.model": ["mlp", "mlp", "gpt_mini"]}
    assert found.results["steps"] == ["80", "120", "160"]
    assert found.measured["steps"] == [80, 120, 160]
    assert found.results["test accuracy"] == ["95.00%"] * 3
    best = [1 - min(json.loads(line)["train_loss"] for line in (run / "metrics.jsonl").read_text().splitlines()
                    if '"epoch"' in line and "train_loss" in line) / 5 for run in runs]  # fmt: skip
    assert found.measured["best validation accuracy"] == pytest.approx(best)


def test_a_figure_that_one_run_lacks_is_a_dash(runs: list[Path]) -> None:
    log = runs[1] / "metrics.jsonl"
    log.write_text("".join(line for line in log.read_text().splitlines(keepends=True) if '"test"' not in line))
    found = compare(runs[:2])
    assert found.results["test loss"] == ["0.1000", ABSENT]
    assert found.measured["test loss"] == [0.1, None]


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folders = [tmp_path / parent / "run-1" for parent in ("x", "y")]
    for folder in folders:
        folder.mkdir(parents=True)
        write_log(folder)
    assert [run.name for run in compare(folders).runs] == ["x/run-1", "y/run-1"]


def test_the_page_loads_nothing_and_escapes_names(runs: list[Path], tmp_path: Path) -> None:
    page = write_comparison(compare(runs), tmp_path / "page.html").read_text()
    assert "&lt;b&gt;&amp;-1" in page
    assert page.index("Recipes") < page.index("Results") < page.index("Also different")
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[^\"]*", "", page))
    assert not (tmp_path / "page.png").exists()


def test_runs_of_one_recipe_are_said_to_be_alike(runs: list[Path], tmp_path: Path) -> None:
    (runs[1] / "recipe.toml").write_text((runs[0] / "recipe.toml").read_text())
    assert "All runs have the same recipe." in write_comparison(compare(runs[:2]), tmp_path / "page.html").read_text()


def test_bad_input_is_one_line(runs: list[Path]) -> None:
    for folders in ([], runs[:1], [runs[0], runs[0]]):
        with pytest.raises(FieldguideError, match="two runs or more"):
            compare(folders)
    (runs[1] / "recipe.toml").write_text("seed = ")
    with pytest.raises(DamagedFile, match=r"recipe\.toml cannot be read"):
        compare(runs)


def test_the_verb(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    assert fieldguide(["compare", *map(str, runs), "--out", str(out)]) == 0
    assert "optimizer.momentum" in capsys.readouterr().out
    assert fieldguide(["compare", *map(str, runs), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipes"]["epochs"] == ["4", "6", "8"]
    for arguments, message in (
        ([str(runs[0])], "two runs or more"),
        ([str(runs[0]), str(runs[1]), "--out", "page.txt"], "ends with .html"),
        ([str(runs[0]), str(tmp_path / "none")], "there is no run"),
    ):
        assert fieldguide(["compare", *arguments]) == 2
        assert message in capsys.readouterr().err
