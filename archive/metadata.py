"""What an image's Zarr documents say: OME-NGFF 0.5 for medical images, geo conventions for satellite images.

Pure functions from `ImageInfo` to JSON attributes; `group_documents` and `coordinate_arrays` are what a
store writes. The satellite half lives in geo_metadata.py.

OME-NGFF knows scale and translation only, so the exact DICOM geometry lies beside it in our own attribute
``tilevault``. A level of ``lowpass53`` or ``nearest`` holds the even positions of the level below: its
first sample is the first sample of level 0 and it needs no translation. A level of ``mean`` begins half a
block further in.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tilevault.archive.attribute_values import fill_value, json_safe, nodata_word
from tilevault.archive.geo_metadata import (
    Array,
    coordinates,
    level_shape,
    satellite_data,
    satellite_group,
    satellite_level,
    satellite_mask,
)
from tilevault.archive.image import ImageInfo
from tilevault.codecs.errors import InvalidRequest

__all__ = [
    "DOWNSAMPLINGS",
    "array_path",
    "coordinate_arrays",
    "fill_value",
    "group_documents",
    "json_safe",
    "level_shape",
    "mask_path",
    "medical_group",
    "nodata_word",
]

DOWNSAMPLINGS = {
    "lowpass53": "low band of the reversible 5/3 wavelet, clamped to the sample type",
    "mean": "mean of 2**k x 2**k samples that are valid",
    "nearest": "every 2**k-th sample",
}
"""How a coarse level comes from level 0, by name."""

AXIS_TYPES = {"t": "time", "c": "channel", "frame": "frame", "z": "space", "y": "space", "x": "space"}
"""OME-NGFF type of each axis; ``frame`` is a custom type: planes in stored order without positions."""

ORIENTATIONS = (
    ("right-to-left", "left-to-right"),
    ("anterior-to-posterior", "posterior-to-anterior"),
    ("inferior-to-superior", "superior-to-inferior"),
)
"""RFC-4 words for +x, +y, +z of the patient system (left, posterior, superior), and their opposites."""

ALIGNED = math.cos(math.radians(30))
"""An axis is called by an anatomical direction when it lies within 30 degrees of it."""

CHANNEL_COLOURS = ("FF0000", "00FF00", "0000FF")


def group_documents(
    info: ImageInfo, levels: Sequence[int], name: str, downsampling: str
) -> dict[str, dict[str, Any]]:
    """Attributes of each group and array of an image, by path relative to the image group ("" is itself).

    ``levels`` are the stored ones, finest first, beginning with 0. Medical: "" and one array per level.
    Satellite: "", and per level the group and its arrays ``data`` and (with a mask) ``mask``; for ``x``,
    ``y`` and ``spatial_ref`` see `coordinate_arrays`. All values are JSON. Raises `InvalidRequest`.
    """
    _check(levels, downsampling)
    if info.kind == "medical":
        documents = {"": medical_group(info, levels, name, downsampling)}
        for level in levels:
            documents[array_path(info, level)] = {"tilevault": {"level": level, "downsampling": downsampling}}
        return documents
    documents = {"": satellite_group(info, levels, name, downsampling)}
    for level in levels:
        documents[str(level)] = satellite_level(info, level, downsampling)
        documents[array_path(info, level)] = satellite_data(info, level, downsampling)
        if info.has_mask:
            documents[mask_path(level)] = satellite_mask(info, level, downsampling)
    return documents


def coordinate_arrays(info: ImageInfo, levels: Sequence[int], downsampling: str) -> dict[str, Array]:
    """The small arrays beside the data, by path: (values, dimension names, attributes).

    Satellite: ``<level>/spatial_ref`` (int64 scalar) always, ``<level>/x`` and ``<level>/y`` (float64 pixel
    centres in CRS units) unless the image is rotated or has no transform. Medical: none.
    """
    _check(levels, downsampling)
    if info.kind == "medical":
        return {}
    return {
        f"{level}/{name}": array
        for level in levels
        for name, array in coordinates(info, level, downsampling).items()
    }


def array_path(info: ImageInfo, level: int) -> str:
    """Where the pixels of ``level`` lie, relative to the image group."""
    return str(level) if info.kind == "medical" else f"{level}/data"


def mask_path(level: int) -> str:
    """Where the validity mask of ``level`` lies (satellite images with a mask)."""
    return f"{level}/mask"


def medical_group(info: ImageInfo, levels: Sequence[int], name: str, downsampling: str) -> dict[str, Any]:
    """Attributes of a medical image group: ``ome`` (OME-NGFF 0.5) and ``tilevault`` (DICOM geometry).

    Scales are mm per sample along z, y, x where the spacing is known, else 1 without a unit.
    """
    multiscale = {
        "name": name,
        "axes": _axes(info),
        "datasets": [_dataset(info, level, downsampling) for level in levels],
        "type": downsampling,
        "metadata": {"method": DOWNSAMPLINGS[downsampling]},
    }
    ome: dict[str, Any] = {"version": "0.5", "multiscales": [multiscale]}
    omero = _omero(info)
    if omero:
        ome["omero"] = omero
    own = {
        "kind": info.kind,
        "axes": list(info.axes),
        "downsampling": downsampling,
        "levels": list(levels),
        "bits_stored": info.bits_stored,
        "categorical": info.categorical,
        "source": json_safe(dict(info.attributes)),
    }
    return {"ome": ome, "tilevault": own}


def _check(levels: Sequence[int], downsampling: str) -> None:
    if downsampling not in DOWNSAMPLINGS:
        raise InvalidRequest(f"unknown downsampling {downsampling!r}")
    if not levels or list(levels) != sorted(set(levels)) or levels[0] < 0:
        raise InvalidRequest(f"levels must ascend from the finest: {list(levels)}")


def _spacing(info: ImageInfo, axis: str) -> float | None:
    spacing = (info.attributes.get("spacing") or {}).get(axis)
    if not isinstance(spacing, int | float) or not math.isfinite(spacing) or spacing <= 0:
        return None
    return float(spacing)


def _axes(info: ImageInfo) -> list[dict[str, Any]]:
    orientation = _orientation(info)
    axes = []
    for name in info.axes:
        axis: dict[str, Any] = {"name": name, "type": AXIS_TYPES[name]}
        if AXIS_TYPES[name] == "space":
            if _spacing(info, name) is not None:
                axis["unit"] = "millimeter"
            if orientation:
                axis["orientation"] = {"type": "anatomical", "value": orientation[name]}
        axes.append(axis)
    return axes


def _dataset(info: ImageInfo, level: int, downsampling: str) -> dict[str, Any]:
    step = 1 << level
    scale = [
        (_spacing(info, name) or 1.0) * (step if name in ("y", "x") else 1)
        if AXIS_TYPES[name] == "space"
        else 1.0
        for name in info.axes
    ]
    transformations: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
    if downsampling == "mean" and level:
        offset = [
            (_spacing(info, name) or 1.0) * (step - 1) / 2 if name in ("y", "x") else 0.0
            for name in info.axes
        ]
        transformations.append({"type": "translation", "translation": offset})
    return {"path": str(level), "coordinateTransformations": transformations}


def _orientation(info: ImageInfo) -> dict[str, str] | None:
    """RFC-4 direction of each space axis; None where one is oblique, unknown, or two share a direction.

    PS3.3 C.7.6.2.1.1: the patient system of a quadruped has other words, so it gets none.
    """
    directions = _directions(info)
    if directions is None or info.attributes.get("anatomical_orientation_type") == "QUADRUPED":
        return None
    words, used = {}, set()
    for axis, direction in directions.items():
        length = math.sqrt(sum(v * v for v in direction))
        if not math.isfinite(length) or length == 0:
            return None
        main = max(range(3), key=lambda i, d=direction: abs(d[i]))  # type: ignore[misc] # mypy cannot type d
        if abs(direction[main]) < ALIGNED * length or main in used:
            return None
        used.add(main)
        words[axis] = ORIENTATIONS[main][0 if direction[main] > 0 else 1]
    return words


def _directions(info: ImageInfo) -> dict[str, list[float]] | None:
    """Direction in the patient system in which each space axis grows."""
    affine, cosines = info.attributes.get("affine"), info.attributes.get("orientation")
    space = [name for name in info.axes if AXIS_TYPES[name] == "space"]
    if affine is not None:
        column = {"x": 0, "y": 1, "z": 2}
        return {name: [float(affine[row][column[name]]) for row in range(3)] for name in space}
    if cosines is not None and len(cosines) == 6 and "z" not in space:
        return {"y": [float(v) for v in cosines[3:]], "x": [float(v) for v in cosines[:3]]}
    return None


def _omero(info: ImageInfo) -> dict[str, Any] | None:
    """The display block, or None where there is nothing sound to say: viewers then stretch by themselves."""
    photometric = str(info.attributes.get("photometric") or "")
    if photometric == "PALETTE COLOR" or info.categorical or info.dtype.kind not in "iuf":
        return None
    window = _stored_window(info)
    if window is None:
        return None
    samples = info.shape[info.axes.index("c")] if "c" in info.axes else 1
    labels = list(info.attributes.get("channels") or [])
    if len(labels) != samples:
        labels = [info.attributes.get("modality") or "intensity"] if samples == 1 else list(range(samples))
    rgb = samples == 3 and photometric == "RGB"
    channels = [
        {
            "label": str(labels[i]),
            "color": CHANNEL_COLOURS[i] if rgb else "FFFFFF",
            # The chroma planes of a YBR image are no picture of their own.
            "active": rgb or i == 0,
            "inverted": photometric == "MONOCHROME1",
            "window": window,
        }
        for i in range(samples)
    ]
    return {"channels": channels, "rdefs": {"model": "color" if rgb else "greyscale"}}


def _stored_window(info: ImageInfo) -> dict[str, float] | None:
    """The display window in stored values, which are what a viewer of the Zarr array reads."""
    limits = _value_range(info)
    window = info.attributes.get("window")
    if "c" in info.axes or not isinstance(window, Mapping):
        if limits is None or limits[1] - limits[0] > np.iinfo(np.uint8).max:
            return None if "c" not in info.axes or limits is None else _window(limits, limits)
        return _window(limits, limits)
    rescale = info.attributes.get("rescale") or {}
    slope, intercept = rescale.get("slope", 1.0), rescale.get("intercept", 0.0)
    numbers = (window.get("center"), window.get("width"), slope, intercept)
    if not all(isinstance(v, int | float) and math.isfinite(v) for v in numbers) or not slope:
        return None
    half = float(window["width"]) / 2
    ends = sorted((float(window["center"]) + side - intercept) / slope for side in (-half, half))
    if not ends[0] < ends[1]:
        return None
    return _window(limits or (ends[0], ends[1]), (ends[0], ends[1]))


def _window(limits: tuple[float, float], shown: tuple[float, float]) -> dict[str, float]:
    return {"min": limits[0], "max": limits[1], "start": shown[0], "end": shown[1]}


def _value_range(info: ImageInfo) -> tuple[float, float] | None:
    """Least and greatest value that the significant bits can hold; None for floats."""
    if info.dtype.kind not in "iu":
        return None
    bits = info.bits_stored or info.dtype.itemsize * 8
    if info.dtype.kind == "i":
        return -float(1 << (bits - 1)), float((1 << (bits - 1)) - 1)
    return 0.0, float((1 << bits) - 1)
