"""An archived image as an `xarray.DataArray` that reads, checked, when it is used."""

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tilevault.archive import metadata
from tilevault.archive.image import ImageInfo, window_of
from tilevault.codecs.errors import InvalidRequest, ManifestCorrupt, UnsupportedSyntax

if TYPE_CHECKING:
    from tilevault.archive.store import Image

__all__ = ["to_xarray"]


def to_xarray(image: "Image", level: int, units: str | None) -> Any:
    """See `Image.to_xarray`. Raises `UnsupportedSyntax` if xarray is not installed."""
    try:
        import xarray
        from xarray.core import indexing
    except ImportError as error:
        raise UnsupportedSyntax("xarray is not installed: pip install tilevault[xarray]") from error
    info = image.info
    if info is None:
        raise InvalidRequest(f"image {image.id} holds no pixels")

    class Lazy(xarray.backends.BackendArray):
        """Reads what an indexer asks for and no more."""

        shape = image.level_shape(level)
        dtype = image.dtype

        def __getitem__(self, key: Any) -> Any:
            return indexing.explicit_indexing_adapter(
                key, self.shape, indexing.IndexingSupport.BASIC, lambda basic: _basic(image, level, basic)
            )

    lazy = indexing.LazilyIndexedArray(Lazy())
    attributes = {"tilevault_image": image.id, "tilevault_generation": image.generation}
    try:
        coords = _coordinates(image, info, level)
        variable = xarray.Variable(info.axes, lazy)
        array = xarray.DataArray(variable, coords=coords, name=image.description.name, attrs=attributes)
        return array if units is None else _rescaled(array, info, units)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ManifestCorrupt(f"image {image.id}: its coordinates make no sense: {error}") from error


def _basic(image: "Image", level: int, key: tuple[Any, ...]) -> Any:
    window, index = window_of(key, image.level_shape(level))
    return np.asarray(image.read(window, level)[index])


def _coordinates(image: "Image", info: ImageInfo, level: int) -> dict[str, Any]:
    """Pixel centres: map coordinates for satellite images, millimetres for medical ones that know theirs."""
    downsampling = image.downsampling or "mean"
    if info.kind == "satellite":
        found = metadata.coordinate_arrays(info, (level,), downsampling)
        named = {path.rpartition("/")[2]: array for path, array in found.items()}
        return {name: (dims, words, attrs) for name, (words, dims, attrs) in named.items()}
    spacing: Mapping[str, float] = info.attributes.get("spacing") or {}
    step = float(1 << level)
    shift = (step - 1) / 2 if downsampling == "mean" else 0.0
    coords = {}
    for name, extent in zip(info.axes, image.level_shape(level), strict=True):
        if name in spacing:
            scale, offset = (step, shift) if name in ("y", "x") else (1.0, 0.0)
            millimetres = (np.arange(extent) * scale + offset) * spacing[name]
            coords[name] = (name, millimetres, {"units": "mm"})
    return coords


def _rescaled(array: Any, info: ImageInfo, units: str) -> Any:
    """Stored values times slope plus intercept, where the modality's unit is the one asked for."""
    rescale = info.attributes.get("rescale")
    if not rescale or str(rescale.get("type", "HU")).upper() != units.upper():
        known = rescale.get("type") if rescale else "none"
        raise InvalidRequest(f"the image is not rescalable to {units!r}; its unit is {known}")
    slope, intercept = rescale["slope"], rescale["intercept"]
    if isinstance(slope, list):
        slope, intercept = (_along_stack(array, info, each) for each in (slope, intercept))
    rescaled = array * slope + intercept
    rescaled.attrs = {**array.attrs, "units": units}
    return rescaled


def _along_stack(array: Any, info: ImageInfo, each: list[float]) -> Any:
    """One number per stacked position (C order), or per z where every t has the same."""
    names = [name for name in info.axes if name not in ("c", "y", "x")]
    if len(each) != prod(array.sizes[name] for name in names):
        names = ["z"]
    return type(array)(np.reshape(each, [array.sizes[name] for name in names]), dims=names)
