"""The integer form of the models: bytes that mean the same numbers on every machine.

A network is a list of records (``TVNN``; the layout stands in codecs/native/nn.hpp), a model is the tables of
the entropy coder and five networks (``TVLM``). Both are written here and taken apart again, completely
checked; the native engine runs them.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tilevault.codecs.errors import ModelMismatch

__all__ = [
    "FRACTIONS",
    "ROWS",
    "SUM_LIMIT",
    "TOKENS",
    "Add",
    "Concat",
    "Convolution",
    "Input",
    "Model",
    "NetworkWriter",
    "Output",
    "Record",
    "read_network",
]

Integers = NDArray[np.int64]

SUM_LIMIT = 1 << 30
"""No sum of a layer reaches it, whatever the inputs are: int32 carries it, and half of any shift."""
ROWS, FRACTIONS, TOKENS = 64, 8, 32
"""Scales of a coefficient, eighths that its mean lies from an integer, symbols of one table."""
FREQUENCY_BITS = 15
LOGARITHMS, MANTISSAS, BANDS, ACTIVITIES, NETWORKS = 4096, 128, 16, 256, 5

_INPUT, _CONV, _DEPTHWISE, _ADD, _CONCAT, _OUTPUT = range(6)


@dataclass
class NetworkWriter:
    """Writes a network record by record; what makes a tensor returns the tensor's number."""

    body: bytearray = field(default_factory=bytearray)
    records: int = 0
    channels: list[int] = field(default_factory=list)
    """Of each tensor."""

    def blob(self) -> bytes:
        """The network as it is stored."""
        return b"TVNN" + struct.pack("<HH", 1, self.records) + bytes(self.body)

    def input(self, channels: int, low: int, high: int, factor: int = 1) -> int:
        """An input of ``channels`` on the grid, clamped; factor 4: 16 channels of a plane unshuffled."""
        self._record(_INPUT, "bHhh", factor, channels, low, high)
        return self._tensor(channels)

    def convolution(
        self,
        source: int,
        weights: Integers,
        bias: ArrayLike,
        shift: ArrayLike,
        low: ArrayLike,
        high: ArrayLike,
        depthwise: bool = False,
    ) -> int:
        """weights (out, in, size, size), or (channels, 1, size, size); the rest (out,) or one number."""
        out, size = len(weights), weights.shape[-1]
        width = 2 if np.abs(weights).max(initial=0) > 127 else 1
        if depthwise:
            self._record(_DEPTHWISE, "HBB", source, size, width)
        else:
            self._record(_CONV, "HBBH", source, size, width, out)
        for values, dtype in ((shift, "u1"), (bias, "<i4"), (low, "<i2"), (high, "<i2")):
            self.body += np.broadcast_to(np.asarray(values), (out,)).astype(dtype).tobytes()
        self.body += weights.astype(f"<i{width}").tobytes()
        return self._tensor(out)

    def add(self, a: int, b: int, low: int, high: int) -> int:
        """The sum of two tensors, clamped."""
        self._record(_ADD, "HH", a, b)
        for bound in (low, high):
            self.body += np.full(self.channels[a], bound, "<i2").tobytes()
        return self._tensor(self.channels[a])

    def concat(self, a: int, b: int) -> int:
        """The channels of both."""
        self._record(_CONCAT, "HH", a, b)
        return self._tensor(self.channels[a] + self.channels[b])

    def output(self, source: int, factor: int = 1) -> None:
        """``source`` leaves the network; factor 4: 16 channels shuffled to one plane."""
        self._record(_OUTPUT, "HB", source, factor)

    def _record(self, kind: int, form: str, *values: int) -> None:
        self.body += struct.pack("<B" + form, kind, *values)
        self.records += 1

    def _tensor(self, channels: int) -> int:
        self.channels.append(channels)
        return len(self.channels) - 1


@dataclass(frozen=True)
class Input:
    """Clamps and, with a factor above 1, unshuffles the next plane."""

    channels: int
    low: int
    high: int
    factor: int


@dataclass(frozen=True)
class Convolution:
    """clamp((sum + bias + half) >> shift, low, high) by channel."""

    source: int
    depthwise: bool
    weights: Integers
    """(out, in, size, size); (channels, 1, size, size) where depthwise."""
    bias: Integers
    shift: Integers
    low: Integers
    high: Integers


@dataclass(frozen=True)
class Add:
    """clamp(a + b, low, high) by channel."""

    a: int
    b: int
    low: Integers
    high: Integers


@dataclass(frozen=True)
class Concat:
    """The channels of both."""

    a: int
    b: int


@dataclass(frozen=True)
class Output:
    """A tensor leaves, with a factor above 1 shuffled."""

    source: int
    factor: int


Record = Input | Convolution | Add | Concat | Output


class _Reader:
    """Takes a blob apart; whatever does not fit is `ModelMismatch`."""

    def __init__(self, data: bytes, what: str) -> None:
        self.data, self.at, self.what = data, 0, what

    def refuse(self, why: str) -> NoReturn:
        raise ModelMismatch(f"{self.what}, byte {self.at}: {why}")

    def take(self, form: str) -> tuple[Any, ...]:
        return struct.unpack("<" + form, self.bytes(struct.calcsize("<" + form)))

    def bytes(self, count: int) -> bytes:
        if len(self.data) - self.at < count:
            self.refuse(f"{count} bytes are wanted, {len(self.data) - self.at} are left")
        self.at += count
        return self.data[self.at - count : self.at]

    def array(self, dtype: str, *shape: int) -> Integers:
        count = int(np.prod(shape))
        data = self.bytes(count * np.dtype(dtype).itemsize)
        return np.frombuffer(data, dtype).astype(np.int64).reshape(shape)

    def end(self) -> None:
        if self.at != len(self.data):
            self.refuse(f"{len(self.data) - self.at} bytes follow the end")


