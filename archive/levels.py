"""Smaller versions of an image where the wavelet does not give them: means and nearest samples.

Both are exact integer or fixed-order float arithmetic, so that a level is the same on every machine.
Level k of an axis of n samples has ceil(n / 2**k).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevault.archive.image import Words

__all__ = ["reduce_mask", "reduce_mean", "reduce_nearest", "valid_samples"]


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

    Integers are rounded half up. Sums are taken pairwise along x, then y, in int64 or float64.
    """
    kind = values.dtype.kind
    wide = {"f": np.float64, "c": np.complex128}.get(kind, np.int64)
    counted = np.ones(values.shape, bool) if valid is None else valid
    count = _pool(counted.astype(np.int64), level)
    with np.errstate(invalid="ignore", over="ignore"):
        total = _pool(np.where(counted, values, 0).astype(wide), level)
        divisor = np.maximum(count, 1)
        if kind in "fc":
            mean = (total / divisor).astype(values.dtype)
        else:
            mean = ((2 * total + divisor) // (2 * divisor)).astype(values.dtype)
    if absent is None:
        absent = np.nan if kind in "fc" else 0
    return np.asarray(np.where(count > 0, mean, np.asarray(absent).astype(values.dtype)), values.dtype)


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
