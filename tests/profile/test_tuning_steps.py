"""Tuned training steps against plain ones: loss and gradient, computed here by hand, and what a recipe then says."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import fieldguide as fg
from fieldguide.profile.tuning.candidate import Choice, Subject
from fieldguide.profile.tuning.depthwise import Fp32Depthwise
from fieldguide.profile.tuning.layout import ChannelsLast
from fieldguide.profile.tuning.memory import KeptMemory, keep_memory
from fieldguide.profile.tuning.precision import Autocast, Products
from fieldguide.profile.tuning.surroundings import Threads
from fieldguide.profile.tuning.training import Fused, Reference, TrainingStep, adamw

EXACT: list[Choice] = [
    (Fused(),),
    (ChannelsLast(),),
    (Products("medium"),),
    (Threads(1), KeptMemory()),
]


@pytest.fixture(autouse=True)
def usual_memory() -> Iterator[None]:
    yield
    keep_memory(False)


def losses(model: nn.Module, batch: Any) -> Iterator[torch.Tensor]:
    x, y = batch
    yield cross_entropy(model(x), y)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(6, 3, 8, 8), torch.randint(4, (6,))


def reference(model: nn.Module, tolerance: float) -> Reference:
    plain, nearby = (TrainingStep(model, batch(), losses, (), adamw) for _ in range(2))
    return Reference(plain, nearby, tolerance)


@pytest.mark.parametrize("chosen", EXACT, ids=str)
def test_a_step_is_the_same_step(chosen: Choice) -> None:
    """By hand: loss, gradient, and AdamW's weights."""
    model = network()
    hand = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(hand.parameters(), lr=1e-6)
    loss = cross_entropy(hand(batch()[0]), batch()[1])
    loss.backward()
    optimizer.step()
    assert reference(model, 1e-4).error(TrainingStep(model, batch(), losses, chosen, adamw)) < 1e-5
    step = TrainingStep(model, batch(), losses, chosen, adamw)
    assert step() == pytest.approx(loss.item(), rel=1e-6)
    for ours, theirs in zip(step.network.parameters(), hand.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-9)


def test_a_gradient_that_leads_uphill_is_none_however_sensitive_the_network() -> None:
    model = network()
    judge = reference(model, 1e-2)
    judge.reach = float("inf")
    nothing, other = (copy.deepcopy(judge) for _ in range(2))
    other.gradient = [-g for g in judge.gradient]
    nothing.gradient = [torch.zeros_like(g) for g in judge.gradient]
    step = TrainingStep(model, batch(), losses, (), adamw)
    assert judge.error(copy.deepcopy(step)) == 0
    assert other.error(copy.deepcopy(step)) == nothing.error(step) == float("inf")


def test_depthwise_convolutions_in_fp32_under_autocast() -> None:
    torch.manual_seed(0)
    depthwise = nn.Conv2d(8, 8, 3, stride=2, groups=8)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), depthwise, nn.ReLU(), nn.Flatten(), nn.Linear(32, 4))
    chosen, (x, _) = (Autocast(), Fp32Depthwise()), batch()
    step, seen = TrainingStep(model, batch(), losses, chosen, adamw), []
    layer = next(module for module in step.network.modules() if isinstance(module, nn.Conv2d) and module.groups > 1)
    layer.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    assert 0 < reference(model, 1e-2).error(step) < 1e-2
    assert set(seen) == {(torch.float32, torch.float32)}
    assert all(w.dtype == torch.float32 for w in step.network.parameters())
    subject = Subject(model, (x,), x.device, training=True)
    assert Fp32Depthwise().refusal(subject, ()) == "nothing is in 16 bits"
    assert Fp32Depthwise().refusal(subject, (Autocast(),)) is None
    plain = Subject(network(), (x,), x.device, training=True)
    assert Fp32Depthwise().refusal(plain, (Autocast(),)) == "no depthwise convolution"


def test_a_wrong_gradient_is_seen() -> None:
    model, tolerance = network(), 1e-2
    judge = reference(model, tolerance)

    def other_loss(model: nn.Module, batch: Any) -> Iterator[torch.Tensor]:
        x, y = batch
        yield cross_entropy(model(x), y) * 1.1

    def same_loss_other_gradient(model: nn.Module, batch: Any) -> Iterator[torch.Tensor]:
        x, y = batch
        loss = cross_entropy(model(x), y)
        yield loss.detach() + (loss - loss.detach()) * 2

    def uphill(model: nn.Module, batch: Any) -> Iterator[torch.Tensor]:
        x, y = batch
        loss = cross_entropy(model(x), y)
        yield 2 * loss.detach() - loss

    for wrong in (other_loss, same_loss_other_gradient, uphill):
        assert judge.error(TrainingStep(model, batch(), wrong, (), adamw)) > tolerance
    assert 1e-6 < judge.error(TrainingStep(model, batch(), losses, (Autocast(),), adamw)) < tolerance


def test_dropout_does_not_stand_in_the_way() -> None:
    model = nn.Sequential(network(), nn.Dropout(0.5))
    judge = reference(model, 1e-4)
    assert judge.random
    assert judge.error(TrainingStep(model, batch(), losses, (ChannelsLast(),), adamw)) < 1e-5


def test_a_tuned_training_leaves_everything_as_it_was() -> None:
    model, (x, _) = network().eval(), batch()
    before, drawn = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    found = fg.tune(model, x, 1e-2, train=True, seconds=0.3, compile_seconds=0.0)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not model.training
    assert found.model is model
    assert found.speedup >= 1
    assert found.error <= 1e-2
    assert found.recipe.keys() <= {"precision", "memory_format", "matmul_precision", "threads", "keep_memory"}
    assert (found.step is None) == (found.settings == ())
    assert fg.Recipe(**found.recipe)


@pytest.mark.parametrize(
    ("model", "example", "words"),
    [
        (nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 2)), torch.randn(2, 3), ["layer '1' (Linear)", "(2, 4)"]),
        (nn.ReLU(), torch.randn(2, 3), ["has no parameter that can be trained"]),
        (nn.Linear(3, 4), torch.full((2, 3), float("inf")), ["is not finite"]),
    ],
)
def test_a_mistake_is_explained(model: nn.Module, example: torch.Tensor, words: list[str]) -> None:
    with pytest.raises(fg.FieldguideError) as problem:
        fg.tune(model, example, train=True, seconds=0.3, compile_seconds=0.0)
    assert not [word for word in words if word not in str(problem.value)], problem.value