def read_network(blob: bytes) -> list[Record]:
    """The records of a network. Raises `ModelMismatch` where it is none.

    What the native loader checks besides, the bounds of sums, is its own affair.
    """
    reader = _Reader(blob, "network")
    magic, version, count = reader.take("4sHH")
    if (magic, version) != (b"TVNN", 1):
        reader.refuse(f"is no network of version 1: {magic!r}, {version}")
    records: list[Record] = []
    channels: list[int] = []
    for _ in range(count):
        record = _read_record(reader, channels)
        records.append(record)
        match record:
            case Input():
                channels.append(record.channels)
            case Convolution():
                channels.append(len(record.weights))
            case Add():
                channels.append(channels[record.a])
            case Concat():
                channels.append(channels[record.a] + channels[record.b])
    reader.end()
    return records


def _read_record(reader: _Reader, channels: Sequence[int]) -> Record:
    def source() -> int:
        (number,) = reader.take("H")
        if number >= len(channels):
            reader.refuse(f"tensor {number} is not there yet")
        return int(number)

    (kind,) = reader.take("B")
    if kind == _INPUT:
        factor, count, low, high = reader.take("bHhh")
        return Input(count, low, high, factor)
    if kind in (_CONV, _DEPTHWISE):
        return _read_convolution(reader, source(), channels, kind == _DEPTHWISE)
    if kind == _ADD:
        a, b = source(), source()
        return Add(a, b, reader.array("<i2", channels[a]), reader.array("<i2", channels[a]))
    if kind == _CONCAT:
        return Concat(source(), source())
    if kind == _OUTPUT:
        return Output(source(), reader.take("B")[0])
    return reader.refuse(f"a record of unknown kind {kind}")


def _read_convolution(reader: _Reader, source: int, channels: Sequence[int], depthwise: bool) -> Convolution:
    size, width = reader.take("BB")
    if width not in (1, 2):
        reader.refuse(f"weights of {width} bytes")
    out = channels[source] if depthwise else int(reader.take("H")[0])
    shift, bias = reader.array("u1", out), reader.array("<i4", out)
    low, high = reader.array("<i2", out), reader.array("<i2", out)
    weights = reader.array(f"<i{width}", out, 1 if depthwise else channels[source], size, size)
    return Convolution(source, depthwise, weights, bias, shift, low, high)


@dataclass(frozen=True)
class Model:
    """A model of the learned path: integer tables and networks. Its name is its digest."""

    logarithms: Integers
    """(4096,): 128 log2(1 + i / 16)."""
    mantissas: Integers
    """(128,): of the steps of an octave, 512 to 1023."""
    inverse_gains: Integers
    """(16,): 2^14 by the L2 norm of a band's synthesis basis; HL, LH, HH from fine to coarse, then LL."""
    low_rows: Integers
    """(256,): row of the tables for a low-pass residual, by local activity."""
    raw_bits: Integers
    """(64,): low bits that are stored as they are, by row."""
    frequencies: Integers
    """(64, 8, 32): each sums to 2^15; the last symbol is the escape."""
    networks: tuple[bytes, ...]
    """First and second pass at the finest level, the same for the others, restoration."""

    @property
    def digest(self) -> str:
        """SHA-256 of the stored bytes, in hexadecimal."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """As it is stored."""
        parts = [b"TVLM", struct.pack("<HH", 1, 0)]
        for values, dtype in (
            (self.logarithms, "<i2"),
            (self.mantissas, "<u2"),
            (self.inverse_gains, "<u2"),
            (self.low_rows, "u1"),
            (self.raw_bits, "u1"),
            (self.frequencies, "<u2"),
        ):
            parts.append(values.astype(dtype).tobytes())
        for network in self.networks:
            parts += [struct.pack("<I", len(network)), network]
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Model":
        """The model that `to_bytes` wrote. Raises `ModelMismatch` for anything else."""
        reader = _Reader(data, "model")
        magic, version, reserved = reader.take("4sHH")
        if (magic, version, reserved) != (b"TVLM", 1, 0):
            reader.refuse(f"is no model of version 1: {magic!r}, {version}")
        logarithms, mantissas = reader.array("<i2", LOGARITHMS), reader.array("<u2", MANTISSAS)
        gains, low_rows = reader.array("<u2", BANDS), reader.array("u1", ACTIVITIES)
        raw_bits, frequencies = reader.array("u1", ROWS), reader.array("<u2", ROWS, FRACTIONS, TOKENS)
        if (frequencies.sum(axis=-1) != 1 << FREQUENCY_BITS).any() or (frequencies[..., -1] == 0).any():
            reader.refuse("frequencies do not sum to 2^15, or leave no escape")
        if low_rows.max() >= ROWS or raw_bits.max() > 16:
            reader.refuse("a row or a number of raw bits that there is not")
        networks = tuple(reader.bytes(*reader.take("I")) for _ in range(NETWORKS))
        reader.end()
        for network in networks:
            read_network(network)
        return cls(logarithms, mantissas, gains, low_rows, raw_bits, frequencies, networks)
