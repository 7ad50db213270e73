"""What ``/api/images`` says of images, as JSON values: lists of them, one in full, the values at a place."""

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from tilevault.archive.attribute_values import finite
from tilevault.archive.geo_metadata import crs_unit
from tilevault.archive.grid import reduced_extent
from tilevault.archive.image import ImageInfo
from tilevault.archive.manifest import image_id
from tilevault.archive.store import Image
from tilevault.codecs.errors import InvalidRequest
from tilevault.workflows.listing import RECORDED, image_record
from tilevault.workflows.serve.bands import band_count, factors, own_rescale, shown_bands
from tilevault.workflows.serve.catalogue import Entry
from tilevault.workflows.serve.parts import Part, pixels_of, read_part, top_level
from tilevault.workflows.serve.pictures import limits_of, range_of
from tilevault.workflows.serve.views import View, whole_number

__all__ = ["describe", "listed", "related_to", "values_at"]

KINDS = {"dicom": "medical", "geotiff": "satellite"}
SORTS = ("name", "added", "size", "modality", "kind", "date")
CT_WINDOWS = (
    ("soft tissue", 40.0, 400.0),
    ("lung", -600.0, 1500.0),
    ("bone", 300.0, 1500.0),
    ("brain", 40.0, 80.0),
)
"""Windows in common use for Hounsfield units: name, centre, width."""
LONGEST_QUERY = 200


# -- lists --------------------------------------------------------------------------------------------------


def listed(entries: Sequence[Entry], parameters: Iterable[tuple[str, str]], most: int) -> dict[str, Any]:
    """A page of the images that match: {"total": n, "images": [...]}.

    ``q``: every word of it is in a name, a search value or an id, whatever the case. ``kind``: ``medical``,
    ``satellite``, a modality, or ``lossy``/``lossless``. ``sort``: one of `SORTS`, ``-`` in front for the
    other way. Raises `InvalidRequest`.
    """
    given = dict(parameters)
    if unknown := set(given) - {"q", "kind", "limit", "offset", "sort"}:
        raise InvalidRequest(f"no such parameter: {', '.join(sorted(unknown))[:80]}")
    limit = min(whole_number(given.get("limit", "100"), "limit"), most)
    offset = whole_number(given.get("offset", "0"), "offset")
    sort = given.get("sort", "name")
    if sort.removeprefix("-") not in SORTS:
        raise InvalidRequest(f"sort is one of {', '.join(SORTS)}")
    query = given.get("q", "")
    if len(query) > LONGEST_QUERY:
        raise InvalidRequest(f"q has at most {LONGEST_QUERY} characters")
    words, kind = query.casefold().split(), given.get("kind", "").casefold()
    found = [e for e in entries if _is_kind(e.summary, kind) and _has_words(e, words)]
    found.sort(key=lambda e: (_sort_key(e, sort.removeprefix("-")), e.id), reverse=sort.startswith("-"))
    return {"total": len(found), "images": [_item(entry) for entry in found[offset : offset + limit]]}


def _is_kind(summary: Mapping[str, Any], kind: str) -> bool:
    if not kind:
        return True
    modality = summary.get("Modality")
    names = [str(one).casefold() for one in (modality if isinstance(modality, list) else [modality])]
    own = KINDS.get(str(summary.get("kind")), "")
    loss = "lossy" if summary.get("round_trip") == "lossy" else "lossless"
    return kind in (own, loss, *names)


def _has_words(entry: Entry, words: Sequence[str]) -> bool:
    if not words:
        return True
    summary = entry.summary
    texts = [entry.id, str(summary.get("name", ""))]
    texts += [str(value) for key, value in summary.items() if key not in RECORDED]
    text = "\n".join(texts).casefold()
    return all(word in text for word in words)


def _sort_key(entry: Entry, sort: str) -> tuple[int, Any]:
    summary = entry.summary
    value: Any = {
        "name": str(summary.get("name", "")).casefold(),
        "added": entry.commit.provenance.get("time"),
        "size": summary.get("bytes_source"),
        "modality": str(summary.get("Modality") or ""),
        "kind": KINDS.get(str(summary.get("kind")), ""),
        "date": str(summary.get("StudyDate") or summary.get("time") or "").replace("-", "")[:8],
    }[sort]
    return (0, value) if value not in (None, "") else (1, 0 if sort == "size" else "")


