"""What every verb says and where: results on stdout, errors on stderr, readable on any terminal and by programs."""

import codecs
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

ASCII_TWINS = str.maketrans(
    {"×": "x", "→": "->", "↓": "v", "–": "-", "—": "-", "−": "-", "…": "...", "≤": "<=", "≥": ">=", "·": "*", "±": "+-"}
    | {"“": '"', "”": '"', "’": "'", "█": "#", "▀": "'", "▄": ",", "│": "|"}
    | dict.fromkeys("▁▂▃", "_")
    | dict.fromkeys("▅▆▇", "#")
    | dict.fromkeys("─━", "-")
    | dict.fromkeys("┌┐└┘╭╮╰╯┼┬┴├┤", "+")
)
PIPE_WIDTH = 120


def plain_text_everywhere() -> None:
    """Let a terminal that cannot show ``×`` show ``x`` instead of failing."""
    codecs.register_error("ascii_twin", _ascii_twin)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="ascii_twin")  # pyright: ignore[reportAttributeAccessIssue]


def _ascii_twin(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    twin = error.object[error.start : error.end].translate(ASCII_TWINS)
    return twin.encode("ascii", "replace").decode(), error.end


def console() -> "Console":
    """Rich's console: no colour when piped or under NO_COLOR, and a pipe as wide as a table needs."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def table(*columns: str, right: tuple[str, ...] = (), title: str | None = None) -> "Table":
    """The one table style: a rule under the header, nothing else; columns named in ``right`` hold numbers."""
    from rich import box
    from rich.table import Table

    result = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for column in columns:
        result.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return result


def say_error(text: str) -> None:
    """One line on stderr whatever the message holds."""
    # With its end in one piece, as other processes may write there too.
    print(f"error: {' '.join(text.split())}\n", end="", file=sys.stderr)


def say_json(value: Any) -> None:
    """One JSON document on stdout, for a program that reads it."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def say_line(record: Any) -> None:
    """One JSON object on one line, for a program that reads along."""
    print(json.dumps(record, ensure_ascii=False), flush=True)


def say_facts(**facts: object) -> None:
    """``name   value`` lines, aligned."""
    width = max(8, *map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}", flush=True)


def bytes_in_words(count: int | float) -> str:
    """``2.02 GiB``: in the unit that leaves few digits."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.2f} GiB"
