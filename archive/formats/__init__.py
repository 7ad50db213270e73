"""The image formats that can be read and written, and the values they exchange with the rest.

A format is a module with the functions of `Format`; adding one is a new file and a line in `FORMATS`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, Self

from tilevault.archive.image import ImageInfo, ImageReader, Window, Words
from tilevault.codecs.errors import TilevaultError

__all__ = [
    "ArchivedFrames",
    "Format",
    "FrameAccess",
    "SourceFile",
    "SourceImage",
    "SourceReader",
    "formats",
]

VERBATIM_PIECE = 4 << 20
"""Largest piece in which non-pixel bytes are handed over."""


@dataclass(frozen=True)
class SourceFile:
    """One file as it was scanned."""

    name: str
    """Relative path with ``/`` between its parts, as the file shall be called on export."""
    path: str | None
    """Where the file lies now; None where its content lies in the archive already."""
    size: int
    sha256: str
    stat: tuple[int, int, int, int, int]
    """st_dev, st_ino, st_size, st_mtime_ns, st_ctime_ns when scanned; `SourceChanged` if different later."""
    format: str
    """``"dicom"``, ``"geotiff"`` or ``"sidecar"`` (kept whole)."""
    record: Mapping[str, Any]
    """JSON values: all that the format needs to stack, read and rebuild the file."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourceImage:
    """One image to archive: which files it is made of, and what their pixels are as an array."""

    kind: str
    """Identity kind: ``"dicom"`` or ``"geotiff"``."""
    key: str
    """Identity key: DICOM series + pixel format + orientation class, or the file's SHA-256."""
    format: str
    """Name of the module that reads it."""
    sources: tuple[SourceFile, ...]
    """In stacking order; sidecars last."""
    info: ImageInfo | None
    """None where there are no pixels: the files are kept verbatim."""
    codec: str | None
    """None: the lossless tile codec. Otherwise a transfer syntax UID: one verbatim bit stream per frame."""
    round_trip: str
    """What ingest has to prove: ``"file-exact"`` or ``"metadata-exact"``; ``"lossy"`` where asked for."""
    search: Mapping[str, Any]
    """JSON values that `ls --where` looks at."""
    layout: Mapping[str, Any] = field(default_factory=dict)
    """JSON values of the format: how array positions map to files and frames."""
    warnings: tuple[str, ...] = ()
    fidelity: str = "exact"
    """``"exact"``, or the lossy target, such as ``"psnr=45"``: part of the identity."""


class ArchivedFrames(Protocol):
    """Content of files that lie in the archive already, found by their SHA-256."""

    def read_words(self, sha256: str, frame: int, rows: slice) -> Words:
        """Rows of a frame's stored words: (y, x) or (c, y, x)."""
        ...

    def read_stream(self, sha256: str, frame: int) -> bytes:
        """A frame's bit stream."""
        ...

    def verbatim(self, sha256: str) -> Iterator[bytes]:
        """The file's non-pixel bytes."""
        ...


class FrameAccess(Protocol):
    """What is stored of one file's pixels, for rebuilding the file."""

    def read(self, window: Window) -> Words:
        """Words of a level-0 window of the image."""
        ...

    def words(self, frame: int, rows: slice) -> Words:
        """Rows of the frame's stored words: (y, x) or (c, y, x)."""
        ...

    def stream(self, frame: int) -> bytes:
        """The frame's bit stream."""
        ...


class SourceReader(ImageReader, Protocol):
    """Reads one `SourceImage`; a context manager."""

    def read_stream(self, index: tuple[int, ...]) -> bytes:
        """The bit stream of the frame at a chunk position (encapsulated images only)."""
        ...

    def verbatim(self, i: int) -> Iterator[bytes]:
        """All non-pixel bytes of ``sources[i]``, in pieces of at most 4 MiB."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class Format(Protocol):
    """The functions of a format module."""

    def recognizes(self, head: bytes) -> bool:
        """Whether a file that begins with ``head`` (its first 4 KiB) claims to be of this format."""
        ...

    def scan(self, path: Path, name: str) -> list[SourceFile]:
        """Parse, check and hash a file (and find its sidecars): [file, *sidecars].

        Raises subclasses of `InputRejected` only.
        """
        ...

    def assemble(
        self, files: Sequence[SourceFile]
    ) -> tuple[list[SourceImage], list[tuple[SourceFile, TilevaultError]]]:
        """Group scanned files into images; second, the files that fit nowhere, with the reason."""
        ...

    def instance_of(self, file: SourceFile) -> tuple[str, str] | None:
        """(group, name) under which a file may exist with one content only, or None."""
        ...

    def never_lossy(self, image: SourceImage) -> str | None:
        """Why the pixels of an image must not be altered (labels, doses, parameters), or None."""
        ...

    def looks_exact(self, image: SourceImage) -> str | None:
        """Why they may have to stay exact, by what is only a hint, or None."""
        ...

    def padding_value(self, image: SourceImage) -> int | None:
        """A value of samples that were not measured, beside nodata; or None."""
        ...

    def window_inputs(self, image: SourceImage, window: Window) -> Any:
        """JSON values that name the source samples of a level-0 window: the same values, the same samples."""
        ...

    def open_reader(self, image: SourceImage, archived: ArchivedFrames | None = None) -> SourceReader:
        """A reader of ``image``; ``archived`` serves the files that have no path."""
        ...

    def prove_metadata(self, image: SourceImage) -> None:
        """Show that an export of a metadata-exact image would carry all its metadata.

        Raises `VerifyAfterEncodeFailed`.
        """
        ...

    def rebuild(
        self, file: SourceFile, verbatim: Iterator[bytes], frames: FrameAccess
    ) -> Iterator[bytes | memoryview]:
        """The bytes of a file-exact source, piece by piece."""
        ...


def formats() -> dict[str, ModuleType]:
    """Every format by name, in the order in which they are asked (loaded on first use)."""
    from tilevault.archive.formats import dicom, geotiff

    return {"dicom": dicom, "geotiff": geotiff}
