"""Bands and planes of an image: which are shown, what they are called, what their stored values mean."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevault.archive.image import ImageInfo, Words
from tilevault.archive.render import Limits
from tilevault.codecs.errors import InvalidRequest
from tilevault.workflows.serve.views import View

__all__ = [
    "band_count",
    "band_names",
    "factors",
    "is_subsampled",
    "own_rescale",
    "positions",
    "rescaled",
    "shown_bands",
    "stored_limits",
    "varies",
]

VIEW = View()
"""The image's own way."""


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
    if is_subsampled(info):
        return 3
    return info.shape[info.axes.index("c")] if "c" in info.axes else 1


def is_subsampled(info: ImageInfo) -> bool:
    """Whether the samples of two chroma bands alternate in one plane."""
    subsampled = info.attributes.get("photometric") == "YBR_FULL_422" and "c" in info.axes
    return subsampled and info.shape[info.axes.index("c")] == 2


def band_names(info: ImageInfo) -> list[str]:
    """Colour interpretation of each band, lower case; empty where there is none."""
    bands = info.attributes.get("bands") or []
    names = [str(b.get("color_interp", "")).lower() if isinstance(b, Mapping) else "" for b in bands]
    count = band_count(info)
    return names if len(names) == count and info.kind == "satellite" else [""] * count


def positions(info: ImageInfo, index: Sequence[tuple[str, int]]) -> dict[str, int]:
    """Positions along the axes other than c, y and x: those of ``index``, else the middle.

    Raises `InvalidRequest` for what is not in the image.
    """
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


def own_rescale(info: ImageInfo, index: Sequence[tuple[str, int]]) -> ImageInfo:
    """The image with the rescale factors of one plane, where planes have their own."""
    rescale = info.attributes.get("rescale")
    if not isinstance(rescale, Mapping):
        return info
    own = {key: _own_plane(value, info, index) for key, value in rescale.items()}
    return replace(info, attributes={**info.attributes, "rescale": own})


def _own_plane(value: Any, info: ImageInfo, index: Sequence[tuple[str, int]]) -> Any:
    """The entry of a list over the stacked positions that is of the plane that is shown."""
    if not isinstance(value, list | tuple):
        return value
    at = positions(info, index)
    stacked = [(axis, n) for axis, n in zip(info.axes[:-2], info.shape, strict=False) if axis != "c"]
    place = 0
    for axis, n in stacked:
        place = place * n + at[axis]
    if stacked and len(value) < prod(n for _, n in stacked):
        place = at[stacked[-1][0]]
    return value[min(place, len(value) - 1)] if value else None


def varies(info: ImageInfo) -> bool:
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


def rescaled(values: Words, described: ImageInfo) -> NDArray[np.float64]:
    """Stored values in the unit of the modality."""
    slope, intercept = factors(described)
    return np.asarray(values, np.float64) * slope + intercept


def stored_limits(limits: Limits, described: ImageInfo) -> Limits:
    """Limits in the unit of the modality as stored values of one plane."""
    slope, intercept = factors(described)
    pairs = (sorted(((low - intercept) / slope, (high - intercept) / slope)) for low, high in limits)
    return tuple((low, high) for low, high in pairs)
