"""Our lossy codec as the benchmark runs it, and what each of its parts is worth.

*transform only*: wavelet and quantiser, coefficients rounded to the nearest, bits counted as an adaptive
coder of order 0 would need them (`lossy_transform`). *+ learned chances*: the same integers by the learned
mode. *+ RDO*: rounded where bits and error together are least. *+ restoration*: with what a network adds
after decoding. *tilevault*: the codec itself, which keeps the smallest of its modes.
"""

from collections.abc import Sequence
from math import isinf

import numpy as np
from lossless_images import Tile
from lossy_field import Case, Coder, targets
from lossy_field import _bounds as _error_bounds
from lossy_transform import Counted, order_zero

from tilevault.codecs import LearnedCodec
from tilevault.codecs.lossy_modes import LEARNED, MODES
from tilevault.codecs.lossy_network import SLOPE, _bounds, _head, _Lattice, _samples, encode_near
from tilevault.codecs.weights import CURRENT_MODEL

__all__ = ["coders"]

NEAREST = 1e6
"""A slope at which no bit is worth an error."""


def coders() -> list[Coder]:
    """The parts in the order in which they are added, then bounded errors."""
    return [
        _transform_only(),
        _part("+ learned chances", NEAREST, restore=False),
        _part("+ RDO", SLOPE, restore=False),
        _part("+ restoration", SLOPE, restore=True),
        Coder(
            "tilevault",
            lambda c, q: [_codec(c, "psnr", q).encode_tile(_counted(c), c.valid)],
            _decoded, targets, ours=True,
        ),
        Coder(
            "tilevault max-error",
            lambda c, q: [_codec(c, "max_error", q * _unit(c)).encode_tile(_counted(c), c.valid)],
            _decoded, _error_bounds, bounded=True, ours=True,
        ),
    ]  # fmt: skip


def _part(name: str, slope: float, restore: bool) -> Coder:
    def encode(case: Case, decibels: float) -> list[bytes]:
        codec = _codec(case, "psnr", decibels)
        data = encode_near(codec, codec.content(_counted(case), case.valid)[0], slope, restore)
        return [] if data is None else [data]

    def decode(case: Case, parts: Sequence[bytes]) -> Tile:
        codec = _codec(case, "psnr", 40)
        return MODES[LEARNED].decode(codec, memoryview(parts[0]), case.tile.shape, case.tile.dtype, restore)

    return Coder(name, encode, decode, _from_previews, ours=True, part=True)


def _transform_only() -> Coder:
    made: dict[bytes, Counted] = {}

    def encode(case: Case, decibels: float) -> list[bytes]:
        codec = _codec(case, "psnr", decibels)
        content = codec.content(_counted(case), case.valid)[0]
        data = encode_near(codec, content, NEAREST, restore=False)
        lattice = _Lattice.of(content.samples)
        if data is None or lattice is None:
            return []
        tile = data[len(_head(content.samples, lattice)) :]
        planes = lattice.integers(content.samples).astype(np.int64)
        made[data] = order_zero(tile, planes, *_bounds(codec, lattice, case.tile.dtype))
        return [data]

    def decode(case: Case, parts: Sequence[bytes]) -> Tile:
        codec = _codec(case, "psnr", 40)
        content = codec.content(_counted(case), case.valid)[0]
        lattice = _Lattice.of(content.samples)
        integers = made[parts[0]].samples.astype(np.int32)
        return _samples(codec, lattice, integers, case.tile.shape, case.tile.dtype)

    return Coder(
        "transform only",
        encode,
        decode,
        _from_previews,
        ours=True,
        part=True,
        counted=True,
        size=lambda data: made[data].size,
    )


def _from_previews(case: Case) -> tuple[float, ...]:
    """Steps alone that would give so many dB; where most coefficients are zero they give up to 9 more."""
    first = targets(case)[0]
    return (first - 16, first - 12, first - 8, first - 4, *targets(case))


def _codec(case: Case, target: str, value: float) -> LearnedCodec:
    high = case.low + case.peak
    return LearnedCodec(target, value, case.low, high if not isinf(high) else None, model=CURRENT_MODEL)


def _counted(case: Case) -> Tile:
    """The tile with sound values where there is no data, which nobody looks at."""
    if case.valid is None:
        return case.tile
    return np.where(case.valid, case.tile, case.tile.dtype.type(case.low))


def _unit(case: Case) -> float:
    """Of a bound, in stored units."""
    return case.peak / 65535 if case.tile.dtype.kind == "f" else 1.0


def _decoded(case: Case, parts: Sequence[bytes]) -> Tile:
    return _codec(case, "psnr", 40).decode_tile(parts[0], case.tile.shape, case.tile.dtype)
