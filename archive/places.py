"""Where an archive lies: a folder of this machine, or objects behind a URL. What reading asks of either.

`LocalBlobs` and `RemoteBlobs` both are `Blobs`; only a folder can be written.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from tilevault.archive.blobs import BlobStat, LocalBlobs

__all__ = ["Blobs", "OpenBlob", "blobs_at", "is_url"]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class OpenBlob(Protocol):
    """An object that is read more than once."""

    def read(self, start: int = 0, stop: int | None = None, limit: int | None = None) -> bytes:
        """See `Blobs.read`."""
        ...


class Blobs(Protocol):
    """Objects by key. Every method raises `UnsafeName` for what is no key, and `StoreError` and its kin."""

    @property
    def location(self) -> str:
        """The folder or URL, for messages."""
        ...

    @property
    def root(self) -> Path:
        """The folder. Raises `InvalidRequest` where there is none."""
        ...

    @property
    def lists(self) -> bool:
        """Whether `keys`, `folders` and `names` answer; a web server does not tell what it holds."""
        ...

    @property
    def far(self) -> bool:
        """Whether waiting for a request takes longer than reading some more bytes with another one."""
        ...

    def has_root(self) -> bool:
        """Whether the place is there, as far as it can be told apart from an empty one."""
        ...

    def read(self, key: str, start: int = 0, stop: int | None = None, limit: int | None = None) -> bytes:
        """Bytes ``start`` to ``stop`` (default: all). Raises `TileMissing` or `ShortRead`.

        An object of more than ``limit`` bytes is not what it should be: `IntegrityError`.
        """
        ...

    def open(self, key: str) -> OpenBlob:
        """The object, to be read more than once."""
        ...

    def size(self, key: str) -> int | None:
        """Bytes of the object, or None where there is none."""
        ...

    def digest(self, key: str, expected: int | None = None) -> BlobStat:
        """Size and SHA-256 of the object as it lies there now, no SHA-256 if its size is not ``expected``."""
        ...

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Every object below ``prefix`` in order, whatever its name."""
        ...

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders directly below ``prefix``, sorted."""
        ...

    def names(self, prefix: str) -> list[str]:
        """Names of the objects directly below ``prefix``, sorted."""
        ...


def is_url(location: str | os.PathLike[str]) -> bool:
    """Whether this is the URL of a remote archive, rather than a folder."""
    return isinstance(location, str) and _URL.match(location) is not None


def blobs_at(location: str | os.PathLike[str], timeout: float | None = None) -> Blobs:
    """The objects of an archive. Raises `InvalidRequest` for a URL that is not one of ours."""
    if not is_url(location):
        return LocalBlobs(location)
    from tilevault.archive.remote import RemoteBlobs

    return RemoteBlobs(os.fspath(location), timeout)
