"""A run's folder: where everything about one training lies and who may write there."""

import contextlib
import fcntl
import json
import os
import re
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from fieldguide.bounded import read_json
from fieldguide.errors import FieldguideError, did_you_mean
from fieldguide.train.checkpoint import Checkpoints, sync_folder
from fieldguide.train.environment import environment

__all__ = ["RunFolder", "replace_text"]

_held: set[int] = set()


def _drop_inherited_locks() -> None:
    # A forked worker that outlives a killed trainer must not keep the trainer's lock.
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_drop_inherited_locks)


class RunFolder:
    """``runs/<model>-<data>-<n>/``, never overwritten: ``create`` makes a new one, ``open`` finds an old one."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.recipe = self.path / "recipe.toml"
        self.environment = self.path / "environment.json"
        self.metrics = self.path / "metrics.jsonl"
        self.trace = self.path / "trace.jsonl"
        self.model = self.path / "model"
        self.figures = self.path / "figures"
        self.report = self.path / "report.html"
        self.checkpoints = Checkpoints(self.path / "checkpoints")

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @classmethod
    def create(cls, root: Path | str, model: str, data: str) -> "RunFolder":
        """Make the next free ``root/<model>-<data>-<n>`` with ``environment.json`` in it."""
        stem = f"{_slug(model)}-{_slug(data)}"
        root = Path(root)
        used = [
            int(path.name[len(stem) + 1 :]) for path in root.glob(f"{stem}-*") if path.name[len(stem) + 1 :].isdigit()
        ]
        number = max(used, default=0)
        while True:
            number += 1
            with contextlib.suppress(_Exists):
                return cls.create_at(root / f"{stem}-{number}")

    @classmethod
    def create_at(cls, path: Path | str) -> "RunFolder":
        """Make exactly this run folder; raises FieldguideError when there is something already."""
        run = cls(Path(path))
        try:
            run.path.parent.mkdir(parents=True, exist_ok=True)
            run.path.mkdir()
            run.checkpoints.folder.mkdir()
            sync_folder(run.path.parent)
            replace_text(run.environment, json.dumps(environment(), indent=2) + "\n")
        except FileExistsError as error:
            raise _Exists(f"{path} exists already; choose another name, or go on with --resume {path}") from error
        except OSError as error:
            raise FieldguideError(f"cannot make the run folder {path}: {error.strerror}") from error
        return run

    @classmethod
    def open(cls, path: Path | str) -> "RunFolder":
        """An existing run; raises FieldguideError, with the nearest name, when there is none."""
        run = cls(Path(path))
        if not run.path.is_dir():
            siblings = [
                sibling.name for sibling in run.path.parent.glob("*") if cls(sibling).checkpoints.folder.is_dir()
            ]
            raise FieldguideError(f"there is no run at {path}{did_you_mean(run.path.name, siblings)}")
        if not run.checkpoints.folder.is_dir():
            raise FieldguideError(f"{path} is not a run folder: it has no checkpoints/")
        return run

    def goes_on(self, step: int, changed: Sequence[str], recipes: tuple[str, str] | None) -> None:
        """Keep that from this step on the run is made here and now, what has changed, and the old recipe of two."""
        if recipes:
            for path, text in zip((self.path / f"recipe-{step}.toml", self.recipe), recipes, strict=True):
                replace_text(path, text)
        first = read_json(self.environment)
        later = [*first.get("later", []), {"step": step, "changes": [*changed], **environment()}]
        replace_text(self.environment, json.dumps({**first, "later": later}, indent=2) + "\n")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process alone; the system gives it free when the process ends, however it ends.

        Raises FieldguideError naming the process that holds it.
        """
        try:
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise FieldguideError(f"cannot write in {self.path}: {error.strerror}") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                owner = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
                raise FieldguideError(f"{self.path} is in use by {owner}; wait until it ends, or stop it") from error
            _held.add(descriptor)
            with contextlib.suppress(OSError):  # a full disk; the lock holds without the name
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            yield
        finally:
            _held.discard(descriptor)
            os.close(descriptor)


def replace_text(path: Path, text: str) -> None:
    """Give a file new content at once: whoever reads it, even after a kill, finds all of the old or all of the new.

    Raises OSError that names ``path`` when the disk refuses; the old content then stays.
    """
    content, temporary = text.encode(), path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as problem:
        temporary.unlink(missing_ok=True)
        raise OSError(problem.errno, problem.strerror, str(path)) from problem
    sync_folder(path.parent)


class _Exists(FieldguideError):
    pass


def _slug(name: str) -> str:
    """A data source or model name as part of a file name: the last part of a path, odd characters replaced."""
    return re.sub(r"[^\w.]+", "_", Path(name).stem if os.sep in name else name).strip("._") or "data"
