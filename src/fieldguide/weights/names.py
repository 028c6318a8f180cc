"""Patterns of tensor names: one text that recognises a name and can also write it.

``{i}`` is an index, ``{s+1}`` or ``{2*s+1}`` a number computed from one, ``{part}`` one of the words of a split tensor
and ``*`` the rest. An index is a natural number, so ``"layer{s+1}"`` stands for layer1, layer2, … and never for layer0.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

Values = dict[str, int | str]
"""What a name says: ``{"s": 0, "*": "weight"}``."""

_FIELD = re.compile(r"\{(?:(\d+)\*)?([a-z]+)([+-]\d+)?\}|\*")
_NUMBER = "(0|[1-9][0-9]*)"


class _Field(NamedTuple):
    name: str
    factor: int
    shift: int

    def read(self, text: str) -> int | str | None:
        if self.name in ("*", "part"):
            return text
        index, rest = divmod(int(text) - self.shift, self.factor)
        return index if rest == 0 and index >= 0 else None

    def write(self, value: int | str) -> str:
        return value if isinstance(value, str) else str(self.factor * value + self.shift)


class Pattern:
    """``Pattern("layer{s+1}.{i}.*")`` reads ``"layer1.0.bias"`` as s = 0, i = 0, * = bias, and writes it back."""

    def __init__(self, text: str, parts: tuple[str, ...] = ()):
        self.text = text
        self._fields: list[_Field] = []
        self._literals: list[str] = []
        regex, end = "", 0
        for found in _FIELD.finditer(text):
            factor, name, shift = found.groups()
            self._literals.append(text[end : found.start()])
            self._fields.append(_Field(name or "*", int(factor or 1), int(shift or 0)))
            words = "|".join(map(re.escape, parts))
            regex += re.escape(self._literals[-1]) + {None: "(.+)", "part": f"({words})"}.get(name, _NUMBER)
            end = found.end()
        self._literals.append(text[end:])
        self.regex = re.compile(regex + re.escape(text[end:]))
        if "{" in "".join(self._literals) or [field.name for field in self._fields].count("*") > 1:
            raise ValueError(f"{text!r} is not a pattern of names")

    @property
    def variables(self) -> set[str]:
        return {field.name for field in self._fields}

    def match(self, name: str) -> Values | None:
        """The values that make this pattern write ``name``, or None; a variable used twice must agree with itself."""
        found = self.regex.fullmatch(name)
        if not found:
            return None
        values: Values = {}
        for field, text in zip(self._fields, found.groups(), strict=True):
            value = field.read(text)
            if value is None or values.setdefault(field.name, value) != value:
                return None
        return values

    def fill(self, values: Values) -> str | None:
        """The name of these values, or None where a number would be negative."""
        written = [field.write(values[field.name]) for field in self._fields]
        if any(text.startswith("-") and field.name != "*" for text, field in zip(written, self._fields, strict=True)):
            return None
        return "".join(a + b for a, b in zip(self._literals, [*written, ""], strict=True))

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"


def any_of(patterns: Iterable[Pattern]) -> re.Pattern[str]:
    """One expression that matches every name of any pattern, to see at once that a name is of none."""
    return re.compile("|".join(pattern.regex.pattern for pattern in patterns))
