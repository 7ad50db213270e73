"""A TIFF's bytes apart from its pixels: read from the file, kept in an archive, and put back together.

What is kept of a file (its *verbatim* stream) is, in this order:

    8 bytes   ``tvtiff1\\0``
    u64       n, little endian as all numbers here
    n x 2 u64 offset and length in the file of each structural range: header, directories, tag values
    bytes     the structural ranges, one after the other
    bytes     every other byte of the file that is no pixel, in file order

The structural bytes say where the blocks are, so the last part needs no table. In a plain file
(`is_plain`, one directory) the padding of edge tiles counts as "no pixel" and the file can be rebuilt from
the stream and the words; in any other file whole blocks of all directories are left out.
"""

import bisect
import hashlib
import heapq
import os
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilevault.archive.formats.geotiff_ifd import Tiff, parse_tiff
from tilevault.archive.formats.geotiff_layout import (
    ImageLayout,
    PixelRun,
    image_layout,
    is_plain,
    pixel_runs,
    rest,
)
from tilevault.archive.image import Window, Words
from tilevault.codecs.errors import (
    InputRejected,
    ManifestCorrupt,
    NotRecognized,
    SourceChanged,
    TruncatedSource,
)

__all__ = [
    "FileView",
    "Kept",
    "KeptView",
    "check_unchanged",
    "hash_file",
    "keep",
    "kept",
    "open_regular",
    "rebuild_plain",
    "stat_of",
    "whole",
    "word_dtype",
]

MAGIC = b"tvtiff1\0"
PIECE = 4 << 20
MAX_STRUCTURE = 128 << 20
"""Bound on the structural bytes: the limits of the parser keep well below it."""
MAX_RANGES = 1 << 21
BAND_BYTES = 32 << 20
"""Words that a rebuild asks for at a time."""
TILE_ROWS = 512
"""Rows of a stored tile, as a rule: bands that end with them decode no tile twice."""

Stat = tuple[int, int, int, int, int]


def open_regular(path: str) -> int:
    """A read-only descriptor of a regular file; never waits on a FIFO or device."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise InputRejected(f"cannot be opened: {error}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise NotRecognized("not a regular file")
    return fd


def stat_of(fd: int) -> Stat:
    """What tells that a file is still the same: device, inode, size, times of content and status."""
    s = os.fstat(fd)
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns


def check_unchanged(fd: int, expected: Stat) -> None:
    """Raise `SourceChanged` unless the open file is as it was scanned."""
    now = stat_of(fd)
    if now != tuple(expected):
        raise SourceChanged("the file changed since it was scanned", expected=list(expected), found=list(now))


def hash_file(fd: int) -> str:
    """SHA-256 of the whole file."""
    digest = hashlib.sha256()
    for piece in _pieces(fd, 0, os.fstat(fd).st_size):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(fd: int, start: int, end: int) -> Iterator[bytes]:
    while start < end:
        try:
            piece = os.pread(fd, min(PIECE, end - start), start)
        except OSError as error:
            raise InputRejected(f"cannot be read at byte {start}: {error}") from error
        if not piece:
            raise SourceChanged(f"the file ends at byte {start}, it had {end} or more")
        yield piece
        start += len(piece)


def whole(fd: int) -> Iterator[bytes]:
    """Every byte of an open file, in pieces of at most 4 MiB."""
    return _pieces(fd, 0, os.fstat(fd).st_size)


@dataclass(frozen=True)
class FileView:
    """The bytes of an open file."""

    fd: int
    size: int

    def at(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes at ``offset``."""
        if offset < 0 or offset + length > self.size:
            raise TruncatedSource(f"{length} bytes at {offset} of a file of {self.size}")
        return b"".join(_pieces(self.fd, offset, offset + length))


