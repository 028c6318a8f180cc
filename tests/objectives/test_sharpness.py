import pytest
import torch
from torch import nn
from torch.func import functional_call

from fieldguide.errors import FieldguideError
from fieldguide.objectives import Classification, Phase
from fieldguide.objectives.sharpness import SharpnessAware, sharpness_aware


def _setting(dtype=torch.float64):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3)).to(dtype)
    return model, (torch.randn(16, 5, dtype=dtype), torch.randint(3, (16,)))


def test_the_gradient_is_that_at_the_worst_place_and_the_weights_stay():
    model, batch = _setting()
    weights = [w.detach().clone() for w in model.parameters()]
    [phase] = SharpnessAware(Classification(), 0.1).step(model, batch)
    phase.loss.backward()
    assert all(torch.equal(w, old) for w, old in zip(model.parameters(), weights, strict=True))

    twin, _ = _setting()
    here = nn.functional.cross_entropy(twin(batch[0]), batch[1])
    slopes = torch.autograd.grad(here, list(twin.parameters()))
    norm = sum(slope.square().sum() for slope in slopes).sqrt()
    with torch.no_grad():
        for w, slope in zip(twin.parameters(), slopes, strict=True):
            w.add_(0.1 * slope / norm)
    worst = nn.functional.cross_entropy(twin(batch[0]), batch[1])
    worst.backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-12)
    assert phase.loss.item() == pytest.approx(worst.item(), abs=1e-12)
    assert phase.logs["sharpness"].item() == pytest.approx((worst - here).item(), abs=1e-12)
    assert phase.logs["sharpness"] > 0


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_fifty_steps_are_the_equations(dtype, tolerance):
    model, batch = _setting(dtype)
    weights = {name: w.detach().clone() for name, w in model.named_parameters()}
    optimizer, objective = torch.optim.SGD(model.parameters(), lr=0.05), SharpnessAware(Classification(), 0.05)

    def slope(at):
        leaves = {name: w.detach().requires_grad_() for name, w in at.items()}
        loss = nn.functional.cross_entropy(functional_call(_setting(dtype)[0], leaves, batch[0]), batch[1])
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    for _ in range(50):
        optimizer.zero_grad()
        next(objective.step(model, batch)).loss.backward()
        optimizer.step()
        here = slope(weights)
        norm = sum(g.square().sum() for g in here.values()).sqrt()
        there = slope({name: w + 0.05 * here[name] / norm for name, w in weights.items()})
        weights = {name: w - 0.05 * there[name] for name, w in weights.items()}
    for name, w in model.named_parameters():
        torch.testing.assert_close(w.detach(), weights[name], rtol=0, atol=tolerance)


def test_fifty_steps_are_the_librarys():
    """Whose norm of the gradient is in single precision."""
    library = pytest.importorskip("pytorch_optimizer")
    model, batch = _setting()
    twin, _ = _setting()
    ours = torch.optim.SGD(model.parameters(), lr=0.1)
    theirs = library.SAM(twin.parameters(), torch.optim.SGD, lr=0.1, rho=0.05)
    objective = SharpnessAware(Classification(), 0.05)

    def closure():
        theirs.zero_grad()
        loss = nn.functional.cross_entropy(twin(batch[0]), batch[1])
        loss.backward()
        return loss

    for _ in range(50):
        ours.zero_grad()
        next(objective.step(model, batch)).loss.backward()
        ours.step()
        closure()
        theirs.step(closure)
    for first, second in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-7)


def test_running_statistics_see_one_pass():
    model, batch = _setting()
    twin, _ = _setting()
    next(SharpnessAware(Classification(), 5.0).step(model, batch)).loss.backward()
    twin(batch[0])
    assert model[1].num_batches_tracked == 1
    torch.testing.assert_close(model[1].running_var, twin[1].running_var)


def test_shared_and_frozen_weights():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(6, 4)
            self.inner, self.unused = nn.Linear(4, 4), nn.Linear(2, 2)
            self.inner.weight.requires_grad_(False)
            self.out = nn.Linear(4, 6, bias=False)
            self.out.weight = self.tokens.weight

        def forward(self, tokens):
            return self.out(self.inner(self.tokens(tokens)))

    model, tokens = Shared(), torch.randint(6, (12,))
    phase = next(SharpnessAware(Classification(), 0.5).step(model, (tokens, tokens)))
    phase.loss.backward()
    assert model.tokens.weight.grad.abs().max() > 0
    assert model.inner.weight.grad is None
    assert model.unused.weight.grad is None


def test_no_slope_no_way_up():
    model, batch = _setting()
    with torch.no_grad():
        loss = next(SharpnessAware(Classification(), 5.0).step(model, batch)).loss
    assert loss == next(Classification().step(model.train(), batch)).loss
    flat = nn.Linear(5, 3)
    nn.init.zeros_(flat.weight)
    still = (torch.zeros(4, 5), torch.tensor([0, 1, 2, 0]))
    assert next(SharpnessAware(Classification(), 0.1).step(flat, still)).loss.isfinite()


def test_objectives_of_several_losses_are_refused():
    class TwoParts(Classification):
        def parts(self, model):
            return {"first": model[0], "second": model[3]}

    class TwoLosses(Classification):
        def step(self, model, batch):
            yield Phase("model", model(batch[0]).square().mean())
            yield Phase("model", model(batch[0]).square().mean())

    model, batch = _setting()
    with pytest.raises(FieldguideError, match="trains one part, not first, second"):
        SharpnessAware(TwoParts(), 0.1).parts(model)
    with pytest.raises(FieldguideError, match="one loss a step"):
        next(SharpnessAware(TwoLosses(), 0.1).step(model, batch))


def test_a_radius_of_zero_is_the_objective_itself():
    objective = Classification()
    assert sharpness_aware(objective, 0.0) is objective
    assert sharpness_aware(objective, 0.1).monitor == objective.monitor