def _item(entry: Entry) -> dict[str, Any]:
    summary = entry.summary
    return {
        "id": entry.id,
        "name": summary.get("name"),
        "kind": KINDS.get(str(summary.get("kind")), summary.get("kind")),
        "axes": summary.get("axes"),
        "shape": summary.get("shape"),
        "dtype": summary.get("dtype"),
        "fidelity": summary.get("fidelity") or "exact",
        "round_trip": summary.get("round_trip"),
        "bytes_source": summary.get("bytes_source"),
        "bytes_stored": summary.get("bytes_stored"),
        "files": summary.get("files"),
        "added": entry.commit.provenance.get("time"),
        "summary": {key: value for key, value in summary.items() if key not in RECORDED},
        "thumbnail": f"/api/images/{entry.id}/thumbnail" if summary.get("shape") else None,
    }


def related_to(image: Image, entries: Mapping[str, Entry]) -> list[Entry]:
    """Other images of the same source: the lossless one, and lossy ones of any bound."""
    description = image.description
    fidelities = {"exact"} | {
        str(e.summary["fidelity"]) for e in entries.values() if e.summary.get("fidelity")
    }
    ids = {image_id(description.kind, description.key, fidelity) for fidelity in fidelities} - {image.id}
    return [entries[one] for one in sorted(ids) if one in entries]


# -- one image ----------------------------------------------------------------------------------------------


def describe(image: Image) -> dict[str, Any]:
    """Everything that a viewer needs to show an image, and what it is. Blocks. Raises what reading raises."""
    record, here = image_record(image), f"/api/images/{image.id}"
    summary = record.pop("search")
    record.pop("image")
    files = [
        {"index": i, "name": f.name, "size": f.size, "sha256": f.sha256, "href": f"{here}/files/{i}"}
        for i, f in enumerate(image.source.files)
    ]
    told = {**record, "id": image.id, "format": image.description.format, "summary": summary, "files": files}
    info = image.info
    if info is None:
        return {**told, "kind": KINDS.get(str(record["kind"])), "levels": [], "links": {"self": here}}
    return {**told, **_pixels(image, info), "links": _links(here)}


def _links(here: str) -> dict[str, str]:
    return {
        "self": here,
        "thumbnail": f"{here}/thumbnail",
        "tiles": f"{here}/tiles/{{level}}/{{row}}/{{column}}.{{format}}",
        "deepzoom": f"{here}/image.dzi",
        "pixels": f"{here}/pixels/{{level}}",
        "values": f"{here}/values",
    }


def _pixels(image: Image, info: ImageInfo) -> dict[str, Any]:
    shown = View()
    limits = limits_of(image, shown)
    extremes = range_of(image)
    return {
        "kind": info.kind,
        "axes": list(info.axes),
        "shape": list(info.shape),
        "dtype": info.dtype.name,
        "bits_stored": info.bits_stored,
        "photometric": info.attributes.get("photometric"),
        "categorical": info.categorical,
        "nodata": info.nodata,
        "mask": info.has_mask,
        "levels": [_level(info, level) for level in range(top_level(info) + 1)],
        "stored_levels": list(image.stored_levels),
        "tile": [512, 512],
        "grid": {
            "tile": list(image.grid.tile),
            "tiles": list(image.grid.tiles),
            "count": prod(image.grid.tiles),
        },
        "windows": _windows(info),
        "range": None if extremes is None else {"min": extremes[0], "max": extremes[1]},
        "display": None if limits is None else [list(pair) for pair in limits],
        "bands": _bands(info),
        "shown_bands": [band + 1 for band in shown_bands(info)],
        "rescale": _rescale(info),
        "unit": _unit(info),
        "spacing": info.attributes.get("spacing"),
        "orientation": info.attributes.get("orientation"),
        "transform": info.attributes.get("transform"),
        "crs_unit": crs_unit(info),
        "georeferenced": bool(info.attributes.get("crs_wkt") and info.attributes.get("transform")),
        "crs": info.attributes.get("crs_code"),
        "measures": ["bits_per_sample", *image.quality.measures],
    }


def _level(info: ImageInfo, level: int) -> dict[str, Any]:
    return {"level": level, "shape": [reduced_extent(n, level) for n in info.shape[-2:]]}


def _windows(info: ImageInfo) -> list[dict[str, Any]]:
    """Ready windows, in the unit of the modality: the image's own first."""
    window, found = info.attributes.get("window"), []
    if isinstance(window, Mapping):
        center, width = finite(window.get("center")), finite(window.get("width"))
        if center is not None and width is not None and width > 0:
            found.append({"name": "DICOM", "center": center, "width": width})
    if info.attributes.get("modality") == "CT" and _unit(info) == "HU":
        found += [{"name": name, "center": center, "width": width} for name, center, width in CT_WINDOWS]
    return found


