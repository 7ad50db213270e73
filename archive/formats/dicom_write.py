"""DICOM files made anew: the archived header, pixels as they are read, Explicit VR Little Endian.

For images whose files do not come back byte by byte. Where pixels were altered the file says so as PS3.3
C.7.6.1.1.5 wants it: LossyImageCompression "01", which is never taken back; ratio and method appended, one
value for each step; ImageType DERIVED; another SOPInstanceUID, derived from what the file holds, so that the
same export is the same file; what it was made from, and how. Where nothing was altered, nothing is said.

Data sets are read and written by pydicom here; the bytes between are packed as in `codecs.words`.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any, BinaryIO

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian

from tilevault.archive.formats import FrameAccess, SourceFile
from tilevault.archive.formats.dicom_info import decoded_photometric
from tilevault.archive.formats.dicom_pixels import layout_of
from tilevault.archive.formats.dicom_scan import EXPLICIT_BIG, IMPLICIT_LITTLE
from tilevault.codecs.errors import LimitExceeded, ManifestCorrupt, UnsupportedSyntax
from tilevault.codecs.words import PixelLayout, pack_frames

__all__ = ["METHOD", "Loss", "as_explicit", "write_dicom", "written_head"]

METHOD = "TILEVAULT_LIC1"
"""Lossy Image Compression Method (0028,2114): a term of our own, since the standard has none for it."""
LONGEST_VALUE = 2**32 - 2
DELIMITER_BYTES = 8
PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
STALE = (0x7FE00001, 0x7FE00002, 0xFFFCFFFC)
"""Of encapsulated pixels, and padding: nothing that the new file has."""
UNTRUE = (0x00280106, 0x00280107, 0xFFFAFFFA, 0x04000561)
"""Smallest and largest pixel value, digital signatures, original attributes: of the pixels that were."""
WORD_BYTES = {"OW": 2, "OL": 4, "OF": 4, "OD": 8, "OV": 8}
LOSSY_CODE = ("113040", "DCM", "Lossy Compression")
PREDECESSOR_CODE = ("121320", "DCM", "Uncompressed predecessor")
LONGEST_DESCRIPTION = 1024


@dataclass(frozen=True)
class Loss:
    """What an export says of pixels that were altered."""

    bound: str
    """Such as ``psnr=45``."""
    ratio: float
    """Bytes of the uncompressed pixels over the bytes they are kept in."""
    measured: str
    """For people: what was measured."""
    uid: str
    """SOPInstanceUID of what is written."""


def write_dicom(
    out: BinaryIO, file: SourceFile, verbatim: Iterator[bytes], frames: FrameAccess, loss: Loss | None
) -> None:
    """Write one file with the header of ``file`` and the pixels that ``frames`` give.

    ``loss``: what became of the pixels, or None where they are exact. Raises `UnsupportedSyntax` for
    deflated data sets, `LimitExceeded` for more than 4 GiB of pixels, `ManifestCorrupt` where the kept
    header does not parse.
    """
    pixels = file.record["pixels"]
    if pixels["coding"] == "deflated":
        raise UnsupportedSyntax(f"{file.name}: a deflated data set is exported as it was only")
    layout = replace(layout_of(file.record), big_endian=False, swapped=False)
    size = layout.value_bytes(pixels["frames"])
    if size > LONGEST_VALUE:
        raise LimitExceeded(f"{size} bytes of native pixels, more than {LONGEST_VALUE}")
    meta, data, trailer = _parsed(file, b"".join(verbatim))
    data.update({element.tag: element for element in trailer if element.tag not in data})
    _describe_pixels(data, file, layout)
    if loss is not None:
        _mark_lossy(data, file, loss)
    pieces = pack_frames(layout, pixels["frames"], frames.words, 0)
    _write(out, meta, data, layout, size, pieces)


def written_head(file: SourceFile, verbatim: Iterator[bytes], loss: Loss | None) -> bytes:
    """What `write_dicom` writes before the pixels, with the header of the pixels' element."""
    out = BytesIO()
    layout = replace(layout_of(file.record), big_endian=False, swapped=False)
    meta, data, trailer = _parsed(file, b"".join(verbatim))
    data.update({element.tag: element for element in trailer if element.tag not in data})
    _describe_pixels(data, file, layout)
    if loss is not None:
        _mark_lossy(data, file, loss)
    _write(out, meta, data, layout, 0, iter(()))
    return out.getvalue()


