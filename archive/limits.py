"""What an image may be at most, so that neither writing nor reading it can take what a machine does not have.

The same rules hold for what is about to be stored and for what an archive claims to hold: what is written
can be read, and nothing is allocated for a claim that breaks them.
"""

from math import isfinite, prod

from tilevault.archive.grid import DECOMPOSITIONS, TILE_BYTES, TileGrid
from tilevault.archive.image import ImageInfo
from tilevault.codecs import LearnedCodec, LosslessCodec
from tilevault.codecs.base import TileCodec
from tilevault.codecs.errors import LimitExceeded, ManifestCorrupt

__all__ = ["MAX_STREAM", "check_grid", "check_info"]

MAX_PIXELS = 1 << 36
"""Pixels, whatever the number of samples of each."""
MAX_BANDS = 4096
MAX_TILES = 1 << 22
"""Tiles of one array: their tables take some 140 bytes for each."""
MAX_FRAME_BYTES = 1 << 30
"""Decoded bytes of a frame that stays as it came, and cannot be cut."""
STEP = 1 << DECOMPOSITIONS
"""Sides of tiles that are cut here are multiples of this."""
MAX_STREAM = 1 << 30
"""Bytes of one frame's bit stream."""
_NUMBER = 1 << 64
_DTYPES = {
    *("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("bool", "float16", "float32", "float64", "complex64", "complex128"),
}
_AXES = {
    "medical": {"t", "c", "z", "frame"},
    "satellite": {"c"},
}


def check_info(info: ImageInfo) -> None:
    """Raises `ManifestCorrupt` where an image cannot be so, `LimitExceeded` where it is too large."""
    leading = info.axes[:-2]
    sound = (
        info.kind in _AXES
        and 2 <= len(info.shape) == len(info.axes) <= 5
        and info.axes[-2:] == ("y", "x")
        and all(type(axis) is str and axis in _AXES[info.kind] for axis in leading)
        and len(set(leading)) == len(leading)
        and all(type(n) is int and n >= 1 for n in info.shape)
        and info.dtype.name in _DTYPES
        and type(info.categorical) is type(info.has_mask) is bool
    )
    if not sound or not _sound_values(info):
        raise ManifestCorrupt("image.json: shape, axes, dtype or values are not those of an image")
    bands = info.shape[leading.index("c")] if "c" in leading else 1
    if bands > MAX_BANDS or prod(info.shape) // bands > MAX_PIXELS:
        raise LimitExceeded(f"an image of shape {info.shape}: at most {MAX_PIXELS} pixels, {MAX_BANDS} bands")


def _sound_values(info: ImageInfo) -> bool:
    """Whether stored bits and nodata go with the dtype."""
    bits, nodata, width = info.bits_stored, info.nodata, 8 * info.dtype.itemsize
    if type(nodata) not in (int, float, type(None)) or (type(nodata) is int and abs(nodata) > _NUMBER):
        return False
    if info.dtype.kind in "iu" and type(nodata) is float and not isfinite(nodata):
        return False
    if bits is None:
        return True
    high = info.attributes.get("high_bit", 0)
    return type(bits) is int and 1 <= bits <= width and type(high) is int and 0 <= high < width


def check_grid(info: ImageInfo, grid: TileGrid, codec: TileCodec) -> None:
    """Tiles and shards of an array; ``info`` is of the whole image. Raises as `check_info`."""
    own = isinstance(codec, LosslessCodec | LearnedCodec)
    rank, edges = len(grid.shape), (*grid.tile, *grid.shard)
    sound = (
        len(grid.tile) == len(grid.shard) == rank
        and all(type(n) is int and n >= 1 for n in edges)
        and all(s % t == 0 for s, t in zip(grid.shard, grid.tile, strict=True))
        and all(s <= t * n for s, t, n in zip(grid.shard, grid.tile, grid.tiles, strict=True))
        and all(t <= n for t, n in zip(grid.tile[:-2], grid.shape[:-2], strict=True))
        and all(t < n + STEP for t, n in zip(grid.tile[-2:], grid.shape[-2:], strict=True))
        and (not own or all(t % STEP == 0 for t in grid.tile[-2:]))
        and codec.resolutions == (DECOMPOSITIONS + 1 if isinstance(codec, LosslessCodec) else 1)
    )
    if not sound:
        raise ManifestCorrupt("image.json: the arrays it describes cannot be")
    decoded = prod(min(t, n) for t, n in zip(grid.tile, grid.shape, strict=True)) * info.dtype.itemsize
    limit = TILE_BYTES if own else MAX_FRAME_BYTES
    if decoded > limit:
        raise LimitExceeded(f"tiles of {decoded} bytes, more than {limit}")
    if prod(grid.tiles) > MAX_TILES:
        raise LimitExceeded(f"{prod(grid.tiles)} tiles, more than {MAX_TILES}")
