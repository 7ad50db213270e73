"""What the handlers of one server share: the archive, opened images, threads to work in, the access log."""

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock
from typing import ParamSpec, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from tilevault.archive.store import Archive, Image
from tilevault.codecs.errors import Busy, ImageNotFound, TilevaultError
from tilevault.workflows.serve.access import NO_IMAGE, Principal, Subject
from tilevault.workflows.serve.access_log import AccessLog
from tilevault.workflows.serve.problems import problem_of
from tilevault.workflows.serve.settings import Settings
from tilevault.workflows.serve.tokens import TokenFile, credentials

__all__ = ["Services"]

P = ParamSpec("P")
T = TypeVar("T")

ID = re.compile("[0-9a-f]{32}")
OPEN_IMAGES = 64
FRESH_SECONDS = 0.5
"""For so long an opened image is not looked at again for a newer commit."""


class Services:
    """Shared by all handlers; safe to use from any thread."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.archive = Archive.open(Path(settings.archive))
        self.tokens = TokenFile.read(settings.tokens)
        self.access_log = AccessLog(settings.access_log)
        self._pool = ThreadPoolExecutor(settings.limits.threads, "tilevault-serve")
        self._pending = 0
        self._images: OrderedDict[str, tuple[Image, float]] = OrderedDict()
        self._lock = Lock()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``function(*args)`` in a thread. Raises `Busy` where too many wait already."""
        limits = self.settings.limits
        if self._pending >= limits.threads + limits.waiting:
            raise Busy("too many requests at once")
        self._pending += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, partial(function, *args, **kwargs))
        finally:
            self._pending -= 1

    def image(self, image: str) -> Image:
        """The newest commit of an image, kept open. Blocks. Raises `ImageNotFound`."""
        if not ID.fullmatch(image):
            raise ImageNotFound(NO_IMAGE)
        with self._lock:
            known = self._images.get(image)
            if known is not None and time.monotonic() - known[1] < FRESH_SECONDS:
                self._images.move_to_end(image)
                return known[0]
        commit = self.archive.newest_commit(image)
        if commit is None or commit.generation is None:
            with self._lock:
                self._images.pop(image, None)
            raise ImageNotFound(NO_IMAGE)
        same = known is not None and known[0].commit.sha256 == commit.sha256
        opened = known[0] if same and known is not None else Image(self.archive, commit)
        with self._lock:
            self._images[image] = opened, time.monotonic()
            self._images.move_to_end(image)
            while len(self._images) > OPEN_IMAGES:
                self._images.popitem(last=False)
        return opened

    async def study_of(self, image: str) -> str | None:
        """StudyInstanceUID of an image; None where it has none, or does not exist."""
        try:
            found = await self.run(self.image, image)
        except ImageNotFound:
            return None
        study = found.summary.get("StudyInstanceUID")
        return study if isinstance(study, str) else None

    def authenticate(self, request: Request) -> Principal:
        """Who asks. Raises `NotAuthenticated`."""
        return self.tokens.principal(credentials(request))

    def logged(
        self, request: Request, principal: Principal | None, action: str, about: Subject, response: Response
    ) -> Response:
        """``response``, once the access log has taken note of it; otherwise the problem that it has not."""
        length = response.headers.get("content-length")
        try:
            self.access_log.write(
                principal=None if principal is None else principal.name,
                action=action,
                image=about.image,
                study=about.study,
                method=request.method,
                route=getattr(request.scope["endpoint"], "path", None),
                status=response.status_code,
                bytes=None if length is None else int(length),
                client=None if request.client is None else request.client.host,
            )
        except TilevaultError as failure:
            return problem_of(failure)
        return response

    def close(self) -> None:
        """Wait for what runs, then let go of everything."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.access_log.close()
