"""The report of an `add`: what came in, what it became, and what was left out and why, as one HTML file.

Gathering (here) is apart from drawing (report_page.py): a `Report` is plain values, so that the page can be
looked at and tested without an archive. The page holds patient data; the file is readable by its owner only.
"""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevault.archive.image import ImageInfo
from tilevault.archive.lossy import Closeup
from tilevault.codecs.errors import TilevaultError
from tilevault.workflows.console import reason_alone
from tilevault.workflows.placing import placed
from tilevault.workflows.report_quality import QualityView, gather_quality

if TYPE_CHECKING:
    from tilevault.archive.store import Archive, Image
    from tilevault.workflows.ingest import AddResult, ImageResult

__all__ = ["MAX_PICTURES", "Report", "ReportFile", "ReportImage", "bytes_read", "gather", "write_report"]

MAX_PICTURES = 200
"""Images shown with a thumbnail and a heat map, at most: a page of 10,000 images must still open."""
THUMBNAIL_SIDE = 128
THUMBNAIL_SAMPLES = 64 << 20
"""Samples of a coarse level that are read for one thumbnail, at most."""
FORMAT_LABELS = {"dicom": "DICOM, other", "geotiff": "GeoTIFF"}


@dataclass(frozen=True)
class ReportImage:
    """One image of the report."""

    id: str
    name: str
    status: str
    """``added``, ``extended``, ``present``, ``planned`` or ``failed``."""
    round_trip: str
    """``file-exact``, ``metadata-exact`` or ``lossy``: what was proved when it was stored."""
    bytes_source: int
    """Size of the files."""
    bytes_stored: int
    """Size of all that the archive keeps of them; 0 where nothing was stored."""
    sources: int
    """Number of files."""
    modality: str = "?"
    """DICOM Modality, or the format."""
    shape: tuple[int, ...] | None = None
    """None where the files hold no pixels."""
    axes: tuple[str, ...] = ()
    dtype: str = ""
    codec: str = ""
    thumbnail: bytes | None = None
    """A PNG of at most 128 x 128 pixels."""
    bits_per_pixel: NDArray[np.float64] | None = None
    """Coded bits per pixel of each tile: (rows, columns) of tiles, or (1, n) along ``bits_along``."""
    bits_along: str = "yx"
    """What the heat map spreads over: ``yx``, or the axis along which single-tile planes are stacked."""
    tile: tuple[int, int] = (1, 1)
    """Rows and columns of a tile, in pixels."""
    code: str | None = None
    reason: str | None = None
    warnings: tuple[str, ...] = ()
    fidelity: str = "exact"
    """``exact``, or the bound of a lossy image."""
    quality: QualityView | None = None
    """Of a lossy image: what was measured."""


@dataclass(frozen=True)
class ReportFile:
    """A file that is no image in the archive."""

    source: str
    status: str
    """``skipped`` (neither DICOM nor TIFF) or ``rejected`` (claims to be one and is not sound)."""
    code: str
    reason: str


@dataclass(frozen=True)
class Report:
    """All that the page shows."""

    title: str
    images: tuple[ReportImage, ...]
    files: tuple[ReportFile, ...]
    files_read: int
    """Files that were handed in, images or not."""
    seconds: float
    made: str
    """When, ISO 8601."""
    version: str
    settings: Mapping[str, str] = field(default_factory=dict)
    """How it was encoded, by name, for people."""
    thumbnails: bool = True
    """False: left out on purpose."""


def bytes_read(images: "Iterable[ImageResult | ReportImage]") -> int:
    """Source bytes that went into the archive in this run: what its throughput counts."""
    return sum(image.bytes_source for image in images if image.status in ("added", "extended"))


def write_report(
    path: Path, archive: "Archive | None", result: "AddResult", *, thumbnails: bool = True
) -> None:
    """Write the report of ``result`` to ``path``: whole or not at all, mode 0600, never over another file.

    ``archive`` None (nothing was stored) leaves thumbnails and heat maps out. Raises `Conflict`,
    `StoreFull`, `AccessDenied` or another of our errors if the file cannot be written; an image that
    cannot be read has no picture and says why.
    """
    from tilevault.workflows.report_page import render_page

    page = render_page(gather(archive, result, thumbnails=thumbnails)).encode("utf-8", "replace")
    with placed(path.parent, (path.name,)) as placing:
        placing.write_pieces(iter((page,)))
        placing.settle()


def gather(archive: "Archive | None", result: "AddResult", *, thumbnails: bool = True) -> Report:
    """What the page shows of ``result``, with pictures of the first `MAX_PICTURES` images."""
    import tilevault

    images: list[ReportImage] = []
    settings: dict[str, str] = {}
    for i, entry in enumerate(result.images):
        shown = _plain(entry)
        stored = _stored(archive, entry)
        if stored is not None:
            shown = _described(shown, stored.summary)
            settings.update(_settings(stored))
            if i < MAX_PICTURES:
                shown = _pictured(shown, stored, thumbnails, entry.worst)
        images.append(shown)
    codecs = sorted({image.codec for image in images if image.codec})
    if codecs:
        settings["codecs"] = ", ".join(codecs)
    totals = result.totals
    return Report(
        title=archive.location.rstrip("/").rpartition("/")[2] if archive is not None else "nothing stored",
        images=tuple(images),
        files=tuple(
            ReportFile(f.source, f.status, f.code, reason_alone(f.reason, f.source)) for f in result.files
        ),
        files_read=int(totals.get("files", 0)),
        seconds=float(totals.get("seconds", 0.0)),
        made=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        version=tilevault.__version__,
        settings=settings,
        thumbnails=thumbnails,
    )


