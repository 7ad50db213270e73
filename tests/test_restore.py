"""`tilevault restore`: pictures in, estimates out; what it refuses, and that it overwrites nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tiff_builder
from tilevault.archive.formats.pictures import read_picture, write_picture
from tilevault.codecs.errors import (
    InconsistentHeader,
    InvalidRequest,
    LimitExceeded,
    NotRecognized,
    TilevaultError,
    TruncatedSource,
    UnsupportedSyntax,
)
from tilevault.workflows.cli import main

Picture = pytest.importorskip("PIL.Image")


def scene(bands: int = 1, dtype: str = "uint8", shape: tuple[int, int] = (60, 76)) -> np.ndarray:
    """(bands, y, x): waves and an edge."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    waves = [0.5 + 0.2 * np.sin(x / (6 + i)) * np.cos(y / 9) + 0.2 * (x > y + 10 * i) for i in range(bands)]
    return (np.array(waves).clip(0, 1) * np.iinfo(dtype).max).astype(dtype)


def save(path: Path, samples: np.ndarray, **options) -> Path:
    """With Pillow, by the suffix."""
    planes = samples[0] if len(samples) == 1 else np.moveaxis(samples, 0, 2)
    Picture.fromarray(planes).save(path, **options)
    return path


# -- files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_what_is_written_is_read(tmp_path: Path, suffix: str, bands: int, dtype: str) -> None:
    samples = scene(bands, dtype)
    write_picture(tmp_path / f"x{suffix}", suffix, samples, "said")
    found = read_picture(tmp_path / f"x{suffix}")
    assert (found.samples == samples).all()
    assert found.samples.dtype == dtype
    assert found.colours == (1 if bands < 3 else 3)
    assert b"said" in (tmp_path / f"x{suffix}").read_bytes()


@pytest.mark.parametrize(
    ("name", "kind"), [("x.jpg", "JPEG"), ("x.jp2", "JPEG 2000"), ("x.j2k", "JPEG 2000")]
)
@pytest.mark.parametrize("bands", [1, 3])
def test_pixels_are_those_of_the_decoder(tmp_path: Path, name: str, kind: str, bands: int) -> None:
    path = save(tmp_path / name, scene(bands))
    with Picture.open(path) as picture:
        expected = np.asarray(picture)
    found = read_picture(path)
    assert found.kind == kind
    assert (np.moveaxis(found.samples, 0, 2).squeeze() == expected).all()


def georeferenced(path: Path) -> None:
    tags = {
        33550: (tiff_builder.DOUBLE, [10.0, 10.0, 0.0]),
        33922: (tiff_builder.DOUBLE, [0.0, 0.0, 0.0, 1000.0, 2000.0, 0.0]),
    }
    page = tiff_builder.page(scene()[0], tags=tags)
    path.write_bytes(tiff_builder.tiff([page]).data)


def two_pages(path: Path) -> None:
    path.write_bytes(tiff_builder.tiff([tiff_builder.page(scene()[0])] * 2).data)


def signed(path: Path) -> None:
    path.write_bytes(tiff_builder.tiff([tiff_builder.page(scene()[0].astype(np.int16))]).data)


def two_bands(path: Path) -> None:
    path.write_bytes(tiff_builder.tiff([tiff_builder.page(scene(2))]).data)


def palette(path: Path) -> None:
    Picture.fromarray(scene()[0]).convert("P").save(path, "PNG")


def print_colours(path: Path) -> None:
    Picture.fromarray(np.moveaxis(scene(3), 0, 2)).convert("CMYK").save(path, "JPEG")


def half_a_jpeg(path: Path) -> None:
    save(path, scene(), format="JPEG")
    path.write_bytes(path.read_bytes()[:-300])


def half_a_jpeg2000(path: Path) -> None:
    save(path, scene(), format="JPEG2000")
    path.write_bytes(path.read_bytes()[:200])


def dicom(path: Path) -> None:
    path.write_bytes(b"\0" * 128 + b"DICM" + b"\2\0\0\0UL\4\0")


def text(path: Path) -> None:
    path.write_text("no picture")


def folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "failure", "said"),
    [
        (georeferenced, UnsupportedSyntax, "GeoTIFF"),
        (two_pages, UnsupportedSyntax, "pages"),
        (signed, UnsupportedSyntax, "int16"),
        (two_bands, UnsupportedSyntax, "bands"),
        (palette, UnsupportedSyntax, "palette"),
        (print_colours, UnsupportedSyntax, "CMYK"),
        (half_a_jpeg, TruncatedSource, "truncated"),
        (half_a_jpeg2000, InconsistentHeader, "x"),
        (dicom, UnsupportedSyntax, "DICOM"),
        (text, NotRecognized, "no JPEG"),
        (folder, InvalidRequest, "x"),
        (lambda path: None, InvalidRequest, "x"),
    ],
)
def test_what_is_no_picture_is_refused(
    tmp_path: Path, make, failure: type[TilevaultError], said: str
) -> None:
    make(tmp_path / "x")
    with pytest.raises(failure, match=said):
        read_picture(tmp_path / "x")


def test_a_picture_that_is_too_large_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tilevault.archive.formats.pictures.MAX_PIXELS", 1000)
    for name in ("x.jpg", "x.jp2", "x.png"):
        with pytest.raises(LimitExceeded, match="60"):
            read_picture(save(tmp_path / name, scene()))


