import sys

import pytest

from fieldguide.errors import FieldguideError
from fieldguide.metrics import bleu, exact_match

SAID = ["the cat sat on the mat", "a house of stone stands there"]
WANTED = ["the cat sat on a mat", "a house of stone stands here"]


def test_exact_match():
    assert exact_match(["a b", "c", "D"], ["a b", "c", "d"]) == pytest.approx(2 / 3)


def test_bleu_by_its_equation():
    """Counted by hand: 10 of 12 words, 7 of 10 pairs, 5 of 8 triples, 3 of 6 fours; equal lengths, no penalty."""
    pytest.importorskip("sacrebleu")
    expected = 100 * (10 / 12 * 7 / 10 * 5 / 8 * 3 / 6) ** 0.25
    assert bleu(SAID, WANTED) == pytest.approx(expected, rel=1e-9)
    assert bleu(WANTED, WANTED) == pytest.approx(100)


def test_without_sacrebleu(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("sacrebleu")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(FieldguideError, match=r"install fieldguide\[text\]"):
        bleu(SAID, WANTED)


@pytest.mark.parametrize("measure", [bleu, exact_match])
def test_pairs_only(measure):
    with pytest.raises(FieldguideError, match="1 answers and 2 references"):
        measure(["a"], ["a", "b"])
    with pytest.raises(FieldguideError, match="0 answers"):
        measure([], [])
    with pytest.raises(FieldguideError, match="not one text"):
        measure("ab", "ab")
