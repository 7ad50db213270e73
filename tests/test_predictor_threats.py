"""Predictor frames that lie, built field by field after docs/format.md 2.10 to 2.13: one test per danger."""

import time

import numpy as np
import pytest

import lossless_tiles as tiles
import lossless_twin as twin
from tilevault.codecs import LosslessCodec, TileCorrupt

STATE = 1 << 16


class Out:
    """Bits, lowest first."""

    def __init__(self):
        self.value = self.size = 0

    def field(self, value, n):
        self.value |= (value & (1 << n) - 1) << self.size
        self.size += n
        return self

    def gamma(self, value):
        n = value.bit_length() - 1
        return self.field(1 << n, n + 1).field(value, n)

    def bytes(self):
        return self.value.to_bytes(-(-self.size // 8), "little")


def filters(low=0, high=255, shift=0, thresholds=(), reference=0, constant=0):
    """A part of the header: coefficients 0 and a constant below 24, all as Rice codes of parameter 0."""

    def write(out):
        out.field(low, 32).field(high, 32).field(shift, 4).field(len(thresholds), 2)
        for step in thresholds:
            out.gamma(step)
        out.field(0, 1).field(reference, 1)
        for _ in range(22 if reference else 14):
            out.field(0, 4)
            for _ in range(len(thresholds) + 1):
                out.field(1, 1)
        out.field(0, 4)
        for _ in range(len(thresholds) + 1):
            out.field(1 << 2 * constant, 2 * constant + 1)

    return write


def common_only(out, token=0):
    """Contexts with one table, and its frequencies: `token` always."""
    out.gamma(84).field(0, 5).field(1, 4).field(token, 7).field(token, 7).field(0, 3)


def lane(words=(), states=(STATE, STATE), raw=b"", last=True):
    head = bytes([len(words)]) + b"".join(x.to_bytes(4, "little") for x in states)
    head += b"".join(w.to_bytes(2, "little") for w in words)
    return head + (b"" if last else bytes([len(raw)])) + raw


DEFAULT = filters()


def frame(filters=DEFAULT, tables=common_only, lanes=None, group=1, extents=(1, 2), flags=0):
    out = Out().gamma(group)
    filters(out)
    tables(out)
    head = bytes([4, len(extents), *extents, flags])
    return head + out.bytes() + (lane() if lanes is None else lanes)


def decode(data, shape=(1, 2)):
    return LosslessCodec().decode_tile(data, shape, "u1")


def test_the_frame_these_tests_start_from_is_sound():
    for low in (0, 9):
        data = frame(filters(low))
        assert decode(data).tolist() == [[low, low]]
        assert twin.decode(data, (1, 2), "u1").tolist() == [[low, low]]


def test_every_truncation_and_what_follows_is_refused():
    data = frame()
    for n in range(len(data)):
        with pytest.raises(TileCorrupt):
            decode(data[:n])
    with pytest.raises(TileCorrupt):
        decode(data + b"\0")


def sized(size, common):
    return lambda out: out.gamma(84).field(0, 5).field(1, 4).field(size - 1, 7).field(common, 7).field(0, 3)


def runs(*lengths):
    def write(out):
        for n in lengths:
            out.gamma(n)
        out.field(0, 5).field(1, 4)
        for _ in lengths:
            out.field(0, 7).field(0, 7).field(0, 3)

    return write


def one_step(t, size, m=0, raw=()):
    """A table of `size` tokens whose bit lengths all differ by what symbol `t` says."""

    def write(out):
        out.gamma(84).field(t, 5)
        for i in range(t + 1):
            out.field(int(i == t), 4)
        out.field(size - 1, 7).field(0, 7).field(m, 3)
        for v in raw:
            out.field(v, m)

    return write


def code_of(size, length):
    return lambda out: [out.gamma(84).field(size - 1, 5), *(out.field(length, 4) for _ in range(size))]


@pytest.mark.parametrize(
    ("threat", "message"),
    [
        ({"flags": 1}, "unused field"),
        ({"flags": 32}, "colour axis"),
        ({"group": 2}, "more planes than the tile"),
        ({"filters": filters(low=5, high=4)}, "least word"),
        ({"filters": filters(thresholds=(1 << 24,))}, "threshold"),
        (
            {"filters": filters(low=250, high=300), "tables": lambda o: common_only(o, 14)},
            "range of its type",
        ),
        ({"filters": filters(high=3), "tables": lambda o: common_only(o, 4)}, "range of its plane"),
        ({"tables": lambda o: common_only(o, 1)}, "range of its plane"),
        ({"tables": runs(80, 5)}, "longer than the contexts"),
        ({"tables": runs(*[1] * 33, 51)}, "longer than the contexts"),
        ({"tables": sized(1, 1)}, "none of its table"),
        ({"tables": code_of(26, 5)}, "too many symbols"),
        ({"tables": code_of(2, 13)}, "too large"),
        ({"tables": code_of(2, 2)}, "incomplete"),
        ({"tables": one_step(24, 3)}, "out of range"),
        ({"tables": one_step(1, 2)}, "out of range"),
        ({"tables": one_step(24, 2, 7, (127,))}, "ends before"),
        ({"lanes": lane(states=(STATE - 1, STATE))}, "state is out of range"),
        ({"lanes": lane(states=(STATE, STATE + 1))}, "does not end"),
        ({"lanes": lane(words=(7,))}, "does not end"),
        ({"lanes": lane(raw=b"\0")}, "follow the end"),
        ({"lanes": lane()[:-1]}, "longer than what is left"),
        ({"lanes": b"\xff\xff\xff\xff\x0f" + bytes(8)}, "longer than what is left"),
        ({"tables": lambda o: common_only(o, 127)}, "ends before"),
    ],
)
def test_frames_that_lie(threat, message):
    with pytest.raises(TileCorrupt, match=message):
        decode(frame(**threat))


@pytest.mark.parametrize(("first", "second"), [(2, 1), (1, 3)])
def test_a_reference_that_is_none_before(first, second):
    """gamma of the distance and one: 1 is none, 2 the plane before."""

    def two(out):
        filters(reference=1)(out)
        out.gamma(first).gamma(second)

    with pytest.raises(TileCorrupt, match="none before"):
        decode(frame(two, group=2, extents=(2, 1, 2)), (2, 1, 2))


def test_a_stream_that_ends_before_its_words():
    """Two tokens of equal frequency: after 11 samples or so a state wants a word."""

    def halves(out):
        out.gamma(84).field(24, 5)
        for i in range(25):
            out.field(int(i == 24), 4)
        out.field(1, 7).field(0, 7).field(0, 3)

    data = frame(
        filters(low=-9 & 0xFF, high=255), halves, lane(states=(STATE + 5, STATE + 7)), extents=(1, 64)
    )
    with pytest.raises(TileCorrupt):
        decode(data, (1, 64))


def test_wide_filters_wrap_as_the_twin_says():
    """Coefficients and words of 32 bits: sums modulo 2^32, predictions clamped."""
    rng = np.random.default_rng(4)
    tile = rng.integers(-(2**31), 2**31, (7, 40)).astype("i4")
    codec = LosslessCodec(pack=False, prefer="size")
    tile[:, ::3] = 2**31 - 1
    tile[::2, 1::3] = -(2**31)
    data = codec.encode_tile(tile)
    assert np.array_equal(twin.decode(data, tile.shape, "i4"), tile)


def test_damage_is_pixels_or_our_error_and_quick():
    for texture, shape in [("walk", (130, 30)), ("twelve", (3, 20, 30)), ("extremes", (40, 40))]:
        tile = tiles.make(texture, shape, "u2")
        good = LosslessCodec(pack=False, prefer="size").encode_tile(tile)
        assert good[0] == 4
        rng = np.random.default_rng(3)
        began = time.perf_counter()
        for _ in range(1500):
            data = bytearray(good)
            for at in rng.integers(0, len(data), rng.integers(1, 4)):
                data[at] = rng.integers(256)
            try:
                out = LosslessCodec().decode_tile(bytes(data), shape, "u2")
            except TileCorrupt:
                continue
            assert out.shape == shape
        assert time.perf_counter() - began < 20
