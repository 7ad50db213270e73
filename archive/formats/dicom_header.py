"""What the archive understands of a DICOM header: some eighty elements, out of raw values into JSON.

Everything else stays verbatim and uninterpreted. A needed attribute that cannot be read is an
`InconsistentHeader`; an optional one is left out with a warning. Nothing is guessed beyond the defaults
that a warning names.
"""

import base64
import re
import struct
from collections.abc import Mapping
from typing import Any

import pydicom.charset

from tilevault.archive.formats.dicom_scan import Element, uid_text
from tilevault.codecs.errors import InconsistentHeader, UnsafeName

__all__ = ["IMAGE", "SEQUENCES", "VALUES", "Header", "describe", "display", "geometry"]

CHARACTER_SET = 0x00080005
PALETTE_LIMIT = 4096
"""Palette entries that are kept as attributes; longer tables stay in the verbatim header only."""

SEARCH = {
    "PatientID": 0x00100020,
    "PatientName": 0x00100010,
    "StudyDate": 0x00080020,
    "Modality": 0x00080060,
    "AccessionNumber": 0x00080050,
    "StudyDescription": 0x00081030,
    "SeriesDescription": 0x0008103E,
}
UIDS = {
    "study": 0x0020000D,
    "series": 0x0020000E,
    "sop": 0x00080018,
    "class": 0x00080016,
}
META_CLASS, META_INSTANCE = 0x00020002, 0x00020003
FRAME_OF_REFERENCE = 0x00200052
SHARED_GROUPS, FRAME_GROUPS = 0x52009229, 0x52009230
PLANE_POSITION, PLANE_ORIENTATION, PIXEL_MEASURES = 0x00209113, 0x00209116, 0x00289110
VALUE_TRANSFORMATION, FRAME_VOI, FRAME_CONTENT = 0x00289145, 0x00289132, 0x00209111
SEQUENCES = frozenset(
    (
        SHARED_GROUPS,
        FRAME_GROUPS,
        PLANE_POSITION,
        PLANE_ORIENTATION,
        PIXEL_MEASURES,
        VALUE_TRANSFORMATION,
        FRAME_VOI,
        FRAME_CONTENT,
    )
)
POSITION, ORIENTATION = 0x00200032, 0x00200037
PIXEL_SPACING, SLICE_THICKNESS, SLICE_SPACING = 0x00280030, 0x00180050, 0x00180088
SLOPE, INTERCEPT, RESCALE_TYPE = 0x00281053, 0x00281052, 0x00281054
WINDOW_CENTER, WINDOW_WIDTH = 0x00281050, 0x00281051
TEMPORAL_INDEX, TEMPORAL_IDENTIFIER = 0x00209128, 0x00200100
ACQUISITION_NUMBER, INSTANCE_NUMBER, TRIGGER_TIME, ACQUISITION_TIME = (
    0x00200012,
    0x00200013,
    0x00181060,
    0x00080032,
)
GRID_OFFSETS, DOSE_SCALING, DOSE_UNITS = 0x3004000C, 0x3004000E, 0x30040002
LOSSY = 0x00282110
PALETTE_DESCRIPTORS = (0x00281101, 0x00281102, 0x00281103)
PALETTE_TABLES = (0x00281201, 0x00281202, 0x00281203)
IMAGE = {
    "SamplesPerPixel": 0x00280002,
    "PhotometricInterpretation": 0x00280004,
    "PlanarConfiguration": 0x00280006,
    "NumberOfFrames": 0x00280008,
    "Rows": 0x00280010,
    "Columns": 0x00280011,
    "BitsAllocated": 0x00280100,
    "BitsStored": 0x00280101,
    "HighBit": 0x00280102,
    "PixelRepresentation": 0x00280103,
}
VALUES = frozenset(
    (
        0x00020002,
        0x00020003,
        0x00020010,
        CHARACTER_SET,
        FRAME_OF_REFERENCE,
        *SEARCH.values(),
        *UIDS.values(),
        *IMAGE.values(),
        POSITION,
        ORIENTATION,
        PIXEL_SPACING,
        SLICE_THICKNESS,
        SLICE_SPACING,
        SLOPE,
        INTERCEPT,
        RESCALE_TYPE,
        WINDOW_CENTER,
        WINDOW_WIDTH,
        TEMPORAL_INDEX,
        TEMPORAL_IDENTIFIER,
        ACQUISITION_NUMBER,
        INSTANCE_NUMBER,
        TRIGGER_TIME,
        GRID_OFFSETS,
        DOSE_SCALING,
        DOSE_UNITS,
        LOSSY,
        *PALETTE_DESCRIPTORS,
        *PALETTE_TABLES,
        0x7FE00001,
        0x7FE00002,
    )
)

