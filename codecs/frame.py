"""FrameCodec: DICOM frames as the bit streams they came in, decoded by imagecodecs when pixels are wanted.

The archive stores such a stream verbatim, so this codec only decodes. What comes out are stored words in the
image's own dtype, planes before rows: the sample values that the stream codes, as bit patterns, signed
where PixelRepresentation says so, whatever the stream itself claims about its sign.

Colour: JPEG (baseline, extended) and JPEG XL come out as RGB, their YCbCr transform undone; so does
JPEG 2000 with its multiple component transform (YBR_RCT, YBR_ICT). All others (lossless JPEG, JPEG-LS, RLE,
deflated) give the components as coded. A JPEG's own Adobe marker, component names "RGB" and JFIF marker
decide whether there is something to undo, in this order, and then PhotometricInterpretation. None of the
decoders behind imagecodecs is under the GPL: libjpeg-turbo, CharLS, OpenJPEG, libjxl, its own PackBits.

A stream's header must agree with the expected shape before a decoder sees it; JPEG XL alone is checked by
its dimensions only.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tilevault.codecs.base import TileCodec
from tilevault.codecs.errors import InvalidRequest, TileCorrupt, TilevaultError, UnsupportedSyntax
from tilevault.codecs.frame_header import (
    DEFLATED_DATA_SET,
    DEFLATED_FRAME,
    JPEG_2000,
    JPEG_DCT,
    JPEG_LS,
    JPEG_XL,
    RLE,
    StreamHeader,
    decodes,
    stream_header,
)
from tilevault.codecs.words import PixelLayout, read_rows

__all__ = ["FrameCodec"]

RLE_HEADER = struct.Struct("<16I")
RLE_SLACK = 64
"""Bytes that a padded RLE segment may decode to beyond its plane."""
PAYLOAD_HEAD = struct.Struct("<QQ")
END_OF_IMAGE = b"\xff\xd9"
INFLATE_INPUT = 64 << 10
INFLATE_STEP = 1 << 20
HALF_CHROMA = ("YBR_FULL_422", "YBR_PARTIAL_422")


@dataclass(frozen=True)
class FrameCodec(TileCodec):
    """One encapsulated frame per chunk, or one whole deflated data set."""

    transfer_syntax: str
    """UID of the encapsulated (or the deflated) transfer syntax."""
    photometric: str = ""
    """PhotometricInterpretation of the data set."""
    samples: int = 0
    """Planes of a frame; 0: all leading axes of the chunk."""
    bits_allocated: int = 0
    """BitsAllocated; 0: as many as the dtype has."""
    planar: int = 0
    """PlanarConfiguration (deflated data sets only)."""

    codec_name: ClassVar[str] = "tilevault.frame"

    def __post_init__(self) -> None:
        if any(type(text) is not str for text in (self.transfer_syntax, self.photometric)):
            raise InvalidRequest("transfer syntax and photometric interpretation are texts")
        if not decodes(self.transfer_syntax) and self.transfer_syntax != DEFLATED_DATA_SET:
            raise InvalidRequest(f"frames of transfer syntax {self.transfer_syntax:.80} are not decoded")
        bits = self.bits_allocated
        if type(bits) is not int or not (bits in (0, 1) or (0 < bits <= 64 and bits % 8 == 0)):
            raise InvalidRequest(f"BitsAllocated is {bits!r:.80}")
        if type(self.samples) is not int or not 0 <= self.samples <= 4 or self.planar not in (0, 1):
            raise InvalidRequest(f"samples {self.samples!r:.80}, planar {self.planar!r:.80}")

    @property
    def resolutions(self) -> int:
        """1: frames are decoded whole."""
        return 1

    def encode_tile(self, tile: NDArray[Any]) -> bytes:
        """Always `UnsupportedSyntax`: frames are stored as they came, never coded again."""
        raise UnsupportedSyntax(
            f"{self.codec_name} keeps the bit streams of transfer syntax {self.transfer_syntax}; "
            "it does not make new ones"
        )

    def segment_ends(self, data: bytes | memoryview) -> tuple[int, ...]:
        """The end of the stream: it has one segment."""
        return (len(data),)

    def decode_tile(
        self, data: bytes | memoryview, shape: tuple[int, ...], dtype: DTypeLike, reduce: int = 0
    ) -> NDArray[Any]:
        """The words of one frame, exactly of ``shape``; a deflated data set may hold several frames.

        Raises `TileCorrupt` where ``data`` does not decode to that, `InvalidRequest` for ``reduce`` other
        than 0, and `UnsupportedSyntax` where imagecodecs (extra ``dicom``) is not installed.
        """
        if reduce != 0:
            raise InvalidRequest("frames have one resolution", reduce=reduce)
        expected = _Expected.of(self, shape, np.dtype(dtype))
        try:
            words = _decoder(self.transfer_syntax)(self, bytes(data), expected)
        except TilevaultError as error:
            if isinstance(error, TileCorrupt | UnsupportedSyntax):
                raise
            raise TileCorrupt(f"frame does not decode: {error.message}") from error
        except MemoryError as error:
            raise TileCorrupt("frame does not decode: it asks for too much memory") from error
        return np.ascontiguousarray(words).reshape(shape)


@dataclass(frozen=True)
class _Expected:
    """What a stream has to decode to."""

    frames: int
    planes: int
    rows: int
    columns: int
    dtype: np.dtype[Any]
    bits_allocated: int

    @classmethod
    def of(cls, codec: FrameCodec, shape: tuple[int, ...], dtype: np.dtype[Any]) -> "_Expected":
        lead = prod(shape[:-2])
        planes = codec.samples or lead
        frames = lead // planes
        bits = codec.bits_allocated or 8 * dtype.itemsize
        layout_bytes = 1 if bits == 1 else bits // 8
        sound = len(shape) >= 2 and frames * planes == lead and layout_bytes <= dtype.itemsize
        sound = sound and not (codec.photometric in HALF_CHROMA and planes == 2 and shape[-1] % 2)
        if not sound or (frames != 1 and codec.transfer_syntax != DEFLATED_DATA_SET):
            raise InvalidRequest(f"a chunk of shape {shape} does not hold one frame of {planes} planes")
        return cls(frames, planes, shape[-2], shape[-1], dtype, bits)

    @property
    def plane_samples(self) -> int:
        return self.rows * self.columns

    def check(self, header: StreamHeader | None) -> StreamHeader:
        """The header, if it says what is expected; else `TileCorrupt`."""
        if header is None:
            raise TileCorrupt("frame has no header of its codec")
        same = (header.rows, header.columns) == (self.rows, self.columns)
        same = same and header.samples in (None, self.planes)
        if not same or (header.bits or 0) > 8 * self.dtype.itemsize:
            raise TileCorrupt(
                f"frame is coded as {header.rows} x {header.columns} x {header.samples}, {header.bits} bits; "
                f"expected {self.rows} x {self.columns} x {self.planes} of {self.dtype}"
            )
        return header

    def words(self, decoded: NDArray[Any]) -> NDArray[Any]:
        """A decoder's (y, x) or (y, x, c) as words (c, y, x): bits kept, sign as the image has it."""
        if decoded.ndim == 2:
            decoded = decoded[:, :, None]
        if decoded.shape != (self.rows, self.columns, self.planes) or decoded.dtype.kind not in "iu":
            raise TileCorrupt(f"frame decoded to {decoded.dtype} of shape {decoded.shape}")
        if decoded.dtype.itemsize > self.dtype.itemsize:
            raise TileCorrupt(f"frame decoded to {decoded.dtype}, too wide for {self.dtype}")
        planes = np.moveaxis(decoded, -1, 0)
        # astype between integers keeps (or extends) the bit pattern; it never saturates.
        return planes.astype(self.dtype, casting="unsafe", copy=False)


