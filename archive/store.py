"""The archive as its users see it: a mapping of images, each read like an array, every byte checked.

`Archive` finds images through their commit records alone; nothing else says that an image exists. `Image`
opens one committed generation through the chain commit -> manifest -> objects -> tiles, and answers with
values or with an error of ours, never with anything else.
"""

import contextlib
import operator
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from tilevault.archive.blobs import STAGING, LocalBlobs
from tilevault.archive.cache import TileCache
from tilevault.archive.check import CheckResult, check_image
from tilevault.archive.description import Description
from tilevault.archive.documents import MAX_DOCUMENT, seal, sha256_hex, unseal
from tilevault.archive.generation import bits_array, forget_receipts, table_arrays, valid_array
from tilevault.archive.grid import DECOMPOSITIONS, TileGrid
from tilevault.archive.image import ImageInfo, Window, Words, window_of
from tilevault.archive.listing import LISTING, commit_numbers, listing_bytes, read_listing
from tilevault.archive.lossy import measure_arrays, summary
from tilevault.archive.manifest import (
    FORMAT_VERSION,
    MAX_COMMIT,
    MAX_MANIFEST,
    CommitRecord,
    Manifest,
    ManifestObject,
    StoredManifest,
    image_id,
)
from tilevault.archive.models import find_models_in
from tilevault.archive.parallel import each
from tilevault.archive.places import Blobs, blobs_at, is_url
from tilevault.archive.plain import PlainArray
from tilevault.archive.quality import QUALITY_ARRAYS, QualityTables
from tilevault.archive.reading import read_level
from tilevault.archive.source import Source
from tilevault.archive.tables import StoredTables
from tilevault.archive.tile_reader import TileReader, magnified
from tilevault.archive.tiles import TiledArray
from tilevault.codecs import LearnedCodec
from tilevault.codecs.base import TileCodec
from tilevault.codecs.errors import (
    ImageNotFound,
    IntegrityError,
    InvalidRequest,
    LimitExceeded,
    LossyRefused,
    ManifestCorrupt,
    TileCorrupt,
    TileMissing,
    UnsupportedSyntax,
)

__all__ = ["Archive", "Image", "Quality", "StoredWords"]

T = TypeVar("T")
_ARCHIVE = "archive.json"
_ID = re.compile("[0-9a-f]{32}")
_FORMAT = {"format": "tilevault", "version": FORMAT_VERSION, "digests": ["sha256", "blake3-128", "crc32c"]}
_SEALED_FORMAT = seal(_FORMAT)


