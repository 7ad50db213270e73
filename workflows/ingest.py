"""`add`: files into an archive, image by image, each proved before it is committed.

Scanning, every shard, every square of the pyramid and every commit is a task; the pixels are read, encoded,
decoded again, compared and written inside one. Nothing is visible before its commit record. Running again
skips what is there, continues what was interrupted, and extends a series that has grown.
"""

import contextlib
import datetime
import hashlib
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from tilevault.archive.description import Description
from tilevault.archive.formats import SourceFile, SourceImage, formats
from tilevault.archive.generation import Generation, ShardReceipt, forget_receipts
from tilevault.archive.image import Words
from tilevault.archive.manifest import CommitRecord, Manifest, ManifestObject, image_id, source_set
from tilevault.archive.source import StoredFrames
from tilevault.archive.store import Archive, Image
from tilevault.archive.tiles import EncodedTile, TiledArray
from tilevault.codecs.errors import (
    Conflict,
    IntegrityError,
    InvalidRequest,
    TilevaultError,
    VerifyAfterEncodeFailed,
)
from tilevault.codecs.lossless import PREFERENCES
from tilevault.workflows.cluster import Cluster, Job, Task, run_inline
from tilevault.workflows.discover import FileResult, Found, find_files, scan_files
from tilevault.workflows.plan import (
    describe,
    generation_of,
    has_low_bands,
    image_name,
    settle_downsampling,
    shard_inputs,
    source_batches,
    worth_packing,
)

__all__ = ["AddResult", "ArchivedImage", "Event", "FileResult", "ImageResult", "add"]

SCAN_BATCH = 32
"""Files that one scan task looks at."""
SMALL_IMAGE = 64 << 20
"""An image of fewer raw bytes is one task from end to end: images then run beside each other."""
PROOF_BYTES = 16 << 20
"""Source bytes that one task rebuilds (or one file, if larger)."""
COMMIT_TRIES = 5


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


@dataclass(frozen=True)
class AddResult:
    """What became of everything that was handed in."""

    images: tuple[ImageResult, ...]
    files: tuple[FileResult, ...]
    totals: Mapping[str, Any]


@dataclass(frozen=True)
class _Order:
    """One image to store: all that a worker needs to know."""

    archive: str
    image: SourceImage
    side: int
    prefer: str
    provenance: Mapping[str, Any]


def add(
    sources: Sequence[str | os.PathLike[str]],
    archive: str | os.PathLike[str] | Archive,
    *,
    tile: int = 512,
    prefer: str = "resolution",
    workers: int | None = None,
    scheduler: str | None = None,
    dry_run: bool = False,
    progress: Callable[[Event], None] | None = None,
) -> AddResult:
    """Archive every image below ``sources``; the archive is made if it is not there.

    ``tile`` is the side of a tile in pixels (64 to 4096), ``prefer`` what tiles are coded for (see
    `LosslessCodec`; encapsulated frames stay as they are), ``workers`` the number of threads (default: one
    per core), ``scheduler`` the address of a Dask cluster to use instead. With ``dry_run`` nothing is
    written. Errors of single files and images are in the result; raised is what stops everything.
    """
    if not 64 <= tile <= 4096:
        raise InvalidRequest(f"a tile has a side of 64 to 4096 pixels, not {tile}")
    if prefer not in PREFERENCES:
        raise InvalidRequest(f"prefer is one of {', '.join(PREFERENCES)}, not {prefer!r:.50}")
    opened = archive if isinstance(archive, Archive) else None
    path = opened.path if opened else Path(os.fspath(archive))  # type: ignore[arg-type]
    began = time.monotonic()
    if opened is None and not dry_run:
        opened = Archive.create(path)
    elif opened is None and (path / "archive.json").exists():
        opened = Archive.open(path)
    tally = _Tally(progress or (lambda event: None))
    with Cluster(workers, scheduler) as cluster:
        files, others = _scan_all(cluster, list(find_files(sources, path)), tally)
        files, known = _without_conflicts(files, opened)
        images, refused = _assemble(files)
        images, copies = _distinct(images)
        others += known + refused + copies
        tally.bytes_total = sum(_bytes_source(image) for image in images)
        provenance = _provenance(tile, prefer)
        orders = [_Order(os.fspath(path.absolute()), image, tile, prefer, provenance) for image in images]
        if dry_run:
            results = [_planned(order, opened) for order in orders]
        else:
            results = list(_store_all(cluster, orders, tally))
    return _summary(results, others, time.monotonic() - began, tally)


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


