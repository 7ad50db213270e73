"""Threads for reading: as many as there are processors where bytes are near, more where they are waited for.

Two pools for the whole process, so that fifty readers have no more threads than one. What runs in them never
waits for another of their threads.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

__all__ = ["REQUESTS", "each"]

REQUESTS = 16
"""Requests to remote archives at once, of the whole process."""

T = TypeVar("T")


def each(task: Callable[[T], None], over: Iterable[T], far: bool = False, threads: bool = True) -> None:
    """Run ``task`` for each value, side by side if ``threads``; ``far``: most of it is waiting for requests.

    Raises what the first task that fails, in order, raises.
    """
    values = list(over)
    if len(values) > 1 and (threads or far):
        list(_pool(far).map(task, values))
        return
    for value in values:
        task(value)


@cache
def _pool(far: bool) -> ThreadPoolExecutor:
    size = REQUESTS if far else os.cpu_count() or 1
    return ThreadPoolExecutor(size, thread_name_prefix="tilevault-fetch" if far else "tilevault-read")
