"""Text files as strings: one encoding, and an error that says where a file leaves it."""

import codecs
import os
import sysconfig
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fieldguide.bounded import MB, open_plain
from fieldguide.errors import FieldguideError

SUFFIXES = (
    *(".txt", ".text", ".md", ".rst", ".tex", ".html", ".xml", ".json", ".yaml", ".yml", ".toml", ".ini", ".cfg"),
    *(".py", ".c", ".h", ".cc", ".cpp", ".hpp", ".cs", ".go", ".java", ".jl", ".js", ".kt", ".lua", ".ml", ".hs"),
    *(".php", ".pl", ".r", ".rb", ".rs", ".scala", ".sh", ".sql", ".swift", ".ts", ".css"),
)
"""Files of a folder that are read as text."""

LINE_LIMIT = 16 * MB
STDLIB_LIMIT = 8_000_000
"""Bytes of the standard library's source that are read."""
_APART = {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "__pycache__"}
"""Folders of the standard library that hold tests, tables, or what others installed."""
_BUILT = ("_sysconfigdata", "config-")
"""Files that were written when this Python was built, and differ from machine to machine."""
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@contextmanager
def readable(source: str | Path) -> Iterator[Path]:
    """The path of a source; what the system refuses on the way is a ``FieldguideError``."""
    try:
        yield Path(source).expanduser()
    except OSError as error:
        raise FieldguideError(f"{error.filename or source} cannot be read ({error.strerror or error})") from error


class Document(NamedTuple):
    name: str
    """Its file, relative to the source's folder."""
    text: str


def read_document(file: Path, name: str | None = None, *, in_lines: bool = False) -> Document:
    """A text file in UTF-8 (or UTF-16 that begins with its byte-order mark), with line ends as ``\\n``.

    Raises ``FieldguideError`` for a file that cannot be read, or holds NUL bytes or other bytes than UTF-8; of a table,
    which is read ``in_lines``, also for a line of more than ``LINE_LIMIT`` bytes.
    """
    with readable(file), open_plain(file) as opened:
        content = b"".join(_pieces(opened, file, in_lines))
    text = _decoded(content, file).removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    return Document(name or file.name, text)


def _pieces(opened: BinaryIO, file: Path, in_lines: bool) -> Iterator[bytes]:
    """A file's bytes, as long as they look like text; what is none ends the reading before it fills the memory."""
    wide = False
    for number, piece in enumerate(iter(lambda: opened.read(LINE_LIMIT), b"")):
        wide = piece.startswith(_UTF16) if number == 0 else wide
        if not wide and b"\0" in piece:
            place = number * LINE_LIMIT + piece.index(0)
            raise FieldguideError(f"{file} is not a text file: byte {place} is NUL; leave it out or convert it")
        if in_lines and len(piece) == LINE_LIMIT and b"\n" not in piece and b"\r" not in piece:
            raise FieldguideError(f"{file} has a line of more than {LINE_LIMIT // MB} MB; break its lines")
        yield piece


def _decoded(content: bytes, file: Path) -> str:
    wide = content.startswith(_UTF16)
    try:
        return content.decode("utf-16" if wide else "utf-8")
    except UnicodeDecodeError as error:
        found = f"byte {error.start} is 0x{content[error.start]:02x}"
        raise FieldguideError(
            f"{file} is not {'UTF-16' if wide else 'UTF-8'}: {found}; save it as UTF-8, or convert it with iconv "
            "(iconv -f LATIN1 -t UTF-8, or whatever encoding it has)"
        ) from error


def list_documents(folder: Path, apart: Set[str] = frozenset()) -> list[Path]:
    """The text files below a folder, sorted by path, without hidden ones and those in folders named in ``apart``."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in apart and not name.startswith(".")]
        paths = (Path(place, name) for name in files if not name.startswith("."))
        found += [path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file()]
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def read_folder(folder: Path, root: Path) -> list[Document]:
    """Every text file below ``folder``, named from ``root``; those without a letter are passed over."""
    documents = [read_document(file, file.relative_to(root).as_posix()) for file in list_documents(folder)]
    return [document for document in documents if document.text.strip()]


def python_source() -> list[Document]:
    """Python's own library, file by file in sorted order, up to ``STDLIB_LIMIT`` bytes."""
    root = Path(sysconfig.get_path("stdlib"))
    documents, size = [], 0
    for file in list_documents(root, _APART):
        length, name = file.stat().st_size, file.relative_to(root).as_posix()
        written = name.endswith(".py") and not name.startswith(_BUILT)
        if written and length and size + length <= STDLIB_LIMIT:
            documents.append(read_document(file, name))
            size += length
    if not documents:
        raise FieldguideError(f"python-source: no source of Python's library in {root}; give a text file or folder")
    return documents


def fingerprint(pieces: Iterable[str]) -> str:
    """SHA-256 of texts, each with its length, so that no two sequences of texts look alike."""
    total = sha256()
    for piece in pieces:
        content = piece.encode(errors="surrogatepass")
        total.update(f"{len(content)}\0".encode() + content)
    return total.hexdigest()
