"""Trainings by our own trainer, ill and well, as the doctor reads their folders."""

import json
import math

import pytest
import torch

from fieldguide.cli import run
from fieldguide.metrics import ClassificationMetrics, RegressionMetrics, TokenMetrics
from fieldguide.trace import read


def diagnosed(folder, *settings):
    command = ["train", "resnet_mini", "--data", "digits", "--threads", "1", "--epochs", "6", *settings]
    assert run([*command, "--out", str(folder), "--name", "run"]) == 0
    return json.loads((folder / "run" / "doctor.json").read_text())


def test_a_rate_that_wrecks_the_network_is_named_although_the_loss_falls_again(tmp_path):
    found = diagnosed(tmp_path, "--optimizer.lr", "30")
    assert found["verdict"] != "healthy"
    assert "lr-too-high" in found["causes"][:3]
    assert any("constant answer" in finding["evidence"] for finding in found["findings"])


def test_the_usual_rate_is_healthy(tmp_path):
    found = diagnosed(tmp_path)
    assert (found["verdict"], found["causes"]) == ("healthy", [])
    epochs = read(tmp_path / "run" / "metrics.jsonl", kind="epoch")
    assert [record["val_baseline"] for record in epochs] == pytest.approx([math.log(10)] * 6, abs=0.05)


def test_metrics_know_the_best_constant_answer():
    """As found by giving it."""
    labels = torch.tensor([0, 0, 1, 2])
    shares = torch.tensor([0.5, 0.25, 0.25, 1e-30])
    classes = ClassificationMetrics()
    classes.add(shares.log().expand(4, 4), labels)
    assert classes.baseline == pytest.approx(classes.compute()["loss"])
    tokens = TokenMetrics(lambda model, batch: batch)
    tokens.update(torch.nn.Identity(), (shares.log().expand(1, 5, 4), torch.tensor([[0, 0, 1, 2, -100]])))
    assert tokens.baseline == pytest.approx(tokens.compute()["loss"])
    numbers, targets = RegressionMetrics(lambda model, batch: batch, units=(2.0, 1.0)), torch.randn(9, 2)
    numbers.add(targets.mean(0).expand(9, 2), targets)
    assert numbers.baseline == pytest.approx(numbers.compute()["loss"])
