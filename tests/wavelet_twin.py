"""A slow decoder of wavelet53 coefficients, written from docs/format.md sections 2.5 to 2.7 alone."""

from dataclasses import dataclass, field
from itertools import permutations
from math import prod

import numpy as np

from lossless_twin import (
    HH,
    HL,
    LH,
    LL,
    Bits,
    hybrid,
    log2,
    raw_bits,
    read_map,
    read_tables,
    synthesise,
    varint,
    word,
)
from predictor_twin import read_frequencies, unzigzag


def magnitude(value):
    return min(abs(value), 32767)


def around(rows, y, x):
    """A sample of LL; outside, the nearest one inside."""
    row = rows[min(max(y, 0), len(rows) - 1)]
    return row[min(max(x, 0), len(row) - 1)]


def inside(rows, y, x):
    """A coefficient, or 0 where there is none."""
    return rows[y][x] if 0 <= y < len(rows) and 0 <= x < len(rows[y]) else 0


def energy(coded, ll, plane, d, kind, y, x, reference):
    def m(dy, dx, k=kind, p=plane):
        return magnitude(inside(coded.get((p, d, k), []), y + dy, x + dx))

    def low(dy, dx):
        return around(ll, y + dy, x + dx)

    def bend(a, b, c):
        return magnitude(word(a - 2 * b + c))

    def along(dy):
        return sum(bend(low(dy, i - 1), low(dy, i), low(dy, i + 1)) for i in (0, 1))

    def down(dx):
        return sum(bend(low(i - 1, dx), low(i, dx), low(i + 1, dx)) for i in (0, 1))

    e = 8 * m(0, 0, p=reference) if reference >= 0 else 0
    n, beside, nn, far = m(-1, 0), m(-1, -1) + m(-1, 1), m(-2, 0), m(-1, -2) + m(-1, 2)
    if kind == LL:
        return e + 26 * n + 10 * beside + 4 * nn + 2 * far
    if kind == HL:
        e += 27 * n + 8 * beside + 10 * nn + 3 * far
        return e + magnitude(word(low(0, 0) - low(0, 1))) + 4 * along(0) + 3 * (along(-1) + along(1))
    h, hx = m(0, 0, HL), m(0, -1, HL) + m(0, 1, HL)
    if kind == LH:
        e += 18 * n + 13 * beside + 9 * far + 10 * h + 5 * hx
        return e + 3 * down(0) + 2 * (down(-1) + down(1))
    e += 7 * n + 5 * beside + 3 * nn + 2 * far + 7 * h + 2 * hx + 10 * m(1, 0, HL)
    e += 9 * m(0, 0, LH) + 5 * (m(0, -1, LH) + m(0, 1, LH)) + 4 * m(1, 0, LH)
    return e + 6 * magnitude(word(low(0, 0) - low(0, 1) - low(1, 0) + low(1, 1)))


def context(e, kind):
    if e == 0:
        return 45 * kind
    k = log2(e)
    return 45 * kind + 2 * k + 1 + (2 * e >= 3 << k)


def predicted(weights, real, ll, plane, d, kind, y, x, references):
    def low(dy, dx):
        return around(ll, y + dy, x + dx) - around(ll, y, x)

    if kind == HL:
        taps = [low(0, -1), low(0, 1), low(0, 2)]
    elif kind == LH:
        taps = [low(-1, 0), low(1, 0), low(2, 0)]
    else:
        taps = [inside(real[plane, d, HL], y + i, x) for i in (-1, 0, 1, 2)]
        taps += [inside(real[plane, d, LH], y, x + i) for i in (-1, 0, 1, 2)]
    taps.append(inside(real[plane, d, kind], y - 1, x))
    taps += [real[p, d, kind][y][x] for p in references if p >= 0]
    assert len(taps) == len(weights)
    return word(128 + sum(w * t for w, t in zip(weights, taps, strict=True))) >> 8


