"""The doctor sees what is there, and says of each reader what that reader said."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rasterio.crs import CRS

import collection
from tilevault.archive.store import Archive
from tilevault.codecs.errors import TilevaultError
from tilevault.workflows import doctor as module
from tilevault.workflows.console import Console
from tilevault.workflows.doctor import Finding, doctor, examine
from tilevault.workflows.ingest import add


@pytest.fixture(scope="module")
def archived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, where = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("archive") / "archive"
    collection.write_ct_series(source / "ct", slices=3, side=300)
    collection.write_scene(source / "scene.tif", side=600)
    assert add([source], where, workers=1).totals["exit_code"] == 0
    return where


def by_name(findings: list[Finding], kind: str | None = None) -> dict[str, Finding]:
    if kind is None:
        return {f.name: f for f in findings if f.subject == "installation"}
    subject = next(f.subject for f in findings if f.name == "tilevault" and f.detail.startswith(kind))
    return {f.name: f for f in findings if f.subject == subject}


def test_an_installation_that_works_has_no_faults() -> None:
    findings = by_name(doctor())
    assert [f for f in findings.values() if f.status == "fault"] == []
    for name in ("numpy", "zarr", "pydicom", "GDAL", "native core", "codec tilevault.lossless"):
        assert findings[name].status == "ok"


def test_a_missing_package_is_a_fault_or_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"dask", "torch", "rioxarray"}
    real = module.version_of
    monkeypatch.setattr(module, "version_of", lambda name: None if name in missing else real(name))
    findings = by_name(doctor())
    assert (findings["dask"].status, findings["dask"].exit_code) == ("fault", 70)
    assert findings["torch"].status == findings["rioxarray"].status == "absent"


def test_missing_entry_points_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.metadata, "entry_points", lambda group: [])
    finding = by_name(doctor())["codec tilevault.frame"]
    assert (finding.status, finding.exit_code) == ("fault", 70)


def test_what_each_reader_sees(archived: Path) -> None:
    pytest.importorskip("ome_zarr_models")
    pytest.importorskip("rioxarray")
    findings = doctor(archived)
    assert [f for f in findings if f.status == "fault"] == []
    ct, scene = by_name(findings, "medical"), by_name(findings, "satellite")
    assert "same words" in ct["zarr"].detail
    assert "OME-NGFF 0.5: axes z y x" in ct["ome-zarr-models"].detail
    assert "readable without our package" in scene["zarr, coarse levels"].detail
    assert "y 600, x 600; coordinates x, y, spatial_ref" in scene["xarray"].detail
    assert "EPSG:32633, transform (10.0, 0.0, 399960.0, 0.0, -10.0, 5200020.0)" in scene["rioxarray"].detail
    assert scene["GDAL"].status in ("limited", "ok")
    assert "export --format cog" in scene["GDAL"].detail


def test_records_and_text(archived: Path) -> None:
    out = io.StringIO()
    assert examine(str(archived), Console(json_lines=True, out=out)) == 0
    records: list[dict[str, Any]] = [json.loads(line) for line in out.getvalue().splitlines()]
    assert {r["type"] for r in records} == {"finding", "total"}
    assert records[-1] == {"type": "total", "findings": len(records) - 1, "faults": 0}
    assert all({"subject", "name", "status", "detail"} <= r.keys() for r in records[:-1])
    out = io.StringIO()
    assert examine(None, Console(out=out)) == 0
    assert out.getvalue().startswith("installation\n  ok ")
    assert "0 faults in " in out.getvalue()


def damaged(archived: Path, tmp_path: Path) -> tuple[Path, Archive]:
    copy = tmp_path / "archive"
    shutil.copytree(archived, copy)
    return copy, Archive.open(copy)


def scene_of(archive: Archive) -> Path:
    return next(image.path for image in archive.values() if image.info and image.info.kind == "satellite")


def test_a_damaged_image_is_a_fault_with_exit_code_4(archived: Path, tmp_path: Path) -> None:
    copy, archive = damaged(archived, tmp_path)
    for shard in (scene_of(archive) / "0" / "data" / "c").rglob("*"):
        if shard.is_file():
            data = bytearray(shard.read_bytes())
            data[len(data) // 3] ^= 1
            data[10] ^= 1
            shard.write_bytes(data)
    found = [f for f in doctor(copy) if f.status == "fault"]
    assert [(f.name, f.exit_code) for f in found] == [("tilevault", 4)]
    assert "TileCorrupt" in found[0].detail
    assert examine(str(copy), Console(out=io.StringIO())) == 4


def test_what_a_reader_raises_is_its_finding(archived: Path, tmp_path: Path) -> None:
    copy, archive = damaged(archived, tmp_path)
    (scene_of(archive) / "0" / "zarr.json").write_text("no JSON")
    found = {f.name: f for f in doctor(copy) if f.status == "fault"}
    assert {"xarray", "rioxarray"} <= set(found)
    assert all(f.exit_code == 4 for f in found.values())
    assert all(f.detail.isprintable() for f in found.values())


def test_a_reader_that_sees_another_place_is_a_fault(archived: Path, tmp_path: Path) -> None:
    pytest.importorskip("rioxarray")
    copy, archive = damaged(archived, tmp_path)
    document = scene_of(archive) / "0" / "spatial_ref" / "zarr.json"
    changed = json.loads(document.read_text())
    changed["attributes"]["crs_wkt"] = changed["attributes"]["spatial_ref"] = CRS.from_epsg(32634).to_wkt()
    document.write_text(json.dumps(changed))
    found = {f.name: f for f in doctor(copy) if f.status == "fault"}
    assert set(found) == {"rioxarray"}
    assert "EPSG:32634, which is not the CRS of the image" in found["rioxarray"].detail


def test_an_archive_without_images(tmp_path: Path) -> None:
    Archive.create(tmp_path / "empty")
    assert doctor(tmp_path / "empty")[-1].detail == "none with pixels"


def test_no_archive_is_our_error(tmp_path: Path) -> None:
    with pytest.raises(TilevaultError):
        doctor(tmp_path / "nowhere")
