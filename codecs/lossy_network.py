"""The learned mode of a lossy tile: 9/7 wavelet, learned chances, restoration (`native/lossy_tile.hpp`).

The step of the quantiser is sought so that the decoded tile meets the codec's target and hardly more. Planes
are samples as they are; floats are first put on a lattice of at most 2^16 values over the tile's range.

Payload: the rank and the extents as varints; floats: offset and scale of the lattice, float32 each; then the
native tile. A decoded sample that would be the nodata value becomes its neighbour: nodata comes
back from the plane of exceptions only.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevault.codecs import _native
from tilevault.codecs.errors import TileCorrupt
from tilevault.codecs.lossless import put_varint, take_varint
from tilevault.codecs.lossy_search import Trial, coarsest, search
from tilevault.codecs.quantised import sum_of_squares
from tilevault.codecs.weights import native_model

if TYPE_CHECKING:
    from tilevault.codecs.learned import LearnedCodec
    from tilevault.codecs.lossy_modes import Content

__all__ = ["SLOPE", "Learned", "encode_near"]

OCTAVE = 128
"""Codes of the step in which it doubles."""
STEPS = range(128, 11 * 128)
SLOPE = 9.0
"""Bits that the squared error of one step is worth: near 6 / ln 2, where high rates have their optimum."""
WINDOW = 0.1
"""dB that a tile may be better than a psnr target."""
BOUND_WINDOW = 0.9
"""dB that the largest error may be below its bound."""
TINY = 1e-30
WORK_BITS = 14
LATTICE = 65535
"""Greatest index of a float's lattice."""
LARGEST_INTEGER = 1 << 24
MAX_PLANES = 4096
SMALLEST_ERROR = 4
"""Least max_error for which the mode is tried: below it, indices coded without loss are smaller."""


class Learned:
    """Mode 2: needs the model that the codec's configuration names."""

    def encode(self, codec: "LearnedCodec", content: "Content", most: int) -> bytes | None:
        """See `Mode`."""
        samples = content.samples
        if not codec.model or content.wanted.size == 0 or math.prod(samples.shape[:-2]) > MAX_PLANES:
            return None
        lattice = _Lattice.of(samples)
        if lattice is None:
            return None
        integers = lattice.integers(samples)
        head = _head(samples, lattice)
        if codec.target == "psnr":
            data = _Search(codec, content, lattice, integers).psnr(most - len(head))
        else:
            data = _Search(codec, content, lattice, integers, restore=False).max_error(most - len(head))
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
        _, lattice, rest = _opened(data, None, dtype)
        if len(rest) < 3:
            raise TileCorrupt("lossy tile: the frame ends in its header")
        code = rest[0] | rest[1] << 8
        work = 2.0 ** (code / OCTAVE + 3)  # the step, on the scale on which the transform works
        return work * 2.0 ** ((rest[2] >> 2) - WORK_BITS) * lattice.scale, bool(rest[2] & 2)


@dataclass(frozen=True)
class _Lattice:
    """Where floats lie: offset + scale * index; integers are their own index."""

    floats: bool
    offset: float = 0.0
    scale: float = 1.0

    @classmethod
    def of(cls, samples: NDArray[Any]) -> "_Lattice | None":
        """What the samples need; None where they reach too far."""
        low, high = samples.min().item(), samples.max().item()
        if samples.dtype.kind != "f":
            return cls(False) if high - low <= LATTICE and max(-low, high) < LARGEST_INTEGER else None
        scale = float(np.float32((high - low) / LATTICE))
        return cls(True, low, scale) if 1e-30 < scale < 1e30 else None

    @property
    def head(self) -> bytes:
        """As it lies in the payload."""
        return np.array([self.offset, self.scale], "<f4").tobytes() if self.floats else b""

    def integers(self, samples: NDArray[Any]) -> NDArray[np.int32]:
        """The indices of samples, (planes, y, x)."""
        planes = samples.reshape(-1, *samples.shape[-2:])
        if not self.floats:
            return planes.astype(np.int32)
        exact = np.rint((planes.astype(np.float64) - self.offset) / self.scale)
        return np.clip(exact, 0, LATTICE).astype(np.int32)

    def samples(self, integers: NDArray[np.int32], dtype: np.dtype[Any]) -> NDArray[Any]:
        """The samples of indices, in double precision before they are rounded to the type."""
        if not self.floats:
            return integers.astype(dtype)
        return (self.offset + self.scale * integers.astype(np.float64)).astype(dtype)


