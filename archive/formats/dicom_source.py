"""Bytes of a DICOM file: forward only and hashed for the scanner, at an offset for the readers.

The digest of a scanned file is that of the very bytes that were parsed. A file is opened once per use, as a
regular file only, and its identity (device, inode, size, times) is compared before and after.
"""

import hashlib
import os
import stat
import zlib
from pathlib import Path

from tilevault.archive.formats import SourceFile
from tilevault.codecs.errors import (
    InconsistentHeader,
    LimitExceeded,
    NotRecognized,
    SourceChanged,
    TruncatedSource,
)

__all__ = [
    "HEADER_LIMIT",
    "INFLATED_LIMIT",
    "FileSource",
    "InflateSource",
    "Opened",
    "Stat",
    "Unchanged",
    "identity",
    "read_at",
]

HEADER_LIMIT = 64 << 20
"""Bytes before the pixel data, and after it."""
INFLATED_LIMIT = 256 << 20
"""Pixel bytes of a deflated file: it is decoded whole, so it has to fit into memory."""
LOADED = 64 << 10
"""Bytes that are read ahead of the elements; few headers are longer."""
PASSED = 256 << 10
"""Bytes of pixels that are read at a time: they are hashed while they lie in the processor's cache."""
Stat = tuple[int, int, int, int, int]
"""st_dev, st_ino, st_size, st_mtime_ns, st_ctime_ns."""


