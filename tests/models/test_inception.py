"""GoogLeNet and Inception v3 against torchvision's, in float64 with the same weights."""

import pytest
import torch
from torch import nn
from torchvision.models import get_model

from fieldguide.errors import FieldguideError
from fieldguide.models import create_model
from fieldguide.models.heads import reset_head
from fieldguide.objectives import Classification
from fieldguide.weights import load_weights

MEAN, STD = (
    torch.tensor(numbers, dtype=torch.float64)[:, None, None]
    for numbers in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
)


@torch.no_grad()
def pair(name: str, side: int, **theirs):
    """torchvision's network with batch statistics of real activations, and ours with its weights; neither drops out."""
    torch.manual_seed(0)
    auxiliary = theirs["aux_logits"]
    oracle = get_model(name, weights=None, init_weights=False, dropout=0.0, **theirs).double()
    for module in oracle.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.2)
    oracle(torch.randn(3, 3, side, side, dtype=torch.float64))
    ours = create_model(name, auxiliary=auxiliary, dropout=0.0, auxiliary_dropout=0.0).double()
    load_weights(ours, oracle.state_dict())
    return ours.eval(), oracle.eval()


def assert_close(ours, theirs):
    assert (ours - theirs).norm() / theirs.norm() < 1e-10


def check_deep_supervision(name: str, side: int, **theirs):
    """Also the gradients, which reach every parameter."""
    ours, oracle = pair(name, side, aux_logits=True, **theirs)
    x = torch.randn(2, 3, side, side, dtype=torch.float64)
    found, expected = ours.train().deep_supervision(x), oracle.train()(x)
    by_depth = [expected[0], *expected[:0:-1]]  # torchvision gives the deepest auxiliary logits first
    assert len(found) == len(by_depth)
    for mine, their in zip(found, by_depth, strict=True):
        assert_close(mine, their)
    sum(logits.square().sum() for logits in found).backward()
    sum(logits.square().sum() for logits in by_depth).backward()
    theirs_by_shape = sorted(p.grad.norm().item() for p in oracle.parameters())
    assert sorted(p.grad.norm().item() for p in ours.parameters()) == pytest.approx(theirs_by_shape, rel=1e-8)


def test_deep_supervision_of_googlenet_equals_torchvisions():
    check_deep_supervision("googlenet", 64, dropout_aux=0.0)


@pytest.mark.slow
def test_deep_supervision_of_inception_v3_equals_torchvisions():
    check_deep_supervision("inception_v3", 299)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_pixels_from_minus_one_to_one_are_what_torchvisions_transform_makes(name):
    """With ``weights=``, torchvision remaps ImageNet-normalised images; ours are given remapped ones."""
    ours, oracle = pair(name, 80, aux_logits=False)
    pixels = torch.rand(2, 3, 80, 80, dtype=torch.float64)
    with torch.no_grad():
        oracle.transform_input = True
        expected = oracle((pixels - MEAN) / STD)
        assert_close(ours((pixels - 0.5) / 0.5), expected)
        assert (ours((pixels - MEAN) / STD) - expected).norm() / expected.norm() > 1e-3, "the remapping matters"


@pytest.mark.parametrize(("name", "smallest"), [("googlenet", 15), ("inception_v3", 75)])
def test_too_small_images_are_refused_in_one_line_and_the_smallest_are_just_enough(name, smallest):
    model = create_model(name).eval()
    with pytest.raises(FieldguideError, match=rf"Inception takes images .* at least {smallest} pixels, got"):
        model(torch.zeros(1, 3, 200, smallest - 1))
    assert model(torch.zeros(1, 3, smallest, smallest)).shape == (1, 1000)
    assert [tuple(logits.shape) for logits in model.deep_supervision(torch.zeros(1, 3, smallest, smallest))] == [
        (1, 1000)
    ] * (1 + len(model.auxiliary))
    with pytest.raises(RuntimeError):  # one pixel less leaves nothing
        model.stages(model.stem(torch.zeros(1, 3, smallest - 1, smallest - 1)))


@pytest.mark.parametrize(("version", "smallest"), [(1, 2), (3, 7)])
def test_the_stem_for_small_images(version, smallest):
    model = create_model("inception_mini", version=version).eval()
    assert model(torch.zeros(1, 1, smallest, smallest)).shape == (1, 10)
    with pytest.raises(FieldguideError, match=f"at least {smallest} pixels"):
        model(torch.zeros(1, 1, smallest - 1, smallest - 1))


@pytest.mark.parametrize(
    ("name", "side", "sides"), [("googlenet", 224, (28, 14, 7)), ("inception_v3", 299, (35, 17, 8))]
)
def test_maps_have_the_sizes_of_the_papers_table(name, side, sides):
    with torch.device("meta"):
        maps = create_model(name).eval().features(torch.empty(1, 3, side, side))
    assert tuple(m.shape[-1] for m in maps) == sides


def test_a_module_keeps_the_order_of_its_branches():
    """2015, table 1, row 3a: 64 + 128 + 32 + 32 channels."""
    module = create_model("googlenet", auxiliary=False).stages[0].get_submodule("3a").eval()
    x = torch.randn(1, 192, 8, 8)
    parts = module(x).split([64, 128, 32, 32], dim=1)
    for branch, part in zip(module, parts, strict=True):
        assert torch.equal(branch(x), part)


def test_the_objective_trains_the_auxiliary_classifiers_of_the_mini():
    torch.manual_seed(0)
    model = create_model("inception_mini", auxiliary=True)
    (phase,) = Classification().step(model, (torch.randn(8, 1, 16, 16), torch.arange(8)))
    phase.loss.backward()
    assert list(model.auxiliary) == ["4a", "4d"]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_evaluation_does_not_see_the_auxiliary_classifiers():
    model = create_model("inception_mini", auxiliary=True).eval()
    x = torch.randn(2, 1, 16, 16)
    expected = model(x)
    nn.init.constant_(model.auxiliary["4a"][-1].bias, float("nan"))
    assert torch.equal(model(x), expected)
    assert torch.equal(model.train().eval().deep_supervision(x)[0], expected)


def test_width_multiplies_every_number_of_the_table():
    whole, half = (create_model("inception_v3", width=width).state_dict() for width in (1.0, 0.5))
    for name, tensor in half.items():
        if name.endswith("conv.weight"):
            assert len(tensor) * 2 == len(whole[name]), name


def test_a_new_head_means_new_auxiliary_heads():
    model = reset_head(create_model("inception_mini", auxiliary=True), 3)
    assert [logits.shape for logits in model.deep_supervision(torch.randn(2, 1, 16, 16))] == [(2, 3)] * 3
