"""GeoTIFF out of the archive: the original again, a cloud-optimized copy, and the proof that they are equal.

`write_original` makes a file that rasterio cannot tell from the source in anything that "metadata-exact"
promises; `prove_metadata` shows that for the metadata before a pixel is archived; `compare` shows it for two
whole files.
"""

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray

from tilevault.archive.formats import SourceFile, SourceImage
from tilevault.archive.formats.geotiff_bytes import FileView, check_unchanged, kept, open_regular
from tilevault.archive.formats.geotiff_encode import Pixels, encode_tiff
from tilevault.archive.formats.geotiff_gdal import (
    TilevaultDataset,
    describe,
    differences,
    gdal_env,
    has_dataset_mask,
    open_dataset,
    read_mask_window,
    read_window,
    translated,
)
from tilevault.archive.formats.geotiff_ifd import parse_tiff
from tilevault.archive.formats.geotiff_layout import image_layout
from tilevault.archive.image import ImageInfo, Window, Words
from tilevault.codecs.errors import (
    Conflict,
    InputRejected,
    InvalidRequest,
    ManifestCorrupt,
    StoreFull,
    StoreUnavailable,
    UnsupportedSyntax,
    VerifyAfterEncodeFailed,
)

__all__ = ["ImageLike", "compare", "prove_metadata", "write_cog", "write_original"]

WINDOW_BYTES = 32 << 20
COG_BLOCK_BYTES = 128 << 20

ReadWords = Callable[[Window], Words]
ReadMask = Callable[[Window], NDArray[np.uint8]]


class ImageLike(Protocol):
    """What an archived image and a scanned one have in common."""

    @property
    def sources(self) -> Any:
        """The files; the TIFF first."""
        ...

    @property
    def info(self) -> ImageInfo | None:
        """The image as an array."""
        ...


def write_original(
    path: Path, image: ImageLike, read: ReadWords, read_mask: ReadMask | None, verbatim: Iterator[bytes]
) -> None:
    """Write a GeoTIFF that equals the source in all that metadata-exact promises.

    ``read(window)`` gives words in the image's axes, ``read_mask(window)`` the (y, x) mask where
    ``info.has_mask``, ``verbatim`` the kept bytes of the TIFF. Windows are whole rows of 512 x 512 tiles,
    at most 64 MiB each, unless one tile of 16 bands is larger.

    Raises `Conflict` where ``path`` exists, `StoreFull`, `StoreUnavailable`, `ManifestCorrupt`, and
    whatever the two functions raise. A file that could not be finished is removed.
    """
    info = _info(image)
    if info.has_mask and read_mask is None:
        raise InvalidRequest("the image has a mask, but there is no way to read it")
    source = kept(verbatim, image.sources[0].size)
    try:
        layout = image_layout(source.tiff.ifds[0])
    except InputRejected as error:
        raise ManifestCorrupt(f"the kept bytes of the TIFF do not parse: {error}") from error
    with _new_file(path) as out:
        encode_tiff(out, source.tiff, layout, info.dtype, info.has_mask, Pixels(read, read_mask))


