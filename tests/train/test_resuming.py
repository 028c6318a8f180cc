"""What has changed since a run began is shown; it is refused unless told, and then used and kept."""

import importlib.util
import json
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

from fieldguide import trace
from fieldguide.errors import FieldguideError
from fieldguide.objectives import Classification
from fieldguide.train import Callback, Recipe, RunFolder, fit
from fieldguide.train.callbacks import TrainingWarning
from fieldguide.train.recipe import AugmentRecipe, OptimizerRecipe, ScheduleRecipe, load_recipe
from fieldguide.train.resuming import data_facts, source_facts

RECIPE = Recipe(epochs=4, batch_size=8, threads=1, schedule=ScheduleRecipe(name="constant", warmup=0.0))
INPUTS, LABELS = torch.arange(160.0).reshape(32, 5) / 160, torch.arange(32) % 2


class Stop(Callback):
    """Ends the process, as far as training can tell, in the middle of an epoch."""

    def __init__(self, step=6):
        self.at = step

    def on_step(self, record):
        if record["step"] == self.at:
            raise ConnectionAbortedError


def network():
    torch.manual_seed(1)
    return nn.Linear(5, 2)


def train(run, recipe=RECIPE, data=None, model=None, **rest):
    data = data or ((INPUTS, LABELS), None)
    return fit(model or network(), data, Classification(), recipe, run=run, **rest)


def begun(path, **rest):
    run = RunFolder.create_at(path)
    with pytest.raises(ConnectionAbortedError):
        train(run, callbacks=[Stop()], **rest)
    return run


@pytest.fixture
def run(tmp_path):
    return begun(tmp_path / "run")


def later(run):
    return json.loads(run.environment.read_text())["later"]


# ------------------------------------------------------------------------------------------------------ the recipe


def test_an_accepted_recipe_is_used_and_both_are_kept(run):
    rate = replace(RECIPE, optimizer=OptimizerRecipe(lr=0.003, weight_decay=0.5, betas=(0.8, 0.9)), epochs=5)
    with pytest.raises(FieldguideError, match=r"epochs 4 → 5; optimizer\.lr 0\.001 → 0\.003; .*--accept-changes"):
        train(run, rate, resume=True)
    assert load_recipe(file=run.recipe) == RECIPE, "a refused one leaves nothing behind"
    with pytest.warns(TrainingWarning, match=r"optimizer\.lr 0\.001 → 0\.003"):
        done = train(run, rate, resume=True, accept_changes=True)
    assert done.recipe == load_recipe(file=run.recipe) == rate
    assert load_recipe(file=run.path / "recipe-4.toml") == RECIPE
    steps = trace.read(run.metrics, "step")
    assert [step["lr"] for step in steps] == pytest.approx([1e-3] * 4 + [3e-3] * 16)
    (state,) = run.checkpoints.newest().state["optimizers"].values()
    assert {group["betas"] for group in state["param_groups"]} == {(0.8, 0.9)}
    assert {group["weight_decay"] for group in state["param_groups"]} == {0.5, 0.0}
    assert later(run)[0]["step"] == 4
    assert "optimizer.lr 0.001 → 0.003" in later(run)[0]["changes"]


def test_the_optimizer_goes_on_from_its_moments(run):
    """The numbers are new, what the steps have gathered is not: an independent AdamW, retuned by hand."""
    model, generator = network(), torch.Generator()
    optimizer = torch.optim.AdamW(
        [{"params": [model.weight], "weight_decay": 0.01}, {"params": [model.bias], "weight_decay": 0.0}], lr=1e-3
    )
    for epoch in range(2):
        if epoch == 1:
            for group in optimizer.param_groups:
                group["lr"] = 0.02
        for chosen in torch.randperm(32, generator=generator.manual_seed(epoch)).split(8):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(INPUTS[chosen]), LABELS[chosen]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    changed = replace(RECIPE, epochs=2, optimizer=OptimizerRecipe(lr=0.02))
    with pytest.warns(TrainingWarning):
        ours = train(run, changed, resume=True, accept_changes=True).model
    torch.testing.assert_close(ours.weight, model.weight, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.bias, model.bias, rtol=0, atol=1e-6)


