"""Public weights of EfficientNet and EfficientNetV2.

``timm_tf`` are timm's ``tf_…`` models: named and shaped as the others, but trained by TensorFlow, with its padding and
constants. Nothing in a file tells; ask for the layout by name.
"""

from fieldguide.weights.adapt import first_convolution
from fieldguide.weights.bottlenecks import (
    GATED,
    GATED_DEPTHWISE,
    TIMM_DS,
    TIMM_IR,
    TIMM_LAST,
    TIMM_STEM,
    timm_block,
    torchvision_block,
)
from fieldguide.weights.family import Family
from fieldguide.weights.table import Table

V1 = (GATED_DEPTHWISE, *(GATED,) * 6)
V2_S = (("expand",), *(("expand", "project"),) * 2, *(GATED,) * 3)
V2_ML = (*V2_S, GATED)


def _torchvision(stages: tuple[tuple[str, ...], ...]) -> dict[str, str]:
    last = f"features.{len(stages) + 1}"
    rows = {
        "features.0.0.*": "stem.conv.*",
        "features.0.1.*": "stem.norm.*",
        f"{last}.0.*": "last.conv.*",
        f"{last}.1.*": "last.norm.*",
        "classifier.1.*": "head.*",
    }
    for stage, parts in enumerate(stages):
        rows |= torchvision_block(f"features.{stage + 1}.{{i}}.block", f"stages.{stage}.{{i}}", parts)
    return rows


TIMM_ER = {"conv_exp": "expand", "conv_pwl": "project"}
TIMM_V1 = (
    TIMM_STEM
    | timm_block("blocks.0.{i}", "stages.0.{i}", TIMM_DS)
    | timm_block("blocks.{s+1}.{i}", "stages.{s+1}.{i}", TIMM_IR)
    | TIMM_LAST
)
TIMM_V2 = (
    TIMM_STEM
    | timm_block("blocks.0.{i}", "stages.0.{i}", {"conv": "expand"})
    | timm_block("blocks.1.{i}", "stages.1.{i}", TIMM_ER)
    | timm_block("blocks.2.{i}", "stages.2.{i}", TIMM_ER)
    | timm_block("blocks.{s+3}.{i}", "stages.{s+3}.{i}", TIMM_IR)
    | TIMM_LAST
)
_TIMM = (Table(TIMM_V1), Table(TIMM_V2))

FAMILY = Family(
    name="efficientnet",
    layouts={
        "torchvision": tuple(Table(_torchvision(stages)) for stages in (V1, V2_S, V2_ML)),
        "timm": _TIMM,
        "timm_tf": _TIMM,
    },
    adapt={"stem.conv.weight": first_convolution},
    conventions={
        "torchvision": {
            "*": {"norm_eps": 1e-5, "norm_momentum": 0.1, "padding": "symmetric"},
            "efficientnet_b[5-7]": {"norm_eps": 1e-3, "norm_momentum": 0.01},
            "efficientnet_v2_*": {"norm_eps": 1e-3},
        },
        "timm": {"*": {"norm_eps": 1e-5, "norm_momentum": 0.1, "padding": "symmetric"}},
        "timm_tf": {"*": {"norm_eps": 1e-3, "norm_momentum": 0.1, "padding": "same"}},
    },
)
