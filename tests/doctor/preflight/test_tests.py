"""Pre-flight tests: each passes on a network that is well, fails on one that is not, and changes neither."""

import copy
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fieldguide.doctor.preflight import TESTS, twin
from fieldguide.doctor.preflight import tests as preflight
from fieldguide.doctor.preflight.frozen_trained import at_initial_values

Change = Callable[[Any], Any]


@dataclass(frozen=True)
class Batch:
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    target: Tensor | None
    averaged: bool = False


class Training:
    """The least that the tests need of a training."""

    def __init__(self, model: nn.Module, *pairs: tuple[Tensor, Tensor], loss: Callable[..., Tensor] = F.cross_entropy):
        self.model, self.function = model.train(), loss
        self.batches = [Batch((x,), {}, y) for x, y in pairs]

    def output(self, model: nn.Module, batch: Batch) -> Tensor:
        return model(*batch.args, **batch.kwargs)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.function(self.output(model, batch), batch.target)


class Changed(nn.Module):
    """A network between two operations."""

    def __init__(self, net: nn.Module, before: Change = lambda x: x, after: Change = lambda x: x):
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(self.before(x)))


class Language(nn.Module):
    """Predicts the next token by attention; the mask is what may go wrong."""

    def __init__(self, mask: Tensor, *, weights: bool):
        super().__init__()
        self.tokens, self.places, self.head = nn.Embedding(20, 16), nn.Embedding(8, 16), nn.Linear(16, 20)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.mask, self.weights = mask, weights

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1]))
        return self.head(x + self.attention(x, x, x, attn_mask=self.mask, need_weights=self.weights)[0])


