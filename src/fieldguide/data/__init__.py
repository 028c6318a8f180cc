"""Data: images or text in, batches out."""

from fieldguide.data.feed import Feed
from fieldguide.data.images import ImageData
from fieldguide.data.resize import resize
from fieldguide.data.sources import open_images, open_split
from fieldguide.data.splits import Split
from fieldguide.data.transforms import normalize
from fieldguide.data.windows import TokenWindows

__all__ = ["Feed", "ImageData", "Split", "TokenWindows", "normalize", "open_images", "open_split", "resize"]
