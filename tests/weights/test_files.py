"""Files from strangers: whole ones are read bit by bit, anything else is one line, and nothing in them runs."""

import contextlib
import json
import os
import pickle
import struct
import time
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from fieldguide.bounded import read_json
from fieldguide.errors import DamagedFile, FieldguideError
from fieldguide.weights.files import plain_state_dict, read_safetensors, read_tensors

TENSORS = {
    "a.weight": torch.arange(6.0).view(2, 3),
    "a.count": torch.tensor(7),
    "b": torch.randn(4, dtype=torch.float64).to(torch.bfloat16),
    "empty": torch.empty(0, 3),
}


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one)


def assert_refused(path, match):
    """One line that names the file."""
    with pytest.raises(DamagedFile, match=match) as caught:
        read_tensors(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


# -------------------------------------------------------------------------------------------------------- whole files


def test_safetensors_come_back_bit_by_bit(tmp_path):
    save_file(TENSORS, tmp_path / "m.safetensors", metadata={"format": "pt"})
    assert_same(read_tensors(tmp_path / "m.safetensors"), TENSORS)


@pytest.mark.parametrize("in_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("ending", [".pth", ".pt", ".bin", ".th", ".ckpt"])
def test_torch_files_come_back_bit_by_bit(tmp_path, in_zip, ending):
    path = tmp_path / f"m{ending}"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=in_zip)
    assert_same(read_tensors(path), TENSORS)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: {"state_dict": t, "epoch": 3, "best": 91.2},
        lambda t: {"model": t, "optimizer": {"state": {}}, "args": None},
        lambda t: {"model_state_dict": t},
        lambda t: {"model_ema": t},
        lambda t: {"model": {"state_dict": t}},
    ],
)
def test_what_training_scripts_wrap_is_unwrapped(tmp_path, wrap):
    torch.save(wrap(TENSORS), tmp_path / "m.pth")
    assert_same(read_tensors(tmp_path / "m.pth"), TENSORS)


def test_parameters_become_plain_tensors_and_a_tensor_called_model_is_no_wrapper():
    given_ = {"model": torch.nn.Parameter(torch.ones(2)), "state_dict": torch.zeros(1)}
    read = plain_state_dict(given_, "here")
    assert read.keys() == {"model", "state_dict"}
    assert not read["model"].requires_grad


# ------------------------------------------------------------------------------------------------- hostile pickles


def runs(call):
    """An object whose unpickling would run ``call``."""
    return type("Payload", (), {"__reduce__": lambda self: call})()


def payloads(canary):
    touch = f"touch {canary}"
    opens = f"open({str(canary)!r}, 'w')"
    return {
        "system": runs((os.system, (touch,))),
        "eval": runs((eval, (opens,))),
        "exec": runs((exec, (opens,))),
        "open": runs((open, (str(canary), "w"))),
        "torch.load": runs((torch.load, (str(canary),))),
        "rebuild": runs((torch.jit.load, (str(canary),))),
        "numpy": np.arange(3),
        "numpy scalar": np.float64(0.5),
    }


@pytest.mark.parametrize("name", list(payloads("")))
@pytest.mark.parametrize("in_zip", [True, False], ids=["zip", "legacy"])
def test_a_pickle_that_asks_for_anything_is_refused_and_nothing_runs(tmp_path, name, in_zip, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # must not be able to weaken it
    canary = tmp_path / "canary"
    path = tmp_path / "m.pth"
    torch.save(TENSORS | {"x": payloads(canary)[name]}, path, _use_new_zipfile_serialization=in_zip)
    assert_refused(path, "not a plain state dict.*refused and not executed")
    assert not canary.exists()


def test_the_payloads_would_run_if_they_were_let(tmp_path):
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(payloads(canary)["open"])).close()  # noqa: S301  (our own canary)
    assert canary.exists()


def test_bare_pickles_whole_models_and_scripted_models_are_refused(tmp_path):
    canary = tmp_path / "canary"
    bare = tmp_path / "bare.bin"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        bare.write_bytes(pickle.dumps({"a": payloads(canary)["system"]}, protocol))
        kind = "plain state dict: it .* refused and not executed"
        assert_refused(bare, f"not a {kind}" if protocol > 1 else f"not a ({kind}|whole file)")  # 0 and 1 have no head
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
    assert_refused(tmp_path / "whole.pth", "asks for torch.nn.modules.linear.Linear")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "scripted.pt")
    assert_refused(tmp_path / "scripted.pt", "not a plain state dict: it is a program of TorchScript")
    assert not canary.exists()


def test_what_is_data_but_not_a_state_dict_is_refused(tmp_path):
    path = tmp_path / "m.pth"
    for content, match in [
        ([torch.ones(1)], "holds no state dict but list"),
        ({}, "holds no state dict"),
        (torch.ones(3), "holds no state dict but Tensor"),
        ({"a": torch.ones(1), "epoch": 3}, "'epoch' is int"),
        ({0: torch.ones(1)}, "0 is Tensor, not a tensor with a name"),
        ({"a": torch.eye(3).to_sparse()}, "sparse"),
    ]:
        torch.save(content, path)
        assert_refused(path, match)


