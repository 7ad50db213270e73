"""Samples that do not count, filled from those around them, so that coding them costs next to nothing.

Push and pull: means of the samples that count are taken over squares of 2, 4, 8 ... samples, and each sample
that does not count gets the mean of the smallest square around it that has any. A coder sees no edge where a
mask begins, and no value that nobody asked for.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["filled"]


def filled(words: NDArray[Any], counted: NDArray[np.bool_]) -> NDArray[Any]:
    """``words`` with every sample that is not ``counted`` replaced; planes (y, x) are filled each by itself.

    words: integers or floats, finite where counted; counted: the same shape. Integers are rounded half to
    even. A plane without a counted sample becomes the mean of all counted samples (0 if there is none).
    """
    if counted.all():
        return words
    total = np.where(counted, words, 0).astype(np.float64)
    weight = counted.astype(np.float64)
    everywhere = total.sum() / weight.sum() if counted.any() else 0.0
    levels = [(total, weight)]
    while max(total.shape[-2:]) > 1:
        total, weight = _halved(_halved(total, -1), -2), _halved(_halved(weight, -1), -2)
        levels.append((total, weight))
    mean = np.full(levels[-1][0].shape, everywhere)
    for total, weight in reversed(levels):
        parent = mean.repeat(2, -2).repeat(2, -1)[..., : total.shape[-2], : total.shape[-1]]
        mean = np.where(weight > 0, total / np.maximum(weight, 1), parent)
    if words.dtype.kind in "iu":
        mean = np.rint(mean)
    return np.where(counted, words, mean.astype(words.dtype))


def _halved(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Sums of neighbours along an axis; a last one without a neighbour stays."""
    moved = np.moveaxis(values, axis, -1)
    out = moved[..., 0::2].copy()
    out[..., : moved.shape[-1] // 2] += moved[..., 1::2]
    return np.moveaxis(out, -1, axis)
