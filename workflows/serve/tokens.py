"""The file of tokens: JSON, one entry for each, with the SHA-256 of a token and never the token itself.

::

    {"tokens": [{"name": "ward 3", "sha256": "...", "actions": ["read", "search"],
                 "scopes": ["study:1.2.3"], "expires": "2027-01-01T00:00:00+00:00"}]}

Tokens are 256 random bits, so a plain digest keeps them. The file is read again when it changes.
"""

import base64
import binascii
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from starlette.requests import Request

from tilevault.codecs.errors import AccessDenied, Conflict, ImageNotFound, InvalidRequest, NotAuthenticated
from tilevault.workflows.placing import os_failure
from tilevault.workflows.serve.access import ACTIONS, LOCAL, Principal

__all__ = ["Token", "Tokens", "add_token", "credentials", "digest_of", "read_tokens", "revoke_token"]

logger = logging.getLogger("tilevault.serve")

MOST_BYTES = 4 << 20
LOOK_SECONDS = 1.0
"""For so long nobody looks whether the file has changed."""
SCOPE = re.compile(r"\*|study:[0-9.]{1,64}|image:[0-9a-f]{32}")
NAME = re.compile(r"[^\x00-\x1f\x7f]{1,100}")


@dataclass(frozen=True)
class Token:
    """One entry of the file."""

    name: str
    sha256: str
    actions: tuple[str, ...]
    scopes: tuple[str, ...]
    expires: str | None = None
    """ISO 8601 with an offset; None never."""

    def __post_init__(self) -> None:
        """Raises `InvalidRequest` for what is no entry."""
        if not NAME.fullmatch(self.name):
            raise InvalidRequest("a token has a name, of up to 100 characters")
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise InvalidRequest(f"token {self.name!r}: sha256 is 64 hexadecimal digits")
        if not self.actions or not set(self.actions) <= set(ACTIONS):
            raise InvalidRequest(f"token {self.name!r}: actions are some of {', '.join(ACTIONS)}")
        if not self.scopes or not all(SCOPE.fullmatch(scope) for scope in self.scopes):
            raise InvalidRequest(f"token {self.name!r}: scopes are *, study:UID or image:ID (32 digits)")
        if self.until is not None and not self.until > 0:
            raise InvalidRequest(f"token {self.name!r}: expires is a time with an offset")

    @property
    def until(self) -> float | None:
        """Unix time at which it expires."""
        if self.expires is None:
            return None
        with suppress(TypeError, ValueError, OverflowError):
            moment = datetime.fromisoformat(self.expires)
            return moment.timestamp() if moment.tzinfo else 0.0
        return 0.0

    @property
    def principal(self) -> Principal:
        """Whom it stands for."""
        return Principal(self.name, frozenset(self.actions), frozenset(self.scopes), self.until)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        document = {"name": self.name, "sha256": self.sha256, "actions": list(self.actions)}
        return {**document, "scopes": list(self.scopes), "expires": self.expires}


