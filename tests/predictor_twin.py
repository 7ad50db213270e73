"""A slow decoder of the predictor's planes, written from docs/format.md sections 2.10 to 2.13 alone."""

from dataclasses import dataclass, field

from lossless_twin import Bits, canonical, hybrid, log2, raw_bits, symbol, varint, word

TAPS = [(0, -1), (0, -2), (-1, -1), (-1, 1), (-1, -2), (-1, 2), (-2, 0)]
TAPS += [(-2, -1), (-2, 1), (-2, -2), (-2, 2), (-3, 0), (-1, 3), (-1, -3)]
REFERENCE_TAPS = [(0, 0), (-1, -1), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]


def unzigzag(z):
    return z // 2 if z % 2 == 0 else -(z + 1) // 2


def rice(bits, k):
    q = 0
    while q < 24 and not bits.field(1):
        q += 1
    return q << k | bits.field(k) if q < 24 else bits.field(32)


@dataclass
class Filters:
    low: int
    high: int
    shift: int
    thresholds: list
    direction: int
    reference: int
    taps: list = field(default_factory=list)  # [tap][class]
    constant: list = field(default_factory=list)


def read_filters(bits):
    low, high, shift, count = word(bits.field(32)), word(bits.field(32)), bits.field(4), bits.field(2)
    thresholds = []
    for _ in range(count):
        thresholds.append(bits.gamma() + (thresholds[-1] if thresholds else 0))
    f = Filters(low, high, shift, thresholds, bits.field(1), bits.field(1))
    classes = (count + 1) << f.direction

    def coefficients():
        k = bits.field(4)
        return [unzigzag(rice(bits, k)) for _ in range(classes)]

    f.taps = [coefficients() for _ in range(22 if f.reference else 14)]
    f.constant = coefficients()
    assert low <= high
    return f


def read_frequencies(bits, count):
    code = canonical([bits.field(4) for _ in range(bits.field(5) + 1)])
    tables = []
    for _ in range(count):
        size, common, m = bits.field(7) + 1, bits.field(7), bits.field(3)
        f, length = [0] * size, 0
        for s in range(size):
            if s == common:
                continue
            length += unzigzag(symbol(bits, code))
            assert 0 <= length <= 12
            if length:
                n = min(length - 1, m)
                f[s] = (2**n + bits.field(n)) << (length - 1 - n)
        f[common] = 4096 - sum(f)
        assert f[common] >= 1
        tables.append(f)
    return tables


