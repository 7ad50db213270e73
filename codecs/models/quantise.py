"""From trained networks to integer networks: scales are powers of two, and no sum can overflow.

Every activation gets a bound and a power-of-two unit from what it reached on training images, with a margin;
every output channel of a layer the finest weights whose worst sum, over all inputs within their bounds, stays
below `SUM_LIMIT`. Weights and activations take 16 bits at most, so that nothing has to be trained again: the
loss is measured (`training`), not assumed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tilevault.codecs.errors import InvalidRequest
from tilevault.codecs.models.blob import ROWS, SUM_LIMIT, NetworkWriter
from tilevault.codecs.models.coder import FARTHEST, FEATURE_UNIT, LOG_SCALES
from tilevault.codecs.models.networks import UNSHUFFLED, EntropyNetwork, RestorationNetwork

__all__ = [
    "CORRECTION_UNIT",
    "FEATURE_QUARTERS",
    "MEAN_UNIT",
    "Ranges",
    "Scale",
    "entropy_blobs",
    "restoration_blob",
]

Tensor = Any

ACTIVATION_BITS = 14
MARGIN = 1.5
FINEST_UNIT, MOST_SHIFT, MOST_WEIGHT, MOST_BYTE = 14, 26, 32767, 127
BYTE_INPUTS = 24
"""Dense layers with so many inputs get weights of one byte, which matrix tiles take; they lose nothing."""
FEATURE_BOUND = 1025
"""Largest feature of the entropy networks: a logarithm of 1 + 255."""
FEATURE_QUARTERS = 16
"""Restoration features are in 1/16 of what its float network sees."""
CORRECTION_UNIT = 256
"""Corrections are in 1/256 of a step, and at most one step."""
MEAN_UNIT = 8
"""Means are in eighths of a step."""
MEAN_BOUND = 8191


@dataclass
class Ranges:
    """The largest magnitude of each activation: an observer of float networks."""

    largest: dict[str, float] = field(default_factory=dict)

    def __call__(self, name: str, x: Tensor) -> Tensor:
        """Looks at an activation and hands it on."""
        self.largest[name] = max(self.largest.get(name, 0.0), float(x.detach().abs().max()))
        return x

    def scale(self, name: str) -> "Scale":
        """Unit and bound of an activation that was seen."""
        if name not in self.largest:
            raise InvalidRequest(f"activation {name} was not seen in calibration")
        reached = max(self.largest[name] * MARGIN, 1e-3)
        unit = min(ACTIVATION_BITS - math.ceil(math.log2(reached)), FINEST_UNIT)
        return Scale(unit, (1 << ACTIVATION_BITS) - 1)


@dataclass(frozen=True)
class Scale:
    """What an integer activation means."""

    unit: int
    """The integer is the value times 2^unit."""
    bound: int
    """No integer is larger."""


def _layer(
    writer: NetworkWriter,
    source: int,
    layer: Any,
    inputs: Sequence[Scale],
    output: int,
    low: Any,
    high: Any,
    gain: Any = 1.0,
    offset: Any = 0.0,
) -> int:
    """Write a convolution whose result is ``gain`` x + ``offset``; ``inputs`` by channel."""
    weights = layer.weight.detach().double().numpy()
    gains = np.broadcast_to(np.asarray(gain, float), len(weights))
    weights = weights * gains[:, None, None, None]
    bias = layer.bias.detach().double().numpy() * gains + offset
    depthwise = layer.groups > 1
    units = np.array([scale.unit for scale in inputs])
    bounds = np.array([scale.bound for scale in inputs])
    most = MOST_BYTE if not depthwise and weights.shape[1] >= BYTE_INPUTS else MOST_WEIGHT
    rows = []
    for o in range(len(weights)):
        mine = slice(o, o + 1) if depthwise else slice(None)
        factor = 2.0 ** (output - units[mine, None, None])
        rows.append(_finest(weights[o] * factor, bias[o] * 2.0**output, bounds[mine, None, None], most))
    integers = np.stack([row[0] for row in rows])
    return writer.convolution(
        source, integers, [row[1] for row in rows], [row[2] for row in rows], low, high, depthwise
    )


def _finest(
    weights: NDArray[np.float64], bias: float, bounds: NDArray[np.int64], most: int
) -> tuple[NDArray[np.int64], int, int]:
    """Integer weights of at most ``most``, bias and shift of one output channel."""
    for shift in range(MOST_SHIFT, -1, -1):
        integers = np.rint(weights * 2.0**shift)
        whole = round(bias * 2.0**shift)
        worst = (np.abs(integers) * bounds).sum() + abs(whole) + (1 << shift)
        if np.abs(integers).max(initial=0) <= most and worst < SUM_LIMIT:
            return integers.astype(np.int64), whole, shift
    raise InvalidRequest("the weights of a layer are too large for 16 bits")


def _blocks(writer: NetworkWriter, x: int, network: Any, hidden: Scale, ranges: Ranges) -> int:
    for i, block in enumerate(network.blocks):
        channels = len(block.depthwise.weight)
        spread, wide = ranges.scale(f"blocks.{i}.depthwise"), ranges.scale(f"blocks.{i}.expand")
        y = _layer(writer, x, block.depthwise, [hidden] * channels, spread.unit, -spread.bound, spread.bound)
        y = _layer(writer, y, block.expand, [spread] * channels, wide.unit, 0, wide.bound)
        inputs = [wide] * len(block.expand.weight)
        y = _layer(writer, y, block.contract, inputs, hidden.unit, -hidden.bound, hidden.bound)
        x = writer.add(x, y, -hidden.bound, hidden.bound)
    return x


def _head(writer: NetworkWriter, x: int, layer: Any, inputs: Sequence[Scale]) -> None:
    """Means in eighths of a step and rows of the tables, straight from the last layer."""
    per_row = (ROWS - 1) / (LOG_SCALES[1] - LOG_SCALES[0])
    gain = np.repeat([MEAN_UNIT, per_row], 3)
    offset = np.repeat([0.0, -LOG_SCALES[0] * per_row], 3)
    low, high = np.repeat([-MEAN_BOUND, 0], 3), np.repeat([MEAN_BOUND, ROWS - 1], 3)
    writer.output(_layer(writer, x, layer, inputs, 0, low, high, gain, offset))


def entropy_blobs(network: EntropyNetwork, ranges: Ranges) -> tuple[bytes, bytes]:
    """Both passes of an entropy network. ``ranges`` has seen its activations."""
    channels = len(network.enter.weight)
    feature = Scale(int(math.log2(FEATURE_UNIT)), FEATURE_BOUND)
    hidden, decoded, mixed = ranges.scale("hidden"), ranges.scale("decoded"), ranges.scale("mix")

    first = NetworkWriter()
    x = first.input(6, -feature.bound, feature.bound)
    x = _layer(first, x, network.enter, [feature] * 6, hidden.unit, 0, hidden.bound)
    x = _blocks(first, x, network, hidden, ranges)
    first.output(x)
    _head(first, x, network.first, [hidden] * channels)

    second = NetworkWriter()
    x = second.input(channels, -hidden.bound, hidden.bound)
    y = second.input(6, -feature.bound, feature.bound)
    y = _layer(second, y, network.decoded, [feature] * 6, decoded.unit, -decoded.bound, decoded.bound)
    inputs = [hidden] * channels + [decoded] * len(network.decoded.weight)
    y = _layer(second, second.concat(x, y), network.mix, inputs, mixed.unit, 0, mixed.bound)
    _head(second, y, network.second, [mixed] * channels)
    return first.blob(), second.blob()


def restoration_blob(network: RestorationNetwork, ranges: Ranges) -> bytes:
    """The restoration network. ``ranges`` has seen its activations."""
    pixels, channels = UNSHUFFLED**2, len(network.enter.weight)
    feature = Scale(int(math.log2(FEATURE_QUARTERS)), FARTHEST)
    hidden = ranges.scale("hidden")
    writer = NetworkWriter()
    x = writer.input(pixels, -feature.bound, feature.bound, UNSHUFFLED)
    x = _layer(writer, x, network.enter, [feature] * pixels, hidden.unit, -hidden.bound, hidden.bound)
    x = _blocks(writer, x, network, hidden, ranges)
    unit = int(math.log2(CORRECTION_UNIT))
    x = _layer(writer, x, network.leave, [hidden] * channels, unit, -CORRECTION_UNIT, CORRECTION_UNIT)
    writer.output(x, UNSHUFFLED)
    return writer.blob()
