"""What a GeoTIFF's record says in the words of the archive: attributes for the conventions, search values.

Nothing here opens a file: everything comes from the record that `scan` made.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rasterio.crs import CRS
from rasterio.warp import transform_bounds

from tilevault.archive.formats.geotiff_gdal import gdal_env, translated
from tilevault.codecs.errors import InputRejected

__all__ = ["geographic_bounds", "image_attributes", "search_values"]

TIME_TAGS = (
    "ACQUISITIONDATETIME",
    "ACQUISITION_DATETIME",
    "ACQUISITION_DATE",
    "DATE_ACQUIRED",
    "TIFFTAG_DATETIME",
)
"""Where software writes the time of the image, the most specific first."""

Bounds = tuple[float, float, float, float]


def image_attributes(name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of the image (JSON): CRS, georeferencing, bands, tags, colour tables."""
    raster = record["raster"]
    tags = raster["tags"]
    crs, gcps_crs = raster["crs_wkt"], raster["gcps_crs_wkt"]
    return {
        "name": name,
        "crs_wkt": _best(crs),
        "crs_code": _code(crs),
        "transform": raster["transform"],
        "gcps": raster["gcps"] or None,
        "gcps_crs_wkt": _best(gcps_crs),
        "rpcs": raster["rpcs"],
        "area_or_point": tags.get("", {}).get("AREA_OR_POINT", "Area"),
        "bands": [
            {
                "name": band["description"] or f"band {i}",
                "description": band["description"],
                "unit": band["unit"],
                "scale": band["scale"],
                "offset": band["offset"],
                "color_interp": interp,
                "tags": band["tags"],
            }
            for i, (band, interp) in enumerate(zip(raster["bands"], raster["color_interp"], strict=True), 1)
        ],
        "tags": tags,
        "colormap": raster["colormaps"],
        "nodata_text": record["nodata_text"],
    }


def search_values(name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """What `ls --where` looks at: name, driver, bands, bbox, crs, time."""
    raster = record["raster"]
    return {
        "name": name,
        "driver": "GTiff",
        "bands": len(raster["dtypes"]),
        "bbox": geographic_bounds(raster),
        "crs": _code(raster["crs_wkt"]) or _code(raster["gcps_crs_wkt"]),
        "time": _time(raster["tags"]),
    }


def _best(crs: Mapping[str, str] | None) -> str | None:
    return crs.get("wkt2", crs["gdal"]) if crs else None


def _code(crs: Mapping[str, str] | None) -> str | None:
    if not crs:
        return None
    try:
        with gdal_env(), translated("CRS"):
            authority = CRS.from_wkt(crs["gdal"]).to_authority(confidence_threshold=100)
    except InputRejected:
        return None
    return f"{authority[0]}:{authority[1]}" if authority else None


def geographic_bounds(raster: Mapping[str, Any]) -> list[float] | None:
    """[west, south, east, north] in EPSG:4326; None where the image is not, or not soundly, georeferenced.

    From the geotransform, else the ground control points, else the RPCs' validity box (the latter two
    are approximations of where the pixels lie).
    """
    found = _native_bounds(raster)
    if found is None:
        return None
    bounds, wkt = found
    try:
        with gdal_env(), translated("bounds"):
            crs = CRS.from_epsg(4326) if wkt is None else CRS.from_wkt(wkt)
            west, south, east, north = transform_bounds(crs, CRS.from_epsg(4326), *bounds)
    except InputRejected:
        return None
    box = [west, south, east, north]
    # Some files call metres degrees.
    sound = all(math.isfinite(v) and abs(v) <= 360 for v in box) and abs(south) <= 90.5 and abs(north) <= 90.5
    return box if sound else None


def _native_bounds(raster: Mapping[str, Any]) -> tuple[Bounds, str | None] | None:
    crs, gcps_crs = raster["crs_wkt"], raster["gcps_crs_wkt"]
    transform = raster["transform"]
    if crs and transform and all(isinstance(v, int | float) for v in transform):
        a, b, c, d, e, f = transform
        corners = [(x, y) for x in (0, raster["width"]) for y in (0, raster["height"])]
        return _box([(a * x + b * y + c, d * x + e * y + f) for x, y in corners]), crs["gdal"]
    if gcps_crs and raster["gcps"]:
        points = [(g[2], g[3]) for g in raster["gcps"] if isinstance(g[2], float) and isinstance(g[3], float)]
        return (_box(points), gcps_crs["gdal"]) if points else None
    if raster["rpcs"]:
        r = raster["rpcs"]
        values = [r.get(k) for k in ("long_off", "long_scale", "lat_off", "lat_scale")]
        if all(isinstance(v, int | float) for v in values):
            x, dx, y, dy = values
            return (x - dx, y - dy, x + dx, y + dy), None
    return None


def _box(points: Sequence[tuple[float, float]]) -> Bounds:
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    return min(xs), min(ys), max(xs), max(ys)


def _time(tags: Mapping[str, Mapping[str, str]]) -> str | None:
    upper = {k.upper(): v for namespace in tags.values() for k, v in namespace.items()}
    for key in TIME_TAGS:
        found = re.match(r"\s*(\d{4})[:-](\d\d)[:-](\d\d)(?:[ T](\d\d):(\d\d):(\d\d))?", upper.get(key, ""))
        if found:
            date = "-".join(found.group(1, 2, 3))
            return date if found[4] is None else f"{date}T{':'.join(found.group(4, 5, 6))}"
    return None
