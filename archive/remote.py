"""Write-once objects behind a URL: S3 and its like, or any web server that answers range requests.

Read-only. Requests are bounded in time, tried again a few times, and bounded in what is taken of an answer:
a server that says or sends more than was asked for fills no memory. Errors of the network become ours here,
once, and none of them shows a credential: those come from the environment (``AWS_ACCESS_KEY_ID`` ...), never
from the URL, and what a server says in the body of a refusal, which may repeat the request, is not passed on.
"""

import contextlib
import hashlib
import re
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tilevault.archive.blobs import BlobStat, check_key
from tilevault.codecs.errors import (
    AccessDenied,
    IntegrityError,
    InvalidRequest,
    LimitExceeded,
    ShortRead,
    StoreTimeout,
    StoreUnavailable,
    TileMissing,
    TilevaultError,
    UnsafeName,
    UnsupportedSyntax,
)

__all__ = ["RemoteBlobs"]

SCHEMES = ("s3", "http", "https")
TIMEOUT = 30.0
"""Seconds that an answer may take, to its last byte."""
CONNECT_TIMEOUT = 5.0
RETRIES = 5
"""How often a request is tried again that gets no answer, or one of 500 and above."""
TRIES = 3
"""How often an answer may break off in the middle."""
RETRY_SECONDS = 60.0
"""No further try begins after so many seconds."""
PIECE = 8 << 20
"""Bytes of one request at most where an object is only hashed: an answer has to fit the timeout."""
MAX_WHOLE = 1 << 30
"""Bytes of an object that is read as a whole, at most."""
MAX_NAMES = 1 << 22
"""Names that are listed at most."""
CREDENTIAL_CODES = ("ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId")
"""Error codes of S3 about credentials, which may come with status 400."""
T = TypeVar("T")
_STATUS = re.compile(r"status code: (\d{3})[A-Za-z ]*")
_CODE = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")
_PART = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@ -]+")


