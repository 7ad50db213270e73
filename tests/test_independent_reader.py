"""An archive can be read by what docs/format.md says: words, levels and files, by a reader made from it."""

import ast
import itertools
import shutil
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

import independent_reader
import tilevault
from dicom_builder import (
    DEFLATED,
    EXPLICIT,
    EXPLICIT_BIG,
    IMPLICIT,
    UNDEFINED,
    Builder,
    encapsulate,
    image,
    native_bytes,
    part10,
)
from independent_reader import Damaged
from tiff_builder import ASCII, SHORT, page, tiff

Array = NDArray[Any]
RLE = "1.2.840.10008.1.2.5"
AXIAL = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [0.5, 0.5]}


def smooth(shape: tuple[int, ...], bits: int, seed: int = 0) -> Array:
    """A ramp with noise that needs at most ``bits`` bits; int64."""
    rng = np.random.default_rng(seed)
    y, x = np.ogrid[: shape[-2], : shape[-1]]
    ramp = (y + 2 * x) * (1 << bits) // (3 * (shape[-2] + 2 * shape[-1]))
    return np.asarray(ramp + rng.integers(0, 1 << max(bits - 4, 1), shape))


# --- what goes in ----------------------------------------------------------------------------------------


def dicom_files() -> dict[str, bytes]:
    """One file per image, and two stacks."""
    files = {f"native-{i}": content for i, content in enumerate(itertools.chain(native_files(), odd_files()))}
    files |= {f"stack/{i}": content for i, content in enumerate(stack("9.1", times=1))}
    files |= {f"cine/{i}": content for i, content in enumerate(stack("9.2", times=2))}
    return files


def uids(number: object) -> dict[str, str]:
    return {"SeriesInstanceUID": f"1.2.3.4.{number}", "SOPInstanceUID": f"1.2.3.5.{number}"}


def native_files() -> Iterator[bytes]:
    """Sample formats: (syntax, VR, bits allocated, stored, high bit, signed, samples, planar, frames)."""
    cases = [
        (EXPLICIT, "OW", 16, 16, 15, 0, 1, 0, 1),
        (IMPLICIT, "OW", 16, 12, 11, 1, 1, 0, 3),
        (EXPLICIT, "OW", 16, 12, 15, 1, 1, 0, 1),
        (EXPLICIT_BIG, "OW", 16, 10, 9, 0, 1, 0, 2),
        (EXPLICIT_BIG, "OW", 8, 8, 7, 0, 1, 0, 3),
        (EXPLICIT_BIG, "OB", 8, 8, 7, 1, 3, 1, 1),
        (EXPLICIT_BIG, "OW", 1, 1, 0, 0, 1, 0, 3),
        (EXPLICIT, "OB", 1, 1, 0, 0, 1, 0, 3),
        (EXPLICIT, "OB", 8, 8, 7, 0, 3, 0, 2),
        (EXPLICIT, "OW", 16, 16, 15, 0, 3, 1, 2),
        (EXPLICIT, "OW", 24, 24, 23, 1, 1, 0, 1),
        (EXPLICIT_BIG, "OW", 32, 20, 25, 1, 1, 0, 1),
        (EXPLICIT, "OW", 64, 64, 63, 0, 1, 0, 1),
        (DEFLATED, "OW", 16, 16, 15, 1, 3, 1, 2),
        (DEFLATED, "OB", 1, 1, 0, 0, 1, 0, 3),
    ]
    for number, (syntax, vr, bits, stored, high, signed, samples, planar, frames) in enumerate(cases):
        words = smooth((frames, samples, 9, 13), min(bits, 30), number)
        words[0, 0, :2] = -1  # every bit of some words is in use
        big = syntax == EXPLICIT_BIG
        form = {"bits_allocated": bits, "planar": planar}
        yield image(
            native_bytes(
                words & 1 if bits == 1 else words, form, big and bits > 8, big and vr == "OW" and bits <= 8
            ),
            syntax,
            vr=vr,
            Rows=9,
            Columns=13,
            SamplesPerPixel=samples,
            PlanarConfiguration=planar if samples > 1 else None,
            PhotometricInterpretation="RGB" if samples == 3 else "MONOCHROME2",
            NumberOfFrames=str(frames),
            BitsAllocated=bits,
            BitsStored=stored,
            HighBit=high,
            PixelRepresentation=signed,
            **uids(number),
        )


