"""DICOM files: scanned once, stacked into images, read window by window, put together again byte for byte.

A file is three runs of bytes: header, pixels, trailer. Header and trailer are kept verbatim; pixels become
words (`tilevault.codecs.words`) or, where they are encapsulated, one bit stream per frame. Because nothing
else is touched, whatever the header says stays exactly as it was. A file whose pixels cannot be shown is
kept whole. Deflated files keep their deflated bytes as one stream: inflating and deflating again would
not give the same bytes.
"""

import os
import stat
import struct
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tilevault.archive.formats import (
    VERBATIM_PIECE,
    ArchivedFrames,
    FrameAccess,
    SourceFile,
    SourceImage,
)
from tilevault.archive.formats.dicom_header import SEQUENCES, VALUES, Header, describe, display, geometry
from tilevault.archive.formats.dicom_pixels import (
    Opaque,
    check_stream,
    declared_bytes,
    layout_of,
    pixel_record,
)
from tilevault.archive.formats.dicom_scan import FileSource, Scanned, Wanted, begins_data_set, scan_elements
from tilevault.archive.formats.dicom_stack import (
    assemble,
    flat_positions,
    frame_position,
    frames_in_order,
    instance_of,
    window_inputs,
)
from tilevault.archive.image import ImageInfo, Window, Words
from tilevault.codecs.errors import (
    InvalidRequest,
    NotRecognized,
    SourceChanged,
    VerifyAfterEncodeFailed,
)
from tilevault.codecs.frame_header import stream_header
from tilevault.codecs.words import exchange_bytes, pack_frames, read_rows

__all__ = [
    "DicomReader",
    "assemble",
    "frame_position",
    "instance_of",
    "open_reader",
    "rebuild",
    "recognizes",
    "scan",
    "window_inputs",
]

PAYLOAD_HEAD = struct.Struct("<QQ")
"""Before the deflated bytes of a stored stream: offset and length of the pixel value in the data set."""
_WANTED = Wanted(
    values=VALUES,
    sequences=SEQUENCES,
    declared_bytes=lambda elements: declared_bytes(Header(elements, [])),
    inspect=stream_header,
)
Stat = tuple[int, int, int, int, int]


def recognizes(head: bytes) -> bool:
    """Whether a file that begins with ``head`` (its first 4 KiB) claims to be DICOM.

    Either ``DICM`` after a preamble of 128 bytes, or two plausible elements of group 0002 or 0008.
    """
    return head[128:132] == b"DICM" or begins_data_set(head[:4096])


def scan(path: Path, name: str) -> list[SourceFile]:
    """Parse, check and hash one file in one pass: [the file].

    ``record`` of the result holds: ``syntax``; ``uids``, ``search``, ``instance``, ``moment``;
    ``pixels`` (None, or sample format, layout, byte ranges); ``geometry``; ``display``; ``object``
    (why the file is kept whole, where it is). Raises subclasses of `InputRejected` only.
    """
    with _opened(path) as (descriptor, before):
        source = FileSource(descriptor, before[2])
        found, stream = scan_elements(source, _WANTED)
        sha256 = stream.finish()
        warnings = list(dict.fromkeys(found.warnings))
        record = _record(found, sha256, before[2], descriptor, warnings)
        if _stat(descriptor) != before:
            raise SourceChanged(f"{name}: changed while it was read")
    return [
        SourceFile(
            name=name,
            path=str(path),
            size=before[2],
            sha256=sha256,
            stat=before,
            format="dicom",
            record=record,
            warnings=tuple(dict.fromkeys(warnings)),
        )
    ]


def _record(found: Scanned, sha256: str, size: int, descriptor: int, warnings: list[str]) -> dict[str, Any]:
    header, meta = Header(found.elements, warnings), Header(found.meta, warnings)
    record: dict[str, Any] = {"syntax": found.syntax, **describe(header, meta, warnings)}
    for kind in ("sop", "series"):
        if not record["uids"][kind]:
            warnings.append(
                f"no {kind.upper() if kind == 'sop' else kind} instance UID; the digest stands in"
            )
            record["uids"][kind] = f"sha256:{sha256}"
    try:
        pixels = pixel_record(header, found)
    except Opaque as reason:
        if found.pixel is not None:
            warnings.append(f"{reason}; the file is kept whole, without an image")
        return record | {"pixels": None, "object": str(reason)}
    if pixels["coding"] == "native":
        pixels["left_over"] = _left_over(pixels, descriptor)
    return record | {
        "pixels": pixels,
        "geometry": geometry(header, pixels["frames"]),
        "display": display(header, pixels["frames"]),
    }


def _left_over(pixels: dict[str, Any], descriptor: int) -> int:
    """The bits after the last sample in the last bytes that samples reach into."""
    layout = layout_of({"pixels": pixels})
    spare = layout.left_over_bits(pixels["frames"])
    if not spare:
        return 0
    unit = 2 if layout.swapped else 1
    last = _pread(descriptor, pixels["offset"] + pixels["length"] - unit, unit)
    logical = exchange_bytes(last) if layout.swapped else last
    return int.from_bytes(logical, "little") >> (8 * unit - spare)


