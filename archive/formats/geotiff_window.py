"""One array as a plain GeoTIFF, with its place on the ground where it has one: ``read -o x.tif``."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

from tilevault.archive.attribute_values import nodata_word
from tilevault.archive.formats.geotiff_gdal import DTYPES, gdal_env, translated
from tilevault.archive.geo_metadata import level_transform
from tilevault.archive.image import ImageInfo, Window, Words
from tilevault.codecs.errors import InvalidRequest

__all__ = ["write_window"]


def write_window(
    path: Path,
    array: Words,
    info: ImageInfo,
    window: Window,
    level: int,
    downsampling: str,
    mask: NDArray[np.uint8] | None = None,
) -> None:
    """Write ``array``, (y, x) or (bands, y, x), read from the (y, x) ``window`` of ``level`` of an image.

    CRS and transform of the window, nodata, band descriptions, units, scales, offsets, colour table and
    ``mask``, (y, x), 0 where there is no pixel (as the file's own mask), go with it. ``path`` is overwritten.
    Raises `InvalidRequest` for an array that is no raster.
    """
    planes = array[np.newaxis] if array.ndim == 2 else array
    if planes.ndim != 3 or (array.ndim == 3 and "c" not in info.axes):
        raise InvalidRequest(
            f"a TIFF holds one plane, or bands of it, not {array.shape}: pick one with --index"
        )
    if planes.dtype.name not in DTYPES:
        raise InvalidRequest(f"a TIFF holds no {planes.dtype}")
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "dtype": planes.dtype.name,
        "count": planes.shape[0],
        "height": planes.shape[1],
        "width": planes.shape[2],
        "compress": "deflate",
        "BIGTIFF": "IF_SAFER",
        **_georeferencing(info, window, level, downsampling),
    }
    # GDAL knows one kind of nodata for complex words, a real number; leave it out there.
    if planes.dtype.kind != "c" and (nodata := nodata_word(info)) is not None:
        profile["nodata"] = nodata.item()
    with gdal_env(), translated("cannot write a TIFF"), rasterio.open(path, "w", **profile) as dataset:
        _describe_bands(dataset, info)
        dataset.write(np.ascontiguousarray(planes))
        if mask is not None:
            dataset.write_mask(np.where(mask, 255, 0).astype(np.uint8))


def _georeferencing(info: ImageInfo, window: Window, level: int, downsampling: str) -> dict[str, Any]:
    transform = level_transform(info, level, downsampling)
    if transform is None:
        return {}
    a, b, c, d, e, f = transform
    y, x = window.start
    moved = Affine(a, b, c + a * x + b * y, d, e, f + d * x + e * y)
    wkt = info.attributes.get("crs_wkt")
    return {"transform": moved, **({"crs": wkt} if wkt else {})}


def _describe_bands(dataset: Any, info: ImageInfo) -> None:
    bands = info.attributes.get("bands") or []
    if len(bands) != dataset.count:
        return
    dataset.descriptions = tuple(band.get("description") for band in bands)
    dataset.units = tuple(band.get("unit") for band in bands)
    dataset.scales = tuple(_number(band.get("scale"), 1.0) for band in bands)
    dataset.offsets = tuple(_number(band.get("offset"), 0.0) for band in bands)
    table = info.attributes.get("colormap") or {}
    if isinstance(table, Mapping) and dataset.count == 1 and "1" in table and info.dtype.kind == "u":
        dataset.write_colormap(1, {i: tuple(entry) for i, entry in enumerate(table["1"])})
        return
    names = [str(band.get("color_interp")) for band in bands]
    if all(name in ColorInterp.__members__ for name in names):
        dataset.colorinterp = tuple(ColorInterp[name] for name in names)


def _number(value: Any, default: float) -> float:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else default
