"""DICOM in and out: every sample format, every file that pydicom ships, and the same bytes again."""

import hashlib
import itertools
import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dicom_builder import (
    DEFLATED,
    EXPLICIT,
    EXPLICIT_BIG,
    IMPLICIT,
    Builder,
    encapsulate,
    image,
    native_bytes,
    part10,
)
from tilevault.archive.formats import SourceFile, SourceImage, dicom, dicom_reader
from tilevault.archive.image import Window, values
from tilevault.codecs import FrameCodec
from tilevault.codecs.errors import InputRejected, InvalidRequest, SourceChanged, VerifyAfterEncodeFailed

PYDICOM_FILES = Path(pydicom.__file__).parent / "data" / "test_files"


def scan(path: Path, content: bytes, name: str = "a.dcm") -> SourceFile:
    file = path / name
    file.write_bytes(content)
    [found] = dicom.scan(file, name)
    return found


def assemble(*files: SourceFile) -> list[SourceImage]:
    images, rejected = dicom.assemble(files)
    assert rejected == []
    return images


def whole(image: SourceImage) -> NDArray[Any]:
    """All words of a native image, or all decoded frames of a coded one."""
    assert image.info is not None
    info = image.info
    with dicom.open_reader(image) as reader:
        if image.codec is None:
            return reader.read(Window((0,) * len(info.shape), info.shape))
        codec = FrameCodec(image.codec, **image.layout["codec"])
        words = np.empty(info.shape, info.dtype)
        chunk = image.layout["chunk"]
        for index in np.ndindex(*(n // k for n, k in zip(info.shape, chunk, strict=True))):
            box = tuple(slice(i * k, i * k + k) for i, k in zip(index, chunk, strict=True))
            words[box] = codec.decode_tile(reader.read_stream(index), tuple(chunk), info.dtype)
        return words


class Frames:
    """What an archive would give for one file: words out of the whole array, streams out of the reader."""

    def __init__(self, image: SourceImage, file: int) -> None:
        self.image, self.file = image, file
        self.array = whole(image) if image.codec is None and image.info is not None else None

    def words(self, frame: int, rows: slice) -> NDArray[Any]:
        assert self.array is not None
        at = dicom.frame_position(self.image, self.file, frame)
        return self.array[(*at, ..., rows, slice(None))]

    def stream(self, frame: int) -> bytes:
        assert self.image.info is not None
        at = iter(dicom.frame_position(self.image, self.file, frame))
        axes = self.image.info.axes
        index = [0 if name in ("c", "y", "x") else next(at) for name in axes]
        with dicom.open_reader(self.image) as reader:
            return reader.read_stream(
                tuple(i // n for i, n in zip(index, self.image.layout["chunk"], strict=True))
            )


def rebuilt(image: SourceImage, file: int = 0) -> bytes:
    with dicom.open_reader(image) as reader:
        return b"".join(dicom.rebuild(image.sources[file], reader.verbatim(file), Frames(image, file)))


def prove(images: list[SourceImage]) -> None:
    """Every file comes out as it went in, and its record survives JSON."""
    for found in images:
        json.dumps([found.layout, found.search], allow_nan=False)
        again = replace(found, layout=json.loads(json.dumps(found.layout)))
        for i, file in enumerate(found.sources):
            record = json.loads(json.dumps(file.record, allow_nan=False))
            sources = (*found.sources[:i], replace(file, record=record), *found.sources[i + 1 :])
            digest = hashlib.sha256(rebuilt(replace(again, sources=sources), i)).hexdigest()
            assert digest == file.sha256, file.name


# --- every sample format ---------------------------------------------------------------------------


def formats() -> Iterator[tuple[str, int, int, int, int, int, int]]:
    """(syntax, bits allocated, signed, samples, planar, frames, odd columns)."""
    for syntax, bits, signed in itertools.product(
        (IMPLICIT, EXPLICIT, EXPLICIT_BIG, DEFLATED), (1, 8, 16, 24, 32, 64), (0, 1)
    ):
        for samples, planar, frames in ((1, 0, 1), (1, 0, 3), (3, 0, 1), (3, 1, 2), (4, 1, 1)):
            if not (bits == 1 and (signed or samples > 1)):
                yield syntax, bits, signed, samples, planar, frames, 7 if bits != 16 else 6


@pytest.mark.parametrize(
    ("syntax", "bits", "signed", "samples", "planar", "frames", "columns"),
    list(formats()),
    ids=lambda v: str(v).rpartition(".")[2],
)
def test_every_sample_format_round_trips(
    tmp_path: Path, syntax: str, bits: int, signed: int, samples: int, planar: int, frames: int, columns: int
) -> None:
    rng = np.random.default_rng(bits + 100 * frames)
    dtype = np.dtype(f"{'i' if signed else 'u'}{next(n for n in (1, 2, 4, 8) if 8 * n >= bits)}")
    octets = rng.integers(0, 256, (frames, samples, 5, columns, dtype.itemsize), np.uint8)
    octets[..., -(-bits // 8) :] = 0
    if bits == 1:
        octets &= 1
    words = octets.view(dtype.newbyteorder("<"))[..., 0].astype(dtype)
    for vr in ("OB", "OW"):
        swapped = syntax == EXPLICIT_BIG and vr == "OW" and bits <= 8
        pixels = native_bytes(
            words, {"bits_allocated": bits, "planar": planar}, syntax == EXPLICIT_BIG and bits > 8, swapped
        )
        content = image(
            pixels,
            syntax,
            vr=vr,
            Rows=5,
            Columns=columns,
            SamplesPerPixel=samples,
            PlanarConfiguration=planar if samples > 1 else None,
            PhotometricInterpretation="RGB" if samples == 3 else "MONOCHROME2",
            NumberOfFrames=str(frames),
            BitsAllocated=bits,
            BitsStored=bits,
            HighBit=bits - 1,
            PixelRepresentation=signed,
        )
        file = scan(tmp_path, content)
        images = assemble(file)
        [found] = images
        assert found.info is not None
        assert found.info.dtype == dtype
        got = whole(found).reshape(words.shape if frames > 1 else words[0].shape)
        np.testing.assert_array_equal(got, words if frames > 1 else words[0])
        prove(images)


@pytest.mark.parametrize(
    ("allocated", "stored", "high"),
    [(16, 13, 12), (16, 13, 14), (16, 12, 15), (16, 12, 11), (8, 7, 6), (32, 20, 25)],
)
@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("syntax", [EXPLICIT, EXPLICIT_BIG])
def test_bits_outside_the_sample_are_kept(
    tmp_path: Path, allocated: int, stored: int, high: int, signed: int, syntax: str
) -> None:
    dtype = np.dtype(f"{'i' if signed else 'u'}{allocated // 8}")
    pixels = np.random.default_rng(stored).bytes(4 * 6 * dtype.itemsize)
    values_of = {
        "BitsAllocated": allocated,
        "BitsStored": stored,
        "HighBit": high,
        "PixelRepresentation": signed,
    }
    [found] = assemble(
        scan(tmp_path, image(pixels, syntax, vr="OB" if allocated == 8 else "OW", **values_of))
    )
    assert found.info is not None
    words = whole(found)
    raw = np.frombuffer(pixels, dtype.newbyteorder(">" if syntax == EXPLICIT_BIG else "<"))
    np.testing.assert_array_equal(words.reshape(-1), raw.astype(dtype))
    expected = []
    for word in words.reshape(-1).tolist():
        sample = (word & ((1 << allocated) - 1)) >> (high + 1 - stored) & ((1 << stored) - 1)
        expected.append(sample - (1 << stored) if signed and sample >> (stored - 1) else sample)
    assert values(words, found.info).reshape(-1).tolist() == expected
    prove([found])


@pytest.mark.parametrize(("tag", "bits"), [(0x7FE00008, 32), (0x7FE00009, 64)])
@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, EXPLICIT_BIG, DEFLATED])
def test_float_pixels_keep_every_bit(tmp_path: Path, tag: int, bits: int, syntax: str) -> None:
    order = ">" if syntax == EXPLICIT_BIG else "<"
    octets = np.random.default_rng(1).bytes(24 * bits // 8 - 2 * bits // 8)
    pixels = octets + np.array([-0.0, np.nan], f"{order}f{bits // 8}").tobytes()
    content = image(
        pixels,
        syntax,
        tag=tag,
        vr="OF" if bits == 32 else "OD",
        BitsAllocated=bits,
        BitsStored=None,
        HighBit=None,
        PixelRepresentation=None,
    )
    [found] = assemble(scan(tmp_path, content))
    words = whole(found)
    assert words.dtype == np.dtype(f"f{bits // 8}")
    assert words.astype(words.dtype.newbyteorder(order)).tobytes() == pixels
    prove([found])


@pytest.mark.parametrize("syntax", [EXPLICIT, DEFLATED])
def test_half_chroma_has_two_planes(tmp_path: Path, syntax: str) -> None:
    pixels = bytes(range(2 * 4 * 2 * 2))
    shape = {
        "Rows": 2,
        "Columns": 4,
        "SamplesPerPixel": 3,
        "PlanarConfiguration": 0,
        "PhotometricInterpretation": "YBR_FULL_422",
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "NumberOfFrames": "2",
    }
    [found] = assemble(scan(tmp_path, image(pixels, syntax, vr="OB", **shape)))
    assert found.info is not None
    assert found.info.axes == ("frame", "c", "y", "x")
    words = whole(found)
    # Two pixels are coded Y Y Cb Cr.
    assert words[0, 0].tolist() == [[0, 1, 4, 5], [8, 9, 12, 13]]
    assert words[0, 1].tolist() == [[2, 3, 6, 7], [10, 11, 14, 15]]
    prove([found])


def test_a_window_reads_only_its_rows_and_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = np.arange(5 * 3 * 8 * 6, dtype=np.uint16).reshape(5, 3, 8, 6)
    for planar in (0, 1):
        pixels = native_bytes(words, {"bits_allocated": 16, "planar": planar}, False, False)
        content = image(
            pixels,
            Rows=8,
            Columns=6,
            NumberOfFrames="5",
            SamplesPerPixel=3,
            PlanarConfiguration=planar,
            PhotometricInterpretation="RGB",
        )
        [found] = assemble(scan(tmp_path, content))
        read: list[int] = []
        original = dicom_reader.read_at

        def counted(
            descriptor: int, at: int, length: int, read: list[int] = read, original: Any = original
        ) -> bytes:
            read.append(length)
            found: bytes = original(descriptor, at, length)
            return found

        monkeypatch.setattr(dicom_reader, "read_at", counted)
        with dicom.open_reader(found) as reader:
            got = reader.read(Window((1, 1, 2, 3), (3, 3, 5, 6)))
        monkeypatch.undo()
        np.testing.assert_array_equal(got, words[1:3, 1:3, 2:5, 3:6])
        assert sum(read) == 2 * 3 * 3 * 6 * 2


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_window_of_a_bit_image(tmp_path: Path, data: st.DataObject) -> None:
    rows, columns, frames = (data.draw(st.integers(1, 9)) for _ in range(3))
    big = data.draw(st.booleans())
    words = np.random.default_rng(rows).integers(0, 2, (frames, 1, rows, columns))
    pixels = native_bytes(words, {"bits_allocated": 1, "planar": 0}, False, big)
    content = image(
        pixels,
        EXPLICIT_BIG if big else EXPLICIT,
        Rows=rows,
        Columns=columns,
        NumberOfFrames=str(frames),
        BitsAllocated=1,
        BitsStored=1,
        HighBit=0,
    )
    [found] = assemble(scan(tmp_path, content))
    assert found.info is not None
    box = [sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in found.info.shape]
    window = Window(tuple(a for a, _ in box), tuple(b for _, b in box))
    with dicom.open_reader(found) as reader:
        np.testing.assert_array_equal(
            reader.read(window), words[:, 0].reshape(found.info.shape)[window.slices]
        )
    prove([found])


def test_planes_larger_than_a_piece_are_packed_in_bands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tilevault.codecs.words.PIECE_BYTES", 40)
    words = np.arange(2 * 3 * 7 * 4, dtype=np.uint8).reshape(2, 3, 7, 4)
    for planar in (0, 1):
        pixels = native_bytes(words, {"bits_allocated": 8, "planar": planar}, False, False)
        content = image(
            pixels,
            vr="OB",
            Rows=7,
            Columns=4,
            NumberOfFrames="2",
            SamplesPerPixel=3,
            PlanarConfiguration=planar,
            PhotometricInterpretation="RGB",
            BitsAllocated=8,
            BitsStored=8,
            HighBit=7,
        )
        prove(assemble(scan(tmp_path, content)))


# --- every file at hand ----------------------------------------------------------------------------


def sound_files(root: Path) -> list[SourceFile]:
    """Scan every file below ``root``: a record, or `InputRejected`, nothing else."""
    found = []
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        recognized = dicom.recognizes(path.read_bytes()[:4096])
        try:
            [file] = dicom.scan(path, str(path.relative_to(root)))
        except InputRejected:
            continue
        assert recognized, path
        assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        found.append(file)
    return found


@pytest.fixture(scope="module")
def pydicom_files() -> list[SourceFile]:
    return sound_files(PYDICOM_FILES)


def test_every_file_that_pydicom_ships_comes_out_again(pydicom_files: list[SourceFile]) -> None:
    assert len(pydicom_files) == 160
    images, rejected = dicom.assemble(pydicom_files)
    prove(images)
    # Many of them are the same instance in several encodings: on their own they are images as well.
    assert {type(error).__name__ for _, error in rejected} == {"DuplicateConflict"}
    for file, _ in rejected:
        prove(assemble(file))


@pytest.mark.parametrize("root", ["pydicom", pytest.param("data", marks=pytest.mark.data)])
def test_words_are_those_that_pydicom_reads(root: str, request: pytest.FixtureRequest) -> None:
    folder = PYDICOM_FILES if root == "pydicom" else request.getfixturevalue("data_dir") / "medical"
    compared = 0
    for file in sound_files(folder):
        if file.record["pixels"] is None:
            continue
        [found] = assemble(file)
        if found.codec not in (None, DEFLATED, "1.2.840.10008.1.2.5"):
            continue
        assert found.info is not None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = pydicom.pixels.pixel_array(pydicom.dcmread(file.path), raw=True)
        got = values(whole(found), found.info)
        if "c" in found.info.axes:
            got = np.moveaxis(got, found.info.axes.index("c"), -1)
        if got.shape[-1] == 2:
            blue, red = np.repeat(got[..., 0::2, 1], 2, -1), np.repeat(got[..., 1::2, 1], 2, -1)
            got = np.stack([got[..., 0], blue, red], -1)
        np.testing.assert_array_equal(got, expected, file.name)
        compared += 1
    assert compared > (60 if root == "pydicom" else 280)


@pytest.mark.data
def test_every_real_image_comes_out_again(data_dir: Path) -> None:
    files = sound_files(data_dir / "medical")
    assert len(files) == 328
    images, rejected = dicom.assemble(files)
    assert len(rejected) == 13
    prove(images)


def test_attributes_are_those_that_pydicom_reads(pydicom_files: list[SourceFile]) -> None:
    keywords = (
        "PatientID",
        "Modality",
        "StudyDate",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "SOPInstanceUID",
    )
    for file in pydicom_files:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data_set = pydicom.dcmread(file.path, force=True, stop_before_pixels=True)
            for keyword in keywords:
                expected = str(data_set.get(keyword) or "").strip()
                assert file.record["search"].get(keyword, "") == expected, (file.name, keyword)
            assert file.record["search"].get("PatientName", "") == str(data_set.get("PatientName") or ""), (
                file.name
            )
            pixels = file.record["pixels"]
            if pixels:
                assert (pixels["rows"], pixels["columns"]) == (data_set.Rows, data_set.Columns)
                assert pixels["frames"] == int(data_set.get("NumberOfFrames") or 1)


def test_names_in_every_character_set_are_decoded_as_pydicom_does() -> None:
    folder = PYDICOM_FILES.parent / "charset_files"
    compared = 0
    for path in sorted(folder.glob("*.dcm")):
        [file] = dicom.scan(path, path.name)
        expected = str(pydicom.dcmread(path).get("PatientName") or "")
        assert file.record["search"].get("PatientName", "").rstrip("=") == expected, path.name
        compared += 1
    assert compared > 10


# --- one thing at a time ---------------------------------------------------------------------------


def test_search_and_geometry_of_a_file(tmp_path: Path) -> None:
    content = image(
        bytes(48),
        ImagePositionPatient="1\\2\\3.5",
        ImageOrientationPatient="1\\0\\0\\0\\1\\0",
        PixelSpacing="0.5\\0.25",
        SliceThickness="2",
        RescaleSlope="2",
        RescaleIntercept="-1024",
        WindowCenter="40\\50",
        WindowWidth="400\\500",
    )
    [found] = assemble(scan(tmp_path, content))
    assert found.info is not None
    attributes = found.info.attributes
    assert found.search["PatientID"] == "ID1"
    assert found.search["SOPInstanceUID"] == "1.2.3.4"
    assert attributes["spacing"] == {"y": 0.5, "x": 0.25}
    assert attributes["positions"] == [[1, 2, 3.5]]
    assert attributes["rescale"] == {"slope": 2, "intercept": -1024}
    assert attributes["window"] == {"center": 40, "width": 400}
    assert attributes["affine"] == [[0.25, 0, 0, 1], [0, 0.5, 0, 2], [0, 0, 2, 3.5], [0, 0, 0, 1]]


@pytest.mark.parametrize("change", ["append", "shorten", "overwrite", "replace", "remove"])
def test_a_source_that_changed_is_not_read(tmp_path: Path, change: str) -> None:
    content = image(bytes(48))
    [found] = assemble(scan(tmp_path, content))
    path = tmp_path / "a.dcm"
    if change == "append":
        path.write_bytes(content + b"\0\0")
    elif change == "shorten":
        path.write_bytes(content[:-1])
    elif change == "overwrite":
        with path.open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"x")
    elif change == "replace":
        (tmp_path / "b").write_bytes(content)
        (tmp_path / "b").replace(path)
    else:
        path.unlink()
    with dicom.open_reader(found) as reader:
        with pytest.raises(SourceChanged):
            reader.read(Window((0, 0), (4, 6)))
        with pytest.raises(SourceChanged):
            list(reader.verbatim(0))


def test_words_that_do_not_fit_the_file_are_not_packed(tmp_path: Path) -> None:
    [found] = assemble(scan(tmp_path, image(bytes(48))))

    class Wrong:
        def words(self, frame: int, rows: slice) -> NDArray[Any]:
            return np.zeros((4, 6), np.int32)

        def stream(self, frame: int) -> bytes:
            raise AssertionError

    with dicom.open_reader(found) as reader, pytest.raises(VerifyAfterEncodeFailed):
        list(dicom.rebuild(found.sources[0], reader.verbatim(0), Wrong()))


def test_an_unpack_that_loses_a_bit_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tilevault.codecs.words import PixelLayout

    [found] = assemble(scan(tmp_path, image(b"\1" * 48)))
    original = PixelLayout.unpack

    def broken(self: PixelLayout, raw: bytes, count: int, skip: int = 0) -> NDArray[Any]:
        words = original(self, raw, count, skip).copy()
        words[-1] ^= 1
        return words

    monkeypatch.setattr(PixelLayout, "unpack", broken)
    with dicom.open_reader(found) as reader, pytest.raises(VerifyAfterEncodeFailed):
        reader.read(Window((0, 0), (4, 6)))


def test_surplus_and_pad_bytes_are_kept(tmp_path: Path) -> None:
    content = image(bytes(range(48)) + b"surplus!", after=Builder().element(0xFFFCFFFC, "OB", b"\0" * 20))
    file = scan(tmp_path, content)
    assert any("beyond the last frame" in warning for warning in file.warnings)
    prove(assemble(file))
    prove(assemble(scan(tmp_path, content + bytes(512))))


def test_files_without_preamble_or_meta(tmp_path: Path) -> None:
    for syntax in (IMPLICIT, EXPLICIT, EXPLICIT_BIG):
        content = image(bytes(48), syntax)
        bare = content[
            content.index(
                Builder(syntax != IMPLICIT, syntax == EXPLICIT_BIG).element(
                    0x00080016, "UI", "1.2.840.10008.5.1.4.1.1.7"
                )
            ) :
        ]
        for variant in (content, content[132:], bare):
            assert dicom.recognizes(variant[:4096])
            file = scan(tmp_path, variant)
            assert file.record["syntax"] == syntax
            prove(assemble(file))


@pytest.mark.parametrize(
    "head",
    [
        b"Plain text that goes on for a while, line after line.\n" * 10,
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(200),
        b"PK\3\4" + bytes(200),
        b"MZ\x90\0\3\0\0\0\4\0\0\0\xff\xff" + bytes(200),
        b"\x7fELF\2\1\1" + bytes(200),
        b"II*\0\x08\0\0\0" + bytes(200),
        b"MM\0*\0\0\0\x08" + bytes(200),
        b"%PDF-1.4\n" + bytes(200),
        bytes(4096),
        b"",
        b"\x08\0",
        b"\x08\0\5\0",
        b"\x08\0\x08\0\xff\xff\xff\x7f" + bytes(100),
        b"\2\0\0\0" + b"\xff" * 100,
    ],
)
def test_other_files_are_not_taken_for_dicom(tmp_path: Path, head: bytes) -> None:
    assert not dicom.recognizes(head[:4096])
    (tmp_path / "x").write_bytes(head)
    with pytest.raises(InputRejected) as caught:
        dicom.scan(tmp_path / "x", "x")
    assert caught.value.code == "NotRecognized"


@given(st.binary(max_size=300))
def test_random_bytes_are_not_taken_for_dicom(head: bytes) -> None:
    assert (
        not dicom.recognizes(head) or head[:2] in (b"\x08\0", b"\0\x08", b"\2\0", b"\0\2") or b"DICM" in head
    )


def test_files_that_are_no_files(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "fifo")
    for name in ("fifo", "nothing", "."):
        with pytest.raises(InputRejected):
            dicom.scan(tmp_path / name, name)


def test_objects_without_pixels_are_kept_whole(tmp_path: Path) -> None:
    build = Builder()
    report = build.named(SOPInstanceUID="1.9", SeriesInstanceUID="1.8", Modality="SR") + build.sequence(
        0x0040A730, [build.open_item(build.element(0x0040A040, "CS", "TEXT"))]
    )
    pdf = build.named(SOPInstanceUID="1.7", SeriesInstanceUID="1.8", Modality="DOC") + build.element(
        0x00420011, "OB", b"%PDF" * 1000
    )
    files = [scan(tmp_path, part10(data), f"{i}.dcm") for i, data in enumerate((report, pdf))]
    [found] = assemble(*files)
    assert found.info is None
    assert found.codec is None
    assert all(file.record["object"] == "no pixel data" for file in found.sources)
    prove([found])
    with dicom.open_reader(found) as reader, pytest.raises(InvalidRequest):
        reader.read(Window((0, 0), (1, 1)))


@pytest.mark.parametrize(
    ("syntax", "reason"),
    [
        ("1.2.840.10008.1.2.4.102", "not decoded"),
        ("1.2.840.10008.1.2.4.107", "not decoded"),
        ("1.2.3.4.5", "not decoded"),
    ],
)
def test_pixels_that_are_not_decoded_keep_their_file(tmp_path: Path, syntax: str, reason: str) -> None:
    build = Builder()
    data = build.named(SOPInstanceUID="1.9", SeriesInstanceUID="1.8", Rows=4, Columns=4)
    data += build.element(0x7FE00010, "OB", encapsulate([[b"film" * 10, b"more"]]), 0xFFFFFFFF)
    file = scan(tmp_path, part10(data, syntax))
    assert reason in file.record["object"]
    assert any(reason in warning for warning in file.warnings)
    prove(assemble(file))


def test_packed_twelve_bits_keep_their_file(tmp_path: Path) -> None:
    file = scan(tmp_path, image(bytes(36), BitsAllocated=12, BitsStored=12, HighBit=11))
    assert file.record["pixels"] is None
    prove(assemble(file))


def test_vr_and_syntax_that_disagree(tmp_path: Path) -> None:
    """Implicit VR in a file that declares explicit, and the reverse: read as it is, with a warning."""
    for inner, outer in ((IMPLICIT, EXPLICIT), (EXPLICIT, IMPLICIT)):
        meta = part10(b"", outer)
        content = meta + image(bytes(range(48)), inner)[len(part10(b"", inner)) :]
        file = scan(tmp_path, content)
        assert any("unlike its transfer syntax" in warning for warning in file.warnings)
        [found] = assemble(file)
        assert whole(found).tobytes() == bytes(range(48))
        prove([found])