class Archive(Mapping[str, "Image"]):
    """A folder of archived images. Opening reads one small file; images are looked up when asked for.

    ``cache``: where its images keep decoded tiles (default: nowhere, see `archive.cache`).
    """

    def __init__(
        self,
        location: str | os.PathLike[str],
        *,
        cache: TileCache | None = None,
        timeout: float | None = None,
    ) -> None:
        self.blobs = blobs_at(location, timeout)
        self.location = self.blobs.location
        self.cache = cache
        try:
            if not self.blobs.has_root():
                raise ImageNotFound(f"{self.location}: there is no archive here")
        except IntegrityError as error:
            raise ImageNotFound(f"{self.location}: is no folder") from error
        try:
            data = self.blobs.read(_ARCHIVE, limit=MAX_COMMIT)
        except TileMissing as error:
            raise ImageNotFound(f"{self.location}: there is no archive here") from error
        document = _FORMAT if data == _SEALED_FORMAT else unseal(data, _ARCHIVE)
        if document != _FORMAT:
            raise ManifestCorrupt(
                f"{self.location}: format version {document.get('version')}; this reads {FORMAT_VERSION}"
            )
        find_models_in(self.blobs)

    @classmethod
    def open(
        cls,
        location: str | os.PathLike[str],
        *,
        cache: TileCache | None = None,
        timeout: float | None = None,
    ) -> "Archive":
        """The archive in a folder, or, to be read only, at ``s3://BUCKET/PREFIX`` or ``http(s)://HOST/PATH``.

        Its images keep decoded tiles in ``cache``. ``timeout``: seconds that a remote answer may take
        (default: 30). Raises `ImageNotFound` if there is none, `ManifestCorrupt` if it is damaged,
        `InvalidRequest` for another URL, `UnsupportedSyntax` without obstore (extra ``[remote]``).
        """
        return cls(location, cache=cache, timeout=timeout)

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> "Archive":
        """The archive at ``path``, made if the folder is absent or empty."""
        if is_url(path):
            raise _only_read(os.fspath(path))
        blobs = LocalBlobs(path)
        try:
            there = blobs.has_root()
            found = {*blobs.names(""), *blobs.folders("")} - {STAGING} if there else set()
        except IntegrityError as error:
            raise InvalidRequest(f"{blobs.root}: is no folder") from error
        # Looked at again by name: another process may have made the archive while the names were listed.
        if not there or (_ARCHIVE not in found and blobs.size(_ARCHIVE) is None):
            if found:
                raise InvalidRequest(f"{blobs.root}: is neither an archive nor an empty folder")
            blobs.make_root()
            blobs.create(_ARCHIVE, [seal(_FORMAT)])
            blobs.sync_root()
        return cls(path)

    def __repr__(self) -> str:
        return f"Archive({self.location!r})"

    @property
    def path(self) -> Path:
        """The archive's folder. Raises `InvalidRequest` for a remote one."""
        return self.blobs.root

    @property
    def writable(self) -> LocalBlobs:
        """The objects, to be written. Raises `InvalidRequest` for a remote archive."""
        if not isinstance(self.blobs, LocalBlobs):
            raise _only_read(self.location)
        return self.blobs

    def __iter__(self) -> Iterator[str]:
        """Ids of the images that exist, in order; one whose newest commit is damaged is named too."""
        named = _ids(self.blobs.folders("commits")) if self.blobs.lists else read_listing(self.blobs)
        for name in named:
            try:
                newest = self.newest_commit(name)
            except IntegrityError:
                yield name
                continue
            if newest is not None and newest.generation is not None:
                yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        try:
            commit = self.newest_commit(self._find(name))
        except ImageNotFound:
            return False
        return commit is not None and commit.generation is not None

    def __getitem__(self, name: str) -> "Image":
        """The image of an id, an unambiguous prefix of one, a SeriesInstanceUID, or a source's name.

        Raises `ImageNotFound`.
        """
        # A whole id is looked up once; `_find` tells what is wrong with any other name.
        commit = self.newest_commit(name) if _ID.fullmatch(str(name)) else None
        commit = commit or self.newest_commit(self._find(name))
        if commit is None or commit.generation is None:
            raise ImageNotFound(f"no image {name!r} in {self.location}")
        return Image(self, commit)

    @overload
    def get(self, name: str, /) -> "Image | None": ...

    @overload
    def get(self, name: str, /, default: "Image | T") -> "Image | T": ...

    def get(self, name: str, /, default: Any = None) -> Any:
        """The image that answers to ``name``, or ``default`` where none does, or more than one."""
        try:
            return self[name]
        except ImageNotFound:
            return default

    def search(self, where: Mapping[str, Any]) -> Iterator["Image"]:
        """Images whose summary has all these values (compared as text)."""
        for name in self:
            image = self[name]
            if all(str(image.summary.get(key)) == str(value) for key, value in where.items()):
                yield image

    def commits(self, image: str) -> list[CommitRecord]:
        """Every commit record of an image, oldest first. Raises `ManifestCorrupt` if the chain is broken."""
        numbers = self._commit_numbers(image)
        records = [self._commit(image, n) for n in numbers]
        if numbers != list(range(len(numbers))):
            raise ManifestCorrupt(
                f"image {image}: a commit record is missing; there are {numbers}", image=image
            )
        for before, after in pairwise(records):
            if after.previous != before.sha256:
                raise ManifestCorrupt(
                    f"image {image}: commit {after.n} does not follow {before.n}", image=image
                )
        return records

    def newest_commit(self, image: str) -> CommitRecord | None:
        """The record that decides whether and how the image exists. Raises `ManifestCorrupt`."""
        numbers = self._commit_numbers(image)
        return self._commit(image, numbers[-1]) if numbers else None

    def remove(self, name: str) -> CommitRecord:
        """Remove an image: a commit that says so, then its generations. The commit records stay.

        Removing an image again whose removal was interrupted deletes what is left of it.
        """
        blobs, image = self.writable, self._find(name)
        newest = self.newest_commit(image)
        doomed = _ids(self.blobs.folders(f"images/{image}"))
        if newest is None or (newest.generation is None and not doomed):
            raise ImageNotFound(f"no image {name!r} in {self.location}")
        if newest.generation is None:
            self.finish_removal(image)
            return newest
        gone = CommitRecord(image, newest.n + 1, None, None, newest.sha256, None)
        blobs.create(gone.key, [gone.to_bytes()])
        blobs.sync(f"commits/{image}")
        # Only what lay there before: whoever adds the image from now on writes generations of other names.
        self._delete(image, doomed)
        return gone

    def finish_removal(self, image: str) -> None:
        """Delete the generations of an image that is removed: all those that its commit records name."""
        records = [self._commit(image, n) for n in self._commit_numbers(image)]
        if records and records[-1].generation is None:
            self._delete(image, [record.generation for record in records if record.generation])

    def _delete(self, image: str, generations: Iterable[str]) -> None:
        for generation in generations:
            self.writable.remove_tree(f"images/{image}/{generation}")
            forget_receipts(self.writable, image, generation)
        self.writable.remove_empty(f"images/{image}")

    def write_listing(self) -> int:
        """Write ``listing.json``, which tells what there is where a web server does not; how many images.

        To be written again when images were added or removed; nothing else depends on it.
        """
        blobs, images = self.writable, list(self)
        blobs.replace(LISTING, [listing_bytes(images)])
        blobs.sync_root()
        return len(images)

    def uncommitted(self) -> Iterator[tuple[str, str, bool]]:
        """(image, generation, complete) of every generation on disk that no commit names.

        Complete ones hold a manifest: an add was interrupted in its last step, or a commit record was lost.
        None are found where the place does not list its objects.
        """
        for image in _ids(self.blobs.folders("images")) if self.blobs.lists else ():
            try:
                named = {self._commit(image, n).generation for n in self._commit_numbers(image)}
            except IntegrityError:
                named = set()
            for generation in _ids(self.blobs.folders(f"images/{image}")):
                if generation not in named:
                    complete = self.blobs.size(f"images/{image}/{generation}/manifest.json") is not None
                    yield image, generation, complete

    def _commit(self, image: str, n: int) -> CommitRecord:
        try:
            data = self.blobs.read(f"commits/{image}/{n}.json", limit=MAX_COMMIT)
            return CommitRecord.from_bytes(data, image, n)
        except TileMissing as error:
            raise ManifestCorrupt(f"image {image}: commit record {n} is missing", image=image) from error

    def _commit_numbers(self, image: str) -> list[int]:
        return commit_numbers(self.blobs, image)

    def _find(self, name: object) -> str:
        if not isinstance(name, str):
            raise ImageNotFound(f"images are found by text, not by {type(name).__name__}")
        if _ID.fullmatch(name) and self._commit_numbers(name):
            return name
        ids = list(self)
        found = [i for i in ids if i.startswith(name)] if len(name) >= 4 else []
        if not found:
            # The commit record tells the series and what people call the image; the files take longer.
            found = [i for i in ids if self._is_called(i, name)] or [i for i in ids if self._holds(i, name)]
        if len(found) != 1:
            what = f"{len(found)} images answer" if found else "no image answers"
            raise ImageNotFound(f"{what} to {name!r} in {self.location}", matches=found)
        return found[0]

    def _is_called(self, image: str, name: str) -> bool:
        try:
            commit = self.newest_commit(image)
        except IntegrityError:
            return False
        summary = {} if commit is None else commit.summary
        return name in (summary.get("SeriesInstanceUID"), summary.get("name"))

    def _holds(self, image: str, name: str) -> bool:
        try:
            return any(file.name == name for file in self[image].source.files)
        except (IntegrityError, LimitExceeded):
            return False


