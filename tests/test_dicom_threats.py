"""What a hostile or broken DICOM file can do: be rejected, quickly and with the right name."""

import itertools
import os
import random
import resource
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicom_builder import (
    DEFLATED,
    EXPLICIT,
    EXPLICIT_BIG,
    IMPLICIT,
    PIXEL_DATA,
    UNDEFINED,
    Builder,
    encapsulate,
    image,
    item,
    part10,
)
from tilevault.archive.formats import SourceFile, dicom, dicom_scan
from tilevault.codecs.errors import (
    InconsistentHeader,
    InputRejected,
    LimitExceeded,
    NotRecognized,
    TruncatedSource,
    UnsafeName,
)

PYDICOM_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
RLE = "1.2.840.10008.1.2.5"
JPEG_2000 = "1.2.840.10008.1.2.4.90"


def scan(path: Path, content: bytes) -> SourceFile:
    file = path / "x.dcm"
    file.write_bytes(content)
    [found] = dicom.scan(file, "x.dcm")
    return found


# D1, D2: lengths that the file does not have


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, EXPLICIT_BIG])
def test_a_file_cut_anywhere_is_truncated_or_has_no_pixels(tmp_path: Path, syntax: str) -> None:
    content = image(bytes(range(48)), syntax)
    outcomes = set()
    for cut in range(1, len(content)):
        try:
            found = scan(tmp_path, content[:cut])
        except (TruncatedSource, NotRecognized) as error:
            outcomes.add(error.code)
            shortage = error.details or {"actual": cut, "expected": cut + 1}
            outcomes.add(shortage["actual"] <= cut < shortage["expected"])
        else:
            assert found.record["pixels"] is None
            outcomes.add("object")
    assert outcomes == {"TruncatedSource", "NotRecognized", "object", True}


def test_truncated_pixels_say_how_much_is_missing(tmp_path: Path) -> None:
    content = image(bytes(48))
    with pytest.raises(TruncatedSource) as caught:
        scan(tmp_path, content[:-10])
    assert (caught.value.details["expected"], caught.value.details["actual"]) == (
        len(content),
        len(content) - 10,
    )


@pytest.mark.parametrize("vr", ["OB", "LO", "UN", "SQ", "ZZ"])
@pytest.mark.parametrize("length", [3, 0xFFFE, 0xFFFFFFFE])
def test_an_element_that_reaches_beyond_the_file(tmp_path: Path, vr: str, length: int) -> None:
    content = image(bytes(48), after=Builder().element(0x7FE10010, vr, b"", length))
    with pytest.raises(TruncatedSource):
        scan(tmp_path, content)


def test_pixel_data_shorter_than_its_header_says(tmp_path: Path) -> None:
    with pytest.raises(TruncatedSource) as caught:
        scan(tmp_path, image(bytes(46)))
    assert (caught.value.details["expected"], caught.value.details["actual"]) == (48, 46)


