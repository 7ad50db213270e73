"""How a picture is asked for: the query parameters of tiles, thumbnails and deep zoom, as one value.

Named as TiTiler names them where it has them (``bidx``, ``rescale``, ``colormap_name``); ``window`` is
DICOMweb's, and positions along other axes are called by the axis (``z``, ``t``, ``frame``).
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tilevault.archive.image import ImageInfo
from tilevault.codecs.errors import InvalidRequest, UnsupportedSyntax

__all__ = ["VIEW_PARAMETERS", "View", "colour_table", "whole_number"]

VIEW_PARAMETERS = ("window", "bidx", "rescale", "colormap_name", "t", "z", "frame", "v")
"""``v`` is for clients that want an address of their own for each version; it changes nothing."""
MOST_BANDS = 3


@dataclass(frozen=True)
class View:
    """What is shown of an image, and how. The default is the image's own way."""

    window: tuple[float, float] | None = None
    """Centre and width, in units of the modality."""
    bands: tuple[int, ...] = ()
    """One band or three, from 1."""
    rescale: tuple[tuple[float, float], ...] = ()
    """Stored values that become 0 and 255, for each band, or for all."""
    colormap: str | None = None
    """Name of a colour map for one band."""
    index: tuple[tuple[str, int], ...] = ()
    """Positions along axes other than c, y and x; the middle where none is given."""

    @classmethod
    def parse(
        cls, parameters: Iterable[tuple[str, str]], info: ImageInfo, also: Iterable[str] = ()
    ) -> "View":
        """The view of query parameters; ``also`` are other names that the route knows.

        Raises `InvalidRequest` for anything that is not understood: a mistyped name must not show another
        picture.
        """
        given: dict[str, list[str]] = {}
        for name, value in parameters:
            if name not in VIEW_PARAMETERS and name not in also:
                raise InvalidRequest(
                    f"no such parameter: {name!r:.40}; there are {', '.join(VIEW_PARAMETERS)}"
                )
            given.setdefault(name, []).append(value)
        bands = tuple(whole_number(b, "bidx") for text in given.get("bidx", ()) for b in text.split(","))
        if len(bands) not in (0, 1, MOST_BANDS):
            raise InvalidRequest("bidx: one band or three")
        rescale = tuple(_pair(text, "rescale") for text in given.get("rescale", ()))
        if any(not low < high for low, high in rescale) or len(rescale) > MOST_BANDS:
            raise InvalidRequest("rescale=LOW,HIGH: at most three, each rising")
        window = _pair(_once(given, "window"), "window") if "window" in given else None
        if window is not None and window[1] <= 0:
            raise InvalidRequest("window=CENTRE,WIDTH: the width is above 0")
        if window is not None and rescale:
            raise InvalidRequest("window and rescale exclude each other")
        index = {
            axis: whole_number(_once(given, axis), axis) for axis in ("t", "z", "frame") if axis in given
        }
        for axis, at in index.items():
            n = info.shape[info.axes.index(axis)] if axis in info.axes else 0
            if at >= n:
                raise InvalidRequest(f"no {axis}={at}: there are {n}")
        colormap = _once(given, "colormap_name") if "colormap_name" in given else None
        if colormap is not None:
            colour_table(colormap)
        return cls(window, bands, rescale, colormap, tuple(index.items()))


def whole_number(text: str, name: str) -> int:
    """A number without sign, of at most nine digits. Raises `InvalidRequest`."""
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII):
        raise InvalidRequest(f"{name}: a whole number is wanted, not {text!r:.40}")
    return int(text)


def _once(given: dict[str, list[str]], name: str) -> str:
    if len(given[name]) != 1:
        raise InvalidRequest(f"{name} is given more than once")
    return given[name][0]


def _pair(text: str, name: str) -> tuple[float, float]:
    """Two numbers; DICOMweb writes the name of a function behind them, of which there is one here."""
    parts = text.split(",")
    if name == "window" and len(parts) == 3 and parts[2].lower() in ("linear", "linear-exact"):
        parts = parts[:2]
    try:
        low, high = (float(part) for part in parts)
    except ValueError as error:
        raise InvalidRequest(f"{name}: two numbers are wanted, not {text!r:.60}") from error
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InvalidRequest(f"{name}: finite numbers are wanted")
    return low, high


@lru_cache(64)
def colour_table(name: str) -> NDArray[np.uint8]:
    """256 colours, uint8 (256, 3), of a colour map of rio-tiler. Raises `InvalidRequest`."""
    try:
        from rio_tiler.colormap import cmap
        from rio_tiler.errors import InvalidColorMapName
    except ImportError as error:
        raise UnsupportedSyntax("colour maps need rio-tiler: pip install 'tilevault[serve]'") from error
    try:
        found = cmap.get(name)
    except InvalidColorMapName as error:
        raise InvalidRequest(f"no colour map {name!r:.40}") from error
    if not isinstance(found, dict):
        raise InvalidRequest(f"{name}: is a colour map of intervals, not of 256 colours")
    colours = [found.get(i, (0, 0, 0, 0))[:3] for i in range(256)]
    return np.array(colours, np.uint8)
