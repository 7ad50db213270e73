"""WADO-RS: instances, metadata, bulk data and frames (PS3.18 10.4), for studies, series and instances.

Answers are made instance by instance; what is checked and fails before the first byte is an error of ours,
and what fails later breaks the connection off, so that nobody takes a part for the whole.
"""

import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tilevault.archive.formats.dicom_elements import value_at
from tilevault.archive.formats.dicom_json import BULK_VRS, little_endian
from tilevault.archive.formats.dicom_scan import EXPLICIT_LITTLE, PIXEL_TAGS
from tilevault.codecs.errors import ImageNotFound, InvalidRequest, NotAcceptable
from tilevault.workflows.serve.access import NO_IMAGE
from tilevault.workflows.serve.dicomweb.accept import MediaRange, accepted
from tilevault.workflows.serve.dicomweb.instances import (
    Found,
    Instance,
    Opener,
    find,
    model_of,
    open_instance,
)
from tilevault.workflows.serve.dicomweb.multipart import closing, new_boundary, part_head
from tilevault.workflows.serve.dicomweb.resources import Place
from tilevault.workflows.serve.dicomweb.transcode import (
    DICOM,
    OCTETS,
    Form,
    frame_form,
    frame_in,
    instance_form,
)

if TYPE_CHECKING:
    from tilevault.workflows.serve.services import Services

__all__ = [
    "PRIVATE",
    "bulkdata",
    "check_frames",
    "commit_tag",
    "frame_list",
    "frames",
    "metadata",
    "ranges_of",
    "retrieve",
]

MAX_FRAMES = 4096
"""Frames of one request."""
MAX_PATH = 64
"""Steps of a path into nested sequences."""
JSON_TYPES = ("application/dicom+json", "application/json")
WHOLE = 4 << 20
"""Bytes that are made before an answer begins, so that damage in them is an error of ours."""
PRIVATE = {"Cache-Control": "private, no-cache"}

Content = tuple[int, Iterable[bytes | memoryview]]
"""Bytes in all, and the pieces, each to be used before the next."""
Part = tuple[Form, str, Callable[[], Content]]
"""Form and location of a part, and what makes its content."""


def ranges_of(request: Request) -> list[MediaRange]:
    """What a request accepts: the query parameter ``accept``, else the header."""
    return accepted(request.query_params.getlist("accept") or request.headers.getlist("accept"))


async def retrieve(services: "Services", request: Request) -> Response:
    """A study, series or instance as files."""
    place, ranges = Place.of(request), ranges_of(request)
    if not any(one.matches(DICOM) for one in ranges):
        raise NotAcceptable("instances are answered as application/dicom, rendered or as metadata")
    return await services.run(_retrieved, services, place, ranges)


def _retrieved(services: "Services", place: Place, ranges: Sequence[MediaRange]) -> Response:
    found = find(services, place)
    opener = Opener(services)
    forms = [(one, instance_form(ranges, opener.open(one), len(found) == 1)) for one in found]
    parts: list[Part] = [
        (form, place.url(one.study, one.series, one.sop), _file_of(opener, one, form))
        for one, form in forms
        if form is not None
    ]
    if not parts:
        raise NotAcceptable(
            f"stored as {', '.join(sorted({one.syntax for one in found}))}: can be had so or with "
            "transfer-syntax=*, and in Explicit VR Little Endian where the pixels are decoded here"
        )
    single = len(parts) == 1 and not parts[0][0].multipart
    status = 200 if len(parts) == len(found) else 206
    headers = {**PRIVATE}
    if status == 206:
        missing = len(found) - len(parts)
        headers["Warning"] = f'299 {place.service}: "{missing} instances are not available in this form"'
    return _answer(services, parts, single, DICOM, headers, status)


def _file_of(opener: Opener, found: Found, form: Form) -> Callable[[], Content]:
    def read() -> Content:
        instance = opener.open(found)
        return instance.stored() if form.syntax == instance.syntax else instance.explicit()

    return read


def _answer(
    services: "Services",
    parts: Sequence[Part],
    single: bool,
    media: str,
    headers: dict[str, str],
    status: int = 200,
) -> Response:
    """Parts one after the other, each as it is made; the answer begins when the first one has begun well."""
    if single:
        size, pieces = parts[0][2]()
        body, kind = _beginning(pieces), parts[0][0].content_type
        headers = {**headers, "Content-Length": str(size)}
    else:
        boundary = new_boundary()
        body = _beginning(_multipart(parts, boundary))
        kind = f'multipart/related; type="{media}"; boundary={boundary}'
    begun = next(body)
    if len(begun) < WHOLE:
        # That was all of it.
        return Response(begun, status, headers, kind)
    return StreamingResponse(_in_threads(services, chain([begun], body)), status, headers, kind)


