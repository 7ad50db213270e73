"""What an `add` is asked and what it answers: small values that travel between its parts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tilevault.archive.description import Description
from tilevault.archive.formats import SourceImage
from tilevault.archive.lossy import Closeup
from tilevault.archive.manifest import CommitRecord, image_id
from tilevault.codecs import LearnedCodec
from tilevault.workflows.discover import FileResult
from tilevault.workflows.lossy import LossyTarget
from tilevault.workflows.plan import image_name

__all__ = ["AddResult", "Event", "ImageResult", "Order", "bytes_source", "failure_of", "result_of"]

LOSSY = frozenset({"jpeg", "jxl", "lerc", "webp"})
"""Compressions of TIFF that lose, or may."""
GROWTH = 1.2
"""Stored bytes over source bytes from which on it is said that a lossy source has grown."""


@dataclass(frozen=True)
class Event:
    """How far an `add` is."""

    kind: str
    """``scan``, ``shard``, ``image`` or ``done``."""
    files: int = 0
    files_total: int = 0
    bytes_done: int = 0
    bytes_total: int = 0
    bytes_stored: int = 0
    message: str = ""


@dataclass(frozen=True)
class ImageResult:
    """What became of one image."""

    image: str
    name: str
    status: str
    """``added``, ``extended``, ``present``, ``planned`` or ``failed``."""
    sources: tuple[str, ...]
    round_trip: str
    bytes_source: int
    bytes_stored: int = 0
    code: str | None = None
    reason: str | None = None
    exit_code: int = 0
    warnings: tuple[str, ...] = ()
    commit: Mapping[str, Any] | None = None
    """``n``, ``sha256``, ``generation`` and ``manifest`` of the commit record that holds it."""
    fidelity: str = "exact"
    """``exact``, or the target to which the pixels are (in a dry run: would be) altered."""
    quality: Mapping[str, Any] | None = None
    """Of a lossy image: what was measured (`archive.lossy.summary`)."""
    worst: tuple[Closeup, ...] = ()
    """Of a lossy image that was just added: where it differs most from what was handed in."""


@dataclass(frozen=True)
class AddResult:
    """What became of everything that was handed in."""

    images: tuple[ImageResult, ...]
    files: tuple[FileResult, ...]
    totals: Mapping[str, Any]


@dataclass(frozen=True)
class Order:
    """One image to store: all that a worker needs to know."""

    archive: str
    image: SourceImage
    side: int
    prefer: str
    provenance: Mapping[str, Any]
    one_thread: bool = False
    """One worker was asked for: no task has threads of its own."""
    lossy: LossyTarget | None = None
    """None: exact."""
    codec: LearnedCodec | None = None
    """Of a lossy image, once its pixels have been looked at."""


def bytes_source(image: SourceImage) -> int:
    """Bytes of all files of an image."""
    return sum(file.size for file in image.sources)


def result_of(
    order: Order,
    status: str,
    commit: CommitRecord | None = None,
    description: Description | None = None,
    worst: Sequence[Closeup] = (),
) -> ImageResult:
    """What became of an image that did not fail."""
    image = order.image
    of_files = (w for file in image.sources for w in file.warnings)
    return ImageResult(
        image=image_id(image.kind, image.key, image.fidelity),
        name=description.name if description else image_name(image),
        status=status,
        sources=tuple(file.name for file in image.sources),
        round_trip=image.round_trip,
        bytes_source=bytes_source(image),
        fidelity=image.fidelity,
        worst=tuple(worst),
        quality=commit.summary.get("quality") if commit else None,
        bytes_stored=int(commit.summary.get("bytes_stored", 0)) if commit else 0,
        # A format may say of the image what it says of its one file.
        warnings=tuple(dict.fromkeys((*image.warnings, *of_files, *_growth(image, commit)))),
        commit=None
        if commit is None
        else {
            "n": commit.n,
            "sha256": commit.sha256,
            "generation": commit.generation,
            "manifest": commit.manifest,
        },
    )


def failure_of(order: Order, code: str, reason: str, exit_code: int) -> ImageResult:
    """What became of an image that failed."""
    return replace(result_of(order, "failed"), code=code, reason=reason, exit_code=exit_code)


def _growth(image: SourceImage, commit: CommitRecord | None) -> Iterator[str]:
    """What to say where a source was small because its compression loses, and its pixels are kept whole."""
    stored, source = int(commit.summary.get("bytes_stored", 0)) if commit else 0, bytes_source(image)
    named = {file.record.get("layout", {}).get("compression_name") for file in image.sources if file.record}
    lossy = sorted(named & LOSSY)
    if lossy and stored > GROWTH * source:
        yield (
            f"takes {stored / source:.1f} times the bytes of its source, which is compressed by "
            f"{', '.join(lossy)}: the decoded pixels are kept, without loss"
        )
