"""What holds for every request before a route sees it, and for every answer before it goes out.

Requests that are too long, name a foreign host (which is how a page from elsewhere reaches a server on this
machine), or are sent by pages of other sites, are refused. Answers carry headers that keep browsers strict,
and no exception gets past here: whatever happens, the client sees a problem or a connection that ends.
"""

import logging
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tilevault.codecs.errors import AccessDenied, InvalidRequest, LimitExceeded, UnsupportedSyntax
from tilevault.workflows.serve.problems import place_of, problem_of
from tilevault.workflows.serve.sending import Sending
from tilevault.workflows.serve.settings import Settings, is_loopback

__all__ = ["SECURITY_HEADERS", "Gate"]

logger = logging.getLogger("tilevault.serve")

SECURITY_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
UPLOADS = ("POST", "PUT", "PATCH")
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


class Gate:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.settings = settings
        self.sending = Sending(settings.limits.unread_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection of ASGI; other protocols than HTTP are not spoken."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        started = False

        async def strict(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            try:
                self._check(scope)
                body = _Body(receive, self._body_limit(scope))
                await self.app(scope, body, self.sending.through(strict))
            except Exception as failure:
                if started:
                    # Nothing may follow that could be taken for the rest of the answer.
                    logger.error("an answer was cut short: %s", place_of(failure))
                    return
                await problem_of(failure)(scope, receive, strict)
        except OSError:
            # The client is gone.
            return

    def _check(self, scope: Scope) -> None:
        limits, headers = self.settings.limits, Headers(scope=scope)
        if len(scope.get("raw_path") or scope["path"]) > limits.path_bytes:
            raise HTTPException(414, f"a path has at most {limits.path_bytes} bytes")
        if scope["query_string"].count(b"&") >= limits.parameters:
            raise InvalidRequest(f"a request has at most {limits.parameters} parameters")
        if sum(len(name) + len(value) + 4 for name, value in headers.raw) > limits.header_bytes:
            raise HTTPException(431, f"headers have at most {limits.header_bytes} bytes")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise UnsupportedSyntax("bodies are sent as they are, without Content-Encoding")
        self._check_host(headers)
        _check_origin(scope, headers)
        length = headers.get("content-length")
        if length is not None and (not length.isdecimal() or int(length) > self._body_limit(scope)):
            raise LimitExceeded(f"a body has at most {self._body_limit(scope)} bytes here")

    def _body_limit(self, scope: Scope) -> int:
        limits = self.settings.limits
        return limits.upload_bytes if scope["method"] in UPLOADS else limits.body_bytes

    def _check_host(self, headers: Headers) -> None:
        """On a loopback address, under its own names only: pages of other sites rebind theirs to it."""
        if not self.settings.local:
            return
        hosts = headers.getlist("host")
        name = _host_name(hosts[0]) if len(hosts) == 1 else ""
        if name in {host.lower() for host in self.settings.hosts}:
            return
        if not is_loopback(name):
            raise InvalidRequest("this server is not known under the name in Host; see --proxy-host")
        open_to_all = self.settings.tokens is None and not self.settings.insecure
        if open_to_all and any(header in headers for header in FORWARDED):
            raise AccessDenied("behind a proxy, this server needs --tokens and --proxy-host")


def _host_name(host: str) -> str:
    """The name of a Host header, lower case, without its port; empty for what is none."""
    try:
        parts = urlsplit(f"//{host}")
        name, _ = parts.hostname or "", parts.port
    except ValueError:
        return ""
    return "" if "@" in host or "/" in host else name.lower()


def _check_origin(scope: Scope, headers: Headers) -> None:
    """Refuse what pages of other sites send, except that a person follows a link from one."""
    site = headers.get("sec-fetch-site", "")
    safe = scope["method"] in SAFE_METHODS
    if site in ("cross-site", "same-site") and not (safe and headers.get("sec-fetch-mode") == "navigate"):
        raise AccessDenied("requests from pages of other sites are refused")
    origin = headers.get("origin")
    if origin is not None and not safe and not _same_origin(scope, headers, origin):
        raise AccessDenied("requests from pages of other sites are refused")


def _same_origin(scope: Scope, headers: Headers, origin: str) -> bool:
    # A proxy that ends TLS hands on http: the name and port say enough.
    host = headers.get("host", "")
    return origin.lower() in (f"http://{host}".lower(), f"https://{host}".lower())


class _Body:
    """``receive``, until more came than may come."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._seen = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self._seen += len(message.get("body", b""))
        if self._seen > self._limit:
            raise LimitExceeded(f"a body has at most {self._limit} bytes here")
        return message
