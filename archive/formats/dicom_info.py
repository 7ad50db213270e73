"""What a stack of DICOM frames is as an image: its `ImageInfo`, its attributes, its layout."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tilevault.archive.formats.dicom_pixels import layout_of
from tilevault.archive.image import ImageInfo
from tilevault.codecs.frame_header import JPEG_DCT, JPEG_XL

__all__ = [
    "Frame",
    "Stack",
    "Vector",
    "cross",
    "decoded_photometric",
    "describe_info",
    "describe_layout",
    "dot",
    "minus",
    "palette_lists",
    "plus",
    "scaled",
]

LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
Vector = tuple[float, float, float]
"""Patient coordinates (LPS), mm."""


@dataclass(frozen=True)
class Frame:
    """One frame of a stack: where it lies, in space and in its file, and how it is shown."""

    file: int
    """Index in the group."""
    number: int
    position: Vector | None
    rescale: tuple[float, float] | None
    window: tuple[float, float] | None
    order: tuple[Any, ...]
    """Sorts frames at one position, or without positions."""


@dataclass(frozen=True)
class Stack:
    """Frames in the order of the array they make."""

    axes: tuple[str, ...]
    shape: tuple[int, ...]
    frames: list[Frame]
    """C order."""
    step: Vector | None = None
    """From one plane of ``z`` to the next, mm."""


def plus(a: Sequence[float], b: Sequence[float]) -> Vector:
    """Sum of two vectors."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def minus(a: Sequence[float], b: Sequence[float]) -> Vector:
    """Difference of two vectors."""
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def scaled(a: Sequence[float], factor: float) -> Vector:
    """A vector times a number."""
    return a[0] * factor, a[1] * factor, a[2] * factor


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    """Scalar product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a: Sequence[float], b: Sequence[float]) -> Vector:
    """Vector product."""
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def describe_layout(
    record: Mapping[str, Any], stack: Stack, order: Sequence[int], info: ImageInfo
) -> dict[str, Any]:
    """How positions map to files and frames.

    ``shape``: of the stacked axes. ``per_file``: k, where position i (C order) is frame i % k of file i // k;
    else ``places``: for each file the position of each of its frames. For coded frames also ``codec``
    (configuration of the frame codec) and ``chunk`` (shape of what one stream holds).
    """
    new = {old: i for i, old in enumerate(order)}
    pairs = [(new[frame.file], frame.number) for frame in stack.frames]
    layout: dict[str, Any] = {"shape": list(stack.shape)}
    each = record["pixels"]["frames"]
    if pairs == [divmod(i, each) for i in range(len(pairs))]:
        layout["per_file"] = each
    else:
        places: list[dict[int, int]] = [{} for _ in order]
        for i, (file, number) in enumerate(pairs):
            places[file][number] = i
        layout["places"] = [[numbers[k] for k in range(len(numbers))] for numbers in places]
    pixels = record["pixels"]
    if pixels["coding"] != "native":
        native = layout_of(record)
        layout["codec"] = {
            "samples": native.planes,
            "bits_allocated": native.bits_allocated,
            "photometric": pixels["photometric"],
            "planar": int(native.planar),
        }
        layout["chunk"] = list(info.native_blocks or ())
    return layout


def describe_info(record: Mapping[str, Any], stack: Stack) -> ImageInfo:
    """The image that a stack of such files makes; ``record`` is that of its first file."""
    pixels = record["pixels"]
    layout = layout_of(record)
    colour = (layout.planes,) if layout.planes > 1 else ()
    lead = dict(zip(stack.axes, stack.shape, strict=True))
    # OME-NGFF order: time, then channel and custom axes, then space.
    names = [a for a in ("t", "frame") if a in lead] + ["c"] * len(colour) + ["z"] * ("z" in lead)
    extents = {**lead, "c": layout.planes, "y": layout.rows, "x": layout.columns}
    axes = (*names, "y", "x")
    whole_instance = pixels["coding"] == "deflated"
    shape = tuple(extents[a] for a in axes)
    return ImageInfo(
        shape=shape,
        dtype=layout.dtype,
        axes=axes,
        kind="medical",
        bits_stored=_bits_stored(pixels, layout.dtype.itemsize * 8),
        categorical=_categorical(record),
        native_blocks=tuple(
            n if a in ("c", "y", "x") or (whole_instance and pixels["frames"] > 1) else 1
            for a, n in zip(axes, shape, strict=True)
        ),
        attributes=_attributes(record, stack),
    )


def _bits_stored(pixels: Mapping[str, Any], bits: int) -> int | None:
    stored: int = pixels["stored"]
    return None if pixels["floating"] or stored == bits else stored


def _categorical(record: Mapping[str, Any]) -> bool:
    pixels = record["pixels"]
    return bool(
        pixels["allocated"] == 1
        or pixels["photometric"] == "PALETTE COLOR"
        or record["uids"]["class"] == LABEL_MAP
    )


def _attributes(record: Mapping[str, Any], stack: Stack) -> dict[str, Any]:
    pixels, show, search = record["pixels"], record["display"], record["search"]
    photometric = decoded_photometric(record)
    found: dict[str, Any] = {
        "name": search.get("SeriesDescription")
        or search.get("SeriesInstanceUID")
        or record["uids"]["series"],
        "modality": search.get("Modality"),
        **_placement(record, stack),
        "frame_of_reference_uid": record["geometry"]["frame_of_reference"],
        "rescale": _rescale(stack, show.get("rescale_type")),
        "window": _window(stack),
        "photometric": photometric,
        "samples": pixels["samples"],
        "channels": _channels(pixels, photometric),
        "high_bit": None if pixels["floating"] else pixels["high_bit"],
        "pixel_representation": pixels["signed"],
        "lossy": bool(show.get("lossy")),
        "palette": palette_lists(show.get("palette")) if photometric == "PALETTE COLOR" else None,
    }
    if photometric != pixels["photometric"]:
        found["source_photometric"] = pixels["photometric"]
    return {name: value for name, value in found.items() if value is not None or name == "modality"}


def decoded_photometric(record: Mapping[str, Any]) -> str:
    """What the words are after the frame codec has undone the colour transform of its stream."""
    photometric: str = record["pixels"]["photometric"]
    syntax = record["syntax"]
    undone = photometric in ("YBR_RCT", "YBR_ICT") or (
        syntax in JPEG_DCT | JPEG_XL and record["pixels"]["samples"] == 3
    )
    return "RGB" if record["pixels"]["coding"] == "frames" and undone else photometric


def _channels(pixels: Mapping[str, Any], photometric: str) -> list[str] | None:
    if pixels["samples"] == 1:
        return None
    if photometric.startswith("YBR"):
        return ["Y", "CbCr"] if pixels["layout"].get("subsampled") else ["Y", "Cb", "Cr"]
    return list({"ARGB": "ARGB", "CMYK": "CMYK"}.get(photometric, "RGBA"))[: pixels["samples"]]


def _placement(record: Mapping[str, Any], stack: Stack) -> dict[str, Any]:
    """Spacing, positions, orientation and affine, as far as they are known. LPS, mm."""
    place = record["geometry"]
    positions = [frame.position for frame in stack.frames]
    if stack.axes == ("t", "z"):
        positions = positions[: stack.shape[1]]
    found: dict[str, Any] = {}
    if all(p is not None for p in positions) and len(positions) <= 1 << 16:
        found["positions"] = [list(p) for p in positions if p is not None]
    orientation = _uniform(place["orientations"])
    spacing = _uniform(place["spacings"])
    if orientation is not None:
        found["orientation"] = list(orientation)
    if spacing is not None and min(spacing) > 0:
        found["spacing"] = {"y": spacing[0], "x": spacing[1]}
    step = stack.step
    if step is not None:
        found["spacing"] = {"z": math.hypot(*step), **found.get("spacing", {})}
    depth = place["between"] or place["thickness"]
    if step is None and orientation is not None:
        normal = cross(orientation[:3], orientation[3:])
        step = scaled(normal, depth if depth and depth > 0 else 1.0)
        if stack.axes[-1:] == ("z",) and depth and depth > 0:
            found["spacing"] = {"z": depth, **found.get("spacing", {})}
    if (
        orientation is not None
        and spacing is not None
        and positions[0] is not None
        and stack.axes != ("frame",)
    ):
        assert step is not None
        found["affine"] = _affine(orientation, spacing, positions[0], step)
    return found


def _uniform(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else None


def _affine(
    orientation: Sequence[float], spacing: Sequence[float], origin: Vector, step: Vector
) -> list[list[float]]:
    """Voxel (x, y, z) to mm (PS3.3 C.7.6.2.1.1): x along the row direction, y along the column direction."""
    along_x = scaled(orientation[:3], spacing[1])
    along_y = scaled(orientation[3:], spacing[0])
    rows = [[along_x[i], along_y[i], step[i], origin[i]] for i in range(3)]
    return [*rows, [0.0, 0.0, 0.0, 1.0]]


def _rescale(stack: Stack, kind: str | None) -> dict[str, Any] | None:
    """One pair, or lists over the stacked positions (over ``z`` alone where ``t`` makes no difference)."""
    pairs = [frame.rescale for frame in stack.frames]
    if any(p is None for p in pairs):
        return None
    if stack.axes == ("t", "z") and pairs == pairs[: stack.shape[1]] * stack.shape[0]:
        pairs = pairs[: stack.shape[1]]
    slopes = [p[0] for p in pairs if p is not None]
    intercepts = [p[1] for p in pairs if p is not None]
    one = len(set(pairs)) == 1
    found: dict[str, Any] = {
        "slope": slopes[0] if one else slopes,
        "intercept": intercepts[0] if one else intercepts,
    }
    return found | ({"type": kind} if kind else {})


def _window(stack: Stack) -> dict[str, float] | None:
    """The display window of the middle frame."""
    middle = stack.frames[len(stack.frames) // 2].window
    return None if middle is None else {"center": middle[0], "width": middle[1]}


def palette_lists(palette: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Red, green and blue lists with ``first`` and ``bits`` (PS3.3 C.7.6.3.1.5), None where they do not fit.

    Tables hold 16-bit words, or two 8-bit entries to a word.
    """
    if palette is None:
        return None
    found: dict[str, Any] = {}
    for name, (count, first, bits), text in zip(
        ("red", "green", "blue"), palette["descriptors"], palette["tables"], strict=True
    ):
        data = base64.b64decode(text)
        entries = _entries(data, int(count), palette["big_endian"])
        if entries is None:
            return None
        found |= {
            name: entries,
            "first": int(first),
            "bits": 16 if max(entries, default=0) > 255 else int(bits),
        }
    return found if len({len(found[name]) for name in ("red", "green", "blue")}) == 1 else None


def _entries(data: bytes, count: int, big_endian: bool) -> list[int] | None:
    order = "big" if big_endian else "little"
    words = [int.from_bytes(data[i : i + 2], order) for i in range(0, len(data) - 1, 2)]  # type: ignore[arg-type]
    if len(words) == count:
        return words
    if count <= len(data) <= count + 1:
        return [w >> shift & 0xFF for w in words for shift in (0, 8)][:count]
    return None
