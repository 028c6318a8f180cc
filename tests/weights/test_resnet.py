"""ResNet's public layouts: files that torchvision, timm and transformers write, read and written back bit by bit,
and networks that agree in double precision on calibrated statistics."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision import models
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.resnet import ResNet as TorchvisionResNet

from fieldguide.catalog import ARCHITECTURES
from fieldguide.models import create_model
from fieldguide.models.vision.resnet import ResNet, ResNetConfig
from fieldguide.weights import export_weights, load_weights

WIDTHS = (64, 128, 256, 512)
KINDS = {
    "basic": (BasicBlock, {}, {"reduction": 1, "widths": WIDTHS}),
    "bottleneck": (Bottleneck, {}, {"reduction": 4}),
    "resnext": (Bottleneck, {"groups": 32, "width_per_group": 4}, {"reduction": 2, "groups": 32}),
    "wide": (Bottleneck, {"width_per_group": 128}, {"reduction": 2}),
}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        assert torch.equal(one[name], other[name]), name


@torch.no_grad()
def calibrate(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """Batch-norm statistics of real activations and random scales: with initial ones parity would be vacuous."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.2)
    model.train()
    for _ in range(3):
        model(images + 0.1 * torch.randn_like(images))
    return model.eval()


def logits(output):
    return output if isinstance(output, torch.Tensor) else output.logits


@torch.no_grad()
def assert_parity(ours: nn.Module, oracle: nn.Module, images: torch.Tensor, tolerance: float) -> None:
    """Relative agreement, on an output that really depends on its input."""
    expected = logits(oracle(images))
    assert (expected - logits(oracle(images.flip(0)))).norm() / expected.norm() > 1e3 * tolerance
    assert (ours.eval()(images) - expected).norm() / expected.norm() < tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_torchvision(kind):
    block, theirs, ours = KINDS[kind]
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    oracle = TorchvisionResNet(block, [1, 2, 1, 1], num_classes=7, **theirs).double()
    calibrate(oracle, images)
    model = ResNet(ResNetConfig(depths=(1, 2, 1, 1), num_classes=7, **ours)).double()
    assert load_weights(model, oracle.state_dict()).layout == "torchvision"
    assert_parity(model, oracle, images, 1e-10)
    assert_parity(model.float(), oracle.float(), images.float(), 1e-5)
    exported = export_weights(model, "torchvision")
    assert_same(exported, oracle.state_dict())
    again = TorchvisionResNet(block, [1, 2, 1, 1], num_classes=7, **theirs)
    again.load_state_dict(exported)
    assert torch.equal(again.eval()(images.float()), oracle(images.float()))


PUBLISHED = [name for row in ARCHITECTURES if row.family == "resnet" for name in row.sizes if hasattr(models, name)]


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_torchvision_at_every_published_size(name):
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    oracle = calibrate(getattr(models, name)().double(), images)
    model = create_model(name).double()
    load_weights(model, oracle.state_dict())
    assert_parity(model, oracle, images, 1e-10)
    assert_same(export_weights(model), oracle.state_dict())


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_timm(kind):
    timm_resnet = pytest.importorskip("timm.models.resnet")
    block = {"basic": timm_resnet.BasicBlock, "bottleneck": timm_resnet.Bottleneck}[kind]
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    oracle = calibrate(timm_resnet.ResNet(block, [1, 2, 1, 1], num_classes=7).double(), images)
    model = ResNet(ResNetConfig(depths=(1, 2, 1, 1), num_classes=7, **KINDS[kind][2])).double()
    load_weights(model, oracle.state_dict())
    assert_parity(model, oracle, images, 1e-10)
    assert_same(export_weights(model, "timm"), oracle.state_dict())


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_transformers_on_disk(kind, tmp_path):
    transformers = pytest.importorskip("transformers")
    widths = [32, 64, 128, 256]
    config = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=widths, depths=[1, 2, 1, 1], layer_type=kind, num_labels=7
    )
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    oracle = calibrate(transformers.ResNetForImageClassification(config).double(), images)
    oracle.save_pretrained(tmp_path / "whole")
    oracle.save_pretrained(tmp_path / "shards", max_shard_size="500KB")
    model = ResNet(
        ResNetConfig(
            depths=(1, 2, 1, 1),
            widths=tuple(widths),
            stem_width=16,
            reduction=1 if kind == "basic" else 4,
            num_classes=7,
        )
    ).double()
    assert load_weights(model, tmp_path / "whole").layout == "transformers"
    assert_parity(model, oracle, images, 1e-10)
    assert_same(export_weights(model, "transformers"), load_file(tmp_path / "whole" / "model.safetensors"))
    before = model.state_dict()
    load_weights(model, tmp_path / "shards")
    assert_same(model.state_dict(), before)


def test_transformers_without_a_head(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 32, 64], depths=[1] * 4, layer_type="basic"
    )
    transformers.ResNetModel(config).save_pretrained(tmp_path)
    sizes = {"depths": (1,) * 4, "widths": (8, 16, 32, 64), "stem_width": 8, "reduction": 1}
    report = load_weights(ResNet(ResNetConfig(num_classes=5, **sizes)), tmp_path, strict=False)
    assert report.layout == "transformers"
    assert report.kept.keys() == {"head.weight", "head.bias"}


class Subsample(nn.Module):
    """Option A of He et al. 2016, §3.3: every second pixel and zeros for the new channels."""

    def forward(self, x):
        added = x.shape[1] // 2
        return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, added, added))


def cifar_resnet(depth: int) -> ResNet:
    config = ResNetConfig(
        depths=((depth - 2) // 6,) * 3, widths=(16, 32, 64), reduction=1, stem="3x3", stem_width=16, num_classes=10
    )
    model = ResNet(config)
    for stage in model.stages[1:]:
        stage[0].shortcut = Subsample()
    return model


@pytest.mark.parametrize("prefix", ["", "module."])
def test_cifar_with_shortcuts_that_have_no_parameters(prefix, tmp_path):
    names = {"stem.conv": "conv1", "stem.norm": "bn1", "head": "linear"}
    source = cifar_resnet(20)
    theirs = {}
    for name, tensor in source.state_dict().items():
        stem, leaf = name.rsplit(".", 1)
        if stem.startswith("stages."):
            _, stage, block, conv, kind = stem.split(".")
            stem = f"layer{int(stage) + 1}.{block}." + conv.replace("conv", {"conv": "conv", "norm": "bn"}[kind])
        if leaf != "num_batches_tracked":
            theirs[f"{prefix}{names.get(stem, stem)}.{leaf}"] = torch.randn_like(tensor)
    torch.save({"state_dict": theirs, "best_prec1": 91.7}, tmp_path / "r.th", _use_new_zipfile_serialization=False)
    model = cifar_resnet(20)
    report = load_weights(model, tmp_path / "r.th")
    assert report.layout == "cifar"
    assert set(report.kept.values()) == {"older files do not count batches"}
    assert sum(parameter.numel() for parameter in model.parameters()) == 269_722
    assert_same(export_weights(model, "cifar"), {name.removeprefix(prefix): t for name, t in theirs.items()})
    with pytest.raises(Exception, match="it looks like"):
        load_weights(cifar_resnet(32), tmp_path / "r.th")
