"""Rate-distortion curves of coders on tiles, what two curves are to each other, and how fast they were made.

The Bjontegaard delta rate is the mean difference of log(bits) over the PSNR that both curves reach, each
interpolated by PCHIP (SciPy's) through its points; points that cost more and give less are left out. Compared
is what serves: 30 to 60 dB, for bytes 28 to 50, and no quality that OpenJPEG reaches below 0.05 bits per
sample, where headers would be compared (0.01 between curves of ours).
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import exp, log10
from pathlib import Path
from statistics import median

import numpy as np
from lossless_images import Tile
from lossy_field import Case, Coder, targets
from scipy.interpolate import PchipInterpolator

from tilevault.codecs.metrics import PSNR_EXACT, measure, squared_error

__all__ = ["LEAST_BITS", "SAME_HEADERS", "Curves", "along", "bd_rate", "frontier", "relative_rates", "speeds"]

Point = dict[str, float]
LEAST_BITS = 0.05
"""Per sample: cheaper points of the anchor are not compared."""
SAME_HEADERS = 0.01
"""In its place where both curves are ours."""
LEAST_OVERLAP = 3.0
"""Decibels that two curves must share."""
RING = 8
"""Samples along each border of a tile that are compared with its interior."""


class Curves:
    """Points of coders on cases; those of versioned coders are kept in a file between runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, list[Point]] = json.loads(path.read_text()) if path.exists() else {}
        self.fresh = 0

    def of(self, coder: Coder, case: Case) -> list[Point]:
        """One point per quality; [] where the coder does not take the tile or cannot decode it."""
        if not coder.takes(case):
            return []
        key = f"{coder.name} {coder.version} {_digest(case)} {list(coder.qualities(case))}"
        if not coder.version:
            return _points(coder, case)
        if key not in self.known:
            self.known[key] = _points(coder, case)
            self.fresh += 1
        return self.known[key]

    def save(self) -> None:
        """Write what is known."""
        if self.fresh:
            self.path.write_text(json.dumps(self.known) + "\n")
            self.fresh = 0


def _digest(case: Case) -> str:
    parts = [case.tile.dtype.str, case.tile.shape, case.low, case.peak, case.colour]
    digest = hashlib.sha256(repr(parts).encode() + case.tile.tobytes())
    if case.valid is not None:
        digest.update(case.valid.tobytes())
    return digest.hexdigest()[:24]


def _points(coder: Coder, case: Case) -> list[Point]:
    found = []
    for quality in coder.qualities(case):
        try:
            parts = coder.encode(case, quality)
            back = (coder.view or coder.decode)(case, parts)
        except RuntimeError as error:  # the foreign libraries' own errors; ours are none of these
            print(f"{coder.name} {case.name} {quality}: {error}")
            continue
        found.append(_point(case, quality, 8 * sum(map(coder.size, parts)), back))
    return found


def _point(case: Case, quality: float, bits: int, back: Tile) -> Point:
    found = measure(case.tile, back, case.peak, case.valid)
    squares, count = squared_error(case.tile, back, case.valid)
    return {
        "quality": float(quality), "bits": bits / case.tile.size, "mse": squares / max(1, count),
        "psnr": found.psnr, "ssim": found.ssim, "ms_ssim": found.ms_ssim,
        "max_error": found.max_abs_error, "border": _border(case, back),
    }  # fmt: skip


def _border(case: Case, back: Tile) -> float:
    """RMS error of the outer samples over that of the others; 1 where there are no others or no errors."""
    inside = np.zeros(case.tile.shape, bool)
    inside[..., RING:-RING, RING:-RING] = True
    valid = np.ones(case.tile.shape, bool) if case.valid is None else case.valid
    (ring, many), (core, most) = (squared_error(case.tile, back, mask & valid) for mask in (~inside, inside))
    return float(((ring / many) / (core / most)) ** 0.5) if many and most and core else 1.0


def frontier(points: Sequence[Point], measure_of: Callable[[Point], float]) -> tuple[Tile, Tile]:
    """(quality, log bits) of the points that give more than every cheaper one, ascending."""
    kept: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda p: p["bits"]):
        value = measure_of(point)
        if point["psnr"] < PSNR_EXACT and (not kept or value > kept[-1][0] + 1e-3):
            kept.append((value, float(np.log(point["bits"]))))
    quality, bits = zip(*kept, strict=True) if kept else ((), ())
    return np.array(quality), np.array(bits)


def _psnr(point: Point) -> float:
    return point["psnr"]


def ms_ssim_decibels(point: Point) -> float:
    """-10 log10(1 - MS-SSIM)."""
    return -10 * log10(max(1 - point["ms_ssim"], 1e-9))


