"""Masks as people type them: ``parse("Causal() & Window(64) | ~Global([0])")``.

A closed grammar over Python's own syntax tree: the names below, whole numbers, lists and ranges of them, ``& | ~`` and
brackets. Nothing is evaluated. ``parse(repr(mask)) == mask`` for every mask without data.
"""

import ast
import warnings
from dataclasses import fields

from fieldguide.blocks.masks import (
    Causal,
    Chunked,
    Dilated,
    Documents,
    Full,
    Global,
    Mask,
    Padding,
    Prefix,
    Strided,
    Window,
)
from fieldguide.errors import FieldguideError, unknown

MASKS: dict[str, type[Mask]] = {
    mask.__name__: mask for mask in (Full, Causal, Window, Strided, Dilated, Chunked, Prefix, Global)
}
HELD = (Documents.__name__, Padding.__name__)
LIMIT = 4096  # characters, so that no text can nest deep enough to exhaust the parser


def parse(text: str) -> Mask:
    """The mask that the text says. Raises FieldguideError, in one line, for anything else."""
    if len(text) > LIMIT:
        raise FieldguideError(f"a mask of {len(text)} characters is too long; at most {LIMIT}")
    try:
        with warnings.catch_warnings(action="ignore"):  # Python's remarks on syntax, such as "1a"
            tree = ast.parse(text.strip(), mode="eval")
        return _mask(tree.body)
    except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
        if isinstance(error, FieldguideError):
            raise
        raise FieldguideError(f"{text[:60]!r} is not a mask; write for example Causal() & Window(64)") from None


def _mask(node: ast.expr) -> Mask:
    match node:
        case ast.BinOp(left, ast.BitAnd(), right):
            return _mask(left) & _mask(right)
        case ast.BinOp(left, ast.BitOr(), right):
            return _mask(left) | _mask(right)
        case ast.UnaryOp(ast.Invert(), operand):
            return ~_mask(operand)
        case ast.Call(ast.Name(name), arguments, keywords):
            return _call(name, arguments, keywords)
        case ast.Name(name) if name in MASKS:
            raise FieldguideError(f"{name} needs brackets: {_usage(name)}")
        case ast.Name(name):
            raise _unknown(name)
    raise FieldguideError(
        f"{ast.unparse(node)[:60]!r} is not a mask; masks combine with & (both), | (either) and ~ (not)"
    )


def _call(name: str, arguments: list[ast.expr], keywords: list[ast.keyword]) -> Mask:
    if name not in MASKS:
        raise _unknown(name)
    wanted = [field.name for field in fields(MASKS[name])]
    given = dict(zip(wanted, map(_value, arguments), strict=False))
    given |= {str(keyword.arg): _value(keyword.value) for keyword in keywords}
    if len(arguments) + len(keywords) != len(wanted) or set(given) != set(wanted):
        raise FieldguideError(f"{name} is written {_usage(name)}")
    return MASKS[name](**given)


def _value(node: ast.expr) -> object:
    match node:
        case ast.Constant(int() as value) if not isinstance(value, bool):
            return value
        case ast.UnaryOp(ast.USub(), ast.Constant(int() as value)):
            return -value
        case ast.List(items) | ast.Tuple(items):
            return tuple(_value(item) for item in items)
        case ast.Call(ast.Name("range"), arguments, []) if 1 <= len(arguments) <= 2:
            bounds = [_value(argument) for argument in arguments]
            if all(isinstance(bound, int) and 0 <= bound <= 2**20 for bound in bounds):
                return range(*bounds)  # pyright: ignore[reportArgumentType, reportCallIssue]
    raise FieldguideError(
        f"{ast.unparse(node)!r} is not a size: sizes are whole numbers, positions lists such as [0, 5]"
    )


def _unknown(name: str) -> FieldguideError:
    if name in HELD:
        return FieldguideError(f"{name} holds the data of one batch and cannot be typed; give it to forward(x, mask=…)")
    return unknown("mask", name, MASKS)


def _usage(name: str) -> str:
    example = {"positions": "[0, 5]", "stride": "32", "step": "2", "length": "16"}
    return f"{name}({', '.join(example.get(field.name, '64') for field in fields(MASKS[name]))})"
