"""What each installed reader makes of an image as it lies on disk: zarr, xarray, rioxarray, OME-NGFF, GDAL.

The readers of other people change, and each takes from a store what it knows. So nothing is claimed here:
each reader opens the image, and the finding is what it said.
"""

import importlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tilevault.archive.geo_metadata import level_transform
from tilevault.archive.image import ImageInfo, Window
from tilevault.archive.metadata import array_path
from tilevault.codecs.errors import TilevaultError, UnsupportedSyntax

if TYPE_CHECKING:
    from tilevault.archive.store import Archive, Image

__all__ = ["ABSENT", "FAULT", "LIMITED", "OK", "Finding", "look_at", "one_of_each_kind", "said", "version_of"]

OK, LIMITED, ABSENT, FAULT = "ok", "limited", "absent", "fault"
WINDOW_SIDE = 256
"""Rows and columns that are read of an image."""
ROUNDING = 1e-6
"""Pixels by which a corner may be off that went through float64 pixel centres."""
SEARCHED = 1000
"""Images that are looked at for one of each kind, at most."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    status: str
    """``ok``; ``limited`` (as expected, but less than one might wish); ``absent`` (optional); ``fault``."""
    detail: str
    subject: str = "installation"
    """``installation``, or the id of the image."""
    exit_code: int = 0
    """What a fault makes of the command."""


def version_of(name: str) -> str | None:
    """Version of an installed package; None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def one_of_each_kind(archive: "Archive") -> list["Image"]:
    """The first DICOM and the first GeoTIFF image with pixels."""
    chosen: dict[str, Image] = {}
    for seen, name in enumerate(archive):
        image = archive[name]
        kind = str(image.summary.get("kind"))
        if image.summary.get("shape") is not None and kind not in chosen:
            chosen[kind] = image
        if len(chosen) == 2 or seen >= SEARCHED:
            break
    return list(chosen.values())


def look_at(image: "Image") -> Iterator[Finding]:
    """What our own checked read, and then every other reader, makes of ``image``."""
    try:
        info = _info(image)
        window = _window(info.shape)
        words = image.words[window.slices]
    except TilevaultError as error:
        yield Finding("tilevault", FAULT, f"{error.code}: {error.message}", image.id, error.exit_code)
        return
    yield Finding(
        "tilevault",
        OK,
        f"{info.kind}, {_times(info.shape)} {info.dtype}, levels {list(image.levels)}; "
        f"{prod(window.shape):,} samples read and checked",
        image.id,
    )
    readers: list[tuple[str, str | None, Callable[[Image, Window, Any], tuple[str, str]]]] = [
        ("zarr", "zarr", _zarr),
        ("zarr, coarse levels", "zarr", _coarse),
    ]
    if info.kind == "medical":
        readers.append(("ome-zarr-models", "ome-zarr-models", _ome))
    else:
        readers.append(("xarray", "xarray", _xarray))
        readers.append(("rioxarray", "rioxarray", _rioxarray))
    readers.append(("GDAL", "rasterio", _gdal))
    for name, package, look in readers:
        if package and version_of(package) is None:
            yield Finding(name, ABSENT, "not installed", image.id)
            continue
        yield _looked(name, look, image, window, words)


def _looked(
    name: str,
    look: Callable[["Image", Window, Any], tuple[str, str]],
    image: "Image",
    window: Window,
    words: Any,
) -> Finding:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            status, detail = look(image, window, words)
    except Exception as error:  # what a reader raises, of whatever class, is what it said
        status, detail = FAULT, said(error)
    return Finding(name, status, detail, image.id, 4 if status == FAULT else 0)


