"""A log read along while a training writes it."""

import os
from pathlib import Path

from fieldguide import trace
from fieldguide.bounded import open_plain


class LiveLog:
    """The records of a log that are new at each look; a line that is still being written waits for the next one.

    A training that goes back to a checkpoint cuts its log there. It is noticed by the last line read, which then no
    longer stands where it stood: every step has its own time.
    """

    def __init__(self, path: Path):
        self.path = path
        self._place, self._last = 0, b""

    def look(self) -> tuple[bool, list[trace.Record]]:
        """Whether the log is still the one of the last look, and what it has more; all it has when it is another.

        Of a long log comes a part at a look, and nothing is left when none comes. Raises ValueError for a line that is
        no record, OSError when the file cannot be read.
        """
        same, content = self._read()
        whole, end, _ = content.rpartition(b"\n")
        if len(content) == trace.LINE_LIMIT and not end:
            raise ValueError(f"{self.path}: a line is longer than any record")
        try:
            records = [trace.parse(line) for line in (whole.split(b"\n") if end else [])]
        except ValueError as problem:
            raise ValueError(f"{self.path}: a line is {problem}") from None
        place = (self._place if same else 0) + len(whole + end)
        self._place, self._last = place, (whole.rpartition(b"\n")[2] + end) or (self._last if same else b"")
        return same, records

    @property
    def written(self) -> float:
        """When it was last written, in seconds since 1970; 0 where there is none."""
        try:
            return os.stat(self.path).st_mtime
        except OSError:
            return 0.0

    def _read(self) -> tuple[bool, bytes]:
        try:
            file = open_plain(self.path)
        except FileNotFoundError:
            return self._place == 0, b""
        with file:
            file.seek(self._place - len(self._last))
            same = file.read(len(self._last)) == self._last
            file.seek(self._place if same else 0)
            return same, file.read(trace.LINE_LIMIT)
