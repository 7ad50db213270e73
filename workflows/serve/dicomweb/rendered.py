"""WADO-RS rendered and thumbnail (PS3.18 10.4.1.1.3, 10.4.1.1.4): a frame as a picture to look at.

Shown as `archive.render` shows it, by the instance's own window or the one that is asked for. Only the
resolution that the picture needs is read. Nothing is measured on it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from tilevault.archive.image import ImageInfo, Window
from tilevault.archive.render import to_preview
from tilevault.archive.source import StoredFrames
from tilevault.codecs.errors import (
    ImageNotFound,
    InvalidRequest,
    LimitExceeded,
    NotAcceptable,
    UnsupportedSyntax,
)
from tilevault.workflows.serve.dicomweb.accept import MediaRange
from tilevault.workflows.serve.dicomweb.instances import Instance, Opener, find
from tilevault.workflows.serve.dicomweb.resources import Place
from tilevault.workflows.serve.dicomweb.wado import PRIVATE, check_frames, commit_tag, frame_list, ranges_of

if TYPE_CHECKING:
    from tilevault.workflows.serve.services import Services

__all__ = ["Look", "rendered", "thumbnail"]

MEDIA = {"image/jpeg": "JPEG", "image/png": "PNG"}
PARAMETERS = ("window", "viewport", "quality", "accept", "annotation", "iccprofile")
THUMBNAIL = 256
MOST_PIXELS = 1 << 26
"""Of a picture, and of what it is made of at the level that is read."""
MOST_SIDE = 16384
QUALITY = 90
FUNCTIONS = ("linear", "linear-exact")


@dataclass(frozen=True)
class Look:
    """How a picture is asked for."""

    window: tuple[float, float] | None = None
    """Centre and width, in units of the modality."""
    viewport: tuple[int, int] | None = None
    """Width and height into which the picture fits."""
    region: tuple[int, int, int, int] | None = None
    """x, y, width, height of the part that is shown."""
    quality: int = QUALITY

    @classmethod
    def parse(cls, parameters: Sequence[tuple[str, str]]) -> "Look":
        """From query parameters. Raises `InvalidRequest`."""
        given = dict(parameters)
        if len(given) != len(parameters) or not given.keys() <= set(PARAMETERS):
            raise InvalidRequest(f"parameters are {', '.join(PARAMETERS)}, each once")
        window, viewport, region = None, None, None
        if "window" in given:
            centre, width, *function = (
                given["window"].split(",")[:4] if given["window"].count(",") else ("", "")
            )
            if function and (len(function) > 1 or function[0].lower() not in FUNCTIONS):
                raise InvalidRequest("window=CENTRE,WIDTH,FUNCTION: the function is linear or linear-exact")
            window = _number(centre), _number(width)
            if window[1] <= 0:
                raise InvalidRequest("window: the width is above 0")
        if "viewport" in given:
            parts = given["viewport"].split(",")
            if len(parts) not in (2, 6):
                raise InvalidRequest("viewport=WIDTH,HEIGHT or WIDTH,HEIGHT,X,Y,WIDTH,HEIGHT")
            viewport = _whole(parts[0]), _whole(parts[1])
            if not all(1 <= side <= MOST_SIDE for side in viewport):
                raise InvalidRequest(f"viewport: sides are 1 to {MOST_SIDE}")
            if len(parts) == 6:
                x, y, width_, height_ = (_whole(part or "0") for part in parts[2:])
                region = x, y, width_, height_
        quality = _whole(given.get("quality", str(QUALITY)))
        if not 1 <= quality <= 100:
            raise InvalidRequest("quality is 1 to 100")
        return cls(window, viewport, region, quality)


def _number(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        raise InvalidRequest(f"not a number: {text[:40]!r}") from None
    if not math.isfinite(found):
        raise InvalidRequest(f"not a number: {text[:40]!r}")
    return found


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise InvalidRequest(f"not a whole number: {text[:40]!r}")
    return int(text)


async def rendered(services: "Services", request: Request) -> Response:
    """A frame as a picture; of an instance the first one."""
    return await _picture(services, request, None)


async def thumbnail(services: "Services", request: Request) -> Response:
    """A small picture of a study, series, instance or frame."""
    return await _picture(services, request, (THUMBNAIL, THUMBNAIL))


async def _picture(services: "Services", request: Request, size: tuple[int, int] | None) -> Response:
    place, media = Place.of(request), _media(ranges_of(request))
    look = Look.parse(request.query_params.multi_items())
    look = replace(look, viewport=look.viewport or size)
    numbers = frame_list(request.path_params["frames"]) if "frames" in request.path_params else []
    if len(numbers) > 1:
        raise NotAcceptable("one frame at a time is rendered")
    unsupported = sorted({"annotation", "iccprofile"} & request.query_params.keys())
    held = request.headers.get("if-none-match")
    return await services.run(_drawn, services, place, look, media, numbers, unsupported, held)


def _media(ranges: Sequence[MediaRange]) -> str:
    for one in ranges:
        for media in MEDIA:
            if one.matches(media) and not one.multipart:
                return media
    raise NotAcceptable(f"pictures are answered as {' or '.join(MEDIA)}")


def _drawn(
    services: "Services",
    place: Place,
    look: Look,
    media: str,
    numbers: Sequence[int],
    unsupported: Sequence[str],
    held: str | None,
) -> Response:
    found, opener = find(services, place), Opener(services)
    # The middle of a series shows more than its beginning.
    order = found if len(found) == 1 else [*found[len(found) // 2 :], *found[: len(found) // 2]]
    chosen = next((one for one in order if opener.open(one).has_pixels), None)
    if chosen is None:
        raise ImageNotFound("there is no picture of this")
    instance = opener.open(chosen)
    check_frames(instance, numbers)
    tag = commit_tag(services, [chosen], media, repr(look), *map(str, numbers))
    headers = {**PRIVATE, "ETag": tag, "Vary": "Accept"}
    if unsupported:
        headers["Warning"] = f'299 {place.service}: "not supported and not used: {", ".join(unsupported)}"'
    if held is not None and tag in (one.strip() for one in held.split(",")):
        return Response(status_code=304, headers=headers)
    picture = _draw(instance, numbers[0] - 1 if numbers else 0, look)
    return Response(_encode(picture, look, media), 200, headers, media)


def _draw(instance: Instance, frame: int, look: Look) -> NDArray[np.uint8]:
    """A frame (from 0), or a part of it, as uint8, (y, x) or (y, x, 3), reduced about as far as is wanted."""
    info = instance.image.info
    assert info is not None
    rows, columns = info.shape[-2:]
    x, y, width, height = look.region or (0, 0, columns, rows)
    if not (width > 0 and height > 0 and x + width <= columns and y + height <= rows):
        raise InvalidRequest(f"viewport: the part is not within {columns} x {rows}")
    wide, high = _fitted(look.viewport, width, height)
    level = max(0, min(instance.image.levels[-1], int(math.log2(max(1.0, min(width / wide, height / high))))))
    if info.categorical or (width >> level) * (height >> level) == 0:
        level = 0
    if (width >> level) * (height >> level) > MOST_PIXELS or wide * high > MOST_PIXELS:
        raise LimitExceeded("pixels of a picture", limit=MOST_PIXELS)
    values = instance.image.read(_window(instance, frame, level, (x, y, width, height)), level)
    stacked = tuple(0 if axis not in "cyx" else slice(None) for axis in info.axes)
    return to_preview(values[stacked], _shown(instance, frame, info, look))


def _fitted(viewport: tuple[int, int] | None, width: int, height: int) -> tuple[int, int]:
    """Width and height of a picture of so many pixels that fits a viewport, its proportions kept."""
    if viewport is None:
        return width, height
    scale = min(viewport[0] / width, viewport[1] / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _window(instance: Instance, frame: int, level: int, region: tuple[int, int, int, int]) -> Window:
    full = StoredFrames(instance.image, instance.number).window(frame)
    shape = instance.image.level_shape(level)
    x, y, width, height = region
    start = (*full.start[:-2], min(y >> level, shape[-2] - 1), min(x >> level, shape[-1] - 1))
    stop = (
        *full.stop[:-2],
        min(shape[-2], max(start[-2] + 1, -(-(y + height) >> level))),
        min(shape[-1], max(start[-1] + 1, -(-(x + width) >> level))),
    )
    return Window(start, stop)


def _shown(instance: Instance, frame: int, info: ImageInfo, look: Look) -> ImageInfo:
    """The image with the rescale and the window of one frame, or the window that is asked for."""
    display: Mapping[str, Any] = instance.file.record["display"]
    attributes = dict(info.attributes)
    rescale = _of_frame(display.get("rescales"), frame)
    window = look.window or _of_frame(display.get("windows"), frame)
    attributes.pop("rescale", None)
    attributes.pop("window", None)
    if rescale is not None:
        attributes["rescale"] = {"slope": rescale[0], "intercept": rescale[1]}
    if window is not None:
        attributes["window"] = {"center": window[0], "width": window[1]}
    return replace(info, attributes=attributes)


def _of_frame(values: Sequence[Any] | None, frame: int) -> Any:
    """The entry of a frame in a list that has one for each frame, or one for all."""
    return None if not values else values[0 if len(values) == 1 else frame]


def _encode(picture: NDArray[np.uint8], look: Look, media: str) -> bytes:
    """A picture, brought to its final size, as a file."""
    try:
        from PIL import Image
    except ImportError as error:
        raise UnsupportedSyntax("pictures need Pillow: pip install 'tilevault[serve]'") from error
    made = Image.fromarray(picture)
    width, height = _fitted(look.viewport, *made.size)
    if (width, height) != made.size:
        made = made.resize(
            (width, height), Image.Resampling.BOX if width < made.size[0] else Image.Resampling.BILINEAR
        )
    out = BytesIO()
    options = {"quality": look.quality} if media == "image/jpeg" else {}
    made.save(out, MEDIA[media], **options)
    return out.getvalue()
