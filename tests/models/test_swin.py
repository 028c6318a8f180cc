"""Swin: its pyramid, its windows from block to block, how it starts, and images of any size."""

from dataclasses import replace

import pytest
import torch

from fieldguide.blocks.capture import capture
from fieldguide.blocks.cores import Performer
from fieldguide.blocks.residual import StochasticDepth
from fieldguide.blocks.swapping import swap_attention
from fieldguide.blocks.windows import WindowAttention
from fieldguide.errors import FieldguideError
from fieldguide.models import create_model
from fieldguide.models.vision.swin import SIZES, Swin


def test_every_second_block_shifts_by_half_a_window():
    with torch.device("meta"):
        model = create_model("swin_t")
    windows = [[m for m in stage.modules() if isinstance(m, WindowAttention)] for stage in model.stages]
    assert [[m.shift for m in stage] for stage in windows] == [[0, 3], [0, 3], [0, 3] * 3, [0, 3]]
    assert [{m.attention.num_heads for m in stage} for stage in windows] == [{3}, {6}, {12}, {24}]


def test_stochastic_depth_grows_from_nothing_to_its_rate():
    model = Swin(replace(SIZES["swin_mini"], depths=(2, 3), stochastic_depth=0.2))
    rates = [m.rate for m in model.modules() if isinstance(m, StochasticDepth)]
    assert rates == pytest.approx([0, 0, 0.05, 0.05, 0.1, 0.1, 0.15, 0.15, 0.2, 0.2])


def test_starts_as_the_paper_says():
    torch.manual_seed(0)
    model = create_model("swin_t", num_classes=10)
    attention = model.stages[2].blocks[0].attention.sublayer.attention
    for weight in (attention.query.weight, attention.bias.table, model.stages[1].merge.reduction.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not attention.query.bias.any()


@pytest.mark.parametrize(
    ("size", "fine", "coarse"),
    [((32, 32), (16, 16), (8, 8)), ((28, 30), (14, 15), (7, 8)), ((4, 9), (2, 4), (1, 2)), ((31, 17), (15, 8), (8, 4))],
)
def test_images_need_not_be_square_nor_fit_the_windows(size, fine, coarse):
    model = create_model("swin_mini").eval()
    maps = model.features(torch.randn(2, 1, *size))
    assert [tuple(one.shape[1:]) for one in maps] == [(32, *fine), (64, *coarse)]
    assert model(torch.randn(2, 1, *size)).shape == (2, 10)


def test_attention_of_every_window_can_be_seen():
    model = create_model("swin_mini").eval()
    with capture(model, where="stages.0") as maps:
        model(torch.randn(2, 1, 32, 32))
    assert {tuple(weights.shape) for weights in maps.values()} == {(2 * 16, 2, 16, 16)}
    plain, shifted = maps.values()
    assert (plain > 0).all()
    hidden = (shifted == 0).flatten(1).any(1).view(2, 4, 4)
    assert hidden[:, 3].all()
    assert hidden[:, :, 3].all()
    assert not hidden[:, :3, :3].any(), "only windows that hold both ends of the map are masked"


def test_refusals():
    with pytest.raises(FieldguideError, match="embed_dim=20 does not divide into heads of head_dim=16"):
        create_model("swin_mini", embed_dim=20)
    with pytest.raises(FieldguideError, match=r"Swin takes images \(batch, 1, .*at least 4 pixels, got \(1, 1, 3, 8\)"):
        create_model("swin_mini")(torch.zeros(1, 1, 3, 8))
    with pytest.raises(FieldguideError, match="cannot honour bias=RelativeTable"):
        swap_attention(create_model("swin_mini"), Performer(16))
