"""Lines of Python's own library and what each is: a labelled text set that is real and needs no download."""

import ast
import re
from collections.abc import Iterator

from fieldguide.data.documents import python_source

CLASSES = ("code", "comment", "docstring")
EACH = 2_000
"""Lines of each class."""
_OF_ONE_FILE = 150
"""Lines of a class that one file gives at most, so that many hands have written them."""
_LENGTHS = range(12, 101)
"""Characters of a line that are taken: shorter ones say nothing."""

_TEXT = ast.Constant | ast.JoinedStr
"""Over several lines, these are strings, in which ``#`` begins no comment."""
_QUOTES = re.compile(r"""^[rRuU]?("{3}|'{3}|"|')|("{3}|'{3}|"|')$""")
_DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def python_lines() -> list[tuple[str, str, str]]:
    """``(place, line, class)``: the first ``EACH`` distinct lines of each class, in the order of files and lines.

    Indentation and the signs that would give a class away (``#`` and quotes) are taken off, so a comment and a
    docstring are told apart by how they are written.
    """
    seen: set[str] = set()
    chosen: dict[str, list[tuple[str, str, str]]] = {label: [] for label in CLASSES}
    for name, source in python_source():
        room = {label: min(EACH, len(rows) + _OF_ONE_FILE) for label, rows in chosen.items()}
        for number, line, label in _lines(source):
            if len(line) in _LENGTHS and line not in seen and len(chosen[label]) < room[label]:
                seen.add(line)
                chosen[label].append((f"{name} line {number}", line, label))
        if all(len(lines) == EACH for lines in chosen.values()):
            break
    return [row for label in CLASSES for row in chosen[label]]


def _lines(source: str) -> Iterator[tuple[int, str, str]]:
    """Number, bare text and class of the lines that are one thing alone; other strings are passed over."""
    nodes = list(ast.walk(ast.parse(source)))
    texts = [node for node in nodes if isinstance(node, _TEXT) and node.lineno != node.end_lineno]
    inside = {n for node in texts for n in _span(node)}
    documented = {n for node in nodes if isinstance(node, _DOCUMENTED) for n in _docstring(node)}
    for number, raw in enumerate(source.split("\n"), 1):
        line = raw.strip()
        if number in documented:
            yield number, _QUOTES.sub("", line).strip(), "docstring"
        elif number not in inside and line:
            yield number, line.lstrip("#!: "), "comment" if line.startswith("#") else "code"


def _span(node: ast.expr) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> range:
    """The lines of its docstring, if it has one."""
    value = node.body[0].value if node.body and isinstance(node.body[0], ast.Expr) else None
    return _span(value) if isinstance(value, ast.Constant) and isinstance(value.value, str) else range(0)
