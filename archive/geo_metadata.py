"""Satellite images as Zarr attributes: the conventions multiscales, proj: and spatial:, and CF beside them.

Each level is a group ``<level>/{data, mask, x, y, spatial_ref}``, because 2-D readers open one group. The
CRS is written three times (CF grid mapping, proj:, coordinate arrays), because no two readers look in the
same place. Pure functions of `ImageInfo`: nothing here opens a store.

Origins. A level of ``lowpass53`` or ``nearest`` holds the even positions of the level below, so the centre
of its pixel i is the centre of pixel i * 2**k of level 0, and its corner lies (1 - 2**k) / 2 pixels outside.
A level of ``mean`` averages whole pixels, so the corners coincide.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevault.archive.attribute_values import cf_fill_value, finite, json_safe, nodata_word
from tilevault.archive.grid import reduced_extent
from tilevault.archive.image import ImageInfo
from tilevault.codecs.errors import InvalidRequest

__all__ = [
    "coordinates",
    "crs_unit",
    "level_shape",
    "level_transform",
    "origin_shift",
    "satellite_data",
    "satellite_group",
    "satellite_level",
    "satellite_mask",
]

RAW = "https://raw.githubusercontent.com/zarr-conventions"
PAGES = "https://github.com/zarr-conventions"


def _convention(name: str, repository: str, uuid: str, description: str) -> dict[str, str]:
    return {
        "uuid": uuid,
        "name": name,
        "schema_url": f"{RAW}/{repository}/refs/tags/v0.1/schema.json",
        "spec_url": f"{PAGES}/{repository}/blob/v0.1/README.md",
        "description": description,
    }


# Readers look a convention up by uuid or by its name with the colon, so both are always written.
PROJ = _convention(
    "proj:",
    "proj",
    "f17cb550-5864-4468-aeb7-f3180cfb622f",
    "Coordinate reference system information for geospatial data",
)
SPATIAL = _convention(
    "spatial:", "spatial", "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "Spatial coordinate information"
)
MULTISCALES = _convention(
    "multiscales",
    "multiscales",
    "d35379db-88df-4056-af3a-620245f8e347",
    "Multiscale layout of zarr datasets",
)

RESAMPLING = {"mean": "average", "nearest": "nearest", "lowpass53": "lowpass53"}
"""Name of each downsampling in the multiscales convention (``lowpass53`` has none of its own there)."""

TIME_WORDS = ("day", "hour", "minute", "second", "msec", "microsecond", "nanosecond", "millisecond")

Transform = tuple[float, float, float, float, float, float]
Array = tuple[NDArray[Any], tuple[str, ...], dict[str, Any]]
"""Values, dimension names, attributes."""


def level_shape(info: ImageInfo, level: int) -> tuple[int, ...]:
    """Samples along each axis at ``level``: only y and x shrink."""
    y, x = info.shape[-2:]
    return (*info.shape[:-2], reduced_extent(y, level), reduced_extent(x, level))


def origin_shift(level: int, downsampling: str) -> float:
    """Where a level's corner lies from the corner of level 0, in pixels of level 0 (along x and y alike)."""
    if downsampling in ("lowpass53", "nearest"):
        return (1 - (1 << level)) / 2
    if downsampling == "mean":
        return 0.0
    raise InvalidRequest(f"unknown downsampling {downsampling!r}")


def level_transform(info: ImageInfo, level: int, downsampling: str) -> Transform | None:
    """Corner-based affine [a, b, c, d, e, f] (rasterio's order) of ``level``; None where there is none."""
    transform = info.attributes.get("transform")
    if transform is None:
        return None
    numbers = [finite(v) for v in transform]
    if len(numbers) != 6 or None in numbers:
        return None
    a, b, c, d, e, f = (v or 0.0 for v in numbers)
    step, shift = float(1 << level), origin_shift(level, downsampling)
    origin = (c + (a + b) * shift, f + (d + e) * shift) if shift else (c, f)
    return a * step, b * step, origin[0], d * step, e * step, origin[1]


