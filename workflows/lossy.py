"""`add --lossy`: what is asked for, which images it is refused for, and what is fixed before encoding.

Nothing becomes lossy by accident: images whose pixels are labels, doses or parameters are refused, by what
their headers say and by what the caller says. What the headers do not tell shows when the pixels are looked
at, once, before anything is encoded: the valid range, to which the quality refers, and how few values occur.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tilevault.archive.description import Description
from tilevault.archive.formats import SourceImage, formats
from tilevault.archive.grid import tile_shape
from tilevault.archive.image import Window, Words, values
from tilevault.codecs import LearnedCodec
from tilevault.codecs.errors import InvalidRequest, LossyRefused
from tilevault.codecs.learned import codes_lossy
from tilevault.codecs.weights import CURRENT_MODEL

if TYPE_CHECKING:
    from tilevault.archive.store import Image
    from tilevault.workflows.results import Order

__all__ = [
    "LossyTarget",
    "Survey",
    "absent_value",
    "as_labels",
    "check_sources",
    "codec_for",
    "loss_items",
    "quality_text",
    "refuse",
    "survey",
    "survey_windows",
    "targeted",
]

FEW_VALUES = 64
"""Single-band integers with fewer distinct values look like labels."""
_STATED = re.compile(r"(psnr|max-error)=([0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?)")
MOST_DECIBEL = 200


@dataclass(frozen=True)
class LossyTarget:
    """What `--lossy` asks for."""

    target: str
    """``psnr`` or ``max_error``."""
    value: float
    """dB with respect to the image's valid range, or stored units."""
    sure: bool = False
    """Images too that look like labels by their names or their few distinct values (`--yes-lossy`)."""

    @classmethod
    def parse(cls, text: str, sure: bool = False) -> "LossyTarget":
        """``psnr=DB`` or ``max-error=N``. Raises `InvalidRequest`."""
        match = _STATED.fullmatch(text.strip())
        if match is None:
            raise InvalidRequest(f"--lossy wants psnr=DB or max-error=N, not {text!r:.100}")
        value = float(match[2])
        if not 0 < value < 1e30 or (match[1] == "psnr" and value > MOST_DECIBEL):
            raise InvalidRequest(f"--lossy {match[1]} is above 0 and sensible, not {text!r:.100}")
        target = match[1].replace("-", "_")
        return cls(target, int(value) if value.is_integer() else value, sure)

    @property
    def fidelity(self) -> str:
        """Part of the identity of an image: lossless and lossy copies lie side by side."""
        return LearnedCodec(self.target, self.value).fidelity


def targeted(image: SourceImage, target: LossyTarget) -> SourceImage:
    """The image as a lossy one. Files without pixels stay what they are: there is nothing to lose."""
    if image.info is None:
        return image
    return replace(image, fidelity=target.fidelity, round_trip="lossy")


def as_labels(image: SourceImage) -> SourceImage:
    """The image with values that are never averaged, whatever its header says of them."""
    return image if image.info is None else replace(image, info=replace(image.info, categorical=True))


def refuse(image: SourceImage, target: LossyTarget, labels: bool) -> None:
    """Raise `LossyRefused` where what is known of an image forbids loss: before any pixel is read."""
    reason = _reason(image, labels)
    if reason:
        raise LossyRefused(f"{reason}: not coded with loss; add it without --lossy")
    hint = None if image.info is None or target.sure else formats()[image.format].looks_exact(image)
    if hint:
        raise LossyRefused(f"{hint}: they may be labels; --yes-lossy says that they are not")


def _reason(image: SourceImage, labels: bool) -> str | None:
    info = image.info
    if info is None:
        return None
    if labels:
        return "its pixels are labels, as --labels says"
    if image.codec is not None:
        return f"its frames are compressed already (transfer syntax {image.codec})"
    if info.bits_stored == 1 or info.dtype.kind == "b":
        return "its samples are single bits"
    if not codes_lossy(info.dtype):
        return f"samples of type {info.dtype}"
    said: str | None = formats()[image.format].never_lossy(image)
    if said:
        return said
    return "its values are labels or indices of colours" if info.categorical else None


@dataclass(frozen=True)
class Survey:
    """What a look at all pixels, or at some of them, found."""

    low: float | None = None
    """Least and greatest valid value; None where there is none."""
    high: float | None = None
    distinct: frozenset[int] | None = frozenset()
    """The values, while they are fewer than `FEW_VALUES`; None once they are not."""
    plain: bool = True
    """Every word is its own value: no bits above BitsStored are in use."""

    def __add__(self, other: "Survey") -> "Survey":
        low = [v for v in (self.low, other.low) if v is not None]
        high = [v for v in (self.high, other.high) if v is not None]
        distinct = None
        if self.distinct is not None and other.distinct is not None:
            distinct = self.distinct | other.distinct
        return Survey(
            min(low, default=None),
            max(high, default=None),
            distinct if distinct is None or len(distinct) < FEW_VALUES else None,
            self.plain and other.plain,
        )


