"""Which rasters must stay exact: those with a colour table, classes or flags, by tags, names and sidecars."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tilevault.archive.formats import SourceImage

__all__ = ["looks_exact", "never_lossy", "padding_value"]

TAGS = frozenset(
    {"flag_values", "flag_meanings", "flag_masks", "category_names", "class_names", "stac_classification"}
)
"""Keys of tags that list classes or flags (CF 3.5 and what is common)."""
VALUES = {"layer_type": "thematic", "representationtype": "thematic"}
"""Keys of tags that say so by their value (ERDAS Imagine, raster attribute tables)."""
NAMES = re.compile(
    r"(?:^|[^a-z])(qa|qa_?pixel|qa_?radsat|qa_?aerosol|bqa|quality|flags?|scl|fmask|labels?|class(?:es|ification)?|"
    r"categor(?:y|ies)|segmentation|land_?cover|mask|cloud_?mask|msk_?\w*)(?:[^a-z]|$)"
)
"""Descriptions and names of bands that hold flags or classes: Landsat QA, Sentinel-2 SCL and the like."""
SIDECAR = (b"<categorynames", b"<gdalrasterattributetable", b"<colortable")
"""What an ``.aux.xml`` beside the file says of classes."""
SIDECAR_BYTES = 16 << 20


def never_lossy(image: SourceImage) -> str | None:
    """Why the pixels of an image must not be altered, or None."""
    record = image.sources[0].record
    raster = record["raster"]
    # GDAL makes up a grey table where white is zero: no colours.
    table = raster["colormaps"] and record["layout"]["photometric"] != 0
    if table or "palette" in raster["color_interp"]:
        return "it has a colour table"
    for where, tags in _tags(raster):
        for key, value in tags.items():
            if key.lower() in TAGS or VALUES.get(key.lower()) == str(value).lower():
                return f"the tag {key} of {where} says that values are classes or flags"
    for file in image.sources[1:]:
        if file.name.lower().endswith(".aux.xml") and any(word in _content(file.path) for word in SIDECAR):
            return f"{file.name} beside it lists classes or colours"
    return None


def looks_exact(image: SourceImage) -> str | None:
    """Why the pixels of an image may have to stay exact, by names only; or None."""
    for band in image.sources[0].record["raster"]["bands"]:
        description = str(band.get("description") or "")
        if NAMES.search(description.lower()):
            return f"its band {description!r:.60} holds classes or flags by its name"
    stem = image.sources[0].name.rpartition("/")[2].rpartition(".")[0]
    if NAMES.search(stem.lower()):
        return "it holds classes or flags by its name"
    return None


def _content(path: str | None) -> bytes:
    """The beginning of a sidecar in lower case; nothing where it is gone."""
    with contextlib.suppress(OSError):
        if path is not None:
            with Path(path).open("rb") as file:
                return file.read(SIDECAR_BYTES).lower()
    return b""


def _tags(raster: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for namespace in raster["tags"].values():
        if isinstance(namespace, Mapping):
            yield "the image", namespace
    for i, band in enumerate(raster["bands"], 1):
        for namespace in (band.get("tags") or {}).values():
            if isinstance(namespace, Mapping):
                yield f"band {i}", namespace


def padding_value(image: SourceImage) -> int | None:
    """A raster has nodata instead: always None."""
    return None
