"""Which files become one image, and along which axes: from scanned records alone."""

import itertools
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicom_builder import EXPLICIT, EXPLICIT_BIG, IMPLICIT, Builder, image
from tilevault.archive.formats import SourceFile, SourceImage, dicom
from tilevault.archive.image import Window
from tilevault.codecs.errors import InvalidRequest

AXIAL = "1\\0\\0\\0\\1\\0"
CORONAL = "1\\0\\0\\0\\0\\-1"


def slices(folder: Path, positions: list[Any], **values: Any) -> list[SourceFile]:
    """One file for each position (None: without one); their pixels are their number."""
    files = []
    for i, position in enumerate(positions):
        placed = {} if position is None else {"ImagePositionPatient": "\\".join(map(str, position))}
        own = {name: value[i] if isinstance(value, list) else value for name, value in values.items()}
        content = image(
            np.full(24, i, "<u2").tobytes(),
            **{
                "SOPInstanceUID": f"1.9.{i}",
                "InstanceNumber": str(i + 1),
                "ImageOrientationPatient": AXIAL,
                "PixelSpacing": "0.5\\0.5",
                **placed,
                **own,
            },
        )
        path = folder / f"{i:03}.dcm"
        path.write_bytes(content)
        files += dicom.scan(path, path.name)
    return files


def assemble(files: list[SourceFile]) -> list[SourceImage]:
    """The images; the same whatever order the files come in."""
    images, rejected = dicom.assemble(files)
    assert rejected == []
    shuffled = list(files)
    for seed in range(3):
        random.Random(seed).shuffle(shuffled)
        assert dicom.assemble(shuffled) == (images, [])
    return images


def one(files: list[SourceFile]) -> SourceImage:
    [found] = assemble(files)
    assert found.info is not None
    return found


def numbers(found: SourceImage) -> Any:
    """The first sample of every plane: the number of the file (or frame) that lies there."""
    assert found.info is not None
    with dicom.open_reader(found) as reader:
        return reader.read(Window((0,) * len(found.info.shape), found.info.shape))[..., 0, 0].tolist()


def described(found: SourceImage) -> tuple[tuple[str, ...], tuple[int, ...]]:
    assert found.info is not None
    return found.info.axes, found.info.shape


def test_regular_positions_are_a_volume(tmp_path: Path) -> None:
    files = slices(tmp_path, [(0, 0, z) for z in (30, 10, 20, 0)])
    found = one(files)
    assert described(found) == (("z", "y", "x"), (4, 4, 6))
    assert numbers(found) == [3, 1, 2, 0]
    assert found.info is not None
    assert found.info.attributes["spacing"] == {"z": 10, "y": 0.5, "x": 0.5}
    assert found.info.attributes["positions"] == [[0, 0, z] for z in (0, 10, 20, 30)]
    assert found.info.attributes["affine"] == [[0.5, 0, 0, 0], [0, 0.5, 0, 0], [0, 0, 10, 0], [0, 0, 0, 1]]
    assert [dicom.frame_position(found, i, 0) for i in range(4)] == [(0,), (1,), (2,), (3,)]
    assert "SOPInstanceUID" not in found.search


def test_z_rises_along_the_plane_normal(tmp_path: Path) -> None:
    found = one(slices(tmp_path, [(0, y, 0) for y in (0, 1, 2)], ImageOrientationPatient=CORONAL))
    # row x column = (1,0,0) x (0,0,-1) = (0,1,0)
    assert numbers(found) == [0, 1, 2]
    found = one(slices(tmp_path, [(0, y, 0) for y in (0, 1, 2)], ImageOrientationPatient="1\\0\\0\\0\\0\\1"))
    assert numbers(found) == [2, 1, 0]


def test_a_tilted_gantry_is_a_sheared_volume(tmp_path: Path) -> None:
    found = one(slices(tmp_path, [(0, 0.2 * i, i) for i in range(5)]))
    assert described(found) == (("z", "y", "x"), (5, 4, 6))
    assert found.info is not None
    affine = found.info.attributes["affine"]
    assert [row[2] for row in affine] == pytest.approx([0, 0.2, 1, 0])


