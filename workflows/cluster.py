"""Running jobs with Dask: few tasks in flight, results in the order in which they come.

A *job* is a generator: it yields a list of tasks, is sent the list of their results, and so on until it
returns. Jobs know nothing of Dask; `Cluster.run` interleaves them, keeps at most a few tasks per
thread submitted, and hands back each job's outcome. `run_inline` runs the same job in the calling thread.

Where tasks run is a *crew*: the threads of this process, each of which gives its task to Dask's local
scheduler, or the workers of a Dask cluster. The threads are not one of those clusters, because the event loop
of one in this process takes the interpreter's lock from the tasks for a fifth of the time.
"""

import ipaddress
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

from dask.local import get_sync

from tilevault.codecs.errors import InvalidRequest, StoreUnavailable
from tilevault.workflows.parallel import CLEAN_UP_SECONDS, Threads, default_workers

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
    sent: dict[int, Any] = field(default_factory=dict)
    """Shared arguments by their id, as they lie with the workers of a cluster."""


@dataclass(frozen=True)
class _Errand:
    """A task, whose it is, and the place of its result."""

    running: _Running
    place: int
    task: Task


class _Crew(Protocol):
    """Where tasks run."""

    @property
    def threads(self) -> int:
        """Threads that run tasks now."""
        ...

    def submit(self, errand: _Errand) -> None:
        """Have it run; at once or when a thread is free."""
        ...

    def next(self) -> tuple[_Errand, Any, BaseException | None]:
        """Wait for one that has ended: its result, or its exception."""
        ...

    def drop(self) -> None:
        """Forget what was submitted and has not begun."""
        ...

    def close(self) -> None:
        """Let go of the threads."""
        ...


class _Threads:
    """Threads of this process."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._workers = Threads(threads)
        self._ended: SimpleQueue[tuple[_Errand, Any, BaseException | None]] = SimpleQueue()

    def submit(self, errand: _Errand) -> None:
        self._workers.start(partial(self._run, errand))

    def _run(self, errand: _Errand) -> None:
        try:
            # No callbacks: those that are registered with Dask are not safe in many threads.
            result = get_sync({"task": (errand.task.run,)}, "task", callbacks=())
        except BaseException as error:
            # Whoever waits for the result gets it.
            self._ended.put((errand, None, error))
        else:
            self._ended.put((errand, result, None))

    def next(self) -> tuple[_Errand, Any, BaseException | None]:
        return self._ended.get()

    def drop(self) -> None:
        self._workers.drop()

    def close(self) -> None:
        self._workers.end(CLEAN_UP_SECONDS)


class _Workers:
    """The workers of a Dask cluster. Pixels never pass its scheduler: tasks read and write files."""

    def __init__(self, address: str) -> None:
        from distributed import Client, as_completed

        try:
            self._client = Client(_safe_address(address), set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise StoreUnavailable(f"no scheduler answers at {address}: {error}") from error
        self._flying: dict[Any, _Errand] = {}
        self._completed = as_completed(loop=self._client.loop, with_results=True, raise_errors=False)
        self._threads, self._counted = 1, -math.inf

    @property
    def threads(self) -> int:
        """As of a second ago: a cluster may grow, and asking takes time."""
        if time.monotonic() >= self._counted + 1:
            self._threads = max(1, int(sum(self._client.nthreads().values())))
            self._counted = time.monotonic()
        return self._threads

    def submit(self, errand: _Errand) -> None:
        task, sent = errand.task, errand.running.sent
        for argument in task.shared:
            if id(argument) not in sent:
                # With every worker, so that the loss of one costs no image.
                scattered = self._client.scatter(argument, broadcast=True, hash=False)
                sent[id(argument)] = argument, scattered
        shared = [sent[id(argument)][1] for argument in task.shared]
        future = self._client.submit(task.call, *shared, *task.arguments, pure=False)
        self._flying[future] = errand
        self._completed.add(future)

    def next(self) -> tuple[_Errand, Any, BaseException | None]:
        from distributed.client import FutureCancelledError
        from distributed.scheduler import KilledWorker

        future, result = next(self._completed)
        errand = self._flying.pop(future)
        try:
            # Only a task that failed or was lost is asked again, for its error.
            return errand, result if future.status == "finished" else future.result(), None
        except (KilledWorker, FutureCancelledError) as error:
            return errand, None, StoreUnavailable(f"the workers that ran a task are gone: {error}")
        except Exception as error:
            return errand, None, error

    def drop(self) -> None:
        self._client.cancel(list(self._flying), force=True)
        self._flying.clear()

    def close(self) -> None:
        self._client.close()


class Cluster(AbstractContextManager["Cluster"]):
    """Threads of this process (default), or a cluster at ``scheduler``."""

    def __init__(self, workers: int | None = None, scheduler: str | None = None) -> None:
        if workers is not None and workers < 1:
            raise InvalidRequest(f"workers must be at least 1, not {workers}")
        self._crew: _Crew = (
            _Threads(workers or default_workers()) if scheduler is None else _Workers(scheduler)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._crew.close()

    def run(
        self, jobs: Iterable[tuple[Any, Job]], done: Callable[[Task, Any], None] | None = None
    ) -> Iterator[tuple[Any, Any]]:
        """Run labelled jobs; yields (label, result), the result an exception where the job raised one."""
        waiting: deque[_Errand] = deque()
        flying = 0
        source = iter(jobs)
        try:
            while True:
                room = TASKS_PER_THREAD * self._crew.threads
                yield from self._fill(source, waiting, room)
                while waiting and flying < room:
                    self._crew.submit(waiting.popleft())
                    flying += 1
                if not flying:
                    return
                errand, result, error = self._crew.next()
                flying -= 1
                running = errand.running
                running.missing -= 1
                running.results[errand.place] = result
                if error is not None:
                    running.failed = error
                    _drop(running, waiting)
                elif done is not None:
                    done(errand.task, result)
                if not running.missing:
                    yield from self._advance(running, waiting)
        finally:
            self._crew.drop()

    def _fill(
        self, source: Iterator[tuple[Any, Job]], waiting: deque[_Errand], room: int
    ) -> Iterator[tuple[Any, Any]]:
        """Start further jobs while fewer tasks wait than the threads could take next."""
        while len(waiting) < room:
            try:
                label, job = next(source)
            except StopIteration:
                return
            yield from self._advance(_Running(label, job), waiting)

    def _advance(self, running: _Running, waiting: deque[_Errand]) -> Iterator[tuple[Any, Any]]:
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
                waiting.extendleft(_Errand(running, i, tasks[i]) for i in reversed(range(len(tasks))))
                if tasks:
                    return
        except StopIteration as end:
            yield running.label, end.value
        except Exception as error:
            yield running.label, error


def _drop(running: _Running, waiting: deque[_Errand]) -> None:
    """Forget the tasks of a round that has failed already."""
    kept = [errand for errand in waiting if errand.running is not running]
    running.missing -= len(waiting) - len(kept)
    waiting.clear()
    waiting.extend(kept)


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
