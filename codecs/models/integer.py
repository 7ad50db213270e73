"""Integer networks run in torch: float64 carries their sums exactly, in batches and on any device.

One of three implementations that must agree bit for bit (with the native engine and the NumPy twin of the
tests); training fits the tables of the entropy coder to what it gives.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as functional
from numpy.typing import NDArray

from tilevault.codecs.models.blob import Add, Concat, Convolution, Input, Output, Record, read_network

__all__ = ["integer_network"]

Tensor = Any


def integer_network(blob: bytes, device: str = "cpu") -> Callable[..., list[Tensor]]:
    """A function of the network's inputs, each float64 of integers (n, channels, h, w), to its outputs.

    ``device``: torch's name of where all of these are. Planes that are unshuffled have any size: what is
    missing to whole positions replicates the border, and outputs are whole positions. Raises `ModelMismatch`
    for what is no network.
    """
    operations = [_operation(record, device) for record in read_network(blob)]

    def run(*inputs: Tensor) -> list[Tensor]:
        waiting = list(inputs)
        tensors: list[Tensor] = []
        outputs: list[Tensor] = []
        for operation in operations:
            operation(waiting, tensors, outputs)
        return outputs

    return run


def _operation(record: Record, device: str) -> Callable[[list[Tensor], list[Tensor], list[Tensor]], None]:
    match record:
        case Input():
            return lambda inputs, tensors, _: tensors.append(_entered(inputs.pop(0), record))
        case Convolution():
            convolve = _convolution(record, device)
            return lambda _, tensors, __: tensors.append(convolve(tensors[record.source]))
        case Add():
            low, high = _by_channel(record.low, device), _by_channel(record.high, device)
            return lambda _, tensors, __: tensors.append(
                (tensors[record.a] + tensors[record.b]).clamp(low, high)
            )
        case Concat():
            return lambda _, tensors, __: tensors.append(torch.cat([tensors[record.a], tensors[record.b]], 1))
        case Output():
            return lambda _, tensors, outputs: outputs.append(
                functional.pixel_shuffle(tensors[record.source], record.factor)
            )


def _entered(x: Tensor, record: Input) -> Tensor:
    if record.factor > 1:
        missing = (0, -x.shape[-1] % record.factor, 0, -x.shape[-2] % record.factor)
        x = functional.pixel_unshuffle(functional.pad(x, missing, mode="replicate"), record.factor)
    return x.clamp(record.low, record.high)


def _convolution(record: Convolution, device: str) -> Callable[[Tensor], Tensor]:
    weights, bias = (torch.from_numpy(v).double().to(device) for v in (record.weights, record.bias))
    low, high = _by_channel(record.low, device), _by_channel(record.high, device)
    unit = 2.0 ** -_by_channel(record.shift, device)
    border = record.weights.shape[-1] // 2
    groups = len(weights) if record.depthwise else 1

    def run(x: Tensor) -> Tensor:
        if border:
            x = functional.pad(x, (border,) * 4, mode="replicate")
        # cuDNN may choose transforms (FFT, Winograd) that round; plain products and sums do not.
        with torch.backends.cudnn.flags(enabled=False):
            total = functional.conv2d(x, weights, bias, groups=groups)
        return torch.floor(total * unit + 0.5).clamp(low, high)

    return run


def _by_channel(values: NDArray[Any], device: str) -> Tensor:
    return torch.from_numpy(values).double().to(device)[:, None, None]