_INTEGER = re.compile(r"[+-]?[0-9]{1,12}")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_STRUCTS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}


class Header:
    """Values of a data set by tag; complaints about optional ones are collected in ``warnings``."""

    def __init__(self, elements: Mapping[int, Element], warnings: list[str]) -> None:
        self.elements = elements
        self.warnings = warnings
        self._encodings = self._character_sets()

    def _character_sets(self) -> list[str]:
        element = self.elements.get(CHARACTER_SET)
        if element is None:
            return ["latin-1"]
        terms = [term.strip(" \0") for term in element.value.decode("latin-1").split("\\")]
        known = pydicom.charset.python_encoding
        found = [str(known[term]) for term in terms if term in known]
        if len(found) < len(terms):
            self.warnings.append("SpecificCharacterSet has an unknown term")
        return found or ["latin-1"]

    def has(self, tag: int) -> bool:
        """Whether the element is there with a value."""
        element = self.elements.get(tag)
        if element is None:
            return False
        if _number_vr(element, tag) in _STRUCTS:
            return bool(element.value)
        return bool(element.value.strip(b"\0 ") or element.items)

    def text(self, tag: int) -> str:
        """Decoded text without padding, "" where absent; bytes that do not decode are replaced."""
        element = self.elements.get(tag)
        if element is None:
            return ""
        return "".join(self._pieces(element.value)).strip(" \0")

    def _pieces(self, value: bytes) -> list[str]:
        head, *escaped = value.split(b"\x1b")
        return [_decode(head, self._encodings[0])] + [_decode_escaped(part) for part in escaped]

    def uid(self, tag: int, what: str) -> str:
        """A UID, "" where absent; `UnsafeName` where it is none."""
        element = self.elements.get(tag)
        return uid_text(element.value, what) if element is not None else ""

    def numbers(self, tag: int, what: str) -> list[float]:
        """Numbers of any numeric VR; an empty list, with a warning, where they cannot be read."""
        if not self.has(tag):
            return []
        try:
            return _numbers(self.elements[tag], tag)
        except ValueError as error:
            self.warnings.append(f"{what} is not a number: {error}")
            return []

    def number(self, tag: int, what: str) -> float | None:
        """The first of `numbers`, or None."""
        found = self.numbers(tag, what)
        return found[0] if found else None

    def integer(self, name: str, default: int | None = None) -> int:
        """A needed attribute of the image; the default, with a warning, where it is absent."""
        tag = IMAGE[name]
        if not self.has(tag):
            if default is None:
                raise InconsistentHeader(f"image without {name}")
            self.warnings.append(f"no {name}; taken as {default}")
            return default
        try:
            found = _numbers(self.elements[tag], tag)
        except ValueError as error:
            raise InconsistentHeader(f"{name} is not a number: {error}") from error
        if len(found) != 1 or found[0] != int(found[0]):
            raise InconsistentHeader(f"{name} is not one integer", found=str(found)[:80])
        return int(found[0])

    def items(self, tag: int) -> list["Header"]:
        """The items of a sequence."""
        element = self.elements.get(tag)
        return [Header(item, self.warnings) for item in element.items] if element is not None else []

    def first(self, tag: int) -> "Header":
        """The first item of a sequence, or an empty data set."""
        items = self.items(tag)
        return items[0] if items else Header({}, self.warnings)


def _decode(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding, "replace")
    except LookupError:
        return data.decode("latin-1")


def _decode_escaped(part: bytes) -> str:
    """Text after an ISO 2022 escape; the escape itself is dropped."""
    for code, encoding in pydicom.charset.CODES_TO_ENCODINGS.items():
        if code and (b"\x1b" + part).startswith(code):
            name = str(encoding)
            if name.startswith("iso2022"):
                return _decode(b"\x1b" + part, name)
            return _decode(part[len(code) - 1 :], name)
    return part.decode("latin-1")