class Last(nn.Module):
    """A recurrent network read at its last step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.RNN(3, 16, batch_first=True), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


class Forgotten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.lost = nn.Linear(8, 2), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def points(n: int = 32) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 8)
    return x, (x[:, :2].sum(1) > 0).long()


def images() -> tuple[Tensor, Tensor]:
    return torch.randn(16, 3, 8, 8), torch.randint(5, (16,))


def mlp(activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), activation(), nn.Linear(16, 16), activation(), nn.Linear(16, 2))


def normed() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 2))


def convolutions(between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), between, nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 5))


def language(mask: Tensor, *, weights: bool = True) -> Training:
    text = torch.randint(20, (4, 9))
    loss = lambda out, y: F.cross_entropy(out.flatten(0, 1), y.flatten())  # noqa: E731
    return Training(Language(mask, weights=weights), (text[:, :-1], text[:, 1:]), loss=loss)


def silent_at_first() -> Training:
    """An attention whose last projection begins at 0, so that nothing passes it yet."""
    training = language(CAUSAL, weights=False)
    nn.init.zeros_(training.model.attention.out_proj.weight)  # pyright: ignore
    return training


def recurrent(length: int) -> Training:
    return Training(Last(), (torch.randn(8, length, 3), torch.randint(2, (8,))))


def frozen(*, trained: bool) -> Training:
    net = mlp()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
    for _ in range(100 * trained):
        x, y = points()
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    for layer in list(net)[:-1]:
        layer.requires_grad_(False)
    return Training(net, points())


def labelled(*, paired: bool) -> Training:
    scale = torch.tensor([6.0, 6.0] + [1.0] * 6)
    pairs = [points(64) for _ in range(4)]
    return Training(mlp(), *((x * scale, y if paired else y[torch.randperm(64)]) for x, y in pairs))


def mixed(net: nn.Module, pair: tuple[Tensor, Tensor]) -> Training:
    """A view where a transpose was meant."""
    return Training(Changed(net, before=lambda x: x.flatten(1).T.reshape(x.shape)), pair)


def tokens(mix: Change = lambda x: x) -> Training:
    """A network for every token, whose answers are one long list for the loss."""
    text = torch.randint(20, (12, 6))
    net = Changed(
        nn.Sequential(nn.Embedding(20, 16), nn.ReLU(), nn.Linear(16, 20)), after=lambda x: mix(x).flatten(0, 1)
    )
    return Training(net, (text, text.flatten()))


def two_views() -> Training:
    """The answers to a batch, and behind them those to another view of it."""
    x, y = points()
    return Training(Changed(mlp(), after=lambda out: torch.cat([out, -out])), (x, y.repeat(2)))


def unseeded(x: Tensor) -> Tensor:
    return x + 0.01 * torch.from_numpy(np.random.default_rng().standard_normal(x.shape)).float()


def summed(out: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(out, y, reduction="sum")


def wide() -> nn.Module:
    """So much work that 256 samples keep a processor busy, while one leaves it idle."""
    return nn.Sequential(nn.Linear(8, 512), nn.ReLU(), nn.Linear(512, 2))


CAUSAL = torch.full((8, 8), -torch.inf).triu(1)
NOTHING = torch.full((8, 8), -torch.inf)
Cases = list[tuple[str, Callable[[], Training]]]
WELL: Cases = [
    ("affine", lambda: Training(mlp(), points())),
    ("affine", lambda: Training(mlp(nn.Tanh), points())),
    ("affine", lambda: Training(convolutions(nn.ReLU()), images())),
    ("affine", lambda: Training(nn.Sequential(*mlp(), nn.LogSoftmax(-1)), points(), loss=F.nll_loss)),
    ("batch_independence", lambda: Training(mlp(), points())),
    ("batch_independence", lambda: Training(normed(), points())),
    ("batch_independence", lambda: recurrent(5)),
    ("batch_independence", tokens),
    ("batch_independence", two_views),
    ("causal", lambda: language(CAUSAL)),
    ("deterministic", lambda: Training(normed(), points())),
    ("input_matters", lambda: Training(mlp(), points())),
    ("loss_scale", lambda: Training(mlp(), points())),
    ("loss_scale", tokens),
    ("frozen_trained", lambda: frozen(trained=True)),
    ("label_agreement", lambda: labelled(paired=True)),
    ("time_gradient", lambda: recurrent(4)),
    ("connected", lambda: Training(mlp(), points())),
    ("repeatable", lambda: Training(normed(), points())),
    ("repeatable", lambda: Training(nn.Sequential(nn.utils.spectral_norm(nn.Linear(8, 2))), points())),
    ("masked_rows", lambda: language(CAUSAL)),
    ("masked_rows", lambda: language(CAUSAL, weights=False)),
    ("masked_rows", silent_at_first),
    ("larger_batch", lambda: Training(wide(), points(256))),
]
ILL: Cases = [
    ("affine", lambda: Training(mlp(nn.Identity), points())),
    ("affine", lambda: Training(convolutions(nn.Identity()), images())),
    ("affine", lambda: Training(nn.Sequential(*mlp(nn.Identity), nn.Sigmoid()), points())),
    ("batch_independence", lambda: mixed(mlp(), points())),
    ("batch_independence", lambda: mixed(convolutions(nn.ReLU()), images())),
    ("batch_independence", lambda: Training(Changed(mlp(), after=lambda x: x.softmax(0)), points())),
    ("batch_independence", lambda: tokens(mix=lambda x: x + x.mean((0, 1)))),
    ("causal", lambda: language(torch.zeros(8, 8))),
    ("causal", lambda: language(torch.full((8, 8), -torch.inf).triu(2))),
    ("deterministic", lambda: Training(Changed(mlp(), after=lambda x: x + 0.1 * torch.randn_like(x)), points())),
    ("input_matters", lambda: Training(Changed(mlp(), before=lambda x: 1e-5 * x), points())),
    ("loss_scale", lambda: Training(mlp(), points(), loss=summed)),
    ("frozen_trained", lambda: frozen(trained=False)),
    ("label_agreement", lambda: labelled(paired=False)),
    ("time_gradient", lambda: recurrent(200)),
    ("connected", lambda: Training(Forgotten(), points())),
    ("repeatable", lambda: Training(Changed(mlp(), after=unseeded), points())),
    ("masked_rows", lambda: language(NOTHING.tril())),
    ("masked_rows", lambda: language(NOTHING, weights=False)),
    ("larger_batch", lambda: Training(mlp(), points(1))),
]
names = lambda cases: [name for name, _ in cases]  # noqa: E731


def shown(training: Training) -> dict[str, Any]:
    return preflight(training, budget=60.0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "make"), WELL, ids=names(WELL))
def test_what_is_well_passes(name, make, seed):
    torch.manual_seed(seed)
    results = shown(make())
    assert results[name]["ok"] is True, results[name]
    failed = {key for key, test in results.items() if test["ok"] is False}
    # Labels drawn at random agree with no neighbour, and so small a network is no work for a processor.
    assert not failed - {"label_agreement", "larger_batch"}, "nothing else fails"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "make"), ILL, ids=names(ILL))
def test_what_is_ill_fails(name, make, seed):
    torch.manual_seed(seed)
    result = shown(make())[name]
    assert result["ok"] is False, result
    assert result["says"]
    assert "\n" not in result["says"]


def test_every_test_has_networks_that_pass_and_that_fail():
    assert set(names(WELL)) == set(names(ILL)) == {test.__name__ for test in TESTS}


def test_what_cannot_be_tested_is_left_open():
    class Refuses(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("not\ntwice")

    for results in (shown(Training(Refuses(), points())), preflight(Training(mlp(), points()), budget=-1.0)):
        assert {test["ok"] for test in results.values()} == {None}
        assert not [test for test in results.values() if "\n" in test["says"]]


class OwnLoss(nn.Module):
    """Sums its own loss over as many samples as it is told, as a trainer that accumulates has it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor, labels: Tensor, num_items_in_batch: Tensor) -> Tensor:
        return F.cross_entropy(self.net(x), labels, reduction="sum") / num_items_in_batch


