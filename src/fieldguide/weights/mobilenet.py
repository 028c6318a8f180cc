"""Public weights of MobileNet v1, v2 and v3.

``timm_tf`` are timm's ``tf_…`` models: named and shaped as the others, but trained by TensorFlow, with its padding and
constants. Nothing in a file tells; ask for the layout by name.
"""

from fieldguide.weights.adapt import first_convolution
from fieldguide.weights.bottlenecks import (
    DEPTHWISE,
    GATED,
    GATED_DEPTHWISE,
    INVERTED,
    TIMM_DS,
    TIMM_IR,
    TIMM_LAST,
    TIMM_STEM,
    in_turn,
    timm_block,
    torchvision_block,
)
from fieldguide.weights.family import Family
from fieldguide.weights.rows import Row, squeeze
from fieldguide.weights.table import Table

V1_DEPTHS = (1, 2, 2, 6, 2)
V2_DEPTHS = (1, 2, 3, 4, 3, 3, 1)
V3_LARGE = [(1, DEPTHWISE), (2, INVERTED), (3, GATED), (4, INVERTED), (2, GATED), (3, GATED)]
V3_SMALL = [(1, GATED_DEPTHWISE), (2, INVERTED), (3, GATED), (2, GATED), (3, GATED)]


def _torchvision_v2() -> dict[str, str]:
    """The last 1×1 and its norm are not nested as the other convolutions are."""
    rows = {
        "features.0.0.*": "stem.conv.*",
        "features.0.1.*": "stem.norm.*",
        "features.18.0.*": "last.conv.*",
        "features.18.1.*": "last.norm.*",
        "classifier.1.*": "head.*",
    }
    for number, stage, ours in in_turn(V2_DEPTHS):
        theirs, *nested = f"features.{number + 1}.conv", *(INVERTED if stage else DEPTHWISE)[:-1]
        rows |= torchvision_block(theirs, ours, nested)
        rows[f"{theirs}.{len(nested)}.*"] = f"{ours}.project.conv.*"
        rows[f"{theirs}.{len(nested) + 1}.*"] = f"{ours}.project.norm.*"
    return rows


def _torchvision_v3(stages: list[tuple[int, tuple[str, ...]]]) -> dict[str, str]:
    depths = [depth for depth, _ in stages]
    last = f"features.{sum(depths) + 1}"
    rows = {
        "features.0.0.*": "stem.conv.*",
        "features.0.1.*": "stem.norm.*",
        f"{last}.0.*": "last.conv.*",
        f"{last}.1.*": "last.norm.*",
        "classifier.0.*": "hidden.0.*",
        "classifier.3.*": "head.*",
    }
    for number, stage, ours in in_turn(depths):
        rows |= torchvision_block(f"features.{number + 1}.block", ours, stages[stage][1])
    return rows


def _timm_v3(stages: int) -> dict[str, str | Row]:
    """A stage more than ours, which is the last 1×1; the hidden layer is a convolution."""
    rows: dict[str, str | Row] = {
        f"blocks.{stages}.0.conv.*": "last.conv.*",
        f"blocks.{stages}.0.bn1.*": "last.norm.*",
        "conv_head.weight": squeeze("hidden.0.weight", -2, -1),
        "conv_head.bias": "hidden.0.bias",
    }
    rows |= TIMM_STEM | timm_block("blocks.0.{i}", "stages.0.{i}", TIMM_DS)
    for stage in range(1, stages):
        rows |= timm_block(f"blocks.{stage}.{{i}}", f"stages.{stage}.{{i}}", TIMM_IR)
    return rows


def _transformers_conv(theirs: str, ours: str) -> dict[str, str]:
    return {f"{theirs}.convolution.*": f"{ours}.conv.*", f"{theirs}.normalization.*": f"{ours}.norm.*"}


def _transformers_v1() -> dict[str, str]:
    rows = _transformers_conv("mobilenet_v1.conv_stem", "stem") | {"classifier.*": "head.*"}
    for number, _, ours in in_turn(V1_DEPTHS):
        rows |= _transformers_conv(f"mobilenet_v1.layer.{2 * number}", f"{ours}.depthwise")
        rows |= _transformers_conv(f"mobilenet_v1.layer.{2 * number + 1}", f"{ours}.pointwise")
    return rows


def _transformers_v2() -> dict[str, str]:
    """The first block is a part of their stem."""
    rows = {
        **_transformers_conv("mobilenet_v2.conv_stem.first_conv", "stem"),
        **_transformers_conv("mobilenet_v2.conv_stem.conv_3x3", "stages.0.0.depthwise"),
        **_transformers_conv("mobilenet_v2.conv_stem.reduce_1x1", "stages.0.0.project"),
        **_transformers_conv("mobilenet_v2.conv_1x1", "last"),
        "classifier.*": "head.*",
    }
    for number, stage, ours in in_turn(V2_DEPTHS):
        parts = {"expand_1x1": "expand", "conv_3x3": "depthwise", "reduce_1x1": "project"} if stage else {}
        for name, part in parts.items():
            rows |= _transformers_conv(f"mobilenet_v2.layer.{number - 1}.{name}", f"{ours}.{part}")
    return rows


def _headless(model: str) -> dict[str, str]:
    """A file of the model without its classifier has no prefix."""
    return {f"{name}.*": f"{model}.{name}.*" for name in ("conv_stem", "layer", "conv_1x1")}


_TIMM = (
    Table(TIMM_STEM | timm_block("blocks.{s}.{i}", "stages.{s}.{i}", TIMM_DS | {"conv_pw": "pointwise"})),
    Table(
        TIMM_STEM
        | timm_block("blocks.0.{i}", "stages.0.{i}", TIMM_DS)
        | timm_block("blocks.{s+1}.{i}", "stages.{s+1}.{i}", TIMM_IR)
        | TIMM_LAST
    ),
    Table(_timm_v3(len(V3_SMALL))),
    Table(_timm_v3(len(V3_LARGE))),
)

FAMILY = Family(
    name="mobilenet",
    layouts={
        "torchvision": (
            Table(_torchvision_v2()),
            Table(_torchvision_v3(V3_SMALL)),
            Table(_torchvision_v3(V3_LARGE)),
        ),
        "timm": _TIMM,
        "timm_tf": _TIMM,
        "transformers": (
            Table(_transformers_v1(), aliases=_headless("mobilenet_v1")),
            Table(_transformers_v2(), aliases=_headless("mobilenet_v2")),
        ),
    },
    adapt={"stem.conv.weight": first_convolution},
    conventions={
        "torchvision": {
            "mobilenet_v2": {"norm_eps": 1e-5, "norm_momentum": 0.1, "padding": "symmetric"},
            "mobilenet_v3_*": {"norm_eps": 1e-3, "norm_momentum": 0.01, "padding": "symmetric"},
        },
        "timm": {"*": {"norm_eps": 1e-5, "norm_momentum": 0.1, "padding": "symmetric"}},
        "timm_tf": {"*": {"norm_eps": 1e-3, "norm_momentum": 0.1, "padding": "same"}},
        "transformers": {"*": {"norm_eps": 1e-3, "padding": "same"}},
    },
)
