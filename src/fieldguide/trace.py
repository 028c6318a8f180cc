"""What happened in a run, as plain numbers: one JSON object a line. Needs no torch, so anything can write or read it.

Five kinds of record: ``step`` after every optimizer step, ``epoch`` after every pass over the training part,
``test`` once at the end, ``sample`` – scale-free scalars taken every few steps (a run's ``trace.jsonl``) –, and
``failure`` whenever something went wrong.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from fieldguide.bounded import MB, open_plain

Record = dict[str, Any]
LINE_LIMIT = 16 * MB
"""Bytes that a record has at most."""


class Step(TypedDict):
    """One optimizer step; objectives may add figures of their own."""

    kind: Literal["step"]
    step: int
    """Optimizer steps so far, this one included: the first is 1."""
    epoch: int
    loss: float
    """Mean over the step's samples (summed over the phases, should the objective have several)."""
    lr: float
    """Rate of the first parameter group in this step."""
    grad_norm: float
    """Global Euclidean norm before clipping; not finite in fp16 when gradients overflowed and no step was taken."""
    samples: int
    """What this step consumed: samples, or tokens where the objective counts tokens."""
    seconds: float
    """Wall time of this step, waiting for its data included."""
    left_out: NotRequired[bool]
    """True when no step was taken because its batch was bad; ``loss`` and ``grad_norm`` are not finite then."""


class Epoch(TypedDict):
    """One pass over the training part; ``val_<metric>`` for every metric of the objective."""

    kind: Literal["epoch"]
    epoch: int
    step: int
    train_loss: float
    val_loss: NotRequired[float]
    val_baseline: NotRequired[float]
    """What ``val_loss`` would be of the best answer that is the same for all inputs."""
    val_accuracy: NotRequired[float]
    val_f1: NotRequired[float]
    noise_scale: NotRequired[float]
    """Samples a step from which more of them gain little; see ``train.gradients``."""
    batch_advice: NotRequired[str]
    """What that means for this training, in a sentence."""
    seconds: float
    samples_per_second: float


class Test(TypedDict):
    """The held-out part after training; ``test_<metric>`` for every metric of the objective."""

    kind: Literal["test"]
    step: int
    test_loss: float
    test_baseline: NotRequired[float]
    test_accuracy: NotRequired[float]
    test_f1: NotRequired[float]


class Sample(TypedDict):
    """Scale-free scalars of one step, comparable between networks and optimizers."""

    kind: Literal["sample"]
    step: int
    epoch: int
    loss: float
    lr: float
    grad_norm: float
    update_ratio: float
    """‖change of the parameters‖ / ‖parameters‖; healthy runs sit near 1e-3."""
    data_wait: float
    """Share of the wall time since the last sample spent waiting for data, 0 to 1."""
    resident_bytes: int
    """The most memory that the training's process has held so far."""
    device_bytes: NotRequired[int]
    """The most that tensors on the CUDA device have taken so far."""
    reserved_bytes: NotRequired[int]
    """What PyTorch holds of the CUDA device's memory now."""
    gradients: NotRequired[dict[str, float]]
    """In one of ten samples: the norm of the gradient of each layer's matrix, clipped, in the order of the model."""


class Failure(TypedDict):
    """Something went wrong: a save, memory that ran out, a bad batch; the training may have gone on."""

    kind: Literal["failure"]
    step: int
    epoch: int
    message: NotRequired[str]
    """What a person was told, where training went on."""
    batch: NotRequired[int]
    """Number in the epoch's order of the first batch of a bad step, from 0."""
    loss: NotRequired[float]
    grad_norm: NotRequired[float]
    parameters: NotRequired[list[str]]
    """Those whose gradient or value is not finite."""
    treated: NotRequired[bool]
    """The training has gone back and goes on with another recipe; the message says from where, with which and why."""


class Log:
    """Append-only file of records: each line is with the operating system when ``write`` returns.

    A line that cannot be written (disk full, folder read-only) is kept and goes out with the next one that can;
    ``failure`` says meanwhile what is wrong.
    """

    def __init__(self, path: Path):
        self.path = path
        self.failure: str | None = None
        self._file: int | None = None
        self._pending = b""

    def write(self, record: Mapping[str, Any]) -> None:
        self._pending += (_encode(record) + "\n").encode()
        try:
            if self._file is None:
                self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            while self._pending:
                self._pending = self._pending[os.write(self._file, self._pending) :]
            self.failure = None
        except OSError as problem:
            self.failure = f"cannot write {self.path}: {problem.strerror}"

    @property
    def position(self) -> int:
        """Bytes so far, those still waiting included: what a checkpoint remembers."""
        written = self.path.stat().st_size if self.path.exists() else 0
        return written + len(self._pending)

    def rewind(self, position: int) -> None:
        """Cuts the file back to ``position``, so that a resumed run continues where its checkpoint was taken."""
        self._pending = b""
        if self.position > position:
            os.truncate(self.path, position)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def read(path: Path, kind: str | None = None) -> Iterator[Record]:
    """The records of a log, oldest first; an unfinished last line (a killed run) is left out.

    Raises:
        ValueError: a finished line is not a JSON object, or longer than any record; the message names file and line.
    """
    with open_plain(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(LINE_LIMIT), b""), start=1):
            if len(line) == LINE_LIMIT:
                raise ValueError(f"{path}, line {number}: longer than any record")
            if not line.endswith(b"\n"):
                return
            try:
                record = parse(line)
            except ValueError as problem:
                raise ValueError(f"{path}, line {number}: {problem}") from None
            if kind is None or record.get("kind") == kind:
                yield record


def parse(line: bytes) -> Record:
    """One line of a log. Raises ValueError when it is not a JSON object."""
    try:
        return {key: _number(value) for key, value in json.loads(line).items()}
    except (ValueError, AttributeError, RecursionError):
        raise ValueError("not a JSON object") from None


def write(path: Path, records: Iterable[Record]) -> None:
    """Writes a whole log at once."""
    path.write_text("".join(_encode(record) + "\n" for record in records), encoding="utf-8")


# Standard JSON has no NaN or infinity; they travel as these words and come back as numbers.
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_dumps = json.JSONEncoder(allow_nan=False, separators=(",", ":"), ensure_ascii=False).encode


def _encode(record: Any) -> str:
    try:
        return _dumps(record)
    except ValueError:
        return _dumps({key: _word(value) for key, value in record.items()})


def _number(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _number(inner) for key, inner in value.items()}
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


def _word(value: object) -> object:
    if isinstance(value, dict):
        return {key: _word(inner) for key, inner in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
