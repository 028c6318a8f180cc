import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fieldguide.errors import FieldguideError
from fieldguide.train.feeds import as_feed, placed


def _source(n):
    return torch.arange(n), torch.arange(n) * 10


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 5), st.integers(0, 2**32), st.data())
def test_every_sample_once_and_the_tail_is_the_tail(n, batch_size, epoch, seed, data):
    feed = as_feed(_source(n), min(batch_size, n), seed=seed, shuffle=True)
    batches = list(feed.batches(epoch))
    assert len(batches) == len(feed)
    assert sorted(torch.cat([x for x, _ in batches]).tolist()) == list(range(n))
    assert all(torch.equal(y, 10 * x) for x, y in batches)
    start = data.draw(st.integers(0, len(feed)))
    tail = list(feed.batches(epoch, start))
    assert len(tail) == len(feed) - start
    assert all(torch.equal(a[0], b[0]) for a, b in zip(tail, batches[start:], strict=True))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {
        tuple(torch.cat([x for x, _ in as_feed(_source(50), 8, seed=seed, shuffle=True).batches(epoch)]).tolist())
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


def test_evaluation_keeps_the_order_and_takes_a_smaller_batch():
    ((inputs, _),) = as_feed(_source(5), 64).batches(0)
    assert inputs.tolist() == [0, 1, 2, 3, 4]


def test_a_feed_is_taken_as_it_is():
    feed = as_feed(_source(5), 2)
    assert as_feed(feed, 99) is feed
    assert placed(feed, torch.device("cpu"), "contiguous") is feed


def test_batches_are_placed_wherever_they_are_nested():
    class Nested:
        def __len__(self):
            return 1

        def batches(self, epoch, start=0):
            yield {"images": torch.zeros(2, 3, 4, 4), "rest": [torch.zeros(2, 3), "name"]}, (torch.zeros(1, 2, 2, 2),)

    ((batch, (mask,)),) = placed(Nested(), torch.device("cpu"), "channels_last").batches(0)
    assert batch["images"].is_contiguous(memory_format=torch.channels_last)
    assert mask.is_contiguous(memory_format=torch.channels_last)
    assert batch["rest"][0].is_contiguous()
    assert batch["rest"][1] == "name"
    ((batch, _),) = placed(Nested(), torch.device("meta"), "contiguous").batches(0)
    assert batch["rest"][0].device.type == "meta"


def test_a_batch_larger_than_the_data():
    with pytest.raises(FieldguideError, match="choose at most 5"):
        as_feed(_source(5), 6, shuffle=True)


class _Noise(torch.utils.data.Dataset):
    """Draws from the global generators of torch and NumPy."""

    def __len__(self):
        return 10

    def __getitem__(self, i):
        return torch.randn(3), float(np.random.randn()), i


def test_any_number_of_workers_reads_the_same_batches_from_any_position():
    whole = list(as_feed(_Noise(), 4, seed=3, shuffle=True).batches(1))
    before = torch.get_rng_state()
    tail = list(as_feed(_Noise(), 4, seed=3, shuffle=True, workers=2).batches(1, 1))
    assert torch.equal(torch.get_rng_state(), before)
    for batch, other in zip(whole[1:], tail, strict=True):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(batch, other, strict=True))
    assert len({value for batch in whole for value in batch[1].tolist()}) == 10  # each sample its own numbers
    (other, *_) = as_feed(_Noise(), 10, seed=3).batches(2)
    assert not torch.equal(torch.cat([batch[0] for batch in whole]).sort(0)[0], other[0].sort(0)[0])
