"""Coded frames: every syntax decodes to the pixels that went in, and nothing but `TileCorrupt` comes out."""

import struct
import time
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tilevault.archive.formats import SourceImage, dicom
from tilevault.archive.image import values
from tilevault.codecs import FrameCodec
from tilevault.codecs.errors import InvalidRequest, ManifestCorrupt, TileCorrupt, UnsupportedSyntax
from tilevault.codecs.frame_header import decodes, stream_header

PYDICOM_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
UID = "1.2.840.10008.1.2."
RLE, DEFLATED, DEFLATED_FRAME = UID + "5", UID + "1.99", UID + "8.1"
JPEG, JPEG_12, JPEG_LOSSLESS, JPEG_LS = UID + "4.50", UID + "4.51", UID + "4.70", UID + "4.80"
JPEG_2000, HTJ2K, JPEG_XL = UID + "4.90", UID + "4.201", UID + "4.110"


def rle(words: NDArray[Any]) -> bytes:
    """PS3.5 annex G, from (c, y, x): PackBits of each byte plane, most significant first."""
    segments = []
    for plane in words.reshape(-1, *words.shape[-2:]):
        octets = plane.astype(words.dtype.newbyteorder(">")).view(np.uint8).reshape(-1, words.dtype.itemsize)
        for i in range(words.dtype.itemsize):
            segment = imagecodecs.packbits_encode(octets[:, i].tobytes())
            segments.append(segment + b"\0" * (len(segment) % 2))
    offsets, at = [], 64
    for segment in segments:
        offsets.append(at)
        at += len(segment)
    return struct.pack("<16I", len(segments), *offsets, *[0] * (15 - len(offsets))) + b"".join(segments)


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def smooth(shape: tuple[int, ...], dtype: str, bits: int) -> NDArray[Any]:
    rng = np.random.default_rng(bits)
    ramp = np.add.outer(np.arange(shape[-2]), 3 * np.arange(shape[-1])) * (1 << bits) // 400
    words = (ramp + rng.integers(0, 5, shape)) % (1 << bits)
    return words.astype(dtype) if dtype[0] == "u" else (words - (1 << (bits - 1))).astype(dtype)


def interleaved(words: NDArray[Any]) -> NDArray[Any]:
    return words if words.ndim == 2 else np.ascontiguousarray(np.moveaxis(words, 0, -1))


def encode(syntax: str, words: NDArray[Any]) -> bytes:
    unsigned = words.view(words.dtype.str.replace("i", "u"))
    if syntax == RLE:
        return rle(words)
    if syntax == DEFLATED_FRAME:
        return deflated(interleaved(words).tobytes())
    if syntax == JPEG_LOSSLESS:
        return bytes(imagecodecs.jpeg8_encode(interleaved(unsigned), lossless=True, level=1, **rgb(words)))
    if syntax == JPEG_LS:
        return bytes(imagecodecs.jpegls_encode(interleaved(unsigned)))
    if syntax == JPEG_2000:
        return bytes(
            imagecodecs.jpeg2k_encode(interleaved(words), level=0, reversible=True, codecformat="J2K")
        )
    if syntax == HTJ2K:
        return bytes(imagecodecs.htj2k_encode(interleaved(words), reversible=True))
    assert syntax == JPEG_XL
    return bytes(imagecodecs.jpegxl_encode(interleaved(unsigned), lossless=True))


def rgb(words: NDArray[Any]) -> dict[str, str]:
    return {"colorspace": "RGB", "outcolorspace": "RGB"} if words.ndim == 3 else {}


@pytest.mark.parametrize("syntax", [RLE, DEFLATED_FRAME, JPEG_LOSSLESS, JPEG_LS, JPEG_2000, HTJ2K, JPEG_XL])
@pytest.mark.parametrize(("dtype", "bits"), [("u1", 8), ("u2", 12), ("u2", 16), ("i2", 16)])
@pytest.mark.parametrize("shape", [(33, 41), (3, 20, 17), (1, 1)], ids=str)
def test_lossless_syntaxes_give_back_what_went_in(
    syntax: str, dtype: str, bits: int, shape: tuple[int, ...]
) -> None:
    words = smooth(shape, dtype, bits)
    data = encode(syntax, words)
    codec = FrameCodec(syntax, photometric="RGB" if len(shape) == 3 else "MONOCHROME2")
    for wanted in (shape, (1, *shape), (1, *shape[:-2], 1, *shape[-2:])):
        got = codec.decode_tile(data, wanted, words.dtype)
        assert got.shape == wanted
        assert got.dtype == words.dtype
        np.testing.assert_array_equal(got.reshape(shape), words)
    assert codec.segment_ends(data) == (len(data),)
    header = stream_header(syntax, data)
    if header is not None:
        assert (header.rows, header.columns) == shape[-2:]


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i4", "f4"])
def test_rle_of_every_width(dtype: str) -> None:
    octets = np.random.default_rng(0).integers(0, 3, (2, 9, 5, np.dtype(dtype).itemsize), np.uint8)
    words = octets.view(f"<{dtype}")[..., 0].astype(dtype)
    got = FrameCodec(RLE).decode_tile(rle(words), (2, 9, 5), dtype)
    assert got.tobytes() == words.tobytes()