@dataclass
class _Search:
    """Encodings of one tile at steps of our choice, and what they decode to."""

    codec: "LearnedCodec"
    content: "Content"
    lattice: _Lattice
    integers: NDArray[np.int32]
    slope: float = SLOPE
    restore: bool = True
    """Restoration permitted. It lowers squared errors and not the largest, so bounds do without."""

    def psnr(self, most: int) -> bytes | None:
        """Few bytes within `WINDOW` of the target; None where no step leads there, or to ``most`` bytes."""
        codec, content = self.codec, self.content
        count = content.wanted.size
        allowed = codec.allowed_squared(count, content.samples.dtype)
        estimate = _native.LossyEstimate(native_model(codec.model), self.integers)
        share = count / content.samples.size * self.lattice.scale**2

        def expected(code: int) -> float:
            return 10 * math.log10(max(share * estimate.squares(code, self.slope) / allowed, TINY))

        def encode(code: int, slope: float) -> Trial:
            data, errors = self._encode(code, slope)
            return Trial(data, 10 * math.log10(max(sum_of_squares(errors) / allowed, TINY)))

        found = search(
            encode,
            lru_cache(expected),
            STEPS,
            self.slope,
            WINDOW,
            lambda trial: trial.least_at_target(count) >= most,
        )
        return None if found is None else found.data

    def near(self, allowed: float) -> bytes:
        """One encoding, at the step whose uniform error alone makes what is allowed."""
        step = math.sqrt(12 * allowed / self.content.wanted.size) / self.lattice.scale
        return self._encode(self._code(step), self.slope)[0]

    def max_error(self, most: int) -> bytes | None:
        """The coarsest step found whose largest error is within the bound; None if beyond ``most`` bytes."""
        allowed = self.codec.value
        if allowed < SMALLEST_ERROR * self.lattice.scale:
            return None
        first = self._code(allowed / self.lattice.scale)

        def encode(code: int) -> Trial:
            data, errors = self._encode(code, self.slope)
            return Trial(data, 20 * math.log10(max(float(np.abs(errors).max()) / allowed, TINY)))

        found = coarsest(
            encode,
            # Twice as steep as it is: short steps from above, since a coarser code may do by luck.
            lambda code: 40 * math.log10(2) * (code - first) / OCTAVE,
            STEPS,
            BOUND_WINDOW,
            lambda trial: trial.excess > 0 and len(trial.data) >= most,
        )
        return None if found is None else found.data

    def _code(self, step: float) -> int:
        ranges = self.integers.max(axis=(1, 2)).astype(np.int64) - self.integers.min(axis=(1, 2))
        span = int(ranges.max())
        work = max(step, 1e-9) * 2.0 ** (WORK_BITS - span.bit_length())
        return min(max(round(OCTAVE * (math.log2(work) - 3)), STEPS.start), STEPS.stop - 1)

    def _encode(self, code: int, slope: float) -> tuple[bytes, NDArray[np.float64]]:
        """The bytes and the errors of what counts."""
        codec = self.codec
        least, most = _bounds(codec, self.lattice, self.content.samples.dtype)
        plain, restored = np.empty_like(self.integers), np.empty_like(self.integers)
        model = native_model(codec.model)
        data = _native.encode_lossy(
            model, self.integers, least, most, code, slope, self.restore, plain, restored
        )
        errors = self._errors(restored)
        if self.restore and self._counts_otherwise():
            unrestored = self._errors(plain)
            if np.square(unrestored).sum() < np.square(errors).sum():
                errors = unrestored
                data = _native.encode_lossy(
                    model, self.integers, least, most, code, slope, False, plain, restored
                )
        return data, errors

    def _counts_otherwise(self) -> bool:
        """Whether what gains in the network's integers may be worse in the samples that count."""
        return self.content.counted is not None or self.lattice.floats or self.codec.nodata_value is not None

    def _errors(self, decoded: NDArray[np.int32]) -> NDArray[np.float64]:
        """Of what counts, in units of the samples."""
        codec, content = self.codec, self.content
        dtype = content.samples.dtype
        if self.lattice.floats or codec.nodata_value is not None:
            back = _samples(codec, self.lattice, decoded, content.samples.shape, dtype)
            errors = back.astype(np.float64) - content.samples
        else:
            errors = (decoded - self.integers).astype(np.float64).reshape(content.samples.shape)
        wanted: NDArray[np.float64] = (
            errors.reshape(-1) if content.counted is None else errors[content.counted]
        )
        return wanted


