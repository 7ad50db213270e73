"""DICOM files built field by field, so that any field can be wrong on purpose.

Independent of the readers that it tests: nothing here is imported from the package or from pydicom.
"""

import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "DEFLATED",
    "EXPLICIT",
    "EXPLICIT_BIG",
    "IMPLICIT",
    "PIXEL_DATA",
    "UNDEFINED",
    "Builder",
    "encapsulate",
    "image",
    "item",
    "native_bytes",
    "part10",
]

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
LONG = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}
BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
UNDEFINED = 0xFFFFFFFF
PIXEL_DATA = 0x7FE00010

BASE: dict[str, tuple[int, str, Any]] = {
    "SOPClassUID": (0x00080016, "UI", "1.2.840.10008.5.1.4.1.1.7"),
    "SOPInstanceUID": (0x00080018, "UI", "1.2.3.4"),
    "StudyDate": (0x00080020, "DA", "20240102"),
    "Modality": (0x00080060, "CS", "OT"),
    "PatientName": (0x00100010, "PN", "Doe^Jane"),
    "PatientID": (0x00100020, "LO", "ID1"),
    "StudyInstanceUID": (0x0020000D, "UI", "1.2.3"),
    "SeriesInstanceUID": (0x0020000E, "UI", "1.2.3.1"),
    "InstanceNumber": (0x00200013, "IS", "1"),
}
KEYWORDS: dict[str, tuple[int, str]] = {
    **{name: (tag, vr) for name, (tag, vr, _) in BASE.items()},
    "SpecificCharacterSet": (0x00080005, "CS"),
    "SliceThickness": (0x00180050, "DS"),
    "ImagePositionPatient": (0x00200032, "DS"),
    "ImageOrientationPatient": (0x00200037, "DS"),
    "TemporalPositionIdentifier": (0x00200100, "IS"),
    "SamplesPerPixel": (0x00280002, "US"),
    "PhotometricInterpretation": (0x00280004, "CS"),
    "PlanarConfiguration": (0x00280006, "US"),
    "NumberOfFrames": (0x00280008, "IS"),
    "Rows": (0x00280010, "US"),
    "Columns": (0x00280011, "US"),
    "PixelSpacing": (0x00280030, "DS"),
    "BitsAllocated": (0x00280100, "US"),
    "BitsStored": (0x00280101, "US"),
    "HighBit": (0x00280102, "US"),
    "PixelRepresentation": (0x00280103, "US"),
    "WindowCenter": (0x00281050, "DS"),
    "WindowWidth": (0x00281051, "DS"),
    "RescaleIntercept": (0x00281052, "DS"),
    "RescaleSlope": (0x00281053, "DS"),
    "LossyImageCompression": (0x00282110, "CS"),
}


class Builder:
    """Writes elements in one encoding."""

    def __init__(self, explicit: bool = True, big: bool = False) -> None:
        self.explicit = explicit
        self.order = ">" if big else "<"

    def element(self, tag: int, vr: str, value: Any = b"", length: int | None = None) -> bytes:
        """One element; ``length`` is written instead of the true one where given."""
        data = self.value(vr, value)
        size = len(data) if length is None else length
        head = struct.pack(self.order + "HH", tag >> 16, tag & 0xFFFF)
        if not self.explicit:
            return head + struct.pack(self.order + "I", size) + data
        if vr in LONG:
            return head + vr.encode() + b"\0\0" + struct.pack(self.order + "I", size) + data
        return head + vr.encode() + struct.pack(self.order + "H", size & 0xFFFF) + data

    def value(self, vr: str, value: Any) -> bytes:
        """Encoded and padded to an even length; bytes go in as they are."""
        if isinstance(value, bytes):
            return value
        if vr in BINARY:
            numbers = value if isinstance(value, Sequence) else [value]
            return struct.pack(f"{self.order}{len(numbers)}{BINARY[vr]}", *numbers)
        text = value if isinstance(value, str) else "\\".join(str(v) for v in value)
        data = text.encode("latin-1")
        return data + (b"\0" if vr == "UI" else b" ") * (len(data) % 2)

    def item(self, content: bytes, length: int | None = None) -> bytes:
        """An item of defined length, or of the ``length`` that is given."""
        size = len(content) if length is None else length
        return struct.pack(self.order + "HHI", 0xFFFE, 0xE000, size) + content

    def open_item(self, content: bytes) -> bytes:
        """An item of undefined length with its delimiter."""
        return self.item(content, UNDEFINED) + struct.pack(self.order + "HHI", 0xFFFE, 0xE00D, 0)

    def sequence(self, tag: int, items: Iterable[bytes], vr: str = "SQ") -> bytes:
        """A sequence of undefined length with its delimiter."""
        end = struct.pack(self.order + "HHI", 0xFFFE, 0xE0DD, 0)
        return self.element(tag, vr, b"".join(items) + end, UNDEFINED)

    def named(self, **values: Any) -> bytes:
        """Elements by keyword, ascending; None leaves one out, (vr, value) writes it in another VR."""
        parts = []
        for name, value in sorted(values.items(), key=lambda entry: KEYWORDS[entry[0]][0]):
            tag, vr = KEYWORDS[name]
            if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
                vr, value = value
            if value is not None:
                parts.append(self.element(tag, vr, value))
        return b"".join(parts)


