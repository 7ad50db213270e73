"""From scanned files to images: which instances belong together, and along which axes they lie.

Instances of one series with one pixel format and one orientation are one image. What decides is a property
of each file alone, so that instances which come later find the same image. Within an image, frames lie along
``z`` where their positions are equidistant on a line, along ``t`` and ``z`` where every position comes
equally often, and otherwise along ``frame``, in the order of their instance numbers.

Equidistant: no position is further from the straight line through the first and the last, evenly divided,
than 5 % of the spacing (positions are often rounded to a tenth of a millimetre) or 1 um. The line
may be oblique to the planes (gantry tilt) by up to 60 degrees.
"""

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tilevault.archive.formats import SourceFile, SourceImage
from tilevault.archive.formats.dicom_pixels import layout_of
from tilevault.archive.image import ImageInfo, Window
from tilevault.codecs.errors import DuplicateConflict, InvalidRequest, TilevaultError
from tilevault.codecs.frame_header import JPEG_DCT, JPEG_XL

__all__ = [
    "assemble",
    "decoded_photometric",
    "flat_positions",
    "frame_position",
    "frames_in_order",
    "instance_of",
    "palette_lists",
    "window_inputs",
]

POSITION_TOLERANCE = 0.05
"""Of the spacing."""
SAME_POSITION = 1e-3
"""Millimetres."""
STEEPEST = 0.5
"""Cosine between the stack's direction and the plane normal, at least."""
LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
Vector = tuple[float, float, float]


def assemble(
    files: Sequence[SourceFile],
) -> tuple[list[SourceImage], list[tuple[SourceFile, TilevaultError]]]:
    """Group scanned files into images; second, files whose SOPInstanceUID another file has with other bytes.

    The result does not depend on the order of ``files``, but files that lie in the archive already
    (``path`` is None) come before new ones. Copies with identical bytes are dropped with a warning.
    """
    kept, copies, rejected = _unique(files)
    groups: dict[str, list[SourceFile]] = {}
    for file in kept:
        groups.setdefault(_key(file), []).append(file)
    images = [_image(key, members, copies) for key, members in sorted(groups.items())]
    return images, rejected


def _unique(
    files: Iterable[SourceFile],
) -> tuple[list[SourceFile], dict[str, list[str]], list[tuple[SourceFile, TilevaultError]]]:
    first: dict[str, SourceFile] = {}
    copies: dict[str, list[str]] = {}
    rejected: list[tuple[SourceFile, TilevaultError]] = []
    for file in sorted(files, key=lambda f: (f.path is not None, f.name, f.sha256)):
        uid = file.record["uids"]["sop"]
        known = first.setdefault(uid, file)
        if known is file:
            continue
        if known.sha256 == file.sha256:
            copies.setdefault(known.sha256, []).append(file.name)
            continue
        message = f"{file.name}: {known.name} has the same SOPInstanceUID and other bytes"
        rejected.append((file, DuplicateConflict(message, kept=known.sha256, rejected=file.sha256, uid=uid)))
    return list(first.values()), copies, rejected


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _key(file: SourceFile) -> str:
    """The identity key: all of it comes from this file alone."""
    record = file.record
    pixels = record["pixels"]
    identity: dict[str, Any] = {"series": record["uids"]["series"]}
    if pixels is None:
        return _canonical(identity | {"pixels": None})
    layout = layout_of(record)
    identity["pixels"] = [
        layout.rows,
        layout.columns,
        layout.planes,
        layout.dtype.name,
        *(pixels[name] for name in ("allocated", "stored", "high_bit", "photometric")),
    ]
    identity["orientation"] = _orientation_class(record["geometry"]["orientations"])
    palette = record["display"].get("palette")
    if palette:
        identity["palette"] = hashlib.sha256(_canonical(palette).encode()).hexdigest()[:16]
    if pixels["coding"] != "native":
        identity["syntax"] = record["syntax"]
    if pixels["coding"] == "deflated":
        identity["planar"] = layout.planar
        if pixels["frames"] > 1:
            # One stream holds all frames of the instance, so the instance is an image of its own.
            identity["instance"] = record["uids"]["sop"]
    return _canonical(identity)


def _orientation_class(orientations: Sequence[Sequence[float] | None]) -> Any:
    """Direction cosines to three places, None without any, "mixed" where the frames differ."""
    classes = [None if o is None else [round(x, 3) + 0.0 for x in o] for o in orientations]
    return classes[0] if all(c == classes[0] for c in classes) else "mixed"


@dataclass(frozen=True)
class _Frame:
    file: int
    """Index in the group."""
    number: int
    position: Vector | None
    rescale: tuple[float, float] | None
    window: tuple[float, float] | None
    order: tuple[Any, ...]
    """Sorts frames at one position, or without positions."""


