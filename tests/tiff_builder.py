"""TIFF files built field by field, for tests: sound ones, odd ones, and ones that lie.

`page` makes the tags and blocks of one uncompressed image, `tiff` puts pages into a file. Every tag can be
replaced or left out, and `Built` says where each directory and block ended up, so that a test can cut or
change exactly one thing.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ASCII", "BYTE", "DOUBLE", "LONG", "LONG8", "SHORT", "Built", "Page", "page", "tiff"]

BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, DOUBLE, LONG8 = 1, 2, 3, 4, 5, 7, 12, 16
CODES = {BYTE: "B", ASCII: "B", SHORT: "H", LONG: "I", UNDEFINED: "B", DOUBLE: "d", LONG8: "Q"}

Value = tuple[int, Sequence[Any] | bytes]
"""Type and values of a tag; bytes are taken as they are."""


@dataclass
class Page:
    """One image: its tags but the block positions, and its blocks (None: sparse)."""

    tags: dict[int, Value]
    blocks: list[bytes | None]
    tiled: bool = False
    raw_tags: dict[int, tuple[int, int, bytes]] = field(default_factory=dict)
    """Entries with any type, count and value field (the 4 or 8 bytes), as they are."""
    counts: Mapping[int, int] = field(default_factory=dict)
    """Byte counts that differ from the block's length, by block."""
    offsets: Mapping[int, int] = field(default_factory=dict)
    """Offsets that differ from where the block is, by block."""


@dataclass(frozen=True)
class Built:
    """A file and where its parts are."""

    data: bytes
    blocks: tuple[tuple[tuple[int, int], ...], ...]
    """[start, end) of each block of each page; (0, 0) where absent."""
    directories: tuple[tuple[int, int], ...]
    """[start, end) of each page's directory table."""
    values: tuple[tuple[int, int], ...]
    """[start, end) of the out-of-line tag values of each page."""


def page(
    image: NDArray[Any],
    *,
    order: str = "<",
    rows: int | None = None,
    tile: tuple[int, int] | None = None,
    planar: bool = False,
    absent: Sequence[int] = (),
    tags: Mapping[int, Value | None] | None = None,
) -> Page:
    """An uncompressed page of a (y, x) or (c, y, x) image; ``tags`` are added, replaced or (None) dropped."""
    planes = image[np.newaxis] if image.ndim == 2 else image
    samples, height, width = planes.shape
    file_dtype = image.dtype.newbyteorder(order)
    kind = {"u": 1, "i": 2, "f": 3, "c": 6}[image.dtype.kind]
    found: dict[int, Value | None] = {
        256: (LONG, [width]),
        257: (LONG, [height]),
        258: (SHORT, [image.dtype.itemsize * 8] * samples),
        259: (SHORT, [1]),
        262: (SHORT, [1]),
        277: (SHORT, [samples]),
        284: (SHORT, [2 if planar else 1]),
        339: (SHORT, [kind] * samples),
    }
    if samples > 1:
        found[338] = (SHORT, [0] * (samples - 1))
    high, wide = tile or (rows or height, width)
    if tile:
        found |= {322: (LONG, [wide]), 323: (LONG, [high])}
    else:
        found[278] = (LONG, [high])
    blocks: list[bytes | None] = []
    for group in [planes[c : c + 1] for c in range(samples)] if planar else [planes]:
        for y in range(0, height, high):
            for x in range(0, width, wide):
                part = group[:, y : y + high, x : x + wide]
                if tile:
                    full = np.full((len(group), high, wide), 77, image.dtype)
                    full[:, : part.shape[1], : part.shape[2]] = part
                    part = full
                blocks.append(np.moveaxis(part, 0, -1).astype(file_dtype).tobytes())
    for index in absent:
        blocks[index] = None
    found |= tags or {}
    return Page({k: v for k, v in found.items() if v is not None}, blocks, bool(tile))


