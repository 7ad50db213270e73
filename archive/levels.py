"""Smaller versions of an image where the wavelet does not give them: means and nearest samples.

Both are exact integer or fixed-order float arithmetic, so that a level is the same on every machine.
Level k of an axis of n samples has ceil(n / 2**k).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevault.archive.image import Words

__all__ = ["reduce_mask", "reduce_mean", "reduce_means", "reduce_nearest", "valid_samples"]


def reduce_nearest(values: Words, level: int) -> Words:
    """The samples at even positions, ``level`` times."""
    step = 1 << level
    return np.ascontiguousarray(values[..., ::step, ::step])


def reduce_mask(mask: NDArray[np.uint8], level: int) -> NDArray[np.uint8]:
    """255 where any sample of the 2**level square is valid."""
    return np.asarray(_pool((mask != 0).astype(np.int64), level) > 0, dtype=np.uint8) * np.uint8(255)


def valid_samples(values: Words, nodata: float | int | None, mask: NDArray[np.uint8] | None) -> Words | None:
    """True where a sample counts: not nodata, not NaN, not masked; None where all do."""
    valid = None
    if nodata is not None and nodata == nodata:
        valid = values != nodata
    if values.dtype.kind in "fc":
        number = ~np.isnan(values)
        valid = number if valid is None else valid & number
    if mask is not None:
        valid = np.broadcast_to(mask != 0, values.shape) if valid is None else valid & (mask != 0)
    return valid


def reduce_mean(values: Words, level: int, valid: Words | None, absent: float | int | None) -> Words:
    """Mean over the valid samples of each 2**level square; ``absent`` (default 0, NaN) where there is none.

    Integers are rounded half up. Sums are taken pairwise along x, then y, in integers or float64.
    """
    return reduce_means(values, (level,), valid, absent)[level]


def reduce_means(
    values: Words, levels: Sequence[int], valid: Words | None, absent: float | int | None
) -> dict[int, Words]:
    """`reduce_mean` for several ascending levels, each from the sums of the one before."""
    kind = values.dtype.kind
    if absent is None:
        absent = np.nan if kind in "fc" else 0
    fill = np.asarray(absent).astype(values.dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        total = (values if valid is None else np.where(valid, values, 0)).astype(_wide(values.dtype))
        count = _ones(values.shape) if valid is None else valid.astype(np.int32)
        made, at = {}, 0
        for level in levels:
            total, count = _pool(total, level - at), _pool(count, level - at)
            made[level], at = _mean(total, count, values.dtype, fill), level
    return made


def _wide(dtype: np.dtype[Any]) -> type[np.generic]:
    """A type that holds the sum of 2**10 samples: narrow where that is enough, because bytes are time."""
    if dtype.kind in "fc":
        return np.float64 if dtype.kind == "f" else np.complex128
    return np.int32 if dtype.itemsize <= 2 else np.int64


def _ones(shape: tuple[int, ...]) -> NDArray[Any]:
    """A count of one per sample that is the same for every plane."""
    return np.ones(shape[-2:], np.int32)


def _mean(total: NDArray[Any], count: NDArray[Any], dtype: np.dtype[Any], fill: NDArray[Any]) -> Words:
    divisor = np.maximum(count, 1)
    if dtype.kind in "fc":
        mean = (total / divisor).astype(dtype)
    else:
        mean = ((2 * total + divisor) // (2 * divisor)).astype(dtype)
    return np.asarray(np.where(count > 0, mean, fill), dtype)


def _pool(values: NDArray[Any], level: int) -> NDArray[Any]:
    """Sums over squares of 2**level, by halving each axis ``level`` times."""
    for _ in range(level):
        for axis in (-1, -2):
            values = _halve(values, axis)
    return values


def _halve(values: NDArray[Any], axis: int) -> NDArray[Any]:
    moved = np.moveaxis(values, axis, -1)
    halved = moved[..., 0::2].copy()
    halved[..., : moved.shape[-1] // 2] += moved[..., 1::2]
    return np.moveaxis(halved, -1, axis)
