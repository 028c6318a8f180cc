"""A checkpoint that a crew writes together: read by any number, believed only when it is whole.

The crews here are threads of one process; those of real processes are in test_distributed_shards.py.
"""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.crews import Threads, crew, on_all, part
from torch import Tensor

from fieldguide.errors import DamagedFile, FieldguideError
from fieldguide.train.checkpoint import MANIFEST, VALUES, Checkpoints, load, save, shards
from fieldguide.train.checkpoint.disk import write
from fieldguide.train.checkpoint.folder import seal
from fieldguide.train.checkpoint.reading import stored
from fieldguide.train.checkpoint.shards import LAYOUT, shard_name
from fieldguide.train.checkpoint.tree import DTYPES

SIZE = 3


def whole_state(step: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(step)
    weight = torch.randn(7, 4, generator=generator)
    return {
        "model": {"weight": weight, "output": torch.randn(3, 6, generator=generator), "tied": weight, "count": 3},
        "moment": {0: torch.randn(2, generator=generator, dtype=torch.float64), 1: torch.tensor(5)},
        "step": step, "rows": (torch.zeros(0, 2), float("nan")),
    }  # fmt: skip


def own_state(step: int, rank: int, size: int) -> dict[str, Any]:
    """By rows, ``output`` by columns; counters are whole in all of them."""
    state = whole_state(step)
    model, moment = state["model"], state["moment"]
    weight = part(model["weight"], 0, rank, size)
    model |= {"weight": weight, "output": part(model["output"], 1, rank, size), "tied": weight}
    moment[0] = part(moment[0], 0, rank, size)
    return state


def save_together(checkpoints: Checkpoints, step: int, size: int = SIZE, **more: Any) -> list[Any]:
    return on_all(lambda c: checkpoints.save(own_state(step, c.rank, size), step=step, crew=c, **more), crew(size))


def same(a: Any, b: Any) -> bool:
    match a:
        case Tensor():
            return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
        case dict():
            return [*a] == [*b] and all(same(value, b[key]) for key, value in a.items())
        case list() | tuple():
            return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or a != a)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    (path, *_) = save_together(checkpoints, 5)
    return path


# ------------------------------------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("size", [2, 3, 5])
def test_what_many_write_one_reads(tmp_path: Path, size: int) -> None:
    paths = save_together(Checkpoints(tmp_path / "checkpoints"), 5, size)
    assert len({*paths}) == 1
    names = {shard_name(rank, size) for rank in range(size)} | {VALUES, LAYOUT, MANIFEST}
    assert {path.name for path in paths[0].iterdir()} == names
    state = load(paths[0])
    assert same(state, whole_state(5))
    assert state["model"]["weight"] is state["model"]["tied"]
    save(tmp_path / "alone", whole_state(5), step=5)
    assert (tmp_path / "alone" / VALUES).read_bytes() == (paths[0] / VALUES).read_bytes()


def test_each_number_is_on_the_disk_once(saved: Path) -> None:
    everything = sum(tensor.nbytes for tensor in (*whole_state(5)["model"].values(), *whole_state(5)["moment"].values())
                     if isinstance(tensor, Tensor)) - whole_state(5)["model"]["weight"].nbytes  # fmt: skip
    layouts = json.loads((saved / LAYOUT).read_bytes())["tensors"]
    assert sum(_size(layout) for layout in layouts.values()) == everything
    on_disk = sum((saved / shard_name(rank, SIZE)).stat().st_size - _header(saved / shard_name(rank, SIZE))
                  for rank in range(SIZE))  # fmt: skip
    assert on_disk == everything


def _size(layout: dict[str, Any]) -> int:
    (dtype,) = (dtype for dtype, name in DTYPES.items() if name == layout["dtype"])
    return torch.Size(layout["shape"]).numel() * dtype.itemsize


def _header(path: Path) -> int:
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


