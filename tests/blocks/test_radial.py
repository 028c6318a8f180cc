"""Output by distance: its equation, its loss, its codes."""

import pytest
import torch

from fieldguide.blocks.radial import RadialBasis, digit_codes, distant_codes
from fieldguide.errors import FieldguideError


def differences(codes):
    """In how many places each pair of codes differs."""
    return [int((one != other).sum()) for i, one in enumerate(codes) for other in codes[:i]]


def test_logits_are_minus_the_squared_distance():
    layer = RadialBasis(84, 10).double()
    x = torch.randn(3, 84, dtype=torch.float64)
    expected = [[-sum((a - b) ** 2 for a, b in zip(row, code, strict=True)) for code in layer.codes] for row in x]
    torch.testing.assert_close(layer(x), torch.tensor(expected, dtype=torch.float64))
    assert torch.equal(layer(layer.codes).diagonal(), torch.zeros(10, dtype=torch.float64))


def test_cross_entropy_is_the_papers_loss_without_rubbish():
    """Eq. 9: the distance to the right code plus the log of the sum of exp(−distance)."""
    layer = RadialBasis(84, 10).double()
    x, labels = torch.randn(4, 84, dtype=torch.float64), torch.tensor([3, 1, 4, 1])
    distances = -layer(x)
    expected = distances[range(4), labels] + torch.log(torch.exp(-distances).sum(1))
    torch.testing.assert_close(torch.nn.functional.cross_entropy(layer(x), labels), expected.mean())


def test_ten_digits_are_drawn():
    codes = digit_codes()
    assert codes.shape == (10, 84)
    assert set(codes.unique().tolist()) == {-1, 1}
    one = codes[1].unflatten(0, (12, 7))
    assert (one[:, 3] == 1).all()
    assert (one[-1] == torch.tensor([-1, 1, 1, 1, 1, 1, -1])).all()
    assert min(differences(codes)) >= 16, "two digits look too much alike"


@pytest.mark.parametrize(("classes", "least"), [(9, 34), (26, 32), (100, 29)])
def test_other_classes_get_codes_that_are_far_apart(classes, least):
    codes = distant_codes(84, classes)
    assert codes.shape == (classes, 84)
    assert set(codes.unique().tolist()) == {-1, 1}
    assert min(differences(codes)) >= least
    assert torch.equal(codes, distant_codes(84, classes))


def test_nothing_is_trained_and_another_number_of_classes_is_the_same_call():
    layer = RadialBasis(84, 10)
    assert not list(layer.parameters())
    assert layer.state_dict()["codes"].numel() == 840
    other = type(layer)(layer.in_features, 3)
    assert (other.in_features, other.out_features) == (84, 3)
    assert other(torch.randn(2, 84)).shape == (2, 3)


def test_too_few_features_are_refused():
    with pytest.raises(FieldguideError, match="RadialBasis: 3 features cannot tell 9 classes apart"):
        RadialBasis(3, 9)
