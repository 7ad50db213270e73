"""Where each frame of each file lies in the array of its image, from the image's layout alone."""

from typing import Any

from tilevault.archive.formats import SourceFile, SourceImage
from tilevault.archive.image import Window
from tilevault.codecs.errors import InvalidRequest

__all__ = ["flat_positions", "frame_position", "frames_in_order", "instance_of", "window_inputs"]


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
