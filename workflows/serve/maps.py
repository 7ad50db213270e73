"""``/maps/{id}``: georeferenced images for map clients, by the routes and parameter names of TiTiler.

XYZ tiles in any TileMatrixSet that morecantile knows, TileJSON 3.0, ``/info``, ``/statistics``, ``/preview``,
``/bbox``, ``/point``. One difference: a picture that is not asked to be rescaled is stretched by what the
whole image holds (2nd to 98th percentile of each band), because few images of more than 8 bits can be seen
otherwise; ``rescale=`` says what to stretch, and ``format=tif`` or ``npy`` gives values as they are.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import urlencode

import morecantile
import numpy as np
from rio_tiler.colormap import cmap
from rio_tiler.constants import WGS84_CRS
from rio_tiler.models import ImageData
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tilevault.archive import Image
from tilevault.codecs.errors import ImageNotFound, InvalidRequest, LimitExceeded, UnsupportedSyntax
from tilevault.workflows.serve.access import Endpoint, guarded
from tilevault.workflows.serve.answers import JsonResponse, etag_of, not_modified, pixels_response
from tilevault.workflows.serve.images import image_subject
from tilevault.workflows.serve.projection import RESAMPLINGS, crs_named, translated
from tilevault.workflows.serve.scene import MAX_SIDE, SceneReader
from tilevault.workflows.serve.services import Services

__all__ = ["Look", "render", "routes"]

FORMATS = {
    "png": ("PNG", "image/png"),
    "jpg": ("JPEG", "image/jpeg"),
    "jpeg": ("JPEG", "image/jpeg"),
    "webp": ("WEBP", "image/webp"),
    "tif": ("GTiff", "image/tiff; application=geotiff"),
    "npy": ("NPY", "application/x-binary"),
}
VALUES = ("tif", "npy")
"""Formats that hold values, not a picture."""
NOT_OFFERED = ("expression", "colormap", "color_formula", "algorithm", "algorithm_params", "url")
SIDES = (64, 128, 256, 512, 1024)
SCALES = (1, 2, 3, 4)
RENDERING = 1
"""Counts up when the same request gives other pictures, so that no client keeps the old ones."""
MAX_BANDS = 16
MAX_CATEGORIES = 4096
USUAL_BYTES = 4096
"""What the usual limits of an image's bands take, about."""
MAX_BINS = 1024

_Telling = Callable[[SceneReader, Request], Response]
_Drawing = Callable[[SceneReader, Request], tuple[bytes, str]]


@dataclass(frozen=True)
class Look:
    """How values become a picture, as the query says."""

    indexes: tuple[int, ...] | None = None
    """Bands, counted from 1; None the image's natural ones."""
    rescale: tuple[tuple[float, float], ...] = ()
    """Limits for all bands, or for each."""
    colormap: str | None = None
    resampling: str = "bilinear"
    nodata: float | None = None
    """A further value that is no pixel."""
    unscale: bool = False
    """Values are multiplied by the bands' scale, and their offset is added."""
    mask: bool = True
    """The picture has an alpha band where its format knows one."""

    @classmethod
    def parse(cls, query: QueryParams) -> "Look":
        """Raises `InvalidRequest` for what makes no sense, `UnsupportedSyntax` for what is not offered."""
        for name in NOT_OFFERED:
            if name in query:
                raise UnsupportedSyntax(f"{name}= is not offered here")
        indexes = tuple(_whole(text, "bidx", 1, 1 << 16) for text in query.getlist("bidx"))
        if len(indexes) > MAX_BANDS:
            raise InvalidRequest(f"{len(indexes)} bands for one answer; {MAX_BANDS} at most")
        colormap = query.get("colormap_name")
        if colormap is not None and colormap not in cmap.list():
            raise InvalidRequest(f"no colour map {colormap!r:.40}")
        # TiTiler asks for the one when it reads and for the other when it warps; here both are one step.
        resampling = query.get("reproject", query.get("resampling", "bilinear"))
        if resampling not in RESAMPLINGS:
            raise InvalidRequest(f"no resampling {resampling!r:.40}")
        nodata = query.get("nodata")
        return cls(
            indexes or None,
            tuple(_limits(text) for text in query.getlist("rescale")),
            colormap,
            resampling,
            None if nodata is None else _number(nodata, "nodata", finite=False),
            _flag(query, "unscale", False),
            _flag(query, "return_mask", True),
        )


