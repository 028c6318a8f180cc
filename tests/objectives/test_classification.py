import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.objectives import Classification, class_weights
from fieldguide.train import Recipe, fit
from fieldguide.train.recipe import OptimizerRecipe


def _batch(seed=0, b=6, classes=4):
    torch.manual_seed(seed)
    return torch.randn(b, classes, dtype=torch.float64), torch.randint(classes, (b,))


@given(st.integers(0, 1000), st.floats(0, 0.9))
def test_loss_is_its_equation(seed, epsilon):
    logits, labels = _batch(seed)
    (phase,) = Classification(epsilon).step(nn.Identity(), (logits, labels))
    target = (1 - epsilon) * nn.functional.one_hot(labels, 4).double() + epsilon / 4
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    assert phase.loss.item() == pytest.approx(expected.item(), abs=1e-12)
    assert phase.parameters == "model"


def test_mixed_targets():
    logits, labels = _batch()
    shares = torch.softmax(torch.randn(6, 4, dtype=torch.float64), 1)
    (phase,) = Classification().step(nn.Identity(), (logits, shares))
    assert phase.loss.item() == pytest.approx(-(shares * logits.log_softmax(1)).sum(1).mean().item(), abs=1e-12)
    hard = nn.functional.one_hot(labels, 4).double()
    (as_shares,) = Classification(0.1).step(nn.Identity(), (logits, hard))
    (as_labels,) = Classification(0.1).step(nn.Identity(), (logits, labels))
    assert as_shares.loss.item() == pytest.approx(as_labels.loss.item(), abs=1e-12)


class TwoInnerClassifiers(nn.Module):
    auxiliary_weight = 0.3

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(5, 7).double(), nn.Linear(7, 4).double()
        self.inner = nn.ModuleList(nn.Linear(5, 4).double() for _ in range(2))

    def deep_supervision(self, x):
        return self(x), *(classifier(x) for classifier in self.inner)

    def forward(self, x):
        return self.head(self.body(x).relu())


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_auxiliary_classifiers_add_their_weighted_losses_and_learn(epsilon):
    model, x = TwoInnerClassifiers(), torch.randn(6, 5, dtype=torch.float64)
    labels = torch.randint(4, (6,))
    (phase,) = Classification(epsilon).step(model, (x, labels))
    target = (1 - epsilon) * nn.functional.one_hot(labels, 4).double() + epsilon / 4
    main, one, other = (-(target * logits.log_softmax(1)).sum(1).mean() for logits in model.deep_supervision(x))
    assert phase.loss.item() == pytest.approx((main + 0.3 * (one + other)).item(), abs=1e-12)
    phase.loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_without_auxiliary_classifiers_deep_supervision_is_the_plain_loss():
    model, x, labels = TwoInnerClassifiers(), torch.randn(6, 5, dtype=torch.float64), torch.randint(4, (6,))
    model.inner = nn.ModuleList()
    (phase,) = Classification().step(model, (x, labels))
    assert torch.equal(phase.loss, nn.functional.cross_entropy(model(x), labels))


def test_weight_counts_samples():
    assert Classification().weight(_batch(b=5)) == 5


# ---------------------------------------------------------------------------------------- focal and class-balanced


@given(st.integers(0, 1000), st.floats(0.01, 5), st.floats(0.05, 0.95))
def test_focal_of_two_classes_is_torchvisions(seed, gamma, alpha):
    torch.manual_seed(seed)
    z, labels = torch.randn(9, dtype=torch.float64) * 4, torch.randint(2, (9,))
    logits = torch.stack([torch.zeros_like(z), z], 1)
    (phase,) = Classification(focal=gamma, class_weights=(1 - alpha, alpha)).step(nn.Identity(), (logits, labels))
    expected = pytest.importorskip("torchvision.ops").sigmoid_focal_loss(z, labels.double(), alpha, gamma, "mean")
    assert phase.loss.item() == pytest.approx(expected.item(), rel=1e-9, abs=1e-15)


@given(st.integers(0, 1000), st.floats(0, 0.9))
def test_weights_without_focus_are_torchs_divided_by_the_samples(seed, epsilon):
    logits, labels = _batch(seed)
    weights = torch.rand(4, dtype=torch.float64) + 0.1
    (phase,) = Classification(epsilon, class_weights=tuple(weights.tolist())).step(nn.Identity(), (logits, labels))
    total = nn.functional.cross_entropy(logits, labels, weights, reduction="sum", label_smoothing=epsilon)
    assert phase.loss.item() == pytest.approx(total.item() / 6, rel=1e-12)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_gradients_are_those_of_differences_and_finite_when_all_is_certain(gamma):
    logits, labels = _batch()
    objective = Classification(0.1, focal=gamma, class_weights=(1.0, 2.0, 3.0, 4.0))

    def loss(x):
        (phase,) = objective.step(nn.Identity(), (x, labels))
        return phase.loss

    assert torch.autograd.gradcheck(loss, logits.requires_grad_())
    certain = (1000 * nn.functional.one_hot(labels, 4).float()).requires_grad_()
    (gradient,) = torch.autograd.grad(
        next(Classification(focal=gamma).step(nn.Identity(), (certain, labels))).loss, certain
    )
    assert gradient.isfinite().all()


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.sampled_from([0.3, 0.9, 0.999, 1.0]))
def test_class_weights_are_their_formula(values, balance):
    labels = torch.tensor(values)
    weights = torch.tensor(class_weights(labels, 5, balance), dtype=torch.float64)
    for label in values:
        n, other = values.count(label), values.count(values[0])
        # Σ βⁱ over i < n is the effective number of n samples; for β = 1 it is n.
        effective, reference = (sum(balance**i for i in range(count)) for count in (n, other))
        ratio = weights[label] / weights[values[0]]
        assert ratio.item() == pytest.approx(reference / effective, rel=1e-9)
    assert weights[labels].mean().item() == pytest.approx(1, rel=1e-9)
    assert not weights[sorted(set(range(5)) - set(values))].any()


