"""The index: one literal row per architecture. It imports nothing of fieldguide and needs no torch.

The command line, the documentation, the advisor and the sweep tests read these rows, so a new architecture is one
model file and one row here. ``sizes`` maps every public name to its exact parameter count; a test builds each on the
meta device and counts.
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import NamedTuple


class Architecture(NamedTuple):
    """One family: its paper, its file, what it is good for, and its sizes."""

    family: str
    """Also the name of the family's recipe and docs page."""
    module: str
    """Below ``fieldguide.models``."""
    model: str
    """The class; its config is ``<model>Config`` in the same file."""
    task: str
    paper: str
    year: int
    key_idea: str
    best_for: str
    image: tuple[int, int]
    """Smallest and native image side of the published sizes; data of other sizes is resized into this range."""
    mini_image: tuple[int, int]
    """The same for ``<family>_mini``."""
    weights: str
    """Where public checkpoints come from: libraries, data and files."""
    sizes: dict[str, int]


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        family="lenet",
        module="vision.lenet",
        model="LeNet",
        task="classify",
        paper="LeCun, Bottou, Bengio & Haffner 1998, Gradient-based learning applied to document recognition",
        year=1998,
        key_idea="learned convolutions with shared weights, alternating with sub-sampling",
        best_for="small grey images of one object; learning how a CNN works",
        image=(32, 32),
        mini_image=(32, 32),
        weights="none in common use; `fieldguide train lenet5` reaches the published accuracy in minutes",
        sizes={"lenet5": 61_706, "lenet_mini": 17_662},
    ),
    Architecture(
        family="resnet",
        module="vision.resnet",
        model="ResNet",
        task="classify",
        paper="He, Zhang, Ren & Sun 2016, Deep Residual Learning for Image Recognition",
        year=2016,
        key_idea="each block learns a change to its input, so depth no longer hurts",
        best_for="the first thing to try on images; a backbone for detection and segmentation",
        image=(32, 224),
        mini_image=(8, 32),
        weights="torchvision, timm and transformers (ImageNet-1k); Idelbayev's pytorch_resnet_cifar10 (CIFAR-10)",
        sizes={
            "resnet18": 11_689_512,
            "resnet34": 21_797_672,
            "resnet50": 25_557_032,
            "resnet101": 44_549_160,
            "resnet152": 60_192_808,
            "resnext50_32x4d": 25_028_904,
            "wide_resnet50_2": 68_883_240,
            "resnet_mini": 77_754,
        },
    ),
    Architecture(
        family="vit",
        module="vision.vit",
        model="ViT",
        task="classify",
        paper="Dosovitskiy et al. 2021, An Image is Worth 16x16 Words",
        year=2021,
        key_idea="an image as a sequence of patches for a plain Transformer encoder",
        best_for="large labelled sets or fine-tuning from public weights",
        image=(224, 224),
        mini_image=(16, 32),
        weights="torchvision, timm and transformers (ImageNet-1k, ImageNet-21k)",
        sizes={
            "vit_ti_16": 5_717_416,
            "vit_s_16": 22_050_664,
            "vit_b_16": 86_567_656,
            "vit_b_32": 88_224_232,
            "vit_l_16": 304_326_632,
            "vit_h_14": 632_045_800,
            "vit_mini": 139_978,
        },
    ),
)


def find(name: str) -> Architecture | None:
    """The row that holds a public name such as ``"resnet50"``, or None."""
    return next((row for row in ARCHITECTURES if name in row.sizes), None)


def names() -> Iterator[str]:
    """Every public name, family by family."""
    return (name for row in ARCHITECTURES for name in row.sizes)


def list_models(pattern: str = "*", task: str | None = None) -> list[str]:
    """Public names that match a shell pattern, optionally of one task; needs no torch.

    ``list_models("*vit*", task="classify")`` → ``["vit_ti_16", …]``.
    """
    return [
        name for row in ARCHITECTURES for name in row.sizes if fnmatchcase(name, pattern) and task in (None, row.task)
    ]
