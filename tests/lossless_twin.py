"""A slow decoder of tilevault.lossless frames, written from docs/format.md section 2 alone.

One Python integer at a time and nothing clever: it exists so that the native core can be compared with
the specification. It knows all frames but zstd and checks little.
"""

from dataclasses import dataclass, field
from math import prod

import numpy as np

TYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "f4"]
RANGES = {"u1": (0, 255), "i1": (-128, 127), "u2": (0, 65535), "i2": (-32768, 32767)}
LL, HL, LH, HH = range(4)


def word(value):
    """To a 32-bit two's-complement integer."""
    return (value + 2**31) % 2**32 - 2**31


def log2(value):
    return value.bit_length() - 1


# --- 2.7 bits ----------------------------------------------------------------------------------------


class Bits:
    def __init__(self, data):
        self.value, self.size, self.at = int.from_bytes(data, "little"), 8 * len(data), 0

    def field(self, n):
        assert self.at + n <= self.size, "the segment is too short"
        out = self.value >> self.at & (1 << n) - 1
        self.at += n
        return out

    def gamma(self):
        n = 0
        while not self.field(1):
            n += 1
        return 1 << n | self.field(n)

    def align(self):
        assert not self.field(-self.at % 8), "fill bits"
        return self.at // 8


def canonical(lengths):
    """(length, code) -> symbol; the empty code if there is one symbol only."""
    used = sorted((n, s) for s, n in enumerate(lengths) if n)
    assert used, "no symbol"
    if len(used) == 1:
        assert used[0][0] == 1
        return {(0, 0): used[0][1]}
    assert sum(2 ** (12 - n) for n, _ in used) == 2**12, "not a complete code"
    out, code, before = {}, 0, used[0][0]
    for n, s in used:
        code <<= n - before
        out[n, code] = s
        code, before = code + 1, n
    return out


def symbol(bits, code):
    n = value = 0
    while (n, value) not in code:
        value = value << 1 | bits.field(1)
        n += 1
    return code[n, value]


def raw_bits(token):
    return 0 if token < 16 else (token - 16) // 4 + 2


def hybrid(bits, token):
    if token < 16:
        return token
    n = raw_bits(token)
    return (4 + (token - 16) % 4) << n | bits.field(n)


@dataclass
class Table:
    mode: int
    digits: int = 0
    escape: bool = False
    sizes: list = field(default_factory=list)
    codes: list = field(default_factory=list)
    queue: list = field(default_factory=list)  # digits left
    run: int | None = None

    def token(self, bits):
        if self.mode == 0:
            return symbol(bits, self.codes[0])
        if self.mode == 3:
            if self.run is None:
                self.run = hybrid(bits, symbol(bits, self.codes[0]))
            if self.run > 0:
                self.run -= 1
                return 0
            self.run = None
            return symbol(bits, self.codes[1]) + 1
        if not self.queue:
            group = symbol(bits, self.codes[0])
            for _ in range(2 * self.mode):
                self.queue.append(group % self.digits)
                group //= self.digits
        digit = self.queue.pop(0)
        if self.escape and digit == self.digits - 1:
            digit += symbol(bits, self.codes[1])
        return digit


