"""`add`: files into an archive, image by image, each proved before it is committed.

The files are found and scanned, put together to images, and each image is stored by a job of its own
(`workflows.storing`). Running again skips what is there, continues what was interrupted, and extends a series
that has grown.
"""

import contextlib
import datetime
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tilevault.archive.blobs import STAGING
from tilevault.archive.formats import SourceFile, SourceImage, formats
from tilevault.archive.generation import ShardReceipt
from tilevault.archive.manifest import image_id
from tilevault.archive.places import is_url
from tilevault.archive.store import Archive
from tilevault.codecs.errors import (
    AccessDenied,
    IntegrityError,
    InvalidRequest,
    LossyRefused,
    TilevaultError,
    gravest,
)
from tilevault.codecs.lossless import PREFERENCES
from tilevault.workflows.cluster import Cluster, Job, Task
from tilevault.workflows.discover import FileResult, Found, find_files, scan_files
from tilevault.workflows.lossy import LossyTarget, as_labels, refuse, targeted
from tilevault.workflows.results import (
    AddResult,
    Event,
    ImageResult,
    Order,
    bytes_source,
    failure_of,
    result_of,
)
from tilevault.workflows.storing import image_of_order, is_small, job_of, known_files, survey_job

__all__ = ["AddResult", "Event", "FileResult", "ImageResult", "add"]

SCAN_BATCH = 32
"""Files that one scan task looks at."""


def add(
    sources: Sequence[str | os.PathLike[str]],
    archive: str | os.PathLike[str] | Archive,
    *,
    tile: int = 512,
    prefer: str = "resolution",
    lossy: str | LossyTarget | None = None,
    labels: bool = False,
    yes_lossy: bool = False,
    workers: int | None = None,
    scheduler: str | None = None,
    dry_run: bool = False,
    progress: Callable[[Event], None] | None = None,
) -> AddResult:
    """Archive every image below ``sources``; the archive is made if it is not there.

    ``tile`` is the side of a tile in pixels (64 to 4096), ``prefer`` what tiles are coded for (see
    `LosslessCodec`; encapsulated frames stay as they are). ``lossy`` (``"psnr=DB"`` or ``"max-error=N"``)
    lets pixels be altered within that bound; images of labels, doses or parameters are refused then, with
    ``labels`` all are, and those of few values unless ``yes_lossy``.

    ``workers``: the number of threads (default: one per core), ``scheduler`` the address of a Dask cluster
    to use instead. With ``dry_run`` nothing is written. Errors of single files and images are in the
    result; raised is what stops everything.
    """
    if not 64 <= tile <= 4096:
        raise InvalidRequest(f"a tile has a side of 64 to 4096 pixels, not {tile}")
    if prefer not in PREFERENCES:
        raise InvalidRequest(f"prefer is one of {', '.join(PREFERENCES)}, not {prefer!r:.50}")
    target = LossyTarget.parse(lossy, yes_lossy) if isinstance(lossy, str) else lossy
    if not isinstance(archive, Archive) and is_url(archive):
        raise InvalidRequest(f"{archive}: a remote archive can only be read")
    opened = archive if isinstance(archive, Archive) else None
    path = opened.path if opened else Path(os.fspath(archive))  # type: ignore[arg-type]
    began = time.monotonic()
    if opened is None and not _is_free(path):
        opened = Archive.open(path)
    found = list(find_files(sources, path))
    tally = _Tally(progress or (lambda event: None))
    with Cluster(workers, scheduler) as cluster:
        files, others = _scan_all(cluster, found, tally)
        files, known = _without_conflicts(files, opened)
        images, refused = _assemble(files)
        if labels:
            images = [as_labels(image) for image in images]
        if target is not None:
            images = [targeted(image, target) for image in images]
        images, copies = _distinct(images)
        others += known + refused + copies
        tally.bytes_total = sum(bytes_source(image) for image in images)
        provenance = _provenance(tile, prefer)
        if target is not None:
            provenance["lossy"] = target.fidelity
        place, alone = os.fspath(path.absolute()), workers == 1
        orders = [Order(place, image, tile, prefer, provenance, alone, target) for image in images]
        orders, forbidden = _permitted(orders, labels)
        if dry_run:
            results = _planned_all(cluster, orders, opened)
        else:
            # Only now: what fails or finds nothing before leaves no empty archive behind.
            if orders and opened is None:
                Archive.create(path)
            results = list(_store_all(cluster, orders, tally))
    return _summary([*results, *forbidden], others, time.monotonic() - began, tally)