def satellite_group(info: ImageInfo, levels: Sequence[int], name: str, downsampling: str) -> dict[str, Any]:
    """Attributes of the image group: multiscales layout, CRS and bounds, and our own record of the source."""
    conventions = [MULTISCALES]
    attributes: dict[str, Any] = {"title": name}
    crs = _proj_attributes(info)
    if crs:
        conventions.append(PROJ)
        attributes |= crs
    transform = level_transform(info, levels[0], downsampling)
    if transform is not None:
        # spatial: requires a transform on every layout entry, and on the entries only.
        conventions.append(SPATIAL)
        attributes |= {
            "spatial:dimensions": ["y", "x"],
            "spatial:bbox": _bounds(transform, info.shape[-2:]),
            "spatial:registration": "pixel",
        }
    attributes["zarr_conventions"] = [dict(c) for c in conventions]
    attributes["multiscales"] = {
        "layout": [_layout_entry(info, level, levels[0], downsampling) for level in levels],
        "resampling_method": RESAMPLING[downsampling],
    }
    attributes["tilevault"] = {
        "kind": info.kind,
        "axes": list(info.axes),
        "downsampling": downsampling,
        "levels": list(levels),
        "has_nodata": info.nodata is not None,
        "has_mask": info.has_mask,
        "categorical": info.categorical,
        "bits_stored": info.bits_stored,
        "nodata": json_safe(info.nodata),
        "source": json_safe(dict(info.attributes)),
    }
    return attributes


def satellite_level(info: ImageInfo, level: int, downsampling: str) -> dict[str, Any]:
    """Attributes of a level group ``<level>``."""
    attributes: dict[str, Any] = {"Conventions": "CF-1.8", **_spatial_attributes(info, level, downsampling)}
    attributes["tilevault"] = {"level": level, "downsampling": downsampling}
    return attributes


def satellite_data(info: ImageInfo, level: int, downsampling: str) -> dict[str, Any]:
    """Attributes of the array ``<level>/data``: georeference, nodata, scale and offset, units and names.

    scale_factor, add_offset and units only where all bands agree: CF knows one per array. The exact values
    per band lie in the image group under ``tilevault.source.bands``.
    """
    attributes = _spatial_attributes(info, level, downsampling)
    attributes["grid_mapping"] = "spatial_ref"
    word = nodata_word(info)
    if word is not None:
        attributes["_FillValue"] = cf_fill_value(word)
    bands = [b for b in info.attributes.get("bands") or [] if isinstance(b, Mapping)]
    attributes |= _scaling(info, bands)
    unit = _common([b.get("unit") for b in bands])
    if isinstance(unit, str) and unit and not _reads_as_time(unit):
        attributes["units"] = unit
    names = [str(b.get("description") or b.get("name") or "") for b in bands]
    if any(names):
        attributes["long_name"] = names[0] if len(names) == 1 else names
    return attributes


def satellite_mask(info: ImageInfo, level: int, downsampling: str) -> dict[str, Any]:
    """Attributes of the array ``<level>/mask`` (uint8; y, x; 0 = no pixel, 255 = pixel)."""
    return {
        **_spatial_attributes(info, level, downsampling),
        "grid_mapping": "spatial_ref",
        "long_name": "validity mask",
        "flag_values": [0, 255],
        "flag_meanings": "invalid valid",
    }


def coordinates(info: ImageInfo, level: int, downsampling: str) -> dict[str, Array]:
    """The arrays beside ``data``: ``spatial_ref`` (int64 scalar), and ``x`` and ``y`` where they exist.

    x and y are float64 pixel centres in units of the CRS. A rotated, sheared or GCP-only image has none:
    no pair of 1-D arrays says where its pixels are.
    """
    transform = level_transform(info, level, downsampling)
    arrays: dict[str, Array] = {
        "spatial_ref": (np.array(0, np.int64), (), _grid_mapping(info, level, downsampling, transform))
    }
    if transform is None or transform[1] or transform[3]:
        return arrays
    described = _axis_attributes(info.attributes.get("crs_wkt"))
    height, width = level_shape(info, level)[-2:]
    a, _, c, _, e, f = transform
    arrays["x"] = (c + (np.arange(width) + 0.5) * a, ("x",), described["X"])
    arrays["y"] = (f + (np.arange(height) + 0.5) * e, ("y",), described["Y"])
    return arrays


