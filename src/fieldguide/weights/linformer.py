"""No weights of a Linformer are public; ours are made to fit another vocabulary or length."""

from fieldguide.weights.adapt import first_rows, vocabulary
from fieldguide.weights.family import Family

FAMILY = Family(
    name="linformer",
    adapt={
        "embeddings.tokens.weight": vocabulary,
        "embeddings.positions.weight": first_rows,
        "encoder.layers.*.attention.core.*.weight": first_rows,
        "head.bias": vocabulary,
    },
)