def test_inverse_frequency_is_scikit_learns_balance():
    labels = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    assert class_weights(labels, 3, 1.0) == pytest.approx(expected.tolist())
    assert class_weights(labels, 3, 0.0) == ()


@given(st.integers(0, 100), st.integers(1, 5))
def test_weighted_losses_of_parts_add_up_to_the_whole(seed, cut):
    """What torch's own weighted mean does not do, as it divides by the weights it happens to meet."""
    logits, labels = _batch(seed)
    assume(labels[:cut].double().mean() != labels[cut:].double().mean())
    weights = (0.1, 1.0, 5.0, 20.0)

    def ours(x, y):
        return next(Classification(class_weights=weights).step(nn.Identity(), (x, y))).loss.item()

    def theirs(x, y):
        return nn.functional.cross_entropy(x, y, torch.tensor(weights).double()).item()

    for loss, adds_up in ((ours, True), (theirs, False)):
        parts = (cut * loss(logits[:cut], labels[:cut]) + (6 - cut) * loss(logits[cut:], labels[cut:])) / 6
        assert (parts == pytest.approx(loss(logits, labels), rel=1e-9)) == adds_up


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        ((6, 4), torch.zeros(6), r"targets \(6,\) of torch\.float32 .* labels must be whole numbers of int64"),
        ((6, 4), torch.zeros(6).int(), "labels must be whole numbers of int64"),
        ((6, 4), torch.zeros(5).long(), r"targets \(5,\) of torch\.int64 and logits \(6, 4\) do not fit"),
        ((6, 4), torch.zeros(6, 1).long(), r"targets \(6, 1\) .* do not fit"),
        ((6, 4), torch.zeros(6, 4).long(), "shares of the classes must be floats"),
        ((6, 4), torch.tensor([0, 1, 2, 3, 4, 0]), "there is a label 4, and 4 classes count from 0 to 3"),
        ((6, 4), torch.tensor([0, 1, 2, 3, -100, 0]), "there is a label -100"),
        ((6, 4), torch.full((6, 4), 0.5), "the shares of a sample must be at least 0 and sum to 1"),
        ((6, 4), torch.tensor([[1.5, -0.5, 0.0, 0.0]] * 6), "the shares of a sample must be at least 0 and sum to 1"),
        ((6,), torch.zeros(6).long(), r"logits \(6,\) do not fit"),
    ],
)
def test_what_does_not_fit_gets_one_line(logits, targets, message):
    with pytest.raises(FieldguideError, match=message):
        next(Classification().step(nn.Identity(), (torch.zeros(logits), targets)))


def test_weights_for_other_classes_are_refused():
    with pytest.raises(FieldguideError, match="3 class weights for 4 classes"):
        next(Classification(class_weights=(1.0, 1.0, 1.0)).step(nn.Identity(), _batch()))
    with pytest.raises(FieldguideError, match="needs labels between 0 and 2"):
        class_weights(torch.tensor([0, 3]), 3, 1.0)


def test_a_recipe_decides_the_loss():
    labels = torch.tensor([0, 0, 0, 1])
    objective = Classification.of(Recipe(label_smoothing=0.1, focal=2.0, class_balance=1.0), labels, 2)
    assert objective == Classification(0.1, 2.0, class_weights(labels, 2, 1.0))
    assert Classification.of(Recipe(), labels, 2) == Classification()


def test_balance_finds_a_rare_class_that_the_plain_loss_gives_up():
    """Overlapping classes of 380 and 20 samples: the plain loss almost never says the rare one."""
    torch.manual_seed(0)
    labels = torch.cat([torch.zeros(380), torch.ones(20)]).long()
    inputs = torch.randn(400, 1) + labels[:, None]
    recalls = []
    for balance in (0.0, 1.0):
        recipe = Recipe(epochs=30, batch_size=50, threads=1, class_balance=balance, optimizer=OptimizerRecipe(lr=0.05))
        model = nn.Linear(1, 2)
        fit(model, ((inputs, labels), None), Classification.of(recipe, labels, 2), recipe)
        recalls.append((model(inputs).argmax(1)[labels == 1] == 1).float().mean().item())
    assert recalls[0] < 0.2
    assert recalls[1] > 0.5
