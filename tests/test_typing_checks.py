"""The checks that the test runner adds are there: ``--jaxtyping-packages`` in the Makefile."""

from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError

from fieldguide.blocks.attend import attend
from fieldguide.weights.names import Pattern


@pytest.fixture(autouse=True)
def _checked(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--jaxtyping-packages"):
        pytest.skip("without --jaxtyping-packages nothing is checked")


def test_a_wrong_type_is_named():
    number: Any = 5
    with pytest.raises(TypeCheckError, match="name=5"):
        Pattern("a.{i}").match(number)


def test_a_wrong_shape_is_named():
    q, k = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 4, 7)
    with pytest.raises(TypeCheckError, match="attend"):
        attend(q, k, k)
