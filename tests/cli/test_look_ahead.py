"""``look schedule`` and ``look rate``: what a recipe will do, before it is carried out."""

import json
from pathlib import Path

import pytest

from fieldguide.cli import run
from fieldguide.train.recipe import Recipe, ScheduleRecipe, load_recipe, to_toml


def said(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    capsys.readouterr()
    assert run([*map(str, arguments)]) == code
    return capsys.readouterr().out if code == 0 else capsys.readouterr().err


def test_the_schedule_of_a_family_a_model_and_a_file(tmp_path: Path, capsys) -> None:
    family = said(capsys, "look", "schedule", "vit")
    assert family == said(capsys, "look", "schedule", "vit_b_16")
    assert family.startswith("cosine over 1,000 steps")
    assert f"{load_recipe('vit').optimizer.lr:g} │" in family
    assert "weight decay  0.05 at every step" in family
    assert max(map(len, family.splitlines())) <= 80
    file, png = tmp_path / "mine.toml", tmp_path / "mine.png"
    file.write_text(to_toml(Recipe(schedule=ScheduleRecipe(name="one_cycle"))))
    out = said(capsys, "look", "schedule", file, "--steps", 30, "--out", png)
    assert out.startswith("one cycle over 30 steps")
    assert "momentum" in out
    assert out.splitlines()[-1] == str(png)
    assert png.stat().st_size > 5000
    changed = said(capsys, "look", "schedule", file, "--schedule.name", "linear", "--schedule.weight-decay-final", 3)
    assert changed.startswith("linear over 1,000 steps")
    assert "momentum" not in changed


def test_the_schedule_of_a_run_has_the_steps_of_the_run(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "recipe.toml").write_text(to_toml(Recipe(epochs=7)))
    epochs = [{"kind": "epoch", "epoch": number, "step": 12 * (number + 1)} for number in range(2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in epochs))
    out = said(capsys, "look", "schedule", folder)
    assert out.startswith("cosine over 84 steps")
    assert out.splitlines()[-1] == str(folder / "figures" / "schedule.png")
    assert (folder / "figures" / "schedule.png").exists()


def test_a_rate_is_suggested(tmp_path: Path, capsys) -> None:
    out = said(capsys, "look", "rate", "lenet_mini", "--steps", 60, "--threads", 1, "--out", tmp_path / "rate.png")
    facts = dict(line.split(maxsplit=1) for line in out.splitlines()[:-1])
    assert 1e-5 < float(facts["steepest"].split(",")[0]) < 1
    assert f"--optimizer.lr {facts['steepest'].split(',')[0]}" in out
    assert (tmp_path / "rate.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("look schedule vti", ["vti", "'vit'"]),
        ("look schedule nowhere.toml", ["nowhere.toml", "cannot be read"]),
        ("look schedule vit --schedule.name step", ["schedule.milestones"]),
        ("look schedule vit --schedule.name cosin", ["cosin"]),
        ("look schedule vit --out picture.jpg", [".png"]),
        ("look rate resnet_mni", ["resnet_mni", "resnet_mini"]),
        ("look rate lenet_mini --steps 3", ["10 steps"]),
    ],
)
def test_mistakes_get_one_line(arguments: str, words: list[str], capsys) -> None:
    error = said(capsys, *arguments.split(), code=2)
    assert error.count("\n") == 1
    assert all(word in error for word in words), error
