"""The command line from end to end: what a person types, what a program reads, and no traceback ever."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import rasterio
from PIL import Image as Picture

import collection
import tilevault
from test_damage import write_masked
from tilevault import Archive
from tilevault.codecs.errors import AccessDenied, Conflict, StoreFull, StoreUnavailable, TilevaultError
from tilevault.workflows.cli import build_parser, main

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = [sys.executable, "-m", "tilevault.workflows.cli"]
HOSTILE = "Doe^\x1b]0;owned\x07J\x1b[31mane\u202e"

Run = Callable[..., tuple[int, list[dict[str, Any]], str]]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    collection.write_ct_series(folder / "ct", slices=3, side=96)
    collection.write_scene(folder / "maps" / "scene.tif", side=300)
    (folder / "README.txt").write_text("no image")
    cut = (folder / "ct" / "IM000000").read_bytes()[:10_000]
    (folder / "cut.dcm").write_bytes(cut)
    ds = pydicom.dcmread(folder / "ct" / "IM000000")
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName, ds.PatientID, ds.SeriesInstanceUID, ds.SOPInstanceUID = (
        HOSTILE,
        "[red]x[/red]",
        "1.2.3",
        "1.2.3.4",
    )
    ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    ds.save_as(folder / "evil\x1b[2J.dcm")
    return folder


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "a"
    assert main(["add", str(source), str(path), "--tile", "64", "--json"]) == 3
    return path


@pytest.fixture
def archive(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "a")
    return tmp_path / "a"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process: exit code, JSON records, standard error."""

    def runner(*arguments: object, text: bool = False) -> tuple[int, list[dict[str, Any]], str]:
        capsys.readouterr()
        code = main([str(a) for a in arguments] + ([] if text else ["--json"]))
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        assert not set(out + err) & {"\x1b", "\x07", "\u202e"}
        if text:
            return code, [{"text": out}], err
        assert out.isascii()
        return code, [json.loads(line) for line in out.splitlines()], err

    return runner