def _bands(info: ImageInfo) -> list[dict[str, Any]]:
    count = band_count(info)
    bands, channels = info.attributes.get("bands") or [], info.attributes.get("channels") or []
    if len(channels) != count:
        channels = ["Y", "Cb", "Cr"] if count == 3 and channels[:1] == ["Y"] else []
    told = []
    for i in range(count):
        band = bands[i] if i < len(bands) and isinstance(bands[i], Mapping) else {}
        name = band.get("name") or (channels[i] if i < len(channels) else None)
        told.append(
            {
                "index": i + 1,
                "name": name,
                "description": band.get("description"),
                "color_interp": band.get("color_interp"),
                "unit": band.get("unit"),
                "scale": finite(band.get("scale")),
                "offset": finite(band.get("offset")),
            }
        )
    return told


def _rescale(info: ImageInfo) -> dict[str, Any] | None:
    """Slope and intercept; of images where planes have their own, only that they do."""
    rescale = info.attributes.get("rescale")
    if not isinstance(rescale, Mapping):
        return None
    own = any(isinstance(rescale.get(key), list) for key in ("slope", "intercept"))
    slope, intercept = (None, None) if own else factors(info)
    return {"slope": slope, "intercept": intercept, "type": rescale.get("type"), "per_plane": own}


def _unit(info: ImageInfo) -> str | None:
    """The unit of rescaled values."""
    rescale = info.attributes.get("rescale")
    if isinstance(rescale, Mapping):
        kind = rescale.get("type")
        return str(kind) if kind else ("HU" if info.attributes.get("modality") == "CT" else None)
    units = {band["unit"] for band in _bands(info) if band["unit"]}
    return str(units.pop()) if len(units) == 1 else None


# -- values at a place --------------------------------------------------------------------------------------


def values_at(image: Image, parameters: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Values of all bands at ``y``, ``x`` (``z``, ``t``, ``frame``) of level 0: stored, and in their unit.

    ``valid``: neither nodata nor masked. Blocks. Raises `InvalidRequest`, and what reading raises.
    """
    info = pixels_of(image)
    pairs = list(parameters)
    view = View.parse(((name, value) for name, value in pairs if name not in ("y", "x")), info)
    given = dict(pairs)
    if not {"y", "x"} <= set(given):
        raise InvalidRequest("y and x are wanted")
    y, x = (whole_number(given[name], name) for name in ("y", "x"))
    height, width = info.shape[-2:]
    if not (y < height and x < width):
        raise InvalidRequest(f"no pixel y={y}, x={x}: there are {height} rows and {width} columns")
    values, mask = read_part(image, Part(0, (y, y + 1), (x, x + 1)), range(band_count(info)), view.index)
    stored = np.atleast_1d(values[..., 0, 0])
    return {
        "y": y,
        "x": x,
        "index": dict(view.index),
        "values": [_number(one) for one in stored],
        "rescaled": _in_unit(info, view, stored),
        "unit": _unit(info),
        "valid": bool((mask is None or mask[0, 0]) and not _is_nodata(info, stored)),
    }


def _number(value: Any) -> Any:
    found = value.item()
    return [found.real, found.imag] if isinstance(found, complex) else found


def _in_unit(info: ImageInfo, view: View, stored: Any) -> list[float] | None:
    if stored.dtype.kind not in "iuf":
        return None
    if isinstance(info.attributes.get("rescale"), Mapping):
        slope, intercept = factors(own_rescale(info, view.index))
        return [float(one) * slope + intercept for one in stored]
    bands = _bands(info)
    scaled = [band["scale"] not in (None, 1.0) or band["offset"] not in (None, 0.0) for band in bands]
    if not any(scaled):
        return None
    pairs = zip(stored, bands, strict=False)
    return [float(v) * (1.0 if b["scale"] is None else b["scale"]) + (b["offset"] or 0.0) for v, b in pairs]


def _is_nodata(info: ImageInfo, stored: Any) -> bool:
    if info.nodata is None:
        return bool(np.isnan(stored).all()) if stored.dtype.kind in "fc" else False
    same = np.isnan(stored) if info.nodata != info.nodata else stored == info.nodata
    return bool(np.all(same))
