"""Every schedule against torch's scheduler or its formula, alone and combined, and what holds for all of them."""

import math
import warnings
from dataclasses import replace
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import get_args, get_type_hints

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from fieldguide.errors import FieldguideError
from fieldguide.optim import build_optimizer
from fieldguide.optim.schedules import (
    Plan,
    Plateau,
    build_plan,
    build_schedule,
    constant,
    cosine,
    exponential,
    half_cosine,
    inverse_sqrt,
    joined,
    linear,
    one_cycle,
    polynomial,
    restarts,
    stable,
    stairs,
    straight,
    three_phase,
    through,
    transformer_rate,
    warmed,
)
from fieldguide.train.recipe import ScheduleRecipe

LONG = 10_000
NAMES = get_args(get_type_hints(ScheduleRecipe)["name"])
shares = st.floats(0, 1)
lengths = st.integers(1, LONG).flatmap(lambda steps: st.tuples(st.just(steps), st.integers(0, steps)))
recipes = st.builds(
    dict,
    warmup=st.floats(0, 0.5),
    final=st.floats(1e-6, 1),
    power=st.floats(0.1, 5),
    milestones=st.lists(st.floats(0.55, 0.99), min_size=1, max_size=4).map(tuple),
    gamma=st.floats(0.01, 0.99),
    cooldown=st.floats(0, 0.5),
    cycles=st.integers(1, 6),
    growth=st.floats(1, 3),
    rise=st.floats(0.01, 0.5),
    start=st.floats(1e-3, 1),
)