def render(image: ImageData, look: Look, reader: SceneReader, form: str | None) -> tuple[bytes, str]:
    """The bytes of a file and its media type; ``form``: a key of `FORMATS`, None for PNG or JPEG as fits."""
    if look.nodata is not None:
        absent = np.isnan(image.array.data) if math.isnan(look.nodata) else image.array.data == look.nodata
        image.array.mask = np.ma.getmaskarray(image.array) | absent
    if look.unscale:
        image.array = np.ma.MaskedArray(_unscaled(image, reader), np.ma.getmaskarray(image.array))
    if form not in VALUES:
        image = _seen(image, look, reader)
    hidden = bool((image.mask != 255).any())
    form = form or ("png" if hidden else "jpg")
    driver, media = FORMATS[form]
    hide = look.mask and form not in ("jpg", "jpeg")
    return translated(lambda: image.render(img_format=driver, add_mask=hide)), media


def _seen(image: ImageData, look: Look, reader: SceneReader) -> ImageData:
    """8 bits a band: rescaled, and coloured if so asked."""
    if image.count not in (1, 3):
        raise InvalidRequest(f"a picture has 1 or 3 bands, not {image.count}: choose them by bidx=")
    limits = look.rescale
    if not limits and (image.array.dtype != np.uint8 or look.unscale):
        limits = _stretch(reader, look.indexes or reader.default_indexes(), look.unscale)
    if len(limits) not in (0, 1, image.count):
        raise InvalidRequest(f"{len(limits)} limits for {image.count} bands")
    if limits:
        image.rescale(in_range=limits)
    if look.colormap is None:
        return image
    if image.count != 1:
        raise InvalidRequest("a colour map is for one band")
    return image.apply_colormap(cmap.get(look.colormap))


def _stretch(reader: SceneReader, indexes: Sequence[int], unscale: bool) -> tuple[tuple[float, float], ...]:
    """Limits for each band by what the whole image holds, so that all tiles of it look alike."""
    limits = []
    for i in indexes:
        scale, offset = reader.scaling(i) if unscale else (1.0, 0.0)
        low, high = sorted(limit * scale + offset for limit in reader.usual(i))
        limits.append((low, high if high > low else low + 1))
    return tuple(limits)


def _unscaled(image: ImageData, reader: SceneReader) -> Any:
    factors = [reader.scaling(int(name[1:])) for name in image.band_names]
    scale, offset = (np.array(part)[:, None, None] for part in zip(*factors, strict=True))
    return image.array.data * scale + offset


def routes(services: Services) -> list[Route]:
    """Routes below ``/maps/{id}``."""

    async def scene(request: Request) -> SceneReader:
        image = await services.run(services.image, request.path_params["id"])
        # What it finds out of the image is asked for by every tile; the image itself is not to be held on to.
        usual = services.kept.made(("usual", image.commit.sha256), dict, lambda _: USUAL_BYTES)
        return await services.run(_reader, image, request.path_params.get("tms", "WebMercatorQuad"), usual)

    def told(compute: _Telling) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            return await services.run(compute, await scene(request), request)

        return endpoint

    def drawn(compute: _Drawing) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            reader = await scene(request)
            where = sorted(request.path_params.items()), request.query_params.multi_items()
            key = ("map", reader.input.commit.sha256, compute.__name__, repr(where))
            etag = etag_of(RENDERING, *key)
            if (known := not_modified(request, etag)) is not None:
                return known
            made = services.kept.get(key)
            if made is None:
                made = await services.run_once(key, compute, reader, request)
                services.kept.put(key, made, len(made[0]))
            body, media = made
            return pixels_response(body, media, etag)

        return endpoint

    telling = (
        ("/info", _info),
        ("/info.geojson", _info_geojson),
        ("/statistics", _statistics),
        ("/point/{lon},{lat}", _point),
        ("/{tms}/tilejson.json", _tilejson),
    )
    drawing = (
        *_with_formats("/tiles/{tms}/{z:int}/{x:int}/{y:int}@{scale:int}x", _tile),
        *_with_formats("/tiles/{tms}/{z:int}/{x:int}/{y:int}", _tile),
        *_with_formats("/preview/{width:int}x{height:int}", _preview),
        *_with_formats("/preview", _preview),
        *_with_formats("/bbox/{minx},{miny},{maxx},{maxy}/{width:int}x{height:int}", _bbox),
        ("/bbox/{minx},{miny},{maxx},{maxy}.{format}", _bbox),
    )
    table = [(path, told(compute)) for path, compute in telling]
    table += [(path, drawn(compute)) for path, compute in drawing]
    return [
        Route(f"/maps/{{id}}{path}", guarded(services, "read", image_subject, endpoint))
        for path, endpoint in table
    ]


