"""multipart/related (RFC 2046 5.1, RFC 2387): written part by part, read from a stream within bounds.

The reader never holds more than a part's header and one boundary; what a part contains goes to its sink as it
comes. Pure: bytes in, calls out.
"""

import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from tilevault.codecs.errors import InvalidRequest, LimitExceeded, TruncatedSource

__all__ = ["MAX_PARTS", "PartReader", "PartSink", "boundary_of", "closing", "new_boundary", "part_head"]

MAX_PARTS = 100_000
MAX_PART_HEADER = 8 << 10
MAX_PREAMBLE = 64 << 10
"""Bytes before the first boundary, and after the last."""
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,255}[0-9A-Za-z'()+_,./:=?-]")
"""RFC 2046 allows 70 characters; Orthanc sends 73."""


def new_boundary() -> str:
    """A boundary that no content can hold but by guessing 128 bits."""
    return secrets.token_hex(16)


def part_head(boundary: str, headers: Mapping[str, str], first: bool) -> bytes:
    """What stands before a part."""
    lines = [f"--{boundary}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return ("" if first else "\r\n").encode() + "\r\n".join(lines).encode("latin-1")


def closing(boundary: str) -> bytes:
    """What stands after the last part."""
    return f"\r\n--{boundary}--\r\n".encode()


def boundary_of(parameters: Mapping[str, list[str]]) -> bytes:
    """The boundary parameter of a media type. Raises `InvalidRequest`."""
    found = parameters.get("boundary", [""])[0]
    if not _BOUNDARY.fullmatch(found):
        raise InvalidRequest("multipart/related without a boundary of 1 to 256 characters")
    return found.encode()


class PartSink(Protocol):
    """Takes the content of one part."""

    def write(self, data: bytes) -> None:
        """More of it."""
        ...

    def close(self) -> None:
        """That was all."""
        ...


@dataclass
class PartReader:
    """Takes a body in pieces of any size and hands out its parts.

    Raises `InvalidRequest` for what is no multipart body, `LimitExceeded` beyond the bounds,
    `TruncatedSource` from `finish` where the last boundary has not come.
    """

    boundary: bytes
    opened: Callable[[dict[str, str]], PartSink]
    """Called with the headers of each part, names in lower case."""
    max_parts: int = MAX_PARTS

    def __post_init__(self) -> None:
        # The first boundary may be the very beginning: as if a line had ended before it.
        self._buffer = bytearray(b"\r\n")
        self._delimiter = b"\r\n--" + self.boundary
        self._state = "preamble"
        self._passed = 0
        self._parts = 0
        self._sink: PartSink | None = None
        self._fresh = False

    def feed(self, data: bytes) -> None:
        """The next bytes of the body."""
        self._buffer += data
        steps: dict[str, Callable[[], bool]] = {
            "preamble": self._preamble,
            "after": self._after_boundary,
            "header": self._header,
            "content": self._content,
            "epilogue": self._epilogue,
        }
        while steps[self._state]():
            pass

    def finish(self) -> int:
        """The body has ended; the number of its parts."""
        if self._state != "epilogue":
            self.abandon()
            raise TruncatedSource("the multipart body ends before its last boundary")
        return self._parts

    def abandon(self) -> None:
        """Close a part that is not complete."""
        if self._sink is not None:
            self._sink.close()
            self._sink = None

    def _skipped(self, count: int) -> None:
        self._passed += count
        if self._passed > MAX_PREAMBLE:
            raise LimitExceeded("bytes outside the parts of a multipart body", limit=MAX_PREAMBLE)
        del self._buffer[:count]

    def _preamble(self) -> bool:
        at = self._buffer.find(self._delimiter)
        if at < 0:
            self._skipped(max(0, len(self._buffer) - len(self._delimiter) + 1))
            return False
        self._skipped(at + len(self._delimiter))
        self._state = "after"
        return True

    def _after_boundary(self) -> bool:
        """``--`` ends the body; white space and the end of the line begin a part."""
        if len(self._buffer) < 2:
            return False
        if self._buffer[:2] == b"--":
            self._state = "epilogue"
            return True
        at = self._buffer.find(b"\r\n")
        if at < 0:
            if len(self._buffer) > MAX_PART_HEADER:
                raise LimitExceeded("bytes after a boundary", limit=MAX_PART_HEADER)
            return False
        if self._buffer[:at].strip(b" \t"):
            raise InvalidRequest("bytes follow a boundary on its line")
        # The end of this line is the beginning of a header that may be empty.
        del self._buffer[:at]
        self._state = "header"
        return True

    def _header(self) -> bool:
        at = self._buffer.find(b"\r\n\r\n")
        if at > MAX_PART_HEADER or (at < 0 and len(self._buffer) > MAX_PART_HEADER + 4):
            raise LimitExceeded("header of a part", limit=MAX_PART_HEADER)
        if at < 0:
            return False
        self._parts += 1
        if self._parts > self.max_parts:
            raise LimitExceeded("parts of a multipart body", limit=self.max_parts)
        headers = dict(_fields(bytes(self._buffer[2:at]))) if at else {}
        # The line end before an immediately following boundary belongs to that boundary.
        del self._buffer[: at + 2]
        self._sink = self.opened(headers)
        self._state = "content"
        self._fresh = True
        return True

    def _content(self) -> bool:
        sink = self._sink
        assert sink is not None
        if self._fresh:
            # The end of the header's empty line is still there: a boundary may follow it at once.
            if len(self._buffer) < len(self._delimiter):
                return False
            self._fresh = False
            if not self._buffer.startswith(self._delimiter):
                del self._buffer[:2]
        at = self._buffer.find(self._delimiter)
        if at < 0:
            ready = len(self._buffer) - len(self._delimiter) + 1
            if ready > 0:
                sink.write(bytes(self._buffer[:ready]))
                del self._buffer[:ready]
            return False
        if at:
            sink.write(bytes(self._buffer[:at]))
        self._sink = None
        sink.close()
        del self._buffer[: at + len(self._delimiter)]
        self._state = "after"
        return True

    def _epilogue(self) -> bool:
        self._skipped(len(self._buffer))
        return False


def _fields(header: bytes) -> Iterator[tuple[str, str]]:
    for line in header.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if not colon or not name.strip():
            raise InvalidRequest("a line in the header of a part is no field")
        yield name.strip().decode("latin-1").lower(), value.strip().decode("latin-1")
