"""Public layouts, one row a case: the checkpoint that another library writes makes our network compute what its own
does, and comes back bit by bit.

Random weights under calibrated batch statistics: with initial ones the output hardly depends on the input, and parity
would be vacuous. The assertions are here; a family adds rows.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import SwinTransformer, get_model

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
    ask: bool = False
    """For the layout by name, where it shares its names with an earlier one of its family."""


def torchvision(name: str, **arguments: Any) -> Oracle:
    return lambda: get_model(name, weights=None, **arguments)


def timm(name: str, **arguments: Any) -> Oracle:
    return lambda: pytest.importorskip("timm").create_model(name, pretrained=False, **arguments)


def narrow(name: str, units: int) -> Oracle:
    """torchvision's AlexNet or VGG with small hidden layers: the published ones hold most of the weights."""

    def build() -> nn.Module:
        with torch.device("meta"):
            oracle = get_model(name, weights=None)
            numbers = [i for i, layer in enumerate(oracle.classifier) if isinstance(layer, nn.Linear)]
            sizes = pairwise((oracle.classifier[numbers[0]].in_features, units, units, 1000))
            for i, (inputs, outputs) in zip(numbers, sizes, strict=True):
                oracle.classifier[i] = nn.Linear(inputs, outputs)
        oracle.to_empty(device="cpu")
        for weight in oracle.parameters():
            nn.init.kaiming_normal_(weight) if weight.ndim > 1 else nn.init.normal_(weight, std=0.1)
        return oracle

    return build


def transformers(model: str, config: str, **arguments: Any) -> Oracle:
    def build() -> nn.Module:
        library = pytest.importorskip("transformers")
        return getattr(library, model)(getattr(library, config)(**arguments))

    return build


def jittered(build: Oracle) -> Oracle:
    """Every parameter random: initial zeros and ones would hide a wrong place."""

    @torch.no_grad()
    def random() -> nn.Module:
        oracle = build()
        for parameter in oracle.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (parameter.ndim == 1))
        return oracle

    return random


VGGS = [f"vgg{layers}{norm}" for norm in ("", "_bn") for layers in (11, 13, 16, 19)]

