"""A few threads that do pieces of work in order, and let go at once when they are interrupted.

The threads are daemons: Ctrl-C during a long check ends the command without waiting for it. Work that leaves
something behind when it is cut off watches ``stop``, and is given time to clean up.
"""

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

__all__ = ["CLEAN_UP_SECONDS", "Threads", "default_workers", "in_order"]

T = TypeVar("T")
R = TypeVar("R")
CLEAN_UP_SECONDS = 10.0
"""What running work is given to end when it is interrupted."""


def default_workers() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Threads:
    """Daemon threads that do what they are given, in the order in which they are given it."""

    def __init__(self, count: int) -> None:
        self._jobs: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def start(self, job: Callable[[], Any]) -> None:
        """Have ``job``, which raises nothing, done by the next free thread."""
        self._jobs.put(job)

    def drop(self) -> None:
        """Forget what has not begun."""
        with contextlib.suppress(Empty):
            while True:
                self._jobs.get_nowait()

    def end(self, seconds: float = 0.0) -> None:
        """Let the threads end after what was given to them; wait for that so long at most."""
        for _ in self._threads:
            self._jobs.put(None)
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))


class _Slot(Generic[R]):
    """The place where one piece of work leaves its result."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.result: R
        self.error: BaseException | None = None

    def fill(self, work: Callable[[], R]) -> None:
        try:
            self.result = work()
        except BaseException as error:
            # Whoever waits for the result gets it.
            self.error = error
        self.done.set()


def in_order(
    work: Callable[[T], R],
    items: Iterable[T],
    workers: int | None = None,
    stop: threading.Event | None = None,
) -> Iterator[R]:
    """``work(item)`` of every item, in the order of the items, ``workers`` at a time (default: the cores).

    At most twice as many items are taken as there are workers. An exception of one is raised when its turn
    comes. When the iterator is closed early, ``stop`` is set and running work gets 10 seconds to heed it;
    without ``stop`` nobody waits.
    """
    count = workers or default_workers()
    threads = Threads(count)
    waiting: deque[_Slot[R]] = deque()
    finished = False
    try:
        for item in items:
            slot: _Slot[R] = _Slot()
            waiting.append(slot)
            threads.start(partial(slot.fill, partial(work, item)))
            if len(waiting) >= 2 * count:
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())
        finished = True
    finally:
        if not finished:
            threads.drop()
            if stop is not None:
                stop.set()
        threads.end(0.0 if stop is None else CLEAN_UP_SECONDS)


def _result(slot: _Slot[R]) -> R:
    slot.done.wait()
    if slot.error is not None:
        raise slot.error
    return slot.result
