"""A georeferenced image as rio-tiler reads one: map tiles, boxes, previews, points, statistics.

`SceneReader` is a rio-tiler reader (`rio_tiler.io.base.BaseReader`), so that what is built on rio-tiler works
on an archive as on a GeoTIFF. Its part is to read little: the level whose pixels are just finer than what is
asked for, and of it the window under the request. The rest is GDAL's warper and rio-tiler's rendering.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import attr
import morecantile
import numpy as np
from affine import Affine
from rasterio.enums import Resampling
from rasterio.errors import CRSError
from rasterio.transform import from_bounds
from rasterio.warp import calculate_default_transform, reproject, transform_bounds
from rio_tiler.constants import WEB_MERCATOR_TMS, WGS84_CRS
from rio_tiler.io.base import BaseReader
from rio_tiler.models import BandStatistics, ImageData, Info, PointData
from rio_tiler.utils import CRS_to_uri, get_array_statistics

from tilevault.archive import Image
from tilevault.archive.attribute_values import finite
from tilevault.archive.geo_metadata import level_transform
from tilevault.archive.image import ImageInfo, Window
from tilevault.codecs.errors import ImageNotFound, InvalidRequest, LimitExceeded, UnsupportedSyntax
from tilevault.workflows.serve.projection import (
    CRS,
    EDGE,
    Bounds,
    box,
    moved,
    pixels_by_pixel,
    placed,
    places_between,
    translated,
)

__all__ = ["MAX_SIDE", "NotGeoreferenced", "SceneReader"]

Values = np.ma.MaskedArray[Any, Any]

MAX_SIDE = 4096
"""Pixels along a side of an answer at most."""
MAX_SAMPLES = 1 << 26
"""Samples that are read for an answer at most."""
MAX_ANSWER = 1 << 24
"""Samples of an answer, of all its bands, at most."""
AT_ONCE = 1 << 22
"""Samples that are warped together; of more, each band is by itself, so that memory has a bound."""
STATISTICS_SIDE = 1024
"""Statistics are of the level of about this many pixels along its longer side, as TiTiler's are."""


class NotGeoreferenced(UnsupportedSyntax):
    """The image has no place on a map: no CRS, or no affine transform."""

    http_status = 409


