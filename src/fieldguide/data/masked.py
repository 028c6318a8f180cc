"""Documents in pieces that an encoder can read, for masked language models."""

from fieldguide.data.buckets import Sample, Sequences, require_room
from fieldguide.data.documents import Document, fingerprint
from fieldguide.data.texts import Texts
from fieldguide.data.tokenizer import Tokenizer


class MaskedTexts(Sequences):
    """Pieces of at most ``max_len`` tokens, start and end included where the tokenizer has them.

    A piece never crosses from one document into the next. Batches are ``(tokens, keep)``, for
    ``objectives.MaskedToken``.
    """

    def __init__(self, texts: Texts, tokenizer: Tokenizer, max_len: int):
        room = require_room(tokenizer, max_len)
        given = {"train": texts.train, "val": texts.val, "test": texts.test}
        parts = {part: _pieces(documents, tokenizer, room) for part, documents in given.items()}
        mark = fingerprint((texts.fingerprint, tokenizer.fingerprint, str(max_len)))
        super().__init__(texts.name, parts, [tokenizer.specials.get("pad", 0)], mark)


def _pieces(documents: tuple[Document, ...], tokenizer: Tokenizer, room: int) -> list[Sample]:
    rows = (tokenizer.encode(text) for _, text in documents)
    return [(tokenizer.frame(row[i : i + room]),) for row in rows for i in range(0, len(row), room)]
