"""A real S3 server on this machine (moto), for tests: requests are counted, and faults come on demand."""

import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

__all__ = ["ENVIRONMENT", "Faults", "S3Server", "serving_s3"]

ENVIRONMENT = {
    "AWS_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "SOMEBODYSKEYID",
    "AWS_SECRET_ACCESS_KEY": "very-secret-key",
    "AWS_SESSION_TOKEN": "session-token-of-somebody",
}
"""What a reader of the server has in his environment, besides the endpoint."""

Head = tuple[str, list[tuple[str, str]]]


@dataclass
class Faults:
    """What goes wrong with answers."""

    status: str = ""
    """Status and reason of all of them; the body, as some stores' do, repeats what came with the request."""
    code: str = "InternalError"
    """Code in that body."""
    failing: int = 0
    """How many are refused like that, with 503."""
    cut: int = 0
    """How many of more than 100 bytes are broken off in the middle; -1: all."""
    at_cut: Callable[[], None] = lambda: None
    """Called when that happens."""
    stall: float = 0.0
    """Seconds of rest in the middle of each body of more than 100 bytes."""
    span: str | None = None
    """Content-Range of partial answers instead of the right one."""


@dataclass
class S3Server:
    """What was asked for, and what goes wrong. A WSGI application before that of moto."""

    url: str
    application: Callable[..., Iterable[bytes]]
    requests: list[tuple[str, str, str, int]] = field(default_factory=list)
    """(method, path, Range, bytes of the body sent)"""
    faults: Faults = field(default_factory=Faults)

    def clear(self) -> None:
        """Nothing was asked for, nothing goes wrong."""
        self.requests.clear()
        self.faults = Faults()

    def make_bucket(self, name: str) -> None:
        """It may be there already."""
        with urllib.request.urlopen(urllib.request.Request(f"{self.url}/{name}", method="PUT")) as answer:
            answer.read()

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        (status, headers), body = self._answer(environ)
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        kept = [(name, value) for name, value in headers if name.lower() != "content-range"]
        if self.faults.span is not None and kept != headers:
            headers = [*kept, ("Content-Range", self.faults.span)]
        self.requests.append((method, path, environ.get("HTTP_RANGE", ""), len(body) * (method != "HEAD")))
        start(status, headers)
        return self._sent(body)

    def _answer(self, environ: dict[str, Any]) -> tuple[Head, bytes]:
        if self.faults.failing or self.faults.status:
            self.faults.failing -= self.faults.failing > 0
            body = self._refusal(environ)
            kind = [("Content-Length", str(len(body))), ("Content-Type", "application/xml")]
            return (self.faults.status or "503 Slow Down", kind), body
        heads: list[Head] = []

        def note(status: str, headers: list[tuple[str, str]], *_: Any) -> Callable[[bytes], None]:
            heads.append((status, list(headers)))
            return lambda data: None

        body = b"".join(self.application(environ, note))
        return heads[-1], body

    def _refusal(self, environ: dict[str, Any]) -> bytes:
        came = [environ.get(name, "") for name in ("HTTP_AUTHORIZATION", "HTTP_X_AMZ_SECURITY_TOKEN")]
        seen = "".join(f"<Seen>{text}</Seen>" for text in (*came, *ENVIRONMENT.values()))
        return f"<?xml version='1.0'?><Error>{seen}<Code>{self.faults.code}</Code>{seen}</Error>".encode()

    def _sent(self, body: bytes) -> Iterator[bytes]:
        half = len(body) // 2 if len(body) > 100 and (self.faults.cut or self.faults.stall) else 0
        yield body[:half]
        if half and self.faults.cut:
            self.faults.cut -= self.faults.cut > 0
            self.faults.at_cut()
            return
        if half:
            time.sleep(self.faults.stall)
        yield body[half:]


@contextmanager
def serving_s3() -> Iterator[S3Server]:
    """A server on a free port of this machine; skips the test where moto is not installed."""
    moto = pytest.importorskip("moto.server", reason="moto[s3] or flask-cors is not installed")
    handler = pytest.importorskip("werkzeug.serving").WSGIRequestHandler
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    server = running._server.app = S3Server(f"http://{host}:{port}", running._server.app)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(handler, "log", lambda *arguments: None)
        yield server
        server.clear()
        running.stop()
