"""Treatment where it is asked for: of a script, and of a training that goes on with what won."""

import json
from pathlib import Path

import pytest
import torch
from tests.cli.test_doctor import script
from torch import nn

from fieldguide.cli import run
from fieldguide.doctor.treatment.recipes import CHANGES, doses
from fieldguide.doctor.treatment.runs import Critical, Guard, treat_run
from fieldguide.objectives import Classification
from fieldguide.report.records import read_records
from fieldguide.report.story import subtitle
from fieldguide.train.fitting import fit
from fieldguide.train.recipe import OptimizerRecipe, Recipe, ScheduleRecipe, load_recipe
from fieldguide.train.run import RunFolder


def test_a_script_is_treated_and_left_as_it_is(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    path = script(tmp_path, lr="3e-7", after="raise SystemExit(7)")
    assert run(["doctor", "run", str(path), "--epochs", "3"]) == 7
    plain = capfd.readouterr().out
    assert run(["doctor", "treat", "--steps", "40", "--json", "found.json", str(path), "--epochs", "3"]) == 7
    said = capfd.readouterr()
    assert said.out == plain
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["causes"][0] == "lr-too-low"
    treatment = found["treatment"]
    assert treatment == json.loads((tmp_path / "runs" / "doctor-program-2" / "treatment.json").read_text())
    assert treatment["winner"] == treatment["trials"][0]
    assert treatment["winner"]["loss"] < 0.7 * treatment["control"]
    assert treatment["winner"]["share"] == 1.0
    assert f"winner    {treatment['winner']['dose']}" in said.err


def test_a_healthy_script_needs_none(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert run(["doctor", "treat", str(script(tmp_path))]) == 0
    assert "nothing was tried" in capfd.readouterr().err


@pytest.mark.parametrize(
    "options", ["--steps 0 program.py", "--steps many program.py", "--steps", "--seps 3 program.py"]
)
def test_mistakes_cost_one_line(tmp_path, monkeypatch, capfd, options):
    monkeypatch.chdir(tmp_path)
    script(tmp_path)
    assert run(["doctor", "treat", *options.split()]) == 2
    assert capfd.readouterr().err.count("\n") == 1


# ------------------------------------------------------------------------------------- trainings of our own


def data() -> tuple:
    g = torch.Generator().manual_seed(0)
    y = torch.randint(3, (600,), generator=g)
    x = torch.randn(3, 8, generator=g)[y] + torch.randn(600, 8, generator=g)
    return (x[:480], y[:480]), (x[480:], y[480:])


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))


SICK = Recipe(
    epochs=6, batch_size=16, clip=0.0, threads=1, optimizer=OptimizerRecipe(name="sgd", lr=8.0, momentum=0.0),
    schedule=ScheduleRecipe(name="constant", warmup=0.0),
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create_at(tmp_path / "sick")


def test_a_critical_finding_ends_a_training_and_the_best_recipe_goes_on(folder):
    with pytest.raises(Critical) as found:
        fit(network(), data(), Classification(), SICK, run=folder, callbacks=[Guard()])
    assert found.value.causes[0] == "lr-too-high"
    change = treat_run(network(), data(), Classification(), folder, found.value.causes, steps=30)
    assert change.step == 0, "where the loss had not risen yet"
    assert change.treatment.winner
    assert change.recipe.optimizer.lr < 3
    done = fit(network(), data(), Classification(), change.recipe, run=folder, resume=True, accept_changes=True,
               callbacks=[Guard([str(change)])])  # fmt: skip
    assert done.history[-1]["val_loss"] < 0.9
    assert load_recipe(file=folder.recipe).optimizer.lr == change.recipe.optimizer.lr
    said = [json.loads(line) for line in folder.metrics.read_text().splitlines() if '"failure"' in line]
    assert [record["message"] for record in said] == [str(change)]
    assert str(change) in subtitle(folder.path, read_records(folder.path))


def test_trying_recipes_leaves_no_trace(folder):
    model = network()
    fit(model, data(), Classification(), SICK, run=folder)
    files = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file() and path.name != ".lock"}
    before, random = [p.clone() for p in model.parameters()], torch.get_rng_state()
    first = treat_run(model, data(), Classification(), folder, ["excessive-clipping"], steps=5)
    assert str(first).startswith("back to step ")
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), random)
    now = {path.name for path in folder.path.rglob("*.toml")}
    assert now == {"recipe.toml"}
    assert files[folder.metrics] == folder.metrics.read_bytes()


def test_what_went_on_can_be_resumed_bit_for_bit(folder, tmp_path):
    """Stopped and resumed after a treatment, it ends with the weights of the training that was not stopped."""
    with pytest.raises(Critical) as found:
        fit(network(), data(), Classification(), SICK, run=folder, callbacks=[Guard()])
    recipe = treat_run(network(), data(), Classification(), folder, found.value.causes, steps=20).recipe

    class Interrupt(Guard):
        def on_epoch(self, record):
            if record["epoch"] == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(network(), data(), Classification(), recipe, run=folder, resume=True, accept_changes=True,
            callbacks=[Interrupt(["treated"])])  # fmt: skip
    model, whole = network(), network()
    fit(model, data(), Classification(), load_recipe(file=folder.recipe), run=folder, resume=True)
    fit(whole, data(), Classification(), recipe, run=RunFolder.create_at(tmp_path / "whole"))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), whole.parameters(), strict=True))


def test_a_treatment_happens_so_often_and_no_more(folder):
    done = fit(network(), data(), Classification(), SICK, run=folder, callbacks=[Guard(["once", "twice"])])
    assert done.history[-1]["epoch"] == 5


def test_recipes_differ_from_one_another_and_from_the_one_they_mend():
    made = [SICK, *(dose.recipe for dose in doses(SICK, ["lr-too-high", "lr-too-low", "exploding-gradient"]))]
    assert len(made) > 6
    assert all(one != other for place, one in enumerate(made) for other in made[:place])
    assert all(isinstance(change(SICK), Recipe) for group in CHANGES.values() for change in group.values())


@pytest.mark.slow
def test_the_command_treats_a_training_and_tells_of_it(tmp_path, capfd):
    options = "--optimizer.name sgd --optimizer.lr 30 --clip 0 --epochs 3 --threads 1 --name sick --doctor treat"
    command = ["train", "resnet_mini", "--data", "digits", *options.split(), "--out", str(tmp_path)]
    assert run(command) == 0
    said = capfd.readouterr()
    assert "treated   doctor: lr-too-high" in said.err
    kept = json.loads((tmp_path / "sick" / "treatment-1.json").read_text())
    assert kept["winner"]
    assert load_recipe(file=tmp_path / "sick" / "recipe.toml").optimizer.lr < 4
