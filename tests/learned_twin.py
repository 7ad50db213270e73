"""A slow decoder of the learned mode, written from docs/format.md sections 9 and 10 alone.

Python integers and int64 arrays, one symbol at a time: it exists so that the native decoder can be compared
with the specification. Networks are those of nn_twin.py, run on whole grids.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

import nn_twin

Plane = NDArray[np.int64]
HL, LH, HH = range(3)
LEVELS = 5
ESCAPE = 31


class Invalid(ValueError):
    """The bytes break a rule of the specification."""


def word(value):
    """To a 32-bit two's-complement integer; of numbers and of arrays."""
    return (value + 2**31) % 2**32 - 2**31


def unfolded(z: int) -> int:
    return z // 2 if z % 2 == 0 else -(z + 1) // 2


def need(condition: bool, rule: str) -> None:
    if not condition:
        raise Invalid(rule)


# --- 10.1 models -------------------------------------------------------------------------------------


@dataclass
class Model:
    logarithm: Plane
    mantissa: Plane
    inverse_gain: Plane
    low_scale: Plane
    raw_bits: Plane
    starts: Plane
    """(512, 33): the sum of the frequencies before each token."""
    networks: list[bytes]

    @classmethod
    def read(cls, blob: bytes) -> Model:
        need(blob[:8] == b"TVLM\1\0\0\0", "10.1: version")
        at = 8

        def array(dtype: str, *shape: int) -> Plane:
            nonlocal at
            values = np.frombuffer(blob, dtype, int(np.prod(shape)), at)
            at += values.nbytes
            return values.astype(np.int64).reshape(shape)

        tables = [array("<i2", 4096), array("<u2", 128), array("<u2", 16), array("u1", 256), array("u1", 64)]
        frequency = array("<u2", 512, 32)
        networks = []
        for _ in range(5):
            (size,) = struct.unpack_from("<I", blob, at)
            networks.append(blob[at + 4 : at + 4 + size])
            at += 4 + size
        need(at == len(blob), "10.1: nothing follows")
        starts = np.concatenate([np.zeros((512, 1), np.int64), frequency.cumsum(1)], 1)
        return cls(*tables, starts, networks)

    def step(self, code: int) -> int:
        return int(self.mantissa[code & 127]) << (code >> 7)

    def band_step(self, step: int, level: int, band: int = 0) -> int:
        """Level 5: LL."""
        return (step * int(self.inverse_gain[3 * level + band]) + 2**13) >> 14

    def size(self, q: Plane) -> Plane:
        return self.logarithm[np.minimum(16 * np.abs(q), 4095)]


# --- 9.2 symbols -------------------------------------------------------------------------------------


