"""STOW-RS: instances into the archive, each with its result (PS3.18 10.5).

The body goes part by part into a staging folder under names of ours. Children examine and store (`intake`);
afterwards the index is brought up to date, so that whoever has an answer finds what he sent.
"""

import asyncio
import errno
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from tilevault.archive.blobs import STAGING
from tilevault.codecs.errors import (
    AccessDenied,
    Busy,
    InvalidRequest,
    LimitExceeded,
    NotAcceptable,
    NotRecognized,
    StoreFull,
    StoreUnavailable,
    TilevaultError,
)
from tilevault.workflows.serve.access import Principal, Subject
from tilevault.workflows.serve.dicomweb.accept import accepted, media_type
from tilevault.workflows.serve.dicomweb.intake import Children, Examined, examine, store
from tilevault.workflows.serve.dicomweb.multipart import PartReader, PartSink, boundary_of
from tilevault.workflows.serve.dicomweb.resources import Place
from tilevault.workflows.serve.dicomweb.series import Claims, SeriesOwners

if TYPE_CHECKING:
    from tilevault.workflows.serve.services import Services

__all__ = ["Intake", "reason_code"]

GATHERED = 1 << 20
"""Bytes of a body that are handed to a thread at a time."""
AT_ONCE = 2
"""Requests that are stored at a time; receiving has no such limit."""
WAITING = 16
RESERVE = 256 << 20
"""Bytes of the disk that are not filled with what is received: the access log must go on."""
ABANDONED_SECONDS = 24 * 3600
"""Age from which a staging folder that nobody removed is removed."""
JSON_TYPES = ("application/dicom+json", "application/json")
PLAIN_UID = re.compile(r"[0-9]+(\.[0-9]+)*")

PROCESSING_FAILURE, DUPLICATE, NOT_AUTHORIZED = 0x0110, 0x0111, 0x0124
OUT_OF_RESOURCES, MISMATCH, NOT_UNDERSTOOD, SYNTAX = 0xA700, 0xA900, 0xC000, 0xC122
REASONS = {
    "DuplicateConflict": DUPLICATE,
    "Conflict": DUPLICATE,
    "AccessDenied": NOT_AUTHORIZED,
    "LimitExceeded": OUT_OF_RESOURCES,
    "StoreFull": OUT_OF_RESOURCES,
    "UnsupportedSyntax": SYNTAX,
    "StudyMismatch": MISMATCH,
    **dict.fromkeys(
        ("NotRecognized", "TruncatedSource", "InconsistentHeader", "UnsafeName", "SourceChanged"),
        NOT_UNDERSTOOD,
    ),
}
"""FailureReason (0008,1197) by the code of an error (PS3.18 table I.2-2, PS3.7 annex C)."""


def reason_code(code: str | None) -> int:
    """FailureReason of an error; a processing failure where none fits."""
    return REASONS.get(code or "", PROCESSING_FAILURE)


@dataclass
class _Staged(PartSink):
    """A part on its way into a file of ours."""

    file: FileIO
    size: int = 0

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self.file.write(view) :]
        self.size += len(data)

    def close(self) -> None:
        self.file.close()


@dataclass
class _Received:
    """What a request has brought."""

    folder: Path
    names: list[str] = field(default_factory=list)
    types: dict[str, str] = field(default_factory=dict)
    size: int = 0

    def opened(self, headers: dict[str, str]) -> PartSink:
        """Where the next part goes."""
        name = f"{len(self.names):06d}"
        self.names.append(name)
        self.types[name] = headers.get("content-type", "")
        path = self.folder / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        return _Staged(FileIO(descriptor, "w"))


@dataclass(frozen=True)
class _Outcome:
    """What became of one instance; ``code`` is None where it is in the archive."""

    examined: Examined
    code: str | None = None

    @property
    def subject(self) -> Subject:
        """For the record, of an instance that is in the archive."""
        one = self.examined
        return Subject(study=one["study"], series=one["series"], instance=one["sop"])