def _numbers(element: Element, tag: int) -> list[float]:
    value, vr = element.value, _number_vr(element, tag)
    if vr in _STRUCTS:
        code = _STRUCTS[vr]
        size = struct.calcsize(code)
        if len(value) % size:
            raise ValueError(f"{len(value)} bytes of {vr}")
        order = ">" if element.big_endian else "<"
        found = list(struct.unpack(f"{order}{len(value) // size}{code}", value))
    else:
        found = [_number(part.strip(" \0\t")) for part in value.decode("latin-1").split("\\")]
    if any(x != x or x in (float("inf"), float("-inf")) for x in found):
        raise ValueError("not finite")
    return found


def _number_vr(element: Element, tag: int) -> str:
    """The VR, or the dictionary's where the data set does not say (a US of four bytes is taken as UL)."""
    if element.vr not in ("", "UN"):
        return element.vr
    vr = _IMPLICIT.get(tag, "DS")
    return "UL" if vr == "US" and len(element.value) == 4 else vr


def _number(text: str) -> float:
    if _INTEGER.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text):
        return float(text)
    raise ValueError(repr(text[:40]))


_IMPLICIT = {
    **dict.fromkeys(IMAGE.values(), "US"),
    IMAGE["NumberOfFrames"]: "IS",
    TEMPORAL_INDEX: "UL",
    **dict.fromkeys((INSTANCE_NUMBER, ACQUISITION_NUMBER, TEMPORAL_IDENTIFIER), "IS"),
    **dict.fromkeys(PALETTE_DESCRIPTORS, "US"),
}
"""VR of numbers in implicit VR (PS3.6), where it is not DS."""


def describe(header: Header, meta: Header, warnings: list[str]) -> dict[str, Any]:
    """The identifying and descriptive part of a file's record."""
    uids: dict[str, str | None] = {
        name: header.uid(tag, name.capitalize() + " UID") or None for name, tag in UIDS.items()
    }
    uids["class"] = uids["class"] or meta.uid(META_CLASS, "MediaStorageSOPClassUID") or None
    search = {name: text for name, tag in SEARCH.items() if (text := header.text(tag))}
    for key, name in (("study", "StudyInstanceUID"), ("series", "SeriesInstanceUID")):
        if uids[key]:
            search[name] = str(uids[key])
    if uids["sop"]:
        search["SOPInstanceUID"] = str(uids["sop"])
    if uids["class"]:
        search["SOPClassUID"] = str(uids["class"])
    return {
        "uids": uids,
        "search": search,
        "instance": header.number(INSTANCE_NUMBER, "InstanceNumber"),
        "moment": [
            header.number(TEMPORAL_IDENTIFIER, "TemporalPositionIdentifier"),
            header.number(ACQUISITION_NUMBER, "AcquisitionNumber"),
            header.number(TRIGGER_TIME, "TriggerTime"),
        ],
    }


def geometry(header: Header, frames: int) -> dict[str, Any]:
    """Where the frames lie: per-frame lists have one entry per frame, or one for all.

    Positions and spacing in mm (PS3.3 C.7.6.2, C.7.6.16.2).
    """
    shared = header.first(SHARED_GROUPS)
    per_frame = header.items(FRAME_GROUPS)
    if per_frame and len(per_frame) != frames:
        header.warnings.append(f"{len(per_frame)} per-frame groups for {frames} frames; not used")
        per_frame = []
    look = [_FrameGroups(header, shared, item) for item in per_frame] or [_FrameGroups(header, shared, None)]
    positions = [g.vector(PLANE_POSITION, POSITION, "ImagePositionPatient", 3) for g in look]
    orientations = [g.vector(PLANE_ORIENTATION, ORIENTATION, "ImageOrientationPatient", 6) for g in look]
    spacings = [g.vector(PIXEL_MEASURES, PIXEL_SPACING, "PixelSpacing", 2) for g in look]
    result: dict[str, Any] = {
        "positions": _grid_positions(header, positions[0], orientations[0], frames) or positions,
        "orientations": _once(orientations),
        "spacings": _once(spacings),
        "thickness": look[0].number(PIXEL_MEASURES, SLICE_THICKNESS, "SliceThickness"),
        "between": look[0].number(PIXEL_MEASURES, SLICE_SPACING, "SpacingBetweenSlices"),
        "frame_of_reference": _optional_uid(header, FRAME_OF_REFERENCE, "FrameOfReferenceUID"),
    }
    moments = [g.number(FRAME_CONTENT, TEMPORAL_INDEX, "TemporalPositionIndex") for g in look]
    if any(m is not None for m in moments):
        result["moments"] = moments
    return result


