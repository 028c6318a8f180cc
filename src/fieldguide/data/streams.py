"""A text as one row of tokens, for language models."""

from itertools import chain

from fieldguide.data.documents import Document, fingerprint
from fieldguide.data.feed import BatchSettings
from fieldguide.data.texts import Texts
from fieldguide.data.tokenizer import Tokenizer, row_of
from fieldguide.data.windows import TokenWindows
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Int, Tensor


class TextStream:
    """The tokens of each part's documents, one after another, read in windows of ``length``.

    An end token follows each document where the tokenizer has one.
    """

    def __init__(self, texts: Texts, tokenizer: Tokenizer, length: int):
        self.name, self.length = texts.name, length
        self.train, self.val, self.test = (_tokens(part, tokenizer) for part in (texts.train, texts.val, texts.test))
        self.fingerprint = fingerprint((texts.fingerprint, tokenizer.fingerprint, str(length)))

    def feeds(self, recipe: BatchSettings) -> tuple[TokenWindows, TokenWindows, TokenWindows]:
        """Windows for training (shuffled), validation and test.

        Raises ``FieldguideError`` for a part too short for them.
        """
        train = TokenWindows(self.train, self.length, recipe.batch_size, seed=recipe.seed)
        for part, tokens in (("validation", self.val), ("test", self.test)):
            if len(tokens) < 2:
                raise FieldguideError(f"the {part} part of {self.name} is a single token; give more text")
        val, test = (
            TokenWindows(part, self.length, recipe.batch_size, shuffle=False) for part in (self.val, self.test)
        )
        return train, val, test


def _tokens(documents: tuple[Document, ...], tokenizer: Tokenizer) -> Int[Tensor, " n"]:
    end = [tokenizer.specials["end"]] if "end" in tokenizer.specials else []
    return row_of(chain.from_iterable((*tokenizer.encode(text), *end) for _, text in documents))
