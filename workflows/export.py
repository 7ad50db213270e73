"""Writes images out of an archive: the files as they were, or arrays and pictures of them.

Every file is proved before it gets its name. A file-exact source is put together again and must have its
recorded SHA-256; a metadata-exact one is written as a new file, read back, and compared word for word. What
is damaged or missing gives a failure for that file and no file.
"""

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tilevault.archive.formats import SourceFile, formats
from tilevault.archive.image import ImageInfo, Window, Words
from tilevault.codecs.errors import (
    InvalidRequest,
    LossyRefused,
    TileCorrupt,
    TilevaultError,
    UnsupportedSyntax,
    VerifyAfterEncodeFailed,
)
from tilevault.workflows.finding import image_of
from tilevault.workflows.lossy import loss_items
from tilevault.workflows.names import ExportNames
from tilevault.workflows.parallel import in_order
from tilevault.workflows.placing import Placing, placed
from tilevault.workflows.reading import picture_of

if TYPE_CHECKING:
    from tilevault.archive.store import Archive, Image

__all__ = ["FORMATS", "Exported", "export"]

FORMATS = ("original", "dicom", "cog", "npy", "png")
SUFFIXES = {"dicom": ".dcm", "geotiff": ".tif", "sidecar": ""}
PREVIEW_SIDE = 2048
PREVIEW_SAMPLES = 64 << 20
"""Samples that are read for a preview, at most, where there is a level that small."""
BLOCK_BYTES = 32 << 20
"""Samples that are read, written or compared at a time (or one tile, if larger)."""


@dataclass(frozen=True)
class Exported:
    """What became of one file of an export."""

    image: str
    source: str
    """Name of the source file, or of the image where the format makes one file of an image."""
    format: str
    status: str
    """``written``, ``present`` (an equal file was there), ``skipped`` or ``failed``."""
    path: str | None = None
    """Where it lies, with the folder of the export."""
    bytes: int = 0
    sha256: str | None = None
    proof: str = ""
    """What was compared before it got its name: ``file-exact``, ``metadata-exact``, ``verbatim``,
    ``pixel-exact`` (read back: every word and mask); of files that are not read back, what they hold:
    ``values``, ``words``, ``preview``. What is read from the archive for them is checked. ``decoded``: read
    back, every word is that of the lossy image."""
    renamed: bool = False
    """The source's own name was not usable here."""
    code: str | None = None
    reason: str | None = None
    exit_code: int = 0

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {key: value for key, value in vars(self).items() if key != "exit_code"}


@dataclass(frozen=True)
class _Item:
    """One file to write."""

    image: str
    source: str
    format: str
    number: int
    """Position among the image's sources; -1 for a file made of the whole image."""
    parts: tuple[str, ...]
    renamed: bool
    explicit: bool
    """The image was asked for by name."""


class _Stopped(BaseException):
    """The export was interrupted."""