@dataclass(frozen=True)
class _Stack:
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    frames: list[_Frame]
    """C order."""
    step: Vector | None = None
    """From one plane of ``z`` to the next, mm."""


def _entry(values: Sequence[Any], i: int) -> Any:
    """Of a per-frame list that has one entry where all are equal."""
    return values[0] if len(values) == 1 else values[i]


def _frames(files: Sequence[SourceFile]) -> list[_Frame]:
    found = []
    for i, file in enumerate(files):
        record = file.record
        place, show = record["geometry"], record["display"]
        count = record["pixels"]["frames"]
        alone = count > 1 and len(place["positions"]) == 1
        file_order = [0.0 if m is None else m for m in record["moment"]] + [record["instance"] or 0.0]
        for k in range(count):
            position = None if alone else _entry(place["positions"], k)
            moment = _entry(place.get("moments", [None]), k)
            found.append(
                _Frame(
                    file=i,
                    number=k,
                    position=None if position is None else (position[0], position[1], position[2]),
                    rescale=_pair(_entry(show["rescales"], k)),
                    window=_pair(_entry(show["windows"], k)),
                    order=(moment or 0.0, *file_order, record["uids"]["sop"], file.sha256, k),
                )
            )
    return found


def _pair(value: Sequence[float] | None) -> tuple[float, float] | None:
    return None if value is None else (value[0], value[1])


def _stack(files: Sequence[SourceFile], frames: list[_Frame]) -> _Stack:
    """The axes on which the frames of a group lie."""
    if len(frames) == 1:
        return _Stack((), (), frames)
    regular = _regular(files, frames)
    if regular is not None:
        return regular
    # Instance number first: without positions it is what viewers sort by.
    ordered = sorted(frames, key=lambda f: (files[f.file].record["instance"] or 0.0, *f.order))
    return _Stack(("frame",), (len(frames),), ordered)


def _regular(files: Sequence[SourceFile], frames: list[_Frame]) -> _Stack | None:
    """Frames along z, or t and z; None where positions do not allow it."""
    orientation = files[0].record["geometry"]["orientations"][0]
    spacings = [s for file in files for s in file.record["geometry"]["spacings"]]
    deflated = files[0].record["pixels"]["coding"] == "deflated" and files[0].record["pixels"]["frames"] > 1
    mixed = any(s != spacings[0] for s in spacings) or any(
        len(file.record["geometry"]["orientations"]) > 1 for file in files
    )
    if orientation is None or mixed or deflated or any(f.position is None for f in frames):
        return None
    normal = _cross(orientation[:3], orientation[3:])
    planes: list[list[_Frame]] = []
    for frame in sorted(frames, key=lambda f: (_dot(_vector(f), normal), f.order)):
        if planes and math.dist(_vector(planes[-1][0]), _vector(frame)) < SAME_POSITION:
            planes[-1].append(frame)
        else:
            planes.append([frame])
    times = len(planes[0])
    if any(len(plane) != times for plane in planes):
        return None
    step = _even_step([_vector(plane[0]) for plane in planes], normal)
    if step is None and len(planes) > 1:
        return None
    planes = [sorted(plane, key=lambda f: f.order) for plane in planes]
    if times == 1:
        return _Stack(("z",), (len(planes),), [plane[0] for plane in planes], step)
    ordered = [plane[t] for t in range(times) for plane in planes]
    return _Stack(("t", "z"), (times, len(planes)), ordered, step)


def _even_step(positions: Sequence[Vector], normal: Vector) -> Vector | None:
    """The step between equidistant positions on a line; None where they are not."""
    last = len(positions) - 1
    if last < 1:
        return None
    first = positions[0]
    step = _scaled(_minus(positions[last], first), 1 / last)
    length = math.hypot(*step)
    if length < SAME_POSITION or abs(_dot(step, normal)) < STEEPEST * length * math.hypot(*normal):
        return None
    allowed = max(POSITION_TOLERANCE * length, SAME_POSITION)
    for i, position in enumerate(positions):
        if math.dist(position, _plus(first, _scaled(step, i))) > allowed:
            return None
    return step


def _vector(frame: _Frame) -> Vector:
    return frame.position or (0.0, 0.0, 0.0)


