"""Rollout against its definition, and pictures that show what they are given."""

from itertools import product

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from fieldguide.blocks.capture import capture
from fieldguide.models import create_model
from fieldguide.report.attention import Chosen, draw_patch_attention, draw_token_attention, rollout

ALL = Chosen(layers=[1, 2], heads=[1, 2, 3, 4])


def weights(layers: int, heads: int, n: int) -> torch.Tensor:
    return torch.randn(layers, heads, n, n, dtype=torch.float64).softmax(-1)


def paths(maps: torch.Tensor, start: int, end: int) -> float:
    """The definition in words: over all paths from an input to an output, the products of what each layer passes on."""
    total = 0.0
    layers, _, n, _ = maps.shape
    mean = maps.mean(1)
    for path in product(range(n), repeat=layers - 1):
        places, share = [start, *path, end], 1.0
        for layer in range(layers):
            to, origin = places[layer + 1], places[layer]
            share *= 0.5 * mean[layer, to, origin].item() + 0.5 * (to == origin)
        total += share
    return total


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_rollout_is_the_sum_over_all_paths(layers):
    maps = weights(layers, 3, 4)
    expected = [[paths(maps, start, end) for start in range(4)] for end in range(4)]
    torch.testing.assert_close(rollout(list(maps)), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_rollout_of_a_network_keeps_what_is_hidden_hidden():
    model = create_model("gpt_mini").double().eval()
    with torch.no_grad(), capture(model) as maps:
        model(torch.arange(20)[None])
    reached = rollout([one[0] for one in maps.values()])
    torch.testing.assert_close(reached.sum(1), torch.ones(20, dtype=torch.float64), rtol=0, atol=1e-12)
    assert not reached.triu(1).any()
    assert (reached.tril() > 0).sum() == 210
    assert torch.equal(rollout([torch.eye(5).expand(2, 5, 5)] * 3), torch.eye(5))
    blind = torch.zeros(1, 3, 3)  # a token that may see nothing passes on itself
    assert torch.equal(rollout([blind]), torch.eye(3))


def orange(picture: np.ndarray) -> np.ndarray:
    return picture[..., 0] - picture[..., 2] > 0.4


@pytest.mark.parametrize("size", [(32, 32), (20, 40)])
def test_a_bright_patch_is_drawn_where_it_is(size, tmp_path):
    image = torch.full((1, *size), 128, dtype=torch.uint8)
    heat = torch.zeros(4, 4)
    heat[0, 2] = 1.0
    maps = torch.full((2, 4, 4, 4), 0.1)
    maps[1, 2, 3, 1] = 0.9
    file = draw_patch_attention(image, maps, heat, tmp_path / "one.png", Chosen(layers=[2], heads=[3]))
    where = orange(imread(file)[..., :3])
    columns = np.flatnonzero(where.any(0))
    parts = np.split(columns, np.flatnonzero(np.diff(columns) > 50) + 1)
    assert len(parts) == 2, "one place in the rollout, one in the chosen map"
    first, second = (np.flatnonzero(where[:, part].any(1)).mean() for part in parts)
    assert first < second, "above to the right, and below to the left"
    whole = draw_patch_attention(image, maps, heat, tmp_path / "all.png", ALL)
    assert imread(whole).shape[0] > imread(file).shape[0]


def test_the_mean_stands_beside_the_heads():
    maps = weights(2, 4, 5)
    shown = ALL.of(maps)
    assert shown.shape == (2, 5, 5, 5)
    assert torch.equal(shown[:, :4], maps)
    torch.testing.assert_close(shown[:, 4], maps.mean(1))
    assert ALL.columns == ["head 1", "head 2", "head 3", "head 4", "mean"]
    one = Chosen(layers=[2], heads=[3])
    assert one.alone
    assert torch.equal(one.of(maps), maps[1:2, 2:3])
    assert one.columns == ["head 3"]


def blue(picture: np.ndarray) -> int:
    return int((picture[..., 2] - picture[..., 0] > 0.5).sum())


def test_tokens_and_weights_are_drawn(tmp_path):
    tokens = ["[start]", "$5", "_a", "␣", "\ufffd"]
    maps = torch.zeros(2, 4, 5, 5)
    maps[:, :, :, 0] = 1.0  # all attend to the first: a column
    chosen = Chosen(layers=[1], heads=[4])
    file = draw_token_attention(tokens, tokens, maps.float(), rollout(list(maps)), tmp_path / "one.png", chosen)
    picture = imread(file)[..., :3]
    rows = (picture[..., 2] - picture[..., 0] > 0.5).any(1).sum()
    columns = (picture[..., 2] - picture[..., 0] > 0.5).any(0).sum()
    assert rows == pytest.approx(5 * columns, rel=0.1)
    every = draw_token_attention(tokens, tokens, maps, rollout(list(maps)), tmp_path / "all.png", ALL)
    assert blue(imread(every)[..., :3]) > 0
    cross = draw_token_attention(tokens[:2], tokens, maps[:, :, :2], None, tmp_path / "cross.png", ALL)
    assert blue(imread(cross)[..., :3]) > 0
    many = ["x"] * 100  # too many to be written
    draw_token_attention(
        many, many, torch.rand(1, 1, 100, 100), None, tmp_path / "many.png", Chosen(layers=[1], heads=[1])
    )
    assert max(imread(tmp_path / "many.png").shape[:2]) < 2500
