"""The lossy codec: bounds on every sample, quality of every tile, masks and nodata, frames that lie."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import collection
from tilevault.codecs import InvalidRequest, LearnedCodec, LosslessCodec, ManifestCorrupt, TileCorrupt
from tilevault.codecs.errors import UnsupportedSyntax
from tilevault.codecs.fill import filled
from tilevault.codecs.learned import Coded
from tilevault.codecs.lossless import put_varint
from tilevault.codecs.lossy_modes import EXACT, MODES
from tilevault.codecs.quantised import IntegerLattice
from tilevault.codecs.weights import CURRENT_MODEL

INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32")
SHAPES = ((1, 1), (1, 7), (9, 1), (33, 65), (3, 40, 31), (2, 2, 16, 16), (64, 64))
QUANTISED = 1


def picture(shape: tuple[int, ...], dtype: str, seed: int = 0, noise: float = 6.0) -> NDArray[np.generic]:
    """Waves and noise over most of the type's range (of 12 bits, where it has more)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : shape[-2], 0 : shape[-1]]
    waves = 100 * np.sin(x / 9) * np.cos(y / 7) + rng.normal(0, noise, shape)
    kind = np.dtype(dtype)
    if kind.itemsize > 1:
        waves *= 8
    middle = 0 if kind.kind != "u" else (128 if kind.itemsize == 1 else 2048)
    if kind.kind == "f":
        return (waves + middle).astype(kind)
    limits = np.iinfo(kind)
    return np.clip(np.rint(waves + middle), limits.min, limits.max).astype(kind)


def codec_of(words: NDArray[np.generic], target: str, value: float, **fields: object) -> LearnedCodec:
    """The codec that an image of these words gets."""
    valid = words[np.isfinite(words)] if words.dtype.kind == "f" else words
    return LearnedCodec(target, value, valid.min().item(), valid.max().item(), **fields)  # type: ignore[arg-type]


def psnr(words: NDArray[np.generic], coded: Coded, codec: LearnedCodec) -> float:
    """Peak signal-to-noise ratio of what counts, by the textbook."""
    kept = np.ones(words.shape, bool) if coded.counted is None else coded.counted
    errors = words[kept].astype(np.float64) - coded.words[kept].astype(np.float64)
    assert codec.low is not None
    assert codec.high is not None
    mse = float(np.mean(errors**2))
    return math.inf if mse == 0 else 10 * math.log10((codec.high - codec.low) ** 2 / mse)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bound", [1, 2, 4, 8, 16])
def test_every_sample_is_within_the_stated_error(dtype: str, shape: tuple[int, ...], bound: int) -> None:
    words = picture(shape, dtype)
    codec = codec_of(words, "max_error", bound)
    data = codec.encode_tile(words)
    back = codec.decode_tile(data, shape, words.dtype)
    assert back.dtype == words.dtype
    assert int(np.abs(back.astype(np.int64) - words.astype(np.int64)).max()) <= bound
    assert len(data) <= len(LosslessCodec(prefer="size").encode_tile(words)) + 2


@pytest.mark.parametrize("dtype", [*INTEGERS, "float32"])
@pytest.mark.parametrize("decibel", [30, 38.5, 45, 52, 60])
def test_every_tile_lies_within_a_tenth_of_a_decibel(dtype: str, decibel: float) -> None:
    words = picture((2, 200, 180), dtype)
    codec = codec_of(words, "psnr", decibel)
    coded = codec.code_tile(words)
    assert np.array_equal(codec.decode_tile(coded.data, words.shape, words.dtype), coded.words)
    found = psnr(words, coded, codec)
    if codec.facts(coded.data, words.shape, words.dtype).mode == EXACT:
        assert np.array_equal(coded.words, words)
    else:
        assert decibel <= found <= decibel + 0.1


def test_a_noisy_tile_is_smaller_at_each_coarser_bound() -> None:
    words = picture((256, 256), "uint16", noise=20)
    sizes = [len(codec_of(words, "max_error", n).encode_tile(words)) for n in (1, 2, 4, 8, 16)]
    exact = len(LosslessCodec(prefer="size").encode_tile(words))
    assert [exact, *sizes] == sorted([exact, *sizes], reverse=True)
    assert sizes[-1] < exact / 2


