"""Lightning under observation: unmodified scripts, healthy and with a planted fault, and the callback."""

import logging
import runpy

import pytest

from fieldguide.doctor.scripts import run_script

pytest.importorskip("lightning")

SCRIPT = """
import logging
import sys
import warnings
import lightning as L
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

warnings.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
fault = sys.argv[1]
torch.manual_seed(0)
x, w = torch.randn(1280, 20), torch.randn(20, 4)
y = (x @ w + 0.3 * torch.randn(1280, 4)).argmax(1)


class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = fault != "by hand"
        self.body = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.head = nn.Linear(64, 4)

    def forward(self, x):
        scores = self.head(self.body(x))
        return scores.softmax(-1) if fault == "softmax" else scores

    def training_step(self, batch, place):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        if fault == "by hand":
            self.optimizers().zero_grad()
            self.manual_backward(loss)
            self.optimizers().step()
        return loss

    def validation_step(self, batch, place):
        self.log("loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        learned = self.head if fault == "missing" else self
        return torch.optim.Adam(learned.parameters(), lr=3.0 if fault == "rate" else 3e-3)


callbacks = []
if "callback" in sys.argv:
    from fieldguide.doctor.adapters.lightning import DoctorCallback
    callbacks = [DoctorCallback(probes=False)]
trainer = L.Trainer(
    max_epochs=5, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False, accumulate_grad_batches=2 if fault == "accumulation" else 1, callbacks=callbacks,
)
learning = DataLoader(TensorDataset(x[:1024], y[:1024]), 32, shuffle=True)
trainer.fit(Net(), learning, DataLoader(TensorDataset(x[1024:], y[1024:]), 64))
"""


@pytest.mark.parametrize(
    ("fault", "slug"),
    [
        ("none", None),
        ("by hand", None),
        ("accumulation", None),
        ("rate", "lr-too-high"),
        ("missing", "parameter-not-in-optimizer"),
        ("softmax", "double-softmax"),
    ],
)
def test_a_planted_fault_is_found_and_a_healthy_script_is_left_alone(fault, slug, script):
    consultation = run_script(str(script), [fault])
    diagnosis, history = consultation.diagnosis, consultation.doctor.examination.history
    assert consultation.code == 0
    assert diagnosis.causes[:1] == ([slug] if slug else []), diagnosis.findings
    assert [facts["type"] for facts in history.setup["optimizers"]] == ["Adam"]  # and not Lightning's around it
    assert {facts["gradient"] for facts in history.setup["tensors"].values()} == {"there"}
    assert history.setup["tests"]["connected"]["ok"] is True
    assert len(history.losses) == diagnosis.step == (80 if fault == "accumulation" else 160)


def test_the_callback_tells_what_it_finds(script, caplog, monkeypatch):
    monkeypatch.setattr("sys.argv", ["program.py", "missing", "callback"])
    with caplog.at_level(logging.WARNING, logger="fieldguide.doctor"):
        names = runpy.run_path(str(script))
    diagnosis = names["callbacks"][0].attendance.diagnosis
    assert diagnosis.causes[0] == "parameter-not-in-optimizer"
    assert diagnosis.step == 160
    assert "M08 parameter-not-in-optimizer (critical, step 0)" in caplog.text
