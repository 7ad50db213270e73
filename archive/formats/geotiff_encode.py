"""A TIFF written from an image's words and the tags of the file that it came from.

The tags are carried over as bytes, in the source's byte order; only those that say how pixels are laid out
are new: 512 x 512 tiles, deflate, a predictor that suits the words. So what GDAL reads from the tags is
equal by construction, also where its own writer would have said it differently or not at all.

Sources: TIFF 6.0; TIFF Technical Note 3 (floating-point predictor); BigTIFF design.
"""

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tilevault.archive.formats.geotiff_ifd import POINTERS, SUB_IFDS, Ifd, Order, Tag, Tiff
from tilevault.archive.formats.geotiff_layout import YCBCR, ImageLayout
from tilevault.archive.image import Window, Words

__all__ = ["Pixels", "encode_tiff"]

TILE = 512
ROW_BYTES = 64 << 20
"""Words that are asked for at a time."""
CHUNKY_PIXEL = 32
"""Largest pixel in bytes that is kept together; beyond, each band has its own tiles."""
BAND_GROUP = 16
"""Bands that an archive keeps in one tile are asked for together."""
CLASSIC_LIMIT = 3_900_000_000
"""Raw bytes from which on offsets of 8 bytes are used: deflate adds at most a few hundredths of a percent."""

SHORT, LONG, LONG8 = 3, 4, 16
DEFLATE = 8
DEFLATE_LEVEL = 4
"""Level 6 makes files 0.4 to 3 % smaller and takes two to five times as long (Landsat band, ramp)."""
LAYOUT_TAGS = frozenset(
    (
        *(258, 259, 262, 266, 273, 277, 278, 279, 284, 288, 289, 292, 293, 317, 322, 323, 324, 325),
        *(326, 327, 328, SUB_IFDS, 339, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 50674),
    )
)
"""Tags that say how the pixels lie in the file; every other tag is carried over."""
YCBCR_TAGS = frozenset((529, 530, 531, 532))


@dataclass(frozen=True)
class Pixels:
    """Where the words come from; both are asked for windows of whole tile rows."""

    read: Callable[[Window], Words]
    """Words of a window in the image's axes: (y, x) for one band, else (c, y, x)."""
    read_mask: Callable[[Window], NDArray[np.uint8]] | None
    """Mask (0 or 255) of a (y, x) window, where the image has one."""


@dataclass
class _Directory:
    """A directory to be written."""

    order: Order
    big: bool
    tags: dict[int, Tag] = field(default_factory=dict)
    children: Mapping[int, tuple[Ifd, ...]] = field(default_factory=dict)
    places: dict[int, int] = field(default_factory=dict)
    """Where in the file each tag's value lies, once rendered."""

    def put(self, tag_id: int, kind: int, values: Sequence[int] | NDArray[Any]) -> None:
        code = {SHORT: "u2", LONG: "u4", LONG8: "u8"}[kind]
        data = np.asarray(values, np.dtype(code).newbyteorder(self.order)).tobytes()
        self.tags[tag_id] = Tag(tag_id, kind, len(values), data)

    def render(self, at: int, following: int) -> tuple[bytes, int]:
        """The bytes to be written at ``at``, and where among the file's bytes the directory begins."""
        out = bytearray()
        tags = dict(self.tags)
        for tag_id, ifds in self.children.items():
            offsets = []
            for ifd in ifds:
                child = _Directory(self.order, self.big, dict(ifd.tags), ifd.children)
                data, start = child.render(at + len(out), 0)
                out += data
                offsets.append(start)
            code, kind = ("Q", 18) if self.big else ("I", 4)
            tags[tag_id] = Tag(
                tag_id, kind, len(offsets), struct.pack(f"{self.order}{len(offsets)}{code}", *offsets)
            )
        entries = b"".join(self._entry(tags[tag_id], at, out) for tag_id in sorted(tags))
        out += bytes(-(at + len(out)) % 8)
        start = at + len(out)
        word, head = ("Q", "Q") if self.big else ("I", "H")
        for i, tag_id in enumerate(sorted(tags)):
            entry_size, value_at = (20, 12) if self.big else (12, 8)
            self.places.setdefault(tag_id, start + struct.calcsize(head) + i * entry_size + value_at)
        out += struct.pack(self.order + head, len(tags)) + entries + struct.pack(self.order + word, following)
        return bytes(out), start

    def _entry(self, tag: Tag, at: int, out: bytearray) -> bytes:
        word, room = ("Q", 8) if self.big else ("I", 4)
        head = struct.pack(self.order + "HH" + word, tag.id, tag.type, tag.count)
        if len(tag.value) <= room:
            return head + tag.value.ljust(room, b"\0")
        out += bytes(-(at + len(out)) % 8)
        self.places[tag.id] = at + len(out)
        entry = head + struct.pack(self.order + word, at + len(out))
        out += tag.value
        return entry