class _opened:
    """A regular file, open for reading, with its identity (`SourceFile.stat`)."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> tuple[int, Stat]:
        try:
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            raise SourceChanged(f"cannot be opened: {error}") from error
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            os.close(self._descriptor)
            raise NotRecognized("not a regular file")
        return self._descriptor, _stat(self._descriptor)

    def __exit__(self, *exc: object) -> None:
        os.close(self._descriptor)


def _stat(descriptor: int) -> Stat:
    s = os.fstat(descriptor)
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns


def _pread(descriptor: int, offset: int, length: int) -> bytes:
    """Exactly ``length`` bytes at ``offset``."""
    parts = []
    while length:
        try:
            part = os.pread(descriptor, min(length, 1 << 30), offset)
        except OSError as error:
            raise SourceChanged(f"can no longer be read: {error}") from error
        if not part:
            raise SourceChanged(f"ends at {offset}, earlier than when it was scanned")
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


class DicomReader:
    """Reads the words or streams of one image out of its files; holds no file open between reads."""

    def __init__(self, image: SourceImage, archived: ArchivedFrames | None) -> None:
        self._image = image
        self._archived = archived
        self._frames = frames_in_order(image) if image.info is not None else []
        self._offsets: dict[int, list[int]] = {}

    @property
    def info(self) -> ImageInfo:
        """The description of the whole image."""
        if self._image.info is None:
            raise InvalidRequest("files without pixels have no words")
        return self._image.info

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is held."""

    def read(self, window: Window) -> Words:
        """Words of ``window`` (native images only), read frame by frame and row by row.

        Raises `SourceChanged`, or `VerifyAfterEncodeFailed` where the words do not pack to what was read.
        """
        info = self.info
        if self._image.codec is not None:
            raise InvalidRequest("coded frames are read as streams")
        inside = Window((0,) * len(info.shape), info.shape).intersect(window)
        if inside != window:
            raise InvalidRequest(f"window {window} reaches beyond {info.shape}")
        box = dict(zip(info.axes, window.slices, strict=True))
        planes: list[Words] = []
        for at in flat_positions(self._image, window):
            file, frame = self._frames[at]
            rows = self._rows(file, frame, box["y"])
            planes.append(rows[..., box["x"]] if "c" not in box else rows[box["c"], :, box["x"]])
        return _arrange(planes, window, info)

    def _rows(self, file: int, frame: int, rows: slice) -> Words:
        source = self._image.sources[file]
        if source.path is None:
            return self._lasting().read_words(source.sha256, frame, rows)
        pixels = source.record["pixels"]
        with _unchanged(source) as descriptor:
            return read_rows(
                layout_of(source.record),
                lambda offset, length: _pread(descriptor, pixels["offset"] + offset, length),
                frame,
                rows.start,
                rows.stop,
            )

    def _lasting(self) -> ArchivedFrames:
        if self._archived is None:
            raise InvalidRequest("some files lie in the archive, and no archive is given")
        return self._archived

    def read_mask(self, window: Window) -> NDArray[np.uint8]:
        """DICOM has no masks: always `InvalidRequest`."""
        raise InvalidRequest("a DICOM image has no mask")

    def read_stream(self, index: tuple[int, ...]) -> bytes:
        """The stream of the chunk at grid position ``index``: a frame, or a whole deflated instance.

        Of a frame all fragments joined, padding included. Its own header must agree with the data set,
        else `InconsistentHeader`.
        """
        info, chunk = self.info, self._image.layout.get("chunk")
        if chunk is None:
            raise InvalidRequest("native pixels are read as words")
        start = tuple(i * n for i, n in zip(index, chunk, strict=True))
        corner = Window(start, tuple(min(a + 1, n) for a, n in zip(start, info.shape, strict=True)))
        file, frame = self._frames[flat_positions(self._image, corner)[0]]
        source = self._image.sources[file]
        if source.path is None:
            return self._lasting().read_stream(source.sha256, frame)
        with _unchanged(source) as descriptor:
            if source.record["pixels"]["coding"] == "deflated":
                return _deflated_payload(source, descriptor)
            if file not in self._offsets:
                self._offsets = {file: _frame_offsets(source.record)}
            return _frame_stream(source, descriptor, frame, self._offsets[file][frame])

    def verbatim(self, i: int) -> Iterator[bytes]:
        """All bytes of ``sources[i]`` that are no pixels, in file order, in pieces of at most 4 MiB."""
        source = self._image.sources[i]
        if source.path is None:
            yield from self._lasting().verbatim(source.sha256)
            return
        with _unchanged(source) as descriptor:
            for start, stop in _verbatim_ranges(source):
                for at in range(start, stop, VERBATIM_PIECE):
                    yield _pread(descriptor, at, min(VERBATIM_PIECE, stop - at))