@pytest.mark.parametrize("seed", range(40))
def test_any_slice_comes_back_from_any_cut(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    shape = [chance.randint(1, 9) for _ in range(chance.randint(1, 3))]
    dtype = chance.choice([torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.float8_e5m2])
    whole = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    cut, size = chance.randrange(len(shape)), chance.randint(2, 5)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    paths = on_all(lambda c: checkpoints.save(part(whole, cut, c.rank, size), step=1, crew=c), crew(size))
    found = stored(paths[0])
    for axis in range(len(shape)):
        start = chance.randint(0, shape[axis])
        stop = chance.randint(start, shape[axis])
        there, here = found.read(axis, start, stop), whole.narrow(axis, start, stop - start)
        assert there.dtype == dtype
        assert there.shape == here.shape
        assert torch.equal(there.to(torch.float32), here.to(torch.float32))
        assert there.untyped_storage().nbytes() == here.numel() * dtype.itemsize  # and nothing else was kept


def test_a_save_beside_the_training_is_of_the_moment_it_began(tmp_path: Path) -> None:
    checkpoints = [Checkpoints(tmp_path / "checkpoints") for _ in range(SIZE)]
    for keeper in checkpoints:
        keeper.folder.mkdir(exist_ok=True)

    def work(member: Threads) -> Path:
        state = own_state(5, member.rank, SIZE)
        future = checkpoints[member.rank].begin(state, step=5, crew=member)
        for tensor in (state["model"]["weight"].tensor, state["model"]["output"].tensor, state["moment"][0].tensor):
            tensor.zero_()
        return future.result()

    (path, *_) = on_all(work, crew(SIZE))
    assert same(load(path), whole_state(5))


# ---------------------------------------------------------------------------------------------------------- damages


def test_any_flipped_bit_is_found(saved: Path) -> None:
    chance = random.Random(3)
    for path in sorted(saved.iterdir()):
        whole = path.read_bytes()
        for place in chance.sample(range(len(whole)), 20):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << chance.randrange(8)]) + whole[place + 1 :])
            with pytest.raises(DamagedFile, match=path.name):
                load(saved)
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DamagedFile, match=path.name):
            load(saved)
        path.unlink()
        with pytest.raises(DamagedFile, match=f"{path.name} is missing"):
            load(saved)
        path.write_bytes(whole)
    load(saved)


def test_shards_that_changed_places_or_come_from_elsewhere_are_found(tmp_path: Path, saved: Path) -> None:
    first, second = saved / shard_name(0, SIZE), saved / shard_name(1, SIZE)
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    with pytest.raises(DamagedFile, match=shard_name(0, SIZE)):
        load(saved)
    first.write_bytes(contents[0])
    (other, *_) = save_together(Checkpoints(tmp_path / "others"), 6)
    shutil.copy(other / second.name, second)
    assert second.stat().st_size == len(contents[1])
    with pytest.raises(DamagedFile, match=rf"{second.name} is damaged: its CRC-32"):
        load(saved)
    second.write_bytes(contents[1])
    (saved / shard_name(3, 4)).write_bytes(b"")
    with pytest.raises(DamagedFile, match="does not belong to this checkpoint"):
        load(saved)


def test_all_fall_back_alike_and_say_why(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=3)
    paths = [save_together(checkpoints, step)[0] for step in (1, 2, 3)]
    (paths[2] / shard_name(1, SIZE)).unlink()
    (paths[1] / shard_name(2, SIZE)).write_bytes(b"torn")
    for size in (1, 2, 4):
        found = on_all(lambda c: checkpoints.newest(crew=c), crew(size))
        assert [restored.step for restored in found] == [1] * size
        (newest, older) = found[0].refused
        assert shard_name(1, SIZE) in newest
        assert shard_name(2, SIZE) in older
        assert all(restored.refused == found[0].refused for restored in found)
        assert all(same(restored.state, whole_state(1)) for restored in found)


def test_a_folder_that_not_all_see_is_an_error_in_all(tmp_path: Path) -> None:
    checkpoints = [Checkpoints(tmp_path / f"machine-{rank}") for rank in range(2)]
    for step in (1, 2):
        checkpoints[0].save(whole_state(step), step=step)
    for problem in on_all(lambda c: checkpoints[c.rank].newest(crew=c), crew(2)):
        assert isinstance(problem, FieldguideError)
        assert "let all machines share the folder" in str(problem)