def digest_of(token: str) -> str:
    """SHA-256 of a token, lower-case hex: what is kept of it."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def read_tokens(path: Path) -> list[Token]:
    """The entries of a file. Raises `InvalidRequest`, and `AccessDenied` where others may read it."""
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise AccessDenied(f"{path}: is open to others than its owner: chmod 600")
            data = file.read(MOST_BYTES + 1)
    except OSError as failure:
        raise os_failure(failure, f"cannot read the tokens {path}") from failure
    try:
        if len(data) > MOST_BYTES:
            raise ValueError("too long")
        tokens = [_entry(entry) for entry in json.loads(data)["tokens"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidRequest(f"{path}: is no file of tokens") from error
    if len({token.name for token in tokens}) != len(tokens):
        raise InvalidRequest(f"{path}: two tokens have one name")
    return tokens


def _entry(entry: Any) -> Token:
    if set(entry) - {"name", "sha256", "actions", "scopes", "expires"}:
        raise ValueError("unknown keys")
    texts = [entry["name"], entry["sha256"], *entry["actions"], *entry["scopes"]]
    if not all(isinstance(text, str) for text in texts) or not isinstance(entry["scopes"], list):
        raise ValueError("values of other types")
    actions, scopes = tuple(entry["actions"]), tuple(entry["scopes"])
    return Token(entry["name"], entry["sha256"], actions, scopes, entry.get("expires"))


def add_token(
    path: Path, name: str, actions: Iterable[str], scopes: Iterable[str], days: int | None
) -> tuple[str, Token]:
    """Add a new token to the file (made if it is not there); returns the token itself, which is not kept.

    Raises `Conflict` for a name that is taken, `InvalidRequest`, and what writing raises.
    """
    tokens = read_tokens(path) if path.exists() else []
    if any(token.name == name for token in tokens):
        raise Conflict(f"there is a token called {name!r} already")
    expires = (
        None if days is None else (datetime.now(UTC) + timedelta(days=days)).isoformat(timespec="seconds")
    )
    secret = secrets.token_urlsafe(32)
    made = Token(name, digest_of(secret), tuple(actions), tuple(scopes), expires)
    _write(path, [*tokens, made])
    return secret, made


def revoke_token(path: Path, name: str) -> Token:
    """Take a token's entry out of the file. Raises `ImageNotFound` where there is none of that name."""
    tokens = read_tokens(path)
    gone = [token for token in tokens if token.name == name]
    if not gone:
        raise ImageNotFound(f"no token is called {name!r}")
    _write(path, [token for token in tokens if token.name != name])
    return gone[0]


def _write(path: Path, tokens: Iterable[Token]) -> None:
    """The whole file, in place of the one before: a server that reads it meanwhile sees one or the other."""
    data = json.dumps({"tokens": [token.to_json() for token in tokens]}, indent=2).encode() + b"\n"
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as failure:
        raise os_failure(failure, f"cannot write the tokens {path}") from failure


def credentials(request: Request) -> str | None:
    """The token that a request carries (Bearer, or the password of Basic); None where it carries none.

    Raises `NotAuthenticated` for what is neither.
    """
    headers = request.headers.getlist("authorization")
    if not headers:
        return None
    scheme, _, value = headers[0].partition(" ")
    if len(headers) == 1 and scheme.lower() == "bearer":
        return value.strip()
    if len(headers) == 1 and scheme.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, ValueError) as error:
            raise NotAuthenticated("the Basic credentials are not readable") from error
    raise NotAuthenticated("credentials are a Bearer token, or a token as the password of Basic")


class Tokens:
    """Whom the tokens of a file stand for; without a file, everybody is `LOCAL`."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._principals: Mapping[str, Principal] = {}
        self._seen: tuple[int, ...] | None = None
        self._due = 0.0
        if path is not None:
            self._principals = _by_digest(read_tokens(path))
            self._seen = _version(path)

    def principal(self, token: str | None) -> Principal:
        """Whom a token stands for. Raises `NotAuthenticated`."""
        if self.path is None:
            return LOCAL
        if time.monotonic() >= self._due:
            self.refresh()
        if token is None:
            raise NotAuthenticated("a token is needed")
        wanted, found = digest_of(token), None
        for digest, principal in self._principals.items():
            # All are compared, whole, so that the time tells nothing.
            if hmac.compare_digest(digest, wanted):
                found = principal
        if found is None or (found.expires is not None and found.expires <= time.time()):
            raise NotAuthenticated("the token is not known, or no longer valid")
        return found

    def refresh(self) -> None:
        """Read the file again, if it is another one. A file that is gone is good for nobody.

        One that cannot be understood changes nothing: somebody is editing it. The log says so.
        """
        if self.path is None:
            return
        self._due = time.monotonic() + LOOK_SECONDS
        version = _version(self.path)
        if version == self._seen:
            return
        self._seen = version
        if version is None:
            self._principals = {}
            logger.error("the file of tokens is gone: nobody is let in")
            return
        try:
            self._principals = _by_digest(read_tokens(self.path))
        except (InvalidRequest, AccessDenied) as failure:
            logger.error("the tokens stay as they were: %s", failure.message)
            return
        logger.info("tokens read: %d", len(self._principals))


def _by_digest(tokens: Iterable[Token]) -> dict[str, Principal]:
    return {token.sha256: token.principal for token in tokens}


def _version(path: Path) -> tuple[int, ...] | None:
    """What changes when a file does; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode, found.st_ctime_ns
