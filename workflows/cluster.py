"""Running jobs on Dask: few tasks in flight, results in the order in which they come.

A *job* is a generator: it yields a list of tasks, is sent the list of their results, and so on until it
returns. Jobs know nothing of Dask; `Cluster.run` interleaves them, keeps at most a few tasks per
thread submitted, and hands back each job's outcome. `run_inline` runs the same job in the calling thread.
"""

import ipaddress
import math
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import Any, Self
from urllib.parse import urlsplit

import dask
from distributed import Client, Future, LocalCluster, as_completed
from distributed.client import FutureCancelledError
from distributed.scheduler import KilledWorker

from tilevault.codecs.errors import InvalidRequest, StoreUnavailable

__all__ = ["Cluster", "Job", "Task", "run_inline"]

TASKS_PER_THREAD = 2
"""Tasks submitted ahead per thread: enough to keep it busy, few enough to bound memory."""


@dataclass(frozen=True)
class Task:
    """A function of this package and its arguments, to be run anywhere."""

    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    nbytes: int = 0
    """Source bytes that it deals with, for progress."""
    shared: tuple[Any, ...] = ()
    """First arguments, which many tasks of a job have in common: they travel once, not with each task."""

    def run(self) -> Any:
        """Call it here."""
        return self.call(*self.shared, *self.arguments)


Job = Generator[Sequence[Task], list[Any], Any]


def run_inline(job: Job) -> Any:
    """Run a job to its end here; its result. What a task raises, the job is told, as on a cluster."""
    try:
        tasks = next(job)
        while True:
            try:
                results = [task.run() for task in tasks]
            except Exception as error:
                tasks = job.throw(error)
            else:
                tasks = job.send(results)
    except StopIteration as end:
        return end.value


@dataclass
class _Running:
    """A job with the results of its current round that have come in."""

    label: Any
    job: Job
    results: list[Any] = field(default_factory=list)
    missing: int = 0
    started: bool = False
    failed: BaseException | None = None
    sent: dict[int, tuple[Any, "Future[Any]"]] = field(default_factory=dict)
    """Shared arguments by their id, as they lie with the workers."""


