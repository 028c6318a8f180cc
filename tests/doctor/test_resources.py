"""Speed, memory and workers in real trainings: what costs them is named, and their healthy twins are left alone."""

from collections.abc import Callable

import pytest
import torch
from benchmarks.doctor.programs import nearly_full
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from fieldguide.doctor.attending import Doctor


def nothing(model: nn.Module) -> None: ...


def log(model: nn.Module) -> None:
    for _ in range(30):
        [parameter.detach().cpu().tolist() for parameter in model.parameters()]


def found(
    data: Dataset | None = None, *, batch: int = 64, workers: int = 0, begin: Callable | None = None,
    each: Callable[[nn.Module], object] = nothing, width: int = 128,
) -> set[str]:  # fmt: skip
    """Slugs that the doctor names in a training of 20 steps or 60."""
    torch.manual_seed(0)
    x = torch.randn(60 * batch, 8)
    samples = data or TensorDataset(x, x.sum(1, keepdim=True))
    model = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 1))
    with Doctor(probes=False) as doctor:
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        for inputs, targets in DataLoader(samples, batch, num_workers=workers, worker_init_fn=begin):
            optimizer.zero_grad()
            F.mse_loss(model(inputs), targets).backward()
            optimizer.step()
            each(model)
    return {finding.slug for finding in doctor.diagnosis().findings}


def test_numbers_that_are_fetched_in_every_step_are_named_and_one_is_well():
    own = {name: getattr(Tensor, name) for name in ("item", "tolist", "cpu", "numpy", "__float__", "__bool__")}
    assert "sync-bound" in found(each=log, width=2048)
    assert "sync-bound" not in found(each=lambda model: model[2].bias.item(), width=2048)  # pyright: ignore
    assert {name: getattr(Tensor, name) for name in own} == own
    assert not own.keys() & vars(Tensor).keys(), "what was put there for a step is gone"


def test_a_batch_so_small_that_eight_times_as_many_samples_take_as_long_is_named():
    assert "low-occupancy" in found(batch=2)
    assert "low-occupancy" not in found(batch=256, width=512)


def test_memory_that_is_nearly_used_up_is_named():
    assert "near-out-of-memory" not in found()
    with nearly_full():
        assert "near-out-of-memory" in found()


class Noisy(Dataset):
    """Noise from a generator of its own, which no look at the code finds: a linear congruence."""

    def __init__(self) -> None:
        self.state = 1

    def __len__(self) -> int:
        return 400

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.state = 1_103_515_245 * self.state % 2**31
        return torch.full((8,), index + self.state / 2**31), torch.tensor([float(index % 3)])


def by_worker(number: int) -> None:
    information = torch.utils.data.get_worker_info()
    assert information is not None
    information.dataset.state += 2 * number  # pyright: ignore[reportAttributeAccessIssue]


class Steady(Noisy):
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.full((8,), float(index)), torch.tensor([float(index % 3)])


@pytest.mark.parametrize(
    ("data", "begin", "repeats"), [(Noisy, None, True), (Noisy, by_worker, False), (Steady, None, False)]
)
def test_workers_that_draw_the_same_are_named_whatever_they_draw_from(data, begin, repeats):
    torch.manual_seed(3)
    made = data()
    assert ("duplicated-worker-randomness" in found(made, batch=20, workers=2, begin=begin)) is repeats
    assert made.state == 1, "the data set itself was not read from"
