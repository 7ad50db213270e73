"""LosslessCodec: tiles of any pixel type to bytes and back, exactly, at any resolution from a prefix.

Integers of 8, 16 and 32 bit and float32 go through the native core: the reversible 5/3 wavelet, or, where
size is preferred to resolutions, fitted prediction. All other types go through Zstandard inside the same
frame. The frame is specified to the bit in ``docs/format.md``, section 2.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import zstandard
from numpy.typing import DTypeLike, NDArray

from tilevault.codecs import _native
from tilevault.codecs.base import TileCodec
from tilevault.codecs.errors import InvalidRequest, TileCorrupt

__all__ = ["FRAME_HEAD", "PREFERENCES", "LosslessCodec", "frame_extents", "put_varint", "take_varint"]

MAX_DECOMPOSITIONS = 15
"""Four bits of the frame; 5 serves tiles of 512 x 512."""
MAX_SAMPLES = (1 << 31) - 1
"""Of one tile: counts fit 32 bits."""
MAX_BYTES = 8 << 30
"""Of one tile's chunk: more is no tile but a mistake."""
ZSTD_LEVEL = 3
FRAME_HEAD = 16
"""Bytes by which a frame is longer than its samples, at most."""

PREFERENCES = ("resolution", "size")
"""What an encoder may aim at."""
ENTROPY_CODERS = ("ans", "huffman")

_TYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "f4", "b1", "u8", "i8", "f2", "f8", "c8", "c16")
_CODES = {np.dtype(name).newbyteorder("<").str: code for code, name in enumerate(_TYPES)}
NATIVE_TYPES = 7
"""The first so many types are the native core's."""
RAW, CONSTANT, ZSTD = 0, 1, 2


