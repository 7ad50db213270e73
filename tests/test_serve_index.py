"""The search index: what it holds, that it is rebuilt, that it never decides what exists."""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dicom_builder import image
from dicomweb_parts import ct_slice, write_series
from tilevault import Archive, add
from tilevault.codecs.errors import LimitExceeded, StoreUnavailable
from tilevault.workflows.cli import main
from tilevault.workflows.serve import index as index_module
from tilevault.workflows.serve.index import Index, index_path
from tilevault.workflows.serve.index_rows import instance_rows
from tilevault.workflows.serve.index_schema import VERSION


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TILEVAULT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    write_series(tmp_path / "in" / "a", 3)
    write_series(tmp_path / "in" / "b", 2, study="1.2.4", series="1.2.4.1", PatientName="Roe^Richard")
    result = add([tmp_path / "in"], tmp_path / "archive", workers=1)
    assert result.totals["exit_code"] == 0
    return Archive.open(tmp_path / "archive")


def sops(index: Index) -> set[str]:
    return {row["sop"] for row in index.rows("SELECT sop FROM instances")}


ALL = {"1.2.3.1.1", "1.2.3.1.2", "1.2.3.1.3", "1.2.4.1.1", "1.2.4.1.2"}


def test_what_it_holds(archive: Archive) -> None:
    index = Index(archive)
    assert sops(index) == ALL
    (study,) = index.rows("SELECT * FROM studies WHERE study = '1.2.4'")
    assert (study["series"], study["instances"], study["modalities"]) == (1, 2, '["CT"]')
    assert json.loads(study["attributes"])["00100010"]["Value"] == [{"Alphabetic": "Roe^Richard"}]
    (row,) = index.rows("SELECT * FROM instances WHERE sop = '1.2.3.1.2'")
    attributes = json.loads(row["attributes"])
    assert attributes["00280010"] == {"vr": "US", "Value": [32]}
    assert attributes["00200013"] == {"vr": "IS", "Value": [2]}
    source = archive[row["image"]].source.files[row["file"]]
    assert (source.sha256, source.name) == (row["sha256"], "a/0002.dcm")
    assert row["syntax"] == "1.2.840.10008.1.2.1"


def test_it_lies_outside_the_archive_and_is_private(archive: Archive, cache: Path) -> None:
    before = sorted(path for path in archive.path.rglob("*") if ".staging" not in path.parts)
    index = Index(archive)
    assert index.path.parent == cache
    assert index.path == index_path(archive)
    assert index.path.stat().st_mode & 0o077 == 0
    assert sorted(path for path in archive.path.rglob("*") if ".staging" not in path.parts) == before