# D3, D4, D8: dimensions and sample formats that cannot be


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"Rows": 5}, TruncatedSource),
        ({"Rows": 0}, InconsistentHeader),
        ({"Columns": 0}, InconsistentHeader),
        ({"Rows": ("UL", 70000)}, InconsistentHeader),
        ({"Rows": ("UL", 0xFFFFFFFF)}, InconsistentHeader),
        ({"Rows": ("SS", -4)}, InconsistentHeader),
        ({"Rows": ("US", b"\4\0\4\0")}, InconsistentHeader),
        ({"Rows": ("US", b"\4")}, InconsistentHeader),
        ({"Rows": ("LO", "four")}, InconsistentHeader),
        ({"Rows": None}, InconsistentHeader),
        ({"Rows": 65535, "Columns": 65535}, TruncatedSource),
        ({"NumberOfFrames": "2"}, TruncatedSource),
        ({"NumberOfFrames": "-1"}, InconsistentHeader),
        ({"NumberOfFrames": "1.5"}, InconsistentHeader),
        ({"NumberOfFrames": "1\\2"}, InconsistentHeader),
        ({"NumberOfFrames": "2000000000"}, LimitExceeded),
        ({"NumberOfFrames": "9" * 12}, LimitExceeded),
        ({"NumberOfFrames": "9" * 400}, InconsistentHeader),
        ({"NumberOfFrames": "1e308"}, LimitExceeded),
        ({"NumberOfFrames": "1e999"}, InconsistentHeader),
        ({"NumberOfFrames": str(1 << 20), "Rows": 65535, "Columns": 65535}, LimitExceeded),
        ({"NumberOfFrames": str((1 << 20) + 1)}, LimitExceeded),
        ({"NumberOfFrames": str(1 << 20)}, TruncatedSource),
        ({"SamplesPerPixel": 0}, InconsistentHeader),
        ({"SamplesPerPixel": 5}, InconsistentHeader),
        ({"SamplesPerPixel": 3, "PlanarConfiguration": 2, "Columns": 2}, InconsistentHeader),
        ({"BitsStored": 17}, InconsistentHeader),
        ({"BitsStored": 0}, InconsistentHeader),
        ({"HighBit": 16}, InconsistentHeader),
        ({"BitsStored": 13, "HighBit": 11}, InconsistentHeader),
        ({"BitsAllocated": 0}, InconsistentHeader),
        ({"BitsAllocated": 65535}, InconsistentHeader),
        ({"PixelRepresentation": 2}, InconsistentHeader),
    ],
    ids=str,
)
def test_impossible_image_attributes(tmp_path: Path, values: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        scan(tmp_path, image(bytes(48), **values))


@pytest.mark.parametrize(
    ("values", "warning"),
    [
        ({"Rows": 3}, "beyond the last frame"),
        ({"Rows": ("UL", 4)}, None),
        ({"Rows": ("IS", "4")}, None),
        ({"BitsStored": 13, "HighBit": 14}, "HighBit"),
        ({"BitsStored": None}, "no BitsStored"),
        ({"HighBit": None}, "no HighBit"),
        ({"PixelRepresentation": None}, "no PixelRepresentation"),
        ({"SamplesPerPixel": None}, "no SamplesPerPixel"),
        ({"PhotometricInterpretation": None}, "no PhotometricInterpretation"),
        ({"NumberOfFrames": "0"}, "NumberOfFrames is 0"),
        ({"NumberOfFrames": ""}, None),
        ({"PhotometricInterpretation": "NONSENSE"}, None),
        ({"RescaleSlope": "steep", "RescaleIntercept": "1"}, "RescaleSlope"),
        ({"ImagePositionPatient": "1\\2"}, "ImagePositionPatient"),
        ({"PixelSpacing": "nan\\1"}, "PixelSpacing"),
        ({"WindowWidth": "1e400", "WindowCenter": "1"}, "WindowWidth"),
        ({"PatientName": b"\xff\xfe\x00weird\x1b$B\x1b"}, None),
        ({"SpecificCharacterSet": "NO_SUCH"}, "SpecificCharacterSet"),
        ({"SOPInstanceUID": None}, "no SOP instance UID"),
        ({"SeriesInstanceUID": ""}, "no series instance UID"),
    ],
    ids=str,
)
def test_odd_attributes_are_kept_with_a_warning(
    tmp_path: Path, values: dict[str, Any], warning: str | None
) -> None:
    found = scan(tmp_path, image(bytes(48), **values))
    assert found.record["pixels"] is not None
    if warning is not None:
        assert any(warning in text for text in found.warnings), found.warnings


# D5, D6: structure


def nested(depth: int, open_ended: bool = True) -> bytes:
    build, content = Builder(), b""
    for _ in range(depth):
        content = build.sequence(
            0x00400275, [build.open_item(content) if open_ended else build.item(content)]
        )
    return content


@pytest.mark.parametrize("open_ended", [True, False])
def test_nesting_has_a_limit(tmp_path: Path, open_ended: bool) -> None:
    scan(tmp_path, image(bytes(48), before=nested(dicom_scan.DEPTH_LIMIT, open_ended)))
    for depth in (dicom_scan.DEPTH_LIMIT + 1, 300, 2000, 100_000):
        content = part10(Builder().named(SOPInstanceUID="1.2") + opened(depth))
        with pytest.raises(LimitExceeded):
            scan(tmp_path, content)


def opened(depth: int) -> bytes:
    """Sequences and items that begin and never end."""
    build = Builder()
    return (build.element(0x00400275, "SQ", b"", UNDEFINED) + build.item(b"", UNDEFINED)) * depth


@pytest.mark.parametrize(
    "junk",
    [
        struct.pack("<HHI", 0xFFFE, 0xE00D, 0),
        struct.pack("<HHI", 0xFFFE, 0xE0DD, 0),
        struct.pack("<HHI", 0xFFFE, 0xE000, 0),
        Builder().element(0x00400275, "SQ", struct.pack("<HHI", 8, 8, 0), UNDEFINED),
        Builder().element(
            0x00400275, "SQ", Builder().item(Builder().element(0x00080005, "CS", b"", 90)[:8], 8), UNDEFINED
        ),
        Builder().element(0x00200013, "IS", b"", UNDEFINED)[:6] + b"\xff\xff",
        bytes(7) + b"\1" + bytes(8),
    ],
)
def test_structure_that_breaks_the_rules(tmp_path: Path, junk: bytes) -> None:
    with pytest.raises((InconsistentHeader, TruncatedSource)):
        scan(tmp_path, image(bytes(48), after=junk))


def test_odd_structure_is_kept(tmp_path: Path) -> None:
    build = Builder()
    oddities = [
        build.element(0x00090010, "UN", b"\1\2\3"),
        build.element(0x00090011, "ZZ", b"abcdef"),
        build.element(0x00090011, "ZZ", b""),
        build.element(0x00090011, "ZZ")[:6] + struct.pack("<HI", 0, 6) + b"abcdef",
        build.element(0x00090000, "UL", 0xFFFFFF),
        build.element(0x00100020, "LO", "second"),
        build.element(
            0x00090012,
            "UN",
            Builder(False).item(Builder(False).element(0x00080005, "CS", "X"))
            + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0),
            UNDEFINED,
        ),
        build.element(
            0x00880200,
            "SQ",
            build.open_item(build.element(PIXEL_DATA, "OB", encapsulate([[b"ab"]]), UNDEFINED))
            + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0),
            UNDEFINED,
        ),
        build.element(0x00880200, "SQ", build.item(build.element(PIXEL_DATA, "OW", b"abcd"))),
    ]
    for oddity in oddities:
        found = scan(tmp_path, image(bytes(48), before=oddity))
        assert found.record["search"]["PatientID"] == "ID1"