def survey_windows(image: SourceImage, side: int) -> Iterator[Window]:
    """The windows that are looked at, one task each: the shards, all of them."""
    info = image.info
    if info is None:
        return
    tile = tile_shape(info.shape, info.axes, side, info.dtype.itemsize)
    fields: dict[str, Any] = dict.fromkeys(("image", "kind", "key", "format", "name", "round_trip"), "")
    grid = Description.plan(info, LearnedCodec(), tile, **fields).data.grid
    for index in grid.shard_indices():
        yield grid.shard_window(index)


def survey(image: SourceImage, reader: Any, window: Window) -> Survey:
    """What one window holds."""
    info, absent = reader.info, absent_value(image)
    words: Words = reader.read(window)
    plain = info.bits_stored is None or bool(np.array_equal(values(words, info), words))
    counted = np.ones(words.shape, bool)
    if info.has_mask:
        counted &= reader.read_mask(Window(window.start[-2:], window.stop[-2:])) != 0
    if words.dtype.kind == "f":
        counted &= np.isfinite(words)
    if absent is not None and absent == absent:
        with np.errstate(over="ignore"):
            counted &= words != np.asarray(absent).astype(words.dtype)
    valid = words[counted]
    if valid.size == 0:
        return Survey(plain=plain)
    distinct: frozenset[int] | None = None
    if words.dtype.kind in "iu":
        # A few thousand samples settle it for almost every picture.
        found = np.unique(valid[:: max(1, valid.size >> 12)])
        if len(found) < FEW_VALUES:
            found = np.unique(valid)
        distinct = frozenset(int(v) for v in found) if len(found) < FEW_VALUES else None
    return Survey(valid.min().item(), valid.max().item(), distinct, plain)


def absent_value(image: SourceImage) -> float | int | None:
    """The value that marks absent samples: nodata, or what a DICOM image is padded with."""
    info = image.info
    if info is None or info.nodata is not None:
        return None if info is None else info.nodata
    padding: int | None = formats()[image.format].padding_value(image)
    return padding


def codec_for(image: SourceImage, target: LossyTarget, surveys: Iterable[Survey]) -> LearnedCodec:
    """The codec with all that is fixed before encoding. Raises `LossyRefused` for what the pixels show."""
    info = image.info
    assert info is not None
    found = sum(surveys, Survey())
    if not found.plain:
        raise LossyRefused("bits above BitsStored are in use: not coded with loss; add it without --lossy")
    bands = info.shape[info.axes.index("c")] if "c" in info.axes else 1
    few = found.distinct is not None and info.dtype.kind in "iu" and bands == 1
    if few and not target.sure:
        raise LossyRefused(
            f"only {len(found.distinct or ())} distinct values: they may be labels; "
            "--yes-lossy says that they are not"
        )
    return LearnedCodec(
        target.target,
        target.value,
        low=found.low or 0,
        high=found.high or 0,
        nodata=_nodata(absent_value(image)),
        model=CURRENT_MODEL,
    )


def _nodata(value: float | int | None) -> float | str | None:
    if value is None or np.isfinite(value):
        return value
    return "NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def check_sources(order: "Order", known: Mapping[str, int]) -> None:
    """Raise `LossyRefused` where a lossy image would grow from its own lossy pixels."""
    here = {file.sha256 for file in order.image.sources}
    if not known.keys() <= here:
        raise LossyRefused(
            f"{len(known.keys() - here)} of the image's files are archived with loss only: to extend it, "
            "hand in all of its files again"
        )


def quality_text(quality: Mapping[str, Any]) -> str:
    """The measures of a lossy image in a line for people."""
    exact = f", {quality['exact_tiles']} of {quality['tiles']} tiles exact" if quality["exact_tiles"] else ""
    if "psnr_tiles" not in quality:
        return f"measured: nothing was lost in {quality['tiles']} tiles"
    return (
        f"measured: {quality['psnr']:.2f} dB (least of a tile {quality['psnr_tiles']['min']:.2f}), SSIM "
        f"{quality['ssim']:.4f}, largest error {quality['max_abs_error']:.6g}{exact}"
    )


def loss_items(image: "Image") -> dict[str, str]:
    """Metadata items that an exported raster says its loss with; none where nothing was lost."""
    if image.info is None or image.quality.summary is None:
        return {}
    return {
        "TILEVAULT_LOSSY": image.fidelity,
        "TILEVAULT_LOSSY_MEASURED": quality_text(image.quality.summary),
    }
