"""What real processes save together: each its own part, once, without ever gathering the whole."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tests.train.rank_pool import two_ranks
from tests.train.test_distributed_fit import _fit
from torch import nn
from torch.distributed import HashStore
from torch.distributed.tensor.debug import CommDebugMode

from fieldguide.models import create_model
from fieldguide.optim import build_optimizer
from fieldguide.train import RunFolder
from fieldguide.train.checkpoint import Checkpoints, load
from fieldguide.train.checkpoint.image import Image
from fieldguide.train.checkpoint.reading import stored
from fieldguide.train.distributed import build_strategy
from fieldguide.train.distributed.meeting import Meeting
from fieldguide.train.distributed.pulse import LOST

MB = 1 << 20


def _state(own):
    """That of a training after one step, as far as it is large."""
    optimizer = build_optimizer(own, "adamw")
    for parameter in own.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return {"model": own.state_dict(), "optimizers": {"model": optimizer.state_dict()}}


def _bytes(tree):
    match tree:
        case torch.Tensor():
            return tree.nbytes
        case dict():
            return sum(map(_bytes, tree.values()))
    return 0


def _laid_out(group, strategy):
    shared = build_strategy(strategy, group)
    with shared.spread(create_model("bert_mini")) as own:
        state = _state(own)
        with CommDebugMode() as exchanges:
            image = Image.of(shared.parts(state), group.leads)
    return image.nbytes, exchanges.get_total_counts()


@pytest.mark.parametrize("strategy", ["fsdp", "tensor"])
def test_each_process_has_its_part_and_asks_nobody(two, strategy):
    whole = _bytes(_state(create_model("bert_mini")))
    (first, exchanges), (second, _) = two(_laid_out, strategy)
    assert exchanges == 0
    assert first + second == whole  # each number once
    assert second > whole / 8  # tensor: embeddings and norms are the first one's
    if strategy == "fsdp":
        assert first < 0.51 * whole


def _memory(name):
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) << 10


def _peak(group, folder):
    """Bytes of this process's part, and by how much memory rises while it is saved and while it is read."""
    shared, checkpoints = build_strategy("fsdp", group), Checkpoints(folder)
    rises = []

    def watched(work):
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        before = _memory("VmRSS")
        kept = work()
        rises.append(_memory("VmHWM") - before)
        return kept

    with shared.spread(nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(8)))) as own:
        state = shared.parts(_state(own))
        nbytes = Image.of(state, group.leads).nbytes
        watched(lambda: checkpoints.save(state, step=1, crew=shared.writers()))
        found = checkpoints.newest(crew=shared.meeting())
        watched(lambda: shared.shards(found.stored))
    return nbytes, *rises


def test_no_process_ever_holds_the_whole(two, tmp_path):
    for nbytes, saving, reading in two(_peak, tmp_path):
        assert 48 * MB < nbytes < 52 * MB  # of 96
        assert saving < 16 * MB
        assert reading < 2.5 * nbytes  # what it takes, and the pages of the file that this lies in


@pytest.mark.parametrize("strategy", ["fsdp", "tensor"])
@pytest.mark.parametrize("beside", [True, False])
def test_a_training_leaves_shards_and_one_process_finds_in_them_what_it_would_have_saved(
    two, strategy, beside, tmp_path
):
    runs = [RunFolder.create_at(tmp_path / name) for name in ("alone", "shared")]
    _fit(None, "", runs[0].path, async_save=beside)
    two(_saving, strategy, runs[1].path, beside)
    alone, shared = (run.checkpoints.newest() for run in runs)
    assert {path.name for path in shared.folder.glob("state-*")} == {
        f"state-0000{n}-of-00002.safetensors" for n in (1, 2)
    }
    assert [path.name for path in runs[0].checkpoints.numbered()] == [
        path.name for path in runs[1].checkpoints.numbered()
    ]
    _assert_alike(shared.state["model"], alone.state["model"])
    _assert_alike(shared.state["optimizers"], alone.state["optimizers"])
    _assert_alike(shared.state["average"], alone.state["average"])
    parts = [len(tensor.layout.parts) for tensor in stored(shared.folder)["model"].values()]
    assert max(parts) == 2