@attr.s
class SceneReader(BaseReader):
    """Reads an archived image by places on the map. Raises `NotGeoreferenced` where it has none.

    Values are masked where they are nodata, NaN, masked by the image's mask, or beyond its edge. Bands are
    counted from 1, as rio-tiler does; of other axes than ``c`` the first position is read.
    """

    input: Image = attr.ib()
    tms: morecantile.TileMatrixSet = attr.ib(default=WEB_MERCATOR_TMS)

    usual_limits: dict[int, tuple[float, float]] = attr.ib(factory=dict, alias="usual", repr=False)
    """What `usual` has found, by band; readers of one image may share it."""

    def __attrs_post_init__(self) -> None:
        info = self.input.info
        if info is None or info.dtype.kind not in "iuf":
            raise NotGeoreferenced(f"image {self.input.id[:12]} holds no numbers that have a place on a map")
        found = level_transform(info, 0, self._downsampling)
        wkt = info.attributes.get("crs_wkt")
        if found is None or not wkt:
            raise NotGeoreferenced(f"image {self.input.id[:12]} is not georeferenced")
        try:
            self.crs = CRS.from_wkt(str(wkt))
        except CRSError as error:
            raise NotGeoreferenced(f"image {self.input.id[:12]}: its CRS is none that PROJ knows") from error
        self.transform = self._affine = Affine(*found)
        if not self._affine.determinant:
            raise NotGeoreferenced(f"image {self.input.id[:12]}: its transform has no area")
        self.height, self.width = info.shape[-2:]
        corners = [
            placed(self._affine, *at)
            for at in ((0, 0), (self.width, 0), (0, self.height), (self.width, self.height))
        ]
        xs, ys = zip(*corners, strict=True)
        self.bounds = (min(xs), min(ys), max(xs), max(ys))

    @property
    def minzoom(self) -> int:
        """Zoom at which the whole image is about one tile."""
        return int(self._minzoom)

    @property
    def maxzoom(self) -> int:
        """Zoom whose pixels are about as large as the image's."""
        return int(self._maxzoom)

    @property
    def band_count(self) -> int:
        """Bands of the image: its axis ``c``, or one."""
        info = self._info
        return info.shape[info.axes.index("c")] if "c" in info.axes else 1

    @property
    def band_names(self) -> list[str]:
        """What the source calls its bands, else ``b1``, ``b2`` ..."""
        bands = self._info.attributes.get("bands") or []
        named = (
            [str(band.get("description") or "") for band in bands] if len(bands) == self.band_count else []
        )
        return [name or f"b{i}" for i, name in enumerate(named or [""] * self.band_count, 1)]

    def scaling(self, index: int) -> tuple[float, float]:
        """Scale and offset of a band, as its source records them: 1 and 0 where it has none."""
        bands = self._info.attributes.get("bands") or []
        band = bands[index - 1] if index <= len(bands) else {}
        scale, offset = finite(band.get("scale", 1.0)), finite(band.get("offset", 0.0))
        return scale or 1.0, offset or 0.0

    def default_indexes(self) -> tuple[int, ...]:
        """Red, green and blue by the source's colour interpretation, else the first band."""
        bands = self._info.attributes.get("bands") or []
        colours = [str(band.get("color_interp", "")).lower() for band in bands]
        named = tuple(colours.index(name) + 1 for name in ("red", "green", "blue") if name in colours)
        return named if len(named) == 3 and max(named) <= self.band_count else (1,)

    def info(self) -> Info:
        """What TiTiler answers to ``/info``."""
        info = self._info
        names = self.band_names
        bands = info.attributes.get("bands") or [{}] * len(names)
        return Info.model_validate(
            {
                "bounds": self.bounds,
                "crs": CRS_to_uri(self.crs) or self.crs.to_wkt(),
                "band_metadata": [(f"b{i}", _plain(band)) for i, band in enumerate(bands, 1)],
                "band_descriptions": [(f"b{i}", name) for i, name in enumerate(names, 1)],
                "dtype": str(info.dtype),
                "nodata_type": "Mask" if info.has_mask else "None" if info.nodata is None else "Nodata",
                "colorinterp": [str(band.get("color_interp") or "undefined") for band in bands],
                "count": self.band_count,
                "width": self.width,
                "height": self.height,
                "overviews": [1 << level for level in self.input.levels[1:]],
                "nodata_value": None if info.nodata is None else float(info.nodata),
            }
        )

    def statistics(
        self,
        indexes: Sequence[int] | None = None,
        categorical: bool = False,
        categories: list[float] | None = None,
        percentiles: list[int] | None = None,
        hist_options: dict[str, Any] | None = None,
        **_: Any,
    ) -> dict[str, BandStatistics]:
        """Statistics of each band (default: all), of the level of about 1,024 pixels."""
        chosen = self._chosen(indexes or range(1, self.band_count + 1))
        level = self._level(max(self._info.shape[-2:]) / STATISTICS_SIDE)
        shape = self.input.level_shape(level)[-2:]
        values = self._read(Window((0, 0), shape), level, chosen)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of bands without a single valid sample
            found = get_array_statistics(
                values,
                categorical=categorical,
                categories=categories,
                percentiles=percentiles or [2, 98],
                **(hist_options or {}),
            )
        names = self.band_names
        return {
            f"b{i}": BandStatistics(**values, description=names[i - 1])
            for i, values in zip(chosen, found, strict=True)
        }

    def usual(self, index: int) -> tuple[float, float]:
        """2nd and 98th percentile of a band, found once; 0 and 1 where it holds no number."""
        if index not in self.usual_limits:
            band = self.statistics(indexes=(index,))[f"b{index}"]
            low, high = (float(getattr(band, name, math.nan)) for name in ("percentile_2", "percentile_98"))
            found = (low, high) if math.isfinite(low) and math.isfinite(high) else (0.0, 1.0)
            self.usual_limits[index] = found
        return self.usual_limits[index]

    def tile(
        self,
        tile_x: int,
        tile_y: int,
        tile_z: int,
        tilesize: int | None = None,
        indexes: Sequence[int] | None = None,
        resampling: str = "bilinear",
        **_: Any,
    ) -> ImageData:
        """A tile of the TileMatrixSet. Raises `ImageNotFound` where the image is not under it."""
        matrix = self._matrix(tile_z)
        if not (
            0 <= tile_x < matrix.matrixWidth and 0 <= tile_y < matrix.matrixHeight
        ) or not self.tile_exists(tile_x, tile_y, tile_z):
            raise ImageNotFound(f"image {self.input.id[:12]} is not under tile {tile_z}/{tile_x}/{tile_y}")
        left, bottom, right, top = self.tms.xy_bounds(morecantile.Tile(tile_x, tile_y, tile_z))
        return self.part(
            (left, bottom, right, top),
            bounds_crs=self.tms.rasterio_crs,
            dst_crs=self.tms.rasterio_crs,
            height=tilesize or matrix.tileHeight,
            width=tilesize or matrix.tileWidth,
            indexes=indexes,
            resampling=resampling,
        )

    def part(
        self,
        bbox: Bounds,
        bounds_crs: CRS = WGS84_CRS,
        dst_crs: CRS | None = None,
        height: int | None = None,
        width: int | None = None,
        max_size: int | None = 1024,
        indexes: Sequence[int] | None = None,
        resampling: str = "bilinear",
        **_: Any,
    ) -> ImageData:
        """What lies in a box of ``bounds_crs``, in ``dst_crs`` (default: the same).

        ``height`` and ``width`` in pixels; with one or none of them the pixels are square, and as fine as the
        image's unless a side would be longer than ``max_size``.
        """
        target = dst_crs or bounds_crs
        bounds = box(bbox)
        if bounds_crs != target:
            bounds = box(translated(lambda: transform_bounds(bounds_crs, target, *bounds, densify_pts=21)))
        shape = self._size(bounds, target, height, width, max_size)
        grid = from_bounds(*bounds, shape[1], shape[0])
        values = self._warped(grid, shape, target, self._chosen(indexes), resampling)
        return self._answer(values, indexes, bounds, target)

    def preview(
        self,
        max_size: int | None = 1024,
        height: int | None = None,
        width: int | None = None,
        indexes: Sequence[int] | None = None,
        dst_crs: CRS | None = None,
        resampling: str = "bilinear",
        **_: Any,
    ) -> ImageData:
        """The whole image in its own CRS, or in ``dst_crs``."""
        crs = dst_crs or self.crs
        bounds = self.bounds
        if crs != self.crs:
            bounds = translated(lambda: transform_bounds(self.crs, crs, *self.bounds, densify_pts=21))
        return self.part(bounds, crs, crs, height, width, max_size, indexes, resampling)

    def point(
        self,
        lon: float,
        lat: float,
        indexes: Sequence[int] | None = None,
        coord_crs: CRS = WGS84_CRS,
        **_: Any,
    ) -> PointData:
        """Values of the pixel at a place. Raises `ImageNotFound` outside the image."""
        chosen = self._chosen(indexes or range(1, self.band_count + 1))
        column, row = placed(~self._affine, *places_between(coord_crs, self.crs).transform(lon, lat))
        height, width = self._info.shape[-2:]
        if not (0 <= column < width and 0 <= row < height):
            raise ImageNotFound(f"the place is outside image {self.input.id[:12]}")
        y, x = int(row), int(column)
        values = self._read(Window((y, x), (y + 1, x + 1)), 0, chosen)
        names = self.band_names
        return PointData(
            values[:, 0, 0],
            band_names=[f"b{i}" for i in chosen],
            band_descriptions=[names[i - 1] for i in chosen],
            coordinates=(lon, lat),
            crs=coord_crs,
            pixel_location=(column, row),
        )

    def feature(self, shape: dict[str, Any], **_: Any) -> ImageData:
        """Not offered. Raises `UnsupportedSyntax`."""
        raise UnsupportedSyntax("shapes are not offered: ask for the box around one")

    @property
    def _info(self) -> ImageInfo:
        assert self.input.info is not None, "looked at when the reader was made"
        return self.input.info

    @property
    def _downsampling(self) -> str:
        return self.input.downsampling or "mean"

    def _matrix(self, zoom: int) -> morecantile.models.TileMatrix:
        if not self.tms.minzoom <= zoom <= self.tms.maxzoom:
            raise ImageNotFound(
                f"{self.tms.id} has zooms {self.tms.minzoom} to {self.tms.maxzoom}, not {zoom}"
            )
        return self.tms.matrix(zoom)

    def _chosen(self, indexes: Sequence[int] | None) -> tuple[int, ...]:
        chosen = tuple(indexes or self.default_indexes())
        if any(not 1 <= i <= self.band_count for i in chosen):
            raise InvalidRequest(f"the image has bands 1 to {self.band_count}, not {list(chosen)}")
        return chosen

    def _level(self, factor: float) -> int:
        """The coarsest level whose pixels are no larger than ``factor`` pixels of level 0."""
        wanted = int(math.log2(factor)) if factor >= 1 and math.isfinite(factor) else 0
        return min(wanted, max(self.input.levels))

    def _size(
        self, bounds: Bounds, crs: CRS, height: int | None, width: int | None, max_size: int | None
    ) -> tuple[int, int]:
        """Rows and columns of an answer."""
        across, along = bounds[2] - bounds[0], bounds[3] - bounds[1]
        if height is not None:
            sides = float(height), float(width or height * across / along)
        elif width is not None:
            sides = width * along / across, float(width)
        else:
            pixel = self._pixel(crs)
            shrink = max(1.0, max(along, across) / pixel / (max_size or MAX_SIDE))
            sides = along / pixel / shrink, across / pixel / shrink
        if not max(sides) <= MAX_SIDE:
            raise LimitExceeded(
                f"a picture of {sides[0]:.0f} x {sides[1]:.0f} pixels; sides of {MAX_SIDE} at most"
            )
        return max(1, round(sides[0])), max(1, round(sides[1]))

    def _pixel(self, crs: CRS) -> float:
        """Side of the image's pixels in units of ``crs``."""
        if crs == self.crs:
            return math.sqrt(abs(self._affine.determinant))
        found, _, _ = translated(
            lambda: calculate_default_transform(self.crs, crs, self.width, self.height, *self.bounds)
        )
        return float(abs(found.a))

    def _warped(
        self, grid: Affine, shape: tuple[int, int], crs: CRS, chosen: tuple[int, ...], resampling: str
    ) -> Values:
        """Values (band, y, x) on ``grid``."""
        if math.prod(shape) * len(chosen) > MAX_ANSWER:
            raise LimitExceeded(f"{shape} samples of {len(chosen)} bands in one answer", limit=MAX_ANSWER)
        method = Resampling["nearest" if self._info.categorical else resampling]
        place = self._under(grid, shape, crs)
        if place is None:
            return np.ma.MaskedArray(np.zeros((len(chosen), *shape), self._info.dtype), True)
        window, level = place
        values = self._read(window, level, chosen)
        found = level_transform(self._info, level, self._downsampling)
        assert found is not None, "looked at when the reader was made"
        warped = np.full((len(chosen), *shape), np.nan)
        together = len(chosen) if values.size <= AT_ONCE else 1
        for i in range(0, len(chosen), together):
            # In float64, where every integer of up to 32 bits is itself, NaN can say "no pixel here".
            source = values.data[i : i + together].astype(np.float64)
            source[np.ma.getmaskarray(values)[i : i + together]] = np.nan
            self._warp(source, warped[i : i + together], moved(Affine(*found), window), grid, crs, method)
        return _as(np.ma.masked_invalid(warped), self._info.dtype)

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
        x, y = placed(~self._affine, np.asarray(xs, np.float64), np.asarray(ys, np.float64))
        known = np.isfinite(x) & np.isfinite(y)
        if not known.any():
            return None
        rows, columns = self._info.shape[-2:]
        inside = known & (x > -1) & (x < columns + 1) & (y > -1) & (y < rows + 1)
        level = self._level(pixels_by_pixel(x, y, inside if inside.any() else known, shape))
        height, width = self.input.level_shape(level)[-2:]
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

    def _read(self, window: Window, level: int, chosen: tuple[int, ...]) -> Values:
        """Values (band, y, x) of a window of a level, masked where there is no pixel."""
        if math.prod(window.shape) * len(chosen) > MAX_SAMPLES:
            raise LimitExceeded(f"{window.shape} samples of {len(chosen)} bands for one answer")
        info = self._info
        others = {name: 0 for name in info.axes[:-2] if name != "c"}
        if "c" not in info.axes:
            values = self.input.read(window, level, others)[np.newaxis]
        elif self.input.grid.tile[info.axes.index("c")] > 1:
            # A tile holds several bands: it is decoded once for all of them.
            values = self.input.read(window, level, others)[[i - 1 for i in chosen]]
        else:
            values = np.stack([self.input.read(window, level, {**others, "c": i - 1}) for i in chosen])
        absent = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
        if info.nodata is not None and info.nodata == info.nodata:
            absent |= values == info.nodata
        if info.has_mask:
            absent |= self.input.read_mask(window, level) == 0
        return np.ma.MaskedArray(values, absent)

    def _answer(self, values: Values, indexes: Sequence[int] | None, bounds: Bounds, crs: CRS) -> ImageData:
        chosen, names = self._chosen(indexes), self.band_names
        return ImageData(
            values,
            assets=[self.input.id],
            bounds=bounds,
            crs=crs,
            band_names=[f"b{i}" for i in chosen],
            band_descriptions=[names[i - 1] for i in chosen],
        )


def _as(values: Values, dtype: np.dtype[Any]) -> Values:
    """Rounded and clipped into an integer type; cubic resampling may overshoot."""
    data = np.where(np.ma.getmaskarray(values), 0, values.data)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        data = np.clip(np.rint(data), limits.min, limits.max)
    return np.ma.MaskedArray(data.astype(dtype), np.ma.getmaskarray(values))


def _plain(band: Any) -> dict[str, Any]:
    return {str(k): v for k, v in band.items() if isinstance(v, (str, int, float))}