def odd_files() -> Iterator[bytes]:
    """Levels of every kind, subsampled colour, floats, coded frames, surplus bytes, no pixels at all."""
    build = Builder()
    for number, (bits, signed, shape) in enumerate(
        [(12, 0, (12, 1100)), (10, 1, (520, 9)), (8, 0, (3, 9000))]
    ):
        words = smooth(shape, bits, number) - ((1 << (bits - 1)) if signed else 0)
        extremes = [-(1 << (bits - 1)), (1 << (bits - 1)) - 1] if signed else [0, (1 << bits) - 1]
        words[-8:, -8:] = np.random.default_rng(number).choice(extremes, words[-8:, -8:].shape)
        allocated = 8 if bits == 8 else 16
        yield image(
            native_bytes(words[None, None], {"bits_allocated": allocated, "planar": 0}, False, False),
            **of_shape(shape),
            BitsAllocated=allocated,
            BitsStored=bits,
            HighBit=bits - 1,
            PixelRepresentation=signed,
            **uids(f"1.{number}"),
        )
    for syntax in (EXPLICIT, DEFLATED):
        yield image(
            bytes(range(10, 10 + 2 * 6 * 8)),
            syntax,
            vr="OB",
            **of_shape((6, 8)),
            SamplesPerPixel=3,
            PhotometricInterpretation="YBR_FULL_422",
            PlanarConfiguration=0,
            BitsAllocated=8,
            BitsStored=8,
            HighBit=7,
            **uids(f"2.{syntax[-2:]}"),
        )
    floats = np.linspace(-5, 5, 6 * 300, dtype="<f4").reshape(6, 300)
    floats[2, :9] = [np.nan, np.inf, -np.inf, -0.0, 1e-42, 3e38, 3e38, 0, 1]
    nothing = dict.fromkeys(("BitsStored", "HighBit", "PixelRepresentation"))
    for tag, vr, pixels in ((0x7FE00008, "OF", floats), (0x7FE00009, "OD", floats.astype("<f8"))):
        form = {"BitsAllocated": 8 * pixels.itemsize, **nothing, **of_shape(pixels.shape), **uids(f"3.{tag}")}
        yield image(pixels.tobytes(), tag=tag, vr=vr, **form)
    after = build.element(0xFFFCFFFC, "OB", b"\0" * 20)
    yield image(bytes(range(48)) + b"surplus!", after=after, **uids("4.0"))
    yield image(encapsulated(), RLE, vr="OB", length=UNDEFINED, NumberOfFrames="2", **uids("5.0"))
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    deflated = packer.compress(bytes(range(48))) + packer.flush()
    value = encapsulate([[deflated + b"\0" * (len(deflated) % 2)]], table=False)
    yield image(value, "1.2.840.10008.1.2.8.1", vr="OB", length=UNDEFINED, **uids("6.0"))
    named = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.11", "Modality": "SR", **uids("7.0")}
    yield part10(build.named(**named))


def of_shape(shape: tuple[int, ...]) -> dict[str, int]:
    return {"Rows": shape[0], "Columns": shape[1]}


def encapsulated() -> bytes:
    """Two RLE frames of 4 x 6 words of 16 bits, the second in two fragments: literals, repeats, padding."""
    high, low = b"\x05" + bytes(range(6)) + b"\xef\x07", b"\x17" + bytes(range(100, 124)) + b"\x80"
    header = struct.pack("<16I", 2, 64, 64 + len(high) + 1, *[0] * 13)
    frame = header + high + b"\0" + low + b"\0" * (len(high + low) % 2 == 0)
    frame += b"\0" * (len(frame) % 2)
    return encapsulate([[frame], [frame[:40], frame[40:]]])


