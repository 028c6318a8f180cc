"""Processes that all tests of many processes share, as starting them takes seconds."""

import pytest
from tests.train.rank_pool import RankPool


def _pool(size):
    pool = RankPool(size)
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def two():
    yield from _pool(2)


@pytest.fixture(scope="session")
def four():
    yield from _pool(4)
