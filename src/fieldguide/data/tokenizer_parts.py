"""What a stranger's ``tokenizer.json`` may do with a text: nothing that takes for ever, nothing that lets it swell."""

import re
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

MOST_TOKENS = 2_000_000
"""Several times the largest public vocabulary."""
_MOST_PARTS, _LONGEST_WORD, _GROWTH = 500, 1000, 1000
_STEPS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
_UNBOUNDED = re.compile(r"[+*]|\{\d*,\}")


def flaw(content: Mapping[str, Any]) -> str | None:
    """Why a tokenizer is refused although the library would build it; None for the public ones."""
    parts = [part for step in _STEPS for part in _parts(content.get(step))]
    if len(parts) > _MOST_PARTS:
        return f"it has more than {_MOST_PARTS} parts"
    if content["model"].get("max_input_chars_per_word", 0) > _LONGEST_WORD:
        return f"its words may have more than {_LONGEST_WORD} letters"
    for pattern in (part["Regex"] for part in parts if isinstance(part.get("Regex"), str)):
        if _repeats_repetitions(pattern):
            return f"its pattern {pattern[:40]!r} repeats what is repeated, which may take for ever"
    for step in _STEPS:
        contents = [part.get("content") for part in _parts(content.get(step)) if part.get("type") == "Replace"]
        if prod(1 + len(text) for text in contents if isinstance(text, str)) > _GROWTH:
            return "its replacements make a text more than a thousand times as long"
    return None


def _parts(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every object in a tree."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _parts(inner)


def _repeats_repetitions(pattern: str) -> bool:
    """Whether a group that holds a repetition is itself repeated, as in ``(a+)+``: exponential in a text's length."""
    # What stands for itself: escaped letters, and sets, which hold no repetitions.
    plain = re.sub(r"\[\^?\]?(?:[^\[\]]|\[[^\]]*\])*\]", "x", re.sub(r"\\.", "x", pattern, flags=re.DOTALL))
    inside = [False]
    for place, letter in enumerate(plain):
        if letter == "(":
            inside.append(False)
        elif letter == ")" and len(inside) > 1:
            repeats = inside.pop()
            if repeats and _UNBOUNDED.match(plain, place + 1):
                return True
            inside[-1] |= repeats
        elif _UNBOUNDED.match(plain, place):
            inside[-1] = True
    return False
