"""Public weights of ViT; the transformers layout is the one on disk, whose names differ from those in memory."""

from fieldguide.weights.adapt import class_token_and_grid, first_convolution
from fieldguide.weights.family import Family
from fieldguide.weights.rows import ignore, split, squeeze
from fieldguide.weights.table import Table

QKV = ("query", "key", "value")

TORCHVISION = Table(
    {
        "class_token": squeeze("class_token", 0, 1),
        "conv_proj.*": "patches.projection.*",
        "encoder.pos_embedding": squeeze("positions.weight", 0),
        "encoder.layers.encoder_layer_{i}.ln_1.*": "encoder.layers.{i}.attention_norm.*",
        "encoder.layers.encoder_layer_{i}.self_attention.in_proj_*": split(
            "encoder.layers.{i}.attention.{part}.*", *QKV
        ),
        "encoder.layers.encoder_layer_{i}.self_attention.out_proj.*": "encoder.layers.{i}.attention.output.*",
        "encoder.layers.encoder_layer_{i}.ln_2.*": "encoder.layers.{i}.feedforward_norm.*",
        "encoder.layers.encoder_layer_{i}.mlp.0.*": "encoder.layers.{i}.feedforward.expand.*",
        "encoder.layers.encoder_layer_{i}.mlp.3.*": "encoder.layers.{i}.feedforward.contract.*",
        "encoder.ln.*": "encoder.norm.*",
        "heads.head.*": "head.*",
    },
    aliases={  # before torchvision 0.13
        "encoder.layers.encoder_layer_{i}.mlp.linear_1.*": "encoder.layers.encoder_layer_{i}.mlp.0.*",
        "encoder.layers.encoder_layer_{i}.mlp.linear_2.*": "encoder.layers.encoder_layer_{i}.mlp.3.*",
    },
)

TIMM = Table(
    {
        "cls_token": squeeze("class_token", 0, 1),
        "patch_embed.proj.*": "patches.projection.*",
        "pos_embed": squeeze("positions.weight", 0),
        "blocks.{i}.norm1.*": "encoder.layers.{i}.attention_norm.*",
        "blocks.{i}.attn.qkv.*": split("encoder.layers.{i}.attention.{part}.*", *QKV),
        "blocks.{i}.attn.proj.*": "encoder.layers.{i}.attention.output.*",
        "blocks.{i}.norm2.*": "encoder.layers.{i}.feedforward_norm.*",
        "blocks.{i}.mlp.fc1.*": "encoder.layers.{i}.feedforward.expand.*",
        "blocks.{i}.mlp.fc2.*": "encoder.layers.{i}.feedforward.contract.*",
        "norm.*": "encoder.norm.*",
        "head.*": "head.*",
    }
)

TRANSFORMERS = Table(
    {
        "vit.embeddings.cls_token": squeeze("class_token", 0, 1),
        "vit.embeddings.patch_embeddings.projection.*": "patches.projection.*",
        "vit.embeddings.position_embeddings": squeeze("positions.weight", 0),
        "vit.encoder.layer.{i}.layernorm_before.*": "encoder.layers.{i}.attention_norm.*",
        "vit.encoder.layer.{i}.attention.attention.query.*": "encoder.layers.{i}.attention.query.*",
        "vit.encoder.layer.{i}.attention.attention.key.*": "encoder.layers.{i}.attention.key.*",
        "vit.encoder.layer.{i}.attention.attention.value.*": "encoder.layers.{i}.attention.value.*",
        "vit.encoder.layer.{i}.attention.output.dense.*": "encoder.layers.{i}.attention.output.*",
        "vit.encoder.layer.{i}.layernorm_after.*": "encoder.layers.{i}.feedforward_norm.*",
        "vit.encoder.layer.{i}.intermediate.dense.*": "encoder.layers.{i}.feedforward.expand.*",
        "vit.encoder.layer.{i}.output.dense.*": "encoder.layers.{i}.feedforward.contract.*",
        "vit.layernorm.*": "encoder.norm.*",
        "classifier.*": "head.*",
        "vit.pooler.dense.*": ignore("the pooler of ViTModel, which no classifier uses"),
    },
    aliases={f"{name}.*": f"vit.{name}.*" for name in ("embeddings", "encoder", "layernorm", "pooler")},  # a ViTModel
)

FAMILY = Family(
    name="vit",
    layouts={"torchvision": (TORCHVISION,), "timm": (TIMM,), "transformers": (TRANSFORMERS,)},
    adapt={"patches.projection.weight": first_convolution, "positions.weight": class_token_and_grid},
)
