"""Our lossy codec as the benchmark runs it, and what each of its parts is worth.

*learned chances*: the learned mode alone, coefficients rounded to the nearest. *+ RDO*: rounded where bits
and error together are least. *+ restoration*: with what a network adds after decoding. *tilevault*: the
codec itself, which keeps the smallest of its modes.
"""

from collections.abc import Sequence
from math import isinf

import numpy as np
from lossless_images import Tile
from lossy_field import Case, Coder, _bounds, targets

from tilevault.codecs import LearnedCodec
from tilevault.codecs.lossy_modes import LEARNED, MODES
from tilevault.codecs.lossy_network import SLOPE, encode_near
from tilevault.codecs.weights import CURRENT_MODEL

__all__ = ["coders"]

NEAREST = 1e6
"""A slope at which no bit is worth an error."""


def coders() -> list[Coder]:
    """The parts in the order in which they are added, then bounded errors."""
    return [
        _part("learned chances", NEAREST, restore=False),
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
            _decoded, _bounds, bounded=True, ours=True,
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

    return Coder(name, encode, decode, targets, ours=True)


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
