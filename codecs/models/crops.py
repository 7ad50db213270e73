"""Training crops: planes of many images in, crops with a step size out, the same ones for the same seed.

Kinds of images count by the square root of their images: an archive has to serve each, and a kind of one
image has little to teach. What a crop is coded with spans what archives ask for, from previews to nearly
lossless.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevault.codecs.errors import InvalidRequest

__all__ = ["SIDE", "Crop", "Crops", "planes_of"]

Plane = NDArray[np.int32]

SIDE = 192
"""Of a crop: six positions of the coarsest level."""
LEAST_RANGE, MOST_CONSTANT, LEAST_SIDE = 8, 0.9, 100
FLOAT_LEVELS = 4000
"""Integers that the range of a float plane is spread over."""
FINEST, COARSEST = 9.0, 2.5
"""Steps are the plane's range divided by 2 to a power between these, and at least 1."""
NOISY = 0.15
"""Share of the crops that noise of about a step is added to."""


@dataclass(frozen=True)
class Crop:
    """One crop and the step it is to be coded with."""

    samples: NDArray[np.int64]
    """(192, 192)"""
    step: float
    """In units of the samples."""


def planes_of(tile: NDArray[Any], colour: bool = False) -> list[Plane]:
    """The planes of a tile (..., y, x) that are worth learning from, as integers of at most 17 bits.

    Three bands of one byte each, if ``colour``, become green and the differences from it. Floats are spread
    over 4000 levels. Left out: what is small, nearly constant, or of a range below 8.
    """
    words = tile.reshape(-1, *tile.shape[-2:])
    if words.dtype.kind == "f":
        words = _levels(words)
    elif colour and len(words) == 3 and words.dtype == np.uint8:
        red, green, blue = words.astype(np.int32)
        words = np.stack([green, red - green, blue - green])
    elif words.dtype.itemsize > 2:
        return []
    return [plane for plane in words.astype(np.int32) if _worth_learning(plane)]


def _levels(words: NDArray[Any]) -> NDArray[Any]:
    known = np.where(np.isfinite(words), words, 0).astype(np.float64)
    low, high = np.percentile(known, (0.1, 99.9))
    return np.asarray(np.rint((known.clip(low, high) - low) / max(high - low, 1e-30) * FLOAT_LEVELS))


def _worth_learning(plane: Plane) -> bool:
    low = plane.min()
    return bool(
        min(plane.shape) >= LEAST_SIDE
        and int(plane.max()) - int(low) >= LEAST_RANGE
        and (plane == low).mean() <= MOST_CONSTANT
    )


class Crops:
    """Draws crops: first a kind of images, then an image, then a plane, then a place."""

    def __init__(self, planes: Mapping[str, Sequence[Sequence[Plane]]]) -> None:
        """``planes``: by kind of images, of each image; raises `InvalidRequest` where there are none."""
        self.kinds = [
            [list(map(_wide_enough, image)) for image in planes[kind] if image] for kind in sorted(planes)
        ]
        self.kinds = [kind for kind in self.kinds if kind]
        if not self.kinds:
            raise InvalidRequest("no image to learn from: none has a plane of 100 x 100 pixels with content")
        weights = np.sqrt([len(kind) for kind in self.kinds])
        self.shares = np.cumsum(weights / weights.sum())[:-1]

    def batch(self, seed: Iterable[int], count: int, coarse: float = 1.0) -> list[Crop]:
        """``count`` crops; the same seed gives the same crops.

        ``coarse``: steps are even on a logarithmic scale for 1; the larger it is, the more are coarse.
        """
        draw = np.random.default_rng(list(seed))
        return [self._crop(draw, coarse) for _ in range(count)]

    def _crop(self, draw: np.random.Generator, coarse: float) -> Crop:
        images = self.kinds[int(np.searchsorted(self.shares, draw.random(), side="right"))]
        planes = images[draw.integers(len(images))]
        plane = planes[draw.integers(len(planes))]
        span = int(plane.max()) - int(plane.min())
        samples = _place(plane, draw)
        for _ in range(100):  # a plane with content has a place with content; black borders are wide
            if int(samples.max()) - int(samples.min()) >= LEAST_RANGE:
                break
            samples = _place(plane, draw)
        octaves = COARSEST + (FINEST - COARSEST) * draw.random() ** coarse
        step = max(span * 2.0**-octaves, 1.0)
        if draw.random() < NOISY:
            noise = draw.normal(size=samples.shape) * step * 2.0 ** draw.uniform(-2, 1)
            samples = np.rint(samples + noise)
        return Crop(samples.astype(np.int64), step)


def _wide_enough(plane: Plane) -> Plane:
    missing = [(0, max(0, SIDE - n)) for n in plane.shape]
    return np.pad(plane, missing, mode="reflect") if any(m for _, m in missing) else plane


def _place(plane: Plane, draw: np.random.Generator) -> NDArray[Any]:
    y, x = (int(draw.integers(n - SIDE + 1)) for n in plane.shape)
    samples = plane[y : y + SIDE, x : x + SIDE]
    turn = int(draw.integers(8))
    samples = samples[:: -1 if turn & 1 else 1, :: -1 if turn & 2 else 1]
    return samples.T if turn & 4 else samples
