"""Loading into a model: everything fits or nothing changes, and the error says what would help."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet, resnet18, resnet50, wide_resnet50_2

from fieldguide.errors import DamagedFile, FieldguideError
from fieldguide.models import create_model, save_model
from fieldguide.weights import export_weights, load_weights, save_weights
from fieldguide.weights.adapt import Wanted, first_convolution
from fieldguide.weights.family import Family
from fieldguide.weights.layouts import best_fit
from fieldguide.weights.rows import split, tied, transpose
from fieldguide.weights.table import Table


@pytest.fixture(scope="module")
def published():
    """A checkpoint of resnet18 in torchvision's names; read only."""
    return resnet18().state_dict()


def snapshot(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_refused(model, source, match, error=FieldguideError, **options):
    """One line, and a model that did not change."""
    before = snapshot(model)
    with pytest.raises(error, match=match) as caught:
        load_weights(model, source, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_report_accounts_for_every_tensor(published):
    model = create_model("resnet18")
    report = load_weights(model, published)
    assert report.layout == "torchvision"
    assert set(report.loaded) == model.state_dict().keys()
    assert (report.adapted, report.kept, report.ignored) == ({}, {}, {})
    assert str(report) == "122 tensors from a state dict (torchvision layout)"


def test_the_models_dtype_stays_and_values_are_converted(published):
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in published.items()}
    model = create_model("resnet18").double()
    load_weights(model, half)
    assert model.head.weight.dtype == torch.float64
    assert torch.equal(model.head.weight, half["fc.weight"].double())


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "net.backbone."])
def test_what_wrappers_put_before_every_name_does_not_matter(published, prefix):
    model = create_model("resnet18")
    assert load_weights(model, {prefix + name: tensor for name, tensor in published.items()}).layout == "torchvision"
    assert torch.equal(model.head.bias, published["fc.bias"])


def test_files_from_before_batches_were_counted(published):
    old = {name: tensor for name, tensor in published.items() if not name.endswith("num_batches_tracked")}
    report = load_weights(create_model("resnet18"), old)
    assert len(report.kept) == 20
    assert set(report.kept.values()) == {"older files do not count batches"}


def test_our_own_files_and_models_outside_the_catalog(tmp_path):
    model = create_model("resnet_mini")
    save_model(model, tmp_path / "saved")
    other = create_model("resnet_mini")
    assert load_weights(other, tmp_path / "saved").layout == "fieldguide"
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    mine = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    assert (
        load_weights(mine, {"model": nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)).state_dict()}).layout
        == "fieldguide"
    )
    assert_refused(
        mine, {"0.weight": torch.ones(3, 2)}, r"does not fit Sequential: 3 missing \(0.bias, 1.weight, 1.bias\)"
    )
    with pytest.raises(FieldguideError, match=r"unknown layout 'torchvision'"):
        export_weights(mine)


def test_a_model_that_ties_two_names_needs_the_tensor_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(5, 3)
            self.head = nn.Linear(3, 5, bias=False)
            self.head.weight = self.tokens.weight

    model = Tied()
    values = torch.randn(5, 3)
    load_weights(model, {"tokens.weight": values})
    assert torch.equal(model.head.weight, values)


# ------------------------------------------------------------------------------------------------------ what is wrong


def test_another_size_is_named(published):
    assert_refused(
        create_model("resnet34"), published, "80 missing .*layer1.2.conv1.weight.*looks like resnet18 in torchv"
    )
    assert_refused(create_model("resnet18"), resnet50().state_dict(), "surplus .*it looks like resnet50 in torchvision")
    assert_refused(
        create_model("resnet50"), wide_resnet50_2().state_dict(), "it looks like wide_resnet50_2 in torchvision"
    )
    assert_refused(create_model("resnet50"), published, "it looks like resnet18", strict=False)
    tiny = ResNet(BasicBlock, [1, 1, 1, 1]).state_dict()
    assert_refused(
        create_model("resnet18"), tiny, "it looks like a resnet of 5,418,792 parameters in torchvision layout"
    )


def test_another_architecture_is_named_or_confessed_unknown(published):
    assert_refused(
        create_model("lenet5"), published, "does not fit lenet5: .*it looks like resnet18 in torchvision layout"
    )
    assert_refused(create_model("resnet18"), {"encoder.0.kernel": torch.ones(3)}, "its names are of no known layout")


def test_missing_and_surplus_tensors_are_listed_in_the_files_own_words(published):
    model = create_model("resnet18")
    less = {name: tensor for name, tensor in published.items() if "layer4.1.bn2" not in name}
    assert_refused(model, less, r"4 missing \(layer4.1.bn2.weight, layer4.1.bn2.bias, .*and 1 more\)")
    more = published | {"ema.decay": torch.ones(1)}
    assert_refused(model, more, r"does not fit resnet18: 1 surplus \(ema.decay\)")
    assert_refused(model, more, r"1 surplus \(ema.decay\)", strict=False)


