"""Planes as fixed-point wavelet coefficients, in torch: the integers of the decoder, batched for training.

A plane is brought to about 14 bits, transformed by five levels of 9/7 lifting whose steps are rounded
integers, and quantised with one step size whose share of each band follows from the band's synthesis norm.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = [
    "LEVELS",
    "Bands",
    "band_steps",
    "dequantised",
    "fixed_point",
    "forward",
    "inverse",
    "inverse_gains",
    "joined",
    "mantissas",
    "nearest_step",
]

Tensor = Any  # torch has no types where it is not installed
Bands = list[tuple[Tensor, Tensor, Tensor]]
"""HL (high along x), LH, HH of each level, from fine to coarse."""

LEVELS = 5
LIFTING = (-6497, -217, 3616, 1817)
"""The 9/7 steps of JPEG 2000 Part 1 (Table F.4: alpha, beta, gamma, delta) in units of 2^-12."""
LIFTING_BITS = 12
PLANE_BITS = 14
STEPS_PER_OCTAVE = 128
GAIN_BITS = 14

Lift = Callable[[int, Tensor], Tensor]


def _rounded(factor: int, x: Tensor) -> Tensor:
    return (factor * x + (1 << (LIFTING_BITS - 1))) >> LIFTING_BITS


def _exact(factor: int, x: Tensor) -> Tensor:
    return factor / (1 << LIFTING_BITS) * x


class _Neighbours:
    """Even and odd samples beside each other along one axis, extended symmetrically at the ends."""

    def __init__(self, even: int, odd: int, axis: int) -> None:
        self.axis = axis
        self.after = torch.arange(1, odd + 1).clamp(max=even - 1)
        self.here = torch.arange(odd)
        self.odd_before = (torch.arange(even) - 1).clamp(min=0)
        self.odd_here = torch.arange(even).clamp(max=odd - 1)

    def of_odd(self, even: Tensor) -> Tensor:
        return even.index_select(self.axis, self.here) + even.index_select(self.axis, self.after)

    def of_even(self, odd: Tensor) -> Tensor:
        return odd.index_select(self.axis, self.odd_before) + odd.index_select(self.axis, self.odd_here)


def _split(x: Tensor, axis: int, lift: Lift) -> tuple[Tensor, Tensor]:
    length = x.shape[axis]
    even = x.index_select(axis, torch.arange(0, length, 2))
    odd = x.index_select(axis, torch.arange(1, length, 2))
    if length == 1:
        return even, odd
    beside = _Neighbours(even.shape[axis], odd.shape[axis], axis)
    odd = odd + lift(LIFTING[0], beside.of_odd(even))
    even = even + lift(LIFTING[1], beside.of_even(odd))
    odd = odd + lift(LIFTING[2], beside.of_odd(even))
    return even + lift(LIFTING[3], beside.of_even(odd)), odd


def _merge(even: Tensor, odd: Tensor, axis: int, lift: Lift) -> Tensor:
    if odd.shape[axis] == 0:
        return even
    beside = _Neighbours(even.shape[axis], odd.shape[axis], axis)
    even = even - lift(LIFTING[3], beside.of_even(odd))
    odd = odd - lift(LIFTING[2], beside.of_odd(even))
    even = even - lift(LIFTING[1], beside.of_even(odd))
    odd = odd - lift(LIFTING[0], beside.of_odd(even))
    shape = list(even.shape)
    shape[axis] += odd.shape[axis]
    x = even.new_empty(shape)
    x.index_copy_(axis, torch.arange(0, shape[axis], 2), even)
    x.index_copy_(axis, torch.arange(1, shape[axis], 2), odd)
    return x


def forward(x: Tensor, lift: Lift = _rounded) -> tuple[Tensor, Bands]:
    """(n, 1, h, w) int64 -> the low-pass band and the bands of each level."""
    bands: Bands = []
    for _ in range(LEVELS):
        low, high = _split(x, -1, lift)
        x, lh = _split(low, -2, lift)
        hl, hh = _split(high, -2, lift)
        bands.append((hl, lh, hh))
    return x, bands


def joined(low: Tensor, bands: Sequence[Tensor], lift: Lift = _rounded) -> Tensor:
    """One level back: the low-pass band of the next finer level."""
    hl, lh, hh = bands
    return _merge(_merge(low, lh, -2, lift), _merge(hl, hh, -2, lift), -1, lift)


def inverse(low: Tensor, bands: Bands, lift: Lift = _rounded) -> Tensor:
    """What `forward` took apart."""
    for level in reversed(bands):
        low = joined(low, level, lift)
    return low


@cache
def inverse_gains() -> NDArray[np.int64]:
    """(16,): 2^14 by the L2 norm of each band's synthesis basis; HL, LH, HH from fine to coarse, then LL."""
    side = 1 << (LEVELS + 3)
    low, bands = forward(torch.zeros(1, 1, side, side, dtype=torch.float64), _exact)
    places = [(level, k) for level in range(LEVELS) for k in range(3)]
    gains = []
    for place in (*places, None):
        impulse = [[torch.zeros_like(band) for band in level] for level in bands]
        lowest = torch.zeros_like(low)
        chosen = lowest if place is None else impulse[place[0]][place[1]]
        chosen[0, 0, chosen.shape[2] // 2, chosen.shape[3] // 2] = 1
        basis = inverse(lowest, [(hl, lh, hh) for hl, lh, hh in impulse], _exact)
        gains.append(round((1 << GAIN_BITS) / float(basis.square().sum().sqrt())))
    return np.array(gains, np.int64)


def mantissas() -> NDArray[np.int64]:
    """(128,): steps of one octave, 512 to 1023, in 1/64 of a fixed-point unit."""
    return np.rint(512 * 2 ** (np.arange(STEPS_PER_OCTAVE) / STEPS_PER_OCTAVE)).astype(np.int64)


def nearest_step(step: float) -> int:
    """The step of the table nearest to ``step`` (fixed-point units), in 1/64 of a unit."""
    code = max(0, round(STEPS_PER_OCTAVE * math.log2(step * 64 / 512)))
    return int(mantissas()[code % STEPS_PER_OCTAVE]) << (code // STEPS_PER_OCTAVE)


def band_steps(steps: Sequence[int]) -> Tensor:
    """(n, 16): steps of the bands of planes quantised with ``steps``, both in 1/64 of a unit."""
    gains = torch.from_numpy(inverse_gains())
    return (torch.tensor(steps)[:, None] * gains + (1 << (GAIN_BITS - 1))) >> GAIN_BITS


def dequantised(q: Tensor, steps: Tensor) -> Tensor:
    """Coefficients in fixed-point units; ``steps`` in 1/64 of a unit."""
    return (q * steps + 32) >> 6


def fixed_point(plane: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    """A plane of integers as 14 bits around 0, and the shift to the left (negative: right) for it."""
    x = np.asarray(plane, np.int64)
    low, high = int(x.min()), int(x.max())
    x = x - ((low + high + 1) >> 1)
    shift = PLANE_BITS - (high - low).bit_length()
    return (x << shift if shift >= 0 else (x + (1 << (-shift - 1))) >> -shift), shift