class RemoteBlobs:
    """The objects below one URL."""

    def __init__(self, url: str, timeout: float | None = None) -> None:
        self.location = url.rstrip("/")
        self.timeout = TIMEOUT if timeout is None else timeout
        if not self.timeout > 0:
            raise InvalidRequest(f"a timeout is a number of seconds above 0, not {timeout}")
        self._store = _store(self.location, self.timeout)
        self.lists = self.location.startswith("s3:")
        self.far = True

    def __getstate__(self) -> dict[str, Any]:
        return {"location": self.location, "timeout": self.timeout}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["location"], state["timeout"])  # type: ignore[misc]  # a store is not pickled

    @property
    def root(self) -> Path:
        """See `Blobs.root`: always `InvalidRequest`."""
        raise InvalidRequest(f"{self.location}: a remote archive has no folder; it can only be read")

    def has_root(self) -> bool:
        """True: a place without objects cannot be told from one that is not there."""
        return True

    def read(self, key: str, start: int = 0, stop: int | None = None, limit: int | None = None) -> bytes:
        """See `Blobs.read`."""
        if stop is None:
            return self._rest(key, start, MAX_WHOLE if limit is None else limit)
        if not 0 <= start <= stop:
            raise ShortRead(f"{key}: bytes {start} to {stop} were asked for", object=key)
        return self._range(key, start, stop) if stop > start else b""

    def open(self, key: str) -> "_OpenBlob":
        """See `Blobs.open`."""
        return _OpenBlob(self, check_key(key))

    def size(self, key: str) -> int | None:
        """See `Blobs.size`."""
        import obstore

        try:
            with self._ours(key):
                return int(obstore.head(self._store, check_key(key))["size"])
        except TileMissing:
            return None

    def digest(self, key: str, expected: int | None = None) -> BlobStat:
        """See `Blobs.digest`; read piece by piece."""
        size = self.size(key)
        if size is None:
            raise TileMissing(f"{key}: is not there", object=key)
        if expected not in (None, size):
            return BlobStat(size, "")
        digest = hashlib.sha256()
        for start in range(0, size, PIECE):
            digest.update(self._range(key, start, min(start + PIECE, size)))
        return BlobStat(size, digest.hexdigest())

    def keys(self, prefix: str = "") -> Iterator[str]:
        """See `Blobs.keys`."""
        import obstore

        self._must_list()
        found: list[str] = []
        with self._ours(prefix):
            for part in obstore.list(self._store, prefix=check_key(prefix) if prefix else None):
                found += [meta["path"] for meta in part]
                _bound(found, self.location)
        return iter(sorted(found))

    def folders(self, prefix: str) -> list[str]:
        """See `Blobs.folders`."""
        return [name.rstrip("/").rpartition("/")[2] for name in self._directly_below(prefix)[0]]

    def names(self, prefix: str) -> list[str]:
        """See `Blobs.names`."""
        return [name.rpartition("/")[2] for name in self._directly_below(prefix)[1]]

    def _directly_below(self, prefix: str) -> tuple[list[str], list[str]]:
        import obstore

        self._must_list()
        with self._ours(prefix):
            found = obstore.list_with_delimiter(self._store, check_key(prefix) if prefix else None)
        folders, names = sorted(found["common_prefixes"]), sorted(meta["path"] for meta in found["objects"])
        _bound([*folders, *names], self.location)
        return folders, names

    def _must_list(self) -> None:
        if not self.lists:
            raise InvalidRequest(f"{self.location}: a web server does not tell what it holds")

    def _range(self, key: str, start: int, stop: int) -> bytes:
        import obstore

        def ask() -> tuple[Any, bytes]:
            answer = obstore.get(self._store, check_key(key), options={"range": (start, stop)})
            return answer, _taken(answer, stop - start, key)

        answer, data = self._asked(key, ask)
        if tuple(answer.range) != (start, stop) or len(data) != stop - start:
            message = f"{key}: bytes {start} to {stop} were asked for, {len(data)} came"
            raise ShortRead(message, object=key)
        return data

    def _rest(self, key: str, start: int, limit: int) -> bytes:
        import obstore

        options: Any = {"range": {"offset": start}} if start else None

        def ask() -> tuple[int, bytes]:
            answer = obstore.get(self._store, check_key(key), options=options)
            size = int(answer.meta["size"])
            if size > limit:
                raise IntegrityError(f"{key}: has {size} bytes, more than the {limit} allowed", object=key)
            return size, _taken(answer, size - start, key)

        size, data = self._asked(key, ask)
        if len(data) != size - start:
            raise ShortRead(f"{key}: ends at byte {start + len(data)}, {size} expected", object=key)
        return data

    def _asked(self, key: str, ask: Callable[[], T]) -> T:
        """What ``ask`` gives, with its errors as ours. An answer that breaks off is asked for again.

        (obstore itself goes on in the middle only where objects have entity tags, as on S3.)
        """
        with self._ours(key):
            for again in range(1, TRIES):
                try:
                    return ask()
                except _BrokenOff:
                    time.sleep(0.1 * 2**again)
            return ask()

    @contextlib.contextmanager
    def _ours(self, key: str) -> Iterator[None]:
        """Errors of obstore become ours, and do not follow as their cause: a traceback would show them."""
        try:
            yield
        except TilevaultError:
            raise
        except Exception as error:  # obstore raises classes of its own and built-in ones
            raise self._translated(key, error) from None

    def _translated(self, key: str, error: Exception) -> TilevaultError:
        kind, (status, said, detail, code) = type(error).__name__, _said(error)
        said = f"{self.location}: {key}: {said[:300]}"
        lower = detail.lower()
        if status == 404 or kind == "NotFoundError" or isinstance(error, FileNotFoundError):
            return TileMissing(f"{key}: is not there", object=key)
        refused = kind in ("PermissionDeniedError", "UnauthenticatedError") or status in (401, 403)
        if refused or code in CREDENTIAL_CODES or isinstance(error, PermissionError):
            message = f"{self.location}: {key}: reading is not permitted{_in_brackets(code)}"
            return AccessDenied(message, object=key)
        if "169.254.169.254" in lower or "metadata endpoint" in lower:
            return AccessDenied(f"{self.location}: there are no credentials in the environment", object=key)
        if "timed out" in lower or "timedout" in lower:
            return StoreTimeout(f"{said} (no answer in time)", object=key)
        if status == 416 or "range not satisfiable" in lower:
            return ShortRead(f"{key}: is shorter than it should be", object=key)
        if "range request not supported" in lower or "non-partial" in lower:
            message = f"{self.location}: this web server does not answer range requests"
            return StoreUnavailable(message, object=key)
        return StoreUnavailable(said + _in_brackets(code), object=key)


