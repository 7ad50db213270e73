"""Clusters frames: scaled and rounded values as cluster and place, exactly; hostile frames are refused."""

from contextlib import suppress
from itertools import pairwise

import numpy as np
import pytest

import lossless_twin as twin
from lossless_tiles import scaled
from tilevault.codecs import LosslessCodec, TileCorrupt

CLUSTERS = 6
ZEROS = LosslessCodec(pack=False).encode_tile(np.zeros((4, 5), "i1"))


@pytest.mark.parametrize("prefer", ["resolution", "size"])
@pytest.mark.parametrize("dtype", ["u2", "i2", "u4", "i4"])
@pytest.mark.parametrize("shape", [(52, 60), (2, 44, 40)])
def test_scaled_bytes_are_clusters_and_places(dtype, shape, prefer):
    tile = scaled(shape, dtype)
    codec = LosslessCodec(prefer=prefer)
    data = codec.encode_tile(tile)
    assert data[0] == CLUSTERS
    assert set(codec.segment_ends(data)) == {len(data)}
    for k in (0, 2):
        back = codec.decode_tile(data, shape, dtype, k)
        assert back.tobytes() == np.ascontiguousarray(tile[..., :: 1 << k, :: 1 << k]).tobytes()
        assert back.tobytes() == twin.decode(data, shape, dtype, k).tobytes()
    assert len(data) < 0.8 * len(LosslessCodec(pack=False, prefer=prefer).encode_tile(tile))


def test_without_packing_there_are_none():
    assert LosslessCodec(pack=False).encode_tile(scaled((52, 60)))[0] != CLUSTERS


def frame(values, gap=b"\x05", first=None, second=ZEROS, length=None):
    """A frame of 4 x 5 samples of u16, all in the first cluster at its first place unless told otherwise."""
    first = LosslessCodec(pack=False).encode_tile(np.zeros((4, 5), "u2")) if first is None else first
    head = bytes([CLUSTERS, 2 | 2 << 3, 4, 5])
    return head + values + gap + bytes([len(first) if length is None else length]) + first + second


def value_list(keys):
    """As section 2.8 says, with Rice parameter 0."""
    bits, at = len(keys) - 1 | keys[0] << 21, 53
    for before, key in pairwise(keys):
        at += key - before - 1
        bits |= 1 << at
        at += 1
    return bits.to_bytes(-(-at // 8), "little")


def decode(data):
    return LosslessCodec().decode_tile(data, (4, 5), "u2")


def nested(words, dtype):
    return LosslessCodec(pack=False).encode_tile(np.resize(np.array(words, dtype), (4, 5)))


def test_a_frame_built_by_hand():
    """Cluster 0 is 7, 8; cluster 1 is 20. Places: 0, then one up for ever is none."""
    places = np.zeros((4, 5), "i1")
    places[1, 0], places[3, 0] = 1, -1
    clusters = np.zeros((4, 5), "u2")
    clusters[2] = 1
    codec = LosslessCodec(pack=False)
    data = frame(value_list([7, 8, 20]), b"\x05", codec.encode_tile(clusters), codec.encode_tile(places))
    expected = np.array([[7] * 5, [8] * 5, [20] * 5, [7] * 5], "u2")
    assert np.array_equal(decode(data), expected)
    assert np.array_equal(twin.decode(data, (4, 5), "u2"), expected)


@pytest.mark.parametrize(
    ("threat", "message"),
    [
        ({"first": nested([0, 1], "u2")}, "none of the list"),
        ({"second": nested([1], "i1")}, "outside of its cluster"),
        ({"second": nested([-1], "i1")}, "outside of its cluster"),
        ({"values": value_list([7 + 2 * i for i in range(20)]), "gap": b"\x00", "length": 90}, "ends behind"),
        ({"values": value_list([70000, 70001])}, "out of range"),
        ({"values": value_list(list(range(30)))}, "more values than samples"),
        ({"first": nested([0], "u1")}, "type"),
        ({"second": LosslessCodec().encode_tile(np.zeros((4, 4), "i1"))}, "extents"),
        ({"first": nested([0], "u2")[:-1]}, "lossless tile"),
        ({"second": ZEROS + b"\x00"}, "lossless tile"),
        ({"second": bytes([CLUSTERS]) + ZEROS[1:]}, "nested"),
        ({"second": bytes([5]) + ZEROS[1:]}, "nested"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hostile_frames(threat, message):
    with pytest.raises(TileCorrupt, match=message):
        decode(frame(**{"values": value_list([7, 8]), **threat}))


def test_a_cluster_of_too_many_values():
    codec = LosslessCodec(pack=False)
    zeros = [codec.encode_tile(np.zeros((40, 50), dtype)) for dtype in ("u2", "i1")]
    head = bytes([CLUSTERS, 2 | 2 << 3, 40, 50])
    for count in (128, 129):
        data = head + value_list(list(range(count))) + b"\x05" + bytes([len(zeros[0])]) + b"".join(zeros)
        if count == 128:
            assert not LosslessCodec().decode_tile(data, (40, 50), "u2").any()
        else:
            with pytest.raises(TileCorrupt, match="too many"):
                LosslessCodec().decode_tile(data, (40, 50), "u2")


def test_every_flipped_bit_is_pixels_or_our_error():
    tile = scaled((52, 60))
    data = bytearray(LosslessCodec(prefer="size").encode_tile(tile))
    assert data[0] == CLUSTERS
    for bit in range(0, 8 * len(data), 5):
        data[bit // 8] ^= 1 << bit % 8
        with suppress(TileCorrupt):
            LosslessCodec().decode_tile(bytes(data), tile.shape, tile.dtype)
        data[bit // 8] ^= 1 << bit % 8