@pytest.mark.parametrize("planar", [0, 1])
def test_a_deflated_data_set_of_several_frames(planar: int) -> None:
    words = smooth((4, 3, 6, 8), "u2", 16)
    stored = words if planar else np.moveaxis(words, 1, -1)
    data_set = b"header" * 7 + stored.astype("<u2").tobytes() + b"trailer"
    payload = struct.pack("<QQ", 42, words.nbytes) + deflated(data_set) + b"\0"
    codec = FrameCodec(DEFLATED, photometric="RGB", samples=3, bits_allocated=16, planar=planar)
    np.testing.assert_array_equal(codec.decode_tile(payload, words.shape, np.uint16), words)
    for broken in (payload[:10], payload[:40], struct.pack("<QQ", 43 + 100, words.nbytes) + payload[16:]):
        with pytest.raises(TileCorrupt):
            codec.decode_tile(broken, words.shape, np.uint16)


def test_deflated_bits() -> None:
    words = np.random.default_rng(1).integers(0, 2, (5, 7)).astype(np.uint8)
    data = deflated(np.packbits(words, bitorder="little").tobytes())
    codec = FrameCodec(DEFLATED_FRAME, bits_allocated=1)
    np.testing.assert_array_equal(codec.decode_tile(data, (5, 7), np.uint8), words)


def test_an_inflated_bomb_stops_at_the_frame() -> None:
    bomb = deflated(bytes(1 << 28))
    got = FrameCodec(DEFLATED_FRAME).decode_tile(bomb, (4, 4), np.uint8)
    assert not got.any()
    short = FrameCodec(DEFLATED)
    with pytest.raises(TileCorrupt):
        short.decode_tile(struct.pack("<QQ", 1 << 62, 16) + bomb, (4, 4), np.uint8)


# --- colour and sign of lossy and odd streams ------------------------------------------------------


def first_frame(path: Path) -> tuple[SourceImage, NDArray[Any]]:
    """The image of a file and the words of its first frame."""
    [file] = dicom.scan(path, path.name)
    [found], _ = dicom.assemble([file])
    assert found.info is not None
    assert found.codec is not None
    with dicom.open_reader(found) as reader:
        stream = reader.read_stream((0,) * len(found.info.shape))
    codec = FrameCodec(found.codec, **found.layout["codec"])
    return found, codec.decode_tile(stream, tuple(found.layout["chunk"]), found.info.dtype)


def test_jpeg_without_markers_follows_the_photometric_interpretation() -> None:
    with pydicom.dcmread(PYDICOM_FILES / "SC_rgb_jpeg_dcmd.dcm") as decoded:
        expected = np.moveaxis(decoded.pixel_array, -1, 0)
    for name in ("SC_rgb_jpeg.dcm", "SC_jpeg_no_color_transform.dcm"):
        found, words = first_frame(PYDICOM_FILES / name)
        np.testing.assert_array_equal(words, expected)
        assert found.info is not None
        assert found.info.attributes["photometric"] == "RGB"


@pytest.mark.parametrize(
    "name",
    [
        "SC_rgb_dcmtk_+eb+cr.dcm",
        "SC_rgb_dcmtk_+eb+cy+n1.dcm",
        "SC_rgb_dcmtk_+eb+cy+np.dcm",
        "SC_rgb_dcmtk_+eb+cy+s4.dcm",
        "SC_rgb_jpeg_dcmtk.dcm",
        "SC_rgb_jpeg_lossy_gdcm.dcm",
        "SC_rgb_gdcm_KY.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "SC_rgb_rle.dcm",
    ],
)
def test_the_same_colours_in_every_syntax(name: str) -> None:
    """All of these show the bars of one picture: rows 5, 15, ... are red, green, blue, black, white ..."""
    with pydicom.dcmread(PYDICOM_FILES / "SC_rgb_rle.dcm") as reference:
        expected = np.moveaxis(reference.pixel_array, -1, 0).astype(int)
    found, words = first_frame(PYDICOM_FILES / name)
    assert found.info is not None
    assert found.info.attributes["photometric"] == "RGB"
    assert np.median(np.abs(words.astype(int) - expected)) <= 2
    assert np.abs(words.astype(int) - expected)[:, 5::10].mean() < 3


