"""One tiled array of a generation: its shards are encoded and read here, each segment under its digest.

The tables (`TileTables`) say for every tile where each resolution segment ends and what its BLAKE3 is. A read
plans its byte ranges from them, checks each segment that it uses, and only then decodes. Level 0 never goes
through zarr's own pipeline, which answers a missing chunk with the fill value.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, cached_property
from math import prod
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from tilevault.archive.blobs import Blob, LocalBlobs
from tilevault.archive.grid import TileGrid, reduced_extent
from tilevault.archive.image import Window, Words
from tilevault.archive.limits import MAX_STREAM
from tilevault.archive.quality import TileQuality
from tilevault.archive.shard import CRC_BYTES, build_shard, index_bytes, parse_index
from tilevault.codecs import FrameCodec, LearnedCodec
from tilevault.codecs.base import TileCodec
from tilevault.codecs.errors import (
    IntegrityError,
    InvalidRequest,
    LimitExceeded,
    ShortRead,
    TileCorrupt,
    TileMissing,
    VerifyAfterEncodeFailed,
)
from tilevault.codecs.lossless import FRAME_HEAD

__all__ = [
    "DIGEST_BYTES",
    "EncodedTile",
    "TileReader",
    "TileTables",
    "TiledArray",
    "assemble_shard",
    "encode_tile",
    "encode_tiles",
    "keep_stream",
    "magnified",
    "pixel_digest",
    "record_tile",
    "tile_digest",
]

LOSSY_HEAD = 2
"""Bytes by which the lossy codec's frame is longer than the lossless one, at most."""
HELD_SHARDS = 16
"""Shards that a reader keeps open where it may."""
DIGEST_BYTES = 16
"""BLAKE3-128: the first 16 bytes of BLAKE3."""


def tile_digest(data: bytes | memoryview) -> bytes:
    """BLAKE3-128 of ``data``."""
    return blake3(data).digest(length=DIGEST_BYTES)


def pixel_digest(words: Words) -> bytes:
    """BLAKE3-128 of the words of a tile's valid extent: C order, little-endian."""
    return tile_digest(_little(words))


def _little(words: Words) -> memoryview:
    ordered = np.ascontiguousarray(words, dtype=words.dtype.newbyteorder("<"))
    return ordered.reshape(-1).view(np.uint8).data


def _same_bits(a: Words, b: Words) -> bool:
    """Whether two arrays hold the same bytes (NaN equals itself, 0.0 is not -0.0), eight at a time."""
    raw = np.frombuffer(_little(a), np.uint8), np.frombuffer(_little(b), np.uint8)
    wide = np.uint8 if raw[0].size % 8 else np.uint64
    return raw[0].size == raw[1].size and np.array_equal(raw[0].view(wide), raw[1].view(wide))


@dataclass(frozen=True)
class TiledArray:
    """Where an array lies in its generation and how it is cut and coded."""

    path: str
    """Zarr path of the array in the generation, such as ``0`` or ``0/data``."""
    dtype: np.dtype[Any]
    grid: TileGrid
    codec: TileCodec

    def shard_key(self, index: tuple[int, ...]) -> str:
        """Key of a shard (Zarr's default chunk key encoding), relative to the generation."""
        return "/".join([self.path, "c", *map(str, index)])

    def shard_index(self, key: str) -> tuple[int, ...] | None:
        """Position of the shard that lies under ``key``; None if no shard of this array does."""
        path, _, position = key.partition("/c/")
        parts = position.split("/")
        if path != self.path or len(parts) != len(self.grid.shape):
            return None
        if not all(part.isascii() and part.isdecimal() and len(part) < 12 for part in parts):
            return None
        index = tuple(int(part) for part in parts)
        inside = all(i < n for i, n in zip(index, self.grid.shards, strict=True))
        return index if inside and self.shard_key(index) == key else None

    def level_window(self, index: tuple[int, ...], reduce: int) -> Window:
        """The samples of a tile in the coordinates of level ``reduce``."""
        valid = self.grid.tile_window(index)
        start = (*valid.start[:-2], *(a >> reduce for a in valid.start[-2:]))
        extent = (*valid.shape[:-2], *(reduced_extent(n, reduce) for n in valid.shape[-2:]))
        return Window(start, tuple(a + n for a, n in zip(start, extent, strict=True)))


@dataclass(frozen=True)
class EncodedTile:
    """A tile's bytes and all that is recorded about them."""

    data: bytes
    ends: tuple[int, ...]
    digests: bytes
    pixels: bytes
    quality: TileQuality | None = None
    """Of a lossy tile: what was measured."""


@dataclass(frozen=True)
class TileTables:
    """Per tile of the grid: segment ends, segment digests, digest of the decoded words."""

    ends: NDArray[np.uint32]
    """(*tiles, segments)"""
    digests: NDArray[np.uint8]
    """(*tiles, segments, 16)"""
    pixels: NDArray[np.uint8]
    """(*tiles, 16)"""

    @classmethod
    def empty(cls, array: TiledArray) -> "TileTables":
        """Tables of zeros, to be filled shard by shard."""
        tiles, segments = array.grid.tiles, array.codec.resolutions
        return cls(
            np.zeros((*tiles, segments), np.uint32),
            np.zeros((*tiles, segments, DIGEST_BYTES), np.uint8),
            np.zeros((*tiles, DIGEST_BYTES), np.uint8),
        )

    def put(self, index: tuple[int, ...], tile: EncodedTile) -> None:
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


