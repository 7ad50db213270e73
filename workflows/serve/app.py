"""The application: the routes of all modules, behind the checks that hold for every request."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import tilevault
from tilevault.workflows.serve import deepzoom, images, maps, quality, viewer
from tilevault.workflows.serve.dicomweb import routes as dicomweb
from tilevault.workflows.serve.gate import Gate
from tilevault.workflows.serve.problems import answer_problem
from tilevault.workflows.serve.services import Services
from tilevault.workflows.serve.settings import Settings

__all__ = ["MODULES", "create_app", "health"]

MODULES = (viewer, images, deepzoom, dicomweb, maps, quality)
"""Each has ``routes(services)``; every route but `health` is made by `guarded`."""


async def health(request: Request) -> Response:
    """That the server runs, and nothing else: the one route that everybody may ask."""
    return JSONResponse(
        {"status": "ok", "version": tilevault.__version__}, headers={"Cache-Control": "no-store"}
    )


def create_app(settings: Settings) -> Starlette:
    """The application of one archive. Raises `ImageNotFound` where there is none, `InvalidRequest`."""
    services = Services(settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            services.close()

    routes = [Route("/health", health), *(route for module in MODULES for route in module.routes(services))]
    for route in routes:
        # For the access log: the pattern, without what stands in its place.
        vars(route.endpoint).setdefault("path", route.path)
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Gate, settings=settings)],
        lifespan=lifespan,
        exception_handlers={HTTPException: answer_problem, Exception: answer_problem},
    )
    # A path with a slash too many is another path, and no reason to tell a client where to go.
    app.router.redirect_slashes = False
    app.state.services = services
    return app