_Decode = Callable[[FrameCodec, bytes, _Expected], NDArray[Any]]


def _decoder(transfer_syntax: str) -> _Decode:
    if transfer_syntax == DEFLATED_DATA_SET:
        return _decode_data_set
    if transfer_syntax == DEFLATED_FRAME:
        return _decode_deflated_frame
    return _decode_rle if transfer_syntax == RLE else _decode_image


def _imagecodecs() -> ModuleType:
    try:
        import imagecodecs
    except ImportError as error:
        raise UnsupportedSyntax("decoding DICOM frames needs imagecodecs: tilevault[dicom]") from error
    module: ModuleType = imagecodecs
    return module


def _decode_image(codec: FrameCodec, data: bytes, expected: _Expected) -> NDArray[Any]:
    """JPEG of all kinds, JPEG 2000, HTJ2K, JPEG XL."""
    imagecodecs = _imagecodecs()
    header = expected.check(stream_header(codec.transfer_syntax, data))
    try:
        decoded = _call(imagecodecs, codec, data, header)
    except Exception as error:  # imagecodecs raises a class of its own per codec, and ValueError
        raise TileCorrupt(f"frame does not decode: {error}"[:500]) from error
    return expected.words(np.asarray(decoded))


def _call(imagecodecs: ModuleType, codec: FrameCodec, data: bytes, header: StreamHeader) -> Any:
    syntax = codec.transfer_syntax
    if syntax in JPEG_LS:
        # CharLS 2.4 spends seconds on a stream that ends within a scan, however small, unless a marker
        # stops it. After the stream's own end marker (and any padding) another one is not looked at.
        return imagecodecs.jpegls_decode(data + END_OF_IMAGE)
    if syntax in JPEG_2000:
        return imagecodecs.jpeg2k_decode(data)
    if syntax in JPEG_XL:
        return imagecodecs.jpegxl_decode(data, numthreads=1)
    if header.samples != 3:
        return imagecodecs.jpeg8_decode(data)
    # Lossless JPEG gives its components as they are; "RGB" on both sides is no transform.
    coded = "YCBCR" if syntax in JPEG_DCT and _is_ycbcr(header, codec.photometric) else "RGB"
    return imagecodecs.jpeg8_decode(data, colorspace=coded, outcolorspace="RGB")


