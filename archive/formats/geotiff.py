"""GeoTIFF: scanned, described and read window by window.

A file is accepted when its own structure is sound (`geotiff_ifd`, `geotiff_layout`) and GDAL's GTiff driver
reads it. Its pixels are the words that rasterio gives; everything else that rasterio can tell of it is
recorded (`geotiff_gdal.describe`), and all bytes that are not pixels are kept (`geotiff_bytes`). One file is
one image; overviews and the mask belong to it, a second full-size image makes the file unsupported.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tilevault.archive.formats import ArchivedFrames, FrameAccess, SourceFile, SourceImage
from tilevault.archive.formats.geotiff_bytes import (
    FileView,
    check_unchanged,
    hash_file,
    keep,
    open_regular,
    rebuild_plain,
    stat_of,
    whole,
)
from tilevault.archive.formats.geotiff_exact import looks_exact, never_lossy, padding_value
from tilevault.archive.formats.geotiff_gdal import (
    DTYPES,
    TilevaultDataset,
    describe,
    gdal_env,
    gdal_warnings,
    has_dataset_mask,
    open_dataset,
    read_mask_window,
    read_window,
    refuse_patched,
    translated,
)
from tilevault.archive.formats.geotiff_ifd import SUB_IFDS, Tiff, is_tiff, parse_tiff
from tilevault.archive.formats.geotiff_layout import (
    COMPRESSIONS,
    ImageLayout,
    Purpose,
    check_blocks,
    check_gdal_metadata,
    check_jpeg_ends,
    image_layout,
    is_plain,
    purpose,
)
from tilevault.archive.formats.geotiff_search import image_attributes, search_values
from tilevault.archive.formats.geotiff_sidecar import find_sidecars
from tilevault.archive.formats.geotiff_write import compare, prove_metadata, write_cog, write_original
from tilevault.archive.image import ImageInfo, Window, Words
from tilevault.codecs.errors import (
    InconsistentHeader,
    InvalidRequest,
    NotRecognized,
    TilevaultError,
    UnsupportedSyntax,
)

__all__ = [
    "GeoTiffReader",
    "assemble",
    "compare",
    "instance_of",
    "looks_exact",
    "never_lossy",
    "open_reader",
    "padding_value",
    "prove_metadata",
    "rebuild",
    "recognizes",
    "scan",
    "window_inputs",
    "write_cog",
    "write_original",
]

MAX_WARNINGS = 8


def recognizes(head: bytes) -> bool:
    """Whether a file that begins with ``head`` claims to be a TIFF, classic or Big, of either byte order."""
    return is_tiff(head)


@dataclass(frozen=True)
class _Structure:
    tiff: Tiff
    layouts: tuple[ImageLayout, ...]
    """Of every image directory, the image itself first."""
    purposes: tuple[str, ...]
    shared: bool
    """Several blocks lie in the same bytes."""

    @property
    def image(self) -> ImageLayout:
        return self.layouts[0]

    @property
    def plain(self) -> bool:
        """The file can be rebuilt from its words and its other bytes."""
        return len(self.layouts) == 1 and not self.shared and is_plain(self.image)


def _structure(fd: int) -> _Structure:
    view = FileView(fd, os.fstat(fd).st_size)
    tiff = parse_tiff(view)
    ifds = [ifd for top in tiff.ifds for ifd in (top, *top.children.get(SUB_IFDS, ()))]
    purposes = tuple(purpose(ifd) for ifd in ifds)
    if purposes[0] in (Purpose.MASK, Purpose.OVERVIEW_MASK):
        raise UnsupportedSyntax("the first image directory is a mask")
    images = 1 + purposes[1:].count(Purpose.IMAGE)
    if images > 1:
        raise UnsupportedSyntax(f"{images} full-size images in one TIFF", images=images)
    if purposes.count(Purpose.MASK) > 1:
        raise UnsupportedSyntax("several masks in one TIFF")
    layouts = tuple(image_layout(ifd) for ifd in ifds)
    shared = check_blocks(tiff, layouts)
    check_jpeg_ends(view, layouts[0])
    check_gdal_metadata(tiff.ifds[0])
    for layout, what in zip(layouts, purposes, strict=True):
        if what == Purpose.MASK:
            _check_mask(layout, layouts[0])
    return _Structure(tiff, layouts, purposes, shared)


def _check_mask(mask: ImageLayout, image: ImageLayout) -> None:
    if (mask.width, mask.height) != (image.width, image.height):
        raise InconsistentHeader(
            f"a mask of {mask.width} x {mask.height} pixels for {image.width} x {image.height}"
        )
    if mask.samples != 1 or mask.bits != 1:
        raise UnsupportedSyntax(f"a mask with {mask.samples} samples of {mask.bits} bits")


def scan(path: Path, name: str) -> list[SourceFile]:
    """Parse, check and hash a TIFF and the sidecars beside it: [file, *sidecars].

    Raises subclasses of `InputRejected` only: `NotRecognized`, `TruncatedSource`, `InconsistentHeader`,
    `UnsupportedSyntax`, `LimitExceeded`, `SourceChanged`.
    """
    where = os.path.abspath(path)  # noqa: PTH100 - resolves no link, as the stat tuple is of the target
    fd = open_regular(where)
    try:
        stat = stat_of(fd)
        structure = _structure(fd)
        digest = hash_file(fd)
        with gdal_env(), gdal_warnings() as heard, open_dataset(fd, where) as dataset:
            record = _record(dataset, structure)
        check_unchanged(fd, stat)
    finally:
        os.close(fd)
    sidecars = find_sidecars(Path(where), name)
    warnings = (*_warnings(structure, record, sidecars), *dict.fromkeys(heard))
    return [
        SourceFile(name, where, stat[2], digest, stat, "geotiff", record, warnings[:MAX_WARNINGS]),
        *sidecars,
    ]


def _check_agreement(dataset: TilevaultDataset, layout: ImageLayout) -> None:
    """GDAL must see the image that the directory declares: libtiff repairs some fields on its own."""
    if len(set(dataset.dtypes)) != 1 or dataset.dtypes[0] not in DTYPES:
        raise UnsupportedSyntax(f"pixels of type {', '.join(sorted(set(dataset.dtypes)))}")
    if dataset.count != layout.samples:
        raise UnsupportedSyntax(f"{layout.samples} samples that GDAL reads as {dataset.count} bands")
    if (dataset.width, dataset.height) != (layout.width, layout.height):
        raise InconsistentHeader(
            f"{layout.width} x {layout.height} pixels that GDAL reads as {dataset.width} x {dataset.height}"
        )
    size = np.dtype(dataset.dtypes[0]).itemsize * 8
    if size < layout.bits or (size > layout.bits and size not in (8, 16, 32)):
        raise InconsistentHeader(f"samples of {layout.bits} bits that GDAL reads as {dataset.dtypes[0]}")


@translated("cannot be described")
def _record(dataset: TilevaultDataset, structure: _Structure) -> dict[str, Any]:
    layout = structure.image
    _check_agreement(dataset, layout)
    mask = has_dataset_mask(dataset)
    if mask != (Purpose.MASK in structure.purposes):
        raise InconsistentHeader("GDAL and the directories disagree about a mask")
    nodata = structure.tiff.ifds[0].tags.get(42113)
    return {
        "raster": describe(dataset),
        "nodata_text": nodata.value.rstrip(b"\0").decode("latin-1") if nodata else None,
        "mask": mask,
        "plain": structure.plain,
        "native_block": [int(v) for v in dataset.block_shapes[0]],
        "layout": {
            "big_endian": structure.tiff.order == ">",
            "bigtiff": structure.tiff.big,
            "compression": layout.compression,
            "compression_name": COMPRESSIONS[layout.compression],
            "predictor": layout.predictor,
            "photometric": layout.photometric,
            "interleave": "band" if layout.planar or layout.samples == 1 else "pixel",
            "tiled": layout.tiled,
            "block": [layout.block_height, layout.block_width],
            "bits": layout.bits,
            "sample_format": layout.sample_format,
            "sparse_blocks": len(layout.sparse),
            "overviews": [
                [other.height, other.width]
                for other, what in zip(structure.layouts, structure.purposes, strict=True)
                if what == Purpose.OVERVIEW
            ],
        },
    }


def _warnings(
    structure: _Structure, record: Mapping[str, Any], sidecars: Sequence[SourceFile]
) -> Iterator[str]:
    layout = structure.image
    if len(layout.sparse):
        fill = record["nodata_text"]
        what = f"nodata ({fill})" if fill is not None else "0, though no nodata value is declared"
        yield f"{len(layout.sparse)} of {len(layout.counts)} blocks are absent; they read as {what}"
    if structure.shared:
        yield "several blocks lie in the same bytes"
    overviews = structure.purposes.count(Purpose.OVERVIEW)
    if overviews:
        yield f"the pixels of {overviews} overviews are not archived"
    if SUB_IFDS in structure.tiff.ifds[0].tags:
        yield "SubIFDs are not exported"
    for sidecar in sidecars:
        yield f"sidecar {sidecar.name} is kept, not interpreted"


def assemble(
    files: Sequence[SourceFile],
) -> tuple[list[SourceImage], list[tuple[SourceFile, TilevaultError]]]:
    """One image per TIFF; each sidecar goes with the TIFF that it follows. Nothing is left over."""
    groups: list[list[SourceFile]] = []
    rejected: list[tuple[SourceFile, TilevaultError]] = []
    for file in files:
        if file.format == "geotiff":
            groups.append([file])
        elif groups:
            groups[-1].append(file)
        else:
            rejected.append((file, NotRecognized("a sidecar without its TIFF")))
    return [_image(group) for group in groups], rejected


def _image(group: Sequence[SourceFile]) -> SourceImage:
    file = group[0]
    record = file.record
    info = _info(file.name, record)
    return SourceImage(
        kind="geotiff",
        key=file.sha256,
        format="geotiff",
        sources=tuple(group),
        info=info,
        codec=None,
        round_trip="file-exact" if record["plain"] else "metadata-exact",
        search=search_values(file.name, record),
        layout={"plain": record["plain"], "size": file.size, "nodata_text": record["nodata_text"]},
        warnings=file.warnings,
    )


def _info(name: str, record: Mapping[str, Any]) -> ImageInfo:
    raster, layout = record["raster"], record["layout"]
    count, height, width = len(raster["dtypes"]), raster["height"], raster["width"]
    dtype = np.dtype(raster["dtypes"][0])
    block = (1 if layout["interleave"] == "band" else count, *record["native_block"])
    bits = layout["bits"]
    return ImageInfo(
        shape=(height, width) if count == 1 else (count, height, width),
        dtype=dtype,
        axes=("y", "x") if count == 1 else ("c", "y", "x"),
        kind="satellite",
        bits_stored=bits if dtype.kind in "ui" and bits < dtype.itemsize * 8 else None,
        nodata=_nodata(raster["nodata"][0], record["nodata_text"], dtype),
        categorical=_categorical(raster, layout),
        has_mask=record["mask"],
        native_blocks=block[1:] if count == 1 else block,
        attributes=image_attributes(name, record),
    )


def _categorical(raster: Mapping[str, Any], layout: Mapping[str, Any]) -> bool:
    """Palette indices or single bits. GDAL also makes up a grey table where white is zero: no labels."""
    palette = layout["photometric"] == 3 or (bool(raster["colormaps"]) and layout["photometric"] != 0)
    return palette or bool(layout["bits"] == 1)


def _nodata(value: Any, text: str | None, dtype: np.dtype[Any]) -> float | int | None:
    """The value that marks absent samples; None where no sample can have it.

    Integers from the text of the tag, exactly: GDAL gives them as doubles, NaN among them as 0.
    """
    if text is None:
        return None
    if dtype.kind in "ui":
        try:
            number = Decimal(text.strip())
        except InvalidOperation:
            return None
        limits = np.iinfo(dtype)
        if not number.is_finite() or not limits.min <= number <= limits.max or number % 1:
            return None
        return int(number)
    if isinstance(value, str):
        return float(np.frombuffer(bytes.fromhex(value.removeprefix("float64:")), ">f8")[0])
    return None if value is None else float(value)


class GeoTiffReader:
    """Reads one image window by window; a context manager, used by one thread at a time.

    Every read checks that the file is still the one that was scanned.
    """

    def __init__(self, image: SourceImage) -> None:
        if image.info is None or not image.sources or image.sources[0].path is None:
            raise InvalidRequest("this image has no file to read from")
        self._image = image
        self._info = image.info
        self._file = image.sources[0]
        path = image.sources[0].path
        with contextlib.ExitStack() as stack:
            self._fd = open_regular(path)
            stack.callback(os.close, self._fd)
            check_unchanged(self._fd, self._file.stat)
            with gdal_env():
                self._dataset = stack.enter_context(open_dataset(self._fd, path))
            self._stack = stack.pop_all()

    @property
    def info(self) -> ImageInfo:
        """The description of the whole image."""
        return self._info

    def read(self, window: Window) -> Words:
        """The words of ``window`` in the image's axes: (y, x), or (c, y, x) with several bands.

        Raises `InvalidRequest` outside of the image, `SourceChanged`, `TruncatedSource`,
        `InconsistentHeader` (a block that does not decode).
        """
        self._check(window, self._info.shape)
        *bands, y, x = window.slices
        slices = (bands[0] if bands else slice(0, 1), y, x)
        with gdal_env(), gdal_warnings() as heard, translated(f"cannot read {window.start} .. {window.stop}"):
            words = read_window(self._dataset, slices, self._info.dtype)
            refuse_patched(heard)
        check_unchanged(self._fd, self._file.stat)
        return words.reshape(window.shape)

    def read_mask(self, window: Window) -> NDArray[np.uint8]:
        """The file's own validity mask, 0 or 255, of a (y, x) window."""
        if not self._info.has_mask:
            raise InvalidRequest("this image has no mask")
        self._check(window, self._info.shape[-2:])
        with (
            gdal_env(),
            gdal_warnings() as heard,
            translated(f"cannot read the mask {window.start} .. {window.stop}"),
        ):
            mask = read_mask_window(self._dataset, *window.slices)
            refuse_patched(heard)
        check_unchanged(self._fd, self._file.stat)
        return mask

    def read_stream(self, index: tuple[int, ...]) -> bytes:
        """A TIFF's blocks are not archived as they are."""
        raise InvalidRequest("a GeoTIFF has no frames")

    def verbatim(self, i: int) -> Iterator[bytes]:
        """Every byte of ``sources[i]`` that is no pixel, see `geotiff_bytes`; sidecars whole."""
        source = self._image.sources[i]
        if source.path is None:
            raise InvalidRequest(f"{source.name} has no file to read from")
        fd = open_regular(source.path)
        try:
            check_unchanged(fd, source.stat)
            if source.format == "sidecar":
                yield from whole(fd)
            else:
                structure = _structure(fd)
                yield from keep(fd, structure.tiff, structure.layouts, structure.plain)
            check_unchanged(fd, source.stat)
        finally:
            os.close(fd)

    @staticmethod
    def _check(window: Window, shape: tuple[int, ...]) -> None:
        if len(window.stop) != len(shape) or any(b > n for b, n in zip(window.stop, shape, strict=True)):
            raise InvalidRequest(f"window {window.start} .. {window.stop} of an image of {shape}")

    def close(self) -> None:
        """Close the file."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def instance_of(file: SourceFile) -> tuple[str, str] | None:
    """A GeoTIFF has no identity but its bytes."""
    return None


def window_inputs(image: SourceImage, window: Window) -> Any:
    """The file and the window."""
    return [image.sources[0].sha256, window.start, window.stop]


def open_reader(image: SourceImage, archived: ArchivedFrames | None = None) -> GeoTiffReader:
    """A reader of ``image``; one per thread. ``archived`` is not needed: a TIFF is its own image."""
    return GeoTiffReader(image)


def rebuild(file: SourceFile, verbatim: Iterator[bytes], frames: FrameAccess) -> Iterator[bytes | memoryview]:
    """The bytes of a file-exact TIFF, piece by piece, from its verbatim stream and its words.

    Words are asked for (``frames.read``) in windows of whole rows of blocks, about 32 MiB each, in file
    order.
    """
    return rebuild_plain(file.size, verbatim, frames.read)
