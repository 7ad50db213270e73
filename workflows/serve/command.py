"""``tilevault serve`` and ``tilevault token``: from the command line to a server that runs, and its end."""

import argparse
import asyncio
import contextlib
import logging
import resource
import signal
import socket
import ssl
import time
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import TextIO

import uvicorn

from tilevault.codecs.errors import Conflict, InvalidRequest
from tilevault.workflows.console import Console, printable
from tilevault.workflows.placing import os_failure
from tilevault.workflows.serve.app import create_app
from tilevault.workflows.serve.problems import place_of
from tilevault.workflows.serve.protocol import patient_protocol
from tilevault.workflows.serve.services import Services
from tilevault.workflows.serve.settings import Settings, check_settings
from tilevault.workflows.serve.tokens import add_token, read_tokens, revoke_token

__all__ = ["serve", "token"]

EXIT_INTERRUPTED = 130
FILES = 8192
"""Connections and objects that may be open at a time, if the system lets us."""
KEEP_ALIVE_SECONDS = 15

logger = logging.getLogger("tilevault.serve")


def serve(settings: Settings, console: Console) -> int:
    """Serve until a signal says to stop: SIGTERM gives exit code 0, SIGINT 130, once what runs is answered.

    SIGHUP reads the tokens again, and begins the access log anew. Raises `InvalidRequest`, `Conflict` for a
    port that is in use, `ImageNotFound` where there is no archive, and what opening it raises.
    """
    check_settings(settings)
    with _logging_to(console.err):
        app = create_app(settings)
        services: Services = app.state.services
        try:
            context = _tls(settings)
            with contextlib.closing(_listening(settings)) as listener:
                return _run(settings, console, app, services, listener, context)
        finally:
            services.close()


def _run(
    settings: Settings,
    console: Console,
    app: object,
    services: Services,
    listener: socket.socket,
    context: ssl.SSLContext | None,
) -> int:
    limits = settings.limits
    config = uvicorn.Config(
        app,  # type: ignore[arg-type] # a Starlette is one
        http=patient_protocol(limits),
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.hosts),
        forwarded_allow_ips="127.0.0.1,::1",
        limit_concurrency=limits.connections,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=limits.drain_seconds,
        h11_max_incomplete_event_size=limits.header_bytes,
        ssl_context_factory=None if context is None else lambda *_: context,
    )
    _raise_file_limit()
    server = _Server(config, services)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    url = f"{'http' if context is None else 'https'}://{shown}:{port}/"
    console.record("serving", url=url, archive=settings.archive, tokens=settings.tokens is not None)
    console.line(f"serving {printable(settings.archive)} at {url}")
    console.flush()
    if settings.insecure:
        logger.warning("--insecure: whoever reaches %s may do what its tokens, if any, allow", url)
    elif settings.tokens is None:
        logger.info("no tokens: whoever uses this machine may read and write")
    started = time.monotonic()
    asyncio.run(server.serve(sockets=[listener]))
    requests, seconds = server.server_state.total_requests, time.monotonic() - started
    console.record("stopped", requests=requests, seconds=round(seconds, 1), signal=server.signal_name)
    console.line(f"stopped after {requests} requests, {seconds:.0f} s")
    return EXIT_INTERRUPTED if server.signal_name == "SIGINT" else 0


class _Server(uvicorn.Server):
    """Uvicorn's server with our signals: it ends in order, and says by which it did."""

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self.signal_name: str | None = None
        self._services = services

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        before = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._services.refresh)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGHUP)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.signal_name = self.signal_name or signal.Signals(number).name
        # Who asks twice does not want to wait.
        self.force_exit = self.should_exit
        self.should_exit = True


def _listening(settings: Settings) -> socket.socket:
    """A socket at the address. Raises `Conflict` where another process has it, `InvalidRequest`."""
    host = "127.0.0.1" if settings.host.lower() == "localhost" else settings.host.strip("[]")
    try:
        found = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as failure:
        raise InvalidRequest(f"{host}: is no address of this machine") from failure
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError as failure:
        listener.close()
        where = f"{settings.host} port {settings.port}"
        if failure.errno == 98:
            raise Conflict(f"{where}: is in use by another program") from failure
        if failure.errno == 99:
            raise InvalidRequest(f"{settings.host}: is no address of this machine") from failure
        raise os_failure(failure, f"cannot listen at {where}") from failure
    return listener


def _tls(settings: Settings) -> ssl.SSLContext | None:
    """TLS 1.2 or newer with the certificate; None without one. Raises `InvalidRequest` for a bad one."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password=lambda: b"")
    except ssl.SSLError as failure:
        raise InvalidRequest(
            f"{settings.tls_cert}, {settings.tls_key}: are not a certificate and its key, without password"
        ) from failure
    except OSError as failure:
        raise os_failure(failure, "cannot read the certificate or its key") from failure
    return context


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Plain(logging.Formatter):
    """Time, level, text; of an exception its kind and place, because its text may hold anything."""

    def formatException(self, ei: object) -> str:
        failure = ei[1] if isinstance(ei, tuple) else None
        return place_of(failure) if isinstance(failure, BaseException) else ""


@contextlib.contextmanager
def _logging_to(stream: TextIO) -> Generator[None, None, None]:
    """Ordinary messages of the server, and the warnings of what it runs on, meanwhile."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Plain("%(asctime)s %(levelname)s %(message)s"))
    levels = {"tilevault.serve": logging.INFO, "uvicorn.error": logging.WARNING, "asyncio": logging.ERROR}
    for name, level in levels.items():
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(level)
        logging.getLogger(name).propagate = False
    try:
        yield
    finally:
        for name in levels:
            logging.getLogger(name).removeHandler(handler)
            logging.getLogger(name).propagate = True


def token(options: argparse.Namespace, console: Console) -> int:
    """List the tokens of a file, add one, or revoke one. A new token is shown once and kept nowhere."""
    path = Path(options.file)
    if options.add is not None:
        secret, made = add_token(
            path, options.add, options.may or ("read", "search"), options.on, options.days
        )
        console.record("token", status="added", token=secret, **{**made.to_json(), "sha256": made.sha256})
        console.line(secret)
        console.note(
            f"tilevault: {printable(made.name)}: this token is not kept anywhere, and not shown again"
        )
        return 0
    if options.revoke is not None:
        gone = revoke_token(path, options.revoke)
        console.record("token", status="revoked", **gone.to_json())
        console.line(f"revoked {printable(gone.name)}")
        return 0
    for one in read_tokens(path):
        console.record("token", status="listed", **one.to_json())
        until = one.expires or "never"
        console.line(
            f"{printable(one.name, 60)}  {','.join(one.actions)}  {printable(','.join(one.scopes), 80)}  "
            f"expires {printable(until)}"
        )
    return 0
