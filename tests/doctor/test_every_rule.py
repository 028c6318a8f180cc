"""Every rule: its page, its place in the list, its silence on healthy trainings, and its voice on sick ones."""

import re
from importlib import import_module
from pathlib import Path

import pytest
from tests.doctor.histories import SETUP, learning, stuck, training

from fieldguide.doctor import rules
from fieldguide.doctor.examination import Examination, examine
from fieldguide.doctor.rules import RULES
from fieldguide.trace import Record

NAN = float("nan")
FOLDER = Path(rules.__file__).parent
HEADINGS = ("What it looks for:", "Why it matters:", "Usual causes:", "Known false alarms:", "Fix:")
each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.slug)


def pages() -> dict[str, str]:
    files = sorted(FOLDER.glob("[a-z][0-9][0-9]_*.py"))
    return {path.stem: import_module(f"fieldguide.doctor.rules.{path.stem}").__doc__ or "" for path in files}


def test_all_68_symptoms_are_listed_in_the_order_of_their_codes():
    codes = [rule.code for rule in RULES]
    expected = [f"{letter}{n:02}" for letter, most in zip("DMLPOS", (18, 17, 6, 17, 3, 7), strict=True)
                for n in range(1, most + 1)]  # fmt: skip
    assert codes == expected
    assert len({rule.slug for rule in RULES}) == len(RULES) == len(pages())


@each_rule
def test_its_file_begins_with_its_page(rule):
    name = f"{rule.code.lower()}_{rule.slug.replace('-', '_')}"
    page = " ".join(pages()[name].split())
    assert page.startswith(f"{rule.code} {rule.slug}: ")
    places = [page.find(heading) for heading in HEADINGS]
    assert -1 not in places
    assert places == sorted(places)
    assert rule.fixes
    assert all(fix.title for fix in rule.fixes)
    assert rule.refute


def found(records: list[Record]) -> set[str]:
    """Slugs that were ever opened, explained or not."""
    examination = Examination()
    return {finding.slug for record in records for finding in examination.add(record)}


def test_nothing_is_said_of_nothing_or_of_healthy_trainings():
    assert examine([]).verdict == "healthy"
    for steps in (100, 200, 1000):
        diagnosis = examine(training(steps))
        assert diagnosis.verdict == "healthy", diagnosis.findings
        assert not diagnosis.causes


def bare(steps: int = 200) -> list[Record]:
    """The log of a trainer that knows only losses."""
    return [{"kind": "step", "step": n, "loss": learning(n)} for n in range(1, steps)]


def test_a_foreign_log_of_losses_alone_can_be_judged():
    assert examine(bare()).verdict == "healthy"
    rising = [{"kind": "sample", "step": n, "loss": 2.3 * 1.05**n} for n in range(1, 200)]
    assert examine(rising).verdict != "healthy"


def layered(**signs):
    """The layers of a sample with some figures changed in all of them."""
    own = {"type": "Linear", "weight": 0.1, "grad": 1e-3, "update": 3e-3, "input": 1.0, "output": 0.8, "dead": 0.05}
    return {"layers": {name: {**own, **signs} for name in ("0", "2", "4")}}


def failed(name: str, says: str = "it is not so", figure: float = 0.5):
    return {"tests": {name: {"ok": False, "figure": figure, "says": says}}}


def falling_then_rising(step: int) -> Record:
    best = 0.8 + 0.004 * max(0, step - 60)
    return {"loss": best if step > 60 else 2.3 - 0.025 * step, "accuracy": 0.6}


