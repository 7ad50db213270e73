"""What an image is, before anyone asks how it is stored: its description, windows into it, readers of it.

Everything here is a small frozen value or a Protocol. The formats produce these, the store keeps them,
and neither knows the other.
"""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tilevault.codecs.errors import InvalidRequest

__all__ = ["ImageInfo", "ImageReader", "Window", "Words", "has_plain_words", "values", "window_of"]

Words = NDArray[Any]


@dataclass(frozen=True)
class Window:
    """A half-open box in array axes: ``start[i] <= index[i] < stop[i]`` for every axis."""

    start: tuple[int, ...]
    stop: tuple[int, ...]

    def __post_init__(self) -> None:
        # Millions of windows are made; `map` takes half the time of a generator.
        if len(self.start) != len(self.stop) or (
            self.start and not (min(self.start) >= 0 and all(map(operator.le, self.start, self.stop)))
        ):
            raise InvalidRequest(f"not a window: {self.start} .. {self.stop}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of samples along each axis."""
        return tuple(map(operator.sub, self.stop, self.start))

    @property
    def slices(self) -> tuple[slice, ...]:
        """The same box as an index for a NumPy array."""
        return tuple(map(slice, self.start, self.stop))

    def intersect(self, other: "Window") -> "Window":
        """The common box; empty (zero extent) along axes where the two do not meet."""
        start = tuple(max(a, b) for a, b in zip(self.start, other.start, strict=True))
        stop = tuple(max(s, min(a, b)) for s, a, b in zip(start, self.stop, other.stop, strict=True))
        return Window(start, stop)

    def shift(self, origin: tuple[int, ...]) -> "Window":
        """The same box in the coordinates of an array that begins at ``origin``."""
        return Window(
            tuple(a - o for a, o in zip(self.start, origin, strict=True)),
            tuple(b - o for b, o in zip(self.stop, origin, strict=True)),
        )


@dataclass(frozen=True)
class ImageInfo:
    """An image as an array: what a reader promises and a store records."""

    shape: tuple[int, ...]
    """Samples along each axis of level 0."""
    dtype: np.dtype[Any]
    """Native-endian dtype of the stored words."""
    axes: tuple[str, ...]
    """Names in array order, from ``t``, ``c``, ``z``, ``frame``, ``y``, ``x``; the last two are y, x."""
    kind: str
    """``"medical"`` or ``"satellite"``: which conventions the store writes."""
    bits_stored: int | None = None
    """Significant low bits of a word, where fewer than the dtype holds (DICOM BitsStored)."""
    nodata: float | int | None = None
    """Value that marks absent samples (GeoTIFF), or None."""
    categorical: bool = False
    """Values are labels or palette indices: never averaged."""
    has_mask: bool = False
    """A validity mask (uint8, 0 or 255, axes y, x) goes with the image."""
    native_blocks: tuple[int, ...] | None = None
    """Block shape in which the source is cheapest to read, along every axis."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """JSON values that the conventions need: geometry, rescale, CRS, display window ... (see metadata.py)."""

    @property
    def nbytes(self) -> int:
        """Bytes of the uncompressed words."""
        total = self.dtype.itemsize
        for extent in self.shape:
            total *= extent
        return total


class ImageReader(Protocol):
    """Reads the stored words of one image, window by window."""

    @property
    def info(self) -> ImageInfo:
        """The description of the whole image."""
        ...

    def read(self, window: Window) -> Words:
        """The words of ``window``: shape ``window.shape``, dtype ``info.dtype``, C order.

        Raises `SourceChanged` where the source is no longer what was scanned, and
        `TruncatedSource` or `InconsistentHeader` where it cannot be read.
        """
        ...

    def read_mask(self, window: Window) -> NDArray[np.uint8]:
        """The validity mask of a (y, x) ``window``; only where ``info.has_mask``."""
        ...


def values(words: Words, info: ImageInfo) -> Words:
    """The sample values that stored words stand for: BitsStored bits ending at HighBit, sign extended.

    DICOM PS3.5 8.1.1: bits above HighBit are not part of the sample. Shape and dtype stay; where every bit
    of a word is stored, the words themselves are returned.
    """
    width = 8 * info.dtype.itemsize
    bits = info.bits_stored
    if bits is None or bits >= width or info.dtype.kind not in "iu":
        return words
    high = int(info.attributes.get("high_bit", bits - 1))
    unsigned = words.view(np.dtype(f"u{info.dtype.itemsize}"))
    aligned = np.left_shift(unsigned, width - 1 - high)
    extended: Words = np.right_shift(aligned.view(info.dtype), width - bits)
    return extended


def has_plain_words(words: Words, info: ImageInfo) -> bool:
    """Whether `values` would return the same words, found in a pass without a copy where that can be."""
    bits = info.bits_stored
    if bits is None or bits >= 8 * info.dtype.itemsize or info.dtype.kind not in "iu":
        return True
    if int(info.attributes.get("high_bit", bits - 1)) != bits - 1:
        return bool(np.array_equal(values(words, info), words))
    low = -(1 << (bits - 1)) if info.dtype.kind == "i" else 0
    return not words.size or bool(low <= words.min() and words.max() < low + (1 << bits))


def window_of(key: Any, shape: tuple[int, ...]) -> tuple[Window, tuple[Any, ...]]:
    """The window that a basic NumPy index touches, and the index into that window.

    Raises `InvalidRequest` for anything but integers, slices and one ``...``.
    """
    keys = key if isinstance(key, tuple) else (key,)
    given = [i for i, k in enumerate(keys) if k is Ellipsis]
    missing = len(shape) - (len(keys) - len(given))
    if len(given) > 1 or missing < 0:
        raise InvalidRequest(f"too many indices for an image of shape {shape}")
    at = given[0] if given else len(keys)
    keys = (*keys[:at], *[slice(None)] * missing, *keys[at + 1 :])
    bounds = [_bound(k, n) for k, n in zip(keys, shape, strict=True)]
    window = Window(tuple(a for a, _, _ in bounds), tuple(b for _, b, _ in bounds))
    return window, tuple(inner for _, _, inner in bounds)


def _bound(key: Any, n: int) -> tuple[int, int, Any]:
    """Begin and end of what ``key`` touches along an axis of ``n``, and the key into that."""
    if isinstance(key, slice):
        try:
            picked = range(*key.indices(n))
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"not an index: {key}") from error
        if not picked:
            return 0, 0, slice(None)
        return min(picked), max(picked) + 1, slice(None, None, picked.step)
    try:
        i = operator.index(key)
    except TypeError as error:
        raise InvalidRequest("only integers, slices and ... index an image") from error
    if isinstance(key, bool | np.bool_) or not -n <= i < n:
        raise InvalidRequest(f"index {key} is outside an axis of {n}")
    return i % n, i % n + 1, 0