class Image:
    """One archived image at one commit: ``image[...]`` slices like NumPy and reads only what it touches."""

    def __init__(self, archive: Archive, commit: CommitRecord) -> None:
        self.blobs = archive.blobs
        self.commit = commit
        self.id = commit.image
        self.generation = str(commit.generation)
        self.threads = True
        self.cache = archive.cache

    @classmethod
    def staged(cls, blobs: Blobs, manifest: Manifest) -> "Image":
        """An image that is not committed yet, for the writer to look at its own work; single-threaded."""
        image = cls.__new__(cls)
        image.blobs = blobs
        image.commit = CommitRecord(manifest.image, 0, manifest.generation, None, None, None)
        image.id, image.generation = manifest.image, manifest.generation
        image.threads = False
        image.cache = None
        image.__dict__["manifest"] = manifest
        return image

    def __repr__(self) -> str:
        info = self.info
        shape = "no pixels" if info is None else f"{info.shape} {info.dtype} {''.join(info.axes)}"
        return f"<Image {self.id[:12]} {self.description.name!r}: {shape}>"

    @property
    def prefix(self) -> str:
        """Key of the generation in the archive."""
        return f"images/{self.id}/{self.generation}"

    @property
    def path(self) -> Path:
        """Folder of the generation: a plain Zarr v3 group. Raises `InvalidRequest` for a remote archive."""
        return self.blobs.root / self.prefix

    @property
    def summary(self) -> Mapping[str, Any]:
        """What listings show and search, from the commit record."""
        return self.commit.summary

    @cached_property
    def manifest(self) -> Manifest:
        """Every object of the generation. Raises `ManifestCorrupt`."""
        return self._stored_manifest.whole

    @cached_property
    def _stored_manifest(self) -> StoredManifest:
        try:
            data = self.blobs.read(f"{self.prefix}/manifest.json", limit=MAX_MANIFEST)
        except TileMissing as error:
            raise ManifestCorrupt(f"image {self.id}: its manifest is missing", image=self.id) from error
        return StoredManifest(data, self.commit)

    def entry(self, key: str) -> ManifestObject | None:
        """What the manifest says of an object of the generation; None where it lists no such key."""
        if "manifest" in self.__dict__:
            return self.manifest.by_key.get(key)
        return self._stored_manifest.entry(key)

    @cached_property
    def description(self) -> Description:
        """What the generation says of itself."""
        made = Description.from_bytes(self.object("source/image.json"))
        if made.image != self.id or image_id(made.kind, made.key, made.fidelity) != self.id:
            raise ManifestCorrupt(f"image {self.id}: is described as another image", image=self.id)
        return made

    @property
    def info(self) -> ImageInfo | None:
        """The image as an array; None where the files hold no pixels."""
        return self.description.info

    @property
    def round_trip(self) -> str:
        """``file-exact``, ``metadata-exact`` or ``lossy``."""
        return self.description.round_trip

    @property
    def fidelity(self) -> str:
        """``exact``, or the target of a lossy image, such as ``psnr=45``."""
        return self.description.fidelity

    def require_lossless(self) -> None:
        """Raise `LossyRefused` if the pixels are not those that were handed in."""
        if self.info is not None and self.round_trip == "lossy":
            raise LossyRefused(
                f"image {self.id} is lossy ({self.fidelity}), and exact pixels are asked for", image=self.id
            )

    @property
    def codec(self) -> TileCodec | None:
        """The tile codec of level 0."""
        return self.description.codec

    @property
    def grid(self) -> TileGrid:
        """Tiles and shards of level 0."""
        self._pixels()
        return self.description.data.grid

    @property
    def downsampling(self) -> str | None:
        """How levels are made: ``lowpass53``, ``mean`` or ``nearest``."""
        return self.description.downsampling

    @property
    def stored_levels(self) -> tuple[int, ...]:
        """Levels that lie in the archive as arrays of their own."""
        return self.description.levels if self.info is not None else ()

    @property
    def levels(self) -> tuple[int, ...]:
        """Levels that can be read; level k has 1/2**k of the samples along y and x."""
        return tuple(range(DECOMPOSITIONS + 1)) if self.stored_levels else ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Samples along each axis of level 0."""
        return self._pixels().shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of words and values alike."""
        return self._pixels().dtype

    @cached_property
    def source(self) -> Source:
        """The files that the image was made of, byte by byte."""
        return Source(self)

    @cached_property
    def quality(self) -> "Quality":
        """What is recorded per tile."""
        return Quality(self)

    @property
    def words(self) -> "StoredWords":
        """The stored words as they were received: ``image.words[...]``."""
        return StoredWords(self)

    def __getitem__(self, key: Any) -> Words:
        """Values (masked to BitsStored, sign extended) by basic indexing: integers, slices, ``...``."""
        window, index = window_of(key, self.shape)
        return np.asarray(self._read(window, 0)[index])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Words:
        return np.asarray(self[...], dtype)

    def read(
        self,
        window: Window | None = None,
        level: int = 0,
        index: Mapping[str, int] | None = None,
        restore: bool = True,
    ) -> Words:
        """Values of a window of a level (default: all of it).

        ``window`` spans all axes, or y and x only, in samples of ``level``; ``index`` picks one position of
        leading axes by name and drops them. ``restore=False`` leaves out what a network adds to decoded
        lossy tiles (coarse levels are then made from level 0). Raises `InvalidRequest` outside the image.
        """
        shape = self.level_shape(level)
        axes = self._pixels().axes
        start, stop = [0] * len(shape), list(shape)
        if window is not None:
            n = len(window.start)
            if n not in (2, len(shape)) or any(b > s for b, s in zip(window.stop, shape[-n:], strict=True)):
                raise InvalidRequest(
                    f"window {window.start}..{window.stop} is not in level {level} of {shape}"
                )
            start[-n:], stop[-n:] = window.start, window.stop
        dropped = []
        for name, position in (index or {}).items():
            axis, at = axes.index(name) if name in axes[:-2] else -1, _integer(position)
            if axis < 0 or not 0 <= at < shape[axis]:
                raise InvalidRequest(f"no position {name}={at}; axes {axes} have {shape}")
            start[axis], stop[axis] = at, at + 1
            dropped.append(axis)
        words = self._stored_or_made("data", Window(tuple(start), tuple(stop)), level, restore)
        return words.squeeze(tuple(dropped)) if dropped else words

    def low_band(self, window: Window, level: int) -> Words | None:
        """A window (all axes) of a level as a prefix of each tile has it: to look at, cheaply.

        Of scenes with nodata, whose levels are means. The low band of a tile (5/3 wavelet) lies up to half a
        sample beside them and mixes nodata into its neighbours; so None wherever a tile of the window has
        nodata, or is not known to have none. None for stored levels, too. Raises as `read` does.
        """
        if level in self.stored_levels or not self._is_whole(window, level):
            return None
        with _within_memory(window):
            return self.readers["data"].read(window, level, self.threads)

    def _is_whole(self, window: Window, level: int) -> bool:
        """Whether no tile of a window of a level has nodata."""
        grid, counts = self.grid, self._valid_counts
        if counts is None:
            return False
        return all(
            counts[at] == prod(grid.tile_window(at).shape)
            for at in grid.tile_indices(magnified(window, level, grid.shape))
        )

    @cached_property
    def _valid_counts(self) -> NDArray[np.uint32] | None:
        """Valid samples of each tile, where they were counted."""
        array = valid_array(self.description.data)
        if self._size_of(f"{array.path}/zarr.json") is None:
            return None
        return np.asarray(self.plain(array), np.uint32)

    def read_mask(self, window: Window | None = None, level: int = 0) -> NDArray[np.uint8]:
        """The validity mask (y, x; 255 valid, 0 not) of a level. Raises `InvalidRequest` if there is none."""
        shape = self.level_shape(level)[-2:]
        if self.description.mask is None:
            raise InvalidRequest(f"image {self.id} has no mask")
        window = window or Window((0, 0), shape)
        if len(window.stop) != 2 or any(b > n for b, n in zip(window.stop, shape, strict=True)):
            raise InvalidRequest(f"window {window.start}..{window.stop} is not in level {level} of {shape}")
        return self._stored_or_made("mask", window, level)

    def level_shape(self, level: int) -> tuple[int, ...]:
        """Shape of a level. Raises `InvalidRequest` if there is no such level."""
        self._pixels()
        if _integer(level) not in self.levels:
            raise InvalidRequest(f"image {self.id} has levels {self.levels}, not {level}")
        return self.description.level_shape(level)

    def check(self, depth: str = "digest", sample: float | None = None, seed: int = 0) -> CheckResult:
        """Look for damage: ``exists``, ``size``, ``digest`` or ``pixels``, on all or ``sample`` percent.

        Raises `InvalidRequest`; `AccessDenied`, `StoreTimeout`, `StoreUnavailable` where nothing can be said.
        """
        return check_image(self, depth, sample, seed)

    def to_xarray(self, level: int = 0, units: str | None = None) -> Any:
        """An `xarray.DataArray` of a level that reads, checked, when it is used (extra ``[xarray]``).

        Values as stored; nodata (``_FillValue``), scale, offset and unit of a scene are its attributes.
        ``units="HU"`` (or the rescale type's name): float64 after rescale slope and intercept, lazily too.
        Coordinates are pixel centres (of the map; mm in the patient system, LPS) and names of bands.
        Raises `InvalidRequest` for other units, `UnsupportedSyntax` if xarray is not installed.
        """
        try:
            from tilevault.archive.xarrays import to_xarray
        except ImportError as error:
            raise UnsupportedSyntax("xarray is not installed: pip install 'tilevault[xarray]'") from error
        return to_xarray(self, level, units)

    def to_dask(self, level: int = 0, chunks: Any = None) -> Any:
        """A `dask.array.Array` of a level's values, checked, and read when it is computed.

        ``chunks``: as Dask takes them; default: tiles put together to some 16 MiB, along the shards (of a
        stored level, its own chunks). Workers open the archive themselves: it must lie where they see it
        (see `archive.dask_arrays`). Raises `InvalidRequest` for a level or chunks that cannot be.
        """
        from tilevault.archive.dask_arrays import to_dask

        return to_dask(self, level, chunks)

    def object(self, key: str, limit: int = MAX_DOCUMENT) -> bytes:
        """A whole stored object, checked against the manifest. Raises `TileMissing` or `TileCorrupt`.

        One of more than ``limit`` bytes is not what it should be: `IntegrityError`.
        """
        entry = self.entry(key)
        if entry is None:
            raise TileMissing(f"image {self.id}: the manifest lists no {key}", image=self.id, object=key)
        data = self.blobs.read(f"{self.prefix}/{key}", limit=limit)
        if len(data) != entry.size or sha256_hex(data) != entry.sha256:
            raise TileCorrupt(f"image {self.id}: {key} does not match its digest", image=self.id, object=key)
        return data

    def plain(self, array: PlainArray, window: Window | None = None, cached: bool = False) -> Words:
        """Checked read of a plain array, its chunks kept in the cache if ``cached``.

        Raises `LimitExceeded` for more than fits into memory.
        """
        window = window or Window((0,) * len(array.shape), array.shape)
        if array.chunk_count(window) > self._most_objects:
            raise ManifestCorrupt(f"image {self.id}: the manifest lists too few chunks of {array.path}")
        with _within_memory(window):
            out = np.empty(window.shape, array.dtype)

        def place(index: tuple[int, ...]) -> None:
            own = array.window(index)
            common = own.intersect(window)
            chunk = self._chunk(array, index, cached)
            out[common.shift(window.start).slices] = chunk[common.shift(own.start).slices]

        each(place, array.chunk_indices(window), self.blobs.far, self.threads)
        return out

    @cached_property
    def readers(self) -> dict[str, TileReader]:
        """Checked tile readers by role."""
        return {role: self._reader(role, array) for role, array in self.description.arrays.items()}

    def _reader(self, role: str, array: TiledArray) -> TileReader:
        tables = StoredTables(table_arrays(array, role), self._chunk)
        identity = str(self.commit.manifest)
        return TileReader(
            self.blobs,
            self.prefix,
            array,
            tables,
            self._size_of,
            self.id,
            cache=self.cache,
            identity=identity,
        )

    def _size_of(self, key: str) -> int | None:
        entry = self.entry(key)
        return None if entry is None else entry.size

    @property
    def _most_objects(self) -> int:
        return len(self.manifest.objects) if "manifest" in self.__dict__ else self._stored_manifest.most

    def _chunk(self, array: PlainArray, index: tuple[int, ...], cached: bool = False) -> Words:
        """One checked chunk of a plain array: what of it lies in the array."""
        if cached and self.cache is not None:
            key = (self.commit.manifest, array.path, index)
            return self.cache.get(key, lambda: self._chunk(array, index))
        return array.decode_chunk(index, self.object(array.chunk_key(index), array.longest_chunk))

    def _read(self, window: Window, level: int) -> Words:
        return self._stored_or_made("data", window, level)

    def _stored_or_made(self, role: str, window: Window, level: int, restore: bool = True) -> Words:
        if level and level in self.stored_levels and restore:
            return self.plain(self.description.coarse(level, role), window, cached=True)
        with _within_memory(window):
            return read_level(self.description, self.readers, role, window, level, self.threads, restore)

    def _pixels(self) -> ImageInfo:
        if self.info is None:
            raise InvalidRequest(f"image {self.id} holds no pixels; its files are kept as they are")
        return self.info


