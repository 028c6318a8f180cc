"""Corrections to the cheatsheet's section on optimisation: what its snippets do, beside what this library does.

Each snippet is written anew from what it computes, so that its numbers can be compared; every test shows a wrong number
and the right one.
"""

import math
from itertools import pairwise

import pytest
import torch
from torch.optim import lr_scheduler

from fieldguide.objectives import Classification
from fieldguide.optim import build_optimizer, build_plan, build_schedule, clip_gradients
from fieldguide.train import Callback, Diverged, Recipe, fit
from fieldguide.train.precision import Precision
from fieldguide.train.recipe import OptimizerRecipe, ScheduleRecipe

# ------------------------------------------------------------------------------------ 5.1 cosine annealing with warm-up


class SheetCosine:
    """Counts up before it sets a rate, reads one rate from the optimizer's defaults, and knows no end."""

    def __init__(self, optimizer, warmup, total):
        self.optimizer, self.warmup, self.total, self.count = optimizer, warmup, total, 0

    def step(self):
        self.count += 1
        peak = self.optimizer.defaults["lr"]
        if self.count <= self.warmup:
            rate = peak * self.count / self.warmup
        else:
            rate = peak * (1 + math.cos(math.pi * (self.count - self.warmup) / (self.total - self.warmup))) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = rate


def _two_groups(rates=(0.1, 0.01)):
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates], lr=1.0)


def test_cosine_overwrites_the_rates_of_the_groups():
    sheets = _two_groups()
    schedule = SheetCosine(sheets, warmup=10, total=100)
    for _ in range(60):
        schedule.step()
    assert sheets.param_groups[0]["lr"] == sheets.param_groups[1]["lr"]

    ours = build_optimizer(torch.nn.Linear(2, 2), lr=0.1)
    ours.param_groups[1]["base_lr"] = 0.01
    build_plan(ScheduleRecipe(warmup=0.1), 100).set(ours, 60)
    first, second = (group["lr"] for group in ours.param_groups)
    assert first == pytest.approx(10 * second)


def test_cosine_rises_again_after_the_end():
    optimizer = _two_groups()
    schedule, rates = SheetCosine(optimizer, warmup=10, total=100), {}
    for step in range(1, 141):
        schedule.step()
        rates[step] = optimizer.param_groups[0]["lr"]
    assert [rates[step] for step in (100, 110, 140)] == pytest.approx([0, 0.030, 0.413], abs=1e-3)

    ours = build_schedule(ScheduleRecipe(warmup=0.1), 100)
    assert [ours(step) for step in (100, 110, 140)] == pytest.approx([0, 0, 0], abs=1e-12)


def test_cosine_divides_by_zero_when_the_warmup_is_the_training():
    schedule = SheetCosine(_two_groups(), warmup=10, total=10)
    for _ in range(10):
        schedule.step()
    with pytest.raises(ZeroDivisionError):
        schedule.step()
    ours = build_schedule(ScheduleRecipe(warmup=1.0), 10)
    assert [ours(step) for step in range(11)] == pytest.approx([*(n / 10 for n in range(1, 11)), 1.0])


def test_the_first_step_of_cosine_has_the_whole_rate():
    """The schedule moves after the optimizer, so a warm-up over 10 steps begins at 1 and not at 0.1."""
    sheets = _two_groups((1.0, 1.0))
    SheetCosine(sheets, warmup=10, total=100)
    assert sheets.param_groups[0]["lr"] == 1.0

    ours = build_optimizer(torch.nn.Linear(2, 2), lr=1.0)
    build_plan(ScheduleRecipe(warmup=0.1), 100).set(ours, 0)
    assert [group["lr"] for group in ours.param_groups] == pytest.approx([0.1, 0.1])


# -------------------------------------------------------------------------------------------------------- 5.1 one cycle


def _sheet_one_cycle(count, total=100):
    """Three tenths up from a tenth of the peak, four tenths flat, then down to a tenth; shares of the peak."""
    if count <= 0.3 * total:
        return 0.1 + 0.9 * count / (0.3 * total)
    if count <= 0.7 * total:
        return 1.0
    return 0.1 + 0.9 * (1 + math.cos(math.pi * (count - 0.7 * total) / (0.3 * total))) / 2


def _torchs_one_cycle():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    schedule, seen = lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=100), []
    for _ in range(100):
        seen.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        schedule.step()
    return seen


def _our_one_cycle():
    plan = build_plan(ScheduleRecipe(name="one_cycle", final=4e-6), 100)
    return [(setting.rate, setting.momentum) for setting in map(plan.at, range(100))]


