"""transformers' Trainer under observation: unmodified scripts, healthy and with a planted fault, and the callback."""

import logging
import runpy

import pytest

from fieldguide.doctor.scripts import run_script

pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")
transformers = pytest.importorskip("transformers")

SCRIPT = """
import sys
import torch
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed

fault, folder = sys.argv[1:3]
set_seed(0)
ids = torch.randint(5, 60, (768, 16), generator=torch.Generator().manual_seed(0))
labels = (ids[:, 0] < 32).long()
rows = [{"input_ids": a, "attention_mask": torch.ones(16, dtype=torch.long), "labels": b} for a, b in zip(ids, labels)]


class Bent(Trainer):
    def create_optimizer(self, *args):
        if fault != "missing":
            return super().create_optimizer(*args)
        self.optimizer = torch.optim.AdamW(self.model.classifier.parameters(), lr=1e-3)
        return self.optimizer

    def compute_loss(self, model, inputs, *args, **options):
        if fault != "softmax":
            return super().compute_loss(model, inputs, *args, **options)
        return F.cross_entropy(model(inputs["input_ids"]).logits.softmax(-1), inputs["labels"])


model = BertForSequenceClassification(BertConfig(
    vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=2,
    hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
))
arguments = TrainingArguments(
    folder, max_steps=120, per_device_train_batch_size=32, learning_rate=1.0 if fault == "rate" else 1e-3,
    gradient_accumulation_steps=2 if fault == "none" else 1, report_to=[], disable_tqdm=True, use_cpu=True,
    save_strategy="no", eval_strategy="steps" if fault == "none" else "no", eval_steps=60,
)
trainer = Bent(model, arguments, train_dataset=rows[:640], eval_dataset=rows[640:])
if "callback" in sys.argv:
    from fieldguide.doctor.adapters.transformers import DoctorCallback
    callback = DoctorCallback(probes=False)
    trainer.add_callback(callback)
trainer.train()
"""


@pytest.mark.parametrize(
    ("fault", "slug"),
    [
        ("none", None),
        ("rate", "lr-too-high"),
        ("missing", "parameter-not-in-optimizer"),
        ("softmax", "double-softmax"),
    ],
)
def test_a_planted_fault_is_found_and_a_healthy_script_is_left_alone(fault, slug, script, tmp_path):
    consultation = run_script(str(script), [fault, str(tmp_path)])
    diagnosis, setup = consultation.diagnosis, consultation.doctor.examination.history.setup
    assert consultation.code == 0
    assert diagnosis.causes[:1] == ([slug] if slug else []), diagnosis.findings
    assert [facts["type"] for facts in setup["optimizers"]] == ["AdamW"]  # and not accelerate's around it
    assert setup["inputs"]["shape"] == [32, 16]
    assert setup["loader"]["shuffle"] is True
    assert setup["tests"]["connected"]["ok"] is True
    if fault == "none":
        assert diagnosis.verdict == "healthy"
        assert consultation.doctor.examination.history.last["backwards"] == 2
        assert len(consultation.doctor.examination.history.evals) == 2


def test_the_callback_tells_what_it_finds(script, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("sys.argv", ["program.py", "missing", str(tmp_path), "callback"])
    with caplog.at_level(logging.WARNING, logger="fieldguide.doctor"):
        names = runpy.run_path(str(script))
    diagnosis = names["callback"].attendance.diagnosis
    assert diagnosis.causes[0] == "parameter-not-in-optimizer"
    assert diagnosis.step == 120
    assert "M08 parameter-not-in-optimizer (critical, step 0)" in caplog.text