class StoredWords:
    """The stored words of an image, sliced like an array."""

    def __init__(self, image: Image) -> None:
        self._image = image

    def __getitem__(self, key: Any) -> Words:
        window, index = window_of(key, self._image.shape)
        with _within_memory(window):
            return np.asarray(self._image.readers["data"].read(window, threads=self._image.threads)[index])


class Quality:
    """Per-tile records, as arrays shaped like the tile grid."""

    def __init__(self, image: Image) -> None:
        self._image = image

    @cached_property
    def bits(self) -> NDArray[np.uint32]:
        """Coded bits of each tile."""
        return np.asarray(self._image.plain(bits_array(self._image.description.data)), np.uint32)

    def __getattr__(self, name: str) -> NDArray[Any]:
        """A measure of a lossy image by its name in `QUALITY_ARRAYS`, such as ``quality.psnr``."""
        if name.startswith("_") or name not in self.measures:
            raise AttributeError(f"image {self._image.id} has no recorded {name!r}")
        return self.tables.arrays[name]

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of what is recorded of a lossy image; of another, nothing but `bits`."""
        lossy = self._image.info is not None and self._image.round_trip == "lossy"
        return tuple(array.name for array in QUALITY_ARRAYS) if lossy else ()

    @cached_property
    def tables(self) -> QualityTables:
        """All that is recorded of a lossy image. Raises `InvalidRequest` for another."""
        if not self.measures:
            raise InvalidRequest(f"image {self._image.id} is not lossy: there is nothing to measure")
        data = self._image.description.data
        arrays = {name: self._image.plain(plain) for name, plain in measure_arrays(data).items()}
        return QualityTables.checked(arrays, data.grid.tiles)

    @cached_property
    def summary(self) -> Mapping[str, Any] | None:
        """The measures in a few numbers (`archive.lossy.summary`); None for an image that is not lossy."""
        codec = self._image.codec
        return summary(codec, self.tables) if isinstance(codec, LearnedCodec) else None

    @cached_property
    def samples(self) -> NDArray[np.int64]:
        """Samples of each tile that lie in the image. (`tables` counts those that were compared.)"""
        grid = self._image.grid
        out = np.empty(grid.tiles, np.int64)
        for index in grid.tile_indices():
            out[index] = np.prod(grid.tile_window(index).shape)
        return out

    @property
    def bits_per_sample(self) -> NDArray[np.float64]:
        """Coded bits per valid sample of each tile."""
        return self.bits / self.samples


def _only_read(location: str) -> InvalidRequest:
    return InvalidRequest(f"{location}: a remote archive can only be read")


def _integer(value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError as error:
        raise InvalidRequest(f"{value!r:.50} is no integer") from error


@contextlib.contextmanager
def _within_memory(window: Window) -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise LimitExceeded(f"a window of {window.shape} samples does not fit into memory") from error


def _ids(names: Iterable[str]) -> list[str]:
    """Those names that are of images or generations; other folders are none of ours."""
    return [name for name in names if _ID.fullmatch(name)]
