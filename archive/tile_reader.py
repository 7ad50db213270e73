"""Checked reads of one tiled array of a generation: from a window to the bytes that it needs, and no others.

A read plans its byte ranges from the tables, checks each segment that it uses, and only then decodes. Level 0
never goes through zarr's own pipeline, which answers a missing chunk with the fill value.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevault.archive.cache import TileCache
from tilevault.archive.image import Window, Words
from tilevault.archive.limits import MAX_STREAM
from tilevault.archive.parallel import each
from tilevault.archive.places import Blobs, OpenBlob
from tilevault.archive.ranges import Request, merged
from tilevault.archive.shard import CRC_BYTES, index_bytes, parse_index
from tilevault.archive.tables import DIGEST_BYTES, StoredTables, Tables
from tilevault.archive.tiles import TiledArray, pixel_digest, tile_digest
from tilevault.codecs import FrameCodec, LearnedCodec
from tilevault.codecs.errors import IntegrityError, InvalidRequest, ShortRead, TileCorrupt, TileMissing
from tilevault.codecs.lossless import FRAME_HEAD

__all__ = ["TileReader", "magnified"]

LOSSY_HEAD = 2
"""Bytes by which the lossy codec's frame is longer than the lossless one, at most."""
HELD_SHARDS = 16
"""Shards that a reader keeps open where it may."""

Bytes = bytes | memoryview
_Request = Request[tuple[int, ...]]