def test_the_next_resume_finds_the_accepted_recipe(tmp_path):
    run, changed = begun(tmp_path / "run"), replace(RECIPE, clip=0.5)
    with pytest.raises(ConnectionAbortedError), pytest.warns(TrainingWarning):
        train(run, changed, resume=True, accept_changes=True, callbacks=[Stop(10)])
    train(run, load_recipe(file=run.recipe), resume=True)
    assert len(later(run)) == 1


def test_an_edited_recipe_file_is_a_changed_recipe(run):
    run.recipe.write_text(run.recipe.read_text().replace("clip = 1.0", "clip = 0.25"))
    asked = load_recipe(file=run.recipe)
    with pytest.raises(FieldguideError, match=r"clip 1\.0 → 0\.25"):
        train(run, asked, resume=True)
    with pytest.warns(TrainingWarning):
        assert train(run, asked, resume=True, accept_changes=True).recipe.clip == 0.25
    assert tomllib.loads((run.path / "recipe-4.toml").read_text())["clip"] == 1.0


@pytest.mark.parametrize(
    "change",
    [{"optimizer": OptimizerRecipe(name="sgd")}, {"ema": 0.9}, {"swa": 0.5}, {"lookahead": 5}],
    ids=["optimizer", "ema", "swa", "lookahead"],
)
def test_what_no_state_can_go_on_from_is_refused_even_when_accepted(run, change):
    with pytest.raises(FieldguideError, match="cannot change within a run"):
        train(run, replace(RECIPE, **change), resume=True, accept_changes=True)
    assert load_recipe(file=run.recipe) == RECIPE


def test_other_groups_of_parameters_are_refused_when_accepted(run):
    grouped = replace(RECIPE, optimizer=OptimizerRecipe(rates={"weight": 0.5}))
    with pytest.warns(TrainingWarning), pytest.raises(FieldguideError, match=r"does not fit|grouped otherwise"):
        train(run, grouped, resume=True, accept_changes=True)
    assert load_recipe(file=run.recipe) == RECIPE


def test_what_changes_no_step_needs_no_word(run):
    done = train(run, replace(RECIPE, keep_last=3, async_save=False), resume=True)
    assert done.recipe.keep_last == 3
    assert "later" not in json.loads(run.environment.read_text())


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "fp16", "batch_size": 4, "steps": 19, "augment": AugmentRecipe(flip=True)},
        {"precision": "bf16", "accumulation": 2, "seed": 9, "loss_spike": 6.0, "on_bad_batch": "skip"},
        {
            "schedule": ScheduleRecipe(name="plateau", warmup=0.0),
            "centralize": True,
            "clip_by": "adaptive",
            "clip": 0.1,
        },
    ],
    ids=["fp16", "bf16", "plateau"],
)
def test_every_other_field_may_change_when_accepted(run, change):
    data = ((INPUTS, LABELS), (INPUTS, LABELS)) if "schedule" in change else None
    with pytest.warns(TrainingWarning):
        done = train(run, replace(RECIPE, **change), data=data, resume=True, accept_changes=True)
    assert all(getattr(done.recipe, name) == value for name, value in change.items())
    assert done.history[-1]["epoch"] >= 1


# ------------------------------------------------------------------------------------------------------------ data


class Rows(torch.utils.data.Dataset):
    classes = ("cat", "dog")

    def __init__(self, count, width=5):
        self.count, self.width = count, width

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        return torch.full((self.width,), i / 10), i % 2


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (((INPUTS[:24], LABELS[:24]), None), r"training samples of the data: 32 → 24"),
        (
            ((INPUTS.double(), LABELS), None),
            r"training sample of the data: float32 \(5,\), int64 \(\) → float64 \(5,\)",
        ),
        (((INPUTS + 1, LABELS), None), r"training content of the data: \w+… → \w+…;"),
        (((INPUTS, LABELS), (INPUTS, LABELS)), r"validation samples of the data: nothing → 32"),
    ],
    ids=["length", "type", "content", "part"],
)
def test_other_tensors_are_shown_then_and_now(run, data, said):
    with pytest.raises(FieldguideError, match=said):
        train(run, data=data, resume=True)


