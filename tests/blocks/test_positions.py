"""Positions against the papers' formulas, written out element by element."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fieldguide.blocks.cache import DynamicCache
from fieldguide.blocks.positions import Learned, Rotary, Sinusoidal, Sinusoidal2d, positions_of, sinusoidal
from fieldguide.errors import FieldguideError

EXACT = {"rtol": 0, "atol": 1e-12}


def test_sinusoidal_is_the_papers_formula():
    d, table = 10, Sinusoidal(10).double()(torch.arange(50))
    for pos in (0, 1, 7, 49):
        for i in range(d // 2):
            angle = pos / 10_000 ** (2 * i / d)
            assert table[pos, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-12)
            assert table[pos, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-12)


def test_sinusoidal_of_odd_width_drops_the_last_cosine():
    assert sinusoidal(torch.arange(4), 7).shape == (4, 7)


@given(st.integers(0, 3000), st.integers(0, 200))
def test_a_shift_is_one_linear_map_for_all_positions(start: int, shift: int):
    """Vaswani et al. 2017, §3.5: PE(pos + k) is a linear function of PE(pos), the same for every pos."""
    d, positions = 16, torch.arange(start, start + 20)
    angle = shift * 10_000 ** (-torch.arange(d // 2, dtype=torch.float64) * 2 / d)
    rotation = torch.block_diag(
        *(torch.tensor([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]], dtype=torch.float64) for a in angle)
    )
    torch.testing.assert_close(
        sinusoidal(positions + shift, d), sinusoidal(positions, d) @ rotation.T, rtol=0, atol=1e-9
    )


def test_sinusoidal_follows_the_modules_type_and_keeps_float64_exact():
    module = Sinusoidal(8)
    assert module(torch.arange(3)).dtype == torch.float32
    assert not module.state_dict()
    exact = module.double()(torch.tensor([9_999]))
    assert exact[0, 0].item() == pytest.approx(math.sin(9_999), abs=1e-12)


def test_positions_count_from_what_the_cache_has_seen():
    class Layer:
        def reach(self) -> float:
            return float("inf")

    cache, tokens = DynamicCache(), torch.zeros(2, 5, dtype=torch.long)
    assert positions_of(tokens, cache=cache).tolist() == [0, 1, 2, 3, 4]
    cache.extend(Layer(), torch.zeros(2, 1, 5, 4), torch.zeros(2, 1, 5, 4))
    assert positions_of(tokens[:, :2], cache=cache).tolist() == [5, 6]


def test_positions_skip_padding_and_follow_the_cached_tokens():
    keep = torch.tensor([[False, False, True, True], [True, True, True, True]])
    assert positions_of(torch.zeros(2, 4), keep).tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]
    assert positions_of(torch.zeros(2, 1), keep).tolist() == [[1], [3]]


def test_learned_positions_are_rows_of_the_table_and_say_when_it_ends():
    module = Learned(6, 4)
    assert torch.equal(module(positions_of(torch.zeros(1, 3, 4))), module.weight[:3])
    with pytest.raises(FieldguideError, match=r"7 tokens but max_len=6.*max_len=7"):
        module(torch.arange(7))


def test_learned_positions_may_stand_behind_rows_for_padding():
    module = Learned(6, 4, offset=2)
    assert module.weight.shape == (8, 4)
    assert torch.equal(module(torch.tensor([[0, 1, -1]])), module.weight[torch.tensor([[2, 3, 1]])])
    assert torch.equal(module(torch.arange(6))[-1], module.weight[7])
    with pytest.raises(FieldguideError, match=r"7 tokens but max_len=6"):
        module(torch.arange(7))


def _detr(keep: torch.Tensor, d: int) -> torch.Tensor:
    """DETR's normalised sine embedding, pixel by pixel (Carion et al. 2020, appendix A.4, with the code's 10⁻⁶)."""
    b, rows, columns = keep.shape
    out = torch.zeros(b, rows, columns, d, dtype=torch.float64)
    for i in range(b):
        for r in range(rows):
            for c in range(columns):
                y = keep[i, : r + 1, c].sum().item() / (keep[i, :, c].sum().item() + 1e-6) * 2 * math.pi
                x = keep[i, r, : c + 1].sum().item() / (keep[i, r].sum().item() + 1e-6) * 2 * math.pi
                for half, place in enumerate((y, x)):
                    for j in range(d // 2):
                        angle = place / 10_000 ** (2 * (j // 2) / (d // 2))
                        out[i, r, c, half * d // 2 + j] = math.cos(angle) if j % 2 else math.sin(angle)
    return out


def test_sinusoidal_2d_is_detrs_formula_with_padding():
    keep = torch.ones(2, 3, 4, dtype=torch.bool)
    keep[0, :, 3:] = keep[1, 2:, :] = False
    mine = Sinusoidal2d(8, span=2 * math.pi).double()((3, 4), keep)
    torch.testing.assert_close(mine, _detr(keep, 8), **EXACT)


def test_sinusoidal_2d_is_maes_formula_up_to_the_documented_order():
    rows, columns, d = 3, 5, 16
    omega = 1 / 10_000 ** (torch.arange(d // 4, dtype=torch.float64) / (d / 4))  # He et al. 2022, the authors' code
    y, x = (
        grid.double()[..., None] * omega
        for grid in torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    )
    mae = torch.cat((x.sin(), x.cos(), y.sin(), y.cos()), -1)
    mine = Sinusoidal2d(d).double()((rows, columns)).unflatten(-1, (2, d // 4, 2))  # (axis, frequency, sine or cosine)
    torch.testing.assert_close(mine.flip(-3).transpose(-1, -2).flatten(-3), mae, **EXACT)


def test_sinusoidal_2d_says_which_widths_work():
    with pytest.raises(FieldguideError, match=r"d_model=10 is not divisible by 4.*use 8 or 12"):
        Sinusoidal2d(10)


def test_rotary_is_the_papers_rotation():
    c, q = 8, torch.randn(1, 1, 6, 8, dtype=torch.float64)
    turned, _ = Rotary(c)(q, q, start=3)
    for n in range(6):
        for i in range(c // 2):
            a = (3 + n) * 10_000 ** (-2 * i / c)
            even, odd = q[0, 0, n, 2 * i].item(), q[0, 0, n, 2 * i + 1].item()
            assert turned[0, 0, n, 2 * i].item() == pytest.approx(even * math.cos(a) - odd * math.sin(a), abs=1e-12)
            assert turned[0, 0, n, 2 * i + 1].item() == pytest.approx(even * math.sin(a) + odd * math.cos(a), abs=1e-12)


@given(st.integers(0, 4000), st.integers(0, 4000))
def test_rotary_scores_depend_on_distance_only(start: int, other: int):
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 2, 5, 12, dtype=torch.float64)
    rotary = Rotary(12)
    scores = [a @ b.transpose(-2, -1) for a, b in (rotary(q, k, start), rotary(q, k, other))]
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-9)
    moved = rotary(q, k, start)[0] @ rotary(q, k, start + 1)[1].transpose(-2, -1)
    assert (moved - scores[0]).abs().max() > 1e-3


def test_rotary_can_turn_part_of_a_head():
    q = torch.randn(1, 2, 4, 10, dtype=torch.float64)
    turned, _ = Rotary(10, rotated=4)(q, q)
    assert torch.equal(turned[..., 4:], q[..., 4:])
    torch.testing.assert_close(turned[..., :4], Rotary(4)(q[..., :4], q[..., :4])[0], **EXACT)
    assert not torch.equal(turned[..., :4], q[..., :4])


@pytest.mark.parametrize(("head_dim", "rotated"), [(7, None), (8, 3), (8, 10), (8, 0)])
def test_rotary_refuses_what_does_not_pair(head_dim: int, rotated: int | None):
    with pytest.raises(FieldguideError, match="do not form pairs"):
        Rotary(head_dim, rotated=rotated)


def test_rotary_refuses_heads_of_another_width():
    with pytest.raises(FieldguideError, match=r"heads of width 8, but it was made for head_dim=4; make it Rotary\(8\)"):
        Rotary(4)(*torch.randn(2, 1, 1, 3, 8))
