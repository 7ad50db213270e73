"""How far a decoded tile is from what was archived: PSNR, SSIM, MS-SSIM, maximum error.

All take the reference first and arrays of one shape and type, (y, x) or with further axes before: bands,
slices. ``valid`` is a mask of the same shape, or of the last axes (a (y, x) mask serves all planes); where it
is false a pixel counts for nothing. Samples of the reference that are no finite numbers never count.

``peak`` is the span that the errors are held against: for an archived image its valid range, largest less
smallest value, fixed before anything is coded. It is never taken from the type or from the tile.

All planes are pooled: one squared error and one maximum over all valid samples of all planes. The structural
indices of planes are averaged, each plane with as many votes as it has positions (so without a mask it is the
plain mean over the planes).

No result is NaN or infinite, so that all can be kept in records. Where no valid sample differs,
``PSNR_EXACT`` (999 dB) stands for the infinite PSNR; other values are capped at ``PSNR_CAP`` (998 dB, beyond
the reach of 64-bit integers). Where there is no valid sample, nothing differs: 999 dB, 1, 0.

Sums of squares of integers are exact, and the filters are native floats of one order. Only logarithms and
powers are those of the machine's C library: what is recorded as float32 is the same everywhere.
"""

from collections.abc import Iterator
from math import inf, isfinite, log10
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tilevault.codecs import _native
from tilevault.codecs.errors import InvalidRequest

__all__ = [
    "MS_SSIM_WEIGHTS",
    "PSNR_CAP",
    "PSNR_EXACT",
    "SSIM_SIDE",
    "Quality",
    "max_abs_error",
    "measure",
    "ms_ssim",
    "ms_ssim_scales",
    "psnr",
    "squared_error",
    "ssim",
]

Samples: TypeAlias = NDArray[Any]
Mask: TypeAlias = NDArray[np.bool_]