def _distinct(images: Sequence[SourceImage]) -> tuple[list[SourceImage], list[FileResult]]:
    """Images that differ; files with the same bytes as another are one image, under the first name."""
    first: dict[str, SourceImage] = {}
    copies = []
    for image in images:
        kept = first.setdefault(image_id(image.kind, image.key), image)
        if kept is not image:
            name, other = image.sources[0].name, kept.sources[0].name
            reason = f"{name}: the same bytes as {other}; kept once"
            copies.append(FileResult(name, "skipped", "Copy", reason))
    return list(first.values()), copies


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


def _planned(order: _Order, archive: Archive | None) -> ImageResult:
    """What a dry run says of an image."""
    committed = (
        None if archive is None else archive.newest_commit(image_id(order.image.kind, order.image.key))
    )
    known = _known_files(archive, committed)
    new = [file for file in order.image.sources if file.sha256 not in known]
    status = "planned" if new else "present"
    return _result(order, status, commit=committed if not new else None)


def _store_all(cluster: Cluster, orders: Iterable[_Order], tally: _Tally) -> Iterator[ImageResult]:
    orders = list(orders)
    by_label = dict(enumerate(orders))
    jobs = ((label, _job_of(order)) for label, order in by_label.items())

    def done(task: Task, result: Any) -> None:
        tally.bytes_done += task.nbytes
        if isinstance(result, ShardReceipt):
            tally.bytes_stored += result.entry.size
        tally.event("shard")

    for label, outcome in cluster.run(jobs, done):
        order = by_label[label]
        if isinstance(outcome, TilevaultError):
            result = _failed(order, outcome.code, outcome.message, outcome.exit_code)
        elif isinstance(outcome, Exception):
            result = _failed(order, "InternalError", f"{type(outcome).__name__}: {outcome}", 70)
        else:
            result = outcome
        if _is_small(order.image) or result.status == "present":
            tally.bytes_stored += result.bytes_stored
        tally.event("image", f"{result.status} {result.name}")
        yield result


def _job_of(order: _Order) -> Job:
    return _small_job(order) if _is_small(order.image) else _image_job(order)


def _is_small(image: SourceImage) -> bool:
    return image.info is None or image.info.nbytes <= SMALL_IMAGE


def _small_job(order: _Order) -> Job:
    (result,) = yield [Task(_store_inline, (order,), _bytes_source(order.image))]
    return result


def _store_inline(order: _Order) -> ImageResult:
    result: ImageResult = run_inline(_image_job(order))
    return result


def _image_job(order: _Order) -> Job:
    """Store one image. A commit that another process made meanwhile is met by looking again."""
    archive, name = Archive.open(order.archive), image_id(order.image.kind, order.image.key)
    previous = archive.newest_commit(name)
    for _ in range(COMMIT_TRIES - 1):
        try:
            return (yield from _attempt(order, archive, previous))
        except TilevaultError as error:
            # Somebody committed first: that may hold our files already, or have removed what we built on.
            before, previous = previous, archive.newest_commit(name)
            if not isinstance(error, Conflict) and previous == before:
                raise
    return (yield from _attempt(order, archive, previous))