@dataclass(frozen=True)
class KeptView:
    """The structural bytes of a file that lies in an archive."""

    size: int
    starts: tuple[int, ...]
    parts: tuple[bytes, ...]

    def at(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` structural bytes at ``offset`` of the file."""
        i = bisect.bisect_right(self.starts, offset) - 1
        start = offset - self.starts[i] if i >= 0 else 0
        if i < 0 or start + length > len(self.parts[i]):
            raise ManifestCorrupt(f"{length} bytes at {offset} of the TIFF were not kept")
        return self.parts[i][start : start + length]


def keep(fd: int, tiff: Tiff, layouts: tuple[ImageLayout, ...], plain: bool) -> Iterator[bytes]:
    """The verbatim stream of an open file, in pieces of at most 4 MiB."""
    table = b"".join(struct.pack("<QQ", start, end - start) for start, end in tiff.spans)
    yield from _split(MAGIC + struct.pack("<Q", len(tiff.spans)) + table)
    for start, end in tiff.spans:
        yield from _pieces(fd, start, end)
    for start, end in rest(tiff, _pixels(layouts, plain)):
        yield from _pieces(fd, start, end)


def _split(data: bytes) -> Iterator[bytes]:
    for i in range(0, len(data), PIECE):
        yield data[i : i + PIECE]


def _pixels(layouts: tuple[ImageLayout, ...], plain: bool) -> Iterator[tuple[int, int]]:
    if plain:
        return ((run.offset, run.offset + run.length) for run in pixel_runs(layouts[0]))
    blocks = np.concatenate([np.stack([a.offsets, a.offsets + a.counts], 1)[a.counts > 0] for a in layouts])
    return ((int(a), int(b)) for a, b in np.unique(blocks, axis=0))


class _Stream:
    """Exact reads from an iterator of pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces = pieces
        self.left = memoryview(b"")

    def some(self, length: int) -> memoryview:
        """Between 1 and ``length`` bytes."""
        while not self.left:
            piece = next(self.pieces, None)
            if piece is None:
                raise ManifestCorrupt("the kept bytes of the TIFF end early")
            self.left = memoryview(piece)
        part, self.left = self.left[:length], self.left[length:]
        return part

    def pieces_of(self, length: int) -> Iterator[bytes]:
        """``length`` bytes as they come."""
        while length > 0:
            part = self.some(length)
            length -= len(part)
            yield bytes(part)

    def exactly(self, length: int) -> bytes:
        return b"".join(self.pieces_of(length))


@dataclass(frozen=True)
class Kept:
    """A verbatim stream whose structural part has been read."""

    tiff: Tiff
    view: KeptView
    stream: _Stream
    """What is left: every other byte that is no pixel."""


def kept(verbatim: Iterator[bytes], size: int) -> Kept:
    """Read the structure of a file of ``size`` bytes from its verbatim stream.

    Raises `ManifestCorrupt` where the stream is not one that `keep` wrote.
    """
    stream = _Stream(iter(verbatim))
    if stream.exactly(8) != MAGIC:
        raise ManifestCorrupt("these are not the kept bytes of a TIFF")
    count = struct.unpack("<Q", stream.exactly(8))[0]
    if count > MAX_RANGES:
        raise ManifestCorrupt(f"{count} structural ranges in a TIFF")
    table = np.frombuffer(stream.exactly(16 * count), "<u8").reshape(-1, 2)
    ranges = [(int(start), int(length)) for start, length in table]
    if sum(length for _, length in ranges) > MAX_STRUCTURE:
        raise ManifestCorrupt("more structural bytes than a TIFF may have")
    view = KeptView(size, tuple(s for s, _ in ranges), tuple(stream.exactly(n) for _, n in ranges))
    try:
        return Kept(parse_tiff(view), view, stream)
    except InputRejected as error:
        raise ManifestCorrupt(f"the kept bytes of the TIFF do not parse: {error}") from error


def rebuild_plain(
    size: int, verbatim: Iterator[bytes], read: Callable[[Window], Words]
) -> Iterator[bytes | memoryview]:
    """The bytes of a plain file of ``size`` bytes, from its verbatim stream and its words.

    ``read`` gives the words of a window in the image's own axes: (y, x) for one band, else (c, y, x).
    Raises `ManifestCorrupt` where the stream does not fit.
    """
    source = kept(verbatim, size)
    try:
        layout = image_layout(source.tiff.ifds[0])
    except InputRejected as error:
        raise ManifestCorrupt(f"the kept bytes of the TIFF do not parse: {error}") from error
    if not is_plain(layout):
        raise ManifestCorrupt("the kept TIFF is not plain")
    band = _Band(layout, read)
    spans: Iterator[tuple[int, int, PixelRun | None]] = ((a, b, None) for a, b in source.tiff.spans)
    runs = ((run.offset, run.offset + run.length, run) for run in pixel_runs(layout))
    at = 0
    for start, end, run in heapq.merge(spans, runs, key=lambda item: item[0]):
        yield from source.stream.pieces_of(start - at)
        if run is None:
            yield source.view.at(start, end - start)
        else:
            yield from band.bytes_of(run)
        at = end
    yield from source.stream.pieces_of(size - at)


class _Band:
    """The words around the run that was asked for last: runs mostly follow each other."""

    def __init__(self, layout: ImageLayout, read: Callable[[Window], Words]) -> None:
        self.layout, self.read = layout, read
        self.dtype = word_dtype(layout)
        pixel = layout.block_samples * layout.bits // 8
        step_y = layout.block_height if layout.tiled else 1
        step_x = layout.block_width if layout.tiled else layout.width
        self.height = step_y * max(1, BAND_BYTES // (step_y * layout.width * pixel))
        if self.height > TILE_ROWS and TILE_ROWS % step_y == 0:
            self.height -= self.height % TILE_ROWS
        self.width = step_x * max(1, min(layout.across, BAND_BYTES // (step_y * step_x * pixel)))
        self.place: tuple[int | None, int, int] | None = None
        self.words: Words = np.empty(0)

    def bytes_of(self, run: PixelRun) -> Iterator[bytes | memoryview]:
        """The run's bytes as the file holds them, cut where the cached rows end."""
        y = run.y0
        while y < run.y1:
            end = min(run.y1, (y // self.height + 1) * self.height)
            top, left = y // self.height * self.height, run.x0 // self.width * self.width
            self.fetch(run.sample, top, left)
            part = self.words[:, y - top : end - top, run.x0 - left : run.x1 - left]
            yield np.ascontiguousarray(np.moveaxis(part, 0, -1), self.dtype).reshape(-1).view(np.uint8).data
            y = end

    def fetch(self, sample: int | None, top: int, left: int) -> None:
        if self.place == (sample, top, left):
            return
        bottom = min(top + self.height, self.layout.height)
        right = min(left + self.width, self.layout.width)
        if self.layout.samples == 1:
            words = self.read(Window((top, left), (bottom, right)))[np.newaxis]
        else:
            first, last = (0, self.layout.samples) if sample is None else (sample, sample + 1)
            words = self.read(Window((first, top, left), (last, bottom, right)))
        self.place, self.words = (sample, top, left), words


def word_dtype(layout: ImageLayout) -> np.dtype[Any]:
    """The dtype of a plain file's words, in the file's byte order."""
    kind = {1: "u", 2: "i", 3: "f", 6: "c"}[layout.sample_format]
    return np.dtype(f"{kind}{layout.bits // 8}").newbyteorder(layout.order)
