"""Public weights of VGG.

Both layouts number the layers through, so that a convolution's number depends on the size; the rows are counted here.
The hidden layers are of the task: the VGG16 file that is published for its features has NaN in them.
"""

from collections.abc import Iterator, Mapping

from fieldguide.weights.adapt import first_convolution
from fieldguide.weights.family import Family
from fieldguide.weights.rows import Row, reshape, squeeze
from fieldguide.weights.table import Table

DEPTHS = ((1, 1, 2, 2, 2), (2, 2, 2, 2, 2), (2, 2, 3, 3, 3), (2, 2, 4, 4, 4))
"""Convolutions by stage of 11, 13, 16 and 19 layers."""
PLAIN, NORMED = ("conv",), ("conv", "norm")
"""What stands before each ReLU."""


def features(depths: tuple[int, ...], parts: tuple[str, ...]) -> dict[str, str | Row]:
    """The rows of one size: ``features.3.*`` is the second stage's first convolution in the plain 11 layers."""
    rows: dict[str, str | Row] = {}
    number = 0
    for stage, depth in enumerate(depths):
        for block in range(depth):
            for part in parts:
                rows[f"features.{number}.*"] = f"stages.{stage}.{block}.{part}.*"
                number += 1
            number += 1  # the ReLU
        number += 1  # the pooling
    return rows


TORCHVISION = {
    "classifier.0.*": "hidden.0.*",
    "classifier.3.*": "hidden.3.*",
    "classifier.6.*": "head.*",
}
TIMM = {
    "pre_logits.fc1.weight": reshape("hidden.0.weight", (-1, 512, 7, 7), (-1, 512 * 7 * 7)),
    "pre_logits.fc1.bias": "hidden.0.bias",
    "pre_logits.fc2.weight": squeeze("hidden.3.weight", -2, -1),
    "pre_logits.fc2.bias": "hidden.3.bias",
    "head.fc.*": "head.*",
}


def tables(classifier: Mapping[str, str | Row]) -> Iterator[Table]:
    return (Table({**features(depths, parts), **classifier}) for parts in (PLAIN, NORMED) for depths in DEPTHS)


FAMILY = Family(
    name="vgg",
    layouts={"torchvision": tuple(tables(TORCHVISION)), "timm": tuple(tables(TIMM))},
    head=("hidden.*", "head.*"),
    adapt={"stages.0.0.conv.weight": first_convolution},
)
