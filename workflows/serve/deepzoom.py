"""Deep Zoom: a descriptor and tiles by level, for OpenSeadragon and other viewers of the format.

Deep Zoom counts levels from one pixel upwards; ours count from full size downwards. Both halve and round up.
"""

from functools import partial
from xml.sax.saxutils import quoteattr

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tilevault.codecs.errors import InvalidRequest
from tilevault.workflows.serve.access import guarded
from tilevault.workflows.serve.answers import etag_of, not_modified, pixels_response
from tilevault.workflows.serve.encoding import fitting_format
from tilevault.workflows.serve.images import TILE, image_subject, picture_response, tile_part
from tilevault.workflows.serve.parts import pixels_of, top_level
from tilevault.workflows.serve.services import Services
from tilevault.workflows.serve.views import View

__all__ = ["routes"]

NAMESPACE = "http://schemas.microsoft.com/deepzoom/2008"


def routes(services: Services) -> list[Route]:
    """``image.dzi`` and ``image_files/`` of every image."""
    here = "/api/images/{id}"
    tile = f"{here}/image_files/{{level:int}}/{{column:int}}_{{row:int}}.{{format}}"
    return [
        Route(f"{here}/image.dzi", guarded(services, "read", image_subject, partial(_descriptor, services))),
        Route(tile, guarded(services, "read", image_subject, partial(_tile, services))),
    ]


async def _descriptor(services: Services, request: Request) -> Response:
    """The format of the tiles is the one that fits the image; every other one is there too."""
    image = await services.run(services.image, request.path_params["id"])
    info = pixels_of(image)
    View.parse(request.query_params.multi_items(), info)
    etag = etag_of("dzi", image.commit.sha256)
    if (known := not_modified(request, etag)) is not None:
        return known
    height, width = info.shape[-2:]
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Image xmlns={quoteattr(NAMESPACE)} Format={quoteattr(fitting_format(info))} "
        f'Overlap="0" TileSize="{TILE}"><Size Width="{width}" Height="{height}"/></Image>\n'
    )
    return pixels_response(text.encode(), "application/xml", etag)


async def _tile(services: Services, request: Request) -> Response:
    image = await services.run(services.image, request.path_params["id"])
    info, where = pixels_of(image), request.path_params
    level = top_level(info) - where["level"]
    if level < 0:
        raise InvalidRequest(f"levels are 0 to {top_level(info)}")
    part = tile_part(info, level, where["row"], where["column"], TILE)
    return await picture_response(services, request, image, part, where["format"])
