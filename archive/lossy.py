"""Lossy tiles: encoded, decoded again by the real decoder, measured, and the measures kept as arrays.

Of every tile is recorded what it costs and how far what readers get is from what was handed in
(`archive.quality`). The proof at ingest is that measurement: the tile that will be read meets its target.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevault.archive.image import Words
from tilevault.archive.plain import PlainArray
from tilevault.archive.quality import MODEL_BYTES, QUALITY_ARRAYS, QualityTables, TileQuality
from tilevault.archive.tiles import EncodedTile, TiledArray, assemble_shard, record_tile
from tilevault.codecs import LearnedCodec, metrics
from tilevault.codecs.errors import InvalidRequest, ManifestCorrupt, VerifyAfterEncodeFailed

__all__ = ["encode_lossy_shard", "encode_lossy_tile", "measure_arrays", "measured", "summary"]


def encode_lossy_shard(
    array: TiledArray, index: tuple[int, ...], words: Words, mask: NDArray[np.uint8] | None
) -> tuple[list[bytes], dict[tuple[int, ...], EncodedTile]]:
    """All tiles of one shard, as `encode_shard`; each is decoded and measured.

    ``mask``: (y, x) of the shard's window, 0 where samples are not valid. Raises `VerifyAfterEncodeFailed`
    where a tile misses its target.
    """
    window = array.grid.shard_window(index)
    tiles = {}
    for at in array.grid.tile_indices(window):
        box = array.grid.tile_window(at).shift(window.start)
        valid = None if mask is None else mask[box.slices[-2:]] != 0
        tiles[at] = encode_lossy_tile(array, words[box.slices], valid)
    return assemble_shard(array, tiles), tiles


def encode_lossy_tile(array: TiledArray, words: Words, valid: NDArray[np.bool_] | None) -> EncodedTile:
    """One tile: its bytes, and what was measured of what they decode to."""
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
    model = bytes.fromhex(codec.model)[:MODEL_BYTES] or bytes(MODEL_BYTES)
    quality = TileQuality.measured(coded.data, samples, found, plain, facts.step, model)
    return replace(record_tile(codec, coded.data, coded.words), quality=quality)


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
