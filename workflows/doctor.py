"""``tilevault doctor``: what is installed, and what each installed reader makes of an archive.

The readers of other people change, and each takes from a store what it knows. So nothing is claimed here:
each reader that is there opens an image as it lies on disk, and the finding is what it said.
"""

import importlib
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tilevault.archive.geo_metadata import level_transform
from tilevault.archive.image import Window
from tilevault.archive.metadata import array_path
from tilevault.codecs.errors import TilevaultError
from tilevault.workflows.console import Console, printable

if TYPE_CHECKING:
    from tilevault.archive.store import Archive, Image

__all__ = ["Finding", "doctor", "examine"]

OK, LIMITED, ABSENT, FAULT = "ok", "limited", "absent", "fault"
REQUIRED = (
    "numpy", "zarr", "zstandard", "blake3", "google-crc32c", "dask", "distributed", "pydicom", "rasterio",
    "pyproj", "rich",
)  # fmt: skip
OPTIONAL = {
    "imagecodecs": "pixels of encapsulated DICOM (extra dicom)",
    "xarray": "to_xarray (extra xarray)",
    "rioxarray": "CRS and transform in xarray (extra xarray)",
    "rio-cogeo": "validation of exported COGs (extra cog)",
    "ome-zarr-models": "validation of OME-NGFF",
    "torch": "learned codecs (extra learned)",
}
WINDOW_SIDE = 256
"""Rows and columns that are read of an image."""
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


def examine(archive: str | None, console: Console) -> int:
    """Print the findings; returns 0, or the exit code of the gravest fault."""
    findings = doctor(archive)
    subject = None
    for finding in findings:
        if finding.subject != subject:
            subject = finding.subject
            console.line(subject if subject == "installation" else f"image {subject}")
        console.record(
            "finding",
            subject=finding.subject,
            name=finding.name,
            status=finding.status,
            detail=finding.detail,
        )
        console.line(f"  {finding.status:<8} {finding.name:<24} {printable(finding.detail)}")
    faults = [finding for finding in findings if finding.status == FAULT]
    console.record("total", findings=len(findings), faults=len(faults))
    console.line(f"{len(faults)} fault{'' if len(faults) == 1 else 's'} in {len(findings)} findings")
    return max((finding.exit_code for finding in faults), default=0)


def doctor(archive: "str | os.PathLike[str] | Archive | None" = None) -> list[Finding]:
    """Look at the installation and, with an archive, at its first medical and first satellite image.

    Raises what opening the archive raises; whatever a reader does with an image is a finding.
    """
    from tilevault.archive.store import Archive

    findings = list(_installation())
    if archive is None:
        return findings
    opened = archive if isinstance(archive, Archive) else Archive.open(os.fspath(archive))
    chosen = _one_of_each_kind(opened)
    if not chosen:
        findings.append(Finding("images", OK, "none with pixels", "archive"))
    for image in chosen:
        findings.extend(_image(image))
    return findings


# -- installation ----------------------------------------------------------------------------------------


