"""From scanned files to images: which instances belong together, and along which axes they lie.

Instances of one series with one pixel format and one orientation are one image. What decides is a property
of each file alone, so that instances which come later find the same image. Within an image, frames lie along
``z`` where their positions are equidistant on a line, along ``t`` and ``z`` where every position comes
equally often, and otherwise along ``frame``, in the order of their instance numbers.

Equidistant: no position is further from the straight line through the first and the last, evenly divided,
than 5 % of the spacing (positions are often rounded to a tenth of a millimetre) or 1 um. The line
may be oblique to the planes (gantry tilt) by up to 60 degrees.
"""

import hashlib
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from tilevault.archive.formats import SourceFile, SourceImage
from tilevault.archive.formats.dicom_info import (
    Frame,
    Stack,
    Vector,
    cross,
    describe_info,
    describe_layout,
    dot,
    minus,
    plus,
    scaled,
)
from tilevault.archive.formats.dicom_pixels import layout_of
from tilevault.codecs.errors import DuplicateConflict, TilevaultError

__all__ = ["assemble"]

POSITION_TOLERANCE = 0.05
"""Of the spacing."""
SAME_POSITION = 1e-3
"""Millimetres."""
MOST_GAPS = 3
"""Uneven distances that are told one by one."""
STEEPEST = 0.5
"""Cosine between the stack's direction and the plane normal, at least."""


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


def _entry(values: Sequence[Any], i: int) -> Any:
    """Of a per-frame list that has one entry where all are equal."""
    return values[0] if len(values) == 1 else values[i]


