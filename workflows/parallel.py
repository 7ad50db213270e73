"""A few threads that do pieces of work in order, and let go at once when they are interrupted.

The threads are daemons: Ctrl-C during a long check ends the command without waiting for it. Work that leaves
something behind when it is cut off watches ``stop``, and is given time to clean up.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

__all__ = ["default_workers", "in_order"]

T = TypeVar("T")
R = TypeVar("R")
CLEAN_UP_SECONDS = 10.0


def default_workers() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    jobs: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
    threads = [threading.Thread(target=_serve, args=(jobs,), daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    waiting: deque[_Slot[R]] = deque()
    finished = False
    try:
        for item in items:
            slot: _Slot[R] = _Slot()
            waiting.append(slot)
            jobs.put(partial(slot.fill, partial(work, item)))
            if len(waiting) >= 2 * count:
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())
        finished = True
    finally:
        if not finished:
            while not jobs.empty():
                jobs.get_nowait()
        for _ in threads:
            jobs.put(None)
        if stop is not None:
            if not finished:
                stop.set()
            for thread in threads:
                thread.join(CLEAN_UP_SECONDS)


def _result(slot: _Slot[R]) -> R:
    slot.done.wait()
    if slot.error is not None:
        raise slot.error
    return slot.result


def _serve(jobs: "SimpleQueue[Callable[[], Any] | None]") -> None:
    while (job := jobs.get()) is not None:
        job()
