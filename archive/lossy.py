"""Lossy tiles: encoded, decoded again by the real decoder, measured, and the measures kept as arrays.

Of every tile is recorded what it costs and how far what readers get is from what was handed in. The
proof at ingest is that measurement: the tile that will be read meets the target that is stated.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevault.archive.image import Words
from tilevault.archive.plain import PlainArray
from tilevault.archive.tiles import EncodedTile, TiledArray, assemble_shard, record_tile
from tilevault.codecs import LearnedCodec
from tilevault.codecs.errors import InvalidRequest, ManifestCorrupt, VerifyAfterEncodeFailed

__all__ = ["MEASURES", "encode_lossy_shard", "encode_lossy_tile", "measure_arrays", "measured", "summary"]

MEASURES: Mapping[str, tuple[str, str, str]] = {
    "counted": ("uint32", "1", "samples that are neither masked nor nodata nor NaN nor infinite"),
    "mode": ("uint8", "1", "how the tile is coded: 0 exactly"),
    "step": ("float32", "1", "step of the quantiser, in stored units"),
    "max_abs_error": ("float64", "1", "largest absolute error, in stored units"),
    "mse": ("float64", "1", "mean squared error, in stored units squared"),
    "psnr": ("float32", "dB", "peak signal-to-noise ratio"),
    "psnr_unrestored": ("float32", "dB", "peak signal-to-noise ratio without restoration"),
    "max_abs_error_unrestored": ("float64", "1", "largest absolute error without restoration"),
    "restoration_gain": ("float32", "dB", "peak signal-to-noise ratio that restoration adds"),
}
"""Arrays of ``quality/`` beside ``bits``, for lossy images: data type, units, long name."""
EXACT_PSNR = 999.0
"""Recorded where nothing is lost, and as the most that is recorded: an array has no infinities."""


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
    unrestored = coded.words
    if facts.restored:
        unrestored = codec.decode_tile(coded.data, words.shape, words.dtype, restore=False)
    measures = _measures(codec, words, coded.words, unrestored, coded.counted)
    _confirm(codec, measures)
    measures |= {"mode": facts.mode, "step": facts.step}
    return replace(record_tile(codec, coded.data, coded.words), quality=measures)


def _measures(
    codec: LearnedCodec, words: Words, decoded: Words, unrestored: Words, counted: NDArray[np.bool_] | None
) -> dict[str, float]:
    span = codec.range_of(words.dtype)
    peak = 0.0 if span is None else float(span[1] - span[0])
    largest, mse = _errors(words, decoded, counted)
    plain_largest, plain_mse = (
        (largest, mse) if unrestored is decoded else _errors(words, unrestored, counted)
    )
    psnr, plain = _psnr(mse, peak), _psnr(plain_mse, peak)
    return {
        "counted": words.size if counted is None else int(counted.sum()),
        "max_abs_error": largest,
        "mse": mse,
        "psnr": psnr,
        "psnr_unrestored": plain,
        "max_abs_error_unrestored": plain_largest,
        "restoration_gain": psnr - plain,
    }


def _errors(words: Words, decoded: Words, counted: NDArray[np.bool_] | None) -> tuple[float, float]:
    """Largest absolute and mean squared error of the samples that count; 0 where none does."""
    wanted, found = (words, decoded) if counted is None else (words[counted], decoded[counted])
    if wanted.size == 0:
        return 0.0, 0.0
    errors = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
    return float(errors.max()), float(np.square(errors).mean())


def _psnr(mse: float, peak: float) -> float:
    if mse == 0 or peak == 0:
        return EXACT_PSNR
    return min(EXACT_PSNR, 20 * math.log10(peak) - 10 * math.log10(mse))


def _confirm(codec: LearnedCodec, measures: Mapping[str, float]) -> None:
    """The proof of a lossy tile: what it decodes to is within the stated bound."""
    missed = (
        measures["max_abs_error"] > codec.value
        if codec.target == "max_error"
        else measures["psnr"] < codec.value - 1e-9
    )
    if missed:
        raise VerifyAfterEncodeFailed(f"a tile misses its target {codec.fidelity}: {dict(measures)}")


def measure_arrays(array: TiledArray) -> dict[str, PlainArray]:
    """The arrays of ``quality/`` that a lossy image has beside ``bits``."""
    return {
        name: PlainArray.table(f"quality/{name}", array.grid.tiles, np.dtype(dtype))
        for name, (dtype, _, _) in MEASURES.items()
    }


def measured(
    array: TiledArray, tiles: Iterable[Mapping[tuple[int, ...], EncodedTile]]
) -> dict[str, NDArray[Any]]:
    """The arrays filled from the tiles of all shards. Raises `ManifestCorrupt` where a measure is missing."""
    made = {name: np.zeros(array.grid.tiles, dtype) for name, (dtype, _, _) in MEASURES.items()}
    for shard in tiles:
        for at, tile in shard.items():
            for name, words in made.items():
                if name not in tile.quality:
                    raise ManifestCorrupt(f"tile {at} was not measured: it lacks {name}")
                words[at] = tile.quality[name]
    return made


def summary(codec: LearnedCodec, measures: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """The image in a few numbers, for the commit record."""
    counted = measures["counted"].astype(np.float64)
    total = float(counted.sum())
    squared = float((measures["mse"] * counted).sum())
    peak = 0.0 if codec.low is None or codec.high is None else float(codec.high) - float(codec.low)
    lossy = measures["mode"] > 0
    return {
        "target": codec.target,
        "value": codec.value,
        "range": [codec.low, codec.high],
        "psnr": round(_psnr(squared / total if total else 0.0, peak), 4),
        "psnr_min": round(float(measures["psnr"].min()), 4),
        "max_abs_error": float(measures["max_abs_error"].max()),
        "rmse": math.sqrt(squared / total) if total else 0.0,
        "restoration_gain": round(float(measures["restoration_gain"].mean()), 4),
        "tiles": int(lossy.size),
        "tiles_exact": int(lossy.size - lossy.sum()),
        "model": codec.model,
    }