class FileSource:
    """Bytes of an open file, forward only, hashed as they pass."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.offset = 0
        self.size = size
        self._descriptor = descriptor
        self._loaded = 0
        self._digest = hashlib.sha256()
        self._buffer = b""
        self._at = 0

    def _load(self, least: int) -> None:
        parts = [self._buffer[self._at :]]
        have = len(parts[0])
        while have < least and self._loaded < self.size:
            block = os.read(self._descriptor, min(max(LOADED, least - have), self.size - self._loaded))
            self._passed(block)
            have += len(block)
            parts.append(block)
        self._buffer, self._at = b"".join(parts), 0

    def _passed(self, block: bytes | memoryview) -> None:
        if not block:
            raise SourceChanged("file became shorter while it was read", expected=self.size)
        self._digest.update(block)
        self._loaded += len(block)

    def peek(self, count: int) -> bytes:
        """The next bytes without passing them; fewer at the end."""
        if len(self._buffer) - self._at < count:
            self._load(count)
        return self._buffer[self._at : self._at + count]

    def need(self, count: int, what: str) -> None:
        """`TruncatedSource` unless ``count`` more bytes are there."""
        if count > self.size - self.offset:
            raise TruncatedSource(
                f"{what} needs {count} bytes at offset {self.offset}, {self.size - self.offset} are left",
                expected=self.offset + count,
                actual=self.size,
            )

    def read(self, count: int, what: str = "element") -> bytes:
        """Exactly ``count`` bytes."""
        self.need(count, what)
        data = self.peek(count)
        self._at += count
        self.offset += count
        return data

    def skip(self, count: int, what: str = "element") -> None:
        """Pass ``count`` bytes in bounded memory."""
        self.need(count, what)
        self.offset += count
        loaded = min(count, len(self._buffer) - self._at)
        self._at += loaded
        count -= loaded
        if not count:
            return
        # What nobody looks at is hashed where it was read, without a copy.
        room = memoryview(bytearray(min(count, PASSED)))
        while count:
            step = os.readv(self._descriptor, [room[:count]])
            self._passed(room[:step])
            count -= step

    def loaded(self) -> tuple[bytes, int]:
        """Bytes that have been read, and the place in them of the next one."""
        return self._buffer, self._at

    def advance(self, count: int) -> None:
        """Pass ``count`` bytes of what is `loaded`."""
        self._at += count
        self.offset += count

    def at_end(self) -> bool:
        """Whether nothing is left."""
        return self.offset >= self.size

    def allow(self, extra: int) -> None:
        """Nothing to allow: a file is as long as it is."""

    def finish(self) -> str:
        """Pass what is left; the SHA-256 of the whole file."""
        self.skip(self.size - self.offset)
        return self._digest.hexdigest()


class InflateSource(FileSource):
    """The inflated bytes of a deflated data set; never more than are allowed."""

    def __init__(self, packed: FileSource) -> None:
        super().__init__(-1, 0)
        self._packed = packed
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        self._limit = HEADER_LIMIT

    def _load(self, least: int) -> None:
        parts = [self._buffer[self._at :]]
        have = len(parts[0])
        while have < least and not self._inflate.eof:
            source = self._inflate.unconsumed_tail
            if not source and not self._packed.at_end():
                source = self._packed.read(min(1 << 16, self._packed.size - self._packed.offset))
            try:
                block = self._inflate.decompress(source, 1 << 20)
            except zlib.error as error:
                raise InconsistentHeader(f"deflated data set cannot be inflated: {error}") from error
            if not block and not source:
                raise TruncatedSource(
                    "deflated data set ends before its last block", actual=self._packed.size
                )
            self._loaded += len(block)
            if self._loaded > self._limit:
                raise LimitExceeded("deflated data set is longer than allowed", limit=self._limit)
            have += len(block)
            parts.append(block)
        self._buffer, self._at = b"".join(parts), 0

    def allow(self, extra: int) -> None:
        """Permit ``extra`` more inflated bytes: the pixels that the header declares."""
        if extra > INFLATED_LIMIT:
            raise LimitExceeded("pixels of a deflated file", limit=INFLATED_LIMIT, actual=extra)
        self._limit += extra

    def need(self, count: int, what: str) -> None:
        """`LimitExceeded` where ``count`` more bytes reach beyond what is allowed."""
        if self.offset + count > self._limit:
            raise LimitExceeded(f"{what} reaches beyond the inflated bytes allowed", limit=self._limit)

    def read(self, count: int, what: str = "element") -> bytes:
        """Exactly ``count`` inflated bytes."""
        self.need(count, what)
        data = self.peek(count)
        if len(data) < count:
            raise TruncatedSource(
                f"{what} needs {count} bytes at inflated offset {self.offset}, {len(data)} are left",
                expected=self.offset + count,
                actual=self.offset + len(data),
            )
        self._at += count
        self.offset += count
        return data

    def skip(self, count: int, what: str = "element") -> None:
        """Pass ``count`` inflated bytes in bounded memory."""
        self.need(count, what)
        while count:
            step = min(count, 1 << 20)
            self.read(step, what)
            count -= step

    def at_end(self) -> bool:
        """Whether the stream has ended."""
        return not self.peek(1)

    def finish(self) -> str:
        """Pass what is left; the SHA-256 of the whole file as it is stored."""
        while not self.at_end():
            self.skip(len(self.peek(1 << 20)))
        if self._packed.size - self._packed.offset > HEADER_LIMIT:
            raise LimitExceeded("bytes after the deflated data set", limit=HEADER_LIMIT)
        return self._packed.finish()


class Opened:
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
        return self._descriptor, identity(self._descriptor)

    def __exit__(self, *exc: object) -> None:
        os.close(self._descriptor)


def identity(descriptor: int) -> Stat:
    """What tells an open file from any other, and from itself after a change (`SourceFile.stat`)."""
    s = os.fstat(descriptor)
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns


def read_at(descriptor: int, offset: int, length: int) -> bytes:
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


class Unchanged:
    """A source file, open for reading; `SourceChanged` if it is not, or no longer, what was scanned."""

    def __init__(self, source: SourceFile) -> None:
        self._source = source
        self._opened = Opened(Path(source.path or ""))

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
                self._compare(identity(self._descriptor))
        finally:
            self._opened.__exit__()

    def _compare(self, now: Stat) -> None:
        if now != self._source.stat:
            raise SourceChanged(f"{self._source.name}: no longer the file that was scanned")
