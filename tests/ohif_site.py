"""The viewer OHIF as a web site: its built files, and behind the same address our DICOMweb service.

It stands for the reverse proxy that `docs/howto-dicomweb.md` describes, and takes OHIF's configuration from
there. OHIF comes as an npm package, which `tests/peers/install_ohif.sh` unpacks.
"""

import http.client
import mimetypes
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from peer_server import PEERS

__all__ = ["BUILT", "WEBGL", "ohif_site"]

BUILT = PEERS / "ohif" / "package" / "dist"
WEBGL = ("--enable-unsafe-swiftshader", "--use-gl=angle", "--use-angle=swiftshader")
"""Switches with which Chromium draws in three dimensions without a graphics card: OHIF draws so."""
GUIDE = Path(__file__).resolve().parents[1] / "docs" / "howto-dicomweb.md"
DROPPED = ("connection", "transfer-encoding", "content-length", "keep-alive")
"""Headers that belong to one connection."""


def configuration() -> str:
    """``app-config.js`` as the guide has it."""
    block = re.compile(r"^```javascript\n(window\.config = .*?)^```$", re.MULTILINE | re.DOTALL)
    found = block.search(GUIDE.read_text())
    assert found is not None
    return found[1]


@contextmanager
def ohif_site(server: str) -> Iterator[str]:
    """URL of a site with OHIF, in front of the tilevault server at ``server``."""

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/dicom-web/"):
                self._hand_on()
                return
            path = urlsplit(self.path).path
            if path == "/app-config.js":
                self._answer(200, "text/javascript", configuration().encode())
                return
            file = (BUILT / path.lstrip("/")).resolve()
            if not (file.is_relative_to(BUILT) and file.is_file()):
                # Its addresses, such as /viewer, are made by its script.
                file = BUILT / "index.html"
            kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
            self._answer(200, kind, file.read_bytes())

        def _hand_on(self) -> None:
            behind = http.client.HTTPConnection(urlsplit(server).netloc, timeout=60)
            try:
                behind.request("GET", self.path, headers=dict(self.headers.items()))
                answer = behind.getresponse()
                headers = {k: v for k, v in answer.getheaders() if k.lower() not in DROPPED}
                self._answer(answer.status, None, answer.read(), headers)
            finally:
                behind.close()

        def _answer(
            self, status: int, kind: str | None, body: bytes, headers: dict[str, str] | None = None
        ) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            if kind is not None:
                self.send_header("Content-Type", kind)
            if status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            """Nothing: failures are seen in the browser."""

    site = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    site.daemon_threads = True
    thread = threading.Thread(target=site.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{site.server_address[1]}"
    finally:
        site.shutdown()
        thread.join()
        site.server_close()
