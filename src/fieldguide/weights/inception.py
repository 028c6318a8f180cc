"""Public weights of GoogLeNet and Inception v3.

timm's inception_v3 has torchvision's names. Files with and without auxiliary heads are in use, and so are models.
"""

from collections.abc import Mapping

from fieldguide.weights.adapt import first_convolution
from fieldguide.weights.family import Family
from fieldguide.weights.table import COUNTERS, Table


def units(names: Mapping[str, str]) -> dict[str, str]:
    """The rows of convolutions with their batch norms."""
    parts = {"conv": "conv", "bn": "norm"}
    return {f"{a}.{part}.*": f"{b}.{parts[part]}.*" for a, b in names.items() for part in parts}


def modules(theirs: str, stages: Mapping[str, int], names: Mapping[str, str]) -> dict[str, str]:
    """The rows of modules that are built alike, from the name of each and the stage that it is in."""
    return {
        f"{theirs}{name}.{a}": f"stages.{stage}.{name}.{b}" for name, stage in stages.items() for a, b in names.items()
    }


MIXED = {"branch1": "0.0", "branch{b+2}.{k}": "{b+1}.{k}"}
FIGURE_5 = {"branch1x1": "0.0", "branch5x5_{k+1}": "1.{k}", "branch3x3dbl_{k+1}": "2.{k}", "branch_pool": "3.1"}
FIGURE_6 = {"branch1x1": "0.0", "branch7x7_{k+1}": "1.{k}", "branch7x7dbl_{k+1}": "2.{k}", "branch_pool": "3.1"}
FIGURE_7 = {
    "branch1x1": "0.0",
    "branch3x3_1": "1.0",
    "branch3x3_2a": "1.1.0",
    "branch3x3_2b": "1.1.1",
    "branch3x3dbl_{k+1}": "2.{k}",
    "branch3x3dbl_3a": "2.2.0",
    "branch3x3dbl_3b": "2.2.1",
    "branch_pool": "3.1",
}

GOOGLENET = units(
    {
        "conv1": "stem.0",
        "conv2": "stem.2",
        "conv3": "stem.3",
        **modules("inception", {"3a": 0, "3b": 0}, MIXED),
        **modules("inception", {"4a": 1, "4b": 1, "4c": 1, "4d": 1, "4e": 1}, MIXED),
        **modules("inception", {"5a": 2, "5b": 2}, MIXED),
        "aux1.conv": "auxiliary.4a.body.1",
        "aux2.conv": "auxiliary.4d.body.1",
    }
) | {
    "aux1.fc1.*": "auxiliary.4a.body.2.1.*",
    "aux2.fc1.*": "auxiliary.4d.body.2.1.*",
    "aux1.fc2.*": "auxiliary.4a.head.*",
    "aux2.fc2.*": "auxiliary.4d.head.*",
    "fc.*": "head.*",
}

INCEPTION_V3 = units(
    {
        "Conv2d_1a_3x3": "stem.0",
        "Conv2d_2a_3x3": "stem.1",
        "Conv2d_2b_3x3": "stem.2",
        "Conv2d_3b_1x1": "stem.4",
        "Conv2d_4a_3x3": "stem.5",
        **modules("Mixed_", {"5b": 0, "5c": 0, "5d": 0}, FIGURE_5),
        **modules("Mixed_", {"6a": 1}, {"branch3x3": "0.0", "branch3x3dbl_{k+1}": "1.{k}"}),
        **modules("Mixed_", {"6b": 1, "6c": 1, "6d": 1, "6e": 1}, FIGURE_6),
        **modules("Mixed_", {"7a": 2}, {"branch3x3_{k+1}": "0.{k}", "branch7x7x3_{k+1}": "1.{k}"}),
        **modules("Mixed_", {"7b": 2, "7c": 2}, FIGURE_7),
        "AuxLogits.conv0": "auxiliary.6e.body.2",
        "AuxLogits.conv1": "auxiliary.6e.body.3",
    }
) | {"AuxLogits.fc.*": "auxiliary.6e.head.*", "fc.*": "head.*"}

OPTIONAL = {"auxiliary.*": "the file has no auxiliary heads, which only training uses"} | COUNTERS
_TABLES = (Table(GOOGLENET, optional=OPTIONAL), Table(INCEPTION_V3, optional=OPTIONAL))

FAMILY = Family(
    name="inception",
    layouts={"torchvision": _TABLES, "timm": _TABLES[1:]},
    head=("head.*", "auxiliary.*"),
    adapt={"stem.0.conv.weight": first_convolution},
)
