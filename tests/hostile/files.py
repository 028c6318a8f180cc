"""Files that a stranger with bad intentions would send: each written by a function, none kept in the repository."""

import gzip
import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.crews import crew, on_all, part
from torch import nn

from fieldguide import create_model
from fieldguide.models.store import save_model
from fieldguide.train.checkpoint import MANIFEST, TENSORS, VALUES, save
from fieldguide.train.checkpoint.folder import seal
from fieldguide.train.checkpoint.shards import LAYOUT, shard_name
from fieldguide.train.run import RunFolder

Build = Callable[[Path, Path], Path]
"""Makes a file in a folder, which touches a canary when it gets its way; returns what is to be opened."""

HOSTILE: dict[str, tuple[str, Build]] = {}
"""Entrance and builder by name."""


def hostile(entrance: str, *variants: Any) -> Callable[[Callable], Callable]:
    def enter(build: Callable) -> Callable:
        for variant in variants or (None,):
            name = build.__name__ + (f"-{variant}" if variants else "")
            made = (lambda folder, canary, v=variant: build(folder, canary, v)) if variants else build
            HOSTILE[name] = entrance, made
        return build

    return enter


# ------------------------------------------------------------------------------------------------------- pickles


def runs(function: Callable, *arguments: Any) -> Any:
    """An object whose unpickling calls ``function``."""
    return type("Payload", (), {"__reduce__": lambda self: (function, arguments)})()


def payload(kind: str, canary: Path) -> Any:
    import subprocess
    import urllib.request
    from pkgutil import resolve_name

    touch = f"touch {canary}"
    return {
        "os.system": lambda: runs(os.system, touch),
        "os.popen": lambda: runs(os.popen, touch),
        "subprocess": lambda: runs(subprocess.check_output, ["touch", str(canary)]),
        "eval": lambda: runs(eval, f"open({str(canary)!r}, 'w')"),
        "exec": lambda: runs(exec, f"open({str(canary)!r}, 'w')"),
        "open": lambda: runs(open, str(canary), "w"),
        "resolve_name": lambda: runs(resolve_name, "os:system"),
        "getattr": lambda: runs(getattr, "x", "upper"),
        "__import__": lambda: runs(__import__, "antigravity"),
        "network": lambda: runs(urllib.request.urlopen, f"file://{canary}"),
        "torch.load": lambda: runs(torch.load, str(canary)),
        "torch.hub": lambda: runs(torch.hub.load, "a/b", "c"),
        "jit": lambda: runs(torch.jit.load, str(canary)),
        "module": lambda: nn.Linear(2, 2),
        "numpy": lambda: np.arange(3),
        "function": lambda: os.getcwd,
    }[kind]()


PAYLOADS = ("os.system", "os.popen", "subprocess", "eval", "exec", "open", "resolve_name", "getattr", "__import__",
            "network", "torch.load", "torch.hub", "jit", "module", "numpy", "function")  # fmt: skip


@hostile("weights", *PAYLOADS)
def in_a_zip(folder: Path, canary: Path, kind: str) -> Path:
    torch.save({"a": torch.zeros(2), "x": payload(kind, canary)}, folder / "m.pth")
    return folder / "m.pth"


@hostile("weights", "os.system", "eval", "resolve_name", "torch.load")
def in_the_old_format(folder: Path, canary: Path, kind: str) -> Path:
    torch.save({"x": payload(kind, canary)}, folder / "m.bin", _use_new_zipfile_serialization=False)
    return folder / "m.bin"


@hostile("weights", *range(pickle.HIGHEST_PROTOCOL + 1))
def bare_pickle(folder: Path, canary: Path, protocol: int) -> Path:
    (folder / "m.ckpt").write_bytes(pickle.dumps({"a": payload("os.system", canary)}, protocol))
    return folder / "m.ckpt"


