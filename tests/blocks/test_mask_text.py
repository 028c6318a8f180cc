"""Masks as typed: what is read, and that everything else is refused in one line."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.blocks.test_masks import STRUCTURE, joined

from fieldguide.blocks.mask_text import parse
from fieldguide.blocks.masks import Causal, Global, Strided, Window
from fieldguide.errors import FieldguideError

pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")  # beartype draws them


@settings(max_examples=200)
@given(joined(STRUCTURE))
def test_parse_reads_what_repr_writes(mask):
    assert parse(repr(mask)) == mask


def test_precedence_is_python_s():
    assert parse("Causal() & Window(64) | ~Global([0])") == (Causal() & Window(64)) | ~Global([0])
    assert parse("Causal() & (Window(size=64) | Strided(stride=8))") == Causal() & (Window(64) | Strided(8))
    assert parse(" Global(range(3)) ") == Global([0, 1, 2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Windw(3)", "unknown mask 'Windw'; did you mean 'Window'?"),
        ("Causal", "Causal needs brackets: Causal()"),
        ("Window()", "Window is written Window(64)"),
        ("Window(1, 2)", "Window is written"),
        ("Window(width=3)", "Window is written"),
        ("Window(64.0)", "'64.0' is not a size"),
        ("Window(-3)", "positive whole number"),
        ("Window(True)", "'True' is not a size"),
        ("Padding(keep)", "holds the data of one batch and cannot be typed"),
        ("Causal() + Window(2)", "masks combine with & (both), | (either) and ~ (not)"),
        ("Causal() and Window(2)", "masks combine with"),
        ("-Causal()", "masks combine with"),
        ("Causal() &", "is not a mask; write for example"),
        ("", "is not a mask"),
        ("1", "is not a mask"),
        ("__import__('os').system('true')", "is not a mask"),
        ("().__class__", "is not a mask"),
        ("Global([x for x in y])", "is not a size"),
        ("Global(range(10**9))", "is not a size"),
        ("Global(range(0, 9999999999))", "is not a size"),
        ("~" * 3000 + "Full()", "is not a mask"),
        ("x" * 9999, "too long"),
        ("Causal(**{})", "is not a size"),
        ("Window(*[3])", "is not a size"),
    ],
)
def test_anything_else_is_refused(text, message):
    with pytest.raises(FieldguideError) as caught:
        parse(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


@settings(max_examples=300)
@given(st.text(max_size=40) | st.text("CausalWindow()&|~[]0123456789, *.", max_size=40))
def test_any_text_is_read_or_refused(text):
    try:
        mask = parse(text)
    except FieldguideError:
        return
    assert parse(repr(mask)) == mask
