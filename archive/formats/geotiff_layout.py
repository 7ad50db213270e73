"""Where a TIFF keeps its pixels: the blocks of each image directory, checked, and what lies between them.

`image_layout` turns a directory into numbers that are known to be consistent; `check_blocks` holds them
against the file. For a file whose blocks are plain words, `pixel_runs` says of every byte of the file
whether it is a pixel and which, so that the rest can be kept verbatim and the file rebuilt.

Source: TIFF 6.0, sections 3 (bilevel) to 15 (tiled images), 18 (associated alpha), 19 (sample format).
"""

import heapq
import xml.parsers.expat as expat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from tilevault.archive.formats.geotiff_ifd import ByteView, Ifd, Order, Tiff
from tilevault.codecs.errors import InconsistentHeader, LimitExceeded, TruncatedSource, UnsupportedSyntax

__all__ = [
    "ImageLayout",
    "PixelRun",
    "Purpose",
    "check_blocks",
    "check_gdal_metadata",
    "check_jpeg_ends",
    "image_layout",
    "is_plain",
    "pixel_runs",
    "purpose",
    "rest",
]

MAX_PIXELS = 1 << 36
JOINED_BYTES = 1 << 20
"""Bytes of neighbouring blocks that are treated as one run, at most."""
MAX_BANDS = 4096
MAX_DECODED_BLOCK = 256 << 20

COMPRESSIONS = {
    1: "none",
    2: "ccitt-rle",
    3: "ccitt-fax3",
    4: "ccitt-fax4",
    5: "lzw",
    7: "jpeg",
    8: "deflate",
    32773: "packbits",
    32946: "deflate",
    34887: "lerc",
    34925: "lzma",
    50000: "zstd",
    50001: "webp",
    50002: "jxl",
}
"""Compression ids that GDAL builds may read; whether the installed one does shows when it opens the file."""

JPEG, YCBCR, GDAL_METADATA = 7, 6, 42112
COLOURS = frozenset((0, 1, 2, 3, 4, 5, YCBCR))
"""Photometric interpretations whose samples GDAL hands out as they are (YCbCr: only within JPEG)."""


class Purpose:
    """What a directory is for (NewSubfileType)."""

    IMAGE = "image"
    OVERVIEW = "overview"
    MASK = "mask"
    OVERVIEW_MASK = "overview-mask"