def _frames(files: Sequence[SourceFile]) -> list[Frame]:
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
                Frame(
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


def _stack(files: Sequence[SourceFile], frames: list[Frame]) -> Stack:
    """The axes on which the frames of a group lie."""
    if len(frames) == 1:
        return Stack((), (), frames)
    regular = _regular(files, frames)
    if regular is not None:
        return regular
    # Instance number first: without positions it is what viewers sort by.
    ordered = sorted(frames, key=lambda f: (files[f.file].record["instance"] or 0.0, *f.order))
    return Stack(("frame",), (len(frames),), ordered)


def _regular(files: Sequence[SourceFile], frames: list[Frame]) -> Stack | None:
    """Frames along z, or t and z; None where positions do not allow it."""
    found = _planes(files, frames)
    if found is None:
        return None
    planes, normal = found
    times = len(planes[0])
    if any(len(plane) != times for plane in planes):
        return None
    step = _even_step([_vector(plane[0]) for plane in planes], normal)
    if step is None and len(planes) > 1:
        return None
    planes = [sorted(plane, key=lambda f: f.order) for plane in planes]
    if times == 1:
        return Stack(("z",), (len(planes),), [plane[0] for plane in planes], step)
    ordered = [plane[t] for t in range(times) for plane in planes]
    return Stack(("t", "z"), (times, len(planes)), ordered, step)


def _planes(files: Sequence[SourceFile], frames: list[Frame]) -> tuple[list[list[Frame]], Vector] | None:
    """The frames at each position, in order along the plane normal, and that; None where none is known."""
    orientation = files[0].record["geometry"]["orientations"][0]
    spacings = [s for file in files for s in file.record["geometry"]["spacings"]]
    deflated = files[0].record["pixels"]["coding"] == "deflated" and files[0].record["pixels"]["frames"] > 1
    mixed = any(s != spacings[0] for s in spacings) or any(
        len(file.record["geometry"]["orientations"]) > 1 for file in files
    )
    if orientation is None or mixed or deflated or any(f.position is None for f in frames):
        return None
    normal = cross(orientation[:3], orientation[3:])
    planes: list[list[Frame]] = []
    for frame in sorted(frames, key=lambda f: (dot(_vector(f), normal), f.order)):
        if planes and math.dist(_vector(planes[-1][0]), _vector(frame)) < SAME_POSITION:
            planes[-1].append(frame)
        else:
            planes.append([frame])
    return planes, normal


def _unevenness(files: Sequence[SourceFile], frames: list[Frame]) -> list[str]:
    """Why frames with positions lie along ``frame`` and not along ``z``: perhaps slices were lost."""
    found = _planes(files, frames)
    if found is None:
        return []
    planes, _ = found
    usual = statistics.mode(len(plane) for plane in planes)
    told = [
        f"{len(plane)} instead of {usual} frames at {_spelled(plane[0])}"
        for plane in planes
        if len(plane) != usual
    ]
    gaps = [(math.dist(_vector(a[0]), _vector(b[0])), a[0]) for a, b in pairwise(planes)]
    # The lower of two medians is a distance that occurs: of a step and a gap, the step.
    step = statistics.median_low(gap for gap, _ in gaps) if gaps else 0.0
    told += [
        f"{gap:.6g} mm instead of {step:.6g} mm to the next after {_spelled(before)}"
        for gap, before in gaps
        if abs(gap - step) > max(POSITION_TOLERANCE * step, SAME_POSITION)
    ]
    more = [f"and {len(told) - MOST_GAPS} more"] if len(told) > MOST_GAPS else []
    reasons = [*told[:MOST_GAPS], *more] or ["they leave the line from the first to the last"]
    return [f"slices are not evenly spaced and have no z axis: {reason}" for reason in reasons]


def _spelled(frame: Frame) -> str:
    """An ImagePositionPatient as DICOM writes it."""
    return "position " + "\\".join(f"{x:.6g}" for x in _vector(frame))


def _even_step(positions: Sequence[Vector], normal: Vector) -> Vector | None:
    """The step between equidistant positions on a line; None where they are not."""
    last = len(positions) - 1
    if last < 1:
        return None
    first = positions[0]
    step = scaled(minus(positions[last], first), 1 / last)
    length = math.hypot(*step)
    if length < SAME_POSITION or abs(dot(step, normal)) < STEEPEST * length * math.hypot(*normal):
        return None
    allowed = max(POSITION_TOLERANCE * length, SAME_POSITION)
    for i, position in enumerate(positions):
        if math.dist(position, plus(first, scaled(step, i))) > allowed:
            return None
    return step


def _vector(frame: Frame) -> Vector:
    return frame.position or (0.0, 0.0, 0.0)


def _image(key: str, files: Sequence[SourceFile], copies: Mapping[str, Sequence[str]]) -> SourceImage:
    uneven: list[str] = []
    if files[0].record["pixels"] is None:
        sources = sorted(
            files, key=lambda f: (f.record["instance"] or 0.0, f.record["uids"]["sop"], f.sha256)
        )
        info, layout, codec = None, {}, None
    else:
        files = sorted(files, key=lambda f: f.sha256)
        frames = _frames(files)
        stack = _stack(files, frames)
        if stack.axes == ("frame",):
            uneven = _unevenness(files, frames)
        order = list(dict.fromkeys(frame.file for frame in stack.frames))
        sources = [files[i] for i in order]
        info = describe_info(sources[0].record, stack)
        layout = describe_layout(sources[0].record, stack, order, info)
        codec = None if sources[0].record["pixels"]["coding"] == "native" else sources[0].record["syntax"]
    search = dict(sources[0].record["search"])
    if len(sources) > 1:
        search.pop("SOPInstanceUID", None)
    if _differs(sources, "StudyInstanceUID"):
        # Who may read one of the studies may not read the others.
        search.pop("StudyInstanceUID", None)
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
        warnings=(*_warnings(sources, copies), *uneven),
    )


def _differs(sources: Sequence[SourceFile], name: str) -> bool:
    return len({file.record["search"].get(name) for file in sources}) > 1


def _warnings(sources: Sequence[SourceFile], copies: Mapping[str, Sequence[str]]) -> Iterable[str]:
    for file in sources:
        for name in copies.get(file.sha256, ()):
            yield f"{name} is a copy of {file.name}; kept once"
    for name in ("PatientID", "StudyInstanceUID"):
        if _differs(sources, name):
            yield f"instances of this series differ in {name}"