def test_what_is_sound_is_not_read_again(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    Index(archive).close()

    def fail(image: Any) -> Any:
        raise AssertionError("a header is read")

    monkeypatch.setattr(index_module, "instance_rows", fail)
    index = Index(archive)
    assert index.state.updated == 0
    assert sops(index) == ALL


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no database at all, and never was" * 200)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def zeros(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096 : len(data) - 4096] = bytes(len(data) - 8192)
    path.write_bytes(bytes(data))


def other_version(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {VERSION ^ 1}")
    db.close()


def other_tables(path: Path) -> None:
    path.unlink()
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE images (id TEXT)")
    db.close()


@pytest.mark.parametrize("damage", [Path.unlink, garbage, truncated, zeros, other_version, other_tables])
def test_what_is_missing_or_damaged_is_read_anew(archive: Archive, damage: Any) -> None:
    index = Index(archive)
    index.connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    index.close()
    for suffix in ("-wal", "-shm"):
        Path(f"{index.path}{suffix}").unlink(missing_ok=True)
    damage(index.path)
    again = Index(archive)
    assert again.state.updated == 2
    assert sops(again) == ALL


def test_random_damage_never_gives_other_instances(archive: Archive) -> None:
    """Bytes of the file change; what opens afterwards is either sound or made anew, never less."""
    index = Index(archive)
    index.connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    index.close()
    sound = index.path.read_bytes()
    for seed in range(20):
        rng = random.Random(seed)
        data = bytearray(sound)
        start = rng.randrange(len(data) - 64)
        data[start : start + 64] = rng.randbytes(64)
        index.path.write_bytes(bytes(data))
        again = Index(archive)
        found = {row["id"] for row in again.rows("SELECT id FROM images WHERE kind IS NOT NULL")}
        again.close()
        assert found == set(archive), seed


def test_damage_while_it_is_open(archive: Archive) -> None:
    index = Index(archive)
    index.connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    garbage(index.path)
    index._epoch += 1  # as another thread would: without pages in memory
    assert sops(index) == ALL


def test_what_comes_later_is_found(archive: Archive, tmp_path: Path) -> None:
    index = Index(archive)
    write_series(tmp_path / "late", 2, first=4)
    write_series(tmp_path / "late2", 1, study="1.2.9", series="1.2.9.1")
    add([tmp_path / "late", tmp_path / "late2"], archive, workers=1)
    state = index.refresh()
    assert state.updated == 2
    assert sops(index) == ALL | {"1.2.3.1.4", "1.2.3.1.5", "1.2.9.1.1"}
    assert index.rows("SELECT instances FROM studies WHERE study = '1.2.3'")[0][0] == 5
    archive.remove(next(archive.search({"StudyInstanceUID": "1.2.4"})).id)
    index.refresh()
    assert index.rows("SELECT * FROM studies WHERE study = '1.2.4'") == []
    assert not {sop for sop in sops(index) if sop.startswith("1.2.4")}


def test_a_search_looks_for_new_commits_by_itself(archive: Archive, tmp_path: Path) -> None:
    index = Index(archive)
    write_series(tmp_path / "late", 1, first=9)
    add([tmp_path / "late"], archive, workers=1)
    until = time.monotonic() + 30
    while "1.2.3.1.9" not in sops(index) and time.monotonic() < until:
        time.sleep(0.05)
    assert "1.2.3.1.9" in sops(index)


def test_another_archive_at_the_same_place(archive: Archive, tmp_path: Path) -> None:
    Index(archive).close()
    shutil.rmtree(archive.path)
    write_series(tmp_path / "other", 1, study="1.7", series="1.7.1")
    add([tmp_path / "other"], archive.path, workers=1)
    assert sops(Index(Archive.open(archive.path))) == {"1.7.1.1"}


def test_where_nothing_can_be_written(archive: Archive, cache: Path) -> None:
    """Not even for root: the place of the cache is a file."""
    cache.write_text("in the way")
    index = Index(archive)
    assert sops(index) == ALL
    assert index.path.parent.name.startswith("tilevault-index-")
    index.close()
    assert not index.path.exists()


def test_an_image_that_cannot_be_read_is_told_and_the_others_are_there(archive: Archive) -> None:
    victim = next(archive.search({"StudyInstanceUID": "1.2.3"}))
    files = victim.path / "source" / "files.json.zst"
    files.chmod(0o600)
    files.write_bytes(files.read_bytes()[:-5])
    index = Index(archive)
    assert index.state.problems == {victim.id: "TileCorrupt"}
    assert set(sops(index)) == {"1.2.4.1.1", "1.2.4.1.2"}
    assert {row["id"] for row in index.rows("SELECT id FROM images")} == set(archive)
    assert main(["reindex", str(archive.path)]) == 4


def test_what_is_too_much_for_the_index_is_told_and_the_others_are_there(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A header beyond a limit is no integrity error, and no reason to find nothing."""
    read = index_module.instance_rows
    first = min(archive)

    def limited(image: Any) -> Any:
        if image.id == first:
            raise LimitExceeded("elements of a header")
        return read(image)

    monkeypatch.setattr(index_module, "instance_rows", limited)
    index = Index(archive, anew=True)
    assert index.state.problems == {first: "LimitExceeded"}
    assert index.state.images == len(archive)
    index.close()


def test_a_value_that_is_no_text_to_search_for_is_left_to_the_header(tmp_path: Path) -> None:
    (tmp_path / "one.dcm").write_bytes(ct_slice(1, PatientName="\u00e4" * (30 << 10)))
    add([tmp_path / "one.dcm"], tmp_path / "archive")
    (image,) = Archive.open(tmp_path / "archive").values()
    (row,) = instance_rows(image)
    assert "00100020" in row.attributes["study"]
    assert "00100010" not in row.attributes["study"]


def test_a_damaged_commit_record_is_told(archive: Archive) -> None:
    victim = next(archive.search({"StudyInstanceUID": "1.2.3"}))
    record = archive.path / victim.commit.key
    record.chmod(0o600)
    record.write_bytes(b"{}")
    index = Index(archive)
    assert index.state.problems == {victim.id: "ManifestCorrupt"}
    assert sops(index) == {"1.2.4.1.1", "1.2.4.1.2"}


def test_what_has_no_uids_is_in_the_catalogue_only(tmp_path: Path) -> None:
    data = image(bytes(48), SOPInstanceUID=None, SeriesInstanceUID=None)
    (tmp_path / "nameless.dcm").write_bytes(data)
    add([tmp_path / "nameless.dcm"], tmp_path / "archive", workers=1)
    index = Index(Archive.open(tmp_path / "archive"))
    assert (index.state.images, index.state.instances, index.state.problems) == (1, 0, {})


def test_a_lossy_copy_is_visible_only_without_its_original(tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    write_series(tmp_path / "in", 2, side=64)
    add([tmp_path / "in"], tmp_path / "archive", workers=1, lossy="max-error=4")
    archive = Archive.open(tmp_path / "archive")
    index = Index(archive)
    alone = index.rows("SELECT sop, original, visible FROM instances ORDER BY original")
    assert [row["visible"] for row in alone] == [1, 1]
    assert [row["original"] for row in alone] == ["1.2.3.1.1", "1.2.3.1.2"]
    assert all(row["sop"].startswith("2.25.") for row in alone)
    add([tmp_path / "in"], tmp_path / "archive", workers=1)
    index.refresh()
    both = {row["sop"]: row["visible"] for row in index.rows("SELECT sop, visible FROM instances")}
    assert both == {alone[0]["sop"]: 0, alone[1]["sop"]: 0, "1.2.3.1.1": 1, "1.2.3.1.2": 1}
    assert index.rows("SELECT instances FROM studies")[0][0] == 2


def test_readers_and_writers_at_once(archive: Archive, tmp_path: Path) -> None:
    """Two indexes on one file, and threads that read whole studies while images come and go."""
    first, second = Index(archive), Index(archive)
    failures: list[BaseException] = []
    stop = threading.Event()

    def read(index: Index) -> None:
        try:
            while not stop.is_set():
                (row,) = index.rows("SELECT instances FROM studies WHERE study = '1.2.4'")
                assert row[0] == 2
        except BaseException as error:  # told to the main thread
            failures.append(error)

    threads = [threading.Thread(target=read, args=(index,)) for index in (first, second) for _ in range(2)]
    for thread in threads:
        thread.start()
    for i in range(4):
        write_series(tmp_path / f"more{i}", 1, study=f"1.5.{i}", series=f"1.5.{i}.1")
        add([tmp_path / f"more{i}"], archive, workers=1)
        (first if i % 2 else second).refresh(thorough=True)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert sops(first) == sops(second) == ALL | {f"1.5.{i}.1.1" for i in range(4)}


def test_a_killed_update_leaves_an_index_that_heals(archive: Archive, cache: Path) -> None:
    code = (
        "import sys; from tilevault import Archive; from tilevault.workflows.serve.index import Index;"
        "[Index(Archive.open(sys.argv[1]), anew=True) for _ in range(1000)]"
    )
    for delay in np.random.default_rng(0).uniform(0.0, 0.4, 6):
        process = subprocess.Popen([sys.executable, "-c", code, str(archive.path)], env=dict(os.environ))
        until = time.monotonic() + 30
        while not index_path(archive).exists() and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(float(delay))
        process.send_signal(signal.SIGKILL)
        process.wait()
        index = Index(archive)
        assert sops(index) == ALL
        index.close()


def test_trouble_of_the_disk_is_no_reason_to_delete(archive: Archive) -> None:
    index = Index(archive)
    with pytest.raises(StoreUnavailable):
        index._discard(sqlite3.OperationalError("database is locked"))
    assert sops(index) == ALL


def test_reindex(archive: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reindex", str(archive.path), "--json"]) == 0
    (record,) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (record["type"], record["images"], record["instances"]) == ("reindex", 2, 5)
    assert Path(record["path"]).exists()
    assert main(["reindex", str(archive.path)]) == 0
    assert "2 images, 5 DICOM instances" in capsys.readouterr().out