@dataclass
class TileReader:
    """Checked reads of one array of one generation."""

    blobs: Blobs
    prefix: str
    """Key of the generation."""
    array: TiledArray
    tables: Tables
    size_of: Callable[[str], int | None]
    """Size of a shard object by its key relative to the generation (from the manifest); None: no such key."""
    image: str
    """Image id, for messages."""
    hold: bool = False
    """Keep the last shards open, for one task that reads many neighbours and is done."""
    cache: TileCache | None = None
    """Where decoded tiles are kept."""
    identity: str = ""
    """Digest of the manifest: what tiles in the cache are known by."""
    _indices: dict[tuple[int, ...], NDArray[np.uint64]] = field(default_factory=dict)
    _held: dict[str, OpenBlob] = field(default_factory=dict)

    def read(self, window: Window, reduce: int = 0, threads: bool = True, restore: bool = True) -> Words:
        """The words of ``window`` in the coordinates of level ``reduce``, from the tiles it touches only.

        ``restore=False``: of lossy tiles, without what a network adds after decoding.
        """
        finest = magnified(window, reduce, self.array.grid.shape) if reduce else window
        indices = list(self.array.grid.tile_indices(finest)) if prod(window.shape) else []
        if self.blobs.far:
            self._prepare([index for index in indices if not self._is_kept(index, reduce, restore)])
        if len(indices) == 1 and self.array.level_window(indices[0], reduce) == window:
            words = self.tile(indices[0], reduce, restore)
            return words if words.flags.writeable else words.copy()
        out = np.zeros(window.shape, self.array.dtype)

        def place(index: tuple[int, ...], data: Bytes | None = None) -> None:
            tile = self.array.level_window(index, reduce)
            common = tile.intersect(window)
            if prod(common.shape):
                words = self.tile(index, reduce, restore, data)
                out[common.shift(window.start).slices] = words[common.shift(tile.start).slices]

        if self.blobs.far:
            kept = [index for index in indices if self._is_kept(index, reduce, restore)]
            each(place, kept, threads=threads)
            asked = [index for index in indices if index not in set(kept)]
            each(partial(self._fetch, place), self._requests(asked, reduce), far=True)
        else:
            each(place, indices, threads=threads)
        return out

    def tile(
        self, index: tuple[int, ...], reduce: int = 0, restore: bool = True, data: Bytes | None = None
    ) -> Words:
        """One tile's valid words at a resolution, read-only where they are in the cache.

        ``data``: the bytes of its segments, where they have been read. Raises `TileCorrupt`, `TileMissing`.
        """
        if self.cache is None:
            return self.tile_levels(index, (reduce,), restore, data)[reduce]
        key = self._cache_key(index, reduce, restore)
        return self.cache.get(key, lambda: self.tile_levels(index, (reduce,), restore, data)[reduce])

    def _cache_key(self, index: tuple[int, ...], reduce: int, restore: bool) -> Hashable:
        return self.identity, self.array.path, index, reduce, restore

    def _is_kept(self, index: tuple[int, ...], reduce: int, restore: bool) -> bool:
        return self.cache is not None and self._cache_key(index, reduce, restore) in self.cache

    def _prepare(self, indices: Sequence[tuple[int, ...]]) -> None:
        """Read what these tiles are planned by, side by side: chunks of tables, then indices of shards."""
        if isinstance(self.tables, StoredTables):
            each(self.tables.load, list(self.tables.wanted(indices)), far=True)
        shards = {self.array.grid.shard_of(index)[0]: index for index in indices}
        each(self._load_index, [at for shard, at in shards.items() if shard not in self._indices], far=True)

    def _requests(self, indices: Sequence[tuple[int, ...]], reduce: int) -> list[tuple[str, _Request]]:
        """What to ask a far place for, by object."""
        wanted: dict[str, list[tuple[int, int, tuple[int, ...]]]] = {}
        for index in indices:
            start, stop = self._extent(index, self.array.codec.resolutions - reduce)
            key = self.array.shard_key(self.array.grid.shard_of(index)[0])
            wanted.setdefault(key, []).append((start, stop, index))
        return [(key, request) for key, ranges in wanted.items() for request in merged(ranges)]

    def _fetch(self, place: Callable[[tuple[int, ...], Bytes], None], of: tuple[str, _Request]) -> None:
        _, request = of
        data = memoryview(self._read(request.wanted[0][2], request.start, request.stop))
        for start, stop, index in request.wanted:
            place(index, data[start - request.start : stop - request.start])

    def tile_levels(
        self, index: tuple[int, ...], levels: Sequence[int], restore: bool = True, data: Bytes | None = None
    ) -> dict[int, Words]:
        """One tile's valid words at several resolutions (ascending), read once; ``data`` as in `tile`."""
        codec = self.array.codec
        if not all(0 <= level < codec.resolutions for level in levels):
            raise InvalidRequest(f"a tile of {self.image} has no resolution {max(levels)}")
        segments = codec.resolutions - levels[0]
        if data is None:
            data = self.tile_bytes(index, segments)
        else:
            self._check(index, segments, data)
        shape = self.array.grid.tile_window(index).shape
        ends = self.tables.ends_of(index)
        made = {}
        try:
            if isinstance(codec, LearnedCodec):
                return {0: codec.decode_tile(data, shape, self.array.dtype, restore=restore)}
            for level in levels:
                end = ends[codec.resolutions - level - 1]
                made[level] = codec.decode_tile(memoryview(data)[:end], shape, self.array.dtype, level)
        except TileCorrupt as error:
            raise self._corrupt(index, str(error)) from error
        return made

    def tile_bytes(self, index: tuple[int, ...], segments: int) -> bytes:
        """The first ``segments`` segments of a tile, each checked against its digest."""
        data = self._read(index, *self._extent(index, segments))
        self._check(index, segments, data)
        return data

    def _check(self, index: tuple[int, ...], segments: int, data: Bytes) -> None:
        ends, digests = self.tables.ends_of(index), self.tables.digests_of(index)
        view, start, at = memoryview(data), 0, 0
        for end in ends[:segments]:
            if tile_digest(view[start:end]) != digests[at : at + DIGEST_BYTES]:
                raise self._corrupt(index, "a segment does not match its digest")
            start, at = end, at + DIGEST_BYTES

    def _extent(self, index: tuple[int, ...], segments: int) -> tuple[int, int]:
        """Where the first ``segments`` segments of a tile lie in its shard."""
        ends = self.tables.ends_of(index)
        offset, length = self._locate(index)
        if sorted(ends) != ends or not ends[-1] + CRC_BYTES == length <= self._longest:
            raise self._corrupt(index, "its length is not the recorded one, or not that of a tile")
        return offset, offset + ends[segments - 1]

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
        if pixel_digest(self.tile_levels(index, (0,))[0]) != self.tables.pixels_of(index):
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
            self._load_index(index)
        offset, length = self._indices[shard][place].tolist()
        if offset == 2**64 - 1:
            raise TileMissing(f"{self._name(index)}: its shard has no entry for it", **self._where(index))
        return offset, length

    def _load_index(self, index: tuple[int, ...]) -> None:
        shard, _ = self.array.grid.shard_of(index)
        self._indices[shard] = self._read_index(shard, index)

    def _read_index(self, shard: tuple[int, ...], index: tuple[int, ...]) -> NDArray[np.uint64]:
        key, per = self.array.shard_key(shard), self.array.grid.tiles_per_shard
        size = self.size_of(key)
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

    def _held_open(self, key: str) -> OpenBlob:
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