def item(content: bytes) -> bytes:
    """A little endian item, as fragments are."""
    return Builder().item(content)


def part10(data_set: bytes, syntax: str | None = EXPLICIT, preamble: bytes | None = bytes(128)) -> bytes:
    """A file: preamble, ``DICM``, meta information, data set (deflated where the syntax says so)."""
    meta = Builder()
    group = meta.element(0x00020001, "OB", b"\0\1") + meta.element(
        0x00020002, "UI", "1.2.840.10008.5.1.4.1.1.7"
    )
    if syntax is not None:
        group += meta.element(0x00020010, "UI", syntax)
    if syntax == DEFLATED:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        data_set = packer.compress(data_set) + packer.flush()
    head = b"" if preamble is None else preamble + b"DICM"
    return head + meta.element(0x00020000, "UL", len(group)) + group + data_set


def builder_of(syntax: str) -> Builder:
    """The encoding of a transfer syntax."""
    return Builder(explicit=syntax != IMPLICIT, big=syntax == EXPLICIT_BIG)


def image(
    pixels: bytes,
    syntax: str = EXPLICIT,
    *,
    vr: str = "OW",
    tag: int = PIXEL_DATA,
    length: int | None = None,
    before: bytes = b"",
    after: bytes = b"",
    preamble: bytes | None = bytes(128),
    **values: Any,
) -> bytes:
    """A whole image file; keywords override or (None) remove attributes.

    ``before`` and ``after``: encoded elements around the pixel data. ``length`` of the pixel data, if a lie.
    """
    build = builder_of(syntax)
    defaults: dict[str, Any] = {
        **{name: value for name, (_, _, value) in BASE.items()},
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": 4,
        "Columns": 6,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
    }
    data_set = build.named(**{**defaults, **values}) + before
    data_set += build.element(tag, vr, pixels, length) + after
    return part10(data_set, syntax, preamble)


def encapsulate(frames: Sequence[Sequence[bytes]], table: bool = True, delimiter: bool = True) -> bytes:
    """The value of encapsulated pixel data: offset table, a list of fragments for each frame, delimiter."""
    offsets, body = [], b""
    for fragments in frames:
        offsets.append(len(body))
        body += b"".join(item(fragment) for fragment in fragments)
    basic = struct.pack(f"<{len(offsets)}I", *offsets) if table else b""
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0) if delimiter else b""
    return item(basic) + body + end


def native_bytes(words: NDArray[Any], format: Mapping[str, Any], big: bool, swapped: bool) -> bytes:
    """Pixel data of ``words``, shape (frame, c, y, x): the slow, obvious way, sample by sample.

    ``format``: bits_allocated, planar. Padded to an even length with the byte 0xA5.
    """
    frames, planes, rows, columns = words.shape
    if format["planar"]:
        order = (
            (f, c, y, x)
            for f in range(frames)
            for c in range(planes)
            for y in range(rows)
            for x in range(columns)
        )
    else:
        order = (
            (f, c, y, x)
            for f in range(frames)
            for y in range(rows)
            for x in range(columns)
            for c in range(planes)
        )
    bits = format["bits_allocated"]
    if bits == 1:
        stream = "".join(str(int(words[at])) for at in order)
        stream += "1" * (-len(stream) % 8)
        data = bytes(int(stream[i : i + 8][::-1], 2) for i in range(0, len(stream), 8))
    else:
        size = bits // 8
        data = b"".join(
            (int(words[at]) & ((1 << bits) - 1)).to_bytes(size, "big" if big else "little") for at in order
        )
    data += b"\xa5" * (len(data) % 2)
    if swapped:
        data = np.frombuffer(data, np.uint16).byteswap().tobytes()
    return data