def test_pixel_data_twice(tmp_path: Path) -> None:
    with pytest.raises(InconsistentHeader):
        scan(tmp_path, image(bytes(48), after=Builder().element(PIXEL_DATA, "OW", bytes(48))))


# D7: deflate bombs


def bomb(declared: dict[str, Any], size: int, tail: bytes = b"") -> bytes:
    """A deflated file whose data set goes on for ``size`` zero bytes after its header."""
    head = Builder().named(SOPInstanceUID="1.2", SeriesInstanceUID="1.3", **declared) + tail
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = [packer.compress(head), packer.flush(zlib.Z_FULL_FLUSH)]
    # After a full flush, blocks do not refer back: one of them can be repeated.
    packed += [packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)] * (size >> 24)
    packed.append(packer.flush())
    return part10(b"", EXPLICIT).replace(
        Builder().element(0x00020010, "UI", EXPLICIT), Builder().element(0x00020010, "UI", DEFLATED)
    ) + b"".join(packed)


FORMAT = {
    "SamplesPerPixel": 1,
    "BitsAllocated": 16,
    "BitsStored": 16,
    "HighBit": 15,
    "PixelRepresentation": 0,
}


@pytest.mark.parametrize(
    ("declared", "tail"),
    [
        ({"Rows": 4, "Columns": 4, **FORMAT}, Builder().element(PIXEL_DATA, "OW", b"", 1 << 30)),
        ({"Rows": 65535, "Columns": 65535, **FORMAT}, Builder().element(PIXEL_DATA, "OW", b"", 1 << 30)),
        ({"Rows": 11000, "Columns": 11000, **FORMAT}, Builder().element(PIXEL_DATA, "OW", b"", 1 << 30)),
        ({}, Builder().element(0x00420011, "OB", b"", 1 << 30)),
        ({}, b""),
        ({}, Builder().element(0x00400275, "SQ", b"", UNDEFINED)),
    ],
    ids=["long pixels", "huge image", "large image", "long element", "zeros", "open sequence"],
)
def test_a_deflate_bomb_dies_young(tmp_path: Path, declared: dict[str, Any], tail: bytes) -> None:
    content = bomb(declared, 1 << 30, tail)
    assert len(content) < 2 << 20
    (tmp_path / "x.dcm").write_bytes(content)
    script = (
        "import sys, time, pathlib\n"
        "from tilevault.archive.formats import dicom\n"
        "from tilevault.codecs.errors import InputRejected\n"
        "start = time.process_time()\n"
        "try: dicom.scan(pathlib.Path(sys.argv[1]), 'x')\n"
        "except InputRejected as e: print(e.code)\n"
        # Not ru_maxrss: it begins with what the process had that forked this one.
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        "print(time.process_time() - start, status.split('VmHWM:')[1].split()[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "x.dcm")],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    code, figures = done.stdout.splitlines()
    seconds, kilobytes = figures.split()
    assert code in ("LimitExceeded", "InconsistentHeader")
    assert float(seconds) < 2
    assert int(kilobytes) < 300_000


def test_broken_deflate_streams(tmp_path: Path) -> None:
    content = image(bytes(range(48)), DEFLATED)
    for cut in range(len(content) - 40, len(content)):
        with pytest.raises(InputRejected):
            scan(tmp_path, content[:cut])
    start = content.index(DEFLATED.encode()) + len(DEFLATED)
    for at in range(start + 1, len(content)):
        for bit in (0, 5):
            flipped = bytearray(content)
            flipped[at] ^= 1 << bit
            try:
                scan(tmp_path, bytes(flipped))
            except InputRejected:
                continue


# D9: fragments


def coded(value: bytes, syntax: str = RLE, **values: Any) -> bytes:
    return image(value, syntax, vr="OB", length=UNDEFINED, **values)


def test_fragments_are_grouped_into_frames(tmp_path: Path) -> None:
    a, b, c = b"aa", b"bbbb", b"cccccc"
    soc = b"\xff\x4f\xff\x51"
    for value, frames, lengths, syntax in [
        (encapsulate([[a]]), 1, [2], RLE),
        (encapsulate([[a], [b], [c]]), 3, [2, 4, 6], RLE),
        (encapsulate([[a], [b], [c]], table=False), 3, [2, 4, 6], RLE),
        (encapsulate([[a, b], [c]]), 2, [[2, 4], 6], RLE),
        (encapsulate([[a, b, c]], table=False), 1, [[2, 4, 6]], RLE),
        (encapsulate([[a, b""], [c]]), 2, [[2, 0], 6], RLE),
    ]:
        found = scan(tmp_path, coded(value, syntax, NumberOfFrames=str(frames)))
        assert found.record["pixels"]["fragments"] == lengths
    # Without a table, frames begin where a codestream begins.
    size = struct.pack(">HHIIIIIIIIHB", 41, 0, 6, 4, 0, 0, 6, 4, 0, 0, 1, 15) + b"\1\1"
    stream = [soc + size, b"more", soc + size, b"more", b"most"]
    value = encapsulate([stream], table=False)
    found = scan(tmp_path, coded(value, JPEG_2000, NumberOfFrames="2"))
    n = len(soc + size)
    assert found.record["pixels"]["fragments"] == [[n, 4], [n, 4, 4]]


def test_extended_offsets_are_believed_first(tmp_path: Path) -> None:
    build = Builder()
    value = encapsulate([[b"aa"], [b"bb"], [b"cc"]], table=False)
    offsets = build.element(0x7FE00001, "OV", struct.pack("<2Q", 0, 20))
    found = scan(tmp_path, coded(value, RLE, NumberOfFrames="2", before=offsets))
    assert found.record["pixels"]["fragments"] == [[2, 2], 2]


@pytest.mark.parametrize(
    ("value", "frames"),
    [
        (item(b""), 1),
        (item(b"") + item(b"aa"), 1),
        (encapsulate([[b"aa"]], delimiter=False), 1),
        (encapsulate([]), 1),
        (encapsulate([[b"aa"]]), 2),
        (encapsulate([[b"aa"], [b"bb"], [b"cc"]], table=False), 2),
        (item(struct.pack("<2I", 0, 11)) + encapsulate([[b"aa"], [b"bb"], [b"cc"]], table=False)[8:], 2),
        (
            item(struct.pack("<2I", 0, 0xFFFFFFFF))
            + encapsulate([[b"aa"], [b"bb"], [b"cc"]], table=False)[8:],
            2,
        ),
        (item(b"") + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFF0) + b"aa", 1),
        (item(b"") + struct.pack("<HHI", 0xFFFE, 0xE000, UNDEFINED) + b"aa" * 9, 1),
        (item(b"") + struct.pack("<HHI", 0xFFFE, 0xE00D, 0), 1),
        (struct.pack("<HHI", 0xFFFE, 0xE0DD, 0), 1),
        (b"", 1),
        (encapsulate([[b"aa"]]), 1 << 20),
    ],
)
def test_fragments_that_do_not_make_frames(tmp_path: Path, value: bytes, frames: int) -> None:
    with pytest.raises((InconsistentHeader, TruncatedSource)):
        scan(tmp_path, coded(value, NumberOfFrames=str(frames)))


