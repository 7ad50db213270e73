"""What went in comes out, under a name that can do no harm, or nothing comes out at all."""

import hashlib
import io
import os
import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Picture
from pydicom.dataset import FileDataset

import collection
from test_damage import write_masked
from tilevault.archive.formats import geotiff
from tilevault.archive.store import Archive
from tilevault.codecs.errors import (
    AccessDenied,
    Conflict,
    ImageNotFound,
    InvalidRequest,
    StoreFull,
    TilevaultError,
    UnsafeName,
)
from tilevault.workflows import placing as placing_module
from tilevault.workflows.export import Exported, export
from tilevault.workflows.ingest import add
from tilevault.workflows.names import ExportNames, contained
from tilevault.workflows.placing import os_failure, placed


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    collection.write_ct_series(folder / "ct", slices=3, side=96)
    collection.write_scene(folder / "maps" / "scene.tif", side=300)
    (folder / "maps" / "scene.tfw").write_text("10\n0\n0\n-10\n399965\n5200015\n")
    write_report_object(folder / "report.dcm", folder / "ct" / "IM000000")
    return folder


def write_report_object(path: Path, like: Path) -> None:
    """A DICOM object without pixels."""
    ds: FileDataset = pydicom.dcmread(like)
    del ds.PixelData
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = "1.2.3.4.5"
    ds.SeriesInstanceUID, ds.Modality = "1.2.3.4", "SR"
    ds.save_as(path, enforce_file_format=True)


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "a"
    assert add([source], path, tile=64).totals["exit_code"] == 0
    return path


@pytest.fixture
def archive(whole: Path, tmp_path: Path) -> Archive:
    shutil.copytree(whole, tmp_path / "a")
    return Archive.open(tmp_path / "a")


def files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def by_source(results: list[Exported]) -> dict[str, Exported]:
    return {result.source: result for result in results}


def scene(archive: Archive) -> Any:
    return archive["maps/scene.tif"]


