"""A part of an image at a level, as 8-bit grey or colours: what tiles, thumbnails and deep zoom are made of.

A picture is that of `archive.render`, with one contrast for the whole image: the percentiles of a coarse
level (`limits_of`), never those of the part. Levels that the archive does not keep are reduced from the next
finer one that it does, strip by strip; so the work of a picture has a bound, and its memory another.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevault.archive.grid import reduced_extent
from tilevault.archive.image import ImageInfo, Window, Words
from tilevault.archive.levels import reduce_mask, reduce_mean, reduce_nearest, valid_samples
from tilevault.archive.render import Limits, display_limits, to_preview
from tilevault.archive.store import Image
from tilevault.codecs.errors import IntegrityError, InvalidRequest, LimitExceeded
from tilevault.workflows.serve.views import View, colour_table

__all__ = [
    "Part",
    "band_count",
    "band_names",
    "factors",
    "level_sides",
    "limits_of",
    "own_rescale",
    "picture",
    "pixels_of",
    "range_of",
    "read_part",
    "read_samples",
    "shown_bands",
    "thumbnail_level",
    "top_level",
]

STRIP_BYTES = 32 << 20
"""Decoded samples that are held while a level is reduced."""
MOST_BYTES = 1 << 30
"""Decoded samples that one picture is made of, at most."""
MOST_TILES = 1 << 16
"""Tiles that one picture is made of, at most."""
SAMPLED_SIDE = 1024
"""Contrast is taken from a level whose sides are at most this, where there is one."""
SAMPLED_PLANES = 5
"""Planes of a stack that contrast is taken from."""
SPREAD_TILES = 16
"""Tiles of a damaged image that contrast is taken from, at most."""
SPREAD_SIDE = 256
"""Sides of the parts of level 0 that contrast is taken from otherwise."""


VIEW = View()
"""The image's own way."""


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


def picture(image: Image, view: View, part: Part, limits: Limits | None) -> NDArray[np.uint8]:
    """The part as uint8: (y, x) grey, (y, x, 2) with opacity, (y, x, 3) RGB, (y, x, 4) RGBA.

    ``limits``: from `limits_of` the image and the same bands. Raises `InvalidRequest`, `LimitExceeded`,
    and what reading raises.
    """
    info = pixels_of(image)
    shown = shown_bands(info, view)
    values, mask = read_part(image, part, shown, view.index)
    described = _described(info, view, shown, values)
    if view.rescale:
        limits = view.rescale
    elif limits is not None and _varies(info):
        limits = _stored(limits, described)
    made = to_preview(values, described, mask=mask, limits=limits)
    return made if view.colormap is None else _coloured(made, view.colormap)


def limits_of(image: Image, view: View) -> Limits | None:
    """The values that become black and white in pictures of these bands, for the whole image.

    None where the image itself says how it is shown, and where the view does. Raises what reading raises.
    """
    info = pixels_of(image)
    if view.rescale or view.window:
        return None
    shown = shown_bands(info, view)
    found = _sample(image, shown)
    described = _described(info, replace(view, index=()), shown, found[0][0])
    if not _varies(info):
        values = np.concatenate([values for values, _, _ in found], axis=-1)
        masks = [mask for _, mask, _ in found if mask is not None]
        return display_limits(values, described, np.concatenate(masks, axis=-1) if masks else None)
    # Stored values of the planes mean different things: compare them in the unit that they share.
    real = [
        _rescaled(values, _described(info, View(index=index), shown, values)) for values, _, index in found
    ]
    plain = {key: value for key, value in described.attributes.items() if key != "rescale"}
    return display_limits(
        np.concatenate(real, axis=-1), replace(described, dtype=np.dtype("f8"), attributes=plain)
    )


def range_of(image: Image) -> tuple[float, float] | None:
    """Least and greatest valid sample of a coarse level, in stored values; None of nothing."""
    info = pixels_of(image)
    if info.dtype.kind == "c":
        return None
    least, greatest = math.inf, -math.inf
    for values, mask, _ in _sample(image, shown_bands(info, View())):
        valid = valid_samples(values, info.nodata, mask)
        seen = values[np.isfinite(values) if valid is None else valid & np.isfinite(values)]
        if seen.size:
            least, greatest = min(least, float(seen.min())), max(greatest, float(seen.max()))
    return (least, greatest) if least <= greatest else None