def _layout_entry(info: ImageInfo, level: int, base: int, downsampling: str) -> dict[str, Any]:
    shift = origin_shift(level, downsampling)
    scale = float(1 << level)
    # Relative to the level derived from, in its pixels, corner-based as spatial:transform is.
    entry: dict[str, Any] = {
        "asset": str(level),
        "transform": {"scale": [scale, scale], "translation": [shift, shift]},
    }
    if level != base:
        entry["derived_from"] = str(base)
        entry["resampling_method"] = RESAMPLING[downsampling]
    transform = level_transform(info, level, downsampling)
    if transform is not None:
        entry["spatial:shape"] = list(level_shape(info, level)[-2:])
        entry["spatial:transform"] = list(transform)
    return entry


def _spatial_attributes(info: ImageInfo, level: int, downsampling: str) -> dict[str, Any]:
    """proj: and spatial: of a level group or of an array in it (a group speaks for its own arrays only)."""
    crs = _proj_attributes(info)
    shape = level_shape(info, level)[-2:]
    attributes: dict[str, Any] = {
        "zarr_conventions": [dict(c) for c in ([PROJ] if crs else []) + [SPATIAL]],
        **crs,
        "spatial:dimensions": ["y", "x"],
        "spatial:shape": list(shape),
    }
    transform = level_transform(info, level, downsampling)
    if transform is None:
        # Without this word a reader must assume an affine transform and find none.
        attributes["spatial:transform_type"] = "gcps" if info.attributes.get("gcps") else "none"
        return attributes
    return attributes | {
        "spatial:transform_type": "affine",
        "spatial:transform": list(transform),
        "spatial:bbox": _bounds(transform, shape),
        # rasterio's transform is corner-based for AREA_OR_POINT=Point too, so this is "pixel" for both.
        "spatial:registration": "pixel",
    }


def _bounds(transform: Transform, shape: Sequence[int]) -> list[float]:
    """[xmin, ymin, xmax, ymax] of the four corners."""
    a, b, c, d, e, f = transform
    height, width = shape
    corners = [(0, 0), (width, 0), (0, height), (width, height)]
    xs = [a * col + b * row + c for col, row in corners]
    ys = [d * col + e * row + f for col, row in corners]
    return [min(xs), min(ys), max(xs), max(ys)]


def _proj_attributes(info: ImageInfo) -> dict[str, Any]:
    """proj:code where an authority has one, and proj:wkt2 always; empty without a CRS."""
    wkt = info.attributes.get("crs_wkt")
    if not wkt:
        return {}
    attributes = {}
    code = info.attributes.get("crs_code")
    if isinstance(code, str) and len(code.split(":")) == 2 and all(code.split(":")):
        attributes["proj:code"] = code
    wkt2 = _describe_crs(wkt)["wkt2"]
    if wkt2:
        attributes["proj:wkt2"] = wkt2
    return attributes


@lru_cache(maxsize=64)
def _describe_crs(wkt: str) -> dict[str, Any]:
    """What PROJ makes of a WKT: WKT2:2019, CF grid mapping parameters, CF attributes of the axes.

    A CRS that PROJ cannot read keeps its text in ``spatial_ref`` and has nothing else.
    """
    import pyproj

    empty: dict[str, Any] = {"wkt2": None, "cf": {}, "axes": []}
    try:
        crs = pyproj.CRS.from_wkt(wkt)
        operation = crs.coordinate_operation
        # CF has no word for an oblique Mercator's angle to the grid: its parameters would name another CRS.
        oblique = operation is not None and "oblique mercator" in operation.method_name.lower()
        parameters = {} if oblique else crs.to_cf()
        return {
            "wkt2": crs.to_wkt("WKT2_2019"),
            "cf": {k: v for k, v in parameters.items() if k != "crs_wkt"},
            "axes": crs.cs_to_cf(),
        }
    except (pyproj.exceptions.ProjError, KeyError, ValueError, TypeError, AttributeError):
        return empty


