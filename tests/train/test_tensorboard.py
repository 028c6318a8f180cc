"""The log for TensorBoard, read back by TensorBoard: what a run's own log says, also after a resume."""

import pytest
import torch
from torch import nn

from fieldguide import trace
from fieldguide.objectives import Classification
from fieldguide.train import Callback, Recipe, RunFolder, fit

pytest.importorskip("tensorboard", reason="tensorboard is not installed (the extra track)")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fieldguide.train.tensorboard import TensorBoard


class PullThePlug(Callback):
    def __init__(self, step: int):
        self.step = step

    def on_step(self, record):
        if record["step"] == self.step:
            raise ConnectionAbortedError


def carry_out(run: RunFolder, *callbacks: Callback, resume: bool = False) -> None:
    torch.manual_seed(0)
    data = torch.randn(40, 5), torch.randint(3, (40,))
    recipe = Recipe(epochs=6, batch_size=8, threads=1, checkpoint_every=4)
    with TensorBoard(run.path / "tensorboard", every=2) as board:
        fit(nn.Linear(5, 3), (data, data), Classification(), recipe, run=run, callbacks=[board, *callbacks],
            resume=resume)  # fmt: skip


def read(run: RunFolder) -> dict[str, list[tuple[int, float]]]:
    log = EventAccumulator(str(run.path / "tensorboard")).Reload()
    return {tag: [(event.step, event.value) for event in log.Scalars(tag)] for tag in log.Tags()["scalars"]}


@pytest.mark.parametrize("plugs", [(), (11,), (6, 13, 29), (5, 25)])
def test_tensorboard_reads_what_the_run_says(tmp_path, plugs):
    run = RunFolder.create_at(tmp_path / "run")
    for place, step in enumerate(plugs):
        with pytest.raises(ConnectionAbortedError):
            carry_out(run, PullThePlug(step), resume=place > 0)
    carry_out(run, resume=bool(plugs))
    found = read(run)
    for kind, names in (("step", ("loss", "lr", "grad_norm")), ("epoch", ("train_loss", "val_loss", "val_accuracy"))):
        records = [r for r in trace.read(run.metrics, kind) if kind == "epoch" or r["step"] % 2 == 0]
        for name in names:
            assert [step for step, _ in found[f"{kind}/{name}"]] == [r["step"] for r in records]
            assert [value for _, value in found[f"{kind}/{name}"]] == pytest.approx([r[name] for r in records])
