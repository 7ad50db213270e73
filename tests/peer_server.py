"""What tests against real peers share: the address of a server of ours, ports, where peers are unpacked."""

import socket
import time
import urllib.request
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PEERS", "Server", "free_port", "wait_for"]

PEERS = Path(__file__).resolve().parents[1] / "build" / "peers"
"""Where `tests/peers/install.sh` unpacks Debian packages."""
START_SECONDS = 60.0


@dataclass(frozen=True)
class Server:
    """A server of ours on a loopback port."""

    url: str
    archive: Path

    @property
    def dicomweb(self) -> str:
        """URL of its DICOMweb service."""
        return f"{self.url}/dicom-web"


def free_port() -> int:
    """A port on the loopback that nobody listens on."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str) -> None:
    """Until something answers at ``url``."""
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).read()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
        else:
            return
