"""What is recorded of each tile of a lossy image: one small array per measure, shaped like the tile grid.

All of it is measured at ingest on the pixels that every decoder gives, with restoration and without, so it
holds for as long as the archive does. Nothing is NaN or infinite: a tile that lost nothing has
`tilevault.codecs.metrics.PSNR_EXACT` (999 dB) and similarities of 1.

The arrays are the fields of `TileQuality`, each under ``quality/<name>``, and ``quality/restoration_gain``,
which follows from two of them and is kept for those who only look.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from math import isfinite, log10
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevault.codecs.errors import InvalidRequest, ManifestCorrupt
from tilevault.codecs.metrics import PSNR_CAP, PSNR_EXACT, Quality

__all__ = ["MODEL_BYTES", "QUALITY_ARRAYS", "QualityArray", "QualityTables", "TileQuality"]

MODEL_BYTES = 16
"""Of the SHA-256 that names a model."""
NO_MODEL = bytes(MODEL_BYTES)


def _kept(dtype: str, units: str, long_name: str) -> Any:
    """A field that is kept as an array: its type, its unit as UDUNITS spells it, and what viewers call it."""
    return field(metadata={"dtype": np.dtype(dtype), "units": units, "long_name": long_name})


@dataclass(frozen=True)
class TileQuality:
    """One tile: what it costs and what was lost."""

    bits: int = _kept("u4", "bit", "coded size")
    """8 x the tile's bytes (the array: modulo 2^32)."""
    samples: int = _kept("u4", "1", "samples compared")
    """Valid samples; masked and missing ones count for nothing."""
    max_abs_error: float = _kept("f8", "", "largest absolute error")
    """In stored units."""
    psnr: float = _kept("f4", "dB", "peak signal-to-noise ratio")
    """Against the image's recorded peak; 999 where nothing was lost."""
    ssim: float = _kept("f4", "1", "structural similarity")
    ms_ssim: float = _kept("f4", "1", "multi-scale structural similarity")
    step: float = _kept("f4", "", "quantiser step")
    """In stored units; 0 where no transform was quantised."""
    max_abs_error_unrestored: float = _kept("f8", "", "largest absolute error without restoration")
    psnr_unrestored: float = _kept("f4", "dB", "peak signal-to-noise ratio without restoration")
    ssim_unrestored: float = _kept("f4", "1", "structural similarity without restoration")
    ms_ssim_unrestored: float = _kept("f4", "1", "multi-scale structural similarity without restoration")
    model: bytes = _kept("u1", "1", "digest of the model")
    """The first bytes of the SHA-256 of the weights that decode the tile; zeros where it needs none."""

    def __post_init__(self) -> None:
        numbers = [getattr(self, name) for name in _NUMBERS]
        if not all(isfinite(n) for n in numbers) or min(self.bits, self.samples, self.step) < 0:
            raise InvalidRequest(f"no record of a tile's quality: {numbers}")
        if len(self.model) != MODEL_BYTES:
            raise InvalidRequest(f"a model's digest has {MODEL_BYTES} bytes, not {len(self.model)}")

    @classmethod
    def measured(
        cls,
        data: bytes,
        samples: int,
        decoded: Quality,
        unrestored: Quality | None = None,
        step: float = 0.0,
        model: bytes = NO_MODEL,
    ) -> "TileQuality":
        """Of an encoded tile and what was measured of it; ``unrestored`` where restoration changed it."""
        plain = decoded if unrestored is None else unrestored
        return cls(8 * len(data), samples, *decoded, step, *plain, model)

    @property
    def exact(self) -> bool:
        """Whether no valid sample was changed."""
        return self.max_abs_error == 0

    @property
    def restoration_gain(self) -> float:
        """Decibels that restoration adds."""
        return self.psnr - self.psnr_unrestored

    def to_json(self) -> list[Any]:
        """The fields in their order, for receipts; `from_json` gives an equal one."""
        return [*(getattr(self, name) for name in _NUMBERS), self.model.hex()]

    @classmethod
    def from_json(cls, values: Any) -> "TileQuality":
        """Raises `ManifestCorrupt` unless ``values`` is what `to_json` gives."""
        try:
            *numbers, model = values
            integers, rest = numbers[:2], numbers[2:]
            if any(type(n) is not int for n in integers) or any(type(n) not in (int, float) for n in rest):
                raise TypeError("wrong types")
            named = dict(zip(_NUMBERS, [*integers, *map(float, rest)], strict=True))
            return cls(**named, model=bytes.fromhex(model))
        except (TypeError, ValueError, OverflowError, InvalidRequest) as error:
            raise ManifestCorrupt(f"{values!r:.80} is no record of a tile's quality") from error


_NUMBERS = tuple(f.name for f in fields(TileQuality) if f.name != "model")


@dataclass(frozen=True)
class QualityArray:
    """One measure as an array of the tile grid."""

    name: str
    """Under ``quality/``."""
    dtype: np.dtype[Any]
    units: str
    """UDUNITS; "" for the image's own."""
    long_name: str
    of: Callable[[TileQuality], Any]
    """The tile's value."""
    depth: int = 0
    """Bytes per tile along one more axis, last; 0: a number per tile."""

    def shape(self, tiles: tuple[int, ...]) -> tuple[int, ...]:
        """The array's shape for a grid."""
        return (*tiles, self.depth) if self.depth else tiles

    def attributes(self, image_units: str | None = None) -> dict[str, str]:
        """Zarr attributes (CF): the unit, where one is known, and the name."""
        units = self.units or image_units
        return ({"units": units} if units else {}) | {"long_name": self.long_name}


