"""The lossy codecs of the field, as their users would run them, and what they are given: one tile at a time.

Everyone codes the same tiles, cut as the archive cuts them. Image codecs know one plane of unsigned words or
three colours at once: planes are offset by the image's minimum and declared with as many bits as the image's
range has (where the interface takes them), red, green and blue go together through the codec's own colour
transform, every other band and slice goes by itself. Floats are scaled to 16 bit words. Pixels without data
are replaced by the nearest valid pixel before the others see them, and their masks cost them nothing.

The settings: OpenJPEG irreversible 9/7, six resolutions, 64 x 64 code blocks, one tile, one layer, a target
PSNR as `opj_compress -q`, its comment segment not counted. HTJ2K with OpenJPH's quantiser step; its pixels
are taken from OpenJPEG's decoder, because OpenJPH's interface wraps values beyond the words.
JPEG XL VarDCT at effort 7, by distance, once with the words as 16 bit and once with the true bits declared:
the two are curves of their own, and the better one counts. JPEG-LS by its bound. AVIF 4:4:4 (libaom, speed 6)
and WebP (method 6) by their quality.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from math import log10, sqrt

import imagecodecs
import numpy as np
from lossless_images import BenchImage, Tile
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

__all__ = ["Case", "Coder", "cases", "coders", "peers", "targets"]

WORDS = 65535
TILES_PER_IMAGE = 3


@dataclass(frozen=True)
class Case:
    """One tile and what its quality is measured against."""

    image: str
    group: str
    """Modality, or what a satellite band is."""
    origin: str
    index: int
    """Of the tile in its image."""
    tile: Tile
    """As archived: (y, x), or (z, y, x), or (c, y, x)."""
    valid: NDArray[np.bool_] | None
    """False where there is no data; None: there is data everywhere."""
    low: float
    """Smallest valid value of the image."""
    peak: float
    """Largest valid value of the image less the smallest."""
    colour: bool
    """Whether the first three planes are red, green and blue."""

    @property
    def name(self) -> str:
        """The image's name and the tile's number."""
        return f"{self.image}#{self.index}"

    @property
    def bits(self) -> int:
        """That the image's range needs; of the scaled words for floats."""
        return 16 if self.tile.dtype.kind == "f" else max(1, int(self.peak).bit_length())

    @cached_property
    def streams(self) -> tuple[Tile, ...]:
        """What an image codec is given: planes (y, x) and colours (y, x, 3) of unsigned words."""
        planes = self._words().reshape(-1, *self.tile.shape[-2:])
        alone = 3 if self.colour else 0
        joint = (np.ascontiguousarray(np.moveaxis(planes[:3], 0, -1)),) if self.colour else ()
        return (*joint, *planes[alone:])

    def restored(self, streams: Sequence[Tile]) -> Tile:
        """The tile of decoded `streams`."""
        planes: list[Tile] = []
        for stream in streams:
            planes += list(np.moveaxis(stream, -1, 0)) if stream.ndim == 3 else [stream]
        words = np.stack(planes).reshape(self.tile.shape)
        if self.tile.dtype.kind == "f":
            return (words * (self.peak / WORDS) + self.low).astype(self.tile.dtype)
        limits = np.iinfo(self.tile.dtype)
        return np.clip(words.astype(np.int64) + int(self.low), limits.min, limits.max).astype(self.tile.dtype)

    def _words(self) -> Tile:
        tile = self.tile
        if self.valid is not None:
            nearest = distance_transform_edt(~self.valid, return_distances=False, return_indices=True)
            tile = tile[tuple(nearest)]
        if tile.dtype.kind == "f":
            return np.rint((tile.astype(np.float64) - self.low) * (WORDS / self.peak)).astype(np.uint16)
        # Words of up to 8 bits are bytes: OpenJPEG's interface misreads them in anything wider.
        return (tile.astype(np.int64) - int(self.low)).astype("u1" if self.bits <= 8 else f"u{tile.itemsize}")