class Intake:
    """Takes in instances for one server."""

    def __init__(self, services: "Services") -> None:
        self._services = services
        self._children = Children()
        # Threads of their own: storing takes minutes, and reading goes on meanwhile.
        self._pool = ThreadPoolExecutor(AT_ONCE, "tilevault-intake")
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0
        self._swept = False
        self._owners = SeriesOwners(services)

    def close(self) -> None:
        """End the children, also those that work: what they have committed stays, nothing else does."""
        self._children.close()
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def store(self, services: "Services", request: Request) -> Response:
        """The answer to a POST of instances."""
        place = Place.of(request)
        values = request.headers.getlist("accept")
        if not any(one.matches(media) for one in accepted(values) for media in JSON_TYPES):
            raise NotAcceptable("results are answered as application/dicom+json")
        boundary = _body_boundary(request)
        if self._waiting >= WAITING:
            raise Busy("too many instances are waiting to be stored")
        folder = await services.run(self._staging)
        try:
            received = await self._receive(request, boundary, folder)
            self._waiting += 1
            try:
                async with self._turn:
                    who = request.state.principal
                    outcomes = await asyncio.get_running_loop().run_in_executor(
                        self._pool, self._stored, who, place, received
                    )
                    request.state.stored = [one.subject for one in outcomes if one.code is None]
                    return _results(outcomes, place)
            finally:
                self._waiting -= 1
        finally:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, True))

    def _staging(self) -> Path:
        """A new folder beside the archive's own temporary files; leftovers of crashed servers go."""
        above = self._services.archive.path / STAGING
        try:
            above.mkdir(exist_ok=True, mode=0o700)
            if not self._swept:
                self._swept = True
                for old in above.glob("stow-*"):
                    if time.time() - old.stat().st_mtime > ABANDONED_SECONDS:
                        shutil.rmtree(old, ignore_errors=True)
            folder = above / f"stow-{secrets.token_hex(16)}"
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise _disk_error(error) from error
        return folder

    async def _receive(self, request: Request, boundary: bytes, folder: Path) -> _Received:
        """The parts of the body as files. Raises `LimitExceeded`, `InvalidRequest`, `TruncatedSource`."""
        received = _Received(folder)
        reader = PartReader(boundary, received.opened)
        limit = self._services.settings.limits.upload_bytes
        gathered: list[bytes] = []
        held = 0
        try:
            async for chunk in request.stream():
                received.size += len(chunk)
                if received.size > limit:
                    raise LimitExceeded("bytes of a request", limit=limit)
                gathered.append(chunk)
                held += len(chunk)
                if held >= GATHERED:
                    await self._services.run(_feed, reader, b"".join(gathered), folder)
                    gathered, held = [], 0
            await self._services.run(_feed, reader, b"".join(gathered), folder)
        except ClientDisconnect as error:
            raise InvalidRequest("the connection ended before the body did") from error
        finally:
            reader.abandon()
        reader.finish()
        if not received.names:
            raise InvalidRequest("a body without parts")
        return received

    def _stored(self, principal: Principal, place: Place, received: _Received) -> list[_Outcome]:
        with self._owners.claims() as claimed:
            return self._outcomes(principal, place, received, claimed)

    def _outcomes(
        self, principal: Principal, place: Place, received: _Received, claimed: Claims
    ) -> list[_Outcome]:
        outcomes: list[_Outcome] = []
        sent: dict[str, Examined] = {}
        again: list[Examined] = []
        sound = [name for name in received.names if _is_dicom(received.types[name])]
        for name in set(received.names) - set(sound):
            outcomes.append(_Outcome({"name": name}, NotRecognized.__name__))
        for one in examine(self._children, received.folder, sound):
            code = one.get("code") or _objection(one, principal, place, claimed)
            if code is not None:
                outcomes.append(_Outcome(one, code))
            elif one["sha256"] in sent:
                again.append(one)
            else:
                sent[one["sha256"]] = one
        made = {one.examined["sha256"]: one for one in self._archived(received, list(sent.values()))}
        outcomes += made.values()
        # The same bytes twice are one instance, and have one result.
        outcomes += [_Outcome(one, made[one["sha256"]].code) for one in again]
        outcomes.sort(key=lambda one: str(one.examined["name"]))
        return outcomes

    def _archived(self, received: _Received, sound: Sequence[Examined]) -> list[_Outcome]:
        """Hand the sound files on, under names made of their UIDs, which the archive keeps."""
        if not sound:
            return []
        ready = received.folder / "ready"
        ready.mkdir(mode=0o700)
        given: dict[str, Examined] = {}
        for one in sound:
            target = _file_name(one, given)
            (received.folder / one["name"]).rename(ready / target)
            given[target] = one
        workers = max(1, self._services.settings.limits.threads // 2)
        told = store(self._children, ready, self._services.archive.path, received.size, workers)
        failures, images = _failures(told, given)
        for image in images:
            self._services.index.image_changed(image)
        return [_Outcome(one, failures.get(target)) for target, one in given.items()]


def _body_boundary(request: Request) -> bytes:
    """The boundary of the body. Raises `NotRecognized` (415) for bodies of another kind."""
    kind, parameters = media_type(request.headers.get("content-type", "none/none"))
    inner = parameters.get("type", ["application/dicom"])[0].lower()
    if kind != "multipart/related" or inner != "application/dicom":
        raise NotRecognized('instances are sent as multipart/related; type="application/dicom"')
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise NotRecognized("a body is sent without Content-Encoding")
    return boundary_of(parameters)


def _is_dicom(content_type: str) -> bool:
    try:
        return not content_type or media_type(content_type)[0] in (
            "application/dicom",
            "application/octet-stream",
        )
    except InvalidRequest:
        return False


def _feed(reader: PartReader, data: bytes, folder: Path) -> None:
    try:
        if shutil.disk_usage(folder).free < RESERVE + len(data):
            raise StoreFull("no space for what is received")
        reader.feed(data)
    except OSError as error:
        raise _disk_error(error) from error


def _disk_error(error: OSError) -> TilevaultError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull("no space for what is received")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return AccessDenied("this archive is only read here")
    return StoreUnavailable(f"what is received cannot be kept: {error.strerror}")


def _objection(one: Examined, principal: Principal, place: Place, claimed: Claims) -> str | None:
    """Why a sound instance is not stored."""
    study = one.get("study")
    if not study or one["sop"].startswith("sha256:"):
        return "InconsistentHeader"
    if place.study is not None and study != place.study:
        return "StudyMismatch"
    if not principal.may("write", study=study):
        return AccessDenied.__name__
    owner = claimed.owner(one["series"], study)
    if owner == study:
        return None
    return "StudyMismatch" if principal.may("write", study=owner) else AccessDenied.__name__


def _file_name(one: Examined, taken: Mapping[str, Examined]) -> str:
    """What the file is called in the archive: its UID, where that is one and is free."""
    plain = one["sop"] if PLAIN_UID.fullmatch(one["sop"]) else f"instance-{one['name']}"
    name = f"{plain}.dcm"
    return name if name not in taken else f"{plain}-{one['name']}.dcm"


def _failures(told: Mapping[str, Any], given: Mapping[str, Examined]) -> tuple[dict[str, str], list[str]]:
    """Codes of the files that were not stored; second, the images that may have changed."""
    if "code" in told:
        return dict.fromkeys(given, str(told["code"])), []
    failures = {
        one["name"]: str(one["code"])
        for one in told["files"]
        if one["name"] in given and one["code"] != "Copy"
    }
    stored: set[str] = {one["name"] for one in told["files"] if one["code"] == "Copy"}
    images = []
    for image in told["images"]:
        images.append(str(image["image"]))
        names = [name for name in image["names"] if name in given]
        if image["status"] == "failed":
            failures |= dict.fromkeys(names, str(image["code"]))
        else:
            stored |= set(names)
    for name in given.keys() - stored - failures.keys():
        failures[name] = "InternalError"
    return failures, images


def _results(outcomes: Sequence[_Outcome], place: Place) -> Response:
    """The response of a store transaction (PS3.18 10.5.3): 200, 202 or 409."""
    stored: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    nameless: list[dict[str, Any]] = []
    studies: dict[str, None] = {}
    for outcome in outcomes:
        one = outcome.examined
        item: dict[str, Any] = {}
        if "sop" in one and "class" in one:
            item["00081150"] = {"vr": "UI", "Value": [one["class"]]}
        if "sop" in one:
            item["00081155"] = {"vr": "UI", "Value": [one["sop"]]}
        if outcome.code is None:
            studies[one["study"]] = None
            url = place.url(one["study"], one["series"], one["sop"])
            stored.append(item | {"00081190": {"vr": "UR", "Value": [url]}})
        else:
            item["00081197"] = {"vr": "US", "Value": [reason_code(outcome.code)]}
            (failed if "sop" in one else nameless).append(item)
    body: dict[str, Any] = {}
    if len(studies) == 1:
        body["00081190"] = {"vr": "UR", "Value": [place.url(next(iter(studies)))]}
    for tag, items in (("00081198", failed), ("00081199", stored), ("0008119A", nameless)):
        if items:
            body[tag] = {"vr": "SQ", "Value": items}
    status = 200 if not (failed or nameless) else 202 if stored else 409
    return Response(
        json.dumps(body, separators=(",", ":")).encode(),
        status,
        {"Cache-Control": "no-store"},
        "application/dicom+json",
    )