def _info(image: ImageLike) -> ImageInfo:
    if image.info is None:
        raise InvalidRequest("the image has no pixels")
    return image.info


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[Any]:
    """A file that did not exist before, 0600; gone again if the block fails."""
    with _stored(path):
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "w+b", buffering=1 << 20) as out:
                yield out
        except BaseException:
            path.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def _stored(path: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:
        raise Conflict(f"{path} exists and is not overwritten") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(f"{path}: {error.strerror}") from error
        raise StoreUnavailable(f"{path}: {error}") from error


def prove_metadata(image: SourceImage) -> None:
    """Show that an export would carry all metadata of a scanned image.

    Writes the export without its pixels to an unnamed temporary file and compares what rasterio says of
    it with what it said of the source. Raises `VerifyAfterEncodeFailed` naming what differs.
    """
    info, file = _info(image), image.sources[0]
    with _stored(Path(tempfile.gettempdir())), tempfile.TemporaryFile() as out:
        _write_skeleton(out, file, info)
        out.flush()
        with gdal_env(), translated("the export"), open_dataset(out.fileno(), out.name) as dataset:
            found = describe(dataset)
            mask = has_dataset_mask(dataset)
    lines = differences(dict(file.record["raster"]), found)
    if mask != info.has_mask:
        lines.append(f"mask: {info.has_mask} != {mask}")
    if lines:
        raise VerifyAfterEncodeFailed(
            f"{file.name}: an export would differ in {len(lines)} items: {lines[0]}", differences=lines[:20]
        )


def _write_skeleton(out: Any, file: SourceFile, info: ImageInfo) -> None:
    if file.path is None:
        raise InvalidRequest(f"{file.name} has no file to read from")
    fd = open_regular(file.path)
    try:
        check_unchanged(fd, file.stat)
        tiff = parse_tiff(FileView(fd, file.size))
        encode_tiff(out, tiff, image_layout(tiff.ifds[0]), info.dtype, info.has_mask, None)
        check_unchanged(fd, file.stat)
    finally:
        os.close(fd)


def write_cog(
    path: Path,
    image: ImageLike,
    read: ReadWords,
    read_mask: ReadMask | None,
    verbatim: Iterator[bytes],
    items: Mapping[str, str] | None = None,
) -> None:
    """Write a lossless cloud-optimized GeoTIFF: 512 x 512 tiles, deflate, internal overviews.

    Overviews are averages that honour nodata and mask, or nearest samples of categorical images. ``items``
    are added to the source's metadata items (of lossy images: what is said of the loss). Needs free space
    for two copies beside ``path`` while it works. Errors as `write_original`; `UnsupportedSyntax` where GDAL
    cannot hold the image in one.
    """
    info = _info(image)
    with (
        _stored(path),
        tempfile.TemporaryDirectory(prefix=".tilevault-cog-", dir=path.parent) as folder,
    ):
        if path.exists():
            raise Conflict(f"{path} exists and is not overwritten")
        original, cog = Path(folder) / "original.tif", Path(folder) / "cog.tif"
        write_original(original, image, read, read_mask, verbatim)
        if items:
            with gdal_env(), translated("cannot add metadata"), rasterio.open(original, "r+") as dataset:
                dataset.update_tags(**items)
        _copy_as_cog(original, cog, info)
        cog.chmod(0o600)
        os.link(cog, path)


def _copy_as_cog(original: Path, cog: Path, info: ImageInfo) -> None:
    bands = info.shape[0] if len(info.shape) == 3 else 1
    side = next((s for s in (512, 256, 128) if s * s * bands * info.dtype.itemsize <= COG_BLOCK_BYTES), None)
    if side is None:
        raise UnsupportedSyntax(f"{bands} bands do not fit the tiles of a cloud-optimized GeoTIFF")
    fd = open_regular(str(original))
    try:
        with gdal_env(), open_dataset(fd, str(original)) as dataset, translated("cannot write a COG"):
            rasterio.shutil.copy(
                dataset,
                str(cog),
                driver="COG",
                BLOCKSIZE=side,
                COMPRESS="DEFLATE",
                PREDICTOR="NO" if info.bits_stored or info.dtype.kind == "c" else "YES",
                BIGTIFF="IF_SAFER",
                OVERVIEWS="IGNORE_EXISTING",
                RESAMPLING="NEAREST" if info.categorical else "AVERAGE",
            )
    finally:
        os.close(fd)


def compare(a: Path, b: Path) -> list[str]:
    """Where two GeoTIFFs differ in what metadata-exact promises, pixel and mask bytes included.

    Empty: equal. Reads by windows of at most about 32 MiB. Raises `InputRejected` where one cannot be
    read.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(gdal_env())
        first, second = (stack.enter_context(_opened(path)) for path in (a, b))
        with translated("cannot be compared"):
            lines = differences(describe(first), describe(second))
            if lines:
                return lines
            return list(_pixel_differences(first, second))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[TilevaultDataset]:
    fd = open_regular(str(path))
    try:
        with open_dataset(fd, str(path)) as dataset:
            yield dataset
    finally:
        os.close(fd)


def _pixel_differences(a: TilevaultDataset, b: TilevaultDataset) -> Iterator[str]:
    dtype = np.dtype(a.dtypes[0])
    masked = has_dataset_mask(a)
    for bands, y, x in _windows(a, b, dtype.itemsize):
        left, right = (read_window(d, (bands, y, x), dtype).view(np.uint8) for d in (a, b))
        if not np.array_equal(left, right):
            yield f"pixels differ in {_place(y, x)}, bands {bands.start}:{bands.stop}"
        if masked and bands.start == 0:
            left, right = (read_mask_window(d, y, x) for d in (a, b))
            if not np.array_equal(left, right):
                yield f"masks differ in {_place(y, x)}"


def _place(y: slice, x: slice) -> str:
    return f"rows {y.start}:{y.stop}, columns {x.start}:{x.stop}"


def _windows(a: TilevaultDataset, b: TilevaultDataset, itemsize: int) -> Iterator[tuple[slice, slice, slice]]:
    blocks = [d.block_shapes[0] for d in (a, b)]
    high = min(max(h for h, _ in blocks), a.height)
    wide = min(max(w for _, w in blocks), a.width)
    high *= max(1, min(512 // high, WINDOW_BYTES // (high * a.width * itemsize)))
    wide *= max(1, WINDOW_BYTES // (high * wide * itemsize))
    deep = max(1, WINDOW_BYTES // (high * min(wide, a.width) * itemsize))
    for y in range(0, a.height, high):
        for x in range(0, a.width, wide):
            for c in range(0, a.count, deep):
                yield (
                    slice(c, min(c + deep, a.count)),
                    slice(y, min(y + high, a.height)),
                    slice(x, min(x + wide, a.width)),
                )
