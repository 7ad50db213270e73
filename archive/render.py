"""A picture to look at: stored values to 8-bit grey or RGB, and a PNG of it.

Display follows DICOM where the image says how (VOI window after rescale, PS3.3 C.11.2.1.2; photometric
interpretation, C.7.6.3.1.2) and a 2-98 percentile stretch where it does not. A preview is for recognising an
image: nothing is measured on it, and nothing in it goes back into the archive.
"""

import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevault.archive.attribute_values import nodata_word
from tilevault.archive.image import ImageInfo
from tilevault.codecs.errors import InvalidRequest

__all__ = ["Limits", "display_limits", "png_bytes", "to_preview"]

Picture = NDArray[np.uint8]
Plane = NDArray[Any]
Limits = tuple[tuple[float, float], ...]
"""Values that become 0 and 255, for each plane that is shown (or one pair for all)."""

PERCENTILES = (2, 98)
MEMORY = 9
"""zlib's memLevel: the most that it takes, 256 KiB."""
SAMPLED = 1 << 20
"""Pixels that percentiles are taken of, at most: more do not move them visibly."""
YBR_PHOTOMETRICS = ("YBR_FULL", "YBR_FULL_422")
"""What is still Y, Cb, Cr in the stored words. Decoders undo YBR_ICT and YBR_RCT on the way."""