def test_a_bad_offset_table_is_reported_where_it_does_not_matter(tmp_path: Path) -> None:
    value = item(struct.pack("<2I", 0, 11)) + encapsulate([[b"aa"], [b"bb"]], table=False)[8:]
    found = scan(tmp_path, coded(value, NumberOfFrames="2"))
    assert any("offset table" in warning for warning in found.warnings)


def test_native_and_encapsulated_must_agree(tmp_path: Path) -> None:
    with pytest.raises(InconsistentHeader):
        scan(tmp_path, coded(encapsulate([[bytes(48)]]), EXPLICIT))
    with pytest.raises(InconsistentHeader):
        scan(tmp_path, image(bytes(48), RLE, vr="OB"))


@pytest.mark.parametrize(
    ("field", "other"), [("Rows", 64 * 2), ("Columns", 63), ("SamplesPerPixel", 3), ("BitsAllocated", 8)]
)
def test_a_frame_of_other_dimensions_than_its_data_set(tmp_path: Path, field: str, other: int) -> None:
    import imagecodecs
    import numpy as np

    stream = imagecodecs.jpeg2k_encode(
        np.zeros((64, 64), np.uint16), level=0, reversible=True, codecformat="J2K"
    )
    values: dict[str, Any] = {"Rows": 64, "Columns": 64}
    scan(tmp_path, coded(encapsulate([[stream]]), JPEG_2000, **values))
    if field == "BitsAllocated":
        values |= {"BitsStored": 8, "HighBit": 7}
    with pytest.raises(InconsistentHeader):
        scan(tmp_path, coded(encapsulate([[stream]]), JPEG_2000, **{**values, field: other}))


