"""The directories of a TIFF file, read field by field with every offset and count checked.

libtiff repairs what it finds broken and reads absent blocks as zeros; an archive must know both. So the
structure is parsed here first, from any random-access view of the bytes (a file, or the structural bytes
that an archive kept of it), and only a file that survives is handed to GDAL. Nothing is allocated for a
number from the file before that number was compared with the file's size and with a limit.

Sources: TIFF 6.0, section 2; BigTIFF design (libtiff.gitlab.io/libtiff/specification/bigtiff.html).
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tilevault.codecs.errors import InconsistentHeader, LimitExceeded, NotRecognized, TruncatedSource

__all__ = [
    "BLOCK_TAGS",
    "TYPE_SIZES",
    "ByteView",
    "Ifd",
    "Order",
    "Tag",
    "Tiff",
    "is_tiff",
    "merge",
    "parse_tiff",
]

MAX_IFDS = 4096
MAX_TAGS = 4096
MAX_TAG_BYTES = 16 << 20
"""Bytes of all directories and tag values together, the positions of blocks not counted."""
MAX_BLOCKS = 1 << 22
"""Strips and tiles of all directories together."""

TYPE_SIZES = {
    1: 1,  # BYTE
    2: 1,  # ASCII
    3: 2,  # SHORT
    4: 4,  # LONG
    5: 8,  # RATIONAL
    6: 1,  # SBYTE
    7: 1,  # UNDEFINED
    8: 2,  # SSHORT
    9: 4,  # SLONG
    10: 8,  # SRATIONAL
    11: 4,  # FLOAT
    12: 8,  # DOUBLE
    13: 4,  # IFD
    16: 8,  # LONG8
    17: 8,  # SLONG8
    18: 8,  # IFD8
}
UNSIGNED = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}

STRIP_OFFSETS, STRIP_COUNTS, TILE_OFFSETS, TILE_COUNTS = 273, 279, 324, 325
BLOCK_TAGS = frozenset((STRIP_OFFSETS, STRIP_COUNTS, TILE_OFFSETS, TILE_COUNTS))
SUB_IFDS = 330
Order = Literal["<", ">"]
"""Byte order as NumPy and `struct` write it."""

POINTERS = frozenset((SUB_IFDS, 34665, 34853, 40965))
"""Tags whose values are offsets of further directories: SubIFDs, Exif, GPS, interoperability."""


class ByteView(Protocol):
    """Random access to the bytes of a file, or to the part of them that was kept."""

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        ...

    def at(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes at ``offset``; `TruncatedSource` where there are fewer."""
        ...


@dataclass(frozen=True)
class Tag:
    """One directory entry with its value as it lies in the file."""

    id: int
    type: int
    count: int
    value: bytes
    """``count`` values of ``type`` in the file's byte order."""


@dataclass(frozen=True)
class Ifd:
    """One image file directory."""

    offset: int
    order: Order
    tags: Mapping[int, Tag]
    children: Mapping[int, tuple["Ifd", ...]] = field(default_factory=dict)
    """Directories that a pointer tag (SubIFDs, Exif, GPS) names, by that tag."""

    def unsigned(self, tag_id: int) -> NDArray[np.uint64] | None:
        """The values of an unsigned integer tag; None where the directory has no such tag."""
        tag = self.tags.get(tag_id)
        if tag is None:
            return None
        if tag.type not in UNSIGNED:
            raise InconsistentHeader(f"tag {tag_id} has type {tag.type}, not an unsigned integer")
        return np.frombuffer(tag.value, np.dtype(UNSIGNED[tag.type]).newbyteorder(self.order)).astype("u8")

    def number(self, tag_id: int, default: int | None = None) -> int:
        """The single value of an unsigned integer tag; `InconsistentHeader` where it is needed and absent."""
        values = self.unsigned(tag_id)
        if values is None:
            if default is None:
                raise InconsistentHeader(f"required tag {tag_id} is missing")
            return default
        if len(values) != 1:
            raise InconsistentHeader(f"tag {tag_id} has {len(values)} values, not 1")
        return int(values[0])

    def numbers(self, tag_id: int, count: int, default: int | None = None) -> tuple[int, ...]:
        """One value per sample; a single value stands for all of them, as libtiff reads it."""
        values = self.unsigned(tag_id)
        if values is None:
            if default is None:
                raise InconsistentHeader(f"required tag {tag_id} is missing")
            return (default,) * count
        if len(values) not in (1, count):
            raise InconsistentHeader(f"tag {tag_id} has {len(values)} values for {count} samples")
        return tuple(int(v) for v in values) if len(values) == count else (int(values[0]),) * count


@dataclass(frozen=True)
class Tiff:
    """The structure of one file."""

    size: int
    order: Order
    big: bool
    """BigTIFF: offsets and counts of 8 bytes."""
    ifds: tuple[Ifd, ...]
    """The main chain."""
    spans: tuple[tuple[int, int], ...]
    """[start, end) of header, directories and tag values: sorted, merged."""