@dataclass
class Symbols:
    data: bytes
    states: list[int]
    words: list[int]
    turn: int = 0
    at: int = 0
    taken: list[tuple[int, int]] = field(default_factory=list)
    """First slot and slots of each symbol so far."""

    @classmethod
    def read(cls, data: bytes, count: int) -> Symbols:
        need(len(data) >= 4 * count and len(data) % 2 == 0, "9.1: states and words")
        states = list(struct.unpack_from(f"<{count}I", data))
        need(all(x >= 2**16 for x in states), "9.2: states at the beginning")
        return cls(data, states, list(struct.unpack_from(f"<{len(data) // 2 - 2 * count}H", data, 4 * count)))

    def slot(self) -> int:
        return self.states[self.turn] % 2**15

    def take(self, first: int, n: int) -> None:
        self.taken.append((first, n))
        x = self.states[self.turn]
        x = n * (x // 2**15) + x % 2**15 - first
        if x < 2**16:
            need(self.at < len(self.words), "9.2: bytes end too early")
            x = 2**16 * x + self.words[self.at]
            self.at += 1
        self.states[self.turn] = x
        self.turn = (self.turn + 1) % len(self.states)

    def token(self, starts: Plane) -> int:
        t = int(np.searchsorted(starts, self.slot(), "right")) - 1
        self.take(int(starts[t]), int(starts[t + 1] - starts[t]))
        return t

    def bit(self, chance: int) -> bool:
        value = self.slot() < chance
        self.take(*((0, chance) if value else (chance, 2**15 - chance)))
        return value

    def raw(self, bits: int) -> int:
        value = 0
        while bits > 0:
            part = 12 if bits > 12 else bits
            v = self.slot() >> (15 - part)
            self.take(v << (15 - part), 2 ** (15 - part))
            value, bits = value << part | v, bits - part
        return value

    def end(self) -> None:
        need(self.at == len(self.words), "9.2: a word is left")
        need(all(x == 2**16 for x in self.states), "9.2: states at the end")


# --- 9.8 wavelet -------------------------------------------------------------------------------------


def shared(factor: int, a: Plane, b: Plane) -> Plane:
    return word(factor * word(a + b) + 2**11) >> 12


def joined(low: Plane, high: Plane) -> Plane:
    """Synthesis along the last axis."""
    nl, nh = low.shape[-1], high.shape[-1]
    if nh == 0:
        return low
    later = np.minimum(np.arange(nh) + 1, nl - 1)
    before, here = np.maximum(np.arange(nl) - 1, 0), np.minimum(np.arange(nl), nh - 1)
    low = word(low - shared(1817, high[..., before], high[..., here]))
    high = word(high - shared(3616, low[..., :nh], low[..., later]))
    low = word(low - shared(-217, high[..., before], high[..., here]))
    high = word(high - shared(-6497, low[..., :nh], low[..., later]))
    out = np.zeros((*low.shape[:-1], nl + nh), np.int64)
    out[..., ::2], out[..., 1::2] = low, high
    return out


def synthesised(ll: Plane, hl: Plane, lh: Plane, hh: Plane) -> Plane:
    return joined(joined(ll.T, lh.T).T, joined(hl.T, hh.T).T)


# --- 9.3 to 9.7 a plane ------------------------------------------------------------------------------


def coefficient(symbols: Symbols, model: Model, centre: int, row: int, raw: int) -> int:
    t = symbols.token(model.starts[row])
    if t < ESCAPE:
        value = t - 15
    else:
        n = symbols.raw(5)
        need(n <= 20, "9.3: an escape's length")
        value = unfolded(2**n + symbols.raw(n) - 1)
    q = centre + value * 2**raw + symbols.raw(raw)
    need(abs(q) <= 2**17, "9.3: a coefficient's magnitude")
    return q


def by_parameters(symbols: Symbols, model: Model, mean: int, scale: int) -> int:
    mean, scale = max(-8191, min(8191, mean)), max(0, min(63, scale))
    centre = (mean + 4) >> 3
    return coefficient(symbols, model, centre, 8 * scale + mean - 8 * centre + 4, int(model.raw_bits[scale]))


def low_band(symbols: Symbols, model: Model, rows: int, columns: int) -> Plane:
    q = np.zeros((rows, columns), np.int64)
    for y in range(rows):
        for x in range(columns):
            west = int(q[y, x - 1]) if x else int(q[y - 1, x]) if y else 0
            north = int(q[y - 1, x]) if y else west
            corner = int(q[y - 1, x - 1]) if x and y else north
            east = int(q[y - 1, x + 1]) if y and x + 1 < columns else north
            if corner >= max(west, north):
                mean = min(west, north)
            elif corner <= min(west, north):
                mean = max(west, north)
            else:
                mean = west + north - corner
            around = abs(north - corner) + abs(west - corner) + abs(east - north)
            scale = int(model.low_scale[min(255, around)])
            q[y, x] = coefficient(symbols, model, mean, 8 * scale + 4, int(model.raw_bits[scale]))
    return q


def features(model: Model, level: int, low: Plane, sizes: Plane | None, step: int) -> Plane:
    rows, columns = low.shape
    wide = np.pad(low, 1, "edge")
    around = sum(wide[i : i + rows, j : j + columns] for i in range(3) for j in range(3))
    v = (word(9 * low - around) * (2**30 // (9 * step)) + 2**19) >> 20
    out = np.zeros((6, rows, columns), np.int64)
    out[0] = np.sign(v) * model.logarithm[np.minimum(np.abs(v), 4095)]
    out[1] = 2 * v.clip(-128, 128)
    if sizes is not None:
        out[2:5] = sizes.repeat(2, 1).repeat(2, 2)[:, :rows, :columns]
    out[5] = 32 * level
    return out


def active_blocks(symbols: Symbols, rows: int, columns: int, sizes: Plane | None) -> NDArray[np.bool_]:
    """By position of the grid. sizes: of the coarser level, None at the coarsest."""
    active = np.zeros((rows, columns), np.bool_)
    likely = np.ones((rows, columns), np.bool_)
    if sizes is not None:
        likely = (sizes != 0).any(0).repeat(2, 0).repeat(2, 1)[:rows, :columns]
    for y in range(0, rows, 32):
        for x in range(0, columns, 32):
            block = np.s_[y : y + 32, x : x + 32]
            active[block] = symbols.bit(28672 if likely[block].any() else 4096)
    return active


def level_coefficients(
    symbols: Symbols,
    model: Model,
    level: int,
    low: Plane,
    extents: list[tuple[int, int]],
    sizes: Plane | None,
    step: int,
) -> Plane:
    """(3, rows, columns) quantised; extents: (rows, columns) of HL, LH, HH."""
    rows, columns = low.shape
    q = np.zeros((3, rows, columns), np.int64)
    active = active_blocks(symbols, rows, columns, sizes)
    if not active.any():
        return q
    first, second = model.networks[:2] if level == 0 else model.networks[2:4]
    hidden, parameters = nn_twin.run(first, [features(model, level, low, sizes, step)], rows, columns)

    def coded(phase: int, parameters: Plane) -> None:
        for y in range(rows):
            for band in (HL, LH, HH):
                height, width = extents[band]
                if y >= height:
                    continue
                parity = 0 if band == LH else 1
                for x in range((y + parity + phase) % 2, width, 2):
                    if active[y, x]:
                        mean, scale = int(parameters[band, y, x]), int(parameters[3 + band, y, x])
                        q[band, y, x] = by_parameters(symbols, model, mean, scale)

    coded(0, parameters)
    known = np.concatenate([np.sign(q) * model.size(q), model.size(q)])
    (parameters,) = nn_twin.run(second, [hidden, known], rows, columns)
    coded(1, parameters)
    return q


def coded_plane(symbols: Symbols, model: Model, step: int, height: int, width: int) -> Plane:
    """Words, before restoration."""
    shapes = [(-(-height // 2**times), -(-width // 2**times)) for times in range(LEVELS + 1)]

    def dequantised(q: Plane, band_step: int) -> Plane:
        return word((q * band_step + 32) >> 6)

    low = dequantised(low_band(symbols, model, *shapes[LEVELS]), model.band_step(step, LEVELS))
    sizes = None
    for level in reversed(range(LEVELS)):
        (rows, columns), (h, w) = shapes[level + 1], shapes[level]
        extents = [(rows, w // 2), (h // 2, columns), (h // 2, w // 2)]
        steps = [model.band_step(step, level, band) for band in range(3)]
        q = level_coefficients(symbols, model, level, low, extents, sizes, steps[HL])
        bands = [dequantised(q[b, :y, :x], steps[b]) for b, (y, x) in enumerate(extents)]
        low, sizes = synthesised(low, *bands), model.size(q)
    return low


# --- 9.10 restoration --------------------------------------------------------------------------------


def strengths(symbols: Symbols, height: int, width: int) -> Plane:
    """By sample."""
    all_blocks = symbols.raw(3)
    need(all_blocks <= 4, "9.4: strength")
    out = np.full((height, width), all_blocks, np.int64)
    if all_blocks == 4:
        for y in range(0, height, 64):
            for x in range(0, width, 64):
                out[y : y + 64, x : x + 64] = symbols.raw(2)
    return out


def restored(model: Model, step: int, values: Plane, strength: Plane) -> Plane:
    height, width = values.shape
    wide = np.pad(values, ((0, -height % 8), (0, -width % 8)), "edge")
    blocks = wide.reshape(wide.shape[0] // 8, 8, wide.shape[1] // 8, 8)
    mean = ((blocks.sum((1, 3)) + 32) >> 6).repeat(8, 0).repeat(8, 1)[:height, :width]
    u = (((values - mean) * (2**28 // step) + 2**19) >> 20).clip(-1023, 1023)
    (c,) = nn_twin.run(model.networks[4], [u[None]], -(-height // 4), -(-width // 4))
    change = (c[0, :height, :width].clip(-256, 256) * 2 * strength * step + 2**15) >> 16
    return word(values + change)


# --- 9.1, 9.9 tiles ----------------------------------------------------------------------------------


@dataclass
class Header:
    code: int
    flags: int
    low: list[int] = field(default_factory=list)
    range: list[int] = field(default_factory=list)
    """high - low."""
    reference: list[int] = field(default_factory=list)
    weight: list[int] = field(default_factory=list)
    size: int = 0
    """Bytes."""

    @property
    def states(self) -> int:
        return 4 if self.flags & 1 else 1

    @property
    def restored(self) -> bool:
        return self.flags & 2 != 0

    @property
    def bits(self) -> int:
        return self.flags >> 2

    @classmethod
    def read(cls, data: bytes, planes: int) -> Header:
        at = 3
        need(len(data) >= 3, "9.1: bytes end too early")
        head = cls(*struct.unpack_from("<HB", data))

        def byte() -> int:
            nonlocal at
            need(at < len(data), "9.1: bytes end too early")
            at += 1
            return data[at - 1]

        def varint() -> int:
            value = shift = 0
            while True:
                b = byte()
                value |= (b & 127) << shift
                if b < 128:
                    break
                shift += 7
            need(value < 2**32 and (b != 0 or shift == 0), "2: varint")
            return value

        need(head.code < 1408 and head.bits <= 17, "9.1: step and flags")
        for p in range(planes):
            head.low.append(unfolded(varint()))
            head.range.append(varint())
            need(abs(head.low[p]) <= 2**24 and head.range[p] < 2**17, "9.1: range")
            head.reference.append(byte() if p else 0)
            need(head.reference[p] <= p, "9.1: reference")
            head.weight.append(struct.unpack("b", bytes([byte()]))[0] if head.reference[p] else 0)
        head.size = at
        return head


def sample(v: Plane, bits: int, low: int, size: int) -> Plane:
    """V of 9.9."""
    f = 14 - bits
    middle = (low + low + size + 1) >> 1
    r = (v + 2 ** (f - 1)) >> f if f > 0 else v * 2**-f
    return (r + middle).clip(low, low + size)


Shape = tuple[int, int, int]


def decode(model: Model, data: bytes, shape: Shape, least: int, most: int) -> tuple[Plane, Plane]:
    """Samples without and with restoration, each (C, h, w)."""
    head = Header.read(data, shape[0])
    symbols = Symbols.read(data[head.size :], head.states)
    samples = decoded(model, head, symbols, shape, least, most)
    symbols.end()
    return samples


def decoded(
    model: Model, head: Header, symbols: Symbols, shape: Shape, least: int, most: int
) -> tuple[Plane, Plane]:
    planes, height, width = shape
    step = model.step(head.code)
    plain, better = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for p in range(planes):
        base = (head.weight[p] * plain[p - head.reference[p]] + 32) >> 6 if head.reference[p] else 0
        if head.range[p] == 0:
            plain[p] = better[p] = np.clip(head.low[p] + base, least, most)
            continue
        values = coded_plane(symbols, model, step, height, width)
        strength = strengths(symbols, height, width)
        need(head.restored or not strength.any(), "9.1: flags, strengths")
        plain[p] = (sample(values, head.bits, head.low[p], head.range[p]) + base).clip(least, most)
        values = restored(model, step, values, strength)
        changed = (sample(values, head.bits, head.low[p], head.range[p]) + base).clip(least, most)
        better[p] = np.where(strength == 0, plain[p], changed)
    return plain, better