@dataclass
class _Export:
    """What the threads of one export share."""

    archive: "Archive"
    folder: Path
    words: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    opened: threading.local = field(default_factory=threading.local)

    def image(self, name: str) -> "Image":
        """The image, opened once per thread in a row: its tables and blocks are cached in it."""
        held: Image | None = getattr(self.opened, "image", None)
        if held is None or held.id != name:
            held = self.opened.image = self.archive[name]
        return held

    def check(self) -> None:
        """Leave, if the export was interrupted."""
        if self.stop.is_set():
            raise _Stopped

    def pieces(self, pieces: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        """The same pieces, until the export is interrupted."""
        for piece in pieces:
            self.check()
            yield piece


def export(
    archive: "Archive",
    images: Sequence[str] | None,
    directory: Path,
    format: str = "original",
    words: bool = False,
    require_lossless: bool = False,
    tell: Callable[[Exported], None] | None = None,
    progress: Callable[..., None] | None = None,
    workers: int | None = None,
) -> list[Exported]:
    """Write ``images`` (ids, prefixes, series UIDs, names; default: all) below ``directory``.

    ``format``: ``original``, ``dicom``, ``cog``, ``npy`` (values; stored words with ``words``) or ``png``.
    ``require_lossless`` makes every lossy image a failure, whatever its format. Never overwrites: an equal
    file is ``present``, another is a `Conflict` for that file. Names are the sources' relative paths where
    they are harmless and free, else they are made of UIDs or digests. Files fail one by one; raises
    `ImageNotFound` before anything is written, and `InvalidRequest`.
    """
    if format not in FORMATS:
        raise InvalidRequest(f"format is one of {', '.join(FORMATS)}, not {format!r}")
    named = (image_of(archive, name) for name in images or ())
    chosen = list(archive) if images is None else list(dict.fromkeys(named))
    shared = _Export(archive, directory, words)
    results = []
    plan = _plan(archive, chosen, format, images is not None, require_lossless)
    total = 0
    for done in in_order(partial(_outcome, shared), plan, workers, shared.stop):
        results.append(done)
        total += done.bytes
        if tell is not None:
            tell(done)
        if progress is not None:
            progress(files=len(results), bytes_done=total)
    return results


def _plan(
    archive: "Archive", images: Iterable[str], format: str, explicit: bool, require_lossless: bool
) -> Iterator["_Item | Exported"]:
    """Every file to write, in order, under its own name; or what prevents it."""
    names = ExportNames()
    for name in images:
        try:
            image = archive[name]
            if require_lossless:
                image.require_lossless()
            files = image.source.files
            if format == "original" or (format == "dicom" and image.description.format == "dicom"):
                yield from _originals(names, image.id, files, explicit, format)
            else:
                yield _whole(names, image, files, format, explicit)
        except TilevaultError as failure:
            yield _failed(name, name, format, failure)


def _originals(
    names: ExportNames, image: str, files: Sequence[SourceFile], explicit: bool, format: str
) -> Iterator[_Item]:
    """Files under their names. A sidecar is called like the file it belongs to, also when that is renamed."""
    main: tuple[str, str] | None = None
    for number, file in enumerate(files):
        wanted = file.name
        if file.format == "sidecar" and main is not None:
            wanted = _beside(file.name, *main)
        uids = file.record.get("uids", {}) if file.format == "dicom" else {}
        identifiers = [str(uids[key]) for key in ("series", "sop") if uids.get(key)]
        suffix = SUFFIXES.get(file.format, "") or Path(file.name).suffix[:16]
        parts = names.claim(wanted, file.sha256, identifiers, suffix)
        if file.format != "sidecar":
            main = file.name, "/".join(parts)
        yield _Item(image, file.name, format, number, parts, "/".join(parts) != file.name, explicit)


def _beside(sidecar: str, old: str, new: str) -> str:
    for before, after in ((old, new), (_stem(old), _stem(new))):
        if sidecar.startswith(before):
            return after + sidecar.removeprefix(before)
    return sidecar


def _stem(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return folder + slash + (last.rpartition(".")[0] or last)


def _whole(
    names: ExportNames, image: "Image", files: Sequence[SourceFile], format: str, explicit: bool
) -> _Item:
    """One file for the whole image: called like its only source, else like its series or its id."""
    suffix = {"cog": ".tif", "dicom": ".dcm"}.get(format, f".{format}")
    mains = [file.name for file in files if file.format != "sidecar"]
    series = image.summary.get("SeriesInstanceUID")
    stem = _stem(mains[0]) if len(mains) == 1 else str(series or image.id)
    parts = names.claim(stem + suffix, image.id, [image.id], suffix)
    source = mains[0] if len(mains) == 1 else str(image.summary.get("name") or image.id)
    return _Item(image.id, source, format, -1, parts, "/".join(parts) != stem + suffix, explicit)


def _outcome(shared: _Export, item: "_Item | Exported") -> Exported:
    """Write one file; a failure is its outcome."""
    if isinstance(item, Exported):
        return item
    try:
        with placed(shared.folder, item.parts) as placing:
            proof = _WRITERS[item.format](shared, item, placing)
            size, sha256 = placing.measure()
            status = placing.settle()
    except TilevaultError as failure:
        if isinstance(failure, _NotForThis) and not item.explicit:
            failed = _failed(item.image, item.source, item.format, failure)
            return replace(failed, status="skipped", exit_code=0)
        return _failed(item.image, item.source, item.format, failure, shared.folder.joinpath(*item.parts))
    path = str(shared.folder.joinpath(*item.parts))
    return Exported(item.image, item.source, item.format, status, path, size, sha256, proof, item.renamed)


def _failed(
    image: str, source: str, format: str, failure: TilevaultError, path: Path | None = None
) -> Exported:
    return Exported(
        image,
        source,
        format,
        "failed",
        path=None if path is None else str(path),
        code=failure.code,
        reason=failure.message,
        exit_code=failure.exit_code,
    )


class _NotForThis(UnsupportedSyntax):
    """The image is of a kind that this format is not for."""

    @property
    def code(self) -> str:
        return "UnsupportedSyntax"


def _original(shared: _Export, item: _Item, placing: Placing) -> str:
    image = shared.image(item.image)
    file = image.source.files[item.number]
    if image.round_trip == "lossy" and file.format != "sidecar":
        other = "dicom" if file.format == "dicom" else "cog"
        raise LossyRefused(
            f"image {image.id} is lossy ({image.fidelity}): its file cannot be had as it was; "
            f"--format {other} gives what there is",
            image=image.id,
        )
    if image.round_trip != "file-exact" and file.format not in ("sidecar", "dicom"):
        return _metadata_exact(shared, image, placing)
    found = placing.write_pieces(shared.pieces(image.source.rebuild(item.number)))
    if found != file.sha256:
        raise TileCorrupt(
            f"{file.name} does not come out as it went in: SHA-256 {found} instead of {file.sha256}",
            image=image.id,
            source=file.name,
        )
    return "verbatim" if file.format == "sidecar" or image.info is None else "file-exact"


def _metadata_exact(shared: _Export, image: "Image", placing: Placing) -> str:
    """Write the image as a file of its format, then read that file and compare every word and mask."""
    module = formats()[image.description.format]
    read = _words_reader(shared, image)
    module.write_original(placing.path, image.source.image, read, image.read_mask, image.source.verbatim(0))
    _prove(shared, image, module, placing.path, metadata=True)
    return "metadata-exact"


def _prove(shared: _Export, image: "Image", module: Any, path: Path, metadata: bool) -> None:
    """Raise `VerifyAfterEncodeFailed` unless the file at ``path`` reads as the image does."""
    kept = image.source.files[0]
    written, *_ = module.scan(path, kept.name)
    images, rejected = module.assemble([written])
    if rejected or len(images) != 1:
        raise VerifyAfterEncodeFailed(f"{kept.name}: the file that was written is not an image again")
    if metadata and json.loads(json.dumps(written.record.get("raster"))) != kept.record.get("raster"):
        raise VerifyAfterEncodeFailed(f"{kept.name}: the file that was written has other metadata")
    read = _words_reader(shared, image)
    with module.open_reader(images[0]) as reader:
        mine = (image.shape, image.dtype, image.info is not None and image.info.has_mask)
        if mine != (reader.info.shape, reader.info.dtype, reader.info.has_mask):
            raise VerifyAfterEncodeFailed(f"{kept.name}: the file that was written has another form or mask")
        for window in _blocks(image.shape, image.grid.tile, image.dtype.itemsize):
            if reader.read(window).tobytes() != read(window).tobytes():
                raise VerifyAfterEncodeFailed(f"{kept.name}: other pixels in {window.start} .. {window.stop}")
            flat = Window(window.start[-2:], window.stop[-2:])
            if reader.info.has_mask and not np.array_equal(reader.read_mask(flat), image.read_mask(flat)):
                raise VerifyAfterEncodeFailed(f"{kept.name}: another mask in {flat.start} .. {flat.stop}")


def _words_reader(shared: _Export, image: "Image") -> Callable[[Window], Words]:
    def read(window: Window) -> Words:
        shared.check()
        return image.readers["data"].read(window)

    return read


def _dicom(shared: _Export, item: _Item, placing: Placing) -> str:
    image = shared.image(item.image)
    if image.description.format != "dicom":
        raise _NotForThis("dicom is for images that came as DICOM")
    if image.source.files[item.number].record.get("pixels") is None:
        return _original(shared, item, placing)
    from tilevault.workflows.export_dicom import write_instance

    return write_instance(image, item.number, placing)


def _cog(shared: _Export, item: _Item, placing: Placing) -> str:
    image = shared.image(item.image)
    if image.info is None or image.info.kind != "satellite":
        raise _NotForThis("cog is for satellite images")
    module = formats()["geotiff"]
    read = _words_reader(shared, image)
    source, items = image.source.image, loss_items(image)
    said = {"items": items} if items else {}
    module.write_cog(placing.path, source, read, image.read_mask, image.source.verbatim(0), **said)
    _prove(shared, image, module, placing.path, metadata=False)
    return "decoded" if items else "pixel-exact"


def _npy(shared: _Export, item: _Item, placing: Placing) -> str:
    """The whole array, streamed in bands of rows: memory does not grow with the image."""
    image = shared.image(item.image)
    if image.info is None:
        raise _NotForThis("the image has no pixels")
    shape, dtype = image.shape, image.dtype
    with placing.open() as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        begin, row = file.tell(), shape[-1] * dtype.itemsize
        strides = np.cumprod([row, *reversed(shape[1:-1])])[::-1]
        for window in _blocks(shape, image.grid.tile, dtype.itemsize):
            shared.check()
            part = image.readers["data"].read(window) if shared.words else image.read(window)
            part, x = np.ascontiguousarray(part), window.start[-1] * dtype.itemsize
            for at in product(*(range(n) for n in part.shape[:-1])):
                place = [a + b for a, b in zip(at, window.start, strict=False)]
                file.seek(begin + x + sum(int(i) * int(n) for i, n in zip(place, strides, strict=True)))
                file.write(part[at].tobytes())
    return "words" if shared.words else "values"


def _blocks(shape: Sequence[int], tile: Sequence[int], itemsize: int) -> Iterator[Window]:
    """Windows of whole tiles, as wide as 32 MiB allow: each tile is decoded once, in bounded memory."""
    wide = max(1, BLOCK_BYTES // (prod(tile) * itemsize)) * tile[-1]
    steps = [*tile[:-1], min(wide, shape[-1])]
    for start in product(*(range(0, n, step) for n, step in zip(shape, steps, strict=True))):
        stop = (min(a + step, n) for a, step, n in zip(start, steps, shape, strict=True))
        yield Window(start, tuple(stop))


def _png(shared: _Export, item: _Item, placing: Placing) -> str:
    """A preview of at most 2,048 pixels a side; of a stack, its middle plane."""
    image = shared.image(item.image)
    info = image.info
    if info is None:
        raise _NotForThis("the image has no pixels")
    level = _preview_level(image, info)
    at = {a: n // 2 for a, n in zip(info.axes[:-2], info.shape, strict=False) if a != "c"}
    mask = image.read_mask(None, level) if info.has_mask else None
    picture = picture_of(image.read(None, level, at or None), info, at, mask, PREVIEW_SIDE)
    placing.write_pieces(iter([picture]))
    return "preview"


def _preview_level(image: "Image", info: ImageInfo) -> int:
    """The coarsest level that is no smaller than a preview; a coarser one where that has too many samples."""
    level = max(k for k in image.levels if k == 0 or max(image.level_shape(k)[-2:]) >= PREVIEW_SIDE)
    bands = prod(n for axis, n in zip(info.axes, info.shape, strict=True) if axis == "c")
    while level < image.levels[-1] and prod(image.level_shape(level)[-2:]) * bands > PREVIEW_SAMPLES:
        level += 1
    return level


_WRITERS: dict[str, Callable[[_Export, _Item, Placing], str]] = {
    "original": _original,
    "dicom": _dicom,
    "cog": _cog,
    "npy": _npy,
    "png": _png,
}