def shell(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def of_type(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record for record in records if record["type"] == kind]


# -- what the documentation promises ------------------------------------------------------------------------


def documented_keys() -> dict[tuple[str, str], set[str]]:
    """Command and record type -> keys, read from the tables of docs/cli.md."""
    found: dict[tuple[str, str], set[str]] = {}
    command = ""
    for line in (ROOT / "docs" / "cli.md").read_text().splitlines():
        if heading := re.match(r"## `tilevault (\w+)`", line):
            command = heading[1]
        if row := re.match(r"\| `(\w+)` \| (.*?) \|", line):
            found[command, row[1]] = set(re.findall(r"`(\w+)`", row[2]))
    return found


def check_keys(command: str, records: list[dict[str, Any]]) -> None:
    keys = documented_keys()
    for record in records:
        kind = record["type"]
        documented = keys.get((command, kind)) or keys["", kind]
        if kind == "error":
            assert documented <= set(record)
        else:
            assert set(record) - {"type"} == documented, f"{command} {kind}"


def test_every_command_and_option_is_documented() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    (commands,) = [a for a in build_parser()._actions if isinstance(a.choices, dict)]
    for name, parser in commands.choices.items():
        section = text.partition(f"## `tilevault {name}`")[2].partition("\n## ")[0]
        assert section, name
        for action in parser._actions:
            option = max(action.option_strings, key=len, default=None)
            if option not in (None, "--help", "--json", "--debug"):
                assert f"`{option}" in section, f"{name} {option}"


# -- usage --------------------------------------------------------------------------------------------------


def test_version_is_quick() -> None:
    """Measured as processor time: a busy machine does not make the program slower to start."""
    times = []
    for _ in range(3):
        before = os.times()
        done = shell("--version")
        after = os.times()
        times.append(
            after.children_user + after.children_system - before.children_user - before.children_system
        )
        assert (done.returncode, done.stdout) == (0, f"tilevault {tilevault.__version__}\n")
    assert min(times) < 0.3


@pytest.mark.parametrize("arguments", [[], ["frobnicate"], ["add"], ["read", "a", "b"]])
def test_usage_is_exit_2(arguments: list[str]) -> None:
    done = shell(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "usage: tilevault" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_no_archive(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "absent", tmp_path, tmp_path / "file"):
        for command in (
            ["ls"],
            ["verify"],
            ["export", "-o", tmp_path / "out"],
            ["rm", "--yes", "x"],
            ["info", "x"],
        ):
            code, records, err = run(command[0], path, *command[1:])
            assert code == 3, (command, path)
            (error,) = of_type(records, "error")
            assert error["exit_code"] == 3
            assert err.startswith("tilevault: ")
    assert not (tmp_path / "out").exists()


# -- add ----------------------------------------------------------------------------------------------------


def test_add_says_what_became_of_everything(run: Run, source: Path, tmp_path: Path) -> None:
    code, records, _ = run("add", source, tmp_path / "a", "--receipt", tmp_path / "receipt.json")
    assert code == 3
    check_keys("add", records)
    images = {record["name"]: record for record in of_type(records, "image")}
    assert len(images) == 3
    scene = images["maps/scene.tif"]
    assert scene["sources"] == ["maps/scene.tif"]
    assert (scene["status"], scene["round_trip"]) == ("added", "metadata-exact")
    assert scene["bytes_source"] == (source / "maps" / "scene.tif").stat().st_size
    assert scene["bytes_stored"] > 0
    refused = {record["source"]: record for record in of_type(records, "file")}
    assert refused["README.txt"]["status"] == "skipped"
    assert (refused["cut.dcm"]["status"], refused["cut.dcm"]["code"]) == ("rejected", "TruncatedSource")
    assert records[-1]["type"] == "receipt"
    (total,) = of_type(records, "total")
    assert (total["images"], total["added"], total["skipped"], total["rejected"]) == (3, 3, 1, 1)
    assert total["exit_code"] == 3
    receipt = json.loads((tmp_path / "receipt.json").read_text())
    assert {entry["image"] for entry in receipt["images"]} == {image["image"] for image in images.values()}

    code, records, _ = run("add", source / "ct", source / "maps", tmp_path / "a")
    assert code == 0
    assert {record["status"] for record in of_type(records, "image")} == {"present"}
    assert run("verify", tmp_path / "a", "--against", tmp_path / "receipt.json")[0] == 0


def test_a_dry_run_writes_nothing(run: Run, source: Path, tmp_path: Path) -> None:
    code, records, _ = run("add", source / "maps", tmp_path / "a", "--dry-run")
    assert code == 0
    assert [record["status"] for record in of_type(records, "image")] == ["planned"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--report", "--receipt"])
def test_a_dry_run_has_no_report_and_no_receipt(source: Path, tmp_path: Path, option: str) -> None:
    done = shell("add", source / "maps", tmp_path / "a", "--dry-run", option, tmp_path / "r.html")
    assert done.returncode == 2
    assert "--dry-run writes nothing" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_receipts_and_reports_are_refused_before_the_work(run: Run, source: Path, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    for option in ("--receipt", "--report"):
        assert run("add", source, tmp_path / "a", option, tmp_path / "there")[0] == 7
        assert run("add", source, tmp_path / "a", option, tmp_path / "no" / "folder")[0] == 3
    assert not (tmp_path / "a").exists()
    assert (tmp_path / "there").read_text() == "mine"


def test_add_writes_a_report(run: Run, source: Path, tmp_path: Path) -> None:
    code, records, _ = run(
        "add", source / "maps", tmp_path / "a", "--report", tmp_path / "r.html", "--no-thumbnails"
    )
    assert code == 0
    check_keys("add", records)
    assert "<html" in (tmp_path / "r.html").read_text()
    assert (tmp_path / "r.html").stat().st_mode & 0o777 == 0o600


def test_add_of_what_is_not_there(run: Run, tmp_path: Path) -> None:
    code, records, _ = run("add", tmp_path / "absent", tmp_path / "a")
    assert (code, records[-1]["code"]) == (3, "InvalidRequest")


def test_add_for_people(run: Run, source: Path, tmp_path: Path) -> None:
    code, ((out),), err = run("add", source, tmp_path / "a", text=True)
    assert code == 3
    lines = out["text"].splitlines()
    assert sum(line.startswith("added ") for line in lines) == 3
    assert "rejected  cut.dcm: pixel data" in out["text"]
    assert "skipped   README.txt: neither DICOM nor TIFF" in lines
    assert lines[-1].startswith("3 images of 7 files: 3 added, 1 file skipped, 1 file rejected")
    assert err == ""


# -- ls and info --------------------------------------------------------------------------------------------


def test_ls(run: Run, archive: Path) -> None:
    code, records, err = run("ls", archive)
    assert (code, err) == (0, "")
    check_keys("ls", records)
    assert len(records) == 3
    scene = next(record for record in records if record["kind"] == "geotiff")
    assert (scene["shape"], scene["axes"], scene["dtype"]) == ([4, 300, 300], ["c", "y", "x"], "uint16")
    assert scene["ratio"] == pytest.approx(scene["bytes_source"] / scene["bytes_stored"], abs=1e-3)
    assert scene["search"]["crs"] == "EPSG:32633"


@pytest.mark.parametrize(
    ("where", "count"),
    [
        (["Modality=CT"], 2),
        (["modality=ct", "PatientID=DEMO*"], 1),
        (["PatientID=[red]*"], 1),
        (["StudyDate=20240101-20241231"], 2),
        (["StudyDate=-20231231"], 0),
        (["bbox=13,46,15,48"], 1),
        (["bbox=0,0,1,1"], 0),
        (["time=2024-06"], 1),
        (["name=maps/*"], 1),
        (["SeriesInstanceUID=1.2.3"], 1),
    ],
)
def test_ls_where(run: Run, whole: Path, where: list[str], count: int) -> None:
    code, records, _ = run("ls", whole, "--where", *where)
    assert (code, len(records)) == (0, count)


def test_ls_refuses_what_makes_no_sense(run: Run, whole: Path) -> None:
    for where in ("bbox=1,2", "CT"):
        with pytest.raises(SystemExit) as exit:
            run("ls", whole, "--where", where)
        assert exit.value.code == 2


def test_ls_says_when_no_image_has_the_key(run: Run, whole: Path, tmp_path: Path) -> None:
    code, records, err = run("ls", whole, "--where", "PatientD=1", "Modality=CT")
    check_keys("ls", records)
    (warning,) = records
    assert (code, warning["type"], warning["code"], warning["key"]) == (
        0,
        "warning",
        "UnknownKey",
        "patientd",
    )
    assert "PatientID" in warning["known"]
    assert "did you mean PatientID" in err
    code, records, err = run("ls", whole, "--where", "Modality=MR")
    assert (code, records, err) == (0, [], ""), "a key that there is"
    Archive.create(tmp_path / "empty")
    assert run("ls", tmp_path / "empty", "--where", "PatientD=1") == (0, [], "")


def test_ls_shows_the_rest_when_an_image_is_damaged(run: Run, archive: Path) -> None:
    first = sorted((archive / "commits").iterdir())[0]
    (first / "0.json").write_bytes(b"{}")
    code, records, err = run("ls", archive)
    assert code == 4
    assert len(of_type(records, "image")) == 2
    (error,) = of_type(records, "error")
    assert (error["image"], error["code"]) == (first.name, "ManifestCorrupt")
    assert "ManifestCorrupt" in err


def test_ls_for_people(run: Run, whole: Path) -> None:
    code, ((out),), _ = run("ls", whole, text=True)
    assert code == 0
    lines = out["text"].splitlines()
    assert lines[0].split()[:5] == ["image", "name", "what", "shape", "dtype"]
    assert any("maps/scene.tif" in line and "4x300x300" in line and "4 bands" in line for line in lines)
    assert any("evil\\x1b[2J.dcm" in line and "CT" in line for line in lines)
    assert lines[-1].startswith("3 images, ")


def test_info(run: Run, archive: Path) -> None:
    code, records, _ = run("info", archive, "maps/scene.tif")
    assert code == 0
    check_keys("info", records)
    (info,) = records
    assert info["sources"][0]["name"] == "maps/scene.tif"
    pixels = info["pixels"]
    assert (pixels["tile"], pixels["tiles"]) == ([4, 64, 64], 25)
    assert [level["level"] for level in pixels["levels"]] == list(range(len(pixels["levels"])))
    rate = pixels["quality"]["bits_per_sample"]
    assert 0 < rate["min"] <= rate["mean"] <= rate["max"] < 17
    for name in (info["image"], info["image"][:8]):
        assert run("info", archive, name)[1] == records


def test_info_for_people(run: Run, archive: Path) -> None:
    code, ((out),), _ = run("info", archive, "1.2.3", text=True)
    assert code == 0
    for expected in (
        "search keys",
        "[red]x[/red]",
        "owned\\x07",
        "bits per sample",
        "file-exact",
        "1 source file",
    ):
        assert expected in out["text"], expected


def test_images_that_are_not_there(run: Run, archive: Path) -> None:
    for name in ("nowhere", "", "00", "../..", "\x1b[2J", "ffffffffffffffffffffffffffffffff"):
        code, records, _ = run("info", archive, name)
        assert (code, records[0]["code"]) == (3, "ImageNotFound"), name


def test_names_as_people_type_them(run: Run, archive: Path, source: Path, tmp_path: Path) -> None:
    scene = run("info", archive, "maps/scene.tif")[1]
    assert run("info", archive, "scene.tif")[1] == scene, "the last part of a name"
    evil = run("info", archive, "evil\x1b[2J.dcm")[1]
    assert run("info", archive, r"evil\x1b[2J.dcm")[1] == evil, "as ls prints it"
    for command in ("verify", "export"):
        options = ["-o", tmp_path / "out"] if command == "export" else []
        assert run(command, archive, "scene.tif", *options)[0] == 0
    code, records, err = run("info", archive, "maps/scen.tif")
    assert (code, records[0]["code"], records[0]["near"]) == (3, "ImageNotFound", ["maps/scene.tif"])
    assert "did you mean maps/scene.tif?" in err
    assert r"did you mean evil\x1b[2J.dcm?" in run("info", archive, "evil.dcm")[2]

    shutil.copytree(source / "maps", tmp_path / "other" / "deep")
    with rasterio.open(tmp_path / "other" / "deep" / "scene.tif", "r+") as dataset:
        dataset.update_tags(MADE="again")
    assert run("add", tmp_path / "other", archive)[0] == 0
    code, records, err = run("read", archive, "scene.tif", "-o", tmp_path / "x.npy")
    assert (code, len(records[0]["matches"])) == (3, 2)
    assert "2 images answer to 'scene.tif'" in err
    assert "(maps/scene.tif)" in err
    assert "(deep/scene.tif)" in err
    assert run("rm", archive, "deep/scene.tif", "--yes")[0] == 0
    assert run("rm", archive, "scene.tif", "--yes")[0] == 0


# -- read ---------------------------------------------------------------------------------------------------


def test_read_npy(run: Run, archive: Path, source: Path, tmp_path: Path) -> None:
    code, records, _ = run(
        "read", archive, "maps/scene.tif", "--window", "10:50,20:90", "-o", tmp_path / "w.npy"
    )
    assert code == 0
    check_keys("read", records)
    assert records[0]["shape"] == [4, 40, 70]
    with rasterio.open(source / "maps" / "scene.tif") as dataset:
        expected = dataset.read()[:, 10:50, 20:90]
    np.testing.assert_array_equal(np.load(tmp_path / "w.npy", allow_pickle=False), expected)
    assert (tmp_path / "w.npy").stat().st_mode & 0o777 == 0o600


def test_read_one_plane(run: Run, archive: Path, source: Path, tmp_path: Path) -> None:
    expected = pydicom.dcmread(source / "ct" / "IM000001").pixel_array
    for name, options in (("v.npy", []), ("w.npy", ["--words"])):
        run("read", archive, "ct/IM000000", "--index", "z=1", "-o", tmp_path / name, *options)
        made = np.load(tmp_path / name, allow_pickle=False).squeeze()
        np.testing.assert_array_equal(made, expected)


def test_read_tif_knows_where_it_is(run: Run, archive: Path, source: Path, tmp_path: Path) -> None:
    for level in (0, 2):
        path = tmp_path / f"{level}.tif"
        window = f"{40 >> level}:{80 >> level},{20 >> level}:{60 >> level}"
        code, *_ = run("read", archive, "maps/scene.tif", "--window", window, "--level", level, "-o", path)
        assert code == 0
        with rasterio.open(path) as made, rasterio.open(source / "maps" / "scene.tif") as original:
            assert (made.crs, made.nodata, made.descriptions) == (original.crs, 0, original.descriptions)
            assert made.transform.a == original.transform.a * 2**level
            left, top = original.transform.c + 20 * original.transform.a, original.transform.f - 40 * 10
            assert abs(made.bounds.left - left) <= made.transform.a
            assert abs(made.bounds.top - top) <= made.transform.a
            if level == 0:
                np.testing.assert_array_equal(made.read(), original.read()[:, 40:80, 20:60])


def test_read_keeps_the_mask(run: Run, tmp_path: Path) -> None:
    pixels = np.random.default_rng(3).integers(1, 9999, (1, 90, 80)).astype(np.uint16)
    mask = np.full((90, 80), 255, np.uint8)
    mask[:40, :30] = 0
    write_masked(tmp_path / "in" / "m.tif", pixels, mask)
    assert run("add", tmp_path / "in", tmp_path / "a")[0] == 0
    for name, options in (("w.tif", []), ("w.png", []), ("s.tif", ["--words"])):
        window = ["--window", "10:60,5:70"]
        assert run("read", tmp_path / "a", "m.tif", *window, "-o", tmp_path / name, *options)[0] == 0
        if name.endswith("png"):
            shown = np.asarray(Picture.open(tmp_path / name))
            np.testing.assert_array_equal(shown[..., 1], mask[10:60, 5:70])
            continue
        assert not (tmp_path / f"{name}.msk").exists()
        with rasterio.open(tmp_path / name) as made:
            np.testing.assert_array_equal(made.read(), pixels[:, 10:60, 5:70])
            np.testing.assert_array_equal(made.read_masks(1), mask[10:60, 5:70])
    run("read", tmp_path / "a", "m.tif", "--level", "1", "-o", tmp_path / "l.tif")
    with rasterio.open(tmp_path / "l.tif") as made:
        np.testing.assert_array_equal(made.read_masks(1), mask[::2, ::2])
    run("export", tmp_path / "a", "-o", tmp_path / "png", "--format", "png")
    assert np.asarray(Picture.open(tmp_path / "png" / "m.png")).shape == (90, 80, 2)


def test_read_png(run: Run, archive: Path, tmp_path: Path) -> None:
    for name, options in (("a", []), ("b", ["--level", 1]), ("c", ["--window", ":48,:32"])):
        assert run("read", archive, "ct/IM000000", "-o", tmp_path / f"{name}.png", *options)[0] == 0
    sizes = [Picture.open(io.BytesIO((tmp_path / f"{name}.png").read_bytes())).size for name in "abc"]
    assert sizes == [(96, 96), (48, 48), (32, 48)]


@pytest.mark.parametrize(
    "options",
    [
        ["--window", "-5:3,0:9"],
        ["--window", "0:97,0:9"],
        ["--window", "5:5,0:9"],
        ["--level", "9"],
        ["--level", "-1"],
        ["--index", "z=3"],
        ["--index", "z=-1"],
        ["--index", "t=0"],
        ["--words", "--index", "t=0"],
    ],
)
def test_what_cannot_be_read(run: Run, whole: Path, tmp_path: Path, options: list[str]) -> None:
    code, records, _ = run("read", whole, "ct/IM000000", "-o", tmp_path / "x.npy", *options)
    assert (code, records[0]["code"]) == (3, "InvalidRequest")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [["--window", "all"], ["--index", "y=0"], ["--words", "--level", "1"], ["-o", "x.jpeg"]],
)
def test_a_read_that_no_image_could_answer_is_usage(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["read", str(whole), "ct/IM000000", "-o", str(tmp_path / "x.npy"), *options])
    assert exit.value.code == 2
    assert "usage: tilevault read" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_read_never_overwrites(run: Run, archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    assert run("read", archive, "ct/IM000000", "-o", path)[1][0]["status"] == "written"
    assert run("read", archive, "ct/IM000000", "-o", path)[1][0]["status"] == "present"
    assert run("read", archive, "ct/IM000000", "--level", "1", "-o", path)[0] == 7
    assert run("read", archive, "ct/IM000000", "-o", tmp_path / "no" / ".." / "x.npy")[0] in (0, 3)
    assert run("read", archive, "ct/IM000000", "-o", tmp_path / "x.tif")[0] == 3, "three planes in a TIFF"


# -- export, verify, rm, doctor -----------------------------------------------------------------------------


def test_export(run: Run, archive: Path, source: Path, tmp_path: Path) -> None:
    code, records, _ = run("export", archive, "-o", tmp_path / "out")
    assert code == 0
    check_keys("export", records)
    (total,) = of_type(records, "total")
    assert (total["files"], total["written"], total["failed"]) == (5, 5, 0)
    evil = next(record for record in records if record.get("renamed"))
    assert evil["path"] == str(tmp_path / "out" / "1.2.3" / "1.2.3.4.dcm")
    assert Path(evil["path"]).read_bytes() == (source / "evil\x1b[2J.dcm").read_bytes()
    (tmp_path / "out" / "ct" / "IM000000").write_bytes(b"other")
    code, records, _ = run("export", archive, "-o", tmp_path / "out")
    assert code == 7
    assert records[-1]["failed"] == 1
    assert run("export", archive, "-o", tmp_path / "out", text=True)[0] == 7


def test_verify(run: Run, archive: Path) -> None:
    for depth in ("exists", "size", "digest", "pixels"):
        code, records, _ = run("verify", archive, "--depth", depth)
        assert code == 0
        check_keys("verify", records)
        total = records[-1]
        assert total["checked"] == total["expected"] > 0
    shard = next(
        p for p in archive.rglob("c/0/0/0") if p.parents[3].name == "0" or p.parents[3].name == "data"
    )
    data = bytearray(shard.read_bytes())
    data[10] ^= 1
    shard.write_bytes(data)
    code, records, _ = run("verify", archive)
    assert code == 4
    check_keys("verify", records)
    tiles = [record for record in of_type(records, "finding") if record["kind"] == "tile"]
    assert tiles
    assert all(tile["image"] and tile["index"] is not None and tile["level"] == 0 for tile in tiles)
    code, ((out),), _ = run("verify", archive, text=True)
    assert code == 4
    assert re.search(
        r"damaged +[0-9a-f]{12}  tile, level 0, tile 0,0,0, samples 0:\d+,0:64,0:64: ", out["text"]
    )
    assert out["text"].splitlines()[-1].startswith("3 images, ")


def test_damage_is_told_in_few_words(run: Run, archive: Path) -> None:
    next(p for p in archive.rglob("c/0/0/0") if p.parents[3].name == "0").unlink()
    code, ((out),), _ = run("verify", archive, "--depth", "pixels", text=True)
    assert code == 4
    lines = [line for line in out["text"].splitlines() if " tile" in line or " file," in line]
    assert len(lines) >= 2
    for line in lines:
        assert "images/" not in line
        assert len(re.findall("[0-9a-f]{12}", line)) == 1, line
        assert line.endswith("0/c/0/0/0 is missing")


def test_rm(run: Run, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("rm", archive, "maps/scene.tif")[0] == 3, "there is nobody to ask"
    assert len(run("ls", archive)[1]) == 3
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stdin, "readline", lambda: "n\n", raising=False)
    code, _, err = run("rm", archive, "maps/scene.tif")
    assert (code, len(run("ls", archive)[1])) == (3, 3)
    assert "maps/scene.tif" in err
    monkeypatch.setattr(sys.stdin, "readline", lambda: "y\n", raising=False)
    code, records, _ = run("rm", archive, "maps/scene.tif")
    check_keys("rm", records)
    assert (code, len(run("ls", archive)[1])) == (0, 2)
    assert run("rm", archive, "maps/scene.tif", "--yes")[0] == 3
    assert run("rm", archive, "1.2.3", "ct/IM000000", "--yes", text=True)[0] == 0
    assert run("ls", archive)[1] == []
    assert run("verify", archive)[0] == 4, "nothing was checked"


def test_doctor(run: Run, archive: Path) -> None:
    code, records, _ = run("doctor")
    assert code == 0
    assert records
    assert run("doctor", archive)[0] in (0, 4)
    assert run("doctor", archive, text=True)[0] in (0, 4)


# -- failures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [StoreUnavailable, StoreFull, Conflict, AccessDenied])
def test_exit_codes_of_failures(
    run: Run, archive: Path, monkeypatch: pytest.MonkeyPatch, failure: type[TilevaultError]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise failure("no", object="x")

    monkeypatch.setattr("tilevault.archive.store.Archive.open", fail)
    code, records, err = run("ls", archive)
    assert code == failure.exit_code
    assert records == [
        {
            "type": "error",
            "object": "x",
            "code": failure.__name__,
            "message": "no",
            "exit_code": failure.exit_code,
            "retryable": failure.retryable,
        }
    ]
    assert err == f"tilevault: {failure.__name__}: no\n"


def test_a_fault_of_ours_is_exit_70(
    run: Run, archive: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("one \x1b[31mover\nzero")

    monkeypatch.setattr("tilevault.workflows.listing.list_images", fail)
    code, records, err = run("ls", archive)
    assert code == 70
    assert records[0]["code"] == "InternalError"
    assert "ZeroDivisionError: one \\x1b[31mover\\x0azero" in err
    assert "--debug" in err
    assert main(["ls", str(archive), "--debug"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_goes_away(archive: Path) -> None:
    done = subprocess.run(
        [
            "bash",
            "-c",
            '"$@" | head -c 1; exit ${PIPESTATUS[0]}',
            "-",
            *PROGRAM,
            "verify",
            str(archive),
            "--json",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode in (0, 141)


def test_an_output_that_is_closed(archive: Path) -> None:
    code = (
        "import os, sys\n"
        "from tilevault.workflows.cli import main\n"
        "r, w = os.pipe(); os.close(r); os.dup2(w, 1)\n"
        "sys.exit(main(['ls', sys.argv[1], '--json']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(archive)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("json_lines", [True, False])
def test_an_output_that_is_full(archive: Path, json_lines: bool) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*PROGRAM, "ls", str(archive), *(["--json"] if json_lines else [])],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 6
    assert done.stderr == "tilevault: StoreFull: cannot write the output: No space left on device\n"


def test_names_that_the_terminal_cannot_show(archive: Path) -> None:
    done = shell(
        "ls", archive, env={**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("command", ["add", "export", "verify"])
def test_signals(
    source: Path, archive: Path, tmp_path: Path, command: str, number: signal.Signals, expected: int
) -> None:
    """A run that is interrupted says so, ends soon, and leaves nothing half-written."""
    slow = (
        "import sys, time; from tilevault.workflows import cli, commands\n"
        "import tilevault.archive.source as s, tilevault.archive.check as c\n"
        "import tilevault.archive.generation as g\n"
        "def slowly(f):\n"
        "    def g(*a, **k):\n"
        "        print('busy', file=sys.stderr, flush=True); time.sleep(0.3); return f(*a, **k)\n"
        "    return g\n"
        "s.Source.rebuild = slowly(s.Source.rebuild)\n"
        "c._object = slowly(c._object)\n"
        "g.Generation.write_shard = slowly(g.Generation.write_shard)\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    arguments = {
        "add": ["add", source / "ct", tmp_path / "new", "--json"],
        "export": ["export", archive, "-o", tmp_path / "out"],
        "verify": ["verify", archive],
    }[command]
    process = subprocess.Popen(
        [sys.executable, "-c", slow, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while "busy" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(number)
    began = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert process.returncode == expected, err
    assert time.monotonic() - began < 20
    assert "Traceback" not in err
    assert "run it again" in err
    if command == "add":
        last = json.loads(out.splitlines()[-1])
        assert (last["type"], last["exit_code"], last["retryable"]) == ("error", expected, True)
        assert last["code"] == ("Interrupted" if expected == 130 else "Terminated")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name.startswith(".tilevault")]
    if command == "add":
        assert main([str(a) for a in arguments]) == 0
        assert main(["verify", str(tmp_path / "new"), "--depth", "pixels"]) == 0


# -- a terminal ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals")
def test_progress_on_a_terminal(source: Path, tmp_path: Path) -> None:
    import pty

    parent, child = pty.openpty()
    with subprocess.Popen(
        [*PROGRAM, "add", str(source), str(tmp_path / "a"), "--json"],
        stdout=subprocess.PIPE,
        stderr=child,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "160"},
    ) as process:
        os.close(child)
        seen = b""
        with contextlib.suppress(OSError):  # the end of a pseudo-terminal
            while block := os.read(parent, 65536):
                seen += block
        assert process.stdout is not None
        records = [json.loads(line) for line in process.stdout]
    os.close(parent)
    assert process.returncode == 3
    assert records[-1]["type"] == "total"
    text = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", seen).decode()
    assert "files" in text
    assert "owned" not in text
