"""From an integer model back to networks that can be trained on: what `quantise` does, undone.

The integers say what a layer does up to the units of the activations between layers, which a model does not
record. Any units give the same network; chosen are powers of two with which the weights of a layer are as
large as those that torch begins with, so that an optimiser finds them on the scale that it expects.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tilevault.codecs.errors import InvalidRequest
from tilevault.codecs.models.blob import ROWS, Convolution, read_network
from tilevault.codecs.models.coder import FEATURE_UNIT, LOG_SCALES
from tilevault.codecs.models.networks import EntropyNetwork, RestorationNetwork
from tilevault.codecs.models.quantise import CORRECTION_UNIT, FEATURE_QUARTERS, MEAN_UNIT

__all__ = ["load_entropy", "load_restoration"]

Floats = NDArray[np.float64]
Unit = int
"""An integer is the value times 2^unit."""


def load_entropy(network: EntropyNetwork, first: bytes, second: bytes) -> None:
    """Give ``network`` the weights of the integer networks of both passes.

    Raises `InvalidRequest` where these are networks of other shapes.
    """
    layers = _convolutions(first)
    feature = int(math.log2(FEATURE_UNIT))
    hidden = _enter(network.enter, layers, feature)
    _blocks(network, layers, hidden)
    _head(network.first, layers, [hidden] * network.first.in_channels)
    layers = _convolutions(second)
    decoded = _enter(network.decoded, layers, feature)
    units = [hidden] * network.first.in_channels + [decoded] * network.decoded.out_channels
    mixed = _fill(network.mix, _next(layers), units)
    _head(network.second, layers, [mixed] * network.mix.out_channels)
    _end(layers)


def load_restoration(network: RestorationNetwork, blob: bytes) -> None:
    """Give ``network`` the weights of an integer network. Raises `InvalidRequest` as `load_entropy`."""
    layers = _convolutions(blob)
    hidden = _enter(network.enter, layers, int(math.log2(FEATURE_QUARTERS)))
    _blocks(network, layers, hidden)
    unit = int(math.log2(CORRECTION_UNIT))
    _fill(network.leave, _next(layers), [hidden] * network.leave.in_channels, unit)
    _end(layers)


def _convolutions(blob: bytes) -> list[Convolution]:
    """Last first."""
    return [record for record in read_network(blob) if isinstance(record, Convolution)][::-1]


def _next(layers: list[Convolution]) -> Convolution:
    if not layers:
        raise InvalidRequest("the model's networks have fewer layers than those in training")
    return layers.pop()


def _end(layers: Sequence[Convolution]) -> None:
    if layers:
        raise InvalidRequest("the model's networks have more layers than those in training")


def _enter(layer: Any, layers: list[Convolution], unit: Unit) -> Unit:
    return _fill(layer, _next(layers), [unit] * layer.in_channels)


def _blocks(network: Any, layers: list[Convolution], hidden: Unit) -> None:
    for block in network.blocks:
        channels = block.expand.in_channels
        spread = _fill(block.depthwise, _next(layers), [hidden] * channels)
        wide = _fill(block.expand, _next(layers), [spread] * channels)
        _fill(block.contract, _next(layers), [wide] * block.contract.in_channels, hidden)


def _head(layer: Any, layers: list[Convolution], units: Sequence[Unit]) -> None:
    per_row = (ROWS - 1) / (LOG_SCALES[1] - LOG_SCALES[0])
    gain = np.repeat([MEAN_UNIT, per_row], 3)
    _fill(layer, _next(layers), units, 0, gain, np.repeat([0.0, -LOG_SCALES[0] * per_row], 3))


def _fill(
    layer: Any,
    record: Convolution,
    units: Sequence[Unit],
    output: Unit | None = None,
    gain: Floats | float = 1.0,
    offset: Floats | float = 0.0,
) -> Unit:
    """Weights and bias of ``layer``, and the unit of its output: ``output``, or chosen.

    ``units``: of its inputs, by channel.
    """
    if record.weights.shape != tuple(layer.weight.shape):
        found, wanted = record.weights.shape, tuple(layer.weight.shape)
        raise InvalidRequest(f"the model has a layer of {found} where {wanted} is trained")
    shift = 2.0 ** -record.shift.astype(float)
    sources = np.array(units)[:, None] if record.depthwise else np.array(units)[None]
    weights = record.weights * (shift[:, None] * 2.0**sources)[:, :, None, None]
    if output is None:
        size = float(np.sqrt(np.square(weights).mean())) * math.sqrt(3 * weights[0].size)
        output = round(math.log2(max(size, 2.0**-20)))
    bias = record.bias * shift
    per_output = np.broadcast_to(gain, len(weights))[:, None, None, None]
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weights * 2.0**-output / per_output))
        layer.bias.copy_(torch.from_numpy((bias * 2.0**-output - offset) / gain))
    return output