@pytest.mark.parametrize("bound", [0.001, 0.5, 3.0])
def test_floats_are_within_the_stated_error_and_nan_payloads_come_back(bound: float) -> None:
    words = picture((100, 90), "float32")
    words[3:9, 5:50] = np.nan
    words.view(np.uint32)[0, 0] = 0x7FC01234
    words[50, 50], words[50, 51] = np.inf, -np.inf
    codec = codec_of(words, "max_error", bound)
    coded = codec.code_tile(words)
    finite = np.isfinite(words)
    errors = np.abs(coded.words[finite].astype(np.float64) - words[finite].astype(np.float64))
    assert errors.max() <= bound
    assert coded.words[~finite].tobytes() == words[~finite].tobytes()


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
@pytest.mark.parametrize("target", [("max_error", 4), ("psnr", 40)])
def test_nodata_comes_back_exactly_and_no_other_sample_becomes_it(
    dtype: str, target: tuple[str, float]
) -> None:
    words = picture((2, 90, 130), dtype)
    nodata = 100  # a value in the middle of the range, that quantisation could hit
    words[words == nodata] = 101
    codec = codec_of(words, *target, nodata=nodata)
    hole = np.zeros(words.shape, bool)
    hole[:, 20:50, 10:70] = True
    hole[1, 80:, :] = True
    words[hole] = nodata
    coded = codec.code_tile(words)
    assert np.array_equal(coded.words == nodata, hole)
    assert coded.data[1] & 0x7F == QUANTISED
    errors = np.abs(coded.words[~hole].astype(np.float64) - words[~hole].astype(np.float64))
    if target[0] == "max_error":
        assert errors.max() <= 4
    else:
        assert target[1] <= psnr(words, coded, codec)


def test_masked_samples_are_not_coded_as_content() -> None:
    rng = np.random.default_rng(1)
    words = picture((256, 256), "uint16")
    clean = words.copy()
    hole = np.zeros(words.shape, bool)
    hole[40:200, 30:220] = True
    words[hole] = rng.integers(0, 4000, int(hole.sum()))
    codec = codec_of(words, "max_error", 2)
    masked, open_, smooth = (
        len(codec.encode_tile(words, ~hole)),
        len(codec.encode_tile(words)),
        len(codec.encode_tile(clean)),
    )
    assert masked < smooth < open_
    assert masked < 0.65 * smooth
    back = codec.decode_tile(codec.encode_tile(words, ~hole), words.shape, words.dtype)
    assert np.abs(back[~hole].astype(int) - words[~hole].astype(int)).max() <= 2


@pytest.mark.parametrize("decibel", [42, 45])
def test_restoration_harms_no_samples_that_count(decibel: float) -> None:
    """The native encoder weighs all samples of a tile; those behind a mask are nothing to anybody."""
    words = np.ascontiguousarray(collection.scene(1800)[:, 256:384, :128])
    valid = (words != 0).any(0)
    assert 0 < valid.sum() < 100
    codec = LearnedCodec("psnr", decibel, 0, 5423, model=CURRENT_MODEL)
    coded = codec.code_tile(words, valid)
    plain = codec.decode_tile(coded.data, words.shape, words.dtype, restore=False)
    kept = np.broadcast_to(valid, words.shape)
    restored, unrestored = (
        np.square(w[kept].astype(float) - words[kept]).sum() for w in (coded.words, plain)
    )
    assert restored <= unrestored


def test_a_tile_without_a_valid_sample_is_a_handful_of_bytes() -> None:
    words = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    codec = LearnedCodec("max_error", 2, 0, 255)
    assert len(codec.encode_tile(words, np.zeros((64, 64), bool))) < 24
    empty = np.full((64, 64), 7, np.uint8)
    nodata = LearnedCodec("psnr", 40, 0, 255, nodata=7)
    data = nodata.encode_tile(empty)
    assert len(data) < 24
    assert np.array_equal(nodata.decode_tile(data, (64, 64), np.uint8), empty)


