"""Arrays to bytes and back: no files, no store, no Dask."""

from tilevault.codecs.base import TileCodec
from tilevault.codecs.errors import *  # noqa: F403
from tilevault.codecs.errors import __all__ as _errors
from tilevault.codecs.frame import FrameCodec
from tilevault.codecs.lossless import LosslessCodec

__all__ = ["FrameCodec", "LosslessCodec", "TileCodec"]
__all__ += _errors
