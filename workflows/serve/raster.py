"""An archived image as a raster on a map: which level and window lie under a place, read and warped.

Its part is to read little: the level whose pixels are just finer than what is asked for, and of it the window
under the request. The rest is GDAL's warper.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from affine import Affine
from rasterio.enums import Resampling
from rasterio.errors import CRSError
from rasterio.warp import calculate_default_transform, reproject

from tilevault.archive import Image
from tilevault.archive.geo_metadata import level_transform
from tilevault.archive.image import ImageInfo, Window, Words
from tilevault.codecs.errors import LimitExceeded, UnsupportedSyntax
from tilevault.workflows.serve.projection import (
    CRS,
    EDGE,
    Bounds,
    moved,
    pixels_by_pixel,
    placed,
    places_between,
    translated,
)

__all__ = ["NotGeoreferenced", "Raster", "Values"]

Values = np.ma.MaskedArray[Any, Any]

MAX_SAMPLES = 1 << 26
"""Samples that are read for an answer at most."""
MAX_ANSWER = 1 << 24
"""Samples of an answer, of all its bands, at most."""
AT_ONCE = 1 << 22
"""Samples that are warped together; of more, each band is by itself, so that memory has a bound."""


class NotGeoreferenced(UnsupportedSyntax):
    """The image has no place on a map: no CRS, or no affine transform."""

    http_status = 409


@dataclass(frozen=True)
class Raster:
    """An image with a CRS and an affine transform."""

    image: Image
    info: ImageInfo
    crs: CRS
    affine: Affine
    """From column and row of level 0 to x and y."""

    @classmethod
    def of(cls, image: Image) -> "Raster":
        """Raises `NotGeoreferenced` where an image has no place on a map."""
        info = image.info
        if info is None or info.dtype.kind not in "iuf":
            raise NotGeoreferenced(f"image {image.id[:12]} holds no numbers that have a place on a map")
        found = level_transform(info, 0, image.downsampling or "mean")
        wkt = info.attributes.get("crs_wkt")
        if found is None or not wkt:
            raise NotGeoreferenced(f"image {image.id[:12]} is not georeferenced")
        try:
            crs = CRS.from_wkt(str(wkt))
        except CRSError as error:
            raise NotGeoreferenced(f"image {image.id[:12]}: its CRS is none that PROJ knows") from error
        affine = Affine(*found)
        if not affine.determinant:
            raise NotGeoreferenced(f"image {image.id[:12]}: its transform has no area")
        return cls(image, info, crs, affine)

    @property
    def bounds(self) -> Bounds:
        """The box around the image, in its CRS."""
        height, width = self.info.shape[-2:]
        corners = [placed(self.affine, *at) for at in ((0, 0), (width, 0), (0, height), (width, height))]
        xs, ys = zip(*corners, strict=True)
        return (min(xs), min(ys), max(xs), max(ys))

    def level(self, factor: float) -> int:
        """The coarsest level whose pixels are no larger than ``factor`` pixels of level 0."""
        wanted = int(math.log2(factor)) if factor >= 1 and math.isfinite(factor) else 0
        return min(wanted, max(self.image.levels))

    def pixel(self, crs: CRS) -> float:
        """Side of the image's pixels in units of ``crs``."""
        if crs == self.crs:
            return math.sqrt(abs(self.affine.determinant))
        height, width = self.info.shape[-2:]
        found, _, _ = translated(
            lambda: calculate_default_transform(self.crs, crs, width, height, *self.bounds)
        )
        return float(abs(found.a))

    def warped(
        self, grid: Affine, shape: tuple[int, int], crs: CRS, chosen: tuple[int, ...], resampling: str
    ) -> Values:
        """Values (band, y, x) on ``grid``."""
        if math.prod(shape) * len(chosen) > MAX_ANSWER:
            raise LimitExceeded(f"{shape} samples of {len(chosen)} bands in one answer", limit=MAX_ANSWER)
        method = Resampling["nearest" if self.info.categorical else resampling]
        place = self._under(grid, shape, crs)
        if place is None:
            return np.ma.MaskedArray(np.zeros((len(chosen), *shape), self.info.dtype), True)
        window, level = place
        values = self.read(window, level, chosen)
        found = level_transform(self.info, level, self.image.downsampling or "mean")
        assert found is not None, "looked at when the reader was made"
        warped = np.full((len(chosen), *shape), np.nan)
        together = len(chosen) if values.size <= AT_ONCE else 1
        for i in range(0, len(chosen), together):
            # In float64, where every integer of up to 32 bits is itself, NaN can say "no pixel here".
            source = values.data[i : i + together].astype(np.float64)
            source[np.ma.getmaskarray(values)[i : i + together]] = np.nan
            self._warp(source, warped[i : i + together], moved(Affine(*found), window), grid, crs, method)
        return _as(np.ma.masked_invalid(warped), self.info.dtype)

    def _warp(
        self, source: Any, target: Any, placing: Affine, grid: Affine, crs: CRS, method: Resampling
    ) -> None:
        translated(
            lambda: reproject(
                source,
                target,
                src_transform=placing,
                src_crs=self.crs,
                src_nodata=np.nan,
                dst_transform=grid,
                dst_crs=crs,
                dst_nodata=np.nan,
                resampling=method,
                # Each band by itself: one that has no value here does not blank the others.
                UNIFIED_SRC_NODATA="NO",
            )
        )

    def _under(self, grid: Affine, shape: tuple[int, int], crs: CRS) -> tuple[Window, int] | None:
        """The window of the best level that lies under ``grid``; None where there is none of the image."""
        steps = [np.linspace(0, n, EDGE) for n in shape]
        down, across = (axis.ravel() for axis in np.meshgrid(*steps, indexing="ij"))
        xs, ys = placed(grid, across, down)
        if crs != self.crs:
            xs, ys = places_between(crs, self.crs).transform(xs, ys)
        x, y = placed(~self.affine, np.asarray(xs, np.float64), np.asarray(ys, np.float64))
        known = np.isfinite(x) & np.isfinite(y)
        if not known.any():
            return None
        rows, columns = self.info.shape[-2:]
        inside = known & (x > -1) & (x < columns + 1) & (y > -1) & (y < rows + 1)
        level = self.level(pixels_by_pixel(x, y, inside if inside.any() else known, shape))
        height, width = self.image.level_shape(level)[-2:]
        scale = 1 << level
        # Two pixels around it for the resampling, and what the grid of points may have missed.
        slack = 2 + (0.0 if known.all() else max(height, width))
        spans = [
            (
                max(0, math.floor(at[known].min() / scale - slack)),
                min(n, math.ceil(at[known].max() / scale + slack)),
            )
            for at, n in ((y, height), (x, width))
        ]
        if any(start >= stop for start, stop in spans):
            return None
        (top, bottom), (left, right) = spans
        return Window((top, left), (bottom, right)), level

    def read(self, window: Window, level: int, chosen: tuple[int, ...]) -> Values:
        """Values (band, y, x) of a window of a level, masked where there is no pixel."""
        if math.prod(window.shape) * len(chosen) > MAX_SAMPLES:
            raise LimitExceeded(f"{window.shape} samples of {len(chosen)} bands for one answer")
        info = self.info
        values = self._bands(window, level, chosen)
        absent = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
        if info.nodata is not None and info.nodata == info.nodata:
            absent |= values == info.nodata
        if info.has_mask:
            absent |= self.image.read_mask(window, level) == 0
        return np.ma.MaskedArray(values, absent)

    def _bands(self, window: Window, level: int, chosen: tuple[int, ...]) -> Words:
        """Values (band, y, x); of axes other than ``c`` the first position."""
        axes = self.info.axes
        if "c" not in axes:
            return self.image.read(window, level, dict.fromkeys(axes[:-2], 0))[np.newaxis]
        low, high = min(chosen) - 1, max(chosen)
        shared = self.image.grid.tile[axes.index("c")] > 1
        if shared and math.prod(window.shape) * (high - low) <= MAX_SAMPLES:
            # A tile holds several bands: it is decoded once for all of them.
            return self._stack(window, level, low, high)[[i - 1 - low for i in chosen]]
        return np.concatenate([self._stack(window, level, i - 1, i) for i in chosen])

    def _stack(self, window: Window, level: int, low: int, high: int) -> Words:
        start = [low if axis == "c" else 0 for axis in self.info.axes[:-2]]
        stop = [high if axis == "c" else 1 for axis in self.info.axes[:-2]]
        values = self.image.read(Window((*start, *window.start), (*stop, *window.stop)), level)
        return values.reshape(high - low, *window.shape)


def _as(values: Values, dtype: np.dtype[Any]) -> Values:
    """Rounded and clipped into an integer type; cubic resampling may overshoot."""
    data = np.where(np.ma.getmaskarray(values), 0, values.data)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        data = np.clip(np.rint(data), limits.min, limits.max)
    return np.ma.MaskedArray(data.astype(dtype), np.ma.getmaskarray(values))
