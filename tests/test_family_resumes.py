"""The mini of every family, resumed at any of three points, is the unbroken training, bit for bit, with its own recipe.

``python -m benchmarks.resume_matrix`` does the same and writes it down.
"""

import pytest
from benchmarks.lessons import FAMILIES, TASKS
from benchmarks.resume_matrix import family_differs

QUICK = ("lenet", "bert", "gpt", "t5")
"""A convolutional network, an encoder, a decoder, and both."""


@pytest.mark.parametrize("family", [pytest.param(f, marks=[pytest.mark.slow] * (f not in QUICK)) for f in FAMILIES])
def test_a_resumed_training_is_the_unbroken_one(family: str) -> None:
    assert family_differs(family) == {}


def test_every_task_of_the_catalog_has_a_lesson() -> None:
    assert {row.task for row in FAMILIES.values()} == TASKS.keys()
