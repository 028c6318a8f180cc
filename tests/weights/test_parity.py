"""Public layouts, one row a case: the checkpoint that another library writes makes our network compute what its own
does, and comes back bit by bit.

Random weights under calibrated batch statistics: with initial ones the output hardly depends on the input, and parity
would be vacuous. The assertions are here; a family adds rows.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import get_model

from fieldguide.models import create_model
from fieldguide.weights import export_weights, load_weights

Oracle = Callable[[], nn.Module]


class Case(NamedTuple):
    """Our catalog name, the layout that must be detected, and the independent network that writes it."""

    name: str
    layout: str
    oracle: Oracle
    side: int = 64
    """Of the test images, in pixels."""
    overrides: Mapping[str, Any] = {}
    """Of our config, where the oracle is built smaller than published."""
    slow: bool = False


def torchvision(name: str, **arguments: Any) -> Oracle:
    return lambda: get_model(name, weights=None, **arguments)


def timm(name: str, **arguments: Any) -> Oracle:
    return lambda: pytest.importorskip("timm").create_model(name, pretrained=False, **arguments)


def transformers(model: str, config: str, **arguments: Any) -> Oracle:
    def build() -> nn.Module:
        library = pytest.importorskip("transformers")
        return getattr(library, model)(getattr(library, config)(**arguments))

    return build


CASES = [
    # ResNet, ResNeXt, wide ResNet
    Case("resnet18", "torchvision", torchvision("resnet18")),
    Case("resnext50_32x4d", "torchvision", torchvision("resnext50_32x4d")),
    *(
        Case(name, "torchvision", torchvision(name), slow=True)
        for name in ("resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2")
    ),
]


def label(case: Case) -> str:
    return f"{case.name}-{case.layout}"


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=label(case), marks=[pytest.mark.slow] * case.slow) for case in CASES]
)
def test_equals_the_network_that_wrote_the_checkpoint(case, tmp_path):
    images = torch.randn(3, 3, case.side, case.side, dtype=torch.float64)
    oracle = calibrated(case.oracle().double(), images)
    theirs = checkpoint(oracle, tmp_path)
    ours = create_model(case.name, **case.overrides).double()
    assert load_weights(ours, theirs).layout == case.layout
    assert_same_output(ours, oracle, images, 1e-10)
    exported = export_weights(ours, case.layout)
    assert_identical(exported, theirs)
    assert_same_output(ours.float(), oracle.float(), images.float(), 1e-5)


def logits(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


def checkpoint(oracle: nn.Module, folder: Any) -> dict[str, Tensor]:
    """As it is on disk: what transformers calls its tensors in memory is not what its files hold."""
    if not hasattr(oracle, "save_pretrained"):
        return oracle.state_dict()
    oracle.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


@torch.no_grad()
def calibrated(oracle: nn.Module, images: Tensor) -> nn.Module:
    """Batch statistics of real activations under random scales and shifts."""
    norms = [module for module in oracle.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_(0, 0.2)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average of what follows
    oracle.train()
    for _ in range(3):
        oracle(images + 0.1 * torch.randn_like(images))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return oracle.eval()


@torch.no_grad()
def assert_same_output(ours: nn.Module, oracle: nn.Module, images: Tensor, tolerance: float) -> None:
    expected = logits(oracle(images))
    sensitivity = (expected - logits(oracle(images.flip(0)))).norm() / expected.norm()
    assert sensitivity > max(0.01, 1e3 * tolerance), "the comparison must be able to fail"
    assert (ours.eval()(images) - expected).norm() / expected.norm() <= tolerance


def assert_identical(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        assert torch.equal(one[name], other[name]), name
