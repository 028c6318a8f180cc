"""Patterns of names: matching and filling are inverse, and indices are natural numbers."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldguide.weights.names import Pattern


@pytest.mark.parametrize(
    ("pattern", "name", "values"),
    [
        ("conv1.weight", "conv1.weight", {}),
        ("layer{s+1}.{i}.*", "layer2.13.bn1.weight", {"s": 1, "i": 13, "*": "bn1.weight"}),
        ("features.{2*s+1}.{i}.*", "features.5.0.norm", {"s": 2, "i": 0, "*": "norm"}),
        ("trunk.block{s+1}.block{s+1}-{i}.*", "trunk.block2.block2-4.a", {"s": 1, "i": 4, "*": "a"}),
        ("*.gamma", "bert.LayerNorm.gamma", {"*": "bert.LayerNorm"}),
    ],
)
def test_a_name_gives_its_values_and_the_values_give_the_name(pattern, name, values):
    assert Pattern(pattern).match(name) == values
    assert Pattern(pattern).fill(values) == name


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("layer{s+1}.*", "layer0.bn.weight"),  # s would be −1
        ("features.{2*s+1}.*", "features.4.norm"),  # s would be 1½
        ("block{s}.block{s}-{i}", "block1.block2-0"),  # two values for s
        ("h.{i}.weight", "h.01.weight"),  # would be written back as h.1
        ("h.{i}.weight", "h.1.weights"),
        ("h.{i}.weight", "xh.1.weight"),
        ("a.b", "aXb"),
        ("bn.*", "bn."),
        ("h.{i}.*", "h.١.weight"),  # a digit, but not one that is written back
    ],
)
def test_what_must_not_match(pattern, name):
    assert Pattern(pattern).match(name) is None


def test_parts_are_the_given_words_only():
    pattern = Pattern("layers.{i}.{part}.*", ("query", "key"))
    assert pattern.match("layers.0.query.bias") == {"i": 0, "part": "query", "*": "bias"}
    assert pattern.match("layers.0.value.bias") is None


def test_a_negative_number_is_no_name():
    assert Pattern("stages.{s-1}").fill({"s": 0}) is None


@pytest.mark.parametrize("text", ["a.{I}", "a.{s*2}", "*.a.*", "a{"])
def test_a_malformed_pattern_is_refused(text):
    with pytest.raises(ValueError, match="not a pattern"):
        Pattern(text)


@given(
    values=st.fixed_dictionaries({"s": st.integers(0, 10**6), "i": st.integers(0, 99), "*": st.text(min_size=1)}),
    factor=st.integers(1, 9),
    shift=st.integers(0, 99),
)
def test_filling_then_matching_gives_the_values_back(values, factor, shift):
    pattern = Pattern(f"a.{{{factor}*s+{shift}}}.b{{i}}.*")
    name = pattern.fill(values)
    assert name is not None
    if re.search(r"[\n]", values["*"]):
        assert pattern.match(name) is None  # tensor names are one line
    else:
        assert pattern.match(name) == values
