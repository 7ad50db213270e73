"""Levels of an image from checked tiles: the one place that says what level k of an image is.

``lowpass53``: the tile codec's low band, clamped to the range of the stored values, straight from a prefix of
each tile. ``mean`` and ``nearest``: level 0 is read and reduced, band of rows by band of rows, so that memory
stays bounded whatever the window.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tilevault.archive.description import Description
from tilevault.archive.image import ImageInfo, Window, Words, values
from tilevault.archive.levels import reduce_mask, reduce_means, reduce_nearest, valid_samples
from tilevault.archive.tile_reader import TileReader, magnified
from tilevault.codecs.errors import InvalidRequest

__all__ = ["read_level", "read_levels", "reduce_window"]

ROWS = 512
"""Level-0 rows that are reduced at a time."""


def read_level(
    description: Description,
    readers: Mapping[str, TileReader],
    role: str,
    window: Window,
    level: int,
    threads: bool = True,
    restore: bool = True,
) -> Words:
    """The values of ``window`` of ``level``, computed from level 0.

    ``role`` is ``"data"`` (shape of ``window``) or ``"mask"`` (y, x; uint8, 0 or 255). ``restore``: see
    `TileReader.read`.
    """
    info = description.info
    if info is None:
        raise InvalidRequest(f"image {description.image} has no pixels")
    reader = readers[role]
    if level == 0:
        words = reader.read(window, 0, threads, restore)
        return words if role == "mask" else values(words, info)
    if role == "data" and description.downsampling == "lowpass53":
        return _clamp(reader.read(window, level, threads), info)
    finest = magnified(window, level, reader.array.grid.shape)
    return reduce_window(description, readers, role, finest, (level,), threads, restore)[level]


def read_levels(
    description: Description,
    readers: Mapping[str, TileReader],
    role: str,
    window: Window,
    levels: Sequence[int],
) -> dict[int, Words]:
    """Coarse levels (ascending) of a level-0 ``window``, which is read once for all of them.

    The window's corner lies on a multiple of 2**level for each level.
    """
    if role != "data" or description.downsampling != "lowpass53":
        return reduce_window(description, readers, role, window, levels, threads=False)
    info, array = description.info, readers[role].array
    assert info is not None
    parts = {k: _coarser(window, k) for k in levels}
    made = {k: np.empty(part.shape, array.dtype) for k, part in parts.items()}
    for index in array.grid.tile_indices(window):
        for level, words in readers[role].tile_levels(index, levels).items():
            tile, part = array.level_window(index, level), parts[level]
            common = tile.intersect(part)
            made[level][common.shift(part.start).slices] = words[common.shift(tile.start).slices]
    return {k: _clamp(words, info) for k, words in made.items()}


def reduce_window(
    description: Description,
    readers: Mapping[str, TileReader],
    role: str,
    window: Window,
    levels: Sequence[int],
    threads: bool = True,
    restore: bool = True,
) -> dict[int, Words]:
    """Mean or nearest levels (ascending) of a level-0 ``window``, which is read once for all of them.

    The window's corner lies on a multiple of 2**level for each level.
    """
    dtype = readers[role].array.dtype
    made = {k: np.empty(_coarser(window, k).shape, dtype) for k in levels}
    for planes in _planes(window):
        for band in _bands(planes):
            words = readers[role].read(band, 0, threads, restore)
            mask = _mask(readers, band, threads) if role == "data" else None
            for level, reduced in _reduced(description, role, words, levels, mask).items():
                place = _coarser(band, level).shift(_coarser(window, level).start)
                made[level][place.slices] = reduced
    return made


def _coarser(window: Window, level: int) -> Window:
    """A level-0 window in the coordinates of a level."""
    start = (*window.start[:-2], *(a >> level for a in window.start[-2:]))
    stop = (*window.stop[:-2], *(-(-b >> level) for b in window.stop[-2:]))
    return Window(start, stop)


def _planes(window: Window) -> list[Window]:
    """The window one plane at a time along its leading axes."""
    leading = np.ndindex(*window.shape[:-2])
    starts = [tuple(a + i for a, i in zip(window.start[:-2], at, strict=True)) for at in leading]
    return [Window((*at, *window.start[-2:]), (*(i + 1 for i in at), *window.stop[-2:])) for at in starts]


def _bands(window: Window) -> list[Window]:
    """The window in bands of rows that end at multiples of ROWS."""
    y0, y1 = window.start[-2], window.stop[-2]
    edges = [y0, *range((y0 // ROWS + 1) * ROWS, y1, ROWS), y1]
    lead0, lead1, x0, x1 = window.start[:-2], window.stop[:-2], window.start[-1], window.stop[-1]
    return [Window((*lead0, a, x0), (*lead1, b, x1)) for a, b in pairwise(edges) if b > a]


def _reduced(
    description: Description,
    role: str,
    words: Words,
    levels: Sequence[int],
    mask: NDArray[np.uint8] | None,
) -> dict[int, Words]:
    info = description.info
    assert info is not None
    if role == "data":
        words = values(words, info)
    if description.downsampling == "nearest":
        return {k: reduce_nearest(words, k) for k in levels}
    if role == "mask":
        return {k: reduce_mask(words, k) for k in levels}
    return reduce_means(words, levels, valid_samples(words, info.nodata, mask), info.nodata)


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
