"""The command line of lossy images: what is asked for, what is said, what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicom_builder import image
from tilevault import Archive
from tilevault.workflows.cli import main


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:80, 0:96]
    words = (900 + 500 * np.sin(x / 17) * np.cos(y / 13) + rng.normal(0, 9, x.shape)).astype("<u2")
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.dcm").write_bytes(image(words.tobytes(), Rows=80, Columns=96, Modality="CT"))
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[dict[str, Any]]]:
    code = main([*map(str, arguments), "--json"])
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_from_add_to_export(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = tmp_path / "a"
    code, records = run(capsys, "add", source, archive, "--lossy", "psnr=45")
    (entry,) = (r for r in records if r["type"] == "image")
    assert (code, entry["round_trip"], entry["fidelity"]) == (0, "lossy", "psnr=45")
    assert 45 <= entry["quality"]["psnr"] <= 45.1
    assert entry["quality"]["tiles"] == 1

    code, records = run(capsys, "ls", archive, "--where", "round_trip=lossy")
    assert [r["fidelity"] for r in records if r["type"] == "image"] == ["psnr=45"]
    assert run(capsys, "ls", archive, "--where", "fidelity=psnr=45")[0] == 0
    code, (info,) = run(capsys, "info", archive, "a.dcm")
    assert (code, info["quality"]) == (0, entry["quality"])

    out = tmp_path / "x.npy"
    code, (read,) = run(capsys, "read", archive, "a.dcm", "--no-restore", "-o", out)
    assert (code, read["fidelity"]) == (0, "psnr=45")
    code, (error,) = run(capsys, "read", archive, "a.dcm", "--require-lossless", "-o", tmp_path / "y.npy")
    assert (code, error["code"]) == (3, "LossyRefused")
    assert not (tmp_path / "y.npy").exists()

    code, records = run(capsys, "export", archive, "-o", tmp_path / "out")
    assert (code, records[0]["code"]) == (3, "LossyRefused")
    code, records = run(capsys, "export", archive, "-o", tmp_path / "out", "--format", "dicom")
    assert (code, records[0]["proof"]) == (0, "decoded")
    code, records = run(capsys, "verify", archive, "--depth", "pixels")
    assert code == 0


def test_what_people_read(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["add", str(source), str(tmp_path / "a"), "--lossy", "max-error=2", "--dry-run"]) == 0
    assert "pixels would be altered: lossy, max-error=2" in capsys.readouterr().out
    assert main(["add", str(source), str(tmp_path / "a"), "--lossy", "max-error=2"]) == 0
    said = capsys.readouterr().out
    assert "lossy, max-error=2" in said
    assert re.search(r"measured: [0-9.]+ dB \(least of a tile [0-9.]+\), SSIM [0-9.]+, largest error 2", said)
    assert main(["ls", str(tmp_path / "a")]) == 0
    assert "lossy max-error=2" in capsys.readouterr().out
    assert main(["info", str(tmp_path / "a"), "a.dcm"]) == 0
    assert "measured: " in capsys.readouterr().out


@pytest.mark.parametrize(
    "options", [["--lossy", "45"], ["--lossy", "psnr"], ["--lossy", "max-error=0"], ["--yes-lossy"]]
)
def test_a_bound_that_is_none_is_usage(source: Path, tmp_path: Path, options: list[str]) -> None:
    with pytest.raises(SystemExit) as usage:
        main(["add", str(source), str(tmp_path / "a"), *options])
    assert usage.value.code == 2
    assert not (tmp_path / "a").exists()


def test_labels_stay_exact(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, records = run(capsys, "add", source, tmp_path / "a", "--lossy", "psnr=45", "--labels")
    (entry,) = (r for r in records if r["type"] == "image")
    assert (code, entry["status"], entry["code"]) == (3, "failed", "LossyRefused")
    assert run(capsys, "add", source, tmp_path / "a", "--labels")[0] == 0
    (found,) = Archive.open(tmp_path / "a").values()
    assert (found.fidelity, found.downsampling) == ("exact", "nearest")


def test_a_name_that_several_copies_have_says_which_is_which(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in ([], ["--lossy", "psnr=45"], ["--lossy", "max-error=2"]):
        assert main(["add", str(source), str(tmp_path / "a"), *options]) == 0
    code, (error,) = run_after(capsys, "info", tmp_path / "a", "a.dcm")
    assert (code, error["code"], len(error["matches"])) == (3, "ImageNotFound", 3)
    assert "(a.dcm)" in error["message"]
    assert "(a.dcm, psnr=45)" in error["message"]
    assert "(a.dcm, max-error=2)" in error["message"]


def run_after(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[dict[str, Any]]]:
    """`run`, without what was said before."""
    capsys.readouterr()
    return run(capsys, *arguments)