def stack(series: str, times: int) -> list[bytes]:
    """A volume of three planes (``times`` of them), the files not in the order of their positions."""
    found = []
    for number, (z, t) in enumerate(itertools.product((2, 0, 1), range(times))):
        words = smooth((1, 1, 20, 70), 12, number)
        found.append(
            image(
                native_bytes(words, {"bits_allocated": 16, "planar": 0}, False, False),
                **of_shape((20, 70)),
                **AXIAL,
                SeriesInstanceUID=f"1.2.3.4.{series}",
                SOPInstanceUID=f"1.2.3.5.{series}.{number}",
                InstanceNumber=str(number),
                TemporalPositionIdentifier=str(t),
                ImagePositionPatient=[0, 0, 2.5 * z],
            )
        )
    return found


def write_tiffs(folder: Path) -> None:
    """Plain ones of every layout, and such as are metadata-exact only."""
    folder.mkdir(parents=True)
    dtypes = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "c8", "c16")
    for number, (dtype, order, big, tile, planar) in enumerate(
        zip(
            dtypes,
            itertools.cycle("<>"),
            itertools.cycle((0, 0, 1)),
            itertools.cycle((None, (16, 32))),
            itertools.cycle((0, 0, 0, 1, 1)),
        )
    ):
        shape = (3, 45, 70) if number % 3 else (45, 70)
        words = signed(smooth(shape, min(8 * np.dtype(dtype).itemsize, 31), number), dtype)
        built = page(
            words, order=order, rows=7, tile=tile, planar=bool(planar), absent=[1] if number == 2 else []
        )
        data = tiff([built], order=order, big=bool(big), gap=b"gap" if number % 2 else b"").data
        (folder / f"plain-{dtype}.tif").write_bytes(data)
    wide = smooth((2, 10, 1000), 9, 5).astype("f4")
    wide[:, 3, 5:400] = np.nan
    wide[0, :, 600:700] = -9999
    wide[1, 2, 710:720] = [np.inf, -np.inf, 1e38, 3e38, -0.0, -0.0, 0, -1e38, 1e-40, 7]
    values = {42113: (ASCII, b"-9999\0")}
    (folder / "nodata-float.tif").write_bytes(tiff([page(wide, tags=values)]).data)
    for dtype in ("i2", "u4"):
        words = signed(smooth((11, 1000), 15, 6), dtype)
        words[:, 200:300] = 77
        (folder / f"nodata-{dtype}.tif").write_bytes(tiff([page(words, tags={42113: (ASCII, b"77\0")})]).data)
        (folder / f"low-{dtype}.tif").write_bytes(tiff([page(smooth((11, 1000), 15, 7).astype(dtype))]).data)
    palette = {262: (SHORT, [3]), 320: (SHORT, [*range(768)])}
    classes = (smooth((300, 21), 8, 8) // 60).astype("u1")
    (folder / "classes.tif").write_bytes(tiff([page(classes, tags=palette)]).data)
    write_masked(folder / "masked.tif", smooth((2, 30, 600), 10, 9).astype("u2"))
    write_masked(folder / "masked-classes.tif", smooth((1, 30, 600), 8, 10).astype("u1"))
    (folder / "masked.tfw").write_text("a sidecar")


def signed(words: Array, dtype: str) -> Array:
    """As ``dtype``; about half of them negative where it can be."""
    return (words - words.max() // 2 if dtype[0] != "u" else words).astype(dtype)


def write_masked(path: Path, words: Array) -> None:
    """With a mask, and with a palette where there is one band."""
    count, height, width = words.shape
    mask = np.full((height, width), 255, np.uint8)
    mask[3:20, 40:333] = 0
    form = {"count": count, "height": height, "width": width, "dtype": words.dtype.name}
    with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="GTiff", compress="deflate", **form) as dataset:
            dataset.write(words)
            dataset.write_mask(mask)
            if count == 1:
                dataset.write_colormap(1, {i: (i, i, i) for i in range(256)})


@pytest.fixture(scope="module", params=["resolution", "size"])
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """``in``, and ``archive`` made of it."""
    folder = tmp_path_factory.mktemp("independent")
    for name, content in dicom_files().items():
        path = folder / "in" / "dicom" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    write_tiffs(folder / "in" / "tiff")
    result = tilevault.add([folder / "in"], folder / "archive", tile=64, prefer=request.param)
    problems = [r for r in (*result.images, *result.files) if r.code]
    assert result.totals["exit_code"] == 0, problems
    return folder


@pytest.fixture(scope="module")
def read(folder: Path) -> dict[str, independent_reader.Image]:
    """Every image by the independent reader."""
    archive = folder / "archive"
    return {name: independent_reader.open_image(archive, name) for name in independent_reader.images(archive)}


# --- what comes out --------------------------------------------------------------------------------------


def test_the_reader_imports_nothing_of_the_package() -> None:
    source = Path(independent_reader.__file__).read_text()
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).split(".")[0])
    foreign = imported - sys.stdlib_module_names
    assert foreign == {"numpy", "zstandard", "blake3", "google_crc32c", "learned_twin", "lossless_twin"}


