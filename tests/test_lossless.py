"""tilevault.lossless: what is encoded comes back, at every resolution, from its prefix, in little space."""

import asyncio
import subprocess
import sys
from itertools import permutations, product

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from zarr.codecs import Crc32cCodec

import lossless_tiles as tiles
import lossless_twin as twin
import wavelet_twin
from tilevault.codecs import InvalidRequest, LosslessCodec, ManifestCorrupt, TileCodec
from tilevault.codecs.lossless import ENTROPY_CODERS, PREFERENCES

CORE = ["u1", "i1", "u2", "i2", "u4", "i4", "f4"]
OTHER = ["?", "u8", "i8", "f2", "f8", "c8", "c16"]
SHAPES = [(1, 1), (1, 23), (23, 1), (2, 2), (33, 31), (3, 17, 12), (2, 3, 9, 10), (2, 1, 3, 5, 8)]


def same(a, b):
    """Equal shape, type and bits (NaN payloads and -0.0 included)."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def check_round_trip(codec, tile):
    data = codec.encode_tile(tile)
    assert len(data) <= tile.nbytes + 16
    assert same(codec.decode_tile(data, tile.shape, tile.dtype), np.ascontiguousarray(tile))
    ends = codec.segment_ends(data)
    assert len(ends) == codec.resolutions
    assert list(ends) == sorted(ends)
    assert ends[-1] == len(data)
    return data


@pytest.mark.parametrize("dtype", CORE + OTHER)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_texture_comes_back(dtype, shape):
    for texture in tiles.TEXTURES:
        tile = tiles.make(texture, shape, dtype)
        for pack in (False, True):
            for prefer in PREFERENCES:
                check_round_trip(LosslessCodec(pack=pack, prefer=prefer), tile)
            check_round_trip(LosslessCodec(pack=pack, entropy="huffman"), tile)


@st.composite
def any_tile(draw, dtypes=(*CORE, *OTHER)):
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=5, max_side=9))
    if draw(st.booleans()):
        return draw(hnp.arrays(dtype, shape))
    return tiles.make(draw(st.sampled_from(tiles.TEXTURES)), shape, dtype, draw(st.integers(0, 1 << 16)))


@settings(max_examples=150, deadline=None)
@given(
    any_tile(),
    st.integers(0, 15),
    st.booleans(),
    st.sampled_from(PREFERENCES),
    st.sampled_from(ENTROPY_CODERS),
)
def test_any_tile_comes_back(tile, decompositions, pack, prefer, entropy):
    check_round_trip(LosslessCodec(decompositions, pack, prefer, entropy), tile)


@settings(max_examples=60, deadline=None)
@given(
    any_tile(CORE),
    st.integers(0, 6),
    st.booleans(),
    st.sampled_from(PREFERENCES),
    st.sampled_from(ENTROPY_CODERS),
    st.data(),
)
def test_native_core_equals_the_twin(tile, decompositions, pack, prefer, entropy, data):
    codec = LosslessCodec(decompositions, pack, prefer, entropy)
    encoded = codec.encode_tile(tile)
    ends = codec.segment_ends(encoded)
    reduce = data.draw(st.integers(0, decompositions))
    chunk = tuple(n + data.draw(st.integers(0, 2)) for n in tile.shape)
    prefix = encoded[: ends[decompositions - reduce]]
    expected = twin.decode(prefix, chunk, tile.dtype, reduce, decompositions)
    assert same(codec.decode_tile(prefix, chunk, tile.dtype, reduce), expected)


@pytest.mark.parametrize("dtype", CORE)
@pytest.mark.parametrize("texture", ["walk", "sparse", "gaps", "extremes", "noise"])
def test_every_resolution_equals_the_twin(dtype, texture):
    tile = tiles.make(texture, (3, 37, 26), dtype)
    for pack, entropy in ((False, "ans"), (True, "ans"), (False, "huffman")):
        codec = LosslessCodec(5, pack, entropy=entropy)
        data = codec.encode_tile(tile)
        ends = codec.segment_ends(data)
        for k in range(6):
            reduced = codec.decode_tile(data, tile.shape, dtype, k)
            assert same(reduced, twin.decode(data, tile.shape, dtype, k))
            assert same(reduced, codec.decode_tile(data[: ends[5 - k]], tile.shape, dtype, k))


def head_of(data):
    """The head of a wavelet frame that is not packed and not 32 bit."""
    at = 2
    for _ in range(data[1] & 7):
        _, at = twin.varint(data, at)
    levels = data[at] & 15
    at += 2 if data[at] >> 5 == 7 else 1  # with a byte for the colour transform
    for _ in range(levels):
        _, at = twin.varint(data, at)
    return levels, data[at:]


@pytest.mark.parametrize("entropy", ENTROPY_CODERS)
def test_predicted_bands_equal_the_twin(entropy):
    """Tiles in which the encoder finds weights for bands, without and with references."""
    for tile in (tiles.smooth(120, 131), tiles.bands()):
        data = LosslessCodec(pack=False, entropy=entropy).encode_tile(tile)
        levels, body = head_of(data)
        head = wavelet_twin.Head(body, len(tile) if tile.ndim == 3 else 1, levels)
        assert head.weights
        assert tile.ndim == 2 or any(first >= 0 for first, _ in head.references)
        for k in (0, 3):
            back = LosslessCodec().decode_tile(data, tile.shape, tile.dtype, k)
            assert same(back, twin.decode(data, tile.shape, tile.dtype, k))


@pytest.mark.parametrize("entropy", ENTROPY_CODERS)
@pytest.mark.parametrize("dtype", ["u2", "i2", "u4", "i4"])
def test_rows_that_were_interpolated_are_coded_transposed(dtype, entropy):
    """Smaller than as they are, and the levels do not depend on it."""
    codec, tile = LosslessCodec(pack=False, entropy=entropy), tiles.interpolated(60, 65).astype(dtype)
    turned = np.ascontiguousarray(tile.T)
    data, plain = codec.encode_tile(tile), codec.encode_tile(turned)
    assert (data[0], plain[0]) == (7, 3)
    assert len(data) < 1.002 * len(plain)
    ends = codec.segment_ends(data)
    other = LosslessCodec(pack=False, prefer="size").encode_tile(tile)
    for k in range(6):
        reduced = codec.decode_tile(data[: ends[5 - k]], tile.shape, dtype, k)
        assert same(reduced, twin.decode(data, tile.shape, dtype, k))
        assert same(reduced, codec.decode_tile(other, tile.shape, dtype, k))


@pytest.mark.parametrize("entropy", ENTROPY_CODERS)
def test_transposed_tiles_of_few_values_equal_the_twin(entropy):
    tile = tiles.interpolated(60, 65) // 64 * 5
    codec = LosslessCodec(entropy=entropy)
    data = codec.encode_tile(tile)
    assert data[0] == 7
    assert data[4] & 16  # packed
    for k in range(6):
        reduced = codec.decode_tile(data, tile.shape, "u2", k)
        assert same(reduced, np.ascontiguousarray(tile[:: 1 << k, :: 1 << k]))
        assert same(reduced, twin.decode(data, tile.shape, "u2", k))


@pytest.mark.parametrize("dtype", CORE)
@pytest.mark.parametrize("shape", [(130, 21), (3, 129, 9), (1, 40), (40, 1), (2, 2)], ids=str)
def test_prediction_equals_the_twin(dtype, shape):
    """One stripe and two, with a reference plane and without, 16-bit kernels and wide ones."""
    for texture in tiles.TEXTURES:
        data = LosslessCodec(pack=False, prefer="size").encode_tile(tiles.make(texture, shape, dtype))
        assert data[0] in (0, 1, 4)
        for k in (0, 2):
            back = LosslessCodec().decode_tile(data, shape, dtype, k)
            assert same(back, twin.decode(data, shape, dtype, k))


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2"])
def test_all_integer_tiles_reduce_to_the_low_band(dtype):
    """Raw, constant, colour and plain tiles alike: LL_k of the pixels, clamped."""
    transforms = set()
    for texture in tiles.TEXTURES:
        for shape, prefer in [((40, 33), "resolution"), ((3, 20, 24), "resolution"), ((40, 33), "size")]:
            codec = LosslessCodec(pack=False, prefer=prefer)
            tile = tiles.make(texture, shape, dtype)
            data = codec.encode_tile(tile)
            transforms.add(data[0])
            for k in range(1, 6):
                planes = tile.reshape(-1, *shape[-2:]).astype(int).tolist()
                low = np.array([twin.low_band(plane, k) for plane in planes])
                limits = np.iinfo(dtype)
                low = np.clip(low, limits.min, limits.max).reshape(*shape[:-2], *low.shape[1:])
                assert same(codec.decode_tile(data, shape, dtype, k), low.astype(dtype))
    assert transforms == {0, 1, 3, 4, 7}


def test_every_colour_transform_equals_the_twin():
    """Encoders choose few of them; a predicted frame of one becomes that of another by its colour byte."""
    tile = tiles.from_two()[:, :20, :12].astype("i4")
    codec = LosslessCodec(pack=False, prefer="size")
    data = bytearray(codec.encode_tile(np.ascontiguousarray(tile)))
    assert data[:6] == bytes([4, 3 | 5 << 3, 3, 20, 12, 32])
    data[5:6] = bytes([32 | 192, 0])
    for order, mix in product(range(6), range(4)):
        if order or mix:
            data[6] = order << 2 | mix << 5
            back = codec.decode_tile(bytes(data), tile.shape, "i4")
            assert same(back, twin.decode(data, tile.shape, "i4"))
            assert not same(back, tile)


def test_the_colour_transform_follows_the_colours():
    """Planes in any order take the same bytes, by the transform that was made for what they are."""
    tile, codec = tiles.from_two(), LosslessCodec(pack=False)
    frames = [codec.encode_tile(np.ascontiguousarray(tile[list(p)])) for p in permutations(range(3))]
    assert max(map(len, frames)) < 1.06 * min(map(len, frames))
    for data in frames:
        assert data[5] >> 5 == 7
        assert data[6] >> 5 in (2, 3)  # from two, or nearly that
        assert same(codec.decode_tile(data, tile.shape, "u1", 1), twin.decode(data, tile.shape, "u1", 1))


@pytest.mark.parametrize("dtype", ["u2", "f8"])
def test_packed_and_other_types_reduce_to_even_positions(dtype):
    tile = tiles.make("gaps", (64, 48), dtype)
    data = LosslessCodec().encode_tile(tile)
    for k in range(6):
        assert same(
            LosslessCodec().decode_tile(data, tile.shape, dtype, k),
            np.ascontiguousarray(tile[:: 1 << k, :: 1 << k]),
        )


def test_float_bits_survive():
    bits = np.array(
        [0, 1 << 31, 0x7F800000, 0xFF800000, 0x7FC00001, 0xFFC12345, 0x7F800001, 1, 0x80000001], "u4"
    )
    tile = np.tile(bits, (9, 7)).view("f4")
    for pack in (False, True):
        check_round_trip(LosslessCodec(pack=pack), tile)


def test_smaller_frames_fill_the_chunk_with_zeros():
    tile = tiles.make("walk", (2, 20, 30), "i2")
    out = LosslessCodec().decode_tile(LosslessCodec().encode_tile(tile), (3, 32, 32), "i2")
    assert np.array_equal(out[:2, :20, :30], tile)
    assert out.sum(dtype=int) == tile.sum(dtype=int)


@pytest.mark.parametrize("order", ["F", "strided", "big-endian", "read-only"])
def test_memory_layout_does_not_matter(order):
    tile = tiles.make("walk", (24, 40), "u2")
    other = {
        "F": np.asfortranarray(tile),
        "strided": np.repeat(tile, 2, axis=1)[:, ::2],
        "big-endian": tile.astype(">u2"),
        "read-only": np.frombuffer(tile.tobytes(), "u2").reshape(tile.shape),
    }[order]
    assert LosslessCodec().encode_tile(other) == LosslessCodec().encode_tile(tile)
    back = LosslessCodec().decode_tile(memoryview(LosslessCodec().encode_tile(tile)), tile.shape, other.dtype)
    assert back.dtype == other.dtype
    assert np.array_equal(back, tile)


def test_constant_tiles_take_a_few_bytes():
    for dtype in CORE + OTHER:
        assert (
            len(LosslessCodec().encode_tile(np.ones((16, 512, 512), dtype))) <= 8 + np.dtype(dtype).itemsize
        )


def test_background_costs_next_to_nothing():
    """Runs: a hot pixel in a quarter of a million zeros."""
    assert len(LosslessCodec().encode_tile(tiles.make("hot", (512, 512), "u2"))) < 200


@pytest.mark.parametrize(("entropy", "limit"), [("ans", 1.01), ("huffman", 1.03)])
def test_low_entropy_tiles_come_near_their_entropy(entropy, limit):
    """rANS, or groups and runs, where one Huffman symbol a sample would take up to 7 times as much."""
    rng = np.random.default_rng(5)
    for p in (0.02, 0.1, 0.3):
        rows = (rng.random((256, 256)) < p).astype(int).tolist()
        wavelet_twin.restore_ll(rows)  # pixels whose prediction leaves exactly these independent symbols
        bits = -(p * np.log2(p) + (1 - p) * np.log2(1 - p)) * 256 * 256
        codec = LosslessCodec(0, pack=False, entropy=entropy)
        assert len(codec.encode_tile(np.array(rows, "i2"))) < limit * bits / 8 + 160


def test_gaps_are_packed():
    rng = np.random.default_rng(6)
    values = np.unique(rng.integers(0, 4000, 700))
    steps = np.clip(300 + rng.normal(0, 30, (256, 256)), 0, len(values) - 1).astype(int)
    tile = values[steps].astype("u2")
    assert len(LosslessCodec().encode_tile(tile)) < 0.75 * len(LosslessCodec(pack=False).encode_tile(tile))


def test_grey_stored_as_rgb_costs_little_more_than_grey():
    grey = tiles.make("walk", (1, 128, 128), "u1")
    rgb = np.repeat(grey, 3, axis=0)
    assert len(LosslessCodec(pack=False).encode_tile(rgb)) < 1.1 * len(
        LosslessCodec(pack=False).encode_tile(grey)
    )


def test_encoding_is_deterministic():
    tile = tiles.make("walk", (3, 60, 70), "i2")
    first = LosslessCodec().encode_tile(tile)
    LosslessCodec().encode_tile(tiles.make("noise", (5, 80, 90), "u4"))
    assert LosslessCodec().encode_tile(tile) == first


@pytest.mark.parametrize(
    "tile",
    [
        np.zeros(5, "u1"),
        np.zeros((1,) * 6, "u1"),
        np.zeros((0, 4), "u1"),
        np.zeros((2, 2), "S3"),
        np.zeros((2, 2), "O"),
        np.zeros((2, 2), "M8[s]"),
    ],
    ids=["rank 1", "rank 6", "empty", "string", "object", "date"],
)
def test_what_is_no_tile_is_refused(tile):
    with pytest.raises(InvalidRequest):
        LosslessCodec().encode_tile(tile)


@pytest.mark.parametrize("name", sorted(p.name for p in tiles.VECTORS.glob("*.tile")))
def test_golden_vectors_decode_for_ever(name):
    """Old bytes decode to the same pixels; encoders may change bytes, so bytes are not compared."""
    codec, tile = tiles.golden()[name.removesuffix(".tile")]
    data = (tiles.VECTORS / name).read_bytes()
    assert same(codec.decode_tile(data, tile.shape, tile.dtype), tile)
    with np.load(tiles.VECTORS / name.replace(".tile", ".npz"), allow_pickle=False) as levels:
        for k in range(codec.resolutions):
            assert same(codec.decode_tile(data, tile.shape, tile.dtype, k), levels[f"reduce{k}"])


def test_there_are_golden_vectors():
    assert {p.stem for p in tiles.VECTORS.glob("*.tile")} == set(tiles.golden())


# --- Zarr -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [None, (64, 128)])
@pytest.mark.parametrize("dtype", ["u1", ">i2", "f4", "f8", "?"])
def test_zarr_array_round_trip(tmp_path, shards, dtype):
    tile = tiles.make("walk", (100, 150), dtype)
    array = zarr.create_array(
        tmp_path / "a", shape=tile.shape, chunks=(32, 64), shards=shards, dtype=tile.dtype,
        serializer=LosslessCodec(), compressors=[Crc32cCodec()],
    )  # fmt: skip
    array[:] = tile
    array[10:20, 5:9] = tile[30:40, 5:9]
    tile[10:20, 5:9] = tile[30:40, 5:9]
    reopened = zarr.open_array(tmp_path / "a", mode="r")
    assert np.array_equal(reopened[:], tile)
    assert np.array_equal(reopened[5:70, 60:70], tile[5:70, 60:70])


def test_zarr_finds_the_codec_by_its_entry_point(tmp_path):
    array = zarr.create_array(
        tmp_path / "a",
        shape=(8, 8),
        chunks=(8, 8),
        dtype="u2",
        serializer=LosslessCodec(3, False),
        compressors=None,
    )
    array[:] = 7
    code = (
        "import sys, zarr\n"
        f"a = zarr.open_array({str(tmp_path / 'a')!r}, mode='r')\n"
        "assert (a[:] == 7).all()\n"
        "from tilevault.codecs import LosslessCodec\n"
        "assert a.metadata.codecs == (LosslessCodec(3, False),), a.metadata.codecs\n"
        "assert 'torch' not in sys.modules and 'dask' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_codecs_load_neither_torch_nor_dask():
    code = (
        "import sys, tilevault.codecs\n"
        "assert not {'torch', 'dask', 'rasterio', 'pydicom', 'imagecodecs'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_configuration_is_json_and_comes_back():
    for codec in (
        LosslessCodec(),
        LosslessCodec(0, False),
        LosslessCodec(prefer="size"),
        LosslessCodec(entropy="huffman"),
    ):
        assert isinstance(codec, TileCodec)
        assert LosslessCodec.from_dict(codec.to_dict()) == codec
    assert LosslessCodec().to_dict() == {
        "name": "tilevault.lossless",
        "configuration": {"decompositions": 5, "pack": True, "prefer": "resolution", "entropy": "ans"},
    }
    assert LosslessCodec.from_dict({"name": "tilevault.lossless"}) == LosslessCodec()


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"name": "zstd"},
        {"name": "tilevault.lossless", "configuration": []},
        {"name": "tilevault.lossless", "configuration": {"decompositions": 16}},
        {"name": "tilevault.lossless", "configuration": {"decompositions": -1}},
        {"name": "tilevault.lossless", "configuration": {"decompositions": True}},
        {"name": "tilevault.lossless", "configuration": {"decompositions": 2.0}},
        {"name": "tilevault.lossless", "configuration": {"decompositions": "5"}},
        {"name": "tilevault.lossless", "configuration": {"pack": 1}},
        {"name": "tilevault.lossless", "configuration": {"prefer": "speed"}},
        {"name": "tilevault.lossless", "configuration": {"prefer": None}},
        {"name": "tilevault.lossless", "configuration": {"entropy": "arithmetic"}},
        {"name": "tilevault.lossless", "configuration": {"level": 1}},
        {"name": "tilevault.lossless", "configuration": {}, "extra": 1},
    ],
    ids=str,
)
def test_hostile_configuration_is_our_error(data):
    with pytest.raises(ManifestCorrupt):
        LosslessCodec.from_dict(data)


@pytest.mark.parametrize(("shape", "dtype"), [((4,), "u2"), ((1,) * 6, "u2"), ((4, 4), "S4")])
def test_zarr_arrays_that_cannot_be_coded_are_refused(tmp_path, shape, dtype):
    with pytest.raises(InvalidRequest):
        zarr.create_array(
            tmp_path / "a",
            shape=shape,
            chunks=shape,
            dtype=dtype,
            serializer=LosslessCodec(),
            compressors=None,
        )


def test_threads_share_nothing():
    codec = LosslessCodec()
    work = [
        tiles.make(t, (3, 40, 50), d, i)
        for i in range(4)
        for t in ("walk", "sparse")
        for d in ("u1", "i2", "f4")
    ]

    async def all_of_them():
        encoded = await asyncio.gather(*(asyncio.to_thread(codec.encode_tile, tile) for tile in work))
        return await asyncio.gather(
            *(
                asyncio.to_thread(codec.decode_tile, e, t.shape, t.dtype)
                for e, t in zip(encoded, work, strict=True)
            )
        )

    assert all(same(a, b) for a, b in zip(asyncio.run(all_of_them()), work, strict=True))
