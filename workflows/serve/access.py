"""Who may do what: tokens, what they are good for, and the guard in front of every route but ``/health``.

A token is random and is kept as its SHA-256 only. Everything is denied that no grant allows; what a token
may not know of is answered as if it were not there. Without a file of tokens, on a loopback address, the
one principal is whoever uses this machine, and may do everything.
"""

import functools
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tilevault.codecs.errors import AccessDenied, ImageNotFound, InvalidRequest
from tilevault.workflows.serve.problems import problem_of

if TYPE_CHECKING:
    from tilevault.workflows.serve.services import Services

__all__ = ["ACTIONS", "LOCAL", "NO_IMAGE", "Endpoint", "Principal", "Subject", "guarded"]

ACTIONS = ("read", "write", "search")
NO_IMAGE = "there is no such image or study here"
"""What is said of what is not there and of what is not to be known, to the letter."""

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Subject:
    """What a request is about: an image, a study, or (neither) the whole catalogue."""

    image: str | None = None
    """Id of the image, 32 hexadecimal digits."""
    study: str | None = None
    """StudyInstanceUID."""
    series: str | None = None
    """SeriesInstanceUID, for the record: what may be done goes by the study."""
    instance: str | None = None
    """SOPInstanceUID, likewise."""


@dataclass(frozen=True)
class Principal:
    """Whoever asks."""

    name: str
    """For the access log; never the token."""
    actions: frozenset[str]
    scopes: frozenset[str]
    """``*``, ``study:UID``, ``image:ID``."""
    expires: float | None = None
    """Unix time; None never."""

    def may(self, action: str, image: str | None = None, study: str | None = None) -> bool:
        """Whether ``action`` is allowed on an image of a study (None where it belongs to none)."""
        if action not in self.actions:
            return False
        return (
            "*" in self.scopes
            or (image is not None and f"image:{image}" in self.scopes)
            or (study is not None and f"study:{study}" in self.scopes)
        )

    def may_read(self, image: Any) -> bool:
        """Whether an image (anything with ``id`` and ``summary``) may be read."""
        return self.may("read", image.id, image.summary.get("StudyInstanceUID"))


LOCAL = Principal("local", frozenset(ACTIONS), frozenset({"*"}))
"""Who asks where no tokens are needed."""


def guarded(
    services: "Services", action: str, subject: Callable[[Request], Subject], endpoint: Endpoint
) -> Endpoint:
    """``endpoint`` behind the guard: authenticated, authorised, logged; failures of ours become problems.

    ``request.state.principal`` is set for it. ``action`` is one of `ACTIONS`.
    """
    if action not in ACTIONS:
        raise InvalidRequest(f"an action is one of {ACTIONS}, not {action!r}")

    @functools.wraps(endpoint)
    async def guard(request: Request) -> Response:
        principal, about = None, Subject()
        try:
            principal = services.authenticate(request)
            request.state.principal = principal
            about = subject(request)
            await _authorise(services, principal, action, about)
            response = await endpoint(request)
            if request.method == "HEAD":
                response = await _without_body(response)
        except Exception as failure:
            response = problem_of(failure)
        return services.logged(request, principal, action, about, response)

    guard.action = action  # type: ignore[attr-defined] # read by whoever lists the routes
    guard.subject = subject  # type: ignore[attr-defined]
    return guard


async def _without_body(response: Response) -> Response:
    """The answer to HEAD: what would be streamed is not made, only to be thrown away."""
    if not isinstance(response, StreamingResponse):
        return response
    if isinstance(response.body_iterator, AsyncGenerator):
        await response.body_iterator.aclose()
    headed = Response(status_code=response.status_code)
    headed.raw_headers = response.raw_headers
    return headed


async def _authorise(services: "Services", principal: Principal, action: str, about: Subject) -> None:
    if action not in principal.actions:
        raise AccessDenied(f"this token is not for {action}")
    if about == Subject() or principal.may(action, about.image, about.study):
        return
    study = about.study
    if about.image is not None:
        study = await services.study_of(about.image)
        if principal.may(action, about.image, study):
            return
    if any(principal.may(other, about.image, study) for other in ACTIONS if other != action):
        raise AccessDenied(f"this token is not for {action} here")
    raise ImageNotFound(NO_IMAGE)
