"""GDAL, on our terms: one file, no neighbours, no network, no sidecar written; every failure our own error.

A file is opened through its descriptor (``/proc/self/fd/N``), so that GDAL sees the very file that was
scanned, whatever happens to its name, and finds no ``.aux.xml``, ``.ovr``, ``.msk`` or world file beside
it. Only the GTiff driver may open it: a VRT in disguise names other files.

`describe` is the list of what "metadata-exact" promises, as JSON values that compare with ``==``.
"""

import contextlib
import logging
import math
import os
import struct
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import MaskFlags
from rasterio.windows import Window as RasterWindow

from tilevault.codecs.errors import (
    InconsistentHeader,
    LimitExceeded,
    TilevaultError,
    TruncatedSource,
    UnsupportedSyntax,
)

__all__ = [
    "DTYPES",
    "TilevaultDataset",
    "describe",
    "descriptor_path",
    "differences",
    "gdal_env",
    "gdal_warnings",
    "has_dataset_mask",
    "open_dataset",
    "read_mask_window",
    "read_window",
    "refuse_patched",
    "translated",
]

TilevaultDataset = Any
"""A rasterio DatasetReader (rasterio ships no types)."""

CACHE_BYTES = 64 << 20
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
DTYPES = frozenset((*INTEGERS, "float32", "float64", "complex64", "complex128"))
"""What a band may be made of, as rasterio names it."""
NOT_PROMISED = frozenset(("IMAGE_STRUCTURE", "DERIVED_SUBDATASETS"))
"""Namespaces that describe the file's layout and what GDAL makes up about it."""
HIDDEN_NAMESPACES = ("COLOR_PROFILE", "EXIF", "xml:XMP", "RPC", "IMAGERY")
"""Namespaces that GDAL fills without always listing them."""

_opening = threading.Lock()
_listener = threading.local()


class _Collect(logging.Handler):
    """Hands what GDAL reports to whoever listens on this thread."""

    def emit(self, record: logging.LogRecord) -> None:
        heard: list[str] | None = getattr(_listener, "heard", None)
        if heard is not None and len(heard) < 1000:
            heard.append(record.getMessage())


logging.getLogger("rasterio").addHandler(_Collect(logging.WARNING))


@contextlib.contextmanager
def gdal_warnings() -> Iterator[list[str]]:
    """Collects what GDAL and libtiff warn about on this thread."""
    before = getattr(_listener, "heard", None)
    heard: list[str] = []
    _listener.heard = heard
    try:
        yield heard
    finally:
        _listener.heard = before


def gdal_env() -> Any:
    """The settings under which every GDAL call of this package runs (they hold for this thread)."""
    return rasterio.Env(
        GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR",
        GDAL_PAM_ENABLED=False,
        GDAL_CACHEMAX=CACHE_BYTES,
        GDAL_NUM_THREADS=1,
        GDAL_TIFF_INTERNAL_MASK=True,
        CPL_VSIL_CURL_ALLOWED_EXTENSIONS=".none",
        CPL_DEBUG=False,
        PROJ_NETWORK=False,
    )


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Foreign exceptions inside become our own, with GDAL's last message in them."""
    try:
        yield
    except TilevaultError:
        raise
    except MemoryError as error:
        raise LimitExceeded(f"{what}: out of memory") from error
    except Exception as error:
        # rasterio raises some twenty classes here, from RasterioIOError to plain ValueError.
        raise _translation(what, error) from error


def _translation(what: str, error: Exception) -> TilevaultError:
    cause = error.__cause__ or error
    message = " ".join(str(cause).split()) or type(cause).__name__
    if isinstance(cause, UnicodeDecodeError):
        return UnsupportedSyntax(f"{what}: the CRS's name is not UTF-8, which rasterio needs: {message}")
    lower = message.lower()
    if "codec" in lower and ("missing" in lower or "not configured" in lower or "unsupported" in lower):
        return UnsupportedSyntax(f"{what}: {message}")
    if any(sign in lower for sign in ("not enough data", "premature", "read error", "short")):
        return TruncatedSource(f"{what}: {message}")
    return InconsistentHeader(f"{what}: {message}")


def descriptor_path(fd: int, path: str) -> str:
    """A name for GDAL that stands for the open file itself."""
    return f"/proc/self/fd/{fd}" if sys.platform.startswith("linux") else os.path.realpath(path)


@contextlib.contextmanager
def open_dataset(fd: int, path: str) -> Iterator[TilevaultDataset]:
    """The open file as a rasterio dataset; the caller keeps the descriptor open and enters `gdal_env`."""
    with translated("cannot be opened"), _opening, warnings.catch_warnings():
        # rasterio warns of a missing geotransform with a Python warning, whose filters are global:
        # hence the lock. Whether there is one is recorded, see `describe`.
        warnings.simplefilter("ignore")
        dataset = _open(descriptor_path(fd, path))
        if dataset.tags(ns="IMAGE_STRUCTURE").get("SOURCE_COLOR_SPACE") == "CMYK":
            # GDAL turns 8-bit CMYK into RGBA, from which there is no way back.
            dataset.close()
            dataset = _open(f"GTIFF_RAW:{descriptor_path(fd, path)}")
    try:
        yield dataset
    finally:
        dataset.close()


def _open(name: str) -> TilevaultDataset:
    return rasterio.open(name, driver="GTiff", sharing=False, GEOREF_SOURCES="INTERNAL")


