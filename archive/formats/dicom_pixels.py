"""The pixel part of a DICOM header: legal or not, how many bytes, which fragments make which frame.

All arithmetic is done on Python integers before anything is allocated. What is sound but cannot be shown as
words (an unknown syntax, packed 12-bit samples, video) is no image: the file is kept whole, with a reason.
"""

import struct
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from tilevault.archive.formats.dicom_header import Header
from tilevault.archive.formats.dicom_scan import (
    DEFLATED,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    PIXEL_TAGS,
    PREFIX_BYTES,
    Fragment,
    PixelValue,
    Scanned,
)
from tilevault.archive.formats.dicom_tags import IMAGE
from tilevault.codecs.errors import InconsistentHeader, LimitExceeded, TruncatedSource
from tilevault.codecs.frame_header import DEFLATED_FRAME, JPEG_2000, StreamHeader, decodes, has_header
from tilevault.codecs.words import PixelLayout

__all__ = ["Opaque", "check_stream", "declared_bytes", "layout_of", "pixel_record"]

FRAME_LIMIT = 1 << 20
PIXEL_LIMIT = 1 << 36
NATIVE = frozenset((IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED))
HALF_CHROMA = frozenset(("YBR_FULL_422", "YBR_PARTIAL_422"))
EXTENDED_OFFSETS = 0x7FE00001


class Opaque(Exception):
    """The pixel data is not shown as an image; the text says why."""


def layout_of(record: Mapping[str, Any]) -> PixelLayout:
    """The layout of a file's words, from its record."""
    return PixelLayout(**record["pixels"]["layout"])