def test_the_collection_has_every_kind_of_image(read: dict[str, independent_reader.Image]) -> None:
    found = [found.description for found in read.values()]
    prefer = {d["codec"]["configuration"].get("prefer") for d in found if d["codec"]} - {None}
    low_bands = {"lowpass53"} if prefer == {"resolution"} else set()  # tiles for their size have none
    assert {d["downsampling"] for d in found} == {"mean", "nearest", None} | low_bands
    assert {d["round_trip"] for d in found} == {"file-exact", "metadata-exact"}
    assert {d["codec"]["name"] for d in found if d["codec"]} == {"tilevault.lossless", "tilevault.frame"}
    assert {k for d in found for k in d["levels"]} == {0, 3, 4, 5}
    infos = [d["info"] for d in found if d["info"]]
    assert len({info["dtype"] for info in infos}) == 12
    axes = {"".join(name[0] for name in info["axes"]) for info in infos}
    assert axes == {"yx", "cyx", "zyx", "tzyx", "fyx", "fcyx"}


def test_words_and_masks(folder: Path, read: dict[str, independent_reader.Image]) -> None:
    for name, ours in tilevault.Archive.open(folder / "archive").items():
        if ours.info is None:
            assert read[name].info is None
            continue
        equal(read[name].words(), ours.words[...], name, exact=True)
        equal(read[name].values(), ours[...], name, exact=True)
        if ours.info.has_mask:
            equal(read[name].words("mask"), ours.read_mask(), name)
        np.testing.assert_array_equal(read[name].plain("quality/bits"), ours.quality.bits)


def test_levels(folder: Path, read: dict[str, independent_reader.Image]) -> None:
    """Level by level: the definition, what the package reads, and what is stored are one."""
    for name, ours in tilevault.Archive.open(folder / "archive").items():
        for level in ours.levels:
            made = read[name].level(level)
            equal(made, ours.read(level=level), f"{ours.description.name}, level {level}")
            assert read[name].has_array(read[name].path(level)) == (level in ours.stored_levels)
            if level and level in ours.stored_levels:
                equal(made, read[name].plain(read[name].path(level)), name)
            if ours.info is not None and ours.info.has_mask:
                equal(read[name].level(level, "mask"), ours.read_mask(level=level), name)
                if level and level in ours.stored_levels:
                    equal(read[name].level(level, "mask"), read[name].plain(f"{level}/mask"), name)


def equal(a: Array, b: Array, where: str, exact: bool = False) -> None:
    """Bit for bit; but for ``exact`` any NaN is as good as another, since arithmetic made it."""
    assert (a.dtype, a.shape) == (b.dtype, b.shape), where
    if not exact and a.dtype.kind == "f":
        a, b = (np.where(np.isnan(x), x.dtype.type(np.nan), x) for x in (a, b))
    assert a.tobytes() == b.tobytes(), where


def test_files(folder: Path, read: dict[str, independent_reader.Image]) -> None:
    seen = set()
    for found in read.values():
        for i, file in enumerate(found.files):
            seen.add(file["name"])
            if found.description["round_trip"] == "file-exact" or file["format"] == "sidecar":
                assert found.rebuild(i) == (folder / "in" / file["name"]).read_bytes(), file["name"]
            else:
                assert file["name"] in ("tiff/masked.tif", "tiff/masked-classes.tif")
    assert seen == {
        p.relative_to(folder / "in").as_posix() for p in (folder / "in").rglob("*") if p.is_file()
    }


def test_objects(read: dict[str, independent_reader.Image]) -> None:
    for found in read.values():
        found.check_objects()


