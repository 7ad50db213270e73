"""Levels of an image from checked tiles: the one place that says what level k of an image is.

``lowpass53``: the tile codec's low band, clamped to the range of the stored values, straight from a prefix of
each tile. ``mean`` and ``nearest``: level 0 is read and reduced, band of rows by band of rows, so that memory
stays bounded whatever the window.
"""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tilevault.archive.description import Description
from tilevault.archive.image import ImageInfo, Window, Words, values
from tilevault.archive.levels import reduce_mask, reduce_mean, reduce_nearest, valid_samples
from tilevault.archive.tiles import TileReader, magnified
from tilevault.codecs.errors import InvalidRequest

__all__ = ["read_level"]

ROWS = 512
"""Level-0 rows that are reduced at a time."""


def read_level(
    description: Description,
    readers: Mapping[str, TileReader],
    role: str,
    window: Window,
    level: int,
    threads: bool = True,
) -> Words:
    """The values of ``window`` of ``level``, computed from level 0.

    ``role`` is ``"data"`` (shape of ``window``) or ``"mask"`` (y, x; uint8, 0 or 255).
    """
    info = description.info
    if info is None:
        raise InvalidRequest(f"image {description.image} has no pixels")
    reader = readers[role]
    if level == 0:
        words = reader.read(window, 0, threads)
        return words if role == "mask" else values(words, info)
    if role == "data" and description.downsampling == "lowpass53":
        return _clamp(reader.read(window, level, threads), info)
    out = np.empty(window.shape, reader.array.dtype)
    for planes in _planes(window):
        for rows in _bands(planes, level):
            out[rows.shift(window.start).slices] = _reduced(description, readers, role, rows, level, threads)
    return out


def _planes(window: Window) -> list[Window]:
    """The window one plane at a time along its leading axes."""
    leading = np.ndindex(*window.shape[:-2])
    starts = [tuple(a + i for a, i in zip(window.start[:-2], at, strict=True)) for at in leading]
    return [Window((*at, *window.start[-2:]), (*(i + 1 for i in at), *window.stop[-2:])) for at in starts]


def _bands(window: Window, level: int) -> list[Window]:
    """The window in bands of rows of the level, aligned to ROWS rows of level 0."""
    height, y0, y1 = max(1, ROWS >> level), window.start[-2], window.stop[-2]
    edges = [y0, *range((y0 // height + 1) * height, y1, height), y1]
    lead0, lead1, x0, x1 = window.start[:-2], window.stop[:-2], window.start[-1], window.stop[-1]
    return [Window((*lead0, a, x0), (*lead1, b, x1)) for a, b in pairwise(edges) if b > a]


def _reduced(
    description: Description,
    readers: Mapping[str, TileReader],
    role: str,
    window: Window,
    level: int,
    threads: bool,
) -> Words:
    info = description.info
    assert info is not None
    finest = magnified(window, level, readers[role].array.grid.shape)
    words = readers[role].read(finest, 0, threads)
    nearest = description.downsampling == "nearest"
    if role == "mask":
        return reduce_nearest(words, level) if nearest else reduce_mask(words, level)
    words = values(words, info)
    if nearest:
        return reduce_nearest(words, level)
    mask = _mask(readers, finest, threads)
    return reduce_mean(words, level, valid_samples(words, info.nodata, mask), info.nodata)


def _mask(readers: Mapping[str, TileReader], window: Window, threads: bool) -> NDArray[np.uint8] | None:
    if "mask" not in readers:
        return None
    return readers["mask"].read(Window(window.start[-2:], window.stop[-2:]), 0, threads)


def _clamp(words: Words, info: ImageInfo) -> Words:
    """The low band may leave the range of the stored values by a little; a value never does."""
    bits = info.bits_stored
    if bits is None or bits >= 8 * info.dtype.itemsize:
        return words
    signed = info.dtype.kind == "i"
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    return np.clip(words, low, high).astype(info.dtype, copy=False)