def _with_formats(path: str, compute: _Drawing) -> tuple[tuple[str, _Drawing], ...]:
    return (f"{path}.{{format}}", compute), (path, compute)


def _reader(image: Image, tms: str, usual: dict[int, tuple[float, float]]) -> SceneReader:
    if tms not in morecantile.tms.list():
        raise ImageNotFound(f"no TileMatrixSet {tms!r:.40}")
    return SceneReader(image, _tms(tms), usual=usual)


@lru_cache(maxsize=64)
def _tms(name: str) -> morecantile.TileMatrixSet:
    return morecantile.tms.get(name)


def _info(reader: SceneReader, request: Request) -> Response:
    return JsonResponse(_described(reader))


def _described(reader: SceneReader) -> dict[str, Any]:
    return dict(reader.info().model_dump(mode="json", exclude_none=True))


def _info_geojson(reader: SceneReader, request: Request) -> Response:
    west, south, east, north = reader.get_geographic_bounds(WGS84_CRS)
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    feature = {
        "type": "Feature",
        "bbox": [west, south, east, north],
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": _described(reader),
    }
    return JsonResponse(feature, {"Content-Type": "application/geo+json"})


def _statistics(reader: SceneReader, request: Request) -> Response:
    query = request.query_params
    look = Look.parse(query)
    percentiles = [_whole(text, "p", 0, 100) for text in query.getlist("p")]
    bins = _whole(query.get("histogram_bins", "10"), "histogram_bins", 1, MAX_BINS)
    found = reader.statistics(
        look.indexes,
        categorical=_flag(query, "categorical", False),
        percentiles=percentiles or None,
        hist_options={"bins": bins},
    )
    if any(len(band.histogram[0]) > max(bins, MAX_CATEGORIES) for band in found.values()):
        raise LimitExceeded(f"more than {MAX_CATEGORIES} values are no categories")
    bands = {name: band.model_dump(mode="json", exclude_none=True) for name, band in found.items()}
    return JsonResponse(bands)


def _point(reader: SceneReader, request: Request) -> Response:
    path, query = request.path_params, request.query_params
    lon, lat = _number(path["lon"], "lon"), _number(path["lat"], "lat")
    found = reader.point(lon, lat, Look.parse(query).indexes, crs_named(query.get("coord_crs")) or WGS84_CRS)
    return JsonResponse(
        {
            "coordinates": [lon, lat],
            "values": found.array.tolist(),
            "band_names": found.band_names,
            "band_descriptions": found.band_descriptions,
        }
    )


def _tilejson(reader: SceneReader, request: Request) -> Response:
    """TileJSON 3.0.0; the query goes into the address of the tiles as it is."""
    query = request.query_params
    Look.parse(query)
    form, side = query.get("tile_format"), query.get("tilesize")
    if form is not None:
        _form({"format": form})
    template = f"/maps/{request.path_params['id']}/tiles/{request.path_params['tms']}/{{z}}/{{x}}/{{y}}"
    passed = [
        (name, value)
        for name, value in query.multi_items()
        if name not in ("tile_format", "minzoom", "maxzoom")
    ]
    address = str(request.base_url).rstrip("/") + template + (f".{form}" if form else "")
    zooms = [
        _whole(query.get(name, str(default)), name, 0, 30)
        for name, default in (("minzoom", reader.minzoom), ("maxzoom", reader.maxzoom))
    ]
    west, south, east, north = reader.get_geographic_bounds(reader.tms.rasterio_geographic_crs)
    return JsonResponse(
        {
            "tilejson": "3.0.0",
            "name": reader.input.description.name,
            "version": "1.0.0",
            "scheme": "xyz",
            "tiles": [address + (f"?{urlencode(passed)}" if passed else "")],
            "minzoom": zooms[0],
            "maxzoom": zooms[1],
            "bounds": [west, south, east, north],
            "center": [(west + east) / 2, (south + north) / 2, zooms[0]],
            **({"tileSize": int(side)} if side and side.isdigit() else {}),
        }
    )


