"""``tilevault read``: a window of one image into an array file, a picture or a TIFF."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevault.archive.image import ImageInfo, Window, Words
from tilevault.codecs.errors import InvalidRequest
from tilevault.workflows.placing import Placing, placed

if TYPE_CHECKING:
    from tilevault.archive.store import Image

__all__ = ["check_usage", "parse_index", "parse_window", "picture_of", "read_to_file"]

SPAN = re.compile(r"\s*(-?[0-9]{1,12})?\s*:\s*(-?[0-9]{1,12})?\s*")


def parse_window(text: str | None, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """``"Y0:Y1,X0:X1"`` as ((y0, y1), (x0, x1)), half-open, inside ``height`` x ``width``; open ends allowed.

    Raises `InvalidRequest`: negative positions do not count from the end, and a window has pixels.
    """
    if text is None:
        return (0, height), (0, width)
    found = []
    for span, extent, name in zip(_spans(text), (height, width), ("rows", "columns"), strict=True):
        low = int(span[1]) if span[1] else 0
        high = int(span[2]) if span[2] else extent
        if not 0 <= low < high <= extent:
            raise InvalidRequest(
                f"{name} {low}:{high} are not a part of 0:{extent}", window=text, shape=[height, width]
            )
        found.append((low, high))
    return found[0], found[1]


def _spans(text: str) -> list[re.Match[str]]:
    spans = [SPAN.fullmatch(part) for part in text.split(",")]
    found = [span for span in spans if span]
    if len(spans) != 2 or len(found) != 2:
        raise InvalidRequest(f"--window wants Y0:Y1,X0:X1, not {text!r}")
    return found


def check_usage(path: Path, window: str | None, index: Sequence[str], level: int, words: bool) -> None:
    """Raise `InvalidRequest` for what no image could answer, which can be said before one is opened."""
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".png", ".tif", ".tiff"):
        raise InvalidRequest(f"the output ends in .npy, .png or .tif, not {path.name!r}")
    if words and (level or suffix == ".png"):
        raise InvalidRequest("stored words are those of level 0, and no picture")
    if window is not None:
        _spans(window)
    parse_index(index)


def parse_index(expressions: Sequence[str]) -> dict[str, int]:
    """``["z=3", "t=0"]`` as positions along axes. Raises `InvalidRequest`."""
    index: dict[str, int] = {}
    for expression in expressions:
        match = re.fullmatch(r"([a-z]{1,16})=(-?\d{1,9})", expression.strip())
        if match is None or match[1] in index or match[1] in ("y", "x"):
            raise InvalidRequest(f"--index wants AXIS=N for an axis other than y and x, not {expression!r}")
        index[match[1]] = int(match[2])
    return index


def read_to_file(
    image: "Image",
    path: Path,
    window: str | None = None,
    index: Sequence[str] = (),
    level: int = 0,
    words: bool = False,
    restore: bool = True,
    require_lossless: bool = False,
) -> dict[str, Any]:
    """Read rows and columns of ``level`` and write them to ``path``, by its suffix .npy, .png or .tif.

    ``restore``: see `Image.read`. Returns what was written as JSON values. Raises `InvalidRequest`,
    `LossyRefused` where ``require_lossless`` and the image is lossy, `Conflict` (never overwrites) and
    whatever reading raises; no file is left then.
    """
    if require_lossless:
        image.require_lossless()
    check_usage(path, window, index, level, words)
    suffix = path.suffix.lower()
    if image.info is None:
        raise InvalidRequest(f"image {image.id} has no pixels; export it to get its files", image=image.id)
    at = parse_index(index)
    shape = image.level_shape(level)
    (y0, y1), (x0, x1) = parse_window(window, *shape[-2:])
    box = Window((y0, x0), (y1, x1))
    if words:
        places = tuple(at.pop(axis, slice(None)) for axis in image.info.axes[:-2])
        if at:
            raise InvalidRequest(f"no axis {', '.join(at)} in {image.info.axes}", image=image.id)
        array = image.words[(*places, *box.slices)]
    else:
        array = image.read(box, level, at or None, restore)
    with placed(path.parent, (path.name,)) as placing:
        _save(placing, suffix, image, array, box, level, at)
        status = placing.settle()
    return {
        "image": image.id,
        "fidelity": image.fidelity,
        "level": level,
        "window": [[y0, y1], [x0, x1]],
        "index": parse_index(index),
        "shape": list(array.shape),
        "dtype": array.dtype.name,
        "path": str(path),
        "status": status,
    }


def _save(
    placing: Placing,
    suffix: str,
    image: "Image",
    array: Words,
    box: Window,
    level: int,
    at: Mapping[str, int],
) -> None:
    info = image.info
    assert info is not None
    mask = image.read_mask(box, level) if info.has_mask and suffix != ".npy" else None
    if suffix == ".npy":
        with placing.open() as file:
            np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
    elif suffix == ".png":
        placing.write_pieces(iter([picture_of(array, info, at, mask)]))
    else:
        from tilevault.archive.formats.geotiff_window import write_window

        write_window(placing.path, array, info, box, level, image.downsampling or "mean", mask)


def picture_of(
    array: Words,
    info: ImageInfo,
    at: Mapping[str, int],
    mask: NDArray[np.uint8] | None = None,
    max_side: int | None = None,
) -> bytes:
    """A PNG of values read at positions ``at`` along the leading axes."""
    from tilevault.archive.render import png_bytes, to_preview

    rescale = info.attributes.get("rescale")
    if at and isinstance(rescale, Mapping):
        # The picture no longer knows which plane it is of: keep this plane's factors only.
        own = {key: _of_plane(value, info, at) for key, value in rescale.items()}
        info = replace(info, attributes={**info.attributes, "rescale": own})
    return png_bytes(to_preview(array, info, max_side, mask))


def _of_plane(value: Any, info: ImageInfo, at: Mapping[str, int]) -> Any:
    stacked = [axis for axis in info.axes[:-2] if axis != "c"]
    if isinstance(value, list) and stacked and stacked[-1] in at:
        return value[min(at[stacked[-1]], len(value) - 1)] if value else None
    return value
