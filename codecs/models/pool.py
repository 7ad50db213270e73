"""Crops as they are decoded, made once and looked at often: what the restoration network learns from.

Coding a crop costs ten times what a network learns from it in one iteration, and the entropy networks stand
still by then. So crops are coded when they are first drawn and kept; a look is a window of one of them,
turned and mirrored. What a look shows depends on its seed alone, whatever was drawn before.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from tilevault.codecs.models.crops import SIDE, Crop, Crops

__all__ = ["WINDOW", "Decode", "Pool"]

Planes = NDArray[np.generic]
Decode = Callable[[list[Crop]], tuple[Planes, Planes]]
"""Crops to integer features and to what restoration should add, in steps: (n, 192, 192) each."""

WINDOW, ALIGNED = 128, 8
"""Side of a look, and what its corner is a multiple of: features know blocks of 8 x 8."""
GROUP = 6
"""Crops that are coded together."""


class Pool:
    """At most ``size`` coded crops."""

    def __init__(self, crops: Crops, decode: Decode, seed: Iterable[int], size: int, coarse: float) -> None:
        """``coarse``: see `Crops.batch`."""
        self.crops, self.decode, self.seed, self.coarse = crops, decode, tuple(seed), coarse
        self.groups = -(-size // GROUP)
        self.known: dict[int, tuple[Planes, Planes]] = {}

    def looks(self, seed: Iterable[int], count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(count, 1, 128, 128) float32 features and errors; the same seed shows the same."""
        draw = np.random.default_rng(list(seed))
        seen = [self._look(draw) for _ in range(count)]
        features, errors = (np.stack(parts).astype(np.float32)[:, None] for parts in zip(*seen, strict=True))
        return torch.from_numpy(features), torch.from_numpy(errors)

    def _look(self, draw: np.random.Generator) -> tuple[Planes, Planes]:
        group, member = int(draw.integers(self.groups)), int(draw.integers(GROUP))
        y, x = (ALIGNED * int(n) for n in draw.integers((SIDE - WINDOW) // ALIGNED + 1, size=2))
        turn = int(draw.integers(8))
        features, errors = (
            _turned(part[member, y : y + WINDOW, x : x + WINDOW], turn) for part in self._group(group)
        )
        return features, errors

    def _group(self, number: int) -> tuple[Planes, Planes]:
        if number not in self.known:
            features, errors = self.decode(self.crops.batch((*self.seed, number), GROUP, self.coarse))
            self.known[number] = features.astype(np.int16), errors.astype(np.float16)
        return self.known[number]


def _turned(plane: Planes, turn: int) -> Planes:
    plane = plane[:: -1 if turn & 1 else 1, :: -1 if turn & 2 else 1]
    return plane.T if turn & 4 else plane