def _sample(
    image: Image, shown: Sequence[int]
) -> list[tuple[Words, NDArray[np.uint8] | None, tuple[tuple[str, int], ...]]]:
    """Values and masks of some planes at a coarse level, spread over the stack."""
    info = pixels_of(image)
    level = _sampled_level(image)
    height, width = level_sides(info, level)
    part = Part(level, (0, height), (0, width))
    stacked = [(axis, n) for axis, n in zip(info.axes[:-2], info.shape, strict=False) if axis != "c"]
    count = SAMPLED_PLANES if stacked and max(n for _, n in stacked) > 1 else 1
    places = {tuple((axis, (2 * i + 1) * n // (2 * count)) for axis, n in stacked) for i in range(count)}
    try:
        return _readable(image, shown, [(part, place) for place in sorted(places)])
    except LimitExceeded:
        # An image whose coarse levels are not at hand: some of its tiles stand for all.
        return _readable(image, shown, [(one, min(places)) for one in _spread(info)])
    except IntegrityError:
        return _readable(image, shown, [(one, min(places)) for one in _some_tiles(image)])


def _readable(
    image: Image, shown: Sequence[int], wanted: Sequence[tuple[Part, tuple[tuple[str, int], ...]]]
) -> list[tuple[Words, NDArray[np.uint8] | None, tuple[tuple[str, int], ...]]]:
    """Those parts that are not damaged: the others are no reason to show nothing of the image.

    Raises `IntegrityError` where all are.
    """
    found, damage = [], None
    for part, place in wanted:
        try:
            found.append((*read_part(image, part, shown, place), place))
        except IntegrityError as error:
            damage = error
    if damage is not None and not found:
        raise damage
    return found


def _sampled_level(image: Image) -> int:
    """The first level of at most `SAMPLED_SIDE`; the next that is stored, if that is one made from tiles.

    To decode every tile of a scene for its contrast alone takes seconds, and of a lossy one many of them.
    """
    level = thumbnail_level(pixels_of(image), SAMPLED_SIDE)
    return min((k for k in image.stored_levels if k >= level > 0), default=level)


def _spread(info: ImageInfo) -> list[Part]:
    """Nine parts of level 0, evenly spread."""
    sides = info.shape[-2:]
    side = min(SPREAD_SIDE, *sides)
    starts = [[(2 * i + 1) * (n - side) // 6 for i in range(3)] for n in sides]
    return [Part(0, (y, y + side), (x, x + side)) for y in starts[0] for x in starts[1]]


def _some_tiles(image: Image) -> list[Part]:
    """Tiles as they are kept, so that damage to one is not that of another; whole ones, evenly spread."""
    sides = image.shape[-2:]
    rows, columns = (min(tile, n) for tile, n in zip(image.grid.tile[-2:], sides, strict=True))
    down, across = range(0, sides[0] - rows + 1, rows), range(0, sides[1] - columns + 1, columns)
    corners = [(y, x) for y in down for x in across]
    step = -(-len(corners) // SPREAD_TILES)
    return [Part(0, (y, y + rows), (x, x + columns)) for y, x in corners[::step]]


# -- reading ------------------------------------------------------------------------------------------------


def read_part(
    image: Image, part: Part, bands: Sequence[int], index: Sequence[tuple[str, int]]
) -> tuple[Words, NDArray[np.uint8] | None]:
    """Values (c, y, x) of ``bands`` (from 0; (y, x) where the image has no such axis), and the mask, if any.

    To look at: where the archive keeps no such level, it is made of a part of the samples of a finer one.

    ``index``: positions along the other axes; the middle where none is given. Raises `InvalidRequest` for a
    part that is not in the image, `LimitExceeded` for one of more tiles or bytes than a request may cost.
    """
    info = pixels_of(image)
    _check_part(info, part)
    at = _positions(info, index)
    source = 0 if _is_subsampled(info) else _source_level(image, part.level)
    steps = part.level - source
    _check_cost(image, part, source, len(bands))
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
    return _read_bands(image, box, part.level, bands, _positions(info, index), split=False)


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
    info = pixels_of(image)
    if "c" not in info.axes:
        return image.read(box, level, at or None)
    if split and _is_subsampled(info):
        return _full_chroma(image, box, at)[list(bands)]
    share = image.grid.tile[info.axes.index("c")]
    groups = sorted({band // share for band in bands})
    read: dict[int, Words] = {}
    for group in groups:
        wanted = [band for band in bands if band // share == group]
        low, high = min(wanted), max(wanted) + 1
        start = [low if axis == "c" else at[axis] for axis in info.axes[:-2]]
        stop = [high if axis == "c" else at[axis] + 1 for axis in info.axes[:-2]]
        values = image.read(Window((*start, *box.start), (*stop, *box.stop)), level)
        planes = values.reshape(high - low, *box.shape)
        read |= {band: planes[band - low] for band in wanted}
    return np.stack([read[band] for band in bands])


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


def _positions(info: ImageInfo, index: Sequence[tuple[str, int]]) -> dict[str, int]:
    given = dict(index)
    positions = {}
    for axis, n in zip(info.axes[:-2], info.shape, strict=False):
        if axis != "c":
            positions[axis] = given.pop(axis, n // 2)
            if not 0 <= positions[axis] < n:
                raise InvalidRequest(f"no {axis}={positions[axis]}: there are {n}")
    if given:
        raise InvalidRequest(f"no axis {', '.join(given)} in {', '.join(info.axes)}")
    return positions


# -- showing ------------------------------------------------------------------------------------------------


def shown_bands(info: ImageInfo, view: View = VIEW) -> tuple[int, ...]:
    """Bands (from 0) that are read for a view: those it names or those that make a picture, and the alpha."""
    if "c" not in info.axes:
        if view.bands not in ((), (1,)):
            raise InvalidRequest("bidx: there is one band")
        return (0,)
    count, names = band_count(info), band_names(info)
    if view.bands:
        if not all(1 <= band <= count for band in view.bands):
            raise InvalidRequest(f"bidx: bands are 1 to {count}")
        chosen = tuple(band - 1 for band in view.bands)
    elif info.kind == "medical":
        return tuple(range(count))
    else:
        colours = [names.index(colour) for colour in ("red", "green", "blue") if colour in names]
        colours = colours if len(colours) == 3 else [i for i in range(count) if names[i] != "alpha"][:3]
        chosen = tuple(colours[: 3 if len(colours) == 3 else 1]) or (0,)
    alpha = names.index("alpha") if "alpha" in names else None
    return chosen if alpha is None or alpha in chosen else (*chosen, alpha)


def band_count(info: ImageInfo) -> int:
    """Bands of an image; three of one whose chroma samples share a plane, as they are told apart here."""
    if _is_subsampled(info):
        return 3
    return info.shape[info.axes.index("c")] if "c" in info.axes else 1


def _is_subsampled(info: ImageInfo) -> bool:
    subsampled = info.attributes.get("photometric") == "YBR_FULL_422" and "c" in info.axes
    return subsampled and info.shape[info.axes.index("c")] == 2


def band_names(info: ImageInfo) -> list[str]:
    """Colour interpretation of each band, lower case; empty where there is none."""
    bands = info.attributes.get("bands") or []
    names = [str(b.get("color_interp", "")).lower() if isinstance(b, Mapping) else "" for b in bands]
    count = band_count(info)
    return names if len(names) == count and info.kind == "satellite" else [""] * count


def _described(info: ImageInfo, view: View, shown: Sequence[int], values: Words) -> ImageInfo:
    """What `to_preview` must know of the values of a view."""
    attributes = dict(info.attributes)
    if "c" in info.axes:
        names = band_names(info)
        natural = info.dtype == np.uint8 and {names[i] for i in shown[:3]} == {"red", "green", "blue"}
        # Bands that were asked for stay in that order: `to_preview` would sort them by their colours.
        order = ("red", "green", "blue") if natural else ("", "", "")
        if view.bands or not natural:
            colours = dict(zip(shown, order, strict=False))
            attributes["bands"] = [
                {
                    "color_interp": "alpha"
                    if names[i] == "alpha" and i not in _asked(view)
                    else colours.get(i, "")
                }
                for i in shown
            ]
        else:
            attributes["bands"] = [{"color_interp": names[i]} for i in shown]
        if info.kind == "medical" and view.bands:
            attributes.pop("photometric", None)
        if attributes.get("photometric") == "YBR_FULL_422":
            attributes["photometric"] = "YBR_FULL"
    if view.colormap is not None or view.rescale or view.bands not in ((), (1,)):
        attributes.pop("palette", None)
        attributes.pop("colormap", None)
    if view.rescale:
        attributes.pop("window", None)
    elif view.window is not None:
        attributes["window"] = {"center": view.window[0], "width": view.window[1]}
    attributes["rescale"] = own_rescale(info, view.index).attributes.get("rescale")
    axes = ("c", "y", "x") if values.ndim == 3 else ("y", "x")
    return replace(info, shape=values.shape, axes=axes, attributes=attributes)


def own_rescale(info: ImageInfo, index: Sequence[tuple[str, int]]) -> ImageInfo:
    """The image with the rescale factors of one plane, where planes have their own."""
    rescale = info.attributes.get("rescale")
    if not isinstance(rescale, Mapping):
        return info
    own = {key: _own_plane(value, info, index) for key, value in rescale.items()}
    return replace(info, attributes={**info.attributes, "rescale": own})


def _asked(view: View) -> set[int]:
    return {band - 1 for band in view.bands}


def _own_plane(value: Any, info: ImageInfo, index: Sequence[tuple[str, int]]) -> Any:
    """The entry of a list over the stacked positions that is of the plane that is shown."""
    if not isinstance(value, list | tuple):
        return value
    at = _positions(info, index)
    stacked = [(axis, n) for axis, n in zip(info.axes[:-2], info.shape, strict=False) if axis != "c"]
    place = 0
    for axis, n in stacked:
        place = place * n + at[axis]
    if stacked and len(value) < prod(n for _, n in stacked):
        place = at[stacked[-1][0]]
    return value[min(place, len(value) - 1)] if value else None


def _varies(info: ImageInfo) -> bool:
    """Whether planes have factors of their own."""
    rescale = info.attributes.get("rescale")
    return isinstance(rescale, Mapping) and any(isinstance(v, list | tuple) for v in rescale.values())


def factors(info: ImageInfo) -> tuple[float, float]:
    """Slope and intercept of an image, or plane, with single ones; 1 and 0 where there are none."""
    rescale = info.attributes.get("rescale")
    if not isinstance(rescale, Mapping):
        return 1.0, 0.0
    slope, intercept = rescale.get("slope"), rescale.get("intercept")
    sound = isinstance(slope, int | float) and math.isfinite(slope) and slope != 0
    return (
        float(slope) if sound and slope is not None else 1.0,
        float(intercept) if isinstance(intercept, int | float) and math.isfinite(intercept) else 0.0,
    )


def _rescaled(values: Words, described: ImageInfo) -> NDArray[np.float64]:
    slope, intercept = factors(described)
    return np.asarray(values, np.float64) * slope + intercept


def _stored(limits: Limits, described: ImageInfo) -> Limits:
    """Limits in the unit of the modality as stored values of one plane."""
    slope, intercept = factors(described)
    pairs = (sorted(((low - intercept) / slope, (high - intercept) / slope)) for low, high in limits)
    return tuple((low, high) for low, high in pairs)


def _coloured(grey: NDArray[np.uint8], table: str) -> NDArray[np.uint8]:
    """Grey (and opacity) through a colour map: RGB (and opacity)."""
    if grey.ndim == 3 and grey.shape[-1] > 2:
        raise InvalidRequest("colormap_name goes with one band")
    plane = grey if grey.ndim == 2 else grey[..., 0]
    colours = colour_table(table)[plane]
    return colours if grey.ndim == 2 else np.concatenate([colours, grey[..., 1:]], axis=-1)