def test_an_old_torch_reads_no_pickles_at_all(tmp_path, monkeypatch):
    torch.save(TENSORS, tmp_path / "m.pth")
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(FieldguideError, match=r"install torch 2\.11"):
        read_tensors(tmp_path / "m.pth")


# ------------------------------------------------------------------------------------------------ damaged files


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    save_file(TENSORS, folder / "m.safetensors")
    torch.save(TENSORS, folder / "zip.pth")
    torch.save(TENSORS, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["m.safetensors", "zip.pth", "legacy.pth"])
def test_every_truncation_is_noticed(tmp_path, whole, name):
    path = tmp_path / name
    for length in range(0, len(whole[name]), 1 + len(whole[name]) // 60):
        path.write_bytes(whole[name][:length])
        assert_refused(path, "not a whole|holds no state dict|asks for")  # a name cut in two is another name


@given(data=st.data())
def test_a_flipped_header_bit_never_crashes_safetensors(tmp_path_factory, whole, data):
    raw = bytearray(whole["m.safetensors"])
    (length,) = struct.unpack("<Q", raw[:8])
    position = data.draw(st.integers(0, length + 7))
    raw[position] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.getbasetemp() / "flipped.safetensors"
    path.write_bytes(raw)
    with contextlib.suppress(DamagedFile):  # a changed letter of a name is a valid file
        assert len(read_safetensors(path)) == len(TENSORS)


def with_header(path, header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "body", "match"),
    [
        ({"a": F32}, b"\0" * 7, "need 8 bytes and it has 7"),
        ({"a": F32}, b"\0" * 9, "need 8 bytes and it has 9"),
        ({"a": F32, "b": F32}, b"\0" * 8, "begin at 0 and not at 8"),
        ({"a": F32, "b": {**F32, "data_offsets": [12, 20]}}, b"\0" * 20, "begin at 12 and not at 8"),
        ({"a": {**F32, "data_offsets": [0, 12]}}, b"\0" * 12, "not the bytes of F32"),
        ({"a": {**F32, "data_offsets": [8, 0]}}, b"\0" * 8, "not the bytes"),
        ({"a": {**F32, "data_offsets": [-8, 0]}}, b"", "natural numbers"),
        ({"a": {**F32, "shape": [float("nan")]}}, b"\0" * 8, "NaN is no number"),
        ({"a": {**F32, "shape": [True, 2]}}, b"\0" * 8, "natural numbers"),
        ({"a": {**F32, "shape": [2**62, 2**62]}}, b"\0" * 8, "not the bytes"),
        ({"a": {**F32, "dtype": "PICKLE"}}, b"\0" * 8, "dtype 'PICKLE' is not known"),
        ({"a": {**F32, "dtype": ["F32"]}}, b"\0" * 8, "is not known"),
        ({"a": {**F32, "extra": 1}}, b"\0" * 8, "an entry of its header"),
        ({"a": 3}, b"", "an entry of its header"),
        ([1, 2], b"", "not a table"),
        (b'{"a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}, "a": 1}', b"\0" * 4, "occurs twice"),
        (b"{" + b"\xff" * 20, b"", "utf-8"),
        (b"[" * 200_000, b"", "nested too deep"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(tmp_path, header, body, match):
    with_header(tmp_path / "m.safetensors", header, body)
    assert_refused(tmp_path / "m.safetensors", match)


def test_a_hostile_header_costs_little(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", 2**63) + b"{}")
    assert_refused(path, "a header of 9223372036854775808 bytes cannot be in a file of 10")
    with_header(path, b'{"a":[' + b"0," * 20_000_000 + b"0]}")
    before = time.process_time()
    assert_refused(path, "more than any network has")
    assert time.process_time() - before < 2


def test_a_zip_with_broken_sums_or_strange_members_is_refused(tmp_path, whole):
    path = tmp_path / "m.pth"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("hello.txt", "hi")
    assert_refused(path, "not a whole file")
    path.write_bytes(b"PK\x03\x04" + b"\0" * 200)
    assert_refused(path, "not a whole file")
    path.write_bytes(b"7z\xbc\xaf\x27\x1c" + b"\0" * 200)
    assert_refused(path, "not a whole file")


def test_other_files_are_named_for_what_they_are(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"\x08\x07")
    with pytest.raises(FieldguideError, match="no weights file that can be read"):
        read_tensors(tmp_path / "m.onnx")
    (tmp_path / "m.safetensors").mkdir()
    with pytest.raises(DamagedFile, match="cannot read"):
        read_tensors(tmp_path / "m.safetensors")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DamagedFile, match="not whole JSON"):
        read_json(tmp_path / "x.json")


def test_safetensors_of_every_dtype_that_the_writer_knows(tmp_path):
    dtypes = [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64]
    dtypes += [torch.bool, torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64]
    dtypes += [torch.uint16, torch.uint32, torch.uint64]
    tensors = {str(dtype): torch.ones(3, dtype=torch.uint8).to(dtype) for dtype in dtypes}
    (tmp_path / "m.safetensors").write_bytes(save(tensors))
    read = read_safetensors(tmp_path / "m.safetensors")
    assert {name: tensor.dtype for name, tensor in read.items()} == {str(dtype): dtype for dtype in dtypes}
