"""A part of an image at a level, as 8-bit grey or colours: what tiles, thumbnails and deep zoom are made of.

A picture is that of `archive.render`, with one contrast for the whole image: the percentiles of a coarse
level (`limits_of`), never those of the part.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tilevault.archive.image import ImageInfo, Words
from tilevault.archive.levels import valid_samples
from tilevault.archive.render import Limits, display_limits, to_preview
from tilevault.archive.store import Image
from tilevault.codecs.errors import IntegrityError, InvalidRequest, LimitExceeded
from tilevault.workflows.serve.bands import (
    band_names,
    own_rescale,
    rescaled,
    shown_bands,
    stored_limits,
    varies,
)
from tilevault.workflows.serve.parts import Part, level_sides, pixels_of, read_part, thumbnail_level
from tilevault.workflows.serve.views import View, colour_table

__all__ = [
    "limits_of",
    "picture",
    "range_of",
]

SAMPLED_SIDE = 1024
"""Contrast is taken from a level whose sides are at most this, where there is one."""
SAMPLED_PLANES = 5
"""Planes of a stack that contrast is taken from."""
SPREAD_TILES = 16
"""Tiles of a damaged image that contrast is taken from, at most."""
SPREAD_SIDE = 256
"""Sides of the parts of level 0 that contrast is taken from otherwise."""


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
    elif limits is not None and varies(info):
        limits = stored_limits(limits, described)
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
    if not varies(info):
        values = np.concatenate([values for values, _, _ in found], axis=-1)
        masks = [mask for _, mask, _ in found if mask is not None]
        return display_limits(values, described, np.concatenate(masks, axis=-1) if masks else None)
    # Stored values of the planes mean different things: compare them in the unit that they share.
    real = [
        rescaled(values, _described(info, View(index=index), shown, values)) for values, _, index in found
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


def _asked(view: View) -> set[int]:
    return {band - 1 for band in view.bands}


def _coloured(grey: NDArray[np.uint8], table: str) -> NDArray[np.uint8]:
    """Grey (and opacity) through a colour map: RGB (and opacity)."""
    if grey.ndim == 3 and grey.shape[-1] > 2:
        raise InvalidRequest("colormap_name goes with one band")
    plane = grey if grey.ndim == 2 else grey[..., 0]
    colours = colour_table(table)[plane]
    return colours if grey.ndim == 2 else np.concatenate([colours, grey[..., 1:]], axis=-1)
