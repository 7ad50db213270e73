"""Shard objects: zarr reads ours and we read zarr's; no index can point outside."""

import numpy as np
import pytest
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.storage import MemoryStore

from tilevault.archive.shard import CRC_BYTES, build_shard, crc32c, index_bytes, parse_index
from tilevault.codecs.errors import TileCorrupt


def test_crc32c_is_castagnoli():
    assert crc32c(b"123456789") == (0xE3069283).to_bytes(4, "little")


def test_zarr_writes_the_same_structure():
    store = MemoryStore()
    array = zarr.create_array(
        store,
        shape=(6, 4),
        chunks=(2, 2),
        shards=(4, 4),
        dtype="uint8",
        serializer=BytesCodec(),
        compressors=[Crc32cCodec()],
        filters=None,
    )
    words = np.arange(1, 25, dtype=np.uint8).reshape(6, 4)
    array[...] = words
    for i, rows in enumerate((slice(0, 4), slice(4, 6))):
        theirs = store._store_dict[f"c/{i}/0"].to_bytes()
        index = parse_index(theirs[-index_bytes((2, 2)) :], len(theirs), (2, 2), "c")
        tiles = {}
        for place, (y, x) in enumerate(np.ndindex(2, 2)):
            if rows.start + 2 * y < 6:
                offset, length = index[place].tolist()
                tiles[place] = theirs[offset : offset + length - CRC_BYTES]
                padded = words[rows][2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
                assert tiles[place] == padded.tobytes()
        ours = b"".join(build_shard(tiles, (2, 2)))
        assert len(ours) == len(theirs)
        store._store_dict[f"c/{i}/0"] = zarr.core.buffer.cpu.Buffer.from_bytes(ours)
    np.testing.assert_array_equal(zarr.open_array(store)[...], words)


def test_every_flipped_bit_of_the_index_is_noticed():
    shard = b"".join(build_shard({0: b"abc", 2: b"defg"}, (3,)))
    tail = shard[-index_bytes((3,)) :]
    assert parse_index(tail, len(shard), (3,), "k")[1].tolist() == [2**64 - 1] * 2
    for bit in range(8 * len(tail)):
        broken = bytearray(tail)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(TileCorrupt):
            parse_index(bytes(broken), len(shard), (3,), "k")


@pytest.mark.parametrize(("offset", "length"), [(0, 100), (8, 1), (2**63, 2**63), (2**64 - 2, 2), (7, 2)])
def test_an_index_that_points_outside_is_refused(offset, length):
    raw = np.array([[offset, length]], dtype="<u8").tobytes()
    with pytest.raises(TileCorrupt, match="outside"):
        parse_index(raw + crc32c(raw), 7 + len(raw) + 4, (1,), "k")
