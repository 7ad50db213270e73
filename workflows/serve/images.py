"""``/api/images``: what is in the archive, for programs and for the viewer."""

from collections.abc import Awaitable, Callable
from functools import partial
from math import prod

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tilevault.archive.image import ImageInfo
from tilevault.archive.store import Image
from tilevault.codecs.errors import ImageNotFound, InvalidRequest, LimitExceeded, UnsupportedSyntax
from tilevault.workflows.reading import parse_window
from tilevault.workflows.serve.access import Subject, guarded
from tilevault.workflows.serve.answers import JsonResponse, etag_of, not_modified, pixels_response
from tilevault.workflows.serve.details import describe, listed, related_to, values_at
from tilevault.workflows.serve.encoding import FORMATS, encoded, fitting_format
from tilevault.workflows.serve.parts import (
    Part,
    level_sides,
    pixels_of,
    read_samples,
    thumbnail_level,
    top_level,
)
from tilevault.workflows.serve.pictures import limits_of, picture
from tilevault.workflows.serve.services import Services
from tilevault.workflows.serve.sources import source_response
from tilevault.workflows.serve.views import View, whole_number

__all__ = [
    "TILE",
    "catalogue_subject",
    "image_subject",
    "picture_response",
    "routes",
    "tile_part",
    "tile_side",
]

TILE = 512
"""Sides of a tile where none is asked for."""
SMALLEST_TILE, LARGEST_TILE = 32, 1024
LARGEST_THUMBNAIL = 1024
PIXEL_BYTES = 64 << 20
"""Samples that `/pixels` answers with, at most."""
DESCRIBED_BYTES, FILE_BYTES = 32 << 10, 600
"""What the description of an image takes, about, and of each of its files."""
RENDERING = 1
"""Counts up when the same request gives other pictures, so that no client keeps the old ones."""
LISTED = 1000
"""Images of one answer, at most."""


Handler = Callable[[Services, Request], Awaitable[Response]]


def image_subject(request: Request) -> Subject:
    """The image that the path names as ``{id}``."""
    return Subject(image=request.path_params["id"])


def catalogue_subject(request: Request) -> Subject:
    """The whole catalogue; the handler leaves out what the principal may not read."""
    return Subject()


def routes(services: Services) -> list[Route]:
    """Routes below ``/api/images``."""

    def route(path: str, endpoint: Handler) -> Route:
        guard = guarded(services, "read", image_subject, partial(endpoint, services))
        return Route(f"/api/images/{{id}}{path}", guard)

    return [
        Route("/api/images", guarded(services, "search", catalogue_subject, partial(_search, services))),
        route("", _describe),
        route("/thumbnail", _thumbnail),
        route("/tiles/{level:int}/{row:int}/{column:int}.{format}", _tile),
        route("/pixels/{level:int}", _pixels),
        route("/values", _values),
        route("/files/{number:int}", _file),
    ]


async def _search(services: Services, request: Request) -> Response:
    principal = request.state.principal
    entries = await services.run(services.catalogue.entries)
    seen = [entry for entry in entries.values() if principal.may("read", entry.id, entry.study)]
    return JsonResponse(await services.run(listed, seen, request.query_params.multi_items(), LISTED))


async def _describe(services: Services, request: Request) -> Response:
    image = await services.run(services.image, request.path_params["id"])
    key = ("described", image.commit.sha256)
    made = services.kept.get(key)
    if made is None:
        made = await services.run_once(key, describe, image)
        services.kept.put(key, made, DESCRIBED_BYTES + FILE_BYTES * len(made["files"]))
    others = await services.run(lambda: related_to(image, services.catalogue.entries()))
    principal = request.state.principal
    related = [
        {"id": one.id, "fidelity": one.summary.get("fidelity") or "exact", "name": one.summary.get("name")}
        for one in others
        if principal.may("read", one.id, one.study)
    ]
    return JsonResponse({**made, "related": related})


async def _tile(services: Services, request: Request) -> Response:
    """``tilesize``: sides of the tiles (default 512)."""
    image = await services.run(services.image, request.path_params["id"])
    info, where = pixels_of(image), request.path_params
    side = tile_side(request)
    part = tile_part(info, where["level"], where["row"], where["column"], side)
    return await picture_response(services, request, image, part, where["format"], ("tilesize",))


async def _thumbnail(services: Services, request: Request) -> Response:
    """``size``: the longer side at most (default 256); the image's middle plane, or any."""
    image = await services.run(services.image, request.path_params["id"])
    info = pixels_of(image)
    size = whole_number(request.query_params.get("size", "256"), "size")
    if not 1 <= size <= LARGEST_THUMBNAIL:
        raise InvalidRequest(f"size is 1 to {LARGEST_THUMBNAIL}")
    level = thumbnail_level(info, size)
    height, width = level_sides(info, level)
    part = Part(level, (0, height), (0, width))
    return await picture_response(services, request, image, part, fitting_format(info), ("size",))


