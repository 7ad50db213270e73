"""LearnedCodec: tiles to bytes and back within a stated bound, each by whichever mode needs fewest bytes.

The bound is either a largest error for every sample, or a peak signal-to-noise ratio of every tile. A tile is
coded by every mode that applies, the results are decoded by the very decoder that readers use, and the
smallest that meets the bound is kept; a tile that no mode brings within it is exact. Samples that do not
count (masked, nodata, NaN, infinities) are filled from their neighbours before a mode sees them; nodata, NaN
and infinities come back bit for bit, from a plane beside the mode's bytes.

The frame is specified in ``docs/format.md``, section 8. Modes: `lossy_modes.MODES`.
"""

import math
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tilevault.codecs.base import TileCodec
from tilevault.codecs.errors import InvalidRequest, TileCorrupt, UnsupportedSyntax, VerifyAfterEncodeFailed
from tilevault.codecs.fill import filled
from tilevault.codecs.lossless import (
    MAX_DECOMPOSITIONS,
    put_varint,
    take_varint,
)
from tilevault.codecs.lossy_modes import EXACT, MODES, NESTED, ORDER, Content, nested_samples

__all__ = ["TARGETS", "Coded", "FrameFacts", "LearnedCodec", "codes_lossy"]

TARGETS = ("psnr", "max_error")
VERSION = 1
EXCEPTIONS = 0x80
"""Bit of the mode byte: a plane of samples that come back bit for bit lies before the mode's bytes."""
MAX_EXCEPTIONS = 255
WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""Numbers that JSON has no word for, as Zarr spells them."""


def codes_lossy(dtype: np.dtype[Any]) -> bool:
    """Whether samples of a type can be coded with loss: integers of 8 to 32 bits, and float32."""
    return (dtype.kind in "iu" and dtype.itemsize <= 4) or (dtype.kind == "f" and dtype.itemsize == 4)


@dataclass(frozen=True)
class FrameFacts:
    """What a frame says of itself."""

    mode: int
    step: float
    """Of the quantiser, in stored units; 0 where nothing is lost."""
    restored: bool = False
    """Decoding with ``restore=False`` gives other samples."""


@dataclass(frozen=True)
class Coded:
    """A tile's bytes, and what they were made of and decode to."""

    data: bytes
    words: NDArray[Any]
    """What the decoder gives."""
    counted: NDArray[np.bool_] | None
    """The samples that the bound was held for; None: all."""


