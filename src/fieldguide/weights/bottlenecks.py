"""What the inverted bottlenecks of MobileNet and EfficientNet are called elsewhere: rows from which tables are made.

Ours are made of the parts expand, depthwise, gate and project; which of them a block has depends on its stage.
"""

from collections.abc import Iterator, Mapping, Sequence

DEPTHWISE = ("depthwise", "project")
INVERTED = ("expand", "depthwise", "project")
GATED_DEPTHWISE = ("depthwise", "gate", "project")
GATED = ("expand", "depthwise", "gate", "project")

TIMM_DS = {"conv_dw": "depthwise", "conv_pw": "project"}
TIMM_IR = {"conv_pw": "expand", "conv_dw": "depthwise", "conv_pwl": "project"}
TIMM_STEM = {"conv_stem.*": "stem.conv.*", "bn1.*": "stem.norm.*", "classifier.*": "head.*"}
TIMM_LAST = {"conv_head.*": "last.conv.*", "bn2.*": "last.norm.*"}


def torchvision_block(theirs: str, ours: str, parts: Sequence[str]) -> dict[str, str]:
    """A ``nn.Sequential`` of the parts: their place is their name."""
    rows: dict[str, str] = {}
    for place, part in enumerate(parts):
        names = {"fc1": "squeeze", "fc2": "expand"} if part == "gate" else {"0": "conv", "1": "norm"}
        rows |= {f"{theirs}.{place}.{name}.*": f"{ours}.{part}.{own}.*" for name, own in names.items()}
    return rows


def timm_block(theirs: str, ours: str, convolutions: Mapping[str, str]) -> dict[str, str]:
    """Convolutions by name, norms by number; a gate where there is one."""
    rows = {
        f"{theirs}.se.conv_reduce.*": f"{ours}.gate.squeeze.*",
        f"{theirs}.se.conv_expand.*": f"{ours}.gate.expand.*",
    }
    for number, (name, part) in enumerate(convolutions.items(), 1):
        rows |= {f"{theirs}.{name}.*": f"{ours}.{part}.conv.*", f"{theirs}.bn{number}.*": f"{ours}.{part}.norm.*"}
    return rows


def in_turn(depths: Sequence[int]) -> Iterator[tuple[int, int, str]]:
    """The blocks of all stages, counted through: ``(number, stage, our name)``."""
    places = ((stage, block) for stage, depth in enumerate(depths) for block in range(depth))
    return ((number, stage, f"stages.{stage}.{block}") for number, (stage, block) in enumerate(places))
