"""Planes frames: what repeats and what does not occur is taken out, exactly, and hostile maps are refused."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lossless_tiles as tiles
import lossless_twin as twin
from lossless_tiles import varint
from tilevault.codecs import LosslessCodec, TileCorrupt

PLANES = 5
CODEC = LosslessCodec()


def check(tile, codec=CODEC, twins=range(6)):
    """The encoded tile; it comes back, reduced as its even positions, and the twin agrees."""
    tile = np.ascontiguousarray(tile)
    data = codec.encode_tile(tile)
    for k in range(codec.resolutions):
        out = codec.decode_tile(data, tile.shape, tile.dtype, k)
        if data[0] == PLANES:
            assert out.tobytes() == np.ascontiguousarray(tile[..., :: 1 << k, :: 1 << k]).tobytes()
        if k in twins:
            assert out.tobytes() == twin.decode(data, tile.shape, tile.dtype, k).tobytes()
    assert codec.decode_tile(data, tile.shape, tile.dtype).tobytes() == tile.tobytes()
    if data[0] == PLANES:
        assert set(codec.segment_ends(data)) == {len(data)}
    return data


def upsampled(plane, factor, phase, shape):
    """Nearest neighbour, cut out where the pixel grid begins ``phase`` samples before the tile."""
    repeated = np.repeat(np.repeat(plane, factor, 0), factor, 1)
    return repeated[phase[0] : phase[0] + shape[0], phase[1] : phase[1] + shape[1]]


def scene(dtype="u2", shape=(40, 36)):
    """Bands like those of a stack of 10, 20 and 60 m bands, and one of zeros."""
    bands = [tiles.make("twelve", shape, dtype), tiles.make("walk", shape, dtype, 3)]
    for seed, (factor, phase) in enumerate([(2, (1, 0)), (2, (1, 0)), (6, (4, 2))]):
        bands.append(upsampled(tiles.make("walk", (24, 24), dtype, seed), factor, phase, shape))
    return np.stack([*bands, np.zeros(shape, dtype)])


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f4"])
def test_upsampled_bands_are_coded_once(dtype):
    tile = scene(dtype)
    data = check(tile)
    assert data[0] == PLANES
    assert len(data) < 0.8 * len(LosslessCodec(pack=False).encode_tile(tile))
    check(tile, LosslessCodec(prefer="size"), twins=(0, 2))


@pytest.mark.parametrize("factor", [2, 3, 6])
def test_every_phase_is_found(factor):
    small = tiles.make("noise", (30, 30), "u1")
    limit = len(CODEC.encode_tile(small)) + 24
    for y in range(factor):
        for x in range(factor):
            data = check(upsampled(small, factor, (y, x), (48, 48)), CODEC)
            assert data[0] == PLANES
            assert len(data) <= limit


def test_rows_alone_and_columns_alone():
    noise = tiles.make("noise", (20, 24), "u2")
    for tile in (np.repeat(noise, 2, 0), np.repeat(noise, 2, 1)):
        data = check(tile)
        assert data[0] == PLANES
        assert len(data) < noise.nbytes + 40


def test_flat_pictures_take_a_few_bytes():
    """A colour-bar test pattern: nine rows that differ, all columns the same."""
    bars = np.repeat(tiles.make("noise", (3, 10, 1), "u1"), 10, 1)
    assert len(check(np.repeat(bars, 100, 2))) < 90


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_runs_come_back(data):
    dtype = data.draw(st.sampled_from(["u1", "i2", "u2", "i4", "f4"]))
    shape = data.draw(st.tuples(st.integers(1, 14), st.integers(1, 14)))
    planes = []
    for seed in range(data.draw(st.integers(1, 4))):
        keep = [np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n))) for n in shape]
        rows, columns = (np.maximum(np.cumsum(k) - 1, 0) for k in keep)
        texture = data.draw(st.sampled_from(["noise", "walk", "gaps", "constant"]))
        planes.append(tiles.make(texture, shape, dtype, seed)[rows][:, columns])
    check(np.stack(planes))


def test_planes_have_lists_of_their_own():
    """One plane has 32 values, one 200 others: a list for both would hold nearly all values."""
    rough = tiles.make("walk", (128, 128), "i8") + tiles.make("noise", (128, 128), "i8") % 8
    five_bits, other = (rough % 32) * 8 + 3, (rough % 200) + 20
    tile = np.stack([five_bits, other, 255 - five_bits]).astype("u1")
    for codec in (CODEC, LosslessCodec(prefer="size")):
        data = check(tile, codec, twins=(1,))
        assert data[0] == PLANES
        assert len(data) < 0.85 * len(LosslessCodec(pack=False, prefer=codec.prefer).encode_tile(tile))
    for dtype in ("i2", "f4"):
        spread = (np.stack([five_bits, other * 111, five_bits - 400])).astype(dtype)
        assert check(spread, twins=())[0] in (PLANES, 3, 7)


def test_floats_around_zero_have_no_gap():
    """Decibels: mostly far below zero, some above; most ranks of floats lie between, around zero."""
    noise = tiles.make("noise", (64, 64), "i8") % 100000
    tile = (-12 + noise / 7000 - 7).astype("f4")
    tile[::9, ::7] = 2.5
    data = check(tile)
    assert data[0] == PLANES
    assert len(data) < 0.85 * len(LosslessCodec(pack=False).encode_tile(tile))


def test_nodata_far_outside_costs_little():
    tile = (100 + tiles.make("twelve", (64, 64), "i8") / 64).astype("f4")
    marked = tile.copy()
    marked[20:40, :30] = -9999
    assert len(check(marked)) < 1.1 * len(check(tile))
    marked[50:, 40:] = np.nan
    assert len(check(marked)) < 1.1 * len(check(tile))


def test_grey_stored_as_rgb_is_nearly_grey_when_size_is_preferred():
    """Colour on words: planes that are equal in most places, and a patch that is not."""
    grey = tiles.make("walk", (80, 60), "u1")
    rgb = np.repeat(grey[None], 3, 0)
    rgb[1, 60:70, 20:40] ^= 85
    for lead in ((), (2,)):
        tile = np.stack([rgb] * lead[0]) if lead else rgb
        codec = LosslessCodec(prefer="size", pack=False)
        data = codec.encode_tile(tile)
        assert codec.decode_tile(data, tile.shape, tile.dtype).tobytes() == tile.tobytes()
        assert len(data) < 1.35 * tile.size / rgb.size * len(codec.encode_tile(grey))
        for k in (0,):
            twins = twin.decode(data, tile.shape, tile.dtype, k)
            assert codec.decode_tile(data, tile.shape, tile.dtype, k).tobytes() == twins.tobytes()


def test_graphics_are_predicted_where_packing_is_permitted():
    """Text on black: no prefix serves, but it is clearly smaller."""
    glyphs = np.kron(tiles.make("noise", (16, 20), "u1") % 3 == 0, np.ones((5, 4), bool))
    tile = np.where(glyphs, 230 + tiles.make("sparse", (80, 80), "u1"), 0).astype("u1")
    data = check(tile, twins=(0,))
    assert data[0] in (4, PLANES)
    assert len(data) == len(LosslessCodec(prefer="size").encode_tile(tile))
    assert LosslessCodec(pack=False).encode_tile(tile)[0] in (3, 7)


def test_without_packing_there_are_no_planes_frames():
    assert LosslessCodec(pack=False).encode_tile(scene())[0] != PLANES


# --- Hostile maps -------------------------------------------------------------------------------------------

SHAPE = (2, 6, 8)


def nested(extents=(2, 3, 4), transform=0, kind=2, body=None):
    """A raw u2 frame."""
    head = bytes([transform, len(extents) | kind << 3]) + b"".join(varint(n) for n in extents)
    return head + (bytes(range(2 * int(np.prod(extents)))) if body is None else body)


def frame(*body, kind=2):
    return bytes([PLANES, 3 | kind << 3, *SHAPE]) + b"".join(body)


HALF = b"\x03" + b"\x02\x02" + b"\x02\x02"  # rows and columns: period 2, first run 2
AS_BEFORE = b"\x10"


def outcome(data, shape=SHAPE, dtype="u2", reduce=0):
    try:
        return CODEC.decode_tile(data, shape, dtype, reduce)
    except TileCorrupt:
        return None


def test_the_frame_these_tests_start_from_is_sound():
    out = outcome(frame(b"\x01", HALF, AS_BEFORE, nested()))
    assert np.array_equal(out[:, ::2, ::2].reshape(-1).view(np.uint8), np.arange(48))
    assert np.array_equal(out[:, 1::2, 1::2], out[:, ::2, ::2])
    apart = frame(b"\x02", b"\x00", HALF, b"\x01", b"\x00", varint(29), nested((1, 3, 4)), nested((1, 6, 8)))
    assert outcome(apart) is not None


LISTED = b"\x04" + b"\x01\x00" + b"\x00" + bytes(5)  # two values, k = 0, first key 0, gap 0


@pytest.mark.parametrize(
    "data",
    [
        frame(),
        frame(b"\x00", HALF, AS_BEFORE, nested()),
        frame(b"\x03", HALF, AS_BEFORE, nested()),
        frame(b"\x01", HALF),
        frame(b"\x01", AS_BEFORE, HALF, nested()),
        frame(b"\x01", b"\x20", HALF, nested()),
        frame(b"\x01", b"\x13", HALF, nested()),
        frame(b"\x01", HALF, b"\x00", nested()),
        frame(b"\x01", HALF, AS_BEFORE, nested((2, 3, 5))),
        frame(b"\x01", HALF, AS_BEFORE, nested((2, 2, 4))),
        frame(b"\x01", HALF, AS_BEFORE, nested((1, 3, 4))),
        frame(b"\x01", HALF, AS_BEFORE, nested((3, 4))),
        frame(b"\x01", HALF, AS_BEFORE, nested(kind=3)),
        frame(b"\x01", HALF, AS_BEFORE, nested()[:-1]),
        frame(b"\x01", HALF, AS_BEFORE, nested() + b"\0"),
        frame(b"\x01", b"\x03\x01\x01\x02\x02", AS_BEFORE, nested()),
        frame(b"\x01", b"\x03\x02\x03\x02\x02", AS_BEFORE, nested()),
        frame(b"\x01", b"\x03\x02\x00\x02\x02", AS_BEFORE, nested()),
        frame(b"\x01", b"\x03\x07\x07\x02\x02", AS_BEFORE, nested()),
        frame(b"\x01", b"\x03\x00\xea\x02\x02", AS_BEFORE, nested()),
        frame(b"\x01", b"\x00", AS_BEFORE, frame(b"\x01", HALF, AS_BEFORE, nested())),
        frame(b"\x01", b"\x08\x01\x05\x05", AS_BEFORE, nested((2, 6, 8))),
        frame(b"\x02", b"\x01", HALF, b"\x00", HALF, varint(29), nested((1, 3, 4)), nested((1, 3, 4))),
        frame(b"\x02", b"\x00", HALF, b"\x00", AS_BEFORE, varint(29), nested((1, 3, 4)), nested((1, 3, 4))),
        frame(b"\x02", b"\x00", HALF, b"\x01", b"\x00", varint(28), nested((1, 3, 4)), nested((1, 6, 8))),
        frame(
            b"\x02", b"\x00", HALF, b"\x01", b"\x00", varint(1 << 31), nested((1, 3, 4)), nested((1, 6, 8))
        ),
        frame(b"\x01", b"\x04\xff\xff" + bytes(40), AS_BEFORE, nested((2, 6, 8))),
    ],
    ids=lambda data: data[5:25].hex() + f"-{len(data)}",
)
def test_a_map_that_lies(data):
    assert outcome(data) is None
    assert outcome(data, reduce=3) is None


TWO_VALUES = b"\x04" + bytes([1, 0, 0, 0, 0, 0])  # k = 0, first key 0; 0x20 is gap 0, above it two fill bits


def ranks(odd=0):
    """A nested plane of ranks, 0 but for a sample at an odd place."""
    body = np.zeros((2, 6, 8), "<u2")
    body[1, 3, 5] = odd
    return nested((2, 6, 8), body=body.tobytes())


def test_fill_bits_of_a_list_of_values():
    assert outcome(frame(b"\x01", TWO_VALUES + b"\x20", AS_BEFORE, ranks())) is not None
    for bits in (b"\x60", b"\xa0", b"\xe0"):
        assert outcome(frame(b"\x01", TWO_VALUES + bits, AS_BEFORE, ranks())) is None


@pytest.mark.parametrize("reduce", [0, 1, 3])
def test_what_a_reduced_size_does_not_show_is_checked(reduce):
    sound, lie = (frame(b"\x01", TWO_VALUES + b"\x20", AS_BEFORE, ranks(r)) for r in (1, 2))
    assert outcome(sound, reduce=reduce) is not None
    assert outcome(lie, reduce=reduce) is None


@pytest.mark.parametrize(
    "gaps",
    [
        b"\x00",
        b"\x05" + b"\x01\x01" * 5,
        b"\x01\x09\x00",
        b"\x02\x09\x05\x0e\x01",
        b"\x01" + varint((1 << 32) - 2) + b"\x01",
    ],
    ids=lambda gaps: gaps.hex(),
)
def test_gaps_that_lie(gaps):
    shape = (2, 2)
    head = bytes([PLANES, 2 | 4 << 3, *shape, 1, 8])
    sound = nested(shape, kind=4, body=np.array([0, 9, 10, 11], "<u4").tobytes())
    out = outcome(head + b"\x02\x09\x05\x0f\x01" + sound, shape, "u4")
    assert out.tolist() == [[0, 9], [15, 17]]
    assert outcome(head + gaps + sound, shape, "u4") is None


def test_a_value_beyond_its_gaps():
    head = bytes([PLANES, 2 | 4 << 3, 1, 2, 1, 8]) + b"\x01\x09" + varint(1 << 31)
    assert outcome(head + nested((1, 2), kind=4, body=b"\0\0\0\0\0\0\0\x80"), (1, 2), "u4") is None


def test_a_rank_without_a_value():
    listed = b"\x04" + (1 | 0 << 16 | 5 << 21 | 1 << 53).to_bytes(7, "little")
    for body, known in ((bytes(94) + b"\x01\x00", True), (bytes(94) + b"\x02\x00", False)):
        data = bytes([PLANES, 2 | 2 << 3, 6, 8, 1]) + listed + nested((6, 8), body=body)
        assert (outcome(data, (6, 8)) is not None) == known


def test_more_planes_than_a_frame_may_map():
    shape = (4097, 1, 1)
    data = bytes([PLANES, 3 | 0 << 3]) + varint(4097) + b"\x01\x01\x01\x00" + AS_BEFORE * 4096
    assert outcome(data + nested(shape, kind=0, body=bytes(4097)), shape, "u1") is None
    stack = np.repeat(tiles.make("noise", (4097, 1, 1), "u1"), 4, 2)
    assert CODEC.encode_tile(stack)[0] != PLANES


def test_damaged_planes_frames_are_refused_or_decode():
    for tile in (scene("u1", (18, 20)), scene("f4", (18, 20))):
        data = bytearray(CODEC.encode_tile(tile))
        assert data[0] == PLANES
        for n in range(len(data)):
            assert outcome(bytes(data[:n]), tile.shape, tile.dtype) is None
        for bit in range(8 * len(data)):
            data[bit // 8] ^= 1 << bit % 8
            outcome(bytes(data), tile.shape, tile.dtype, bit % 6)
            data[bit // 8] ^= 1 << bit % 8


# --- Encoders -----------------------------------------------------------------------------------------------


def test_bytes_do_not_depend_on_the_tile_before():
    few = (tiles.make("noise", (5000, 4, 4), "u2") % 5) * 1000
    first = CODEC.encode_tile(few)
    CODEC.encode_tile(tiles.make("noise", (3, 160, 128), "u1"))
    assert CODEC.encode_tile(few) == first


def test_values_of_one_hash_bucket_do_not_slow_the_encoder():
    inverse = pow(2654435761, -1, 1 << 32)
    keys = np.array([inverse * (5 << 15 | i % 32768) % 2**32 for i in range(65535)], "<u4")
    began = time.monotonic()
    CODEC.encode_tile(np.resize(keys, (512, 512)))
    assert time.monotonic() - began < 2


def test_many_small_planes_are_not_searched_for_gaps():
    tile = tiles.make("noise", (4096, 1, 1), "f4")
    began = time.monotonic()
    CODEC.encode_tile(tile)
    assert time.monotonic() - began < 0.3
