"""Who read what: one JSON object per line, written before the answer goes out.

What cannot be put on record is not answered: a full disk stops reading, not the record of it. Entries name
images by their ids and studies by their UIDs; query strings, tokens and names from headers never appear.
"""

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from tilevault.codecs.errors import StoreFull, TilevaultError
from tilevault.workflows.placing import os_failure

__all__ = ["AccessLog"]

logger = logging.getLogger("tilevault.serve")


class AccessLog:
    """Appends to a file that only its owner can read; None writes nothing. For the event loop's thread."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._file = None if path is None else _opened(path)
        self._broken = False

    def write(self, **entry: Any) -> None:
        """Append one entry. Raises `StoreFull` or another of our errors."""
        if self._file is None:
            return
        line = (json.dumps({"time": round(time.time(), 3), **entry}, ensure_ascii=True) + "\n").encode()
        if self._broken:
            # The last entry is half there: it becomes a line of its own.
            line = b"\n" + line
        try:
            written = os.write(self._file, line)
        except OSError as failure:
            logger.error("the access log cannot be written: nothing is answered")
            raise os_failure(failure, "cannot write the access log") from failure
        self._broken = written != len(line)
        if self._broken:
            logger.error("the access log cannot be written: nothing is answered")
            raise StoreFull("cannot write the access log")

    def reopen(self) -> None:
        """Go on in a file of the same name, as when a rotation has moved the old one away."""
        if self.path is None:
            return
        try:
            fresh = _opened(self.path)
        except TilevaultError as failure:
            logger.error("the access log stays in its old file: %s", failure.code)
            return
        if self._file is not None:
            os.close(self._file)
        self._file = fresh

    def close(self) -> None:
        """No more entries."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as failure:
        raise os_failure(failure, f"cannot write the access log {path}") from failure
