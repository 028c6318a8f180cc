import math

import pytest
import torch
from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.objectives import Classification
from fieldguide.train import Diverged, Recipe, fit
from fieldguide.train.callbacks import Callback, History
from fieldguide.train.precision import Precision
from fieldguide.train.recipe import OptimizerRecipe, ScheduleRecipe

CPU = torch.device("cpu")


class Dtypes(nn.Module):
    """Notes the number format of its activations."""

    def __init__(self):
        super().__init__()
        self.layers, self.seen = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)), set()

    def forward(self, x):
        y = self.layers(x)
        self.seen.add((y.dtype, self.training))
        return y


def _data(scale=1.0):
    torch.manual_seed(0)
    return torch.randn(48, 5) * scale, torch.randint(3, (48,))


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_forward_and_evaluation_in_the_format_parameters_in_fp32(name, dtype):
    model = Dtypes()
    fit(model, (_data(), _data()), Classification(), Recipe(epochs=1, batch_size=16, precision=name, threads=1))
    assert model.seen == {(dtype, True), (dtype, False)}
    assert all(p.dtype == torch.float32 for p in model.parameters())


class Norms(Callback):
    def __init__(self):
        self.after = []

    def before_update(self, part):
        self.after.append(torch.cat([p.grad.flatten() for p in self.loop.model.parameters()]).norm().item())


@pytest.mark.parametrize("name", ["fp32", "fp16"])
def test_clipping_sees_true_gradients(name):
    """Clipping before unscaling would leave a gradient of about 1e-5 here."""
    norms, record = Norms(), History()
    recipe = Recipe(epochs=1, batch_size=16, precision=name, clip=0.1, threads=1)
    fit(Dtypes(), (_data(3.0), None), Classification(), recipe, callbacks=[norms, record])
    said = [r["grad_norm"] for r in record.records if r["kind"] == "step"]
    assert all(0.1 < norm < 100 for norm in said)
    assert norms.after == pytest.approx([0.1] * 3, rel=1e-3)


class Overflowing(nn.Module):
    """Gradients that fp16 cannot hold at the first loss scales."""

    def __init__(self, factor):
        super().__init__()
        self.layer, self.factor = nn.Linear(5, 3), factor

    def forward(self, x):
        return self.layer(x) * self.factor


def test_an_fp16_overflow_skips_the_step_and_lowers_the_scale():
    model, record, scales = Overflowing(50.0), History(), []

    class Watch(Callback):
        def on_step(self, record):
            scales.append((self.loop.precision.scaler.get_scale(), self.loop.model.layer.weight.detach().clone()))

    before = model.layer.weight.detach().clone()
    recipe = Recipe(epochs=4, batch_size=16, precision="fp16", threads=1)
    run = fit(model, (_data(30.0), None), Classification(), recipe, callbacks=[record, Watch()])
    steps = [r for r in record.records if r["kind"] == "step"]
    assert not math.isfinite(steps[0]["grad_norm"])
    assert scales[0][0] == 2.0**15
    assert torch.equal(scales[0][1], before)
    assert steps[-1]["grad_norm"] < float("inf")
    assert not torch.equal(scales[-1][1], before)
    assert all(tensor.isfinite().all() for _, tensor in scales)
    assert torch.tensor([r["train_loss"] for r in run.history]).isfinite().all()


def test_fp16_that_never_recovers_stops():
    recipe = Recipe(epochs=50, batch_size=16, precision="fp16", threads=1)
    with pytest.raises(Diverged, match="the loss is nan"):
        fit(Overflowing(float("nan")), (_data(), None), Classification(), recipe)


def test_bf16_learns_about_what_fp32_learns():
    def weights(precision):
        torch.manual_seed(1)
        model = Dtypes()
        recipe = Recipe(
            epochs=5, batch_size=16, precision=precision, threads=1,
            optimizer=OptimizerRecipe(name="sgd", lr=0.1), schedule=ScheduleRecipe(name="constant"),
        )  # fmt: skip
        fit(model, (_data(), None), Classification(), recipe)
        return nn.utils.parameters_to_vector(model.parameters())

    full, half = weights("fp32"), weights("bf16")
    assert not torch.equal(full, half)
    assert (full - half).norm() / full.norm() < 0.05


def test_a_device_that_cannot_is_refused(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("\"slow_conv2d\" not implemented for 'Half'\nand more")

    monkeypatch.setattr(nn.functional, "conv2d", refuse)
    with pytest.raises(FieldguideError, match=r'precision = "fp16" does not work on this cpu .*; use "fp32"'):
        Precision("fp16", CPU)
    Precision("fp32", CPU)


def test_the_scaler_state_comes_back():
    first, second = Precision("fp16", CPU), Precision("fp16", CPU)
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    for _ in range(3):
        first.backward(parameter.sum(), 1.0, None)
        first.unscale(optimizer)
        first.step(optimizer)
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()
    assert second.state_dict()["_growth_tracker"] == 3
    assert Precision("fp32", CPU).state_dict() == {}
