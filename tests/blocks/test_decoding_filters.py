"""Each filter against its definition, on random logits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fieldguide.blocks.decoding import Greedy, MinP, RepetitionPenalty, Sample, Temperature, TopK, TopP, sampling
from fieldguide.errors import FieldguideError

NOTHING = torch.zeros(3, 0, dtype=torch.long)
probabilities = st.floats(0.01, 1.0)


@st.composite
def all_logits(draw):
    seed, vocabulary, scale = draw(st.integers(0, 1000)), draw(st.integers(1, 40)), draw(st.sampled_from([0.1, 1, 10]))
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, vocabulary, generator=generator, dtype=torch.float64) * scale


def kept(given, logits):
    """Which tokens a filter leaves; the others get −∞ and those keep their logits."""
    out = given(logits, NOTHING[: len(logits)])
    left = out.isfinite()
    assert torch.equal(out[left], logits[left])
    return left


@given(all_logits(), st.integers(1, 50))
def test_top_k_leaves_the_k_most_probable(logits, k):
    left = kept(TopK(k), logits)
    assert (left.sum(1) == min(k, logits.shape[1])).all()
    assert (logits.masked_fill(~left, torch.inf).amin(1) >= logits.masked_fill(left, -torch.inf).amax(1)).all()


@given(all_logits(), probabilities)
def test_top_p_leaves_the_fewest_that_hold_p(logits, p):
    left, chances = kept(TopP(p), logits), logits.softmax(-1)
    assert (logits.masked_fill(~left, torch.inf).amin(1) >= logits.masked_fill(left, -torch.inf).amax(1)).all()
    held = (chances * left).sum(1)
    assert (held >= p - 1e-12).all()
    assert (held - chances.masked_fill(~left, torch.inf).amin(1) < p + 1e-12).all(), "one fewer would do"


@given(all_logits(), probabilities)
def test_min_p_leaves_those_within_a_factor_of_the_best(logits, p):
    chances = logits.softmax(-1)
    ratio = chances / chances.amax(1, keepdim=True)
    left = kept(MinP(p), logits)
    assert left[ratio >= p + 1e-12].all()
    assert not left[ratio < p - 1e-12].any()


def test_ties_at_the_edge_of_top_k_all_stay():
    assert kept(TopK(2), torch.tensor([[1.0, 3.0, 1.0, 0.0]])).tolist() == [[True, True, True, False]]


@given(all_logits(), st.floats(0.1, 10))
def test_temperature_is_a_power_of_the_probabilities(logits, temperature):
    out = Temperature(temperature)(logits, NOTHING).softmax(-1)
    expected = logits.log_softmax(-1).div(temperature).exp()
    assert (out - expected / expected.sum(1, keepdim=True)).abs().max() < 1e-12


def test_a_repetition_is_penalised_once_whatever_its_sign():
    logits, seen = torch.tensor([[2.0, -2.0, 1.0, -1.0]]), torch.tensor([[0, 1, 0, 1, 1]])
    assert RepetitionPenalty(2.0)(logits, seen).tolist() == [[1.0, -4.0, 1.0, -1.0]]
    assert torch.equal(RepetitionPenalty(1.0)(logits, seen), logits)


def test_samples_come_with_their_probabilities():
    chances = torch.tensor([0.5, 0.3, 0.2, 0.0])
    draws = Sample()(chances.log().expand(20_000, -1), NOTHING[:1].expand(20_000, -1)).bincount(minlength=4) / 20_000
    torch.testing.assert_close(draws, chances, rtol=0, atol=0.015)


def test_filters_apply_in_order():
    logits = torch.tensor([[3.0, 2.0, 0.0]])  # 70 %, 26 %, 4 %: at temperature 10 about a third each
    late = Greedy([Temperature(10.0), TopP(0.8)]).filters, Greedy([TopP(0.8), Temperature(10.0)]).filters
    left = [int(second(first(logits, NOTHING[:1]), NOTHING[:1]).isfinite().sum()) for first, second in late]
    assert left == [3, 2]


def test_the_usual_numbers_make_the_usual_choice():
    generator = torch.Generator()
    assert sampling() == Greedy([])
    assert sampling(repetition_penalty=1.2) == Greedy([RepetitionPenalty(1.2)])
    assert sampling(temperature=0.7, top_k=5, top_p=0.9, min_p=0.1, generator=generator) == Sample(
        [Temperature(0.7), TopK(5), TopP(0.9), MinP(0.1)], generator
    )


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"temperature": -1.0}, r"Temperature\(temperature=-1.0\) must be above 0"),
        ({"temperature": 1.0, "top_k": 0}, r"TopK\(k=0\) must be at least 1"),
        ({"temperature": 1.0, "top_p": 1.5}, r"TopP\(p=1.5\) must be above 0 and at most 1"),
        ({"temperature": 1.0, "min_p": 0.0}, r"MinP\(p=0.0\) must be above 0"),
        ({"repetition_penalty": 0.0}, r"RepetitionPenalty\(theta=0.0\) must be above 0"),
        ({"top_p": 0.9}, r"TopP\(p=0.9\) changes nothing at temperature=0; give a temperature"),
    ],
)
def test_numbers_that_cannot_be_are_named(numbers, said):
    with pytest.raises(FieldguideError, match=said):
        sampling(**numbers)