OPCODES = {
    "GLOBAL": lambda touch: b"cos\nsystem\n(S'" + touch + b"'\ntR.",
    "INST": lambda touch: b"(S'" + touch + b"'\nios\nsystem\n.",
    "OBJ": lambda touch: b"(cos\nsystem\nS'" + touch + b"'\no.",
    "BUILD": lambda touch: b"\x80\x02cos\nsystem\n}S'x'\nS'y'\nsb.",
    "EXT": lambda touch: b"\x80\x02\x82\x01.",
    "PERSID": lambda touch: b"Pfile:///etc/passwd\n.",
    "huge-long": lambda touch: b"\x80\x02\x8b\xff\xff\xff\x7f",
    "huge-string": lambda touch: b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f",
    "huge-memo": lambda touch: b"\x80\x02]r\xff\xff\xff\x7f.",
    "deep-lists": lambda touch: b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "billion-laughs": lambda touch: b"\x80\x02]q\x00" + b"".join(
        b"]q" + bytes([n + 1]) + b"(" + (b"h" + bytes([n])) * 10 + b"e" for n in range(30)) + b".",
}  # fmt: skip


@hostile("weights", *OPCODES)
def by_hand(folder: Path, canary: Path, opcode: str) -> Path:
    """The pickle inside a whole zip of torch."""
    path = folder / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", OPCODES[opcode](f"touch {canary}".encode()))
        archive.writestr("m/version", "3\n")
        archive.writestr("m/byteorder", "little")
    return path


def tampered(folder: Path, change: Callable[[str, bytes], bytes], **options: Any) -> Path:
    """A whole file of torch.save, its members passed through ``change``."""
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(1000)}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(folder / "m.pth", "w", **options) as target:
        for name in source.namelist():
            target.writestr(name, change(name, source.read(name)))
    return folder / "m.pth"


@hostile("weights")
def a_storage_larger_than_its_file(folder: Path, canary: Path) -> Path:
    return tampered(folder, lambda name, content: content[:8] if "/data/" in name else content)


@hostile("weights")
def a_bomb_in_a_zip(folder: Path, canary: Path) -> Path:
    big = bytes(1 << 30)
    return tampered(folder, lambda name, content: big if "/data/" in name else content,
                    compression=zipfile.ZIP_DEFLATED)  # fmt: skip


@hostile("weights")
def an_expanded_view(folder: Path, canary: Path) -> Path:
    torch.save({"a": torch.zeros(1).expand(1 << 20, 1 << 16)}, folder / "m.pth")
    return folder / "m.pth"


@hostile("weights")
def a_zip_in_a_zip(folder: Path, canary: Path) -> Path:
    torch.save({"x": payload("os.system", canary)}, folder / "inner")
    with zipfile.ZipFile(folder / "m.pth", "w") as archive:
        archive.write(folder / "inner", "m/data.pkl")
    return folder / "m.pth"


@hostile("weights")
def a_zip_that_leaves_its_folder(folder: Path, canary: Path) -> Path:
    with zipfile.ZipFile(folder / "m.pth", "w") as archive:
        archive.writestr("../../canary", b"x")
        archive.writestr("m/data.pkl", OPCODES["GLOBAL"](b"true"))
    return folder / "m.pth"


@hostile("weights")
def broken_sums(folder: Path, canary: Path) -> Path:
    torch.save({"a": torch.ones(1000), "x": payload("os.system", canary)}, folder / "m.pth")
    content = bytearray((folder / "m.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "m.pth").write_bytes(content)
    return folder / "m.pth"


@hostile("weights", b"7z\xbc\xaf\x27\x1c", b"\x7fELF", b"#!/bin/sh\n", b"\x1f\x8b", b"")
def another_format(folder: Path, canary: Path, head: bytes) -> Path:
    (folder / "m.pt").write_bytes(head + bytes(100) * bool(head))
    return folder / "m.pt"


@hostile("weights")
def a_program_of_torchscript(folder: Path, canary: Path) -> Path:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), folder / "m.pt")
    return folder / "m.pt"


