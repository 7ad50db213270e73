"""What a command says: results on standard output, everything else on standard error.

Results are either one JSON object per line or text for people. Names in an archive come from outside
(patient names, file names), so text for people passes `printable`, which leaves no escape sequence, and
JSON is pure ASCII.
"""

import io
import json
import math
import os
import shutil
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, TextIO

from tilevault.codecs.errors import TilevaultError
from tilevault.workflows.placing import os_failure

__all__ = ["Column", "Console", "Progress", "human_bytes", "jsonable", "printable", "reason_alone"]

NARROWEST = 24
"""Characters that a flexible column keeps while others can be left out."""
PLAIN_INTERVAL = 5.0
"""Seconds between progress lines where there is no terminal."""


def printable(value: object, limit: int | None = None) -> str:
    """``value`` as one line of text without control, format or unassigned characters.

    Such characters appear as their escapes (``\\x1b``), other spaces as a space; what is longer than
    ``limit`` characters is cut in its middle.
    """
    text = "".join(_visible(char) for char in str(value))
    if limit is not None and len(text) > limit:
        tail = (limit - 1) // 2
        text = f"{text[: limit - 1 - tail]}…{text[len(text) - tail :]}"
    return text


def reason_alone(reason: str, *names: str) -> str:
    """``reason`` without the names of what it is about in front, however often they were put there."""
    prefixes = tuple(f"{name}: " for name in names if name)
    while found := next((prefix for prefix in prefixes if reason.startswith(prefix)), None):
        reason = reason.removeprefix(found)
    return reason


def _visible(char: str) -> str:
    if char.isprintable():
        return char
    if unicodedata.category(char) == "Zs":
        return " "
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def human_bytes(count: float) -> str:
    """``count`` in powers of 1000: ``"12.3 MB"``."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 999.5 or unit == "TB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"


def jsonable(value: Any) -> Any:
    """``value`` with JSON types only; what JSON lacks becomes ``"NaN"``, ``"Infinity"``, ``"-Infinity"``."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    if hasattr(value, "tolist"):
        return jsonable(value.tolist())
    return str(value) if isinstance(value, PurePath) or not hasattr(value, "name") else str(value.name)


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    heading: str
    right: bool = False
    """Numbers are aligned to the right."""
    flexible: bool = False
    """Is cut first where the screen is narrow."""
    optional: bool = False
    """Is left out where the screen is narrower still; the last one first."""


def _widths(columns: Sequence[Column], cells: Sequence[Sequence[str]], screen: int | None) -> list[int]:
    """Width of each column in cells of the screen; 0 for what is left out."""
    widths = [
        max([len(column.heading), *(_cells(row[i]) for row in cells)]) for i, column in enumerate(columns)
    ]
    if screen is None:
        return widths
    flexible = [i for i, column in enumerate(columns) if column.flexible]
    droppable = [i for i, column in enumerate(columns) if column.optional]

    def excess() -> int:
        return sum(width + 2 for width in widths if width) - 2 - screen

    for i in flexible:
        widths[i] = min(widths[i], max(NARROWEST, widths[i] - max(0, excess())))
    while droppable and excess() > 0:
        widths[droppable.pop()] = 0
    for i in flexible:
        widths[i] = max(1, widths[i] - max(0, excess()))
    return widths


