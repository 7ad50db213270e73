"""Pictures as files: PNG, JPEG, WebP, with the settings that are fast."""

import io

import numpy as np
from numpy.typing import NDArray

from tilevault.archive.image import ImageInfo
from tilevault.archive.render import png_bytes
from tilevault.codecs.errors import UnsupportedSyntax

__all__ = ["FORMATS", "encoded", "fitting_format"]

FORMATS = {"png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "webp": "image/webp"}
"""Names in addresses -> media types."""
QUALITY = 85


def encoded(picture: NDArray[np.uint8], format: str) -> bytes:
    """``picture`` (as `archive.render.png_bytes` takes it) in a format of `FORMATS`.

    JPEG has no opacity: what is not there is black. Raises `UnsupportedSyntax` without Pillow.
    """
    if format == "png":
        return png_bytes(picture, fast=True)
    try:
        from PIL import Image
    except ImportError as error:
        raise UnsupportedSyntax("JPEG and WebP need Pillow: pip install 'tilevault[serve]'") from error
    if format != "webp" and picture.ndim == 3 and picture.shape[-1] in (2, 4):
        opacity = picture[..., -1:].astype(np.uint16)
        shown = picture[..., :-1] * opacity // 255
        picture = np.asarray(shown[..., 0] if shown.shape[-1] == 1 else shown, np.uint8)
    if format == "webp" and picture.ndim == 3 and picture.shape[-1] == 2:
        picture = np.concatenate([np.repeat(picture[..., :1], 3, axis=-1), picture[..., 1:]], axis=-1)
    out = io.BytesIO()
    made = Image.fromarray(np.ascontiguousarray(picture))
    if format == "webp":
        made.save(out, "WEBP", quality=QUALITY, method=0)
    else:
        made.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def fitting_format(info: ImageInfo) -> str:
    """The format that shows an image well and is small: PNG where colours have meanings, or opacity is."""
    sharp = (
        info.categorical or info.has_mask or info.attributes.get("palette") or info.attributes.get("colormap")
    )
    return "png" if sharp else "jpg"
