"""The header of an archived instance, all of it, from the bytes that were kept; no pixel is read.

Native and encapsulated files keep everything but the pixels verbatim; of deflated ones the data set is
inflated as far as its pixels; files without an image are kept whole, and read as far as any header may go.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tilevault.archive.formats import SourceFile
from tilevault.archive.formats.dicom_elements import DataSet, RawElement, parse_elements
from tilevault.archive.formats.dicom_reader import PAYLOAD_HEAD
from tilevault.archive.formats.dicom_scan import DEFLATED, EXPLICIT_BIG, looks_like
from tilevault.archive.formats.dicom_source import HEADER_LIMIT
from tilevault.codecs.errors import InconsistentHeader, ManifestCorrupt

__all__ = ["KeptHeader", "kept_header", "written_header"]

DELIMITER_BYTES = 8


@dataclass(frozen=True)
class KeptHeader:
    """An instance without its pixels."""

    meta: DataSet
    """File meta information, group 0002."""
    elements: DataSet
    """The data set, before and behind the pixels."""
    pixel: RawElement | None
    """The pixel data's element without its value; None where there is none."""


def kept_header(file: SourceFile, verbatim: Iterator[bytes], stream: Callable[[int], bytes]) -> KeptHeader:
    """The header of ``file`` from its non-pixel bytes; ``stream(0)`` gives the frames of a deflated one.

    Raises `ManifestCorrupt` where what is kept is no header.
    """
    pixels, syntax = file.record["pixels"], file.record["syntax"]
    head = _at_most(verbatim, HEADER_LIMIT) if pixels is None else b"".join(verbatim)
    tail = b""
    try:
        meta, begin = _meta(head)
        body = head[begin:]
        if pixels is not None and pixels["coding"] == "deflated":
            packed = stream(0)
            _, length = PAYLOAD_HEAD.unpack_from(packed)
            body = _inflated(packed[PAYLOAD_HEAD.size :], HEADER_LIMIT + length)
        elif syntax == DEFLATED:
            body = _inflated(body, HEADER_LIMIT)
        elif pixels is not None:
            body, tail = head[begin : pixels["offset"]], head[pixels["offset"] :]
            tail = _behind(body, tail, pixels, syntax)
        explicit, big = looks_like(body[:6], syntax)
        elements, pixel = parse_elements(body, explicit, big)
        if tail.strip(b"\0"):
            behind, _ = parse_elements(tail, explicit, big)
            elements = {**behind, **elements}
    except (InconsistentHeader, zlib.error, ValueError) as error:
        raise ManifestCorrupt(f"{file.name}: the kept header does not parse: {error}"[:300]) from error
    return KeptHeader(meta, dict(sorted(elements.items())), pixel)


def written_header(head: bytes) -> KeptHeader:
    """The header of a file that `dicom_write` makes, from its bytes before the pixels' own."""
    meta, begin = _meta(head)
    elements, pixel = parse_elements(head[begin:], True, False)
    return KeptHeader(meta, elements, pixel)


def _at_most(pieces: Iterator[bytes], limit: int) -> bytes:
    parts, size = [], 0
    for piece in pieces:
        parts.append(piece)
        size += len(piece)
        if size >= limit:
            break
    return b"".join(parts)


def _meta(head: bytes) -> tuple[DataSet, int]:
    """File meta information, and where the data set begins."""
    at = begin = 132 if head[128:132] == b"DICM" else 0
    while head[at : at + 2] == b"\2\0":
        long = head[at + 4 : at + 6] in (b"OB", b"UN", b"UT", b"OW", b"SQ", b"UC", b"UR")
        size = int.from_bytes(head[at + 8 : at + 12] if long else head[at + 6 : at + 8], "little")
        at += (12 if long else 8) + size
    meta, _ = parse_elements(head[begin:at], True, False)
    return meta, at


def _inflated(packed: bytes, limit: int) -> bytes:
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, limit)


def _behind(body: bytes, tail: bytes, pixels: dict[str, object], syntax: str) -> bytes:
    """The bytes after the pixel data's value, which may be longer than its samples."""
    if pixels["coding"] != "native":
        return tail[DELIMITER_BYTES:]
    declared = int.from_bytes(body[-4:], "big" if syntax == EXPLICIT_BIG else "little")
    return tail[max(0, declared - int(str(pixels["length"]))) :]