def _window(shape: tuple[int, ...]) -> Window:
    """The middle of the first plane, all samples of a pixel."""
    start, stop = [0] * len(shape), [1] * len(shape)
    for i in (-2, -1):
        start[i] = max(0, shape[i] // 2 - WINDOW_SIDE // 2)
        stop[i] = min(shape[i], start[i] + WINDOW_SIDE)
    return Window(tuple(start), tuple(stop))


def _zarr(image: "Image", window: Window, words: Any) -> tuple[str, str]:
    import zarr

    info = _info(image)
    array: Any = zarr.open_group(image.path, mode="r")[array_path(info, 0)]
    if array.shape != info.shape or array.dtype != info.dtype:
        return FAULT, f"sees {array.shape} {array.dtype} instead of {info.shape} {info.dtype}"
    if not np.array_equal(_bits(np.asarray(array[window.slices])), _bits(words)):
        return FAULT, "reads other words than the checked read"
    return (
        OK,
        f"opens the folder as a group; {array_path(info, 0)} has the same words (with our codec installed)",
    )


def _bits(words: Any) -> Any:
    """Compared as bits: NaN is equal to itself, and 0.0 is not -0.0."""
    return np.ascontiguousarray(words).view(np.uint8)


def _coarse(image: "Image", window: Window, words: Any) -> tuple[str, str]:
    import zarr

    info = _info(image)
    group = zarr.open_group(image.path, mode="r")
    levels = image.stored_levels[1:]
    shapes = []
    for level in levels:
        array: Any = group[array_path(info, level)]
        document: dict[str, Any] = dict(array.metadata.to_dict())
        codecs = [str(codec["name"]) for codec in document["codecs"]]
        if any(name.startswith("tilevault") for name in codecs):
            return FAULT, f"level {level} needs our codec: {codecs}"
        np.asarray(array[tuple(slice(0, 1) for _ in array.shape)])
        shapes.append(f"{level} ({_times(array.shape)})")
    if not levels:
        return OK, "none: the image is small"
    return OK, f"readable without our package: {', '.join(shapes)}"


def _ome(image: "Image", window: Window, words: Any) -> tuple[str, str]:
    import zarr

    models = importlib.import_module("ome_zarr_models.v05")
    checked = models.Image.from_zarr(zarr.open_group(image.path, mode="r"))
    multiscale = checked.ome_attributes.multiscales[0]
    axes = " ".join(axis.name for axis in multiscale.axes)
    return (
        OK,
        f"valid OME-NGFF {checked.ome_attributes.version}: axes {axes}, {len(multiscale.datasets)} levels",
    )


def _xarray(image: "Image", window: Window, words: Any) -> tuple[str, str]:
    opened = _opened(image)
    data = opened["data"]
    sizes = ", ".join(f"{name} {n}" for name, n in data.sizes.items())
    found = [name for name in ("x", "y", "spatial_ref") if name in opened.coords]
    return OK, f"opens level 0 as a dataset: {sizes}; coordinates {', '.join(map(str, found)) or 'none'}"


def _rioxarray(image: "Image", window: Window, words: Any) -> tuple[str, str]:
    importlib.import_module("rioxarray")
    data = _opened(image)["data"]
    info = _info(image)
    crs = data.rio.crs
    code = ":".join(crs.to_authority() or ()) or crs.to_wkt()[:40] if crs else "no CRS"
    wkt = info.attributes.get("crs_wkt") or info.attributes.get("gcps_crs_wkt")
    if bool(wkt) != bool(crs) or (wkt and type(crs).from_wkt(wkt) != crs):
        return FAULT, f"finds {code}, which is not the CRS of the image"
    wanted = level_transform(info, 0, "mean")
    if wanted is None:
        return OK, f"{code}, no transform, {_times(data.shape)}"
    found = tuple(float(v) for v in tuple(data.rio.transform())[:6])
    # rioxarray takes the corner from the pixel centres in x and y, half a pixel back: exact to rounding.
    pixel = max(abs(v) for v in (wanted[0], wanted[1], wanted[3], wanted[4]))
    if any(abs(a - b) > ROUNDING * pixel for a, b in zip(found, wanted, strict=True)):
        return FAULT, f"{code}, transform {found} instead of {wanted}"
    return OK, f"{code}, transform {found}, {_times(data.shape)}"


def _opened(image: "Image") -> Any:
    xarray = importlib.import_module("xarray")
    return xarray.open_zarr(image.path / "0", consolidated=False, decode_coords="all")


def _gdal(image: "Image", window: Window, words: Any) -> tuple[str, str]:
    from tilevault.archive.formats.geotiff_probe import gdal_version, open_zarr_array

    where = array_path(_info(image), 0)
    try:
        bands, rows, columns = open_zarr_array(image.path, where)
    except UnsupportedSyntax as error:
        return LIMITED, (
            f"GDAL {gdal_version()} cannot read {where}, as no GDAL knows our codec ({error.message[:80]}); "
            "`tilevault export --format cog` makes files for it"
        )
    return OK, f"opens {where}: {bands} bands, {rows} x {columns}"


def _info(image: "Image") -> ImageInfo:
    """Of an image that was chosen for its pixels."""
    if image.info is None:
        raise UnsupportedSyntax("the summary speaks of pixels and the image has none")
    return image.info


def said(error: BaseException, limit: int = 200) -> str:
    """An exception in one line."""
    words = " ".join(str(error).split())
    told = f"{type(error).__name__}: {words}" if words else type(error).__name__
    return told if len(told) <= limit else f"{told[: limit - 1]}…"


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)