def _is_free(path: Path) -> bool:
    """Whether an archive can be made at ``path``; False if there is one.

    Raises `InvalidRequest` or `AccessDenied`, before hours of scanning, where neither is so.
    """
    try:
        if (path / "archive.json").exists():
            return False
        taken = path.is_dir() and any(entry.name != STAGING for entry in path.iterdir())
        above = next(one for one in (path, *path.absolute().parents) if one.exists())
    except OSError as error:
        raise AccessDenied(f"{path}: {error.strerror}") from error
    if taken:
        raise InvalidRequest(f"{path}: is neither an archive nor an empty folder")
    if not above.is_dir():
        raise InvalidRequest(f"{path}: is no folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise AccessDenied(f"{path}: there is no right to write in {above}")
    return True


def _provenance(tile: int, prefer: str) -> dict[str, Any]:
    import tilevault

    return {
        "tilevault": tilevault.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "tile": tile,
        "prefer": prefer,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


@dataclass
class _Tally:
    """Counts for the progress events."""

    tell: Callable[[Event], None]
    files: int = 0
    files_total: int = 0
    bytes_done: int = 0
    bytes_total: int = 0
    bytes_stored: int = 0

    def event(self, kind: str, message: str = "") -> None:
        """Tell how far it is now."""
        self.tell(
            Event(
                kind,
                self.files,
                self.files_total,
                self.bytes_done,
                self.bytes_total,
                self.bytes_stored,
                message,
            )
        )


def _scan_all(
    cluster: Cluster, found: list[Found], tally: _Tally
) -> tuple[list[SourceFile], list[FileResult]]:
    tally.files_total = len(found)
    scanned: dict[int, list[SourceFile] | FileResult] = {}
    batches = ((i, _scan_job(batch)) for i, batch in _batched(found))
    for i, outcome in cluster.run(batches):
        if isinstance(outcome, BaseException):
            raise outcome
        for k, result in enumerate(outcome):
            scanned[i + k] = result
        tally.files += len(outcome)
        tally.event("scan")
    ordered = [scanned[i] for i in range(len(found))]
    files = [file for result in ordered if isinstance(result, list) for file in result]
    sidecars = {file.path for file in files if file.format == "sidecar"}
    mains = {result[0].path for result in ordered if isinstance(result, list)} - sidecars
    kept = [file for file in files if file.format == "sidecar" or file.path in mains]
    others = [
        result
        for result, where in zip(ordered, found, strict=True)
        if isinstance(result, FileResult) and where.path not in sidecars
    ]
    return kept, others


def _scan_job(batch: list[Found]) -> Job:
    (results,) = yield [Task(scan_files, (batch,))]
    return results


def _batched(found: list[Found]) -> Iterator[tuple[int, list[Found]]]:
    rest = iter(found)
    for start in range(0, len(found), SCAN_BATCH):
        yield start, list(islice(rest, SCAN_BATCH))


def _assemble(files: Sequence[SourceFile]) -> tuple[list[SourceImage], list[FileResult]]:
    """Group the files of each format; sidecars go with the file that named them."""
    groups: dict[str, list[SourceFile]] = {}
    owner = ""
    for file in files:
        owner = owner if file.format == "sidecar" else file.format
        groups.setdefault(owner, []).append(file)
    images: list[SourceImage] = []
    refused: list[FileResult] = []
    for name, members in groups.items():
        assembled, rejected = formats()[name].assemble(members)
        images += assembled
        refused += [FileResult(f.name, "rejected", e.code, e.message) for f, e in rejected]
    return images, refused


def _distinct(images: Sequence[SourceImage]) -> tuple[list[SourceImage], list[FileResult]]:
    """Images that differ; files with the same bytes as another are one image, under the first name."""
    first: dict[str, SourceImage] = {}
    copies = []
    for image in images:
        kept = first.setdefault(image_id(image.kind, image.key, image.fidelity), image)
        if kept is not image:
            name, other = image.sources[0].name, kept.sources[0].name
            reason = f"{name}: the same bytes as {other}; kept once"
            copies.append(FileResult(name, "skipped", "Copy", reason))
    return list(first.values()), copies


def _without_conflicts(
    files: list[SourceFile], archive: Archive | None
) -> tuple[list[SourceFile], list[FileResult]]:
    """Refuse what claims to be an archived instance and has other bytes (in whatever image that lies)."""
    instances = {
        file.sha256: formats()[file.format].instance_of(file) for file in files if file.format in formats()
    }
    groups = {found[0] for found in instances.values() if found}
    if archive is None or not groups:
        return files, []
    archived: dict[tuple[str, str], SourceFile] = {}
    for name in archive:
        # What cannot be read must not keep other images out; adding to it fails by itself.
        with contextlib.suppress(IntegrityError):
            image = archive[name]
            if image.summary.get("SeriesInstanceUID") in groups:
                module = formats()[image.description.format]
                archived |= {
                    found: file for file in image.source.files if (found := module.instance_of(file))
                }
    kept, refused = [], []
    for file in files:
        found = instances.get(file.sha256)
        first = archived.get(found) if found else None
        if first is None or first.sha256 == file.sha256:
            kept.append(file)
            continue
        reason = (
            f"{file.name}: instance {found[1] if found else ''} is archived as {first.name} with other bytes "
            f"(sha256 {first.sha256}, here {file.sha256})"
        )
        refused.append(FileResult(file.name, "rejected", "DuplicateConflict", reason))
    return kept, refused


def _permitted(orders: list[Order], labels: bool) -> tuple[list[Order], list[ImageResult]]:
    """The orders that may be carried out; second, what becomes of lossy ones that may not."""
    permitted, refused = [], []
    for order in orders:
        try:
            if order.lossy is not None and order.image.round_trip == "lossy":
                refuse(order.image, order.lossy, labels)
        except LossyRefused as error:
            refused.append(failure_of(order, error.code, error.message, error.exit_code))
        else:
            permitted.append(order)
    return permitted, refused


def _planned_all(cluster: Cluster, orders: list[Order], archive: Archive | None) -> list[ImageResult]:
    """What a dry run says: of lossy images after a look at their pixels, which may forbid it."""
    results = [_planned(order, archive) for order in orders]
    lossy = {
        i: order
        for i, order in enumerate(orders)
        if order.image.round_trip == "lossy" and results[i].status == "planned"
    }
    for i, outcome in cluster.run((i, survey_job(order)) for i, order in lossy.items()):
        if isinstance(outcome, TilevaultError):
            results[i] = failure_of(lossy[i], outcome.code, outcome.message, outcome.exit_code)
        elif isinstance(outcome, BaseException):
            raise outcome
    return results


def _planned(order: Order, archive: Archive | None) -> ImageResult:
    """What a dry run says of an image."""
    committed = None if archive is None else archive.newest_commit(image_of_order(order))
    known = known_files(archive, committed)
    new = [file for file in order.image.sources if file.sha256 not in known]
    status = "planned" if new else "present"
    return result_of(order, status, commit=committed if not new else None)


def _store_all(cluster: Cluster, orders: Iterable[Order], tally: _Tally) -> Iterator[ImageResult]:
    orders = list(orders)
    by_label = dict(enumerate(orders))
    jobs = ((label, job_of(order)) for label, order in by_label.items())

    def done(task: Task, result: Any) -> None:
        tally.bytes_done += task.nbytes
        if isinstance(result, ShardReceipt):
            tally.bytes_stored += result.entry.size
        tally.event("shard")

    for label, outcome in cluster.run(jobs, done):
        order = by_label[label]
        if isinstance(outcome, TilevaultError):
            result = failure_of(order, outcome.code, outcome.message, outcome.exit_code)
        elif isinstance(outcome, Exception):
            result = failure_of(order, "InternalError", f"{type(outcome).__name__}: {outcome}", 70)
        else:
            result = outcome
        if is_small(order.image) or result.status == "present":
            tally.bytes_stored += result.bytes_stored
        tally.event("image", f"{result.status} {result.name}")
        yield result


def _summary(images: list[ImageResult], files: list[FileResult], seconds: float, tally: _Tally) -> AddResult:
    statuses = Counter(result.status for result in images)
    rejected = sum(file.status == "rejected" for file in files)
    exit_code = gravest([*(result.exit_code for result in images), 3 if rejected else 0])
    images.sort(key=lambda result: (result.name, result.image))
    totals = {
        "images": len(images),
        "files": tally.files_total,
        **{status: statuses[status] for status in ("added", "extended", "present", "planned", "failed")},
        "skipped": len(files) - rejected,
        "rejected": rejected,
        "bytes_source": sum(result.bytes_source for result in images),
        "bytes_stored": sum(result.bytes_stored for result in images),
        "seconds": round(seconds, 3),
        "exit_code": exit_code,
    }
    tally.event("done")
    return AddResult(tuple(images), tuple(files), totals)
