"""Losses far above what came before."""

import pytest

from fieldguide.train.spikes import Spikes


def after(losses: list[float], limit: float = 6.0) -> Spikes:
    spikes = Spikes(limit)
    for loss in losses:
        spikes.add({"model": loss})
    return spikes


def test_the_limit_counts_median_absolute_deviations() -> None:
    spikes = after([1.0, 3.0] * 64)  # median 2, median absolute deviation 1
    assert not spikes.above("model", 2 + 6 * 1.4826 - 0.01)
    assert spikes.above("model", 2 + 6 * 1.4826 + 0.01) == "more than 6 deviations of 1.48 above the recent median 2"
    assert not spikes.above("model", -100.0)


def test_one_outlier_in_the_history_hides_no_second_one() -> None:
    """A mean and a standard deviation would let it pass."""
    assert after([1.0, 3.0] * 63 + [1000.0, 2.0]).above("model", 100.0)


@pytest.mark.parametrize(("count", "found"), [(63, False), (64, True)])
def test_there_has_to_be_a_history(count: int, found: bool) -> None:
    assert bool(after([1.0] * count).above("model", 50.0)) == found


def test_only_the_last_128_count_and_a_loss_that_stands_still_may_tremble() -> None:
    spikes = after([100.0] * 128 + [1.0] * 128)
    assert spikes.above("model", 50.0)
    assert not spikes.above("model", 1.05)
    assert spikes.above("model", 1.07)


def test_each_part_has_its_own_history_and_0_never_looks() -> None:
    assert not after([1.0] * 128).above("other", 50.0)
    assert not after([1.0] * 128, limit=0.0).above("model", 1e30)


def test_the_state_comes_back() -> None:
    spikes, twin = after([0.1 * i for i in range(200)]), Spikes(6.0)
    twin.load_state_dict(spikes.state_dict())
    assert twin.state_dict() == spikes.state_dict()
    spikes.add({"model": 7.0})
    twin.add({"model": 7.0})
    assert twin.losses == spikes.losses