def flip_tile(archive: Archive, name: str, at: tuple[int, ...]) -> None:
    image = archive[name]
    reader = image.readers["data"]
    shard, _ = reader.array.grid.shard_of(at)
    offset, length = reader._locate(at)
    path = image.path / reader.array.shard_key(shard)
    data = bytearray(path.read_bytes())
    data[offset + length // 2] ^= 1
    path.write_bytes(data)


# -- original ----------------------------------------------------------------------------------------------


def test_everything_comes_back(archive: Archive, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    results = by_source(export(archive, None, out))
    before, after = files(source), files(out)
    assert set(after) == set(before) == set(results)
    for name, result in results.items():
        assert result.status == "written"
        assert result.sha256 == hashlib.sha256(after[name]).hexdigest()
        assert result.bytes == len(after[name])
        if name == "maps/scene.tif":
            assert result.proof == "metadata-exact"
            assert geotiff.compare(source / name, out / name) == []
        else:
            assert after[name] == before[name]
            assert result.proof in ("file-exact", "verbatim")


def test_exports_are_private(archive: Archive, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        for format in ("original", "cog", "npy", "png"):
            export(archive, None, tmp_path / "out" / format, format)
    finally:
        os.umask(before)
    for path in (tmp_path / "out").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_a_second_export_finds_the_first(archive: Archive, tmp_path: Path) -> None:
    export(archive, None, tmp_path / "out")
    before = {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in (tmp_path / "out").rglob("*.*")}
    assert {result.status for result in export(archive, None, tmp_path / "out")} == {"present"}
    assert before == {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in (tmp_path / "out").rglob("*.*")}


def test_nothing_is_overwritten(archive: Archive, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "ct").mkdir(parents=True)
    (out / "ct" / "IM000001").write_bytes(b"mine")
    results = by_source(export(archive, None, out))
    assert (results["ct/IM000001"].status, results["ct/IM000001"].code) == ("failed", "Conflict")
    assert results["ct/IM000001"].exit_code == 7
    assert (out / "ct" / "IM000001").read_bytes() == b"mine"
    assert [r.status for r in results.values()].count("written") == len(files(source)) - 1


def test_chosen_images_only(archive: Archive, tmp_path: Path) -> None:
    results = export(archive, ["maps/scene.tif", scene(archive).id[:8]], tmp_path / "out")
    assert {result.image for result in results} == {scene(archive).id}
    with pytest.raises(ImageNotFound):
        export(archive, ["maps/scene.tif", "nowhere"], tmp_path / "none")
    with pytest.raises(InvalidRequest):
        export(archive, None, tmp_path / "none", "jpeg")
    assert not (tmp_path / "none").exists()


def test_results_are_told_in_order(archive: Archive, tmp_path: Path) -> None:
    told: list[Exported] = []
    results = export(archive, None, tmp_path / "out", tell=told.append, workers=3)
    assert told == results


# -- damage ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["original", "npy", "cog"])
def test_a_damaged_tile_gives_no_file(archive: Archive, tmp_path: Path, format: str) -> None:
    flip_tile(archive, "maps/scene.tif", (0, 1, 1))
    results = by_source(export(archive, None, tmp_path / "out", format))
    result = results["maps/scene.tif"]
    assert (result.status, result.code, result.exit_code) == ("failed", "TileCorrupt", 4)
    left = files(tmp_path / "out")
    assert not [name for name in left if name.startswith("maps/scene.") and not name.endswith(".tfw")]
    assert not [name for name in left if ".tilevault" in name]
    assert {r.status for n, r in results.items() if n.startswith("ct/")} <= {"written", "skipped"}


def test_damage_in_one_slice_leaves_the_others(archive: Archive, source: Path, tmp_path: Path) -> None:
    assert archive["ct/IM000000"].grid.tile[0] == 1
    flip_tile(archive, "ct/IM000000", (1, 0, 0))
    results = by_source(export(archive, None, tmp_path / "out"))
    failed = {name for name, result in results.items() if result.status == "failed"}
    assert failed == {"ct/IM000001"}
    assert results["ct/IM000001"].exit_code == 4
    assert set(files(tmp_path / "out")) == set(files(source)) - failed


def test_lost_headers_leave_the_other_images(archive: Archive, source: Path, tmp_path: Path) -> None:
    image = archive["ct/IM000000"]
    for key in [entry.key for entry in image.manifest.objects if entry.key.startswith("source/blocks/")]:
        (image.path / key).unlink()
    results = by_source(export(archive, None, tmp_path / "out"))
    failed = {name for name, result in results.items() if result.status == "failed"}
    assert failed == {"ct/IM000000", "ct/IM000001", "ct/IM000002"}
    assert {(results[name].code, results[name].exit_code) for name in failed} == {("TileMissing", 4)}
    assert set(files(tmp_path / "out")) == set(files(source)) - failed


def test_an_image_that_cannot_be_opened_is_one_failure(archive: Archive, tmp_path: Path) -> None:
    image = scene(archive)
    (image.path / "manifest.json").write_bytes(b"{}")
    results = export(archive, [image.id, "report.dcm"], tmp_path / "out")
    assert [(r.status, r.exit_code) for r in results] == [("failed", 4), ("written", 0)]


def test_a_file_that_comes_out_wrong_is_not_written(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tilevault.archive.source import Source

    honest = Source.rebuild
    monkeypatch.setattr(Source, "rebuild", lambda self, i: iter([*honest(self, i), b"\0"]))
    results = export(archive, ["ct/IM000000"], tmp_path / "out")
    assert {(r.status, r.code) for r in results} == {("failed", "TileCorrupt")}
    assert files(tmp_path / "out") == {}


def test_a_geotiff_that_comes_out_wrong_is_not_written(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = geotiff.write_original

    def wrong(path: Path, image: Any, read: Any, read_mask: Any, verbatim: Any) -> None:
        honest(path, image, lambda window: read(window) + (window.start[-2] == 0), read_mask, verbatim)

    monkeypatch.setattr(geotiff, "write_original", wrong)
    (result, *_) = export(archive, ["maps/scene.tif"], tmp_path / "out")
    assert (result.status, result.code) == ("failed", "VerifyAfterEncodeFailed")
    assert "maps/scene.tif" not in files(tmp_path / "out")


def test_a_full_disk_is_said_so_and_leaves_nothing(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(placing_module.os, "fsync", full)
    results = export(archive, ["ct/IM000000"], tmp_path / "out")
    assert {(r.status, r.code, r.exit_code) for r in results} == {("failed", "StoreFull", 6)}
    assert files(tmp_path / "out") == {}


# -- other formats -------------------------------------------------------------------------------------------


def test_npy_is_the_image(archive: Archive, source: Path, tmp_path: Path) -> None:
    results = by_source(export(archive, None, tmp_path / "out", "npy"))
    with rasterio.open(source / "maps" / "scene.tif") as dataset:
        expected = dataset.read()
    made = np.load(tmp_path / "out" / "maps" / "scene.npy", allow_pickle=False)
    assert made.dtype == expected.dtype
    np.testing.assert_array_equal(made, expected)
    ct = next(r for r in results.values() if r.path and r.path.endswith(".npy") and "scene" not in r.path)
    slices = [pydicom.dcmread(source / "ct" / f"IM00000{i}").pixel_array for i in range(3)]
    np.testing.assert_array_equal(np.load(str(ct.path), allow_pickle=False), np.stack(slices))
    assert results["report.dcm"].status == "skipped"
    assert results["report.dcm"].exit_code == 0


def test_npy_of_many_blocks(archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilevault.workflows.export.BLOCK_BYTES", 1)
    export(archive, ["maps/scene.tif"], tmp_path / "out", "npy", words=True)
    made = np.load(tmp_path / "out" / "maps" / "scene.npy", allow_pickle=False)
    np.testing.assert_array_equal(made, scene(archive).words[...])


def test_what_was_asked_for_by_name_and_cannot_be_is_a_failure(archive: Archive, tmp_path: Path) -> None:
    for name, format in (("report.dcm", "npy"), ("report.dcm", "png"), ("ct/IM000000", "cog")):
        (result,) = export(archive, [name], tmp_path / "out", format)
        assert (result.status, result.code, result.exit_code) == ("failed", "UnsupportedSyntax", 3)
    assert files(tmp_path / "out") == {}


@pytest.mark.parametrize("broken", ["pixels", "mask"])
def test_a_cog_that_differs_gets_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """What the word of proof says was compared."""
    mask = np.full((70, 80), 255, np.uint8)
    mask[:9] = 0
    write_masked(tmp_path / "in" / "m.tif", np.arange(5600, dtype=np.uint16).reshape(1, 70, 80), mask)
    add([tmp_path / "in"], tmp_path / "a")
    archive = Archive.open(tmp_path / "a")
    assert [r.proof for r in export(archive, None, tmp_path / "good", "cog")] == ["pixel-exact"]
    honest = geotiff.write_cog

    def wrong(path: Path, image: Any, read: Any, read_mask: Any, verbatim: Any) -> None:
        if broken == "pixels":
            honest(path, image, lambda window: read(window) + 1, read_mask, verbatim)
        else:
            bare = replace(image, info=replace(image.info, has_mask=False))
            honest(path, bare, read, read_mask, verbatim)

    monkeypatch.setattr(geotiff, "write_cog", wrong)
    (done,) = export(archive, None, tmp_path / "out", "cog")
    assert (done.status, done.code) == ("failed", "VerifyAfterEncodeFailed")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_cog_is_valid_and_holds_the_same_pixels(archive: Archive, source: Path, tmp_path: Path) -> None:
    cogeo = pytest.importorskip("rio_cogeo.cogeo")
    (done,) = export(archive, ["maps/scene.tif"], tmp_path / "out", "cog")
    assert done.proof == "pixel-exact"
    path = tmp_path / "out" / "maps" / "scene.tif"
    assert cogeo.cog_validate(path, quiet=True)[0]
    with rasterio.open(path) as made, rasterio.open(source / "maps" / "scene.tif") as original:
        np.testing.assert_array_equal(made.read(), original.read())
        assert (made.crs, made.transform, made.nodata) == (original.crs, original.transform, original.nodata)


def test_png_is_a_picture(archive: Archive, tmp_path: Path) -> None:
    results = export(archive, None, tmp_path / "out", "png")
    sizes = {Picture.open(io.BytesIO(data)).size for data in files(tmp_path / "out").values()}
    assert sizes == {(96, 96), (300, 300)}
    assert {r.proof for r in results if r.status == "written"} == {"preview"}


# -- names ---------------------------------------------------------------------------------------------------

HOSTILE = [
    "",
    "/etc/passwd",
    "../up",
    "a/../../up",
    "a//b",
    "./a",
    "a/.",
    "a/",
    "a\\b",
    "..\\up",
    "C:/x",
    "a:b",
    "con",
    "NUL.txt",
    "a/Com1.dcm",
    "LPT¹",
    "trailing.",
    "trailing ",
    " leading",
    "a\0b",
    "a\nb",
    "a\x1b[2Jb",
    "\u202egnp.exe",
    "a\udcffb",
    "a?b",
    "x" * 241,
    "é" * 121,
    "/".join("x" * 33),
    "/".join(["y" * 200] * 6),
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused(name: str) -> None:
    with pytest.raises(UnsafeName):
        contained(name)


@pytest.mark.parametrize("name", HOSTILE)
def test_files_with_hostile_names_get_others(name: str) -> None:
    uids = ["1.2.3", "1.2.3.4"]
    assert ExportNames().claim(name, "ab" * 32, uids, ".dcm") == ("1.2.3", "1.2.3.4.dcm")
    assert ExportNames().claim(name, "ab" * 32, [], ".tif") == ("ab" * 32 + ".tif",)
    assert ExportNames().claim(name, "ab" * 32, ["../..", "x"], ".dcm") == ("ab" * 32 + ".dcm",)


@pytest.mark.parametrize(
    "name", ["a", "a/b c/IM000001", "ä/ö.dcm", "日本/画像.dcm", ".hidden", "x" * 240, "a.b.c"]
)
def test_harmless_names_are_kept(name: str) -> None:
    assert "/".join(ExportNames().claim(name, "ab" * 32, [], ".dcm")) == name


def test_collisions_get_other_names() -> None:
    names = ExportNames()
    assert names.claim("a/IM1", "11" * 32, ["1.2", "3"], ".dcm") == ("a", "IM1")
    assert names.claim("a/IM1", "11" * 32, ["1.2", "3"], ".dcm") == ("a", "IM1")
    assert names.claim("a/IM1", "22" * 32, ["1.2", "4"], ".dcm") == ("1.2", "4.dcm")
    assert names.claim("A/im1", "33" * 32, ["1.2", "5"], ".dcm") == ("1.2", "5.dcm")
    assert names.claim("a", "44" * 32, ["1.2", "6"], ".dcm") == ("1.2", "6.dcm")
    assert names.claim("a/IM1/b", "55" * 32, ["1.2", "6"], ".dcm") == ("55" * 32 + ".dcm",)
    composed, decomposed = (unicodedata.normalize(form, "é.dcm") for form in ("NFC", "NFD"))
    assert names.claim(composed, "66" * 32, [], "") == (composed,)
    assert names.claim(decomposed, "77" * 32, [], "") == ("77" * 32,)


@given(st.lists(st.tuples(st.text(max_size=6), st.sampled_from(["11", "22", "33"])), max_size=12))
def test_any_names_stay_inside_and_apart(wanted: list[tuple[str, str]]) -> None:
    names, taken = ExportNames(), {}
    for i, (name, digest) in enumerate(wanted):
        parts = names.claim(name, digest * 32, ["1.2", str(i)], ".dcm")
        assert parts
        assert not {"", ".", ".."} & set(parts)
        assert "/" not in "".join(parts)
        folded = "/".join(parts).casefold()
        assert taken.setdefault(folded, digest) == digest
    for path in taken:
        assert not any(other.startswith(f"{path}/") for other in taken)


def test_hostile_names_in_an_archive_stay_in_the_folder(
    archive: Archive, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    from tilevault.archive.source import Source

    real = Source.files.func  # type: ignore[attr-defined]  # a cached_property
    hostile = {
        "ct/IM000000": "../../../outside",
        "ct/IM000001": "/etc/outside",
        "ct/IM000002": "ct/im\x1b[2J",
    }

    def renamed(self: Source) -> Any:
        return tuple(dataclasses.replace(f, name=hostile.get(f.name, f.name)) for f in real(self))

    monkeypatch.setattr(Source, "files", property(renamed))
    out = tmp_path / "deep" / "er" / "out"
    results = export(archive, [archive.search({"Modality": "CT"}).__next__().id], out)
    assert {(r.status, r.renamed) for r in results} == {("written", True)}
    assert not list(tmp_path.rglob("*outside*"))
    made = sorted(hashlib.sha256(data).hexdigest() for data in files(out).values())
    assert made == sorted(hashlib.sha256(p.read_bytes()).hexdigest() for p in (source / "ct").iterdir())


def test_sidecars_follow_their_file(source: Path, tmp_path: Path) -> None:
    """Two scenes of one name with sidecars: the second pair is renamed together."""
    for number in (1, 2):
        folder = tmp_path / str(number)
        collection.write_scene(folder / "scene.tif", side=96, seed=number)
        (folder / "scene.tfw").write_text(f"{number}\n0\n0\n-10\n399965\n5200015\n")
    archive = tmp_path / "a"
    assert add([tmp_path / "1"], archive).totals["exit_code"] == 0
    assert add([tmp_path / "2"], archive).totals["exit_code"] == 0
    results = export(Archive.open(archive), None, tmp_path / "out")
    assert [r.status for r in results] == ["written"] * 4
    stems = {Path(str(r.path)).stem for r in results}
    assert len(stems) == 2
    assert "scene" in stems
    assert [r.renamed for r in results] == [False, False, True, True]


# -- placing -------------------------------------------------------------------------------------------------


def put(root: Path, *parts: str, data: bytes = b"x") -> str:
    with placed(root, parts) as placing:
        placing.write_pieces(iter([data]))
        return placing.settle()


def test_a_link_on_the_way_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "ct").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TilevaultError):
        put(tmp_path / "out", "ct", "x")
    assert files(tmp_path / "elsewhere") == {}


def test_a_link_under_the_name_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "target").write_bytes(b"x")
    for target in (tmp_path / "target", tmp_path / "absent"):
        (tmp_path / "out" / "x").symlink_to(target)
        with pytest.raises(Conflict):
            put(tmp_path / "out", "x")
        (tmp_path / "out" / "x").unlink()
    assert not (tmp_path / "absent").exists()


def test_file_systems_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: Any, **__: Any) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(placing_module.os, "link", no_links)
    assert [put(tmp_path / "out", "a", "x") for _ in range(2)] == ["written", "present"]
    with pytest.raises(Conflict):
        put(tmp_path / "out", "a", "x", data=b"y")
    assert files(tmp_path / "out") == {"a/x": b"x"}


def test_nothing_is_left_when_writing_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), placed(tmp_path / "out", ("a", "x")) as placing:
        placing.write_pieces(bytes(1 // n) for n in (1, 0))
    assert files(tmp_path / "out") == {}


def test_system_errors_become_ours(tmp_path: Path) -> None:
    assert isinstance(os_failure(OSError(28, "full"), "x"), StoreFull)
    assert isinstance(os_failure(OSError(13, "no"), "x"), AccessDenied)
    assert isinstance(os_failure(OSError(2, "absent"), "x"), InvalidRequest)
    assert os_failure(OSError(5, "io"), "x").exit_code == 5
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidRequest), placed(tmp_path / "file", ("x",)):
        pytest.fail("there is no such folder")
