"""DnCNN as it was published: the reference that the archive's fast restoration network is measured beside.

K. Zhang, W. Zuo, Y. Chen, D. Meng, L. Zhang: Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for
Image Denoising, IEEE Transactions on Image Processing 26(7), 2017, section III: a convolution with ReLU, then
convolutions with batch normalisation and ReLU, then a convolution; 3 x 3, 64 channels, zero padding, no
pooling. The network gives the residual, what the codec did to the image; the image is the input less it.
The blind networks of the paper have 20 layers, the others 17.

It calculates in floats, so its pixels may differ in the last place from one machine to another: no archive
is read with it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from torch import nn

from tilevault.codecs.models.grey import grey_range, luma
from tilevault.codecs.models.reference_blob import Layer, ReferenceModel

__all__ = [
    "DEPTH",
    "DnCNN",
    "FoldedDnCNN",
    "folded",
    "receptive_field",
    "residual",
    "restored",
    "use_threads",
]

Tensor = Any

DEPTH, CHANNELS = 20, 64
NOISE = 0.3
"""Share of random weights beside the identity that the middle layers begin with."""
UNIT = 0.05
"""Of the last layer while it is trained: residuals are that small, and so all layers learn at one pace."""
TILE = 256
"""Side of the part that `residual` gives at a time, without its margin."""


class DnCNN(nn.Module):
    """(n, 1, h, w) degraded planes in 0..1 -> (n, 1, h, w) residuals: degraded less original."""

    def __init__(self, depth: int = DEPTH, channels: int = CHANNELS) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, channels, 3, padding=1)
        # Without bias: the normalisation that follows has one.
        self.middle = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(depth - 2)
        )
        self.normalise = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(depth - 2))
        self.leave = nn.Conv2d(channels, 1, 3, padding=1)
        self._begin()

    def _begin(self) -> None:
        """Weights to start from. The paper draws them all at random (He et al. 2015) and has time.

        Twenty layers drawn at random hand on nothing of the image at first, and learn nothing for hundreds of
        iterations. So the middle begins near the identity, its normalisation lets most of it through the
        ReLU, and the last layer begins with no correction at all.
        """
        nn.init.kaiming_normal_(self.enter.weight, nonlinearity="relu")
        for convolution, normalisation in zip(self.middle, self.normalise, strict=True):
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            identity = nn.init.dirac_(torch.empty_like(convolution.weight))
            convolution.weight.data.mul_(NOISE).add_(identity)
            nn.init.ones_(normalisation.bias)
        for start in (self.enter.bias, self.leave.weight, self.leave.bias):
            nn.init.zeros_(start)

    def forward(self, degraded: Tensor) -> Tensor:
        """See the class."""
        hidden = functional.relu(self.enter(degraded), inplace=True)
        for convolution, normalisation in zip(self.middle, self.normalise, strict=True):
            hidden = functional.relu(normalisation(convolution(hidden)), inplace=True)
        return self.leave(hidden) * UNIT


def receptive_field(depth: int) -> int:
    """Side of the square of input samples that one output sample depends on."""
    return 2 * depth + 1


def folded(network: DnCNN) -> list[Layer]:
    """The layers with batch normalisation in its evaluating form multiplied into them, in float64."""
    layers = [_layer(network.enter.weight, network.enter.bias)]
    for convolution, norm in zip(network.middle, network.normalise, strict=True):
        scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
        bias = norm.bias.double() - norm.running_mean.double() * scale
        layers.append(_layer(convolution.weight.double() * scale.view(-1, 1, 1, 1), bias))
    layers.append(_layer(network.leave.weight * UNIT, network.leave.bias * UNIT))
    return layers


def _layer(weight: Tensor, bias: Tensor) -> Layer:
    return Layer(weight.detach().double().numpy(), bias.detach().double().numpy())


class FoldedDnCNN(nn.Module):
    """The same function as convolutions and ReLU alone, with the weights of a stored model."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for layer in layers:
            out, channels = layer.weight.shape[:2]
            convolution = nn.Conv2d(channels, out, 3, padding=1)
            convolution.weight.data = torch.from_numpy(layer.weight.astype(np.float32))
            convolution.bias.data = torch.from_numpy(layer.bias.astype(np.float32))
            self.layers.append(convolution)
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    @classmethod
    def of(cls, model: ReferenceModel) -> "FoldedDnCNN":
        """From a stored model."""
        return cls(model.layers())

    @property
    def depth(self) -> int:
        """Convolutions."""
        return len(self.layers)

    def forward(self, degraded: Tensor) -> Tensor:
        """(n, 1, h, w) in 0..1 -> (n, 1, h, w) residuals."""
        *before, last = self.layers
        for convolution in before:
            degraded = functional.relu(convolution(degraded), inplace=True)
        return last(degraded)


def residual(
    network: FoldedDnCNN,
    plane: NDArray[np.float32],
    tile: int = TILE,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> NDArray[np.float32]:
    """What the codec is thought to have done to ``plane``, (h, w) in 0..1: to be subtracted from it.

    Part by part, each with a margin of as many samples as there are layers, which is how far an output sees:
    memory does not grow with the plane, and the parts are what the whole plane at once would give, but for
    the rounding of float32 sums (about 1e-6). ``tell`` hears how many parts of all are done.
    """
    height, width = plane.shape
    margin, found = network.depth, np.empty_like(plane, np.float32)
    corners = [(y, x) for y in range(0, height, tile) for x in range(0, width, tile)]
    for done, (y, x) in enumerate(corners):
        # Where a part touches the plane's border the network pads it with zeros, as it does the whole.
        top, left = max(0, y - margin), max(0, x - margin)
        part = plane[top : y + tile + margin, left : x + tile + margin]
        with torch.inference_mode():
            given = torch.from_numpy(np.ascontiguousarray(part, np.float32))[None, None]
            out = network(given.to(memory_format=torch.channels_last))[0, 0].numpy()
        rows, columns = min(tile, height - y), min(tile, width - x)
        found[y : y + rows, x : x + columns] = out[y - top :, x - left :][:rows, :columns]
        tell(done + 1, len(corners))
    return found


def restored(
    network: FoldedDnCNN,
    samples: NDArray[Any],
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> NDArray[Any]:
    """A decoded picture less what the codec is thought to have done to it; shape and dtype as they were.

    ``samples``: uint8 or uint16, (1, h, w) grey or (3, h, w) red, green, blue. Of colours the luma is
    restored, as the paper does, and the difference added to all three: chroma stays. Bytes are the range
    that the network knows; of other words percentiles 0.1 to 99.9 are brought to it, and the residual back,
    so that nothing is rounded to 8 bits. No sample leaves the range that the picture had.
    """
    plane = luma(samples) if len(samples) == 3 else samples[0].astype(np.float64)
    low, high = grey_range(samples)
    if high <= low:
        return samples.copy()
    seen = ((plane - low) / (high - low)).clip(0, 1).astype(np.float32)
    found = residual(network, seen, tell=tell).astype(np.float64) * (high - low)
    bounds = (0, 255) if samples.dtype == np.uint8 else (samples.min(), samples.max())
    return np.asarray(np.rint(samples - found).clip(*bounds).astype(samples.dtype))


def use_threads(count: int) -> None:
    """Cores that torch may take."""
    torch.set_num_threads(count)
