"""What the learned mode would need without its networks: its wavelet, its quantiser, and simple chances.

Planes are prepared and predicted as a stream of the learned mode says, transformed as the decoder does
(`tilevault.codecs.models.transform`), and rounded to the nearest integer. Counted are the bits of an adaptive
arithmetic coder of order 0, ideal: one set of counts for each band of each plane, each beginning at a half
(Krichevsky and Trofimov). The lowest band is coded as what median edge detection leaves, as in the learned
mode. Magnitudes from 15 on are an escape and an Elias gamma code. No such stream is written.
"""

from dataclasses import dataclass
from functools import cache
from math import lgamma, log
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from learned_twin import Header, sample
from tilevault.codecs.models.transform import band_steps, dequantised, forward, inverse, mantissas

__all__ = ["Counted", "order_zero"]

Integers = NDArray[np.int64]

ESCAPE = 15
"""Magnitudes from here on have one symbol."""
ALPHABET = 2 * ESCAPE


@dataclass(frozen=True)
class Counted:
    """A tile as it would be coded."""

    samples: Integers
    """Decoded: (planes, y, x)."""
    size: int
    """Bytes."""


def order_zero(data: bytes, samples: Integers, least: int, most: int) -> Counted:
    """A tile (planes, y, x) with the step, the ranges and the predictions of its learned stream ``data``."""
    head = Header.read(data, len(samples))
    step = int(mantissas()[head.code & 127]) << (head.code >> 7)
    decoded, bits = np.zeros(samples.shape, np.int64), 8.0 * head.size
    for p, plane in enumerate(samples):
        base: Integers | int = 0
        if head.reference[p]:
            base = (head.weight[p] * decoded[p - head.reference[p]] + 32) >> 6
        if head.range[p] == 0:
            decoded[p] = np.clip(head.low[p] + base, least, most)
            continue
        x = plane - base - ((2 * head.low[p] + head.range[p] + 1) >> 1)
        shift = 14 - head.bits
        low, bands, values = _quantised(
            x << shift if shift >= 0 else (x + (1 << (-shift - 1))) >> -shift, step
        )
        decoded[p] = (sample(values, head.bits, head.low[p], head.range[p]) + base).clip(least, most)
        bits += _kept(_residuals(low)) + sum(_kept(band) for level in bands for band in level)
    return Counted(decoded, int(np.ceil(bits / 8)))


def _quantised(x: Integers, step: int) -> tuple[Integers, list[list[Integers]], Integers]:
    """The lowest band, the others from fine to coarse, and the plane that they decode to."""
    steps = band_steps([step])[0]
    low, bands = forward(torch.from_numpy(np.ascontiguousarray(x, np.int64))[None, None])

    def nearest(band: Any, s: Any) -> Any:
        return torch.sign(band) * ((band.abs() * 128 + s) // (2 * s))

    low = nearest(low, steps[15])
    whole = [
        [nearest(band, steps[3 * level + k]) for k, band in enumerate(of_level)]
        for level, of_level in enumerate(bands)
    ]
    decoded = inverse(
        dequantised(low, steps[15]),
        [
            tuple(dequantised(q, steps[3 * level + k]) for k, q in enumerate(of_level))
            for level, of_level in enumerate(whole)
        ],
    )
    integers = [[q[0, 0].numpy() for q in of_level] for of_level in whole]
    return low[0, 0].numpy(), integers, decoded[0, 0].numpy()


def _residuals(low: Integers) -> Integers:
    """Median edge detection, as in JPEG-LS."""
    wide = np.pad(low, ((1, 0), (1, 0)))
    north, west, corner = wide[:-1, 1:], wide[1:, :-1], wide[:-1, :-1]
    inside = np.clip(north + west - corner, np.minimum(north, west), np.maximum(north, west))
    return low - inside


def _kept(q: Integers) -> float:
    """Bits of a band."""
    size = np.abs(q)
    large = size[size >= ESCAPE] - ESCAPE + 1
    symbols = np.where(size >= ESCAPE, ESCAPE * np.sign(q), q) + ESCAPE
    counts = np.bincount(symbols.reshape(-1), minlength=2 * ESCAPE + 1)
    return _adaptive(counts) + float((2 * np.floor(np.log2(large)) + 1).sum())


def _adaptive(counts: Integers) -> float:
    """Bits of a sequence with these counts, whatever its order, where each begins at a half."""
    total, half = int(counts.sum()), 0.5 * len(counts)
    nats = lgamma(total + half) - lgamma(half)
    nats -= sum(_above_half(int(n)) for n in counts if n)
    return nats / log(2)


@cache
def _above_half(n: int) -> float:
    return lgamma(n + 0.5) - lgamma(0.5)
