"""The tables of the entropy coder, fitted to what the integer networks see on training images.

A coefficient is coded relative to its mean: e = q - centre, of which the lowest bits are stored as they are
where the scale is large, and the rest is a token: -15 to 15, or an escape. One table of frequencies belongs
to each row (scale) and each eighth that the mean lies from the centre. Counts decide where there are many,
the logistic density where there are few.
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tilevault.codecs.models.blob import ACTIVITIES, FRACTIONS, FREQUENCY_BITS, ROWS, TOKENS
from tilevault.codecs.models.coder import scales_of_rows

__all__ = ["fitted", "low_pass_rows", "raw_bits", "starting", "table_bits"]

Integers = NDArray[np.int64]
Tensor = Any

LARGEST = 15
"""Magnitude of the largest token that is no escape."""
ESCAPE = TOKENS - 1
PRIOR = 100.0
"""Coefficients that the logistic density counts for in each table."""
MOST_RAW = 12
NEVER = 1e-12
FULL = 1 << FREQUENCY_BITS


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-np.clip(x, -700, 700)))


def _interval(low: NDArray[Any], width: float, scale: float) -> NDArray[np.float64]:
    """Probability of [low, low + width) of a logistic density, without cancellation in the upper tail."""
    below = _sigmoid((low + width) / scale) - _sigmoid(low / scale)
    above = _sigmoid(-low / scale) - _sigmoid(-(low + width) / scale)
    return np.where(low > 0, above, below)


def _escape_bits(token: Any) -> Any:
    """Exp-Golomb code of how far a token lies beyond the largest, and its sign."""
    return 2 * np.floor(np.log2(np.maximum(np.abs(token) - LARGEST, 1))) + 2


@cache
def raw_bits() -> Integers:
    """(64,): by row, the number of low bits whose storing as they are costs least under the density."""
    return np.array([_best_raw_bits(float(scale)) for scale in scales_of_rows()], np.int64)


def _best_raw_bits(scale: float) -> int:
    reach = int(20 * scale + 50)
    e = np.arange(-reach, reach + 1)
    p = _interval(e - 0.5, 1.0, scale)

    def cost(bits: int) -> float:
        token = e >> bits
        symbol = np.where(np.abs(token) <= LARGEST, token + LARGEST, ESCAPE)
        known = np.bincount(symbol, p, TOKENS)[symbol]
        escaped = np.where(symbol == ESCAPE, _escape_bits(token), 0)
        return float((p * (escaped - np.log2(np.maximum(known, NEVER)))).sum()) + bits

    # Tokens span about 2^-2 to 2 scales each: no other number can be the best.
    near = int(np.floor(np.log2(scale)))
    return min(range(max(0, near - 3), max(0, near + 1) + 1), key=cost)


def _density(raw: Integers) -> NDArray[np.float64]:
    """(64, 8, 32): probabilities of the tokens by the logistic density alone."""
    mean = (np.arange(FRACTIONS) - FRACTIONS // 2) / FRACTIONS
    rows = []
    for scale, bits in zip(scales_of_rows(), raw, strict=True):
        low = np.arange(-LARGEST, LARGEST + 1) * 2.0**bits - 0.5 - mean[:, None]
        p = _interval(low, 2.0**bits, scale)
        rows.append(np.concatenate([p, np.maximum(1 - p.sum(axis=1, keepdims=True), 1e-9)], axis=1))
    return np.stack(rows)


def _normalised(p: NDArray[np.float64]) -> Integers:
    """Frequencies that sum to 2^15. Hopeless tokens get none and are escaped; the escape always has some."""
    frequencies = np.floor(p / p.sum(axis=-1, keepdims=True) * FULL + 0.5).astype(np.int64)
    frequencies[..., ESCAPE] = np.maximum(frequencies[..., ESCAPE], 1)
    rows = frequencies.reshape(-1, TOKENS)
    rows[np.arange(len(rows)), rows[:, :ESCAPE].argmax(axis=1)] += FULL - rows.sum(axis=1)
    return np.asarray(frequencies, np.int64)


def starting(raw: Integers) -> Integers:
    """(64, 8, 32): frequencies of the logistic density."""
    return _normalised(_density(raw))


def fitted(seen: Sequence[tuple[Tensor, Tensor, Tensor]], raw: Integers) -> Integers:
    """(64, 8, 32): frequencies of what was seen: integers, means in eighths, rows, (k,) each."""
    counts = np.zeros((ROWS, FRACTIONS, TOKENS))
    for q, mean, row in (tuple(values.numpy() for values in part) for part in seen):
        centre = (mean + FRACTIONS // 2) // FRACTIONS
        token = (q - centre) >> raw[row]
        symbol = np.where(np.abs(token) <= LARGEST, token + LARGEST, ESCAPE)
        np.add.at(counts, (row, mean - FRACTIONS * centre + FRACTIONS // 2, symbol), 1)
    return _normalised(_mirrored(counts, raw) + PRIOR * _density(raw))


def _mirrored(counts: NDArray[np.float64], raw: Integers) -> NDArray[np.float64]:
    """What was seen of e tells of -e at the mirrored mean; with raw bits, tokens have no mirror."""
    both = counts.copy()
    whole = raw == 0
    both[whole, 1:, :ESCAPE] += counts[whole][:, :0:-1, ESCAPE - 1 :: -1]
    both[whole, 1:, ESCAPE] += counts[whole][:, :0:-1, ESCAPE]
    return both


def table_bits(frequencies: Integers, raw: Integers) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Bits of integers by mean (eighths) and row under the tables, as the coder spends them."""
    cost = torch.from_numpy(FREQUENCY_BITS - np.log2(np.maximum(frequencies, 0.5)))
    possible, raw_of_row = torch.from_numpy(frequencies > 0), torch.from_numpy(raw)

    def bits(q: Tensor, mean: Tensor, row: Tensor) -> Tensor:
        centre = (mean + FRACTIONS // 2) >> 3
        fraction = mean - FRACTIONS * centre + FRACTIONS // 2
        token = (q.long() - centre) >> raw_of_row[row]
        symbol = torch.where(token.abs() <= LARGEST, token + LARGEST, ESCAPE)
        symbol = torch.where(possible[row, fraction, symbol], symbol, ESCAPE)
        beyond = (token.abs() - LARGEST).clamp(min=1).double()
        escaped = torch.where(symbol == ESCAPE, 2 * torch.floor(torch.log2(beyond)) + 2, 0.0)
        return cost[row, fraction, symbol] + escaped + raw_of_row[row]

    return bits


def low_pass_rows(lows: Sequence[Tensor], bits: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Integers:
    """(256,): the row of least bits for residuals of the low-pass band, by local activity.

    ``lows``: quantised low-pass bands (n, 1, h, w). Prediction is the median edge detector (JPEG-LS), the
    activity of a position |N - NW| + |W - NW| + |NE - N|, at most 255.
    """
    pairs = [_predicted(low) for low in lows]
    activity = np.concatenate([a for a, _ in pairs])
    residual = np.concatenate([r for _, r in pairs])
    edges = [0, 1, 2, 3, 4, 6, 8, 11, 16, 22, 32, 45, 64, 90, 128, 180, ACTIVITIES - 1, ACTIVITIES]
    places, rows = [], []
    for first, after in pairwise(edges):
        here = torch.from_numpy(residual[(activity >= first) & (activity < after)])
        if len(here):
            places.append((first + after - 1) / 2)
            rows.append(_cheapest_row(here, bits))
    if not rows:
        return np.full(ACTIVITIES, ROWS // 2, np.int64)
    # A busier neighbourhood never foretells a smaller residual; what was not seen lies between.
    rising = np.maximum.accumulate(rows)
    at = np.interp(np.log2(1 + np.arange(ACTIVITIES)), np.log2(1 + np.array(places)), rising)
    return np.rint(at).astype(np.int64)


def _predicted(low: Tensor) -> tuple[Integers, Integers]:
    """Activities and residuals of all positions that have their four neighbours."""
    x = low.numpy()[:, 0]
    here, west, north = x[:, 1:, 1:-1], x[:, 1:, :-2], x[:, :-1, 1:-1]
    north_west, north_east = x[:, :-1, :-2], x[:, :-1, 2:]
    least, most = np.minimum(north, west), np.maximum(north, west)
    predicted = np.clip(north + west - north_west, least, most)
    activity = np.abs(north - north_west) + np.abs(west - north_west) + np.abs(north_east - north)
    return np.minimum(activity, ACTIVITIES - 1).ravel(), (here - predicted).ravel()


def _cheapest_row(residual: Tensor, bits: Callable[[Tensor, Tensor, Tensor], Tensor]) -> int:
    nothing = torch.zeros_like(residual)
    costs = [float(bits(residual, nothing, torch.full_like(residual, row)).sum()) for row in range(ROWS)]
    return int(np.argmin(costs))
