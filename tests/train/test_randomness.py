import random

import numpy as np
import pytest
import torch

from fieldguide.errors import FieldguideError
from fieldguide.train.randomness import (
    Generators,
    deterministic,
    random_state,
    reseed,
    seed_everything,
    set_random_state,
    untouched,
)


def _draw():
    return torch.rand(3).tolist(), [random.gauss(0, 1) for _ in range(3)], np.random.randn(3).tolist()


def test_the_state_is_complete():
    """Three normal numbers leave the second half of a pair behind in Python's and NumPy's generators."""
    seed_everything(3)
    _draw()
    state = random_state()
    first = _draw()
    set_random_state(state)
    assert _draw() == first


def test_seeding_again_is_seeding():
    seed_everything(3)
    first = _draw()
    reseed(3)
    assert _draw() == first


def test_the_state_is_a_tree_of_tensors_and_plain_values():
    def leaves(tree):
        if isinstance(tree, dict):
            return [leaf for value in tree.values() for leaf in leaves(value)]
        return [leaf for value in tree for leaf in leaves(value)] if isinstance(tree, list) else [tree]

    assert all(leaf is None or type(leaf) in (torch.Tensor, int, float) for leaf in leaves(random_state()))


def _everywhere():
    return torch.rand(2).tolist(), random.random(), np.random.rand()


@pytest.mark.parametrize(
    "draw", [_draw, _everywhere, lambda: np.random.randn(), lambda: np.random.rand(624), lambda: 0]
)
def test_generators_come_back_whatever_was_drawn_before(draw):
    """One normal number of NumPy takes the second half of a pair and moves nothing else."""
    generators = Generators()
    seed_everything(3)
    for _ in range(4):
        draw()
        generators.remember()
        first = _draw()
        generators.restore()
        assert _draw() == first
        generators.restore()
        generators.remember()
        _draw()
        generators.restore()
        assert _draw() == first
        generators.restore()


def test_seeds_are_streams():
    seed_everything(1)
    first = _draw()
    seed_everything(2)
    second = _draw()
    seed_everything(1)
    assert _draw() == first
    assert all(a != b for a, b in zip(first, second, strict=True))


def test_untouched_even_after_an_error():
    seed_everything(0)
    state = random_state()
    expected = _draw()
    set_random_state(state)
    try:
        with untouched():
            _draw()
            raise KeyError
    except KeyError:
        pass
    assert _draw() == expected


def test_deterministic_names_the_operation_that_is_not_and_restores():
    def draw(problem):
        with deterministic(True):
            assert torch.are_deterministic_algorithms_enabled()
            raise RuntimeError(problem)

    with pytest.raises(FieldguideError, match=r"algorithm for put_ here; set deterministic = false"):
        draw("put_ does not have a deterministic implementation, but you set …")
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError, match="another"):
        draw("another")
