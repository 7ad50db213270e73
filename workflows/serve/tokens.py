"""The file of tokens: JSON, one entry for each, with the SHA-256 of a token and never the token itself.

::

    {"tokens": [{"name": "ward 3", "sha256": "...", "actions": ["read", "search"],
                 "scopes": ["study:1.2.3"], "expires": "2027-01-01T00:00:00+00:00"}]}
"""

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from starlette.requests import Request

from tilevault.codecs.errors import InvalidRequest, NotAuthenticated
from tilevault.workflows.serve.access import ACTIONS, LOCAL, Principal

__all__ = ["TokenFile", "credentials", "digest_of"]


def digest_of(token: str) -> str:
    """SHA-256 of a token, lower-case hex: what is kept of it."""
    return hashlib.sha256(token.encode()).hexdigest()


def credentials(request: Request) -> str | None:
    """The token that a request carries (Bearer, or the password of Basic); None where it carries none.

    Raises `NotAuthenticated` for what is neither.
    """
    header = request.headers.get("authorization")
    if header is None:
        return None
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, ValueError) as error:
            raise NotAuthenticated("the Basic credentials are not readable") from error
    raise NotAuthenticated("credentials are a Bearer token, or a token as the password of Basic")


@dataclass(frozen=True)
class TokenFile:
    """Whom the tokens of a file stand for; without a file, everybody is `LOCAL`."""

    path: Path | None
    principals: Mapping[str, Principal]
    """By digest of the token."""

    @classmethod
    def read(cls, path: Path | None) -> "TokenFile":
        """Raises `InvalidRequest` for a file that is none of tokens."""
        if path is None:
            return cls(None, {})
        try:
            entries = json.loads(path.read_text())["tokens"]
            return cls(path, dict(_entry(entry) for entry in entries))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidRequest(f"{path}: is no file of tokens") from error

    def principal(self, token: str | None) -> Principal:
        """Whom a token stands for. Raises `NotAuthenticated`."""
        if self.path is None:
            return LOCAL
        if token is None:
            raise NotAuthenticated("a token is needed")
        wanted, found = digest_of(token), None
        for digest, principal in self.principals.items():
            # All are compared, whole, so that the time tells nothing.
            if hmac.compare_digest(digest, wanted):
                found = principal
        if found is None or (found.expires is not None and found.expires <= time.time()):
            raise NotAuthenticated("the token is not known, or no longer valid")
        return found


def _entry(entry: Any) -> tuple[str, Principal]:
    actions, scopes = frozenset(entry["actions"]), frozenset(entry["scopes"])
    if not actions <= set(ACTIONS) or len(entry["sha256"]) != 64:
        raise ValueError("actions or digest")
    expires = entry.get("expires")
    until = None if expires is None else datetime.fromisoformat(expires).timestamp()
    return entry["sha256"], Principal(entry["name"], actions, scopes, until)
