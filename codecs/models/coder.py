"""The learned coder as it is trained: the decoder's own walk through the levels, with estimated bits.

From coarse to fine: the low-pass band that is decoded so far and the coefficients of the coarser level make
features (integers, as the decoder computes them), a network turns these into the mean and the scale of each
coefficient, the encoder chooses the integers that cost least, and the next level begins from what they give.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray

from tilevault.codecs.models.blob import LOGARITHMS, ROWS
from tilevault.codecs.models.networks import EntropyNetwork, Observer, unobserved
from tilevault.codecs.models.transform import LEVELS, band_steps, dequantised, forward, joined

__all__ = [
    "FEATURE_UNIT",
    "LOG_SCALES",
    "Coded",
    "FloatPasses",
    "IntegerPasses",
    "Passes",
    "Selection",
    "code",
    "logarithms",
    "logistic_bits",
    "rate_distortion",
    "restoration_features",
    "rounding",
    "scales_of_rows",
]

Tensor = Any

FEATURE_UNIT = 128
"""Features are integers in 1/128 of what the float networks see."""
LOG_SCALES = (-4.0, 9.0)
"""Logarithms of scales, plus one half, of the first and the last row of the tables."""
LEAST_PROBABILITY = 2.0**-18
FARTHEST = 1023
"""Bound of a restoration feature: quarters of a step."""

Bits = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Bits of integers, by mean and scale: in steps and as a logarithm, or in eighths and as a row."""