def as_explicit(data: bytes, name: str) -> bytes:
    """A whole file without encapsulated pixels, in Explicit VR Little Endian.

    Raises `UnsupportedSyntax` where its pixels are encapsulated, `ManifestCorrupt` where it does not parse.
    """
    try:
        read = pydicom.dcmread(BytesIO(data), force=True)
        syntax = UID(str(read.file_meta.get("TransferSyntaxUID", "")))
        encapsulated = syntax.is_encapsulated if syntax.is_transfer_syntax else "PixelData" in read
        if encapsulated and "PixelData" in read:
            raise UnsupportedSyntax(f"pixels of transfer syntax {syntax} are not decoded")
        _reordered(read, syntax == EXPLICIT_BIG)
        read.decode()
        read.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        out = DicomBytesIO()
        out.is_little_endian, out.is_implicit_VR = True, False
        out.write(bytes(128) + b"DICM")
        write_file_meta_info(out, read.file_meta, enforce_standard=False)
        write_dataset(out, Dataset({tag: read[tag] for tag in read.keys() if tag.group != 2}))  # noqa: SIM118
    except UnsupportedSyntax:
        raise
    except Exception as error:  # pydicom raises whatever its parts raise
        raise ManifestCorrupt(f"{name}: the kept file does not parse: {error}"[:500]) from error
    return bytes(out.getvalue())


def _parsed(file: SourceFile, kept: bytes) -> tuple[FileMetaDataset, Dataset, Dataset]:
    """File meta information, data set before the pixels, data set behind them."""
    pixels, syntax = file.record["pixels"], file.record["syntax"]
    head, tail = kept[: pixels["offset"]], kept[pixels["offset"] :]
    implicit, big = syntax == IMPLICIT_LITTLE, syntax == EXPLICIT_BIG
    if pixels["coding"] == "native":
        declared = int.from_bytes(head[-4:], "big" if big else "little")
        tail = tail[max(0, declared - pixels["length"]) :]
    else:
        tail = tail[DELIMITER_BYTES:]
    try:
        data = pydicom.dcmread(BytesIO(head), stop_before_pixels=True, force=True)
        trailer = read_dataset(BytesIO(tail), implicit, not big) if tail.strip(b"\0") else Dataset()
        for part in (data, trailer):
            _reordered(part, big)
            part.decode()
    except Exception as error:  # pydicom raises whatever its parts raise
        raise ManifestCorrupt(f"{file.name}: the kept header does not parse: {error}"[:500]) from error
    meta = data.file_meta if hasattr(data, "file_meta") else FileMetaDataset()
    return meta, data, trailer


def _reordered(data: Dataset, big: bool) -> None:
    """Read every value; swap words in binary values of big-endian data sets, as pydicom does not."""

    def visit(inside: Dataset, element: Any) -> None:
        size = WORD_BYTES.get(element.VR)
        if big and size and isinstance(element.value, bytes) and len(element.value) % size == 0:
            count = len(element.value) // size
            letters = {2: "H", 4: "I", 8: "Q"}[size]
            element.value = struct.pack(
                f"<{count}{letters}", *struct.unpack(f">{count}{letters}", element.value)
            )

    data.walk(visit)


def _describe_pixels(data: Dataset, file: SourceFile, layout: PixelLayout) -> None:
    """What the header says of how pixels lie, for pixels that were encapsulated."""
    for tag in STALE:
        data.pop(tag, None)
    if file.record["pixels"]["coding"] == "native":
        return
    data.PhotometricInterpretation = decoded_photometric(file.record)
    if layout.planes > 1:
        data.PlanarConfiguration = int(layout.planar)


