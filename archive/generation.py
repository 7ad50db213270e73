"""Writing one immutable generation of an image, in steps that workers can do apart.

::

    shards of level 0  ->  tables in tiles/  ->  coarse levels  ->  documents, manifest  ->  commit
    (a task each)          (one task)            (a task each)       (one task)

Every step gives or takes `ManifestObject` values. An object appears whole or not at all, under a key that
its inputs decide; so an interrupted run is continued by doing the steps again, and finding what is there.
The commit record comes last; until then no reader sees anything.
"""

import base64
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from math import ceil, prod
from typing import Any

import numpy as np

from tilevault.archive import metadata
from tilevault.archive.blobs import LocalBlobs
from tilevault.archive.description import Description
from tilevault.archive.documents import canonical, seal, sha256_hex, too_large, unseal
from tilevault.archive.formats import SourceFile
from tilevault.archive.image import Window, Words, has_plain_words
from tilevault.archive.lossy import Closeup, encode_lossy_tiles, measure_arrays, measured, summary, worst_of
from tilevault.archive.manifest import MAX_COMMIT, MAX_MANIFEST, CommitRecord, Manifest, ManifestObject
from tilevault.archive.models import keep_model
from tilevault.archive.plain import PlainArray, array_document, compress, group_document
from tilevault.archive.quality import QUALITY_ARRAYS, QualityTables, TileQuality
from tilevault.archive.reading import read_levels
from tilevault.archive.tables import TileTables
from tilevault.archive.tile_reader import TileReader
from tilevault.archive.tiles import EncodedTile, TiledArray, assemble_shard, encode_tiles, keep_stream
from tilevault.codecs import LearnedCodec
from tilevault.codecs.errors import (
    Conflict,
    LimitExceeded,
    ManifestCorrupt,
    OutcomeUnknown,
    TileCorrupt,
    TilevaultError,
)

__all__ = ["Generation", "ShardReceipt", "bits_array", "forget_receipts", "table_arrays", "valid_array"]

SOURCE_BLOCK = 4 << 20
"""Raw bytes of one independently compressed block of source bytes."""
SOURCE_LEVEL = 12
"""zstd level of text and headers; the pixels of plain arrays gain nothing from more than the default."""
_TABLES = ("ends", "digests", "pixels")


