"""Where tiles and shards lie: integer arithmetic, nothing else.

A *tile* is the unit of coding (a Zarr inner chunk), a *shard* the unit of writing (a Zarr chunk).
Every sample of an image lies in exactly one tile, every tile in exactly one shard. Tiles at the far
edges are coded at their valid extent; the Zarr chunk around them is nominal.
"""

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, prod

from tilevault.archive.image import Window

__all__ = ["DECOMPOSITIONS", "SHARD_BYTES", "TILE_BYTES", "TileGrid", "reduced_extent", "tile_shape"]

DECOMPOSITIONS = 5
"""Wavelet decompositions of a tile; chunk sides are multiples of 2**5, so that levels align."""
SHARD_BYTES = 64 << 20
"""Raw samples of one shard at most (or one tile, if larger): bounds a task's memory."""
BALANCED_BYTES = 16 << 20
"""A shard grows along x up to SHARD_BYTES, along other axes only up to this: enough tasks for all workers."""
STACKED_SAMPLES = 256 << 10
"""Small planes share a tile up to this many samples, so that tables and frames amortise."""
TILE_BYTES = 64 << 20
"""Raw samples of one tile at most."""
MAX_BANDS = 16
"""Bands that share a tile."""


def reduced_extent(extent: int, level: int) -> int:
    """Samples along one spatial axis of ``extent`` at ``level`` (the low band keeps even positions)."""
    return -(-extent // (1 << level))


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def tile_shape(
    shape: Sequence[int], axes: Sequence[str], side: int = 512, itemsize: int = 1
) -> tuple[int, ...]:
    """The tile (inner chunk) shape for an image of ``shape`` along ``axes``.

    y and x: ``side`` or less, a multiple of 2**DECOMPOSITIONS; ``c``: all samples up to 16 bands; the
    innermost other axis: as many planes as fit 256 Ki samples. ``side`` is halved until a tile has at most
    64 MiB of samples of ``itemsize`` bytes.
    """
    bands = min(shape[axes.index("c")], MAX_BANDS) if "c" in axes else 1
    while bands * side * side * itemsize > TILE_BYTES:
        side //= 2
    step = 1 << DECOMPOSITIONS
    tile = [1] * len(shape)
    for i in (-2, -1):
        tile[i] = min(_round_up(side, step), _round_up(shape[i], step))
    if "c" in axes:
        tile[axes.index("c")] = bands
    stacked = [i for i, name in enumerate(axes[:-2]) if name != "c"]
    if stacked and all(tile[i] >= shape[i] for i in (-2, -1)):
        innermost = stacked[-1]
        plane = prod(min(t, n) for t, n in zip(tile, shape, strict=True))
        tile[innermost] = max(1, min(shape[innermost], STACKED_SAMPLES // plane))
    return tuple(tile)


@dataclass(frozen=True)
class TileGrid:
    """The tiles and shards of one array."""

    shape: tuple[int, ...]
    tile: tuple[int, ...]
    shard: tuple[int, ...]

    @classmethod
    def plan(
        cls,
        shape: tuple[int, ...],
        tile: tuple[int, ...],
        itemsize: int,
        shard_bytes: int | None = None,
    ) -> "TileGrid":
        """Shards grown from one tile along x (to 64 MiB), then y, then outward (to ``shard_bytes``: 16 MiB).

        Growing x first makes full-width row bands, which a striped source can deliver without reading
        a strip twice; whole planes follow, so that a DICOM frame lies in as few shards as possible.
        """
        shard = list(tile)
        for i in reversed(range(len(shape))):
            needed = ceil(shape[i] / tile[i])
            balanced = shard_bytes or BALANCED_BYTES
            limit = max(SHARD_BYTES, balanced) if i == len(shape) - 1 else balanced
            room = max(1, limit // (prod(shard) * itemsize))
            shard[i] = tile[i] * min(needed, room)
            if min(needed, room) < needed:
                break
        return cls(tuple(shape), tuple(tile), tuple(shard))

    @property
    def tiles(self) -> tuple[int, ...]:
        """Number of tiles along each axis."""
        return tuple(ceil(n / t) for n, t in zip(self.shape, self.tile, strict=True))

    @property
    def shards(self) -> tuple[int, ...]:
        """Number of shards along each axis."""
        return tuple(ceil(n / s) for n, s in zip(self.shape, self.shard, strict=True))

    @property
    def tiles_per_shard(self) -> tuple[int, ...]:
        """Number of tile places in a (full) shard along each axis."""
        return tuple(map(operator.floordiv, self.shard, self.tile))

    def tile_window(self, index: tuple[int, ...]) -> Window:
        """The valid samples of the tile at grid position ``index``."""
        return self._window(index, self.tile)

    def shard_window(self, index: tuple[int, ...]) -> Window:
        """The valid samples of the shard at grid position ``index``."""
        return self._window(index, self.shard)

    def parts(self, window: Window) -> Iterator[Window]:
        """A shard in the parts in which it is best read: its tiles, where each holds whole planes.

        Rows of a plane are read for all tiles at once, as sources have them in strips; a plane that is one
        tile is encoded while it lies in the processor's cache.
        """
        if self.tiles[-2:] != (1, 1):
            yield window
        else:
            yield from map(self.tile_window, self.tile_indices(window))

    def shard_of(self, tile_index: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        """The shard that holds a tile, and the tile's place (C order) in the shard's index."""
        per = self.tiles_per_shard
        shard = tuple(i // p for i, p in zip(tile_index, per, strict=True))
        place = 0
        for i, p in zip(tile_index, per, strict=True):
            place = place * p + i % p
        return shard, place

    def shard_indices(self) -> Iterator[tuple[int, ...]]:
        """Every shard position, C order."""
        return product(*(range(n) for n in self.shards))

    def tile_indices(self, within: Window | None = None) -> Iterator[tuple[int, ...]]:
        """Positions of all tiles that meet ``within`` (default: every tile), C order."""
        if within is None:
            return product(*(range(n) for n in self.tiles))
        if 0 in within.shape:
            return iter(())
        return product(
            *(range(a // t, -(-b // t)) for a, b, t in zip(within.start, within.stop, self.tile, strict=True))
        )

    def _window(self, index: tuple[int, ...], block: tuple[int, ...]) -> Window:
        start = tuple(i * b for i, b in zip(index, block, strict=True))
        return Window(start, tuple(map(min, map(operator.add, start, block), self.shape)))
