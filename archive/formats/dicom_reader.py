"""Reads the words or streams of one DICOM image out of its files, and what is not pixels, verbatim.

Only the frames and rows that a window touches are read; every read packs its words again and compares.
"""

import struct
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tilevault.archive.formats import VERBATIM_PIECE, ArchivedFrames, SourceFile, SourceImage
from tilevault.archive.formats.dicom_pixels import check_stream, layout_of
from tilevault.archive.formats.dicom_position import flat_positions, frames_in_order
from tilevault.archive.formats.dicom_source import Unchanged, read_at
from tilevault.archive.image import ImageInfo, Window, Words
from tilevault.codecs.errors import InvalidRequest
from tilevault.codecs.frame_header import stream_header
from tilevault.codecs.words import read_rows

__all__ = ["PAYLOAD_HEAD", "DicomReader", "fragment_lengths", "open_reader"]

PAYLOAD_HEAD = struct.Struct("<QQ")
"""Before the deflated bytes of a stored stream: offset and length of the pixel value in the data set."""


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

    def frame_words(self, file: int, frame: int, rows: slice) -> Words:
        """Rows of one frame of one file (native images only): (y, x), or (c, y, x)."""
        return self._rows(file, frame, rows)

    def _rows(self, file: int, frame: int, rows: slice) -> Words:
        source = self._image.sources[file]
        if source.path is None:
            return self._lasting().read_words(source.sha256, frame, rows)
        pixels = source.record["pixels"]
        with Unchanged(source) as descriptor:
            return read_rows(
                layout_of(source.record),
                lambda offset, length: read_at(descriptor, pixels["offset"] + offset, length),
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
        with Unchanged(source) as descriptor:
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
        with Unchanged(source) as descriptor:
            for start, stop in _verbatim_ranges(source):
                for at in range(start, stop, VERBATIM_PIECE):
                    yield read_at(descriptor, at, min(VERBATIM_PIECE, stop - at))


def open_reader(image: SourceImage, archived: ArchivedFrames | None = None) -> DicomReader:
    """A reader of ``image``; ``archived`` serves the files that lie in the archive already."""
    return DicomReader(image, archived)


def _arrange(planes: list[Words], window: Window, info: ImageInfo) -> Words:
    """Frames in stacking order -> an array with the image's axes."""
    stacked = [n for n, name in zip(window.shape, info.axes, strict=True) if name not in ("c", "y", "x")]
    if not planes:
        return np.empty(window.shape, info.dtype)
    words = planes[0] if len(planes) == 1 else np.stack(planes)
    words = words.reshape(*stacked, *planes[0].shape)
    if "c" in info.axes:
        words = np.moveaxis(words, len(stacked), info.axes.index("c"))
    return np.ascontiguousarray(words, info.dtype)


def _verbatim_ranges(source: SourceFile) -> list[tuple[int, int]]:
    pixels = source.record["pixels"]
    if pixels is None:
        return [(0, source.size)]
    if pixels["coding"] == "deflated":
        return [(0, pixels["offset"])]
    end = pixels["offset"] + pixels["length"] if pixels["coding"] == "native" else pixels["end"]
    return [(0, pixels["offset"]), (end, source.size)]


def fragment_lengths(record: Mapping[str, Any], frame: int) -> list[int]:
    """Bytes of each fragment of a frame."""
    entry = record["pixels"]["fragments"][frame]
    return [entry] if isinstance(entry, int) else list(entry)


def _frame_offsets(record: Mapping[str, Any]) -> list[int]:
    """File offset of each frame's first item."""
    pixels = record["pixels"]
    spans = (sum(8 + n for n in fragment_lengths(record, frame)) for frame in range(pixels["frames"] - 1))
    return list(accumulate(spans, initial=pixels["offset"]))


def _frame_stream(source: SourceFile, descriptor: int, frame: int, offset: int) -> bytes:
    parts = []
    for length in fragment_lengths(source.record, frame):
        parts.append(read_at(descriptor, offset + 8, length))
        offset += 8 + length
    stream = b"".join(parts)
    syntax = source.record["syntax"]
    check_stream(syntax, stream_header(syntax, stream), source.record["pixels"])
    return stream


def _deflated_payload(source: SourceFile, descriptor: int) -> bytes:
    pixels = source.record["pixels"]
    head = PAYLOAD_HEAD.pack(pixels["value_offset"], pixels["value_length"])
    return head + read_at(descriptor, pixels["offset"], source.size - pixels["offset"])