def to_preview(
    values: NDArray[Any],
    info: ImageInfo,
    max_side: int | None = None,
    mask: NDArray[np.uint8] | None = None,
    limits: Limits | None = None,
) -> Picture:
    """Render ``values`` (any level or window of the image) as uint8, (y, x) grey or (y, x, 3) RGB.

    With a ``mask``, or where a band of the image is its alpha, opacity is added: (y, x, 2) or (y, x, 4).
    ``values``: samples with the image's axes, or with some of them already indexed away: (y, x), (c, y, x).
    Of axes other than c the middle plane is shown. ``mask``: (y, x), 0 where there is no pixel; such pixels,
    nodata and NaN are black and do not count for the stretch. With ``max_side``, reduced by a whole factor
    so that neither side exceeds it. ``limits``: of the whole image, from `display_limits`, in the place of
    the percentiles of ``values``; windows of one image then have one contrast. Raises `InvalidRequest` for
    values that are no picture of ``info``.
    """
    if max_side is not None and max_side < 1:
        raise InvalidRequest(f"a preview has sides of at least 1 pixel, not {max_side}")
    planes, position = _planes(np.asarray(values), info)
    if mask is not None and mask.shape != planes.shape[-2:]:
        raise InvalidRequest(f"mask of shape {mask.shape} for an image of {planes.shape[-2:]}")
    if planes.shape[0] == 2 and info.attributes.get("photometric") == "YBR_FULL_422":
        planes = _with_full_chroma(planes)
    alpha, planes, info = _without_alpha(planes, info)
    factor = 1 if max_side is None else -(-max(planes.shape[-2:]) // max_side)
    discrete = info.categorical or _is_palette(info)
    # Twice oversampled and then averaged looks as good as averaging all, at a fraction of the work.
    stride = factor if discrete else max(1, factor // 2)
    planes = planes[:, ::stride, ::stride]
    valid = _valid(planes, info, None if mask is None else mask[::stride, ::stride])
    opacity = None if mask is None and alpha is None else np.full(valid.shape, 255, np.uint8)
    if alpha is not None:
        opacity = alpha[::stride, ::stride]
        valid &= opacity != 0
    picture = _render(planes, valid, info, position, limits)
    picture[~valid] = 0
    if opacity is not None:
        opacity = np.where(valid, opacity, 0).astype(np.uint8)
    if not discrete and factor > 1:
        factor = -(-max(picture.shape[:2]) // max(1, max_side or 1))
        return _shrink(picture, factor) if opacity is None else _shrink_shown(picture, opacity, factor)
    return picture if opacity is None else np.dstack([picture, opacity])


def display_limits(
    values: NDArray[Any], info: ImageInfo, mask: NDArray[np.uint8] | None = None
) -> Limits | None:
    """What `to_preview` stretches ``values`` by: 2-98 percentiles of each plane; None where it does not.

    Arguments as of `to_preview`; values of a coarse level serve for all of them.
    """
    planes, _ = _planes(np.asarray(values), info)
    alpha, planes, info = _without_alpha(planes, info)
    valid = _valid(planes, info, mask)
    if alpha is not None:
        valid &= alpha != 0
    shown = _stretched(planes, info)
    return None if shown is None else tuple(_percentiles(plane, valid) for plane in shown)


def _stretched(planes: Plane, info: ImageInfo) -> Plane | None:
    """The planes that a picture shows, if it stretches them; None where the image says how to show them."""
    if planes.shape[0] == 1 or (info.kind == "satellite" and planes.shape[0] == 2):
        if _through_palette(planes[0, :1, :1], info.attributes) is not None or _window(info, planes[0]):
            return None
        return None if _holds_display_values(info) else planes[:1]
    if info.kind == "satellite":
        chosen, natural = _chosen_bands(planes, info)
        return None if natural and info.dtype == np.uint8 else chosen
    colour = info.attributes.get("photometric") in YBR_PHOTOMETRICS or planes.shape[0] == 3
    return None if colour and planes.dtype.kind in "iu" else planes[: 3 if planes.shape[0] == 3 else 1]


def png_bytes(picture: NDArray[np.uint8], fast: bool = False) -> bytes:
    """``picture``, uint8, as a PNG file: (y, x) grey, (y, x, 2) with alpha, (y, x, 3) RGB, (y, x, 4) RGBA.

    ``fast`` looks for runs only: about as small for photographs and scans, in a fifth of the time.
    """
    shape = picture.shape
    colour_type = {2: 0, 3: {2: 4, 3: 2, 4: 6}.get(shape[-1])}.get(picture.ndim)
    if picture.dtype != np.uint8 or colour_type is None or 0 in shape:
        raise InvalidRequest(f"not a picture: {picture.dtype} of shape {shape}")
    height, width = shape[:2]
    rows = np.ascontiguousarray(picture).reshape(height, -1)
    # Filter type 2, Up: each row as its difference from the one above (PNG 9.2).
    filtered = np.empty((height, rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = 2
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    strategy = zlib.Z_RLE if fast else zlib.Z_DEFAULT_STRATEGY
    deflate = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS, MEMORY, strategy)
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(name, body)
        for name, body in (
            (b"IHDR", header),
            (b"IDAT", deflate.compress(filtered.tobytes()) + deflate.flush()),
            (b"IEND", b""),
        )
    )


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _planes(values: Plane, info: ImageInfo) -> tuple[Plane, int | None]:
    """The samples of one picture as (c, y, x), and its position along the innermost other axis, if known."""
    axes = info.axes
    if values.ndim == 3 and "c" in axes:
        axes = ("c", "y", "x")
    elif values.ndim == 2:
        axes = ("y", "x")
    if values.ndim != len(axes) or 0 in values.shape:
        raise InvalidRequest(f"values of shape {values.shape} for an image with axes {info.axes}")
    position = None
    for i in reversed(range(len(axes) - 2)):
        if axes[i] != "c":
            middle = values.shape[i] // 2
            position = middle if position is None else position
            values = values.take(middle, axis=i)
    return (values if values.ndim == 3 else values[np.newaxis]), position


def _valid(planes: Plane, info: ImageInfo, mask: NDArray[np.uint8] | None) -> NDArray[np.bool_]:
    """Where the picture has a pixel: unmasked, finite, and not nodata in every sample."""
    valid = np.isfinite(planes).all(axis=0)
    if mask is not None:
        valid &= mask != 0
    nodata = nodata_word(info)
    if nodata is not None:
        valid &= ~(planes == nodata).all(axis=0)
    return np.asarray(valid)


def _without_alpha(planes: Plane, info: ImageInfo) -> tuple[Picture | None, Plane, ImageInfo]:
    """The band that is called alpha, in 8 bits (None without one), and the image without it."""
    bands = info.attributes.get("bands") or []
    names = [str(b.get("color_interp", "")).lower() if isinstance(b, Mapping) else "" for b in bands]
    if info.kind != "satellite" or len(names) != planes.shape[0] or len(names) < 2 or "alpha" not in names:
        return None, planes, info
    at = names.index("alpha")
    plane, rest = planes[at], [band for i, band in enumerate(bands) if i != at]
    if plane.dtype.kind in "iu":
        full = float(np.iinfo(plane.dtype).max)
        # What is nearly transparent is still there.
        alpha = np.clip(np.ceil(plane.astype(np.float64) * (255.0 / full)), 0, 255).astype(np.uint8)
    else:
        alpha = np.where(plane != 0, 255, 0).astype(np.uint8)
    return alpha, np.delete(planes, at, axis=0), replace(info, attributes={**info.attributes, "bands": rest})


def _is_palette(info: ImageInfo) -> bool:
    return bool(info.attributes.get("colormap") or info.attributes.get("palette"))


def _render(
    planes: Plane, valid: NDArray[np.bool_], info: ImageInfo, position: int | None, limits: Limits | None
) -> Picture:
    attributes = info.attributes
    photometric = str(attributes.get("photometric") or "")
    if planes.shape[0] == 1 or (info.kind == "satellite" and planes.shape[0] == 2):
        coloured = _through_palette(planes[0], attributes)
        if coloured is not None:
            return coloured
        grey = _grey(planes[0], valid, info, position, limits)
        return 255 - grey if photometric == "MONOCHROME1" else grey
    if info.kind == "satellite":
        return _bands(planes, valid, info, limits)
    bits = info.bits_stored or info.dtype.itemsize * 8
    if photometric in YBR_PHOTOMETRICS and planes.shape[0] >= 3:
        return _ybr_to_rgb(planes, bits)
    if planes.shape[0] == 3:
        return _stack(_to_8_bits(plane, bits, _limit(limits, i)) for i, plane in enumerate(planes))
    return _grey(planes[0], valid, info, position, limits)


def _stack(planes: Any) -> Picture:
    return np.stack(list(planes), axis=-1)


def _limit(limits: Limits | None, i: int) -> tuple[float, float] | None:
    """The limits of plane ``i``; the last pair serves for those that have none of their own."""
    return limits[min(i, len(limits) - 1)] if limits else None


def _grey(
    plane: Plane, valid: NDArray[np.bool_], info: ImageInfo, position: int | None, limits: Limits | None
) -> Picture:
    window = _window(info, plane)
    if window is not None:
        voi = _voi_linear_exact if plane.dtype.kind == "f" else _voi_linear
        return _mapped(plane, voi, *_factors(info, position), *window)
    if limits is None and _holds_display_values(info):
        return _to_8_bits(plane, info.bits_stored or 8)
    return _stretch(plane, valid, _limit(limits, 0))


def _window(info: ImageInfo, plane: Plane) -> tuple[float, float] | None:
    """Centre and width of the image's display window, if they are sound for values of this type."""
    window = info.attributes.get("window")
    if not isinstance(window, Mapping):
        return None
    center, width = _number(window.get("center")), _number(window.get("width"))
    if center is None or width is None or width <= 0:
        return None
    return (center, width) if plane.dtype.kind == "f" or width >= 1 else None


def _holds_display_values(info: ImageInfo) -> bool:
    """8-bit medical images without a window hold display values already."""
    return info.kind == "medical" and info.dtype == np.uint8 and not info.categorical


def _voi_linear(plane: Plane, slope: float, intercept: float, center: float, width: float) -> Picture:
    """The linear VOI function, PS3.3 C.11.2.1.2.1, of rescaled values (C.11.1.1.2), to 0..255."""
    values = plane.astype(np.float64) * slope + intercept
    if width == 1:
        return np.where(values > center - 0.5, 255, 0).astype(np.uint8)
    ramp = (values - (center - 0.5)) / (width - 1) + 0.5
    return _rounded(ramp * 255)


def _voi_linear_exact(plane: Plane, slope: float, intercept: float, center: float, width: float) -> Picture:
    """LINEAR_EXACT, PS3.3 C.11.2.1.3.2, to 0..255: for values that are not counted in whole steps."""
    values = plane.astype(np.float64) * slope + intercept
    return _rounded(((values - center) / width + 0.5) * 255)


def _factors(info: ImageInfo, position: int | None) -> tuple[float, float]:
    """Slope and intercept to units of the modality, PS3.3 C.11.1.1.2; lists hold one value per plane."""
    rescale = info.attributes.get("rescale")
    if not isinstance(rescale, Mapping):
        return 1.0, 0.0
    slope, intercept = (
        _number(_of_plane(rescale.get(key, default), position))
        for key, default in (("slope", 1.0), ("intercept", 0.0))
    )
    return (1.0 if slope is None else slope), (intercept or 0.0)


def _of_plane(value: Any, position: int | None) -> Any:
    if isinstance(value, list | tuple):
        return value[min(position or 0, len(value) - 1)] if value else None
    return value


def _stretch(plane: Plane, valid: NDArray[np.bool_], limits: tuple[float, float] | None = None) -> Picture:
    """2-98 percentiles of the valid pixels, or ``limits``, to 0..255."""
    low, high = _percentiles(plane, valid) if limits is None else limits
    if not low < high:
        return np.zeros(plane.shape, np.uint8)
    return _mapped(plane, _ramp, low, high)


def _ramp(plane: Plane, low: float, high: float) -> Picture:
    with np.errstate(over="ignore", invalid="ignore"):
        # Halves, because high - low of two float64 extremes overflows.
        return _rounded((_real(plane).astype(np.float64) / 2 - low / 2) / (high / 2 - low / 2) * 255)


def _mapped(plane: Plane, function: Callable[..., Picture], *arguments: float) -> Picture:
    """``function(plane, *arguments)``, which looks at each sample alone: by a table where that is faster."""
    dtype = plane.dtype
    if dtype.kind not in "iu" or dtype.itemsize > 2 or plane.size < 1 << 8 * dtype.itemsize:
        return function(plane, *arguments)
    index = np.ascontiguousarray(plane).view(f"u{dtype.itemsize}")
    mapped: Picture = _table(function, dtype.str, *arguments)[index]
    return mapped


@lru_cache(32)
def _table(function: Callable[..., Picture], dtype: str, *arguments: float) -> Picture:
    """What ``function`` makes of every value of a narrow integer type, by its bits."""
    bits = np.arange(1 << 8 * np.dtype(dtype).itemsize).astype(f"u{np.dtype(dtype).itemsize}")
    return function(bits.view(dtype), *arguments)


def _percentiles(plane: Plane, valid: NDArray[np.bool_]) -> tuple[float, float]:
    """2-98 percentiles of the valid pixels; the full range where those two coincide, (0, 0) of nothing."""
    real = _real(plane)
    seen = real[valid & np.isfinite(real)]
    if seen.size == 0:
        return 0.0, 0.0
    seen = seen[:: -(-seen.size // SAMPLED)].astype(np.float64)
    low, high = np.percentile(seen, PERCENTILES, method="nearest")
    return (float(low), float(high)) if low < high else (float(seen.min()), float(seen.max()))


def _real(plane: Plane) -> Plane:
    """Complex samples as their magnitudes."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.abs(plane) if plane.dtype.kind == "c" else plane


def _bands(planes: Plane, valid: NDArray[np.bool_], info: ImageInfo, limits: Limits | None) -> Picture:
    """Red, green and blue of a multi-band image: by colour interpretation, else the first three bands."""
    chosen, natural = _chosen_bands(planes, info)
    if natural and info.dtype == np.uint8 and limits is None:
        return _stack(plane.astype(np.uint8) for plane in chosen)
    return _stack(_stretch(plane, valid, _limit(limits, i)) for i, plane in enumerate(chosen))


def _chosen_bands(planes: Plane, info: ImageInfo) -> tuple[Plane, bool]:
    """The three bands that are shown, and whether they are red, green and blue by name."""
    bands = info.attributes.get("bands") or []
    names = [str(b.get("color_interp", "")).lower() if isinstance(b, Mapping) else "" for b in bands]
    named = [names.index(colour) for colour in ("red", "green", "blue") if colour in names]
    natural = len(named) == 3 and max(named) < planes.shape[0]
    return (planes[named] if natural else planes[:3]), natural


def _ybr_to_rgb(planes: Plane, bits: int) -> Picture:
    """PS3.3 C.7.6.3.1.2."""
    half = float(1 << (bits - 1))
    luma, blue, red = (planes[i].astype(np.float64) for i in range(3))
    blue, red = blue - half, red - half
    rgb = (luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue)
    return _stack(_rounded(plane * (255.0 / ((1 << bits) - 1))) for plane in rgb)


def _with_full_chroma(planes: Plane) -> Plane:
    """YBR_FULL_422 as stored (Y; Cb and Cr in turn along each row) to Y, Cb, Cr of full size."""
    luma, pairs = planes
    width = luma.shape[1]
    blue = np.repeat(pairs[:, 0::2], 2, axis=1)[:, :width]
    # A row of odd length ends with a Cb; its Cr is that of the pair before.
    red = np.repeat(pairs[:, 1::2], 2, axis=1) if width > 1 else pairs
    return np.stack([luma, blue, np.pad(red, ((0, 0), (0, width - red.shape[1])), mode="edge")])


def _through_palette(plane: Plane, attributes: Mapping[str, Any]) -> Picture | None:
    """The plane through its colour table, or None where it has no sound one.

    Indices beyond a GeoTIFF's table are black; beyond a DICOM palette they take the nearest entry
    (PS3.3 C.7.6.3.1.5).
    """
    if plane.dtype.kind not in "iu":
        return None
    try:
        if isinstance(attributes.get("palette"), Mapping):
            return _dicom_palette(plane.astype(np.int64), attributes["palette"])
        if isinstance(attributes.get("colormap"), Mapping):
            return _colormap(plane.astype(np.int64), attributes["colormap"])
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        return None
    return None


def _colormap(index: NDArray[np.int64], colormap: Mapping[str, Any]) -> Picture:
    """``colormap``: {"1": [[r, g, b, a], ...]} of 8 bits. Fails with what a broken table fails with."""
    table = np.array([entry[:3] for entry in colormap["1"]], np.int64)
    if table.ndim != 2 or table.shape[1] != 3:
        raise ValueError("a colour has three numbers")
    black = len(table)
    index = np.where((index < 0) | (index >= black), black, index)
    return np.vstack([np.clip(table, 0, 255), np.zeros((1, 3), np.int64)]).astype(np.uint8)[index]


def _dicom_palette(index: NDArray[np.int64], palette: Mapping[str, Any]) -> Picture:
    """``palette``: "red", "green", "blue" (equally long lists), "first" (mapped value), "bits" (8 or 16).

    Fails with what a broken palette fails with.
    """
    table = np.array([palette[colour] for colour in ("red", "green", "blue")], np.int64)
    # Entries said to have 16 bits that all fit 8 are 8-bit entries (a common fault of writers).
    if int(palette["bits"]) > 8 and table.max() > 255:
        table >>= 8
    place = np.clip(index - int(palette["first"]), 0, table.shape[1] - 1)
    return np.clip(table, 0, 255).astype(np.uint8).T[place]


def _to_8_bits(plane: Plane, bits: int, limits: tuple[float, float] | None = None) -> Picture:
    if plane.dtype.kind not in "iu" or limits is not None:
        return _stretch(plane, np.isfinite(plane), limits)
    return _rounded(plane.astype(np.float64) * (255.0 / ((1 << bits) - 1)))


def _rounded(values: NDArray[np.float64]) -> Picture:
    """To the nearest of 0..255; NaN becomes 0."""
    picture: Picture = np.clip(np.nan_to_num(np.rint(values), nan=0.0), 0, 255).astype(np.uint8)
    return picture


def _shrink(picture: Picture, factor: int) -> Picture:
    """Mean of blocks of ``factor`` x ``factor`` pixels; the last row and column repeat to fill theirs."""
    if factor == 1:
        return picture
    return _rounded(_block_means(picture, factor))


def _shrink_shown(picture: Picture, opacity: Picture, factor: int) -> Picture:
    """`_shrink` of a picture and its opacity: what is not to be seen does not colour what is."""
    colours = picture.reshape(*opacity.shape, -1).astype(np.float64)
    weight = opacity[..., np.newaxis] / 255.0
    shown = _block_means(weight, factor)
    mixed = _block_means(colours * weight, factor) / np.where(shown > 0, shown, 1)
    return _rounded(np.concatenate([mixed, shown * 255], axis=-1))


def _block_means(values: NDArray[Any], factor: int) -> NDArray[np.float64]:
    pad = [(0, -n % factor) for n in values.shape[:2]] + [(0, 0)] * (values.ndim - 2)
    whole = np.pad(values, pad, mode="edge")
    height, width = whole.shape[0] // factor, whole.shape[1] // factor
    blocks = whole.reshape(height, factor, width, factor, *values.shape[2:])
    return np.asarray(blocks.mean(axis=(1, 3)), np.float64)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        return None
    return float(value)
