"""What a server is told before it starts: values only, checked once, never changed while it runs."""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Limits", "Settings", "is_loopback"]


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
    """Without a byte of a body that is being sent, or of an answer that is being read."""
    slowest_bytes: int = 1024
    """Bytes per second that a body must bring on average after `idle_seconds`."""
    connections: int = 1024
    threads: int = 4
    """Requests that are worked on at a time."""
    waiting: int = 512
    """Requests that may wait for a thread; the next one is told to come again."""
    picture_pixels: int = 1 << 22
    """Pixels of one picture that is answered."""
    read_bytes: int = 1 << 28
    """Samples that one picture may be made of, decoded."""


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
