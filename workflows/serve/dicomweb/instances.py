"""Instances of the archive as DICOMweb sees them: found by UID, their headers, their files, their frames.

An instance of a lossy image is what `export --format dicom` writes of it: the archived header, marked, under
the derived SOPInstanceUID.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from tilevault.archive.formats import SourceFile
from tilevault.archive.formats.dicom_json import json_model, tag_text
from tilevault.archive.formats.dicom_kept import KeptHeader, kept_header, written_header
from tilevault.archive.formats.dicom_pixels import layout_of
from tilevault.archive.formats.dicom_scan import EXPLICIT_LITTLE
from tilevault.archive.formats.dicom_write import as_explicit, write_dicom, written_head
from tilevault.archive.source import StoredFrames
from tilevault.archive.store import Image
from tilevault.codecs.errors import ImageNotFound, StoreUnavailable, UnsupportedSyntax
from tilevault.codecs.words import pack_frames
from tilevault.workflows.export_dicom import loss_of
from tilevault.workflows.serve.access import NO_IMAGE

if TYPE_CHECKING:
    from tilevault.workflows.serve.dicomweb.resources import Place
    from tilevault.workflows.serve.services import Services

__all__ = ["Found", "Instance", "Opener", "find", "header_model", "model_of", "open_instance"]

MOST_INSTANCES = 1 << 20
SPOOLED = 4 << 20
"""Bytes of a file that is made for an answer, up to which it is kept in memory."""
PIECE = 1 << 20
CHARSET, TRANSFER_SYNTAXES = "00080005", "00083002"


@dataclass(frozen=True)
class Found:
    """An instance in the index."""

    image: str
    file: int
    study: str
    series: str
    sop: str
    syntax: str
    n: int = -1
    """Number of the commit that the index has read."""


def find(services: "Services", place: "Place") -> list[Found]:
    """The instances below a place, in the order of searches. Raises `ImageNotFound` where there is none.

    Of a study or series those that are visible; a lossy copy is found by its own UID.
    """
    conditions = place.conditions("instance")
    where = " AND ".join(one.sql for one in conditions)
    if place.sop is None:
        where += " AND visible"
    rows = services.index.rows(
        "SELECT image, file, study, series, sop, syntax, "
        "(SELECT n FROM images WHERE id = image) AS n "
        f"FROM instances WHERE {where} "
        "ORDER BY study, series, number IS NULL, number, sop LIMIT ?",
        [*(value for one in conditions for value in one.parameters), MOST_INSTANCES],
    )
    if not rows:
        raise ImageNotFound(NO_IMAGE)
    return [Found(*row) for row in rows]


@dataclass(frozen=True)
class Instance:
    """One instance, opened; for one thread at a time."""

    image: Image
    number: int
    """Position of its file in the image."""

    @property
    def file(self) -> SourceFile:
        """Its file, as it was scanned."""
        return self.image.source.files[self.number]

    @property
    def lossy(self) -> bool:
        """Whether its pixels are not those that were archived."""
        return self.has_pixels and self.image.round_trip == "lossy"

    @property
    def has_pixels(self) -> bool:
        """Whether it is an image to the archive, and not a file that is kept whole."""
        return self.image.info is not None and self.file.record["pixels"] is not None

    @property
    def syntax(self) -> str:
        """Transfer syntax of what is stored; of a lossy image that of what is made of it."""
        return EXPLICIT_LITTLE if self.lossy else str(self.file.record["syntax"])

    @property
    def frames(self) -> int:
        """Frames of an image; 0 of another object."""
        return int(self.file.record["pixels"]["frames"]) if self.has_pixels else 0

    def header(self) -> KeptHeader:
        """All elements but the pixels."""
        stored = StoredFrames(self.image, self.number)
        verbatim = self.image.source.verbatim(self.number)
        if not self.lossy:
            return kept_header(self.file, verbatim, stored.stream)
        return written_header(written_head(self.file, verbatim, loss_of(self.image, self.number)))

    def stored(self) -> tuple[int, Iterator[bytes | memoryview]]:
        """Size and pieces of the stored file, byte for byte; of a lossy image the file that is made of it."""
        if self.lossy:
            return self.explicit()
        return self.file.size, self.image.source.rebuild(self.number)

    def explicit(self) -> tuple[int, Iterator[bytes | memoryview]]:
        """Size and pieces of the file in Explicit VR Little Endian, pixels native.

        Raises `UnsupportedSyntax`.
        """
        if self.file.record["syntax"] == EXPLICIT_LITTLE and not self.lossy:
            return self.stored()
        pixels = self.file.record["pixels"]
        if pixels is None or pixels["coding"] == "deflated":
            made = as_explicit(b"".join(self.stored()[1]), self.file.name)
            return len(made), iter([made])
        # Its client may take its time: what is large waits on the disk.
        out = SpooledTemporaryFile(SPOOLED, prefix="tilevault-")  # noqa: SIM115 - closed when it is read
        verbatim, frames = self.image.source.verbatim(self.number), StoredFrames(self.image, self.number)
        try:
            write_dicom(cast(BinaryIO, out), self.file, verbatim, frames, loss_of(self.image, self.number))
        except BaseException:
            out.close()
            raise
        size = out.tell()
        out.seek(0)
        return size, _read(cast(BinaryIO, out))

    def native_frame(self, frame: int) -> bytes:
        """The stored words of a frame (from 0), as Explicit VR Little Endian has them."""
        layout = replace(layout_of(self.file.record), big_endian=False, swapped=False)
        stored = StoredFrames(self.image, self.number)
        pieces = pack_frames(layout, 1, lambda _, rows: stored.words(frame, rows), 0)
        return b"".join(pieces)

    def words(self, frame: int) -> Any:
        """The stored words of a frame (from 0): (y, x) or (c, y, x)."""
        rows = slice(0, int(self.file.record["pixels"]["rows"]))
        return StoredFrames(self.image, self.number).words(frame, rows)

    def stream(self, frame: int) -> bytes:
        """The bit stream of an encapsulated frame (from 0), as it came. Raises `UnsupportedSyntax`."""
        if (
            self.lossy
            or not self.has_pixels
            or self.file.record["pixels"]["coding"] in ("native", "deflated")
        ):
            raise UnsupportedSyntax("its frames are not encapsulated")
        return StoredFrames(self.image, self.number).stream(frame)


def _read(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while piece := file.read(PIECE):
            yield piece


def open_instance(services: "Services", image: str, number: int, n: int | None = None) -> Instance:
    """An instance for this thread: what its image has read stays shared, what is in use does not.

    ``n``: number of the commit in which it has this position. Raises `StoreUnavailable` (come again) where
    the image has changed since.
    """
    shared = services.image(image)
    if n is not None and shared.commit.n != n:
        commit = services.archive.newest_commit(image)
        if commit is None or commit.n != n or commit.generation is None:
            services.index.image_changed(image)
            raise StoreUnavailable("the image has just changed")
        shared = Image(services.archive, commit)
    if shared.info is not None:
        _ = shared.readers
    own = copy.copy(shared)
    own.__dict__["source"] = shared.source.apart(own)
    own.threads = False
    return Instance(own, number)


class Opener:
    """Opens instances one after the other; those of one image share what has been read of it."""

    def __init__(self, services: "Services") -> None:
        self._services = services
        self._image: Image | None = None

    def open(self, found: Found) -> Instance:
        """The instance that was found."""
        if self._image is None or self._image.id != found.image:
            self._image = open_instance(self._services, found.image, found.file, found.n).image
        return Instance(self._image, found.file)


def header_model(
    services: "Services",
    image: str,
    number: int,
    bulk: Callable[[str], str],
    only: frozenset[int] | None = None,
) -> dict[str, Any]:
    """The DICOM JSON of an instance's header, or of some of its attributes."""
    return model_of(open_instance(services, image, number), bulk, only)


def model_of(
    instance: Instance, bulk: Callable[[str], str], only: frozenset[int] | None = None
) -> dict[str, Any]:
    """The DICOM JSON of an opened instance; pixels are bulk data."""
    kept = instance.header()
    model = json_model(kept.elements, bulk, only=only)
    if only is not None:
        return model
    if CHARSET in model:
        # All text of JSON is UTF-8, whatever the file has (PS3.18 F.2).
        model[CHARSET] = {"vr": "CS", "Value": ["ISO_IR 192"]}
    model[TRANSFER_SYNTAXES] = {"vr": "UI", "Value": [instance.syntax]}
    if kept.pixel is not None:
        path = tag_text(kept.pixel.tag)
        model[path] = {"vr": kept.pixel.vr, "BulkDataURI": bulk(path)}
    return dict(sorted(model.items()))
