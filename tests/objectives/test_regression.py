import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes
from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.objectives import Regression
from fieldguide.train import Recipe, fit
from fieldguide.train.recipe import OptimizerRecipe


def _batch(seed=0, b=7, t=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, b, t, dtype=torch.float64, generator=generator) * 3


def _loss(objective, output, targets):
    (phase,) = objective.step(nn.Identity(), (output, targets))
    assert phase.parameters == "model"
    return phase.loss


@given(st.integers(0, 1000), st.floats(0.1, 5), st.floats(0.01, 100))
def test_losses_are_their_equations(seed, delta, unit):
    output, targets = _batch(seed)
    r = (output - targets) / unit
    small = r.abs() <= delta
    expected = {
        "mse": r**2,
        "mae": r.abs(),
        "huber": torch.where(small, r**2 / 2, delta * (r.abs() - delta / 2)),
    }
    for name, errors in expected.items():
        ours = _loss(Regression(name, delta, (unit,)), output, targets)
        assert ours.item() == pytest.approx(errors.mean().item(), rel=1e-12)


@given(st.integers(0, 1000))
def test_gaussian_is_the_density_of_torch_without_its_constant(seed):
    mean, targets = _batch(seed)
    log_variance, _ = _batch(seed + 1)
    output = torch.cat([mean, log_variance], 1)
    density = torch.distributions.Normal(mean, (log_variance / 2).exp()).log_prob(targets)
    constant = torch.log(torch.tensor(2 * torch.pi, dtype=torch.float64)) / 2
    ours = _loss(Regression("gaussian"), output, targets)
    assert ours.item() == pytest.approx(-(density + constant).mean().item(), rel=1e-9, abs=1e-12)
    theirs = nn.GaussianNLLLoss()(mean, targets, log_variance.exp())
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-4)  # theirs holds the variance above 1e-6


def test_gaussian_learns_the_mean_and_the_noise_of_either_half():
    x = torch.arange(256, dtype=torch.float64).remainder(2)[:, None]
    targets = (2 * x + torch.randn(256, 1, dtype=torch.float64) * torch.where(x < 0.5, 0.1, 1.0))[:, 0]
    model = nn.Linear(1, 2).double()
    optimizer = OptimizerRecipe(lr=0.2, weight_decay=0.0)
    recipe = Recipe(epochs=400, batch_size=256, clip=0.0, threads=1, optimizer=optimizer)
    fit(model, ((x, targets), None), Regression("gaussian"), recipe)
    for half in (0.0, 1.0):
        mean, log_variance = model(torch.tensor([half], dtype=torch.float64)).tolist()
        there = targets[x[:, 0] == half]
        assert mean == pytest.approx(there.mean().item(), abs=0.01)
        assert log_variance == pytest.approx(there.var(correction=0).log().item(), abs=0.02)


def test_an_outlier_pulls_huber_no_harder_than_delta():
    output, targets = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True), torch.tensor([0.5, 1e6]).double()
    _loss(Regression("huber", delta=2.0), output, targets).backward()
    assert output.grad.tolist() == [[-0.25], [-1.0]]  # a mean of two


def test_units_make_the_loss_independent_of_the_scale():
    output, targets = _batch()
    scale = torch.tensor([1.0, 10.0, 1000.0], dtype=torch.float64)
    for loss in ("mse", "mae", "huber"):
        plain = _loss(Regression(loss), output, targets)
        scaled = _loss(Regression(loss, units=tuple(scale.tolist())), output * scale, targets * scale)
        assert scaled.item() == pytest.approx(plain.item(), rel=1e-12)


def test_a_vector_of_targets_is_one_column():
    output, targets = _batch(t=1)
    assert torch.equal(_loss(Regression(), output, targets), _loss(Regression(), output, targets[:, 0]))


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
@pytest.mark.parametrize(
    ("output", "targets", "message"),
    [
        ((4,), (4,), r"targets \(4,\) needs an output of \(4, 1\), not \(4,\)"),
        ((4, 1), (4, 2), r"targets \(4, 2\) needs an output of \(4, 2\), not \(4, 1\); give the network 2 outputs"),
        ((4, 4), (4,), r"needs an output of \(4, 1\), not \(4, 4\)"),
        ((4, 1), (4, 1, 1), r"targets \(4, 1, 1\)"),
    ],
)
def test_nothing_is_broadcast(loss, output, targets, message):
    with pytest.raises(FieldguideError, match=message):
        _loss(Regression(loss), torch.zeros(output), torch.zeros(targets))


def test_other_mistakes_get_one_line():
    with pytest.raises(FieldguideError, match=r"gaussian loss of targets \(4,\) needs an output of \(4, 2\)"):
        _loss(Regression("gaussian"), torch.zeros(4, 1), torch.zeros(4))
    with pytest.raises(FieldguideError, match="2 units for 3 targets; give one, or one for each"):
        _loss(Regression(units=(1.0, 2.0)), *_batch())
    with pytest.raises(FieldguideError, match="unknown loss 'hubber'; did you mean 'huber'"):
        Regression("hubber")
    with pytest.raises(FieldguideError, match=r"delta = 0\.0 and units = \(1\.0,\) must be above 0"):
        Regression("huber", delta=0.0)


def test_half_precision_outputs_do_not_round_the_targets():
    output, targets = torch.zeros(3, 1, dtype=torch.bfloat16), torch.tensor([1000.3, 1000.4, 1000.5])
    assert _loss(Regression("mae"), output, targets).item() == pytest.approx(1000.4, rel=1e-6)


def test_real_data_from_the_loop_to_the_metrics():
    """A straight line by gradient descent reaches the least-squares solution's error."""
    inputs, targets = (torch.from_numpy(part) for part in load_diabetes(return_X_y=True))
    inputs = inputs * 442**0.5  # columns of variance 1
    model = nn.Linear(10, 1).double()
    model.bias.data.fill_(targets.mean())
    optimizer = OptimizerRecipe(name="sgd", lr=500.0, momentum=0.9, weight_decay=0.0)
    objective = Regression(units=(targets.std().item(),))
    recipe = Recipe(epochs=80, batch_size=442, clip=0.0, threads=1, optimizer=optimizer)
    data = (inputs, targets)
    run = fit(model, (data, data), objective, recipe)
    design = torch.cat([inputs, torch.ones(442, 1, dtype=torch.float64)], 1)
    best = torch.linalg.lstsq(design, targets[:, None]).solution
    error = (design @ best - targets[:, None]).square().mean().sqrt().item()
    assert run.best == pytest.approx(error, rel=0.02)
    assert run.history[-1]["val_rmse"] == pytest.approx((model(inputs)[:, 0] - targets).square().mean().sqrt().item())