def _value(name: str) -> Callable[[TileQuality], Any]:
    if name == "model":
        return lambda tile: np.frombuffer(tile.model, np.uint8)
    if name in ("bits", "samples"):
        return lambda tile: getattr(tile, name) & 0xFFFFFFFF
    return lambda tile: getattr(tile, name)


def _arrays() -> Iterator[QualityArray]:
    for f in fields(TileQuality):
        kept = f.metadata
        depth = MODEL_BYTES if f.name == "model" else 0
        yield QualityArray(f.name, kept["dtype"], kept["units"], kept["long_name"], _value(f.name), depth)
    gain = "restoration_gain"
    yield QualityArray(gain, np.dtype("f4"), "dB", "gain by restoration", _value(gain))


QUALITY_ARRAYS = tuple(_arrays())
"""All arrays of a lossy image, in the order in which they are written. Lossless images have ``bits`` only."""


@dataclass(frozen=True, eq=False)
class QualityTables:
    """The arrays of one image."""

    arrays: Mapping[str, NDArray[Any]]
    """By name; each of `QUALITY_ARRAYS`."""

    @classmethod
    def empty(cls, tiles: tuple[int, ...]) -> "QualityTables":
        """Tables of zeros for a grid of ``tiles``, to be filled tile by tile."""
        return cls({a.name: np.zeros(a.shape(tiles), a.dtype) for a in QUALITY_ARRAYS})

    @classmethod
    def checked(cls, arrays: Mapping[str, NDArray[Any]], tiles: tuple[int, ...]) -> "QualityTables":
        """Tables as they were read. Raises `ManifestCorrupt` for other shapes, types or infinite numbers."""
        for a in QUALITY_ARRAYS:
            found = arrays.get(a.name)
            if found is None or found.shape != a.shape(tiles) or found.dtype != a.dtype:
                raise ManifestCorrupt(f"quality/{a.name} is no {a.dtype} array of {a.shape(tiles)}")
            if a.dtype.kind == "f" and not np.isfinite(found).all():
                raise ManifestCorrupt(f"quality/{a.name} holds what is no finite number")
        return cls({a.name: arrays[a.name] for a in QUALITY_ARRAYS})

    def put(self, index: tuple[int, ...], tile: TileQuality) -> None:
        """Record one tile."""
        for a in QUALITY_ARRAYS:
            self.arrays[a.name][index] = a.of(tile)

    def at(self, index: tuple[int, ...]) -> TileQuality:
        """One tile's record, to the precision of the arrays."""
        numbers = {name: self.arrays[name][index].item() for name in _NUMBERS}
        return TileQuality(**numbers, model=self.arrays["model"][index].tobytes())

    @cached_property
    def exact(self) -> NDArray[np.bool_]:
        """Tiles that lost nothing."""
        return np.asarray(self.arrays["max_abs_error"] == 0)

    def worst(self, count: int) -> list[tuple[int, ...]]:
        """Positions of up to ``count`` tiles that lost something, those of the lowest PSNR first."""
        order = np.argsort(np.where(self.exact, np.inf, self.arrays["psnr"]), axis=None, kind="stable")
        lossy = order[: min(count, int((~self.exact).sum()))]
        return [
            tuple(int(i) for i in at) for at in zip(*np.unravel_index(lossy, self.exact.shape), strict=True)
        ]

    def pooled_psnr(self, name: str = "psnr") -> float:
        """Of the image as one, in decibels: from the squared errors of all tiles; 999 where nothing was lost.

        ``name`` may be ``psnr_unrestored``.
        """
        decibels = self.arrays[name].astype(np.float64)
        shares = self.arrays["samples"] * np.where(decibels >= PSNR_EXACT, 0.0, 10 ** (-decibels / 10))
        total = float(shares.sum())
        if total == 0:
            return PSNR_EXACT if bool((decibels >= PSNR_EXACT).all()) else PSNR_CAP
        return -10 * log10(total / float(self.arrays["samples"].sum()))

    def summary(self) -> dict[str, Any]:
        """The image in a few numbers, as JSON.

        PSNR of the image is pooled, similarities are means by samples; ``min``, ``max`` and ``mean`` of a
        measure are over the tiles that lost something (absent where none did), ``*_at`` is the tile.
        """
        samples = self.arrays["samples"].astype(np.float64)
        lossy = ~self.exact
        weights = samples if samples.sum() else np.ones_like(samples)
        out: dict[str, Any] = {
            "tiles": int(lossy.size),
            "exact_tiles": int((~lossy).sum()),
            "restored_tiles": int((self.arrays["restoration_gain"] != 0).sum()),
            "psnr": self.pooled_psnr(),
            "psnr_unrestored": self.pooled_psnr("psnr_unrestored"),
            "ssim": float(np.average(self.arrays["ssim"], weights=weights)),
            "ms_ssim": float(np.average(self.arrays["ms_ssim"], weights=weights)),
            "max_abs_error": float(self.arrays["max_abs_error"].max()),
        }
        if lossy.any():
            worst = np.where(lossy, self.arrays["max_abs_error"], -1).argmax()
            out["max_abs_error_at"] = [int(i) for i in np.unravel_index(worst, lossy.shape)]
            out["psnr_min_at"] = list(self.worst(1)[0])
            for name in ("psnr", "ssim", "ms_ssim", "step", "restoration_gain"):
                values = self.arrays[name][lossy].astype(np.float64)
                out[f"{name}_tiles"] = {
                    "min": float(values.min()), "mean": float(values.mean()), "max": float(values.max()),
                }  # fmt: skip
        return out
