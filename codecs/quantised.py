"""Uniform quantisation on the grid of samples, and the search for the coarsest step that meets a target.

Integers. With v = sample - low, a step d = m / 256 and an index q, the sample comes back as

    min(low + ((q m + 128) >> 8), high)

A step of 2N + 1 keeps every error within N. For a mean squared error steps between the integers matter, hence
the 1/256: intervals of s and of s + 1 samples alternate, and the error grows smoothly with m. What is then
still lacking to the target is filled by giving samples the index of their left neighbour where that costs
least: fewer bits, and an error that ends within a fraction of a sample of what is allowed.

Floats. A sample comes back as q d in double precision, rounded to the type, clipped to low .. high.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FRACTION",
    "Histogram",
    "IntegerLattice",
    "coarsest_float_step",
    "coarsest_step",
    "float_indices",
    "float_samples",
    "smoothed",
    "sum_of_squares",
]

FARTHEST = 1 << 31
"""What is, or would be, so far from its sample is left alone: int64 holds what nearer squares differ by."""
FRACTION = 256
"""Parts of a sample in which integer steps are counted."""
NEARLY = 0.985
"""Share of the permitted squared error from which on nothing is filled up."""
PRICE_BITS = 16
"""Of the classes into which prices of changes are sorted first."""
TABLE = 1 << 20
"""Values that are looked up in a table, at most."""
TRIES = 40
"""Steps beyond the first crossing that are looked at: the error of few values is not monotone in the step."""


@dataclass(frozen=True)
class IntegerLattice:
    """The values that integers come back as."""

    step: int
    """m: the step in 1/256 samples, at least 256."""
    low: int
    high: int

    def indices(self, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        """The index whose value is nearest to low + offset; for offsets of at least 0."""
        return (offsets * FRACTION + self.step // 2) // self.step

    def offsets(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """What indices come back as, less ``low``."""
        nearest: NDArray[np.int64] = (indices * self.step + FRACTION // 2) >> 8
        return np.minimum(nearest, self.high - self.low)


@dataclass(frozen=True)
class Histogram:
    """The values that count, each once, as offsets from ``low``, and how often each occurs."""

    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    low: int
    high: int
    forbidden: int | None
    """Offset that no counted sample may come back as (nodata)."""

    @classmethod
    def of(cls, offsets: NDArray[np.int64], low: int, high: int, forbidden: int | None) -> "Histogram":
        """Of at least one sample."""
        span = int(offsets.max()) + 1
        if span <= 1 << 20:
            counts = np.bincount(offsets.reshape(-1), minlength=span)
            values = np.flatnonzero(counts)
            return cls(values.astype(np.int64), counts[values].astype(np.int64), low, high, forbidden)
        values, counts = np.unique(offsets, return_counts=True)
        return cls(values.astype(np.int64), counts.astype(np.int64), low, high, forbidden)

    def squared_error(self, step: int) -> float:
        """Sum of the squared errors with a step; infinite where a counted sample would become nodata."""
        lattice = IntegerLattice(step, self.low, self.high)
        back = lattice.offsets(lattice.indices(self.offsets))
        if self.forbidden is not None and bool((back == self.forbidden).any()):
            return float("inf")
        errors = (back - self.offsets).astype(np.float64)
        return float((errors * errors * self.counts).sum())

    def largest_error(self, step: int) -> float:
        """The largest error with a step; infinite as above."""
        lattice = IntegerLattice(step, self.low, self.high)
        back = lattice.offsets(lattice.indices(self.offsets))
        if self.forbidden is not None and bool((back == self.forbidden).any()):
            return float("inf")
        return float(np.abs(back - self.offsets).max())


def coarsest_step(histogram: Histogram, allowed: float, measure: Callable[[int], float]) -> int | None:
    """The largest step found with ``measure(step) <= allowed``; None if only exact samples would do.

    Bisection finds a crossing; the error of few values is not monotone, so steps beyond it are tried too.
    """
    fine, coarse = FRACTION, 2 * FRACTION * (int(histogram.offsets[-1]) + 1)
    if measure(coarse) <= allowed:
        return coarse
    while coarse - fine > 1:
        middle = (fine + coarse) // 2
        fine, coarse = (middle, coarse) if measure(middle) <= allowed else (fine, middle)
    for i in range(TRIES, 0, -1):
        further = fine + fine * i // TRIES
        if measure(further) <= allowed:
            return further
    return fine if fine > FRACTION and measure(fine) <= allowed else None


def smoothed(
    offsets: NDArray[np.int64],
    indices: NDArray[np.int64],
    lattice: IntegerLattice,
    counted: NDArray[np.bool_] | None,
    allowed: float,
) -> NDArray[np.int64]:
    """Indices with as many as the squared error ``allowed`` permits made equal to their left neighbour.

    Cheapest first; even columns, then odd ones, so that no sample follows one that moves away.
    """
    most = int(indices.max())
    back = lattice.offsets(indices) if most >= TABLE else lattice.offsets(np.arange(most + 1))[indices]
    spent = _squared(back, offsets, counted)
    if spent >= NEARLY * allowed:
        return indices
    indices = indices.copy()
    width = indices.shape[-1]
    flat, values, exact = indices.reshape(-1), back.reshape(-1), offsets.reshape(-1)
    for first in (2, 1):
        if spent >= NEARLY * allowed or width <= first:
            break
        fit = indices[..., first::2] != indices[..., first - 1 : -1 : 2]
        if counted is not None:
            fit &= counted[..., first::2] & counted[..., first - 1 : -1 : 2]
        rows, columns = np.divmod(np.flatnonzero(fit), fit.shape[-1])
        places = rows * width + (first + 2 * columns)
        moved, kept = values[places - 1] - exact[places], values[places] - exact[places]
        exactly = np.maximum(np.abs(moved), np.abs(kept)) < FARTHEST
        places, costs = places[exactly], (moved**2 - kept**2)[exactly]
        taken = _cheapest(costs, allowed - spent)
        chosen = places[taken]
        flat[chosen], values[chosen] = flat[chosen - 1], values[chosen - 1]
        spent += float(costs[taken].sum())
    return indices


def _cheapest(costs: NDArray[np.int64], budget: float) -> NDArray[np.intp]:
    """As many places as ``budget`` permits, the cheapest first and the first ones of a price."""
    if costs.size == 0:
        return np.empty(0, np.intp)
    least = int(costs.min())
    classes = (costs - least) >> max((int(costs.max()) - least).bit_length() - PRICE_BITS, 0)
    spent = np.cumsum(np.bincount(classes, weights=costs))
    full = int(np.searchsorted(spent, budget, side="right"))
    taken = np.flatnonzero(classes < full)
    if full == len(spent):
        return taken
    some = np.flatnonzero(classes == full)
    some = some[np.argsort(costs[some], kind="stable")]
    left = budget - (float(spent[full - 1]) if full else 0.0)
    return np.concatenate([taken, some[: int(np.searchsorted(np.cumsum(costs[some]), left, side="right"))]])


def _squared(back: NDArray[np.int64], offsets: NDArray[np.int64], counted: NDArray[np.bool_] | None) -> float:
    errors = (back - offsets).reshape(-1) if counted is None else (back - offsets)[counted]
    values = errors.astype(np.float64)
    return sum_of_squares(values)


def sum_of_squares(values: NDArray[np.float64]) -> float:
    """The sum of (n,) squares, added in one order.

    Not ``np.dot``: BLAS would share it out among threads, whose sums differ in their last bits from machine
    to machine, and which then wait for more work at full speed, 50 ms of processor time each time.
    """
    return float(np.einsum("i,i->", values, values))


def float_indices(samples: NDArray[Any], step: float) -> NDArray[np.float64]:
    """The nearest multiples of ``step``, as whole numbers in double precision."""
    return np.rint(samples.astype(np.float64) / step)


def float_samples(
    indices: NDArray[Any], step: float, dtype: np.dtype[Any], low: float | None, high: float | None
) -> NDArray[Any]:
    """What indices come back as: index x step in double precision, rounded to the type, clipped."""
    with np.errstate(over="ignore"):
        samples = (indices.astype(np.float64) * np.float64(step)).astype(dtype)
    if low is not None and high is not None:
        samples = np.clip(samples, dtype.type(low), dtype.type(high))
    return samples


def coarsest_float_step(
    samples: NDArray[Any], measure: Callable[[float], float], allowed: float, start: float
) -> float | None:
    """The largest step (a float32 number) found with ``measure(step) <= allowed``; None where none is.

    samples: those that count, finite. ``start``: a step to begin with.
    """
    fine = coarse = float(np.float32(start))
    for _ in range(64):
        if measure(fine) <= allowed:
            break
        fine, coarse = float(np.float32(fine / 2)), fine
        if fine < 1e-37:
            return None
    else:
        return None
    while measure(coarse) <= allowed:
        fine, coarse = coarse, float(np.float32(coarse * 2))
        if coarse > 4 * float(np.abs(samples.astype(np.float64)).max()) or coarse > 1e37:
            return fine
    for _ in range(12):
        middle = float(np.float32(np.sqrt(fine * coarse)))
        fine, coarse = (middle, coarse) if measure(middle) <= allowed else (fine, middle)
    return fine