def test_shapes_are_named_on_both_sides(published):
    model = create_model("resnet18")
    other = published | {"layer1.0.conv1.weight": torch.ones(64, 64, 1, 1)}
    assert_refused(model, other, r"layer1.0.conv1.weight is \(64, 64, 1, 1\) in the checkpoint, \(64, 64, 3, 3\) here")
    assert_refused(model, other, r"layer1.0.conv1.weight is", strict=False)
    whole_numbers = published | {"layer1.0.conv1.weight": torch.ones(64, 64, 3, 3, dtype=torch.int8)}
    assert_refused(model, whole_numbers, r"\(64, 64, 3, 3\) of int8 in the checkpoint")


def test_the_layout_can_be_demanded_and_misspelt(published):
    model = create_model("resnet18")
    assert load_weights(model, published, layout="timm").layout == "timm"
    assert_refused(model, published, "looks like resnet18 in torchvision", layout="transformers")
    assert_refused(model, published, "unknown layout 'torchvison'; did you mean 'torchvision'", layout="torchvison")
    assert_refused(model, published, "unknown family 'resnets'; did you mean 'resnet'", family="resnets")


def test_values_that_are_no_numbers_are_named(published):
    model = create_model("resnet18")
    for value in (float("nan"), float("inf")):
        broken = published | {"layer2.0.bn1.bias": torch.full((128,), value)}
        assert_refused(model, broken, "NaN or infinite values in layer2.0.bn1.bias", DamagedFile)
        assert_refused(model, broken, "NaN or infinite values in layer2.0.bn1.bias", DamagedFile, strict=False)
    one = published["layer1.0.conv1.weight"].clone()
    one[3, 1, 2, 2] = float("nan")
    assert_refused(model, published | {"layer1.0.conv1.weight": one}, "in layer1.0.conv1.weight", DamagedFile)


def test_large_finite_values_are_no_mistake():
    model = nn.Linear(4, 4).half()
    load_weights(
        model, {"weight": torch.full((4, 4), 60000.0).half(), "bias": torch.zeros(4).half()}
    )  # the sum overflows
    assert model.weight.max() == 60000


def test_tied_names_that_differ_are_refused():
    family = Family(name="toy", layouts={"toy": (Table({"wte": "tokens", "lm_head": tied("wte")}),)})
    ours = {"tokens": torch.zeros(2, 2)}
    same = best_fit({"wte": torch.ones(2, 2), "lm_head": torch.ones(2, 2)}, ours, family, None)
    assert torch.equal(same.values()["tokens"], torch.ones(2, 2))
    different = best_fit({"wte": torch.ones(2, 2), "lm_head": torch.zeros(2, 2)}, ours, family, None)
    with pytest.raises(FieldguideError, match="two tensors, lm_head and wte, where this model has one"):
        different.values()


def test_shapes_decide_between_layouts_of_the_same_names():
    """As with GPT-2's, whose matrices some files hold transposed."""
    layouts = {"linear": (Table({"fc": "head"}),), "conv1d": (Table({"fc": transpose("head")}),)}
    family, ours = Family(name="toy", layouts=layouts), {"head": torch.zeros(4, 2)}
    for shape, layout in [((4, 2), "linear"), ((2, 4), "conv1d")]:
        fit = best_fit({"fc": torch.ones(shape)}, ours, family, None)
        assert (fit.layout, fit.distance) == (layout, (0, 0))


def test_a_fused_tensor_that_cannot_be_split_is_misshapen_and_not_a_crash():
    table = Table({"qkv": split("{part}", "q", "k", "v")})
    family, ours = Family(name="toy", layouts={"toy": (table,)}), {name: torch.zeros(2) for name in "qkv"}
    assert best_fit({"qkv": torch.ones(7)}, ours, family, None).misshapen == ["q", "k", "v"]


# ------------------------------------------------------------------------------------------------------- fine-tuning


def test_another_head_is_kept_when_allowed_and_explained_when_not(published):
    model = create_model("resnet18", num_classes=10)
    advice = r"fc.weight is \(1000, 512\) .*; create the model with num_classes=1000 or pass strict=False to keep"
    assert_refused(model, published, advice)
    head = model.head.weight.clone()
    report = load_weights(model, published, strict=False)
    assert torch.equal(model.head.weight, head)
    assert torch.equal(model.stem[0].conv.weight, published["conv1.weight"])
    assert report.kept.keys() == {"head.weight", "head.bias"}
    assert len(report.loaded) == 120


def test_a_checkpoint_without_a_head_or_with_a_broken_one(published):
    model = create_model("resnet18")
    backbone = {name: tensor for name, tensor in published.items() if not name.startswith("fc.")}
    assert_refused(model, backbone, r"2 missing \(fc.weight, fc.bias\); pass strict=False to keep the model's own head")
    assert load_weights(model, backbone, strict=False).kept == dict.fromkeys(
        ["head.weight", "head.bias"], "not in the checkpoint"
    )
    damaged = published["fc.weight"].clone()
    damaged[0, 0] = float("nan")
    broken = published | {"fc.weight": damaged}
    assert_refused(model, broken, "NaN .* in fc.weight; pass strict=False", DamagedFile)
    report = load_weights(model, broken, strict=False)
    assert report.kept == {"head.weight": "NaN or infinite in the checkpoint"}
    assert "kept our own head.weight: NaN" in str(report)