def test_one_cycle_has_no_jump_but_a_plateau():
    sheets = [_sheet_one_cycle(count) for count in range(1, 101)]
    assert max(abs(b - a) for a, b in pairwise(sheets)) == pytest.approx(0.047, abs=1e-3)
    assert sum(rate == 1.0 for rate in sheets) == 41
    assert (
        sum(rate > 0.9999 for rate, _ in _our_one_cycle()) == sum(rate > 0.9999 for rate, _ in _torchs_one_cycle()) == 1
    )


def test_one_cycle_ends_at_a_tenth_of_the_peak_and_rises_afterwards():
    assert _sheet_one_cycle(100) == pytest.approx(0.1)
    assert _sheet_one_cycle(104) == pytest.approx(0.1389, abs=1e-4)
    assert _our_one_cycle()[-1][0] == pytest.approx(_torchs_one_cycle()[-1][0]) == pytest.approx(4e-6)
    ours = build_schedule(ScheduleRecipe(name="one_cycle", final=4e-6), 100)
    assert ours(103) == pytest.approx(4e-6)


def test_one_cycle_leaves_the_momentum_alone():
    """The sheet's sets rates only; the policy also takes momentum from 0.95 to 0.85 and back."""
    ours, torchs = ([momentum for _, momentum in seen] for seen in (_our_one_cycle(), _torchs_one_cycle()))
    assert ours == pytest.approx(torchs)
    assert (min(ours), max(ours)) == pytest.approx((0.85, 0.95))


# ----------------------------------------------------------------------------------------------------------- 5.2 AdamW


class SheetAdamW:
    """Moves by Adam first and shrinks the new weights then; it has a list of parameters and nothing around it."""

    def __init__(self, parameters, lr, weight_decay):
        self.parameters, self.lr, self.weight_decay = list(parameters), lr, weight_decay
        self.moments = [(torch.zeros_like(w), torch.zeros_like(w)) for w in self.parameters]
        self.count = 0

    def step(self):
        self.count += 1
        for w, (mean, square) in zip(self.parameters, self.moments, strict=True):
            mean.mul_(0.9).add_(w.grad, alpha=0.1)
            square.mul_(0.999).addcmul_(w.grad, w.grad, value=0.001)
            root = (square / (1 - 0.999**self.count)).sqrt().add_(1e-8)
            w.addcdiv_(mean, root, value=-self.lr / (1 - 0.9**self.count))
            w.add_(w, alpha=-self.lr * self.weight_decay)


def _two_layers():
    torch.manual_seed(0)
    return torch.nn.Linear(6, 4).double(), torch.randn(32, 6).double(), torch.randn(32, 4).double()


def test_adamw_cannot_step_outside_no_grad():
    model, inputs, targets = _two_layers()
    (model(inputs) - targets).square().mean().backward()
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        SheetAdamW(model.parameters(), lr=0.01, weight_decay=0.1).step()
    build_optimizer(model, lr=0.01, weight_decay=0.1).step()


def test_adamw_decays_the_new_weights_and_everything():
    """The snippet drifts away from torch's AdamW; ours is torch's, with the bias left alone."""
    (sheet, inputs, targets), (torchs, *_), (ours, *_) = _two_layers(), _two_layers(), _two_layers()
    start = ours.bias.detach().clone()
    steppers = {
        sheet: SheetAdamW(sheet.parameters(), lr=0.01, weight_decay=0.1),
        torchs: torch.optim.AdamW([{"params": [torchs.weight]}, {"params": [torchs.bias], "weight_decay": 0.0}], 0.01,
                                  weight_decay=0.1),
        ours: build_optimizer(ours, lr=0.01, weight_decay=0.1),
    }  # fmt: skip
    apart = []
    for _ in range(100):
        for model, stepper in steppers.items():
            model.zero_grad()
            (model(inputs) - targets).square().mean().backward()
            with torch.no_grad():
                stepper.step()
        apart.append((sheet.weight - torchs.weight).abs().max().item())
    assert apart[0] == pytest.approx(0.01 * 0.01 * 0.1, rel=0.01), "lr · lr · weight decay, already after one step"
    assert apart[-1] > 1e-4
    torch.testing.assert_close(ours.weight, torchs.weight, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.bias, torchs.bias, rtol=0, atol=1e-12)
    assert not torch.equal(ours.bias, start)


def test_adamw_has_no_groups_and_no_state_to_save():
    model, *_ = _two_layers()
    missing = [name for name in ("param_groups", "zero_grad", "state_dict", "load_state_dict")
               if not hasattr(SheetAdamW(model.parameters(), 0.01, 0.1), name)]  # fmt: skip
    assert len(missing) == 4
    assert all(hasattr(build_optimizer(model), name) for name in missing)


# ------------------------------------------------------------------------------------------- 5.3 gradient techniques