class Cluster(AbstractContextManager["Cluster"]):
    """Threads of this process (default), or a cluster at ``scheduler``."""

    def __init__(self, workers: int | None = None, scheduler: str | None = None) -> None:
        self._local: LocalCluster | None = None
        if workers is not None and workers < 1:
            raise InvalidRequest(f"workers must be at least 1, not {workers}")
        self._scratch: TemporaryDirectory[str] | None = None
        if scheduler is None:
            self._scratch = TemporaryDirectory(prefix="tilevault-", ignore_cleanup_errors=True)
            self._local = _threads_of_this_process(workers or os.cpu_count() or 1, self._scratch.name)
        try:
            self._client = Client(self._local or _safe_address(scheduler or ""), set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise StoreUnavailable(f"no scheduler answers at {scheduler}: {error}") from error
        self._threads, self._counted = 1, -math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.close()
        if self._local is not None:
            self._local.close()
        if self._scratch is not None:
            self._scratch.cleanup()

    @property
    def threads(self) -> int:
        """Threads that run tasks, as of a second ago: a cluster may grow, and asking takes time."""
        if time.monotonic() >= self._counted + 1:
            self._threads = max(1, int(sum(self._client.nthreads().values())))
            self._counted = time.monotonic()
        return self._threads

    def run(
        self, jobs: Iterable[tuple[Any, Job]], done: Callable[[Task, Any], None] | None = None
    ) -> Iterator[tuple[Any, Any]]:
        """Run labelled jobs; yields (label, result), the result an exception where the job raised one."""
        waiting: deque[tuple[_Running, int, Task]] = deque()
        flying: dict[Future[Any], tuple[_Running, int, Task]] = {}
        source = iter(jobs)
        completed = as_completed(loop=self._client.loop, with_results=True, raise_errors=False)
        try:
            while True:
                room = TASKS_PER_THREAD * self.threads
                yield from self._fill(source, waiting, room)
                while waiting and len(flying) < room:
                    running, place, task = waiting.popleft()
                    future = self._submit(running, task)
                    flying[future] = running, place, task
                    completed.add(future)
                if not flying:
                    return
                future, result = next(completed)
                running, place, task = flying.pop(future)
                self._settle(running, place, task, future, result, done)
                if running.failed is not None:
                    _drop(running, waiting)
                if not running.missing:
                    yield from self._advance(running, waiting)
        finally:
            self._client.cancel(list(flying), force=True)

    def _submit(self, running: _Running, task: Task) -> "Future[Any]":
        for argument in task.shared:
            if id(argument) not in running.sent:
                # With every worker, so that the loss of one costs no image.
                scattered = self._client.scatter(argument, broadcast=True, hash=False)
                running.sent[id(argument)] = argument, scattered
        shared = [running.sent[id(argument)][1] for argument in task.shared]
        return self._client.submit(task.call, *shared, *task.arguments, pure=False)

    def _fill(
        self, source: Iterator[tuple[Any, Job]], waiting: deque[tuple[_Running, int, Task]], room: int
    ) -> Iterator[tuple[Any, Any]]:
        """Start further jobs while fewer tasks wait than the threads could take next."""
        while len(waiting) < room:
            try:
                label, job = next(source)
            except StopIteration:
                return
            yield from self._advance(_Running(label, job), waiting)

    def _advance(
        self, running: _Running, waiting: deque[tuple[_Running, int, Task]]
    ) -> Iterator[tuple[Any, Any]]:
        """Give a job its results; queue what it asks for next, or yield what it returns."""
        try:
            while True:
                if running.failed is not None:
                    tasks = running.job.throw(running.failed)
                elif running.started:
                    tasks = running.job.send(running.results)
                else:
                    tasks, running.started = next(running.job), True
                running.failed, running.missing = None, len(tasks)
                running.results = [None] * len(tasks)
                # Behind what waits already: an image that is under way ends before others begin.
                waiting.extendleft((running, place, task) for place, task in reversed(list(enumerate(tasks))))
                if tasks:
                    return
        except StopIteration as end:
            yield running.label, end.value
        except Exception as error:
            yield running.label, error

    def _settle(
        self,
        running: _Running,
        place: int,
        task: Task,
        future: "Future[Any]",
        result: Any,
        done: Callable[[Task, Any], None] | None,
    ) -> None:
        running.missing -= 1
        try:
            # Only a task that failed or was lost is asked again, for its error.
            running.results[place] = result if future.status == "finished" else future.result()
        except (KilledWorker, FutureCancelledError) as error:
            running.failed = StoreUnavailable(f"the workers that ran a task are gone: {error}")
        except Exception as error:
            running.failed = error
        else:
            if done is not None:
                done(task, running.results[place])


def _drop(running: _Running, waiting: deque[tuple[_Running, int, Task]]) -> None:
    """Forget the tasks of a round that has failed already."""
    kept = [entry for entry in waiting if entry[0] is not running]
    running.missing -= len(waiting) - len(kept)
    waiting.clear()
    waiting.extend(kept)


def _threads_of_this_process(threads: int, scratch: str) -> LocalCluster:
    settings = {
        # Dask keeps its last messages, and with them the arguments of tasks that ended long ago.
        "distributed.admin.low-level-log-length": 0,
        # By default all Dask processes share a folder with one lock: one that hangs would hold up all.
        "temporary-directory": scratch,
        # Looking at all stacks a hundred times a second, or at the clock, takes time from the threads.
        "distributed.worker.profile.enabled": False,
        "distributed.admin.tick.interval": "1s",
    }
    with dask.config.set(settings):
        return LocalCluster(
            local_directory=scratch,
            n_workers=1,
            threads_per_worker=threads,
            processes=False,
            # Dask's HTTP servers cannot be left out; without an address they listen on every interface.
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            memory_limit=None,
            silence_logs=50,
        )


def _safe_address(address: str) -> str:
    """Only this machine in the clear; any other address under TLS."""
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    try:
        local = parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        local = False
    if parts.scheme == "inproc" or (parts.scheme == "tcp" and local) or parts.scheme == "tls":
        return address
    raise InvalidRequest(f"{address}: a scheduler on another machine is reached by tls:// only")