class Lane:
    def __init__(self, data, at, last):
        count, at = varint(data, at)
        self.states = [int.from_bytes(data[at + 4 * i : at + 4 * i + 4], "little") for i in range(2)]
        assert min(self.states) >= 2**16
        at += 8
        self.words = [int.from_bytes(data[at + 2 * i : at + 2 * i + 2], "little") for i in range(count)]
        at += 2 * count
        size, at = (len(data) - at, at) if last else varint(data, at)
        self.raw, self.end = Bits(data[at : at + size]), at + size

    def token(self, x, table):
        state = self.states[x % 2]
        slot, start = state % 4096, 0
        token = 0
        while slot >= start + table[token]:
            start += table[token]
            token += 1
        f = table[token]
        state = f * (state // 4096) + slot - start
        self.states[x % 2] = state << 16 | self.words.pop(0) if state < 2**16 else state
        return token

    def check(self):
        assert self.states == [2**16, 2**16]
        assert self.words == []
        assert self.raw.size - self.raw.at < 8
        assert self.raw.value >> self.raw.at == 0


def magnitude(token):
    if token < 16:
        return (token + 1) >> 1
    n = raw_bits(token)
    return min(32767, (((4 + token % 4) << n) + 2 ** (n - 1) + 1) >> 1)


def difference(a, b, shift):
    return word(a - b) >> shift


class Stripe:
    """Decodes rows of a stripe that begins at row ``first`` of its plane; ``reference``: a plane or None."""

    def __init__(self, filters, width, reference, first):
        self.f, self.width, self.reference, self.first = filters, width, reference, first
        self.rows, self.magnitudes = [], []

    def at(self, y, x):
        """The sample at row y of the stripe and column x, beside and above it too."""
        y = max(y, 0)
        if x < 0 and y > 0:
            return self.rows[y - 1][0]
        return self.rows[y][min(max(x, 0), self.width - 1)]

    def m(self, y, x):
        inside = 0 <= y < len(self.magnitudes) and 0 <= x < len(self.magnitudes[y])
        return self.magnitudes[y][x] if inside else 0

    def texture(self, y, x):
        def distance(a, b):
            return min(abs(difference(self.at(*a), self.at(*b), self.f.shift)), 65536)

        def across(i):
            return distance((y - 1, i), (y - 1, i - 1))

        def down(i):
            return distance((y - 1, i), (y - 2, i))

        beside = across(x) + across(x + 1)
        above = 2 * down(x) + down(x - 1) + down(x + 1)
        activity = 2 * beside + across(x - 1) + across(x + 2) + above
        level = sum(t <= activity for t in self.f.thresholds)
        return activity, 2 * level + (2 * beside > above) if self.f.direction else level

    def context(self, y, x, activity):
        m = self.m
        energy = 16 * m(y, x - 1) + 8 * m(y, x - 2)
        if y > 0:
            energy += 7 * m(y - 1, x) + 5 * (m(y - 1, x - 1) + m(y - 1, x + 1))
            energy += 4 * (m(y - 2, x) + m(y - 1, x + 2)) + (3 * activity >> 2)
            energy += 3 * (m(y - 1, x - 2) + m(y - 2, x - 1) + m(y - 2, x + 1))
        k = log2(energy + 4)
        return 4 * k + ((energy + 4) >> (k - 2)) - 12

    def prediction(self, y, x, kind):
        f = self.f
        if y == 0:
            return self.rows[0][x - 1] if x else f.low
        north = self.at(y - 1, x)
        total = f.constant[kind]
        for (dy, dx), taps in zip(TAPS, f.taps, strict=False):
            total += taps[kind] * difference(self.at(y + dy, x + dx), north, f.shift)
        if self.reference is not None:

            def other(dy, dx):
                row = self.reference[min(max(self.first + y + dy, 0), len(self.reference) - 1)]
                return row[min(max(x + dx, 0), self.width - 1)]

            for (dy, dx), taps in zip(REFERENCE_TAPS, f.taps[14:], strict=True):
                total += taps[kind] * difference(other(dy, dx), other(-1, 0), f.shift)
        return min(max(north + (word(total) >> 10) * 2**f.shift, f.low), f.high)

    def decode_row(self, lane, tables):
        y = len(self.rows)
        self.rows.append([])
        self.magnitudes.append([])
        for x in range(self.width):
            activity, kind = self.texture(y, x) if y else (0, 0)
            token = lane.token(x, tables[self.context(y, x, activity)])
            residual = unzigzag(hybrid(lane.raw, token))
            value = word(self.prediction(y, x, kind) + residual)
            assert self.f.low <= value <= self.f.high
            self.rows[y].append(value)
            self.magnitudes[y].append(magnitude(token))


def decode_words(data, planes, height, width):
    """Planes of rows of words."""
    bits = Bits(data)
    group = bits.gamma()
    filters, references = [], []
    for p in range(planes):
        if p % group == 0:
            filters.append(read_filters(bits))
        back = bits.gamma() - 1 if filters[-1].reference else 0
        assert back <= p
        references.append(p - back if back else None)
    runs = []
    while sum(runs) < 84:
        runs.append(bits.gamma())
    assert sum(runs) == 84
    assert len(runs) <= 32
    frequencies = read_frequencies(bits, len(runs))
    tables = [table for table, run in zip(frequencies, runs, strict=True) for _ in range(run)]
    at = bits.align()
    top = -(-height // 2) if height >= 128 else height
    heights = [top, height - top] if height >= 128 else [height]
    lanes = []
    for i in range(len(heights)):
        lanes.append(Lane(data, at, i == len(heights) - 1))
        at = lanes[-1].end
    assert at == len(data)
    out = []
    for p in range(planes):
        f = filters[p // group]
        reference = None if references[p] is None else out[references[p]]
        rows = []
        for i, lane in enumerate(lanes):
            stripe = Stripe(f, width, reference, i * top)
            for _ in range(heights[i]):
                stripe.decode_row(lane, tables)
            rows += stripe.rows
        out.append(rows)
    for lane in lanes:
        lane.check()
    return out