@dataclass(frozen=True)
class Coder:
    """One codec at one setting: a curve of the tables."""

    name: str
    encode: Callable[[Case, float], Sequence[bytes]]
    """The case's tile at a quality."""
    decode: Callable[[Case, Sequence[bytes]], Tile]
    """The tile of what `encode` gave; of the case only shape, type, mask, `low` and `peak` may be used."""
    qualities: Callable[[Case], Sequence[float]]
    """From small streams to large ones."""
    takes: Callable[[Case], bool] = lambda case: True
    version: str = ""
    """Of the codec and its settings: curves with one are measured once and kept."""
    view: Callable[[Case, Sequence[bytes]], Tile] | None = None
    """Decodes for the quality, where `decode` is right for the time only."""
    size: Callable[[bytes], int] = len
    """Bytes of a stream that count."""
    bounded: bool = False
    """The quality is a bound on every sample's error, in stored units (of floats: steps of 16 bit words)."""
    ours: bool = False
    part: bool = False
    """Of the ablation."""
    counted: bool = False
    """Its bits are counted and no stream is written: it has no speed."""


def cases(image: BenchImage, limit: int = TILES_PER_IMAGE) -> Iterator[Case]:
    """Up to ``limit`` tiles, evenly spread over those that are large and no mere background."""
    nodata = image.info.nodata
    masks = [_valid(tile, nodata) for tile in image.tiles]
    pixels = [tile if m is None else tile[m] for tile, m in zip(image.tiles, masks, strict=True)]
    low = min(float(p.min()) for p in pixels if p.size)
    peak = max(float(p.max()) for p in pixels if p.size) - low
    if peak == 0:
        return
    largest = max(tile.size for tile in image.tiles)
    busy = [_entropy(tile) for tile in image.tiles]
    chosen = [
        i
        for i, tile in enumerate(image.tiles)
        if 2 * tile.size >= largest and 2 * busy[i] >= sum(busy) / len(busy) and pixels[i].size
    ]
    count = min(limit, len(chosen))
    for k in range(count):
        i = chosen[(2 * k + 1) * len(chosen) // (2 * count)]
        tile = image.tiles[i]
        colour = image.colour_axis and tile.shape[0] in (3, 4) and tile.dtype == np.uint8
        yield Case(image.name, image.group, image.origin, i, tile, masks[i], low, peak, colour)


def _valid(tile: Tile, nodata: float | None) -> NDArray[np.bool_] | None:
    valid = np.isfinite(tile) if tile.dtype.kind == "f" else np.ones(tile.shape, bool)
    if nodata is not None and not np.isnan(nodata):
        valid &= tile != nodata
    return None if valid.all() else valid


def _entropy(tile: Tile) -> float:
    """Bits per difference of neighbours; floats as thousandths of the tile's range."""
    values = tile.astype(np.float64)
    if tile.dtype.kind == "f":
        values = np.nan_to_num(values) * (1000 / max(float(np.nanmax(tile) - np.nanmin(tile)), 1e-30))
    differences = np.rint(np.diff(values, axis=-1)).ravel()
    counts = np.unique(differences, return_counts=True)[1] / max(1, differences.size)
    return float(-(counts * np.log2(counts)).sum())


def targets(case: Case) -> tuple[float, ...]:
    """Decibels: 28 to 50 for bytes, 30 to 60 for what has more bits."""
    if case.tile.dtype.itemsize == 1:
        return (28, 31, 34, 37, 40, 43, 46, 50)
    return (30, 34, 38, 42, 46, 50, 55, 60)


def _steps(case: Case) -> Sequence[float]:
    """Decibels that the step would give if nothing fell into the dead zone: at low rates it is more."""
    low, *_, high = targets(case)
    return [low - 10 + k * (high - low + 12) / 9 for k in range(10)]


def _on_streams(
    encode: Callable[[Case, Tile, float], bytes], decode: Callable[[bytes], Tile]
) -> tuple[Callable[[Case, float], list[bytes]], Callable[[Case, Sequence[bytes]], Tile]]:
    def encode_all(case: Case, quality: float) -> list[bytes]:
        return [bytes(encode(case, stream, quality)) for stream in case.streams]

    def decode_all(case: Case, parts: Sequence[bytes]) -> Tile:
        return case.restored([np.asarray(decode(part)) for part in parts])

    return encode_all, decode_all


def _stream_range(case: Case) -> float:
    """Largest word that the image can have in its streams."""
    return float(WORDS) if case.tile.dtype.kind == "f" else case.peak


def _openjpeg_size(stream: bytes) -> int:
    """Without the comment in which OpenJPEG names itself."""
    at = stream.find(b"\xff\x64", 0, 400)
    return len(stream) - (2 + int.from_bytes(stream[at + 2 : at + 4], "big") if at >= 0 else 0)


def _openjpeg(case: Case, stream: Tile, decibels: float) -> bytes:
    # OpenJPEG's peak is that of the declared bits.
    peak = (1 << case.bits) - 1
    level = decibels + 20 * log10(peak / _stream_range(case))
    return imagecodecs.jpeg2k_encode(
        stream, level=level, reversible=False, codecformat="j2k", resolutions=6, numthreads=1,
        bitspersample=case.bits,
    )  # fmt: skip


def _htj2k(case: Case, stream: Tile, decibels: float) -> bytes:
    # A uniform quantiser's step at this PSNR, as a share of the words' range, which is what OpenJPH takes.
    step = _stream_range(case) / 10 ** (decibels / 20) * sqrt(12) / (1 << 8 * stream.itemsize)
    return imagecodecs.htj2k_encode(stream, level=min(step, 1.0), reversible=False, resolutions=5)


def _decode_2k(data: bytes) -> Tile:
    return np.asarray(imagecodecs.jpeg2k_decode(data, numthreads=1))


def coders() -> list[Coder]:
    """The others, and ours where a module ``lossy_own`` stands beside this one and gives its ``coders()``.

    A variant of ours is one more `Coder`: ``encode(case, quality)`` to the tile's bytes as a list of one,
    ``decode(case, [bytes])`` to the tile, ``qualities=targets`` where the quality is a PSNR, ``ours=True``.
    Variants in the order of their list are the ablation: each is compared with the one before it.
    """
    own = import_module("lossy_own").coders() if find_spec("lossy_own") else []
    return [*peers(), *own]


def peers() -> list[Coder]:
    """The others, each with the version under which its curves are kept."""
    ic = imagecodecs
    kept = f"imagecodecs {ic.__version__} settings 2"
    encode, decode = _on_streams(_openjpeg, _decode_2k)
    found = [Coder("OpenJPEG", encode, decode, targets, version=kept, size=_openjpeg_size)]
    encode, decode = _on_streams(_htj2k, lambda b: np.asarray(ic.htj2k_decode(b, planar=False)))
    view = _on_streams(_htj2k, _decode_2k)[1]
    found.append(Coder("HTJ2K", encode, decode, _steps, version=kept, view=view))
    found += [_jpegxl(declared, kept) for declared in (False, True)]
    encode, decode = _on_streams(lambda c, s, near: ic.jpegls_encode(s, level=int(near)), ic.jpegls_decode)
    found.append(Coder("JPEG-LS near", encode, decode, _bounds, version=kept, bounded=True))
    rgb: Callable[[Case], bool] = lambda case: case.colour and case.tile.shape[0] == 3  # noqa: E731
    encode, decode = _on_streams(
        lambda c, s, q: ic.avif_encode(s, level=int(q), speed=6, pixelformat="444", numthreads=1),
        lambda b: ic.avif_decode(b, numthreads=1),
    )
    found.append(Coder("AVIF", encode, decode, lambda c: (15, 30, 45, 60, 72, 84, 91, 96), rgb, version=kept))
    encode, decode = _on_streams(
        lambda c, s, q: ic.webp_encode(s, level=int(q), method=6, lossless=False), ic.webp_decode
    )
    found.append(Coder("WebP", encode, decode, lambda c: (5, 20, 40, 60, 75, 85, 93, 100), rgb, version=kept))
    return found


def _jpegxl(declared: bool, kept: str) -> Coder:
    def one(case: Case, stream: Tile, distance: float) -> bytes:
        bits = case.bits if declared else None
        return bytes(
            imagecodecs.jpegxl_encode(stream, distance=distance, effort=7, numthreads=1, bitspersample=bits)
        )

    encode, decode = _on_streams(one, lambda b: imagecodecs.jpegxl_decode(b, numthreads=1))
    return Coder(
        "JPEG XL e7, bits declared" if declared else "JPEG XL e7",
        encode, decode, lambda case: (15, 8, 4, 2, 1, 0.5, 0.25, 0.1, 0.04),
        lambda case: not declared or 8 < case.bits < 16, version=kept,
    )  # fmt: skip


def _bounds(case: Case) -> Sequence[float]:
    """From large to small: 16, 8, 4, 2, 1, and beyond as far as words permit; of floats the large ones."""
    bounds = (255.0, 128.0, 64.0, 32.0, 16.0, 8.0, 4.0, 2.0, 1.0)
    if case.tile.dtype.kind == "f":
        return bounds[:5]
    return [n for n in bounds if n <= max(16.0, case.peak / 16)]
