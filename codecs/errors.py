"""Every exception that tilevault raises on purpose.

::

    TilevaultError
    ├── InputRejected             exit 3   what was handed in is not sound, or not for us
    │   ├── NotRecognized                  neither DICOM nor TIFF by its magic bytes
    │   ├── TruncatedSource                ends before what its header declares
    │   ├── InconsistentHeader             says two things that cannot both be true
    │   ├── UnsupportedSyntax              sound, but of a kind that is not implemented
    │   ├── LimitExceeded                  larger or deeper than the configured limit
    │   ├── LossyRefused                   pixels that must not be altered, or not so
    │   ├── SourceChanged                  changed while it was read
    │   ├── UnsafeName                     a UID or name that breaks its grammar
    │   ├── DuplicateConflict              a known SOPInstanceUID with other bytes
    │   ├── ImageNotFound                  no image of that name, or more than one
    │   ├── InvalidRequest                 a window, level or option out of range
    │   └── NotAcceptable                  a form of answer that is not made
    ├── IntegrityError            exit 4   what is stored is not what was stored
    │   ├── TileCorrupt
    │   ├── TileMissing
    │   ├── ManifestCorrupt
    │   ├── ModelMismatch
    │   └── VerifyAfterEncodeFailed
    ├── StoreError                exit 5   the storage below did not do its part
    │   ├── StoreUnavailable
    │   ├── StoreTimeout
    │   ├── ShortRead
    │   ├── OutcomeUnknown
    │   └── Busy                           a server with more requests than it works on
    ├── StoreFull                 exit 6
    ├── Conflict                  exit 7   other content is already committed under the id
    └── AccessDenied              exit 8
        └── NotAuthenticated               nobody that is known

The class says what to do about it; ``code`` is the stable name for programs.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

__all__ = [
    "AccessDenied",
    "Busy",
    "Conflict",
    "DuplicateConflict",
    "ImageNotFound",
    "InconsistentHeader",
    "InputRejected",
    "IntegrityError",
    "InvalidRequest",
    "LimitExceeded",
    "LossyRefused",
    "ManifestCorrupt",
    "ModelMismatch",
    "NotAcceptable",
    "NotAuthenticated",
    "NotRecognized",
    "OutcomeUnknown",
    "ShortRead",
    "SourceChanged",
    "StoreError",
    "StoreFull",
    "StoreTimeout",
    "StoreUnavailable",
    "TileCorrupt",
    "TileMissing",
    "TilevaultError",
    "TruncatedSource",
    "UnsafeName",
    "UnsupportedSyntax",
    "VerifyAfterEncodeFailed",
    "gravest",
]

GRAVITY = (70, 4, 6, 5, 7, 8, 3)
"""Exit codes of failures, gravest first: a fault of ours, damage, then what an operator can mend."""


def gravest(codes: Iterable[int]) -> int:
    """The gravest of several exit codes; 0 if there is none other."""
    found = set(codes) - {0}
    return next((code for code in GRAVITY if code in found), max(found, default=0))


class TilevaultError(Exception):
    """Base of all; ``details`` holds what a program may want to know (JSON values only)."""

    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 70
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    @property
    def code(self) -> str:
        """The stable name of this kind of error: the class name."""
        return type(self).__name__

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword details would be lost on the way back from a worker process.
        return _rebuild, (type(self), self.message, self.details)


def _rebuild(kind: type[TilevaultError], message: str, details: dict[str, Any]) -> TilevaultError:
    return kind(message, **details)


class InputRejected(TilevaultError):
    """What was handed in is not sound, or not for us. Nothing was stored."""

    exit_code = 3
    http_status = 422


class NotRecognized(InputRejected):
    """Neither DICOM nor TIFF by its magic bytes."""

    http_status = 415


class TruncatedSource(InputRejected):
    """Ends before what its header declares; never padded."""


class InconsistentHeader(InputRejected):
    """The header says two things that cannot both be true."""


class UnsupportedSyntax(InputRejected):
    """Sound, but of a kind that is not implemented."""

    http_status = 415


class LimitExceeded(InputRejected):
    """Larger, deeper or more numerous than the configured limit."""

    http_status = 413


class LossyRefused(InputRejected):
    """Pixels that are labels, doses or parameters, or that are lossy where exact ones are asked for."""


class SourceChanged(InputRejected):
    """Changed while it was read."""

    http_status = 409


class UnsafeName(InputRejected):
    """A UID or name that breaks its grammar."""

    http_status = 400


class DuplicateConflict(InputRejected):
    """A known SOPInstanceUID with other bytes; the first one stays."""

    http_status = 409


class ImageNotFound(InputRejected):
    """No image answers to that name, or more than one does."""

    http_status = 404


class InvalidRequest(InputRejected):
    """A window, level, index or option out of range."""

    http_status = 400


class NotAcceptable(InputRejected):
    """A form of answer that is not made of this, such as a media type or transfer syntax."""

    http_status = 406


class IntegrityError(TilevaultError):
    """What is stored is not what was stored. Never answered with pixels."""

    exit_code = 4
    http_status = 500


class TileCorrupt(IntegrityError):
    """A tile's bytes do not match its digest, or do not decode."""


class TileMissing(IntegrityError):
    """A stored object that the manifest lists is not there."""


class ManifestCorrupt(IntegrityError):
    """A manifest, commit record or metadata document does not verify."""


class ModelMismatch(IntegrityError):
    """The weights that a tile needs are absent or differ in digest."""


class VerifyAfterEncodeFailed(IntegrityError):
    """A tile did not decode to what was encoded; nothing of it was committed."""


class StoreError(TilevaultError):
    """The storage below did not do its part."""

    retryable = True
    exit_code = 5
    http_status = 503


class StoreUnavailable(StoreError):
    """The storage could not be reached or answered with an error."""


class StoreTimeout(StoreError):
    """The storage did not answer in time."""


class ShortRead(StoreError):
    """Fewer bytes came back than were asked for."""


class OutcomeUnknown(StoreError):
    """A write may or may not have taken effect; running again settles it."""


class Busy(StoreError):
    """A server has more requests than it works on; the same one succeeds later."""


class StoreFull(TilevaultError):
    """No space, no quota or no inodes left."""

    exit_code = 6
    http_status = 507


class Conflict(TilevaultError):
    """Other content is already committed under the identifier."""

    exit_code = 7
    http_status = 409


class AccessDenied(TilevaultError):
    """Not permitted."""

    exit_code = 8
    http_status = 403


class NotAuthenticated(AccessDenied):
    """Nobody that is known asks: no token, or none that is valid."""

    http_status = 401