def _tile(reader: SceneReader, request: Request) -> tuple[bytes, str]:
    path, query = request.path_params, request.query_params
    side = _whole(query.get("tilesize", "256"), "tilesize", 1, MAX_SIDE)
    scale = path.get("scale", 1)
    if side not in SIDES or scale not in SCALES:
        raise InvalidRequest(f"tiles have one of {SIDES} pixels along a side, times one of {SCALES}")
    look = Look.parse(query)
    found = reader.tile(path["x"], path["y"], path["z"], side * scale, look.indexes, look.resampling)
    return _picture(found, look, reader, request)


def _preview(reader: SceneReader, request: Request) -> tuple[bytes, str]:
    look, crs = Look.parse(request.query_params), crs_named(request.query_params.get("dst_crs"))
    size = _size(request)
    return _picture(
        reader.preview(indexes=look.indexes, dst_crs=crs, resampling=look.resampling, **size),
        look,
        reader,
        request,
    )


def _bbox(reader: SceneReader, request: Request) -> tuple[bytes, str]:
    path, query = request.path_params, request.query_params
    left, bottom, right, top = (_number(path[name], name) for name in ("minx", "miny", "maxx", "maxy"))
    look = Look.parse(query)
    found = reader.part(
        (left, bottom, right, top),
        crs_named(query.get("coord_crs")) or WGS84_CRS,
        crs_named(query.get("dst_crs")),
        indexes=look.indexes,
        resampling=look.resampling,
        **_size(request),
    )
    return _picture(found, look, reader, request)


def _picture(found: ImageData, look: Look, reader: SceneReader, request: Request) -> tuple[bytes, str]:
    return render(found, look, reader, _form({**request.query_params, **request.path_params}))


def _size(request: Request) -> dict[str, int | None]:
    """``height``, ``width`` and ``max_size`` of the path or the query."""
    given = {**request.query_params, **request.path_params}
    size = {
        name: None if name not in given else _whole(str(given[name]), name, 1, MAX_SIDE)
        for name in ("height", "width")
    }
    return {**size, "max_size": _whole(str(given.get("max_size", 1024)), "max_size", 1, MAX_SIDE)}


def _form(given: Mapping[str, Any]) -> str | None:
    form = given.get("format")
    if form is not None and form not in FORMATS:
        raise InvalidRequest(f"formats are {', '.join(FORMATS)}, not {form!r:.40}")
    return form


def _whole(text: str, name: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and low <= int(text) <= high):
        raise InvalidRequest(f"{name} is an integer from {low} to {high}, not {text!r:.40}")
    return int(text)


def _number(text: str, name: str, finite: bool = True) -> float:
    try:
        number = float(text)
    except ValueError:
        number, finite = math.nan, True
    if finite and not math.isfinite(number):
        raise InvalidRequest(f"{name} is a number, not {text!r:.40}")
    return number


def _limits(text: str) -> tuple[float, float]:
    low, _, high = text.partition(",")
    limits = _number(low, "rescale"), _number(high, "rescale")
    if limits[0] >= limits[1]:
        raise InvalidRequest(f"rescale is LOW,HIGH, not {text!r:.60}")
    return limits


def _flag(query: QueryParams, name: str, default: bool) -> bool:
    text = query.get(name, str(default)).lower()
    if text not in ("true", "false", "1", "0"):
        raise InvalidRequest(f"{name} is true or false, not {text!r:.40}")
    return text in ("true", "1")
