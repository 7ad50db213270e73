"""``/api/images/{id}/quality``: what is recorded of each tile, as numbers and as a picture.

Of a lossless image that is what each tile costs; of a lossy one also what was lost, measured when it was
archived. Maps are shaped like the tile grid; positions along other axes than y and x are picked by name
(``z=3``), and where none is picked a map shows the worst of them.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tilevault.archive import Image
from tilevault.archive.quality import QUALITY_ARRAYS
from tilevault.archive.render import png_bytes
from tilevault.codecs.errors import InvalidRequest
from tilevault.codecs.metrics import PSNR_EXACT
from tilevault.workflows.serve.access import guarded
from tilevault.workflows.serve.answers import JsonResponse, etag_of, not_modified, pixels_response
from tilevault.workflows.serve.images import image_subject
from tilevault.workflows.serve.services import Services

__all__ = ["measure_map", "measures_of", "picture", "routes", "scale_of"]

VIRIDIS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
"""Dark (low) to light (high): ordered for every kind of sight."""
MAX_TILES = 1 << 20
"""Tiles of a map at most; one of more is asked for by position."""
LEAST_IS_WORST = ("psnr", "ssim")
"""Measures whose names begin so are worst where they are least; of the others the most is."""
NO_MAP = ("model",)


def measures_of(image: Image) -> dict[str, dict[str, str]]:
    """What there are maps of: unit (UDUNITS; "" the image's own) and description by name."""
    found = {"bits_per_sample": {"units": "bit", "long_name": "coded bits per sample"}}
    for array in QUALITY_ARRAYS:
        if array.name in image.quality.measures and array.name not in NO_MAP:
            found[array.name] = {"units": array.units, "long_name": array.long_name}
    return found


def measure_map(image: Image, measure: str, at: Mapping[str, int]) -> NDArray[np.float64]:
    """A measure over (rows, columns) of tiles; ``at``: samples along other axes. Raises `InvalidRequest`."""
    if measure not in measures_of(image):
        raise InvalidRequest(
            f"the image has no record of {measure!r:.40}; it has {', '.join(measures_of(image))}"
        )
    if measure == "bits_per_sample":
        values = image.quality.bits_per_sample
    else:
        values = np.asarray(getattr(image.quality, measure), np.float64)
    grid, axes = image.grid, _axes(image)
    chosen: list[Any] = [slice(None)] * values.ndim
    for name, position in at.items():
        if name not in axes[:-2] or not 0 <= position < image.shape[axes.index(name)]:
            raise InvalidRequest(f"no position {name}={position}; axes {axes} have {image.shape}")
        axis = axes.index(name)
        tile = position // grid.tile[axis]
        chosen[axis] = slice(tile, tile + 1)
    values = values[tuple(chosen)]
    worst = np.min if measure.startswith(LEAST_IS_WORST) else np.max
    found = np.asarray(worst(values, axis=tuple(range(values.ndim - 2))), np.float64)
    if found.size > MAX_TILES:
        raise InvalidRequest(f"the map has {found.shape[0]} x {found.shape[1]} tiles; {MAX_TILES} at most")
    return found


def picture(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.uint8]:
    """One pixel per tile, RGB, dark at ``low`` and light at ``high``."""
    span = high - low
    place = np.full(values.shape, 0.5) if span <= 0 else np.clip((values - low) / span, 0, 1)
    anchors = np.linspace(0, 1, len(VIRIDIS))
    colours = [np.interp(place, anchors, [colour[i] for colour in VIRIDIS]) for i in range(3)]
    return np.asarray(np.rint(np.stack(colours, axis=-1)), np.uint8)


def scale_of(values: NDArray[np.float64], measure: str) -> tuple[float, float]:
    """Lowest and highest value that the colours tell apart: without tiles that lost nothing at all."""
    told = values[values < PSNR_EXACT] if measure.startswith("psnr") else values
    told = told if told.size else values
    return float(told.min()), float(told.max())


def routes(services: Services) -> list[Route]:
    """Routes below ``/api/images/{id}/quality``."""

    async def listing(request: Request) -> Response:
        image = await services.run(services.image, request.path_params["id"])
        return JsonResponse(await services.run(_listing, image))

    async def numbers(request: Request) -> Response:
        image, measure, at = await asked(request)
        return JsonResponse(await services.run(_numbers, image, measure, at))

    async def drawn(request: Request) -> Response:
        image, measure, at = await asked(request)
        limits = request.query_params.get("rescale")
        etag = etag_of("quality", image.commit.sha256, measure, sorted(at.items()), limits)
        if (known := not_modified(request, etag)) is not None:
            return known
        return pixels_response(await services.run(_drawn, image, measure, at, limits), "image/png", etag)

    async def asked(request: Request) -> tuple[Image, str, dict[str, int]]:
        image = await services.run(services.image, request.path_params["id"])
        axes = _axes(image)
        given = {name: text for name, text in request.query_params.items() if name in axes[:-2]}
        return image, request.path_params["measure"], {name: _position(name, v) for name, v in given.items()}

    below = "/api/images/{id}/quality"
    return [
        Route(path, guarded(services, "read", image_subject, endpoint))
        for path, endpoint in (
            (below, listing),
            (below + "/{measure}.json", numbers),
            (below + "/{measure}.png", drawn),
        )
    ]


def _axes(image: Image) -> tuple[str, ...]:
    if image.info is None:
        raise InvalidRequest(f"image {image.id} holds no pixels")
    return image.info.axes


def _listing(image: Image) -> dict[str, Any]:
    axes, grid = _axes(image), image.grid
    return {
        "fidelity": image.fidelity,
        "axes": axes,
        "tiles": grid.tiles,
        "tile": grid.tile,
        "measures": measures_of(image),
        "summary": image.quality.summary,
    }


def _numbers(image: Image, measure: str, at: Mapping[str, int]) -> dict[str, Any]:
    values = measure_map(image, measure, at)
    low, high = scale_of(values, measure)
    return {
        "measure": measure,
        **measures_of(image)[measure],
        "tile": image.grid.tile[-2:],
        "extent": image.shape[-2:],
        "low": low,
        "high": high,
        # 999 dB says that nothing was lost; JSON has no infinity.
        "exact": PSNR_EXACT if measure.startswith("psnr") else None,
        "colours": VIRIDIS,
        "values": values.tolist(),
    }


def _drawn(image: Image, measure: str, at: Mapping[str, int], limits: str | None) -> bytes:
    values = measure_map(image, measure, at)
    low, high = scale_of(values, measure) if limits is None else _limits(limits)
    return png_bytes(picture(values, low, high))


def _position(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidRequest(f"{name} is a position counted from 0, not {text!r:.40}")
    return int(text)


def _limits(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InvalidRequest(f"rescale is LOW,HIGH, not {text!r:.60}")
    return low, high
