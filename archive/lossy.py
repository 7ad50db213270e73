"""Lossy tiles: encoded, decoded again by the real decoder, measured, and the measures kept as arrays.

Of every tile is recorded what it costs and how far what readers get is from what was handed in
(`archive.quality`). The proof at ingest is that measurement: the tile that will be read meets its target.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevault.archive.image import Window, Words
from tilevault.archive.plain import PlainArray
from tilevault.archive.quality import MODEL_BYTES, QUALITY_ARRAYS, QualityTables, TileQuality
from tilevault.archive.tiles import EncodedTile, TiledArray, record_tile
from tilevault.codecs import LearnedCodec, metrics
from tilevault.codecs.errors import InvalidRequest, ManifestCorrupt, VerifyAfterEncodeFailed
from tilevault.codecs.learned import Coded
from tilevault.codecs.lossy_modes import LEARNED

__all__ = [
    "CLOSEUPS",
    "Closeup",
    "encode_lossy_tile",
    "encode_lossy_tiles",
    "measure_arrays",
    "measured",
    "summary",
    "worst_of",
]


CLOSEUP_SIDE = 64
CLOSEUPS = 4
"""Close-ups that are kept of an image, at most, for the report of the run that adds it."""


@dataclass(frozen=True)
class Closeup:
    """Where a tile differs most from what was handed in: a square of one plane, before and after."""

    tile: tuple[int, ...]
    """Position in the tile grid."""
    psnr: float
    max_abs_error: float
    """Of the whole tile."""
    start: tuple[int, ...]
    """Position of the square's first sample in the image."""
    original: Words
    """(y, x), at most 64 x 64."""
    decoded: Words
    counted: NDArray[np.bool_]
    """Samples that count."""


def encode_lossy_tiles(
    array: TiledArray, window: Window, words: Words, mask: NDArray[np.uint8] | None
) -> tuple[dict[tuple[int, ...], EncodedTile], list[Closeup]]:
    """The tiles of a ``window`` of whole tiles, as `encode_tiles`; each is decoded and measured.

    ``mask``: (y, x) of the window, 0 where samples are not valid. Second: the worst of them. Raises
    `VerifyAfterEncodeFailed` where a tile misses its target.
    """
    tiles: dict[tuple[int, ...], EncodedTile] = {}
    worst: list[Closeup] = []
    for at in array.grid.tile_indices(window):
        box = array.grid.tile_window(at).shift(window.start)
        valid = None if mask is None else mask[box.slices[-2:]] != 0
        own = words[box.slices]
        tiles[at], coded = encode_lossy_tile(array, own, valid)
        quality = tiles[at].quality
        if quality is None or quality.exact or (len(worst) == CLOSEUPS and quality.psnr >= worst[-1].psnr):
            continue
        worst.append(_closeup(at, array.grid.tile_window(at).start, quality, own, coded))
        worst = worst_of(worst)
    return tiles, worst


def worst_of(closeups: Iterable[Closeup]) -> list[Closeup]:
    """Those of the lowest PSNR, worst first, as many as are kept."""
    return sorted(closeups, key=lambda closeup: (closeup.psnr, closeup.tile))[:CLOSEUPS]


def _closeup(
    at: tuple[int, ...], start: tuple[int, ...], quality: TileQuality, words: Words, coded: Coded
) -> Closeup:
    """The square of CLOSEUP_SIDE, on a grid of such squares, with the most squared error."""
    counted = np.ones(words.shape, bool) if coded.counted is None else coded.counted
    with np.errstate(invalid="ignore"):
        errors = np.where(counted, coded.words.astype(np.float64) - words.astype(np.float64), 0) ** 2
    edges = [np.arange(0, n, CLOSEUP_SIDE) for n in words.shape[-2:]]
    sums = np.add.reduceat(np.add.reduceat(errors, edges[0], -2), edges[1], -1)
    *lead, i, j = (int(k) for k in np.unravel_index(int(sums.argmax()), sums.shape))
    y, x = i * CLOSEUP_SIDE, j * CLOSEUP_SIDE
    place: tuple[Any, ...] = (*lead, slice(y, y + CLOSEUP_SIDE), slice(x, x + CLOSEUP_SIDE))
    return Closeup(
        at,
        quality.psnr,
        quality.max_abs_error,
        tuple(a + b for a, b in zip(start, (*lead, y, x), strict=True)),
        words[place].copy(),
        coded.words[place].copy(),
        counted[place].copy(),
    )


def encode_lossy_tile(
    array: TiledArray, words: Words, valid: NDArray[np.bool_] | None
) -> tuple[EncodedTile, Coded]:
    """One tile: its bytes with what was measured, and what they decode to."""
    codec = array.codec
    if not isinstance(codec, LearnedCodec):
        raise InvalidRequest(f"{codec} has no target")
    words = np.ascontiguousarray(words)
    coded = codec.code_tile(words, valid)
    facts = codec.facts(coded.data, words.shape, words.dtype)
    peak = codec.peak(words.dtype)
    found = metrics.measure(words, coded.words, peak, coded.counted)
    plain = None
    if facts.restored:
        without = codec.decode_tile(coded.data, words.shape, words.dtype, restore=False)
        plain = metrics.measure(words, without, peak, coded.counted)
    _confirm(codec, found)
    samples = words.size if coded.counted is None else int(coded.counted.sum())
    used = codec.model if facts.mode == LEARNED else ""
    model = bytes.fromhex(used)[:MODEL_BYTES] or bytes(MODEL_BYTES)
    quality = TileQuality.measured(coded.data, samples, found, plain, facts.step, model)
    return replace(record_tile(codec, coded.data, coded.words), quality=quality), coded


def _confirm(codec: LearnedCodec, found: metrics.Quality) -> None:
    """The proof of a lossy tile: what it decodes to is within the stated bound."""
    missed = (
        found.max_abs_error > codec.value if codec.target == "max_error" else found.psnr < codec.value - 1e-9
    )
    if missed:
        raise VerifyAfterEncodeFailed(f"a tile misses its target {codec.fidelity}: {found}")


def measure_arrays(array: TiledArray) -> dict[str, PlainArray]:
    """The arrays of ``quality/`` that a lossy image has; ``bits`` is one of them."""
    return {
        a.name: PlainArray.table(f"quality/{a.name}", a.shape(array.grid.tiles), a.dtype)
        for a in QUALITY_ARRAYS
    }


def measured(array: TiledArray, shards: Iterable[Mapping[tuple[int, ...], EncodedTile]]) -> QualityTables:
    """The arrays filled from the tiles of all shards. Raises `ManifestCorrupt` where a measure is missing."""
    tables = QualityTables.empty(array.grid.tiles)
    for tiles in shards:
        for at, tile in tiles.items():
            if tile.quality is None:
                raise ManifestCorrupt(f"tile {at} was not measured")
            tables.put(at, tile.quality)
    return tables


def summary(codec: LearnedCodec, tables: QualityTables) -> dict[str, Any]:
    """The image in a few numbers: what was asked for, and what was measured (`QualityTables.summary`)."""
    asked = {
        "target": codec.target,
        "value": codec.value,
        "range": [codec.low, codec.high],
        "model": codec.model,
    }
    return asked | tables.summary()
