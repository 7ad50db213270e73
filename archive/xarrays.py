"""An archived image as an `xarray.DataArray` that reads, checked, when it is used.

It holds what ``xarray.open_zarr(..., mask_and_scale=False)`` finds in a level group: stored values, with
nodata, scale, offset, unit and names as CF attributes. Only `Image.to_xarray` imports this module, because
xarray is an extra.
"""

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from tilevault.archive import metadata
from tilevault.archive.geo_metadata import satellite_data
from tilevault.archive.image import ImageInfo, window_of
from tilevault.codecs.errors import InvalidRequest, ManifestCorrupt

if TYPE_CHECKING:
    from tilevault.archive.store import Image

__all__ = ["to_xarray"]

_CF_ATTRIBUTES = ("scale_factor", "add_offset", "units", "long_name")
_STACKED = ("t", "z", "frame")
_MM = {"units": "mm"}
_Factors = tuple[NDArray[np.float64], NDArray[np.float64]]


class _Lazy(BackendArray):
    """Reads what an indexer asks for and no more; with ``factors`` float64 values: slope, intercept."""

    def __init__(self, image: "Image", level: int, factors: _Factors | None) -> None:
        self.image, self.level, self.factors = image, level, factors
        self.shape = image.level_shape(level)
        self.dtype = image.dtype if factors is None else np.dtype(np.float64)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        basic = indexing.IndexingSupport.BASIC
        return indexing.explicit_indexing_adapter(key, self.shape, basic, self._read)

    def _read(self, key: tuple[Any, ...]) -> Any:
        window, index = window_of(key, self.shape)
        words = np.asarray(self.image.read(window, self.level)[index])
        if self.factors is None:
            return words
        slope, intercept = (np.broadcast_to(factor, self.shape)[key] for factor in self.factors)
        return words * slope + intercept


def to_xarray(image: "Image", level: int, units: str | None) -> xarray.DataArray:
    """See `Image.to_xarray`."""
    shape, info = image.level_shape(level), image.info
    assert info is not None, "an image without pixels has no levels"
    try:
        factors = None if units is None else _factors(info, units)
        lazy = indexing.LazilyIndexedArray(_Lazy(image, level, factors))
        with np.errstate(invalid="raise", over="raise"):
            coords = _coordinates(image, info, shape, level)
        array = xarray.DataArray(
            xarray.Variable(info.axes, lazy),
            coords=coords,
            name=image.description.name,
            attrs=_attributes(image, info, level, units),
        )
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ManifestCorrupt(f"image {image.id}: its coordinates make no sense: {error}") from error
    if info.kind == "satellite":
        array.encoding["grid_mapping"] = "spatial_ref"
    return array


def _attributes(image: "Image", info: ImageInfo, level: int, units: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {"tilevault_image": image.id, "tilevault_generation": image.generation}
    if units is not None:
        found["units"] = _unit(info)
    if info.kind != "satellite":
        return found
    described = satellite_data(info, level, image.downsampling or "mean")
    found |= {name: described[name] for name in _CF_ATTRIBUTES if name in described}
    nodata = metadata.nodata_word(info)
    return found if nodata is None else {**found, "_FillValue": nodata}


def _coordinates(image: "Image", info: ImageInfo, shape: tuple[int, ...], level: int) -> dict[str, Any]:
    """Names of bands; pixel centres: of the map for satellite images, in mm for medical ones."""
    downsampling = image.downsampling or "mean"
    coords = _channels(info)
    if info.kind == "satellite":
        for path, (words, dims, attrs) in metadata.coordinate_arrays(info, (level,), downsampling).items():
            coords[path.rpartition("/")[2]] = (dims, words, attrs)
        return coords
    return coords | _centres(info, shape, level, downsampling) | _positions(info)


def _channels(info: ImageInfo) -> dict[str, Any]:
    """``c``: what each band or channel is called, where the image says so."""
    if info.kind == "satellite":
        bands = info.attributes.get("bands") or []
        names = [band.get("description") or f"band {i}" for i, band in enumerate(bands, 1)]
    else:
        names = info.attributes.get("channels") or []
    fits = "c" in info.axes and len(names) == info.shape[info.axes.index("c")]
    return {"c": ("c", [str(name) for name in names])} if fits else {}


def _centres(info: ImageInfo, shape: tuple[int, ...], level: int, downsampling: str) -> dict[str, Any]:
    """``z``, ``y``, ``x``: mm along the image's own axes from the origin of the patient system.

    Of an axial image they are the patient's z, y and x (LPS). ``z`` is measured along the plane normal, ``y``
    and ``x`` are those of the first plane. Without position and orientation: mm from the first sample.
    """
    spacing: Mapping[str, float] = info.attributes.get("spacing") or {}
    positions, cosines = info.attributes.get("positions"), info.attributes.get("orientation")
    step = 1 << level
    shift = (step - 1) / 2 if downsampling == "mean" else 0.0
    directions: dict[str, Any] = {}
    if positions and cosines:
        directions = {"x": cosines[:3], "y": cosines[3:], "z": np.cross(cosines[:3], cosines[3:])}
    coords = {}
    for name, extent in zip(info.axes, shape, strict=True):
        start = np.dot(positions[0], directions[name]) if name in directions and positions else 0.0
        if name == "z" and directions and positions and len(positions) == extent:
            millimetres = np.asarray(positions, np.float64) @ directions["z"]
        elif name in spacing:
            samples = np.arange(extent) * step + shift if name in ("y", "x") else np.arange(extent)
            millimetres = start + samples * spacing[name]
        else:
            continue
        coords[name] = (name, millimetres, _MM)
    return coords


def _positions(info: ImageInfo) -> dict[str, Any]:
    """``patient_x``, ``patient_y``, ``patient_z`` along z or frame: ImagePositionPatient (LPS, mm)."""
    positions = info.attributes.get("positions")
    along = [name for name in ("z", "frame") if name in info.axes]
    count = info.shape[info.axes.index(along[0])] if along else 1
    if not positions or len(positions) != count:
        return {}
    columns = np.asarray(positions, np.float64).reshape(count, 3).T
    return {
        f"patient_{name}": (along, column if along else column[0], _MM)
        for name, column in zip("xyz", columns, strict=True)
    }


def _unit(info: ImageInfo) -> str | None:
    rescale = info.attributes.get("rescale")
    return str(rescale.get("type", "HU")) if rescale else None


def _factors(info: ImageInfo, units: str) -> _Factors:
    """Slope and intercept, as arrays that spread over the image, where ``units`` is what they give."""
    unit = _unit(info)
    if unit is None or unit.upper() != units.upper():
        raise InvalidRequest(f"the image is not rescalable to {units!r}; its unit is {unit or 'none'}")
    rescale = info.attributes["rescale"]
    return _spread(info, rescale["slope"]), _spread(info, rescale["intercept"])


def _spread(info: ImageInfo, factor: Any) -> NDArray[np.float64]:
    """One number for all, one per stacked position (C order), or one per z where every t has the same."""
    numbers = np.asarray(factor, np.float64)
    if numbers.ndim == 0:
        return numbers
    stacked = [n if name in _STACKED else 1 for name, n in zip(info.axes, info.shape, strict=True)]
    if numbers.size != prod(stacked):
        stacked = [n if name == "z" else 1 for name, n in zip(info.axes, info.shape, strict=True)]
    return numbers.reshape(stacked)
