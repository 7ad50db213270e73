"""Storing one image: a job of tasks, from its first tile to its commit record.

Every shard, every square of the pyramid and every commit is a task; the pixels are read, encoded, decoded
again, compared and written inside one. Nothing is visible before its commit record.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from tilevault.archive.description import Description
from tilevault.archive.formats import SourceImage, formats
from tilevault.archive.generation import Generation, ShardReceipt, forget_receipts
from tilevault.archive.image import Window, Words
from tilevault.archive.lossy import worst_of
from tilevault.archive.manifest import CommitRecord, Manifest, ManifestObject, image_id, source_set
from tilevault.archive.source import StoredFrames
from tilevault.archive.store import Archive, Image
from tilevault.archive.tiles import EncodedTile, TiledArray
from tilevault.codecs.errors import Conflict, IntegrityError, TilevaultError, VerifyAfterEncodeFailed
from tilevault.workflows.cluster import Job, Task, run_inline
from tilevault.workflows.lossy import Survey, as_labels, check_sources, codec_for, survey, survey_windows
from tilevault.workflows.plan import (
    describe,
    generation_of,
    has_low_bands,
    packed_sizes,
    sampled_tiles,
    settle_downsampling,
    shard_inputs,
    source_batches,
    worth_packing,
)
from tilevault.workflows.results import ImageResult, Order, bytes_source, result_of

__all__ = ["ArchivedImage", "image_of_order", "is_small", "job_of", "known_files", "survey_job"]

SMALL_IMAGE = 64 << 20
"""An image of fewer raw bytes is one task from end to end: images then run beside each other."""
PROOF_BYTES = 16 << 20
"""Source bytes that one task rebuilds (or one file, if larger)."""
COMMIT_TRIES = 5


def job_of(order: Order) -> Job:
    """The job that stores an image; its result is an `ImageResult`."""
    return _small_job(order) if is_small(order.image) else _image_job(order)


def is_small(image: SourceImage) -> bool:
    """Whether an image is one task from end to end."""
    return image.info is None or image.info.nbytes <= SMALL_IMAGE


def survey_job(order: Order) -> Job:
    """The job that looks at the pixels of a lossy image and stores nothing; raises as storing would."""
    if is_small(order.image):
        (order,) = yield [Task(_survey_inline, (order,))]
        return order
    return (yield from _surveyed(order))


def _survey_inline(order: Order) -> Order:
    found: Order = run_inline(_surveyed(order))
    return found


def _small_job(order: Order) -> Job:
    (result,) = yield [Task(_store_inline, (order,), bytes_source(order.image))]
    return result


def _store_inline(order: Order) -> ImageResult:
    result: ImageResult = run_inline(_image_job(order))
    return result


def _image_job(order: Order) -> Job:
    """Store one image. A commit that another process made meanwhile is met by looking again."""
    archive, name = Archive.open(order.archive), image_of_order(order)
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


def _attempt(order: Order, archive: Archive, previous: CommitRecord | None) -> Job:
    known = known_files(archive, previous)
    if previous is not None and known.keys() >= {file.sha256 for file in order.image.sources}:
        # Whoever wrote the record may have died before it was durable.
        archive.writable.sync(f"commits/{previous.image}")
        forget_receipts(archive.writable, previous.image, str(previous.generation))
        _refuse_damaged(Image(archive, previous))
        return result_of(order, "present", commit=previous)
    if previous is not None and previous.generation is None:
        archive.finish_removal(previous.image)
    if known and order.lossy is not None:
        check_sources(order, known)
    elif known:
        (order,) = yield [Task(_united, (order, known))]
        if known.keys() >= {file.sha256 for file in order.image.sources}:
            return result_of(order, "present", commit=previous)
    if order.image.round_trip == "lossy":
        order = yield from _surveyed(order)
    samples = list(_packing_samples(order))
    sizes = yield [Task(_sample_packing, (window,), shared=(order,)) for window in samples]
    pack = worth_packing(sizes) if samples else True
    generation = _generation(order, archive, pack, previous)
    receipts, sources = yield from _write_sources(order, generation, archive, previous)
    objects = [receipt.entry for receipt in receipts] + [
        entry for _, written, _ in sources for entry in written
    ]
    pieces = [own for _, _, batch in sorted(sources, key=lambda s: s[0]) for own in batch]
    if generation.description.info is not None:
        plain = all(receipt.plain for receipt in receipts)
        generation = replace(generation, description=settle_downsampling(generation.description, plain))
    (tables, documents) = yield [
        Task(_write_tables, (), shared=(generation, receipts)),
        Task(_write_documents, (pieces,), shared=(order, generation, receipts)),
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
    quality = generation.quality_summary(receipts)
    (record,) = yield [Task(_commit, (objects, previous, quality), shared=(order, generation))]
    status = "extended" if known else "added"
    worst = worst_of(closeup for receipt in receipts for closeup in receipt.worst)
    return result_of(order, status, record, generation.description, worst)


def _refuse_damaged(image: Image) -> None:
    """Nobody shall be told that an image is there while some of its objects are not, or have another size."""
    found = image.check("size").findings
    if found:
        raise IntegrityError(
            f"image {image.id}: is archived, but damaged ({len(found)} objects; {found[0].message}): "
            "keep the source; remove the image (rm) and add it again",
            image=image.id,
        )


def known_files(archive: Archive | None, commit: CommitRecord | None) -> dict[str, int]:
    """SHA-256 -> position of the files that the newest commit holds."""
    if archive is None or commit is None or commit.generation is None:
        return {}
    return {file.sha256: i for i, file in enumerate(Image(archive, commit).source.files)}


def _united(order: Order, known: Mapping[str, int]) -> Order:
    """The image with the files that are archived already, those first, so that they win over duplicates."""
    archive = Archive.open(order.archive)
    name = image_of_order(order)
    archived = archive[name].source.files
    new = [file for file in order.image.sources if file.sha256 not in known]
    assembled, rejected = formats()[order.image.format].assemble([*archived, *new])
    for image in assembled:
        if image_id(image.kind, image.key) == name:
            lost = [f"{file.name}: {error.code}: {error.message}" for file, error in rejected]
            image = as_labels(image) if order.image.info and order.image.info.categorical else image
            return replace(order, image=replace(image, warnings=(*image.warnings, *lost)))
    raise (
        rejected[0][1]
        if rejected
        else Conflict(f"image {name}: the new files do not go with the archived ones")
    )


def _packing_samples(order: Order) -> Iterator[Window]:
    """Tiles that decide about histogram packing; none where tiles have no cheap levels to lose."""
    info = order.image.info
    if info is None or order.image.codec is not None or order.codec is not None or order.prefer == "size":
        return
    if has_low_bands(info):
        yield from sampled_tiles(info, order.side)


def _surveyed(order: Order) -> Any:
    """The order with the codec of a lossy image, after a look at all of its pixels. Raises `LossyRefused`."""
    assert order.lossy is not None
    windows = list(survey_windows(order.image, order.side))
    found = yield [Task(_survey, (window,), shared=(order,)) for window in windows]
    return replace(order, codec=codec_for(order.image, order.lossy, found))


def _survey(order: Order, window: Window) -> Survey:
    with _open_reader(order) as reader:
        return survey(order.image, reader, window)


def image_of_order(order: Order) -> str:
    """The id of the image that an order stores."""
    return image_id(order.image.kind, order.image.key, order.image.fidelity)


def _sample_packing(order: Order, window: Window) -> tuple[int, int]:
    with _open_reader(order) as reader:
        return packed_sizes(reader.read(window))


def _generation(order: Order, archive: Archive, pack: bool, previous: CommitRecord | None) -> Generation:
    description = describe(order.image, order.side, pack, order.prefer, order.codec)
    removal = previous.sha256 if previous is not None and previous.generation is None else None
    return Generation(archive.writable, generation_of(order.image, description, removal), description)


def _write_sources(
    order: Order, generation: Generation, archive: Archive, previous: CommitRecord | None
) -> Any:
    """Tasks of the first round: every shard that is not there yet, and the non-pixel bytes."""
    committed = None if previous is None or previous.generation is None else Image(archive, previous)
    # Shards of a lossy image are all made again: its range may be another one, and so its codec.
    reusable = {} if committed is None or order.codec is not None else _reusable(committed)
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
    return bytes_source(image) * raw // max(1, image.info.nbytes)


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
    order: Order, generation: Generation, role: str, index: tuple[int, ...], inputs: str
) -> ShardReceipt:
    with _open_reader(order) as reader:
        read = reader.read if role == "data" else reader.read_mask
        stream = None if order.image.codec is None or role != "data" else reader.read_stream
        # The tiles of file-exact images are decoded when their files are rebuilt.
        prove = role != "data" or order.image.round_trip != "file-exact"
        masked = reader.read_mask if order.codec is not None and reader.info.has_mask else None
        return generation.write_shard(role, index, inputs, read, stream, prove, masked)


def _write_source(
    order: Order, generation: Generation, number: int, batch: range
) -> tuple[int, list[ManifestObject], list[list[list[Any]]]]:
    with _open_reader(order) as reader:
        objects, pieces = generation.write_source(number, (reader.verbatim(i) for i in batch))
    return number, objects, pieces


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
    order: Order,
    generation: Generation,
    receipts: Sequence[ShardReceipt],
    pieces: Sequence[list[list[Any]]],
) -> list[ManifestObject]:
    tables = {role: generation.tables(role, receipts) for role in generation.description.arrays}
    files = list(zip(order.image.sources, pieces, strict=True))
    return generation.write_documents(tables, files, receipts)


def _proofs(order: Order, generation: Generation, objects: Sequence[ManifestObject]) -> list[Task]:
    """What is still to be shown once all is written: that the files come out as they went in."""
    if order.image.round_trip == "metadata-exact":
        return [Task(_prove_metadata, (order.image,))]
    if order.image.round_trip == "lossy":
        return _lossy_proofs(order, generation, generation.manifest(objects))
    manifest = generation.manifest(objects)
    batches = list(_proof_batches(order.image))
    # A single large file keeps all cores busy from inside its one task.
    threads = len(batches) == 1 and not is_small(order.image) and not order.one_thread
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
    for reader in image.readers.values():
        reader.hold = True
    for i in batch:
        file, digest, size = image.source.files[i], hashlib.sha256(), 0
        for piece in image.source.rebuild(i):
            digest.update(piece)
            size += len(piece)
        if (size, digest.hexdigest()) != (file.size, file.sha256):
            raise VerifyAfterEncodeFailed(f"{file.name}: does not come out as it went in", name=file.name)


def _lossy_proofs(order: Order, generation: Generation, manifest: Manifest) -> list[Task]:
    """All that is not pixels is kept as of any image, and shown to be; the pixels were measured."""
    batches = _proof_batches(order.image)
    proofs = [Task(_prove_verbatim, (batch,), shared=(order, generation, manifest)) for batch in batches]
    if order.image.format == "geotiff":
        proofs.append(Task(_prove_metadata, (order.image,)))
    return proofs


def _prove_verbatim(order: Order, generation: Generation, manifest: Manifest, batch: range) -> None:
    """Compare the bytes that are not pixels with those of the source."""
    image = Image.staged(generation.blobs, manifest)
    with _open_reader(order) as reader:
        for i in batch:
            kept, source = hashlib.sha256(), hashlib.sha256()
            for digest, pieces in ((kept, image.source.verbatim(i)), (source, reader.verbatim(i))):
                for piece in pieces:
                    digest.update(piece)
            if kept.digest() != source.digest():
                name = order.image.sources[i].name
                raise VerifyAfterEncodeFailed(
                    f"{name}: its header does not come out as it went in", name=name
                )


def _prove_metadata(image: SourceImage) -> None:
    formats()[image.format].prove_metadata(image)


def _commit(
    order: Order,
    generation: Generation,
    objects: Sequence[ManifestObject],
    previous: CommitRecord | None,
    quality: dict[str, Any] | None,
) -> CommitRecord:
    try:
        record = generation.commit(
            objects,
            source_set(file.sha256 for file in order.image.sources),
            _listing(order, generation.description, quality),
            order.provenance,
            previous,
        )
    except Conflict:
        # The same files under other names are another generation, which would be taken for a lost commit.
        generation.abandon()
        raise
    generation.forget_receipts()
    return record


def _open_reader(order: Order) -> Any:
    archived = None
    if any(file.path is None for file in order.image.sources):
        archive = Archive.open(order.archive)
        archived = ArchivedImage(archive[image_of_order(order)])
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


def _listing(order: Order, description: Description, quality: dict[str, Any] | None) -> dict[str, Any]:
    """The summary that the commit record carries."""
    info = description.info
    own: dict[str, Any] = {
        "kind": description.kind,
        "name": description.name,
        "round_trip": description.round_trip,
        "files": len(order.image.sources),
        "bytes_source": bytes_source(order.image),
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
    if quality is not None:
        own |= {"fidelity": description.fidelity, "quality": quality}
    return {**order.image.search, **own}