def _attempt(order: _Order, archive: Archive, previous: CommitRecord | None) -> Job:
    known = _known_files(archive, previous)
    if previous is not None and known.keys() >= {file.sha256 for file in order.image.sources}:
        # Whoever wrote the record may have died before it was durable.
        archive.blobs.sync(f"commits/{previous.image}")
        forget_receipts(archive.blobs, previous.image, str(previous.generation))
        return _result(order, "present", commit=previous)
    if previous is not None and previous.generation is None:
        archive.finish_removal(previous.image)
    if known:
        (order,) = yield [Task(_united, (order, known))]
        if known.keys() >= {file.sha256 for file in order.image.sources}:
            return _result(order, "present", commit=previous)
    (pack,) = yield [Task(_choose_packing, (order,))]
    generation = _generation(order, archive, pack, previous)
    receipts, sources = yield from _write_sources(order, generation, archive, previous)
    objects = [receipt.entry for receipt in receipts] + [
        entry for _, written, _ in sources for entry in written
    ]
    files = [pair for _, _, pairs in sorted(sources, key=lambda s: s[0]) for pair in pairs]
    if generation.description.info is not None:
        plain = all(receipt.plain for receipt in receipts)
        generation = replace(generation, description=settle_downsampling(generation.description, plain))
    (tables, documents) = yield [
        Task(_write_tables, (generation, receipts)),
        Task(_write_documents, (generation, receipts, files)),
    ]
    objects += tables + documents
    shards = [receipt.entry for receipt in receipts]
    proofs = _proofs(order, generation, objects)
    # A proof needs no coarse level; side by side they keep all workers busy.
    written = yield proofs + [
        Task(_write_block, (role, index), shared=(generation, shards, tables))
        for role, index in generation.blocks()
    ]
    objects += [entry for block in written[len(proofs) :] for entry in block]
    (record,) = yield [Task(_commit, (order, generation, objects, previous))]
    status = "extended" if known else "added"
    return _result(order, status, commit=record, description=generation.description)


def _known_files(archive: Archive | None, commit: CommitRecord | None) -> dict[str, int]:
    """SHA-256 -> position of the files that the newest commit holds."""
    if archive is None or commit is None or commit.generation is None:
        return {}
    return {file.sha256: i for i, file in enumerate(Image(archive, commit).source.files)}


def _united(order: _Order, known: Mapping[str, int]) -> _Order:
    """The image with the files that are archived already, those first, so that they win over duplicates."""
    archive = Archive.open(order.archive)
    name = image_id(order.image.kind, order.image.key)
    archived = archive[name].source.files
    new = [file for file in order.image.sources if file.sha256 not in known]
    assembled, rejected = formats()[order.image.format].assemble([*archived, *new])
    for image in assembled:
        if image_id(image.kind, image.key) == name:
            lost = [f"{file.name}: {error.code}: {error.message}" for file, error in rejected]
            return replace(order, image=replace(image, warnings=(*image.warnings, *lost)))
    raise (
        rejected[0][1]
        if rejected
        else Conflict(f"image {name}: the new files do not go with the archived ones")
    )


def _choose_packing(order: _Order) -> bool:
    """Whether tiles may be histogram packed: always where they have no cheap levels to lose."""
    info = order.image.info
    if info is None or order.image.codec is not None or order.prefer == "size" or not has_low_bands(info):
        return True
    with _open_reader(order) as reader:
        return worth_packing(info, reader, order.side)


def _generation(order: _Order, archive: Archive, pack: bool, previous: CommitRecord | None) -> Generation:
    description = describe(order.image, order.side, pack, order.prefer)
    removal = previous.sha256 if previous is not None and previous.generation is None else None
    return Generation(archive.blobs, generation_of(order.image, description, removal), description)


def _write_sources(
    order: _Order, generation: Generation, archive: Archive, previous: CommitRecord | None
) -> Any:
    """Tasks of the first round: every shard that is not there yet, and the non-pixel bytes."""
    committed = None if previous is None or previous.generation is None else Image(archive, previous)
    reusable = {} if committed is None else _reusable(committed)
    tasks, receipts = [], []
    for role, array in generation.description.arrays.items():
        for index in array.grid.shard_indices():
            inputs = shard_inputs(order.image, array, role, index)
            found = generation.receipt(role, index, inputs)
            if found is None and committed is not None and inputs in reusable:
                found = _reuse(committed, generation, role, index, reusable[inputs])
            if found is not None:
                receipts.append(found)
                continue
            share = _source_share(order.image, array, index) if role == "data" else 0
            tasks.append(Task(_write_shard, (role, index, inputs), share, (order, generation)))
    batches = [
        Task(_write_source, (number, batch), shared=(order, generation))
        for number, batch in enumerate(source_batches(order.image))
    ]
    done = yield [*tasks, *batches]
    return [*receipts, *done[: len(tasks)]], done[len(tasks) :]


def _source_share(image: SourceImage, array: TiledArray, index: tuple[int, ...]) -> int:
    """Source bytes that a shard stands for, so that progress counts in the bytes of the files."""
    assert image.info is not None
    raw = prod(array.grid.shard_window(index).shape) * array.dtype.itemsize
    return _bytes_source(image) * raw // max(1, image.info.nbytes)