def display(header: Header, frames: int) -> dict[str, Any]:
    """How stored values become measured or displayed ones; per-frame lists like `geometry`'s."""
    shared = header.first(SHARED_GROUPS)
    per_frame = header.items(FRAME_GROUPS)
    if len(per_frame) != frames:
        per_frame = []
    look = [_FrameGroups(header, shared, item) for item in per_frame] or [_FrameGroups(header, shared, None)]
    rescales, windows = [], []
    for g in look:
        slope = g.number(VALUE_TRANSFORMATION, SLOPE, "RescaleSlope")
        intercept = g.number(VALUE_TRANSFORMATION, INTERCEPT, "RescaleIntercept")
        rescales.append(None if slope is None or intercept is None else [slope, intercept])
        center = g.number(FRAME_VOI, WINDOW_CENTER, "WindowCenter")
        width = g.number(FRAME_VOI, WINDOW_WIDTH, "WindowWidth")
        windows.append(None if center is None or width is None else [center, width])
    result: dict[str, Any] = {"rescales": _once(rescales), "windows": _once(windows)}
    kind = look[0].text(VALUE_TRANSFORMATION, RESCALE_TYPE)
    if kind:
        result["rescale_type"] = kind
    scaling = header.number(DOSE_SCALING, "DoseGridScaling")
    if scaling is not None and rescales == [None]:
        result |= {"rescales": [[scaling, 0.0]], "rescale_type": header.text(DOSE_UNITS)}
    if header.text(LOSSY) == "01":
        result["lossy"] = True
    palette = _palette(header)
    if palette:
        result["palette"] = palette
    return result


class _FrameGroups:
    """An attribute of one frame: its own functional group, the shared one, or the data set itself."""

    def __init__(self, header: Header, shared: Header, own: Header | None) -> None:
        self._places = (own, shared)
        self._header = header

    def _find(self, group: int, tag: int) -> Header:
        for place in self._places:
            if place is not None and place.first(group).has(tag):
                return place.first(group)
        return self._header

    def number(self, group: int, tag: int, what: str) -> float | None:
        return self._find(group, tag).number(tag, what)

    def text(self, group: int, tag: int) -> str:
        return self._find(group, tag).text(tag)

    def vector(self, group: int, tag: int, what: str, length: int) -> list[float] | None:
        found = self._find(group, tag).numbers(tag, what)
        if found and len(found) != length:
            self._header.warnings.append(f"{what} has {len(found)} values instead of {length}; not used")
        return [float(x) for x in found] if len(found) == length else None


def _once(values: list[Any]) -> list[Any]:
    return values[:1] if all(value == values[0] for value in values) else values


def _optional_uid(header: Header, tag: int, what: str) -> str | None:
    try:
        return header.uid(tag, what) or None
    except UnsafeName:
        header.warnings.append(f"{what} is not a UID; not used")
        return None


def _grid_positions(
    header: Header, origin: list[float] | None, orientation: list[float] | None, frames: int
) -> list[list[float]] | None:
    """Positions of the frames of a dose grid (PS3.3 C.8.8.3.2: offsets along the plane normal)."""
    if frames < 2 or origin is None or orientation is None:
        return None
    offsets = header.numbers(GRID_OFFSETS, "GridFrameOffsetVector")
    if len(offsets) != frames or offsets[0] != 0:
        return None
    rx, ry, rz, cx, cy, cz = orientation
    normal = (ry * cz - rz * cy, rz * cx - rx * cz, rx * cy - ry * cx)
    return [[o + d * n for o, n in zip(origin, normal, strict=True)] for d in offsets]


def _palette(header: Header) -> dict[str, Any] | None:
    """Descriptors and tables of a palette, base64; nothing is applied or trusted here."""
    descriptors = [header.numbers(tag, "palette descriptor") for tag in PALETTE_DESCRIPTORS]
    tables = [header.elements.get(tag) for tag in PALETTE_TABLES]
    if any(len(d) != 3 for d in descriptors) or any(t is None for t in tables):
        return None
    if any(not 0 < d[0] <= PALETTE_LIMIT for d in descriptors):
        header.warnings.append("palette is too long to be kept as an attribute")
        return None
    if any(t is None or len(t.value) > 2 * PALETTE_LIMIT for t in tables):
        return None
    return {
        "descriptors": descriptors,
        "tables": [base64.b64encode(t.value).decode() for t in tables if t is not None],
        "big_endian": any(t.big_endian for t in tables if t is not None),
    }
