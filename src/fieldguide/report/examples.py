"""A few inputs with a network's answers, as a table of the report."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fieldguide.bounded import read_json
from fieldguide.errors import DamagedFile
from fieldguide.train.run import replace_text

FILE = Path("figures", "examples.json")


@dataclass(frozen=True, kw_only=True)
class Examples:
    title: str
    story: str
    """What the rows are, in a sentence."""
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def save(self, run: Path) -> None:
        (run / FILE).parent.mkdir(parents=True, exist_ok=True)
        replace_text(run / FILE, json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n")

    @classmethod
    def load(cls, run: Path) -> "Examples | None":
        """Those kept in a run folder, or None. Raises DamagedFile when the file cannot be read."""
        if not (run / FILE).exists():
            return None
        try:
            found = cls(**read_json(run / FILE))
            texts = [found.title, found.story, *found.columns, *(cell for row in found.rows for cell in row)]
            if not all(isinstance(text, str) for text in texts):
                raise ValueError("it holds something else than texts")
            return found
        except (ValueError, TypeError) as reason:
            raise DamagedFile(f"{run / FILE} cannot be read ({reason}); delete it and train --resume {run}") from None
