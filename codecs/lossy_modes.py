"""The modes of a lossy tile: exact, quantised, and whatever is added to `MODES`.

A mode turns the samples of a tile, already free of nodata, NaN and masked content, into bytes that are meant
to meet the codec's target; the codec decodes them, measures, and keeps the smallest that does. A mode that
needs a model finds it by the digest in the codec's configuration.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tilevault.codecs.errors import TileCorrupt
from tilevault.codecs.lossless import LosslessCodec, frame_extents, put_varint, take_varint
from tilevault.codecs.lossy_network import Learned
from tilevault.codecs.quantised import (
    FRACTION,
    Histogram,
    IntegerLattice,
    coarsest_float_step,
    coarsest_step,
    float_indices,
    float_samples,
    smoothed,
)

if TYPE_CHECKING:
    from tilevault.codecs.learned import LearnedCodec

__all__ = ["EXACT", "LEARNED", "MODES", "NESTED", "ORDER", "Content", "Mode", "nested_samples"]

INDEX_TYPES = ("u1", "u2", "u4")
STRIP, STRIPS = 16, 4
"""Rows that are coded for a guess at a frame's bytes, and of how many such strips one."""
FEWEST = 1.25
"""What is guessed to need this multiple of the bytes that will do, needs more than these."""
STEP_BITS = 48
LARGEST_INDEX = 1 << 62
"""An index times its step at most, so that 64 bits hold it."""
NESTED = LosslessCodec(decompositions=5, prefer="size")
"""The codec of nested frames, whatever the configuration of the tile's codec says."""


@dataclass(frozen=True)
class Content:
    """A tile as a mode sees it."""

    samples: NDArray[Any]
    """All finite; what does not count is filled from its neighbours. C order, little-endian."""
    counted: NDArray[np.bool_] | None
    """The same shape: samples that the bound holds for; None where it holds for all."""
    original: NDArray[Any]
    """For the exact mode: nodata, NaN and infinities in place, only masked samples filled."""

    @property
    def wanted(self) -> NDArray[Any]:
        """The samples that count, flat."""
        return self.samples.reshape(-1) if self.counted is None else self.samples[self.counted]


class Mode(Protocol):
    """One way to code a tile. Its bytes name the tile's extents themselves."""

    def encode(self, codec: "LearnedCodec", content: Content, most: int) -> bytes | None:
        """Bytes of a tile meant to meet the codec's target.

        None where the mode does not apply, and wherever it saves time where ``most`` bytes will not do.
        """
        ...

    def decode(
        self,
        codec: "LearnedCodec",
        data: memoryview,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        restore: bool,
    ) -> NDArray[Any]:
        """The samples, at the extents that ``data`` names: at most ``shape``. Raises `TileCorrupt`."""
        ...

    def facts(self, data: memoryview, dtype: np.dtype[Any]) -> tuple[float, bool]:
        """(step in stored units, whether there is restoration to leave out). Raises `TileCorrupt`."""
        ...


