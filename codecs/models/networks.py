"""The networks as they are trained: float modules whose every operation has an integer counterpart.

Both are built of the same block: a depthwise 3x3 convolution, a 1x1 convolution to more channels with ReLU,
one back, and the sum with what came in. Borders replicate. No normalisation and no attention: each
activation is a sum that power-of-two scales carry over to integers (`quantise`).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as functional
from torch import nn

__all__ = ["Block", "EntropyNetwork", "Observer", "RestorationNetwork", "unobserved"]

Tensor = Any
Observer = Callable[[str, Tensor], Tensor]
"""Sees each activation under its name and hands it on."""

EXPANSION = 2
DECODED = 16
"""Channels that the decoded half of a level is brought to."""
UNSHUFFLED = 4
"""Restoration works at a quarter of the resolution, on 4 x 4 pixels as channels."""


def unobserved(_: str, x: Tensor) -> Tensor:
    """The observer that looks at nothing."""
    return x


def _bordered(x: Tensor) -> Tensor:
    return functional.pad(x, (1, 1, 1, 1), mode="replicate")


def _zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """Starts as if it were not there: training begins from the coder without networks."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Block(nn.Module):
    """x + contract(relu(expand(depthwise(x))))"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, groups=channels)
        self.expand = nn.Conv2d(channels, EXPANSION * channels, 1)
        self.contract = _zeroed(nn.Conv2d(EXPANSION * channels, channels, 1))

    def forward(self, x: Tensor, observe: Observer, name: str) -> Tensor:
        """(n, channels, h, w), twice."""
        spread = observe(f"{name}.depthwise", self.depthwise(_bordered(x)))
        wide = observe(f"{name}.expand", functional.relu(self.expand(spread)))
        return observe("hidden", x + observe("hidden", self.contract(wide)))


class EntropyNetwork(nn.Module):
    """Mean and scale of the coefficients of one level, in two passes of a checkerboard.

    The first pass sees what coarser levels left: (n, 6, h, w) features. The second also sees the half that
    is decoded by then. Outputs: (n, 6, h, w), the means of HL, LH, HH in steps, then the logarithms of their
    scales plus one half.
    """

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(6, channels, 3)
        self.blocks = nn.ModuleList(Block(channels) for _ in range(blocks))
        self.first = _zeroed(nn.Conv2d(channels, 6, 1))
        self.decoded = nn.Conv2d(6, DECODED, 3)
        self.mix = nn.Conv2d(channels + DECODED, channels, 1)
        self.second = _zeroed(nn.Conv2d(channels, 6, 1))

    def first_pass(self, features: Tensor, observe: Observer = unobserved) -> tuple[Tensor, Tensor]:
        """Features -> (hidden state for the second pass, means and scales)."""
        hidden = observe("hidden", functional.relu(self.enter(_bordered(features))))
        for i, block in enumerate(self.blocks):
            hidden = block(hidden, observe, f"blocks.{i}")
        return hidden, self.first(hidden)

    def second_pass(self, hidden: Tensor, decoded: Tensor, observe: Observer = unobserved) -> Tensor:
        """Hidden state and (n, 6, h, w) features of the decoded half -> means and scales."""
        seen = observe("decoded", self.decoded(_bordered(decoded)))
        mixed = observe("mix", functional.relu(self.mix(torch.cat([hidden, seen], 1))))
        return self.second(mixed)


class RestorationNetwork(nn.Module):
    """The correction of a decoded plane, in the role of a DnCNN: residual, in units of the step.

    (n, 1, h, w) features, sides multiples of 4 -> (n, 1, h, w) corrections in steps, not clipped.
    """

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(UNSHUFFLED**2, channels, 3)
        self.blocks = nn.ModuleList(Block(channels) for _ in range(blocks))
        self.leave = _zeroed(nn.Conv2d(channels, UNSHUFFLED**2, 3))
        for block in self.blocks:  # nothing would reach them if the last layer and they began with zeros
            nn.init.normal_(block.contract.weight, std=0.02)

    def forward(self, features: Tensor, observe: Observer = unobserved) -> Tensor:
        """See the class."""
        pixels = _bordered(functional.pixel_unshuffle(features, UNSHUFFLED))
        hidden = observe("hidden", self.enter(pixels))
        for i, block in enumerate(self.blocks):
            hidden = block(hidden, observe, f"blocks.{i}")
        return functional.pixel_shuffle(self.leave(_bordered(hidden)), UNSHUFFLED)
