"""What the index holds of an image: a row of the catalogue, and a row for each DICOM instance.

All of it is read from the commit record and from the archived headers; no pixel is read. Attributes are kept
as the DICOM JSON model, by the level that QIDO-RS searches them on (PS3.18 tables 10.6.1-5, 10.6.3-3 to -5).
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tilevault.archive.formats.dicom_json import json_model
from tilevault.archive.formats.dicom_kept import kept_header
from tilevault.archive.formats.dicom_scan import EXPLICIT_LITTLE
from tilevault.archive.source import StoredFrames
from tilevault.workflows.export_dicom import loss_of
from tilevault.workflows.listing import image_record

if TYPE_CHECKING:
    from tilevault.archive.store import Image

__all__ = [
    "ALL_TAGS",
    "INSTANCE_TAGS",
    "SERIES_TAGS",
    "STUDY_TAGS",
    "ImageRow",
    "InstanceRow",
    "image_row",
    "instance_rows",
]

STUDY_TAGS = frozenset(
    (
        *(0x00080005, 0x00080020, 0x00080030, 0x00080050, 0x00080051, 0x00080090, 0x00080201, 0x00081030),
        *(0x00081032, 0x00081048, 0x00081060, 0x00100010, 0x00100020, 0x00100021, 0x00100024, 0x00100030),
        *(0x00100032, 0x00100040, 0x00101000, 0x00101010, 0x00101020, 0x00101030, 0x00102160, 0x001021B0),
        *(0x00104000, 0x0020000D, 0x00200010, 0x00321060),
    )
)
"""Attributes of the patient and of the study."""
SERIES_TAGS = frozenset(
    (
        *(0x00080005, 0x00080021, 0x00080031, 0x00080060, 0x00080064, 0x00080070, 0x00080080, 0x00080201),
        *(0x00081010, 0x0008103E, 0x0008103F, 0x00081040, 0x00081050, 0x00081070, 0x00081090, 0x00180015),
        *(0x00181000, 0x00181030, 0x00185100, 0x0020000D, 0x0020000E, 0x00200011, 0x00200052, 0x00200060),
        *(0x00400244, 0x00400245, 0x00400253, 0x00400254, 0x00400275, 0x00540400),
    )
)
"""Attributes of the series, with the UID of its study."""
INSTANCE_TAGS = frozenset(
    (
        *(0x00080005, 0x00080008, 0x00080012, 0x00080013, 0x00080016, 0x00080018, 0x00080022, 0x00080023),
        *(0x0008002A, 0x00080032, 0x00080033, 0x00080201, 0x00180050, 0x00180088, 0x0020000D, 0x0020000E),
        *(0x00200012, 0x00200013, 0x00200032, 0x00200037, 0x00200052, 0x00201041, 0x00280002, 0x00280004),
        *(0x00280006, 0x00280008, 0x00280010, 0x00280011, 0x00280030, 0x00280100, 0x00280101, 0x00280102),
        *(0x00280103, 0x00281050, 0x00281051, 0x00281052, 0x00281053, 0x00282110, 0x0040A043, 0x0040A491),
        *(0x0040A493, 0x00420010, 0x00700080, 0x00700081),
    )
)
"""Attributes of the instance, with the UIDs of study and series."""
ALL_TAGS = STUDY_TAGS | SERIES_TAGS | INSTANCE_TAGS
UID = re.compile(r"[0-9.]{1,64}")
LOSSY_IMAGE_COMPRESSION = "00282110"
LONGEST_VALUE = 64 << 10
"""Characters of an attribute as JSON; what is longer is no text to search for, and is left to the header."""
SOP_INSTANCE, IMAGE_TYPE = "00080018", "00080008"


@dataclass(frozen=True)
class ImageRow:
    """An image of any kind, from its commit record alone."""

    id: str
    n: int
    commit: str
    """SHA-256 of the commit record."""
    kind: str
    name: str
    fidelity: str
    study: str | None
    series: str | None
    added: str
    record: str
    """JSON: the keys that `ls --json` shows."""


@dataclass(frozen=True)
class InstanceRow:
    """One DICOM instance of an image."""

    file: int
    """Position among the image's source files."""
    study: str
    series: str
    sop: str
    """SOPInstanceUID; of a lossy image the derived one, which its export has too."""
    original: str
    """SOPInstanceUID of the file that was archived."""
    sha256: str
    syntax: str
    """Transfer syntax in which it can be had as it is stored."""
    number: int | None
    attributes: Mapping[str, Mapping[str, Any]]
    """DICOM JSON by level: ``study``, ``series``, ``instance``."""


def image_row(image: "Image") -> ImageRow:
    """The row of an image; opens nothing but what its commit record holds."""
    record = image_record(image)
    summary = image.summary
    return ImageRow(
        id=image.id,
        n=image.commit.n,
        commit=image.commit.sha256,
        kind=str(record["kind"]),
        name=str(record["name"]),
        fidelity=str(record["fidelity"]),
        study=_text(summary.get("StudyInstanceUID")),
        series=_text(summary.get("SeriesInstanceUID")),
        added=str(record["added"] or ""),
        record=json.dumps(record, separators=(",", ":"), ensure_ascii=False),
    )


def instance_rows(image: "Image") -> Iterator[InstanceRow]:
    """A row for each instance of a DICOM image, from its archived header.

    Raises `IntegrityError` where what is kept cannot be read.
    """
    if image.description.format != "dicom":
        return
    lossy = image.info is not None and image.round_trip == "lossy"
    for i, file in enumerate(image.source.files):
        uids = file.record["uids"] if file.format == "dicom" else {}
        if not all(UID.fullmatch(str(uids.get(level) or "")) for level in ("study", "series", "sop")):
            # Nobody can ask for what has no UID of its own (a digest stands in); it stays in the catalogue.
            continue
        original = str(uids["sop"])
        kept = kept_header(file, image.source.verbatim(i), StoredFrames(image, i).stream)
        # No URI: what is searched for is short.
        model = json_model(kept.elements, lambda path: "", only=ALL_TAGS)
        model = {key: value for key, value in model.items() if len(json.dumps(value)) <= LONGEST_VALUE}
        sop = original
        loss = loss_of(image, i) if lossy and file.record["pixels"] is not None else None
        if loss is not None:
            sop = loss.uid
            model[SOP_INSTANCE] = {"vr": "UI", "Value": [sop]}
            model[LOSSY_IMAGE_COMPRESSION] = {"vr": "CS", "Value": ["01"]}
            types = model.get(IMAGE_TYPE, {}).get("Value", [])[1:] or ["SECONDARY"]
            model[IMAGE_TYPE] = {"vr": "CS", "Value": ["DERIVED", *types]}
        number = file.record["instance"]
        yield InstanceRow(
            file=i,
            study=str(uids["study"]),
            series=str(uids["series"]),
            sop=sop,
            original=original,
            sha256=file.sha256,
            syntax=EXPLICIT_LITTLE if loss is not None else str(file.record["syntax"]),
            number=None if number is None else int(number),
            attributes={
                level: {key: value for key, value in model.items() if int(key, 16) in tags}
                for level, tags in LEVELS.items()
            },
        )


LEVELS = {"study": STUDY_TAGS, "series": SERIES_TAGS, "instance": INSTANCE_TAGS}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