# -- the command --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def run(torch, capsys: pytest.CaptureFixture[str]):
    """Exit code, JSON records and standard error of `restore`."""

    def command(*arguments: object) -> tuple[int, list[dict], str]:
        code = main(["restore", "--json", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, [json.loads(line) for line in out.splitlines()], err

    return command


def test_a_jpeg_is_nearer_to_its_original(run, tmp_path: Path) -> None:
    original = tmp_path / "original.png"
    write_picture(original, ".png", scene(), "")
    source = save(tmp_path / "x.jpg", scene(), quality=10)
    code, records, _ = run(source, "-o", tmp_path / "y.png", "--reference", original)
    assert code == 0
    record, total = records
    assert record["kind"] == "JPEG"
    assert record["restored"] == "grey"
    assert record["shape"] == [1, 60, 76]
    compared = record["comparison"]
    assert compared["psnr_after"] > compared["psnr_before"] + 0.2
    assert compared["ssim_after"] > compared["ssim_before"]
    assert total == {"type": "total", "files": 1, "restored": 1, "exit_code": 0}
    written = read_picture(tmp_path / "y.png")
    change = np.abs(written.samples.astype(int) - read_picture(source).samples).mean()
    assert record["mean_change"] == pytest.approx(change)
    assert change > 0


def test_colours_and_depth_stay_and_alpha_is_not_touched(run, tmp_path: Path) -> None:
    samples = scene(4, "uint16")
    samples[3] = np.arange(76)
    write_picture(tmp_path / "x.tif", ".tif", samples, "")
    code, records, _ = run(tmp_path / "x.tif", "-o", tmp_path / "y.tif")
    assert code == 0
    assert records[0]["restored"] == "luma"
    found = read_picture(tmp_path / "y.tif").samples
    assert found.dtype == np.uint16
    assert (found[3] == samples[3]).all()
    assert (found[:3] != samples[:3]).any()


def test_a_folder_takes_several_and_a_failure_stops_none(run, tmp_path: Path) -> None:
    good = save(tmp_path / "a.jpg", scene(), quality=20)
    other = save(tmp_path / "b.jp2", scene(3))
    half_a_jpeg(tmp_path / "c.jpg")
    code, records, err = run(good, tmp_path / "c.jpg", other, "-o", tmp_path / "out")
    assert code == 3
    assert [r["type"] for r in records] == ["restored", "error", "restored", "total"]
    assert records[1]["code"] == "TruncatedSource"
    assert records[1]["source"] == str(tmp_path / "c.jpg")
    assert "TruncatedSource" in err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "b.png"]


def test_nothing_is_overwritten(run, tmp_path: Path) -> None:
    source = save(tmp_path / "x.jpg", scene())
    (tmp_path / "y.png").write_text("mine")
    code, records, _ = run(source, "-o", tmp_path / "y.png")
    assert code == 7
    assert records[0]["code"] == "Conflict"
    assert (tmp_path / "y.png").read_text() == "mine"


def test_a_reference_of_another_shape_is_refused(run, tmp_path: Path) -> None:
    source = save(tmp_path / "x.jpg", scene())
    write_picture(tmp_path / "other.png", ".png", scene(shape=(60, 60)), "")
    code, records, _ = run(source, "-o", tmp_path / "y.png", "--reference", tmp_path / "other.png")
    assert code == 3
    assert records[0]["code"] == "InvalidRequest"
    assert not (tmp_path / "y.png").exists()


def test_a_damaged_model_is_refused(run, tmp_path: Path) -> None:
    (tmp_path / "bad.tvdn").write_bytes(b"TVDN" + b"\1\0\3\0" + b"\0" * 40)
    source = save(tmp_path / "x.jpg", scene())
    code, records, _ = run(source, "-o", tmp_path / "y.png", "--model", tmp_path / "bad.tvdn")
    assert code == 4
    assert records[0]["code"] == "ModelMismatch"


def test_people_are_told_what_it_is(torch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save(tmp_path / "x.jpg", scene(3))
    assert main(["restore", str(source), "-o", str(tmp_path / "y.tif"), "--reference", str(source)]) == 0
    out = capsys.readouterr().out
    assert "luma of JPEG" in out
    assert "PSNR 999.00 to" in out
    assert "not the original" in out
    assert b"not the original" in (tmp_path / "y.tif").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.jpg", "b.jpg", "-o", "out.png"], "folder"),
        (["a.jpg", "b.jpg", "-o", "out", "--reference", "c.png"], "one picture"),
        (["a.jpg", "-o", "out.jpg"], r"\.png or \.tif"),
    ],
)
def test_usage(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["restore", *arguments])
    assert exit_.value.code == 2
    assert re.search(said, capsys.readouterr().err)


def test_an_archive_is_no_input(run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    dicom(tmp_path / "in" / "slice.dcm")
    georeferenced(tmp_path / "in" / "scene.tif")
    code, records, _ = run(
        tmp_path / "in" / "slice.dcm", tmp_path / "in" / "scene.tif", "-o", tmp_path / "out"
    )
    assert code == 3
    assert [r.get("code") for r in records] == ["UnsupportedSyntax", "UnsupportedSyntax", None]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["torch", "PIL"])
def test_what_is_not_installed_is_named(tmp_path: Path, missing: str) -> None:
    if missing == "PIL":
        pytest.importorskip("torch")
    source = save(tmp_path / "x.jpg", scene())
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from tilevault.workflows.cli import main\n"
        f"sys.exit(main(['restore', {str(source)!r}, '-o', {str(tmp_path / 'y.png')!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "the extra `learned`" in done.stderr
    assert not (tmp_path / "y.png").exists()
