"""Data that fail in the middle of a training: one line that says what, and a run that goes on when they are mended."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset, Subset, get_worker_info

from fieldguide import trace
from fieldguide.objectives import Classification
from fieldguide.train import Callback, Recipe, RunFolder, fit
from fieldguide.train.failures import BadData

SAMPLES = 24
PNG = b"\x89PNG\r\n\x1a\n"


class Files(Dataset):
    """Images in a folder, as torchvision's data sets hold them."""

    def __init__(self, folder: Path):
        self.samples = [(str(folder / f"{i}.png"), i % 2) for i in range(SAMPLES)]

    def __len__(self):
        return SAMPLES

    def __getitem__(self, i):
        file, label = self.samples[i]
        return torch.tensor(np.array(Image.open(file)), dtype=torch.float32).flatten() / 255, label


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "images"
    place.mkdir()
    chance = np.random.default_rng(0)
    for i in range(SAMPLES):
        Image.fromarray(chance.integers(0, 255, (4, 4), dtype=np.uint8)).save(place / f"{i}.png")
    return place


def train(path, data, resume=False, workers=0, callbacks=(), **changes):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(16, 8), nn.Dropout(0.2), nn.Linear(8, 2))
    recipe = Recipe(epochs=3, batch_size=6, threads=1, workers=workers, **changes)
    run = RunFolder.open(path) if resume else RunFolder.create_at(path)
    fit(model, data, Classification(), recipe, run=run, resume=resume, callbacks=callbacks)
    return model


class Spoil(Callback):
    """A file loses its end once training is under way."""

    def __init__(self, file, step):
        self.file, self.step, self.content = file, step, file.read_bytes()

    def on_step(self, record):
        if record["step"] == self.step:
            self.file.write_bytes(self.content[:60])

    def mend(self):
        self.file.write_bytes(self.content)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_is_spoiled_in_the_middle(folder, tmp_path, workers):
    whole = train(tmp_path / "whole", (Files(folder), None))
    spoil = Spoil(folder / "7.png", step=5)
    with pytest.raises(BadData) as caught:
        train(tmp_path / "broken", (Files(folder), None), workers=workers, callbacks=[spoil])
    said = str(caught.value)
    assert said.startswith(f"data: sample 7 ({folder / '7.png'}) cannot be read: OSError:")
    assert said.endswith("; mend it, or leave it out")
    assert "\n" not in said
    run = RunFolder.open(tmp_path / "broken")
    step = run.checkpoints.newest().step
    assert step >= 5, "what was learned up to there is saved, in the middle of an epoch"
    (record,) = trace.read(run.metrics, "failure")
    assert (record["step"], record["message"]) == (step + 1, said)
    spoil.mend()
    mended = train(tmp_path / "broken", (Files(folder), None), resume=True, workers=workers)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), mended.parameters(), strict=True))


def test_the_trace_of_the_data_set_is_kept_as_a_note(folder, tmp_path):
    (folder / "3.png").write_bytes(PNG)
    with pytest.raises(BadData, match="sample 3 ") as caught:
        train(tmp_path / "run", (Files(folder), None), workers=1)
    assert "in __getitem__" in caught.value.__notes__[0]


def test_the_file_behind_a_subset(folder, tmp_path):
    (folder / "9.png").unlink()
    with pytest.raises(BadData, match=r"sample 2 \(.*9\.png\) cannot be read: FileNotFoundError"):
        train(tmp_path / "run", (Subset(Files(folder), [0, 1, 9, 10, 11, 12, 13]), None))


def test_a_validation_sample_that_cannot_be_read(folder, tmp_path):
    other = Files(folder)
    other.samples = [(str(folder / "absent.png"), 0)] * SAMPLES
    with pytest.raises(BadData, match=r"sample 0 \(.*absent\.png\)"):
        train(tmp_path / "run", (Files(folder), other))
    assert RunFolder.open(tmp_path / "run").checkpoints.newest().step == 4


@pytest.mark.parametrize("workers", [0, 1])
def test_samples_that_do_not_fit_together(folder, tmp_path, workers):
    Image.new("L", (5, 4)).save(folder / "0.png")
    with pytest.raises(
        BadData, match=r"samples do not fit together in a batch, as float32 \(20,\), int and float32 \(16,\), int: Run"
    ):
        train(tmp_path / "run", (Files(folder), None), workers=workers)


class Failing:
    """A feed of one's own."""

    def __len__(self):
        return 4

    def batches(self, epoch, start=0):
        for i in range(start, 4):
            if (epoch, i) == (1, 2):
                raise ConnectionResetError("the server has gone")
            yield torch.zeros(6, 16), torch.zeros(6, dtype=torch.int64)


def test_a_feed_of_ones_own(tmp_path):
    with pytest.raises(BadData, match="data: batch 2 of epoch 1 cannot be read: ConnectionResetError: the server has"):
        train(tmp_path / "run", (Failing(), None))
    assert RunFolder.open(tmp_path / "run").checkpoints.newest().step == 6


class Killed(Files):
    """The worker that reads the first epoch's last sample dies as the system kills it, unless the set is mended."""

    mended = False
    last = int(torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(0))[-1])

    def __getitem__(self, i):
        if i == self.last and not self.mended and get_worker_info():
            time.sleep(0.5)  # so that it happens in a step
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(i)


class Slow(Callback):
    """Steps so long that workers die in them."""

    def on_backward(self, part, share):
        time.sleep(0.4)


@pytest.mark.slow
def test_a_worker_that_is_killed(folder, tmp_path):
    whole = train(tmp_path / "whole", (Killed(folder), None))
    with pytest.raises(BadData, match=r"^data: a worker process has died \(DataLoader worker .*\), as when memory"):
        train(tmp_path / "broken", (Killed(folder), None), workers=2, callbacks=[Slow()])
    assert callable(signal.getsignal(signal.SIGCHLD)), "torch's own handler is back"
    mended = Killed(folder)
    mended.mended = True
    resumed = train(tmp_path / "broken", (mended, None), resume=True, workers=2)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