def is_tiff(head: bytes) -> bool:
    """Whether the first bytes are those of a classic or BigTIFF file of either byte order."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def parse_tiff(view: ByteView) -> Tiff:
    """The structure of a file.

    Raises `NotRecognized`, `TruncatedSource` (something lies past the end), `InconsistentHeader`
    (a loop, an unknown type, a tag twice) or `LimitExceeded`.
    """
    return _Parser(view).parse()


class _Parser:
    def __init__(self, view: ByteView) -> None:
        self.view = view
        self.visited: set[int] = set()
        self.spans: list[tuple[int, int]] = []
        self.tag_bytes = 0
        self.positions = 0

    def parse(self) -> Tiff:
        head = self.view.at(0, min(8, self.view.size))
        if not is_tiff(head):
            raise NotRecognized("does not begin as a TIFF file does")
        if len(head) < 8:
            raise TruncatedSource(f"ends inside the TIFF header, at byte {len(head)}")
        self.order: Order = "<" if head[:2] == b"II" else ">"
        self.big = head[2:4] in (b"+\0", b"\0+")
        self.word = "Q" if self.big else "I"
        length = 16 if self.big else 8
        if self.big and struct.unpack(self.order + "HH", head[4:8]) != (8, 0):
            raise InconsistentHeader("BigTIFF header does not declare offsets of 8 bytes")
        last = self.view.at(8, 8) if self.big else head[4:]
        first = struct.unpack(self.order + self.word, last)[0]
        if first == 0:
            raise InconsistentHeader("the file has no image directory")
        self.spans.append((0, length))
        ifds = self.chain(first)
        return Tiff(self.view.size, self.order, self.big, ifds, merge(self.spans))

    def chain(self, offset: int) -> tuple[Ifd, ...]:
        ifds = []
        while offset:
            ifd, offset = self.directory(offset)
            ifds.append(ifd)
        return tuple(ifds)

    def read(self, offset: int, length: int, what: str) -> bytes:
        if offset + length > self.view.size:
            raise TruncatedSource(
                f"{what} would end at byte {offset + length} of {self.view.size}",
                expected=offset + length,
                actual=self.view.size,
            )
        self.spans.append((offset, offset + length))
        return self.view.at(offset, length)

    def charge(self, length: int, what: str) -> None:
        self.tag_bytes += length
        if self.tag_bytes > MAX_TAG_BYTES:
            raise LimitExceeded(f"more than {MAX_TAG_BYTES} bytes of tags, with {what}")

    def directory(self, offset: int, depth: int = 0) -> tuple[Ifd, int]:
        if offset in self.visited:
            raise InconsistentHeader(f"the image directory at byte {offset} is its own successor")
        self.visited.add(offset)
        if len(self.visited) > MAX_IFDS:
            raise LimitExceeded(f"more than {MAX_IFDS} image directories")
        count_size, entry_size = (8, 20) if self.big else (2, 12)
        raw = self.read(offset, count_size, "the image directory")
        count: int = struct.unpack(self.order + ("Q" if self.big else "H"), raw)[0]
        if count == 0:
            raise InconsistentHeader(f"the image directory at byte {offset} is empty")
        if count > MAX_TAGS:
            raise LimitExceeded(f"{count} tags in one image directory, the limit is {MAX_TAGS}")
        self.charge(count * entry_size, f"the image directory at byte {offset}")
        tail = 8 if self.big else 4
        table = self.read(offset + count_size, count * entry_size + tail, "the image directory")
        tags: dict[int, Tag] = {}
        for i in range(count):
            tag = self.entry(table[i * entry_size : (i + 1) * entry_size])
            if tag.id in tags:
                raise InconsistentHeader(f"tag {tag.id} is given twice")
            tags[tag.id] = tag
        following: int = struct.unpack(self.order + self.word, table[count * entry_size :])[0]
        ifd = Ifd(offset, self.order, tags)
        return Ifd(offset, self.order, tags, self.children(ifd, depth)), following

    def children(self, ifd: Ifd, depth: int) -> dict[int, tuple[Ifd, ...]]:
        found: dict[int, tuple[Ifd, ...]] = {}
        for tag_id in sorted(POINTERS & ifd.tags.keys()):
            if depth >= 4:
                raise LimitExceeded("image directories nested deeper than 4")
            offsets = ifd.unsigned(tag_id)
            found[tag_id] = tuple(
                self.directory(int(o), depth + 1)[0] for o in (offsets if offsets is not None else ()) if o
            )
        return found

    def entry(self, raw: bytes) -> Tag:
        tag_id, kind, count = struct.unpack(self.order + "HH" + self.word, raw[: 12 if self.big else 8])
        inline = raw[12 if self.big else 8 :]
        if kind not in TYPE_SIZES:
            raise InconsistentHeader(f"tag {tag_id} has the unknown type {kind}")
        length = TYPE_SIZES[kind] * count
        if tag_id in BLOCK_TAGS:
            self.positions += count
            if self.positions > 2 * MAX_BLOCKS:
                raise LimitExceeded(f"more than {MAX_BLOCKS} strips or tiles")
        else:
            self.charge(length, f"tag {tag_id}")
        if length <= len(inline):
            return Tag(tag_id, kind, count, inline[:length])
        offset = struct.unpack(self.order + self.word, inline)[0]
        return Tag(tag_id, kind, count, self.read(offset, length, f"tag {tag_id}"))


def merge(spans: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The same bytes as sorted ranges that do not touch."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif end > start:
            merged.append((start, end))
    return tuple(merged)
