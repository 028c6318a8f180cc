"""What can be said of a measurement without trusting the clock: memory, sums, counts, what is left behind, mistakes."""

import copy
import json
import warnings

import pytest
import torch
from torch import nn

import fieldguide as fg
from fieldguide.profile.clock import Quiet, Times
from fieldguide.profile.machine import BYTES, Machine
from fieldguide.profile.memory import peak_of
from fieldguide.profile.operations import Operation
from fieldguide.profile.roofline import roofline

CPU = torch.device("cpu")


def mlp(a=500, b=1000, c=250):
    return nn.Sequential(nn.Linear(a, b), nn.ReLU(), nn.Linear(b, c))


@pytest.fixture(scope="module")
def found():
    return fg.profile(mlp(), torch.randn(64, 500), train=True, batches=(1, 128), seconds=0.05)


def test_the_peak_of_a_forward_pass_is_the_two_largest_neighbours(found):
    """Without gradients a layer's input dies when its output is there: at most hidden and activated hidden at once."""
    assert found.forward_peak == pytest.approx(4 * 64 * (1000 + 1000), rel=0.02)
    assert found.resident_bytes == 4 * (500 * 1000 + 1000 + 1000 * 250 + 250 + 64 * 500)


def test_the_peak_of_a_training_step_is_all_gradients_and_the_last_one_on_its_way(found):
    gradients = 500 * 1000 + 1000 + 1000 * 250 + 250
    assert found.step_peak == pytest.approx(4 * (gradients + 64 * 1000), rel=0.02)
    assert found.optimizer_bytes == pytest.approx(4 * 2 * gradients, rel=0.02)


def test_a_peak_is_not_what_is_left():
    def work():
        large = torch.empty(10_000_000)
        small = large[:10].clone()
        del large
        kept.append(small)

    kept = []
    assert peak_of(work, CPU) == pytest.approx(40_000_000, rel=0.001)
    assert peak_of(lambda: None, CPU) == 0


def test_the_table_adds_up_to_the_whole(found):
    total = found.table.total
    for depth in (1, 2):
        rows = found.rows(depth)
        assert sum(row.parameters for row in rows) == total.parameters
        assert sum(row.flops for row in rows) == total.flops
        assert sum(row.activation_bytes for row in rows) == total.activation_bytes
        assert sum(row.seconds for row in rows) == pytest.approx(found.layer_seconds[""])
        assert all(row.seconds > 0 for row in rows)


def test_batches_and_percentiles(found):
    assert [x.batch for x in found.batches] == [1, 64, 128]
    for x in found.batches:
        assert 0 < x.times.percentile(50) == pytest.approx(x.times.median)
        assert x.times.percentile(50) <= x.times.percentile(90) <= x.times.percentile(99) <= max(x.times.seconds)
        assert x.throughput * x.times.median == pytest.approx(x.batch)
    assert len({len(x.times.seconds) for x in found.batches}) == 1, "they took turns"
    assert found.forward is found.batches[1].times
    assert Times((2.0,)).percentile(99) == 2.0
    assert Times((1.0, 2.0, 3.0, 4.0, 5.0)).spread == pytest.approx(2 / 3)


def test_the_roof_of_a_step_counts_forward_and_backward(found):
    # Backward: one product for each weight's gradient, and one for the hidden layer's.
    forward = 2 * 64 * (500 * 1000 + 1000 * 250)
    assert found.roof.flops == 2 * forward + 2 * 64 * 1000 * 250
    assert found.roof.share == pytest.approx(found.roof.achieved / found.roof.attainable)


def machine(device):
    return Machine(device, "float32", 1, flops=1e9, bandwidths=(8e8, 4e8, 2e8, 1e8), launch=1e-5)


def test_the_roof_by_hand():
    operations = [Operation("mm", 10**9, 10**7), Operation("add", 0, 10**9), Operation("relu", 0, 8)]
    found = roofline(operations, machine("cpu"), measured=20.0)
    assert (found.arithmetic, found.bandwidth) == (pytest.approx(1), pytest.approx(10, rel=1e-6))
    assert found.least == pytest.approx(11 + 3e-5)
    assert found.binds == "bandwidth"
    assert found.share == pytest.approx(11 / 20, rel=1e-4)
    assert roofline(operations, machine("cpu"), 20.0, data=15.0).binds == "data"
    small = [Operation("add", 0, 8)] * 1000
    assert roofline(small, machine("cpu"), 1.0).least == pytest.approx(1000 * (1e-5 + 1e-8))
    assert roofline(small, machine("cuda"), 1.0).least == pytest.approx(1000 * 1e-5), "launched meanwhile"
    assert roofline(small, machine("cuda"), 1.0).binds == "launch"
    assert machine("cpu").bandwidth(BYTES[-1] * 10) == 1e8 < machine("cpu").bandwidth(10)