def tile_side(request: Request) -> int:
    """The query parameter ``tilesize``. Raises `InvalidRequest`."""
    side = whole_number(request.query_params.get("tilesize", str(TILE)), "tilesize")
    if not SMALLEST_TILE <= side <= LARGEST_TILE:
        raise InvalidRequest(f"tilesize is {SMALLEST_TILE} to {LARGEST_TILE}")
    return side


def tile_part(info: ImageInfo, level: int, row: int, column: int, side: int) -> Part:
    """The samples of a tile of a level; those at the far edges are smaller. Raises `InvalidRequest`."""
    if level > top_level(info):
        raise InvalidRequest(f"levels are 0 to {top_level(info)}")
    height, width = level_sides(info, level)
    y, x = row * side, column * side
    if y >= height or x >= width:
        raise ImageNotFound(f"no tile at row {row}, column {column} of level {level}")
    return Part(level, (y, min(y + side, height)), (x, min(x + side, width)))


async def picture_response(
    services: Services, request: Request, image: Image, part: Part, format: str, also: tuple[str, ...] = ()
) -> Response:
    """A part of an image as a picture. ``also``: query parameters that are the route's own."""
    if format not in FORMATS:
        raise UnsupportedSyntax(f"pictures are {', '.join(FORMATS)}, not {format!r:.20}")
    info = pixels_of(image)
    view = View.parse(request.query_params.multi_items(), info, also)
    key = ("picture", image.commit.sha256, part, view, format)
    etag = etag_of(RENDERING, *key)
    if (known := not_modified(request, etag)) is not None:
        return known
    body = services.kept.get(key)
    if body is None:
        body = await services.run_once(key, _make, services, image, view, part, format)
        services.kept.put(key, body, len(body))
    return pixels_response(body, FORMATS[format], etag)


def _make(services: Services, image: Image, view: View, part: Part, format: str) -> bytes:
    key = ("limits", image.commit.sha256, view.bands, bool(view.rescale or view.window))
    limits = services.kept.made(key, lambda: (limits_of(image, view),), lambda _: 0)[0]
    return encoded(picture(image, view, part, limits), format)


async def _pixels(services: Services, request: Request) -> Response:
    """``window=Y0:Y1,X0:X1`` of the level, positions along other axes, ``bidx``: what `Image.read` gives.

    Little-endian, C order, axes (c, y, x) or (y, x); the headers tell dtype, shape and axes.
    """
    image = await services.run(services.image, request.path_params["id"])
    info, level = pixels_of(image), request.path_params["level"]
    if level not in image.levels:
        raise InvalidRequest(f"levels that are samples are {image.levels[0]} to {image.levels[-1]}")
    given = [(name, value) for name, value in request.query_params.multi_items() if name != "window"]
    rows, columns = parse_window(request.query_params.get("window"), *level_sides(info, level))
    view = View.parse(((n, v) for n, v in given if n != "bidx"), info)
    if view.rescale or view.colormap:
        raise InvalidRequest("pixels are as they are stored")
    bands = _bands(info, [value for name, value in given if name == "bidx"])
    part = Part(level, rows, columns)
    if prod(part.shape) * len(bands) * info.dtype.itemsize > PIXEL_BYTES:
        raise LimitExceeded(f"more than {PIXEL_BYTES} bytes of samples: ask for parts of the window")
    etag = etag_of("pixels", image.commit.sha256, part, bands, view.index)
    if (known := not_modified(request, etag)) is not None:
        return known
    body, shape = await services.run(_samples, image, part, bands, view)
    headers = {
        "Tilevault-Dtype": info.dtype.newbyteorder("<").str,
        "Tilevault-Shape": ",".join(map(str, shape)),
        "Tilevault-Axes": ",".join(("c", "y", "x")[-len(shape) :]),
    }
    return pixels_response(body, "application/octet-stream", etag, headers)


def _bands(info: ImageInfo, given: list[str]) -> tuple[int, ...]:
    """Bands from 0; all of them where none is given."""
    count = info.shape[info.axes.index("c")] if "c" in info.axes else 1
    asked = tuple(whole_number(one, "bidx") - 1 for text in given for one in text.split(","))
    if not all(0 <= band < count for band in asked) or len(asked) > count:
        raise InvalidRequest(f"bidx: bands are 1 to {count}, each once")
    return asked or tuple(range(count))


def _samples(image: Image, part: Part, bands: tuple[int, ...], view: View) -> tuple[bytes, tuple[int, ...]]:
    values = read_samples(image, part, bands, view.index)
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes(), values.shape


async def _values(services: Services, request: Request) -> Response:
    image = await services.run(services.image, request.path_params["id"])
    return JsonResponse(await services.run(values_at, image, request.query_params.multi_items()))


async def _file(services: Services, request: Request) -> Response:
    image = await services.run(services.open, request.path_params["id"])
    return await source_response(services, request, image, request.path_params["number"])
