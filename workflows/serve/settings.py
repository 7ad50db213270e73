"""What a server is told before it starts: values only, checked once, never changed while it runs."""

import argparse
import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path

from tilevault.codecs.errors import InvalidRequest

__all__ = ["Limits", "Settings", "check_settings", "is_loopback", "settings_of"]


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may take."""

    header_bytes: int = 32 << 10
    """Request line and headers."""
    path_bytes: int = 2048
    parameters: int = 64
    """Query parameters of a request."""
    body_bytes: int = 64 << 10
    """Body of a request that uploads nothing."""
    upload_bytes: int = 16 << 30
    """Body of a request that uploads, which is streamed."""
    header_seconds: float = 10.0
    """From the connection, or from the first byte of the next request, to the end of the headers."""
    idle_seconds: float = 30.0
    """Between two looks at whether a body is being sent, or an answer being read."""
    unread_bytes: int = 512 << 20
    """Of answers that are made and wait to be read, all together."""
    slowest_bytes: int = 1024
    """Bytes per second that a body must bring, and a reader take, from one such look to the next."""
    drain_seconds: int = 30
    """For what is being answered when the server is told to stop."""
    connections: int = 1024
    threads: int = 2
    """Requests that are worked on at a time."""
    waiting: int = 512
    """Requests that may wait for a thread; the next one is told to come again."""


@dataclass(frozen=True)
class Settings:
    """One server. `workflows.serve.command` makes it from the command line."""

    archive: str
    """Path or URL of the archive."""
    host: str = "127.0.0.1"
    port: int = 8480
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tokens: Path | None = None
    """File of tokens; without it whoever reaches a loopback address may do everything."""
    insecure: bool = False
    """Other than loopback addresses without TLS or tokens."""
    hosts: tuple[str, ...] = ()
    """Names under which a reverse proxy on this machine hands requests on, besides those of the loopback."""
    access_log: Path | None = None
    cache_bytes: int = 256 << 20
    """Decoded tiles and encoded pictures that are kept."""
    limits: Limits = field(default_factory=Limits)

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether ``host`` is ``localhost`` or a loopback address; other names are not looked up."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings of a command line."""
    return Settings(
        archive=options.archive,
        host=options.host,
        port=options.port,
        tls_cert=options.tls_cert,
        tls_key=options.tls_key,
        tokens=options.tokens,
        insecure=options.insecure,
        hosts=tuple(options.proxy_host),
        access_log=options.access_log,
        cache_bytes=options.cache << 20,
        limits=Limits(threads=options.threads or len(os.sched_getaffinity(0))),
    )


def check_settings(settings: Settings) -> None:
    """Raises `InvalidRequest` for a server that should not run so, whatever the archive holds."""
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise InvalidRequest("--tls-cert and --tls-key go together")
    if not 0 <= settings.port <= 65535:
        raise InvalidRequest("a port is 0 to 65535 (0: any that is free)")
    if settings.insecure:
        return
    if not settings.local:
        lacking = [
            what
            for what, given in (
                ("--tls-cert and --tls-key", settings.tls_cert),
                ("--tokens", settings.tokens),
            )
            if given is None
        ]
        if lacking:
            raise InvalidRequest(
                f"{settings.host} can be reached from other machines: that needs {' and '.join(lacking)}, "
                "or --insecure"
            )
    if settings.hosts and settings.tokens is None:
        raise InvalidRequest(
            "--proxy-host lets others in through a proxy: that needs --tokens, or --insecure"
        )
