"""Native DICOM pixel bytes <-> stored words: the one place that knows how samples lie in Pixel Data.

The *logical* bytes of a Pixel Data value are the value itself, or the value with the two bytes of every
16-bit unit exchanged (8-bit and 1-bit samples in a big endian OW). Frames follow each other in the logical
bytes without a gap, 1-bit frames even within a byte (PS3.5 section 8.1.1). `PixelLayout` turns runs of
logical bytes into words and back; nothing is masked, shifted or extended, so both ways are exact.

Words of BitsAllocated 24, 40, 48 and 56 lie zero-extended in the next larger integer. YBR_FULL_422 has two
planes: 0 is Y, 1 holds Cb at even x and Cr at odd x (two pixels are coded Y Y Cb Cr, PS3.3 C.7.6.3.1.2).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevault.codecs.errors import InconsistentHeader, VerifyAfterEncodeFailed

__all__ = ["PixelLayout", "exchange_bytes", "pack_frames", "read_rows"]

PIECE_BYTES = 32 << 20
"""Bytes of words that are packed at a time."""
ROW_STEP = 512
"""Bands of rows are multiples of this where they can be (the tile's side), so no tile is decoded twice."""


@dataclass(frozen=True)
class PixelLayout:
    """How the samples of one file lie in its Pixel Data value."""

    rows: int
    columns: int
    planes: int = 1
    """Words per pixel: SamplesPerPixel, or 2 for YBR_FULL_422."""
    bits_allocated: int = 16
    """1, or a multiple of 8 up to 64."""
    signed: bool = False
    floating: bool = False
    planar: bool = False
    """PlanarConfiguration 1: one plane of the frame after the other."""
    big_endian: bool = False
    swapped: bool = False
    """Logical bytes are the value's with the bytes of each 16-bit unit exchanged."""
    subsampled: bool = False
    """YBR_FULL_422."""

    @property
    def itemsize(self) -> int:
        """Bytes of one word in memory: the power of two that holds BitsAllocated."""
        return next(n for n in (1, 2, 4, 8) if 8 * n >= self.bits_allocated)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Native-endian dtype of the words; 1-bit samples are uint8 0 or 1."""
        if self.bits_allocated == 1:
            return np.dtype(np.uint8)
        kind = "f" if self.floating else "i" if self.signed else "u"
        return np.dtype(f"{kind}{self.itemsize}")

    @property
    def _coded(self) -> np.dtype[Any]:
        return self.dtype.newbyteorder(">" if self.big_endian else "<")

    @property
    def frame_bits(self) -> int:
        """Bits that one frame occupies."""
        return self.rows * self.columns * self.planes * self.bits_allocated

    def value_bytes(self, frames: int) -> int:
        """Bytes of the value that ``frames`` frames reach into (whole 16-bit units where swapped)."""
        size = -(-self.frame_bits * frames // 8)
        return size + size % 2 if self.swapped else size

    def left_over_bits(self, frames: int) -> int:
        """Bits of the last logical bytes that belong to no sample."""
        return 8 * self.value_bytes(frames) - self.frame_bits * frames

    def unpack(self, raw: bytes, count: int, skip: int = 0) -> NDArray[Any]:
        """The first ``count`` words in logical bytes, in the order in which they lie.

        ``skip`` bits precede the first (1-bit samples only).
        """
        if self.bits_allocated == 1:
            bits = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little", count=skip + count)
            return bits[skip:]
        size = self.bits_allocated // 8
        if size == self.itemsize:
            return np.frombuffer(raw, self._coded, count).astype(self.dtype, copy=False)
        octets = np.frombuffer(raw, np.uint8, count * size).reshape(count, size)
        wide = np.zeros((count, self.itemsize), np.uint8)
        wide[:, :size] = octets[:, ::-1] if self.big_endian else octets
        return wide.view(self.dtype.newbyteorder("<")).reshape(count).astype(self.dtype, copy=False)

    def pack(self, words: NDArray[Any]) -> bytes | memoryview:
        """Logical bytes of words in the order in which they lie (not for 1-bit samples).

        A view of the words, where they lie in memory as in the file.
        """
        size = self.bits_allocated // 8
        if size == self.itemsize:
            return np.ascontiguousarray(words, self._coded).reshape(-1).view(np.uint8).data
        wide = np.ascontiguousarray(words.astype(self.dtype.newbyteorder("<"), copy=False))
        octets = wide.reshape(-1).view(np.uint8).reshape(-1, self.itemsize)[:, :size]
        return (octets[:, ::-1] if self.big_endian else octets).tobytes()

    def arrange(self, run: NDArray[Any], rows: int) -> NDArray[Any]:
        """Words as they lie in ``rows`` rows -> (y, x), or (plane, y, x) where planes are interleaved."""
        if self.planes == 1 or self.planar:
            return run.reshape(rows, self.columns)
        if not self.subsampled:
            return np.moveaxis(run.reshape(rows, self.columns, self.planes), -1, 0)
        pairs = run.reshape(rows, self.columns // 2, 2, 2)
        return np.moveaxis(pairs, 2, 0).reshape(2, rows, self.columns)

    def flatten(self, words: NDArray[Any]) -> NDArray[Any]:
        """The reverse of `arrange`: words in the order in which they lie."""
        if words.ndim == 2:
            return words.reshape(-1)
        if not self.subsampled:
            return np.moveaxis(words, 0, -1).reshape(-1)
        pairs = words.reshape(2, words.shape[1], self.columns // 2, 2)
        return np.moveaxis(pairs, 0, 2).reshape(-1)

    def runs(self, frame: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """(first word, number of words) of rows ``start`` .. ``stop``: one run, or one for each plane."""
        base = frame * self.rows * self.columns * self.planes
        if not self.planar:
            width = self.columns * self.planes
            yield base + start * width, (stop - start) * width
            return
        for plane in range(self.planes):
            yield base + (plane * self.rows + start) * self.columns, (stop - start) * self.columns


def read_rows(
    layout: PixelLayout, fetch: Callable[[int, int], bytes], frame: int, start: int, stop: int
) -> NDArray[Any]:
    """Words of rows ``start`` .. ``stop`` of one frame: (y, x), or (c, y, x) with more than one plane.

    ``fetch(offset, length)`` gives bytes of the Pixel Data value. Packing the words again must give the
    bytes that were read, else `VerifyAfterEncodeFailed`.
    """
    parts = [
        layout.arrange(_read_run(layout, fetch, first, count), stop - start)
        for first, count in layout.runs(frame, start, stop)
    ]
    return np.stack(parts) if layout.planar and layout.planes > 1 else parts[0]


def _read_run(
    layout: PixelLayout, fetch: Callable[[int, int], bytes], first: int, count: int
) -> NDArray[Any]:
    begin_bit = first * layout.bits_allocated
    end_bit = begin_bit + count * layout.bits_allocated
    begin, end = begin_bit // 8, -(-end_bit // 8)
    if layout.swapped:
        begin, end = begin - begin % 2, end + end % 2
    raw = fetch(begin, end - begin)
    if len(raw) != end - begin:
        raise InconsistentHeader("pixel data ended early", expected=end - begin, actual=len(raw))
    logical = exchange_bytes(raw) if layout.swapped else raw
    skip = begin_bit - 8 * begin
    if layout.bits_allocated == 1:
        words = layout.unpack(logical, count, skip)
        again = np.unpackbits(np.frombuffer(logical, np.uint8), bitorder="little")
        again[skip : skip + count] = words
        packed: bytes | memoryview = np.packbits(again, bitorder="little").tobytes()
    else:
        words = layout.unpack(logical[skip // 8 :], count)
        rows = count // (layout.columns * (1 if layout.planar else layout.planes))
        body = layout.pack(layout.flatten(layout.arrange(words, rows)))
        head, tail = logical[: skip // 8], logical[skip // 8 + len(body) :]
        packed = b"".join((head, body, tail)) if head or tail else body
    if not _equal(exchange_bytes(packed) if layout.swapped else packed, raw):
        raise VerifyAfterEncodeFailed("pixel words do not pack to the bytes that were read")
    return words


def _equal(a: bytes | memoryview, b: bytes) -> bool:
    packed, raw = np.frombuffer(a, np.uint8), np.frombuffer(b, np.uint8)
    # Words that lie in memory as in the file were never moved: they are the bytes that were read.
    same = packed.size == raw.size and packed.ctypes.data == raw.ctypes.data
    return same or np.array_equal(packed, raw)


def exchange_bytes(data: bytes | memoryview) -> bytes:
    """The two bytes of every 16-bit unit exchanged; ``data`` has an even length."""
    return np.frombuffer(data, "<u2").byteswap().tobytes()


def pack_frames(
    layout: PixelLayout,
    frames: int,
    words: Callable[[int, slice], NDArray[Any]],
    left_over: int,
) -> Iterator[bytes | memoryview]:
    """The bytes of the Pixel Data value that the frames reach into, piece by piece.

    ``words(frame, rows)`` gives stored words as `read_rows` does. ``left_over`` is the value of the bits
    that follow the last sample, first bit lowest.
    """
    runs = _word_runs(layout, frames, words)
    if layout.bits_allocated == 1:
        yield from _pack_bits(layout, frames, runs, left_over)
        return
    carry = b""
    for run in runs:
        piece = layout.pack(run)
        if layout.swapped:
            piece = carry + bytes(piece)
            even = len(piece) & ~1
            piece, carry = exchange_bytes(piece[:even]), piece[even:]
        yield piece
    if carry:
        yield exchange_bytes(carry + bytes([left_over]))


def _word_runs(
    layout: PixelLayout, frames: int, words: Callable[[int, slice], NDArray[Any]]
) -> Iterator[NDArray[Any]]:
    step = _rows_at_once(layout)
    for frame in range(frames):
        if not layout.planar or layout.planes == 1:
            for start in range(0, layout.rows, step):
                yield layout.flatten(_expect(layout, words(frame, _band(layout, start, step))))
        elif step >= layout.rows:
            whole = _expect(layout, words(frame, slice(0, layout.rows)))
            yield from (plane.reshape(-1) for plane in whole)
        else:
            for plane in range(layout.planes):
                for start in range(0, layout.rows, step):
                    yield _expect(layout, words(frame, _band(layout, start, step)))[plane].reshape(-1)


def _rows_at_once(layout: PixelLayout) -> int:
    step = max(1, PIECE_BYTES // (layout.columns * layout.planes * layout.itemsize))
    return step - step % ROW_STEP if step > ROW_STEP else step


def _band(layout: PixelLayout, start: int, step: int) -> slice:
    return slice(start, min(start + step, layout.rows))


def _expect(layout: PixelLayout, words: NDArray[Any]) -> NDArray[Any]:
    planes = (layout.planes,) if layout.planes > 1 else ()
    if words.dtype != layout.dtype or words.shape[:-2] != planes or words.shape[-1] != layout.columns:
        raise VerifyAfterEncodeFailed(
            "stored words are not those of the file", shape=list(words.shape), dtype=str(words.dtype)
        )
    return words


def _pack_bits(
    layout: PixelLayout, frames: int, runs: Iterator[NDArray[Any]], left_over: int
) -> Iterator[bytes]:
    unit = 16 if layout.swapped else 8
    carry = np.empty(0, np.uint8)
    for run in runs:
        bits = np.concatenate([carry, run])
        whole = len(bits) - len(bits) % unit
        yield _bits_to_bytes(layout, bits[:whole])
        carry = bits[whole:]
    if len(carry):
        spare = layout.left_over_bits(frames)
        tail = np.array([left_over >> i & 1 for i in range(spare)], np.uint8)
        yield _bits_to_bytes(layout, np.concatenate([carry, tail]))


def _bits_to_bytes(layout: PixelLayout, bits: NDArray[np.uint8]) -> bytes:
    data = np.packbits(bits, bitorder="little").tobytes()
    return exchange_bytes(data) if layout.swapped else data
