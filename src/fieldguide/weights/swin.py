"""Public weights of Swin; the transformers layout is the one on disk, whose names differ from those in memory."""

import math

import torch
from torch import Tensor

from fieldguide.weights.adapt import first_convolution, offsets
from fieldguide.weights.family import Family
from fieldguide.weights.rows import derived, ignore, split
from fieldguide.weights.table import Table

QKV = ("query", "key", "value")


def pairs(table: Tensor) -> Tensor:
    """Which of a window's (2w − 1)² relative offsets each pair of its w² pixels has, as torchvision stores it."""
    size = (math.isqrt(len(table)) + 1) // 2
    places = torch.arange(size**2, device=table.device)
    down = places[:, None] // size - places // size + size - 1
    right = places[:, None] % size - places % size + size - 1
    return (down * (2 * size - 1) + right).flatten()


TORCHVISION = Table(
    {
        "features.0.0.*": "stem.conv.*",
        "features.0.2.*": "stem.norm.norm.*",
        "features.{2*s+1}.{i}.norm1.*": "stages.{s}.blocks.{i}.attention.norm.*",
        "features.{2*s+1}.{i}.attn.relative_position_bias_table": (
            "stages.{s}.blocks.{i}.attention.sublayer.attention.bias.table"
        ),
        "features.{2*s+1}.{i}.attn.relative_position_index": derived(
            "features.{2*s+1}.{i}.attn.relative_position_bias_table", pairs
        ),
        "features.{2*s+1}.{i}.attn.qkv.*": split("stages.{s}.blocks.{i}.attention.sublayer.attention.{part}.*", *QKV),
        "features.{2*s+1}.{i}.attn.proj.*": "stages.{s}.blocks.{i}.attention.sublayer.attention.output.*",
        "features.{2*s+1}.{i}.norm2.*": "stages.{s}.blocks.{i}.feedforward.norm.*",
        "features.{2*s+1}.{i}.mlp.0.*": "stages.{s}.blocks.{i}.feedforward.sublayer.expand.*",
        "features.{2*s+1}.{i}.mlp.3.*": "stages.{s}.blocks.{i}.feedforward.sublayer.contract.*",
        "features.{2*s+2}.norm.*": "stages.{s+1}.merge.norm.*",
        "features.{2*s+2}.reduction.*": "stages.{s+1}.merge.reduction.*",
        "norm.*": "norm.norm.*",
        "head.*": "head.*",
    }
)

BODY = {  # common to timm and the authors' code
    "patch_embed.proj.*": "stem.conv.*",
    "patch_embed.norm.*": "stem.norm.norm.*",
    "layers.{s}.blocks.{i}.norm1.*": "stages.{s}.blocks.{i}.attention.norm.*",
    "layers.{s}.blocks.{i}.attn.relative_position_bias_table": (
        "stages.{s}.blocks.{i}.attention.sublayer.attention.bias.table"
    ),
    "layers.{s}.blocks.{i}.attn.qkv.*": split("stages.{s}.blocks.{i}.attention.sublayer.attention.{part}.*", *QKV),
    "layers.{s}.blocks.{i}.attn.proj.*": "stages.{s}.blocks.{i}.attention.sublayer.attention.output.*",
    "layers.{s}.blocks.{i}.norm2.*": "stages.{s}.blocks.{i}.feedforward.norm.*",
    "layers.{s}.blocks.{i}.mlp.fc1.*": "stages.{s}.blocks.{i}.feedforward.sublayer.expand.*",
    "layers.{s}.blocks.{i}.mlp.fc2.*": "stages.{s}.blocks.{i}.feedforward.sublayer.contract.*",
    "norm.*": "norm.norm.*",
}

TIMM = Table({**BODY, "layers.{s}.downsample.*": "stages.{s}.merge.*", "head.fc.*": "head.*"})

MICROSOFT = Table(
    {
        **BODY,
        "layers.{s}.downsample.*": "stages.{s+1}.merge.*",
        "head.*": "head.*",
        "layers.{s}.blocks.{i}.attn.relative_position_index": ignore("it follows from the window"),
        "layers.{s}.blocks.{i}.attn_mask": ignore("it follows from the window and the image"),
    }
)

TRANSFORMERS = Table(
    {
        "swin.embeddings.patch_embeddings.projection.*": "stem.conv.*",
        "swin.embeddings.norm.*": "stem.norm.norm.*",
        "swin.encoder.layers.{s}.blocks.{i}.layernorm_before.*": "stages.{s}.blocks.{i}.attention.norm.*",
        "swin.encoder.layers.{s}.blocks.{i}.attention.self.relative_position_bias_table": (
            "stages.{s}.blocks.{i}.attention.sublayer.attention.bias.table"
        ),
        "swin.encoder.layers.{s}.blocks.{i}.attention.self.relative_position_index": ignore(
            "it follows from the window, and newer files do not have it"
        ),
        **{
            f"swin.encoder.layers.{{s}}.blocks.{{i}}.attention.self.{part}.*": (
                f"stages.{{s}}.blocks.{{i}}.attention.sublayer.attention.{part}.*"
            )
            for part in QKV
        },
        "swin.encoder.layers.{s}.blocks.{i}.attention.output.dense.*": (
            "stages.{s}.blocks.{i}.attention.sublayer.attention.output.*"
        ),
        "swin.encoder.layers.{s}.blocks.{i}.layernorm_after.*": "stages.{s}.blocks.{i}.feedforward.norm.*",
        "swin.encoder.layers.{s}.blocks.{i}.intermediate.dense.*": (
            "stages.{s}.blocks.{i}.feedforward.sublayer.expand.*"
        ),
        "swin.encoder.layers.{s}.blocks.{i}.output.dense.*": "stages.{s}.blocks.{i}.feedforward.sublayer.contract.*",
        "swin.encoder.layers.{s}.downsample.*": "stages.{s+1}.merge.*",
        "swin.layernorm.*": "norm.norm.*",
        "classifier.*": "head.*",
    },
    aliases={f"{name}.*": f"swin.{name}.*" for name in ("embeddings", "encoder", "layernorm")},  # a SwinModel
)

FAMILY = Family(
    name="swin",
    layouts={
        "torchvision": (TORCHVISION,),
        "timm": (TIMM,),
        "transformers": (TRANSFORMERS,),
        "microsoft": (MICROSOFT,),
    },
    adapt={"stem.conv.weight": first_convolution, "stages.*.attention.bias.table": offsets},
)
