"""Answers that several routes give: pixels with an ETag, and files that are streamed as they are made."""

import base64
import hashlib
import json
import re
import unicodedata
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tilevault.codecs.errors import TileCorrupt
from tilevault.workflows.console import jsonable
from tilevault.workflows.serve.services import Services

__all__ = ["JsonResponse", "attachment", "etag_of", "file_response", "not_modified", "pixels_response"]

PRIVATE = "private, no-cache"
"""Kept by the one client alone, and asked for again each time: a token may have been revoked."""


class JsonResponse(Response):
    """JSON values; what JSON lacks (NaN, infinities) as text, as in the command line's records."""

    media_type = "application/json"

    def __init__(self, content: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(jsonable(content), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
        super().__init__(data.encode(), headers={"Cache-Control": "private, no-cache", **(headers or {})})


def etag_of(*parts: object) -> str:
    """A strong ETag of whatever an answer depends on."""
    return f'"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}"'


def not_modified(request: Request, etag: str) -> Response | None:
    """304 where the client has this answer already."""
    given = request.headers.get("if-none-match")
    if given is None:
        return None
    known = [one.strip().removeprefix("W/") for one in given.split(",")]
    if etag not in known and "*" not in known:
        return None
    return Response(status_code=304, headers={"ETag": etag, "Cache-Control": PRIVATE})


def pixels_response(
    body: bytes, media_type: str, etag: str, headers: dict[str, str] | None = None
) -> Response:
    """Pixels of any form."""
    return Response(body, 200, {"ETag": etag, "Cache-Control": PRIVATE, **(headers or {})}, media_type)


def attachment(name: str) -> str:
    """A Content-Disposition for a name from outside (RFC 6266): its last part, without what could do harm."""
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    safe = "".join(c if c.isprintable() and c not in '"<>:|?*%;' else "_" for c in last).strip(". ")[:150]
    plain = safe.encode("ascii", "replace").decode().replace("?", "_") or "file"
    encoded = quote(safe or "file", safe="", encoding="utf-8", errors="replace")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}"


def file_response(
    services: Services,
    pieces: Iterator[bytes | memoryview],
    size: int,
    sha256: str,
    media_type: str,
    name: str,
    headers: dict[str, str] | None = None,
) -> Response:
    """A file, piece by piece as it is made. The last bytes go out only when all have the digest ``sha256``.

    What turns out damaged on the way ends the connection before the file is whole.
    """
    digest = base64.b64encode(bytes.fromhex(sha256)).decode()
    all_headers = {
        "Content-Length": str(size),
        "Content-Disposition": attachment(name),
        "Repr-Digest": f"sha-256=:{digest}:",
        "Cache-Control": PRIVATE,
        **(headers or {}),
    }
    return StreamingResponse(_checked(services, pieces, sha256), 200, all_headers, media_type)


async def _checked(
    services: Services, pieces: Iterator[bytes | memoryview], sha256: str
) -> AsyncIterator[bytes]:
    hasher = hashlib.sha256()

    def following() -> bytes | None:
        piece = next(pieces, None)
        if piece is None:
            return None
        # A piece may be gone when the next one is made.
        data = bytes(piece)
        hasher.update(data)
        return data

    held = await services.go_on(following)
    while held is not None:
        after = await services.go_on(following)
        if after is None and hasher.hexdigest() != sha256:
            raise TileCorrupt("a source file does not come out as it went in")
        yield held
        held = after