def declared_bytes(header: Header) -> int:
    """Bytes of native pixel data that a header declares, at most; 0 where it does not say."""
    try:
        names = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "NumberOfFrames")
        rows, columns, samples, bits, frames = (header.integer(name, 1) for name in names)
    except InconsistentHeader:
        return 0
    return max(0, rows * columns * samples * bits * max(1, frames) // 8 + 2)


def pixel_record(header: Header, found: Scanned) -> dict[str, Any]:
    """The ``pixels`` entry of a record. Raises `Opaque`, or the `InputRejected` that fits."""
    value = found.pixel
    if value is None:
        raise Opaque("no pixel data")
    if found.syntax not in NATIVE and not decodes(found.syntax):
        raise Opaque(f"transfer syntax {found.syntax} is not decoded")
    if (value.length is None) == (found.syntax in NATIVE):
        raise InconsistentHeader(
            "pixel data is encapsulated in a native transfer syntax, or native in an encapsulated one"
        )
    facts = _facts(header, value)
    if value.length is None:
        return facts | _encapsulated(header, found, value, facts)
    return facts | _native(header, found, value, value.length, facts)


def _facts(header: Header, value: PixelValue) -> dict[str, Any]:
    """Dimensions and sample format, checked for legality (PS3.3 C.7.6.3, PS3.5 section 8)."""
    kind = PIXEL_TAGS[value.tag]
    rows, columns = header.integer("Rows"), header.integer("Columns")
    frames = header.integer("NumberOfFrames", 1) if header.has(IMAGE["NumberOfFrames"]) else 1
    if frames == 0:
        header.warnings.append("NumberOfFrames is 0; taken as 1")
        frames = 1
    samples = header.integer("SamplesPerPixel", 1)
    allocated = header.integer(
        "BitsAllocated", None if kind == "integer" else {"float": 32, "double": 64}[kind]
    )
    _check_extents(rows, columns, frames, samples)
    facts: dict[str, Any] = {
        "rows": rows,
        "columns": columns,
        "frames": frames,
        "samples": samples,
        "allocated": allocated,
        "photometric": header.text(IMAGE["PhotometricInterpretation"]),
        "planar": header.integer("PlanarConfiguration", 0) if samples > 1 else 0,
        "floating": kind != "integer",
        "signed": 0,
        "stored": allocated,
        "high_bit": allocated - 1,
    }
    if not facts["photometric"]:
        header.warnings.append("no PhotometricInterpretation")
    if facts["planar"] not in (0, 1):
        raise InconsistentHeader("PlanarConfiguration is neither 0 nor 1", found=facts["planar"])
    if kind == "integer":
        facts |= _sample_format(header, allocated)
    elif allocated != {"float": 32, "double": 64}[kind]:
        raise InconsistentHeader(f"{kind} pixel data with BitsAllocated {allocated}")
    return facts


def _check_extents(rows: int, columns: int, frames: int, samples: int) -> None:
    if not (0 < rows <= 65535 and 0 < columns <= 65535):
        raise InconsistentHeader(f"Rows x Columns is {rows} x {columns}", rows=rows, columns=columns)
    if frames < 0:
        raise InconsistentHeader("NumberOfFrames is negative", found=frames)
    if frames > FRAME_LIMIT:
        raise LimitExceeded("NumberOfFrames", limit=FRAME_LIMIT, actual=frames)
    if rows * columns * frames > PIXEL_LIMIT:
        raise LimitExceeded("pixels of the image", limit=PIXEL_LIMIT, actual=rows * columns * frames)
    if not 1 <= samples <= 4:
        raise InconsistentHeader("SamplesPerPixel is not 1 to 4", found=samples)


def _sample_format(header: Header, allocated: int) -> dict[str, int]:
    stored = header.integer("BitsStored", allocated)
    high_bit = header.integer("HighBit", stored - 1)
    signed = header.integer("PixelRepresentation", 0)
    if not (0 < stored <= allocated <= 64 and stored - 1 <= high_bit < allocated) or signed not in (0, 1):
        raise InconsistentHeader(
            f"BitsAllocated {allocated}, BitsStored {stored}, HighBit {high_bit}, "
            f"PixelRepresentation {signed}"
        )
    if high_bit != stored - 1:
        header.warnings.append(f"HighBit {high_bit} is not BitsStored - 1")
    if allocated != 1 and allocated % 8:
        raise Opaque(f"BitsAllocated {allocated} is not 1 or a multiple of 8")
    return {"stored": stored, "high_bit": high_bit, "signed": signed if allocated > 1 else 0}


def _native(
    header: Header, found: Scanned, value: PixelValue, length: int, facts: Mapping[str, Any]
) -> dict[str, Any]:
    deflated = found.syntax == DEFLATED
    frames = facts["frames"]
    half = facts["photometric"] in HALF_CHROMA and facts["samples"] == 3
    layout = _layout(found, value, facts, subsampled=half)
    if half and length >= _layout(found, value, facts, subsampled=False).value_bytes(frames):
        header.warnings.append(f"{facts['photometric']}, but pixel data is as long as without subsampling")
        layout = _layout(found, value, facts, subsampled=False)
    elif half and (facts["columns"] % 2 or facts["planar"]):
        raise Opaque("subsampled pixels with an odd number of columns or by planes")
    needed = layout.value_bytes(frames)
    if length < needed:
        raise TruncatedSource(
            f"pixel data has {length} bytes, its header declares {needed}", expected=needed, actual=length
        )
    if length > needed + needed % 2:
        header.warnings.append(f"{length - needed} bytes of pixel data beyond the last frame")
    if length % 2:
        header.warnings.append("pixel data has an odd length")
    place = (
        {"offset": found.data_set_offset, "value_offset": value.offset, "value_length": length}
        if deflated
        else {"offset": value.offset, "length": needed, "left_over": 0}
    )
    return {"coding": "deflated" if deflated else "native", "layout": _json(layout), **place}


def _layout(found: Scanned, value: PixelValue, facts: Mapping[str, Any], subsampled: bool) -> PixelLayout:
    return PixelLayout(
        rows=facts["rows"],
        columns=facts["columns"],
        planes=2 if subsampled else facts["samples"],
        bits_allocated=facts["allocated"],
        signed=bool(facts["signed"]),
        floating=facts["floating"],
        planar=facts["planar"] == 1,
        big_endian=found.big_endian and facts["allocated"] > 8,
        # Samples of one byte in words of two: PS3.5 section 8.1.1 and annex A.3.
        swapped=found.big_endian and value.vr == "OW" and facts["allocated"] <= 8,
        subsampled=subsampled,
    )


def _json(layout: PixelLayout) -> dict[str, Any]:
    """Only what differs from the defaults: the record of every file is kept."""
    return {k: v for k, v in vars(layout).items() if k in ("rows", "columns") or v != _DEFAULTS[k]}


_DEFAULTS = vars(PixelLayout(1, 1))


def _encapsulated(
    header: Header, found: Scanned, value: PixelValue, facts: Mapping[str, Any]
) -> dict[str, Any]:
    if facts["floating"]:
        raise InconsistentHeader("float pixel data is encapsulated")
    groups = _group(header, value, facts["frames"])
    if facts["allocated"] == 1 and found.syntax not in JPEG_2000 and found.syntax != DEFLATED_FRAME:
        raise Opaque(f"1-bit samples in transfer syntax {found.syntax}")
    if found.syntax == DEFLATED_FRAME and (facts["planar"] or facts["photometric"].endswith("_422")):
        raise Opaque("deflated frames by planes or with halved chroma")
    for group in groups:
        # A header may lie further in, or in several fragments: then reading the whole frame finds it.
        complete = len(group) == 1 and group[0].length <= PREFIX_BYTES
        if complete or group[0].header is not None:
            check_stream(found.syntax, group[0].header, facts)
    layout = PixelLayout(
        rows=facts["rows"],
        columns=facts["columns"],
        planes=facts["samples"],
        bits_allocated=facts["allocated"],
        signed=bool(facts["signed"]),
    )
    lengths = [[f.length for f in group] for group in groups]
    return {
        "coding": "frames",
        "layout": _json(layout),
        "offset": value.first_fragment,
        "end": value.first_fragment + sum(8 + n for group in lengths for n in group),
        "fragments": [group[0] if len(group) == 1 else group for group in lengths],
    }


def check_stream(syntax: str, stream: StreamHeader | None, facts: Mapping[str, Any]) -> None:
    """`InconsistentHeader` where a frame's own header is absent, or at odds with its data set."""
    if stream is None:
        if has_header(syntax):
            raise InconsistentHeader(f"frame is no codestream of transfer syntax {syntax}")
        return
    same = (stream.rows, stream.columns) == (facts["rows"], facts["columns"])
    same = same and stream.samples in (None, facts["samples"])
    if not same or (stream.bits or 0) > facts["allocated"]:
        raise InconsistentHeader(
            f"frame is coded as {stream.rows} x {stream.columns} x {stream.samples}, {stream.bits} bits; the"
            f" data set says {facts['rows']} x {facts['columns']} x {facts['samples']}, "
            f"{facts['allocated']} bits"
        )


def _group(header: Header, value: PixelValue, frames: int) -> list[Sequence[Fragment]]:
    """The fragments of each frame: by the offset tables, else one each, else by what begins a stream."""
    fragments = value.fragments
    if frames > len(fragments):
        raise InconsistentHeader(
            f"{frames} frames in {len(fragments)} fragments", frames=frames, fragments=len(fragments)
        )
    for name, offsets in (("extended", _extended_offsets(header)), ("basic", _basic_offsets(value))):
        if offsets:
            starts = _starts(fragments, offsets)
            if len(starts) == frames:
                return _split(fragments, starts)
            header.warnings.append(f"the {name} offset table does not fit the fragments; not used")
    if frames == len(fragments):
        return [[fragment] for fragment in fragments]
    if frames == 1:
        return [fragments]
    starts = [i for i, fragment in enumerate(fragments) if fragment.header is not None]
    if len(starts) != frames or starts[0] != 0:
        raise InconsistentHeader(f"cannot tell which of {len(fragments)} fragments make {frames} frames")
    return _split(fragments, starts)


def _extended_offsets(header: Header) -> list[int]:
    element = header.elements.get(EXTENDED_OFFSETS)
    if element is None or len(element.value) % 8:
        return []
    return list(struct.unpack(f"<{len(element.value) // 8}Q", element.value))


def _basic_offsets(value: PixelValue) -> list[int]:
    table = value.offset_table
    return list(struct.unpack(f"<{len(table) // 4}I", table[: len(table) // 4 * 4]))


def _starts(fragments: Sequence[Fragment], offsets: Sequence[int]) -> list[int]:
    """Indices of the fragments that lie at ``offsets`` from the first item; empty where one does not."""
    at, places = 0, {}
    for i, fragment in enumerate(fragments):
        places[at] = i
        at += 8 + fragment.length
    starts = [places.get(offset, -1) for offset in offsets]
    ascending = all(a < b for a, b in pairwise(starts))
    return starts if ascending and starts[0] == 0 else []


def _split(fragments: Sequence[Fragment], starts: Sequence[int]) -> list[Sequence[Fragment]]:
    return [fragments[a:b] for a, b in zip(starts, [*starts[1:], len(fragments)], strict=True)]
