"""Damaged and hostile tilevault.lossless frames: TileCorrupt or pixels of the right shape, and at once."""

import struct
import time

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

import lossless_tiles as tiles
from lossless_tiles import varint
from tilevault.codecs import LosslessCodec, TileCorrupt

CODEC = LosslessCodec()
SHAPE = (2, 9, 12)


def outcome(data, shape, dtype, reduce=0, codec=CODEC):
    """The decoded tile, or None if it was refused; anything else fails the test."""
    try:
        out = codec.decode_tile(data, shape, dtype, reduce)
    except TileCorrupt:
        return None
    step = 1 << reduce
    assert out.shape == (*shape[:-2], -(-shape[-2] // step), -(-shape[-1] // step))
    assert out.dtype == np.dtype(dtype)
    return out


def refused(data, shape=SHAPE, dtype="u2", reduce=0, codec=CODEC):
    return outcome(data, shape, dtype, reduce, codec) is None


STREAMS = [(t, d) for t in tiles.TEXTURES for d in ("u1", "i2", "f4", "f8")]


@pytest.mark.parametrize(("texture", "dtype"), STREAMS)
def test_truncated_at_every_byte(texture, dtype):
    data = CODEC.encode_tile(tiles.make(texture, SHAPE, dtype))
    for n in range(len(data)):
        assert refused(data[:n], SHAPE, dtype)
    for n in range(min(len(data), 12)):
        with pytest.raises(TileCorrupt):
            CODEC.segment_ends(data[:n] if n < 2 else bytes([data[0], data[1] | 0xF8]) + data[2:n])


@pytest.mark.parametrize(("texture", "dtype"), STREAMS)
def test_every_bit_flipped(texture, dtype):
    data = bytearray(CODEC.encode_tile(tiles.make(texture, SHAPE, dtype)))
    began = time.monotonic()
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        outcome(bytes(data), SHAPE, dtype, bit % 6)
        data[bit // 8] ^= 1 << bit % 8
    assert time.monotonic() - began < 0.01 * 8 * len(data) + 1


@pytest.mark.parametrize(("texture", "dtype"), STREAMS)
def test_appended_junk(texture, dtype):
    data = CODEC.encode_tile(tiles.make(texture, SHAPE, dtype))
    for junk in (b"\0", b"\xff", b"\0" * 9, data):
        assert refused(data + junk, SHAPE, dtype)


@pytest.mark.parametrize("dtype", ["u2", "f4"])
def test_a_transposed_tile_that_is_damaged(dtype):
    tile = tiles.interpolated(30, 31).astype(dtype)
    data = bytearray(LosslessCodec(pack=False).encode_tile(tile))
    assert data[0] == 7
    for n in range(len(data)):
        assert refused(data[:n], tile.shape, dtype)
    assert refused(data + b"\0", tile.shape, dtype)
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        outcome(bytes(data), tile.shape, dtype, bit % 6)
        data[bit // 8] ^= 1 << bit % 8
    assert not refused(data, tile.shape, dtype)


@settings(max_examples=300, deadline=2000)
@given(st.binary(max_size=120), st.sampled_from(["u1", "i2", "u4", "f4", "f8", "?"]), st.integers(0, 5))
def test_any_bytes(data, dtype, reduce):
    outcome(data, (3, 5), dtype, reduce)


@settings(max_examples=300, deadline=2000)
@given(st.binary(max_size=200), st.sampled_from([0, 1, 2, 3, 7]), st.integers(0, 5))
def test_any_bytes_behind_a_sound_header(data, transform, reduce):
    outcome(bytes([transform, 2 | 2 << 3, 9, 12, 4]) + data, (9, 12), "u2", reduce)


# --- Headers, field by field ------------------------------------------------------------------------------


def frame(transform=0, rank=3, kind=2, extents=SHAPE, rest=None):
    """A raw u2 frame unless told otherwise."""
    body = bytes(2 * int(np.prod(SHAPE))) if rest is None else rest
    return bytes([transform, rank | kind << 3]) + b"".join(varint(n) for n in extents) + body


def test_the_frame_these_tests_start_from_is_sound():
    assert not outcome(frame(), SHAPE, "u2").any()


@pytest.mark.parametrize(
    "data",
    [
        frame(transform=2),
        frame(transform=4),
        frame(transform=7),
        frame(transform=8),
        frame(transform=255),
        frame(rank=2, extents=(9, 12)),
        frame(rank=4, extents=(1, 2, 9, 12)),
        frame(rank=0, extents=()),
        frame(rank=7),
        frame(kind=3),
        frame(kind=6),
        frame(kind=14),
        frame(kind=31),
        frame(extents=(3, 9, 12)),
        frame(extents=(2, 10, 12)),
        frame(extents=(2, 9, 13)),
        frame(extents=(0, 9, 12)),
        frame(extents=(2, 9, 0)),
        frame(extents=(2, 9, (1 << 32) - 1)),
        frame(extents=(2, 9, 1 << 32)),
        frame(extents=(2, 9, (1 << 64) + 12)),
        frame(rest=bytes(431)),
        frame(rest=bytes(433)),
        frame(transform=1, rest=b""),
        frame(transform=1, rest=b"\0"),
        frame(transform=1, rest=b"\0\0\0"),
        bytes([0, 3 | 2 << 3, 2, 9, 0x8C, 0x00]) + bytes(432),
        b"",
    ],
    ids=lambda data: data[:12].hex() + f"-{len(data)}",
)
def test_a_header_that_lies(data):
    assert refused(data)


def other(transform, body, extents=(4, 4)):
    return bytes([transform, 2 | 11 << 3, *extents]) + body


@pytest.mark.parametrize(
    "data",
    [
        other(2, zstandard.compress(bytes(127))),
        other(2, zstandard.compress(bytes(129))),
        other(2, zstandard.compress(bytes(1 << 26))),
        other(2, zstandard.compress(bytes(128)) + b"\0"),
        other(2, zstandard.compress(bytes(128))[:-1]),
        other(2, zstandard.ZstdCompressor(write_content_size=False).compress(bytes(128))),
        other(2, b""),
        other(3, bytes(128)),
        other(7, bytes(128)),
        other(0, bytes(127)),
        other(1, bytes(7)),
        other(2, zstandard.compress(bytes(160)), (4, 5)),
    ],
    ids=[
        "short",
        "long",
        "bomb",
        "junk",
        "cut",
        "no-size",
        "empty",
        "wavelet",
        "transposed",
        "raw",
        "constant",
        "extent",
    ],
)
def test_other_types_trust_nothing(data):
    assert refused(data, (4, 4), "f8")
    assert not refused(other(2, zstandard.compress(bytes(128))), (4, 4), "f8")


# --- Streams, bit by bit ------------------------------------------------------------------------------------


class Writer:
    """Fields of a bit stream as docs/format.md 2.7 writes them."""

    def __init__(self):
        self.value = self.size = 0

    def field(self, value, n):
        self.value |= value << self.size
        self.size += n
        return self

    def gamma(self, value):
        n = value.bit_length() - 1
        return self.field(1 << n, n + 1).field(value & (1 << n) - 1, n)

    def align(self):
        self.size += -self.size % 8
        return self

    def done(self):
        return self.value.to_bytes(-(-self.size // 8), "little")


def head():
    """Of a segment 0 with Huffman codes and without decompositions: the coder."""
    return Writer().field(1, 1)


def one_table(mode=0, sizes=(1,), digits=None, escape=0, deltas=(2,), meta=None):
    """The map to one table, its shape, and its lengths' deltas through a code of one symbol."""
    w = head().field(1, 1).gamma(180).field(mode, 2)
    if mode in (1, 2):
        w.field(digits - 1, 4 if mode == 1 else 2).field(escape, 1)
        sizes = sizes[:1] if escape else ()
    for size in sizes:
        w.field(size - 1, 7)
    if meta is None:
        meta = [0] * max(deltas) + [1]
    w.field(len(meta) - 1, 5)
    for n in meta:
        w.field(n, 4)
    return w


def tiny(w, flags=0, shape=(1, 2)):
    """A frame of one segment: no decompositions, samples 0 0 unless the bits say otherwise."""
    return bytes([3, 2 | 2 << 3, *shape, flags]) + w.done()


NO_LEVELS = LosslessCodec(0)
# delta +.. of symbol 0 from 3: zigzag 3 is -2, which makes length 1: the one symbol 0, in no bits at all.
ZEROS = one_table(deltas=(3,))


def test_the_stream_these_tests_start_from_is_sound():
    out = outcome(tiny(ZEROS), (1, 2), "u2", codec=NO_LEVELS)
    assert out is not None
    assert not out.any()


@pytest.mark.parametrize(
    "w",
    [
        one_table(deltas=(2,)),  # one symbol of length 4
        one_table(deltas=(0,)),  # of length 3
        one_table(sizes=(2,), deltas=(3,)),  # lengths 1, -1
        one_table(sizes=(128,), deltas=(0,)),  # 128 symbols of length 3: oversubscribed
        one_table(sizes=(7,), deltas=(0,)),  # 7 of length 3: incomplete
        one_table(deltas=(20,)),  # length' 13: no symbol at all
        one_table(deltas=(24,)),  # length' 15
        one_table(meta=[0, 0, 0, 0]),  # a code of the code lengths without a symbol
        one_table(meta=[1, 1, 1]),  # oversubscribed
        one_table(meta=[0, 0, 0, 2]),  # one symbol, length 2
        one_table(meta=[1, 15]),  # length 15
        one_table(meta=[1] * 26),  # more symbols than deltas
        one_table(mode=3, sizes=(1, 128), deltas=(3,)),  # token - 1 = 127
        one_table(mode=1, digits=16, escape=1, sizes=(128,), deltas=(0,)),  # 15 + 127
        head().field(0, 1).field(0, 6).gamma(180),  # a table that was not named
        head().field(1, 1).gamma(181),  # 181 contexts
        head().field(1, 1).gamma(179).field(0, 1).field(1, 6).gamma(1),
        head().field(1, 1).field(0, 60),  # a gamma code without an end
        head().field((1 << 131) - 1, 131),  # 65 tables and more, one context each
    ],
    ids=range(19),
)
def test_hostile_tables(w):
    assert refused(tiny(w), (1, 2), "u2", codec=NO_LEVELS)


def test_bits_that_are_not_there():
    two_symbols = one_table(sizes=(2,), meta=[1, 0, 0, 1]).field(1, 1).field(0, 1)  # lengths 1 and 1
    assert refused(tiny(two_symbols, shape=(1, 40)), (1, 40), "u2", codec=NO_LEVELS)
    enough = one_table(sizes=(2,), meta=[1, 0, 0, 1]).field(1, 1).field(0, 1).align().field(0, 40)
    assert not refused(tiny(enough, shape=(1, 40)), (1, 40), "u2", codec=NO_LEVELS)


def test_fill_bits_and_bytes():
    for w in (one_table(deltas=(3,)), one_table(deltas=(3,))):
        w.size += 8
        assert refused(tiny(w), (1, 2), "u2", codec=NO_LEVELS)
    w = one_table(deltas=(3,))
    free = -w.size % 8
    assert free
    assert refused(tiny(w.field(1 << free - 1, free)), (1, 2), "u2", codec=NO_LEVELS)


def run_table():
    """Runs of 16 to 19 zeros only (token 16 and two raw bits), ended by token 1."""
    # The first code's length' is 13 sixteen times (3 + 10, then + 0), then 1 (- 12); the second's is 3 - 2.
    meta = [0] * 24
    for s in (20, 0, 23, 3):
        meta[s] = 2
    w = one_table(mode=3, sizes=(17, 1), meta=meta)
    codes = {0: 0b00, 3: 0b01, 20: 0b10, 23: 0b11}
    for delta in (20, *[0] * 15, 23, 3):
        code = codes[delta]
        w.field(code >> 1 | (code & 1) << 1, 2)
    return w


def test_a_run_that_outlasts_its_segment():
    assert not refused(tiny(run_table().align().field(0, 2), shape=(1, 16)), (1, 16), "u2", codec=NO_LEVELS)
    assert refused(tiny(run_table().align().field(0, 2), shape=(1, 15)), (1, 15), "u2", codec=NO_LEVELS)


def test_a_sample_outside_its_type():
    tile = np.array([[250, 255]], "u1")
    data = bytearray(NO_LEVELS.encode_tile(np.tile(tile, (40, 20))))
    outcomes = set()
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        outcomes.add(refused(bytes(data), (40, 40), "u1", codec=NO_LEVELS))
        data[bit // 8] ^= 1 << bit % 8
    assert outcomes == {True, False} or outcomes == {True}


@pytest.mark.parametrize("how", [0, 1, 3, 3 | 4, 6 << 2, 7 << 2, 4 << 5, 7 << 5 | 1 << 2, 255])
@pytest.mark.parametrize("prefer", ["resolution", "size"])
def test_colour_transforms_that_cannot_be(prefer, how):
    """No such axis, order or mix; or what has a shorter form."""
    codec = LosslessCodec(pack=False, prefer=prefer)
    data = bytearray(codec.encode_tile(tiles.from_two()))
    assert data[5] & 32
    if data[5] >> 6 != 3:
        data.insert(6, 0)
        data[5] |= 192
    data[6] = how
    with pytest.raises(TileCorrupt, match="colour"):
        codec.decode_tile(bytes(data), (3, 48, 48), "u1")


@pytest.mark.parametrize("transform", [3, 7])
@pytest.mark.parametrize("flags", [6, 15, 1, 0, 64, 128, 5 | 32, 5 | 32 | 64, 5 | 192])
def test_flags_that_cannot_be(flags, transform):
    data = bytearray(LosslessCodec(pack=False).encode_tile(tiles.make("walk", (1, 40, 40), "u2")))
    assert data[0] in (3, 7)
    assert data[5] == 5
    data[0], data[5] = transform, flags
    assert refused(bytes(data), (1, 40, 40))
    with pytest.raises(TileCorrupt):
        CODEC.segment_ends(bytes(data))


def test_segment_lengths_that_lie():
    tile = tiles.make("walk", (40, 40), "u2")
    data = LosslessCodec(pack=False).encode_tile(tile)
    for at in range(5, 10):
        for value in (0, data[at] ^ 1, 127):
            lie = data[:at] + bytes([value]) + data[at + 1 :]
            if value != data[at]:
                assert refused(lie, tile.shape)
    huge = data[:5] + varint((1 << 32) - 1) + data[6:]
    assert refused(huge, tile.shape)
    with pytest.raises(TileCorrupt):
        CODEC.segment_ends(huge)


def packed(n, k, first, bits=b""):
    head = Writer().field(n - 1, 16).field(k, 5).field(first, 32)
    return bytes([3, 2 | 2 << 3, 1, 2, 16]) + head.done() + bits + ZEROS.done()


@pytest.mark.parametrize(
    "data",
    [
        packed(3, 0, 0),
        packed(65536, 0, 0),
        packed(1, 0, 65536),
        packed(2, 0, 65535),
        packed(2, 31, 0xFFFFFFFF),
    ],
)
def test_lists_of_values_that_lie(data):
    assert refused(data, (1, 2), "u2", codec=NO_LEVELS)


def test_one_value_is_sound():
    assert outcome(packed(1, 0, 500), (1, 2), "u2", codec=NO_LEVELS).tolist() == [[500, 500]]


def test_a_frame_for_another_number_of_decompositions():
    tile = tiles.make("walk", (64, 64), "u2")
    assert refused(LosslessCodec(3).encode_tile(tile), (64, 64))
    assert refused(LosslessCodec(5).encode_tile(tile), (64, 64), codec=LosslessCodec(4))


def test_a_frame_of_another_type_or_rank():
    tile = tiles.make("walk", (16, 16), "u2")
    for dtype in ("i2", "u4", "f4", "f8", "?"):
        assert refused(CODEC.encode_tile(tile), (16, 16), dtype)
    assert refused(CODEC.encode_tile(tile), (1, 16, 16))


def test_a_small_frame_does_not_cost_more_than_its_chunk():
    """Work and memory follow the caller's shape, not what the frame claims."""
    began = time.monotonic()
    lie = bytes([0, 2 | 2 << 3]) + struct.pack("<10B", *[0xFF, 0xFF, 0xFF, 0xFF, 0x0F] * 2)
    for _ in range(200):
        assert refused(lie, (512, 512))
    assert time.monotonic() - began < 2
