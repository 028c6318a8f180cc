"""Every size of RegNet against the names and shapes of the libraries that publish it, without their memory."""

import pytest
import torch
from torchvision.models import get_model
from torchvision.models.regnet import BlockParams

from fieldguide.models import create_model
from fieldguide.models.vision.regnet import SIZES
from fieldguide.weights import export_weights
from fieldguide.weights.family import family_named
from fieldguide.weights.layouts import best_fit
from fieldguide.weights.loading import distinct_tensors

PUBLISHED = [name for name in SIZES if name != "regnet_mini"]
TIMM = dict(
    zip(
        PUBLISHED,
        [
            *[
                "regnetx_004_tv",
                "regnetx_008",
                "regnetx_016",
                "regnetx_032",
                "regnetx_080",
                "regnetx_160",
                "regnetx_320",
            ],
            *["regnety_004", "regnety_008_tv", "regnety_016", "regnety_032", "regnety_080_tv", "regnety_160"],
            "regnety_320",
        ],
        strict=True,
    )
)
"""timm has torchvision's widths under ``_tv`` where they differ from the authors'."""
AUTHORS = {"regnet_x_400mf": "regnetx_004", "regnet_y_800mf": "regnety_008", "regnet_y_8gf": "regnety_080"}


def assert_covered(oracle, name, layout, **overrides):
    """Each of their tensors is one of ours, of the same shape, and nothing is left on either side."""
    theirs = oracle.state_dict()
    with torch.device("meta"):
        ours = create_model(name, **overrides)
    fit = best_fit(theirs, distinct_tensors(ours), family_named("regnet"), None)
    assert (fit.layout, fit.distance) == (layout, (0, 0))
    exported = export_weights(ours, layout)
    assert {key: tensor.shape for key, tensor in exported.items()} == {
        key: tensor.shape for key, tensor in theirs.items()
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_torchvision(name, monkeypatch):
    rule = BlockParams.from_init_params

    def on_the_cpu(**numbers):
        with torch.device("cpu"):
            return rule(**numbers)

    monkeypatch.setattr(BlockParams, "from_init_params", on_the_cpu)
    with torch.device("meta"):
        oracle = get_model(name, weights=None)
    assert_covered(oracle, name, "torchvision")


@pytest.mark.parametrize(("name", "theirs"), TIMM.items())
def test_timm(name, theirs):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        oracle = timm.create_model(theirs)
    assert_covered(oracle, name, "timm")


@pytest.mark.parametrize(("name", "theirs"), AUTHORS.items())
def test_timm_with_the_authors_widths(name, theirs):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        oracle = timm.create_model(theirs)
    assert_covered(oracle, name, "timm", rounding="paper")