def test_other_data_can_be_accepted(run):
    fewer = ((INPUTS[:24], LABELS[:24]), None)
    with pytest.warns(TrainingWarning, match="training samples of the data: 32 → 24"):
        train(run, data=fewer, resume=True, accept_changes=True)
    train(run, data=fewer, resume=True)
    assert any("32 → 24" in change for change in later(run)[0]["changes"])


def test_what_is_known_of_a_map_style_data_set():
    assert data_facts((Rows(30), Rows(7, width=2))) == {
        "classes": "cat, dog",
        "training samples": 30,
        "training sample": "float32 (5,), int",
        "validation samples": 7,
        "validation sample": "float32 (2,), int",
    }


def test_what_workers_are_to_open_is_not_opened_before(tmp_path):
    class Opening(Rows):
        here = 0

        def __getitem__(self, i):
            Opening.here += 1
            return super().__getitem__(i)

    assert "training sample" not in data_facts((Opening(3), None), look=False)
    run = begun(tmp_path / "run", data=(Opening(32), None))
    Opening.here = 0
    train(run, replace(RECIPE, workers=1), data=(Opening(32), None), resume=True)
    assert Opening.here == 0, "nor is its absence a change"


def test_the_generators_stand_where_they_stood(run):
    class Drawing(Rows):
        def __getitem__(self, i):
            return torch.randn(5), i % 2

    torch.manual_seed(4)
    expected = torch.randn(1)
    torch.manual_seed(4)
    data_facts((Drawing(3), None))
    assert torch.equal(torch.randn(1), expected)


@pytest.mark.parametrize("data", [((), None), ((torch.empty(0, 3), torch.empty(0)), None), (Rows(0), None)])
def test_empty_data_have_facts_too(data):
    assert isinstance(data_facts(data), dict)


def test_a_fingerprint_is_shown_then_and_now(tmp_path):
    class Named:
        """A data set with a name for its content."""

        def __init__(self, fingerprint):
            self.fingerprint = fingerprint

        def feeds(self, recipe):
            return Feed(), None, None

    class Feed:
        def __len__(self):
            return 4

        def batches(self, epoch: int, start: int = 0) -> Iterator[object]:
            return iter([(INPUTS[:8], LABELS[:8])] * (4 - start))

    run = begun(tmp_path / "run", data=Named("0123"))
    with pytest.raises(FieldguideError, match="fingerprint of the data: 0123 → 4567"):
        train(run, data=Named("4567"), resume=True)
    train(run, data=Named("0123"), resume=True)


# ------------------------------------------------------------------------------------------- the network's own source

SOURCE = """
from torch import nn

class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 2)

    def forward(self, x):
        return self.linear(x)

def build():
    return nn.Sequential(Part())
"""


def imported(file, source):
    file.write_text(source)
    spec = importlib.util.spec_from_file_location("theirs", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["theirs"] = module
    return module


def test_a_changed_forward_of_ones_own_network_is_refused(tmp_path):
    file = tmp_path / "theirs.py"
    run = begun(tmp_path / "run", model=imported(file, SOURCE).build())
    train(run, RECIPE, model=imported(file, SOURCE + "\n# a remark\n").build(), resume=True)
    changed = imported(file, SOURCE.replace("self.linear(x)", "-self.linear(x)"))
    with pytest.raises(FieldguideError, match=r"source of Part: \w+… → \w+…; go on"):
        train(run, RECIPE, model=changed.build(), resume=True)


def test_only_ones_own_classes_have_a_source(tmp_path):
    assert source_facts(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))) == {}
    assert source_facts(imported(tmp_path / "theirs.py", SOURCE).build()).keys() == {"Part"}
    typed = type("Typed", (nn.Module,), {"__module__": "console"})
    assert source_facts(typed()) == {}


# -------------------------------------------------------------------------------------------------- the environment


def test_an_accepted_environment_is_the_one_that_later_resumes_compare_with(run):
    facts = json.loads(run.environment.read_text())
    run.environment.write_text(json.dumps(facts | {"cpu_capability": "of another machine"}))
    with pytest.raises(FieldguideError, match="CPU capability: of another machine → "):
        train(run, resume=True)
    with pytest.warns(TrainingWarning):
        train(run, resume=True, accept_changes=True)
    train(run, resume=True)
    (entry,) = later(run)
    assert entry["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert entry["step"] == 4
    assert json.loads(run.environment.read_text())["cpu_capability"] == "of another machine"
