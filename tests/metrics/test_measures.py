import multiprocessing
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from torch import distributed, nn

from fieldguide.errors import FieldguideError
from fieldguide.metrics import ClassificationMetrics, Measures, RegressionMetrics, per_class
from fieldguide.metrics.measures import MEASURES

NAMES = (*MEASURES, "top2_accuracy")


def draw(seed, classes, n, kinds):
    """Scores with ties, and labels of only some classes."""
    rng = np.random.default_rng(seed)
    logits = np.round(rng.normal(size=(n, classes)) * 2) / 2
    return torch.tensor(logits), torch.tensor(rng.choice(rng.permutation(classes)[:kinds], n))


def measured(logits, labels, names=NAMES, sizes=None):
    measures = Measures(names, logits.shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for part in zip(*(tensor.split(sizes or len(labels)) for tensor in (logits, labels)), strict=True):
            measures.update(nn.Identity(), part)
        return measures.compute()


def by_scikit_learn(logits, labels):
    """Each figure from its definition there; the mean over the classes that it is defined for."""
    chances, labels = logits.softmax(1).numpy(), labels.numpy()
    predicted, classes = chances.argmax(1), range(chances.shape[1])
    precision, recall, f1, _ = sk.precision_recall_fscore_support(labels, predicted, average="macro", zero_division=0)
    count = np.bincount(labels, minlength=len(classes))
    split = [c for c in classes if 0 < count[c] < len(labels)]
    there = [c for c in classes if count[c]]
    return {
        "accuracy": sk.accuracy_score(labels, predicted),
        "balanced_accuracy": np.mean([(predicted == c)[labels == c].mean() for c in there]),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "roc_auc": np.mean([sk.roc_auc_score(labels == c, chances[:, c]) for c in split]) if split else np.nan,
        "average_precision": np.mean([sk.average_precision_score(labels == c, chances[:, c]) for c in there]),
    }


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 60), st.integers(1, 6))
def test_equals_scikit_learn_with_ties_and_absent_classes(seed, classes, n, kinds):
    logits, labels = draw(seed, classes, n, min(kinds, classes))
    ours = measured(logits, labels)
    for name, expected in by_scikit_learn(logits, labels).items():
        assert ours[name] == pytest.approx(expected, abs=1e-6, nan_ok=True), name


def test_batches_of_any_size_give_the_figures_of_the_whole():
    logits, labels = draw(1, 4, 50, 4)
    assert measured(logits, labels, sizes=7) == pytest.approx(measured(logits, labels))


def test_top_k_of_real_predictions():
    x, y = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=500).fit(x[::3], y[::3])
    logits, labels = torch.tensor(model.decision_function(x)), torch.tensor(y)
    figures = measured(logits, labels, ["top1_accuracy", "top2_accuracy", "top3_accuracy", "roc_auc"])
    assert figures["top1_accuracy"] == pytest.approx(model.score(x, y))
    assert figures["top2_accuracy"] == pytest.approx(sk.top_k_accuracy_score(y, logits.numpy(), k=2))
    assert figures["top3_accuracy"] == 1
    theirs = sk.roc_auc_score(y, logits.softmax(1).numpy(), multi_class="ovr")
    assert figures["roc_auc"] == pytest.approx(theirs)


def test_agrees_with_the_metrics_of_the_training_loop():
    logits, labels = draw(2, 5, 80, 5)
    loop, measures = ClassificationMetrics(), Measures(("accuracy", "precision", "recall", "f1"), 5)
    loop.add(logits, labels)
    measures.add(logits, labels)
    assert torch.equal(loop.confusion, measures.confusion)
    assert loop.compute()["accuracy"] == pytest.approx(measures.compute()["accuracy"])
    for name, values in measures.per_class().items():
        torch.testing.assert_close(values, per_class(loop.confusion)[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(4, 3), torch.zeros(4, 1, dtype=torch.long), r"must be \(b, 3\) and \(b,\)"),
        (torch.zeros(4, 2), torch.zeros(4, dtype=torch.long), r"must be \(b, 3\)"),
        (torch.zeros(4, 3), torch.zeros(4), "whole class numbers"),
        (torch.zeros(4, 3, dtype=torch.long), torch.zeros(4, dtype=torch.long), "give logits"),
        (torch.zeros(4, 3), torch.full((4,), 3), r"outside 0 … 2"),
        (torch.zeros(4, 3), torch.full((4,), -1), r"outside 0 … 2"),
    ],
)
def test_what_does_not_fit_is_refused(logits, labels, message):
    with pytest.raises(FieldguideError, match=message):
        Measures(["accuracy"], 3).add(logits, labels)


def test_names_are_checked():
    with pytest.raises(FieldguideError, match="unknown metric 'roc_acu'; did you mean 'roc_auc'"):
        Measures(["roc_acu"], 3)
    with pytest.raises(FieldguideError, match="top5_accuracy needs at least 5 classes, and there are 3"):
        Measures(["top5_accuracy"], 3)
    with pytest.raises(FieldguideError, match="nothing to evaluate"):
        Measures(["accuracy"], 3).compute()


def _one_of_two(rank, file, answers):
    warnings.simplefilter("ignore")
    distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    logits, labels = draw(3, 3, 31, 3)
    mine = slice(0, 12) if rank == 0 else slice(12, 31)
    measures, numbers = Measures(NAMES, 3), RegressionMetrics(lambda model, batch: batch)
    measures.add(logits[mine], labels[mine])
    numbers.add(logits[mine, 0], 100 + logits[mine, 1])
    answers.put([*measures.compute().values(), *numbers.compute().values()])
    distributed.destroy_process_group()


def test_two_processes_say_what_one_says(tmp_path: Path):
    context = multiprocessing.get_context("fork")  # nothing is imported anew
    answers = context.Queue()
    both = [context.Process(target=_one_of_two, args=(rank, tmp_path / "meet", answers)) for rank in range(2)]
    for process in both:
        process.start()
    one, other = (answers.get(timeout=120) for _ in both)
    for process in both:
        process.join()
    logits, labels = draw(3, 3, 31, 3)
    wanted, found = (100 + logits[:, 1]).numpy(), logits[:, 0].numpy()
    error = sk.mean_squared_error(wanted, found)
    numbers = [error, error**0.5, sk.mean_absolute_error(wanted, found), sk.r2_score(wanted, found)]
    assert one == pytest.approx([*measured(logits, labels).values(), *numbers], rel=1e-6)
    assert one == other