@dataclass(frozen=True)
class ShardReceipt:
    """What a shard task reports: the object, and for each of its tiles what the tables will hold."""

    role: str
    index: tuple[int, ...]
    entry: ManifestObject
    tiles: Mapping[tuple[int, ...], EncodedTile]
    """Without their bytes."""
    plain: bool
    """Every word is its own value: no bits above BitsStored are in use."""
    worst: tuple[Closeup, ...] = ()
    """Of a lossy shard just made, for the report; not kept beside the shard."""

    def to_bytes(self) -> bytes:
        """Sealed, for the receipt object that lets another run find this work."""
        return seal(
            {
                "role": self.role,
                "index": list(self.index),
                "entry": self.entry.to_json(),
                "plain": self.plain,
                "tiles": [
                    [
                        list(at),
                        list(t.ends),
                        _text(t.digests),
                        _text(t.pixels),
                        _measures(t),
                        t.valid,
                    ]
                    for at, t in sorted(self.tiles.items())
                ],
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, what: str) -> "ShardReceipt":
        """Raises `ManifestCorrupt`."""
        document = unseal(data, what)
        try:
            return cls(
                document["role"],
                tuple(document["index"]),
                ManifestObject.from_json(document["entry"]),
                {
                    tuple(at): EncodedTile(
                        b"",
                        tuple(ends),
                        _bytes(digests),
                        _bytes(pixels),
                        _quality(of),
                        valid,
                    )
                    for at, ends, digests, pixels, of, valid in document["tiles"]
                },
                document["plain"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ManifestCorrupt(f"{what}: not a receipt: {error}") from error


@dataclass(frozen=True)
class Generation:
    """The place where one generation is being written. A value: workers get a copy."""

    blobs: LocalBlobs
    id: str
    description: Description

    @property
    def prefix(self) -> str:
        """Key of the generation in the archive."""
        return f"images/{self.description.image}/{self.id}"

    def write_shard(
        self,
        role: str,
        index: tuple[int, ...],
        inputs: str,
        read: Callable[[Window], Words],
        read_stream: Callable[[tuple[int, ...]], bytes] | None = None,
        prove: bool = True,
        read_mask: Callable[[Window], Words] | None = None,
    ) -> ShardReceipt:
        """Encode and store one shard; with ``prove`` each tile is decoded again and compared first.

        Lossy tiles are always decoded, and measured; ``read_mask`` tells which of their samples count.
        """
        array = self.description.arrays[role]
        window = array.grid.shard_window(index)
        plain = True
        worst: tuple[Closeup, ...] = ()
        if read_stream is None:
            tiles: dict[tuple[int, ...], EncodedTile] = {}
            for part in array.grid.parts(window):
                words = read(part)
                if isinstance(array.codec, LearnedCodec):
                    flat = Window(part.start[-2:], part.stop[-2:])
                    mask = None if read_mask is None else read_mask(flat)
                    made, found = encode_lossy_tiles(array, part, words, mask)
                    tiles, worst = tiles | made, tuple(worst_of((*worst, *found)))
                else:
                    made = encode_tiles(array, part, words, prove)
                    tiles |= self._counted(part, words, made) if role == "data" else made
                plain = plain and (role != "data" or self._is_plain(words))
        else:
            tiles = {
                at: keep_stream(array.codec, read_stream(at), array.grid.tile_window(at).shape, array.dtype)
                for at in array.grid.tile_indices(window)
            }
        entry = self._create(array.shard_key(index), assemble_shard(array, tiles), inputs)
        kept = {at: replace(tile, data=b"") for at, tile in tiles.items()}
        receipt = ShardReceipt(role, index, entry, kept, plain, worst)
        self._keep_receipt(receipt)
        return receipt

    def _counted(
        self, window: Window, words: Words, tiles: Mapping[tuple[int, ...], EncodedTile]
    ) -> dict[tuple[int, ...], EncodedTile]:
        """The tiles of ``window``, with the count of their valid samples where it is kept."""
        if not self.description.counts_valid:
            return dict(tiles)
        array, info = self.description.data, self.description.info
        assert info is not None
        valid = words != info.nodata
        return {
            at: replace(tile, valid=int(valid[array.grid.tile_window(at).shift(window.start).slices].sum()))
            for at, tile in tiles.items()
        }

    def _is_plain(self, words: Words) -> bool:
        """Whether every word is its own value."""
        info = self.description.info
        assert info is not None
        return info.bits_stored is None or has_plain_words(words, info)

    def receipt(self, role: str, index: tuple[int, ...], inputs: str) -> ShardReceipt | None:
        """The receipt of a shard that an interrupted run finished, if the shard still matches it."""
        name = _receipt_name(role, index)
        try:
            found = ShardReceipt.from_bytes(self.blobs.note(self._receipts, name), name)
            if (found.role, found.index, found.entry.inputs) != (role, index, inputs):
                return None
            stored = self.blobs.digest(f"{self.prefix}/{found.entry.key}")
        except TilevaultError:
            return None
        return found if (stored.size, stored.sha256) == (found.entry.size, found.entry.sha256) else None

    def reuse_shard(self, receipt: ShardReceipt, prefix: str) -> ShardReceipt:
        """Take a shard of an earlier generation (at ``prefix``) that has the same inputs."""
        key = self.description.arrays[receipt.role].shard_key(receipt.index)
        full, existing = f"{self.prefix}/{key}", f"{prefix}/{receipt.entry.key}"
        try:
            self.blobs.link(full, existing)
        except Conflict:
            if self._is_committed():
                raise
            self.blobs.replace(full, [self.blobs.read(existing)])
        return replace(receipt, entry=replace(receipt.entry, key=key))

    def write_source(
        self, number: int, files: Iterable[Iterator[bytes]]
    ) -> tuple[list[ManifestObject], list[list[list[Any]]]]:
        """Store the non-pixel bytes of some files in blocks of <= 4 MiB.

        Returns the objects, and per file its pieces: [block key, offset, length].
        """
        objects: list[ManifestObject] = []
        references: list[list[list[Any]]] = []
        block = bytearray()

        def flush() -> None:
            if block:
                key = f"source/blocks/{number}-{len(objects)}"
                objects.append(self._create(key, [compress(bytes(block), SOURCE_LEVEL)]))
                block.clear()

        for pieces in files:
            own: list[list[Any]] = []
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    if len(block) == SOURCE_BLOCK:
                        flush()
                    taken = view[: SOURCE_BLOCK - len(block)]
                    own.append([f"source/blocks/{number}-{len(objects)}", len(block), len(taken)])
                    block += taken
                    view = view[len(taken) :]
            references.append(own)
        flush()
        return objects, references

    def tables(self, role: str, receipts: Iterable[ShardReceipt]) -> TileTables:
        """The tables of an array from its shards' receipts. Raises `ManifestCorrupt` if a tile is missing."""
        array = self.description.arrays[role]
        tables, seen = TileTables.empty(array), 0
        for receipt in receipts:
            if receipt.role == role:
                for at, tile in receipt.tiles.items():
                    tables.put(at, tile)
                    seen += 1
        if seen != prod(array.grid.tiles):
            raise ManifestCorrupt(f"{seen} of {prod(array.grid.tiles)} tiles were written")
        return tables

    def write_tables(self, receipts: Sequence[ShardReceipt]) -> list[ManifestObject]:
        """Store ``tiles/`` from the receipts of all shards."""
        return [
            self._create(key, [data])
            for role, array in self.description.arrays.items()
            for plain, words in zip(table_arrays(array, role), self.tables(role, receipts).parts, strict=True)
            for key, data in plain.encode(words).items()
        ]

    def readers(
        self, shards: Iterable[ManifestObject], tables: Iterable[ManifestObject]
    ) -> dict[str, TileReader]:
        """Checked reads of what has been written of level 0, by role."""
        sizes = {entry.key: entry.size for entry in shards}
        digests = {entry.key: entry.sha256 for entry in tables}
        made = {}
        for role, array in self.description.arrays.items():
            parts = [self._read_plain(plain, digests) for plain in table_arrays(array, role)]
            made[role] = TileReader(
                self.blobs,
                self.prefix,
                array,
                TileTables(*parts),
                sizes.get,
                self.description.image,
                hold=True,
            )
        return made

    def _read_plain(self, plain: PlainArray, digests: Mapping[str, str]) -> Words:
        words = np.empty(plain.shape, plain.dtype)
        for index in plain.chunk_indices():
            key = plain.chunk_key(index)
            data = self.blobs.read(f"{self.prefix}/{key}")
            if sha256_hex(data) != digests.get(key):
                raise TileCorrupt(f"{key}: changed since it was written", object=key)
            words[plain.window(index).slices] = plain.decode_chunk(index, data)
        return words

    def blocks(self) -> list[tuple[str, tuple[int, ...]]]:
        """The pyramid tasks: (role, position) of each square that is reduced to all stored levels."""
        if len(self.description.levels) == 1:
            return []
        return [
            (role, index)
            for role, array in self.description.arrays.items()
            for index in product(*_ranges(array.grid.shape, self.description.block(role)))
        ]

    def write_block(
        self, role: str, index: tuple[int, ...], readers: Mapping[str, TileReader]
    ) -> list[ManifestObject]:
        """Reduce one square of level 0 to every stored coarse level."""
        d = self.description
        plains = {k: d.coarse(k, role) for k in d.levels[1:]}
        start = tuple(i * b for i, b in zip(index, d.block(role), strict=True))
        stop = (min(a + b, n) for a, b, n in zip(start, d.block(role), d.level_shape(0, role), strict=True))
        made = read_levels(d, readers, role, Window(start, tuple(stop)), tuple(plains))
        return [
            self._create(plain.chunk_key(index), [plain.encode_chunk(index, made[k])])
            for k, plain in plains.items()
        ]

    def write_documents(
        self,
        tables: Mapping[str, TileTables],
        files: Sequence[tuple[SourceFile, list[list[Any]]]],
        receipts: Sequence[ShardReceipt] = (),
    ) -> list[ManifestObject]:
        """Store every ``zarr.json``, coordinates, quality and what describes the sources."""
        quality = self.quality(receipts)
        documents = chain(self._documents(tables, files, quality), self._valid_documents(receipts))
        return [self._create(key, [data]) for key, data in documents]

    def _valid_documents(self, receipts: Sequence[ShardReceipt]) -> Iterator[tuple[str, bytes]]:
        """``quality/valid``, where the samples of all tiles were counted."""
        if not self.description.counts_valid:
            return
        array = valid_array(self.description.data)
        counts = np.zeros(array.shape, array.dtype)
        for receipt in receipts:
            for at, tile in receipt.tiles.items() if receipt.role == "data" else ():
                if tile.valid is None:
                    return
                counts[at] = tile.valid
        yield (
            f"{array.path}/zarr.json",
            array.document(attributes={"units": "1", "long_name": "valid samples"}),
        )
        yield from array.encode(counts).items()

    def quality(self, receipts: Iterable[ShardReceipt]) -> QualityTables | None:
        """What was measured of a lossy image; None for another."""
        if not isinstance(self.description.codec, LearnedCodec):
            return None
        return measured(self.description.data, (r.tiles for r in receipts if r.role == "data"))

    def quality_summary(self, receipts: Iterable[ShardReceipt]) -> dict[str, Any] | None:
        """The measures of a lossy image in a few numbers; None for another."""
        codec, tables = self.description.codec, self.quality(receipts)
        return summary(codec, tables) if isinstance(codec, LearnedCodec) and tables is not None else None

    def manifest(self, objects: Iterable[ManifestObject]) -> Manifest:
        """The manifest of the generation."""
        return Manifest(self.description.image, self.id, tuple(sorted(objects, key=lambda o: o.key)))

    def commit(
        self,
        objects: Iterable[ManifestObject],
        sources: str,
        summary: Mapping[str, Any],
        provenance: Mapping[str, Any],
        previous: CommitRecord | None,
    ) -> CommitRecord:
        """Store the manifest, make all durable, then the commit record.

        Raises `Conflict` if n is taken or another writer has replaced a document, `OutcomeUnknown` if the
        record is there and may not be durable.
        """
        keep_model(self.blobs, self.description.codec)
        manifest = self.manifest(objects)
        stored = self._create("manifest.json", [_within(manifest.to_bytes(), MAX_MANIFEST, "manifest")])
        self.blobs.sync(self.prefix)
        self._confirm_documents(manifest.objects)
        record = CommitRecord(
            image=self.description.image,
            n=0 if previous is None else previous.n + 1,
            generation=self.id,
            manifest=stored.sha256,
            previous=None if previous is None else previous.sha256,
            sources=sources,
            summary={**summary, "bytes_stored": sum(o.size for o in manifest.objects) + stored.size},
            provenance=provenance,
        )
        self.blobs.create(record.key, [_within(record.to_bytes(), MAX_COMMIT, "commit record")])
        try:
            self.blobs.sync(f"commits/{record.image}")
        except TilevaultError as error:
            raise OutcomeUnknown(f"{record.key}: is written, perhaps not durably: {error}") from error
        return record

    def _confirm_documents(self, objects: Iterable[ManifestObject]) -> None:
        """See that the documents are still the ones that were written.

        All else has one spelling. These may be spelt differently by another version of the software that
        writes the same generation at the same time, and takes ours for what an interrupted run left.
        """
        for entry in objects:
            if (
                ".json" in entry.key
                and self.blobs.digest(f"{self.prefix}/{entry.key}").sha256 != entry.sha256
            ):
                raise Conflict(f"{self.prefix}/{entry.key}: was replaced by another writer", object=entry.key)

    def forget_receipts(self) -> None:
        """Remove the receipts of a generation that is committed."""
        forget_receipts(self.blobs, self.description.image, self.id)

    def _create(self, key: str, pieces: Sequence[bytes], inputs: str | None = None) -> ManifestObject:
        """Store an object; what an interrupted run left damaged under the key is written again."""
        full = f"{self.prefix}/{key}"
        try:
            written = self.blobs.create(full, pieces)
        except Conflict:
            if self._is_committed():
                raise
            written = self.blobs.replace(full, pieces)
        return ManifestObject(key, written.size, written.sha256, inputs)

    def abandon(self) -> None:
        """Remove what was written, unless a commit names it: another run committed the image first."""
        if not self._is_committed():
            self.blobs.remove_tree(self.prefix)
            self.forget_receipts()

    def _is_committed(self) -> bool:
        folder = f"commits/{self.description.image}"
        return any(
            f'"generation":"{self.id}"'.encode() in self.blobs.read(f"{folder}/{name}", limit=MAX_COMMIT)
            for name in self.blobs.names(folder)
        )

    def _documents(
        self,
        tables: Mapping[str, TileTables],
        files: Sequence[tuple[SourceFile, list[list[Any]]]],
        quality: QualityTables | None,
    ) -> Iterator[tuple[str, bytes]]:
        yield "source/image.json", canonical(self.description.to_json())
        listed = canonical([_file_json(file, pieces) for file, pieces in files])
        if excess := too_large(listed):
            raise LimitExceeded(f"the list of source files would have {excess}")
        yield "source/files.json.zst", compress(listed, SOURCE_LEVEL)
        if self.description.info is None:
            yield "zarr.json", group_document({"tilevault": {"kind": self.description.kind, "pixels": False}})
            return
        yield from self._pixel_documents()
        yield "tiles/zarr.json", group_document({})
        yield "quality/zarr.json", group_document(self._quality_attributes(quality))
        for role, array in self.description.arrays.items():
            yield f"tiles/{role}/zarr.json", group_document({})
            for plain in table_arrays(array, role):
                yield f"{plain.path}/zarr.json", plain.document()
        if quality is None:
            bits = bits_array(self.description.data)
            attributes = {"units": "bit", "long_name": "coded size"}
            yield f"{bits.path}/zarr.json", bits.document(attributes=attributes)
            yield from bits.encode(tables["data"].bits()).items()
            return
        kept = measure_arrays(self.description.data)
        for a in QUALITY_ARRAYS:
            yield f"{kept[a.name].path}/zarr.json", kept[a.name].document(attributes=a.attributes())
            yield from kept[a.name].encode(quality.arrays[a.name]).items()

    def _quality_attributes(self, quality: QualityTables | None) -> dict[str, Any]:
        codec = self.description.codec
        if quality is None or not isinstance(codec, LearnedCodec):
            return {}
        return {"tilevault": {"fidelity": self.description.fidelity, **summary(codec, quality)}}

    def _pixel_documents(self) -> Iterator[tuple[str, bytes]]:
        """The hierarchy that other programs see: groups, level 0, coarse levels, coordinates."""
        d, info = self.description, self.description.info
        assert info is not None
        attributes = metadata.group_documents(info, d.levels, d.name, d.downsampling or "mean")
        fill = metadata.fill_value(info)
        arrays: dict[str, tuple[Any, tuple[str, ...]]] = {}
        for role, names in (("data", info.axes), ("mask", info.axes[-2:])):
            if role in d.arrays:
                arrays[d.level_path(0, role)] = (d.arrays[role], names)
                arrays |= {d.level_path(k, role): (d.coarse(k, role), names) for k in d.levels[1:]}
        for path, document in attributes.items():
            key = f"{path}/zarr.json" if path else "zarr.json"
            if "tilevault" in document and d.round_trip == "lossy":
                document = {**document, "tilevault": {**document["tilevault"], "fidelity": d.fidelity}}
            if path not in arrays:
                yield key, group_document(document)
                continue
            array, names = arrays.pop(path)
            value = 0 if path.endswith("/mask") else fill
            if isinstance(array, TiledArray):
                yield key, _sharded_document(array, value, document, names)
            else:
                yield key, array.document(value, document, names)
        if arrays:
            raise ManifestCorrupt(f"the conventions describe no {sorted(arrays)}")
        coordinates = metadata.coordinate_arrays(info, d.levels, d.downsampling or "mean")
        for path, (words, names, document) in coordinates.items():
            plain = PlainArray.table(path, words.shape, words.dtype)
            yield f"{path}/zarr.json", plain.document(0, document, names)
            yield from plain.encode(words).items()

    def _keep_receipt(self, receipt: ShardReceipt) -> None:
        """Leave word of a finished shard. A receipt that cannot be kept costs a repetition, no more."""
        name = _receipt_name(receipt.role, receipt.index)
        with contextlib.suppress(TilevaultError):
            self.blobs.keep_note(self._receipts, name, receipt.to_bytes())

    @property
    def _receipts(self) -> str:
        return _receipts(self.description.image, self.id)


def _within(data: bytes, limit: int, what: str) -> bytes:
    """``data``, unless readers would refuse it for its length."""
    if len(data) > limit:
        raise LimitExceeded(f"the {what} would have {len(data)} bytes, more than {limit}")
    return data


def forget_receipts(blobs: LocalBlobs, image: str, generation: str) -> None:
    """Remove the receipts of a committed generation."""
    blobs.drop_notes(_receipts(image, generation))


def _receipts(image: str, generation: str) -> str:
    return f"{image}-{generation}"


def _receipt_name(role: str, index: tuple[int, ...]) -> str:
    return f"{role}-{'-'.join(map(str, index))}.json"


def table_arrays(array: TiledArray, role: str) -> list[PlainArray]:
    """The arrays of ``tiles/<role>``: ends, digests, pixels."""
    tiles, segments = array.grid.tiles, array.codec.resolutions
    shapes = ((*tiles, segments), (*tiles, segments, 16), (*tiles, 16))
    dtypes = (np.uint32, np.uint8, np.uint8)
    return [
        PlainArray.table(f"tiles/{role}/{name}", shape, dtype)
        for name, shape, dtype in zip(_TABLES, shapes, dtypes, strict=True)
    ]


def bits_array(array: TiledArray) -> PlainArray:
    """``quality/bits``: coded bits of each tile of the data."""
    return PlainArray.table("quality/bits", array.grid.tiles, np.uint32)


def valid_array(array: TiledArray) -> PlainArray:
    """``quality/valid``: samples of each tile that are no nodata, of images that count them."""
    return PlainArray.table("quality/valid", array.grid.tiles, np.uint32)


def _ranges(shape: Sequence[int], block: Sequence[int]) -> list[range]:
    return [range(ceil(n / b)) for n, b in zip(shape, block, strict=True)]


def _sharded_document(
    array: TiledArray, fill: Any, attributes: Mapping[str, Any], names: tuple[str, ...]
) -> bytes:
    """``zarr.json`` of level 0: shards of tiles, each tile under the codec, then crc32c."""
    crc = {"name": "crc32c"}
    inner = [array.codec.to_dict(), crc]
    index = [{"name": "bytes", "configuration": {"endian": "little"}}, crc]
    sharding = {
        "chunk_shape": list(array.grid.tile),
        "codecs": inner,
        "index_codecs": index,
        "index_location": "end",
    }
    codecs = [{"name": "sharding_indexed", "configuration": sharding}]
    return array_document(array.grid.shape, array.dtype, array.grid.shard, codecs, fill, attributes, names)


def _file_json(file: SourceFile, pieces: list[list[Any]]) -> dict[str, Any]:
    return {
        "name": file.name,
        "size": file.size,
        "sha256": file.sha256,
        "format": file.format,
        "record": dict(file.record),
        "warnings": list(file.warnings),
        "pieces": pieces,
    }


def _measures(tile: EncodedTile) -> list[Any] | None:
    return None if tile.quality is None else tile.quality.to_json()


def _quality(measures: Any) -> TileQuality | None:
    return None if measures is None else TileQuality.from_json(measures)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