def encode_near(codec: "LearnedCodec", content: "Content", slope: float, restore: bool) -> bytes | None:
    """The mode's bytes at the step that alone would make the error of a psnr target: for comparisons."""
    lattice = _Lattice.of(content.samples)
    if lattice is None or codec.target != "psnr":
        return None
    search = _Search(codec, content, lattice, lattice.integers(content.samples), slope, restore)
    allowed = codec.allowed_squared(content.wanted.size, content.samples.dtype)
    return _head(content.samples, lattice) + search.near(allowed)


def _head(samples: NDArray[Any], lattice: _Lattice) -> bytes:
    return b"".join(put_varint(n) for n in (samples.ndim, *samples.shape)) + lattice.head


def _bounds(codec: "LearnedCodec", lattice: _Lattice, dtype: np.dtype[Any]) -> tuple[int, int]:
    """Least and greatest index that a decoder gives."""
    if lattice.floats:
        return 0, LATTICE
    span = codec.range_of(dtype)
    assert span is not None
    return max(int(span[0]), -LARGEST_INTEGER), min(int(span[1]), LARGEST_INTEGER)


def _samples(
    codec: "LearnedCodec",
    lattice: _Lattice,
    integers: NDArray[np.int32],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
) -> NDArray[Any]:
    """What readers get: within the valid range, and nowhere the nodata value."""
    samples = lattice.samples(integers, dtype).reshape(shape)
    span = codec.range_of(dtype)
    if lattice.floats and span is not None:
        samples = np.clip(samples, dtype.type(span[0]), dtype.type(span[1]))
    number = codec.nodata_value
    if number is None or math.isnan(number) or math.isinf(number):
        return samples
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            value = dtype.type(number)
        beside = np.nextafter(value, dtype.type(0 if value else 1))
        return np.where(samples == value, beside, samples)
    if span is None or not float(number).is_integer() or not span[0] <= number <= span[1]:
        return samples
    beside = int(number) + (1 if number < span[1] else -1)
    return np.where(samples == int(number), dtype.type(beside), samples)


def _opened(
    data: memoryview, shape: tuple[int, ...] | None, dtype: np.dtype[Any]
) -> tuple[tuple[int, ...], _Lattice, memoryview]:
    """Extents, lattice and the native tile. ``shape``: the chunk's; None: not looked at."""
    head = bytes(data[:40])
    rank, at = take_varint(head, 0)
    extents = []
    for _ in range(rank if rank <= 5 else 0):
        extent, at = take_varint(head, at)
        extents.append(extent)
    if shape is not None:
        sound = len(extents) == len(shape) and all(1 <= a <= b for a, b in zip(extents, shape, strict=True))
        if not sound or math.prod(extents[:-2]) > MAX_PLANES:
            raise TileCorrupt(f"lossy tile: extents {extents} in a chunk of {shape}")
    if dtype.kind != "f":
        return tuple(extents), _Lattice(False), data[at:]
    if len(data) < at + 8:
        raise TileCorrupt("lossy tile: the frame ends in its header")
    offset, scale = (float(v) for v in np.frombuffer(data[at : at + 8], "<f4"))
    if not (math.isfinite(offset) and 1e-30 < scale < 1e30):
        raise TileCorrupt(f"lossy tile: a lattice of {offset} + {scale} n")
    return tuple(extents), _Lattice(True, offset, scale), data[at + 8 :]