@dataclass(frozen=True)
class LearnedCodec(TileCodec):
    """The lossy codec. Zarr name ``tilevault.learned``."""

    target: str = "max_error"
    """``max_error``: no sample is off by more than ``value``; ``psnr``: no tile has less than ``value``."""

    value: float = 1
    """Stored units, or dB with respect to ``high - low``."""

    low: float | None = None
    """The least valid sample of the image, fixed before encoding; None: that of the type (integers)."""

    high: float | None = None
    """The greatest valid sample. What is decoded lies within low .. high."""

    nodata: float | str | None = None
    """Value that marks absent samples; NaN and infinities as ``"NaN"``, ``"Infinity"``, ``"-Infinity"``."""

    decompositions: int = 5
    """Wavelet decompositions of modes that have a wavelet."""

    model: str = ""
    """SHA-256 of the model that decoding needs, hexadecimal; empty while none is needed."""

    codec_name: ClassVar[str] = "tilevault.learned"

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise InvalidRequest(f"a target is one of {', '.join(TARGETS)}, not {self.target!r:.50}")
        if not _is_number(self.value) or not 0 < self.value < 1e30:
            raise InvalidRequest(f"the value of a target is a number above 0, not {self.value!r:.50}")
        if (self.low is None) != (self.high is None):
            raise InvalidRequest("the valid range has both ends or none")
        ends = (self.low, self.high)
        if self.low is not None and not (all(_is_number(end) for end in ends) and ends[0] <= ends[1]):  # type: ignore[operator]  # both are numbers
            raise InvalidRequest(f"not a valid range: {self.low!r:.50} .. {self.high!r:.50}")
        if not (self.nodata is None or self.nodata in WORDS or _is_number(self.nodata)):
            raise InvalidRequest(f"nodata is a number, not {self.nodata!r:.50}")
        if type(self.decompositions) is not int or not 0 <= self.decompositions <= MAX_DECOMPOSITIONS:
            raise InvalidRequest(
                f"decompositions are 0 to {MAX_DECOMPOSITIONS}, not {self.decompositions!r:.50}"
            )
        sound = type(self.model) is str and set(self.model) <= set("0123456789abcdef")
        if not sound or len(self.model) not in (0, 64):
            raise InvalidRequest(f"a model is named by 64 hexadecimal digits, not {self.model!r:.80}")

    @property
    def resolutions(self) -> int:
        """1: coarser levels are made of decoded samples."""
        return 1

    @property
    def fidelity(self) -> str:
        """The target in one word: ``psnr=45`` or ``max-error=2``."""
        return f"{self.target.replace('_', '-')}={self.value!r}"

    def range_of(self, dtype: np.dtype[Any]) -> tuple[float, float] | None:
        """Least and greatest valid sample of the type, ints for integers; None: unknown (of floats)."""
        if self.low is None or self.high is None:
            if dtype.kind not in "iu":
                return None
            return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            low, high = max(math.ceil(self.low), int(limits.min)), min(math.floor(self.high), int(limits.max))
            if low > high:
                raise InvalidRequest(f"no {dtype} lies within {self.low} .. {self.high}")
            return low, high
        return float(self.low), float(self.high)

    def peak(self, dtype: np.dtype[Any]) -> float:
        """What errors are held against: the span of valid samples; 1 where there is none."""
        span = self.range_of(dtype)
        return 1.0 if span is None or span[0] == span[1] else float(span[1] - span[0])

    def allowed_squared(self, count: int, dtype: np.dtype[Any]) -> float:
        """The sum of squared errors that ``count`` samples may have with a ``psnr`` target."""
        span = self.range_of(dtype)
        if span is None:
            raise InvalidRequest("a psnr target needs the valid range of the image")
        return float(count * float(span[1] - span[0]) ** 2 / 10.0 ** (self.value / 10))

    def encode_tile(self, tile: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> bytes:
        """The frame of ``tile``: at most 18 bytes longer than its samples.

        ``valid``: (y, x) or the tile's shape, False where the tile's content does not matter. Raises
        `UnsupportedSyntax` for types that have no lossy coding.
        """
        return self.code_tile(tile, valid).data

    def code_tile(self, tile: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> Coded:
        """`encode_tile`, with what the frame decodes to."""
        content, exceptions = self.content(tile, valid)
        frames: list[bytes] = []
        for number in ORDER[self.target]:
            head = exceptions if number != EXACT else b""
            if head is None:
                continue
            most = min(map(len, frames), default=sys.maxsize) - len(head) - 2
            payload = MODES[number].encode(self, content, most)
            if payload is not None:
                frames.append(bytes([VERSION, number | (EXCEPTIONS if head else 0)]) + head + payload)
        for data in sorted(frames, key=len):
            words = self.decode_tile(data, content.samples.shape, content.samples.dtype)
            if self._meets(content, words):
                return Coded(data, words.astype(tile.dtype, copy=False), content.counted)
        raise VerifyAfterEncodeFailed("a tile did not decode to what was encoded")

    def decode_tile(
        self,
        data: bytes | memoryview,
        shape: tuple[int, ...],
        dtype: DTypeLike,
        reduce: int = 0,
        restore: bool = True,
    ) -> NDArray[Any]:
        """See `TileCodec.decode_tile`; ``restore=False`` leaves out what a network adds after decoding."""
        if reduce != 0:
            raise InvalidRequest("lossy tiles have one resolution", reduce=reduce)
        wanted = np.dtype(dtype)
        if not 2 <= len(shape) <= 5 or not codes_lossy(wanted):
            raise InvalidRequest(f"tilevault.learned does not code {wanted} in {len(shape)} axes")
        little = wanted.newbyteorder("<")
        number, exceptions, rest = _opened(memoryview(data), shape, little)
        samples = MODES[number].decode(self, rest, shape, little, restore)
        if exceptions is not None:
            plane, values = exceptions
            if any(a not in (1, b) for a, b in zip(plane.shape, samples.shape, strict=True)):
                raise TileCorrupt(f"lossy tile: a plane of {plane.shape} for samples of {samples.shape}")
            places = np.broadcast_to(plane, samples.shape)
            samples = np.where(places > 0, values[np.maximum(places, 1) - 1], samples)
        if samples.shape == tuple(shape):
            return np.ascontiguousarray(samples, wanted)
        out = np.zeros(shape, wanted)
        out[tuple(slice(n) for n in samples.shape)] = samples
        return out

    def segment_ends(self, data: bytes | memoryview) -> tuple[int, ...]:
        """The end of the frame: it has one segment."""
        if len(data) < 2:
            raise TileCorrupt("lossy tile: the frame ends in its header")
        return (len(data),)

    def facts(self, data: bytes | memoryview, shape: tuple[int, ...], dtype: DTypeLike) -> FrameFacts:
        """What a frame says of itself. Raises `TileCorrupt`."""
        wanted = np.dtype(dtype).newbyteorder("<")
        number, _, rest = _opened(memoryview(data), shape, wanted)
        return FrameFacts(number, *MODES[number].facts(rest, wanted))

    def content(self, tile: NDArray[Any], valid: NDArray[np.bool_] | None) -> tuple[Content, bytes | None]:
        """What modes see; and the plane of exceptions as bytes (empty: none; None: it cannot be written)."""
        if not codes_lossy(tile.dtype):
            raise UnsupportedSyntax(f"{tile.dtype} is not coded with loss; it can be kept exactly")
        words = np.ascontiguousarray(tile, tile.dtype.newbyteorder("<"))
        special = self._special(words)
        counted = ~special
        if valid is not None:
            counted &= valid
        samples = filled(words, counted)
        if samples.dtype.kind == "f" and not np.isfinite(samples).all():
            raise VerifyAfterEncodeFailed("a tile could not be filled with finite samples")
        limits = self.range_of(words.dtype)
        if limits is not None:
            if (
                counted.any()
                and not limits[0] <= samples[counted].min() <= samples[counted].max() <= limits[1]
            ):
                raise InvalidRequest(f"samples lie outside of the valid range {limits[0]} .. {limits[1]}")
            samples = np.clip(samples, words.dtype.type(limits[0]), words.dtype.type(limits[1]))
        original = np.where(special, words, samples)
        every = bool(counted.all())
        return Content(samples, None if every else counted, original), _exceptions(words, special)

    def _special(self, words: NDArray[Any]) -> NDArray[np.bool_]:
        """Where samples come back bit for bit: nodata, NaN, infinities."""
        special = np.zeros(words.shape, bool) if words.dtype.kind != "f" else ~np.isfinite(words)
        number = self.nodata_value
        if number is not None and not math.isnan(number):
            if words.dtype.kind == "f":
                with np.errstate(over="ignore"):
                    special |= words == words.dtype.type(number)
            elif float(number).is_integer():
                special |= words.astype(np.int64) == int(number)
        return special

    @property
    def nodata_value(self) -> float | None:
        """Nodata as a number."""
        return WORDS[self.nodata] if isinstance(self.nodata, str) else self.nodata

    def _meets(self, content: Content, words: NDArray[Any]) -> bool:
        """Whether decoded words meet the target where they count, and are the original where they must."""
        kept = np.ones(words.shape, bool) if content.counted is None else content.counted
        special = self._special(content.original)
        if words[special].tobytes() != content.original[special].tobytes():
            return False
        if bool((self._special(words) & kept).any()):
            return False
        wanted, found = content.wanted, words.reshape(-1) if content.counted is None else words[kept]
        if wanted.size == 0:
            return True
        errors = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
        if self.target == "max_error":
            return float(errors.max()) <= self.value
        return float(np.square(errors).sum()) <= self.allowed_squared(wanted.size, words.dtype)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _exceptions(words: NDArray[Any], special: NDArray[np.bool_]) -> bytes | None:
    """The plane of samples that come back bit for bit."""
    if not special.any():
        return b""
    bits = words.view(f"<u{words.dtype.itemsize}")
    values = np.unique(bits[special])
    if len(values) > MAX_EXCEPTIONS:
        return None
    plane = np.where(special, np.searchsorted(values, bits).clip(max=len(values) - 1) + 1, 0).astype(np.uint8)
    lead = tuple(range(plane.ndim - 2))
    if lead and bool((plane == plane[(slice(0, 1),) * len(lead)]).all()):
        plane = plane[(slice(0, 1),) * len(lead)]
    frame = NESTED.encode_tile(plane)
    return put_varint(len(values)) + values.tobytes() + put_varint(len(frame)) + frame


def _opened(
    data: memoryview, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> tuple[int, tuple[NDArray[np.uint8], NDArray[Any]] | None, memoryview]:
    """Mode, exceptions (plane and values) and the mode's own bytes. Raises `TileCorrupt`."""
    data = data.cast("B") if data.format != "B" else data
    if len(data) < 2:
        raise TileCorrupt("lossy tile: the frame ends in its header")
    number = data[1] & ~EXCEPTIONS
    if data[0] != VERSION or number not in MODES:
        raise TileCorrupt(f"lossy tile: a frame of version {data[0]}, mode {number}, is not known")
    if not data[1] & EXCEPTIONS:
        return number, None, data[2:]
    count, at = take_varint(bytes(data[:16]), 2)
    end = at + count * dtype.itemsize
    if not 1 <= count <= MAX_EXCEPTIONS or end > len(data):
        raise TileCorrupt(f"lossy tile: {count} exceptions")
    values = np.frombuffer(data[at:end], dtype)
    length, size = take_varint(bytes(data[end : end + 16]), 0)
    at = end + size
    if not 2 <= length <= len(data) - at:
        raise TileCorrupt(f"lossy tile: a plane of {length} bytes in a frame of {len(data)}")
    plane = nested_samples(data[at : at + length], shape, np.dtype(np.uint8))
    if int(plane.max()) > count:
        raise TileCorrupt("lossy tile: an exception that has no value")
    return number, (plane, values), data[at + length :]
