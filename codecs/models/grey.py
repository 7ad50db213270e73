"""What the reference model sees of a picture: one plane in the range of a byte."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["grey_range", "luma", "to_grey"]

LUMA = 0.299, 0.587, 0.114
"""Of red, green, blue (ITU-R BT.601), as JFIF has it."""
PERCENTILES = 0.1, 99.9


def luma(rgb: NDArray[Any]) -> NDArray[np.float64]:
    """(3, h, w) red, green, blue -> (h, w) luma in the same units."""
    return np.tensordot(np.asarray(LUMA), np.asarray(rgb, np.float64), 1)


def grey_range(plane: NDArray[Any]) -> tuple[float, float]:
    """The values that stand for black and white: 0 and 255 of bytes, percentiles 0.1 and 99.9 of others."""
    if plane.dtype == np.uint8:
        return 0.0, 255.0
    low, high = np.percentile(np.where(np.isfinite(plane), plane, 0).astype(np.float64), PERCENTILES)
    return float(low), float(high)


def to_grey(plane: NDArray[Any]) -> NDArray[np.uint8]:
    """A plane of any type in 8 bits, from black to white; what lies beyond is cut off."""
    if plane.dtype == np.uint8:
        return np.ascontiguousarray(plane)
    low, high = grey_range(plane)
    known = np.where(np.isfinite(plane), plane, 0).astype(np.float64).clip(low, high)
    return np.rint((known - low) / max(high - low, 1e-30) * 255).astype(np.uint8)