def test_what_lossless_makes_smaller_is_exact() -> None:
    words = np.tile(np.array([[0, 200]], np.uint8), (64, 32))
    codec = LearnedCodec("max_error", 1, 0, 255)
    coded = codec.code_tile(words)
    assert coded.data[:2] == bytes([1, EXACT])
    assert np.array_equal(coded.words, words)
    assert coded.data[2:] == LosslessCodec(prefer="size").encode_tile(words)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_tile_keeps_its_promise(data: st.DataObject) -> None:
    """Random types, shapes, values, holes and targets."""
    dtype = np.dtype(data.draw(st.sampled_from([*INTEGERS, "float32"])))
    shape = tuple(data.draw(st.lists(st.integers(1, 12), min_size=2, max_size=4)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    spread = data.draw(st.sampled_from([0, 1, 3, 40, 10**4, 2**31]))
    if dtype.kind == "f":
        words = (rng.normal(0, 1, shape) * spread).astype(dtype)
    else:
        limits = np.iinfo(dtype)
        words = np.clip(rng.integers(-spread - 1, spread + 1, shape), limits.min, limits.max).astype(dtype)
    target = data.draw(st.sampled_from([("max_error", 1), ("max_error", 7.5), ("psnr", 20), ("psnr", 48.25)]))
    nodata = data.draw(st.sampled_from([None, words.reshape(-1)[0].item()]))
    codec = codec_of(words, *target, nodata=nodata)
    valid = rng.random(shape[-2:]) < data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    coded = codec.code_tile(words, valid)
    assert np.array_equal(codec.decode_tile(coded.data, shape, dtype), coded.words)
    kept = (
        np.broadcast_to(valid, shape) if nodata is None else np.broadcast_to(valid, shape) & (words != nodata)
    )
    if nodata is not None:
        assert np.array_equal((coded.words == nodata) & (kept | (words == nodata)), words == nodata)
    errors = coded.words[kept].astype(np.float64) - words[kept].astype(np.float64)
    if errors.size and target[0] == "max_error":
        assert np.abs(errors).max() <= target[1]
    elif errors.size:
        assert np.square(errors).sum() <= codec.allowed_squared(errors.size, dtype)


def test_samples_whose_squared_differences_overflow_keep_their_promise() -> None:
    words = np.random.default_rng(1).integers(-(2**31), 2**31, (40, 40)).astype(np.int32)
    words[::2, ::3] = 2**31 - 1
    words[1::2, 1::3] = -(2**31)
    codec = codec_of(words, "psnr", 20)
    valid = np.ones(words.shape, bool)
    coded = codec.code_tile(words, valid)
    errors = coded.words.astype(np.float64) - words
    assert np.square(errors).sum() <= codec.allowed_squared(errors.size, words.dtype)


def test_the_lattice_of_whole_steps_is_the_near_lossless_one() -> None:
    """By the slow obvious way: the centre of an interval of 2 N + 1, not above the greatest value."""
    for bound in (1, 2, 5):
        lattice = IntegerLattice((2 * bound + 1) * 256, 10, 60)
        for offset in range(51):
            index = (offset + bound) // (2 * bound + 1)
            assert lattice.indices(np.array([offset]))[0] == index
            assert lattice.offsets(np.array([index]))[0] == min(index * (2 * bound + 1), 50)


def test_filled_samples_are_means_of_what_is_near() -> None:
    words = np.arange(64, dtype=np.uint16).reshape(8, 8)
    counted = np.ones((8, 8), bool)
    counted[2:4, 2:4] = False
    back = filled(words, counted)
    assert np.array_equal(back[counted], words[counted])
    # The smallest square of the pyramid that holds a counted sample: rows 0 to 3, columns 0 to 3.
    around = words[:4, :4][counted[:4, :4]]
    assert set(back[2:4, 2:4].reshape(-1).tolist()) == {round(float(around.mean()))}
    assert filled(words, np.zeros((8, 8), bool)).max() == 0


def test_types_without_lossy_coding_are_refused() -> None:
    for dtype in ("float64", "int64", "uint64", "bool", "complex64", "float16"):
        with pytest.raises(UnsupportedSyntax):
            LearnedCodec("max_error", 1).encode_tile(np.zeros((8, 8), dtype))


@pytest.mark.parametrize(
    "fields",
    [
        {"target": "ssim"},
        {"value": 0},
        {"value": -3},
        {"value": math.nan},
        {"value": True},
        {"low": 3},
        {"low": 5, "high": 3},
        {"low": math.inf, "high": math.inf},
        {"nodata": "none"},
        {"decompositions": 16},
        {"model": "abc"},
        {"model": "x" * 64},
    ],
)
def test_a_configuration_that_cannot_be_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        LearnedCodec(**fields)  # type: ignore[arg-type]
    with pytest.raises(ManifestCorrupt):
        LearnedCodec.from_dict({"name": "tilevault.learned", "configuration": fields})  # type: ignore[dict-item]


def test_the_configuration_survives_json() -> None:
    codec = LearnedCodec("psnr", 41.5, -1024, 3071, "NaN", model="0" * 64)
    assert LearnedCodec.from_dict(codec.to_dict()) == codec
    assert codec.fidelity == "psnr=41.5"
    assert LearnedCodec("max_error", 2).fidelity == "max-error=2"


def test_samples_outside_of_the_recorded_range_are_refused() -> None:
    with pytest.raises(InvalidRequest):
        LearnedCodec("max_error", 1, 0, 10).encode_tile(np.array([[3, 11]], np.uint8))


def test_a_range_beyond_the_type_is_cut_to_it() -> None:
    words = picture((40, 40), "uint8")
    codec = LearnedCodec("max_error", 2, -500, 5000)
    assert codec.range_of(words.dtype) == (0, 255)
    back = codec.decode_tile(codec.encode_tile(words), words.shape, words.dtype)
    assert np.abs(back.astype(int) - words.astype(int)).max() <= 2
    with pytest.raises(InvalidRequest):
        LearnedCodec("max_error", 2, 300, 400).encode_tile(words)


# --- Frames that lie ---------------------------------------------------------------------------------


def sound_frames() -> list[tuple[bytes, tuple[int, ...], str]]:
    """Frames of each mode, with and without exceptions."""
    found = []
    for dtype in ("uint8", "int16", "float32"):
        words = picture((20, 24), dtype)
        holed = words.copy()
        holed[4:9, 3:11] = 100
        for tile, fields in ((words, {}), (holed, {"nodata": 100})):
            codec = codec_of(words, "max_error", 3, **fields)
            found.append((codec.encode_tile(tile), tile.shape, dtype))
    return found


READER = LearnedCodec("max_error", 3, -2000, 3000)


@pytest.mark.parametrize(("data", "shape", "dtype"), sound_frames())
def test_truncated_at_every_byte(data: bytes, shape: tuple[int, ...], dtype: str) -> None:
    for cut in range(len(data)):
        with pytest.raises(TileCorrupt):
            READER.decode_tile(data[:cut], shape, dtype)
    with pytest.raises(TileCorrupt):
        READER.decode_tile(data + b"\0", shape, dtype)


@pytest.mark.parametrize(("data", "shape", "dtype"), sound_frames())
def test_flipped_bits_give_our_error_or_samples_of_the_tile(
    data: bytes, shape: tuple[int, ...], dtype: str
) -> None:
    for place in range(min(len(data), 80)):
        for bit in range(8):
            bad = bytearray(data)
            bad[place] ^= 1 << bit
            try:
                back = READER.decode_tile(bytes(bad), shape, dtype)
                READER.facts(bytes(bad), shape, dtype)
            except TileCorrupt:
                continue
            assert (back.shape, back.dtype) == (shape, np.dtype(dtype))


def nested(words: NDArray[np.generic]) -> bytes:
    return LosslessCodec(prefer="size").encode_tile(words)


ZEROS = np.zeros((8, 8), np.uint8)
HOSTILE = {
    "nothing": b"",
    "one byte": b"\1",
    "another version": bytes([2, 0]) + nested(ZEROS),
    "an unknown mode": bytes([1, 77]) + nested(ZEROS),
    "a mode without bytes": bytes([1, 0]),
    "a step of zero": bytes([1, 1]) + put_varint(0) + nested(ZEROS),
    "a step below a sample": bytes([1, 1]) + put_varint(255) + nested(ZEROS),
    "a step without end": bytes([1, 1]) + b"\xff" * 12 + nested(ZEROS),
    "an index beyond 64 bits": bytes([1, 1])
    + put_varint((1 << 48) - 1)
    + nested(np.full((8, 8), 2**32 - 1, np.uint32)),
    "signed indices": bytes([1, 1]) + put_varint(768) + nested(ZEROS.astype(np.int8)),
    "float indices": bytes([1, 1]) + put_varint(768) + nested(ZEROS.astype(np.float32)),
    "indices of another rank": bytes([1, 1]) + put_varint(768) + nested(ZEROS[None]),
    "indices beyond the chunk": bytes([1, 1]) + put_varint(768) + nested(np.zeros((9, 8), np.uint8)),
    "no exceptions announced": bytes([1, 0x80]) + put_varint(0) + nested(ZEROS),
    "too many exceptions": bytes([1, 0x80]) + put_varint(256) + bytes(600),
    "exceptions beyond the end": bytes([1, 0x80]) + put_varint(40) + bytes(20),
    "a plane beyond the end": bytes([1, 0x80, 1, 7, 0]) + put_varint(1 << 31) + nested(ZEROS),
    "a plane without bytes": bytes([1, 0x80, 1, 7, 0, 0]) + nested(ZEROS),
    "an exception without a value": bytes([1, 0x80, 1, 7, 0])
    + put_varint(len(nested(ZEROS + 2)))
    + nested(ZEROS + 2)
    + nested(ZEROS.astype(np.uint16)),
    "a plane of another shape": bytes([1, 0x80, 1, 7, 0])
    + put_varint(len(nested(ZEROS[:5])))
    + nested(ZEROS[:5])
    + nested(ZEROS.astype(np.uint16)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_frame_with(name: str) -> None:
    codec = LearnedCodec("max_error", 2, 0, 65535)
    with pytest.raises(TileCorrupt):
        codec.decode_tile(HOSTILE[name], (8, 8), np.uint16)


@pytest.mark.parametrize("step", [0.0, -1.0, math.nan, math.inf])
def test_a_float_step_that_is_none(step: float) -> None:
    data = bytes([1, 1]) + np.array([step], "<f4").tobytes() + b"\0" + nested(ZEROS)
    with pytest.raises(TileCorrupt):
        LearnedCodec("max_error", 2, 0, 1).decode_tile(data, (8, 8), np.float32)


def test_every_mode_is_known_by_a_number_of_seven_bits() -> None:
    assert all(0 <= number < 0x80 for number in MODES)


def test_a_chunk_larger_than_the_tile_is_padded_with_zeros() -> None:
    words = picture((20, 24), "uint16")
    codec = codec_of(words, "max_error", 2)
    back = codec.decode_tile(codec.encode_tile(words), (32, 32), words.dtype)
    assert np.array_equal(back[:20, :24], codec.decode_tile(codec.encode_tile(words), (20, 24), words.dtype))
    assert back[20:].max() == back[:, 24:].max() == 0


def test_other_programs_read_it_through_zarr(tmp_path: object) -> None:
    import zarr

    words = picture((64, 96), "uint16")
    codec = codec_of(words, "max_error", 2)
    array = zarr.create_array(
        f"{tmp_path}/a.zarr",
        shape=words.shape,
        chunks=(32, 32),
        dtype="uint16",
        serializer=codec,
        compressors=None,
    )
    array[:] = words
    back = np.asarray(zarr.open_array(f"{tmp_path}/a.zarr")[:])
    assert 0 < np.abs(back.astype(int) - words.astype(int)).max() <= 2