def test_a_file_of_features_only_says_so(published):
    """torchvision publishes VGG16 with a classifier of nothing but NaN."""
    nothing = {name: torch.full_like(published[name], float("nan")) for name in ("fc.weight", "fc.bias")}
    model = create_model("resnet18")
    head = model.head.weight.clone()
    with pytest.warns(UserWarning, match=r"holds features only: fc.weight, fc.bias are nothing but NaN") as caught:
        report = load_weights(model, published | nothing)
    assert "\n" not in str(caught[0].message)
    assert report.kept.keys() == {"head.weight", "head.bias"}
    assert torch.equal(model.head.weight, head)
    assert torch.equal(model.stem[0].conv.weight, published["conv1.weight"])


@pytest.mark.parametrize("in_channels", [1, 2, 4, 6, 7])
def test_the_first_convolution_is_adapted_when_allowed(published, in_channels):
    model = create_model("resnet18", in_channels=in_channels)
    assert_refused(model, published, "conv1.weight is .*pass strict=False to adapt stem.0.conv.weight")
    report = load_weights(model, published, strict=False)
    assert report.adapted.keys() == {"stem.0.conv.weight"}
    assert torch.equal(
        model.stem[0].conv.weight,
        first_convolution(published["conv1.weight"], Wanted(values=model.stem[0].conv.weight)),
    )


def test_a_grey_image_sees_what_it_saw_as_three_equal_channels():
    weight, grey = torch.randn(8, 3, 7, 7, dtype=torch.float64), torch.randn(2, 1, 16, 16, dtype=torch.float64)
    one = first_convolution(weight, Wanted(values=torch.empty(8, 1, 7, 7)))
    torch.testing.assert_close(torch.conv2d(grey, one), torch.conv2d(grey.expand(-1, 3, -1, -1), weight))


@pytest.mark.parametrize("in_channels", [1, 3, 6, 9])
def test_a_uniform_image_keeps_the_size_of_its_response(in_channels):
    weight = torch.randn(8, 3, 5, 5, dtype=torch.float64)
    adapted = first_convolution(weight, Wanted(values=torch.empty(8, in_channels, 5, 5)))
    torch.testing.assert_close(adapted.sum((1, 2, 3)), weight.sum((1, 2, 3)))


def test_another_kernel_is_no_adaptation(published):
    assert first_convolution(torch.ones(8, 3, 7, 7), Wanted(values=torch.empty(8, 1, 3, 3))) is None
    assert first_convolution(torch.ones(8, 3, 7, 7), Wanted(values=torch.empty(4, 1, 7, 7))) is None


def test_a_model_on_the_meta_device_gets_its_memory_from_the_checkpoint(published):
    with torch.device("meta"):
        model = create_model("resnet18").to(torch.bfloat16)
        headless = create_model("resnet18", num_classes=3)
    load_weights(model, published)
    assert model.head.weight.dtype == torch.bfloat16
    assert model.head.weight.requires_grad
    assert torch.equal(model.head.weight, published["fc.weight"].bfloat16())
    assert model.head.weight.data_ptr() != published["fc.weight"].data_ptr()
    with pytest.raises(FieldguideError, match=r"gets no values for head\.weight"):
        load_weights(headless, published, strict=False)


# ------------------------------------------------------------------------------------------------------------ export


def test_what_is_saved_is_what_was_loaded(published, tmp_path):
    model = create_model("resnet18")
    load_weights(model, published)
    save_weights(model, tmp_path / "resnet18.safetensors")
    again = create_model("resnet18")
    load_weights(again, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert [path.name for path in tmp_path.iterdir()] == ["resnet18.safetensors"]
    with pytest.raises(FieldguideError, match=r"must end in \.safetensors"):
        save_weights(model, tmp_path / "resnet18.pth")


def test_an_export_that_a_layout_has_no_names_for_is_refused():
    with pytest.raises(
        FieldguideError, match=r"cannot be written in torchvision layout: it has no name for stem\.conv\.weight"
    ):
        export_weights(create_model("resnet_mini"))
    with pytest.raises(FieldguideError, match="unknown layout 'torchvisoin'; did you mean 'torchvision'"):
        export_weights(create_model("resnet18"), "torchvisoin")


def test_loading_does_not_hold_on_to_the_file(tmp_path, published):
    path = tmp_path / "m.safetensors"
    save_file(published, path)
    model = create_model("resnet18")
    load_weights(model, path)
    before = model.head.weight.clone()
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(model.head.weight, before)
