"""What a coded frame says about itself: the few header fields of each DICOM codec, read before decoding.

Nothing is decoded here and nothing is allocated: a stream that declares other dimensions than its data set
is refused before any decoder sees it. Sources: ITU-T T.81 B.2.2 (JPEG), T.87 C.2.2 (JPEG-LS), T.800 A.5.1
(JPEG 2000 and HTJ2K), ISO/IEC 18181-1 (JPEG XL size header), PS3.5 annex G (RLE).
"""

import struct
from typing import NamedTuple

__all__ = [
    "DEFLATED_DATA_SET",
    "DEFLATED_FRAME",
    "JPEG_2000",
    "JPEG_DCT",
    "JPEG_LOSSLESS",
    "JPEG_LS",
    "JPEG_XL",
    "LOSSY",
    "RLE",
    "StreamHeader",
    "decodes",
    "has_header",
    "stream_header",
]


def _syntaxes(*numbers: int) -> frozenset[str]:
    return frozenset(f"1.2.840.10008.1.2.4.{n}" for n in numbers)


RLE = "1.2.840.10008.1.2.5"
DEFLATED_DATA_SET = "1.2.840.10008.1.2.1.99"
DEFLATED_FRAME = "1.2.840.10008.1.2.8.1"
JPEG_DCT = _syntaxes(50, 51)
JPEG_LOSSLESS = _syntaxes(57, 70)
JPEG_LS = _syntaxes(80, 81)
JPEG_2000 = _syntaxes(90, 91, 201, 202, 203)
JPEG_XL = _syntaxes(110, 111, 112)
LOSSY = _syntaxes(50, 51, 81, 91, 111, 112, 203)
"""Syntaxes whose decoders may differ in the last bit; for the others pixels are exact."""
JPEG = JPEG_DCT | JPEG_LOSSLESS | JPEG_LS


def has_header(transfer_syntax: str) -> bool:
    """Whether a sound frame of this syntax always has a header that `stream_header` finds."""
    return transfer_syntax in JPEG | JPEG_2000


def decodes(transfer_syntax: str) -> bool:
    """Whether frames of this encapsulated transfer syntax are decoded."""
    return transfer_syntax in JPEG | JPEG_2000 | JPEG_XL or transfer_syntax in (RLE, DEFLATED_FRAME)


SOF_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
ALONE = frozenset((0x01, *range(0xD0, 0xD9)))
"""Markers without a length."""


class StreamHeader(NamedTuple):
    """Fields of a codec stream; None where the codec does not say."""

    rows: int
    columns: int
    samples: int | None = None
    bits: int | None = None
    signed: bool | None = None
    adobe: int | None = None
    """Transform flag of JPEG's Adobe marker (0 none, 1 YCbCr)."""
    jfif: bool = False
    components: bytes = b""
    """JPEG's component identifiers."""


def stream_header(transfer_syntax: str, data: bytes | memoryview) -> StreamHeader | None:
    """The header of a frame from (the beginning of) its stream; None where it cannot be found."""
    head = bytes(data[: 64 << 10])
    if transfer_syntax in JPEG_2000:
        return _jpeg_2000(head)
    if transfer_syntax in JPEG:
        return _jpeg(head)
    if transfer_syntax in JPEG_XL:
        return _jpeg_xl(head)
    return None


def _jpeg_2000(head: bytes) -> StreamHeader | None:
    at = head.find(b"\xff\x4f\xff\x51")
    if at < 0 or len(head) < at + 43 or not (at == 0 or head[4:8] == b"jP  "):
        return None
    x1, y1, x0, y0 = struct.unpack(">4I", head[at + 8 : at + 24])
    samples = struct.unpack(">H", head[at + 40 : at + 42])[0]
    depth = head[at + 42]
    return StreamHeader(y1 - y0, x1 - x0, samples, (depth & 0x7F) + 1, bool(depth >> 7))


def _jpeg(head: bytes) -> StreamHeader | None:
    at, adobe, jfif = 2, None, False
    while head[:2] == b"\xff\xd8" and at + 4 <= len(head) and head[at] == 0xFF:
        marker, length = struct.unpack(">xBH", head[at : at + 4])
        if marker == 0xFF or marker in ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        body = head[at + 4 : at + 2 + length]
        if marker in SOF_MARKERS:
            return _sof(body, adobe, jfif)
        if marker == 0xEE and body[:5] == b"Adobe" and len(body) >= 12:
            adobe = body[11]
        jfif = jfif or (marker == 0xE0 and body[:5] == b"JFIF\0")
        at += 2 + max(length, 2)
    return None


def _sof(body: bytes, adobe: int | None, jfif: bool) -> StreamHeader | None:
    if len(body) < 6:
        return None
    bits, rows, columns, samples = struct.unpack(">BHHB", body[:6])
    return StreamHeader(rows, columns, samples, bits, None, adobe, jfif, body[6 : 6 + 3 * samples : 3])


class _Bits:
    """Bits of a JPEG XL codestream, lowest first."""

    def __init__(self, data: bytes) -> None:
        self.value = int.from_bytes(data, "little")

    def take(self, count: int) -> int:
        got = self.value & ((1 << count) - 1)
        self.value >>= count
        return got


RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}


def _jpeg_xl(head: bytes) -> StreamHeader | None:
    if head[:12] == b"\0\0\0\x0cJXL \r\n\x87\n":
        at = head.find(b"jxlc")
        at = at + 4 if at >= 0 else head.find(b"jxlp") + 8
    else:
        at = 0
    if head[at : at + 2] != b"\xff\x0a":
        return None
    bits = _Bits(head[at + 2 : at + 18])
    small = bits.take(1)

    def extent() -> int:
        return 8 * (bits.take(5) + 1) if small else bits.take((9, 13, 18, 30)[bits.take(2)]) + 1

    rows = extent()
    ratio = bits.take(3)
    columns = rows * RATIOS[ratio][0] // RATIOS[ratio][1] if ratio else extent()
    return StreamHeader(rows, columns)
