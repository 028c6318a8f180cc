import math

from fieldguide.train.stopping import Best


def test_counts_the_epochs_without_a_gain():
    best = Best("val_accuracy", "max", patience=2)
    values = [0.5, 0.7, 0.7, 0.6, 0.9]
    seen = [(best.update(value, epoch), best.over) for epoch, value in enumerate(values[:4])]
    assert seen == [(True, False), (True, False), (False, False), (False, True)]
    assert (best.value, best.epoch) == (0.7, 1)


def test_smaller_may_be_better_and_small_gains_may_not_count():
    best = Best("val_loss", "min", patience=1, min_delta=0.1)
    assert best.update(1.0, 0)
    assert not best.update(0.95, 1)
    assert best.over
    assert best.update(0.85, 2)
    assert not best.over


def test_what_is_not_finite_is_never_best():
    best = Best("val_loss", "min", patience=0)
    assert not best.update(math.nan, 0)
    assert best.update(3.0, 1)
    assert not best.update(-math.inf, 2)
    assert not best.over
    assert best.value == 3.0


def test_state():
    best, twin = Best("x", "max", patience=3), Best("x", "max", patience=3)
    for epoch, value in enumerate([1.0, 2.0, 0.0]):
        best.update(value, epoch)
    twin.load_state_dict(best.state_dict())
    assert twin.state_dict() == best.state_dict()
    assert [twin.update(0.0, 3), twin.update(0.0, 4)] == [False, False]
    assert twin.over
