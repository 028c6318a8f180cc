"""What a training feeds, in numbers: against PyTorch's own, and on loaders that are well and ill."""

import itertools
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from fieldguide.doctor.preflight.batches import Evaluations, Feed, Order, Rows, row_hashes, runs_z, worker_generators


def fed(*batches: torch.Tensor, labels: bool = False) -> Feed:
    feed = Feed(labels=labels)
    for batch in batches:
        feed.add(batch)
    return feed


def test_moments_are_those_of_everything_that_was_fed():
    batches = [3 + 2 * torch.randn(16, 5, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    facts, whole = fed(*batches).facts(), torch.cat(batches)
    assert (facts["samples"], facts["shape"], facts["dtype"]) == (64, [16, 5], "float32")
    assert facts["mean"] == pytest.approx(whole.mean().item(), rel=1e-5)
    assert facts["std"] == pytest.approx(whole.std(correction=0).item(), rel=1e-5)
    assert (facts["min"], facts["max"]) == (whole.min().item(), whole.max().item())
    assert not facts["whole"]
    assert facts["constant"] == facts["non_finite"] == 0


def test_one_nan_in_a_large_batch_is_counted_and_spoils_no_moment():
    x = torch.randn(64, 3, 64, 64)
    x[7, 1, 5, 9] = math.nan
    facts = fed(x).facts()
    assert facts["non_finite"] == 1
    assert abs(facts["mean"]) < 0.05
    assert facts["std"] == pytest.approx(1, abs=0.05)


def test_samples_without_variation_are_counted():
    x = torch.randn(10, 12)
    x[:4] = 0.5
    assert fed(x, torch.arange(6.0)).facts()["constant"] == 4, "one number for a sample is no constant sample"


def test_features_of_different_units_are_told():
    assert fed(torch.randn(200, 20) * torch.logspace(0, 4, 20)).facts()["feature_std_ratio"] > 1e3
    assert fed(F.one_hot(torch.randint(10, (500,)), 10).float()).facts()["feature_std_ratio"] < 2


def test_classes_are_counted_and_what_is_ignored_is_not():
    feed = fed(torch.tensor([0, 1, 1, 2, -100]), labels=True)
    feed.add(torch.tensor([2, 2, 255]), 255)
    facts = feed.facts()
    assert facts["classes"] == {"0": 1, "1": 2, "2": 3}
    assert (facts["distinct"], facts["min"], facts["max"]) == (3, 0, 2)


def test_many_different_targets_are_no_classes():
    facts = fed(torch.randn(5000), torch.randn(5000), labels=True).facts()
    assert "classes" not in facts
    assert facts["distinct"] == 1000


def test_one_extreme_target_moves_no_quantile():
    batches = list(torch.rand(20, 64))
    batches[3][0] = -50.0
    facts = fed(*batches, labels=True).facts()
    assert facts["min"] == -50
    assert 0 <= facts["low"] < 0.03
    assert 0.97 < facts["high"] <= 1


def test_a_shift_between_parts_is_seen_and_chance_is_none():
    moved = (torch.arange(10) < 5).float()
    train, same, other = (fed(*(torch.randn(4, 64, 10) + shift)) for shift in (0.0, 0.0, moved))
    assert same.facts(train)["shifted"] == 0
    assert other.facts(train)["shifted"] == 0.5


def test_equal_samples_have_equal_hashes_and_others_do_not():
    for x in (torch.randn(2000, 20), torch.randint(5, (500, 40)), torch.rand(100, 3, 32, 32).half(), torch.eye(64)):
        hashes = row_hashes(x)
        assert len(set(hashes)) == len(x)
        assert row_hashes(x.clone().flip(0)) == hashes[::-1]
    assert len(set(row_hashes(torch.stack([torch.arange(8), torch.arange(8).flip(0)])))) == 2, "order counts"


def evaluated(train: torch.Tensor, *passes: tuple[torch.Tensor, torch.Tensor]) -> Any:
    rows = Rows()
    rows.add(train)
    evaluations = Evaluations(rows)
    for x, y in passes:
        for part, labels in zip(x.split(32), y.split(32), strict=True):
            evaluations.add(part, labels)
        evaluations.end()
    return evaluations.facts()


def test_validation_samples_in_the_training_part_are_counted():
    train, val, y = torch.randn(300, 8), torch.randn(100, 8), torch.randint(3, (100,))
    assert evaluated(train, (val, y))["duplicates"] == 0
    leaked = evaluated(train, (torch.cat([val[:80], train[:20]]), y))
    assert leaked["duplicates"] == pytest.approx(0.2)
    assert leaked["covered"] == pytest.approx(20 / 300)
    labels = torch.randint(3, (300,))
    assert evaluated(train, (train, labels))["covered"] == 1, "an evaluation of the training part is known as one"
    assert evaluated(train, (train, labels), (val, y))["duplicates"] == 0, "and another pass is the validation"


def test_validation_that_changes_from_pass_to_pass_is_seen():
    x, y, order = torch.randn(100, 8), torch.randint(3, (100,)), torch.randperm(100)
    other = torch.randn(100, 8), torch.randint(3, (100,))
    assert evaluated(x, (x, y), (x, y))["changed"] == 0
    assert evaluated(x, (x, y), (x + 0.1 * torch.randn(100, 8), y))["changed"] == 1
    assert "changed" not in evaluated(x, (x, y), other), "random batches have other targets too"
    assert evaluated(x, (x, y), (x[order], y[order])).get("changed", 0) == 0


def test_repeats_of_the_data_themselves_are_known():
    rows, few = Rows(), torch.randint(2, (1000, 4)).float()
    rows.add(few[:500])
    rows.add(few[500:])
    assert rows.repeats > 0.9


def test_the_runs_test_of_two_classes_is_walds():
    draw = random.Random(1)
    labels = [int(draw.random() < 0.4) for _ in range(400)]
    a, b = sum(labels), len(labels) - sum(labels)
    runs = 1 + sum(x != y for x, y in itertools.pairwise(labels))
    mean = 1 + 2 * a * b / (a + b)
    variance = (mean - 1) * (mean - 2) / (a + b - 1)
    assert runs_z(labels) == pytest.approx((mean - runs) / math.sqrt(variance))


def test_random_order_of_many_classes_is_standard_normal():
    values = [runs_z(torch.randint(7, (300,), generator=torch.Generator().manual_seed(s)).tolist()) for s in range(300)]
    assert stats.kstest(values, "norm").pvalue > 1e-3


def ordered(labels: torch.Tensor) -> Any:
    order = Order()
    for batch in labels.split(32):
        order.add(batch)
    return order.facts()


def test_labels_sorted_by_class_are_told_from_shuffled_and_balanced_ones():
    labels = torch.arange(10).repeat_interleave(100)
    assert ordered(labels)["order_z"] > 20
    assert ordered(labels)["batch_purity"] > 0.8
    shuffled = ordered(labels[torch.randperm(1000)])
    assert abs(shuffled["order_z"]) < 5
    assert shuffled["batch_purity"] < 0.4
    several_of_each = torch.stack([torch.randperm(10)[:8].repeat_interleave(4) for _ in range(30)]).flatten()
    assert ordered(several_of_each)["batch_purity"] < 0.4
    assert ordered(torch.randn(1000)) == {}
    assert ordered(torch.randint(5, (320, 7))) == {}


class Held(Dataset):
    """Reads its generator for every sample."""

    def __init__(self, generator: Any):
        self.generator = generator

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> float:
        return index + float(self.generator.random())


class Split(Held):
    """Draws when it is made, and never again."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(0)
        self.order = self.generator.permutation(16)

    def __getitem__(self, index: int) -> float:
        return float(self.order[index])


class Mapped(Held):
    def __init__(self, change: Any):
        self.change = change

    def __getitem__(self, index: int) -> Any:
        return self.change(index)


def drawing() -> Any:
    generator = np.random.default_rng(0)
    return lambda index: index + generator.random()


def found(dataset: Dataset, **options: Any) -> list[str]:
    return worker_generators(DataLoader(dataset, **{"num_workers": 2, **options}))


def test_generators_that_workers_would_share_are_found_without_reading_a_sample():
    for generator in (np.random.default_rng(0), np.random.RandomState(0), random.Random(0)):
        assert found(Held(generator)) == ["Held.generator"]
    assert found(Mapped(drawing())) == ["Mapped.change.generator"]
    assert found(Mapped([0, drawing()])) == ["Mapped.change[1].generator"]


def test_generators_that_do_no_harm_are_not_named():
    held = Held(np.random.default_rng(0))
    assert not found(held, num_workers=0)
    assert not found(held, worker_init_fn=lambda number: None)
    assert not found(Mapped(lambda index: torch.rand(2)))


def test_a_worker_init_fn_that_seeds_every_worker_alike_is_named():
    held, same = Held(np.random.default_rng(0)), ["the seed that worker_init_fn sets"]
    assert found(held, worker_init_fn=lambda number: np.random.seed(42)) == same
    assert found(held, worker_init_fn=lambda number: torch.manual_seed(0)) == same
    assert not found(held, worker_init_fn=lambda number: np.random.seed(42 + number))
    assert not found(held, worker_init_fn=lambda number: np.random.seed(torch.initial_seed() % 2**32))
    assert not found(held, worker_init_fn=lambda number: [np.random.seed(n) for n in [number]])
    assert not found(held, worker_init_fn=lambda number: torch.set_num_threads(1))
    assert not found(held, worker_init_fn=print)


def test_a_generator_that_only_split_the_data_is_not_named():
    assert not found(Split())
