"""Data: images in, normalised batches out."""

from fieldguide.data.feed import Feed
from fieldguide.data.images import ImageData
from fieldguide.data.resize import resize
from fieldguide.data.sources import open_images, open_split
from fieldguide.data.splits import Split
from fieldguide.data.transforms import normalize

__all__ = ["Feed", "ImageData", "Split", "normalize", "open_images", "open_split", "resize"]
