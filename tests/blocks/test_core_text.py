"""Cores as text: the inverse of each other, closed, and never evaluated."""

from contextlib import suppress

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fieldguide.blocks.core_text import parse, written
from fieldguide.blocks.cores import Linear, Linformer, Performer, Projection, Softmax
from fieldguide.errors import FieldguideError

SIZES = st.integers(1, 40)
PROJECTIONS = st.builds(Projection, SIZES, SIZES)
CORES = st.one_of(
    st.builds(Softmax),
    st.builds(Linear),
    st.builds(Performer, SIZES),
    st.builds(Linformer, PROJECTIONS, st.none() | PROJECTIONS),
)


@given(CORES, st.sampled_from([2, 8]))
def test_a_core_is_what_its_text_says(core, width):
    core.fit(width)
    again = parse(written(core))
    again.fit(width)
    assert type(again) is type(core)
    assert written(again) == written(core)
    assert {n: t.shape for n, t in again.state_dict().items()} == {n: t.shape for n, t in core.state_dict().items()}


def test_a_width_that_the_core_chose_itself_is_written():
    core = Performer()
    core.fit(16)
    assert written(core) == f"Performer(features={len(core.projection)})"


def test_as_people_write_it():
    assert parse(" Linformer( Projection(12,4),Projection(12, 4) ) ").values is not None
    assert torch.equal(torch.tensor(parse("Linformer(Projection(12, 4))").keys.weight.shape), torch.tensor([12, 4]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not a core; write for example Performer"),
        ("Performer", "'Performer' is not a core"),
        ("Preformer(features=8)", "unknown core 'Preformer'; did you mean 'Performer'"),
        ("Performer(8)", r"Performer is written Performer\(features=256\), not 'Performer\(8\)'"),
        ("Performer(features=8, head_dim=4)", "Performer is written"),
        ("Performer(features=0)", "whole numbers from 1"),
        ("Performer(features=True)", "whole numbers from 1"),
        ("Performer(features=2**40)", "whole numbers from 1"),
        ("Performer(features=10**9)", "whole numbers from 1"),
        ("Performer(features=1000000000)", "whole numbers from 1"),
        ("Linformer(Projection(100000, 100000))", "'100000, 100000': the sizes"),
        ("Linformer(12, 4)", "'12' is not a projection"),
        ("Linformer()", "Linformer is written"),
        ("Softmax(print(1))", "Softmax is written"),
        ("__import__('os').system('true')", "is not a core"),
        ("(" * 500 + ")" * 500, "is not a core"),
        ("x" * 2000, "2000 characters is too long"),
    ],
)
def test_anything_else_is_one_line(text, message):
    with pytest.raises(FieldguideError, match=message) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=40))
def test_no_text_is_another_exception(text):
    with suppress(FieldguideError):
        parse(text)


class Mine(Softmax):
    """A core of somebody's own."""


class Wide(Projection):
    """A projection of somebody's own."""


@pytest.mark.parametrize("core", [Mine(), Linformer(Wide(4, 2)), Linformer(Projection(4, 2), Wide(4, 2))])
def test_what_numbers_do_not_describe_has_no_text(core):
    with pytest.raises(FieldguideError, match=f"the core {type(core).__name__} is not one that numbers alone describe"):
        written(core)
