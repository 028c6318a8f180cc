"""Checkpoints come back bit for bit, survive a death at any system call, and are refused when a bit is wrong."""

import errno
import json
import math
import os
import random
import resource
import shutil
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.crashes import at_call, die, refuse
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from fieldguide.errors import DamagedFile, FieldguideError
from fieldguide.train.checkpoint import MANIFEST, TENSORS, VALUES, Checkpoints, load, read_manifest, save
from fieldguide.train.checkpoint.disk import write
from fieldguide.train.checkpoint.folder import seal
from fieldguide.train.checkpoint.tree import DTYPES as FORMATS

DTYPES = list(FORMATS)
FILES = (TENSORS, VALUES, MANIFEST)


def small_state(step: int) -> dict[str, Any]:
    """A state that says in every file which step it is of, so that a mixture shows."""
    weight = torch.full((5, 3), float(step))
    return {"step": step, "model": {"weight": weight, "tied": weight}, "optimizer": {0: {"step": torch.tensor(step)}}}


def same(a: Any, b: Any) -> bool:
    """Equal in type, structure and every bit."""
    if isinstance(a, Tensor):
        alike = isinstance(b, Tensor) and a.dtype == b.dtype and a.shape == b.shape
        return alike and torch.equal(bits(a), bits(b))
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and [*map(type, a)] == [*map(type, b)] and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b) or (math.isnan(a) and math.isnan(b))
    return a == b


def bits(tensor: Tensor) -> Tensor:
    return (
        tensor.resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8)
    )


# ----------------------------------------------------------------------------------------------- what goes in comes out


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    dtype = draw(st.sampled_from(DTYPES))
    size = math.prod(shape)
    if dtype == torch.bool:
        return torch.tensor(draw(st.lists(st.booleans(), min_size=size, max_size=size)), dtype=dtype).reshape(shape)
    raw = draw(st.binary(min_size=size * dtype.itemsize, max_size=size * dtype.itemsize))
    tensor = torch.tensor(list(raw), dtype=torch.uint8).view(dtype).reshape(shape)
    view = draw(st.sampled_from(["plain", "transposed", "every second", "expanded"]))
    if view == "transposed" and tensor.ndim >= 2:
        return tensor.transpose(0, -1)
    if view == "every second" and tensor.ndim >= 1:
        return tensor[::2]
    return tensor.expand(2, *tensor.shape) if view == "expanded" else tensor


names = st.text(max_size=8) | st.sampled_from(["a", "a/b", "b", "$tensor", "$dict", "$", "__metadata__", "0"])
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | tensors()
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(names, inner, max_size=3)
        | st.dictionaries(names | st.integers(), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(trees)
@settings(max_examples=150)
def test_any_tree_comes_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, tree: Any) -> None:
    folder = tmp_path_factory.mktemp("tree") / "checkpoint"
    save(folder, tree)
    assert same(load(folder), tree)
    shutil.rmtree(folder.parent)


def test_the_comparison_itself_sees_single_bits() -> None:
    assert not same({"a": torch.tensor(0.0)}, {"a": torch.tensor(-0.0)})
    assert not same((1,), [1])
    assert not same({0: 1}, {"0": 1})
    assert not same(True, 1)


def test_every_dtype_and_kind_of_tensor(tmp_path: Path) -> None:
    tree = {str(dtype): torch.arange(6).to(dtype) for dtype in DTYPES}
    tree |= {"0-d": torch.tensor(3.5), "empty": torch.empty(0, 3), "complex": torch.tensor([1 + 2j]).conj()}
    tree |= {"parameter": nn.Parameter(torch.ones(2)), "negative": torch.tensor([1 + 2j]).conj().imag}
    save(tmp_path / "c", tree)
    back = load(tmp_path / "c")
    assert all(torch.equal(bits(back[name]), bits(tensor.detach())) for name, tensor in tree.items())
    assert type(back["parameter"]) is Tensor
    # The files are what the format's own library reads.
    assert load_file(tmp_path / "c" / TENSORS)["torch.bfloat16"].dtype == torch.bfloat16


def test_tied_tensors_are_stored_once_and_come_back_tied(tmp_path: Path) -> None:
    shared = torch.randn(1000)
    save(tmp_path / "c", {"a": shared, "b": [shared], "view": shared[:500], "equal": shared.clone()})
    back = load(tmp_path / "c")
    assert back["a"] is back["b"][0]
    assert back["a"].data_ptr() not in (back["equal"].data_ptr(), back["view"].data_ptr())
    assert (tmp_path / "c" / TENSORS).stat().st_size < 2.6 * shared.nbytes


