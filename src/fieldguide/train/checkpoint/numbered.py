"""The checkpoints of a run: numbered, pruned, searched for the newest that can be believed."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from torch import Tensor

from fieldguide.errors import DamagedFile, FieldguideError
from fieldguide.train.checkpoint.background import beside
from fieldguide.train.checkpoint.crew import ALONE, Crew
from fieldguide.train.checkpoint.disk import one_line, sync, sync_folder
from fieldguide.train.checkpoint.folder import Unconfirmed, write_image
from fieldguide.train.checkpoint.image import Image, host_room
from fieldguide.train.checkpoint.reading import NUMBERED, read_manifest, stored
from fieldguide.train.checkpoint.shards import write_shards
from fieldguide.train.checkpoint.stored import read
from fieldguide.train.checkpoint.tree import State

__all__ = ["Checkpoints", "Restored"]


@dataclass(frozen=True, kw_only=True)
class Restored:
    """A checkpoint that was found good, and what was wrong with the newer ones that were passed over."""

    stored: State
    """Its state, with ``Stored`` tensors: those that are needed are still to be read."""
    step: int
    folder: Path
    refused: list[str] = field(default_factory=list)

    @cached_property
    def state(self) -> State:
        """All of it; raises DamagedFile when a file cannot be read."""
        return read(self.stored)


class Checkpoints:
    """The numbered checkpoints of one run: the newest ``keep`` and the newest best one are kept.

    One process at a time may write (RunFolder's lock sees to it), and one save at a time is under way.
    """

    def __init__(self, folder: Path, keep: int = 2):
        if keep < 2:
            raise FieldguideError(
                f"keep={keep}: at least 2 checkpoints are kept, so that a damaged one can be replaced"
            )
        self.folder, self.keep = Path(folder), keep
        self._under_way: Future[Path] | None = None
        self._room: Tensor | None = None

    def save(
        self, state: State, *, step: int, best: bool = False, refers_to: Sequence[Path] = (), crew: Crew = ALONE
    ) -> Path:
        """Write the next checkpoint, point ``last`` (and ``best``) at it, remove the ones no longer needed.

        ``refers_to`` are files, as logs, whose content so far is on the disk before the checkpoint appears. A ``crew``
        writes it together: all call this, each with its own part of the state (``Slice``). Raises
        OSError when the disk refuses, what was saved before stays as it was; Unconfirmed when the checkpoint is there,
        but a power cut may still take it (then nothing older is removed) or the links are old.
        """
        self.wait()
        return self._save(Image.of(state, crew.leads), step, best, refers_to, crew)

    def begin(
        self, state: State, *, step: int, best: bool = False, refers_to: Sequence[Path] = (), crew: Crew = ALONE
    ) -> Future[Path]:
        """``save`` beside the training: returns once ``state`` is copied to host memory, which later steps never reach.

        An earlier save is waited for, and without the memory for a copy this one too. The future holds what ``save``
        returns or raises.
        """
        image = Image.of(state, crew.leads)
        self.wait()
        try:
            self._room = host_room(image, self._room)
            image = image.copied(self._room)
        except (RuntimeError, MemoryError):
            self._room = None
        self._under_way = beside(partial(self._save, image, step, best, refers_to, crew))
        if self._room is None:
            self.wait()
        return self._under_way

    def room(self, state: State, growth: int = 0, crew: Crew = ALONE) -> tuple[int, int]:
        """Bytes of all the checkpoints kept of such a state, which may still grow, and bytes free for them."""
        size = Image.of(state, crew.leads).nbytes + growth
        # Those kept, the best, and one more that is written before another is removed.
        needed = (self.keep + 2) * sum(map(int, crew.all(lambda: str(size))))
        return needed, shutil.disk_usage(self.folder).free

    def wait(self) -> None:
        """Until no save is under way, however it ends."""
        if self._under_way:
            wait([self._under_way])

    def release(self) -> None:
        """Wait, and give back the memory that copies of states are made in."""
        self.wait()
        self._room = None

    def _save(self, image: Image, step: int, best: bool, refers_to: Sequence[Path], crew: Crew) -> Path:
        choose = partial(self._next, step, refers_to)
        if crew.size == 1:
            path = choose()
            write_image(path, image, step=step, best=best)
        else:
            path = write_shards(choose, image, crew, step=step, best=best)
        if not crew.leads:
            return path
        try:
            self._point(*["last", "best"][: 1 + best], target=path)
        except OSError as error:
            why = f"{error.strerror}; the links last and best may be old"
            raise Unconfirmed(error.errno, why, str(path)) from error
        finally:
            self._prune(self.numbered())
        return path

    def _next(self, step: int, refers_to: Sequence[Path]) -> Path:
        """The folder of the next checkpoint; all that this is to refer to is on the disk."""
        if not self.folder.is_dir():
            self.folder.mkdir()
            sync_folder(self.folder.parent)
        for path in [*refers_to, *{path.parent for path in refers_to}]:
            sync(path)
        serial = 1 + max(map(_serial, self.numbered()), default=0)
        return self.folder / f"{serial:04d}-step-{step:06d}"

    def numbered(self) -> list[Path]:
        """The checkpoints, oldest first."""
        with contextlib.suppress(FileNotFoundError):
            found = [path for path in self.folder.iterdir() if NUMBERED.fullmatch(path.name)]
            return sorted(found, key=_serial)
        return []

    def best(self) -> Path | None:
        """The newest checkpoint that was saved as the best one so far."""
        return next((path for path in reversed(self._candidates()) if _is_best(path)), None)

    def newest(self, check: Callable[[State], None] | None = None, crew: Crew = ALONE) -> Restored | None:
        """Find the newest good checkpoint; None when the run has none at all.

        ``check`` may refuse a state, its tensors ``Stored``, for reasons of its own (another architecture) with a
        FieldguideError. A ``crew`` shares the work of checking files and finds the same. Raises DamagedFile with
        every reason when there are checkpoints and none can be believed.
        """
        self.wait()
        crew.exchange("")  # nobody writes any more
        refused: list[str] = []
        candidates = self._candidates()
        if len({*crew.exchange(json.dumps([path.name for path in candidates]))}) > 1:
            raise FieldguideError(
                f"distributed: not all processes find the same checkpoints in {self.folder}; "
                "let all machines share the folder"
            )
        for path in reversed(candidates):
            found, problem = None, ""
            try:
                state = stored(path, crew)
                if check:
                    check(state)
                found = Restored(stored=state, step=read_manifest(path).step, folder=path, refused=refused)
            except DamagedFile as error:
                problem = str(error)
            except (FieldguideError, OSError) as error:
                problem = f"{path} was refused: {one_line(error)}"
            problems = [said for said in crew.exchange(problem) if said]
            if found and not problems:
                return found
            refused += problems[:1]
        if candidates:
            raise DamagedFile(f"no checkpoint in {self.folder} can be believed: {'; '.join(refused)}")
        return None

    def clean(self, keep_until: Path | None = None) -> None:
        """Remove what a process that died has left; set aside, as ``damaged-…``, what is newer than ``keep_until``.

        Call it with the run's lock held and, on resume, with the checkpoint that was restored.
        """
        self.wait()
        if not self.folder.is_dir():
            return
        for path in self.folder.glob(".*"):
            _remove(path)
        if keep_until is None:
            return
        numbered = self.numbered()
        kept = numbered[: numbered.index(keep_until) + 1] if keep_until in numbered else []
        if kept:
            self._point("last", target=keep_until)
        if best := next((path for path in reversed(kept) if _is_best(path)), None):
            self._point("best", target=best)
        for path in numbered[len(kept) :]:
            os.rename(path, _free(path.with_name(f"damaged-{path.name}")))
        sync_folder(self.folder)  # before a new checkpoint takes the same number

    def _candidates(self) -> list[Path]:
        # A copy made without links (an archive, a cloud drive) has `last` and `best` as folders; they count as oldest.
        copies = [self.folder / name for name in ("best", "last")]
        return [path for path in copies if path.is_dir() and not path.is_symlink()] + self.numbered()

    def _point(self, *names: str, target: Path) -> None:
        for name in names:
            link, temporary = self.folder / name, self.folder / f".{name}.tmp"
            if link.is_dir() and not link.is_symlink():
                os.rename(link, _free(self.folder / f".{name}.old"))
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            try:
                os.symlink(target.name, temporary, target_is_directory=True)
            except (PermissionError, NotImplementedError):  # a file system without links
                return
            os.replace(temporary, link)
        sync_folder(self.folder)  # before what they pointed to is removed

    def _prune(self, numbered: list[Path]) -> None:
        wanted = {*numbered[-self.keep :], self.best()}
        with contextlib.suppress(OSError):  # tried again after the next save
            # Renamed first: a removal that is cut short must not look like a damaged checkpoint, not even after a
            # power cut.
            for path in numbered:
                if path not in wanted:
                    os.rename(path, path.with_name(f".{path.name}.old"))
            sync_folder(self.folder)
            for path in self.folder.glob(".*.old"):
                shutil.rmtree(path)


def _serial(path: Path) -> int:
    return int(path.name.split("-")[0])


def _is_best(path: Path) -> bool:
    try:
        return read_manifest(path).best
    except DamagedFile:
        return False


def _free(path: Path) -> Path:
    """``path``, or ``path`` with the first number that nobody uses."""
    names = (path if n == 1 else path.with_name(f"{path.name}.{n}") for n in range(1, 1_000_000))
    return next(name for name in names if not os.path.lexists(name))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