class Passes(Protocol):
    """Two passes of an entropy network, float or integer, over integer features."""

    def first(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(n, 6, h, w) -> hidden state, (n, 3, h, w) means, (n, 3, h, w) scales."""
        ...

    def second(self, hidden: Tensor, decoded: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden state and (n, 6, h, w) -> means, scales."""
        ...


class FloatPasses:
    """Of a network in training; means in steps, scales as logarithms."""

    def __init__(self, network: EntropyNetwork, observe: Observer = unobserved) -> None:
        self.network, self.observe = network, observe
        self.dtype = network.enter.weight.dtype

    def first(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Passes`."""
        hidden, out = self.network.first_pass(features.to(self.dtype) / FEATURE_UNIT, self.observe)
        return hidden, out[:, :3], out[:, 3:]

    def second(self, hidden: Tensor, decoded: Tensor) -> tuple[Tensor, Tensor]:
        """See `Passes`."""
        out = self.network.second_pass(hidden, decoded.to(self.dtype) / FEATURE_UNIT, self.observe)
        return out[:, :3], out[:, 3:]


class IntegerPasses:
    """Of integer networks; means in eighths of a step, scales as rows."""

    def __init__(self, first: Callable[..., list[Tensor]], second: Callable[..., list[Tensor]]) -> None:
        self.networks = first, second

    def first(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `Passes`."""
        hidden, out = self.networks[0](features.double())
        return hidden, out[:, :3].long(), out[:, 3:].long()

    def second(self, hidden: Tensor, decoded: Tensor) -> tuple[Tensor, Tensor]:
        """See `Passes`."""
        (out,) = self.networks[1](hidden, decoded.double())
        return out[:, :3].long(), out[:, 3:].long()


def logistic_bits(q: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Bits of integers ``q`` under a logistic density of mean ``mean`` and scale exp(scale - 1/2)."""
    s = torch.exp(scale.clamp(*LOG_SCALES) - 0.5)
    above, below = (q - mean + 0.5) / s, (q - mean - 0.5) / s
    # Beyond the mean both sigmoids are near 1: their mirror images tell them apart.
    far = torch.sigmoid(-below) - torch.sigmoid(-above)
    probability = torch.where(q > mean, far, torch.sigmoid(above) - torch.sigmoid(below))
    return -torch.log2(probability.clamp(min=LEAST_PROBABILITY))


Selection = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Integers for coefficients in steps, by mean and scale."""


def rounding(dead_zone: float) -> Selection:
    """Integers by a quantiser that rounds down where less than 1/2 + ``dead_zone`` is left."""

    def select(u: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        return torch.sign(u) * torch.floor(u.abs() + 0.5 - dead_zone)

    return select


def rate_distortion(bits: Bits, weight: float) -> Selection:
    """Integers of least bits + ``weight`` x squared error: the nearest, the next smaller, or zero."""

    def select(u: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        with torch.no_grad():
            nearest = torch.floor(u.abs() + 0.5)
            chosen = torch.sign(u) * nearest
            least = bits(chosen, mean, scale) + weight * (u - chosen) ** 2
            for magnitude in ((nearest - 1).clamp(min=0), torch.zeros_like(nearest)):
                q = torch.sign(u) * magnitude
                cost = bits(q, mean, scale) + weight * (u - q) ** 2
                chosen, least = torch.where(cost < least, q, chosen), torch.minimum(cost, least)
        return chosen

    return select


def logarithms() -> NDArray[np.int64]:
    """(4096,): 128 log2(1 + i / 16), the compression that features go through."""
    exact = FEATURE_UNIT * np.log2(1 + np.arange(LOGARITHMS) / 16)
    return np.asarray(np.rint(exact), np.int64)


_LOGARITHMS = torch.from_numpy(logarithms())


def _compressed(x: Tensor) -> Tensor:
    return _LOGARITHMS[x.clamp(max=LOGARITHMS - 1)]


def _signed_compressed(x: Tensor) -> Tensor:
    return torch.sign(x) * _compressed(x.abs())


@dataclass
class Coded:
    """What coding a batch of planes gave."""

    low: Tensor
    """(n, 1, h, w) quantised low-pass band."""
    bits: Tensor
    """(n,): of all bands but the lowest."""
    plane: Tensor
    """(n, 1, h, w): decoded, in fixed-point units."""
    q: list[Tensor] = field(default_factory=list)
    """(n, 3, h, w) integers of each level, coarsest first."""
    seen: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    """Integers, means and scales as coded, (k,) each; on demand."""


def code(
    planes: Tensor,
    steps: Sequence[int],
    passes: Sequence[Passes],
    select: Selection,
    bits: Bits,
    given: Coded | None = None,
    keep: bool = False,
) -> Coded:
    """Code (n, 1, h, w) int64 fixed-point planes with ``steps`` (1/64 of a unit).

    ``passes``: for the finest level, and for all others. ``given``: these integers instead of a choice.
    ``keep``: fill `Coded.seen`. Gradients flow from the bits to the networks; features have none.
    """
    of_band = band_steps(steps)
    low, bands = forward(planes)
    low_steps = of_band[:, 15].view(-1, 1, 1, 1)
    quantised = _nearest(low, low_steps) if given is None else given.low
    low = dequantised(quantised, low_steps)
    coded = Coded(quantised, torch.zeros(len(planes)), low)
    parents = torch.zeros(len(planes), 3, *low.shape[-2:], dtype=torch.int64)
    for level in reversed(range(LEVELS)):
        walk = _Level(level, bands[level], of_band[:, 3 * level : 3 * level + 3], low, parents)
        known = None if given is None else given.q[LEVELS - 1 - level]
        q = walk.run(passes[min(level, 1)], select, bits, coded, known, keep)
        low = joined(low, walk.decoded(q))
        if level:
            height, width = low.shape[-2:]
            parents = q.abs().repeat_interleave(2, -2).repeat_interleave(2, -1)[..., :height, :width]
    coded.plane = low
    return coded


def _nearest(x: Tensor, steps: Tensor) -> Tensor:
    return torch.sign(x) * ((x.abs() * 128 + steps) // (2 * steps))


class _Level:
    """One level of a batch: its coefficients on one grid, its features, its two halves."""

    def __init__(
        self, level: int, bands: tuple[Tensor, Tensor, Tensor], steps: Tensor, low: Tensor, parents: Tensor
    ) -> None:
        self.level, self.bands, self.low, self.parents = level, bands, low, parents
        self.steps = steps.view(-1, 3, 1, 1)
        self.exact = torch.cat([self._on_grid(band) for band in bands], 1) * 64.0 / self.steps
        self.valid = torch.cat([self._on_grid(torch.ones_like(band)) for band in bands], 1).bool()

    def _on_grid(self, band: Tensor) -> Tensor:
        height, width = self.low.shape[-2:]
        return functional.pad(band, (0, width - band.shape[-1], 0, height - band.shape[-2]))

    def run(
        self, passes: Passes, select: Selection, bits: Bits, coded: Coded, known: Tensor | None, keep: bool
    ) -> Tensor:
        """The level's integers; adds its bits to ``coded``."""
        height, width = self.low.shape[-2:]
        odd = ((torch.arange(height).view(-1, 1) + torch.arange(width)) & 1).bool()
        phase = torch.stack([odd, ~odd, odd])[None]
        hidden, mean, scale = passes.first(self.features())
        q = self._half(phase, mean, scale, select, bits, coded, known, keep)
        seen = torch.cat([_signed_compressed(16 * q), _compressed(16 * q.abs())], 1)
        mean, scale = passes.second(hidden, seen)
        q = q + self._half(~phase, mean, scale, select, bits, coded, known, keep)
        coded.q.append(q)
        return q

    def _half(
        self,
        phase: Tensor,
        mean: Tensor,
        scale: Tensor,
        select: Selection,
        bits: Bits,
        coded: Coded,
        known: Tensor | None,
        keep: bool,
    ) -> Tensor:
        here = phase & self.valid
        chosen = select(self.exact.to(mean.dtype) if mean.is_floating_point() else self.exact, mean, scale)
        q = (chosen if known is None else known).long() * here
        coded.bits = coded.bits + (bits(q, mean, scale) * here).sum((1, 2, 3))
        if keep:
            coded.seen.append((q[here], mean[here], scale[here]))
        return q

    def features(self) -> Tensor:
        """(n, 6, h, w) int64: high-passed low band (compressed, and clamped), parents, level."""
        around = functional.avg_pool2d(
            functional.pad(self.low.double(), (1, 1, 1, 1), mode="replicate"), 3, 1, divisor_override=1
        )
        reciprocal = (1 << 30) // (9 * self.steps[:, :1])
        high = ((9 * self.low - around.round().long()) * reciprocal + (1 << 19)) >> 20
        parts = [_signed_compressed(high), high.clamp(-128, 128) * 2, _compressed(16 * self.parents)]
        return torch.cat([*parts, torch.full_like(high, FEATURE_UNIT // 4 * self.level)], 1)

    def decoded(self, q: Tensor) -> list[Tensor]:
        """The bands that ``q`` stands for, each at its own size."""
        values = dequantised(q, self.steps)
        return [values[:, k : k + 1, : b.shape[-2], : b.shape[-1]] for k, b in enumerate(self.bands)]


def restoration_features(planes: Tensor, steps: Sequence[int]) -> Tensor:
    """(n, 1, h, w) int64 decoded planes -> quarters of a step from the mean of each 8 x 8 block."""
    height, width = planes.shape[-2:]
    whole = functional.pad(planes.double(), (0, -width % 8, 0, -height % 8), mode="replicate")
    total = functional.avg_pool2d(whole, 8, divisor_override=1).round().long()
    mean = ((total + 32) >> 6).repeat_interleave(8, -2).repeat_interleave(8, -1)[..., :height, :width]
    reciprocal = torch.tensor([(1 << 28) // step for step in steps]).view(-1, 1, 1, 1)
    return (((planes - mean) * reciprocal + (1 << 19)) >> 20).clamp(-FARTHEST, FARTHEST)


def scales_of_rows() -> NDArray[np.float64]:
    """(64,): the logistic scale of each row of the tables, in steps."""
    low, high = LOG_SCALES
    return np.asarray(np.exp(np.linspace(low, high, ROWS) - 0.5), np.float64)