# --------------------------------------------------------------------------------------------------- safetensors


def entry(shape: Any = (1,), dtype: Any = "F32", offsets: Any = (0, 4)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HEADERS: dict[str, Any] = {
    "negative-shape": {"a": entry([-1])},
    "huge-shape": {"a": entry([2**63, 2**63])},
    "shape-of-nan": '{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}',
    "boolean-shape": {"a": entry([True])},
    "unknown-dtype": {"a": entry(dtype="object")},
    "overlap": {"a": entry(), "b": entry(offsets=(0, 4))},
    "gap": {"a": entry(offsets=(4, 8))},
    "beyond-the-end": {"a": entry([1 << 40], offsets=(0, 1 << 42))},
    "twice": "{" + ",".join(['"a":' + json.dumps(entry())] * 2) + "}",
    "deep": "[" * 100_000,
    "a-million-names": "{" + ",".join(f'"{n}":0' for n in range(1_100_000)) + "}",
    "no-object": "7",
    "not-utf-8": b'{"\xff":1}',
}  # fmt: skip


@hostile("weights", *HEADERS)
def header(folder: Path, canary: Path, kind: str) -> Path:
    content = HEADERS[kind]
    raw = (
        content
        if isinstance(content, bytes)
        else (content if isinstance(content, str) else json.dumps(content)).encode()
    )
    (folder / "m.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(4))
    return folder / "m.safetensors"


@hostile("weights")
def a_header_longer_than_its_file(folder: Path, canary: Path) -> Path:
    (folder / "m.safetensors").write_bytes(struct.pack("<Q", 2**63) + bytes(16))
    return folder / "m.safetensors"


@hostile("weights", "../m.safetensors", "/etc/passwd", "..\\m.safetensors", "\0")
def an_index_that_points_outside(folder: Path, canary: Path, place: str) -> Path:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": place}}))
    return folder


# ------------------------------------------------------------------------------------------------- saved networks


def saved(folder: Path, change: Callable[[dict], Any]) -> Path:
    save_model(create_model("mlp_mini"), folder / "model")
    config = json.loads((folder / "model/config.json").read_text())
    changed = change(config)
    text = changed if isinstance(changed, str) else json.dumps(config)
    (folder / "model/config.json").write_text(text)
    return folder / "model"


CONFIGS: dict[str, Callable[[dict], Any]] = {
    "auto_map": lambda c: c.update(auto_map={"AutoModel": "evil.Model"}),
    "trust_remote_code": lambda c: c["config"].update(trust_remote_code=True),
    "_attn_implementation_internal": lambda c: c["config"].update(_attn_implementation_internal="kernels/evil"),
    "family-is-a-module": lambda c: c.update(family="os.path"),
    "family-is-an-address": lambda c: c.update(family="https://example.invalid/evil"),
    "a-swap-that-calls": lambda c: c.update(
        swaps=[{"where": "*", "core": "__import__('os')", "mask": "", "dropout": 0.0}]),
    "terabytes": lambda c: c["config"].update(hidden=[10**9, 10**9]),
    "negative": lambda c: c["config"].update(hidden=[-1]),
    "no-number": lambda c: c["config"].update(hidden=["1"]),
    "infinite": lambda c: json.dumps(c).replace('"hidden": [', '"hidden": [1e400, '),
    "deep": lambda c: "[" * 100_000,
    "nul-bytes": lambda c: "\0" * 100,
    "a-list": lambda c: "[]",
}  # fmt: skip


@hostile("model", *CONFIGS)
def config(folder: Path, canary: Path, kind: str) -> Path:
    return saved(folder, CONFIGS[kind])


@hostile("model")
def weights_that_are_a_link(folder: Path, canary: Path) -> Path:
    path = saved(folder, lambda c: None)
    (path / "model.safetensors").unlink()
    (path / "model.safetensors").symlink_to("/etc/passwd")
    return path


# ----------------------------------------------------------------------------------------------------- run folders


def a_run(folder: Path) -> Path:
    run = RunFolder.create_at(folder / "run")
    save(run.path / "checkpoints/0001-step-000001", {"a": torch.ones(3)}, step=1)
    return run.path


@hostile("checkpoint", TENSORS, VALUES, MANIFEST)
def a_pickle_in_a_checkpoint(folder: Path, canary: Path, name: str) -> Path:
    run = a_run(folder)
    (run / "checkpoints/0001-step-000001" / name).write_bytes(pickle.dumps(payload("os.system", canary)))
    return run


VALUES_OF_STRANGERS = {
    "deep": b"[" * 100_000,
    "an-object": b'{"schema": 2, "state": {"$object": "os.system"}}',
    "a-tensor-that-is-not-there": b'{"schema": 2, "state": {"$tensor": "../../x"}}',
    "no-state": b"[]",
    "no-text": b"\xff\xfe",
}


@hostile("checkpoint", *(kind for kind in HEADERS if kind != "twice"), *VALUES_OF_STRANGERS)
def a_sealed_lie(folder: Path, canary: Path, kind: str) -> Path:
    """Content that was swapped, and a manifest that has its checksums."""
    run = a_run(folder)
    path = run / "checkpoints/0001-step-000001"
    if kind in HEADERS:
        header(folder, canary, kind).rename(path / TENSORS)
    else:
        (path / VALUES).write_bytes(VALUES_OF_STRANGERS[kind])
    sealed(path, TENSORS, VALUES)
    return run


def sealed(checkpoint: Path, *names: str) -> None:
    """Write the manifest anew for the files that are there now."""
    contents = {name: (checkpoint / name).read_bytes() for name in names}
    files = {name: {"size": len(text), "crc32": f"{zlib.crc32(text):08x}"} for name, text in contents.items()}
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    (checkpoint / MANIFEST).write_bytes(seal({**{k: v for k, v in manifest.items() if k != "~seal"}, "files": files}))


def a_run_of_two(folder: Path) -> Path:
    """Its checkpoint, of one vector that two processes hold together."""
    checkpoints = RunFolder.create_at(folder / "run").checkpoints
    paths = on_all(lambda c: checkpoints.save({"a": part(torch.ones(6), 0, c.rank, 2)}, step=1, crew=c), crew(2))
    return paths[0]


A_LAYOUT = {"dtype": "F32", "shape": [6], "axis": 0, "parts": [[1, 0, 3], [2, 3, 3]]}
LAYOUTS: dict[str, Any] = {
    "no-json": b'{"schema": 2',
    "no-text": b"\xff\xfe",
    "a-pickle": pickle.dumps({"a": 1}),
    "huge": bytes(100_000_000),
    "deep": b'{"schema": 2, "tensors": ' + b"[" * 100_000,
    "deep-but-whole": b'{"schema": 2, "tensors": ' + b"[" * 200 + b"]" * 200 + b"}",
    "millions": b'{"schema": 2, "tensors": {' + b",".join(b'"%d":0' % n for n in range(4_100_000)) + b"}}",
    "a-name-twice": b'{"schema": 2, "tensors": {}, "tensors": {}}',
    "a-list": b"[]",
    "no-tensors": {},
    "an-entry-that-is-a-text": {"a": "os.system"},
    "an-argument-too-many": {"a": {**A_LAYOUT, "__class__": "os.system"}},
    "another-tensor": {"../../a": A_LAYOUT},
    "an-unknown-dtype": {"a": {**A_LAYOUT, "dtype": "object"}},
    "a-shape-of-nan": {"a": {**A_LAYOUT, "shape": [float("nan")]}},
    "an-infinite-shape": {"a": {**A_LAYOUT, "shape": [float("inf")]}},
    "a-boolean-shape": {"a": {**A_LAYOUT, "shape": [True], "parts": [[1, 0, True]]}},
    "a-negative-shape": {"a": {**A_LAYOUT, "shape": [-6]}},
    "a-negative-part": {"a": {**A_LAYOUT, "parts": [[1, 0, 9], [2, 9, -3]]}},
    "a-huge-shape": {"a": {**A_LAYOUT, "shape": [2**62], "parts": [[1, 0, 3], [2, 3, 2**62 - 3]]}},
    "an-axis-that-is-not-there": {"a": {**A_LAYOUT, "axis": 2**40}},
    "an-overlap": {"a": {**A_LAYOUT, "parts": [[1, 0, 3], [2, 2, 4]]}},
    "a-gap": {"a": {**A_LAYOUT, "parts": [[1, 0, 2], [2, 3, 3]]}},
    "a-part-missing": {"a": {**A_LAYOUT, "parts": [[1, 0, 3]]}},
    "a-file-that-is-a-path": {"a": {**A_LAYOUT, "parts": [["/etc/passwd", 0, 3], [2, 3, 3]]}},
    "more-files-than-there-are": {"a": {**A_LAYOUT, "parts": [[1, 0, 3], [2**40, 3, 3]]}},
    "the-same-file-twice": {"a": {**A_LAYOUT, "parts": [[1, 0, 3], [1, 3, 3]]}},
}


@hostile("checkpoint", *LAYOUTS)
def a_layout(folder: Path, canary: Path, kind: str) -> Path:
    """A lie about what lies where, and a manifest that has its checksum."""
    path, content = a_run_of_two(folder), LAYOUTS[kind]
    text = content if isinstance(content, bytes) else json.dumps({"schema": 2, "tensors": content}).encode()
    (path / LAYOUT).write_bytes(text)
    sealed(path, *(file.name for file in path.iterdir() if file.name != MANIFEST))
    return path.parents[1]


@hostile("checkpoint", "../../elsewhere", "{folder}/elsewhere", "state-00001-of-00003.safetensors",
         "state-00001-of-99999999999.safetensors", "state-00003-of-00002.safetensors")  # fmt: skip
def a_shard_that_is_called(folder: Path, canary: Path, name: str) -> Path:
    path = a_run_of_two(folder)
    place = path / name.format(folder=folder)
    (path / shard_name(0, 2)).rename(place)
    sealed(path, name.format(folder=folder), shard_name(1, 2), VALUES, LAYOUT)
    return path.parents[1]


@hostile("checkpoint", shard_name(0, 2), LAYOUT, VALUES)
def a_link_in_the_checkpoint_of_two(folder: Path, canary: Path, name: str) -> Path:
    """To the very content that the manifest tells of, but elsewhere."""
    path = a_run_of_two(folder)
    (path / name).rename(folder / "elsewhere")
    (path / name).symlink_to(folder / "elsewhere")
    return path.parents[1]


@hostile("checkpoint", "rng.pt", "optimizer.bin")
def a_pickle_beside_a_checkpoint(folder: Path, canary: Path, name: str) -> Path:
    run = a_run(folder)
    torch.save(payload("os.system", canary), run / "checkpoints/0001-step-000001" / name)
    return run


@hostile("checkpoint")
def a_checkpoint_that_is_a_link(folder: Path, canary: Path) -> Path:
    run = a_run(folder)
    (run / "checkpoints/0001-step-000001").rename(folder / "elsewhere")
    (run / "checkpoints/0001-step-000001").symlink_to(folder / "elsewhere")
    return run


@hostile("job", '{"job": {"model": ["os"], "data": 7}}', "[" * 100_000, '{"job": {"__class__": "os"}}', "\0")
def an_environment(folder: Path, canary: Path, text: str) -> Path:
    run = a_run(folder)
    (run / "environment.json").write_text(text)
    return run


@hostile("recipe", 'optimizer = "__import__(\'os\').system(\'true\')"', "seed = " + "9" * 5000, "a = " + "[" * 10_000,
         "epochs = 1e400", 'import = "os"', "\0", "[optimizer]\nname = \"os.system\"")  # fmt: skip
def a_recipe(folder: Path, canary: Path, text: str) -> Path:
    (folder / "recipe.toml").write_text(text)
    return folder / "recipe.toml"


@hostile("report", "not json\n", "[" * 100_000 + "\n", '{"kind": "step", "step": "x"}\n', "\xff\xfe\n")
def a_log(folder: Path, canary: Path, text: str) -> Path:
    run = a_run(folder)
    (run / "metrics.jsonl").write_bytes(text.encode("latin-1"))
    return run


@hostile(
    "trace", "[" * 100_000 + "\n", '{"kind": "sample", "step": {}}\n', '{"kind": "setup", "tensors": 7}\n', "\xff\n"
)
def a_trace(folder: Path, canary: Path, text: str) -> Path:
    (folder / "trace.jsonl").write_bytes(text.encode("latin-1"))
    return folder / "trace.jsonl"


# ------------------------------------------------------------------------------------------------------------ data


@hostile("images")
def arrays_that_are_pickles(folder: Path, canary: Path) -> Path:
    np.savez(folder / "x.npz", x=np.array([payload("os.system", canary)] * 3, dtype=object), y=np.arange(3))
    return folder / "x.npz"


@hostile("images")
def a_bomb_of_arrays(folder: Path, canary: Path) -> Path:
    np.savez_compressed(folder / "x.npz", x=np.zeros((1 << 20, 1, 28, 28), np.uint8), y=np.arange(1 << 20))
    return folder / "x.npz"


@hostile("images")
def a_bomb_of_idx(folder: Path, canary: Path) -> Path:
    head = struct.pack(">IIII", 2051, 1 << 20, 28, 28)
    with gzip.open(folder / "train-images-idx3-ubyte.gz", "wb") as file:
        file.write(head + bytes((1 << 20) * 784))
    (folder / "train-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, 1 << 20) + bytes(1 << 20))
    return folder


@hostile("images")
def a_bomb_of_pixels(folder: Path, canary: Path) -> Path:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    side = 60_000
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    content += chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")
    for label in ("a", "b"):
        (folder / "images" / label).mkdir(parents=True)
        (folder / "images" / label / "x.png").write_bytes(content)
    return folder / "images"


@hostile("images", "../../../etc/passwd", "/etc/passwd", "http://example.invalid/x.png")
def a_list_that_points_elsewhere(folder: Path, canary: Path, place: str) -> Path:
    (folder / "list.csv").write_text(f"path,label\n{place},a\n{place},b\n")
    return folder / "list.csv"


@hostile("table", "\0\n" * 3, "y\n" + "=cmd|' /C calc'!A0\n" * 3, "a" * 200_000 + "\n", "")
def a_table(folder: Path, canary: Path, text: str) -> Path:
    (folder / "t.csv").write_text(text)
    return folder / "t.csv"


@hostile("tokenizer", "[" * 100_000, '{"model": {"type": "os.system"}}',
         '{"model": {"type": "BPE", "vocab": {"a": 1e400}}}',
         '{"model": {"type": "BPE", "vocab": 7, "merges": [[1]]}}', "\0")  # fmt: skip
def a_tokenizer(folder: Path, canary: Path, text: str) -> Path:
    (folder / "tokenizer.json").write_text(text)
    return folder / "tokenizer.json"


@hostile("labelled", '{"text": {}, "label": []}\n' * 3, "[" * 100_000 + "\n")
def lines(folder: Path, canary: Path, text: str) -> Path:
    (folder / "x.jsonl").write_text(text)
    return folder / "x.jsonl"
