"""A small generated model of the learned codec, and tiles for it: the same bytes on every machine.

Networks are random but for the restoration, which draws each pixel towards its neighbours: it helps on noise
and harms at edges. Tables are formulas of integers. Nothing is trained and nothing compresses well.
"""

from __future__ import annotations

import hashlib
import os
import struct
from functools import cache
from pathlib import Path

import numpy as np

import nn_twin
from tilevault.codecs import weights

INVERSE_GAIN = [
    16201,
    16201,
    20811,
    12417,
    12417,
    16939,
    8969,
    8969,
    11925,
    6654,
    6654,
    8725,
    5006,
    5006,
    6537,
    3833,
]


class Numbers:
    """Integers from a digest of a name: no generator whose stream may change with a library."""

    def __init__(self, name: str) -> None:
        self.name, self.count = name, 0

    def within(self, least: int, most: int, *shape: int) -> np.ndarray:
        """int64, from least to most (inclusive); `shape` () is one number as an array."""
        self.count += 1
        n = int(np.prod(shape, dtype=int))
        raw = hashlib.shake_256(f"{self.name}/{self.count}".encode()).digest(4 * n)
        values = np.frombuffer(raw, "<u4").astype(np.int64)
        return (least + (values * (most - least + 1) >> 32)).reshape(shape)