def test_a_sum_over_a_number_that_is_given_is_not_judged():
    x, y = points()
    training = Training(OwnLoss(), loss=lambda out, target: out)
    training.batches = [Batch((), {"x": x, "labels": y, "num_items_in_batch": torch.tensor(32)}, None)]
    results = shown(training)
    assert results["loss_scale"]["ok"] is None
    assert results["loss_scale"]["says"].startswith("not judged")
    assert results["connected"]["ok"] is True


def test_a_slow_network_is_called_no_more_when_the_time_is_over():
    calls = []

    def slow(x: Tensor) -> Tensor:
        calls.append(time.sleep(0.05))
        return x

    results = preflight(Training(Changed(mlp(), before=slow), points()), budget=0.12)
    assert 1 <= len(calls) <= 4
    assert results["connected"] == {"ok": None, "says": "no time left"}


def test_a_network_too_large_to_be_copied_is_not(monkeypatch):
    monkeypatch.setattr(twin, "MOST_BYTES", 100)
    assert {test["says"] for test in shown(Training(mlp(), points())).values()} == {
        "MemoryError: the network is too large to be copied"
    }


def test_nothing_of_the_training_changes_and_nothing_is_printed(capsys):
    def spoken(x: Tensor) -> Tensor:
        print("shape", x.shape)
        return x

    net = Changed(normed(), before=spoken)
    training = Training(net, points())
    before, batch = copy.deepcopy(net.state_dict()), training.batches[0].args[0].clone()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    shown(training)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.equal(batch, training.batches[0].args[0])
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    assert not capsys.readouterr().out


def replaced(net: Any) -> Any:
    """What libraries do that wrap a network in place."""
    plain = net.forward
    net.forward = lambda x: 2 * plain(x)
    return net


def hooked(net: Any) -> Any:
    net.kept = kept = []
    net[0].register_forward_hook(lambda module, args, out: kept.append(out))
    return net


@pytest.mark.parametrize("change", [replaced, hooked])
def test_a_copy_that_would_reach_back_into_the_training_is_not_used(change):
    net = change(normed())
    before = copy.deepcopy(net.state_dict())
    results = shown(Training(net, points()))
    assert {test["ok"] for test in results.values()} == {None}
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not getattr(net, "kept", [])


def test_hooks_of_pytorch_are_copied_along():
    net = mlp()
    net[0] = nn.utils.spectral_norm(net[0])
    assert shown(Training(net, points()))["batch_independence"]["ok"] is True


def test_a_compiled_network_is_tested_as_what_was_compiled():
    net: Any = torch.compile(mlp(nn.Identity), backend="eager")
    assert shown(Training(net, points()))["affine"]["ok"] is False
    assert all(parameter.grad is None for parameter in net.parameters())


def test_initial_values_are_told_from_trained_ones():
    layer = nn.Linear(32, 32)
    assert at_initial_values(layer.weight)
    with torch.no_grad():
        layer.weight.add_(0.02 * torch.randn_like(layer.weight))
    assert not at_initial_values(layer.weight)