def _reusable(committed: Image) -> dict[str, ManifestObject]:
    """Shards of the committed generation by what went into them."""
    return {entry.inputs: entry for entry in committed.manifest.objects if entry.inputs is not None}


def _reuse(
    committed: Image, generation: Generation, role: str, index: tuple[int, ...], entry: ManifestObject
) -> ShardReceipt | None:
    """The receipt of a shard that the committed generation holds, if it is still sound."""
    reader = committed.readers.get(role)
    old = None if reader is None else reader.array.shard_index(entry.key)
    if reader is None or old is None or not _is_sound(committed, entry):
        return None
    grid, tables = generation.description.arrays[role].grid, reader.tables
    offset = tuple((i - j) * n for i, j, n in zip(index, old, grid.tiles_per_shard, strict=True))
    tiles = {}
    for at in grid.tile_indices(grid.shard_window(index)):
        was = tuple(i - o for i, o in zip(at, offset, strict=True))
        if not all(0 <= i < n for i, n in zip(was, reader.array.grid.tiles, strict=True)):
            return None
        ends = tuple(int(end) for end in tables.ends[was])
        tiles[at] = EncodedTile(b"", ends, tables.digests[was].tobytes(), tables.pixels[was].tobytes())
    plain = committed.downsampling == "lowpass53"
    receipt = ShardReceipt(role, index, entry, tiles, plain)
    return generation.reuse_shard(receipt, committed.prefix)


def _is_sound(committed: Image, entry: ManifestObject) -> bool:
    try:
        stored = committed.blobs.digest(f"{committed.prefix}/{entry.key}")
    except IntegrityError:
        return False
    return (stored.size, stored.sha256) == (entry.size, entry.sha256)


def _write_shard(
    order: _Order, generation: Generation, role: str, index: tuple[int, ...], inputs: str
) -> ShardReceipt:
    with _open_reader(order) as reader:
        read = reader.read if role == "data" else reader.read_mask
        stream = None if order.image.codec is None or role != "data" else reader.read_stream
        # The tiles of file-exact images are decoded when their files are rebuilt.
        prove = role != "data" or order.image.round_trip != "file-exact"
        return generation.write_shard(role, index, inputs, read, stream, prove)


def _write_source(
    order: _Order, generation: Generation, number: int, batch: range
) -> tuple[int, list[ManifestObject], list[tuple[SourceFile, list[list[Any]]]]]:
    with _open_reader(order) as reader:
        objects, pieces = generation.write_source(number, (reader.verbatim(i) for i in batch))
    return number, objects, [(order.image.sources[i], own) for i, own in zip(batch, pieces, strict=True)]


def _write_tables(generation: Generation, receipts: Sequence[ShardReceipt]) -> list[ManifestObject]:
    return generation.write_tables(receipts)


def _write_block(
    generation: Generation,
    shards: Sequence[ManifestObject],
    tables: Sequence[ManifestObject],
    role: str,
    index: tuple[int, ...],
) -> list[ManifestObject]:
    readers = generation.readers(shards, tables)
    return generation.write_block(role, index, readers)


def _write_documents(
    generation: Generation,
    receipts: Sequence[ShardReceipt],
    files: Sequence[tuple[SourceFile, list[list[Any]]]],
) -> list[ManifestObject]:
    tables = {role: generation.tables(role, receipts) for role in generation.description.arrays}
    return generation.write_documents(tables, files)


def _proofs(order: _Order, generation: Generation, objects: Sequence[ManifestObject]) -> list[Task]:
    """What is still to be shown once all is written: that the files come out as they went in."""
    if order.image.round_trip != "file-exact":
        return [Task(_prove_metadata, (order.image,))]
    manifest = generation.manifest(objects)
    batches = list(_proof_batches(order.image))
    # A single large file keeps all cores busy from inside its one task.
    threads = len(batches) == 1 and not _is_small(order.image)
    return [Task(_prove_files, (batch, threads), shared=(generation, manifest)) for batch in batches]


def _proof_batches(image: SourceImage) -> Iterator[range]:
    """Runs of neighbouring files of about PROOF_BYTES."""
    start, size = 0, 0
    for i, file in enumerate(image.sources):
        size += file.size
        if size >= PROOF_BYTES or i + 1 == len(image.sources):
            yield range(start, i + 1)
            start, size = i + 1, 0