def tiff(
    pages: Sequence[Page],
    *,
    order: str = "<",
    big: bool = False,
    directories_first: bool = False,
    loop: bool = False,
    gap: bytes = b"",
) -> Built:
    """A file of ``pages``; ``loop`` links the last directory to the first, ``gap`` lies between parts."""
    head = 16 if big else 8
    out = bytearray(head)
    places: list[list[tuple[int, int]]] = []
    if directories_first:
        sizes = [len(_directory(p, [(0, 0)] * len(p.blocks), order, big, 0, 0)[0]) for p in pages]
        at = head + sum(sizes) + len(gap) * len(pages)
        for p in pages:
            places.append(_place(p, at, len(gap)))
            at = max((end for _, end in places[-1]), default=at) + len(gap)
        out += _directories(pages, places, order, big, loop, gap, head)[0]
        starts = _directories(pages, places, order, big, loop, gap, head)[1]
        for p in pages:
            for block in p.blocks:
                out += b"" if block is None else gap + block
            out += gap
    else:
        for p in pages:
            places.append(_place(p, len(out), len(gap)))
            for block in p.blocks:
                out += b"" if block is None else gap + block
            out += gap
        data, starts = _directories(pages, places, order, big, loop, gap, len(out))
        out += data
    mark = b"II" if order == "<" else b"MM"
    if big:
        out[:16] = mark + struct.pack(order + "HHHQ", 43, 8, 0, starts[0][1])
    else:
        out[:8] = mark + struct.pack(order + "HI", 42, starts[0][1])
    return Built(
        bytes(out),
        tuple(tuple(p) for p in places),
        tuple((start, end) for _, start, end in starts),
        tuple((first, start) for first, start, _ in starts),
    )


def _place(p: Page, at: int, gap: int) -> list[tuple[int, int]]:
    places = []
    for block in p.blocks:
        if block is None:
            places.append((0, 0))
            continue
        at += gap
        places.append((at, at + len(block)))
        at += len(block)
    return places


def _directories(
    pages: Sequence[Page],
    places: Sequence[Sequence[tuple[int, int]]],
    order: str,
    big: bool,
    loop: bool,
    gap: bytes,
    at: int,
) -> tuple[bytes, list[tuple[int, int, int]]]:
    sizes = [len(_directory(p, w, order, big, 0, 0)[0]) for p, w in zip(pages, places, strict=True)]
    firsts = [at + sum(sizes[:i]) + len(gap) * i for i in range(len(pages))]
    tables = [
        first + _directory(p, w, order, big, first, 0)[1]
        for p, w, first in zip(pages, places, firsts, strict=True)
    ]
    out, starts = bytearray(), []
    for i, (p, where) in enumerate(zip(pages, places, strict=True)):
        following = tables[i + 1] if i + 1 < len(pages) else tables[0] if loop else 0
        data, table = _directory(p, where, order, big, firsts[i], following)
        starts.append((firsts[i], firsts[i] + table, firsts[i] + len(data)))
        out += data + gap
    return bytes(out), starts


def _directory(
    p: Page, places: Sequence[tuple[int, int]], order: str, big: bool, at: int, following: int
) -> tuple[bytes, int]:
    """Values, then the table: the bytes, and where among them the table begins."""
    kind = LONG8 if big else LONG
    offsets = [p.offsets.get(i, start) for i, (start, _) in enumerate(places)]
    counts = [p.counts.get(i, end - start) for i, (start, end) in enumerate(places)]
    tags: dict[int, Value] = {
        324 if p.tiled else 273: (kind, offsets),
        325 if p.tiled else 279: (kind, counts),
    } | p.tags
    word, room = ("Q", 8) if big else ("I", 4)
    out, entries = bytearray(), {}
    for tag, (code, values) in tags.items():
        if isinstance(values, bytes):
            data, count = values, len(values) // struct.calcsize(CODES.get(code, "B"))
        else:
            data, count = struct.pack(f"{order}{len(values)}{CODES[code]}", *values), len(values)
        entry = struct.pack(order + "HH" + word, tag, code, count)
        if len(data) <= room:
            entries[tag] = entry + data.ljust(room, b"\0")
            continue
        entries[tag] = entry + struct.pack(order + word, at + len(out))
        out += data + bytes(len(data) % 2)
    for tag, (code, count, field_bytes) in p.raw_tags.items():
        entries[tag] = struct.pack(order + "HH" + word, tag, code, count) + field_bytes
    table = len(out)
    out += struct.pack(order + ("Q" if big else "H"), len(entries))
    out += b"".join(entries[tag] for tag in sorted(entries)) + struct.pack(order + word, following)
    return bytes(out), table