def band_shape(height, width, d, kind):
    if kind == LL:
        return -(-height >> d), -(-width >> d)
    h, w = -(-height >> d - 1), -(-width >> d - 1)
    return (h // 2 if kind in (LH, HH) else -(-h // 2)), (w // 2 if kind in (HL, HH) else -(-w // 2))


class HuffmanSegment:
    def __init__(self, data, tables, count):
        self.bits, self.tables = Bits(data), tables
        for t in tables:
            t.queue, t.run = [], None

    def number(self, table, x):
        return hybrid(self.bits, self.tables[table].token(self.bits))

    def check(self):
        assert self.bits.value >> self.bits.at == 0, "fill bits"
        assert self.bits.size - self.bits.at < 8, "bytes follow"


class AnsSegment:
    def __init__(self, data, tables, count):
        words, at = varint(data, 0)
        lanes = 32 if count >= 32768 else 8 if count >= 1024 else 2 if count >= 256 else 1
        end = at + 2 * words
        assert end <= len(data)
        self.tables = tables
        self.states = [int.from_bytes(data[at + 4 * i : at + 4 * i + 4], "little") for i in range(lanes)]
        assert min(self.states) >= 2**16
        at += 4 * lanes
        assert at <= end
        self.words = [int.from_bytes(data[i : i + 2], "little") for i in range(at, end, 2)]
        self.raw = Bits(data[end:])

    def number(self, table, x):
        frequencies = self.tables[table]
        state = self.states[x % len(self.states)]
        slot, start, token = state % 4096, 0, 0
        while slot >= start + frequencies[token]:
            start += frequencies[token]
            token += 1
        state = frequencies[token] * (state // 4096) + slot - start
        self.states[x % len(self.states)] = state << 16 | self.words.pop(0) if state < 2**16 else state
        if token < 16:
            return token
        return (4 + token % 4) << raw_bits(token) | self.raw.field(raw_bits(token))

    def check(self):
        assert set(self.states) == {2**16}, "states"
        assert self.words == [], "words follow"
        assert self.raw.value >> self.raw.at == 0, "fill bits"
        assert self.raw.size - self.raw.at < 8, "bytes follow"


class Head:
    """What segment 0 begins with."""

    def __init__(self, data, planes, levels):
        at = 0
        self.references = [(-1, -1)]
        for plane in range(1, planes):
            first, at = varint(data, at)
            second, at = varint(data, at) if first else (0, at)
            assert max(first, second) <= plane
            assert not first or first != second
            self.references.append((first - 1, second - 1))
        bits = Bits(data[at:])
        huffman = bits.field(1)
        self.weights = {}
        for d in range(levels, 0, -1):
            for plane in range(planes):
                for kind in (HL, LH, HH):
                    taps = (9 if kind == HH else 4) + sum(p >= 0 for p in self.references[plane])
                    if bits.field(1):
                        numbers = [bits.field(11) for _ in range(taps)]
                        self.weights[plane, d, kind] = [(n + 1024) % 2048 - 1024 for n in numbers]
        self.segment = HuffmanSegment if huffman else AnsSegment
        if huffman:
            self.mapping, self.tables = read_tables(bits)
        else:
            self.mapping, count = read_map(bits)
            self.tables = read_frequencies(bits, count)
        self.end = at + bits.align()


def read_band(head, segment, coded, real, ll, key, shape):
    plane, d, kind = key
    rows, columns = shape
    band, values = coded.setdefault(key, []), real.setdefault(key, [])
    references = head.references[plane]
    for y in range(rows if columns else 0):
        band.append([])
        values.append([])
        for x in range(columns):
            c = context(energy(coded, ll, plane, d, kind, y, x, references[0]), kind)
            v = unzigzag(segment.number(head.mapping[c], x))
            band[-1].append(v)
            if key in head.weights:
                v = word(v + predicted(head.weights[key], real, ll, plane, d, kind, y, x, references))
            values[-1].append(v)


def restore_ll(rows):
    for y, row in enumerate(rows):
        for x, v in enumerate(row):
            if y == 0:
                p = row[x - 1] if x else 0
            elif x == 0:
                p = rows[y - 1][0]
            else:
                w, n, nw = row[x - 1], rows[y - 1][x], rows[y - 1][x - 1]
                p = min(w, n) if nw >= max(w, n) else max(w, n) if nw <= min(w, n) else word(w + n - nw)
            row[x] = word(v + p)


def triples(lead, axis):
    index = np.arange(prod(lead)).reshape(lead)
    return list(zip(*(np.take(index, i, axis).reshape(-1).tolist() for i in range(3)), strict=True))


def colour_of(flags, data, at):
    """2.2, 2.9: (axis, order, mix) or None; where the header goes on."""
    axis, order, mix = flags >> 6, 0, 0
    if not flags >> 5 & 1:
        assert axis == 0
        return None, at
    if axis == 3:
        axis, order, mix, at = data[at] & 3, data[at] >> 2 & 7, data[at] >> 5, at + 1
        assert order < 6
        assert mix < 4
        assert (order, mix) != (0, 0)
    return (axis, order, mix), at


@dataclass
class Colours:
    """The planes that are transformed, by threes, and how."""

    threes: list = field(default_factory=list)
    order: int = 0
    mix: int = 0

    @classmethod
    def of(cls, lead, colour):
        return cls(triples(lead, colour[0]), *colour[1:]) if colour else cls()

    def places(self):
        for three in self.threes:
            yield three, [three[i] for i in list(permutations(range(3)))[self.order]]


def undo_colour(planes, colours):
    """Lists of rows by plane."""
    for coded, real in colours.places():
        for y, row in enumerate(planes[coded[0]]):
            for x in range(len(row)):
                abc = unmixed(colours.mix, *(planes[p][y][x] for p in coded))
                for p, v in zip(real, abc, strict=True):
                    planes[p][y][x] = word(v)


def unmixed(mix, x, y, z):
    if mix == 0:
        t = word(x - (z >> 1))
        c = word(t - (y >> 1))
        return c + y, z + t, c
    if mix == 3:
        b = word(x - (word(y + z) >> 2))
        return z + b, b, y + b
    b = word(y + x)
    return x, b, z + (x if mix == 1 else word(x + b) >> 1)


def mixed(mix, a, b, c):
    if mix == 0:
        co = word(a - c)
        t = word(c + (co >> 1))
        cg = word(b - t)
        return t + (cg >> 1), co, cg
    if mix == 3:
        u, v = word(c - b), word(a - b)
        return b + (word(u + v) >> 2), u, v
    return a, b - a, c - (a if mix == 1 else word(a + b) >> 1)


def with_colour(planes, colours):
    out = [[list(row) for row in plane] for plane in planes]
    for coded, real in colours.places():
        for y, row in enumerate(planes[coded[0]]):
            for x in range(len(row)):
                values = mixed(colours.mix, *(planes[p][y][x] for p in real))
                for p, v in zip(coded, values, strict=True):
                    out[p][y][x] = word(v)
    return out


def transposed(rows):
    return [list(column) for column in zip(*rows, strict=True)]


def synthesise_transposed(ll, first, second, hh):
    """Of bands that were coded transposed, HL and LH exchanged; its result is transposed, too."""
    return transposed(synthesise(transposed(ll), transposed(second), transposed(first), transposed(hh)))


def low_bands(segments, planes, size, levels, colours, across=False):
    """LL of each plane, of the decomposition that the segments reach. across: coded transposed."""
    height, width = reversed(size) if across else size
    head = Head(segments[0], planes, levels)
    first = segments[0][head.end :]
    coded, real = {}, {}
    sizes = [band_shape(height, width, levels, LL)] * planes
    segment = head.segment(first, head.tables, sum(prod(s) for s in sizes))
    for plane in range(planes):
        read_band(head, segment, coded, real, [[0]], (plane, levels, LL), sizes[plane])
        restore_ll(real[plane, levels, LL])
    segment.check()
    low = [real[plane, levels, LL] for plane in range(planes)]
    undo_colour(low, colours)
    for d, data in zip(range(levels, 0, -1), segments[1:], strict=False):
        seen = with_colour(low, colours)
        shapes = {kind: band_shape(height, width, d, kind) for kind in (HL, LH, HH)}
        segment = head.segment(data, head.tables, planes * sum(prod(s) for s in shapes.values()))
        for plane in range(planes):
            for kind in (HL, LH, HH):
                read_band(head, segment, coded, real, seen[plane], (plane, d, kind), shapes[kind])
        segment.check()
        for kind in (HL, LH, HH):
            undo_colour([real[plane, d, kind] for plane in range(planes)], colours)
        join = synthesise_transposed if across else synthesise
        low = [join(low[p], *(real[p, d, kind] for kind in (HL, LH, HH))) for p in range(planes)]
    return [transposed(plane) for plane in low] if across else low