SICK: dict[str, list[Record]] = {
    "non-finite-data": training(loss=lambda n: NAN, setup={"inputs": {"non_finite": 3}}),
    "unscaled-input": training(loss=stuck, setup={"inputs": {"max": 1e4, "min": 0.0}}),
    "label-out-of-range": training(20, setup={"targets": {"max": 10.0, "dtype": "int64"}}),
    "double-normalised-input": training(loss=stuck, setup={"inputs": {"std": 1e-3, "min": 0.0, "max": 0.01}}),
    "unscaled-target": training(
        loss=lambda n: 1e6 + stuck(n),
        setup={"loss": {"name": "mse_loss", "baseline": 1e6}, "targets": {"mean": 900.0, "std": 1000.0}},
        sample={"baseline": 1e6},
    ),
    "label-scaled": training(
        20,
        setup={
            "loss": {"name": "binary_cross_entropy_with_logits"},
            "targets": {"distinct": 2, "min": 0.0, "max": 1 / 255},
        },
    ),
    "shuffled-labels": training(evals=lambda n: {"loss": 2.5, "accuracy": 0.1}),
    "class-imbalance": training(
        setup={"targets": {"classes": {"0": 1200, "1": 40}}},
        evals=lambda n: {"loss": 0.3, "accuracy": 0.9, "recalls": {"0": 1.0, "1": 0.0}},
    ),
    "train-val-leakage": [
        *training(),
        {"kind": "setup", "eval_inputs": {**SETUP["inputs"], "samples": 300, "duplicates": 0.5, "covered": 0.1}},
        {"kind": "end", "step": 200},
    ],
    "train-val-shift": [
        {"kind": "setup", "eval_inputs": {"shifted": 0.6, "samples": 300, "dtype": "float32"}},
        *training(evals=lambda n: {"loss": 2.0}),
    ],
    "constant-input": training(20, setup={"inputs": {"constant": 1280}}),
    "channel-layout": training(
        20,
        setup={
            "inputs": {"shape": [32, 64, 64, 3]},
            "tensors": {"0.weight": {"shape": [16, 64, 3, 3], "layer": "0", "trainable": True}},
            "layers": [{"name": "0", "type": "Conv2d"}],
        },
    ),
    "integer-input": training(
        1,
        setup={"inputs": {"dtype": "uint8"}},
        end={"error": "RuntimeError: expected scalar type Float but found Byte"},
    ),
    "over-strong-augmentation": training(loss=stuck, evals=lambda n: {"loss": 0.3}),
    "augmented-validation": [
        *training(),
        {"kind": "setup", "eval_inputs": {"changed": 1.0}},
        {"kind": "end", "step": 200},
    ],
    "dataset-too-small": training(
        400, setup={"loader": {"dataset_size": 40}}, loss=lambda n: 2.3 * 0.97**n, evals=falling_then_rising
    ),
    "head-size-mismatch": training(loss=stuck, setup={"loss": {"output_shape": [32, 1000]}}),
    "unshuffled-loader": training(
        loss=stuck, setup={"loader": {"shuffle": False, "order_z": 40.0, "batch_purity": 0.99}}
    ),
    "duplicated-worker-randomness": training(setup={"loader": {"workers": 2, "generators": ["Augment.generator"]}}),
    "double-softmax": training(setup={"loss": {"row_sum_one": True, "made_by": "Softmax"}}),
    "missing-output-activation": training(
        20, setup={"loss": {"name": "binary_cross_entropy", "output_min": -2.0, "output_max": 3.0}}
    ),
    "unreachable-output-range": training(
        setup={
            "loss": {"name": "mse_loss", "made_by": "Relu"},
            "targets": {"low": -2.0, "high": 2.0, "mean": 0.0, "std": 1.0},
        }
    ),
    "softmax-wrong-axis": training(setup={"loss": {"column_sum_one": True}}),
    "missing-nonlinearity": training(setup=failed("affine")),
    "disconnected-layer": training(setup=failed("connected")),
    "parameter-not-in-optimizer": training(
        setup={
            "tensors": {"2.weight": {"shape": [10, 64], "trainable": True, "in_optimizer": False, "gradient": "there"}}
        }
    ),
    "frozen-parameters": training(setup={"model": {"trainable": 500}, **failed("frozen_trained")}),
    "samples-mixed-in-batch": training(setup=failed("batch_independence")),
    "excessive-dropout": training(setup={"layers": [{"name": "3", "type": "Dropout", "p": 0.9}]}),
    "batchnorm-tiny-batch": training(
        loss=stuck, setup={"model": {"has_batch_norm": True}, "loader": {"batch_size": 2}}
    ),
    "train-eval-mismatch": training(
        setup={"model": {"has_dropout": True}}, evals=lambda n: {"loss": 0.5, "accuracy": 0.9, "training": True}
    ),
    "capacity-too-small": training(loss=stuck, probes={"one_batch": {"start": 2.3, "end": 2.2, "steps": 100}}),
    "recurrent-gradient-decay": training(loss=stuck, setup=failed("time_gradient", figure=1e-20)),
    "mask-leak": training(setup=failed("causal")),
    "attention-collapse": training(loss=stuck, sample=layered(similarity=0.999)),
    "loss-at-init": training(loss=lambda n: 40.0 + stuck(n)),
    "loss-wrong-sign": training(loss=lambda n: -learning(n), setup={"loss": {"value": -2.3}}),
    "sum-reduction": training(loss=stuck, setup=failed("loss_scale", figure=2.0)),
    "loss-task-mismatch": training(loss=stuck, setup={"loss": {"name": "mse_loss"}}),
    "broadcast-loss": training(
        setup={"loss": {"name": "mse_loss", "output_shape": [32, 1], "target_shape": [32], "made_by": "Addmm"}}
    ),
    "detached-loss": training(setup={"loss": {"detached": True}}),
    "lr-too-high": training(loss=lambda n: 2.3 + 0.1 * n, sample={"update_ratio": 0.2}),
    "lr-too-low": training(loss=stuck, sample={"update_ratio": 1e-7}),
    "missing-zero-grad": training(sample={"stale_gradient": True}),
    "missing-step": training(loss=stuck, sample={"unchanged": True}),
    "scheduler-collapse": training(sample=lambda n: {"lr": 1e-3 if n < 20 else 1e-7}),
    "exploding-gradient": training(
        loss=lambda n: stuck(n) if n < 100 else 30.0, sample=lambda n: {"grad_norm": 500.0 if n % 30 == 0 else 0.5}
    ),
    "vanishing-gradient": training(
        loss=stuck,
        sample={"layers": {str(i): {"type": "Linear", "weight": 0.1, "grad": 10.0 ** (i - 9)} for i in range(0, 8, 2)}},
    ),
    "non-finite-loss": training(loss=lambda n: learning(n) if n < 50 else NAN),
    "amp-overflow": training(sample=lambda n: {"skipped": n // 5, "scale": 1.0}),
    "excessive-weight-decay": training(
        loss=stuck, sample=lambda n: {"decay_ratio": 5.0, "weight_norm": 5.0 / (1 + 0.1 * n)}
    ),
    "excessive-clipping": training(loss=stuck, sample={"clipped": 1.0, "clip_norm": 2.0, "clip_limit": 1e-3}),
    "symmetric-init": training(
        setup={
            "tensors": {
                name: {"shape": [64, 16], "trainable": True, "equal_rows": True} for name in ("0.weight", "2.weight")
            }
        }
    ),
    "init-scale": training(
        setup={
            "tensors": {
                "0.weight": {"shape": [64, 16], "layer": "0", "std": 9.0},
                "2.weight": {"shape": [10, 64], "layer": "2", "std": 9.0},
            }
        }
    ),
    "dead-relu": training(loss=stuck, sample=layered(dead=0.9)),
    "saturation": training(loss=stuck, sample=layered(saturated=0.9)),
    "optimizer-constants": training(
        setup={"optimizers": [{"type": "Adam", "lr": 1e-3, "eps": 0.1, "betas": [0.9, 0.999]}]}
    ),
    "stopped-too-early": training(60, loss=lambda n: 2.3 - 0.01 * n),
    "overfitting": training(400, evals=falling_then_rising, loss=lambda n: 2.3 * 0.97**n),
    "underfitting": training(loss=lambda n: 1.6 + 0.7 * 0.9**n, evals=lambda n: {"loss": 1.62}),
    "val-better-than-train": training(evals=lambda n: {"loss": 0.05}),
    "loader-bound": training(sample={"data_wait": 0.8, "seconds": 0.05}),
    "sync-bound": training(sample={"sync_wait": 0.3}),
    "low-occupancy": training(setup=failed("larger_batch"), sample={"memory_share": 0.2}),
    "memory-growth": training(sample=lambda n: {"memory": 500.0 + 2.0 * n}),
    "near-out-of-memory": training(sample={"memory_share": 0.97}),
    "irreproducible": training(setup=failed("repeatable", figure=1e-7)),
    "recompile-loop": training(sample=lambda n: {"recompiles": n // 4}),
}


def test_every_symptom_has_a_sick_training():
    assert set(SICK) == {rule.slug for rule in RULES}


@pytest.mark.parametrize("slug", SICK)
def test_a_sick_training_is_named(slug):
    assert slug in found(SICK[slug])


@pytest.mark.parametrize("slug", [slug for slug in SICK if slug not in {"batchnorm-tiny-batch", "frozen-parameters"}])
def test_a_healthy_training_is_not(slug):
    assert slug not in found(training(400))
    assert slug not in found(bare())


TWO = {"model": {"models": 2}}
OTHERWISE: dict[str, list[Record]] = {
    "double-softmax": training(setup={"loss": {"name": "binary_cross_entropy_with_logits", "made_by": "Sigmoid"}}),
    "unscaled-input": training(setup={**TWO, "inputs": {"max": 1e3}}),
    "lr-too-low": training(400, setup=TWO, sample={"update_ratio": 1e-6}),
    "excessive-weight-decay": training(
        setup=TWO, sample=lambda n: {"decay_ratio": 5.0, "weight_norm": 5.0 / (1 + 0.1 * n)}
    ),
    "stopped-too-early": training(60, loss=stuck),
    "dataset-too-small": training(
        400,
        setup={"loader": {"dataset_size": 40}},
        loss=lambda n: 2.3 * 0.97**n,
        evals=lambda n: {"loss": max(0.7, 2.3 * 0.97**n)},
    ),
    "shuffled-labels": training(
        loss=stuck, probes={"label_permutation": {"start": 2.3, "real": 0.7, "permuted": 0.75}}
    ),
    "underfitting": training(loss=lambda n: 2.0 - 5e-4 * n, evals=lambda n: {"loss": 2.1 - 5e-4 * n}),
}


@pytest.mark.parametrize("slug", OTHERWISE)
def test_a_second_sign_of_a_symptom_is_named(slug):
    assert slug in found(OTHERWISE[slug])


NORMED = {"has_batch_norm": True, "batch_statistics": True}
LOOKS_SICK: dict[str, list[Record]] = {
    "non-finite-loss": [
        {**record, "loss": NAN, "left_out": True}
        if record["kind"] == "step" and record["step"] in {90, 200}
        else record
        for record in training()
    ],
    "softmax-wrong-axis": training(setup={"loss": {"column_sum_one": True, "row_sum_one": True, "name": "mse_loss"}}),
    "batchnorm-tiny-batch": training(
        setup={"model": NORMED, "loader": {"batch_size": 2}, "inputs": {"shape": [2, 3, 512, 512]}}
    ),
    "batchnorm-tiny-batch, frozen": training(
        setup={"model": {**NORMED, "batch_statistics": False}, "loader": {"batch_size": 1}}
    ),
}


@pytest.mark.parametrize("slug", LOOKS_SICK)
def test_what_only_looks_like_a_symptom_is_no_alarm(slug):
    assert slug.split(",")[0] not in found(LOOKS_SICK[slug])


def test_batch_normalisation_over_two_small_samples_is_named_in_any_run():
    assert "batchnorm-tiny-batch" in found(training(setup={"model": NORMED, "loader": {"batch_size": 2}}))
    assert "batchnorm-tiny-batch" not in found(training(setup={"model": NORMED, "loader": {"batch_size": 4}}))


def test_a_trial_that_ends_before_it_has_seen_its_data_is_advised_and_no_more():
    trial = training(20, loss=lambda n: 2.3 - 0.03 * n)  # 640 of 1,200 samples
    assert [(f.slug, f.severity) for f in examine(trial).findings] == [("stopped-too-early", "info")]
    assert examine(trial).verdict == "healthy"
    whole = training(20, loss=lambda n: 2.3 - 0.03 * n, setup={"loader": {"dataset_size": 600}})
    assert examine(whole).causes[0] == "stopped-too-early"


def test_what_two_networks_lose_against_each_other_is_no_sign():
    assert examine(training(400, loss=stuck, setup=TWO)).verdict == "healthy"


def test_a_run_whose_validation_never_beat_a_constant_answer_is_ill_at_its_end():
    records = training(400, loss=lambda n: 1.9 + 0.4 * 0.9**n, evals=lambda n: {"loss": 2.31})
    assert examine(records[:-1]).verdict == "healthy"
    assert examine(records).verdict == "warning"
    assert "no better than a constant answer" in examine(records).findings[0].evidence


def test_gated_rules_are_silent_on_a_run_that_learns():
    for slug, rule in ((rule.slug, rule) for rule in RULES if rule.gated):
        records = [dict(record) for record in SICK.get(slug, [])]
        for record in records:
            if "loss" in record and record["kind"] in {"step", "sample"}:
                record["loss"] = learning(record["step"])
        assert slug not in found(records), rule.code


def test_messages_are_one_line():
    for records in SICK.values():
        for finding in examine(records).findings:
            assert "\n" not in finding.evidence
            assert len(finding.evidence) < 300
            assert not re.search(r"\bNone\b", finding.evidence)
