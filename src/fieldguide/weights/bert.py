"""Public weights of BERT, as they are on disk: of the encoder, or below one of its heads."""

from fieldguide.weights.adapt import first_rows, vocabulary
from fieldguide.weights.encoders import encoder_tables
from fieldguide.weights.family import Family
from fieldguide.weights.rows import ignore, tied

ENCODER = {
    "bert.embeddings.word_embeddings.weight": "embeddings.tokens.weight",
    "bert.embeddings.position_embeddings.weight": "embeddings.positions.weight",
    "bert.embeddings.token_type_embeddings.weight": "embeddings.segments.weight",
    "bert.embeddings.LayerNorm.*": "embeddings.norm.*",
    "bert.embeddings.position_ids": ignore("0, 1, 2, …, which old files store"),
    "bert.encoder.layer.{i}.attention.self.query.*": "encoder.layers.{i}.attention.query.*",
    "bert.encoder.layer.{i}.attention.self.key.*": "encoder.layers.{i}.attention.key.*",
    "bert.encoder.layer.{i}.attention.self.value.*": "encoder.layers.{i}.attention.value.*",
    "bert.encoder.layer.{i}.attention.output.dense.*": "encoder.layers.{i}.attention.output.*",
    "bert.encoder.layer.{i}.attention.output.LayerNorm.*": "encoder.layers.{i}.attention_norm.*",
    "bert.encoder.layer.{i}.intermediate.dense.*": "encoder.layers.{i}.feedforward.expand.*",
    "bert.encoder.layer.{i}.output.dense.*": "encoder.layers.{i}.feedforward.contract.*",
    "bert.encoder.layer.{i}.output.LayerNorm.*": "encoder.layers.{i}.feedforward_norm.*",
    "qa_outputs.*": ignore("the head of a model that finds answers in a text"),
}
POOLER = {"bert.pooler.dense.*": "head.pooler.dense.*"}


def _predictions(head: str):
    return {
        "cls.predictions.transform.dense.*": f"{head}.transform.*",
        "cls.predictions.transform.LayerNorm.*": f"{head}.norm.*",
        "cls.predictions.bias": f"{head}.bias",
        "cls.predictions.decoder.weight": tied("bert.embeddings.word_embeddings.weight"),
        "cls.predictions.decoder.bias": tied("cls.predictions.bias"),
    }


FAMILY = Family(
    name="bert",
    layouts={
        "transformers": encoder_tables(
            "bert.",
            ENCODER,
            bare=(POOLER, {}),
            headed=(
                _predictions("head"),
                _predictions("head.masked") | POOLER | {"cls.seq_relationship.*": "head.next_sentence.*"},
                POOLER | {"classifier.*": "head.output.*"},
            ),
            aliases={"*.LayerNorm.gamma": "*.LayerNorm.weight", "*.LayerNorm.beta": "*.LayerNorm.bias"},
        )
    },
    adapt={
        "embeddings.tokens.weight": vocabulary,
        "embeddings.positions.weight": first_rows,
        "head.bias": vocabulary,
        "head.masked.bias": vocabulary,
    },
)
