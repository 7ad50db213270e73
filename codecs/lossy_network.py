"""The learned mode of a lossy tile: 9/7 wavelet, learned chances, restoration (`native/lossy_tile.hpp`).

The step of the quantiser is sought so that the decoded tile meets the codec's target and hardly more. Planes
are samples as they are; floats are first put on a lattice of at most 2^16 values over the tile's range.

Payload: the lead extents and the two of the plane as varints; floats: offset and scale of the lattice, float32
each; then the native tile. A decoded sample that would be the nodata value becomes its neighbour: nodata comes
back from the plane of exceptions only.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevault.codecs import _native
from tilevault.codecs.errors import TileCorrupt
from tilevault.codecs.lossless import put_varint, take_varint
from tilevault.codecs.weights import native_model

if TYPE_CHECKING:
    from tilevault.codecs.learned import LearnedCodec
    from tilevault.codecs.lossy_modes import Content

__all__ = ["Learned"]

OCTAVE = 128
"""Codes of the step in which it doubles."""
LEAST_CODE, CODES = 128, 11 * 128
SLOPE = 9.0
"""Bits that the squared error of one step is worth: near 6 / ln 2, where high rates have their optimum."""
WINDOW = 0.1
"""dB that a tile may be better than a psnr target."""
TRIES = 9
WORK_BITS = 14
LATTICE = 65535
"""Greatest index of a float's lattice."""
LARGEST_INTEGER = 1 << 24
MAX_PLANES = 4096
SMALLEST_ERROR = 4
"""Least max_error for which the mode is tried: below it, indices coded without loss are smaller."""


@dataclass(frozen=True)
class Trial:
    """One encoding."""

    data: bytes
    error: float
    """Sum of squares (psnr), or the largest, of what counts."""


class Learned:
    """Mode 2: needs the model that the codec's configuration names."""

    def encode(self, codec: "LearnedCodec", content: "Content") -> bytes | None:
        """See `Mode`."""
        samples = content.samples
        if not codec.model or content.wanted.size == 0 or math.prod(samples.shape[:-2]) > MAX_PLANES:
            return None
        lattice = _Lattice.of(samples)
        if lattice is None:
            return None
        head = b"".join(put_varint(n) for n in samples.shape) + lattice.head
        integers = lattice.integers(samples)
        search = _Search(codec, content, lattice, integers)
        data = search.psnr() if codec.target == "psnr" else search.max_error()
        return None if data is None else head + data

    def decode(
        self,
        codec: "LearnedCodec",
        data: memoryview,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        restore: bool,
    ) -> NDArray[Any]:
        """See `Mode`."""
        extents, lattice, rest = _opened(data, shape, dtype)
        least, most = _bounds(codec, lattice, dtype)
        plain = np.empty((math.prod(extents[:-2]), *extents[-2:]), np.int32)
        restored = np.empty_like(plain) if restore else None
        try:
            _native.decode_lossy(
                native_model(codec.model), np.frombuffer(rest, np.uint8), least, most, plain, restored
            )
        except (_native.Corrupt, ValueError) as error:
            raise TileCorrupt(f"lossy tile: {error}") from error
        return _samples(codec, lattice, plain if restored is None else restored, extents, dtype)

    def facts(self, data: memoryview, dtype: np.dtype[Any]) -> tuple[float, bool]:
        """See `Mode`."""
        at = 0
        for _ in range(5):  # the extents end where the code of a step may begin; the caller's rank is not known here
            break
        raise NotImplementedError