# D11, D12: identities


def test_one_instance_with_two_contents(tmp_path: Path) -> None:
    files = []
    for name, pixels, instance in [
        ("b", bytes(48), "1"),
        ("a", b"\1" * 48, "1"),
        ("c", bytes(48), "1"),
        ("d", bytes(48), "2"),
    ]:
        (tmp_path / name).write_bytes(image(pixels, InstanceNumber=instance))
        files += dicom.scan(tmp_path / name, name)
    for order in itertools.permutations(files):
        images, rejected = dicom.assemble(order)
        assert [file.name for file in images[0].sources] == ["a"]
        assert [(file.name, error.code) for file, error in rejected] == [
            (n, "DuplicateConflict") for n in "bcd"
        ]
        assert rejected[0][1].details["kept"] == files[1].sha256
        assert rejected[0][1].details["rejected"] == files[0].sha256


def test_a_copy_is_kept_once(tmp_path: Path) -> None:
    files = []
    for name in "ab":
        (tmp_path / name).write_bytes(image(bytes(48)))
        files += dicom.scan(tmp_path / name, name)
    for order in (files, files[::-1]):
        [found], rejected = dicom.assemble(order)
        assert rejected == []
        assert [file.name for file in found.sources] == ["a"]
        assert found.warnings == ("b is a copy of a; kept once",)


