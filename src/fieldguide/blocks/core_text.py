"""Cores as a file holds them: ``parse("Performer(features=256)")``, and ``written(core)``, which is its inverse.

A closed grammar over Python's own syntax tree, as that of masks (``mask_text.py``); nothing is evaluated. The text says
what to build; what a core has learned or drawn is in the network's tensors.
"""

import ast
import warnings
from math import prod

from fieldguide.blocks.cores import Core, Linear, Linformer, Performer, Projection, Softmax
from fieldguide.errors import FieldguideError, unknown

USAGE = {
    "Softmax": "Softmax()",
    "Linear": "Linear()",
    "Performer": "Performer(features=256)",
    "Linformer": "Linformer(Projection(512, 64)), with a second Projection where values have their own",
}
LIMIT = 1024  # characters
LARGEST = 2**28  # numbers of one tensor, so that no text can exhaust the memory


def written(core: Core) -> str:
    """The text of a core. Raises FieldguideError for one that numbers alone do not describe."""
    match core:
        case Softmax() | Linear() if type(core) in (Softmax, Linear):
            return f"{type(core).__name__}()"
        case Performer() if type(core) is Performer:
            return f"Performer(features={core.number})"
        case Linformer() if type(core) is Linformer:
            projections = [core.keys] if core.values is None else [core.keys, core.values]
            if all(type(projection) is Projection for projection in projections):
                return f"Linformer({', '.join('Projection({}, {})'.format(*p.weight.shape) for p in projections)})"
    raise FieldguideError(f"the core {type(core).__name__} is not one that numbers alone describe")


def parse(text: str) -> Core:
    """The core that the text says, with random values. Raises FieldguideError, in one line, for anything else."""
    if len(text) > LIMIT:
        raise FieldguideError(f"a core of {len(text)} characters is too long; at most {LIMIT}")
    try:
        with warnings.catch_warnings(action="ignore"):  # Python's remarks on syntax, such as "1a"
            tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, RecursionError, MemoryError, ValueError):
        tree = None
    match tree:
        case ast.Call(ast.Name("Softmax"), [], []):
            return Softmax()
        case ast.Call(ast.Name("Linear"), [], []):
            return Linear()
        case ast.Call(ast.Name("Performer"), [], [ast.keyword("features", number)]):
            return Performer(*_numbers(number))
        case ast.Call(ast.Name("Linformer"), [first], []):
            return Linformer(_projection(first))
        case ast.Call(ast.Name("Linformer"), [first, second], []):
            return Linformer(_projection(first), _projection(second))
        case ast.Call(ast.Name(name)) if name not in USAGE:
            raise unknown("core", name, USAGE)
        case ast.Call(ast.Name(name)):
            raise FieldguideError(f"{name} is written {USAGE[name]}, not {text[:60]!r}")
    raise FieldguideError(f"{text[:60]!r} is not a core; write for example {USAGE['Performer']}")


def _projection(node: ast.expr) -> Projection:
    match node:
        case ast.Call(ast.Name("Projection"), [max_len, slots], []):
            return Projection(*_numbers(max_len, slots))
    raise FieldguideError(f"{ast.unparse(node)[:60]!r} is not a projection; write for example Projection(512, 64)")


def _numbers(*nodes: ast.expr) -> tuple[int, ...]:
    values = tuple(node.value if isinstance(node, ast.Constant) else None for node in nodes)
    if not all(type(value) is int and value > 0 for value in values) or prod(values) > LARGEST:  # pyright: ignore
        shown = ", ".join(map(ast.unparse, nodes))
        raise FieldguideError(f"{shown[:60]!r}: the sizes of a core are whole numbers from 1, {LARGEST} in product")
    return values  # pyright: ignore[reportReturnType]