def _prove_files(generation: Generation, manifest: Manifest, batch: range, threads: bool) -> None:
    """Rebuild files from what is stored and compare them with what was scanned."""
    image = Image.staged(generation.blobs, manifest)
    image.threads = threads
    for i in batch:
        file, digest, size = image.source.files[i], hashlib.sha256(), 0
        for piece in image.source.rebuild(i):
            digest.update(piece)
            size += len(piece)
        if (size, digest.hexdigest()) != (file.size, file.sha256):
            raise VerifyAfterEncodeFailed(f"{file.name}: does not come out as it went in", name=file.name)


def _prove_metadata(image: SourceImage) -> None:
    formats()[image.format].prove_metadata(image)


def _commit(
    order: _Order,
    generation: Generation,
    objects: Sequence[ManifestObject],
    previous: CommitRecord | None,
) -> CommitRecord:
    try:
        record = generation.commit(
            objects,
            source_set(file.sha256 for file in order.image.sources),
            _listing(order, generation.description),
            order.provenance,
            previous,
        )
    except Conflict:
        # The same files under other names are another generation, which would be taken for a lost commit.
        generation.abandon()
        raise
    generation.forget_receipts()
    return record


def _open_reader(order: _Order) -> Any:
    archived = None
    if any(file.path is None for file in order.image.sources):
        archive = Archive.open(order.archive)
        archived = ArchivedImage(archive[image_id(order.image.kind, order.image.key)])
    return formats()[order.image.format].open_reader(order.image, archived)


class ArchivedImage:
    """Files of a committed image, found by SHA-256 (`ArchivedFrames`)."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._position = {file.sha256: i for i, file in enumerate(image.source.files)}

    def read_words(self, sha256: str, frame: int, rows: slice) -> Words:
        """Rows of a frame's stored words: (y, x) or (c, y, x)."""
        return StoredFrames(self._image, self._position[sha256]).words(frame, rows)

    def read_stream(self, sha256: str, frame: int) -> bytes:
        """A frame's bit stream."""
        return StoredFrames(self._image, self._position[sha256]).stream(frame)

    def verbatim(self, sha256: str) -> Iterator[bytes]:
        """The file's non-pixel bytes."""
        return self._image.source.verbatim(self._position[sha256])


def _listing(order: _Order, description: Description) -> dict[str, Any]:
    """The summary that the commit record carries."""
    info = description.info
    own: dict[str, Any] = {
        "kind": description.kind,
        "name": description.name,
        "round_trip": description.round_trip,
        "files": len(order.image.sources),
        "bytes_source": _bytes_source(order.image),
        "warnings": list(description.warnings),
    }
    if info is not None:
        own |= {
            "shape": list(info.shape),
            "axes": list(info.axes),
            "dtype": info.dtype.name,
            "codec": None if description.codec is None else description.codec.to_dict()["name"],
            "downsampling": description.downsampling,
            "levels": list(description.levels),
        }
    return {**order.image.search, **own}


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


def _bytes_source(image: SourceImage) -> int:
    return sum(file.size for file in image.sources)


def _result(
    order: _Order,
    status: str,
    commit: CommitRecord | None = None,
    description: Description | None = None,
) -> ImageResult:
    image = order.image
    return ImageResult(
        image=image_id(image.kind, image.key),
        name=description.name if description else image_name(image),
        status=status,
        sources=tuple(file.name for file in image.sources),
        round_trip=image.round_trip,
        bytes_source=_bytes_source(image),
        bytes_stored=int(commit.summary.get("bytes_stored", 0)) if commit else 0,
        warnings=(*image.warnings, *(w for file in image.sources for w in file.warnings)),
        commit=None
        if commit is None
        else {
            "n": commit.n,
            "sha256": commit.sha256,
            "generation": commit.generation,
            "manifest": commit.manifest,
        },
    )


def _failed(order: _Order, code: str, reason: str, exit_code: int) -> ImageResult:
    return replace(_result(order, "failed"), code=code, reason=reason, exit_code=exit_code)


def _summary(images: list[ImageResult], files: list[FileResult], seconds: float, tally: _Tally) -> AddResult:
    statuses = Counter(result.status for result in images)
    rejected = sum(file.status == "rejected" for file in files)
    exit_code = max((result.exit_code for result in images), default=0) or (3 if rejected else 0)
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