@pytest.mark.parametrize(
    "uid", ["../../x", "1" * 65, "1.2\0.3", "1.2/3", "1.2.é", "1.2\\1.3", "a", "1.2 .3", " 1.2"]
)
@pytest.mark.parametrize("field", ["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "SOPClassUID"])
def test_uids_that_are_none(tmp_path: Path, uid: str, field: str) -> None:
    with pytest.raises(UnsafeName):
        scan(tmp_path, image(bytes(48), **{field: uid.encode("latin-1")}))


@pytest.mark.parametrize("uid", [b"1.2.3", b"1.2.3\0", b"1.2.3 ", b"1" * 64, b"1.2.3\0\0 \0"])
def test_uids_with_padding(tmp_path: Path, uid: bytes) -> None:
    found = scan(tmp_path, image(bytes(48), SOPInstanceUID=uid))
    assert found.record["uids"]["sop"] == uid.decode().rstrip("\0 ")


# D13: what the preamble holds is nobody's business


def test_a_preamble_that_is_a_program(tmp_path: Path) -> None:
    found = scan(tmp_path, image(bytes(48), preamble=(b"MZ" + bytes(126))))
    assert found.record["pixels"] is not None
    assert any("preamble" in warning for warning in found.warnings)


# D17: too much of everything


def test_a_gigabyte_of_text_is_refused_unread(tmp_path: Path) -> None:
    head = part10(Builder().named(SOPInstanceUID="1.2") + Builder().element(0x0040A160, "UT", b"", 1 << 30))
    path = tmp_path / "x.dcm"
    path.write_bytes(head)
    os.truncate(path, len(head) + (1 << 30))
    start = time.process_time()
    with pytest.raises(LimitExceeded):
        dicom.scan(path, "x")
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("name", "limit", "content"),
    [
        ("ELEMENT_COUNT_LIMIT", 30, Builder().element(0x00090010, "LO", "") * 40),
        ("HEADER_LIMIT", 600, Builder().element(0x00090010, "UN", bytes(600))),
        ("ELEMENT_LIMIT", 599, Builder().element(0x00090010, "UN", bytes(600))),
    ],
)
@pytest.mark.parametrize("place", ["before", "after"])
def test_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, limit: int, content: bytes, place: str
) -> None:
    scan(tmp_path, image(bytes(48), **{place: content}))
    monkeypatch.setattr(dicom_scan, name, limit)
    with pytest.raises(LimitExceeded):
        scan(tmp_path, image(bytes(48), **{place: content}))


