"""A plain web server over a folder, for tests: range requests, and faults on demand. It lists nothing."""

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

__all__ = ["WebServer", "serving"]


@dataclass
class WebServer:
    """What was asked for, and what goes wrong."""

    url: str = ""
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    """(method, path, bytes of the body sent)"""
    ranges: bool = True
    """Whether range requests are understood."""
    delay: float = 0.0
    """Seconds before each answer to a request below ``slow``."""
    slow: str = "/"
    cut: int = 0
    """How many answers of more than 100 bytes are broken off in the middle; -1: all."""
    statuses: dict[str, int] = field(default_factory=dict)
    """Status for paths that contain a text."""
    replaced: dict[str, bytes] = field(default_factory=dict)
    """Content for paths that contain a text."""
    failing: int = 0
    """How many answers are a 503."""
    stall: float = 0.0
    """Seconds of rest in the middle of each body of more than 100 bytes."""
    span: str | None = None
    """Content-Range of partial answers instead of the right one; "": none."""

    def clear(self) -> None:
        """Forget what was asked for."""
        self.requests.clear()

    @property
    def bytes_sent(self) -> int:
        """Bytes of all bodies."""
        return sum(size for _, _, size in self.requests)

    def paths(self, method: str = "GET") -> list[str]:
        """Paths of the requests of a method."""
        return [path for one, path, _ in self.requests if one == method]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        state: WebServer = self.server.state
        if state.delay and state.slow in self.path:
            time.sleep(state.delay)
        data = self._content(state)
        if state.failing:
            state.failing -= 1
            return self._send(state, 503, b"busy", body)
        for text, status in state.statuses.items():
            if text in self.path:
                return self._send(state, status, b"", body)
        if data is None:
            return self._send(state, 404, b"not found", body)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None or not state.ranges:
            return self._send(state, 200, data, body)
        start, size = int(asked[1]), len(data)
        stop = min(int(asked[2]) + 1 if asked[2] else size, size)
        if start >= size:
            return self._send(state, 416, b"", body)
        span = f"bytes {start}-{stop - 1}/{size}" if state.span is None else state.span
        return self._send(state, 206, data[start:stop], body, span)

    def _content(self, state: WebServer) -> bytes | None:
        for text, data in state.replaced.items():
            if text in self.path:
                return data
        path = self.server.folder / self.path.lstrip("/")
        return path.read_bytes() if path.is_file() else None

    def _send(self, state: WebServer, status: int, data: bytes, body: bool, span: str = "") -> None:
        state.requests.append((self.command, self.path, len(data) if body else 0))
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        if span:
            self.send_header("Content-Range", span)
        self.end_headers()
        if not body:
            return
        if state.cut and len(data) > 100:
            state.cut -= state.cut > 0
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        half = len(data) // 2 if state.stall and len(data) > 100 else 0
        if half:
            self.wfile.write(data[:half])
            time.sleep(state.stall)
        self.wfile.write(data[half:])


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.connections: list[socket.socket] = []

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.append(request)
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what some tests are about."""


@contextmanager
def serving(folder: Path) -> Iterator[WebServer]:
    """A server of ``folder`` on a free port of this machine."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.folder, server.state = folder, WebServer(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.state  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        for connection in server.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        thread.join()
