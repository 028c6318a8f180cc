"""The files of text encoders in transformers' layout: one encoder below many heads, or bare.

A file of the encoder alone has ``embeddings.…`` where a file with a head has ``bert.embeddings.…`` beside the head. A
model takes the encoder from any of them, and of the heads the one it has.
"""

from collections.abc import Iterable, Mapping

from fieldguide.weights.rows import Ignored, Row, Tied, ignore
from fieldguide.weights.table import COUNTERS, Table

Rows = Mapping[str, str | Row | Ignored | Tied]

POOLER_MAY_LACK = {"head.pooler.*": "a model for masked tokens has no pooler, and its file none"}


def encoder_tables(
    prefix: str, encoder: Rows, *, bare: Iterable[Rows], headed: Iterable[Rows], aliases: Mapping[str, str]
) -> tuple[Table, ...]:
    """A table for every head: its rows are read, those of all other heads ignored.

    All names are written below ``prefix``. ``bare`` are the heads, if there is any pooler, of files of the encoder
    alone; the others stand beside it. Each kind of file is read into each kind of model, and written as its own.
    """
    bare, headed = tuple(bare), tuple(headed)
    others = dict.fromkeys(
        [name for head in (*bare, *headed) for name in head], ignore("of a head that the model lacks")
    )
    rows = {**encoder, **others}
    parts = dict.fromkeys(name.removeprefix(prefix).split(".")[0] for name in rows if name.startswith(prefix))
    below = {**aliases, **{f"{part}.*": f"{prefix}{part}.*" for part in parts}}
    alone = {**aliases, f"{prefix}*": "*"}
    return (
        *(
            Table(_without(prefix, {**rows, **head}), aliases=alone, optional=COUNTERS | POOLER_MAY_LACK)
            for head in bare
        ),
        *(Table({**rows, **head}, aliases=below) for head in headed),
    )


def _without(prefix: str, rows: Rows) -> Rows:
    return {name.removeprefix(prefix): row for name, row in rows.items()}
