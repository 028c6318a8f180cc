"""No weights of a Performer are public; ours are made to fit another vocabulary or length."""

from fieldguide.weights.adapt import first_rows, vocabulary
from fieldguide.weights.family import Family

FAMILY = Family(
    name="performer",
    adapt={
        "embeddings.tokens.weight": vocabulary,
        "embeddings.positions.weight": first_rows,
        "head.bias": vocabulary,
    },
)
