"""What a disk may hold after a death: the system calls that change it, interrupted, refused, or recorded and replayed.

The model of a power cut is the strictest that POSIX allows (Pillai et al. 2014, "All File Systems Are Not Created
Equal", §3): only ``fsync`` makes anything last, of a file its content and of a folder its names, and nothing else. All
that was not synced may be lost or kept one by one, whatever the order it was done in; a write may also arrive cut
short, or as zeros of the right length. A rename is atomic.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal

CALLS = ("open", "write", "fsync", "close", "mkdir", "rename", "replace", "symlink", "unlink", "rmdir")
"""Through these a checkpoint reaches the disk and leaves it."""
MOST = 1 << 15
"""States after one operation that are worth enumerating; more means that a recording is too long."""


@contextmanager
def replaced(wrap: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Every one of the calls as ``wrap(name, call)`` makes it, while the ``with`` block runs."""
    originals = {name: getattr(os, name) for name in CALLS}
    for name, original in originals.items():
        setattr(os, name, wrap(name, original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(os, name, original)


@contextmanager
def at_call(number: int, act: Callable[[str, tuple], None], sticky: bool = False) -> Iterator[list[str]]:
    """Runs ``act`` just before the ``number``-th call, with ``sticky`` before all later ones; yields the calls made."""
    made: list[str] = []

    def wrap(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            made.append(name)
            if len(made) == number or (sticky and len(made) > number):
                act(name, arguments)
            return original(*arguments, **options)

        return call

    with replaced(wrap):
        yield made


def die(name: str, arguments: tuple) -> None:
    """The process ends here and now; of a write half arrives."""
    if name == "write":
        descriptor, data = arguments
        os.pwrite(descriptor, bytes(data[: len(data) // 2]), os.lseek(descriptor, 0, os.SEEK_CUR))
    os._exit(9)


def refuse(code: int, sticky: bool) -> Callable[[str, tuple], None]:
    """An action for ``at_call``: the system says no. A disk that stays full still reads, frees and closes."""

    def act(name: str, arguments: tuple) -> None:
        looking = name == "open" and arguments[1] & os.O_ACCMODE == os.O_RDONLY
        if not (sticky and (looking or name in ("close", "unlink", "rmdir"))):
            raise OSError(code, os.strerror(code))

    return act


# --------------------------------------------------------------------------------------------------------- power cuts

Entries = dict[str, int | None]


@dataclass(frozen=True)
class Names:
    """Names of a folder that change together: to another file, or to none."""

    folder: int
    entries: Entries


@dataclass(frozen=True)
class Data:
    file: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Sync:
    of: int


@dataclass(frozen=True)
class Mark:
    """The program has been told that something is done."""

    what: int


Operation = Names | Data | Sync | Mark
Fate = Literal["lost", "kept", "cut", "zeros"]


@dataclass
class Disk:
    """Files, folders and links by number; 0 is the folder that is looked at."""

    names: dict[int, dict[str, int]] = field(default_factory=lambda: {0: {}})
    files: dict[int, bytes] = field(default_factory=dict)
    links: dict[int, str] = field(default_factory=dict)

    def copy(self) -> "Disk":
        return Disk({folder: {**names} for folder, names in self.names.items()}, {**self.files}, {**self.links})

    def new(self) -> int:
        return len(self.names) + len(self.files) + len(self.links)

    def read(self, path: Path, folder: int = 0) -> None:
        """Takes over what is there."""
        for item in sorted(path.iterdir()):
            number = self.names[folder][item.name] = self.new()
            if item.is_symlink():
                self.links[number] = os.readlink(item)
            elif item.is_dir():
                self.names[number] = {}
                self.read(item, number)
            else:
                self.files[number] = item.read_bytes()

    def apply(self, operation: Operation, fate: Fate = "kept") -> None:
        match operation:
            case Names(folder, entries) if fate == "kept":
                for name, number in entries.items():
                    if number is None:
                        self.names[folder].pop(name, None)
                    else:
                        self.names[folder][name] = number
            case Data(file, offset, data) if fate != "lost":
                data = {"kept": data, "cut": data[: len(data) // 2], "zeros": bytes(len(data))}[fate]
                old = self.files[file].ljust(offset, b"\0")
                self.files[file] = old[:offset] + data + old[offset + len(data) :]

    def tree(self, folder: int = 0) -> tuple:
        """All that can be reached, in a form that can be compared."""
        return tuple(
            (name, self.tree(number) if number in self.names else self.files.get(number, self.links.get(number)))
            for name, number in sorted(self.names[folder].items())
        )

    def write(self, path: Path, folder: int = 0) -> None:
        path.mkdir()
        for name, number in self.names[folder].items():
            if number in self.names:
                self.write(path / name, number)
            elif number in self.links:
                (path / name).symlink_to(self.links[number])
            else:
                (path / name).write_bytes(self.files[number])


class Recording:
    """``with Recording(folder) as recording``: what happens in a folder, in the order in which it happens.

    ``done`` is what the program has been told is done before. Writes are made short, as the system may do at any time,
    so that a file is torn in more places.
    """

    def __init__(self, root: Path, done: int, largest: int = 256):
        self.root, self.done, self.largest = Path(os.path.realpath(root)), done, largest
        self.before = Disk()
        self.before.read(self.root)
        self.now = self.before.copy()
        self.operations: list[Operation] = []
        self._patch = replaced(self._wrap)

    def __enter__(self) -> "Recording":
        self._patch.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._patch.__exit__(*exception)

    def mark(self, what: int) -> None:
        self.operations.append(Mark(what))

    def crashes(self) -> Iterator[tuple[int, Disk]]:
        """Every state a power cut may leave, each once with the last mark before it."""
        done, seen = self.done, set()
        for end in range(len(self.operations) + 1):
            if end and isinstance(operation := self.operations[end - 1], Mark):
                done, seen = operation.what, set()
            for disk in self._states(end):
                if (tree := disk.tree()) not in seen:
                    seen.add(tree)
                    yield done, disk

    def _states(self, end: int) -> Iterator[Disk]:
        done = self.operations[:end]
        synced, fates = set(), []
        for operation in reversed(done):
            if isinstance(operation, Sync):
                synced.add(operation.of)
            fates.append(self._fates(operation, synced))
        fates.reverse()
        count = 1
        for possible in fates:
            count *= len(possible)
        if count > MOST:
            raise ValueError(f"{count} states after {end} operations")
        for choice in product(*fates):
            disk = self._nothing_done()
            for operation, fate in zip(done, choice, strict=True):
                disk.apply(operation, fate)
            yield disk

    def _nothing_done(self) -> Disk:
        """The disk as it was, with everything that was made since, empty and under no name."""
        disk = self.before.copy()
        for folder in self.now.names.keys() - disk.names.keys():
            disk.names[folder] = {}
        for file in self.now.files.keys() - disk.files.keys():
            disk.files[file] = b""
        disk.links = {**self.now.links}
        return disk

    @staticmethod
    def _fates(operation: Operation, synced: set[int]) -> tuple[Fate, ...]:
        match operation:
            case Names(folder) if folder not in synced:
                return "lost", "kept"
            case Data(file) if file not in synced:
                return "lost", "kept", "cut", "zeros"
        return ("kept",)

    def _do(self, operation: Operation) -> None:
        self.now.apply(operation)
        self.operations.append(operation)

    def _find(self, path: Any, dir_fd: int | None = None) -> tuple[int | None, str, int | None]:
        """The number of the folder, the name in it, and the number under that name."""
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        elif dir_fd is not None:
            path = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), path)
        path = Path(os.path.abspath(path))
        path = Path(os.path.realpath(path.parent)) / path.name
        if path == self.root:
            return None, "", 0
        if self.root not in path.parents:
            return None, path.name, None
        folder: int | None = 0
        for part in path.relative_to(self.root).parts[:-1]:
            folder = None if folder is None else self.now.names[folder].get(part)
        return folder, path.name, None if folder is None else self.now.names[folder].get(path.name)

    def _wrap(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        record = getattr(self, f"_{name}", None)
        if record is None:
            return original
        return lambda *arguments, **options: record(original, *arguments, **options)

    def _open(self, original: Callable[..., int], path: Any, flags: int, *rest: Any, dir_fd: int | None = None) -> int:
        folder, name, number = self._find(path, dir_fd)
        descriptor = original(path, flags, *rest, dir_fd=dir_fd)
        if folder is not None and number is None:
            number = self.now.new()
            self.now.files[number] = b""
            self._do(Names(folder, {name: number}))
        return descriptor

    def _write(self, original: Callable[..., int], descriptor: int, data: Any) -> int:
        number = self._find(descriptor)[2]
        if number is None:
            return original(descriptor, data)
        written = original(descriptor, data[: self.largest])
        end = os.lseek(descriptor, 0, os.SEEK_CUR)
        self._do(Data(number, end - written, bytes(data[:written])))
        return written

    def _fsync(self, original: Callable[..., None], descriptor: int) -> None:
        original(descriptor)
        number = self._find(descriptor)[2]
        if number is not None:
            self._do(Sync(number))

    def _mkdir(self, original: Callable[..., None], path: Any, *rest: Any, dir_fd: int | None = None) -> None:
        original(path, *rest, dir_fd=dir_fd)
        folder, name, _ = self._find(path, dir_fd)
        if folder is not None:
            number = self.now.new()
            self.now.names[number] = {}
            self._do(Names(folder, {name: number}))

    def _rename(self, original: Callable[..., None], source: Any, target: Any) -> None:
        original(source, target)
        folder, old, number = self._find(source)
        there, new, _ = self._find(target)
        if folder is not None:
            assert folder == there, "only renames inside a folder are atomic in every file system"
            self._do(Names(folder, {old: None, new: number}))

    _replace = _rename

    def _symlink(self, original: Callable[..., None], to: Any, path: Any, target_is_directory: bool = False) -> None:
        original(to, path, target_is_directory=target_is_directory)
        folder, name, _ = self._find(path)
        if folder is not None:
            number = self.now.new()
            self.now.links[number] = os.fspath(to)
            self._do(Names(folder, {name: number}))

    def _unlink(self, original: Callable[..., None], path: Any, *, dir_fd: int | None = None) -> None:
        folder, name, _ = self._find(path, dir_fd)
        original(path, dir_fd=dir_fd)
        if folder is not None:
            self._do(Names(folder, {name: None}))

    _rmdir = _unlink