def _sheet_clip(parameters, most=1.0):
    """One copy to the host for each parameter; a comparison that NaN never passes; no result."""
    total = math.sqrt(sum(p.grad.norm(2).item() ** 2 for p in parameters))
    if total > most:
        for p in parameters:
            p.grad.mul_(most / (total + 1e-6))


def _small_network(scale=10.0):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Linear(5, 3))
    for parameter in model.parameters():
        parameter.grad = scale * torch.randn_like(parameter)
    return model


def test_clipping_of_finite_gradients_is_right():
    sheets, ours = _small_network(), _small_network()
    _sheet_clip(list(sheets.parameters()))
    assert clip_gradients(list(ours.parameters()), 1.0) > 1
    for a, b in zip(sheets.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-8)


def test_clipping_lets_nan_through_and_turns_infinity_into_zeros():
    nan, infinite = _small_network(), _small_network()
    nan[0].bias.grad[0], infinite[0].bias.grad[0] = math.nan, math.inf
    assert _sheet_clip(list(nan.parameters())) is None
    assert nan[1].weight.grad.norm() > 1, "nothing was clipped, and nobody was told"
    _sheet_clip(list(infinite.parameters()))
    assert infinite[0].bias.grad[0].isnan()
    assert not infinite[1].weight.grad.any()

    class Overflowing(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) * self.bias.exp()  # its gradient is infinite while its value is not used

    data = (torch.randn(8, 4), torch.randint(3, (8,)))
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), Overflowing(5, 3))
    model[1].bias.data.fill_(200.0)
    with pytest.raises(Diverged, match=r"gradients not finite: .*1\.bias"):
        fit(model, (data, None), Classification(), Recipe(epochs=1, batch_size=8, threads=1))


def _micro_batches(sizes):
    torch.manual_seed(1)
    return [(torch.randn(n, 4).double(), torch.randint(3, (n,))) for n in sizes]


class _Steps(Callback):
    """The gradient of every optimizer step."""

    def __init__(self):
        self.gradients = []

    def before_update(self, part):
        self.gradients.append(torch.cat([p.grad.flatten() for p in self.loop.model.parameters()]))


class _InOrder:
    def __init__(self, parts):
        self.parts = parts

    def __len__(self):
        return len(self.parts)

    def batches(self, epoch, start=0):
        return iter(self.parts[start:])


def _our_steps(batches, accumulation):
    torch.manual_seed(0)
    model, steps = torch.nn.Linear(4, 3).double(), _Steps()
    optimizer = OptimizerRecipe(name="sgd", lr=1e-300, momentum=0.0, weight_decay=0.0)
    recipe = Recipe(epochs=1, accumulation=accumulation, clip=0.0, threads=1, optimizer=optimizer)
    fit(model, (_InOrder(batches), None), Classification(), recipe, callbacks=[steps])
    return steps.gradients


def _sheet_steps(batches, accumulation):
    torch.manual_seed(0)
    model, gradients = torch.nn.Linear(4, 3).double(), []
    for i, (inputs, labels) in enumerate(batches):
        (torch.nn.functional.cross_entropy(model(inputs), labels) / accumulation).backward()
        if (i + 1) % accumulation == 0:
            gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
            model.zero_grad()
    return gradients, model.weight.grad


def test_accumulation_drops_the_last_batches_and_leaks_their_gradient():
    batches = _micro_batches([8] * 10)
    sheets, left = _sheet_steps(batches, 4)
    assert len(sheets) == 2
    assert left.norm() > 0.1, "two batches wait for the next call"
    assert len(_our_steps(batches, 4)) == 3


def test_accumulation_of_unequal_batches_is_a_mean_of_means():
    batches = _micro_batches([8, 8, 8, 1])
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3).double()
    inputs, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    loss = torch.nn.functional.cross_entropy(model(inputs), labels)
    whole = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
    (sheets,), _ = _sheet_steps(batches, 4)
    (ours,) = _our_steps(batches, 4)
    assert (sheets - whole).norm() / whole.norm() > 0.05
    assert (ours - whole).norm() / whole.norm() < 1e-12


def test_mixed_precision_clips_scaled_gradients():
    """Clipped at 1 before the loss scale of 65,536 is divided out, nothing is left of a gradient."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale((parameter * 2).sum()).backward()
    _sheet_clip([parameter])
    scaler.unscale_(optimizer)
    assert parameter.grad.norm().item() == pytest.approx(1 / 65536, rel=1e-4)

    parameter.grad = None
    precision = Precision("fp16", torch.device("cpu"))
    precision.backward((parameter * 2).sum(), 1.0, None)
    precision.unscale(optimizer)
    assert clip_gradients([parameter], 1.0).item() == pytest.approx(12**0.5)
    assert parameter.grad.norm().item() == pytest.approx(1, rel=1e-4)