def test_a_noisy_machine_is_named():
    assert Quiet(company=0.0, idle=1.0, drift=0.01, spread=0.02, load=3.0).warnings == ()
    assert Quiet(company=2.0, idle=5.0, drift=0.01, spread=0.02, load=0.4).warnings == (), "there are cores to spare"
    noisy = Quiet(company=1.5, idle=0.0, drift=0.3, spread=0.5, load=2.5).warnings
    assert [word for word in ("1.50 cores", "30%", "50%", "2.5") if not any(word in line for line in noisy)] == []


def test_everything_is_left_as_it_was(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5)).train()
    model[1].eval()
    before, x = copy.deepcopy(model.state_dict()), torch.randn(2, 1, 8, 8)
    torch.manual_seed(3)
    drawn = torch.get_rng_state()
    found = fg.profile(model, x, train=True, seconds=0.01, trace=tmp_path / "trace.json")
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    names = {event.get("name") for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]}
    assert {"aten::conv2d", "aten::batch_norm"} <= names
    assert any("Backward" in str(name) for name in names), "the pass of a training is a step"
    assert found.model == "Sequential"


def test_a_slow_loader_binds():
    def loader():
        while True:
            torch.randn(300, 300) @ torch.randn(300, 300)
            yield torch.linalg.svd(torch.randn(60, 60))

    found = fg.profile(nn.Linear(2, 2), torch.zeros(1, 2), data=loader(), seconds=0.01)
    assert found.roof.data > 0
    assert found.roof.binds == "data"


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.stem(x).flatten(1))


@pytest.mark.parametrize(
    ("model", "example", "words"),
    [
        (Deep(), torch.randn(2, 3, 8, 8), ["Deep", "(2, 3, 8, 8)", "'head' (Linear)", "(2, 288)"]),
        (Deep(), torch.randn(2, 1, 8, 8), ["'stem' (Conv2d)", "(2, 1, 8, 8)", "3 channels"]),
        (Deep(), torch.randn(2, 3, 8, 8).double(), ["float64", "weights are float32", "example.to(torch.float32)"]),
        (nn.Linear(2, 2), torch.zeros(1, 2).long(), ["int64 (1, 2)", "takes float32"]),
        (nn.Sequential(nn.Embedding(9, 4)), torch.zeros(1, 2), ["'0' (Embedding)", "whole numbers"]),
        (nn.Linear(2, 2, device="meta"), torch.zeros(1, 2), ["cpu and meta", "one device"]),
        (nn.Linear(2, 2, device="meta"), torch.zeros(1, 2, device="meta"), ["meta", "complexity"]),
    ],
)
def test_a_network_that_cannot_run_says_where(model, example, words):
    with pytest.raises(fg.FieldguideError) as caught:
        fg.profile(model, example, seconds=0.01)
    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message
    assert "\n" not in message
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_other_mistakes_are_said_in_one_line(tmp_path):
    model, x = nn.Linear(2, 2), torch.zeros(1, 2)
    (tmp_path / "there.json").write_text("")
    for options, word in (
        ({"batches": (0,)}, "at least one sample"),
        ({"trace": tmp_path / "there.json"}, "exists already"),
        ({"trace": tmp_path / "none" / "x.json"}, "no folder"),
        ({"data": []}, "no batch"),
        ({"train": True, "loss": lambda y: y.detach().sum()}, "loss"),
    ):
        with pytest.raises(fg.FieldguideError, match=word):
            fg.profile(model, x, seconds=0.01, **options)
    with pytest.raises(fg.FieldguideError, match="no parameter that can be trained"):
        fg.profile(nn.ReLU(), x, train=True)
    assert (tmp_path / "there.json").read_text() == ""


def test_the_function_and_its_room_are_one():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        import fieldguide.profile

        assert fieldguide.profile(nn.ReLU(), torch.zeros(1, 2), seconds=0.01).model == "ReLU"