def _plus(a: Sequence[float], b: Sequence[float]) -> Vector:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def _minus(a: Sequence[float], b: Sequence[float]) -> Vector:
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def _scaled(a: Sequence[float], factor: float) -> Vector:
    return a[0] * factor, a[1] * factor, a[2] * factor


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cross(a: Sequence[float], b: Sequence[float]) -> Vector:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def _image(key: str, files: Sequence[SourceFile], copies: Mapping[str, Sequence[str]]) -> SourceImage:
    if files[0].record["pixels"] is None:
        sources = sorted(
            files, key=lambda f: (f.record["instance"] or 0.0, f.record["uids"]["sop"], f.sha256)
        )
        info, layout, codec = None, {}, None
    else:
        files = sorted(files, key=lambda f: f.sha256)
        stack = _stack(files, _frames(files))
        order = list(dict.fromkeys(frame.file for frame in stack.frames))
        sources = [files[i] for i in order]
        info = _info(sources[0].record, stack)
        layout = _layout(sources[0].record, stack, order, info)
        codec = None if sources[0].record["pixels"]["coding"] == "native" else sources[0].record["syntax"]
    search = dict(sources[0].record["search"])
    if len(sources) > 1:
        search.pop("SOPInstanceUID", None)
    return SourceImage(
        kind="dicom",
        key=key,
        format="dicom",
        sources=tuple(sources),
        info=info,
        codec=codec,
        round_trip="file-exact",
        search=search,
        layout=layout,
        warnings=tuple(_warnings(sources, copies)),
    )


def _warnings(sources: Sequence[SourceFile], copies: Mapping[str, Sequence[str]]) -> Iterable[str]:
    for file in sources:
        for name in copies.get(file.sha256, ()):
            yield f"{name} is a copy of {file.name}; kept once"
    for name in ("PatientID", "StudyInstanceUID"):
        if len({file.record["search"].get(name) for file in sources}) > 1:
            yield f"instances of this series differ in {name}"


def _layout(
    record: Mapping[str, Any], stack: _Stack, order: Sequence[int], info: ImageInfo
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


def _info(record: Mapping[str, Any], stack: _Stack) -> ImageInfo:
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


def _attributes(record: Mapping[str, Any], stack: _Stack) -> dict[str, Any]:
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


def _placement(record: Mapping[str, Any], stack: _Stack) -> dict[str, Any]:
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
        normal = _cross(orientation[:3], orientation[3:])
        step = _scaled(normal, depth if depth and depth > 0 else 1.0)
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
    along_x = _scaled(orientation[:3], spacing[1])
    along_y = _scaled(orientation[3:], spacing[0])
    rows = [[along_x[i], along_y[i], step[i], origin[i]] for i in range(3)]
    return [*rows, [0.0, 0.0, 0.0, 1.0]]


def _rescale(stack: _Stack, kind: str | None) -> dict[str, Any] | None:
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


def _window(stack: _Stack) -> dict[str, float] | None:
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


def frames_in_order(image: SourceImage) -> list[tuple[int, int]]:
    """(file, frame) at every stacked position, C order."""
    layout = image.layout
    counts = [file.record["pixels"]["frames"] for file in image.sources]
    if "per_file" in layout:
        each = layout["per_file"]
        return [(i, k) for i in range(len(counts)) for k in range(each)]
    found = [(0, 0)] * sum(counts)
    for i, places in enumerate(layout["places"]):
        for k, at in enumerate(places):
            found[at] = (i, k)
    return found


def frame_position(image: SourceImage, file: int, frame: int) -> tuple[int, ...]:
    """Index along the stacked axes (t, z or frame; none of a single frame) of a file's frame."""
    layout = image.layout
    flat = file * layout["per_file"] + frame if "per_file" in layout else layout["places"][file][frame]
    index: list[int] = []
    for extent in reversed(layout["shape"]):
        flat, i = divmod(flat, extent)
        index.insert(0, i)
    return tuple(index)


def instance_of(file: SourceFile) -> tuple[str, str] | None:
    """(SeriesInstanceUID, SOPInstanceUID) of a file: what no other bytes may claim to be."""
    uids = file.record["uids"]
    return uids["series"], uids["sop"]


def window_inputs(image: SourceImage, window: Window) -> list[Any]:
    """What the words of ``window`` are made of, wherever it lies: frames by digest, and the part of each."""
    if image.info is None:
        raise InvalidRequest("files without pixels have no windows")
    frames = frames_in_order(image)
    touched = [frames[i] for i in flat_positions(image, window)]
    part = [
        [name, a, b]
        for name, a, b in zip(image.info.axes, window.start, window.stop, strict=True)
        if name in ("c", "y", "x")
    ]
    return [part, [[image.sources[i].sha256, k] for i, k in touched]]


def flat_positions(image: SourceImage, window: Window) -> list[int]:
    """Stacked positions (C order of the layout) that ``window`` meets, in the window's own order."""
    info = image.info
    assert info is not None
    spans = [
        range(a, b)
        for name, a, b in zip(info.axes, window.start, window.stop, strict=True)
        if name not in ("c", "y", "x")
    ]
    flat = [0]
    for span, extent in zip(spans, image.layout["shape"], strict=True):
        flat = [base * extent + i for base in flat for i in span]
    return flat