@pytest.mark.parametrize(
    "positions",
    [
        [(0, 0, 0), (0, 0, 1), (0, 0, 3)],
        [(0, 0, 0), (0, 0, 1), (0, 0, 2.2)],
        [(0, 0, 0), None, (0, 0, 2)],
        [(0, 0, 0), (0, 0, 0), (0, 0, 1)],
        [(0, 0, 0), (0, 3, 1), (0, 0, 2)],
        [(0, 0, 0), (1, 0, 0), (2, 0, 0)],
        [None, None, None],
    ],
    ids=["gap", "uneven", "one without", "one twice", "off the line", "in the plane", "none"],
)
def test_irregular_positions_are_frames(tmp_path: Path, positions: list[Any]) -> None:
    found = one(slices(tmp_path, positions, InstanceNumber=["2", "1", "3"]))
    assert described(found) == (("frame", "y", "x"), (3, 4, 6))
    assert numbers(found) == [1, 0, 2]
    assert found.info is not None
    assert "affine" not in found.info.attributes
    assert "z" not in found.info.attributes["spacing"]


def test_positions_rounded_to_a_tenth_are_regular(tmp_path: Path) -> None:
    positions = [(0, 0, round(10 * i / 3, 1)) for i in range(12)]
    assert described(one(slices(tmp_path, positions)))[0] == ("z", "y", "x")


@pytest.mark.parametrize(
    ("positions", "told"),
    [
        (
            [(5, -4.5, 2.5 * z - 60) for z in range(20) if z not in (7, 8)],
            ["7.5 mm instead of 2.5 mm to the next after position 5\\-4.5\\-45"],
        ),
        ([(0, 0, 0), (0, 0, 1), (0, 0, 3)], ["2 mm instead of 1 mm to the next after position 0\\0\\1"]),
        (
            [(0, 0, z) for z in (0, 2, 4, 4.5, 6.5, 8.5)],
            ["0.5 mm instead of 2 mm to the next after position 0\\0\\4"],
        ),
        (
            [(0, 0, z) for z in (0, 0, 1, 2, 2, 3, 3)],
            ["1 instead of 2 frames at position 0\\0\\1"],
        ),
        (
            [(0, 0, z) for z in (0, 1, 2, 3, 4, 5, 7, 10, 14, 19, 25)],
            [
                "2 mm instead of 1 mm to the next after position 0\\0\\5",
                "3 mm instead of 1 mm to the next after position 0\\0\\7",
                "4 mm instead of 1 mm to the next after position 0\\0\\10",
                "and 2 more",
            ],
        ),
        ([(0, 0.1 * abs(z - 20), z) for z in range(41)], ["they leave the line from the first to the last"]),
    ],
)
def test_a_gap_between_slices_is_told(tmp_path: Path, positions: list[Any], told: list[str]) -> None:
    found = one(slices(tmp_path, positions))
    assert described(found) == (("frame", "y", "x"), (len(positions), 4, 6))
    start = "slices are not evenly spaced and have no z axis: "
    assert list(found.warnings) == [start + reason for reason in told]


def test_stacks_that_promise_no_volume_are_not_warned_of(tmp_path: Path) -> None:
    for i, positions in enumerate(
        [
            [None] * 3,
            [(0, 0, 0), None, (0, 0, 3)],
            [(0, 0, 1)],
            [(0, 0, 0), (0, 0, 0)],
            [(0, 0, 0), (0, 0, 1), (0, 0, 2.04)],
        ]
    ):
        folder = tmp_path / str(i)
        folder.mkdir()
        assert one(slices(folder, positions)).warnings == ()


def test_mixed_spacing_is_frames(tmp_path: Path) -> None:
    found = one(slices(tmp_path, [(0, 0, i) for i in range(3)], PixelSpacing=["1\\1", "1\\1", "2\\2"]))
    assert described(found)[0] == ("frame", "y", "x")


