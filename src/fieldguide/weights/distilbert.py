"""Public weights of DistilBERT, as they are on disk: of the encoder, or below one of its heads."""

from fieldguide.weights.adapt import first_rows, vocabulary
from fieldguide.weights.encoders import encoder_tables
from fieldguide.weights.family import Family
from fieldguide.weights.rows import ignore, tied

ENCODER = {
    "distilbert.embeddings.word_embeddings.weight": "embeddings.tokens.weight",
    "distilbert.embeddings.position_embeddings.weight": "embeddings.positions.weight",
    "distilbert.embeddings.LayerNorm.*": "embeddings.norm.*",
    "distilbert.embeddings.position_ids": ignore("0, 1, 2, …, which old files store"),
    "distilbert.transformer.layer.{i}.attention.q_lin.*": "encoder.layers.{i}.attention.query.*",
    "distilbert.transformer.layer.{i}.attention.k_lin.*": "encoder.layers.{i}.attention.key.*",
    "distilbert.transformer.layer.{i}.attention.v_lin.*": "encoder.layers.{i}.attention.value.*",
    "distilbert.transformer.layer.{i}.attention.out_lin.*": "encoder.layers.{i}.attention.output.*",
    "distilbert.transformer.layer.{i}.sa_layer_norm.*": "encoder.layers.{i}.attention_norm.*",
    "distilbert.transformer.layer.{i}.ffn.lin1.*": "encoder.layers.{i}.feedforward.expand.*",
    "distilbert.transformer.layer.{i}.ffn.lin2.*": "encoder.layers.{i}.feedforward.contract.*",
    "distilbert.transformer.layer.{i}.output_layer_norm.*": "encoder.layers.{i}.feedforward_norm.*",
    "qa_outputs.*": ignore("the head of a model that finds answers in a text"),
}
MASKED_TOKENS = {
    "vocab_transform.*": "head.transform.*",
    "vocab_layer_norm.*": "head.norm.*",
    "vocab_projector.bias": "head.bias",
    "vocab_projector.weight": tied("distilbert.embeddings.word_embeddings.weight"),
}
CLASSIFIER = {"pre_classifier.*": "head.pooler.dense.*", "classifier.*": "head.output.*"}

FAMILY = Family(
    name="distilbert",
    layouts={
        "transformers": encoder_tables(
            "distilbert.", ENCODER, bare=({},), headed=(MASKED_TOKENS, CLASSIFIER), aliases={}
        )
    },
    adapt={
        "embeddings.tokens.weight": vocabulary,
        "embeddings.positions.weight": first_rows,
        "head.bias": vocabulary,
    },
)
