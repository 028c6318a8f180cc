"""How transformers calls the tensors of a Transformer: the names of Marian, whose translators are public.

Marian's positions are all sines and then all cosines, the paper's alternate. That is the same network with its d_model
features in another order, so the order is what changes on the way, and positions stay the paper's in both directions.
"""

from fieldguide.weights.adapt import vocabulary
from fieldguide.weights.family import Family
from fieldguide.weights.rows import Row, ignore, interleave, squeeze, tied
from fieldguide.weights.table import Table


def reads(ours: str) -> Row:
    """A layer whose inputs are features of the model; its outputs, and so its bias, are not."""
    return interleave(ours, axis=1)


def writes(ours: str) -> Row:
    """A layer whose outputs are features of the model, or a norm of them."""
    return interleave(ours, axis=0)


MARIAN = {
    "model.shared.weight": reads("embeddings.tokens.weight"),
    "model.encoder.embed_tokens.weight": tied("model.shared.weight"),
    "model.decoder.embed_tokens.weight": tied("model.shared.weight"),
    "lm_head.weight": tied("model.shared.weight"),
    "final_logits_bias": squeeze("output_bias", 0),
    "model.encoder.embed_positions.weight": ignore("sines and cosines, which the model computes"),
    "model.decoder.embed_positions.weight": ignore("sines and cosines, which the model computes"),
    "model.encoder.layers.{i}.self_attn.q_proj.*": reads("encoder.layers.{i}.attention.query.*"),
    "model.encoder.layers.{i}.self_attn.k_proj.*": reads("encoder.layers.{i}.attention.key.*"),
    "model.encoder.layers.{i}.self_attn.v_proj.*": reads("encoder.layers.{i}.attention.value.*"),
    "model.encoder.layers.{i}.self_attn.out_proj.*": writes("encoder.layers.{i}.attention.output.*"),
    "model.encoder.layers.{i}.self_attn_layer_norm.*": writes("encoder.layers.{i}.attention_norm.*"),
    "model.encoder.layers.{i}.fc1.*": reads("encoder.layers.{i}.feedforward.expand.*"),
    "model.encoder.layers.{i}.fc2.*": writes("encoder.layers.{i}.feedforward.contract.*"),
    "model.encoder.layers.{i}.final_layer_norm.*": writes("encoder.layers.{i}.feedforward_norm.*"),
    "model.decoder.layers.{i}.self_attn.q_proj.*": reads("decoder.layers.{i}.attention.query.*"),
    "model.decoder.layers.{i}.self_attn.k_proj.*": reads("decoder.layers.{i}.attention.key.*"),
    "model.decoder.layers.{i}.self_attn.v_proj.*": reads("decoder.layers.{i}.attention.value.*"),
    "model.decoder.layers.{i}.self_attn.out_proj.*": writes("decoder.layers.{i}.attention.output.*"),
    "model.decoder.layers.{i}.self_attn_layer_norm.*": writes("decoder.layers.{i}.attention_norm.*"),
    "model.decoder.layers.{i}.encoder_attn.q_proj.*": reads("decoder.layers.{i}.cross_attention.query.*"),
    "model.decoder.layers.{i}.encoder_attn.k_proj.*": reads("decoder.layers.{i}.cross_attention.key.*"),
    "model.decoder.layers.{i}.encoder_attn.v_proj.*": reads("decoder.layers.{i}.cross_attention.value.*"),
    "model.decoder.layers.{i}.encoder_attn.out_proj.*": writes("decoder.layers.{i}.cross_attention.output.*"),
    "model.decoder.layers.{i}.encoder_attn_layer_norm.*": writes("decoder.layers.{i}.cross_attention_norm.*"),
    "model.decoder.layers.{i}.fc1.*": reads("decoder.layers.{i}.feedforward.expand.*"),
    "model.decoder.layers.{i}.fc2.*": writes("decoder.layers.{i}.feedforward.contract.*"),
    "model.decoder.layers.{i}.final_layer_norm.*": writes("decoder.layers.{i}.feedforward_norm.*"),
}
HEADLESS = {f"{part}.*": f"model.{part}.*" for part in ("shared", "encoder", "decoder")}  # a file of MarianModel

FAMILY = Family(
    name="transformer",
    layouts={"transformers": (Table(MARIAN, aliases=HEADLESS),)},
    head=(),  # the output layer is the table of tokens
    adapt={"embeddings.tokens.weight": vocabulary, "output_bias": vocabulary},
)