def test_every_position_equally_often_is_time(tmp_path: Path) -> None:
    positions = [(0, 0, z) for _ in range(3) for z in (0, 1)]
    found = one(slices(tmp_path, positions))
    assert described(found) == (("t", "z", "y", "x"), (3, 2, 4, 6))
    assert numbers(found) == [[0, 1], [2, 3], [4, 5]]
    assert [dicom.frame_position(found, i, 0) for i in range(6)] == list(
        itertools.product(range(3), range(2))
    )
    temporal = ["3", "3", "1", "1", "2", "2"]
    assert numbers(one(slices(tmp_path, positions, TemporalPositionIdentifier=temporal))) == [
        [2, 3],
        [4, 5],
        [0, 1],
    ]


def test_one_file_is_a_plane(tmp_path: Path) -> None:
    found = one(slices(tmp_path, [(0, 0, 0)]))
    assert described(found) == (("y", "x"), (4, 6))
    assert dicom.frame_position(found, 0, 0) == ()
    assert found.search["SOPInstanceUID"] == "1.9.0"


@pytest.mark.parametrize(
    "values",
    [
        {"SeriesInstanceUID": ["1.2", "1.3", "1.2"]},
        {"BitsStored": [12, 16, 12], "HighBit": [11, 15, 11]},
        {"PixelRepresentation": [0, 1, 0]},
        {"PhotometricInterpretation": ["MONOCHROME1", "MONOCHROME2", "MONOCHROME1"]},
        {"Rows": [4, 2, 4]},
        {"ImageOrientationPatient": [AXIAL, CORONAL, AXIAL]},
    ],
    ids=lambda v: next(iter(v)),
)
def test_what_differs_in_format_or_orientation_is_apart(tmp_path: Path, values: dict[str, Any]) -> None:
    images = assemble(slices(tmp_path, [(0, 0, i) for i in range(3)], **values))
    assert sorted(len(found.sources) for found in images) == [1, 2]
    assert len({found.key for found in images}) == 2
    assert all(json.loads(found.key)["series"] for found in images)


def test_how_the_bytes_lie_does_not_matter(tmp_path: Path) -> None:
    files = []
    for i, syntax in enumerate((IMPLICIT, EXPLICIT, EXPLICIT_BIG)):
        path = tmp_path / f"{i}.dcm"
        words = np.arange(24, dtype=">u2" if syntax == EXPLICIT_BIG else "<u2")
        path.write_bytes(image(words.tobytes(), syntax, SOPInstanceUID=f"1.9.{i}", InstanceNumber=str(i)))
        files += dicom.scan(path, path.name)
    found = one(files)
    with dicom.open_reader(found) as reader:
        words = reader.read(Window((0, 0, 0), (3, 4, 6)))
    np.testing.assert_array_equal(words, np.broadcast_to(np.arange(24).reshape(4, 6), (3, 4, 6)))


def test_later_instances_find_the_same_image(tmp_path: Path) -> None:
    files = slices(tmp_path, [(0, 0, z) for z in range(4)])
    first, both = one(files[:2]), one([replace(f, path=None) for f in files[:2]] + files[2:])
    assert first.key == both.key
    assert described(both)[1] == (4, 4, 6)
    part = Window((0, 0, 0), (2, 4, 6))
    assert dicom.window_inputs(first, part) == dicom.window_inputs(both, part)
    assert dicom.window_inputs(both, Window((1, 0, 0), (3, 4, 6))) != dicom.window_inputs(both, part)

    class Archived:
        def read_words(self, sha256: str, frame: int, rows: slice) -> Any:
            return np.full(
                (rows.stop - rows.start, 6), [f.sha256 for f in files].index(sha256) + 50, np.uint16
            )

        def read_stream(self, sha256: str, frame: int) -> bytes:
            raise AssertionError

        def verbatim(self, sha256: str) -> Any:
            yield sha256.encode()

    with dicom.open_reader(both, Archived()) as reader:
        assert reader.read(Window((0, 1, 1), (4, 2, 2))).ravel().tolist() == [50, 51, 2, 3]
        assert list(reader.verbatim(0)) == [files[0].sha256.encode()]
    with dicom.open_reader(both) as reader, pytest.raises(InvalidRequest):
        reader.read(Window((0, 0, 0), (1, 1, 1)))