@dataclass(frozen=True)
class LosslessCodec(TileCodec):
    """The exact codec. Zarr name ``tilevault.lossless``."""

    decompositions: int = 5
    """Wavelet decompositions: ``reduce`` may be 0 to this."""
    pack: bool = True
    """Histogram packing permitted: smaller for values with gaps, but ``reduce`` then picks even positions
    of the full tile instead of a low band. False where reduced tiles must be low bands of the values."""

    prefer: str = "resolution"
    """``resolution``: wavelet, a tile's first bytes give it at lower resolutions (with ``pack``, 8-bit tiles
    of few colours may be predicted all the same). ``size``: prediction; it is smaller, and any resolution
    needs the whole tile. Decoders take both."""

    entropy: str = "ans"
    """How a wavelet tile's tokens become bits: ``ans`` (rANS) or ``huffman`` (Huffman codes over groups of
    tokens: for comparison, and for small tiles, whose tables it writes shorter). Decoders take both."""

    codec_name: ClassVar[str] = "tilevault.lossless"

    def __post_init__(self) -> None:
        if type(self.decompositions) is not int or not 0 <= self.decompositions <= MAX_DECOMPOSITIONS:
            raise InvalidRequest(
                f"decompositions are 0 to {MAX_DECOMPOSITIONS}, not {self.decompositions!r:.50}"
            )
        if type(self.pack) is not bool:
            raise InvalidRequest(f"pack is true or false, not {self.pack!r:.50}")
        if self.prefer not in PREFERENCES:
            raise InvalidRequest(f"prefer is one of {', '.join(PREFERENCES)}, not {self.prefer!r:.50}")
        if self.entropy not in ENTROPY_CODERS:
            raise InvalidRequest(f"entropy is one of {', '.join(ENTROPY_CODERS)}, not {self.entropy!r:.50}")

    @property
    def resolutions(self) -> int:
        """Segments of a tile: decompositions + 1."""
        return self.decompositions + 1

    def encode_tile(self, tile: NDArray[Any]) -> bytes:
        """The frame of ``tile``: at most 16 bytes longer than its samples."""
        code = _type_code(tile.dtype)
        _check_shape(tile.shape, tile.dtype.itemsize)
        samples = np.ascontiguousarray(tile, dtype=tile.dtype.newbyteorder("<"))
        raw = samples.reshape(-1).view(np.uint8)
        if code < NATIVE_TYPES:
            size, huffman = self.prefer == "size", self.entropy == "huffman"
            return bytes(_native.encode(raw, code, tile.shape, self.decompositions, self.pack, size, huffman))
        return _encode_other(raw, code, tile.shape, samples.itemsize)

    def decode_tile(
        self, data: bytes | memoryview, shape: tuple[int, ...], dtype: DTypeLike, reduce: int = 0
    ) -> NDArray[Any]:
        """See `TileCodec.decode_tile`.

        Integer tiles: LL of ``reduce`` 5/3 decompositions, clamped to the type. Packed tiles and types
        beyond 32 bits: the samples at even positions ``[::2**reduce]``.
        """
        wanted = np.dtype(dtype)
        code = _type_code(wanted)
        shape = tuple(int(n) for n in shape)
        _check_shape(shape, wanted.itemsize)
        if not 0 <= reduce <= self.decompositions:
            raise InvalidRequest(f"reduce is 0 to {self.decompositions}, not {reduce}")
        step = 1 << reduce
        size = (*shape[:-2], -(-shape[-2] // step), -(-shape[-1] // step))
        source = np.frombuffer(data, np.uint8)
        if code < NATIVE_TYPES:
            # Not zeros: filling them with the interpreter's lock held is what a second thread waits for.
            out = np.empty(size, wanted.newbyteorder("<"))
            try:
                _native.decode(
                    source, code, shape, int(reduce), self.decompositions, out.reshape(-1).view(np.uint8)
                )
            except _native.Corrupt as error:
                raise TileCorrupt(f"lossless tile: {error}") from None
        else:
            out = np.zeros(size, wanted.newbyteorder("<"))
            valid = _decode_other(source, code, shape, out.dtype)[..., ::step, ::step]
            out[tuple(slice(n) for n in valid.shape)] = valid
        return out if out.dtype == wanted else out.astype(wanted)

    def segment_ends(self, data: bytes | memoryview) -> tuple[int, ...]:
        """See `TileCodec.segment_ends`. Frames that any resolution needs whole have all ends equal."""
        source = np.frombuffer(data, np.uint8)
        if source.size < 2:
            raise TileCorrupt("lossless tile: the frame ends in its header")
        code = int(source[1]) >> 3
        ends: tuple[int, ...] = ()
        if code < NATIVE_TYPES:
            try:
                ends = tuple(_native.segment_ends(source, code, self.decompositions))
            except _native.Corrupt as error:
                raise TileCorrupt(f"lossless tile: {error}") from None
        elif code >= len(_TYPES):
            raise TileCorrupt("lossless tile: the frame names an unknown type")
        ends = ends or (source.size,)
        return (ends[0],) * (self.resolutions - len(ends)) + ends


def _type_code(dtype: np.dtype[Any]) -> int:
    code = _CODES.get(dtype.newbyteorder("<").str)
    if code is None:
        raise InvalidRequest(f"tilevault.lossless does not code {dtype}")
    return code


def _check_shape(shape: tuple[int, ...], itemsize: int) -> None:
    if not 2 <= len(shape) <= 5:
        raise InvalidRequest(f"a tile has two to five axes, not {len(shape)}")
    samples = math.prod(shape)
    if min(shape) < 1 or samples > MAX_SAMPLES or samples * itemsize >= MAX_BYTES:
        raise InvalidRequest(f"a tile of {samples} samples, shape {shape}, is none or too large")


# --- Types that the native core does not transform ---------------------------------------------------


def _encode_other(raw: NDArray[np.uint8], code: int, shape: tuple[int, ...], itemsize: int) -> bytes:
    header = bytes([len(shape) | code << 3]) + b"".join(put_varint(n) for n in shape)
    if raw.size == itemsize or np.array_equal(raw[itemsize:], raw[:-itemsize]):
        return bytes([CONSTANT]) + header + raw[:itemsize].tobytes()
    packed = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=False).compress(raw.tobytes())
    if len(packed) < raw.size:
        return bytes([ZSTD]) + header + packed
    return bytes([RAW]) + header + raw.tobytes()


def _decode_other(
    source: NDArray[np.uint8], code: int, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """The samples at the frame's own extents."""
    data = source.tobytes()
    if len(data) < 2 or data[1] != len(shape) | code << 3:
        raise TileCorrupt("lossless tile: the frame's rank or type is not the chunk's")
    at = 2
    extents = []
    for limit in shape:
        extent, at = take_varint(data, at)
        if not 1 <= extent <= limit:
            raise TileCorrupt(f"lossless tile: extent {extent} of a chunk of {limit}")
        extents.append(extent)
    size = math.prod(extents) * dtype.itemsize
    if data[0] == RAW:
        raw = data[at:]
    elif data[0] == CONSTANT and len(data) == at + dtype.itemsize:
        return np.broadcast_to(np.frombuffer(data[at:], dtype), extents)
    elif data[0] == ZSTD:
        raw = _inflate(data[at:], size)
    else:
        raise TileCorrupt("lossless tile: the frame names a transform that is not known for this type")
    if len(raw) != size:
        raise TileCorrupt(f"lossless tile: {len(raw)} bytes of samples instead of {size}")
    return np.frombuffer(raw, dtype).reshape(extents)


def _inflate(data: bytes, size: int) -> bytes:
    """One Zstandard frame of exactly ``size`` bytes; the output is bounded before anything is decoded."""
    try:
        if zstandard.frame_content_size(data) != size:
            raise TileCorrupt("lossless tile: the Zstandard frame has another length than its samples")
        return zstandard.ZstdDecompressor(max_window_size=1 << 27).decompress(
            data, max_output_size=size, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise TileCorrupt(f"lossless tile: {error}") from None


def frame_extents(data: bytes | memoryview, rank: int) -> tuple[int, ...]:
    """The valid extents that the frame of a tile of ``rank`` axes names. Raises `TileCorrupt`."""
    head = bytes(data[: 2 + 5 * rank])
    if len(head) < 2 or head[1] & 7 != rank:
        raise TileCorrupt("lossless tile: the frame's rank is not the chunk's")
    at, extents = 2, []
    for _ in range(rank):
        extent, at = take_varint(head, at)
        extents.append(extent)
    return tuple(extents)


def put_varint(value: int) -> bytes:
    """A number of at least 0 in base 128, least significant group first."""
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def take_varint(data: bytes, at: int, bits: int = 32) -> tuple[int, int]:
    """The number of at most ``bits`` bits that begins at ``at``, and its end. Raises `TileCorrupt`."""
    value = 0
    for shift in range(0, bits + 3, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if (byte == 0 and shift) or value >= 1 << bits:
                break
            return value, at
    raise TileCorrupt("lossless tile: a number in the header is out of range")
