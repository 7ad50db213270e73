"""The descriptive part of a file's record: who and what it is, where its frames lie, how they are shown.

All of it is JSON. What a multi-frame functional group says of a frame counts before what is shared, and that
before what stands in the data set itself.
"""

import base64
from typing import Any

from tilevault.archive.formats.dicom_header import Header
from tilevault.archive.formats.dicom_tags import (
    ACQUISITION_NUMBER,
    DOSE_SCALING,
    DOSE_UNITS,
    FRAME_CONTENT,
    FRAME_GROUPS,
    FRAME_OF_REFERENCE,
    FRAME_VOI,
    GRID_OFFSETS,
    INSTANCE_NUMBER,
    INTERCEPT,
    LOSSY,
    META_CLASS,
    ORIENTATION,
    PADDING,
    PADDING_LIMIT,
    PALETTE_DESCRIPTORS,
    PALETTE_TABLES,
    PIXEL_MEASURES,
    PIXEL_SPACING,
    PLANE_ORIENTATION,
    PLANE_POSITION,
    POSITION,
    RESCALE_TYPE,
    SEARCH,
    SHARED_GROUPS,
    SLICE_SPACING,
    SLICE_THICKNESS,
    SLOPE,
    TEMPORAL_IDENTIFIER,
    TEMPORAL_INDEX,
    TRIGGER_TIME,
    UIDS,
    VALUE_TRANSFORMATION,
    WINDOW_CENTER,
    WINDOW_WIDTH,
)
from tilevault.codecs.errors import UnsafeName

__all__ = ["describe", "display", "geometry"]

PALETTE_LIMIT = 4096
"""Palette entries that are kept as attributes; longer tables stay in the verbatim header only."""


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
    padding = header.number(PADDING, "PixelPaddingValue")
    if padding is not None and padding == int(padding) and not header.has(PADDING_LIMIT):
        result["padding"] = int(padding)
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
