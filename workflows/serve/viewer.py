"""The viewer: its page at ``/``, its script and style sheet below ``/viewer/``.

The files are built from ``viewer/`` (``make viewer``) and read once, when the server starts. Where they are
not built, ``/`` is a page without scripts that is made here: the images with their thumbnails, and how to
build the viewer.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tilevault.codecs.errors import ImageNotFound
from tilevault.workflows.serve.access import Principal, guarded
from tilevault.workflows.serve.answers import not_modified
from tilevault.workflows.serve.catalogue import Entry
from tilevault.workflows.serve.images import catalogue_subject
from tilevault.workflows.serve.services import Services

__all__ = ["BUILT", "POLICY", "Asset", "load_assets", "plain_page", "routes"]

BUILT = Path(__file__).with_name("viewer") / "dist"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
"""Media types by suffix; files of others are not served."""
POLICY = "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
"""Nothing is loaded from elsewhere, nothing inline runs."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    # Asked for again each time, and answered by 304: a new version is seen at once.
    "Cache-Control": "private, no-cache",
}
LISTED = 200
"""Images on the plain page."""


@dataclass(frozen=True)
class Asset:
    """A file of the viewer."""

    body: bytes
    media_type: str
    etag: str
    """Strong, with its quotation marks."""

    @classmethod
    def of(cls, body: bytes, media_type: str) -> "Asset":
        """With the ETag that its bytes have."""
        return cls(body, media_type, f'"{hashlib.sha256(body).hexdigest()[:32]}"')

    def answer(self, request: Request) -> Response:
        """200, or 304 to a client that has these bytes already."""
        known = not_modified(request, self.etag)
        if known is not None:
            known.headers.update(HEADERS)
            return known
        return Response(self.body, 200, {**HEADERS, "ETag": self.etag}, self.media_type)


def load_assets(folder: Path) -> Mapping[str, Asset]:
    """The built files by name; none where the viewer is not built."""
    if not (folder / "index.html").is_file():
        return {}
    return {
        path.name: Asset.of(path.read_bytes(), TYPES[path.suffix])
        for path in sorted(folder.iterdir())
        if path.suffix in TYPES and path.is_file()
    }


def routes(services: Services, folder: Path | None = None) -> list[Route]:
    """``/`` and ``/viewer/{name}``; ``folder`` holds the built files (default: `BUILT`)."""
    assets = load_assets(BUILT if folder is None else folder)

    async def page(request: Request) -> Response:
        if "index.html" in assets:
            return assets["index.html"].answer(request)
        html = await services.run(_plain_page_of, services, request.state.principal)
        return Asset.of(html.encode(), TYPES[".html"]).answer(request)

    async def asset(request: Request) -> Response:
        found = assets.get(request.path_params["name"])
        if found is None:
            raise ImageNotFound("the viewer has no such file")
        return found.answer(request)

    return [
        Route("/", guarded(services, "search", catalogue_subject, page)),
        Route("/viewer/{name}", guarded(services, "search", catalogue_subject, asset)),
    ]


def _plain_page_of(services: Services, principal: Principal) -> str:
    entries = services.catalogue.entries().values()
    seen = [entry for entry in entries if principal.may("read", entry.id, entry.study)]
    seen.sort(key=lambda entry: (str(entry.summary.get("name")), entry.id))
    return plain_page([_row(entry) for entry in seen[:LISTED]], len(seen) > LISTED)


def _row(entry: Entry) -> str:
    summary = entry.summary
    shape = " x ".join(str(n) for n in summary.get("shape") or ())
    link = f"api/images/{entry.id}"
    picture = f'<img src="{link}/thumbnail" alt="" height="128" loading="lazy">' if shape else ""
    facts = [shape, summary.get("dtype"), summary.get("round_trip"), summary.get("fidelity")]
    what = escape(", ".join(str(fact) for fact in facts if fact))
    return f'<li>{picture}<a href="{link}">{escape(str(summary.get("name") or entry.id))}</a><br>{what}</li>'


def plain_page(images: Iterable[str], more: bool) -> str:
    """The page that needs no script. ``images``: list items as HTML; ``more``: there are others."""
    rows = "\n".join(images) or "<li>The archive is empty.</li>"
    rest = (
        f"<p>These are the first {LISTED}; <a href='api/images'>all of them</a> as JSON.</p>" if more else ""
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>tilevault</title></head><body>
<h1>tilevault</h1>
<p>The viewer is not built. In a clone of tilevault: <code>make viewer</code> (with npm, or Node from
PyPI), then start the server again. These are the images; each leads to what is known of it, as JSON.</p>
<ul>
{rows}
</ul>
{rest}</body></html>
"""
