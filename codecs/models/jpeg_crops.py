"""Training pairs of the reference model: grey crops, and what JPEG of any quality makes of them."""

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from tilevault.codecs.errors import InvalidRequest
from tilevault.codecs.models.grey import luma, to_grey

__all__ = ["QUALITIES", "SIDE", "JpegCrops", "Pair", "compressed", "decompressed", "grey_planes"]

Plane = NDArray[np.uint8]
Pair = tuple[Plane, Plane]
"""Original and degraded."""

SIDE = 48
"""Of a crop; the blind networks of the paper are trained on 50 x 50."""
BLOCK_GRID = 16
"""A crop is cut from one larger by this, so that it begins anywhere in JPEG's grid of 8 x 8 blocks."""
QUALITIES = 5, 100
LEAST_RANGE, MOST_CONSTANT, LEAST_DEVIATION = 8, 0.9, 2.0


def grey_planes(tile: NDArray[Any], colour: bool = False) -> list[Plane]:
    """The planes of a tile (..., y, x) in 8 bits; luma of three bands of bytes if ``colour``.

    Left out: what is small, nearly constant, or of a range below 8.
    """
    words = tile.reshape(-1, *tile.shape[-2:])
    if colour and len(words) == 3 and words.dtype == np.uint8:
        words = np.rint(luma(words)).astype(np.uint8)[None]
    return [plane for plane in map(to_grey, words) if _worth_learning(plane)]


def _worth_learning(plane: Plane) -> bool:
    low = plane.min()
    return bool(
        min(plane.shape) >= SIDE
        and int(plane.max()) - int(low) >= LEAST_RANGE
        and (plane == low).mean() <= MOST_CONSTANT
    )


def compressed(plane: Plane, quality: int) -> bytes:
    """``plane``, (h, w), as a JPEG file of the quality that libjpeg calls so, 1 to 100."""
    file = BytesIO()
    Picture.fromarray(plane).save(file, "JPEG", quality=quality)
    return file.getvalue()


def decompressed(jpeg: bytes) -> Plane:
    """The plane of a grey JPEG file."""
    return np.asarray(Picture.open(BytesIO(jpeg)))


class JpegCrops:
    """Draws pairs: first a kind of images, then an image, then a plane, a place and a quality."""

    def __init__(self, planes: Mapping[str, Sequence[Sequence[Plane]]]) -> None:
        """``planes``: by kind of images, of each image; raises `InvalidRequest` where there are none."""
        kinds = (
            [list(map(_wide_enough, image)) for image in planes[kind] if image] for kind in sorted(planes)
        )
        self.kinds = [kind for kind in kinds if kind]
        if not self.kinds:
            raise InvalidRequest(f"no image to learn from: none has a plane of {SIDE} x {SIDE} with content")

    def batch(self, seed: Iterable[int], count: int) -> list[Pair]:
        """``count`` pairs of (48, 48) uint8; the same seed gives the same."""
        draw = np.random.default_rng(list(seed))
        return [self._pair(draw) for _ in range(count)]

    def _pair(self, draw: np.random.Generator) -> Pair:
        images = self.kinds[draw.integers(len(self.kinds))]
        planes = images[draw.integers(len(images))]
        plane = planes[draw.integers(len(planes))]
        crop = _place(plane, draw)
        for _ in range(20):  # black borders are wide and teach nothing
            if crop.std() >= LEAST_DEVIATION:
                break
            crop = _place(plane, draw)
        quality = int(draw.integers(QUALITIES[0], QUALITIES[1] + 1))
        degraded = decompressed(compressed(crop, quality))
        y, x = draw.integers(BLOCK_GRID + 1, size=2)
        return crop[y : y + SIDE, x : x + SIDE], degraded[y : y + SIDE, x : x + SIDE]


def _wide_enough(plane: Plane) -> Plane:
    missing = [(0, max(0, SIDE + BLOCK_GRID - n)) for n in plane.shape]
    return np.pad(plane, missing, mode="reflect") if any(m for _, m in missing) else plane


def _place(plane: Plane, draw: np.random.Generator) -> Plane:
    side = SIDE + BLOCK_GRID
    y, x = (int(draw.integers(n - side + 1)) for n in plane.shape)
    crop = plane[y : y + side, x : x + side]
    turn = int(draw.integers(8))
    crop = crop[:: -1 if turn & 1 else 1, :: -1 if turn & 2 else 1]
    return np.ascontiguousarray(crop.T if turn & 4 else crop)