def test_a_signed_image_in_an_unsigned_stream() -> None:
    """Values as published with the file in pydicom's own tests."""
    found, words = first_frame(PYDICOM_FILES / "J2K_pixelrep_mismatch.dcm")
    assert found.info is not None
    shown = values(words, found.info)
    assert shown.dtype == np.int16
    assert shown[0, 0] == -2000
    assert shown[47:57, 279].tolist() == [621, 412, 138, -193, -520, -767, -907, -966, -988, -995]
    assert shown[328:338, 106].tolist() == [-377, -121, 141, 383, 633, 910, 1198, 1455, 1638, 1732]


def test_one_picture_in_five_syntaxes() -> None:
    pictures = {}
    for name in ("MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless"):
        pictures[name] = first_frame(PYDICOM_FILES / f"{name}.dcm")[1]
    with pydicom.dcmread(PYDICOM_FILES / "MR_small.dcm") as native:
        for words in pictures.values():
            np.testing.assert_array_equal(words, native.pixel_array)


@pytest.mark.data
@pytest.mark.parametrize(
    "names",
    [
        ("RLE/MR1_RLE", "J2KR/MR1_J2KR"),
        ("RLE/MR2_RLE", "J2KR/MR2_J2KR"),
        ("RLE/MR3_RLE", "J2KR/MR3_J2KR"),
        ("RLE/MR4_RLE", "J2KR/MR4_J2KR"),
    ],
    ids=lambda names: names[0],
)
def test_the_same_image_of_the_wg04_family(data_dir: Path, names: tuple[str, str]) -> None:
    folder = data_dir / "medical" / "robyoung__dicom-test-files" / "data" / "WG04"
    first, second = (first_frame(folder / name)[1] for name in names)
    np.testing.assert_array_equal(first, second)


@pytest.mark.data
def test_native_twins_of_coded_files(data_dir: Path) -> None:
    folder = data_dir / "medical" / "pydicom__pydicom-data" / "data_store" / "data"
    with pydicom.dcmread(folder / "emri_small.dcm") as reference:
        pixels = reference.pixel_array
    for name in ("emri_small_RLE", "emri_small_jpeg_ls_lossless", "emri_small_jpeg_2k_lossless"):
        np.testing.assert_array_equal(first_frame(folder / f"{name}.dcm")[1][0], pixels[0])


# --- bad streams -----------------------------------------------------------------------------------

STREAMS = {
    syntax: encode(syntax, smooth((24, 24), "u2", 12))
    for syntax in (RLE, DEFLATED_FRAME, JPEG_LOSSLESS, JPEG_LS, JPEG_2000, HTJ2K, JPEG_XL)
} | {
    JPEG: bytes(imagecodecs.jpeg8_encode(smooth((24, 24), "u1", 8), level=80)),
}


@pytest.mark.parametrize("syntax", STREAMS)
def test_streams_of_another_shape_are_corrupt(syntax: str) -> None:
    data = STREAMS[syntax]
    dtype = np.uint8 if syntax == JPEG else np.uint16
    codec = FrameCodec(syntax)
    codec.decode_tile(data, (24, 24), dtype)
    for shape in ((24, 25), (25, 24), (3, 24, 24), (4096, 4096)):
        with pytest.raises(TileCorrupt):
            codec.decode_tile(data, shape, dtype)
    for junk in (b"", b"\0", bytes(64), b"\xff\xd8\xff\xd9", b"\xff\x4f\xff\x51", bytes(1000)):
        with pytest.raises(TileCorrupt):
            codec.decode_tile(junk, (24, 24), dtype)


@pytest.mark.parametrize("syntax", STREAMS)
def test_truncated_streams_are_corrupt_or_decode(syntax: str) -> None:
    data = STREAMS[syntax]
    dtype = np.uint8 if syntax == JPEG else np.uint16
    for cut in range(0, len(data), max(1, len(data) // 60)):
        try:
            got = FrameCodec(syntax).decode_tile(data[:cut], (24, 24), dtype)
        except TileCorrupt:
            continue
        assert got.shape == (24, 24)


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_flipped_bits_raise_our_error_or_decode(data: st.DataObject) -> None:
    syntax = data.draw(st.sampled_from(sorted(STREAMS)))
    stream = bytearray(STREAMS[syntax])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(stream) - 1))
        stream[at] ^= 1 << data.draw(st.integers(0, 7))
    dtype = np.dtype(np.uint8 if syntax == JPEG else np.uint16)
    try:
        got = FrameCodec(syntax).decode_tile(bytes(stream), (24, 24), dtype)
    except TileCorrupt:
        return
    assert (got.shape, got.dtype) == ((24, 24), dtype)


