"""A part of an image at a level, as samples: what pictures, values and thumbnails are made of.

Levels that the archive does not keep are reduced from the next finer one that it does, strip by strip; so the
work of a part has a bound, and its memory another.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np
from numpy.typing import NDArray

from tilevault.archive.grid import reduced_extent
from tilevault.archive.image import ImageInfo, Window, Words
from tilevault.archive.levels import reduce_mask, reduce_mean, reduce_nearest, valid_samples
from tilevault.archive.store import Image
from tilevault.codecs.errors import InvalidRequest, LimitExceeded
from tilevault.workflows.serve.bands import is_subsampled, positions

__all__ = [
    "Part",
    "level_sides",
    "pixels_of",
    "read_part",
    "read_samples",
    "thumbnail_level",
    "top_level",
]

STRIP_BYTES = 32 << 20
"""Decoded samples that are held while a level is reduced."""
MOST_BYTES = 1 << 30
"""Decoded samples that one picture is made of, at most."""
MOST_TILES = 1 << 16
"""Tiles that one picture is made of, at most."""


@dataclass(frozen=True)
class Part:
    """Rows and columns of a level, in samples of that level; level k has 1/2**k of the samples, for any k."""

    level: int
    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]


def pixels_of(image: Image) -> ImageInfo:
    """The image as an array. Raises `InvalidRequest` for one without pixels."""
    if image.info is None:
        raise InvalidRequest("this image has no pixels, only files")
    return image.info


def level_sides(info: ImageInfo, level: int) -> tuple[int, int]:
    """Rows and columns of a level, of any level >= 0."""
    height, width = (reduced_extent(n, level) for n in info.shape[-2:])
    return height, width


def top_level(info: ImageInfo) -> int:
    """The level at which the longer side is one sample."""
    return math.ceil(math.log2(max(info.shape[-2:])))


def thumbnail_level(info: ImageInfo, side: int) -> int:
    """The finest level of which neither side is more than ``side``."""
    return max(0, math.ceil(math.log2(max(info.shape[-2:]) / side)))


def read_part(
    image: Image, part: Part, bands: Sequence[int], index: Sequence[tuple[str, int]]
) -> tuple[Words, NDArray[np.uint8] | None]:
    """Values (c, y, x) of ``bands`` (from 0; (y, x) where the image has no such axis), and the mask, if any.

    To look at: where the archive keeps no such level, it is made of the low bands of tiles without nodata, or
    of a part of the samples of a finer level.

    ``index``: positions along the other axes; the middle where none is given. Raises `InvalidRequest` for a
    part that is not in the image, `LimitExceeded` for one of more tiles or bytes than a request may cost.
    """
    info = pixels_of(image)
    _check_part(info, part)
    at = positions(info, index)
    source = 0 if is_subsampled(info) else _source_level(image, part.level)
    steps = part.level - source
    _check_cost(image, part, source, len(bands))
    if steps and source == 0 and part.level in image.levels and image.description.counts_valid:
        return _from_tiles(image, part, bands, at), None
    rows = _strip_rows(info, part, steps, len(bands))
    strips = [
        _reduced(image, Part(part.level, (y, min(y + rows, part.rows[1])), part.columns), source, bands, at)
        for y in range(*part.rows, rows)
    ]
    values = np.concatenate([values for values, _ in strips], axis=-2)
    masks = [mask for _, mask in strips if mask is not None]
    return values, np.concatenate(masks, axis=-2) if masks else None


def read_samples(image: Image, part: Part, bands: Sequence[int], index: Sequence[tuple[str, int]]) -> Words:
    """Values of a part of a level of ``image.levels``, as `Image.read` gives them; shapes as of `read_part`.

    Raises `InvalidRequest`, `LimitExceeded`.
    """
    info = pixels_of(image)
    _check_part(info, part)
    _check_cost(image, part, part.level if part.level in image.stored_levels else 0, len(bands))
    box = Window((part.rows[0], part.columns[0]), (part.rows[1], part.columns[1]))
    return _read_bands(image, box, part.level, bands, positions(info, index), split=False)


def _from_tiles(image: Image, part: Part, bands: Sequence[int], at: Mapping[str, int]) -> Words:
    """A part from the low bands of its tiles, but for those with nodata, which are reduced."""

    def low_band(wanted: Part) -> Words | None:
        box = Window((wanted.rows[0], wanted.columns[0]), (wanted.rows[1], wanted.columns[1]))
        return _planes(image, box, bands, at, lambda window: image.low_band(window, part.level))

    whole = low_band(part)
    if whole is not None:
        return whole
    high, wide = (max(1, n >> part.level) for n in image.grid.tile[-2:])

    def made(cell: Part) -> Words:
        found = low_band(cell)
        return _reduced(image, cell, 0, bands, at)[0] if found is None else found

    return np.block(
        [
            [made(Part(part.level, rows, columns)) for columns in _cuts(part.columns, wide)]
            for rows in _cuts(part.rows, high)
        ]
    )


def _cuts(span: tuple[int, int], step: int) -> list[tuple[int, int]]:
    """A span in parts that end at multiples of ``step``."""
    return list(pairwise(sorted({*span, *range(-(-span[0] // step) * step, span[1], step)})))


def _reduced(
    image: Image, part: Part, source: int, bands: Sequence[int], at: Mapping[str, int]
) -> tuple[Words, NDArray[np.uint8] | None]:
    """A strip of a level, from level ``source``."""
    info = pixels_of(image)
    steps = part.level - source
    sides = level_sides(info, source)
    box = Window(
        (part.rows[0] << steps, part.columns[0] << steps),
        (min(part.rows[1] << steps, sides[0]), min(part.columns[1] << steps, sides[1])),
    )
    values = _read_bands(image, box, source, bands, at)
    mask = image.read_mask(box, source) if info.has_mask else None
    nearest = info.categorical or image.downsampling == "nearest"
    # Twice oversampled and then averaged looks as good as averaging all, at a fraction of the work.
    skipped = steps if nearest else max(0, steps - 1)
    values, mask = reduce_nearest(values, skipped), None if mask is None else reduce_nearest(mask, skipped)
    if skipped < steps:
        values = reduce_mean(values, 1, valid_samples(values, info.nodata, mask), info.nodata)
        mask = None if mask is None else reduce_mask(mask, 1)
    return values, mask


def _read_bands(
    image: Image, box: Window, level: int, bands: Sequence[int], at: Mapping[str, int], split: bool = True
) -> Words:
    if split and is_subsampled(pixels_of(image)):
        return _full_chroma(image, box, at)[list(bands)]
    planes = _planes(image, box, bands, at, lambda window: image.read(window, level))
    assert planes is not None
    return planes


def _planes(
    image: Image,
    box: Window,
    bands: Sequence[int],
    at: Mapping[str, int],
    read: Callable[[Window], Words | None],
) -> Words | None:
    """What ``read`` gives of a box, bands that share tiles at once; None where it gives None."""
    axes = pixels_of(image).axes[:-2]
    if "c" not in axes:
        bands = (0,)
    share = image.grid.tile[axes.index("c")] if "c" in axes else 1
    planes: dict[int, Words] = {}
    for group in sorted({band // share for band in bands}):
        wanted = [band for band in bands if band // share == group]
        low, high = min(wanted), max(wanted) + 1
        start = [low if axis == "c" else at[axis] for axis in axes]
        stop = [high if axis == "c" else at[axis] + 1 for axis in axes]
        values = read(Window((*start, *box.start), (*stop, *box.stop)))
        if values is None:
            return None
        planes |= dict(zip(range(low, high), values.reshape(high - low, *box.shape), strict=True))
    return np.stack([planes[band] for band in bands]) if "c" in axes else planes[0]


def _full_chroma(image: Image, box: Window, at: Mapping[str, int]) -> Words:
    """Y, Cb, Cr of a part of an image whose chroma samples alternate along its rows, at level 0."""
    even, width = box.start[1] & ~1, pixels_of(image).shape[-1]
    luma, pairs = image.read(
        Window((box.start[0], even), (box.stop[0], min(box.stop[1] + 1, width))), 0, at or None
    )
    blue, red = pairs[:, 0::2], pairs[:, 1::2]
    if red.shape[1] < blue.shape[1]:
        # A row of odd length ends with a Cb; its Cr is that of the pair before.
        red = np.concatenate([red, red[:, -1:] if red.shape[1] else blue[:, -1:]], axis=1)
    keep = slice(box.start[1] - even, box.stop[1] - even)
    return np.stack([luma[:, keep], np.repeat(blue, 2, 1)[:, keep], np.repeat(red, 2, 1)[:, keep]])


def _source_level(image: Image, level: int) -> int:
    """The level that is read for a picture of ``level``: itself, or the coarsest below it that is cheap."""
    if image.downsampling == "lowpass53":
        return min(level, image.levels[-1])
    return max(k for k in image.stored_levels if k <= level)


def _check_part(info: ImageInfo, part: Part) -> None:
    height, width = level_sides(info, part.level)
    (y0, y1), (x0, x1) = part.rows, part.columns
    if not (0 <= part.level <= top_level(info) and 0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width):
        raise InvalidRequest(f"no rows {y0}:{y1}, columns {x0}:{x1} in level {part.level}")


def _check_cost(image: Image, part: Part, source: int, bands: int) -> None:
    """Raises `LimitExceeded` where a part takes too much."""
    info, tile = pixels_of(image), image.grid.tile
    steps = part.level - source
    size = prod(n << steps for n in part.shape) * bands * info.dtype.itemsize
    tiles = prod((n << part.level) // t + 1 for n, t in zip(part.shape, tile[-2:], strict=True))
    stored = source and source in image.stored_levels
    if size > MOST_BYTES or (tiles > MOST_TILES and not stored):
        raise LimitExceeded("this part takes more work than a request may: ask for smaller parts of it")


def _strip_rows(info: ImageInfo, part: Part, steps: int, bands: int) -> int:
    """Rows of the part that are made at a time."""
    row = (part.shape[1] << 2 * steps) * bands * info.dtype.itemsize
    return max(1, STRIP_BYTES // row) if steps else part.shape[0]