def forge(folder: Path, name: str, content: bytes) -> None:
    """Put ``content`` in place and seal the manifest anew, as someone with bad intentions would."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    del manifest["~seal"]
    (folder / name).write_bytes(content)
    manifest["files"][name] = write(folder / ".forged", [content])
    (folder / ".forged").unlink()
    (folder / MANIFEST).write_bytes(seal(manifest))


@pytest.mark.parametrize(
    "change",
    [
        {"parts": [[1, 0, 3], [2, 3, 3]]},  # one row is nobody's
        {"parts": [[1, 0, 3], [2, 2, 3], [3, 6, 1]]},
        {"parts": [[1, 0, 3], [2, 3, 3], [4, 6, 1]]},
        {"parts": [[1, 0, 3], [2, 3, 3], [0, 6, 1]]},
        {"parts": [[1, 0, 3], [1, 3, 3], [3, 6, 1]]},
        {"parts": [[1, 0, 3], [2, 3, 3], [-1, 6, 1]]},
        {"parts": [[1, 0, 1 << 40]], "shape": [1 << 40, 4]},
        {"parts": []},
        {"parts": [[1, 0]]},
        {"parts": [[1, 0, True]]},
        {"parts": "abc"},
        {"axis": 1},
        {"axis": 9},
        {"axis": "0"},
        {"dtype": "F64"},
        {"dtype": "OBJECT"},
        {"dtype": 3},
        {"shape": [7, 5]},
        {"shape": []},
        {"shape": None},
        {"more": 1},
    ],
)
def test_forged_layouts_are_refused(saved: Path, change: dict[str, Any]) -> None:
    layouts = json.loads((saved / LAYOUT).read_bytes())
    layouts["tensors"]["model/weight"] |= change
    forge(saved, LAYOUT, json.dumps(layouts).encode())
    with pytest.raises(DamagedFile, match=r"layout\.json is damaged") as caught:
        load(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"{", b"[" * 100_000, b'{"schema": 2, "tensors": {}}',
                                     b'{"schema": 1, "tensors": {}}', b'{"schema": 2, "tensors": []}'])  # fmt: skip
def test_what_is_no_layout_is_refused(saved: Path, content: bytes) -> None:
    forge(saved, LAYOUT, content)
    with pytest.raises(DamagedFile, match=r"layout\.json is damaged"):
        load(saved)


@pytest.mark.parametrize(
    "names", [[shard_name(0, 2)], [shard_name(0, 2), shard_name(1, 3)], ["state-00001-of-00001.safetensors", "../x"],
              ["state-00001-of-99999999999.safetensors"]],
)  # fmt: skip
def test_forged_lists_of_files_are_refused(saved: Path, names: list[str]) -> None:
    files = {name: {"size": 1, "crc32": ""} for name in (*names, VALUES, LAYOUT)}
    (saved / MANIFEST).write_bytes(seal({"schema": 2, "step": 5, "best": False, "files": files}))
    with pytest.raises(DamagedFile, match=r"manifest\.json is damaged: it lists other files"):
        load(saved)


# ---------------------------------------------------------------------------------------------- deaths and refusals


@pytest.mark.parametrize("short", range(SIZE))
def test_a_disk_that_refuses_one_process_fails_the_save_of_all(
    tmp_path: Path, short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    save_together(checkpoints, 1)

    def full(path: Path, chunks: Any) -> Any:
        if path.name == shard_name(short, SIZE):
            raise OSError(28, "No space left on device")
        return write(path, chunks)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "write", full)
        problems = save_together(checkpoints, 2)
    assert all(isinstance(problem, OSError) and "No space left" in str(problem) for problem in problems)
    assert all(f"rank {short}" in str(problem) for rank, problem in enumerate(problems) if rank != short)
    assert {path.name for path in checkpoints.folder.iterdir()} == {"0001-step-000001", "last"}
    save_together(checkpoints, 3)
    assert [path.name for path in checkpoints.numbered()] == ["0001-step-000001", "0002-step-000003"]


class Died(Exception):
    pass


@pytest.mark.parametrize("silent", [0, 2])
@pytest.mark.parametrize("words", [0, 1, 2])
def test_whoever_falls_silent_there_is_a_whole_checkpoint(tmp_path: Path, silent: int, words: int) -> None:
    """Before the second of the three words the last file may not be whole; before the third all of it is."""

    class Dying(Threads):
        left = words

        def exchange(self, text: str) -> list[str]:
            if self.rank == silent and not self.left:
                raise Died
            self.left -= 1
            return super().exchange(text)

    checkpoints = Checkpoints(tmp_path / "checkpoints")
    save_together(checkpoints, 1)
    members = [Dying(one.rank, one.size, one.meeting, one.said) for one in crew(SIZE, patience=1.0)]
    problems = on_all(lambda c: checkpoints.save(own_state(2, c.rank, SIZE), step=2, crew=c), members)
    for rank, problem in enumerate(problems):
        assert isinstance(problem, Died if rank == silent else OSError)
    restored = checkpoints.newest()
    assert restored
    assert restored.step == (2 if words == 2 else 1)
    assert not restored.refused
    assert same(restored.state, whole_state(restored.step))