def nested_samples(data: memoryview, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The samples of a nested lossless frame at its own extents."""
    extents = frame_extents(data, len(shape))
    if any(not 1 <= a <= b for a, b in zip(extents, shape, strict=True)):
        raise TileCorrupt(f"lossy tile: extents {extents} in a chunk of {shape}")
    return NESTED.decode_tile(data, extents, dtype)


class _Exact:
    """Nothing is lost: the frame of tilevault.lossless."""

    def encode(self, codec: "LearnedCodec", content: Content, most: int) -> bytes | None:
        return NESTED.encode_tile(content.original)

    def decode(
        self,
        codec: "LearnedCodec",
        data: memoryview,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        restore: bool,
    ) -> NDArray[Any]:
        return nested_samples(data, shape, dtype)

    def facts(self, data: memoryview, dtype: np.dtype[Any]) -> tuple[float, bool]:
        return 0.0, False


class _Quantised:
    """Indices of a uniform quantiser, coded by tilevault.lossless.

    Integers: varint of the step in 1/256, then the indices' frame. Floats: float32 step, zigzag varint of the
    least index, then the frame of index - least.
    """

    def encode(self, codec: "LearnedCodec", content: Content, most: int) -> bytes | None:
        if content.wanted.size == 0:
            return None
        if content.samples.dtype.kind == "f":
            return self._floats(codec, content)
        return self._integers(codec, content, most)

    def _integers(self, codec: "LearnedCodec", content: Content, most: int) -> bytes | None:
        span = codec.range_of(content.samples.dtype)
        assert span is not None
        low, high = int(span[0]), int(span[1])
        offsets = content.samples.astype(np.int64) - low
        counted = content.counted
        number = codec.nodata_value
        forbidden = None if number is None or not float(number).is_integer() else int(number) - low
        wanted = offsets if counted is None else offsets[counted]
        histogram = Histogram.of(wanted, low, high, forbidden)
        if codec.target == "max_error":
            step = next(
                (
                    s * FRACTION
                    for s in range(2 * min(int(codec.value), high - low) + 1, 1, -1)
                    if histogram.largest_error(s * FRACTION) <= codec.value
                ),
                None,
            )
            if step is None:
                return None
            return put_varint(step) + _indices_frame(IntegerLattice(step, low, high).indices(offsets))
        allowed = codec.allowed_squared(wanted.size, content.samples.dtype)
        step = coarsest_step(histogram, allowed, histogram.squared_error) or FRACTION
        lattice = IntegerLattice(step, low, high)
        indices = lattice.indices(offsets)
        if _guess(indices) > FEWEST * most:
            return None
        return put_varint(step) + _indices_frame(smoothed(offsets, indices, lattice, counted, allowed))

    def _floats(self, codec: "LearnedCodec", content: Content) -> bytes | None:
        dtype = content.samples.dtype
        low, high = codec.range_of(dtype) or (None, None)
        wanted = content.wanted
        exact = wanted.astype(np.float64)

        def errors(step: float) -> NDArray[np.float64]:
            back = float_samples(float_indices(wanted, step), step, dtype, low, high)
            return np.abs(back.astype(np.float64) - exact)

        if codec.target == "max_error":
            start, allowed = 2 * codec.value, codec.value
            step = _float_bound(errors, start, allowed)
        else:
            allowed = codec.allowed_squared(wanted.size, dtype) * (1 - 1e-9)
            start = math.sqrt(12 * allowed / wanted.size)
            step = None
            if start > 1e-37:
                step = coarsest_float_step(
                    wanted, lambda s: float(np.square(errors(s)).sum()), allowed, start
                )
        if step is None:
            return None
        indices = float_indices(content.samples, step)
        least = float(indices.min())
        if abs(least) >= 2**52 or float(indices.max()) - least >= 2**32:
            return None
        zigzag = 2 * int(least) if least >= 0 else -2 * int(least) - 1
        head = np.array([step], "<f4").tobytes() + put_varint(zigzag)
        return head + _indices_frame((indices - least).astype(np.int64))

    def decode(
        self,
        codec: "LearnedCodec",
        data: memoryview,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        restore: bool,
    ) -> NDArray[Any]:
        if dtype.kind == "f":
            return self._float_samples(codec, data, shape, dtype)
        step, at = _step(data)
        span = codec.range_of(dtype)
        assert span is not None
        low, high = int(span[0]), int(span[1])
        indices = _indices(data[at:], shape)
        if int(indices.max()) * step > LARGEST_INDEX:
            raise TileCorrupt("lossy tile: an index beyond the range of its samples")
        return (IntegerLattice(step, low, high).offsets(indices) + low).astype(dtype)

    def _float_samples(
        self, codec: "LearnedCodec", data: memoryview, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        step = _float_step(data)
        zigzag, at = take_varint(bytes(data[:16]), 4, 54)
        least = zigzag // 2 if zigzag % 2 == 0 else -(zigzag + 1) // 2
        low, high = codec.range_of(dtype) or (None, None)
        indices = _indices(data[at:], shape)
        return float_samples(indices.astype(np.float64) + float(least), step, dtype, low, high)

    def facts(self, data: memoryview, dtype: np.dtype[Any]) -> tuple[float, bool]:
        return (_float_step(data) if dtype.kind == "f" else _step(data)[0] / FRACTION), False


def _float_bound(
    errors: Callable[[float], NDArray[np.float64]], start: float, allowed: float
) -> float | None:
    """A step of at most ``start`` that keeps errors within ``allowed``; None where rounding forbids it."""
    step = float(np.float32(start))
    for shrink in (0.0, 2.0**-22, 2.0**-18, 2.0**-12, 2.0**-6, 0.25, 0.5):
        tried = float(np.float32(step * (1 - shrink)))
        if 1e-37 < tried < 1e37 and float(errors(tried).max()) <= allowed:
            return tried
    return None


def _indices_frame(indices: NDArray[np.int64]) -> bytes:
    """Indices of at least 0 in the narrowest type that holds them."""
    greatest = int(indices.max())
    code = next(c for c in INDEX_TYPES if greatest < 1 << (8 * int(c[1])))
    return NESTED.encode_tile(indices.astype(f"<{code}"))


def _guess(indices: NDArray[np.int64]) -> int:
    """About the bytes of their frame; 0 where there are too few rows for a guess."""
    rows = np.arange(indices.shape[-2])
    if len(rows) < 2 * STRIP * STRIPS:
        return 0
    kept = rows[rows // STRIP % STRIPS == STRIPS // 2]
    return len(_indices_frame(indices[..., kept, :])) * len(rows) // len(kept)


def _indices(data: memoryview, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """The indices that a nested frame holds; its kind byte says of which type."""
    code = {0: "u1", 2: "u2", 4: "u4"}.get(data[1] >> 3 if len(data) > 1 else -1)
    if code is None:
        raise TileCorrupt("lossy tile: indices of a type that they cannot have")
    return nested_samples(data, shape, np.dtype(f"<{code}")).astype(np.int64)


def _step(data: memoryview) -> tuple[int, int]:
    step, at = take_varint(bytes(data[:16]), 0, STEP_BITS)
    if step < FRACTION:
        raise TileCorrupt(f"lossy tile: a step of {step} / {FRACTION}")
    return step, at


def _float_step(data: memoryview) -> float:
    if len(data) < 4:
        raise TileCorrupt("lossy tile: the frame ends in its step")
    step = float(np.frombuffer(data[:4], "<f4")[0])
    if not (math.isfinite(step) and step > 0):
        raise TileCorrupt(f"lossy tile: a step of {step}")
    return step


EXACT, QUANTISED, LEARNED = 0, 1, 2
MODES: Mapping[int, Mode] = {EXACT: _Exact(), QUANTISED: _Quantised(), LEARNED: Learned()}
"""Every mode by the number that the frame names it by. Adding one is a line here."""
ORDER = {"psnr": (EXACT, LEARNED, QUANTISED), "max_error": (EXACT, QUANTISED, LEARNED)}
"""Of a target's modes: those first that often are the smallest, so that others can be left out."""
