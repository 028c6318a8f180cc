"""Files of tensors, read as strangers' bytes: nothing in them is believed before it is checked, nothing is executed."""

import math
import os
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fieldguide.bounded import open_plain, parse_json
from fieldguide.errors import DamagedFile, FieldguideError
from fieldguide.weights.confined import confined, out_of_memory

SAFETENSORS = ".safetensors"
PICKLES = (".pth", ".pt", ".bin", ".th", ".ckpt", ".tar", ".pkl")
WRAPPERS = ("state_dict", "model", "model_state_dict", "model_ema")
"""Keys under which training scripts keep the weights, the first present one wins."""

_HEADER_LIMIT = 100_000_000  # of the safetensors format
_ENTRIES_LIMIT = 1_000_000  # commas: ten times the tensors of the largest network; parsing more costs gigabytes
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E4M3FNUZ": 8, "F8_E5M2": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of one file, on the CPU and mapped from disk where the format allows it.

    Raises :class:`DamagedFile` for a file that is cut off, altered, of another format, or not a plain state dict.
    """
    if path.suffix == SAFETENSORS:
        return read_safetensors(path)
    if path.suffix in PICKLES:
        return confined(read_pickle, path)
    raise FieldguideError(
        f"{path} is no weights file that can be read; known endings: {SAFETENSORS} {' '.join(PICKLES)}"
    )


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """A ``.safetensors`` file whose header has been checked: dtypes, sizes, and every byte in exactly one tensor."""
    return read_with_texts(path)[0]


def read_with_texts(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of such a file, and the texts that stand beside them."""
    try:
        problem = _header_problem(path)
        if problem is None:
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except OSError as error:
        raise DamagedFile(f"cannot read {path}: {error.strerror or error}") from error
    except DamagedFile:
        raise
    except (SafetensorError, ValueError) as error:
        problem = one_line(error)
    raise DamagedFile(f"{path} is not a whole safetensors file: {problem}; copy or download it again")


def _header_problem(path: Path) -> str | None:
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size < 8:
            return f"it has only {size} bytes"
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(size - 8, _HEADER_LIMIT):
            return f"a header of {length} bytes cannot be in a file of {size}"
        text = file.read(length)
    if text.count(b",") > _ENTRIES_LIMIT:
        return "its header lists more than any network has"
    header = parse_json(text)
    if not isinstance(header, dict):
        return "its header is not a table of tensors"
    header.pop("__metadata__", None)
    end = 0
    spans = {name: _span(entry) for name, entry in header.items()}
    for name, (start, stop) in sorted(spans.items(), key=lambda item: item[1]):
        if start != end:
            return f"the bytes of {name!r} begin at {start} and not at {end}, where those before it end"
        end = stop
    return None if end == size - 8 - length else f"its tensors need {end} bytes and it has {size - 8 - length}"


def _span(entry: Any) -> tuple[int, int]:
    """Where a tensor's bytes are, when its entry agrees with itself; ValueError otherwise."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError("an entry of its header is not a dtype, a shape and two offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise ValueError(f"dtype {dtype!r} is not known")
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError("a shape or an offset is not a list of natural numbers")
    if len(offsets) != 2 or 8 * (offsets[1] - offsets[0]) != math.prod(shape) * _BITS[dtype]:
        raise ValueError(f"{offsets} are not the bytes of {dtype} {shape}")
    return offsets[0], offsets[1]


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The state dict in a file of ``torch.save``, read by torch's restricted reader and by nothing weaker.

    The weights may be wrapped as training scripts do (:data:`WRAPPERS`). Anything else than names and dense tensors is
    refused; no code in the file runs. Call it through :func:`confined`.
    """
    if tuple(int(number) for number in torch.__version__.split(".")[:2]) < (2, 11):
        raise FieldguideError(
            f"{path} is a pickle, and torch {torch.__version__} cannot read it safely: "
            f"install torch 2.11 or later, or use a {SAFETENSORS} file"
        )
    head = b""
    try:
        with open_plain(path) as file:
            head = file.read(4)
        in_zip = head == b"PK\x03\x04" and zipfile.is_zipfile(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong becomes the one line below
            content = torch.load(os.fspath(path), map_location="cpu", weights_only=True, mmap=in_zip)
    except DamagedFile:
        raise
    except OSError as error:
        raise DamagedFile(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # a stranger's bytes can make the reader fail in any way
        if out_of_memory(error):
            raise
        if found := _more_than_data(head, str(error)):
            raise DamagedFile(
                f"{path} is not a plain state dict: it {found}, which was refused and not executed; "
                "ask its author for a state dict or a safetensors file"
            ) from error
        raise DamagedFile(f"{path} is not a whole file of torch.save ({one_line(error)}); copy it again") from error
    return plain_state_dict(content, str(path))


def _more_than_data(head: bytes, refusal: str) -> str | None:
    """What a whole file holds that torch's restricted reader turns away, from its first bytes and torch's words."""
    if wanted := re.search(r"GLOBAL (\S+)", refusal):
        return f"asks for {wanted[1]}"
    if "TorchScript" in refusal:
        return "is a program of TorchScript"
    if head[:1] == b"\x80" and head[1:2] > b"\x02":  # torch.save without a zip writes protocol 2
        return f"is a pickle of protocol {head[1]} and not of torch.save"
    return None


def plain_state_dict(content: Any, where: str) -> dict[str, Tensor]:
    """The mapping from names to dense tensors that ``content`` is or wraps; DamagedFile naming what it is instead."""
    while isinstance(content, Mapping) and (inner := [content[key] for key in WRAPPERS if _is_mapping(content, key)]):
        content = inner[0]
    if not isinstance(content, Mapping) or not content:
        raise DamagedFile(f"{where} holds no state dict but {type(content).__name__}; save model.state_dict()")
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            kind = type(tensor).__name__
            raise DamagedFile(f"{where} is not a plain state dict: {name!r} is {kind}, not a tensor with a name")
        if tensor.layout is not torch.strided or tensor.is_quantized:
            raise DamagedFile(f"{where}: {name!r} is sparse or quantized; convert it to a dense tensor first")
    return {name: tensor.detach() for name, tensor in content.items()}


def _is_mapping(content: Mapping[Any, Any], key: str) -> bool:
    return isinstance(content.get(key), Mapping)


def one_line(error: BaseException) -> str:
    """The first sentence of an error's text, or its kind when it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].split(". ")[0][:200].rstrip(".") if lines else type(error).__name__