def test_the_archived_instance_wins(tmp_path: Path) -> None:
    [old] = slices(tmp_path, [None], PatientID="OLD")
    [new] = slices(tmp_path, [None], PatientID="NEW")
    old = replace(old, name="zzz", path=None)
    images, rejected = dicom.assemble([new, old])
    assert [found.sources for found in images] == [(old,)]
    assert [(file, error.code) for file, error in rejected] == [(new, "DuplicateConflict")]


def test_two_patients_in_one_series_are_reported(tmp_path: Path) -> None:
    found = one(slices(tmp_path, [None, None], PatientID=["A", "B"]))
    assert "instances of this series differ in PatientID" in found.warnings


def test_a_series_of_two_studies_is_in_neither(tmp_path: Path) -> None:
    """Who may read one study would read the other's slices."""
    alike = one(slices(tmp_path, [None, None], StudyInstanceUID="1.2"))
    mixed = one(slices(tmp_path, [None, None], StudyInstanceUID=["1.2", "1.3"]))
    assert alike.search["StudyInstanceUID"] == "1.2"
    assert "StudyInstanceUID" not in mixed.search
    assert "instances of this series differ in StudyInstanceUID" in mixed.warnings


def test_factors_of_each_plane(tmp_path: Path) -> None:
    positions = [(0, 0, z) for z in range(3)]
    same = one(slices(tmp_path, positions, RescaleSlope="2", RescaleIntercept="1"))
    assert same.info is not None
    assert same.info.attributes["rescale"] == {"slope": 2, "intercept": 1}
    own = one(slices(tmp_path, positions[::-1], RescaleSlope=["1", "2", "3"], RescaleIntercept="0"))
    assert own.info is not None
    assert own.info.attributes["rescale"] == {"slope": [3, 2, 1], "intercept": [0, 0, 0]}
    some = one(slices(tmp_path, positions, RescaleSlope=["1", None, "3"], RescaleIntercept="0"))
    assert some.info is not None
    assert "rescale" not in some.info.attributes


def enhanced(planes: list[tuple[float, float]], orientations: list[str] | None = None) -> bytes:
    """A multi-frame file; (z, temporal index) of each frame."""
    build = Builder()
    measures = build.sequence(0x00289110, [build.item(build.named(PixelSpacing="0.5\\0.25"))])
    shared = build.sequence(0x52009229, [build.item(measures)])
    items = []
    for i, (z, t) in enumerate(planes):
        place = build.named(ImagePositionPatient=f"0\\0\\{z}")
        turn = build.named(ImageOrientationPatient=orientations[i] if orientations else AXIAL)
        content = build.element(0x00209128, "UL", int(t))
        items.append(
            build.open_item(
                build.sequence(0x00209111, [build.item(content)])
                + build.sequence(0x00209113, [build.item(place)])
                + build.sequence(0x00209116, [build.open_item(turn)])
            )
        )
    pixels = np.repeat(np.arange(len(planes), dtype="<u2"), 24).tobytes()
    return image(pixels, NumberOfFrames=str(len(planes)), before=shared + build.sequence(0x52009230, items))


def scan(folder: Path, content: bytes) -> list[SourceFile]:
    (folder / "e.dcm").write_bytes(content)
    return dicom.scan(folder / "e.dcm", "e.dcm")


def test_frames_of_an_enhanced_instance(tmp_path: Path) -> None:
    found = one(scan(tmp_path, enhanced([(3, 1), (1, 1), (2, 1)])))
    assert described(found) == (("z", "y", "x"), (3, 4, 6))
    assert numbers(found) == [1, 2, 0]
    assert found.info is not None
    assert found.info.attributes["spacing"] == {"z": 1, "y": 0.5, "x": 0.25}
    assert [dicom.frame_position(found, 0, k) for k in range(3)] == [(2,), (0,), (1,)]
    found = one(scan(tmp_path, enhanced([(0, 2), (0, 1), (1, 1), (1, 2)])))
    assert numbers(found) == [[1, 2], [0, 3]]
    found = one(scan(tmp_path, enhanced([(0, 1), (1, 1), (2, 1)], [AXIAL, CORONAL, AXIAL])))
    assert described(found)[0] == ("frame", "y", "x")
    assert numbers(found) == [0, 1, 2]


