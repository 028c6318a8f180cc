"""A card for each architecture, in Markdown, from its row in the catalog alone."""

from collections.abc import Iterable

from fieldguide.catalog import Architecture

TASKS = {"classify": "image classification"}


def card(row: Architecture) -> str:
    """One architecture: its idea, paper, use, public weights, file and sizes."""
    smallest, native = row.image
    sides = f"{native} px" if smallest == native else f"{smallest} to {native} px"
    sizes = "\n".join(f"| `{name}` | {count:,} |" for name, count in row.sizes.items())
    return f"""## {row.model}

{_sentence(row.key_idea)}

- **Paper**: {row.paper}
- **Task**: {TASKS.get(row.task, row.task)}, images of {sides} (the mini: {row.mini_image[0]} to {row.mini_image[1]} px)
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


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