def logarithms() -> np.ndarray:
    """round(128 log2(1 + i / 16)), in integers: the powers of 256 say halves of the unit."""
    return np.array([((16 + i) ** 256 // 16**256).bit_length() // 2 for i in range(4096)], "<i2")


def width_of(scale: int) -> int:
    """Of the chances of a scale number, in eighths of a step."""
    return 1 + scale**3 // 16


def raw_bits_of(scale: int) -> int:
    return max(0, width_of(scale).bit_length() - 6)


def frequencies(scale: int, fraction: int) -> np.ndarray:
    """2^15 over 32 tokens, falling with the fourth power of the distance; some never occur."""
    tokens, k, w = np.arange(-15, 16), raw_bits_of(scale), width_of(scale)
    centres = 8 * tokens * 2**k + 4 * (2**k - 1) - (fraction - 4)
    weights = [2**80 // (w * w + int(d) ** 2) ** 2 for d in centres]
    if scale % 2 == 0:
        weights = [0 if abs(t) > 12 and t % 2 else x for t, x in zip(tokens, weights, strict=True)]
    counts = [(1 if x else 0) + x * (2**15 - 64) // sum(weights) for x in weights] + [9]
    counts[counts.index(max(counts))] += 2**15 - sum(counts)
    return np.array(counts, "<u2")


HIDDEN = (8, 11)
"""Channels of the hidden state, by pair of networks."""


def first_network(numbers: Numbers, hidden: int, spread: int = 60) -> bytes:
    """spread: of the means, in eighths of a step."""
    net = nn_twin.Builder()
    x = net.input(6, -1025, 1025)
    x = net.conv(x, numbers.within(-90, 90, hidden, 6, 3, 3), numbers.within(-9999, 9999, hidden), 8, 0, 1023)
    y = net.depthwise(x, numbers.within(-300, 300, hidden, 3, 3), 5, 9, -1023, 1023)
    y = net.conv(y, numbers.within(-90, 90, hidden, hidden, 1, 1), 0, 9, -1023, 1023)
    x = net.add(x, y, -1023, 1023)
    net.output(x)
    net.output(parameters(net, numbers, x, spread))
    return net.blob()


def second_network(numbers: Numbers, hidden: int, spread: int = 60) -> bytes:
    net = nn_twin.Builder()
    state, known = net.input(hidden, -1023, 1023), net.input(6, -1025, 1025)
    y = net.conv(known, numbers.within(-90, 90, 5, 6, 3, 3), 0, 8, -1023, 1023)
    x = net.concat(state, y)
    x = net.conv(x, numbers.within(-90, 90, hidden, hidden + 5, 1, 1), 0, 8, 0, 1023)
    net.output(parameters(net, numbers, x, spread))
    return net.blob()


def parameters(net: nn_twin.Builder, numbers: Numbers, source: int, spread: int) -> int:
    """Means, then scale numbers, some of them beyond what is allowed."""
    weights = numbers.within(-127, 127, 6, net.channels[source], 1, 1)
    bias = np.array([0, 99, -99, 12, 16, 20]) << 11
    return net.conv(source, weights, bias, 11, [-spread] * 3 + [-5] * 3, [spread] * 3 + [70] * 3)


def restoration_network(numbers: Numbers, radius: int = 1) -> bytes:
    net = nn_twin.Builder()
    x = net.input(16, -1023, 1023, 4)
    towards = numbers.within(-3, 3, 16, 16, 1, 1) + 16
    towards[np.arange(16), np.arange(16)] -= 256
    x = net.conv(x, towards, 0, 3, -2000, 2000)
    around = numbers.within(-2, 2, 16, 16, 2 * radius + 1, 2 * radius + 1)
    around[np.arange(16), np.arange(16), radius, radius] = 127
    net.output(net.conv(x, around, 0, 7, -300, 300), 4)
    return net.blob()


@cache
def networks(name: str = "model") -> tuple[bytes, ...]:
    """As they stand in a model."""
    numbers = Numbers(name)
    entropy = [make(numbers, hidden) for hidden in HIDDEN for make in (first_network, second_network)]
    return (*entropy, restoration_network(numbers))


@cache
def tables() -> bytes:
    mantissa = np.array([round(512 * 2 ** (i / 128)) for i in range(128)], "<u2")
    low_scale = np.minimum(np.arange(256) // 6 + 12, 63).astype("u1")
    raw_bits = np.array([raw_bits_of(s) for s in range(64)], "u1")
    rows = np.concatenate([frequencies(s, f) for s in range(64) for f in range(8)])
    parts = (logarithms(), mantissa, np.array(INVERSE_GAIN, "<u2"), low_scale, raw_bits, rows)
    return b"TVLM\1\0\0\0" + b"".join(part.tobytes() for part in parts)


def with_networks(blobs: tuple[bytes, ...]) -> bytes:
    return tables() + b"".join(struct.pack("<I", len(blob)) + blob for blob in blobs)


@cache
def model(name: str = "model") -> bytes:
    return with_networks(networks(name))


def trained() -> list[Path]:
    """The models that come with the package, and those of the folder that TILEVAULT_MODELS names."""
    named = os.environ.get("TILEVAULT_MODELS")
    folders = [Path(weights.__file__).parent / "trained", *([Path(named)] if named else [])]
    return sorted({p.name: p for folder in folders for p in folder.glob("*.tvlm")}.values())


# --- tiles -------------------------------------------------------------------------------------------


def photo(name: str, shape: tuple[int, ...], least: int, most: int) -> np.ndarray:
    """Something like a photograph: slopes, edges, and noise in its right half; planes are alike. int32."""
    planes, height, width = shape
    numbers = Numbers(name)
    y, x = np.mgrid[:height, :width]
    scene = (
        40 * x // max(1, width)
        + 60 * ((x // 13 + y // 9) % 2)
        + 50 * ((x - width // 2) ** 2 + (y - height // 3) ** 2 < height * width // 12)
    )
    noise = numbers.within(-30, 30, height, width) * (x > width // 2)
    out = [scene * (3 + p) + noise + numbers.within(-4, 4, height, width) for p in range(planes)]
    values = np.stack(out) * (most - least) // (300 * planes) + least
    return np.clip(values, least, most).astype(np.int32)


def noise(name: str, shape: tuple[int, ...], least: int, most: int) -> np.ndarray:
    return Numbers(name).within(least, most, *shape).astype(np.int32)


def noisy(name: str, shape: tuple[int, ...], least: int, most: int) -> np.ndarray:
    """Noise that some steps hardly see, where restoration helps; and a photograph in the upper right."""
    middle, span = (least + most) // 2, (most - least) // 68
    out = noise(name, shape, middle - span, middle + span)
    corner = (shape[0], min(shape[1], 64), shape[2] - shape[2] * 6 // 13)
    out[:, :64, shape[2] - corner[2] :] = photo(name, corner, least, most)
    return out


def constant(name: str, shape: tuple[int, ...], least: int, most: int) -> np.ndarray:
    return np.full(shape, (least + most) // 2, np.int32)


def sparse(name: str, shape: tuple[int, ...], least: int, most: int) -> np.ndarray:
    """Nothing but a few spots in a corner: most blocks are empty."""
    out = np.full(shape, least, np.int32)
    out[..., : shape[1] // 3 + 1, : shape[2] // 4 + 1][..., ::5, ::7] = most
    return out


def extremes(name: str, shape: tuple[int, ...], least: int, most: int) -> np.ndarray:
    return np.where(Numbers(name).within(0, 1, *shape) > 0, most, least).astype(np.int32)


TEXTURES = {f.__name__: f for f in (photo, noise, noisy, constant, sparse, extremes)}
