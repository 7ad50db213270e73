"""Integer networks, slowly and plainly: the reference that the native engine equals bit for bit.

Also writes the blobs (`Builder`). Everything is int64, so nothing can overflow that the loader lets pass.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

INPUT, CONV, DEPTHWISE, ADD, CONCAT, OUTPUT = range(6)
Planes = NDArray[np.int64]


@dataclass
class Builder:
    """Writes a network record by record; all methods but `output` return a tensor's number."""

    body: bytearray = field(default_factory=bytearray)
    records: int = 0
    channels: list[int] = field(default_factory=list)

    def blob(self) -> bytes:
        return b"TVNN" + struct.pack("<HH", 1, self.records) + bytes(self.body)

    def _record(self, kind: int, form: str, *values: int) -> None:
        self.body += struct.pack("<B" + form, kind, *values)
        self.records += 1

    def _tensor(self, channels: int) -> int:
        self.channels.append(channels)
        return len(self.channels) - 1

    def input(self, channels: int, low: int, high: int, factor: int = 1) -> int:
        self._record(INPUT, "bHhh", factor, channels, low, high)
        return self._tensor(channels)

    def conv(
        self,
        source: int,
        weights: NDArray[np.int64],
        bias: ArrayLike = 0,
        shift: ArrayLike = 0,
        low: ArrayLike = -32768,
        high: ArrayLike = 32767,
    ) -> int:
        """weights (out, in, size, size); the other arrays (out,) or one number."""
        out, inputs, size, _ = weights.shape
        assert inputs == self.channels[source]
        wide = bool(np.abs(weights).max(initial=0) > 127) + 1
        self._record(CONV, "HBBH", source, size, wide, out)
        self._numbers(out, weights, wide, bias, shift, low, high)
        return self._tensor(out)

    def depthwise(
        self,
        source: int,
        weights: NDArray[np.int64],
        bias: ArrayLike = 0,
        shift: ArrayLike = 0,
        low: ArrayLike = -32768,
        high: ArrayLike = 32767,
    ) -> int:
        """weights (channels, size, size); the other arrays (channels,) or one number."""
        channels, size, _ = weights.shape
        assert channels == self.channels[source]
        wide = bool(np.abs(weights).max(initial=0) > 127) + 1
        self._record(DEPTHWISE, "HBB", source, size, wide)
        self._numbers(channels, weights, wide, bias, shift, low, high)
        return self._tensor(channels)

    def _numbers(
        self,
        n: int,
        weights: NDArray[np.int64],
        wide: int,
        bias: ArrayLike,
        shift: ArrayLike,
        low: ArrayLike,
        high: ArrayLike,
    ) -> None:
        for values, dtype in ((shift, "u1"), (bias, "<i4"), (low, "<i2"), (high, "<i2")):
            self.body += np.broadcast_to(np.asarray(values), (n,)).astype(dtype).tobytes()
        self.body += weights.astype(f"<i{wide}").tobytes()

    def add(self, a: int, b: int, low: ArrayLike = -32768, high: ArrayLike = 32767) -> int:
        self._record(ADD, "HH", a, b)
        for values in (low, high):
            self.body += np.broadcast_to(np.asarray(values), (self.channels[a],)).astype("<i2").tobytes()
        return self._tensor(self.channels[a])

    def concat(self, a: int, b: int) -> int:
        self._record(CONCAT, "HH", a, b)
        return self._tensor(self.channels[a] + self.channels[b])

    def output(self, source: int, factor: int = 1) -> None:
        self._record(OUTPUT, "HB", source, factor)


def rounded(total: Planes, shift: NDArray[np.int64]) -> Planes:
    """floor(total / 2^shift + 1/2), by channel."""
    return (total + ((1 << shift) >> 1)[:, None, None]) >> shift[:, None, None]


def convolved(x: Planes, weights: NDArray[np.int64]) -> Planes:
    """(in, h, w) by (out, in, size, size) -> (out, h, w); borders replicate."""
    radius, (_, height, width) = weights.shape[-1] // 2, x.shape
    wide = np.pad(x, ((0, 0), (radius, radius), (radius, radius)), "edge")
    total = np.zeros((len(weights), height, width), np.int64)
    for ky in range(weights.shape[2]):
        for kx in range(weights.shape[3]):
            part = wide[:, ky : ky + height, kx : kx + width].reshape(len(x), -1)
            total += (weights[:, :, ky, kx] @ part).reshape(total.shape)
    return total


