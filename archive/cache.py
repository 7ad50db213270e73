"""Decoded tiles that are asked for again and again, in a bounded part of memory, shared by threads.

Whoever pans through an image touches each tile several times, and many viewers touch the same ones. A key
names the manifest by its digest, so it stands for bytes that cannot change, whichever archive holds them:
nothing ever has to be invalidated. Of several threads that ask for a tile at once, one decodes it.

Off unless it is asked for: a program that walks through an image reads each tile once, and would only fill
memory with what it is done with.
"""

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future

from tilevault.archive.image import Words
from tilevault.codecs.errors import InvalidRequest, TilevaultError

__all__ = ["TileCache"]


class TileCache:
    """The tiles that were used last, at most ``max_bytes`` of them (of samples, as they lie in memory).

    Hand it to `Archive.open`; several archives may share one. Safe for threads; not shared by processes.
    """

    def __init__(self, max_bytes: int) -> None:
        if type(max_bytes) is not int or max_bytes < 0:
            raise InvalidRequest(f"a cache has a number of bytes, not {max_bytes!r:.50}")
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self.hits = 0
        self.misses = 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, Words] = OrderedDict()
        self._underway: dict[Hashable, Future[Words]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: object) -> bool:
        return key in self._kept

    def __repr__(self) -> str:
        return (
            f"TileCache({self.size_bytes} of {self.max_bytes} bytes, {self.hits} hits, {self.misses} misses)"
        )

    def get(self, key: Hashable, make: Callable[[], Words]) -> Words:
        """The array of ``key``, read-only; made by ``make`` unless it is there or just being made.

        An error of ours that ``make`` raises goes to all who wait for it, and nothing is kept.
        """
        while True:
            with self._lock:
                found = self._kept.get(key)
                if found is not None:
                    self._kept.move_to_end(key)
                    self.hits += 1
                    return found
                underway = self._underway.get(key)
                if underway is None:
                    mine = self._underway[key] = Future()
                    self.misses += 1
                    break
                self.hits += 1
            error = underway.exception()
            if error is None:
                return underway.result()
            if isinstance(error, TilevaultError):
                raise copy.copy(error) from error
            # Whoever made it was interrupted, which is none of this caller's business.
        return self._make(key, make, mine)

    def clear(self) -> None:
        """Forget all tiles."""
        with self._lock:
            self._kept.clear()
            self.size_bytes = 0

    def _make(self, key: Hashable, make: Callable[[], Words], mine: "Future[Words]") -> Words:
        try:
            words = _frozen(make())
        except BaseException as error:
            with self._lock:
                del self._underway[key]
            mine.set_exception(error)
            raise
        with self._lock:
            self._keep(key, words)
            del self._underway[key]
        mine.set_result(words)
        return words

    def _keep(self, key: Hashable, words: Words) -> None:
        if words.nbytes > self.max_bytes:
            return
        self._kept[key] = words
        self.size_bytes += words.nbytes
        while self.size_bytes > self.max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self.size_bytes -= oldest.nbytes


def _frozen(words: Words) -> Words:
    """The array, read-only; a copy where it is part of a larger one, which would stay in memory with it."""
    if words.base is not None:
        words = words.copy()
    words.flags.writeable = False
    return words