PSNR_EXACT = 999.0
"""Decibels that say: no valid sample differs."""
PSNR_CAP = 998.0
"""Largest PSNR, in decibels, where any sample differs."""
SSIM_SIDE = 11
"""Samples of the Gaussian window along each axis (sigma 1.5, cut at 3.5 sigma)."""
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the scales, finest first (Wang, Simoncelli, Bovik 2003)."""
K1, K2 = 0.01, 0.03
"""The stabilising constants are (K1 peak)^2 and (K2 peak)^2."""


class Quality(NamedTuple):
    """All of it for one tile."""

    max_abs_error: float
    """In stored units."""
    psnr: float
    """Decibels; `PSNR_EXACT` where nothing differs."""
    ssim: float
    """-1 to 1."""
    ms_ssim: float
    """0 to 1."""


class _Sums(NamedTuple):
    """Of one plane at one scale, over its positions."""

    similarity: float
    structure: float
    positions: int


def measure(reference: Samples, decoded: Samples, peak: float, valid: Mask | None = None) -> Quality:
    """The four together, in less time than one after the other.

    Raises `InvalidRequest` if shapes or types differ, the type is none of bool, integers and floats, the peak
    is negative or not finite, or 0 where samples differ, or a decoded sample is not finite where it counts.
    """
    pair = _Pair(reference, decoded, valid)
    pair.check_peak(peak)
    fine, coarse = _structural(pair, peak, len(MS_SSIM_WEIGHTS))
    return Quality(float(pair.largest()), _decibels(pair, peak), fine, coarse)


def max_abs_error(reference: Samples, decoded: Samples, valid: Mask | None = None) -> int | float:
    """Largest absolute difference of a valid sample, in stored units; exact, an int for integers."""
    return _Pair(reference, decoded, valid).largest()


def squared_error(reference: Samples, decoded: Samples, valid: Mask | None = None) -> tuple[int | float, int]:
    """Sum of squared differences over the valid samples, and their number; integers of any size exactly."""
    pair = _Pair(reference, decoded, valid)
    return pair.squares(), pair.count


def psnr(reference: Samples, decoded: Samples, peak: float, valid: Mask | None = None) -> float:
    """10 log10(peak^2 / mean squared error) over all valid samples, in decibels."""
    pair = _Pair(reference, decoded, valid)
    pair.check_peak(peak)
    return _decibels(pair, peak)


def ssim(reference: Samples, decoded: Samples, peak: float, valid: Mask | None = None) -> float:
    """Mean structural similarity (Wang et al. 2004): Gaussian window, sigma 1.5, K1 0.01, K2 0.03.

    As `skimage.metrics.structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    data_range=peak)` gives it: over the positions where the window of 11 x 11 lies in the plane. An axis
    shorter than 11 is continued by reflection (d c b a | a b c d | d c b a) and all its positions count.

    With a mask, windows weigh their valid samples only, and the positions are those of valid samples; if none
    of these is 5 or more from the border, those at the border are taken, with what of their window is there.
    """
    pair = _Pair(reference, decoded, valid)
    pair.check_peak(peak)
    return _structural(pair, peak, 1)[0]


def ms_ssim(reference: Samples, decoded: Samples, peak: float, valid: Mask | None = None) -> float:
    """Multi-scale structural similarity (Wang et al. 2003), per plane over its own `ms_ssim_scales`.

    The product over the scales of (mean contrast-structure) ^ weight, at the coarsest scale of
    (mean SSIM) ^ weight; negative means count as 0. Each scale is the one before it averaged over 2 x 2
    samples (at an odd edge over those that are there; with a mask over the valid ones). Of fewer scales than
    five the weights are divided by their sum; with one scale it is SSIM, not below 0.
    """
    pair = _Pair(reference, decoded, valid)
    pair.check_peak(peak)
    return _structural(pair, peak, len(MS_SSIM_WEIGHTS))[1]


def ms_ssim_scales(rows: int, columns: int) -> int:
    """Scales that MS-SSIM uses of a plane: at most 5; at all but the first the window fits into the plane."""
    side = min(rows, columns)
    return next((k for k in range(len(MS_SSIM_WEIGHTS), 1, -1) if -(-side >> (k - 1)) >= SSIM_SIDE), 1)


class _Pair:
    """Checked arguments: two arrays of one type, and the samples that count."""

    def __init__(self, reference: Samples, decoded: Samples, valid: Mask | None) -> None:
        x, y = np.asarray(reference), np.asarray(decoded)
        if x.shape != y.shape or x.dtype != y.dtype:
            raise InvalidRequest(f"{y.shape} {y.dtype} cannot be compared with {x.shape} {x.dtype}")
        if x.ndim < 2 or x.size == 0 or x.dtype.kind not in "biuf":
            raise InvalidRequest(f"no quality is defined for {x.shape} {x.dtype}")
        if x.dtype.kind == "b":
            x, y = x.view(np.uint8), y.view(np.uint8)
        self.x, self.y, self.valid = x, y, _broadcast(valid, x.shape)
        if x.dtype.kind == "f":
            self._leave_out_what_is_not_finite()
        self.count = x.size if self.valid is None else int(np.count_nonzero(self.valid))
        self._differences: Samples | None = None

    def _leave_out_what_is_not_finite(self) -> None:
        finite = np.isfinite(self.x)
        if not finite.all():
            self.valid = finite if self.valid is None else finite & self.valid
        wrong = ~np.isfinite(self.y)
        if self.valid is not None:
            wrong &= self.valid
        if wrong.any():
            raise InvalidRequest(f"{int(wrong.sum())} decoded samples are not finite")

    def check_peak(self, peak: float) -> None:
        if not isfinite(peak) or peak < 0:
            raise InvalidRequest(f"a peak of {peak}")
        if peak == 0 and self.largest() > 0:
            raise InvalidRequest("samples differ in an image with a range of 0")

    def differences(self) -> Samples:
        """Absolute differences of the valid samples: unsigned for integers, float64 for floats."""
        if self._differences is None:
            x, y = (self.x, self.y) if self.valid is None else (self.x[self.valid], self.y[self.valid])
            if x.dtype.kind == "f":
                self._differences = np.abs(x.astype(np.float64) - y.astype(np.float64))
            else:
                # The larger less the smaller, modulo 2^n, is right in the unsigned type.
                unsigned = np.dtype(f"u{x.dtype.itemsize}")
                top, low = np.maximum(x, y).astype(unsigned), np.minimum(x, y).astype(unsigned)
                self._differences = top - low
        return self._differences

    def largest(self) -> int | float:
        differences = self.differences()
        return differences.max().item() if differences.size else 0

    def squares(self) -> int | float:
        differences = self.differences().ravel()
        if differences.dtype.kind == "f":
            return float(np.square(differences).sum())
        if not differences.size:
            return 0
        if differences.dtype.itemsize <= 2:
            wide = differences.astype(np.uint32)
            return int((wide * wide).sum(dtype=np.uint64))
        if int(differences.max()) >= 1 << 32:
            return sum(int(d) ** 2 for d in differences)
        # (a 2^16 + b)^2 with each sum of products below 2^64, for up to 2^32 samples.
        high, low = differences.astype(np.uint64) >> 16, differences.astype(np.uint64) & 0xFFFF
        sums = [int((p * q).sum(dtype=np.uint64)) for p, q in ((high, high), (high, low), (low, low))]
        return (sums[0] << 32) + (sums[1] << 17) + sums[2]

    def planes(self) -> Iterator[tuple[Samples, Samples, Mask | None]]:
        rows, columns = self.x.shape[-2:]
        x, y = self.x.reshape(-1, rows, columns), self.y.reshape(-1, rows, columns)
        valid = None if self.valid is None else self.valid.reshape(x.shape)
        for k in range(len(x)):
            mask = None if valid is None or valid[k].all() else valid[k]
            yield x[k], y[k], mask


def _broadcast(valid: Mask | None, shape: tuple[int, ...]) -> Mask | None:
    if valid is None:
        return None
    mask = np.asarray(valid)
    if mask.dtype != np.bool_ or mask.ndim < 2 or mask.shape != shape[len(shape) - mask.ndim :]:
        raise InvalidRequest(f"a mask of {mask.shape} {mask.dtype} for samples of {shape}")
    return None if mask.all() else np.broadcast_to(mask, shape)


def _decibels(pair: _Pair, peak: float) -> float:
    squares = pair.squares()
    if squares == 0:
        return PSNR_EXACT if pair.largest() == 0 else PSNR_CAP
    return min(PSNR_CAP, 20 * log10(peak) - 10 * log10(squares) + 10 * log10(pair.count))


def _structural(pair: _Pair, peak: float, most: int) -> tuple[float, float]:
    """Mean SSIM and MS-SSIM of up to ``most`` scales."""
    if pair.largest() == 0:
        return 1.0, 1.0
    fine = coarse = 0.0
    votes = 0
    for x, y, valid in pair.planes():
        if valid is not None and not valid.any():
            continue
        sums = _scales(x, y, valid, peak, min(most, ms_ssim_scales(*x.shape)))
        count = sums[0].positions
        fine += sums[0].similarity
        coarse += count * _product(sums)
        votes += count
    return fine / votes, coarse / votes


def _product(sums: list[_Sums]) -> float:
    weights = MS_SSIM_WEIGHTS[: len(sums)]
    means = [s.structure / s.positions for s in sums[:-1]] + [sums[-1].similarity / sums[-1].positions]
    if len(means) == 1:
        return max(0.0, means[0])
    # The five of the paper add up to 1.0001 and stay as they are.
    total = 1.0 if weights == MS_SSIM_WEIGHTS else sum(weights)
    product = 1.0
    for mean, weight in zip(means, weights, strict=True):
        product *= max(0.0, mean) ** (weight / total)
    return product


def _scales(x: Samples, y: Samples, valid: Mask | None, peak: float, scales: int) -> list[_Sums]:
    a, b = x.astype(np.float64), y.astype(np.float64)
    if valid is not None:
        a, b = np.where(valid, a, 0.0), np.where(valid, b, 0.0)
    found = [_sums(a, b, valid, peak)]
    for _ in range(1, scales):
        weights = None if valid is None else _halved(valid.astype(np.float64))
        a, b = _halved(a), _halved(b)
        if weights is not None:
            valid = weights > 0
            a, b = (np.divide(p, weights, out=np.zeros_like(p), where=valid) for p in (a, b))
        found.append(_sums(a, b, valid, peak))
    return found


def _halved(plane: Samples) -> Samples:
    """Means of 2 x 2; an odd last row or column is its own neighbour."""
    even = plane[::2]
    odd = plane[1::2] if len(plane) % 2 == 0 else np.concatenate([plane[1::2], plane[-1:]])
    rows = even + odd
    left = rows[:, ::2]
    right = rows[:, 1::2] if rows.shape[1] % 2 == 0 else np.concatenate([rows[:, 1::2], rows[:, -1:]], 1)
    return np.ascontiguousarray((left + right) * 0.25)


def _sums(x: Samples, y: Samples, valid: Mask | None, peak: float) -> _Sums:
    shift = _middle(x, valid)
    pad = [(0, 0) if n >= SSIM_SIDE else (SSIM_SIDE // 2,) * 2 for n in x.shape]
    if any(p != (0, 0) for p in pad):
        x, y = np.pad(x, pad, mode="symmetric"), np.pad(y, pad, mode="symmetric")
        if valid is not None:
            valid = np.pad(valid, pad, mode="symmetric")
    constants = (shift, (K1 * peak) ** 2, (K2 * peak) ** 2)
    mask = None if valid is None else np.ascontiguousarray(valid).view(np.uint8)
    sums = _Sums(*_native.ssim_sums(x, y, mask, *constants))
    if sums.positions or mask is None:
        return sums
    # Every valid sample is near the border: nothing beyond it counts, all in it does.
    around = [(0, 0) if p != (0, 0) else (SSIM_SIDE // 2,) * 2 for p in pad]
    return _Sums(*_native.ssim_sums(np.pad(x, around), np.pad(y, around), np.pad(mask, around), *constants))


def _middle(plane: Samples, valid: Mask | None) -> float:
    """Half-way between the extremes: variances are differences of squares, best taken near 0."""
    low = float(np.min(plane, initial=inf, where=True if valid is None else valid))
    high = float(np.max(plane, initial=-inf, where=True if valid is None else valid))
    return (low + high) / 2
