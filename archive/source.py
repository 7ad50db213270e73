"""The files that an image was made of: their names, and their bytes again.

Non-pixel bytes lie in compressed blocks under ``source/blocks``; ``source/files.json`` says for each file
which pieces of which blocks they are, and holds what the format recorded to put the file together again.
"""

import contextlib
import struct
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, cached_property, lru_cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import zstandard

from tilevault.archive.documents import MAX_DOCUMENT, parse
from tilevault.archive.formats import SourceFile, SourceImage, formats
from tilevault.archive.generation import SOURCE_BLOCK
from tilevault.archive.image import Window, Words
from tilevault.archive.plain import expand
from tilevault.codecs.errors import InvalidRequest, ManifestCorrupt

if TYPE_CHECKING:
    from tilevault.archive.store import Image

__all__ = ["Source", "StoredFrames"]

BLOCKS = "source/blocks/"
SLACK = 64 << 20
"""Bytes by which what is kept of a file besides its pixels may be more than the file."""


class Source:
    """The source files of one archived image."""

    def __init__(self, image: "Image") -> None:
        self._image = image
        self._blocks: OrderedDict[str, bytes] = OrderedDict()
        rank = len(image.info.shape) if image.info else 0
        self._around = Window((0,) * rank, (0,) * rank), np.empty((0,) * rank)
        self._ahead: tuple[Window | None, Future[Words] | None] = None, None

    @cached_property
    def files(self) -> tuple[SourceFile, ...]:
        """Every file, in stacking order, sidecars last. Raises `ManifestCorrupt`."""
        return self._contents[1]

    def apart(self, image: "Image") -> "Source":
        """The same files, to be read beside this by another thread: what is in use is not shared.

        ``image``: the image as that thread has it.
        """
        made = Source(image)
        made.__dict__.update(files=self.files, _contents=self._contents, image=self.image)
        return made

    @property
    def layout(self) -> Mapping[str, Any]:
        """How array positions map to files and frames (of the format)."""
        return self._image.description.layout

    @cached_property
    def image(self) -> SourceImage:
        """The image as the format assembled it, its files now lying in the archive."""
        d = self._image.description
        transfer_syntax = getattr(d.codec, "transfer_syntax", None)
        return SourceImage(
            kind=d.kind,
            key=d.key,
            format=d.format,
            sources=self.files,
            info=d.info,
            codec=transfer_syntax,
            round_trip=d.round_trip,
            search=d.search,
            layout=d.layout,
            warnings=d.warnings,
            fidelity=d.fidelity,
        )

    def verbatim(self, i: int) -> Iterator[bytes]:
        """The non-pixel bytes of file ``i`` (all bytes of a sidecar or object), in pieces of <= 4 MiB."""
        left = self.files[i].size + SLACK
        with _sound(self._image, "files.json"):
            documents = self._contents[0]
            pieces = [(key, offset, length) for key, offset, length in documents[i]["pieces"]]
        for key, offset, length in pieces:
            block = self._block(key)
            inside = type(offset) is type(length) is int and 0 <= offset <= offset + length <= len(block)
            if not inside or length > left:
                raise ManifestCorrupt(f"image {self._image.id}: files.json points outside {key}")
            left -= length
            yield block[offset : offset + length]

    def rebuild(self, i: int) -> Iterator[bytes | memoryview]:
        """The bytes of file ``i``, exactly as they were archived, in pieces, each to be used before the next.

        Raises `InvalidRequest` for a file that is kept metadata-exact only.
        """
        file = self.files[i]
        if file.format == "sidecar" or self._image.info is None:
            return self.verbatim(i)
        if self._image.round_trip != "file-exact":
            raise InvalidRequest(f"{file.name}: is kept {self._image.round_trip}, not byte for byte")
        return self._rebuilt(file, i)

    def _rebuilt(self, file: SourceFile, i: int) -> Iterator[bytes | memoryview]:
        with _sound(self._image, f"the record of {file.name}"):
            yield from _module(self._image).rebuild(file, self.verbatim(i), StoredFrames(self._image, i))

    def whole_tiles(self, window: Window) -> Words:
        """Words of ``window``, from the tiles around it, which are kept: neighbours are asked for next.

        Where windows follow each other down an image, the next tiles are read while these are used.
        """
        around, words = self._around
        if around.intersect(window) != window:
            before, around = around, self._whole(window)
            words = self._read(around)
            self._around = around, words
            if self._image.threads and around.start[-2] == before.stop[-2]:
                self._read_ahead(around)
        return words[window.shift(around.start).slices]

    def _whole(self, window: Window) -> Window:
        """The window grown to whole tiles."""
        grid = self._image.readers["data"].array.grid
        return Window(
            tuple(a // t * t for a, t in zip(window.start, grid.tile, strict=True)),
            tuple(min(-(-b // t) * t, n) for b, t, n in zip(window.stop, grid.tile, grid.shape, strict=True)),
        )

    def _read(self, window: Window) -> Words:
        expected, coming = self._ahead
        self._ahead = None, None
        if coming is not None and expected == window:
            return coming.result()
        return self._image.readers["data"].read(window, threads=self._image.threads)

    def _read_ahead(self, window: Window) -> None:
        height = window.shape[-2]
        following = Window(
            (*window.start[:-2], window.stop[-2], window.start[-1]),
            (*window.stop[:-2], min(window.stop[-2] + height, self._image.shape[-2]), window.stop[-1]),
        )
        if 0 not in following.shape:
            reader = self._image.readers["data"]
            self._ahead = following, _read_ahead_pool().submit(reader.read, following)

    @cached_property
    def _contents(self) -> tuple[list[Any], tuple[SourceFile, ...]]:
        with _sound(self._image, "files.json"):
            return _listing(self._image.object("source/files.json.zst"))

    def _block(self, key: Any) -> bytes:
        if not (isinstance(key, str) and key.startswith(BLOCKS)):
            raise ManifestCorrupt(f"image {self._image.id}: files.json names no block: {key!r:.100}")
        if key not in self._blocks:
            data = self._image.object(key, limit=SOURCE_BLOCK + (1 << 16))
            self._blocks[key] = expand(data, _raw_size(data, key, SOURCE_BLOCK), key)
            if len(self._blocks) > 2:
                self._blocks.popitem(last=False)
        return self._blocks[key]


@cache
def _read_ahead_pool() -> ThreadPoolExecutor:
    """Apart from the threads that decode tiles, which it waits for."""
    return ThreadPoolExecutor(2, thread_name_prefix="tilevault-ahead")


class StoredFrames:
    """The stored frames of one source file (`FrameAccess`)."""

    def __init__(self, image: "Image", file: int) -> None:
        self._image = image
        self._file = file
        self._module = _module(image)

    def read(self, window: Window) -> Words:
        """Words of a window of the image."""
        return self._image.source.whole_tiles(window)

    def words(self, frame: int, rows: slice) -> Words:
        """Rows of a frame's stored words: (y, x) or (c, y, x)."""
        axes = self._image.info.axes if self._image.info else ()
        words = self._image.source.whole_tiles(self.window(frame, rows))
        return words.reshape([n for n, name in zip(words.shape, axes, strict=True) if name in "cyx"])

    def window(self, frame: int, rows: slice | None = None) -> Window:
        """Where a frame, or rows of it, lies in the image."""
        at = iter(self._position(frame))
        info = self._image.info
        assert info is not None
        bounds = {
            "c": (0, info.shape[info.axes.index("c")]) if "c" in info.axes else (0, 1),
            "y": (0, info.shape[-2]) if rows is None else (rows.start, rows.stop),
            "x": (0, info.shape[-1]),
        }
        place = {name: bounds.get(name) or (i := next(at), i + 1) for name in info.axes}
        start, stop = (tuple(place[name][end] for name in info.axes) for end in (0, 1))
        return Window(start, stop)

    def stream(self, frame: int) -> bytes:
        """The frame's bit stream."""
        array = self._image.readers["data"].array
        at = iter(self._position(frame))
        axes = self._image.info.axes if self._image.info else ()
        position = [0 if name in ("c", "y", "x") else next(at) for name in axes]
        index = tuple(i // n for i, n in zip(position, array.grid.tile, strict=True))
        return self._image.readers["data"].tile_bytes(index, 1)

    def _position(self, frame: int) -> tuple[int, ...]:
        """Index of a frame along the axes that are not its own."""
        info = self._image.info
        position: tuple[int, ...] = self._module.frame_position(self._image.source.image, self._file, frame)
        if info is None or len(position) != sum(name not in ("c", "y", "x") for name in info.axes):
            raise ManifestCorrupt(f"image {self._image.id}: its layout is not that of its axes")
        return position


def _module(image: "Image") -> ModuleType:
    found = formats().get(image.description.format)
    if found is None:
        raise ManifestCorrupt(f"image {image.id}: is of no known format {image.description.format!r:.100}")
    return found


@contextlib.contextmanager
def _sound(image: "Image", what: str) -> Iterator[None]:
    """What was recorded is read here; a record that makes no sense stumbles in many ways."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
        raise ManifestCorrupt(f"image {image.id}: {what} makes no sense: {error!r:.200}") from error


@lru_cache(maxsize=2)
def _listing(data: bytes) -> tuple[list[Any], tuple[SourceFile, ...]]:
    """The document of each file, and the file. Many tasks read the same list, and it can be long."""
    document = parse(expand(data, _raw_size(data, "files.json", MAX_DOCUMENT), "files.json"), "files.json")
    if not isinstance(document, list):
        raise ManifestCorrupt("files.json: is no list")
    return document, tuple(_file(entry) for entry in document)


def _raw_size(data: bytes, key: str, limit: int) -> int:
    """Bytes that a compressed object holds by its own word, within ``limit``."""
    try:
        size = zstandard.frame_content_size(data)
    except zstandard.ZstdError as error:
        raise ManifestCorrupt(f"{key}: {error}") from error
    if not 0 <= size <= limit:
        raise ManifestCorrupt(f"{key}: holds {size} bytes, more than it may")
    return size


def _file(document: Any) -> SourceFile:
    made = SourceFile(
        name=document["name"],
        path=None,
        size=document["size"],
        sha256=document["sha256"],
        stat=(0, 0, 0, 0, 0),
        format=document["format"],
        record=document["record"],
        warnings=tuple(document["warnings"]),
    )
    texts = (made.name, made.sha256, made.format, *made.warnings)
    if not all(isinstance(text, str) for text in texts) or type(made.size) is not int or made.size < 0:
        raise ValueError(f"not a file: {made.name!r:.100}")
    if not isinstance(made.record, Mapping):
        raise ValueError(f"{made.name!r:.100} has no record")
    return made
