"""Taking in what was received: examined in one child process, stored by another, both under limits.

A child is started ahead, so that a request does not wait for an interpreter; it serves one request and is
gone. What a child says is read as JSON lines within bounds and believed only as far as its form. One that
dies, or takes too long, has failed on the file that it was at; another goes on with the next.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tilevault.codecs.errors import StoreUnavailable

__all__ = ["Child", "Children", "Examined", "examine", "store"]

LONGEST_LINE = 1 << 20
EXAMINE_WALL = 60.0
"""Seconds in which an examiner must say something."""
STORE_WALL = 900.0
"""Seconds that storing may take at least; more for more bytes."""
STORE_RATE = 1 << 20
"""Bytes per second of the slowest storing that is waited for."""
START_WALL = 60.0
MODULE = "tilevault.workflows.serve.dicomweb.child"
MOST_KILLED = 8
"""Files of one request that may each cost a child; whatever comes after them is not looked at."""
KEPT_ENVIRONMENT = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "VIRTUAL_ENV",
    "PYTHONPATH",
)

Examined = Mapping[str, Any]
"""``name``, and either ``study``, ``series``, ``sop``, ``class``, ``sha256`` or ``code`` and ``reason``."""


class Children:
    """Children of each role; one of each waits for the next request."""

    def __init__(self) -> None:
        self._spare: dict[str, Child] = {}
        self._taken: set[Child] = set()
        self._lock = threading.Lock()
        self._closed = False

    def take(self, role: str) -> "Child":
        """A child that is ready, or nearly; the next one is started. Give it back by `done`.

        Raises `StoreUnavailable` once closed.
        """
        with self._lock:
            if self._closed:
                raise StoreUnavailable("the server is about to end")
            taken = self._spare.pop(role, None)
            if taken is None or not taken.alive:
                taken = Child(role)
            self._taken.add(taken)
            self._spare[role] = Child(role)
        return taken

    def done(self, child: "Child") -> None:
        """End a child that was taken."""
        with self._lock:
            self._taken.discard(child)
        child.end()

    def close(self) -> None:
        """End those that wait, and kill those that work: what they have committed stays."""
        with self._lock:
            self._closed = True
            for child in self._spare.values():
                child.end()
            self._spare.clear()
            for child in self._taken:
                child.kill()


class Child:
    """One process in one role."""

    def __init__(self, role: str) -> None:
        environment = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", MODULE, role],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment | {"OMP_NUM_THREADS": "1"},
                cwd="/",
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            raise StoreUnavailable(f"no process to look at files: {error.strerror}") from error
        self._buffer = b""
        self._greeted = False

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def ask(self, request: Mapping[str, Any]) -> bool:
        """Send a request; False where the child is not there to take it."""
        assert self._process.stdin is not None
        greeting = self.answer(START_WALL)
        if greeting is None or greeting.get("ready") is not True:
            return False
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.close()
        except OSError:
            return False
        return True

    def answer(self, seconds: float) -> dict[str, Any] | None:
        """The next line; None where there is none in time, or none that is sound."""
        until = time.monotonic() + seconds
        while b"\n" not in self._buffer:
            left = until - time.monotonic()
            if left <= 0 or len(self._buffer) > LONGEST_LINE or not self._read_more(left):
                return None
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None

    def _read_more(self, seconds: float) -> bool:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        # Not select: a server with many connections has descriptors beyond its 1,024.
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        more = os.read(descriptor, 1 << 16) if poll.poll(seconds * 1000) else b""
        self._buffer += more
        return bool(more)

    def kill(self) -> None:
        """Kill it, with all that it may have started."""
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> None:
        """`kill` it, and close the pipes."""
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.wait()


def examine(children: Children, folder: Path, names: Sequence[str]) -> Iterator[Examined]:
    """What each file in ``folder`` is, in the order of ``names``; nothing is written."""
    left, killed = list(names), 0
    # Children work in another folder: what is relative here means nothing to them.
    place = os.fspath(folder.absolute())
    while left:
        if killed >= MOST_KILLED:
            reason = "not looked at: others of the request took more than they may"
            yield from ({"name": name, "code": "LimitExceeded", "reason": reason} for name in left)
            return
        child = children.take("examine")
        try:
            begun = child.ask({"folder": place, "names": left})
            if not begun:
                raise StoreUnavailable("no process to look at files could be started")
            while left:
                answer = child.answer(EXAMINE_WALL)
                name = left.pop(0)
                if answer is None or answer.get("name") != name:
                    reason = "the process that looked at it ended, or took more than it may"
                    yield {"name": name, "code": "LimitExceeded", "reason": reason}
                    killed += 1
                    break
                yield _sound(answer)
        finally:
            children.done(child)


def _sound(answer: dict[str, Any]) -> Examined:
    """An answer whose fields are texts, and UIDs where they should be."""
    fields = ("study", "series", "sop", "class", "sha256", "code", "reason")
    made = {key: answer[key] for key in fields if isinstance(answer.get(key), str)}
    if "code" not in made and not {"series", "sop", "sha256"} <= made.keys():
        made["code"], made["reason"] = "InternalError", "the process that looked at it made no sense"
    return {"name": answer["name"], **made}


def store(children: Children, folder: Path, archive: Path, size: int, workers: int) -> Mapping[str, Any]:
    """Archive the files in ``folder``, ``size`` bytes; ``files`` and ``images`` as `add` told of them.

    Raises `StoreUnavailable` where the child did not get to its end.
    """
    child = children.take("store")
    try:
        places = {"folder": os.fspath(folder.absolute()), "archive": os.fspath(archive.absolute())}
        request = {**places, "workers": workers}
        answer = child.answer(STORE_WALL + size / STORE_RATE) if child.ask(request) else None
    finally:
        children.done(child)
    if answer is None:
        raise StoreUnavailable("storing did not come to its end; what was committed stays")
    return answer