def test_the_state_of_a_training_goes_on_alike(tmp_path: Path) -> None:
    def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(4, 3)).square().mean().backward()
            optimizer.step()

    def build() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 1))
        return model, torch.optim.AdamW(model.parameters(), lr=0.1)

    model, optimizer = build()
    train(model, optimizer, 3)
    save(
        tmp_path / "c",
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "random": torch.get_rng_state()},
    )
    train(model, optimizer, 3)
    other, other_optimizer = build()
    state = load(tmp_path / "c")
    other.load_state_dict(state["model"])
    other_optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    train(other, other_optimizer, 3)
    assert same(other.state_dict(), model.state_dict())
    assert same(other_optimizer.state_dict(), optimizer.state_dict())


def test_what_is_loaded_does_not_live_on_the_file(tmp_path: Path) -> None:
    save(tmp_path / "c", small_state(3))
    state = load(tmp_path / "c")
    (tmp_path / "c" / TENSORS).write_bytes(b"")
    assert same(state, small_state(3))


@pytest.mark.parametrize("value", [{1, 2}, b"bytes", object(), torch.float32, {(1, 2): 3}, torch.eye(2).to_sparse()])
def test_what_has_no_format_is_named(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TypeError, match="cannot save model/odd"):
        save(tmp_path / "c", {"model": {"odd": value}})
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_never_changes(tmp_path: Path) -> None:
    save(tmp_path / "c", small_state(1))
    with pytest.raises(FieldguideError, match="exists already"):
        save(tmp_path / "c", small_state(2))
    assert same(load(tmp_path / "c"), small_state(1))


# ----------------------------------------------------------------------------------------------- keeping and finding


def folders(checkpoints: Checkpoints) -> list[str]:
    return sorted(os.listdir(checkpoints.folder))


def test_the_newest_two_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.newest() is None
    assert checkpoints.best() is None
    for step in range(1, 8):
        checkpoints.save(small_state(step), step=step, best=step in (2, 4))
    assert folders(checkpoints) == ["0004-step-000004", "0006-step-000006", "0007-step-000007", "best", "last"]
    assert same(load(checkpoints.folder / "last"), small_state(7))
    assert same(load(checkpoints.folder / "best"), small_state(4))
    assert os.readlink(checkpoints.folder / "last") == "0007-step-000007"  # relative: the run can be moved
    restored = checkpoints.newest()
    assert restored
    assert restored.step == 7
    assert restored.refused == []