def _cells(text: str) -> int:
    """Cells that a text takes on a screen: East Asian characters take two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _fitted(text: str, width: int, right: bool) -> str:
    limit = len(text)
    while _cells(text) > width and limit > 1:
        limit -= 1
        text = printable(text, limit)
    return " " * (width - _cells(text)) + text if right else text + " " * (width - _cells(text))


class Console:
    """Where a command writes: one object per run, passed to every command."""

    def __init__(
        self, json_lines: bool = False, out: TextIO | None = None, err: TextIO | None = None
    ) -> None:
        self.json_lines = json_lines
        self.out = sys.stdout if out is None else out
        self.err = sys.stderr if err is None else err
        self._live: Progress | None = None

    def record(self, kind: str, /, **fields: Any) -> None:
        """One JSON line ``{"type": kind, ...}``; nothing when text is wanted."""
        if self.json_lines:
            self._write(json.dumps({"type": kind, **jsonable(fields)}, ensure_ascii=True, allow_nan=False))

    def line(self, text: str = "") -> None:
        """One line of text for people; nothing when JSON is wanted."""
        if not self.json_lines:
            self._write(text)

    def _write(self, text: str) -> None:
        if self._live is not None and _is_terminal(self.out) and self._live.above(text):
            return
        with self._output():
            self.out.write(text + "\n")
            # Whoever reads a pipe of records wants each one when it happens.
            if self.json_lines:
                self.out.flush()

    def flush(self) -> None:
        """Hand over all that was written. Raises `BrokenPipeError`, `StoreFull` or another of our errors."""
        with self._output():
            self.out.flush()

    @contextmanager
    def _output(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as failure:
            # Once is enough: what is still in the buffer would fail again when the interpreter ends.
            self.discard()
            raise os_failure(failure, "cannot write the output") from failure

    def discard(self) -> None:
        """Send standard output nowhere from now on."""
        if self.out is sys.stdout:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            with suppress(OSError):  # a stand-in without a descriptor
                os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
        self.json_lines, self.out = False, io.StringIO()

    def note(self, text: str) -> None:
        """One line on standard error."""
        self.err.write(text + "\n")
        self.err.flush()

    def error(self, failure: TilevaultError, **context: Any) -> None:
        """Report ``failure``: a JSON record of type ``error`` (if wanted), and a line on standard error."""
        fields = {**failure.details, **context}
        fields.update(code=failure.code, message=failure.message, exit_code=failure.exit_code)
        fields["retryable"] = failure.retryable
        self.record("error", **fields)
        self.note(f"tilevault: {failure.code}: {printable(failure.message)}")

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
        """A table for people. On a terminal it fits the screen, elsewhere nothing is cut."""
        if self.json_lines:
            return
        cells = [[printable(cell) for cell in row] for row in rows]
        screen = shutil.get_terminal_size().columns if _is_terminal(self.out) else None
        widths = _widths(columns, cells, screen)
        shown = [i for i, width in enumerate(widths) if width]
        lines = [[column.heading for column in columns], ["-" * width for width in widths], *cells]
        for line in lines:
            parts = [_fitted(line[i], widths[i], columns[i].right) for i in shown]
            self.line("  ".join(parts).rstrip())

    def fields(self, pairs: Iterable[tuple[str, object]], indent: int = 0) -> None:
        """Aligned ``name  value`` lines for people; pairs whose value is None are left out."""
        shown = [(name, printable(value)) for name, value in pairs if value is not None]
        width = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            self.line(f"{' ' * indent}{name:<{width}}  {value}")

    def progress(self, title: str, unit: str = "files") -> "Progress":
        """A progress display on standard error; with JSON only where standard error is a terminal."""
        self._live = Progress(title, self.err, not self.json_lines or _is_terminal(self.err), unit)
        return self._live


def _is_terminal(stream: TextIO) -> bool:
    return bool(getattr(stream, "isatty", lambda: False)())


class Progress:
    """Progress of one command: a live display on a terminal, a line every few seconds elsewhere.

    ``update`` takes running totals and may be called from any thread at any rate.
    """

    def __init__(self, title: str, stream: TextIO, enabled: bool = True, unit: str = "files") -> None:
        self.title = title
        self.stream = stream
        self.enabled = enabled
        self.unit = unit
        self.started = time.monotonic()
        self._spoken = self.started
        self._live: Any = None
        self._task: Any = None

    def __enter__(self) -> "Progress":
        if self.enabled and _is_terminal(self.stream):
            self._live = _live_display(self.stream)
            self._task = self._live.add_task(
                self.title, total=None, counts="", size="", rate="", ratio="", message=""
            )
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def above(self, text: str) -> bool:
        """Show a line above a live display on the same screen; False where there is no live display."""
        if self._live is None:
            return False
        from rich.text import Text

        self._live.console.print(Text(text), soft_wrap=True)
        return True

    def update(
        self,
        files: int = 0,
        files_total: int | None = None,
        bytes_done: int = 0,
        bytes_total: int | None = None,
        bytes_stored: int = 0,
        message: str = "",
        title: str | None = None,
    ) -> None:
        """Show running totals; unknown totals are None or 0."""
        if not self.enabled:
            return
        counts = f"{files}/{files_total} {self.unit}" if files_total else f"{files} {self.unit}"
        size = human_bytes(bytes_done) if bytes_done or bytes_total else ""
        size += f" of {human_bytes(bytes_total)}" if bytes_total else ""
        seconds = max(time.monotonic() - self.started, 1e-3)
        rate = f"{bytes_done / seconds / 1e6:.1f} MB/s" if bytes_done else ""
        ratio = f"ratio {bytes_done / bytes_stored:.2f}" if bytes_stored and bytes_done else ""
        done, total = (bytes_done, bytes_total) if bytes_total else (files, files_total)
        if self._live is not None:
            self._live.update(
                self._task,
                description=title or self.title,
                completed=done,
                total=total or None,
                counts=counts,
                size=size,
                rate=rate,
                ratio=ratio,
                message=printable(message, 40),
            )
        elif time.monotonic() - self._spoken >= PLAIN_INTERVAL:
            self._spoken = time.monotonic()
            left = f"about {seconds * (total - done) / done:.0f} s left" if total and done else ""
            parts = [counts, size, rate, ratio, left, printable(message, 60)]
            self.stream.write(f"{title or self.title}: " + ", ".join(part for part in parts if part) + "\n")
            self.stream.flush()


def _live_display(stream: TextIO) -> Any:
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    texts = [
        TextColumn("{task.fields[" + name + "]}", markup=False)
        for name in ("counts", "size", "rate", "ratio", "message")
    ]
    return RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        *texts[:4],
        TimeRemainingColumn(),
        texts[4],
        console=RichConsole(file=stream, highlight=False, emoji=False),
        transient=True,
        refresh_per_second=8,
        redirect_stdout=False,
        redirect_stderr=False,
    )