def depthwise(x: Planes, weights: NDArray[np.int64]) -> Planes:
    """(c, h, w) by (c, size, size) -> (c, h, w); borders replicate."""
    return np.concatenate([convolved(x[c : c + 1], weights[c][None, None]) for c in range(len(x))])


def unshuffled(x: Planes, factor: int) -> Planes:
    """(c, H, W) -> (c * factor^2, ceil(H / factor), ceil(W / factor)); the border replicates."""
    if factor == 1:
        return x
    channels, height, width = x.shape
    x = np.pad(x, ((0, 0), (0, -height % factor), (0, -width % factor)), "edge")
    rows, columns = x.shape[1] // factor, x.shape[2] // factor
    parts = x.reshape(channels, rows, factor, columns, factor).transpose(0, 2, 4, 1, 3)
    return parts.reshape(channels * factor**2, rows, columns)


def shuffled(x: Planes, factor: int) -> Planes:
    """The inverse of `unshuffled`, with all positions complete."""
    channels, rows, columns = x.shape
    parts = x.reshape(channels // factor**2, factor, factor, rows, columns).transpose(0, 3, 1, 4, 2)
    return parts.reshape(channels // factor**2, rows * factor, columns * factor)


class Reader:
    def __init__(self, blob: bytes) -> None:
        self.blob, self.at = blob, 0

    def take(self, form: str) -> tuple[int, ...]:
        values = struct.unpack_from("<" + form, self.blob, self.at)
        self.at += struct.calcsize("<" + form)
        return values

    def array(self, dtype: str, *shape: int) -> NDArray[np.int64]:
        n = int(np.prod(shape))
        values = np.frombuffer(self.blob, dtype, n, self.at).astype(np.int64).reshape(shape)
        self.at += n * np.dtype(dtype).itemsize
        return values


def run(blob: bytes, inputs: Sequence[ArrayLike], rows: int, columns: int) -> list[Planes]:
    """What a network makes of inputs (channels, height, width); outputs are of whole positions."""
    reader = Reader(blob)
    assert reader.take("4s2H")[:2] == (b"TVNN", 1)
    waiting = [np.asarray(x).astype(np.int64) for x in inputs]
    tensors: list[Planes] = []
    outputs: list[Planes] = []
    for _ in range(struct.unpack_from("<H", blob, 6)[0]):
        (kind,) = reader.take("B")
        if kind == INPUT:
            factor, channels, low, high = reader.take("bHhh")
            x = waiting.pop(0)
            x = x.repeat(2, 1).repeat(2, 2)[:, :rows, :columns] if factor < 0 else unshuffled(x, factor)
            assert x.shape == (channels, rows, columns)
            tensors.append(x.clip(low, high))
        elif kind in (CONV, DEPTHWISE):
            source, size, wide = reader.take("HBB")
            x = tensors[source]
            n = reader.take("H")[0] if kind == CONV else len(x)
            shift, bias = reader.array("u1", n), reader.array("<i4", n)
            low, high = reader.array("<i2", n, 1, 1), reader.array("<i2", n, 1, 1)
            if kind == CONV:
                total = convolved(x, reader.array(f"<i{wide}", n, len(x), size, size))
            else:
                total = depthwise(x, reader.array(f"<i{wide}", n, size, size))
            tensors.append(rounded(total + bias[:, None, None], shift).clip(low, high))
        elif kind == ADD:
            a, b = reader.take("HH")
            n = len(tensors[a])
            low, high = reader.array("<i2", n, 1, 1), reader.array("<i2", n, 1, 1)
            tensors.append((tensors[a] + tensors[b]).clip(low, high))
        elif kind == CONCAT:
            a, b = reader.take("HH")
            tensors.append(np.concatenate([tensors[a], tensors[b]]))
        else:
            source, factor = reader.take("HB")
            outputs.append(shuffled(tensors[source], factor))
    assert reader.at == len(blob)
    return outputs
