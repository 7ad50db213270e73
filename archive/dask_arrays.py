"""An archived image as a `dask.array.Array` that reads, checked, when it is computed.

Only `Image.to_dask` imports this module, so that reading needs no Dask. What a task carries is where the
archive lies, which commit, which level and which window; a worker opens the image once and reads with it.
Chunks are made of whole tiles: a tile that two chunks shared would be decoded twice.
"""

from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
from dask.base import tokenize

from tilevault.archive.image import Window, Words
from tilevault.archive.places import is_url
from tilevault.codecs.errors import InvalidRequest, ManifestCorrupt

if TYPE_CHECKING:
    from tilevault.archive.store import Image

__all__ = ["to_dask"]

CHUNK_BYTES = 16 << 20
"""Samples of a default chunk at most, if it is not one tile: enough for a task to be worth its overhead."""
OPENED = 16
"""Images that a worker keeps open."""

Place = tuple[str, str, str]
"""Where the archive lies, the image's id, and the SHA-256 of its manifest."""


def to_dask(image: "Image", level: int, chunks: Any) -> da.Array:
    """See `Image.to_dask`."""
    shape = image.level_shape(level)
    if chunks is None:
        chunks = _chunks(image, level, shape)
    try:
        chunks = da.core.normalize_chunks(chunks, shape, dtype=image.dtype)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise InvalidRequest(f"no chunks of {shape}: {str(error)[:200]}") from error
    if any(sum(along) != n or min(along) < 1 for along, n in zip(chunks, shape, strict=True)):
        raise InvalidRequest(f"chunks {str(chunks)[:200]} do not make up {shape}")
    place = _place(image)
    made: da.Array = da.map_blocks(
        _read,
        chunks=chunks,
        dtype=image.dtype,
        meta=np.empty((0,) * len(shape), image.dtype),
        name=f"tilevault-{tokenize(place[1:], level, chunks)}",
        place=place,
        level=level,
    )
    return made


def _place(image: "Image") -> Place:
    location = image.blobs.location
    if not is_url(location):
        location = str(image.blobs.root.absolute())
    return location, image.id, str(image.commit.manifest)


def _chunks(image: "Image", level: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of a stored level its chunks; else tiles, put together along x, y and outwards within a shard."""
    if level and level in image.stored_levels:
        return image.description.coarse(level).chunks
    grid = image.grid
    tile, shard = _coarser(grid.tile, level), _coarser(grid.shard, level)
    chunk = [min(t, n) for t, n in zip(tile, shape, strict=True)]
    for axis in reversed(range(len(shape))):
        rest = prod(chunk) // chunk[axis] * image.dtype.itemsize
        most = min(shard[axis], shape[axis])
        chunk[axis] = max(chunk[axis], min(most, CHUNK_BYTES // rest // tile[axis] * tile[axis]))
        if chunk[axis] < most:
            break
    return tuple(chunk)


def _coarser(extent: tuple[int, ...], level: int) -> tuple[int, ...]:
    """A tile's or shard's extent at a level; sides are multiples of 2**level, or hold the whole image."""
    return (*extent[:-2], *(max(1, -(-n >> level)) for n in extent[-2:]))


def _read(place: Place, level: int, block_info: Any = None) -> Words:
    """One block. Raises what reading it raises."""
    box = block_info[None]["array-location"]
    window = Window(tuple(int(a) for a, _ in box), tuple(int(b) for _, b in box))
    return _opened(*place).read(window, level)


@lru_cache(OPENED)
def _opened(location: str, name: str, manifest: str) -> "Image":
    """The image as it was when the array was made. Raises `ManifestCorrupt` if it is another one now."""
    from tilevault.archive.store import Archive

    image = Archive.open(location)[name]
    if image.commit.manifest != manifest:
        raise ManifestCorrupt(f"image {name}: is no longer the one of this Dask array", image=name)
    image.threads = False  # Dask has threads of its own
    return image