def _installation() -> Iterator[Finding]:
    yield Finding("tilevault", OK, _version("tilevault") or "not installed as a package")
    yield Finding("python", OK, f"{platform.python_version()}, {platform.machine()}, {sys.platform}")
    yield Finding("processors", OK, str(_processors()))
    for name in REQUIRED:
        version = _version(name)
        yield Finding(name, OK if version else FAULT, version or "missing", exit_code=0 if version else 70)
    yield _gdal()
    for name, use in OPTIONAL.items():
        version = _version(name)
        yield Finding(name, OK if version else ABSENT, version or f"not installed: no {use}")
    yield _native()
    yield from _codecs()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processors() -> int:
    """Those that this process may use, which in a container are fewer than the machine has."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _gdal() -> Finding:
    try:
        version = importlib.import_module("rasterio").__gdal_version__
    except Exception as error:  # a broken binary package fails in ways of its own
        return Finding("GDAL", FAULT, _said(error), exit_code=70)
    return Finding("GDAL", OK, f"{version}, in rasterio")


def _native() -> Finding:
    try:
        native = importlib.import_module("tilevault.codecs._native")
    except ImportError as error:
        return Finding("native core", FAULT, _said(error), exit_code=70)
    active = getattr(native, "simd", None)
    path = active() if callable(active) else active
    return Finding("native core", OK, f"loaded; SIMD path: {path or 'the one it was compiled for'}")


def _codecs() -> Iterator[Finding]:
    """Whether Zarr, asked as any program would ask it, finds our codecs."""
    found = {entry.name: entry for entry in metadata.entry_points(group="zarr.codecs")}
    for name in ("tilevault.lossless", "tilevault.frame"):
        try:
            entry = found[name].load()
            yield Finding(f"codec {name}", OK, f"found by Zarr: {entry.__module__}.{entry.__qualname__}")
        except KeyError:
            yield Finding(f"codec {name}", FAULT, "no entry point: install the package again", exit_code=70)
        except Exception as error:  # whatever its import raises
            yield Finding(f"codec {name}", FAULT, _said(error), exit_code=70)


# -- an image --------------------------------------------------------------------------------------------


def _one_of_each_kind(archive: "Archive") -> list["Image"]:
    chosen: dict[str, Image] = {}
    for seen, name in enumerate(archive):
        image = archive[name]
        kind = str(image.summary.get("kind"))
        if image.summary.get("shape") is not None and kind not in chosen:
            chosen[kind] = image
        if len(chosen) == 2 or seen >= SEARCHED:
            break
    return list(chosen.values())


def _image(image: "Image") -> Iterator[Finding]:
    try:
        info = image.info
        assert info is not None  # chosen by its shape
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
    readers.append(("GDAL", "rasterio", _gdal_reader))
    for name, package, look in readers:
        if package and _version(package) is None:
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
        status, detail = FAULT, _said(error)
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

    info = image.info
    assert info is not None
    array = zarr.open_group(image.path, mode="r")[array_path(info, 0)]
    assert isinstance(array, zarr.Array)
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

    info = image.info
    assert info is not None
    group = zarr.open_group(image.path, mode="r")
    levels = image.stored_levels[1:]
    shapes = []
    for level in levels:
        array = group[array_path(info, level)]
        assert isinstance(array, zarr.Array)
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
    info = image.info
    assert info is not None
    crs = data.rio.crs
    code = ":".join(crs.to_authority() or ()) or crs.to_wkt()[:40] if crs else "no CRS"
    wkt = info.attributes.get("crs_wkt") or info.attributes.get("gcps_crs_wkt")
    if bool(wkt) != bool(crs) or (wkt and type(crs).from_wkt(wkt) != crs):
        return FAULT, f"finds {code}, which is not the CRS of the image"
    wanted = level_transform(info, 0, "mean")
    if wanted is None:
        return OK, f"{code}, no transform, {_times(data.shape)}"
    found = tuple(float(v) for v in tuple(data.rio.transform())[:6])
    if found != wanted:
        return FAULT, f"{code}, transform {found} instead of {wanted}"
    return OK, f"{code}, transform {found}, {_times(data.shape)}"


def _opened(image: "Image") -> Any:
    xarray = importlib.import_module("xarray")
    return xarray.open_zarr(image.path / "0", consolidated=False, decode_coords="all")


def _gdal_reader(image: "Image", window: Window, words: Any) -> tuple[str, str]:
    rasterio = importlib.import_module("rasterio")
    info = image.info
    assert info is not None
    where = array_path(info, 0)
    try:
        with rasterio.open(f'ZARR:"{image.path}":/{where}') as dataset:
            return OK, f"opens {where}: {dataset.count} bands, {dataset.height} x {dataset.width}"
    except Exception as error:  # rasterio passes on GDAL's own, and raises some of its own
        return LIMITED, (
            f"GDAL {rasterio.__gdal_version__} cannot read {where}, as no GDAL knows our codec "
            f"({_said(error, 80)}); `tilevault export --format cog` makes files for it"
        )


def _said(error: BaseException, limit: int = 200) -> str:
    words = " ".join(str(error).split())
    told = f"{type(error).__name__}: {words}" if words else type(error).__name__
    return told if len(told) <= limit else f"{told[: limit - 1]}…"


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)
