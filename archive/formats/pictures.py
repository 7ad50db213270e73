"""Pictures as files, for `tilevault restore`: JPEG, JPEG 2000, PNG and plain TIFF in, PNG and TIFF out.

Not a format of the archive: pictures are neither archived nor read from one. DICOM and GeoTIFF are refused by
what they begin with or carry, because their pixels are data that is archived as it is.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from tilevault.archive.formats.geotiff_gdal import descriptor_path, gdal_env, translated
from tilevault.codecs.errors import (
    InconsistentHeader,
    InvalidRequest,
    LimitExceeded,
    NotRecognized,
    TruncatedSource,
    UnsupportedSyntax,
)

__all__ = ["OUTPUTS", "PictureFile", "read_picture", "write_picture"]

MAX_PIXELS = 1 << 28
OUTPUTS = {".png": "PNG", ".tif": "GTiff", ".tiff": "GTiff"}
"""GDAL's drivers by suffix."""
_BEGINNINGS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x00\x00\x00\x0cjP  \r\n\x87\n": "JP2OpenJPEG",
    b"\xff\x4f\xff\x51": "JP2OpenJPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    **dict.fromkeys((b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"), "GTiff"),
}
NAMES = {"JPEG": "JPEG", "JP2OpenJPEG": "JPEG 2000", "PNG": "PNG", "GTiff": "TIFF"}


@dataclass(frozen=True)
class PictureFile:
    """A decoded picture."""

    samples: NDArray[Any]
    """(bands, y, x), uint8 or uint16: grey, grey and alpha, RGB, or RGB and alpha. As stored: not turned."""
    colours: int
    """1 or 3; a band behind them is alpha."""
    kind: str
    """JPEG, JPEG 2000, PNG or TIFF."""


def read_picture(path: Path) -> PictureFile:
    """Decode the file; JPEG with Pillow, all others with GDAL.

    Raises `NotRecognized` for another kind of file, `UnsupportedSyntax` for DICOM, GeoTIFF, palettes, CMYK,
    several pages and samples other than 8 and 16 bits without sign, `LimitExceeded` above 2^28 pixels,
    `InvalidRequest` where there is no file, `TruncatedSource` and `InconsistentHeader` for damage.
    """
    try:
        with path.open("rb") as file:
            driver = _driver(file.read(132), path)
            file.seek(0)
            if driver == "JPEG":
                return _jpeg(file, path)
            with gdal_env(), translated(str(path)), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a missing georeference
                name = descriptor_path(file.fileno(), str(path))
                with rasterio.open(name, driver=driver, sharing=False) as dataset:
                    colours = _checked(dataset, path)
                    return PictureFile(dataset.read(), colours, NAMES[driver])
    except OSError as failure:
        raise InvalidRequest(f"cannot read {path}: {failure.strerror or failure}") from failure


def _jpeg(file: BinaryIO, path: Path) -> PictureFile:
    """GDAL repeats subsampled chroma where libjpeg's default, which encoders count on, interpolates it."""
    try:
        from PIL import Image
    except ImportError as error:
        raise InvalidRequest(
            f"reading JPEG needs Pillow, the extra `learned` of tilevault: {error}"
        ) from error
    try:
        picture = Image.open(file, formats=["JPEG"])
        _check_size(*picture.size, path)
        if picture.mode not in ("L", "RGB"):
            raise UnsupportedSyntax(f"{path} has colours of the kind {picture.mode}: neither grey nor RGB")
        samples = np.asarray(picture)
    except Image.DecompressionBombError as error:
        raise LimitExceeded(f"{path}: {error}") from error
    except (OSError, SyntaxError, ValueError) as error:
        kind = TruncatedSource if "truncated" in str(error) else InconsistentHeader
        raise kind(f"{path}: {error}") from error
    planes = samples[np.newaxis] if samples.ndim == 2 else np.ascontiguousarray(np.moveaxis(samples, 2, 0))
    return PictureFile(planes, len(planes), "JPEG")


def _driver(head: bytes, path: Path) -> str:
    if head[128:132] == b"DICM":
        raise UnsupportedSyntax(f"{path} is DICOM: archived as it is, never restored")
    for beginning, driver in _BEGINNINGS.items():
        if head.startswith(beginning):
            return driver
    raise NotRecognized(f"{path} is no JPEG, JPEG 2000, PNG or TIFF file")


def _checked(dataset: Any, path: Path) -> int:
    """The number of colours of a dataset that is a picture."""
    interpretation = dataset.colorinterp
    _check_size(dataset.width, dataset.height, path)
    if dataset.driver == "GTiff" and (dataset.crs or dataset.gcps[0] or not dataset.transform.is_identity):
        raise UnsupportedSyntax(f"{path} is a GeoTIFF: archived as it is, never restored")
    if dataset.subdatasets:
        raise UnsupportedSyntax(f"{path} has several pages")
    if ColorInterp.palette in interpretation:
        raise UnsupportedSyntax(f"{path} has a palette: its samples are no intensities")
    if dataset.tags(ns="IMAGE_STRUCTURE").get("SOURCE_COLOR_SPACE") == "CMYK":
        raise UnsupportedSyntax(f"{path} has the colours of a print")
    if set(dataset.dtypes) not in ({"uint8"}, {"uint16"}):
        raise UnsupportedSyntax(f"{path} has samples of {dataset.dtypes[0]}, not of 8 or 16 bits")
    alpha = dataset.count in (2, 4) and ColorInterp.alpha in interpretation[-1:]
    colours = dataset.count - alpha
    if colours not in (1, 3):
        raise UnsupportedSyntax(f"{path} has {dataset.count} bands: neither grey nor RGB")
    return int(colours)


def _check_size(width: int, height: int, path: Path) -> None:
    if width * height > MAX_PIXELS:
        raise LimitExceeded(f"{path} has {width} x {height} pixels, more than {MAX_PIXELS}")


def write_picture(path: Path, suffix: str, samples: NDArray[Any], said: str) -> None:
    """Write ``samples``, (bands, y, x) uint8 or uint16, losslessly, as PNG or TIFF by ``suffix``.

    Two and four bands end with alpha. ``said`` goes into the file's description. ``path`` is overwritten.
    """
    driver = OUTPUTS[suffix]
    options = {"WRITE_METADATA_AS_TEXT": "YES"}
    if driver == "GTiff":
        options = {"compress": "deflate", "BIGTIFF": "IF_SAFER"}
    bands, height, width = samples.shape
    if driver == "GTiff" and bands > 2:
        options["photometric"] = "RGB"
    if driver == "GTiff" and bands in (2, 4):
        options["alpha"] = "YES"
    profile = {
        "driver": driver,
        "dtype": samples.dtype.name,
        "count": bands,
        "height": height,
        "width": width,
    }
    name = "Description" if driver == "PNG" else "TIFFTAG_IMAGEDESCRIPTION"
    with gdal_env(), translated(f"cannot write {path.name}"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", **profile, **options) as dataset:
            dataset.update_tags(**{name: said})
            dataset.write(np.ascontiguousarray(samples))
