"""The routes below ``/dicom-web`` (PS3.18 table 10.3-1 and following)."""

import warnings
from collections.abc import Awaitable, Callable
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tilevault.workflows.serve.access import guarded
from tilevault.workflows.serve.dicomweb import qido, rendered, wado
from tilevault.workflows.serve.dicomweb.resources import PREFIX, catalogue, study_subject
from tilevault.workflows.serve.dicomweb.stow import Intake
from tilevault.workflows.serve.services import Services

__all__ = ["routes"]

STUDY = f"{PREFIX}/studies/{{study}}"
SERIES = f"{STUDY}/series/{{series}}"
INSTANCE = f"{SERIES}/instances/{{sop}}"
Handler = Callable[[Services, Request], Awaitable[Response]]


def routes(services: Services) -> list[Route]:
    """QIDO-RS, WADO-RS and STOW-RS."""
    # What pydicom finds odd in a header it says with the value, which is nobody's to see in a log.
    warnings.filterwarnings("ignore", module=r"pydicom\.")
    intake = Intake(services)
    services.closing.append(intake.close)
    return [
        *_searches(services),
        _route(services, f"{PREFIX}/studies", "write", intake.store, "POST"),
        _route(services, STUDY, "write", intake.store, "POST"),
        *_resources(services, "", wado.retrieve),
        *_resources(services, "/metadata", wado.metadata),
        *_resources(services, "/thumbnail", rendered.thumbnail),
        _route(services, f"{INSTANCE}/rendered", "read", rendered.rendered),
        _route(services, f"{INSTANCE}/frames/{{frames}}/rendered", "read", rendered.rendered),
        _route(services, f"{INSTANCE}/frames/{{frames}}/thumbnail", "read", rendered.thumbnail),
        _route(services, f"{INSTANCE}/frames/{{frames}}", "read", wado.frames),
        _route(services, f"{INSTANCE}/bulkdata/{{path:path}}", "read", wado.bulkdata),
    ]


def _route(services: Services, path: str, action: str, handler: Handler, method: str = "GET") -> Route:
    subject = study_subject if "{study}" in path else catalogue

    async def endpoint(request: Request) -> Response:
        return await handler(services, request)

    return Route(path, guarded(services, action, subject, endpoint), methods=[method])


def _resources(services: Services, suffix: str, handler: Handler) -> list[Route]:
    """One handler for a study, a series and an instance."""
    return [_route(services, f"{place}{suffix}", "read", handler) for place in (STUDY, SERIES, INSTANCE)]


def _searches(services: Services) -> list[Route]:
    paths = {
        f"{PREFIX}/studies": "study",
        f"{PREFIX}/series": "series",
        f"{PREFIX}/instances": "instance",
        f"{STUDY}/series": "series",
        f"{STUDY}/instances": "instance",
        f"{SERIES}/instances": "instance",
    }
    return [_route(services, path, "search", partial(_search, level=level)) for path, level in paths.items()]


async def _search(services: Services, request: Request, level: str) -> Response:
    return await qido.search(services, request, level)
