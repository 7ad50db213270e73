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
from rasterio.transform import from_bounds
from rasterio.warp import transform_bounds
from rio_tiler.constants import WEB_MERCATOR_TMS, WGS84_CRS
from rio_tiler.io.base import BaseReader
from rio_tiler.models import BandStatistics, ImageData, Info, PointData
from rio_tiler.utils import CRS_to_uri, get_array_statistics

from tilevault.archive import Image
from tilevault.archive.attribute_values import finite
from tilevault.archive.image import ImageInfo, Window
from tilevault.codecs.errors import ImageNotFound, InvalidRequest, LimitExceeded, UnsupportedSyntax
from tilevault.workflows.serve.projection import (
    CRS,
    Bounds,
    box,
    placed,
    places_between,
    translated,
)
from tilevault.workflows.serve.raster import NotGeoreferenced, Raster, Values

__all__ = ["MAX_SIDE", "NotGeoreferenced", "SceneReader"]

MAX_SIDE = 4096
"""Pixels along a side of an answer at most."""
STATISTICS_SIDE = 1024
"""Statistics are of the level of about this many pixels along its longer side, as TiTiler's are."""


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
        self._raster = Raster.of(self.input)
        self.crs, self._affine = self._raster.crs, self._raster.affine
        self.transform = self._affine
        self.height, self.width = self._raster.info.shape[-2:]
        self.bounds = self._raster.bounds

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
        level = self._raster.level(max(self._info.shape[-2:]) / STATISTICS_SIDE)
        shape = self.input.level_shape(level)[-2:]
        values = self._raster.read(Window((0, 0), shape), level, chosen)
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
        values = self._raster.warped(grid, shape, target, self._chosen(indexes), resampling)
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
        values = self._raster.read(Window((y, x), (y + 1, x + 1)), 0, chosen)
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
        return self._raster.info

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
            pixel = self._raster.pixel(crs)
            shrink = max(1.0, max(along, across) / pixel / (max_size or MAX_SIDE))
            sides = along / pixel / shrink, across / pixel / shrink
        if not max(sides) <= MAX_SIDE:
            raise LimitExceeded(
                f"a picture of {sides[0]:.0f} x {sides[1]:.0f} pixels; sides of {MAX_SIDE} at most"
            )
        return max(1, round(sides[0])), max(1, round(sides[1]))

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


def _plain(band: Any) -> dict[str, Any]:
    return {str(k): v for k, v in band.items() if isinstance(v, (str, int, float))}
