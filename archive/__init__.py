"""Image files and the Zarr hierarchy that keeps them."""

from tilevault.archive.cache import TileCache
from tilevault.archive.image import ImageInfo, Window
from tilevault.archive.store import Archive, Image

__all__ = ["Archive", "Image", "ImageInfo", "TileCache", "Window"]
