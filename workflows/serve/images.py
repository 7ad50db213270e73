"""``/api/images``: what is in the archive, for programs and for the viewer."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tilevault.workflows.listing import image_record
from tilevault.workflows.serve.access import Subject, guarded
from tilevault.workflows.serve.services import Services

__all__ = ["image_subject", "routes"]


def image_subject(request: Request) -> Subject:
    """The image that the path names as ``{id}``."""
    return Subject(image=request.path_params["id"])


def routes(services: Services) -> list[Route]:
    """Routes below ``/api/images``."""

    async def one(request: Request) -> Response:
        image = await services.run(services.image, request.path_params["id"])
        return JSONResponse(await services.run(image_record, image))

    return [Route("/api/images/{id}", guarded(services, "read", image_subject, one))]
