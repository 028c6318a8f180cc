"""A card for each architecture, in Markdown, from its row in the catalog alone."""

from collections.abc import Iterable

from fieldguide.catalog import Architecture

TASKS = {
    "classify": "image classification",
    "encode": "text encoding: one vector for each token",
    "generate": "language modelling: the next token",
    "translate": "text to text",
    "regress": "a number or a class from the other columns of a table",
}


def card(row: Architecture) -> str:
    """One architecture: its idea, paper, use, public weights, file and sizes."""
    images = f", images of {_sides(row.image)} (the mini: {_sides(row.mini_image)})" if row.image else ""
    sizes = "\n".join(f"| `{name}` | {count:,} |" for name, count in row.sizes.items())
    return f"""## {row.model}

{_sentence(row.key_idea)}

- **Paper**: {row.paper}
- **Task**: {TASKS[row.task]}{images}
- **Best for**: {row.best_for}
- **Public weights**: {row.weights}
- **File**: `models/{row.module.replace(".", "/")}.py`

| name | parameters |
|---|---:|
{sizes}
"""


def cards(rows: Iterable[Architecture]) -> str:
    """A page of cards, oldest architecture first."""
    ordered = sorted(rows, key=lambda row: row.year)
    return "# Architectures\n\nWritten by `fieldguide lookup model`.\n\n" + "\n".join(map(card, ordered))


def _sides(span: tuple[int, int] | None) -> str:
    smallest, native = span or (0, 0)
    return f"{native} px" if smallest == native else f"{smallest} to {native} px"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
