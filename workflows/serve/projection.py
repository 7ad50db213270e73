"""Places on a map and in an image: what of projections and transforms the map routes need.

GDAL and PROJ have errors of many kinds for a place that cannot be; here they become ours.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import pyproj
from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # GDAL's own errors, which have no public base
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import CRSError, RasterioError
from rio_tiler.errors import RioTilerError

from tilevault.archive.image import Window
from tilevault.codecs.errors import InvalidRequest

__all__ = [
    "CRS",
    "EDGE",
    "RESAMPLINGS",
    "Bounds",
    "box",
    "crs_named",
    "moved",
    "pixels_by_pixel",
    "placed",
    "places_between",
    "translated",
]

T = TypeVar("T")

Bounds = tuple[float, float, float, float]
"""Left, bottom, right, top."""
EDGE = 33
"""Points along a side of a request by which its place in the image is found."""
RESAMPLINGS = tuple(sorted(set(Resampling.__members__) - {"gauss"}))
"""What the warper knows; Gauss is for overviews only."""


def crs_named(text: str | None) -> CRS | None:
    """``EPSG:n`` or another authority's code: nothing that names a file or carries parameters."""
    if text is None:
        return None
    authority, _, code = text.partition(":")
    if not (authority.isalpha() and code.isalnum() and text.isascii() and len(text) < 20):
        raise InvalidRequest(f"a CRS is given as AUTHORITY:CODE, not {text!r:.40}")
    try:
        return CRS.from_authority(authority.upper(), code)
    except CRSError as error:
        raise InvalidRequest(f"no CRS {text!r:.40}") from error


def box(bounds: Sequence[float]) -> Bounds:
    """``bounds`` as finite numbers with an area. Raises `InvalidRequest` otherwise."""
    left, bottom, right, top = (float(v) for v in bounds)
    if not all(map(math.isfinite, (left, bottom, right, top))) or left >= right or bottom >= top:
        raise InvalidRequest(f"not a box (left, bottom, right, top): {left}, {bottom}, {right}, {top}")
    return left, bottom, right, top


def placed(transform: Affine, x: Any, y: Any) -> tuple[Any, Any]:
    """The point, or points, where ``transform`` puts them. (Affine changes its operator for this.)"""
    a, b, c, d, e, f = transform[:6]
    with np.errstate(invalid="ignore"):  # what is infinitely far off comes to nothing
        return a * x + b * y + c, d * x + e * y + f


def moved(transform: Affine, window: Window) -> Affine:
    """The transform of a window of what ``transform`` is of."""
    c, f = placed(transform, window.start[1], window.start[0])
    return Affine(transform.a, transform.b, c, transform.d, transform.e, f)


@lru_cache(maxsize=64)
def places_between(source: CRS, target: CRS) -> pyproj.Transformer:
    """From x, y (or longitude, latitude) to the same; infinite where there is no such place."""
    return translated(lambda: pyproj.Transformer.from_crs(source.to_wkt(), target.to_wkt(), always_xy=True))


def pixels_by_pixel(
    x: NDArray[Any], y: NDArray[Any], seen: NDArray[np.bool_], shape: tuple[int, int]
) -> float:
    """How many pixels of level 0 go along a side of a pixel of the answer: the median over all points."""
    across, along = (at.reshape(EDGE, EDGE) for at in (x, y))
    usable = seen.reshape(EDGE, EDGE)
    rows, columns = (n / (EDGE - 1) for n in shape)
    with np.errstate(invalid="ignore", over="ignore"):
        steps = [
            np.hypot(np.diff(across, axis=axis), np.diff(along, axis=axis)) / pixels
            for axis, pixels in ((0, rows), (1, columns))
        ]
    found = [
        step[np.take(usable, range(1, EDGE), axis) & np.isfinite(step)] for axis, step in enumerate(steps)
    ]
    medians = [float(np.median(step)) for step in found if step.size]
    return min(medians) if medians else 1.0


def translated(call: Callable[[], T]) -> T:
    """What GDAL, PROJ and rio-tiler have to say of what they cannot do, as an error of ours."""
    try:
        return call()
    except (CPLE_BaseError, RasterioError, RioTilerError, pyproj.exceptions.ProjError, ValueError) as error:
        # Their texts may name anything, files too.
        raise InvalidRequest(f"this cannot be drawn ({type(error).__name__})") from error