def test_two_states_of_one_step_are_two_checkpoints(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save({"epoch": 0}, step=10)
    checkpoints.save({"epoch": 1}, step=10, best=True)
    restored = checkpoints.newest()
    assert restored
    assert restored.state == {"epoch": 1}
    assert folders(checkpoints)[:2] == ["0001-step-000010", "0002-step-000010"]


def test_resume_passes_over_damage_names_it_and_sets_it_aside(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2, 3):
        checkpoints.save(small_state(step), step=step, best=step == 1)
    flip(checkpoints.folder / "0003-step-000003" / TENSORS, 801)
    (checkpoints.folder / ".0004-step-000004.77.tmp").mkdir()
    restored = checkpoints.newest()
    assert restored
    assert same(restored.state, small_state(2))
    (reason,) = restored.refused
    assert "0003-step-000003/state.safetensors is damaged: its CRC-32" in reason
    checkpoints.clean(restored.folder)
    assert folders(checkpoints) == ["0001-step-000001", "0002-step-000002", "best", "damaged-0003-step-000003", "last"]
    assert os.readlink(checkpoints.folder / "last") == "0002-step-000002"
    checkpoints.save(small_state(3), step=3)
    again = checkpoints.newest()
    assert again
    assert again.refused == []
    assert same(again.state, small_state(3))


def test_a_state_may_be_refused_for_other_reasons(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(small_state(1), step=1)
    checkpoints.save({"of": "another network"}, step=2)

    def check(state: Any) -> None:
        if "model" not in state:
            raise FieldguideError("it holds no model")

    restored = checkpoints.newest(check)
    assert restored
    assert restored.step == 1
    assert "0002-step-000002 was refused: it holds no model" in restored.refused[0]


def test_when_nothing_can_be_believed_every_reason_is_given(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2):
        flip(checkpoints.save(small_state(step), step=step) / VALUES, 100)
    with pytest.raises(DamagedFile, match=r"(?s)0002-step-000002/state.json.*0001-step-000001/state.json"):
        checkpoints.newest()


def test_a_copy_without_links_resumes_and_goes_on(tmp_path: Path) -> None:
    original = Checkpoints(tmp_path / "run" / "checkpoints")
    original.folder.parent.mkdir()
    original.save(small_state(5), step=5, best=True)
    shutil.copytree(original.folder, tmp_path / "copy", symlinks=False)
    shutil.rmtree(tmp_path / "copy" / "0001-step-000005")
    copy = Checkpoints(tmp_path / "copy")
    restored = copy.newest()
    assert restored
    assert same(restored.state, small_state(5))
    assert copy.best()
    copy.clean(restored.folder)
    copy.save(small_state(6), step=6)
    assert os.readlink(copy.folder / "last") == "0001-step-000006"
    assert same(load(copy.folder / "best"), small_state(5))


def test_one_checkpoint_is_too_few_to_keep(tmp_path: Path) -> None:
    with pytest.raises(FieldguideError, match="at least 2"):
        Checkpoints(tmp_path, keep=1)


# ----------------------------------------------------------------------------------------------- damage


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(tmp_path / "c", small_state(1))
    return tmp_path / "c"


@pytest.mark.parametrize("name", FILES)
def test_any_flipped_bit_is_detected(saved: Path, name: str) -> None:
    whole = (saved / name).read_bytes()
    for bit in random.Random(1).sample(range(len(whole) * 8), 300):
        flip(saved / name, bit)
        with pytest.raises(DamagedFile, match=name):
            load(saved)
        (saved / name).write_bytes(whole)
    load(saved)


@pytest.mark.parametrize("name", FILES)
def test_any_truncation_and_extension_is_detected(saved: Path, name: str) -> None:
    whole = (saved / name).read_bytes()
    for size in {0, len(whole) - 1, *random.Random(2).sample(range(len(whole)), 100)}:
        (saved / name).write_bytes(whole[:size])
        with pytest.raises(DamagedFile, match=name):
            load(saved)
    (saved / name).write_bytes(whole + b"\n")
    with pytest.raises(DamagedFile, match=name):
        load(saved)


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_missing_foreign_or_no_files_are_named(tmp_path: Path, saved: Path, name: str) -> None:
    other = tmp_path / "other"
    save(other, small_state(2), step=2)
    shutil.copy(saved / name, tmp_path / name)
    shutil.copy(other / name, saved / name)
    with pytest.raises(DamagedFile, match="its CRC-32" if name == MANIFEST else name):
        load(saved)
    (saved / name).unlink()
    with pytest.raises(DamagedFile, match=f"{name} is missing"):
        load(saved)
    (saved / name).symlink_to(tmp_path / name)
    with pytest.raises(DamagedFile, match=f"{name} is damaged: not a plain file"):
        load(saved)
    (saved / name).unlink()
    (saved / name).mkdir()
    with pytest.raises(DamagedFile, match=f"{name} is damaged: not a plain file"):
        load(saved)


def test_a_surplus_file_is_refused_and_a_hidden_one_of_the_desktop_is_not(saved: Path) -> None:
    (saved / ".DS_Store").touch()
    load(saved)
    (saved / "optimizer.bin").touch()
    with pytest.raises(DamagedFile, match=r"optimizer\.bin does not belong"):
        load(saved)


def test_a_checkpoint_under_the_name_of_another_step_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "0001-step-000010", small_state(10), step=10)
    (tmp_path / "0001-step-000010").rename(tmp_path / "0001-step-000020")
    with pytest.raises(DamagedFile, match="of step 10, not of step 20"):
        load(tmp_path / "0001-step-000020")


def test_a_link_under_the_name_of_a_checkpoint_is_refused_and_set_aside(tmp_path: Path) -> None:
    checkpoints, elsewhere = Checkpoints(tmp_path / "checkpoints"), tmp_path / "0002-step-000002"
    checkpoints.save(small_state(1), step=1)
    save(elsewhere, small_state(2), step=2)
    (checkpoints.folder / elsewhere.name).symlink_to(Path("..") / elsewhere.name)
    restored = checkpoints.newest()
    assert restored
    assert restored.step == 1
    assert "0002-step-000002 is damaged: a link to somewhere else" in restored.refused[0]
    checkpoints.clean(restored.folder)
    assert same(load(elsewhere), small_state(2))
    assert folders(checkpoints) == ["0001-step-000001", "damaged-0002-step-000002", "last"]


def test_there_is_nothing_to_load(tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match="no checkpoint at"):
        load(tmp_path / "nowhere")


def forge(folder: Path, name: str, content: bytes) -> None:
    """Put ``content`` in place and seal the manifest anew, as someone with bad intentions would."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    del manifest["~seal"]
    (folder / name).write_bytes(content)
    manifest["files"][name] = write(folder / ".forged", [content])
    (folder / ".forged").unlink()
    (folder / MANIFEST).write_bytes(seal(manifest))


def values(state: Any, schema: int = 2) -> bytes:
    return json.dumps({"schema": schema, "state": state}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        values({"a": {"$tensor": "nobody"}}),
        values({"a": {"$tensor": 3}}),
        values({"a": {"$tensor": "model/weight", "b": 1}}),
        values({"a": {"$object": "os.system"}}),
        values({"a": {"$float": "1e5"}}),
        values({"a": {"$tuple": "abc"}}),
        values({"a": {"$dict": [[[], 1]]}}),
        values({"a": {"$dict": [1]}}),
        values("a state that leaves its tensors out"),
        values({}, schema=1),
        json.dumps({"schema": 2, "state": {}, "more": 1}).encode(),
        b'{"schema": 2, "state": {}, "state": {}}',
        b'{"schema": 2, "state": NaN}',
        pytest.param(values({}).replace(b"{}", b"[" * 60 + b"]" * 60), id="nested"),
        pytest.param(values({}).replace(b"{}", b"[" + b"{}," * 4_000_000 + b"{}]"), id="many values"),
    ],
)
def test_forged_values_are_refused(saved: Path, content: bytes) -> None:
    forge(saved, VALUES, content)
    with pytest.raises(DamagedFile, match=r"state\.json is damaged"):
        load(saved)


def test_values_that_would_fill_memory_are_not_read(saved: Path) -> None:
    forge(saved, VALUES, b" " * 64_000_001)
    tracemalloc.start()
    try:
        with pytest.raises(DamagedFile, match=r"state\.json is refused: it is larger than the 64 MB"):
            load(saved)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_what_could_not_be_read_back_is_a_failed_save(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(small_state(1), step=1)
    with pytest.raises(OSError, match="could not be read back: it is larger than 64 MB"):
        checkpoints.save({"records": "a" * 64_000_000}, step=2)
    assert [path.name for path in checkpoints.numbered()] == ["0001-step-000001"]
    assert same(load(checkpoints.save(small_state(3), step=3)), small_state(3))


def tensor_file(header: dict[str, Any], body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.parametrize(
    "content",
    [
        b"",
        struct.pack("<Q", 1 << 62),
        struct.pack("<Q", 1 << 20) + b"{}",
        tensor_file({"a": {"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 4]}}, b"1234"),
        tensor_file({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"),
        tensor_file({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1 << 40]}}, b"1234"),
        tensor_file({"a": {"dtype": "OBJECT", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
        tensor_file(
            {n: {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} for n in ("a", "b")}, b"1234"
        ),  # two tensors in one place
        tensor_file({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}, b"1234"),  # bytes left over
    ],
)
def test_forged_tensors_are_refused(saved: Path, content: bytes) -> None:
    forge(saved, TENSORS, content)
    with pytest.raises(DamagedFile, match=r"state\.safetensors is damaged|state\.json is damaged"):
        load(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 1},
        {"step": "1"},
        {"step": True},
        {"best": 1},
        {"files": []},
        {"files": {}},
        {"files": {TENSORS: {"size": 1, "crc32": ""}, "../../etc/passwd": {"size": 1, "crc32": ""}}},
        {"files": {TENSORS: {"size": 1}, VALUES: {"size": 1, "crc32": ""}}},
        {"more": 1},
    ],
)
def test_forged_manifests_are_refused(saved: Path, change: dict[str, Any]) -> None:
    manifest = json.loads((saved / MANIFEST).read_bytes())
    del manifest["~seal"]
    (saved / MANIFEST).write_bytes(seal(manifest | change))
    with pytest.raises(DamagedFile, match=r"manifest\.json is damaged"):
        load(saved)


# ----------------------------------------------------------------------------------------------- deaths and refusals


def prepared(folder: Path) -> Checkpoints:
    """Three saves behind it, so that the next one also prunes and moves ``best``."""
    folder.mkdir(exist_ok=True)
    checkpoints = Checkpoints(folder / "checkpoints")
    for step in (1, 2, 3):
        checkpoints.save(small_state(step), step=step, best=step == 1)
    return checkpoints


def calls_of_a_save(folder: Path) -> list[str]:
    with at_call(0, lambda name, arguments: None) as made:
        prepared_checkpoints = prepared(folder)
        before = len(made)
        prepared_checkpoints.save(small_state(4), step=4, best=True)
    return made[before:]


def test_the_save_syncs_everything_before_and_after_it_appears(tmp_path: Path) -> None:
    calls = calls_of_a_save(tmp_path)
    appears = calls.index("rename")
    assert calls[:appears].count("fsync") == 4  # three files and their folder
    assert calls[appears + 1 : appears + 4] == ["open", "fsync", "close"]  # the parent, before anything is removed
    assert "unlink" in calls[calls.index("replace") :]
    assert len(calls) > 30


def test_a_death_at_any_system_call_leaves_the_old_or_the_new_checkpoint(tmp_path: Path) -> None:
    outcomes = []
    for number in range(1, len(calls_of_a_save(tmp_path / "count")) + 2):
        checkpoints = prepared(tmp_path / str(number))
        if (child := os.fork()) == 0:
            with at_call(number, die):
                checkpoints.save(small_state(4), step=4, best=True)
            os._exit(0)
        died = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        restored = checkpoints.newest()
        assert restored
        assert restored.refused == []
        assert restored.step in ((3, 4) if died else (4,))
        assert same(restored.state, small_state(restored.step))
        for link in ("last", "best"):  # the links never dangle, not even for a moment
            assert same(load(checkpoints.folder / link), small_state(load(checkpoints.folder / link)["step"]))
        checkpoints.clean(restored.folder)
        best = checkpoints.best()
        assert best
        assert load(best)["step"] == (4 if restored.step == 4 else 1)
        assert os.path.realpath(checkpoints.folder / "best") == os.path.realpath(best)
        assert os.path.realpath(checkpoints.folder / "last") == os.path.realpath(restored.folder)
        assert not list(checkpoints.folder.glob(".*"))
        checkpoints.save(small_state(5), step=5)
        assert same(load(checkpoints.folder / "last"), small_state(5))
        outcomes.append((died, restored.step))
    assert {(True, 3), (True, 4), (False, 4)} == set(outcomes)


@pytest.mark.parametrize(("code", "sticky"), [(errno.ENOSPC, True), (errno.EIO, False)])
def test_a_refusal_at_any_system_call_leaves_the_old_checkpoint_and_the_next_save_works(
    tmp_path: Path, code: int, sticky: bool
) -> None:
    refused = 0
    for number in range(1, len(calls_of_a_save(tmp_path / "count")) + 1):
        checkpoints = prepared(tmp_path / str(number))
        try:
            with at_call(number, refuse(code, sticky), sticky):
                checkpoints.save(small_state(4), step=4, best=True)
        except OSError as error:
            refused += error.errno == code
        assert not list(checkpoints.folder.glob(".0*.tmp")), "the half-written checkpoint is removed at once"
        restored = checkpoints.newest()
        assert restored
        assert restored.refused == []
        assert same(restored.state, small_state(restored.step))
        checkpoints.save(small_state(5), step=5)
        last = checkpoints.newest()
        assert last
        assert same(last.state, small_state(5))
        checkpoints.clean(last.folder)
        assert not list(checkpoints.folder.glob(".*"))
    assert refused > 15


def test_a_file_size_limit_of_the_system_is_a_failed_save(tmp_path: Path) -> None:
    """No stand-in: the kernel itself refuses to write more."""
    checkpoints = prepared(tmp_path)
    before = folders(checkpoints)
    if (child := os.fork()) == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            checkpoints.save(small_state(4) | {"large": torch.zeros(10_000)}, step=4)
        except OSError as error:
            os._exit(7 if error.errno == errno.EFBIG else 8)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert folders(checkpoints) == before
    assert same(load(checkpoints.folder / "last"), small_state(3))


def test_a_failure_that_could_not_be_cleared_away_does_not_block_the_next_save(tmp_path: Path) -> None:
    checkpoints = prepared(tmp_path)
    (checkpoints.folder / f".0004-step-000004.{os.getpid()}.tmp").mkdir()
    (checkpoints.folder / f".0004-step-000004.{os.getpid()}.tmp" / TENSORS).touch()
    assert same(load(checkpoints.save(small_state(4), step=4)), small_state(4))


def test_a_folder_that_was_deleted_is_a_failed_save(tmp_path: Path) -> None:
    checkpoints = prepared(tmp_path / "run")
    shutil.rmtree(checkpoints.folder)
    checkpoints.save(small_state(4), step=4)  # only checkpoints/ was lost: it is made again
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(FileNotFoundError):
        checkpoints.save(small_state(5), step=5)
    assert not (tmp_path / "run").exists()


def test_the_manifest_says_what_it_is_of(saved: Path) -> None:
    manifest = read_manifest(saved)
    assert (manifest.step, manifest.best) == (0, False)
    assert manifest.files[VALUES]["size"] == (saved / VALUES).stat().st_size