def crs_unit(info: ImageInfo) -> str | None:
    """The unit of the coordinates that the image's transform gives, as CF spells it; None where not known."""
    wkt = info.attributes.get("crs_wkt")
    return _axis_attributes(str(wkt))["X"].get("units") if wkt else None


def _axis_attributes(wkt: str | None) -> dict[str, dict[str, Any]]:
    """CF attributes of the coordinate arrays: standard_name and units from the CRS, always ``axis``."""
    described: dict[str, dict[str, Any]] = {"X": {"axis": "X"}, "Y": {"axis": "Y"}}
    for axis in _describe_crs(wkt)["axes"] if wkt else []:
        if axis.get("axis") in described:
            described[axis["axis"]] |= json_safe(axis)
    return described


def _grid_mapping(
    info: ImageInfo, level: int, downsampling: str, transform: Transform | None
) -> dict[str, Any]:
    """Attributes of ``spatial_ref``: CF parameters, the source's own WKT, GDAL's GeoTransform or GCPs."""
    gcps = info.attributes.get("gcps")
    wkt = info.attributes.get("crs_wkt") or (info.attributes.get("gcps_crs_wkt") if gcps else None)
    attributes: dict[str, Any] = {}
    if wkt:
        attributes |= json_safe(_describe_crs(wkt)["cf"])
        attributes |= {"crs_wkt": wkt, "spatial_ref": wkt}
    if transform is not None:
        a, b, c, d, e, f = transform
        attributes["GeoTransform"] = " ".join(repr(v) for v in (c, a, b, f, d, e))
    if gcps:
        attributes["gcps"] = json.dumps(_gcps_geojson(gcps, level, downsampling))
    return attributes


def _gcps_geojson(gcps: Sequence[Sequence[Any]], level: int, downsampling: str) -> dict[str, Any]:
    """Ground control points as rioxarray writes them, rows and columns counted in the level's pixels.

    ``gcps``: [row, column, x, y, z, id, info] each, as in the image's attributes. Points without a finite
    place are left out.
    """
    step, shift = 1 << level, origin_shift(level, downsampling)
    features = []
    for gcp in gcps:
        row, column, x, y, z = (finite(v) for v in gcp[:5])
        if row is None or column is None or x is None or y is None:
            continue
        features.append(
            {
                "type": "Feature",
                "properties": {
                    "id": gcp[5],
                    "info": gcp[6],
                    "row": (row - shift) / step,
                    "col": (column - shift) / step,
                },
                "geometry": {"type": "Point", "coordinates": [x, y] if z is None else [x, y, z]},
            }
        )
    return {"type": "FeatureCollection", "features": features}


def _scaling(info: ImageInfo, bands: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    scale = finite(_common([b.get("scale", 1.0) for b in bands]))
    offset = finite(_common([b.get("offset", 0.0) for b in bands]))
    if info.categorical or info.dtype.kind not in "iuf" or offset is None:
        return {}
    if not scale or (scale, offset) == (1.0, 0.0):
        return {}
    return {"scale_factor": scale, "add_offset": offset}


def _common(values: Sequence[Any]) -> Any:
    """The value that all share, else None."""
    return values[0] if values and all(v == values[0] for v in values) else None


def _reads_as_time(unit: str) -> bool:
    """CF readers turn an array with such a unit into dates or durations, which no band is meant to be."""
    word = unit.strip().lower()
    return " since " in f" {word} " or word.startswith(TIME_WORDS)