@dataclass(frozen=True)
class _Plan:
    """How the new file lays out its pixels."""

    width: int
    height: int
    samples: int
    dtype: np.dtype[Any]
    bits: int
    sample_format: int | None
    """None: the tag is left out, as in the source."""
    photometric: int | None
    planar: bool
    tile: tuple[int, int]
    order: Order

    @property
    def grid(self) -> tuple[int, int]:
        return -(-self.height // self.tile[0]), -(-self.width // self.tile[1])

    @property
    def blocks(self) -> int:
        return self.grid[0] * self.grid[1] * (self.samples if self.planar else 1)

    @property
    def predictor(self) -> int:
        if self.dtype.kind == "f":
            return 3
        return 2 if self.dtype.kind in "ui" and self.bits == self.dtype.itemsize * 8 <= 32 else 1


def _plan(layout: ImageLayout, ifd: Ifd, dtype: np.dtype[Any]) -> _Plan:
    floats = layout.sample_format == 3
    pixel = dtype.itemsize * layout.samples
    return _Plan(
        width=layout.width,
        height=layout.height,
        samples=layout.samples,
        dtype=dtype,
        # GDAL widens half and 24-bit floats; what it gives is what is archived.
        bits=dtype.itemsize * 8 if floats else layout.bits,
        sample_format=layout.sample_format if 339 in ifd.tags else None,
        photometric=(2 if layout.photometric == YCBCR else layout.photometric) if 262 in ifd.tags else None,
        planar=layout.samples > 1 and pixel > CHUNKY_PIXEL,
        tile=(_side(layout.height), _side(layout.width)),
        order=layout.order,
    )


def _side(extent: int) -> int:
    return min(TILE, -(-extent // 16) * 16)


def encode_tiff(
    out: BinaryIO, tiff: Tiff, layout: ImageLayout, dtype: np.dtype[Any], masked: bool, pixels: Pixels | None
) -> None:
    """Write an image with the tags of ``tiff``'s first directory to ``out``, an empty seekable file.

    Without ``pixels`` every block is left absent: all of the metadata, none of the image.
    """
    ifd = tiff.ifds[0]
    plan = _plan(layout, ifd, dtype)
    raw = (
        plan.blocks * plan.tile[0] * plan.tile[1] * plan.dtype.itemsize * (1 if plan.planar else plan.samples)
    )
    big = tiff.big or raw > CLASSIC_LIMIT
    main, mask = _main_directory(ifd, plan, big), _mask_directory(plan, big) if masked else None
    head = 16 if big else 8
    body, following = b"", 0
    if mask is not None:
        body, following = mask.render(head, 0)
    data, first = main.render(head + len(body), following)
    mark = (b"II" if plan.order == "<" else b"MM") + struct.pack(plan.order + "H", 43 if big else 42)
    start = struct.pack(plan.order + "HHQ", 8, 0, first) if big else struct.pack(plan.order + "I", first)
    out.write(mark + start + body + data)
    if pixels is None:
        return
    blocks = _Blocks(out, plan.blocks)
    for index, block in _tiles(plan, pixels.read):
        blocks.append(index, block)
    blocks.finish(main)
    if mask is not None and pixels.read_mask is not None:
        blocks = _Blocks(out, plan.grid[0] * plan.grid[1])
        for index, block in _mask_tiles(plan, pixels.read_mask):
            blocks.append(index, block)
        blocks.finish(mask)


def _main_directory(ifd: Ifd, plan: _Plan, big: bool) -> _Directory:
    dropped = LAYOUT_TAGS | (YCBCR_TAGS if ifd.number(262, 1) == YCBCR else frozenset())
    carried = {i: t for i, t in ifd.tags.items() if i not in dropped and i not in POINTERS}
    children = {i: c for i, c in ifd.children.items() if i != SUB_IFDS and c}
    directory = _Directory(plan.order, big, carried, children)
    directory.put(258, SHORT, [plan.bits] * plan.samples)
    if plan.photometric is not None:
        directory.put(262, SHORT, [plan.photometric])
    if plan.sample_format is not None:
        directory.put(339, SHORT, [plan.sample_format] * plan.samples)
    directory.put(277, SHORT, [plan.samples])
    directory.put(284, SHORT, [2 if plan.planar else 1])
    if plan.predictor != 1:
        directory.put(317, SHORT, [plan.predictor])
    _put_blocks(directory, plan, plan.blocks)
    return directory


def _mask_directory(plan: _Plan, big: bool) -> _Directory:
    directory = _Directory(plan.order, big)
    directory.put(254, LONG, [4])
    directory.put(256, LONG, [plan.width])
    directory.put(257, LONG, [plan.height])
    directory.put(258, SHORT, [1])
    directory.put(262, SHORT, [4])
    directory.put(277, SHORT, [1])
    directory.put(284, SHORT, [1])
    _put_blocks(directory, plan, plan.grid[0] * plan.grid[1])
    return directory


def _put_blocks(directory: _Directory, plan: _Plan, blocks: int) -> None:
    kind = LONG8 if directory.big else LONG
    directory.put(259, SHORT, [DEFLATE])
    directory.put(322, SHORT, [plan.tile[1]])
    directory.put(323, SHORT, [plan.tile[0]])
    directory.put(324, kind, np.zeros(blocks, "u8"))
    directory.put(325, kind, np.zeros(blocks, "u8"))


class _Blocks:
    """Appends compressed blocks and remembers where they went."""

    def __init__(self, out: BinaryIO, blocks: int) -> None:
        self.out = out
        self.offsets, self.counts = np.zeros(blocks, "u8"), np.zeros(blocks, "u8")

    def append(self, index: int, block: bytes) -> None:
        data = zlib.compress(block, DEFLATE_LEVEL)
        self.offsets[index], self.counts[index] = self.out.tell(), len(data)
        self.out.write(data)

    def finish(self, directory: _Directory) -> None:
        for tag_id, values in ((324, self.offsets), (325, self.counts)):
            tag = directory.tags[tag_id]
            code = np.dtype("u8" if tag.type == LONG8 else "u4").newbyteorder(directory.order)
            self.out.seek(directory.places[tag_id])
            self.out.write(values.astype(code).tobytes())
        self.out.seek(0, 2)


def _windows(plan: _Plan, pixel: int) -> Iterator[tuple[int, int, int, int]]:
    """Row, first and last column of tiles, in pixels: (y0, y1, x0, x1), bounded in bytes."""
    high, wide = plan.tile
    step = wide * max(1, ROW_BYTES // (high * wide * pixel))
    for y0 in range(0, plan.height, high):
        for x0 in range(0, plan.width, step):
            yield y0, min(y0 + high, plan.height), x0, min(x0 + step, plan.width)


def _tiles(plan: _Plan, read: Callable[[Window], Words]) -> Iterator[tuple[int, bytes]]:
    """(block number, bytes before compression) of every tile."""
    group = BAND_GROUP if plan.planar else plan.samples
    for y0, y1, x0, x1 in _windows(plan, plan.dtype.itemsize * min(group, plan.samples)):
        for c0 in range(0, plan.samples, group):
            c1 = min(c0 + group, plan.samples)
            if plan.samples == 1:
                words = read(Window((y0, x0), (y1, x1)))[np.newaxis]
            else:
                words = read(Window((c0, y0, x0), (c1, y1, x1)))
            for left in range(x0, x1, plan.tile[1]):
                part = words[:, :, left - x0 : left - x0 + plan.tile[1]]
                place = y0 // plan.tile[0] * plan.grid[1] + left // plan.tile[1]
                if not plan.planar:
                    yield place, _tile_bytes(plan, part)
                    continue
                for c in range(c0, c1):
                    yield (
                        c * plan.grid[0] * plan.grid[1] + place,
                        _tile_bytes(plan, part[c - c0 : c - c0 + 1]),
                    )


def _tile_bytes(plan: _Plan, words: Words) -> bytes:
    """A full tile of (c, y, x) words as the file holds it: padded, pixel by pixel, predicted."""
    tile = np.zeros((*plan.tile, len(words)), plan.dtype)
    tile[: words.shape[1], : words.shape[2]] = np.moveaxis(words, 0, -1)
    if plan.predictor == 3:
        return _float_differences(tile)
    if plan.predictor == 2:
        unsigned = tile.view(f"u{plan.dtype.itemsize}")
        unsigned[:, 1:] -= unsigned[:, :-1].copy()
    if plan.dtype.kind in "ui" and plan.bits != plan.dtype.itemsize * 8:
        return _packed(tile, plan.bits)
    return tile.astype(plan.dtype.newbyteorder(plan.order)).tobytes()


def _float_differences(tile: NDArray[Any]) -> bytes:
    """Technical Note 3: the row's bytes by significance, highest first, then differences of bytes."""
    high, wide, samples = tile.shape
    size = tile.dtype.itemsize
    octets = np.frombuffer(tile.astype(tile.dtype.newbyteorder(">")).tobytes(), np.uint8)
    planes = np.moveaxis(octets.reshape(high, wide * samples, size), 2, 1).reshape(high, -1)
    out = planes.copy()
    out[:, samples:] -= planes[:, :-samples]
    return out.tobytes()


def _packed(tile: NDArray[Any], bits: int) -> bytes:
    """Words of ``bits`` significant bits, one after the other, each row from a byte of its own."""
    rows = tile.reshape(len(tile), -1)
    shifts = np.arange(bits - 1, -1, -1, dtype=rows.dtype)
    planes = (rows[:, :, np.newaxis] >> shifts & rows.dtype.type(1)).astype(np.uint8)
    return np.packbits(planes.reshape(len(rows), -1), axis=1).tobytes()


def _mask_tiles(plan: _Plan, read_mask: Callable[[Window], NDArray[np.uint8]]) -> Iterator[tuple[int, bytes]]:
    for y0, y1, x0, x1 in _windows(plan, 1):
        mask = read_mask(Window((y0, x0), (y1, x1)))
        for left in range(x0, x1, plan.tile[1]):
            part = mask[:, left - x0 : left - x0 + plan.tile[1]] > 0
            tile = np.zeros(plan.tile, bool)
            tile[: part.shape[0], : part.shape[1]] = part
            yield (
                y0 // plan.tile[0] * plan.grid[1] + left // plan.tile[1],
                np.packbits(tile, axis=1).tobytes(),
            )
