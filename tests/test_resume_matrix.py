"""The first cells of the pairwise cover of resumes; ``python -m benchmarks.resume_matrix`` runs all."""

from itertools import islice

import pytest
from benchmarks.resume_matrix import cover, differs


@pytest.mark.parametrize("cell", list(islice(cover(), 12)), ids=str)
def test_a_resumed_training_is_the_unbroken_one(cell):
    assert differs(cell) is None
