"""Images that a stranger would send: they swell, start programs, or are none."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from tests.hostile.files import hostile


def a_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")


def a_tiff(width: int, height: int) -> bytes:
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, 1)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


PROGRAM = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(CANARY) (w) file closefile\nshowpage\n"
PICTURES: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "png": ("x.png", lambda canary: a_png(50_000, 50_000)),
    "png-below-the-limit-of-pillow": ("x.png", lambda canary: a_png(10_000, 10_000)),
    "gif": ("x.gif", lambda canary: b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\0\0\0,"
            + struct.pack("<HHHH", 0, 0, 65_535, 65_535) + b"\0\2\2L\1\0;"),
    "tiff": ("x.tif", lambda canary: a_tiff(50_000, 50_000)),
    "tiff-of-no-size": ("x.tif", lambda canary: a_tiff(0, 0)),
    "ppm": ("x.ppm", lambda canary: b"P6 99999999 99999999 255\n"),
    "bmp": ("x.bmp", lambda canary: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 99, 0, 0, 54, 40, 60_000, 60_000, 1, 24,
            0, 0, 0, 0, 0, 0)),
    "postscript": ("x.png", lambda canary: PROGRAM.replace("CANARY", str(canary)).encode()),
    "svg": ("x.png", lambda canary: b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'),
    "half": ("x.png", lambda canary: a_png(100, 100)[:60]),
    "nothing": ("x.png", lambda canary: b""),
}  # fmt: skip


@hostile("images", *PICTURES)
def a_picture(folder: Path, canary: Path, kind: str) -> Path:
    name, content = PICTURES[kind]
    for label in ("a", "b"):
        (folder / label).mkdir()
        (folder / label / name).write_bytes(content(canary))
    return folder


@hostile("images", "pipe", "device", "sparse")
def a_picture_in_a_list(folder: Path, canary: Path, kind: str) -> Path:
    match kind:
        case "pipe":
            os.mkfifo(folder / "x.png")
        case "device":
            (folder / "x.png").symlink_to("/dev/zero")
        case "sparse":
            with (folder / "x.png").open("wb") as file:
                file.truncate(1 << 33)
    (folder / "list.csv").write_text("path,label\nx.png,a\nx.png,b\n")
    return folder / "list.csv"


@hostile("images", "../x.png", "a/../../x.png", "..\\x.png", "/dev/zero.png")
def a_list_that_leaves_its_folder(folder: Path, canary: Path, place: str) -> Path:
    (folder.parent / "x.png").write_bytes(a_png(8, 8))
    (folder / "list.csv").write_text(f"path,label\n{place},a\n{place},b\n")
    return folder / "list.csv"
