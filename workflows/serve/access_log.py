"""Who read what: one JSON object per line, written before the answer goes out."""

import json
import os
import time
from pathlib import Path
from typing import Any

from tilevault.workflows.placing import os_failure

__all__ = ["AccessLog"]


class AccessLog:
    """Appends to a file that only its owner can read; None writes nothing."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._file: int | None = None
        if path is not None:
            try:
                self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            except OSError as failure:
                raise os_failure(failure, f"cannot write the access log {path}") from failure

    def write(self, **entry: Any) -> None:
        """Append one entry. Raises `StoreFull` or another of our errors."""
        if self._file is None:
            return
        entry = {"time": round(time.time(), 3), **entry}
        line = (json.dumps(entry, ensure_ascii=True) + "\n").encode()
        try:
            if os.write(self._file, line) != len(line):
                raise OSError(28, "short write")
        except OSError as failure:
            raise os_failure(failure, "cannot write the access log") from failure

    def close(self) -> None:
        """No more entries."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
