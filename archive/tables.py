"""What is known of each tile before it is read, as it lies in ``tiles/``: looked up tile by tile.

The tables of a large image are megabytes, and a window needs a few rows of them: chunks are read, checked
and kept when a tile in them is asked for. `TileTables` holds whole tables, for whoever writes them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from tilevault.archive.image import Words
from tilevault.archive.plain import PlainArray

if TYPE_CHECKING:
    from tilevault.archive.tiles import EncodedTile, TiledArray

__all__ = ["DIGEST_BYTES", "StoredTables", "Tables", "TileTables"]

DIGEST_BYTES = 16
"""BLAKE3-128: the first 16 bytes of BLAKE3."""

Index = tuple[int, ...]


class Tables(Protocol):
    """Per tile of the grid: segment ends, segment digests, digest of the decoded words."""

    @property
    def ends(self) -> NDArray[np.uint32]:
        """(*tiles, segments)"""
        ...

    @property
    def digests(self) -> NDArray[np.uint8]:
        """(*tiles, segments, 16)"""
        ...

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """(*tiles, 16)"""
        ...

    def ends_of(self, index: Index) -> list[int]:
        """End of each segment of a tile."""
        ...

    def digests_of(self, index: Index) -> bytes:
        """Digests of a tile's segments, one after the other."""
        ...

    def pixels_of(self, index: Index) -> bytes:
        """Digest of a tile's words."""
        ...


@dataclass(frozen=True)
class TileTables:
    """Whole tables in memory."""

    ends: NDArray[np.uint32]
    """(*tiles, segments)"""
    digests: NDArray[np.uint8]
    """(*tiles, segments, 16)"""
    pixels: NDArray[np.uint8]
    """(*tiles, 16)"""

    @classmethod
    def empty(cls, array: "TiledArray") -> "TileTables":
        """Tables of zeros, to be filled shard by shard."""
        tiles, segments = array.grid.tiles, array.codec.resolutions
        return cls(
            np.zeros((*tiles, segments), np.uint32),
            np.zeros((*tiles, segments, DIGEST_BYTES), np.uint8),
            np.zeros((*tiles, DIGEST_BYTES), np.uint8),
        )

    def put(self, index: Index, tile: "EncodedTile") -> None:
        """Record one tile."""
        self.ends[index] = tile.ends
        self.digests[index] = np.frombuffer(tile.digests, np.uint8).reshape(-1, DIGEST_BYTES)
        self.pixels[index] = np.frombuffer(tile.pixels, np.uint8)

    @property
    def parts(self) -> tuple[Words, Words, Words]:
        """The three tables in the order in which they are declared."""
        return self.ends, self.digests, self.pixels

    def bits(self) -> NDArray[np.uint32]:
        """Coded bits of each tile."""
        return np.asarray(self.ends[..., -1], np.uint32) * np.uint32(8)

    def ends_of(self, index: Index) -> list[int]:
        """See `Tables.ends_of`."""
        ends: list[int] = self.ends[index].tolist()
        return ends

    def digests_of(self, index: Index) -> bytes:
        """See `Tables.digests_of`."""
        return bytes(self.digests[index].tobytes())

    def pixels_of(self, index: Index) -> bytes:
        """See `Tables.pixels_of`."""
        return bytes(self.pixels[index].tobytes())


class StoredTables:
    """Tables in an archive. ``read`` gives one checked chunk of one of the arrays ends, digests, pixels."""

    def __init__(self, arrays: Sequence[PlainArray], read: Callable[[PlainArray, Index], Words]) -> None:
        self._ends, self._digests, self._pixels = (_Table(array, read) for array in arrays)

    @property
    def ends(self) -> NDArray[np.uint32]:
        """See `Tables.ends`."""
        return self._ends.whole

    @property
    def digests(self) -> NDArray[np.uint8]:
        """See `Tables.digests`."""
        return self._digests.whole

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """See `Tables.pixels`."""
        return self._pixels.whole

    def ends_of(self, index: Index) -> list[int]:
        """See `Tables.ends_of`. Raises what ``read`` raises."""
        ends: list[int] = self._ends.row(index).tolist()
        return ends

    def digests_of(self, index: Index) -> bytes:
        """See `Tables.digests_of`. Raises what ``read`` raises."""
        return self._digests.row(index).tobytes()

    def pixels_of(self, index: Index) -> bytes:
        """See `Tables.pixels_of`. Raises what ``read`` raises."""
        return self._pixels.row(index).tobytes()

    def load(self, wanted: tuple[str, Index]) -> None:
        """Read a chunk that `wanted` named. Raises what ``read`` raises."""
        path, place = wanted
        next(table for table in (self._ends, self._digests) if table.array.path == path).load(place)

    def wanted(self, indices: Iterable[Index]) -> Iterator[tuple[str, Index]]:
        """The chunks of ends and digests that these tiles need and that are not here yet."""
        places = [(table, table.place(index)) for index in indices for table in (self._ends, self._digests)]
        for table, place in dict.fromkeys(places):
            if place not in table.chunks:
                yield table.array.path, place


class _Table:
    """One array: the chunks that were needed so far."""

    def __init__(self, array: PlainArray, read: Callable[[PlainArray, Index], Words]) -> None:
        self.array = array
        self.chunks: dict[Index, Words] = {}
        self._read = read

    def place(self, index: Index) -> Index:
        """The chunk of a tile: none is cut within the axes that follow those of the grid."""
        rest = len(self.array.shape) - len(index)
        return (*(i // c for i, c in zip(index, self.array.chunks, strict=False)), *(0,) * rest)

    def row(self, index: Index) -> Words:
        """What the table holds of a tile."""
        place = self.place(index)
        chunk = self.chunks.get(place)
        if chunk is None:
            chunk = self.load(place)
        found: Words = chunk[tuple(i % c for i, c in zip(index, self.array.chunks, strict=False))]
        return found

    def load(self, place: Index) -> Words:
        """Read a chunk and keep it."""
        chunk = self.chunks[place] = self._read(self.array, place)
        return chunk

    @cached_property
    def whole(self) -> Words:
        """All rows."""
        words = np.empty(self.array.shape, self.array.dtype)
        for place in self.array.chunk_indices():
            chunk = self.chunks.get(place)
            words[self.array.window(place).slices] = self._read(self.array, place) if chunk is None else chunk
        return words