def _raster_window(y: slice, x: slice) -> RasterWindow:
    """rasterio's window of a half-open row and column range."""
    return RasterWindow(x.start, y.start, x.stop - x.start, y.stop - y.start)


def has_dataset_mask(dataset: TilevaultDataset) -> bool:
    """Whether the file holds a mask of its own: neither nodata nor an alpha band."""
    flags = [set(f) for f in dataset.mask_flag_enums]
    if not all(flags):
        raise UnsupportedSyntax("a mask per band")
    own = [MaskFlags.per_dataset in f and MaskFlags.alpha not in f for f in flags]
    if any(own) and not all(own):
        raise UnsupportedSyntax("a mask that goes with some bands only")
    return all(own)


def describe(dataset: TilevaultDataset) -> dict[str, Any]:
    """All that metadata-exact promises of a dataset but the pixels: JSON values."""
    bands = range(1, dataset.count + 1)
    gcps, gcps_crs = dataset.gcps
    names = zip(dataset.descriptions, dataset.units, dataset.scales, dataset.offsets, strict=True)
    transform = None if _identity(dataset) else [_number(v) for v in tuple(dataset.transform)[:6]]
    return {
        "width": dataset.width,
        "height": dataset.height,
        "dtypes": list(dataset.dtypes),
        "nodata": [_number(v) for v in dataset.nodatavals],
        "masks": [sorted(f.name for f in flags) for flags in dataset.mask_flag_enums],
        "color_interp": [c.name for c in dataset.colorinterp],
        "colormaps": {str(b): table for b in bands if (table := _colormap(dataset, b)) is not None},
        "crs_wkt": _wkt(dataset.crs),
        "transform": transform,
        "gcps": [[_number(v) for v in (g.row, g.col, g.x, g.y, g.z)] + [g.id, g.info] for g in gcps],
        "gcps_crs_wkt": _wkt(gcps_crs),
        "rpcs": _plain(dataset.rpcs.to_dict()) if dataset.rpcs is not None else None,
        "tags": _namespaces(dataset, 0),
        "bands": [
            {
                "description": description,
                "unit": unit,
                "scale": _number(scale),
                "offset": _number(offset),
                "tags": _namespaces(dataset, b),
            }
            for b, (description, unit, scale, offset) in zip(bands, names, strict=True)
        ],
    }


def _identity(dataset: TilevaultDataset) -> bool:
    return tuple(dataset.transform)[:6] == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def _wkt(crs: Any) -> dict[str, str] | None:
    """The CRS in WKT2:2019 (where PROJ can say it so) and as GDAL gives it."""
    if not crs:
        return None
    found = {"gdal": crs.to_wkt()}
    with contextlib.suppress(Exception):
        found["wkt2"] = crs.to_wkt(version="WKT2_2019")
    return found


def _colormap(dataset: TilevaultDataset, band: int) -> list[list[int]] | None:
    try:
        table: Mapping[int, tuple[int, ...]] = dataset.colormap(band)
    except ValueError:  # rasterio's way to say that there is none
        return None
    return [list(table[i]) for i in sorted(table)]


def _namespaces(dataset: TilevaultDataset, band: int) -> dict[str, dict[str, str]]:
    listed = {n for n in dataset.tag_namespaces(band) if n} | {"", *HIDDEN_NAMESPACES}
    found = {}
    for name in sorted(listed - NOT_PROMISED):
        tags = dataset.tags(band, ns=name or None)  # rasterio leaves out what is not UTF-8
        if tags:
            found[name] = {str(k): str(v) for k, v in tags.items()}
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return _number(value) if isinstance(value, int | float) else value


def _number(value: float | None) -> float | int | str | None:
    """A JSON value that is equal only for equal bits: NaN and infinities become text."""
    if value is None or isinstance(value, int):
        return value
    value = float(value)
    if math.isfinite(value) and not (value == 0 and math.copysign(1, value) < 0):
        return value
    return f"float64:{struct.pack('>d', value).hex()}"


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Where two descriptions differ, one line each."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [
            line
            for key in sorted(a.keys() | b.keys())
            for line in differences(a.get(key), b.get(key), f"{where}.{key}" if where else key)
        ]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [
            line
            for i, (x, y) in enumerate(zip(a, b, strict=True))
            for line in differences(x, y, f"{where}[{i}]")
        ]
    return [] if a == b and type(a) is type(b) else [f"{where}: {_short(a)} != {_short(b)}"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def read_window(
    dataset: TilevaultDataset, box: tuple[slice, slice, slice], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Words of a box of bands (counted from 0), rows and columns, as (band, y, x)."""
    bands, y, x = box
    shape = (bands.stop - bands.start, y.stop - y.start, x.stop - x.start)
    out = np.empty(shape, dtype)
    if out.size:
        dataset.read(
            list(range(bands.start + 1, bands.stop + 1)), window=_raster_window(y, x), out=out, masked=False
        )
    return out


def read_mask_window(dataset: TilevaultDataset, y: slice, x: slice) -> NDArray[np.uint8]:
    """The dataset's own mask of a window, 0 or 255, as (y, x)."""
    out = np.empty((y.stop - y.start, x.stop - x.start), np.uint8)
    if out.size:
        dataset.read_masks(1, window=_raster_window(y, x), out=out)
    return out


def refuse_patched(heard: list[str]) -> None:
    """Raise `TruncatedSource` where a decoder only warned that it filled in what was missing."""
    for message in heard:
        if any(sign in message.lower() for sign in ("premature", "corrupt", "not enough data", "bad code")):
            raise TruncatedSource(f"a block does not decode: {message}")