@dataclass(frozen=True)
class ImageLayout:
    """One image directory in numbers."""

    width: int
    height: int
    samples: int
    bits: int
    sample_format: int
    """1 unsigned, 2 signed, 3 IEEE float, 4 undefined, 6 complex float."""
    compression: int
    predictor: int
    photometric: int
    planar: bool
    """Each sample in blocks of its own (PlanarConfiguration 2)."""
    tiled: bool
    block_width: int
    block_height: int
    fill_order: int
    order: Order
    offsets: NDArray[np.int64] = field(repr=False)
    counts: NDArray[np.int64] = field(repr=False)

    @property
    def across(self) -> int:
        """Blocks in a row of blocks."""
        return -(-self.width // self.block_width)

    @property
    def down(self) -> int:
        """Rows of blocks."""
        return -(-self.height // self.block_height)

    @property
    def block_samples(self) -> int:
        """Samples of a pixel that lie in one block."""
        return 1 if self.planar else self.samples

    @property
    def sparse(self) -> NDArray[np.int64]:
        """Numbers of the blocks that are not in the file."""
        return np.flatnonzero(self.counts == 0)

    def row_bytes(self, width: int) -> int:
        """Bytes of one row of a block ``width`` pixels wide."""
        return -(-width * self.block_samples * self.bits // 8)

    def block_rows(self, index: int) -> int:
        """Rows that the block holds in the file: tiles are always full, the last strip is not."""
        if self.tiled:
            return self.block_height
        top = (index // self.across % self.down) * self.block_height
        return min(self.block_height, self.height - top)


def purpose(ifd: Ifd) -> str:
    """What the directory is for."""
    kind = ifd.number(254, 0)
    reduced = bool(kind & 1) or (254 not in ifd.tags and ifd.number(255, 1) == 2)
    if kind & 4:
        return Purpose.OVERVIEW_MASK if reduced else Purpose.MASK
    return Purpose.OVERVIEW if reduced else Purpose.IMAGE


def image_layout(ifd: Ifd) -> ImageLayout:
    """The checked numbers of a directory.

    Raises `InconsistentHeader`, `UnsupportedSyntax` or `LimitExceeded`. Block positions are not yet
    compared with the file: see `check_blocks`.
    """
    width, height, samples = ifd.number(256), ifd.number(257), ifd.number(277, 1)
    if width == 0 or height == 0 or samples == 0:
        raise InconsistentHeader(f"an image of {width} x {height} pixels with {samples} samples")
    if width * height > MAX_PIXELS:
        raise LimitExceeded(f"{width} x {height} pixels, the limit is 2^36")
    if samples > MAX_BANDS:
        raise LimitExceeded(f"{samples} bands, the limit is {MAX_BANDS}")
    compression = ifd.number(259, 1)
    if compression not in COMPRESSIONS:
        raise UnsupportedSyntax(f"TIFF compression {compression}", compression=compression)
    planar = ifd.number(284, 1)
    if planar not in (1, 2):
        raise InconsistentHeader(f"PlanarConfiguration is {planar}")
    tiled = any(tag in ifd.tags for tag in (322, 323, 324, 325))
    if tiled and any(tag in ifd.tags for tag in (273, 279)):
        raise InconsistentHeader("one image both in strips and in tiles")
    block_width = ifd.number(322) if tiled else width
    block_height = ifd.number(323) if tiled else min(ifd.number(278, height), height)
    if block_width == 0 or block_height == 0:
        raise InconsistentHeader(f"blocks of {block_width} x {block_height} pixels")
    layout = ImageLayout(
        width=width,
        height=height,
        samples=samples,
        bits=_common(ifd.numbers(258, samples, 1), "BitsPerSample"),
        sample_format=_common(ifd.numbers(339, samples, 1), "SampleFormat"),
        compression=compression,
        predictor=ifd.number(317, 1),
        photometric=_photometric(ifd, compression),
        planar=planar == 2 and samples > 1,
        tiled=tiled,
        block_width=block_width,
        block_height=block_height,
        fill_order=ifd.number(266, 1),
        order=ifd.order,
        offsets=_positions(ifd, 324 if tiled else 273),
        counts=_positions(ifd, 325 if tiled else 279),
    )
    _check_samples(layout)
    _check_grid(layout)
    return layout


def _common(values: Sequence[int], what: str) -> int:
    if len(set(values)) != 1:
        raise UnsupportedSyntax(f"{what} differs from sample to sample: {tuple(values[:8])}")
    return values[0]


def _photometric(ifd: Ifd, compression: int) -> int:
    value = ifd.number(262, 1)
    if value not in COLOURS or (value == YCBCR and compression != JPEG):
        raise UnsupportedSyntax(
            f"PhotometricInterpretation {value} with TIFF compression {compression}", photometric=value
        )
    return value


def _positions(ifd: Ifd, tag_id: int) -> NDArray[np.int64]:
    values = ifd.unsigned(tag_id)
    if values is None:
        raise InconsistentHeader(f"required tag {tag_id} is missing")
    if values.size and int(values.max()) >= 1 << 62:
        raise InconsistentHeader(f"block position {int(values.max())} is in no file")
    positions: NDArray[np.int64] = values.astype(np.int64)
    return positions


def _check_samples(layout: ImageLayout) -> None:
    bits, kind = layout.bits, layout.sample_format
    if kind == 5:
        raise UnsupportedSyntax(f"complex integers of {bits} bits (complex_int{bits // 2})")
    known = {1: (*range(1, 33), 64), 2: (8, 16, 32, 64), 3: (16, 24, 32, 64), 4: (8, 16, 32), 6: (64, 128)}
    if kind not in known:
        raise InconsistentHeader(f"SampleFormat is {kind}")
    if bits not in known[kind]:
        raise UnsupportedSyntax(f"samples of {bits} bits with SampleFormat {kind}", bits=bits)


def _check_grid(layout: ImageLayout) -> None:
    expected = layout.across * layout.down * (layout.samples if layout.planar else 1)
    for name, values in (("offsets", layout.offsets), ("byte counts", layout.counts)):
        if len(values) != expected:
            raise InconsistentHeader(f"{expected} blocks but {len(values)} block {name}")
    rows = min(layout.block_height, layout.height) if not layout.tiled else layout.block_height
    if layout.compression == 1 and not layout.tiled and expected == 1:
        rows = 1  # libtiff reads a single uncompressed strip in slices, however long it is
    decoded = layout.row_bytes(layout.block_width) * rows
    if decoded > MAX_DECODED_BLOCK:
        raise LimitExceeded(f"blocks of {decoded} bytes, the limit is {MAX_DECODED_BLOCK}")


def check_blocks(tiff: Tiff, layouts: Sequence[ImageLayout]) -> bool:
    """Hold every block of every directory against the file; True if some bytes serve several blocks.

    Raises `TruncatedSource` naming the first block that ends past the end of the file,
    `InconsistentHeader` where blocks overlap in part, lie in the header or are too short for their rows.
    """
    for number, layout in enumerate(layouts):
        _check_ends(layout, number, tiff.size)
        if layout.compression == 1:
            _check_lengths(layout, number)
    ranges = np.concatenate(
        [np.stack([lay.offsets, lay.offsets + lay.counts], 1)[lay.counts > 0] for lay in layouts]
        + [np.empty((0, 2), np.int64)]
    )
    unique = np.unique(ranges, axis=0)
    both = np.concatenate([unique, np.asarray(tiff.spans, np.int64).reshape(-1, 2)])
    both = both[np.argsort(both[:, 0], kind="stable")]
    bad = np.flatnonzero(both[1:, 0] < both[:-1, 1])
    if bad.size:
        raise InconsistentHeader(f"blocks or directories overlap at byte {int(both[bad[0] + 1, 0])}")
    return len(unique) < len(ranges)


def _check_ends(layout: ImageLayout, number: int, size: int) -> None:
    present = layout.counts > 0
    bad = np.flatnonzero(present & (layout.offsets + layout.counts > size))
    if bad.size:
        raise TruncatedSource(
            f"block {int(bad[0])} of image {number} ends at byte "
            f"{int(layout.offsets[bad[0]] + layout.counts[bad[0]])} of {size} ({bad.size} blocks cut)",
            block=int(bad[0]),
            image=number,
        )
    bad = np.flatnonzero(present & (layout.offsets == 0))
    if bad.size:
        raise InconsistentHeader(f"block {int(bad[0])} of image {number} has bytes but no offset")


def _check_lengths(layout: ImageLayout, number: int) -> None:
    index = np.arange(len(layout.counts))
    rows = np.full(len(index), layout.block_height, np.int64)
    if not layout.tiled:
        rows = np.minimum(rows, layout.height - index % layout.down * layout.block_height)
    need = rows * layout.row_bytes(layout.block_width)
    bad = np.flatnonzero((layout.counts > 0) & (layout.counts < need))
    if bad.size:
        raise InconsistentHeader(
            f"block {int(bad[0])} of image {number} has {int(layout.counts[bad[0]])} bytes, "
            f"its rows need {int(need[bad[0]])}"
        )


def check_jpeg_ends(view: ByteView, layout: ImageLayout) -> None:
    """Raise `TruncatedSource` unless every JPEG block ends as JPEG does: libjpeg fills in what is missing."""
    if layout.compression != JPEG:
        return
    for index in np.flatnonzero(layout.counts):
        length = min(int(layout.counts[index]), 16)
        tail = view.at(int(layout.offsets[index] + layout.counts[index]) - length, length)
        if not tail.rstrip(b"\0\xff").endswith(b"\xff\xd9") and not tail.endswith(b"\xff\xd9"):
            raise TruncatedSource(
                f"JPEG block {int(index)} of image 0 does not end", block=int(index), image=0
            )


def check_gdal_metadata(ifd: Ifd) -> None:
    """Raise `InconsistentHeader` for a GDAL_METADATA tag that is neither UTF-8 nor XML.

    GDAL takes either; of what is neither it complains in a message that rasterio cannot decode. Nothing
    is taken from this parse, and a document type (which could define entities) counts as no XML.
    """
    tag = ifd.tags.get(GDAL_METADATA)
    if tag is None:
        return
    try:
        tag.value.decode("utf-8")
    except UnicodeDecodeError:
        parser = expat.ParserCreate("iso-8859-1")
        parser.StartDoctypeDeclHandler = _refuse_doctype
        try:
            parser.Parse(tag.value.rstrip(b"\0"), True)
        except expat.ExpatError as error:
            raise InconsistentHeader(f"GDAL_METADATA is neither UTF-8 nor XML: {error}") from error


def _refuse_doctype(*_: object) -> None:
    raise InconsistentHeader("GDAL_METADATA is not UTF-8 and declares a document type")


def is_plain(layout: ImageLayout) -> bool:
    """Whether each sample lies in the file as a word of 8, 16, 32 or 64 bits (complex: two of them)."""
    return (
        layout.compression == 1
        and layout.predictor == 1
        and layout.fill_order == 1
        and layout.photometric != YCBCR
        and (layout.sample_format, layout.bits)
        in {(k, b) for k in (1, 2) for b in (8, 16, 32, 64)} | {(3, 32), (3, 64), (6, 64), (6, 128)}
    )


@dataclass(frozen=True)
class PixelRun:
    """Consecutive bytes of a plain file that are the pixels of a box: rows [y0, y1), columns [x0, x1)."""

    offset: int
    length: int
    sample: int | None
    """The band, in a planar file; None: all bands, pixel by pixel."""
    y0: int
    y1: int
    x0: int
    x1: int


def pixel_runs(layout: ImageLayout) -> Iterator[PixelRun]:
    """The pixels of a plain file in the order of their bytes.

    Blocks that continue each other are one run up to 1 MiB: strips are often of one row.
    """
    last: PixelRun | None = None
    for run in _block_runs(layout):
        if last is not None and _continues(last, run):
            last = replace(last, length=last.length + run.length, y1=run.y1)
            continue
        if last is not None:
            yield last
        last = run
    if last is not None:
        yield last


def _continues(last: PixelRun, run: PixelRun) -> bool:
    return (
        (run.offset, run.sample, run.y0, run.x0, run.x1)
        == (last.offset + last.length, last.sample, last.y1, last.x0, last.x1)
    ) and last.length + run.length <= JOINED_BYTES


def _block_runs(layout: ImageLayout) -> Iterator[PixelRun]:
    """A run for each block, if its rows follow each other without padding, else for each row."""
    for i in np.argsort(layout.offsets, kind="stable"):
        index = int(i)
        if layout.counts[index] == 0:
            continue
        plane, place = divmod(index, layout.across * layout.down)
        row, column = divmod(place, layout.across)
        y0, x0 = row * layout.block_height, column * layout.block_width
        y1, x1 = min(y0 + layout.block_height, layout.height), min(x0 + layout.block_width, layout.width)
        sample = plane if layout.planar else None
        start, stride = int(layout.offsets[index]), layout.row_bytes(layout.block_width)
        used = layout.row_bytes(x1 - x0)
        if used == stride:
            yield PixelRun(start, stride * (y1 - y0), sample, y0, y1, x0, x1)
            continue
        for y in range(y0, y1):
            yield PixelRun(start + (y - y0) * stride, used, sample, y, y + 1, x0, x1)


def rest(tiff: Tiff, pixels: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """[start, end) of what is neither structure nor pixels; ``pixels`` are sorted ranges."""
    at = 0
    for start, end in heapq.merge(tiff.spans, pixels):
        if start > at:
            yield at, start
        at = max(at, end)
    if at < tiff.size:
        yield at, tiff.size
