"""What holds for every network in the catalog; a new row is tested by being there.

Image classifiers are here, and what holds for all; networks for text in ``test_every_text_model.py``.
"""

import math

import pytest
import torch

from fieldguide import catalog
from fieldguide.models import create_model, load_model, save_model
from fieldguide.profile import layer_table

SIZES = [(name, count) for row in catalog.ARCHITECTURES for name, count in row.sizes.items()]
MINIS = {row.family: row for row in catalog.ARCHITECTURES if row.task == "classify"}

each_mini = pytest.mark.parametrize("family", MINIS)


def mini(family):
    torch.manual_seed(0)
    model = create_model(f"{family}_mini")
    side = MINIS[family].mini_image[1]
    return model, torch.randn(4, model.config.in_channels, side, side)


@pytest.mark.parametrize(("name", "count"), SIZES, ids=[name for name, _ in SIZES])
def test_every_size_has_exactly_the_published_number_of_parameters(name, count):
    with torch.device("meta"):
        model = create_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


@pytest.mark.parametrize("row", catalog.ARCHITECTURES, ids=lambda row: row.family)
def test_the_mini_is_small(row):
    assert row.sizes[f"{row.family}_mini"] <= 150_000


@each_mini
def test_output_has_one_logit_per_class_and_gradients_reach_everything(family):
    model, x = mini(family)
    logits = model(x)
    assert logits.shape == (4, model.config.num_classes)
    torch.nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} takes no part in the output"
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), f"{name} has a zero gradient"


@each_mini
def test_takes_the_smallest_image_that_the_catalog_promises(family):
    smallest = MINIS[family].mini_image[0]
    fields = create_model(f"{family}_mini").config.__dataclass_fields__
    sized = {"image_size": smallest} if "image_size" in fields else {}
    model = create_model(f"{family}_mini", in_channels=3, num_classes=2, **sized)
    assert model(torch.randn(2, 3, smallest, smallest)).shape == (2, 2)


@each_mini
def test_save_and_load_are_bit_identical(family, tmp_path):
    model, x = mini(family)
    model(x)  # moves running statistics, if there are any
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.config == model.config
    assert torch.equal(loaded(x), model.eval()(x))


@each_mini
def test_evaluation_treats_every_sample_by_itself(family):
    model, x = mini(family)
    model.double().eval()
    x = x.double()
    torch.testing.assert_close(model(x), torch.cat([model(one) for one in x.split(1)]), rtol=0, atol=1e-10)
    torch.testing.assert_close(model(x.flip(0)), model(x).flip(0), rtol=0, atol=1e-10)


@each_mini
def test_the_same_seed_builds_the_same_weights(family):
    one, other = mini(family)[0], mini(family)[0]
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@each_mini
def test_features_are_maps_finest_first_as_feature_info_says(family):
    model, x = mini(family)
    maps = model.eval().features(x)
    assert [m.shape[1] for m in maps] == [info.channels for info in model.feature_info]
    strides = [info.stride for info in model.feature_info]
    assert strides == sorted(strides)
    # A map grows by one pixel when the image grows by the stride, whatever is lost at the borders.
    side, step = x.shape[-1], max(strides)
    fields = model.config.__dataclass_fields__
    larger = create_model(f"{family}_mini", image_size=side + step).eval() if "image_size" in fields else model
    grown = larger.features(torch.randn(1, x.shape[1], side + step, side + step))
    for before, after, stride in zip(maps, grown, strides, strict=True):
        assert after.shape[-1] - before.shape[-1] == step // stride
        assert before.shape[-1] <= math.ceil(side / stride)


@each_mini
def test_exports(family):
    model, x = mini(family)
    program = torch.export.export(model.eval(), (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    for batch in (x, x[:1], torch.cat([x, x])):
        torch.testing.assert_close(program(batch), model(batch), rtol=1e-5, atol=1e-5)


@each_mini
def test_the_layer_table_agrees_with_the_catalog(family):
    model, x = mini(family)
    table = layer_table(model, x)
    assert table.total.parameters == MINIS[family].sizes[f"{family}_mini"]
    assert table.total.flops > 0
    assert table.total.output == (4, model.config.num_classes)