@given(st.sampled_from(sorted(STREAMS)), st.binary(max_size=200))
def test_headers_of_any_bytes(syntax: str, data: bytes) -> None:
    for prefix in (b"", b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"):
        stream_header(syntax, prefix + data)


@pytest.mark.parametrize("padding", [b"\0", b"\xff", bytes(7)])
def test_padding_after_a_stream(padding: bytes) -> None:
    for syntax, data in STREAMS.items():
        if syntax != JPEG_XL:
            dtype = np.uint8 if syntax == JPEG else np.uint16
            got = FrameCodec(syntax).decode_tile(data + padding, (24, 24), dtype)
            np.testing.assert_array_equal(got, FrameCodec(syntax).decode_tile(data, (24, 24), dtype))


def test_a_truncated_jpeg_ls_stream_is_refused_at_once() -> None:
    data = STREAMS[JPEG_LS]
    start = time.process_time()
    for cut in range(20, len(data) - 2, 3):
        with pytest.raises(TileCorrupt):
            FrameCodec(JPEG_LS).decode_tile(data[:cut], (24, 24), np.uint16)
    assert time.process_time() - start < 1


def test_a_huge_frame_is_refused_before_it_is_decoded() -> None:
    stream = bytearray(STREAMS[JPEG_2000])
    stream[8:16] = struct.pack(">II", 60000, 60000)
    with pytest.raises(TileCorrupt, match="coded as"):
        FrameCodec(JPEG_2000).decode_tile(bytes(stream), (24, 24), np.uint16)


# --- the codec as a Zarr serializer ----------------------------------------------------------------


def test_frames_are_never_made() -> None:
    with pytest.raises(UnsupportedSyntax, match="does not make"):
        FrameCodec(RLE).encode_tile(np.zeros((2, 2), np.uint8))


def test_frames_have_one_resolution() -> None:
    codec = FrameCodec(RLE)
    assert codec.resolutions == 1
    with pytest.raises(InvalidRequest):
        codec.decode_tile(STREAMS[RLE], (24, 24), np.uint16, reduce=1)


@pytest.mark.parametrize(
    "configuration",
    [
        {},
        {"transfer_syntax": "1.2.3"},
        {"transfer_syntax": 5},
        {"transfer_syntax": RLE, "samples": -1},
        {"transfer_syntax": RLE, "samples": "3"},
        {"transfer_syntax": RLE, "samples": 1 << 40},
        {"transfer_syntax": RLE, "bits_allocated": 12},
        {"transfer_syntax": RLE, "bits_allocated": 1 << 40},
        {"transfer_syntax": RLE, "planar": 7},
        {"transfer_syntax": RLE, "photometric": None},
        {"transfer_syntax": RLE, "other": 1},
    ],
    ids=str,
)
def test_configurations_that_are_none(configuration: dict[str, Any]) -> None:
    with pytest.raises(ManifestCorrupt):
        FrameCodec.from_dict({"name": "tilevault.frame", "configuration": configuration})


def test_configuration_survives_json() -> None:
    codec = FrameCodec(JPEG, photometric="YBR_FULL_422", samples=3, bits_allocated=8)
    assert FrameCodec.from_dict(codec.to_dict()) == codec


def test_syntaxes() -> None:
    for number in (50, 51, 57, 70, 80, 81, 90, 91, 110, 111, 112, 201, 202, 203):
        assert decodes(f"{UID}4.{number}")
    for syntax in (UID + "1", UID + "4.102", UID + "4.92", DEFLATED, "", "1.2.3"):
        assert not decodes(syntax)


def test_colour_transforms_of_jpeg() -> None:
    """A YCbCr stream comes out as RGB whether a marker or only the data set says that it is one."""
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[:, :8] = (250, 10, 20)
    picture[:, 8:] = (5, 20, 240)
    stream = bytes(imagecodecs.jpeg8_encode(picture, level=98, subsampling="444"))
    header = stream_header(JPEG, stream)
    assert header is not None
    assert header.jfif
    got = FrameCodec(JPEG, photometric="RGB").decode_tile(stream, (3, 16, 16), np.uint8)
    assert np.abs(np.moveaxis(got, 0, -1).astype(int) - picture).max() < 8
    # The same without its JFIF segment: only PhotometricInterpretation is left to say it.
    at = stream.index(b"\xff\xe0")
    bare = stream[:at] + stream[at + 2 + struct.unpack(">H", stream[at + 2 : at + 4])[0] :]
    got = FrameCodec(JPEG, photometric="YBR_FULL_422").decode_tile(bare, (3, 16, 16), np.uint8)
    assert np.abs(np.moveaxis(got, 0, -1).astype(int) - picture).max() < 8
    raw = FrameCodec(JPEG, photometric="RGB").decode_tile(bare, (3, 16, 16), np.uint8)
    assert np.abs(np.moveaxis(raw, 0, -1).astype(int) - picture).max() > 50
