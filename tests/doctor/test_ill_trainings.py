"""Real trainings that are ill in a way that is certain: the symptom is named however the loss was written."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from fieldguide.doctor.examination import Examination
from fieldguide.doctor.observe import Observer

Loss = Callable[[Tensor, Tensor], Tensor]
cross_entropy, binary = F.cross_entropy, F.binary_cross_entropy_with_logits
"""As a script has them that imported the functions before it was observed."""


def findings(head: nn.Module, loss: Loss, *, kind: type = int, shuffle: bool = True) -> set[str]:
    torch.manual_seed(0)
    x = torch.randn(512, 8)
    y = (x[:, 0] > 0).long()
    if not shuffle:
        order = y.argsort()
        x, y = x[order], y[order]
    y = y.float()[:, None] if kind is float else y
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), head)
    examination = Examination()
    slugs: set[str] = set()
    with Observer(lambda record: slugs.update(found.slug for found in examination.add(record))):
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        for _ in range(4):
            for inputs, labels in DataLoader(TensorDataset(x, y), 32, shuffle=shuffle):
                optimizer.zero_grad()
                loss(net(inputs), labels).backward()
                optimizer.step()
    return slugs


def called(name: str) -> Loss:
    return lambda out, y: getattr(F, name)(out, y)


@pytest.mark.parametrize("loss", [cross_entropy, called("cross_entropy"), nn.CrossEntropyLoss()])
def test_a_softmax_before_the_softmax_of_the_loss_is_named(loss):
    doubled = nn.Sequential(nn.Linear(16, 2), nn.Softmax(-1))
    assert "double-softmax" in findings(doubled, loss)
    assert "double-softmax" not in findings(nn.Linear(16, 2), loss)


def test_a_log_softmax_before_the_loss_for_it_is_well():
    assert "double-softmax" not in findings(nn.Sequential(nn.Linear(16, 2), nn.LogSoftmax(-1)), F.nll_loss)


@pytest.mark.parametrize(("loss", "kind"), [(cross_entropy, int), (binary, float)])
def test_samples_sorted_by_class_are_named_whatever_the_labels_are_kept_in(loss, kind):
    head = nn.Linear(16, 2 if kind is int else 1)
    assert "unshuffled-loader" in findings(head, loss, kind=kind, shuffle=False)
    assert "unshuffled-loader" not in findings(head, loss, kind=kind)