def torchs(scheduler, steps, rate=1.0, **options):
    """Rate and momentum of torch's scheduler at each step; its closed form where it has one."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate, momentum=0.9)
    schedule, rates = scheduler(optimizer, **options), []
    closed = getattr(schedule, "_get_closed_form_lr", lambda: [optimizer.param_groups[0]["lr"]])
    for _ in range(steps):
        rates.append((closed()[0], optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        schedule.step()
    return rates


def assert_equal_over(steps, ours, theirs):
    """Everywhere on a short way; on a long one at every 97th step and around every thousandth, where curves turn."""
    probed = [step for step in range(steps) if steps <= 500 or step % 97 == 0 or (step + 2) % 500 < 4]
    assert [ours(step) for step in probed] == pytest.approx([theirs[step] for step in probed], rel=1e-12, abs=1e-14)


# -------------------------------------------------------------------------------------- torch, over ten thousand steps


@pytest.mark.parametrize(
    ("ours", "scheduler", "options"),
    [
        (partial(cosine, steps=LONG), lr_scheduler.CosineAnnealingLR, {"T_max": LONG}),
        (partial(cosine, steps=LONG, final=0.1), lr_scheduler.CosineAnnealingLR, {"T_max": LONG, "eta_min": 0.1}),
        (
            partial(linear, steps=9000, final=0.2), lr_scheduler.LinearLR,
            {"start_factor": 1.0, "end_factor": 0.2, "total_iters": 9000},
        ),
        (partial(polynomial, steps=LONG, power=0.9), lr_scheduler.PolynomialLR, {"total_iters": LONG, "power": 0.9}),
        (partial(polynomial, steps=8000, power=2.0), lr_scheduler.PolynomialLR, {"total_iters": 8000, "power": 2.0}),
        (
            partial(stairs, milestones=[3000, 6000, 9000], gamma=0.2), lr_scheduler.MultiStepLR,
            {"milestones": [3000, 6000, 9000], "gamma": 0.2},
        ),
        (partial(exponential, steps=LONG, final=0.01), lr_scheduler.ExponentialLR, {"gamma": 0.01 ** (1 / LONG)}),
        (partial(one_cycle, steps=LONG, final=4e-6), lr_scheduler.OneCycleLR, {"total_steps": LONG}),
        (
            partial(one_cycle, steps=LONG, rise=0.45, start=0.1, final=1e-3, bend=straight), lr_scheduler.OneCycleLR,
            {"total_steps": LONG, "pct_start": 0.45, "div_factor": 10, "final_div_factor": 100,
             "anneal_strategy": "linear"},
        ),
        (
            partial(three_phase, steps=LONG, final=4e-6), lr_scheduler.OneCycleLR,
            {"total_steps": LONG, "three_phase": True},
        ),
        (
            partial(three_phase, steps=LONG, rise=0.4, final=4e-6, bend=straight), lr_scheduler.OneCycleLR,
            {"total_steps": LONG, "pct_start": 0.4, "three_phase": True, "anneal_strategy": "linear"},
        ),
        (
            partial(restarts, cycles=[1000, 2000, 4000, 8000], final=0.05), lr_scheduler.CosineAnnealingWarmRestarts,
            {"T_0": 1000, "T_mult": 2, "eta_min": 0.05},
        ),
        (
            partial(warmed, schedule=constant, warmup=500), lr_scheduler.LinearLR,
            {"start_factor": 1 / 500, "total_iters": 499},
        ),
    ],
)  # fmt: skip
def test_equals_torch_over_ten_thousand_steps(ours, scheduler, options):
    if scheduler is lr_scheduler.OneCycleLR:
        options = {"max_lr": 1.0, **options}
    assert_equal_over(LONG, ours, [rate for rate, _ in torchs(scheduler, LONG, **options)])


@settings(max_examples=12)
@given(st.integers(1, 80), shares, st.floats(0.02, 0.98), st.floats(0.1, 3), st.sampled_from([True, False]))
def test_equals_torch_at_any_length(steps, final, share, power, curved):
    """The lengths and numbers that hypothesis finds, with a few steps beyond the end where torch goes on."""
    cosines = [rate for rate, _ in torchs(lr_scheduler.CosineAnnealingLR, steps, T_max=steps, eta_min=final)]
    assert_equal_over(steps, partial(cosine, steps=steps, final=final), cosines)
    powers = [rate for rate, _ in torchs(lr_scheduler.PolynomialLR, steps + 9, total_iters=steps, power=power)]
    assert_equal_over(steps + 9, partial(polynomial, steps=steps, power=power), powers)
    if steps * share > 1.001:  # a rise of no steps makes torch divide by zero
        options = {"max_lr": 1.0, "total_steps": steps, "pct_start": share, "div_factor": 1 / max(final, 0.01)}
        bend, name = (half_cosine, "cos") if curved else (straight, "linear")
        cycle = [rate for rate, _ in torchs(lr_scheduler.OneCycleLR, steps, **options, anneal_strategy=name)]
        start = max(final, 0.01)
        assert_equal_over(
            steps, partial(one_cycle, steps=steps, rise=share, start=start, final=start / 1e4, bend=bend), cycle
        )


@settings(max_examples=12)
@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 4), shares)
def test_restarts_equal_torch_at_any_length(first, growth, cycles, final):
    each = [first * growth**cycle for cycle in range(cycles)]
    steps = min(100, sum(each))
    options = {"T_0": first, "T_mult": growth, "eta_min": final}
    theirs = [rate for rate, _ in torchs(lr_scheduler.CosineAnnealingWarmRestarts, steps, **options)]
    assert_equal_over(steps, partial(restarts, cycles=each, final=final), theirs)
    recipe = ScheduleRecipe(name="restarts", warmup=0.0, cycles=cycles, growth=float(growth), final=final)
    assert_equal_over(steps, build_schedule(recipe, sum(each)), theirs)


@pytest.mark.parametrize("name", ["one_cycle", "three_phase"])
def test_the_momentum_of_one_cycle_is_torchs(name):
    plan = build_plan(ScheduleRecipe(name=name, final=4e-6), LONG)
    theirs = torchs(lr_scheduler.OneCycleLR, LONG, max_lr=1.0, total_steps=LONG, three_phase=name == "three_phase")
    assert_equal_over(LONG, lambda step: plan.at(step).momentum, [momentum for _, momentum in theirs])
    assert_equal_over(LONG, lambda step: plan.at(step).rate, [rate for rate, _ in theirs])


@settings(max_examples=20)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(1, 6), st.floats(0.05, 0.9), st.floats(0, 0.3))
def test_plateau_equals_torchs(losses, patience, gamma, final):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    # Torch waits for one epoch more than its patience, and by default ignores gains below 0.01 %.
    theirs = lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=gamma, patience=patience - 1, threshold=0.0, min_lr=final, eps=0.0
    )
    ours, best = Plateau(patience, gamma, final), math.inf
    for loss in losses:
        ours.epoch_done(loss < best)
        best = min(best, loss)
        theirs.step(loss)
        assert ours.factor == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


# -------------------------------------------------------------------------------------------------------- the formulas


@settings(max_examples=40)
@given(lengths, shares)
def test_warmed_cosine_is_its_formula(length, final):
    steps, warmup = length
    schedule = partial(warmed, schedule=partial(cosine, steps=steps - warmup, final=final), warmup=warmup)
    for step in {0, warmup, (warmup + steps) // 2, steps - 1} - {steps}:
        if step < warmup:
            expected = (step + 1) / warmup
        else:
            expected = final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
        assert schedule(step) == pytest.approx(expected, rel=1e-12, abs=1e-15)


@settings(max_examples=40)
@given(st.integers(1, 1024), st.integers(1, 8000))
def test_inverse_sqrt_is_the_papers_formula(d_model, warmup):
    base = transformer_rate(d_model, warmup)
    for number in {1, warmup, warmup + 1, 2 * warmup, LONG}:
        papers = d_model**-0.5 * min(number**-0.5, number * warmup**-1.5)
        assert base * inverse_sqrt(number - 1, warmup) == pytest.approx(papers, rel=1e-12)


@settings(max_examples=40)
@given(lengths, shares)
def test_warmup_stable_decay_is_its_formula(length, final):
    steps, cooldown = length
    for step in {0, steps - cooldown, steps - cooldown // 2, steps - 1, steps + 2}:
        left = steps - step
        expected = 1.0
        if left < cooldown or left < 0:
            expected = max(final, 1 - (1 - final) * math.sqrt(min(1, (cooldown - left) / max(1, cooldown))))
        assert stable(step, steps, cooldown, final) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_warmup_stable_decay_equals_another_library():
    optimization = pytest.importorskip("transformers.optimization")
    parameter = torch.nn.Parameter(torch.zeros(1))
    theirs = optimization.get_wsd_schedule(
        torch.optim.SGD([parameter], lr=1.0), 0, 1000, num_training_steps=LONG,
        decay_type="linear", min_lr_ratio=0.1,
    ).lr_lambdas[0]  # fmt: skip
    ours = partial(stable, steps=LONG, cooldown=1000, final=0.1, bend=straight)
    assert_equal_over(LONG, ours, [theirs(step) for step in range(LONG)])


# -------------------------------------------------------------------------------------------------------- combinations


@settings(max_examples=20)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 5))
def test_joined_gives_each_part_its_own_steps(spans, beyond):
    parts = [(length, lambda step, number=number: 1000.0 * number + step) for number, length in enumerate(spans)]
    heard = [joined(step, parts) for step in range(sum(spans) + beyond)]
    expected = [1000 * number + step for number, length in enumerate(spans) for step in range(length)]
    last = 1000 * (len(spans) - 1) + spans[-1]
    assert heard == expected + [last + step for step in range(beyond)]


def test_joined_equals_torchs_sequence():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    rising = lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=9)
    falling = lr_scheduler.ExponentialLR(optimizer, 0.9)
    theirs = lr_scheduler.SequentialLR(optimizer, [rising, falling], milestones=[10])
    ours = partial(joined, parts=[(10, partial(warmed, schedule=constant, warmup=10)), (90, lambda step: 0.9**step)])
    for step in range(100):
        assert ours(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        with warnings.catch_warnings():  # torch warns of its own call
            warnings.simplefilter("ignore")
            theirs.step()


def test_through_points():
    line = partial(through, points=[(0.0, 1.0), (10.0, 3.0), (20.0, 0.0)])
    assert [line(step) for step in (0, 5, 10, 15, 20, 99)] == [1.0, 2.0, 3.0, 1.5, 0.0, 0.0]


# ---------------------------------------------------------------------------------------------- what holds for all


@settings(max_examples=12)
@given(st.integers(1, 2000), recipes)
def test_nothing_rises_after_the_end_and_the_first_step_is_taken(steps, numbers):
    for name in NAMES:
        recipe = ScheduleRecipe(name=name, **numbers)
        schedule = build_schedule(recipe, steps)
        rates = [schedule(step) for step in range(0, steps, max(1, steps // 8))]
        assert all(0 <= rate <= 1 + 1e-12 for rate in rates), name
        assert schedule(0) > 0, name
        after = [schedule(steps - 1), *(schedule(steps + step) for step in (0, 1, 20 * steps))]
        assert all(later <= earlier + 1e-12 for earlier, later in pairwise(after)), name


@settings(max_examples=12)
@given(st.integers(2, 2000), recipes)
def test_only_a_warmup_a_cycle_or_a_restart_rises(steps, numbers):
    for name in set(NAMES) - {"one_cycle", "three_phase", "restarts"}:
        schedule = build_schedule(ScheduleRecipe(name=name, **numbers), steps)
        warmup = round(numbers["warmup"] * steps)
        rates = [schedule(step) for step in range(max(0, warmup - 1), steps + 1, max(1, steps // 20))]
        assert all(later <= earlier + 1e-12 for earlier, later in pairwise(rates)), name
        for step in {0, warmup // 2, warmup - 1} if warmup else ():
            assert schedule(step) == pytest.approx((step + 1) / warmup), name


@settings(max_examples=20)
@given(st.integers(1, LONG), shares)
def test_the_end_is_the_final_rate(steps, final):
    for name in ("cosine", "linear", "polynomial", "warmup_stable_decay", "restarts"):
        schedule = build_schedule(ScheduleRecipe(name=name, final=final), steps)
        assert schedule(steps + 1) == pytest.approx(final), name
    for name in ("one_cycle", "three_phase"):
        schedule = build_schedule(ScheduleRecipe(name=name, final=final), max(10, steps))
        assert schedule(max(10, steps) - 1) == pytest.approx(final), name


def test_warmup_as_long_as_training():
    schedule = build_schedule(ScheduleRecipe(warmup=1.0), 4)
    assert [schedule(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_a_recipe_in_shares_becomes_whole_steps():
    schedule = build_schedule(ScheduleRecipe(name="step", warmup=0.1, milestones=(0.5, 0.75)), 100)
    assert [schedule(step) for step in (0, 9, 49, 50, 74, 75, 99)] == pytest.approx([0.1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_unknown_schedule_suggests():
    misspelt = SimpleNamespace(**vars(ScheduleRecipe()) | {"name": "cosin"})
    with pytest.raises(FieldguideError, match="did you mean 'cosine'"):
        build_schedule(misspelt, 10)


# ------------------------------------------------------------------------------------------------------------ the plan


def _rates(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


def test_every_group_keeps_its_own_base_rate_and_its_share():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 2))
    optimizer = build_optimizer(model, lr=0.1, layer_decay=0.5)
    assert sorted({group["lr_scale"] for group in optimizer.param_groups}) == [0.5, 1.0]
    optimizer.param_groups[-1]["base_lr"] = 0.01
    plan = build_plan(ScheduleRecipe(warmup=0.1), 100)
    for step in (0, 9, 55):
        assert plan.set(optimizer, step) == pytest.approx(0.1 * plan.at(step).rate)
        expected = [group["base_lr"] * group["lr_scale"] * plan.at(step).rate for group in optimizer.param_groups]
        assert _rates(optimizer) == pytest.approx(expected)
    assert plan.at(0).rate == pytest.approx(0.1)


def test_weight_decay_goes_its_own_way_and_spares_what_has_none():
    optimizer = build_optimizer(torch.nn.Linear(3, 2), weight_decay=0.04)
    plan = build_plan(ScheduleRecipe(weight_decay_final=10.0), 100)
    seen = []
    for step in (0, 25, 50, 100, 1000):
        plan.set(optimizer, step)
        seen.append(optimizer.param_groups[0]["weight_decay"])
        assert optimizer.param_groups[1]["weight_decay"] == 0.0
    quarter = 0.04 + 0.36 * (1 - math.cos(math.pi / 4)) / 2
    assert seen == pytest.approx([0.04, quarter, 0.22, 0.4, 0.4])


def test_weight_decay_stays_exactly_where_nothing_schedules_it():
    optimizer = build_optimizer(torch.nn.Linear(3, 2), weight_decay=0.037)
    plan = build_plan(ScheduleRecipe(name="one_cycle"), 97)
    for step in range(97):
        plan.set(optimizer, step)
        assert optimizer.param_groups[0]["weight_decay"] == 0.037


@pytest.mark.parametrize(("name", "read"), [
    ("sgd", lambda group: group["momentum"]),
    ("rmsprop", lambda group: group["momentum"]),
    ("adamw", lambda group: group["betas"][0]),
    ("adam", lambda group: group["betas"][0]),
])  # fmt: skip
def test_the_momentum_goes_where_the_optimizer_has_it(name, read):
    optimizer = build_optimizer(torch.nn.Linear(3, 2), name)
    plan = build_plan(ScheduleRecipe(name="one_cycle", rise=0.5), 21)
    for step, expected in ((0, 0.95), (10, 0.8506), (20, 0.95)):
        plan.set(optimizer, step)
        assert [read(group) for group in optimizer.param_groups] == pytest.approx([expected] * 2, abs=1e-3)
    assert "betas" not in optimizer.param_groups[0] or optimizer.param_groups[0]["betas"][1] == 0.999


def test_a_cycle_for_an_optimizer_without_momentum_is_refused():
    optimizer = build_optimizer(torch.nn.Linear(3, 2), "sgd", momentum=0.0)
    recipe = ScheduleRecipe(name="one_cycle")
    with pytest.raises(FieldguideError, match=r"set optimizer\.momentum above 0"):
        build_plan(recipe, 10).set(optimizer, 0)
    build_plan(replace(recipe, cycle_momentum=(0.9, 0.9)), 10).set(optimizer, 0)
    assert optimizer.param_groups[0]["momentum"] == 0.0


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adamw", "muon"])
def test_a_cycle_passes_through_a_momentum_of_zero(name):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    optimizer = build_optimizer(model, name)
    plan = build_plan(ScheduleRecipe(name="one_cycle", rise=0.5, cycle_momentum=(0.0, 0.9)), 20)
    seen = []
    for step in range(20):
        plan.set(optimizer, step)
        model(torch.ones(5, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append([group["betas"][0] if "betas" in group else group["momentum"] for group in optimizer.param_groups])
    assert seen[9] == [0.0] * len(seen[0])
    assert seen[0] == seen[-1] == [0.9] * len(seen[0])
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_the_plateau_of_a_plan_resumes():
    plan = Plan(constant, plateau=Plateau(patience=2, gamma=0.5, final=0.2))
    for improved, factor in [(False, 1), (True, 1), (False, 1), (False, 0.5), (False, 0.5)]:
        plan.epoch_done(improved)
        assert plan.at(7).rate == factor
    twin = Plan(constant, plateau=Plateau(patience=2, gamma=0.5, final=0.2))
    twin.load_state_dict(plan.state_dict())
    for _ in range(6):
        plan.epoch_done(False)
        twin.epoch_done(False)
        assert twin.at(0) == plan.at(0)
    assert plan.at(0).rate == 0.2