def _mark_lossy(data: Dataset, file: SourceFile, loss: Loss) -> None:
    source = file.record["uids"]["sop"]
    known = None if source is None or source.startswith("sha256:") else str(source)
    for tag in UNTRUE:
        data.pop(tag, None)
    data.LossyImageCompression = "01"
    data.LossyImageCompressionRatio = [*_values(data, "LossyImageCompressionRatio"), f"{loss.ratio:.6g}"]
    data.LossyImageCompressionMethod = [*_values(data, "LossyImageCompressionMethod"), METHOD]
    data.ImageType = ["DERIVED", *(_values(data, "ImageType")[1:] or ["SECONDARY"])]
    _derive_frame_types(data)
    said = f"lossy compression, {loss.bound}, ratio {loss.ratio:.4g} : 1, {loss.measured}"
    before = str(data.get("DerivationDescription") or "")
    data.DerivationDescription = f"{before}; {said}"[-LONGEST_DESCRIPTION:] if before else said
    _append(data, "DerivationCodeSequence", _code(*LOSSY_CODE))
    if known is not None:
        item = Dataset()
        if file.record["uids"].get("class"):
            item.ReferencedSOPClassUID = file.record["uids"]["class"]
        item.ReferencedSOPInstanceUID = known
        item.PurposeOfReferenceCodeSequence = Sequence([_code(*PREDECESSOR_CODE)])
        _append(data, "SourceImageSequence", item)
    data.SOPInstanceUID = UID(loss.uid)


def _values(data: Dataset, keyword: str) -> list[str]:
    """The values of an attribute as texts, as they were spelt."""
    value = data.get(keyword)
    if value is None or value == "":
        return []
    several = value if isinstance(value, pydicom.multival.MultiValue | list | tuple) else [value]
    return [getattr(one, "original_string", None) or str(one) for one in several]


def _derive_frame_types(data: Dataset) -> None:
    """Frame Type (0008,9007) of enhanced multi-frame images: derived too."""

    def visit(inside: Dataset, element: Any) -> None:
        if element.tag == 0x00089007 and element.value:
            kept = [str(one) for one in element.value[1:]] if not isinstance(element.value, str) else []
            element.value = ["DERIVED", *kept]

    data.walk(visit)


def _append(data: Dataset, keyword: str, item: Dataset) -> None:
    setattr(data, keyword, Sequence([*(data.get(keyword) or ()), item]))


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _write(
    out: BinaryIO,
    meta: FileMetaDataset,
    data: Dataset,
    layout: PixelLayout,
    size: int,
    pixels: Iterator[bytes | memoryview],
) -> None:
    """Preamble, meta information, elements before the pixels, the pixels, elements behind."""
    uid = data.get("SOPInstanceUID")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if data.get("SOPClassUID"):
        meta.MediaStorageSOPClassUID = data.SOPClassUID
    if uid:
        meta.MediaStorageSOPInstanceUID = uid
    before, behind = Dataset(), Dataset()
    for element in data:
        if element.tag not in PIXEL_TAGS and element.tag.group != 2:
            (before if element.tag < PIXEL_TAGS[0] else behind).add(element)
    tag, vr = _pixel_element(layout)
    head = DicomBytesIO()
    head.is_little_endian, head.is_implicit_VR = True, False
    head.write(bytes(128) + b"DICM")
    write_file_meta_info(head, meta, enforce_standard=False)
    write_dataset(head, before)
    out.write(head.getvalue())
    out.write(struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, size + size % 2))
    for piece in pixels:
        out.write(piece)
    out.write(bytes(size % 2))
    tail = DicomBytesIO()
    tail.is_little_endian, tail.is_implicit_VR = True, False
    write_dataset(tail, behind)
    out.write(tail.getvalue())


def _pixel_element(layout: PixelLayout) -> tuple[int, bytes]:
    if layout.floating:
        return (PIXEL_TAGS[0], b"OF") if layout.bits_allocated == 32 else (PIXEL_TAGS[1], b"OD")
    return PIXEL_TAGS[2], b"OW" if layout.bits_allocated > 8 else b"OB"