def _saving(group, strategy, folder, beside):
    return _fit(group, strategy, folder, async_save=beside)


def _assert_alike(there, here):
    if isinstance(here, torch.Tensor):
        torch.testing.assert_close(there, here, rtol=1e-9, atol=1e-9)
    elif isinstance(here, dict | list):
        assert len(there) == len(here)
        for key in here if isinstance(here, dict) else range(len(here)):
            _assert_alike(there[key], here[key])
    else:
        assert there == (pytest.approx(here, rel=1e-9) if isinstance(here, float) else here)


def test_who_does_not_come_is_named_and_who_comes_late_is_not_heard():
    store = HashStore()
    first, second = (Meeting(store, rank, 3, number=1, timeout=0.2) for rank in range(2))
    with ThreadPoolExecutor() as pool, pytest.raises(RuntimeError, match=r"timeout while waiting for rank 2$"):
        _ = [*pool.map(lambda one: one.exchange("here"), (first, second))]
    late = Meeting(store, 2, 3, number=1, timeout=0.2)
    assert late.exchange("late") == ["here", "here", "late"]
    all_three = [Meeting(store, rank, 3, number=2, timeout=5.0) for rank in range(3)]
    with ThreadPoolExecutor() as pool:
        for text in ("one", "two", "three"):
            said = [*pool.map(lambda one, text=text: one.exchange(f"{text} {one.rank}"), all_three)]
            assert said == [[f"{text} {rank}" for rank in range(3)]] * 3
    assert store.num_keys() == 3 + 3  # what was said last in each


def test_nobody_waits_for_a_meeting_when_the_job_is_over():
    store = HashStore()
    store.set(LOST, "rank 1 is gone")
    with pytest.raises(RuntimeError, match="waiting for rank 1"):
        Meeting(store, 0, 2, number=1, timeout=1000.0).exchange("anybody?")


RANK = """
import sys, torch
from torch import nn
from fieldguide.errors import FieldguideError
from fieldguide.objectives import Classification
from fieldguide.train import Recipe, RunFolder, fit
from fieldguide.train.distributed import Place, build_strategy, joined

torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(*(nn.Linear(512, 512) for _ in range(6)), nn.Linear(512, 3))
data = torch.randn(64, 512), torch.randint(3, (64,))
recipe = Recipe(epochs=1000, batch_size=8, threads=1, checkpoint_every=1, async_save=sys.argv[2] == "beside")
try:
    with joined(Place.found(), torch.device("cpu"), timeout=3.0) as group:
        fit(model, (data, None), Classification(), recipe, run=RunFolder(sys.argv[1]), strategy=build_strategy("fsdp", group))
except FieldguideError as problem:
    sys.exit(f"error: {problem}")
"""  # noqa: E501


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lost", "how", "wait"), [(0, "beside", 0.0), (1, "beside", 0.03), (0, "within", 0.05), (1, "within", 0.0)]
)
def test_a_process_that_is_killed_while_all_save_leaves_a_good_checkpoint(tmp_path, lost, how, wait):
    run = RunFolder.create_at(tmp_path / "run")
    ranks = two_ranks(RANK, run.path, how)
    deadline = time.monotonic() + 120
    while len(run.checkpoints.numbered()) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    while not [*run.checkpoints.folder.glob(".*.tmp")] and time.monotonic() < deadline:
        pass
    time.sleep(wait)
    ranks[lost].kill()
    said = [rank.communicate(timeout=60)[1] for rank in ranks]
    (line,) = [line for line in said[1 - lost].splitlines() if line.startswith("error:")]
    assert re.search(rf"rank {lost} gave no sign of life|all ranks report to .* is gone", line)
    restored = run.checkpoints.newest()
    assert restored
    assert not restored.refused
    assert restored.state["progress"]["step"] == restored.step >= 1
    run.checkpoints.clean(restored.folder)
    assert not [*run.checkpoints.folder.glob(".*")]
    assert load(restored.folder)["model"].keys() == restored.state["model"].keys()
