"""Answers in words against what was to be said."""

from collections.abc import Sequence

from fieldguide.errors import FieldguideError


def exact_match(answers: Sequence[str], references: Sequence[str]) -> float:
    """Share of answers that are their reference to the letter. Raises as :func:`bleu`."""
    _require_pairs(answers, references)
    return sum(answer == reference for answer, reference in zip(answers, references, strict=True)) / len(answers)


def bleu(answers: Sequence[str], references: Sequence[str]) -> float:
    """BLEU of whole sentences against one reference each, 0 to 100 (Papineni et al. 2002), as sacrebleu counts it.

    Its standard settings: words as in WMT's ``13a``, case matters, exponential smoothing (Post 2018).

    Raises ``FieldguideError`` when sacrebleu is not there, for none or another number of references, and for text that
    is not a string.
    """
    _require_pairs(answers, references)
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ModuleNotFoundError:
        raise FieldguideError("BLEU needs sacrebleu; install fieldguide[text]") from None
    return BLEU().corpus_score(list(answers), [list(references)]).score


def _require_pairs(answers: Sequence[str], references: Sequence[str]) -> None:
    if isinstance(answers, str) or isinstance(references, str):
        raise FieldguideError("metrics: answers and references must be lists of texts, not one text")
    if len(answers) != len(references) or not answers:
        raise FieldguideError(f"metrics: {len(answers)} answers and {len(references)} references; give one for each")