def open_reader(image: SourceImage, archived: ArchivedFrames | None = None) -> DicomReader:
    """A reader of ``image``; ``archived`` serves the files that lie in the archive already."""
    return DicomReader(image, archived)


def _arrange(planes: list[Words], window: Window, info: ImageInfo) -> Words:
    """Frames in stacking order -> an array with the image's axes."""
    stacked = [n for n, name in zip(window.shape, info.axes, strict=True) if name not in ("c", "y", "x")]
    if not planes:
        return np.empty(window.shape, info.dtype)
    words = np.stack(planes).reshape(*stacked, *planes[0].shape)
    if "c" in info.axes:
        words = np.moveaxis(words, len(stacked), info.axes.index("c"))
    return np.ascontiguousarray(words, info.dtype)


class _unchanged:
    """A source file, open for reading; `SourceChanged` if it is not, or no longer, what was scanned."""

    def __init__(self, source: SourceFile) -> None:
        self._source = source
        self._opened = _opened(Path(source.path or ""))

    def __enter__(self) -> int:
        self._descriptor, now = self._opened.__enter__()
        try:
            self._compare(now)
        except SourceChanged:
            self._opened.__exit__()
            raise
        return self._descriptor

    def __exit__(self, *exc: object) -> None:
        try:
            if exc[0] is None:
                self._compare(_stat(self._descriptor))
        finally:
            self._opened.__exit__()

    def _compare(self, now: Stat) -> None:
        if now != self._source.stat:
            raise SourceChanged(f"{self._source.name}: no longer the file that was scanned")


def _verbatim_ranges(source: SourceFile) -> list[tuple[int, int]]:
    pixels = source.record["pixels"]
    if pixels is None:
        return [(0, source.size)]
    if pixels["coding"] == "deflated":
        return [(0, pixels["offset"])]
    end = pixels["offset"] + pixels["length"] if pixels["coding"] == "native" else pixels["end"]
    return [(0, pixels["offset"]), (end, source.size)]


def _fragments(record: Mapping[str, Any], frame: int) -> list[int]:
    entry = record["pixels"]["fragments"][frame]
    return [entry] if isinstance(entry, int) else list(entry)


def _frame_offsets(record: Mapping[str, Any]) -> list[int]:
    """File offset of each frame's first item."""
    pixels = record["pixels"]
    spans = (sum(8 + n for n in _fragments(record, frame)) for frame in range(pixels["frames"] - 1))
    return list(accumulate(spans, initial=pixels["offset"]))


def _frame_stream(source: SourceFile, descriptor: int, frame: int, offset: int) -> bytes:
    parts = []
    for length in _fragments(source.record, frame):
        parts.append(_pread(descriptor, offset + 8, length))
        offset += 8 + length
    stream = b"".join(parts)
    header = stream_header(source.record["syntax"], stream)
    if header is not None:
        check_stream(header, source.record["pixels"])
    return stream


def _deflated_payload(source: SourceFile, descriptor: int) -> bytes:
    pixels = source.record["pixels"]
    head = PAYLOAD_HEAD.pack(pixels["value_offset"], pixels["value_length"])
    return head + _pread(descriptor, pixels["offset"], source.size - pixels["offset"])


def rebuild(file: SourceFile, verbatim: Iterator[bytes], frames: FrameAccess) -> Iterator[bytes]:
    """The file's bytes, exactly, piece by piece: its non-pixel bytes and what is stored of its frames.

    ``verbatim``: as `DicomReader.verbatim` gave them, in any pieces. Raises `VerifyAfterEncodeFailed` where
    what is stored is not of the file's shape.
    """
    pixels = file.record["pixels"]
    if pixels is None:
        yield from verbatim
        return
    rest = b""
    left = pixels["offset"]
    for piece in verbatim:
        head, rest = piece[:left], piece[left:]
        left -= len(head)
        yield head
        if not left:
            break
    if pixels["coding"] == "native":
        layout = layout_of(file.record)
        yield from pack_frames(layout, pixels["frames"], frames.words, pixels["left_over"])
    elif pixels["coding"] == "deflated":
        yield frames.stream(0)[PAYLOAD_HEAD.size :]
    else:
        for frame in range(pixels["frames"]):
            yield from _with_item_headers(_fragments(file.record, frame), frames.stream(frame))
    yield rest
    yield from verbatim


def _with_item_headers(lengths: Sequence[int], stream: bytes) -> Iterator[bytes]:
    """A frame's fragments as they lie in the file (encapsulated syntaxes are little endian, PS3.5 A.4)."""
    if sum(lengths) != len(stream):
        raise VerifyAfterEncodeFailed("a stored stream is not as long as the file's fragments")
    at = 0
    for length in lengths:
        yield struct.pack("<HHI", 0xFFFE, 0xE000, length)
        yield stream[at : at + length]
        at += length
