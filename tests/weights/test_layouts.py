"""What a checkpoint looks like, over the whole catalog: judged from its names and the number of its parameters."""

import contextlib
import re
from collections.abc import Mapping

import pytest
import torch
from torch import nn

from fieldguide import catalog
from fieldguide.errors import FieldguideError
from fieldguide.models import create_model
from fieldguide.weights import export_weights
from fieldguide.weights.family import family_named, family_of
from fieldguide.weights.layouts import looks_like


def smallest(row: catalog.Architecture) -> str | None:
    """The smallest size for ImageNet, of a family with public weights."""
    published = {name: count for name, count in row.sizes.items() if count > 1_000_000}
    return min(published, key=published.__getitem__) if published and family_named(row.family).layouts else None


SMALLEST = [name for row in catalog.ARCHITECTURES if row.image and (name := smallest(row))]
TEXT = [name for row in catalog.ARCHITECTURES if not row.image and (name := smallest(row))]


@pytest.mark.parametrize("name", [*SMALLEST, "regnet_x_8gf", "regnet_y_8gf"])
def test_a_size_is_recognised_in_every_layout_with_a_head_of_its_own(name):
    """Layouts that share their names are told by the first of them, so only the size is asked for."""
    with torch.device("meta"):
        model = create_model(name, num_classes=7)
    for layout, tensors in exports(model).items():
        answer = looks_like(tensors, "lenet")
        assert answer, layout
        assert re.fullmatch(rf"{name} in \w+ layout", answer), layout


@pytest.mark.parametrize("name", TEXT)
def test_a_network_for_text_is_recognised(name):
    with torch.device("meta"):
        model = create_model(name, **({"output_bias": True} if name.startswith("transformer") else {}))
    for layout, tensors in exports(model).items():
        assert (looks_like(tensors, "lenet") or "").startswith(f"{name} in {layout} layout"), layout


def exports(model: nn.Module) -> dict[str, Mapping[str, torch.Tensor]]:
    """A model in each of its layouts; not every size has every layout."""
    found = {}
    for layout in family_of(model).layouts:
        with contextlib.suppress(FieldguideError):
            found[layout] = export_weights(model, layout)
    assert found
    return found


@pytest.mark.parametrize("name", ["resnet50", "regnet_x_8gf", "regnet_y_8gf", "vit_b_16"])
def test_a_backbone_without_its_head_is_recognised(name):
    with torch.device("meta"):
        tensors = export_weights(create_model(name))
    headless = {key: tensor for key, tensor in tensors.items() if not key.startswith(("fc.", "heads."))}
    assert len(headless) == len(tensors) - 2
    assert looks_like(headless, "lenet") == f"{name} in torchvision layout"


def test_numbers_that_are_not_the_published_ones_are_told():
    """timm's regnetx_004 has the authors' widths; torchvision's regnet_x_400mf is a little wider."""
    with torch.device("meta"):
        tensors = export_weights(create_model("regnet_x_400mf", rounding="paper"), "timm")
    expected = "regnet_x_400mf in timm layout, but with 5,157,512 parameters instead of 5,495,976"
    assert looks_like(tensors, "regnet") == expected
