"""Public weights of GPT-Neo, in transformers' layout, which stores its linear layers as PyTorch does."""

from fieldguide.weights.adapt import first_rows, vocabulary
from fieldguide.weights.family import Family
from fieldguide.weights.rows import ignore, tied
from fieldguide.weights.table import Table

TRANSFORMERS = Table(
    {
        "transformer.wte.weight": "embeddings.tokens.weight",
        "transformer.wpe.weight": "embeddings.positions.weight",
        "transformer.h.{i}.ln_1.*": "decoder.layers.{i}.attention_norm.*",
        "transformer.h.{i}.attn.attention.q_proj.weight": "decoder.layers.{i}.attention.query.weight",
        "transformer.h.{i}.attn.attention.k_proj.weight": "decoder.layers.{i}.attention.key.weight",
        "transformer.h.{i}.attn.attention.v_proj.weight": "decoder.layers.{i}.attention.value.weight",
        "transformer.h.{i}.attn.attention.out_proj.*": "decoder.layers.{i}.attention.output.*",
        "transformer.h.{i}.ln_2.*": "decoder.layers.{i}.feedforward_norm.*",
        "transformer.h.{i}.mlp.c_fc.*": "decoder.layers.{i}.feedforward.expand.*",
        "transformer.h.{i}.mlp.c_proj.*": "decoder.layers.{i}.feedforward.contract.*",
        "transformer.ln_f.*": "decoder.norm.*",
        "lm_head.weight": tied("transformer.wte.weight"),
        "transformer.h.{i}.attn.attention.bias": ignore("the causal mask, not a weight"),
        "transformer.h.{i}.attn.attention.masked_bias": ignore("the score of what the mask hides, not a weight"),
    },
    aliases={f"{name}.*": f"transformer.{name}.*" for name in ("wte", "wpe", "h", "ln_f")},  # a GPTNeoModel
)

FAMILY = Family(
    name="gpt_neo",
    layouts={"transformers": (TRANSFORMERS,)},
    head=(),
    adapt={"embeddings.tokens.weight": vocabulary, "embeddings.positions.weight": first_rows},
)
