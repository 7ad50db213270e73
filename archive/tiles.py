"""One tiled array of a generation, and its tiles on their way into shards, each segment under its digest.

The tables (`archive.tables`) say for every tile where each resolution segment ends and what its BLAKE3 is;
`archive.tile_reader` reads by them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from blake3 import blake3

from tilevault.archive.grid import TileGrid, reduced_extent
from tilevault.archive.image import Window, Words
from tilevault.archive.limits import MAX_STREAM
from tilevault.archive.quality import TileQuality
from tilevault.archive.shard import build_shard
from tilevault.archive.tables import DIGEST_BYTES
from tilevault.codecs.base import TileCodec
from tilevault.codecs.errors import LimitExceeded, VerifyAfterEncodeFailed

__all__ = [
    "EncodedTile",
    "TiledArray",
    "assemble_shard",
    "encode_tile",
    "encode_tiles",
    "keep_stream",
    "pixel_digest",
    "record_tile",
    "tile_digest",
]


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
    valid: int | None = None
    """Samples that are no nodata, where that is counted (`Description.counts_valid`)."""


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