def _plain(entry: "ImageResult") -> ReportImage:
    return ReportImage(
        id=entry.image or "",
        name=entry.name,
        status=entry.status,
        round_trip=entry.round_trip,
        bytes_source=entry.bytes_source,
        bytes_stored=entry.bytes_stored,
        sources=len(entry.sources),
        code=entry.code,
        reason=None if entry.reason is None else reason_alone(entry.reason, entry.name, *entry.sources),
        warnings=tuple(dict.fromkeys(entry.warnings)),
        fidelity=entry.fidelity,
    )


def _stored(archive: "Archive | None", entry: "ImageResult") -> "Image | None":
    if archive is None or entry.status in ("failed", "planned") or not entry.image:
        return None
    try:
        return archive[entry.image]
    except TilevaultError:
        # Removed again meanwhile, or damaged: the page still says what `add` did.
        return None


def _described(shown: ReportImage, summary: Mapping[str, Any]) -> ReportImage:
    shape = summary.get("shape")
    kind = str(summary.get("kind", ""))
    return replace(
        shown,
        modality=str(summary.get("Modality") or FORMAT_LABELS.get(kind, kind)),
        shape=None if shape is None else tuple(int(n) for n in shape),
        axes=tuple(str(a) for a in summary.get("axes") or ()),
        dtype=str(summary.get("dtype") or ""),
        codec=str(summary.get("codec") or ""),
    )


def _settings(image: "Image") -> dict[str, str]:
    provenance = image.commit.provenance
    named = {"tilevault": "tilevault", "Python": "python", "NumPy": "numpy", "tile side": "tile"}
    return {name: str(provenance[key]) for name, key in named.items() if key in provenance}


def _pictured(shown: ReportImage, image: "Image", thumbnails: bool, worst: Sequence[Closeup]) -> ReportImage:
    try:
        info = image.info
        if info is None:
            return shown
        bits, along = _bits_per_pixel(image.quality.bits, image.quality.samples, info)
        picture = _thumbnail(image, info) if thumbnails else None
        rows, columns = image.grid.tile[-2:]
        shown = replace(shown, quality=gather_quality(image, worst, thumbnails))
        return replace(shown, bits_per_pixel=bits, bits_along=along, tile=(rows, columns), thumbnail=picture)
    except TilevaultError as error:
        return replace(shown, warnings=(*shown.warnings, f"{error.code}: {error.message}"))


def _thumbnail(image: "Image", info: ImageInfo) -> bytes | None:
    """A PNG of the middle plane, from the coarsest level that is large enough."""
    from tilevault.workflows.reading import picture_of

    level = 0
    # Cb and Cr in turn along a row are no picture that could be reduced.
    if info.attributes.get("photometric") != "YBR_FULL_422":
        fitting = [k for k in image.levels if max(image.level_shape(k)[-2:]) >= THUMBNAIL_SIDE]
        level = max(fitting, default=0)
    shape = image.level_shape(level)
    at = {axis: n // 2 for axis, n in zip(info.axes[:-2], shape, strict=False) if axis != "c"}
    if prod(n for axis, n in zip(info.axes, shape, strict=True) if axis not in at) > THUMBNAIL_SAMPLES:
        return None
    values = image.read(level=level, index=at)
    mask = image.read_mask(level=level) if info.has_mask else None
    return picture_of(values, info, at, mask, THUMBNAIL_SIDE)


def _bits_per_pixel(
    bits: NDArray[Any], samples: NDArray[Any], info: ImageInfo
) -> tuple[NDArray[np.float64], str]:
    """Coded bits per pixel over the tile grid: all samples of a pixel together, planes averaged.

    Where a plane is a single tile, along the innermost stacked axis instead: (1, n).
    """
    coded, pixels = bits.astype(np.float64), samples.astype(np.float64)
    if "c" in info.axes:
        axis = info.axes.index("c")
        coded, pixels = coded.sum(axis, keepdims=True), pixels.sum(axis, keepdims=True) / info.shape[axis]
    stacked = [i for i, name in enumerate(info.axes[:-2]) if name != "c"]
    along = [i for i in stacked if coded.shape[i] > 1][-1:]
    single = coded.shape[-1] == coded.shape[-2] == 1
    kept = tuple(along) if single and along else (coded.ndim - 2, coded.ndim - 1)
    summed = tuple(i for i in range(coded.ndim) if i not in kept)
    density = coded.sum(summed) / pixels.sum(summed)
    if density.ndim == 1:
        return density[np.newaxis], info.axes[kept[0]]
    return density, "yx"
