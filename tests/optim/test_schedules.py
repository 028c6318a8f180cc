import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fieldguide.errors import FieldguideError
from fieldguide.optim import build_optimizer, build_schedule, constant, cosine, linear, set_rate

lengths = st.integers(1, 10_000).flatmap(lambda steps: st.tuples(st.just(steps), st.integers(0, steps)))


@given(lengths, st.floats(0, 1))
def test_cosine_is_its_formula(length, final):
    steps, warmup = length
    for step in {0, warmup, (warmup + steps) // 2, steps - 1} - {steps}:
        if step < warmup:
            expected = (step + 1) / warmup
        else:
            expected = final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
        assert cosine(step, steps, warmup, final) == pytest.approx(expected, abs=1e-12)


def test_cosine_equals_torch_over_ten_thousand_steps():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10_000)
    for step in range(10_000):
        assert cosine(step, 10_000) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        theirs.step()


@given(lengths, st.floats(0, 1), st.sampled_from([cosine, linear]))
def test_rises_only_in_the_warmup_and_never_after_the_end(length, final, schedule):
    steps, warmup = length
    rates = [schedule(step, steps, warmup, final) for step in range(0, 2 * steps + 10, max(1, steps // 50))]
    after = [schedule(step, steps, warmup, final) for step in range(warmup, 2 * steps + 10, max(1, steps // 50))]
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(after))
    assert all(0 <= rate <= 1 + 1e-12 for rate in rates)
    if warmup < steps:
        assert schedule(steps, steps, warmup, final) == pytest.approx(final)
        assert schedule(3 * steps + 7, steps, warmup, final) == pytest.approx(final)


@given(lengths)
def test_the_first_step_already_uses_the_warmed_rate(length):
    steps, warmup = length
    for schedule in (cosine, linear, constant):
        assert schedule(0, steps, warmup) == pytest.approx(1 / warmup if warmup else 1.0)


def test_warmup_as_long_as_training():
    assert [cosine(step, 4, 4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_linear_and_constant():
    assert [linear(step, 10, 0, 0.5) for step in (0, 5, 10)] == [1.0, 0.75, 0.5]
    assert constant(999, 10) == 1.0


def test_unknown_schedule_suggests():
    with pytest.raises(FieldguideError, match="did you mean 'cosine'"):
        build_schedule("cosin", 10)


def test_every_group_keeps_its_own_base_rate():
    model = torch.nn.Linear(3, 2)
    optimizer = build_optimizer(model, lr=0.1)
    optimizer.param_groups[1]["base_lr"] = 0.01
    schedule = build_schedule("cosine", 100, warmup=0.1)
    set_rate(optimizer, schedule(0))
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.001])
    set_rate(optimizer, schedule(55))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(10 * optimizer.param_groups[1]["lr"])