def test_several_shards(tmp_path: Path) -> None:
    words = np.full((4108, 4116), 40_000, np.uint16)
    words[4096:, 4096:] = smooth((12, 20), 16)
    words[:8, 4096:] = smooth((8, 20), 12)
    (tmp_path / "large.tif").write_bytes(tiff([page(words, rows=64)]).data)
    assert tilevault.add([tmp_path / "large.tif"], tmp_path / "archive").totals["exit_code"] == 0
    (name,) = independent_reader.images(tmp_path / "archive")
    found = independent_reader.open_image(tmp_path / "archive", name)
    shape, shard = found.info["shape"], found.description["shard"]
    assert prod(-(-n // s) for n, s in zip(shape, shard, strict=True)) > 1
    np.testing.assert_array_equal(found.words(), words)
    assert found.rebuild(0) == (tmp_path / "large.tif").read_bytes()
    for level in found.description["levels"][1:]:
        equal(found.level(level), found.plain(found.path(level)), str(level))


@pytest.mark.parametrize("bound", ["max-error=3", "psnr=38"])
def test_lossy_images(tmp_path: Path, bound: str) -> None:
    words = smooth((40, 70), 12).astype(np.uint16)
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.dcm").write_bytes(image(words.tobytes(), **of_shape((40, 70))))
    holed = words.copy()
    holed[3:20, 30:60] = 0
    for dtype, nodata in (("uint16", 0), ("float32", "nan")):
        content = holed.astype(dtype)
        if dtype == "float32":
            content[content == 0] = np.nan
        form = {"width": 70, "height": 40, "count": 2, "dtype": dtype, "nodata": nodata}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(source / f"{dtype}.tif", "w", driver="GTiff", **form) as out:
                out.write(np.stack([content, content]))
    result = tilevault.add([source], tmp_path / "a", lossy=bound)
    assert [i.status for i in result.images] == ["added"] * 3
    archive = tilevault.Archive.open(tmp_path / "a")
    for name in independent_reader.images(tmp_path / "a"):
        found, ours = independent_reader.open_image(tmp_path / "a", name), archive[name]
        found.check_objects()
        assert ours.round_trip == "lossy"
        assert found.words().tobytes() == ours.words[...].tobytes()
        for level in (1, 3):
            equal(found.level(level), ours.read(level=level), f"{name} level {level}")
        for measure in ours.quality.measures:
            assert np.array_equal(found.plain(f"quality/{measure}"), ours.quality.tables.arrays[measure])


def test_late_instances_and_removal(tmp_path: Path) -> None:
    folder, archive = tmp_path / "in", tmp_path / "archive"
    folder.mkdir()
    contents = stack("8.1", times=1)
    for number, content in enumerate(contents):
        (folder / f"{number}.dcm").write_bytes(content)
        assert tilevault.add([folder], archive).totals["exit_code"] == 0
    (name,) = independent_reader.images(archive)
    found = independent_reader.open_image(archive, name)
    assert len(independent_reader.commits(archive, name)) == 3
    assert sorted(found.rebuild(i) for i in range(3)) == sorted(contents)
    tilevault.Archive.open(archive).remove(name)
    assert independent_reader.images(archive) == []
    with pytest.raises(Damaged):
        independent_reader.open_image(archive, name)
    assert tilevault.add([folder], archive).totals["exit_code"] == 0
    assert [r["generation"] is None for r in independent_reader.commits(archive, name)] == [False] * 3 + [
        True,
        False,
    ]
    assert sorted(independent_reader.open_image(archive, name).rebuild(i) for i in range(3)) == sorted(
        contents
    )


def test_a_changed_byte_in_any_object_is_noticed(folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    shutil.copytree(folder / "archive", archive)
    rng = np.random.default_rng(5)
    name = independent_reader.images(archive)[0]
    paths = [
        archive / "archive.json",
        *(archive / "commits" / name).rglob("*"),
        *(archive / "images" / name).rglob("*"),
    ]
    for path in paths:
        if not path.is_file():
            continue
        data = path.read_bytes()
        changed = bytearray(data)
        changed[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises((Damaged, ValueError, KeyError)):
            independent_reader.open_image(archive, name).check_objects()
        path.write_bytes(data)
    independent_reader.open_image(archive, name).check_objects()
