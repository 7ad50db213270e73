"""What the handlers of one server share: the archive, opened images, threads to work in, what is kept."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import prod
from threading import Lock
from typing import Any, ParamSpec, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from tilevault.archive.cache import TileCache
from tilevault.archive.store import Archive, Image
from tilevault.codecs.errors import Busy, ImageNotFound, TilevaultError
from tilevault.workflows.serve.access import NO_IMAGE, Principal, Subject
from tilevault.workflows.serve.access_log import AccessLog
from tilevault.workflows.serve.caching import Kept
from tilevault.workflows.serve.catalogue import ID, Catalogue
from tilevault.workflows.serve.index import Index
from tilevault.workflows.serve.problems import problem_of
from tilevault.workflows.serve.settings import Settings
from tilevault.workflows.serve.tokens import Tokens, credentials

__all__ = ["Services"]

P = ParamSpec("P")
T = TypeVar("T")

FRESH_SECONDS = 1.0
"""For so long nobody looks for a newer commit of an opened image, or for new images."""
OPEN_BYTES = 128 << 20
"""Tables of opened images, about."""
TILE_ENTRY = 200
"""Bytes of the tables of one tile, about."""
OPEN_ENTRY = 64 << 10
"""Bytes of an opened image beside its tables, about."""


class Services:
    """Shared by all handlers. `image` and `open` may be called from any thread, the others from the loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.archive = Archive.open(settings.archive, cache=TileCache(settings.cache_bytes // 2))
        self.catalogue = Catalogue(self.archive, FRESH_SECONDS)
        self.tokens = Tokens(settings.tokens)
        self.access_log = AccessLog(settings.access_log)
        self.kept = Kept(settings.cache_bytes // 2)
        """Encoded pictures, and what is known of images as wholes, by commit."""
        self.exports = asyncio.Semaphore(1)
        """For what writes whole files before it answers."""
        self._pool = ThreadPoolExecutor(settings.limits.threads, "tilevault-serve")
        self._pending = 0
        self._flights: dict[Hashable, asyncio.Task[Any]] = {}
        self._images: OrderedDict[str, tuple[Image, float]] = OrderedDict()
        self._lock = Lock()
        self.closing: list[Callable[[], None]] = []
        """What modules want done when the server ends."""
        self._index_lock = Lock()
        self._index: Index | None = None

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``function(*args)`` in a thread, first come, first served. Raises `Busy` where too many wait."""
        limits = self.settings.limits
        if self._pending >= limits.threads + limits.waiting:
            raise Busy("too many requests at once")
        return await self.go_on(function, *args, **kwargs)

    async def go_on(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`run` for what has begun, as an answer that is half sent: it waits, however many others do."""
        self._pending += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, partial(function, *args, **kwargs))
        finally:
            self._pending -= 1

    async def run_once(self, key: Hashable, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`run`, but those who ask for the same ``key`` meanwhile get the same answer."""
        task = self._flights.get(key)
        if task is None:
            task = asyncio.create_task(self.run(function, *args, **kwargs))
            self._flights[key] = task
            task.add_done_callback(lambda done: self._landed(key, done))
        # A client that goes away must not take the answer from the others.
        found: T = await asyncio.shield(task)
        return found

    def _landed(self, key: Hashable, done: "asyncio.Task[Any]") -> None:
        self._flights.pop(key, None)
        if not done.cancelled():
            # Looked at here: an error that nobody waits for any more is told of in a log, with its text.
            done.exception()

    def image(self, image: str) -> Image:
        """The newest commit of an image (by its whole id), kept open. Blocks. Raises `ImageNotFound`."""
        with self._lock:
            known = self._images.get(image)
            if known is not None and time.monotonic() - known[1] < FRESH_SECONDS:
                self._images.move_to_end(image)
                return known[0]
        entry = self.catalogue.find(image)
        if entry is None:
            with self._lock:
                self._images.pop(image, None)
            raise ImageNotFound(NO_IMAGE)
        same = known is not None and known[0].commit.sha256 == entry.commit.sha256
        opened = known[0] if same and known is not None else self._opened(entry.commit)
        with self._lock:
            self._images[image] = opened, time.monotonic()
            self._images.move_to_end(image)
            self._let_go()
        return opened

    def open(self, image: str) -> Image:
        """The newest commit of an image, for one user alone, who reads its source files. Blocks."""
        return self._opened(self.image(image).commit)

    def _opened(self, commit: Any) -> Image:
        opened = Image(self.archive, commit)
        # Requests are what runs side by side here.
        opened.threads = False
        return opened

    def _let_go(self) -> None:
        weights = {image: _weight(opened) for image, (opened, _) in self._images.items()}
        total = sum(weights.values())
        while total > OPEN_BYTES and len(self._images) > 1:
            image, _ = self._images.popitem(last=False)
            total -= weights[image]

    @property
    def index(self) -> Index:
        """The index of the archive, opened (and read, where there is none) on first use. Blocks."""
        with self._index_lock:
            if self._index is None:
                self._index = Index(self.archive)
            return self._index

    async def study_of(self, image: str) -> str | None:
        """StudyInstanceUID of an image; None where it has none, or does not exist."""
        entry = await self.run(self.catalogue.find, image)
        return None if entry is None else entry.study

    def authenticate(self, request: Request) -> Principal:
        """Who asks. Raises `NotAuthenticated`."""
        return self.tokens.principal(credentials(request))

    def logged(
        self, request: Request, principal: Principal | None, action: str, about: Subject, response: Response
    ) -> Response:
        """``response``, once the access log has taken note of it; otherwise the problem that it has not.

        Nothing is read that is not on record: where the log cannot be written, the answer is 507 or 503.
        ``request.state.stored``: what the request put into the archive, each an entry of its own.
        """
        length = response.headers.get("content-length")
        try:
            for one in (*getattr(request.state, "stored", ()), about):
                known = one.image is not None and ID.fullmatch(one.image) is not None
                self.access_log.write(
                    principal=None if principal is None else principal.name,
                    action=action,
                    image=one.image if known else None,
                    study=one.study,
                    series=one.series,
                    instance=one.instance,
                    method=request.method,
                    route=getattr(request.scope["endpoint"], "path", None),
                    status=response.status_code,
                    bytes=None if length is None else int(length),
                    client=None if request.client is None else request.client.host,
                )
        except TilevaultError as failure:
            return problem_of(failure)
        return response

    def refresh(self) -> None:
        """Read the tokens again, and open the access log anew, which may have been moved away."""
        self.tokens.refresh()
        self.access_log.reopen()

    def close(self) -> None:
        """Wait for what runs, then let go of everything."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        for close in self.closing:
            close()
        if self._index is not None:
            self._index.close()
        self.access_log.close()


def _weight(image: Image) -> int:
    """Bytes that an opened image holds, about."""
    grid = vars(image).get("description") and image.info is not None and image.grid
    return OPEN_ENTRY + (TILE_ENTRY * prod(grid.tiles) if grid else 0)