def encode_tile(codec: TileCodec, words: Words, prove: bool = True) -> EncodedTile:
    """Encode and, with ``prove``, decode again and compare bit for bit.

    Raises `VerifyAfterEncodeFailed`, after a second try. Without ``prove`` the caller decodes later.
    """
    words = np.ascontiguousarray(words)
    for _ in range(2):
        data = codec.encode_tile(words)
        if not prove or _same_bits(codec.decode_tile(data, words.shape, words.dtype), words):
            return record_tile(codec, data, words)
    raise VerifyAfterEncodeFailed("a tile did not decode to the words that were encoded")


def keep_stream(codec: TileCodec, data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> EncodedTile:
    """Take a verbatim bit stream as the tile, once it has shown that it decodes. Raises `LimitExceeded`."""
    if len(data) > MAX_STREAM:
        raise LimitExceeded(f"a frame of {len(data)} bytes, more than {MAX_STREAM}")
    return record_tile(codec, data, codec.decode_tile(data, shape, dtype))


def record_tile(codec: TileCodec, data: bytes, words: Words) -> EncodedTile:
    """What is kept of a tile: ``words`` are what it decodes to."""
    ends = codec.segment_ends(data)
    view, digests, start = memoryview(data), [], 0
    for end in ends:
        digests.append(tile_digest(view[start:end]))
        start = end
    return EncodedTile(data, tuple(ends), b"".join(digests), pixel_digest(words))


def encode_tiles(
    array: TiledArray, window: Window, words: Words, prove: bool = True
) -> dict[tuple[int, ...], EncodedTile]:
    """The tiles of a ``window`` of whole tiles with the given words, by grid position."""
    return {
        at: encode_tile(array.codec, words[array.grid.tile_window(at).shift(window.start).slices], prove)
        for at in array.grid.tile_indices(window)
    }


def assemble_shard(array: TiledArray, tiles: Mapping[tuple[int, ...], EncodedTile]) -> list[bytes]:
    """The pieces of a shard object that holds ``tiles``."""
    placed = {array.grid.shard_of(at)[1]: tile.data for at, tile in tiles.items()}
    return build_shard(placed, array.grid.tiles_per_shard)


@dataclass
class TileReader:
    """Checked reads of one array of one generation."""

    blobs: LocalBlobs
    prefix: str
    """Key of the generation."""
    array: TiledArray
    tables: TileTables
    sizes: Mapping[str, int]
    """Size of each shard object by key relative to the generation (from the manifest)."""
    image: str
    """Image id, for messages."""
    hold: bool = False
    """Keep the last shards open, for one task that reads many neighbours and is done."""
    _indices: dict[tuple[int, ...], NDArray[np.uint64]] = field(default_factory=dict)
    _held: dict[str, Blob] = field(default_factory=dict)

    def read(self, window: Window, reduce: int = 0, threads: bool = True, restore: bool = True) -> Words:
        """The words of ``window`` in the coordinates of level ``reduce``, from the tiles it touches only.

        ``restore=False``: of lossy tiles, without what a network adds after decoding.
        """
        finest = magnified(window, reduce, self.array.grid.shape) if reduce else window
        indices = list(self.array.grid.tile_indices(finest)) if prod(window.shape) else []
        if len(indices) == 1 and self.array.level_window(indices[0], reduce) == window:
            return self.tile(indices[0], reduce, restore)
        out = np.zeros(window.shape, self.array.dtype)

        def place(index: tuple[int, ...]) -> None:
            tile = self.array.level_window(index, reduce)
            common = tile.intersect(window)
            if prod(common.shape):
                words = self.tile(index, reduce, restore)
                out[common.shift(window.start).slices] = words[common.shift(tile.start).slices]

        if threads and len(indices) > 1:
            list(_pool().map(place, indices))
        else:
            for index in indices:
                place(index)
        return out

    def tile(self, index: tuple[int, ...], reduce: int = 0, restore: bool = True) -> Words:
        """One tile's valid words at a resolution. Raises `TileCorrupt` or `TileMissing`."""
        return self.tile_levels(index, (reduce,), restore)[reduce]

    def tile_levels(
        self, index: tuple[int, ...], levels: Sequence[int], restore: bool = True
    ) -> dict[int, Words]:
        """One tile's valid words at several resolutions (ascending), read once."""
        codec = self.array.codec
        if not all(0 <= level < codec.resolutions for level in levels):
            raise InvalidRequest(f"a tile of {self.image} has no resolution {max(levels)}")
        data = self.tile_bytes(index, codec.resolutions - levels[0])
        shape = self.array.grid.tile_window(index).shape
        ends = self.tables.ends[index]
        made = {}
        try:
            if isinstance(codec, LearnedCodec):
                return {0: codec.decode_tile(data, shape, self.array.dtype, restore=restore)}
            for level in levels:
                end = int(ends[codec.resolutions - level - 1])
                made[level] = codec.decode_tile(memoryview(data)[:end], shape, self.array.dtype, level)
        except TileCorrupt as error:
            raise self._corrupt(index, str(error)) from error
        return made

    def tile_bytes(self, index: tuple[int, ...], segments: int) -> bytes:
        """The first ``segments`` segments of a tile, each checked against its digest."""
        ends = [int(end) for end in self.tables.ends[index]]
        offset, length = self._locate(index)
        if sorted(ends) != ends or not ends[-1] + CRC_BYTES == length <= self._longest:
            raise self._corrupt(index, "its length is not the recorded one, or not that of a tile")
        data = self._read(index, offset, offset + ends[segments - 1])
        view, start = memoryview(data), 0
        for end, digest in zip(ends[:segments], self.tables.digests[index], strict=False):
            if tile_digest(view[start:end]) != digest.tobytes():
                raise self._corrupt(index, "a segment does not match its digest")
            start = end
        return data

    @cached_property
    def _longest(self) -> int:
        """Bytes of a tile at most: a codec of ours stores raw what it cannot make smaller."""
        if isinstance(self.array.codec, FrameCodec):
            return MAX_STREAM + CRC_BYTES
        lossy = LOSSY_HEAD if isinstance(self.array.codec, LearnedCodec) else 0
        raw = prod(self.array.grid.tile) * self.array.dtype.itemsize
        return raw + FRAME_HEAD + lossy + CRC_BYTES

    def check_pixels(self, index: tuple[int, ...]) -> None:
        """Decode a whole tile and compare it with the digest of the words that it decoded to at first."""
        if pixel_digest(self.tile(index)) != self.tables.pixels[index].tobytes():
            raise self._corrupt(index, "it decodes to other words than those that were archived")

    def damaged(self, within: Window | None = None) -> Iterator[IntegrityError]:
        """Every damaged tile of ``within`` as the error that reading it raises."""
        for index in self.array.grid.tile_indices(within):
            try:
                self.tile_bytes(index, self.array.codec.resolutions)
            except IntegrityError as error:
                yield error

    def _locate(self, index: tuple[int, ...]) -> tuple[int, int]:
        shard, place = self.array.grid.shard_of(index)
        if shard not in self._indices:
            self._indices[shard] = self._read_index(shard, index)
        offset, length = self._indices[shard][place].tolist()
        if offset == 2**64 - 1:
            raise TileMissing(f"{self._name(index)}: its shard has no entry for it", **self._where(index))
        return offset, length

    def _read_index(self, shard: tuple[int, ...], index: tuple[int, ...]) -> NDArray[np.uint64]:
        key, per = self.array.shard_key(shard), self.array.grid.tiles_per_shard
        size = self.sizes.get(key)
        if size is None:
            raise TileMissing(f"{self._name(index)}: the manifest lists no shard {key}", **self._where(index))
        if size < index_bytes(per):
            raise self._corrupt(index, "its shard is shorter than its index")
        tail = self._read(index, size - index_bytes(per), size)
        try:
            return parse_index(tail, size, per, key)
        except TileCorrupt as error:
            raise self._corrupt(index, str(error)) from error

    def _read(self, index: tuple[int, ...], start: int, stop: int) -> bytes:
        shard, _ = self.array.grid.shard_of(index)
        key = f"{self.prefix}/{self.array.shard_key(shard)}"
        try:
            return self._held_open(key).read(start, stop) if self.hold else self.blobs.read(key, start, stop)
        except TileMissing as error:
            raise TileMissing(f"{self._name(index)}: {key} is missing", **self._where(index)) from error
        except ShortRead as error:
            raise self._corrupt(index, f"its shard is truncated: {error}") from error

    def _held_open(self, key: str) -> Blob:
        blob = self._held.get(key)
        if blob is None:
            blob = self._held[key] = self.blobs.open(key)
            if len(self._held) > HELD_SHARDS:
                self._held.pop(next(iter(self._held)), None)
        return blob

    def _name(self, index: tuple[int, ...]) -> str:
        return f"image {self.image}, array {self.array.path}, tile {tuple(index)}"

    def _where(self, index: tuple[int, ...]) -> dict[str, Any]:
        shard, _ = self.array.grid.shard_of(index)
        return {
            "image": self.image,
            "level": 0,
            "array": self.array.path,
            "index": list(index),
            "object": self.array.shard_key(shard),
        }

    def _corrupt(self, index: tuple[int, ...], why: str) -> TileCorrupt:
        return TileCorrupt(f"{self._name(index)}: {why}", **self._where(index))


def magnified(window: Window, level: int, shape: tuple[int, ...]) -> Window:
    """The samples of a level 0 of ``shape`` that ``window`` of ``level`` stands for."""
    stop = (min(b << level, n) for b, n in zip(window.stop[-2:], shape[-2:], strict=True))
    return Window(
        (*window.start[:-2], *(a << level for a in window.start[-2:])),
        (*window.stop[:-2], *stop),
    )


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="tilevault-read")