class _BrokenOff(Exception):
    """An answer began and did not end."""


def _said(error: Exception) -> tuple[int, str, str, str]:
    """Status of the answer, or 0; what obstore says in a line; all it says; the error code of S3, or "".

    What it says without the body of the answer, in which a server may say anything.
    """
    text = str(error)
    status, code = _STATUS.search(text), _CODE.search(text)
    if status:
        own = text[: status.end()]
        return int(status[1]), own, own, code[1] if code else ""
    return 0, (text.splitlines() or [type(error).__name__])[0], text, ""


def _in_brackets(code: str) -> str:
    return f" ({code})" if code else ""


class _OpenBlob:
    def __init__(self, blobs: RemoteBlobs, key: str) -> None:
        self._blobs, self._key = blobs, key

    def read(self, start: int = 0, stop: int | None = None, limit: int | None = None) -> bytes:
        return self._blobs.read(self._key, start, stop, limit)


def _taken(answer: Any, expected: int, key: str) -> bytes:
    """The body of an answer, of which no more than ``expected`` bytes are kept. Raises `IntegrityError`."""
    pieces, size = [], 0
    try:
        for piece in answer.stream(min_chunk_size=1 << 20):
            data = bytes(piece)
            size += len(data)
            if size > expected:
                raise IntegrityError(f"{key}: more came than the {expected} bytes asked for", object=key)
            pieces.append(data)
    except TilevaultError:
        raise
    except Exception as error:  # as in `_ours`
        raise _BrokenOff(str(error)) from error
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _bound(names: list[str], location: str) -> None:
    if len(names) > MAX_NAMES:
        raise LimitExceeded(f"{location}: lists more than {MAX_NAMES} names")


def _store(url: str, timeout: float) -> Any:
    """The obstore store of a URL, checked first."""
    scheme, host, prefix = _parsed(url)
    try:
        from obstore.store import HTTPStore, S3Store
    except ImportError as error:
        raise UnsupportedSyntax("obstore is not installed: pip install 'tilevault[remote]'") from error
    client: Any = {
        "timeout": timedelta(seconds=timeout),
        "connect_timeout": timedelta(seconds=min(timeout, CONNECT_TIMEOUT)),
        # Plain http is a choice of whoever writes the URL, or sets the endpoint of S3.
        "allow_http": True,
    }
    backoff: Any = {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5), "base": 2}
    retry: Any = {
        "max_retries": RETRIES,
        "retry_timeout": timedelta(seconds=min(RETRY_SECONDS, 2 * timeout)),
        "backoff": backoff,
    }
    try:
        if scheme == "s3":
            return S3Store(host, prefix=prefix or None, client_options=client, retry_config=retry)
        return HTTPStore.from_url(url, client_options=client, retry_config=retry)
    except Exception as error:  # whatever it finds wrong with the URL or the environment
        raise InvalidRequest(f"{url}: {(str(error).splitlines() or [''])[0][:200]}") from error


def _parsed(url: str) -> tuple[str, str, str]:
    """Scheme, host (or bucket) and prefix. Raises `InvalidRequest`, `UnsafeName`."""
    if not url.isprintable():
        raise InvalidRequest("a URL has no control characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidRequest(f"not a URL: {error}") from error
    if parts.scheme not in SCHEMES or not parts.hostname:
        raise InvalidRequest(
            f"the URL of an archive is s3://BUCKET/PREFIX or http(s)://HOST/PATH; not {parts.scheme}:"
        )
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise InvalidRequest(
            f"{parts.scheme}://{parts.hostname}: credentials and queries have no place in the URL"
        )
    if parts.scheme == "s3" and port is not None:
        raise InvalidRequest("the endpoint of S3 is set by AWS_ENDPOINT_URL, not in the URL")
    names = [name for name in parts.path.split("/") if name]
    if any(name in (".", "..") or not _PART.fullmatch(name) for name in names):
        raise UnsafeName(f"not a path to an archive: {parts.path[:200]!r}")
    return parts.scheme, parts.hostname, "/".join(names)
