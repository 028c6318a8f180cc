"""What a run was made on, and what a resume says when that has changed."""

import json

import pytest
import torch
from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.objectives import Classification
from fieldguide.train import Recipe, RunFolder, fit
from fieldguide.train.callbacks import TrainingWarning
from fieldguide.train.environment import changes, environment


def _written(folder, **other):
    file = folder / "environment.json"
    file.write_text(json.dumps(environment() | other))
    return file


def test_the_same_machine_and_code_have_no_changes(tmp_path):
    assert changes(_written(tmp_path)) == []


def test_each_change_is_a_line(tmp_path):
    torch = environment()["packages"]["torch"]
    file = _written(tmp_path, source="0123", packages={"torch": "2.11.0"}, command=["elsewhere"])
    source = environment()["source"]
    assert changes(file) == [f"fieldguide's source: 0123 → {source}", f"torch: 2.11.0 → {torch}"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"packages": 3}', '{"packages": {}}'])
def test_a_file_that_says_nothing_is_no_error(tmp_path, text):
    (tmp_path / "environment.json").write_text(text)
    assert changes(tmp_path / "environment.json") == []


def test_a_resume_elsewhere_is_refused_unless_told(tmp_path):
    data = ((torch.randn(16, 4), torch.arange(16) % 2), None)
    run, recipe = RunFolder.create_at(tmp_path / "run"), Recipe(epochs=1, batch_size=8, threads=1)
    fit(nn.Linear(4, 2), data, Classification(), recipe, run=run)
    _written(run.path, cpu_capability="of another machine")
    with pytest.raises(FieldguideError, match=r"resume: .* CPU capability: of another machine → .*--accept-changes"):
        fit(nn.Linear(4, 2), data, Classification(), recipe, run=run, resume=True)
    with pytest.warns(TrainingWarning, match="changed since the run began: CPU capability"):
        fit(nn.Linear(4, 2), data, Classification(), recipe, run=run, resume=True, accept_changes=True)