def test_a_cine_without_positions(tmp_path: Path) -> None:
    content = image(np.arange(72, dtype="<u2").tobytes(), NumberOfFrames="3", ImagePositionPatient="0\\0\\0")
    assert described(one(scan(tmp_path, content))) == (("frame", "y", "x"), (3, 4, 6))


def test_the_frames_of_a_dose_grid(tmp_path: Path) -> None:
    build = Builder()
    grid = build.element(0x3004000C, "DS", "0\\2\\4") + build.element(0x3004000E, "DS", "0.001")
    content = image(
        np.arange(72, dtype="<u2").tobytes(),
        NumberOfFrames="3",
        ImagePositionPatient="0\\0\\5",
        ImageOrientationPatient=AXIAL,
        PixelSpacing="1\\1",
        before=build.element(0x30040002, "CS", "GY") + grid,
    )
    found = one(scan(tmp_path, content))
    assert described(found) == (("z", "y", "x"), (3, 4, 6))
    assert found.info is not None
    assert found.info.attributes["rescale"] == {"slope": 0.001, "intercept": 0, "type": "GY"}
    assert found.info.attributes["positions"] == [[0, 0, 5], [0, 0, 7], [0, 0, 9]]


def test_colour_lies_where_ome_puts_it(tmp_path: Path) -> None:
    rgb = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "RGB", "Columns": 2}
    files = slices(tmp_path, [(0, 0, 0), (0, 0, 1)], **rgb)
    assert described(one(files[:1])) == (("c", "y", "x"), (3, 4, 2))
    volume = one(files)
    assert described(volume) == (("c", "z", "y", "x"), (3, 2, 4, 2))
    with dicom.open_reader(volume) as reader:
        words = reader.read(Window((1, 0, 0, 0), (3, 2, 4, 2)))
    assert words.shape == (2, 2, 4, 2)
    assert words[:, 1].min() == 1
    four = slices(tmp_path, [(0, 0, z) for _ in range(2) for z in (0, 1)], **rgb)
    assert described(one(four)) == (("t", "c", "z", "y", "x"), (2, 3, 2, 4, 2))
    assert numbers(one(four))[1][2] == [2, 3]
    assert described(one(slices(tmp_path, [None, None], **rgb)))[0] == ("frame", "c", "y", "x")
    assert volume.info is not None
    assert volume.info.attributes["channels"] == ["R", "G", "B"]


@pytest.mark.parametrize("wide", [False, True])
def test_a_palette_is_described_and_not_applied(tmp_path: Path, wide: bool) -> None:
    build = Builder()
    before = b"".join(
        build.element(tag, "US", [256, 10, 16 if wide else 8]) for tag in (0x281101, 0x281102, 0x281103)
    )
    table = np.arange(256, dtype="<u2" if wide else "u1").tobytes()
    before += b"".join(build.element(tag, "OW", table) for tag in (0x281201, 0x281202, 0x281203))
    found = one(scan(tmp_path, image(bytes(48), PhotometricInterpretation="PALETTE COLOR", before=before)))
    assert found.info is not None
    assert found.info.categorical
    palette = found.info.attributes["palette"]
    assert palette["red"] == list(range(256))
    assert (palette["first"], palette["bits"]) == (10, 16 if wide else 8)


def test_windows_outside_the_image(tmp_path: Path) -> None:
    with dicom.open_reader(one(slices(tmp_path, [None]))) as reader:
        with pytest.raises(InvalidRequest):
            reader.read(Window((0, 0), (5, 6)))
        with pytest.raises(InvalidRequest):
            reader.read_mask(Window((0, 0), (1, 1)))
        with pytest.raises(InvalidRequest):
            reader.read_stream((0, 0))
        assert reader.read(Window((2, 3), (2, 6))).shape == (0, 3)