async def _in_threads(services: "Services", pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces of an answer, each made in the threads that all requests share."""
    while (piece := await services.go_on(next, pieces, None)) is not None:
        yield piece


def _beginning(pieces: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """First of all at least `WHOLE` bytes, or everything; then the rest as it comes."""
    # A piece may be gone when the next one is made.
    rest, begun = iter(pieces), bytearray()
    for piece in rest:
        begun += piece
        if len(begun) >= WHOLE:
            break
    yield bytes(begun)
    yield from map(bytes, rest)


def _multipart(parts: Sequence[Part], boundary: str) -> Iterator[bytes | memoryview]:
    for i, (form, location, content) in enumerate(parts):
        size, pieces = content()
        headers = {
            "Content-Type": form.content_type,
            "Content-Length": str(size),
            "Content-Location": location,
        }
        yield part_head(boundary, headers, i == 0)
        yield from pieces
    yield closing(boundary)


# -- metadata ------------------------------------------------------------------------------------------------


async def metadata(services: "Services", request: Request) -> Response:
    """The headers of a study, series or instance as DICOM JSON."""
    place = Place.of(request)
    if not any(one.matches(media) for one in ranges_of(request) for media in JSON_TYPES if not one.multipart):
        raise NotAcceptable("metadata are answered as application/dicom+json")
    return await services.run(_metadata, services, place, request.headers.get("if-none-match"))


def _metadata(services: "Services", place: Place, held: str | None) -> Response:
    found = find(services, place)
    tag = commit_tag(services, found, place.service)
    headers = {**PRIVATE, "ETag": tag}
    if held is not None and tag in (one.strip() for one in held.split(",")):
        return Response(status_code=304, headers=headers)
    models = _models(services, found, place)
    # The first one may fail before the answer begins.
    first = next(models)

    def body() -> Iterator[bytes]:
        yield b"[" + first
        for model in models:
            yield b"," + model
        yield b"]"

    return StreamingResponse(_in_threads(services, body()), 200, headers, "application/dicom+json")


def _models(services: "Services", found: Sequence[Found], place: Place) -> Iterator[bytes]:
    opener = Opener(services)
    for one in found:
        below = place.url(one.study, one.series, one.sop)

        def bulk(path: str, below: str = below) -> str:
            return f"{below}/bulkdata/{path}"

        model = model_of(opener.open(one), bulk)
        yield json.dumps(model, separators=(",", ":"), ensure_ascii=False).encode()


def commit_tag(services: "Services", found: Sequence[Found], *more: str) -> str:
    """ETag: of the commits that an answer is made from."""
    images = dict.fromkeys(one.image for one in found)
    texts = [services.image(image).commit.sha256 for image in images]
    digest = hashlib.sha256("\n".join([*texts, *(one.sop for one in found), *more]).encode())
    return f'"{digest.hexdigest()[:32]}"'


# -- frames and bulk data ------------------------------------------------------------------------------------


async def frames(services: "Services", request: Request) -> Response:
    """Frames of an instance: ``/frames/1,3``."""
    place, ranges = Place.of(request), ranges_of(request)
    numbers = frame_list(request.path_params["frames"])
    return await services.run(_frames, services, place, ranges, numbers, request.headers.get("if-none-match"))


def frame_list(text: str) -> list[int]:
    """The numbers of ``1,3``. Raises `InvalidRequest`."""
    parts = text.split(",")
    if len(parts) > MAX_FRAMES:
        raise InvalidRequest(f"at most {MAX_FRAMES} frames at a time")
    if not all(part.isascii() and part.isdecimal() and 0 < len(part) < 10 for part in parts):
        raise InvalidRequest(f"frames are numbers from 1 on, such as 1,2,3, not {text[:80]!r}")
    return [int(part) for part in parts]


def _frames(
    services: "Services",
    place: Place,
    ranges: Sequence[MediaRange],
    numbers: Sequence[int],
    held: str | None,
) -> Response:
    (found,) = find(services, place)
    instance = open_instance(services, found.image, found.file, found.n)
    check_frames(instance, numbers)
    form = frame_form(ranges, instance, len(numbers) == 1)
    tag = commit_tag(services, [found], form.content_type, str(form.multipart), *map(str, numbers))
    headers = {**PRIVATE, "ETag": tag, "Vary": "Accept"}
    if held is not None and tag in (one.strip() for one in held.split(",")):
        return Response(status_code=304, headers=headers)
    url = place.url(found.study, found.series, found.sop)
    parts = _frame_parts(instance, numbers, form, f"{url}/frames")
    return _answer(services, parts, not form.multipart, form.media, headers)


def check_frames(instance: Instance, numbers: Sequence[int]) -> None:
    """Raise `ImageNotFound` unless an instance has these frames (from 1)."""
    if not instance.has_pixels:
        raise ImageNotFound("the instance has no frames")
    if not all(1 <= n <= instance.frames for n in numbers):
        raise ImageNotFound(f"the instance has the frames 1 to {instance.frames}")


def _frame_parts(instance: Instance, numbers: Sequence[int], form: Form, url: str) -> list[Part]:
    def one(number: int) -> Callable[[], Content]:
        return lambda: _whole(frame_in(instance, number - 1, form))

    return [(form, f"{url}/{number}", one(number)) for number in numbers]


def _whole(data: bytes) -> Content:
    return len(data), [data]


async def bulkdata(services: "Services", request: Request) -> Response:
    """A binary value: ``/bulkdata/TAG`` or ``/bulkdata/TAG/item/TAG``."""
    place, ranges = Place.of(request), ranges_of(request)
    path = _bulk_path(request.path_params["path"])
    return await services.run(_bulkdata, services, place, ranges, path)


def _bulk_path(text: str) -> list[int]:
    parts = text.strip("/").split("/")
    if len(parts) % 2 == 0 or len(parts) > MAX_PATH:
        raise InvalidRequest("a path to bulk data is TAG, or TAG/item/TAG")
    try:
        tags = [int(part, 16) for part in parts[::2] if len(part) == 8]
        items = [int(part) for part in parts[1::2] if len(part) < 8]
    except ValueError:
        raise InvalidRequest("a tag is eight hexadecimal digits, an item a number from 1 on") from None
    if len(tags) + len(items) != len(parts):
        raise InvalidRequest("a tag is eight hexadecimal digits, an item a number from 1 on")
    path: list[int] = []
    for i, tag in enumerate(tags):
        path += [tag, *items[i : i + 1]]
    return path


def _bulkdata(
    services: "Services", place: Place, ranges: Sequence[MediaRange], path: Sequence[int]
) -> Response:
    (found,) = find(services, place)
    instance = open_instance(services, found.image, found.file, found.n)
    if len(path) == 1 and path[0] in PIXEL_TAGS and instance.has_pixels:
        return _pixel_value(services, instance, ranges, place.url(found.study, found.series, found.sop))
    element = value_at(instance.header().elements, path)
    if element is None or element.vr not in BULK_VRS:
        raise ImageNotFound(NO_IMAGE)
    wanted = next((one for one in ranges if one.matches(OCTETS)), None)
    if wanted is None:
        raise NotAcceptable("bulk data are answered as application/octet-stream")
    form = Form(OCTETS, EXPLICIT_LITTLE, wanted.multipart or wanted.type == "*/*")
    value = little_endian(element)
    part: Part = (form, f"{place.url(found.study, found.series, found.sop)}/bulkdata", lambda: _whole(value))
    return _answer(services, [part], not form.multipart, OCTETS, dict(PRIVATE))


def _pixel_value(
    services: "Services", instance: Instance, ranges: Sequence[MediaRange], url: str
) -> Response:
    """Native pixels as one value; encapsulated ones, or coded as asked, as a part for each frame."""
    form = frame_form(ranges, instance, True)
    numbers = range(1, instance.frames + 1)
    if form.syntax == EXPLICIT_LITTLE:

        def value() -> Content:
            first = instance.native_frame(0)
            rest = (instance.native_frame(n - 1) for n in numbers[1:])
            return len(first) * len(numbers), chain([first], rest)

        return _answer(
            services, [(form, f"{url}/bulkdata", value)], not form.multipart, form.media, dict(PRIVATE)
        )
    parts = _frame_parts(instance, numbers, form, f"{url}/frames")
    return _answer(services, parts, len(parts) == 1 and not form.multipart, form.media, dict(PRIVATE))
