"""Public weights of GPT-1 and GPT-2, in transformers' layout: linear layers as ``(in, out)``, the output tied."""

from fieldguide.weights.adapt import first_rows, vocabulary
from fieldguide.weights.family import Family
from fieldguide.weights.rows import Ignored, Row, Tied, ignore, split, tied, transpose
from fieldguide.weights.table import Table

LAYER: dict[str, str | Row | Ignored | Tied] = {
    "transformer.h.{i}.attn.c_attn.*": split(
        transpose("decoder.layers.{i}.attention.{part}.*"), "query", "key", "value"
    ),
    "transformer.h.{i}.attn.c_proj.*": transpose("decoder.layers.{i}.attention.output.*"),
    "transformer.h.{i}.ln_1.*": "decoder.layers.{i}.attention_norm.*",
    "transformer.h.{i}.mlp.c_fc.*": transpose("decoder.layers.{i}.feedforward.expand.*"),
    "transformer.h.{i}.mlp.c_proj.*": transpose("decoder.layers.{i}.feedforward.contract.*"),
    "transformer.h.{i}.ln_2.*": "decoder.layers.{i}.feedforward_norm.*",
    "transformer.h.{i}.attn.bias": ignore("the causal mask, not a weight"),
    "transformer.h.{i}.attn.masked_bias": ignore("the score of what the causal mask hides, not a weight"),
}

GPT1 = Table(
    {
        "transformer.tokens_embed.weight": "embeddings.tokens.weight",
        "transformer.positions_embed.weight": "embeddings.positions.weight",
        **LAYER,
        "lm_head.weight": tied("transformer.tokens_embed.weight"),
    },
    aliases={f"{name}.*": f"transformer.{name}.*" for name in ("tokens_embed", "positions_embed", "h")},
)

GPT2 = Table(
    {
        "transformer.wte.weight": "embeddings.tokens.weight",
        "transformer.wpe.weight": "embeddings.positions.weight",
        **LAYER,
        "transformer.ln_f.*": "decoder.norm.*",
        "lm_head.weight": tied("transformer.wte.weight"),
    },
    aliases={f"{name}.*": f"transformer.{name}.*" for name in ("wte", "wpe", "h", "ln_f")},  # the published files
)

FAMILY = Family(
    name="gpt",
    layouts={"transformers": (GPT1, GPT2)},
    head=(),
    adapt={"embeddings.tokens.weight": vocabulary, "embeddings.positions.weight": first_rows},
)
