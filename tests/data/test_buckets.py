"""Buckets: every sample once, equal numbers give equal batches, and little is padding."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldguide.data import Buckets, Bytes
from fieldguide.data.buckets import POOL, require_length
from fieldguide.errors import FieldguideError
from fieldguide.objectives import SequenceToSequence

rows = st.lists(st.integers(1, 99), min_size=1, max_size=12)


def unpadded(tokens: torch.Tensor, keep: torch.Tensor) -> list[tuple[int, ...]]:
    return [tuple(row[real].tolist()) for row, real in zip(tokens, keep, strict=True)]


def collected(feed: Buckets, epoch: int) -> list[tuple]:
    found = []
    for batch in feed.batches(epoch):
        width = len(feed.rows)
        columns = [unpadded(*pair) for pair in zip(batch[:width], batch[width : 2 * width], strict=True)]
        found += zip(*columns, *(labels.tolist() for labels in batch[2 * width :]), strict=True)
    return found


@settings(max_examples=25)
@given(
    st.lists(st.tuples(rows, rows, st.integers(0, 3)), min_size=1, max_size=40),
    st.integers(1, 9),
    st.booleans(),
    st.data(),
)
@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("labelled", [False, True])
def test_every_sample_once_and_the_tail_is_the_tail(width, labelled, samples, batch_size, shuffle, data):
    samples = [sample[:width] + sample[2:] * labelled for sample in samples]
    feed = Buckets(samples, min(batch_size, len(samples)), seed=3, shuffle=shuffle, pad=[0] * width)
    expected = [tuple(tuple(part) if isinstance(part, list) else part for part in sample) for sample in samples]
    epoch = data.draw(st.integers(0, 4))
    found = collected(feed, epoch)
    assert (sorted(found) == sorted(expected)) if shuffle else (found == expected)
    batches = list(feed.batches(epoch))
    assert len(batches) == len(feed)
    for batch in batches:
        assert len(batch) == 2 * width + labelled
        for tokens, keep in zip(batch[:width], batch[width : 2 * width], strict=True):
            assert torch.equal(tokens == 0, ~keep)
            assert torch.equal(keep, torch.arange(keep.shape[1]) < keep.sum(1, keepdim=True))  # on the right
            assert keep[:, -1].any()  # no wider than need be
    start = data.draw(st.integers(0, len(feed)))
    tail = list(Buckets(samples, feed.batch_size, seed=3, shuffle=shuffle, pad=[0] * width).batches(epoch, start))
    assert all(torch.equal(a, b) for x, y in zip(tail, batches[start:], strict=True) for a, b in zip(x, y, strict=True))


def test_epochs_and_seeds_have_orders_of_their_own():
    samples = [([i + 1] * (i % 7 + 1),) for i in range(60)]
    orders = {
        tuple(collected(Buckets(samples, 4, seed=seed, pad=[0]), epoch)) for seed in range(3) for epoch in range(3)
    }
    assert len(orders) == 9
    state = torch.get_rng_state()
    list(Buckets(samples, 4, pad=[0]).batches(0))
    assert torch.equal(state, torch.get_rng_state())


def test_real_lines_need_less_padding_than_in_random_batches():
    lines = [line for line in Path(json.decoder.__file__).read_text().splitlines() if line]
    samples = [(Bytes(("pad",)).encode(line),) for line in lines]

    def padding(feed: Buckets) -> float:
        keeps = [keep for _, keep in feed.batches(0)]
        return 1 - sum(int(keep.sum()) for keep in keeps) / sum(keep.numel() for keep in keeps)

    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0)).tolist()
    unsorted = Buckets([samples[i] for i in order], 8, shuffle=False, pad=[0])
    assert len(lines) > 250
    assert padding(unsorted) > 0.3
    assert padding(Buckets(samples, 8, pad=[0])) < 0.2 * padding(unsorted)


def test_batches_of_like_length_are_not_in_the_order_of_length():
    samples = [([1] * n,) for n in range(1, 2 * POOL * 2 + 1)]
    widths = [keep.shape[1] for _, keep in Buckets(samples, 2, pad=[0]).batches(0)]
    assert widths != sorted(widths)
    assert sorted(widths)[-1] == len(samples)


def test_a_translator_reads_the_batches_with_padding_unfelt():
    """The loss of a batch is the mean over its answers' tokens, each pair alone giving the same sum."""

    class Echo(torch.nn.Module):
        def forward(self, source, target, source_keep, target_keep):
            total = (source * source_keep).sum(1)[:, None] + (target * target_keep).cumsum(1)
            return torch.sin(total[..., None].double() * torch.arange(1, 300))

    tokenizer = Bytes(("pad", "end"))
    words = [line.split() for line in Path(json.decoder.__file__).read_text().splitlines() if len(line.split()) > 3][:8]
    samples = [(tokenizer.encode(" ".join(line[:3])), [*tokenizer.encode(" ".join(line[3:])), 1]) for line in words]
    assert len({len(answer) for _, answer in samples}) > 4
    objective, model = SequenceToSequence(start=0), Echo()

    def total(batch):
        (phase,) = objective.step(model, batch)
        return float(phase.loss) * objective.weight(batch)

    (together,) = Buckets(samples, 8, shuffle=False, pad=[0, 0]).batches(0)
    alone = Buckets(samples, 1, shuffle=False, pad=[0, 0]).batches(0)
    assert total(together) == pytest.approx(sum(map(total, alone)), rel=1e-12)


@pytest.mark.parametrize(
    ("samples", "batch_size", "said"),
    [
        ([([1],)] * 5, 6, r"batch_size 6 is larger than the training part \(5 samples\); choose at most 5"),
        ([([1],)] * 5, 0, "batch_size is 0; choose at least 1"),
        ([], 1, "no samples"),
        ([([1],), ([],)], 1, "sample 1 has no tokens; leave it out"),
    ],
)
def test_what_cannot_be_batched_is_named(samples, batch_size, said):
    with pytest.raises(FieldguideError, match=said):
        Buckets(samples, batch_size, pad=[0])


def test_evaluation_takes_a_smaller_batch():
    assert [batch[0].shape for batch in Buckets([([1, 2],)] * 5, 64, shuffle=False, pad=[0]).batches(0)] == [(5, 2)]


def test_lengths_are_required():
    require_length([[1], [1, 2]], ["a", "b"], 2)
    require_length([[1], [1, 2]], ["a", "b"], None)
    with pytest.raises(
        FieldguideError, match=r"b has 2 tokens, but the model reads 1; .*--on-long cut.* shorter texts"
    ):
        require_length([[1], [1, 2]], ["a", "b"], 1)
    with pytest.raises(FieldguideError, match="b has no tokens"):
        require_length([[1], []], ["a", "b"], 4)
