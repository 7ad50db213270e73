"""Failures as answers: ``application/problem+json`` (RFC 9457) with the stable code of the error.

A client learns what it did wrong in our words. What went wrong on this side it learns by kind and place
only: no path, no text of another library, no traceback.
"""

import logging
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from tilevault.codecs.errors import Busy, NotAuthenticated, StoreError, TilevaultError

__all__ = ["answer_problem", "place_of", "problem", "problem_of"]

logger = logging.getLogger("tilevault.serve")

TOLD = ("image", "level", "index", "array", "matches")
"""Details of an error that a client may know."""
CODES = {
    400: "InvalidRequest",
    404: "NotFound",
    405: "MethodNotAllowed",
    413: "LimitExceeded",
    414: "LimitExceeded",
    431: "LimitExceeded",
}
RETRY_SECONDS = 2


def problem(
    status: int, code: str, detail: str, headers: dict[str, str] | None = None, **more: Any
) -> Response:
    """An answer that says what is wrong."""
    title = HTTPStatus(status).phrase
    document = {
        "type": f"urn:tilevault:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
    }
    return JSONResponse(
        {**document, **more},
        status,
        {"Cache-Control": "no-store", **(headers or {})},
        "application/problem+json",
    )


def problem_of(failure: Exception) -> Response:
    """The answer for a failure; one that is not ours is logged by its kind and place, and is a 500."""
    if isinstance(failure, HTTPException):
        code = CODES.get(failure.status_code, "HttpError")
        headers = {**(failure.headers or {}), "Cache-Control": "no-store"}
        return problem(failure.status_code, code, failure.detail, headers)
    if not isinstance(failure, TilevaultError):
        logger.error("a fault in tilevault itself: %s", place_of(failure))
        return problem(500, "InternalError", "a fault in the server; its log says where")
    headers = {}
    if isinstance(failure, NotAuthenticated):
        headers["WWW-Authenticate"] = 'Basic realm="tilevault", charset="UTF-8"'
    if isinstance(failure, Busy | StoreError):
        headers["Retry-After"] = str(RETRY_SECONDS)
    status = failure.http_status
    if status >= 500:
        logger.error("%s: %s", failure.code, _where(failure))
    detail = failure.message if status < 500 else (type(failure).__doc__ or "").strip().splitlines()[0]
    return problem(
        status, failure.code, detail, headers, **{k: failure.details[k] for k in TOLD if k in failure.details}
    )


def place_of(failure: BaseException) -> str:
    """Kind of a failure and the lines it came through, without its text, which may hold anything."""
    import traceback

    frames = traceback.extract_tb(failure.__traceback__)[-4:]
    return f"{type(failure).__name__} at " + ", ".join(
        f"{f.filename.rpartition('/')[2]}:{f.lineno}" for f in frames
    )


def _where(failure: TilevaultError) -> str:
    return (
        ", ".join(f"{key} {failure.details[key]}" for key in TOLD if key in failure.details)
        or "no place named"
    )


async def answer_problem(request: Request, failure: Exception) -> Response:
    """Exception handler of the application, for what no guard saw: no such route, no such method."""
    if isinstance(failure, HTTPException) and failure.status_code == 405:
        # Several routes may share a path, each with a method of its own.
        here = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
        methods = sorted({method for route in here for method in route.methods})
        failure = HTTPException(405, headers={"Allow": ", ".join(methods)})
    return problem_of(failure)