def _is_ycbcr(header: StreamHeader, photometric: str) -> bool:
    if header.adobe is not None:
        return header.adobe == 1
    if header.components == b"RGB":
        return False
    return header.jfif or photometric.startswith("YBR")


def _decode_rle(codec: FrameCodec, data: bytes, expected: _Expected) -> NDArray[Any]:
    """PS3.5 annex G: one PackBits segment for each byte of each plane, most significant first."""
    size = -(-expected.bits_allocated // 8)
    count = expected.planes * size
    if len(data) < RLE_HEADER.size:
        raise TileCorrupt("RLE frame is shorter than its header")
    segments, *offsets = RLE_HEADER.unpack_from(data)
    starts = [*offsets[:count], len(data)]
    ascending = all(a <= b for a, b in pairwise(starts))
    if segments != count or count > 15 or starts[0] < RLE_HEADER.size or not ascending:
        raise TileCorrupt(f"RLE frame has {segments} segments at {offsets}, expected {count}"[:500])
    itemsize = expected.dtype.itemsize
    octets = np.zeros((expected.planes, expected.plane_samples, itemsize), np.uint8)
    for i in range(count):
        plane, byte = divmod(i, size)
        octets[plane, :, size - 1 - byte] = _unpack_bits(
            data[starts[i] : starts[i + 1]], expected.plane_samples
        )
    words = octets.reshape(-1).view(expected.dtype.newbyteorder("<")).astype(expected.dtype, copy=False)
    return words.reshape(expected.planes, expected.rows, expected.columns)


def _unpack_bits(segment: bytes, length: int) -> NDArray[np.uint8]:
    imagecodecs = _imagecodecs()
    out = np.empty(length + RLE_SLACK, np.uint8)
    try:
        decoded = np.asarray(imagecodecs.packbits_decode(segment, out=out))
    except Exception as error:  # ImcdError has no public base
        raise TileCorrupt(f"RLE segment does not decode: {error}"[:500]) from error
    if len(decoded) < length:
        raise TileCorrupt(f"RLE segment decodes to {len(decoded)} bytes, expected {length}")
    return decoded[:length]


def _layout(codec: FrameCodec, expected: _Expected) -> PixelLayout:
    """Native little endian pixels, as both deflated syntaxes hold them."""
    return PixelLayout(
        rows=expected.rows,
        columns=expected.columns,
        planes=expected.planes,
        bits_allocated=expected.bits_allocated,
        signed=expected.dtype.kind == "i",
        floating=expected.dtype.kind == "f",
        planar=codec.planar == 1,
        subsampled=expected.planes == 2 and codec.photometric in HALF_CHROMA,
    )


def _decode_deflated_frame(codec: FrameCodec, data: bytes, expected: _Expected) -> NDArray[Any]:
    layout = _layout(codec, expected)
    raw = _inflate(data, 0, layout.value_bytes(1))
    return _unpacked(layout, raw, expected)


def _decode_data_set(codec: FrameCodec, data: bytes, expected: _Expected) -> NDArray[Any]:
    """8 bytes offset and 8 bytes length of the pixel value in the data set, then the deflated data set."""
    layout = _layout(codec, expected)
    needed = layout.value_bytes(expected.frames)
    if len(data) < PAYLOAD_HEAD.size:
        raise TileCorrupt("deflated data set is shorter than its header")
    offset, length = PAYLOAD_HEAD.unpack_from(data)
    if length < needed:
        raise TileCorrupt(f"deflated data set has {length} bytes of pixels, expected {needed}")
    raw = _inflate(memoryview(data)[PAYLOAD_HEAD.size :], offset, needed)
    return _unpacked(layout, raw, expected)


def _unpacked(layout: PixelLayout, raw: bytes, expected: _Expected) -> NDArray[Any]:
    if layout.dtype != expected.dtype:
        raise TileCorrupt(f"frame holds {layout.dtype}, expected {expected.dtype}")
    frames = [
        read_rows(layout, lambda at, count: raw[at : at + count], frame, 0, layout.rows)
        for frame in range(expected.frames)
    ]
    return np.stack(frames)


def _inflate(data: bytes | memoryview, skip: int, length: int) -> bytes:
    """``length`` inflated bytes after the first ``skip``, without ever holding more than a step beyond."""
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    view, at, out = memoryview(data), 0, bytearray()
    source: bytes | memoryview = b""
    try:
        while len(out) < length and not inflate.eof:
            if not source:
                source = view[at : at + INFLATE_INPUT]
                at += len(source)
            block = inflate.decompress(source, INFLATE_STEP)
            if not block and not source:
                break
            source = inflate.unconsumed_tail
            drop = min(skip, len(block))
            skip -= drop
            out += block[drop : drop + length - len(out)]
    except zlib.error as error:
        raise TileCorrupt(f"frame cannot be inflated: {error}") from error
    if len(out) < length:
        raise TileCorrupt(f"frame inflates to {len(out)} bytes, expected {length}")
    return bytes(out)
