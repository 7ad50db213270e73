"""Levels of an image from checked tiles: the one place that says what level k of an image is.

``lowpass53``: the tile codec's low band, clamped to the range of the stored values, straight from a prefix of
each tile. ``mean`` and ``nearest``: level 0 is read and reduced, box by box, so that memory stays bounded
whatever the window.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from tilevault.archive.description import Description
from tilevault.archive.image import ImageInfo, Window, Words, values
from tilevault.archive.levels import reduce_mask, reduce_means, reduce_nearest, valid_samples
from tilevault.archive.tile_reader import TileReader, magnified
from tilevault.codecs.errors import InvalidRequest

__all__ = ["read_level", "read_levels", "reduce_window"]

ROWS, COLUMNS = 512, 4096
"""Level-0 samples that are reduced at a time, of as many planes as a tile has."""


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
    for box in _boxes(window, readers[role].array.grid.tile):
        words = readers[role].read(box, 0, threads, restore)
        mask = _mask(readers, box, threads) if role == "data" else None
        for level, reduced in _reduced(description, role, words, levels, mask).items():
            place = _coarser(box, level).shift(_coarser(window, level).start)
            made[level][place.slices] = reduced
    return made


def _coarser(window: Window, level: int) -> Window:
    """A level-0 window in the coordinates of a level."""
    start = (*window.start[:-2], *(a >> level for a in window.start[-2:]))
    stop = (*window.stop[:-2], *(-(-b >> level) for b in window.stop[-2:]))
    return Window(start, stop)


def _boxes(window: Window, tile: tuple[int, ...]) -> Iterator[Window]:
    """The window in parts that share no tile along the leading axes: none is decoded once for each band."""
    steps = (*tile[:-2], ROWS, COLUMNS)
    cuts = [
        list(pairwise([a, *range((a // step + 1) * step, b, step), b])) if b > a else []
        for a, b, step in zip(window.start, window.stop, steps, strict=True)
    ]
    for spans in product(*cuts):
        yield Window(tuple(a for a, _ in spans), tuple(b for _, b in spans))


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