def read_lengths(bits, meta, size, digits):
    """digits: 0 for codes of tokens."""
    out = []
    for s in range(size):
        if s == 0:
            predicted = 3
        elif digits == 0:
            predicted = out[s - 1]
        else:
            places, unit, rest = [], 1, s
            while rest:
                if rest % digits:
                    places.append(unit)
                rest //= digits
                unit *= digits
            u = places[0]
            predicted = out[s - u]
            if len(places) > 1:
                predicted = min(max(out[s - u] + out[s - places[1]] - out[s - u - places[1]], 1), 13)
        t = symbol(bits, meta)
        out.append(predicted + (t // 2 if t % 2 == 0 else -(t + 1) // 2))
        assert 1 <= out[-1] <= 13
    return [0 if n == 13 else n for n in out]


def read_map(bits):
    mapping, known = [], 0
    while len(mapping) < 180:
        if bits.field(1):
            table, known = known, known + 1
        else:
            table = bits.field(6)
            assert table < known
        mapping += [table] * bits.gamma()
    assert len(mapping) == 180
    assert known <= 64
    return mapping, known


def read_tables(bits):
    mapping, known = read_map(bits)
    tables = []
    for _ in range(known):
        t = Table(bits.field(2))
        if t.mode in (1, 2):
            t.digits = bits.field(4 if t.mode == 1 else 2) + 1
            t.escape = bool(bits.field(1))
            t.sizes = [t.digits ** (2 * t.mode)]
        else:
            t.sizes = [bits.field(7) + 1]
        if t.escape or t.mode == 3:
            t.sizes.append(bits.field(7) + 1)
        tables.append(t)
    meta = canonical([bits.field(4) for _ in range(bits.field(5) + 1)])
    for t in tables:
        for i, size in enumerate(t.sizes):
            digits = t.digits if i == 0 else 0
            t.codes.append(canonical(read_lengths(bits, meta, size, digits)))
    return mapping, tables


# --- 2.4 wavelet -----------------------------------------------------------------------------------------


def synthesise_line(low, high):
    nl, nh = len(low), len(high)
    if nh == 0:
        return list(low)
    h = [high[0], *high, high[-1]]
    even = [word(low[i] - (word(h[i] + h[i + 1] + 2) >> 2)) for i in range(nl)]
    mirrored = [*even, even[-1]]
    x = [0] * (nl + nh)
    x[0::2] = even
    x[1::2] = [word(high[i] + (word(mirrored[i] + mirrored[i + 1]) >> 1)) for i in range(nh)]
    return x


def synthesise(ll, hl, lh, hh):
    low = [synthesise_line(a, b) for a, b in zip(ll, hl or [[]] * len(ll), strict=True)]
    high = [synthesise_line(a, b) for a, b in zip(lh, hh or [[]] * len(lh), strict=True)]
    low_columns = list(zip(*low, strict=True))
    high_columns = list(zip(*high, strict=True)) or [()] * len(low_columns)
    columns = [synthesise_line(a, b) for a, b in zip(low_columns, high_columns, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]


def analyse_line(x):
    nh = len(x) // 2
    if nh == 0:
        return list(x)
    at = lambda i: x[i] if i < len(x) else x[i - 2]  # noqa: E731
    high = [word(x[2 * i + 1] - (word(x[2 * i] + at(2 * i + 2)) >> 1)) for i in range(nh)]
    h = [high[0], *high, high[-1]]
    return [word(x[2 * i] + (word(h[i] + h[i + 1] + 2) >> 2)) for i in range(len(x) - nh)]


def low_band(rows, k):
    """LL_k of a plane."""
    for _ in range(k):
        rows = list(zip(*[analyse_line(column) for column in zip(*rows, strict=True)], strict=True))
        rows = [analyse_line(row) for row in rows]
    return rows


# --- 2.1 - 2.3, 2.8, 2.9 the frame ------------------------------------------------------------------------


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            return value, at


def rank_to_bits(name, rank):
    if name == "i4":
        return rank ^ 0x80000000
    if name == "f4":
        return rank ^ (0x80000000 if rank >> 31 else 0xFFFFFFFF)
    return rank


def bits_to_rank(name, bits):
    if name == "f4":
        return bits ^ (0xFFFFFFFF if bits >> 31 else 0x80000000)
    return rank_to_bits(name, bits)


def to_sample_array(name, words, base, clamp):
    """Words (nested lists) to samples."""
    flat = np.array(words, dtype=object).reshape(-1)
    shape = np.array(words, dtype=object).shape
    if name in RANGES:
        low, high = RANGES[name]
        if clamp:
            flat = [min(max(int(v), low), high) for v in flat]
        return np.array([int(v) for v in flat], "<" + name).reshape(shape)
    if clamp:
        ranks = [min(max(int(v) + base, 0), 2**32 - 1) for v in flat]
    else:
        ranks = [(int(v) + base) % 2**32 for v in flat]
    return np.array([rank_to_bits(name, r) for r in ranks], "<u4").view("<" + name).reshape(shape)


def read_values(name, data, at):
    values, _, at = read_values_and_keys(name, data, at)
    return values, at


def read_values_and_keys(name, data, at):
    bits = Bits(data[at:])
    n, k, key = bits.field(16) + 1, bits.field(5), bits.field(32)
    keys = [key]
    for _ in range(n - 1):
        q = 0
        while q < 24 and not bits.field(1):
            q += 1
        key += (q << k | bits.field(k) if q < 24 else bits.field(32)) + 1
        keys.append(key)
    at += bits.align()
    if name in ("u1", "u2"):
        values = np.array(keys, "<" + name)
    elif name in ("i1", "i2"):
        values = (np.array(keys, np.int64) - 32768).astype("<" + name)
    else:
        values = np.array([rank_to_bits(name, key) for key in keys], "<u4").view("<" + name)
    return values, keys, at


def decode(data, shape, dtype, reduce=0, decompositions=5):
    data = bytes(data)
    name = TYPES[data[1] >> 3]
    assert np.dtype(dtype) == np.dtype(name)
    rank, at, extents = data[1] & 7, 2, []
    for _ in range(rank):
        n, at = varint(data, at)
        extents.append(n)
    step = 2**reduce
    *lead, height, width = extents
    planes = prod(lead)
    samples = np.dtype("<" + name)
    if data[0] == 1:
        tile = np.full(extents, np.frombuffer(data[at:], samples)[0])[..., ::step, ::step]
    elif data[0] == 0:
        tile = np.frombuffer(data[at:], samples).reshape(extents)
        if reduce:
            tile = reduce_raw(name, tile.reshape(planes, height, width), reduce).reshape(
                *lead, -(-height // step), -(-width // step)
            )
    elif data[0] == 5:
        tile = decode_planes(data, at, name, (lead, planes, height, width), reduce, decompositions)
    elif data[0] == 4:
        tile = decode_predictor(data, at, name, (lead, planes, height, width), reduce)
    elif data[0] == 6:
        tile = decode_clusters(data, at, name, (lead, planes, height, width), reduce, decompositions)
    else:
        assert data[0] in (3, 7)
        tile = decode_wavelet(data, at, name, (lead, planes, height, width), reduce, decompositions)
    out = np.zeros((*shape[:-2], -(-shape[-2] // step), -(-shape[-1] // step)), samples)
    out[tuple(slice(n) for n in tile.shape)] = tile
    return out


def reduce_raw(name, tile, k):
    base = 0
    if name in RANGES:
        words = tile.astype(object)
    else:
        ranks = np.array([bits_to_rank(name, int(b)) for b in tile.reshape(-1).view("<u4")], object)
        base = min(ranks) + (max(ranks) - min(ranks)) // 2
        words = np.array([word(int(r) - base) for r in ranks], object).reshape(tile.shape)
    return to_sample_array(name, [low_band(plane.tolist(), k) for plane in words], base, True)


def decode_wavelet(data, at, name, size, reduce, decompositions):
    from wavelet_twin import Colours, colour_of, low_bands  # they are built on this module

    lead, planes, height, width = size
    flags = data[at]
    at += 1
    levels, packed = flags & 15, flags >> 4 & 1
    colour, at = colour_of(flags, data, at)
    assert levels == min(decompositions, (max(height, width) - 1).bit_length())
    base, values = 0, None
    if packed:
        values, at = read_values(name, data, at)
    elif name not in RANGES:
        base, at = int.from_bytes(data[at : at + 4], "little"), at + 4
    skip = 0 if packed else min(reduce, levels)
    lengths = []
    for _ in range(levels):
        n, at = varint(data, at)
        lengths.append(n)
    segments = []
    for n in [*lengths, len(data)][: levels + 1 - skip]:
        segments.append(data[at : at + n])
        at += n
    out = low_bands(segments, planes, (height, width), levels, Colours.of(lead, colour), data[0] == 7)
    if packed:
        return values[np.array(out)].reshape(*lead, height, width)[..., :: 2**reduce, :: 2**reduce]
    tile = to_sample_array(name, out, base, reduce > 0)
    return tile.reshape(*lead, *tile.shape[1:])


def decode_predictor(data, at, name, size, reduce):
    from predictor_twin import decode_words  # they are built on this module
    from wavelet_twin import Colours, colour_of, undo_colour

    lead, planes, height, width = size
    flags, at = data[at], at + 1
    packed = flags >> 4 & 1
    assert flags & 15 == 0
    colour, at = colour_of(flags, data, at)
    base, values = 0, None
    if packed:
        values, at = read_values(name, data, at)
    elif name not in RANGES:
        base, at = int.from_bytes(data[at : at + 4], "little"), at + 4
    out = decode_words(data[at:], planes, height, width)
    undo_colour(out, Colours.of(lead, colour))
    if packed:
        return values[np.array(out)].reshape(*lead, height, width)[..., :: 2**reduce, :: 2**reduce]
    tile = to_sample_array(name, [low_band(plane, reduce) for plane in out], base, reduce > 0)
    return tile.reshape(*lead, *tile.shape[1:])


# --- 2.14 planes ------------------------------------------------------------------------------------------


@dataclass
class PlaneMap:
    rows: list  # where each row of the tile comes from
    columns: list
    values: object = None  # list of values
    gaps: list = field(default_factory=list)  # (below, length)

    def inner(self, name):
        if self.gaps:
            return "u4"
        return name if self.values is None else "u1" if name[1] == "1" else "u2"

    def sample(self, name, v):
        if self.values is not None:
            return self.values[v]
        key = int(v)
        for below, length in self.gaps:
            key += length if key > below else 0
        assert key < 2**32
        return np.array(rank_to_bits(name, key), "<u4").view("<" + name)


def read_runs(data, at, extent):
    period, at = varint(data, at)
    if period:
        first, at = varint(data, at)
        assert 1 <= first <= period <= extent
        assert period >= 2
        return [0 if i < first else (i - first) // period + 1 for i in range(extent)], at
    bits = Bits(data[at : at + (extent + 6) // 8])
    runs = [0]
    for _ in range(extent - 1):
        runs.append(runs[-1] + bits.field(1))
    assert bits.value >> bits.at == 0
    return runs, at + bits.size // 8


def read_plane_map(name, data, at, height, width):
    how = data[at]
    at += 1
    assert how < 16
    out = PlaneMap(list(range(height)), list(range(width)))
    if how & 1:
        out.rows, at = read_runs(data, at, height)
    if how & 2:
        out.columns, at = read_runs(data, at, width)
    if how & 4:
        out.values, at = read_values(name, data, at)
        assert len(out.values) <= (out.rows[-1] + 1) * (out.columns[-1] + 1)
    if how & 8:
        assert name in ("u4", "i4", "f4")
        assert out.values is None
        count, at = varint(data, at)
        assert 1 <= count <= 4
        end = 0
        for _ in range(count):
            below, at = varint(data, at)
            length, at = varint(data, at)
            assert below >= end
            assert 0 < length < 2**32 - 1 - below
            out.gaps.append((below, length))
            end = below + length + 1
    return out, at


def decode_planes(data, at, name, size, reduce, decompositions):
    lead, planes, height, width = size
    assert planes <= 4096
    count, at = varint(data, at)
    groups, maps = [], []  # groups: their planes
    for plane in range(planes):
        group = 0
        if count > 1:
            group, at = varint(data, at)
        if group == len(groups):
            groups.append([])
        if data[at] == 16:
            before, at = maps[groups[group][-1]], at + 1
        else:
            before, at = read_plane_map(name, data, at, height, width)
        maps.append(before)
        groups[group].append(plane)
    assert len(groups) == count
    lengths = []
    for _ in range(count - 1):
        n, at = varint(data, at)
        lengths.append(n)
    out = np.zeros((planes, height, width), "<" + name)
    for members, length in zip(groups, [*lengths, len(data)], strict=True):
        frame, at = data[at : at + length], at + length
        first = maps[members[0]]
        extents = (first.rows[-1] + 1, first.columns[-1] + 1)
        assert all((maps[p].rows[-1] + 1, maps[p].columns[-1] + 1) == extents for p in members)
        inner = first.inner(name)
        assert all(maps[p].inner(name) == inner for p in members)
        shape = (*lead, *extents) if count == 1 else (len(members), *extents)
        assert frame[0] != 5
        nested = decode(frame, shape, inner, 0, decompositions).reshape(-1, *extents)
        for plane, samples in zip(members, nested, strict=True):
            how = maps[plane]
            spread = samples[how.rows][:, how.columns]
            if how.values is not None or how.gaps:
                spread = np.array([[how.sample(name, v) for v in row] for row in spread], "<" + name)
            out[plane] = spread
    return out.reshape(*lead, height, width)[..., :: 2**reduce, :: 2**reduce]


def decode_clusters(data, at, name, size, reduce, decompositions):
    lead, planes, height, width = size
    values, keys, at = read_values_and_keys(name, data, at)
    gap, at = varint(data, at)
    begins = [i for i in range(len(keys)) if i == 0 or keys[i] - keys[i - 1] > gap]
    ends = [*begins[1:], len(keys)]
    assert all(end - begin <= 128 for begin, end in zip(begins, ends, strict=True))
    length, at = varint(data, at)
    shape = (*lead, height, width)
    frames = data[at : at + length], data[at + length :]
    assert frames[0][0] not in (5, 6)
    assert frames[1][0] not in (5, 6)
    clusters = decode(frames[0], shape, "<u2", 0, decompositions).reshape(planes, -1)
    places = decode(frames[1], shape, "i1", 0, decompositions).reshape(planes, -1)
    ranks = []
    for plane in range(planes):
        before = [0] * len(begins)
        for c, d in zip(clusters[plane].tolist(), places[plane].tolist(), strict=True):
            before[c] += d
            assert 0 <= before[c] < ends[c] - begins[c]
            ranks.append(begins[c] + before[c])
    return values[np.array(ranks)].reshape(shape)[..., :: 2**reduce, :: 2**reduce]
