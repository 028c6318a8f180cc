"""Windows of a text: every token is read, and equal numbers give equal batches."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fieldguide.data import TokenWindows
from fieldguide.errors import FieldguideError


@given(n=st.integers(2, 200), length=st.integers(1, 20), batch=st.integers(1, 7))
def test_evaluation_reads_each_token_once(n, length, batch):
    feed = TokenWindows(torch.arange(n), length, batch, shuffle=False)
    batches = [tokens for (tokens,) in feed.batches(0)]
    assert len(batches) == len(feed)
    targets = torch.cat([tokens[:, 1:].flatten() for tokens in batches])
    assert targets.tolist() == list(range(1, n))
    assert all(torch.equal(tokens[:, 1:], tokens[:, :-1] + 1) for tokens in batches)
    assert all(tokens.shape[0] <= batch for tokens in batches)


@given(seed=st.integers(0, 5), epoch=st.integers(0, 3), start=st.integers(0, 4))
def test_training_windows_lie_side_by_side_and_can_be_resumed(seed, epoch, start):
    feed = TokenWindows(torch.arange(503), 10, 8, seed=seed)
    batches = [tokens for (tokens,) in feed.batches(epoch)]
    assert len(batches) == len(feed)
    firsts = sorted(int(row[0]) for tokens in batches for row in tokens)
    assert {b - a for a, b in itertools.pairwise(firsts)} == {10}
    assert len(firsts) == 49
    assert all(torch.equal(tokens[:, 1:], tokens[:, :-1] + 1) for tokens in batches)
    again = [tokens for (tokens,) in TokenWindows(torch.arange(503), 10, 8, seed=seed).batches(epoch, start)]
    assert all(torch.equal(a, b) for a, b in zip(again, batches[start:], strict=True))


def test_every_epoch_cuts_elsewhere():
    feed = TokenWindows(torch.arange(503), 10, 8)
    cuts = {int(next(feed.batches(epoch))[0][0, 0]) % 10 for epoch in range(10)}
    assert len(cuts) > 3


@pytest.mark.parametrize(
    ("tokens", "length", "batch", "said"),
    [
        (torch.arange(30), 10, 4, "a text of 30 tokens is too short for a batch of 4 windows of 10"),
        (torch.arange(1), 1, 1, "a text of 1 tokens is too short"),
        (torch.zeros(2, 3, dtype=torch.long), 1, 1, r"takes one row of tokens, .* got \(2, 3\)"),
        (torch.arange(30), 0, 4, "a length and a batch size of at least 1"),
    ],
)
def test_what_cannot_be_cut_is_named(tokens, length, batch, said):
    with pytest.raises(FieldguideError, match=said):
        TokenWindows(tokens, length, batch)
