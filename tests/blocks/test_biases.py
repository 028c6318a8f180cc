"""Added scores: the papers' formulas, the transformers library's T5 and Swin, and what a bias refuses."""

import importlib.util
import inspect

import jaxtyping
import pytest
import torch

from fieldguide.blocks.biases import ALiBi, Bias, RelativeBuckets, RelativeTable, Scores
from fieldguide.blocks.masks import Causal
from fieldguide.errors import FieldguideError

needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs timm")
needs_transformers = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs transformers")


def test_alibi_has_the_paper_s_slopes():
    torch.testing.assert_close(ALiBi(8).slopes, 2.0 ** -torch.arange(1.0, 9))
    assert ALiBi(16).slopes[0].item() == pytest.approx(2**-0.5)
    torch.testing.assert_close(ALiBi(12).slopes[8:], 2.0 ** -torch.tensor([0.5, 1.5, 2.5, 3.5]))
    assert ALiBi(2)(3, 5)[0, 1].tolist() == [[-(2**-8) * abs(q - k) for k in range(5)] for q in (2, 3, 4)]


@needs_transformers
@pytest.mark.parametrize("two_sided", [True, False])
def test_buckets_are_t5_s(two_sided):
    from transformers.models.t5.modeling_t5 import T5Attention

    bias = RelativeBuckets(2, num_buckets=32, max_distance=128, two_sided=two_sided)
    distance = torch.arange(-700, 700)
    expected = T5Attention._relative_position_bucket(distance, two_sided, 32, 128)
    assert torch.equal(bias.bucket(distance), expected)


def test_t5_scores_look_buckets_up():
    bias = RelativeBuckets(3, num_buckets=8, max_distance=20)
    scores = bias(4, 9)
    assert scores.shape == (1, 3, 4, 9)
    for q, k in [(0, 0), (3, 8), (2, 5)]:
        bucket = bias.bucket(torch.tensor(k - (q + 5)))
        assert torch.equal(scores[0, :, q, k], bias.table.weight[bucket])


@needs_timm
def test_swin_table_is_indexed_as_timm_does():
    from timm.models.swin_transformer import WindowAttention

    theirs = WindowAttention(24, num_heads=3, window_size=7)
    ours = RelativeTable(3, (7, 7))
    with torch.no_grad():
        theirs.relative_position_bias_table.copy_(ours.table)
    torch.testing.assert_close(ours(49, 49), theirs._get_rel_pos_bias())


def test_a_window_need_not_be_square():
    bias = RelativeTable(1, (2, 3))
    scores = bias(6, 6)[0, 0]
    assert bias.table.shape == (3 * 5, 1)
    assert scores[0, 0] == scores[5, 5] == bias.table[1 * 5 + 2]
    assert scores[0, 5] == bias.table[0]  # one row up, two columns left: the first entry


@pytest.mark.parametrize("bias", [ALiBi(4), RelativeBuckets(4), ALiBi(4) + RelativeBuckets(4)])
def test_relative_biases_know_only_the_distance(bias):
    assert bias.relative
    scores = bias(20, 20)
    assert torch.equal(scores[..., 1:, 1:], scores[..., :-1, :-1])


def test_biases_add():
    a, b, c = ALiBi(4), RelativeBuckets(4), Scores(torch.randn(2, 1, 5, 7))
    total = a + b + c
    assert (total.rows, total.num_heads, total.relative, total.learned) == (2, 4, False, True)
    torch.testing.assert_close(total(5, 7), a(5, 7) + b(5, 7) + c(5, 7))
    assert len((a + (b + c)).terms) == 3
    assert {id(p) for p in total.parameters()} == {id(p) for p in b.parameters()}


@pytest.mark.parametrize(
    "bias", [ALiBi(4), RelativeBuckets(4), RelativeTable(4, (3, 3))], ids=lambda b: type(b).__name__
)
def test_score_mod_adds_the_score(bias):
    mod, scores = bias.score_mod(9, 9), bias(9, 9)
    assert len(inspect.signature(mod).parameters) == 5
    b, h, q, k = (torch.tensor(i) for i in (0, 2, 3, 8))
    assert mod(torch.tensor(1.5), b, h, q, k) == 1.5 + scores[0, 2, 3, 8]


@pytest.fixture
def unchecked():
    """The test runner's shape checks off: what is refused here is what users meet, who have none."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ALiBi(4) + Causal(), "a bias adds to biases only, not to Causal; a mask combines with & | ~"),
        (lambda: ALiBi(4) + torch.zeros(1), "wrap a tensor of scores in Scores"),
        (lambda: Scores(torch.ones(1, 1, 3, 3, dtype=torch.bool)), "who may attend is a mask"),
        (lambda: Scores(torch.ones(3, 3)), "(b|1, h|1, q, k)"),
        (lambda: ALiBi(4).check(1, 8, 3, 3), "a bias for 4 heads does not fit 8 heads"),
        (lambda: RelativeTable(1, (2, 3)).check(1, 1, 5, 6), "has 6 positions, not 5 queries and 6 keys"),
        (lambda: Scores(torch.zeros(1, 1, 3, 4)).check(1, 1, 3, 5), "does not fit a batch of 1, 3 queries and 5 keys"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_refusals(make, message):
    with pytest.raises(FieldguideError) as caught:
        make()
    assert message in str(caught.value)


def test_a_new_kind_needs_only_its_score():
    class Nearer(Bias):
        num_heads, relative = 1, True

        def score(self, b, h, q, k):
            return -((q - k) ** 2).float()

    assert Nearer()(2, 3)[0, 0].tolist() == [[-1, 0, -1], [-4, -1, 0]]
