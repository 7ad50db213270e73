"""Answers that are kept: by bytes, the least recently used goes first, and each is made once at a time."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any

__all__ = ["Kept"]

ENTRY_BYTES = 256
"""What an entry costs beside its value."""


class Kept:
    """Values by key, of at most ``limit`` bytes together; safe to use from any thread."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._making: dict[Hashable, Lock] = {}
        self._lock = Lock()

    def get(self, key: Hashable) -> Any:
        """The value of ``key``, or None."""
        with self._lock:
            found = self._values.get(key)
            if found is None:
                return None
            self._values.move_to_end(key)
            return found[0]

    def put(self, key: Hashable, value: Any, size: int) -> None:
        """Keep ``value``, which takes ``size`` bytes; what is larger than a quarter of all is not kept."""
        size += ENTRY_BYTES
        if size > self.limit // 4:
            return
        with self._lock:
            old = self._values.pop(key, None)
            self.bytes += size - (old[1] if old else 0)
            self._values[key] = value, size
            while self.bytes > self.limit:
                _, (_, gone) = self._values.popitem(last=False)
                self.bytes -= gone

    def made(self, key: Hashable, make: Callable[[], Any], size: Callable[[Any], int]) -> Any:
        """The value of ``key`` (never None); ``make`` runs once, however many threads ask at a time."""
        found = self.get(key)
        if found is not None:
            return found
        with self._lock:
            turn = self._making.setdefault(key, Lock())
        try:
            with turn:
                found = self.get(key)
                if found is None:
                    found = make()
                    self.put(key, found, size(found))
                return found
        finally:
            with self._lock:
                self._making.pop(key, None)
