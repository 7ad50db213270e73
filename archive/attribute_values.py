"""Single values on their way into Zarr documents: floats that JSON has no word for, nodata, fill values."""

import base64
import math
import re
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from tilevault.archive.image import ImageInfo

__all__ = ["cf_fill_value", "fill_value", "finite", "json_safe", "nodata_word"]


def json_safe(value: Any) -> Any:
    """``value`` with tuples as lists, and NaN and infinities as Zarr spells them ("NaN", "-Infinity")."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): json_safe(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(child) for child in value]
    if isinstance(value, np.generic):
        return json_safe(value.item())
    return value


def finite(value: Any) -> float | None:
    """A number of an image's attributes; None where it is none, or not finite.

    Attributes hold floats that JSON cannot tell apart (-0.0, NaN) as ``"float64:"`` and 16 hex digits.
    """
    if isinstance(value, str) and re.fullmatch(r"float64:[0-9a-f]{16}", value):
        (value,) = struct.unpack(">d", bytes.fromhex(value.removeprefix("float64:")))
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def nodata_word(info: ImageInfo) -> Any | None:
    """The nodata value as a word of the image's dtype; None where there is none or no word can equal it."""
    if info.nodata is None:
        return None
    dtype, nodata = info.dtype, info.nodata
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if not math.isfinite(nodata) or nodata != int(nodata) or not limits.min <= nodata <= limits.max:
            return None
        return dtype.type(int(nodata))
    if dtype.kind in "fc":
        with np.errstate(over="ignore"):
            word = dtype.type(nodata)
        overflowed = math.isfinite(nodata) and not np.isfinite(word)
        return None if overflowed else word
    return None


def fill_value(info: ImageInfo) -> Any:
    """The ``fill_value`` of the Zarr array ``data``, a scalar of its dtype.

    Nodata where there is one. Otherwise a word that is least likely to be a pixel, because GDAL and
    rio-tiler take the fill value for nodata whatever else is written: NaN, the minimum of a signed type,
    the maximum of an unsigned type wider than 8 bits. 0 for 8 bits, where 0 is the collar and 255 is cloud.
    Medical images have 0: their readers do not look.
    """
    word = nodata_word(info)
    if word is not None:
        return word
    dtype = info.dtype
    if info.kind == "satellite":
        if dtype.kind == "f":
            return dtype.type(np.nan)
        if dtype.kind == "c":
            return dtype.type(complex(np.nan, np.nan))
        if dtype.kind == "i":
            return dtype.type(np.iinfo(dtype).min)
        if dtype.kind == "u" and dtype.itemsize > 1:
            return dtype.type(np.iinfo(dtype).max)
    return dtype.type(0)


def cf_fill_value(word: Any) -> Any:
    """``_FillValue`` as xarray spells it in Zarr v3: a number for integers, base64 of float64 for floats."""
    if isinstance(word, np.complexfloating):
        return [_base64(float(word.real)), _base64(float(word.imag))]
    if isinstance(word, np.floating):
        return _base64(float(word))
    return int(word)


def _base64(value: float) -> str:
    return base64.standard_b64encode(struct.pack("<d", value)).decode("ascii")