CASES = [
    # AlexNet and VGG: 64 pixels are averaged into the grid of 7×7, as both libraries do
    Case("alexnet", "torchvision", narrow("alexnet", 64), overrides={"units": (64, 64)}),
    Case("alexnet", "torchvision", torchvision("alexnet"), side=224, slow=True),
    *(
        Case(name, layout, oracle, overrides={"units": units}, slow="11" not in name)
        for name in VGGS
        for layout, oracle, units in (
            ("torchvision", narrow(name, 64), (64, 64)),
            ("timm", timm(name, mlp_ratio=1 / 64), (64, 4096)),
        )
    ),
    Case("vgg16", "torchvision", torchvision("vgg16"), slow=True),
    Case("vgg16_bn", "timm", timm("vgg16_bn"), slow=True),
    # ResNet, ResNeXt, wide ResNet
    Case("resnet18", "torchvision", torchvision("resnet18")),
    Case("resnext50_32x4d", "torchvision", torchvision("resnext50_32x4d")),
    *(
        Case(name, "torchvision", torchvision(name), slow=True)
        for name in ("resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2")
    ),
    *(
        Case(name, "timm", timm(name, layers=(1, 2, 1, 1)), overrides={"depths": (1, 2, 1, 1)}, ask=True)
        for name in ("resnet18", "resnet50")
    ),
    *(
        Case(
            name,
            "transformers",
            transformers(
                "ResNetForImageClassification",
                "ResNetConfig",
                layer_type=kind,
                embedding_size=16,
                hidden_sizes=[32, 64, 128, 256],
                depths=[1, 2, 1, 1],
                num_labels=7,
            ),
            overrides={"depths": (1, 2, 1, 1), "widths": (32, 64, 128, 256), "stem_width": 16, "num_classes": 7},
        )
        for name, kind in (("resnet18", "basic"), ("resnet50", "bottleneck"))
    ),
    # GoogLeNet, Inception v3; its auxiliary head needs the paper's images when their library trains
    Case("googlenet", "torchvision", torchvision("googlenet", init_weights=False)),
    Case(
        "inception_v3",
        "torchvision",
        torchvision("inception_v3", init_weights=False, aux_logits=False),
        side=96,
        overrides={"auxiliary": False},
    ),
    Case("inception_v3", "torchvision", torchvision("inception_v3", init_weights=False), side=299, slow=True),
    Case("inception_v3", "torchvision", timm("inception_v3"), side=96, overrides={"auxiliary": False}, slow=True),
    # MobileNet v1, v2, v3
    Case("mobilenet_v1", "timm", timm("mobilenetv1_100")),
    Case("mobilenet_v2", "torchvision", torchvision("mobilenet_v2")),
    Case("mobilenet_v2", "timm", timm("mobilenetv2_100")),
    Case("mobilenet_v3_small", "torchvision", torchvision("mobilenet_v3_small")),
    Case("mobilenet_v3_small", "timm", timm("mobilenetv3_small_100")),
    Case("mobilenet_v3_small", "timm_tf", timm("tf_mobilenetv3_small_100"), side=65, ask=True),
    Case(
        "mobilenet_v1",
        "transformers",
        transformers("MobileNetV1ForImageClassification", "MobileNetV1Config", depth_multiplier=0.5, num_labels=7),
        overrides={"width": 0.5, "num_classes": 7},
    ),
    Case(
        "mobilenet_v2",
        "transformers",
        transformers("MobileNetV2ForImageClassification", "MobileNetV2Config", depth_multiplier=0.75, num_labels=7),
        side=65,
        overrides={"width": 0.75, "num_classes": 7},
    ),
    Case("mobilenet_v3_large", "torchvision", torchvision("mobilenet_v3_large"), slow=True),
    Case("mobilenet_v3_large", "timm", timm("mobilenetv3_large_100"), slow=True),
    Case("mobilenet_v3_large", "timm_tf", timm("tf_mobilenetv3_large_100"), slow=True, ask=True),
    # EfficientNet, EfficientNetV2
    Case("efficientnet_b0", "torchvision", torchvision("efficientnet_b0")),
    Case("efficientnet_b0", "timm", timm("efficientnet_b0")),
    Case("efficientnet_b0", "timm_tf", timm("tf_efficientnet_b0"), ask=True),
    Case("efficientnet_v2_s", "torchvision", torchvision("efficientnet_v2_s"), slow=True),
    *(
        Case(f"efficientnet_{size}", "torchvision", torchvision(f"efficientnet_{size}"), slow=True)
        for size in ("b1", "b2", "b3", "b4", "b5", "b6", "b7", "v2_m", "v2_l")
    ),
    *(Case(f"efficientnet_v2_{size}", "timm", timm(f"efficientnetv2_{size}"), slow=True) for size in "sml"),
    *(Case(f"efficientnet_b{i}", "timm", timm(f"efficientnet_b{i}"), slow=True) for i in range(1, 8)),
    Case("efficientnet_v2_s", "timm_tf", timm("tf_efficientnetv2_s"), slow=True, ask=True),
    # RegNet X and Y; transformers has the authors' widths, timm both
    Case("regnet_x_400mf", "torchvision", torchvision("regnet_x_400mf")),
    Case("regnet_y_400mf", "torchvision", torchvision("regnet_y_400mf")),
    Case("regnet_y_400mf", "timm", timm("regnety_004")),
    *(
        Case(
            f"regnet_{kind}_400mf",
            "transformers",
            transformers(
                "RegNetForImageClassification",
                "RegNetConfig",
                layer_type=kind,
                groups_width=groups,
                hidden_sizes=widths,
                depths=depths,
                num_labels=1000,
            ),
            overrides={"rounding": "paper"},
        )
        for kind, groups, widths, depths in (
            ("x", 16, [32, 64, 160, 384], [1, 2, 7, 12]),
            ("y", 8, [48, 104, 208, 440], [1, 3, 6, 6]),
        )
    ),
    *(
        Case(f"regnet_{size}", "torchvision", torchvision(f"regnet_{size}"), slow=True)
        for kind in "xy"
        for size in (f"{kind}_{flops}" for flops in ("800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf"))
    ),
    *(
        Case(f"regnet_{size}", "timm", timm(f"regnet{theirs}"), slow=True)
        for size, theirs in (
            ("x_400mf", "x_004_tv"),
            ("x_8gf", "x_080"),
            ("y_800mf", "y_008_tv"),
            ("y_8gf", "y_080_tv"),
        )
    ),
    *(
        Case(f"regnet_{size}", "timm", timm(f"regnet{theirs}"), overrides={"rounding": "paper"}, slow=True)
        for size, theirs in (("x_400mf", "x_004"), ("y_800mf", "y_008"), ("y_8gf", "y_080"))
    ),
    # Swin; windows of 4 do not divide maps of 14 and 7. timm rolls such maps before it fills them up, so that what the
    # roll brings together sees each other; of 64 pixels the maps are 16 and 8
    *(
        Case(
            "swin_t",
            layout,
            jittered(oracle),
            side=side,
            overrides={"embed_dim": 24, "depths": (2, 2), "head_dim": 8, "window_size": 4},
        )
        for side, layout, oracle in (
            (
                56,
                "torchvision",
                lambda: SwinTransformer(
                    [4, 4], embed_dim=24, depths=[2, 2], num_heads=[3, 6], window_size=[4, 4], num_classes=1000
                ),
            ),
            (
                64,
                "timm",
                timm(
                    "swin_tiny_patch4_window7_224",
                    img_size=64,
                    embed_dim=24,
                    depths=(2, 2),
                    num_heads=(3, 6),
                    window_size=4,
                ),
            ),
            (
                56,
                "transformers",
                transformers(
                    "SwinForImageClassification",
                    "SwinConfig",
                    image_size=56,
                    embed_dim=24,
                    depths=[2, 2],
                    num_heads=[3, 6],
                    window_size=4,
                    num_labels=1000,
                    attn_implementation="sdpa",
                ),
            ),
        )
    ),
    *(Case(f"swin_{size}", "torchvision", torchvision(f"swin_{size}"), side=96, slow=True) for size in "tsb"),
    Case("swin_t", "timm", timm("swin_tiny_patch4_window7_224"), side=224, slow=True),
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
    assert load_weights(ours, theirs, layout=case.layout if case.ask else None).layout == case.layout
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
