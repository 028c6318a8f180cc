"""Data: images, text or tables in, batches out."""

from fieldguide.data.buckets import Buckets, Sequences
from fieldguide.data.feed import Feed
from fieldguide.data.images import ImageData
from fieldguide.data.labelled import LabelledTexts, open_labelled, open_labelled_part
from fieldguide.data.masked import MaskedTexts
from fieldguide.data.pairs import Pairs, open_pairs, open_pairs_part
from fieldguide.data.resize import resize
from fieldguide.data.sources import open_images, open_split
from fieldguide.data.splits import Split
from fieldguide.data.streams import TextStream
from fieldguide.data.tabular import TableData, open_rows, open_table
from fieldguide.data.texts import Texts, read_text
from fieldguide.data.tokenizer import Bytes, Subwords, Tokenizer, bytes_for, open_tokenizer, train_bpe
from fieldguide.data.transforms import normalize
from fieldguide.data.windows import TokenWindows

__all__ = [
    "Buckets",
    "Bytes",
    "Feed",
    "ImageData",
    "LabelledTexts",
    "MaskedTexts",
    "Pairs",
    "Sequences",
    "Split",
    "Subwords",
    "TableData",
    "TextStream",
    "Texts",
    "TokenWindows",
    "Tokenizer",
    "bytes_for",
    "normalize",
    "open_images",
    "open_labelled",
    "open_labelled_part",
    "open_pairs",
    "open_pairs_part",
    "open_rows",
    "open_split",
    "open_table",
    "open_tokenizer",
    "read_text",
    "resize",
    "train_bpe",
]