def _range(
    case: Case, anchor: Sequence[Point], other: Sequence[Point], ms: bool, least: float = LEAST_BITS
) -> tuple[float, float]:
    """What both curves reach of what is compared; (0, 0) where that is nothing."""
    value = ms_ssim_decibels if ms else _psnr
    curves = [frontier(points, value) for points in (anchor, other)]
    if min(len(quality) for quality, _ in curves) < 3:
        return 0.0, 0.0
    (quality, bits), _ = curves
    if bits[-1] <= np.log(least):
        return 0.0, 0.0
    low, high = (-np.inf, np.inf) if ms else (targets(case)[0], targets(case)[-1])
    low = max(low, float(np.interp(np.log(least), bits, quality)), *(q[0] for q, _ in curves))
    return float(low), float(min(high, *(q[-1] for q, _ in curves)))


def bd_rate(
    case: Case,
    anchor: Sequence[Point],
    other: Sequence[Point],
    ms: bool = False,
    below: float = math.inf,
    least: float = LEAST_BITS,
) -> tuple[float, float, float] | None:
    """(percent more bits than ``anchor``, from dB, to dB); None where the curves share too little.

    ``ms``: at equal MS-SSIM in decibels, in the place of PSNR. ``below``: only up to so many dB.
    ``least``: cheaper points of the anchor, in bits per sample, are not compared.
    """
    value = ms_ssim_decibels if ms else _psnr
    low, high = _range(case, anchor, other, ms, least)
    high = min(high, below)
    if high - low < LEAST_OVERLAP:
        return None
    curves = [frontier(points, value) for points in (anchor, other)]
    areas = [float(PchipInterpolator(q, bits).integrate(low, high)) for q, bits in curves]
    return 100 * (exp((areas[1] - areas[0]) / (high - low)) - 1), low, high


def relative_rates(case: Case, anchor: Sequence[Point], other: Sequence[Point], grid: Tile) -> Tile:
    """log(bits / bits of the anchor) at each PSNR of ``grid``; NaN where one of them does not reach it."""
    low, high = _range(case, anchor, other, ms=False)
    if high <= low:
        return np.full(len(grid), np.nan)
    (qa, ra), (qb, rb) = (frontier(points, _psnr) for points in (anchor, other))
    values = PchipInterpolator(qb, rb)(grid) - PchipInterpolator(qa, ra)(grid)
    return np.where((grid >= low) & (grid <= high), values, np.nan)


def along(points: Sequence[Point], psnr: float, field: str) -> float | None:
    """A field of the curve at a PSNR, linear between the two points around it."""
    ordered = sorted((p for p in points if p["psnr"] < PSNR_EXACT), key=_psnr)
    if not ordered or not ordered[0]["psnr"] <= psnr <= ordered[-1]["psnr"]:
        return None
    return float(np.interp(psnr, [p["psnr"] for p in ordered], [p[field] for p in ordered]))


def speeds(
    chosen: Sequence[Case], coders: Sequence[Coder], curves: Curves, decibels: float, repeat: int
) -> dict[str, dict[str, float]]:
    """MB/s of words at the quality next to ``decibels``: one thread (processor time) and two (wall time).

    Each turn runs every coder before the next turn begins; medians of the turns. With two threads each codes
    whole tiles.
    """
    jobs: dict[str, list[tuple[Case, float]]] = {}
    for coder in coders:
        if not coder.counted and all(coder.takes(case) for case in chosen):
            jobs[coder.name] = [(c, _nearest(curves.of(coder, c), decibels)) for c in chosen]
    times: dict[str, dict[str, list[float]]] = {name: {} for name in jobs}
    for _ in range(repeat):
        for coder in coders:
            if coder.name in jobs:
                _turn(coder, jobs[coder.name], times[coder.name])
    size = sum(case.tile.nbytes for case in chosen) / 1e6
    return {name: {way: size / median(turns) for way, turns in kept.items()} for name, kept in times.items()}


def _nearest(points: Sequence[Point], decibels: float) -> float:
    return min(points, key=lambda p: abs(p["psnr"] - decibels))["quality"]


def _turn(coder: Coder, jobs: Sequence[tuple[Case, float]], times: dict[str, list[float]]) -> None:
    def encode(job: tuple[Case, float]) -> Sequence[bytes]:
        return coder.encode(*job)

    def decode(job: tuple[Case, Sequence[bytes]]) -> Tile:
        return coder.decode(*job)

    streams: list[tuple[Case, Sequence[bytes]]] = []
    for case, _ in jobs:
        case.streams  # noqa: B018 -- made once, before the clock starts
    for way, run, work in (("encode", encode, jobs), ("decode", decode, streams)):
        began = time.process_time()
        results = [run(job) for job in work]  # type: ignore[operator]
        times.setdefault(f"{way} 1", []).append(time.process_time() - began)
        if way == "encode":
            streams += [(case, parts) for (case, _), parts in zip(jobs, results, strict=True)]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(time.sleep, (0, 0)))
            began = time.perf_counter()
            list(pool.map(run, work))  # type: ignore[arg-type]
            times.setdefault(f"{way} 2", []).append(time.perf_counter() - began)
