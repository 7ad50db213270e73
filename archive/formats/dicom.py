"""DICOM files: scanned once, stacked into images, read window by window, put together again byte for byte.

A file is three runs of bytes: header, pixels, trailer. Header and trailer are kept verbatim; pixels become
words (`tilevault.codecs.words`) or, where they are encapsulated, one bit stream per frame. Because nothing
else is touched, whatever the header says stays exactly as it was. A file whose pixels cannot be shown is
kept whole. Deflated files keep their deflated bytes as one stream: inflating and deflating again would
not give the same bytes.
"""

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tilevault.archive.formats import FrameAccess, SourceFile
from tilevault.archive.formats.dicom_attributes import describe, display, geometry
from tilevault.archive.formats.dicom_exact import looks_exact, never_lossy, padding_value
from tilevault.archive.formats.dicom_header import Header
from tilevault.archive.formats.dicom_pixels import Opaque, declared_bytes, layout_of, pixel_record
from tilevault.archive.formats.dicom_position import frame_position, instance_of, window_inputs
from tilevault.archive.formats.dicom_reader import PAYLOAD_HEAD, DicomReader, fragment_lengths, open_reader
from tilevault.archive.formats.dicom_scan import Scanned, Wanted, begins_data_set, scan_elements
from tilevault.archive.formats.dicom_source import FileSource, Opened, identity, read_at
from tilevault.archive.formats.dicom_stack import assemble
from tilevault.archive.formats.dicom_tags import SEQUENCES, VALUES
from tilevault.codecs.errors import SourceChanged, VerifyAfterEncodeFailed
from tilevault.codecs.frame_header import stream_header
from tilevault.codecs.words import exchange_bytes, pack_frames

__all__ = [
    "DicomReader",
    "assemble",
    "frame_position",
    "instance_of",
    "looks_exact",
    "never_lossy",
    "open_reader",
    "padding_value",
    "rebuild",
    "recognizes",
    "scan",
    "window_inputs",
]

_WANTED = Wanted(
    values=VALUES,
    sequences=SEQUENCES,
    declared_bytes=lambda elements: declared_bytes(Header(elements, [])),
    inspect=stream_header,
)


def recognizes(head: bytes) -> bool:
    """Whether a file that begins with ``head`` (its first 4 KiB) claims to be DICOM.

    Either ``DICM`` after a preamble of 128 bytes, or two plausible elements of group 0002 or 0008.
    """
    return head[128:132] == b"DICM" or begins_data_set(head[:4096])


def scan(path: Path, name: str) -> list[SourceFile]:
    """Parse, check and hash one file in one pass: [the file].

    ``record`` of the result holds: ``syntax``; ``uids``, ``search``, ``instance``, ``moment``;
    ``pixels`` (None, or sample format, layout, byte ranges); ``geometry``; ``display``; ``object``
    (why the file is kept whole, where it is). Raises subclasses of `InputRejected` only.
    """
    with Opened(path) as (descriptor, before):
        source = FileSource(descriptor, before[2])
        found, stream = scan_elements(source, _WANTED)
        sha256 = stream.finish()
        warnings = list(dict.fromkeys(found.warnings))
        record = _record(found, sha256, before[2], descriptor, warnings)
        if identity(descriptor) != before:
            raise SourceChanged(f"{name}: changed while it was read")
    return [
        SourceFile(
            name=name,
            path=str(path),
            size=before[2],
            sha256=sha256,
            stat=before,
            format="dicom",
            record=record,
            warnings=tuple(dict.fromkeys(warnings)),
        )
    ]


def _record(found: Scanned, sha256: str, size: int, descriptor: int, warnings: list[str]) -> dict[str, Any]:
    header, meta = Header(found.elements, warnings), Header(found.meta, warnings)
    record: dict[str, Any] = {"syntax": found.syntax, **describe(header, meta, warnings)}
    for kind in ("sop", "series"):
        if not record["uids"][kind]:
            warnings.append(
                f"no {kind.upper() if kind == 'sop' else kind} instance UID; the digest stands in"
            )
            record["uids"][kind] = f"sha256:{sha256}"
    try:
        pixels = pixel_record(header, found)
    except Opaque as reason:
        if found.pixel is not None:
            warnings.append(f"{reason}; the file is kept whole, without an image")
        return record | {"pixels": None, "object": str(reason)}
    if pixels["coding"] == "native":
        pixels["left_over"] = _left_over(pixels, descriptor)
    return record | {
        "pixels": pixels,
        "geometry": geometry(header, pixels["frames"]),
        "display": display(header, pixels["frames"]),
    }


def _left_over(pixels: dict[str, Any], descriptor: int) -> int:
    """The bits after the last sample in the last bytes that samples reach into."""
    layout = layout_of({"pixels": pixels})
    spare = layout.left_over_bits(pixels["frames"])
    if not spare:
        return 0
    unit = 2 if layout.swapped else 1
    last = read_at(descriptor, pixels["offset"] + pixels["length"] - unit, unit)
    logical = exchange_bytes(last) if layout.swapped else last
    return int.from_bytes(logical, "little") >> (8 * unit - spare)


def rebuild(file: SourceFile, verbatim: Iterator[bytes], frames: FrameAccess) -> Iterator[bytes | memoryview]:
    """The file's bytes, exactly, piece by piece: its non-pixel bytes and what is stored of its frames.

    ``verbatim``: as `DicomReader.verbatim` gave them, in any pieces. Raises `VerifyAfterEncodeFailed` where
    what is stored is not of the file's shape.
    """
    pixels = file.record["pixels"]
    if pixels is None:
        yield from verbatim
        return
    rest = b""
    left = pixels["offset"]
    for piece in verbatim:
        head, rest = piece[:left], piece[left:]
        left -= len(head)
        yield head
        if not left:
            break
    if pixels["coding"] == "native":
        layout = layout_of(file.record)
        yield from pack_frames(layout, pixels["frames"], frames.words, pixels["left_over"])
    elif pixels["coding"] == "deflated":
        yield frames.stream(0)[PAYLOAD_HEAD.size :]
    else:
        for frame in range(pixels["frames"]):
            yield from _with_item_headers(fragment_lengths(file.record, frame), frames.stream(frame))
    yield rest
    yield from verbatim


def _with_item_headers(lengths: Sequence[int], stream: bytes) -> Iterator[bytes]:
    """A frame's fragments as they lie in the file (encapsulated syntaxes are little endian, PS3.5 A.4)."""
    if sum(lengths) != len(stream):
        raise VerifyAfterEncodeFailed("a stored stream is not as long as the file's fragments")
    at = 0
    for length in lengths:
        yield struct.pack("<HHI", 0xFFFE, 0xE000, length)
        yield stream[at : at + length]
        at += length