def test_the_number_of_fragments_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_scan, "FRAGMENT_LIMIT", 5)
    scan(tmp_path, coded(encapsulate([[b"aa"] * 5], table=False)))
    with pytest.raises(LimitExceeded):
        scan(tmp_path, coded(encapsulate([[b"aa"] * 6], table=False)))


def test_a_million_elements_take_seconds_not_minutes(tmp_path: Path) -> None:
    content = part10(
        Builder().named(SOPInstanceUID="1.2") + Builder().element(0x00090010, "LO", "") * 1_000_001
    )
    start = time.process_time()
    with pytest.raises(LimitExceeded):
        scan(tmp_path, content)
    assert time.process_time() - start < 10


# Mutations of real headers: a record or a rejection, never anything else


REAL = [
    "MR_small.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_implicit.dcm",
    "SC_rgb_rle_2frame.dcm",
    "SC_rgb_small_odd_jpeg.dcm",
    "image_dfl.dcm",
    "nested_priv_SQ.dcm",
    "liver_expb_1frame.dcm",
    "rtdose_1frame.dcm",
    "examples_palette.dcm",
    "JPEGLSNearLossless_08.dcm",
    "reportsi.dcm",
]


@pytest.fixture(scope="module")
def real() -> list[bytes]:
    return [(PYDICOM_FILES / name).read_bytes() for name in REAL]


@given(data=st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutated_headers_are_scanned_or_rejected(
    tmp_path: Path, real: list[bytes], data: st.DataObject
) -> None:
    content = bytearray(data.draw(st.sampled_from(real)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(content), 3000) - 1))
        content[at] = data.draw(
            st.sampled_from([0, 1, 0x7F, 0xFE, 0xFF, 0xE0, 0x0D, 0xDD, 0x53, 0x51, 0x5C, 0x39])
        )
    try_all(tmp_path, bytes(content))


def test_every_byte_of_a_small_file_flipped(tmp_path: Path) -> None:
    content = (PYDICOM_FILES / "SC_rgb_small_odd.dcm").read_bytes()
    rng = random.Random(3)
    for at in range(128, len(content)):
        flipped = bytearray(content)
        flipped[at] ^= 1 << rng.randrange(8)
        try_all(tmp_path, bytes(flipped))


def try_all(folder: Path, content: bytes) -> None:
    """Scan, assemble, read the verbatim bytes: only our own errors may come out."""
    try:
        found = scan(folder, content)
        [image_found], _ = dicom.assemble([found])
        with dicom.open_reader(image_found) as reader:
            kept = sum(len(piece) for piece in reader.verbatim(0))
            assert kept <= len(content)
            if image_found.info is not None and image_found.codec is not None:
                reader.read_stream((0,) * len(image_found.info.shape))
    except InputRejected:
        return


def test_memory_is_bounded_for_a_large_file(tmp_path: Path) -> None:
    path = tmp_path / "big.dcm"
    head = image(b"", Rows=16384, Columns=16384, length=2 * 16384 * 16384)
    path.write_bytes(head)
    os.truncate(path, len(head) + 2 * 16384 * 16384)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    [found] = dicom.scan(path, "big.dcm")
    assert found.record["pixels"]["length"] == 2 * 16384 * 16384
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000


def test_a_frame_that_is_no_codestream(tmp_path: Path) -> None:
    with pytest.raises(InconsistentHeader):
        scan(tmp_path, coded(encapsulate([[b"not a codestream"]]), JPEG_2000))
    # Two fragments: only the joined frame can tell.
    found = scan(tmp_path, coded(encapsulate([[b"not a ", b"codestream"]]), JPEG_2000))
    [image_found], _ = dicom.assemble([found])
    with dicom.open_reader(image_found) as reader, pytest.raises(InconsistentHeader):
        reader.read_stream((0, 0))
