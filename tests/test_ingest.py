"""`add`, whole path: what comes in is proved, found again, continued, extended; two at once do no harm."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import collection
from test_damage import noise, problems, write_tiff
from tilevault.archive.blobs import STAGING
from tilevault.archive.store import Archive
from tilevault.codecs.errors import InvalidRequest
from tilevault.workflows import storing
from tilevault.workflows.ingest import add


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rebuilt(archive: Path) -> dict[str, str]:
    """Name -> SHA-256 of every file that an archive gives back byte for byte."""
    found = {}
    for image in Archive.open(archive).values():
        for i, file in enumerate(image.source.files):
            if image.round_trip == "file-exact" or file.format == "sidecar":
                digest = hashlib.sha256()
                for piece in image.source.rebuild(i):
                    digest.update(piece)
                found[file.name] = digest.hexdigest()
    return found


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """A CT series of 9 slices, 96 x 96."""
    folder = tmp_path_factory.mktemp("series") / "ct"
    return folder, collection.write_ct_series(folder, slices=9, side=96)


def test_a_mixed_folder_comes_back(series, tmp_path):
    source = tmp_path / "in"
    shutil.copytree(series[0], source / "ct")
    words = noise((2, 150, 170))
    write_tiff(source / "scene.tif", words, compress="deflate", nodata=0)
    write_tiff(source / "plain.tif", words[:1])
    (source / "README").write_text("not an image")
    (source / "broken.dcm").write_bytes((series[1][0]).read_bytes()[:-100])
    os.mkfifo(source / "pipe")
    result = add([source], tmp_path / "archive")
    assert {(f.source, f.status, f.code) for f in result.files} == {
        ("README", "skipped", "NotRecognized"),
        ("pipe", "skipped", "NotRecognized"),
        ("broken.dcm", "rejected", "TruncatedSource"),
    }
    assert result.totals["exit_code"] == 3
    assert {i.name: (i.status, i.round_trip) for i in result.images} == {
        "ct": ("added", "file-exact"),
        "scene.tif": ("added", "metadata-exact"),
        "plain.tif": ("added", "file-exact"),
    }
    archive = Archive.open(tmp_path / "archive")
    np.testing.assert_array_equal(archive["scene.tif"][...], words)
    np.testing.assert_array_equal(archive["ct"][...], collection.ct_volume(9, 96))
    assert rebuilt(tmp_path / "archive") == {
        **{f"ct/{p.name}": sha256(p) for p in series[1]},
        "plain.tif": sha256(source / "plain.tif"),
    }
    for image in archive.values():
        check = image.check("pixels")
        assert check.findings == ()
        assert check.checked == check.expected > 0
    assert problems(tmp_path / "archive") == []
    assert not list((tmp_path / "archive" / STAGING).iterdir())


def test_the_same_again_is_present_and_a_dry_run_writes_nothing(series, tmp_path):
    archive = tmp_path / "archive"
    planned = add([series[0]], archive, dry_run=True)
    assert [i.status for i in planned.images] == ["planned"]
    assert not archive.exists()
    first = add([series[0]], archive)
    before = sorted(archive.rglob("*"))
    again = add([series[0]], archive)
    part = add([series[1][4]], archive)
    assert [r.images[0].status for r in (first, again, part)] == ["added", "present", "present"]
    assert again.images[0].commit == first.images[0].commit
    assert sorted(archive.rglob("*")) == before
    assert [i.status for i in add([series[0]], archive, dry_run=True).images] == ["present"]


def test_a_damaged_image_is_not_called_present(series, tmp_path):
    name = add([series[0]], tmp_path / "archive").images[0].image
    archive = Archive.open(tmp_path / "archive")
    entry = max(archive[name].manifest.objects, key=lambda o: o.size)
    damaged = archive[name].path / entry.key
    damaged.write_bytes(damaged.read_bytes()[:-1])
    again = add([series[0]], tmp_path / "archive").images[0]
    assert (again.status, again.code, again.exit_code) == ("failed", "IntegrityError", 4)
    archive.remove(name)
    assert [i.status for i in add([series[0]], tmp_path / "archive").images] == ["added"]
    assert problems(tmp_path / "archive") == []


def test_late_instances_extend_a_series_and_reuse_its_shards(series, tmp_path, monkeypatch):
    # Shards of four slices, so that the late ones leave the first shard as it is.
    monkeypatch.setattr("tilevault.archive.grid.BALANCED_BYTES", 4 * 96 * 96 * 2)
    monkeypatch.setattr("tilevault.archive.grid.STACKED_SAMPLES", 1)
    archive = tmp_path / "archive"
    early = add(series[1][:6], archive)
    image = early.images[0].image
    old = Archive.open(archive)[image]
    late = add(series[1][6:], archive)
    assert [(i.image, i.status) for i in late.images] == [(image, "extended")]
    new = Archive.open(archive)[image]
    np.testing.assert_array_equal(new[...], collection.ct_volume(9, 96))
    assert [c.n for c in Archive.open(archive).commits(image)] == [0, 1]
    assert new.commit.previous == old.commit.sha256
    kept = {o.inputs for o in old.manifest.objects if o.inputs} & {o.inputs for o in new.manifest.objects}
    assert len(kept) == 1
    (shared,) = (o for o in new.manifest.objects if o.inputs in kept)
    assert (new.path / shared.key).stat().st_nlink == 2
    assert set(rebuilt(archive).values()) == {sha256(p) for p in series[1]}
    assert new.check("pixels").findings == ()


def test_an_instance_with_other_bytes_is_refused_and_the_first_stays(series, tmp_path):
    archive = tmp_path / "archive"
    add([series[0]], archive)
    changed = tmp_path / "changed" / "IM"
    changed.parent.mkdir()
    data = bytearray(series[1][3].read_bytes())
    data[-1] ^= 1
    changed.write_bytes(data)
    result = add([changed.parent], archive)
    assert [(f.status, f.code) for f in result.files] == [("rejected", "DuplicateConflict")]
    assert (len(result.images), result.totals["exit_code"]) == (0, 3)
    assert rebuilt(archive) == {p.name: sha256(p) for p in series[1]}


def test_an_interrupted_run_is_continued(tmp_path, monkeypatch):
    monkeypatch.setattr(storing, "SMALL_IMAGE", 0)
    monkeypatch.setattr("tilevault.archive.grid.BALANCED_BYTES", 1 << 15)
    words = noise((1, 300, 260))
    write_tiff(tmp_path / "in" / "a.tif", words, compress="lzw")
    real, log = storing._write_shard, tmp_path / "log"

    def written(*arguments):
        with log.open("a") as lines:
            print(arguments[3], file=lines)
        return real(*arguments)

    def dies_after_three(*arguments):
        if log.exists() and len(log.read_text().splitlines()) == 3:
            raise OSError("power cut")
        return written(*arguments)

    monkeypatch.setattr(storing, "_write_shard", dies_after_three)
    failed = add([tmp_path / "in"], tmp_path / "archive", tile=64, workers=1)
    assert (failed.images[0].status, failed.images[0].code) == ("failed", "InternalError")
    archive = Archive.open(tmp_path / "archive")
    assert list(archive) == []
    assert list(archive.uncommitted())
    monkeypatch.setattr(storing, "_write_shard", written)
    done = add([tmp_path / "in"], tmp_path / "archive", tile=64, workers=1)
    assert done.images[0].status == "added"
    shards = log.read_text().splitlines()
    assert len(shards) == len(set(shards)) == 5
    np.testing.assert_array_equal(archive["a.tif"][...], words[0])
    assert list(archive.uncommitted()) == []


def test_a_shard_that_rotted_before_the_commit_is_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr(storing, "SMALL_IMAGE", 0)
    write_tiff(tmp_path / "in" / "a.tif", noise((1, 64, 64)), compress="lzw")
    real = storing._commit

    def dies(*arguments):
        raise OSError("power cut")

    monkeypatch.setattr(storing, "_commit", dies)
    add([tmp_path / "in"], tmp_path / "archive")
    (shard,) = (p for p in (tmp_path / "archive").rglob("0/data/c/*/*") if p.is_file())
    shard.write_bytes(shard.read_bytes()[:-9] + b"123456789")
    monkeypatch.setattr(storing, "_commit", real)
    assert add([tmp_path / "in"], tmp_path / "archive").images[0].status == "added"
    assert problems(tmp_path / "archive") == []


_ADD = """
import sys
from tilevault import add
result = add(sys.argv[1:-1], sys.argv[-1])
print([(i.status, i.code, i.reason) for i in result.images if i.status == "failed"])
sys.exit(result.totals["exit_code"])
"""


def start(source: Path, archive: Path) -> "subprocess.Popen[bytes]":
    """An `add` in a process of its own."""
    return subprocess.Popen([sys.executable, "-c", _ADD, str(source), str(archive)])


def test_two_adds_at_once_both_end_well_and_store_nothing_twice(series, tmp_path):
    source, archive = tmp_path / "in", tmp_path / "archive"
    shutil.copytree(series[0], source / "ct")
    for i in range(6):
        write_tiff(source / f"{i}.tif", noise((1, 200, 200), i), compress="deflate")
    running = [start(source, archive) for _ in range(3)]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    opened = Archive.open(archive)
    assert len(opened) == 7
    assert all(len(opened.commits(name)) == 1 for name in opened)
    assert all(len(list((archive / "images" / name).iterdir())) == 1 for name in opened)
    assert problems(archive) == []


def test_a_hung_process_elsewhere_holds_up_nobody(tmp_path):
    import fcntl
    import tempfile

    # What Dask locks by default, for all processes of the machine.
    shared = Path(tempfile.gettempdir()) / "dask-scratch-space"
    shared.mkdir(exist_ok=True)
    write_tiff(tmp_path / "in" / "a.tif", noise((1, 64, 64)))
    with (shared / "global.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert start(tmp_path / "in", tmp_path / "archive").wait(60) == 0


def test_copies_are_kept_once_and_said_so(tmp_path):
    for name in ("a/1.tif", "b/1.tif", "b/2.tif"):
        write_tiff(tmp_path / "in" / name, noise((1, 64, 64)))
    (tmp_path / "in" / "link").symlink_to(tmp_path / "in" / "a")
    result = add([tmp_path / "in"], tmp_path / "archive")
    assert [(i.name, i.status) for i in result.images] == [("a/1.tif", "added")]
    assert sorted((f.source, f.status, f.code) for f in result.files) == [
        ("b/1.tif", "skipped", "Copy"),
        ("b/2.tif", "skipped", "Copy"),
        ("link", "skipped", "NotRecognized"),
    ]
    assert result.totals["exit_code"] == 0
    assert problems(tmp_path / "archive") == []


def test_two_adds_of_one_file_under_other_names_leave_no_second_generation(tmp_path, monkeypatch):
    monkeypatch.setattr(storing, "SMALL_IMAGE", 0)
    first = write_tiff(tmp_path / "first" / "a.tif", noise((1, 64, 64)), compress="lzw")
    second = tmp_path / "second" / "b.tif"
    second.parent.mkdir()
    shutil.copy(first, second)
    real, archive = storing._sample_packing, tmp_path / "archive"

    def meanwhile(order, window):
        if not list(Archive.open(archive)) and order.image.sources[0].name == "a.tif":
            assert start(second.parent, archive).wait(120) == 0
        return real(order, window)

    monkeypatch.setattr(storing, "_sample_packing", meanwhile)
    result = add([first.parent], archive)
    assert [(i.name, i.status) for i in result.images] == [("a.tif", "present")]
    assert problems(archive) == []
    (name,) = Archive.open(archive)
    assert len(list((archive / "images" / name).iterdir())) == 1


def kill_during_add(source: Path, archive: Path, seconds: float) -> None:
    process = start(source, archive)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def killed_at_random_moments(source: Path, archive: Path, kills: int, whole: float, seed: int) -> None:
    """Kill an `add` again and again; after each kill nothing half is visible, at the end all is there."""
    rng = np.random.default_rng(seed)
    for _ in range(kills):
        kill_during_add(source, archive, float(rng.uniform(0.3, 1.0) * whole))
        if (archive / "archive.json").exists():
            for image in Archive.open(archive).values():
                check = image.check("pixels")
                assert check.findings == ()
                assert check.checked == check.expected
    assert start(source, archive).wait(300) == 0
    assert problems(archive) == []


def _mixed(series: Path, source: Path, images: int, side: int) -> None:
    shutil.copytree(series, source / "ct")
    for i in range(images):
        write_tiff(source / f"{i}.tif", noise((1, side, side), i), compress="deflate")


def test_kill_9_leaves_nothing_half_and_the_next_run_completes(series, tmp_path):
    source, archive = tmp_path / "in", tmp_path / "archive"
    _mixed(series[0], source, 4, 300)
    killed_at_random_moments(source, archive, kills=4, whole=2.5, seed=os.getpid())
    assert len(Archive.open(archive)) == 5


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_kill_9_two_hundred_times(series, tmp_path):
    source = tmp_path / "in"
    _mixed(series[0], source, 8, 600)
    for round_ in range(20):
        archive = tmp_path / f"archive{round_}"
        killed_at_random_moments(source, archive, kills=10, whole=3.0, seed=round_)
        shutil.rmtree(archive)


def test_a_source_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = write_tiff(tmp_path / "in" / "a.tif", noise((1, 64, 64)), compress="lzw")
    real = storing._sample_packing

    def touched(order, window):
        os.utime(path, ns=(1, 1))
        return real(order, window)

    monkeypatch.setattr(storing, "_sample_packing", touched)
    result = add([tmp_path / "in"], tmp_path / "archive")
    assert [(i.status, i.code) for i in result.images] == [("failed", "SourceChanged")]
    assert result.totals["exit_code"] == 3
    assert list(Archive.open(tmp_path / "archive")) == []


def test_what_makes_no_sense_is_refused(tmp_path):
    with pytest.raises(InvalidRequest):
        add([tmp_path / "nowhere"], tmp_path / "archive")
    with pytest.raises(InvalidRequest):
        add([tmp_path], tmp_path / "archive", tile=32)
    with pytest.raises(InvalidRequest):
        add([tmp_path], tmp_path / "other", scheduler="tcp://192.0.2.1:8786")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("x")
    with pytest.raises(InvalidRequest):
        add([tmp_path], tmp_path / "folder")


def test_an_archive_inside_its_source_is_left_out(tmp_path):
    write_tiff(tmp_path / "a.tif", noise((1, 64, 64)))
    assert add([tmp_path], tmp_path / "archive").totals["images"] == 1
    again = add([tmp_path], tmp_path / "archive")
    assert (again.totals["present"], again.totals["files"]) == (1, 1)


def test_a_removed_image_can_come_again(tmp_path):
    write_tiff(tmp_path / "in" / "a.tif", noise((1, 64, 64)))
    first = add([tmp_path / "in"], tmp_path / "archive").images[0]
    archive = Archive.open(tmp_path / "archive")
    archive.remove(first.image)
    assert first.image not in archive
    assert list(archive) == []
    assert not (tmp_path / "archive" / "images" / first.image).exists()
    second = add([tmp_path / "in"], tmp_path / "archive").images[0]
    assert (second.image, second.status, second.commit["n"]) == (first.image, "added", 2)
    assert problems(tmp_path / "archive") == []


def test_sources_are_never_touched(series, tmp_path):
    before = {p: (p.stat().st_mtime_ns, p.stat().st_mode, sha256(p)) for p in series[1]}
    add([series[0]], tmp_path / "archive")
    assert {p: (p.stat().st_mtime_ns, p.stat().st_mode, sha256(p)) for p in series[1]} == before
    modes = {p.stat().st_mode & 0o777 for p in (tmp_path / "archive").rglob("*") if p.is_file()}
    assert modes == {0o600}
    folders = {p.stat().st_mode & 0o777 for p in (tmp_path / "archive").rglob("*") if p.is_dir()}
    assert folders == {0o700}


def test_workers_in_other_processes_do_the_same(series, tmp_path):
    import dask
    from distributed import LocalCluster

    own = {"temporary-directory": str(tmp_path / "scratch")}
    with (
        dask.config.set(own),
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
        ) as cluster,
    ):
        result = add([series[0]], tmp_path / "archive", scheduler=cluster.scheduler_address)
    assert [i.status for i in result.images] == ["added"]
    assert rebuilt(tmp_path / "archive") == {p.name: sha256(p) for p in series[1]}


def test_a_collection_may_be_stored_for_its_size(series, tmp_path):
    """The same pixels, files and levels that follow from them, in less space; the codec says how."""
    source = tmp_path / "in"
    shutil.copytree(series[0], source / "ct")
    collection.write_scene(source / "scene.tif", side=200)
    stored = {}
    for prefer in ("resolution", "size"):
        add([source], tmp_path / prefer, prefer=prefer)
        archive = Archive.open(tmp_path / prefer)
        stored[prefer] = sum(int(image.quality.bits.sum()) for image in archive.values())
        assert {image.codec.prefer for image in archive.values()} == {prefer}
        assert all(image.check("pixels").findings == () for image in archive.values())
        assert rebuilt(tmp_path / prefer) == {f"ct/{p.name}": sha256(p) for p in series[1]}
        np.testing.assert_array_equal(archive["ct"][...], collection.ct_volume(9, 96))
        assert archive["ct"].read(None, level=1).shape == (9, 48, 48)
    assert stored["size"] < stored["resolution"]
    with pytest.raises(InvalidRequest):
        add([source], tmp_path / "neither", prefer="speed")


def test_an_add_that_stores_nothing_leaves_no_archive(tmp_path):
    with pytest.raises(InvalidRequest):
        add([tmp_path / "nowhere"], tmp_path / "archive")
    source = tmp_path / "in"
    source.mkdir()
    (source / "empty.tif").touch()
    (source / "cut.tif").write_bytes(b"II*\0")
    result = add([source], tmp_path / "archive")
    assert sorted((f.source, f.status) for f in result.files) == [
        ("cut.tif", "rejected"),
        ("empty.tif", "skipped"),
    ]
    assert any("is empty (0 bytes)" in f.reason for f in result.files)
    assert result.totals["exit_code"] == 3
    assert not (tmp_path / "archive").exists()


def test_no_archive_is_made_among_the_files_of_others(tmp_path):
    source = write_tiff(tmp_path / "in" / "a.tif", noise((1, 64, 64)))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for place in ("taken", "file", "file/below"):
        with pytest.raises(InvalidRequest):
            add([source], tmp_path / place)
    assert sorted(path.name for path in (tmp_path / "taken").iterdir()) == ["thesis.txt"]


def test_a_lossy_source_that_grows_is_named(tmp_path):
    words = np.random.default_rng(3).normal(128, 30, (1, 256, 256)).clip(0, 255).astype(np.uint8)
    write_tiff(tmp_path / "in" / "jpeg.tif", words, compress="jpeg", tiled=True)
    write_tiff(tmp_path / "in" / "lzw.tif", words, compress="lzw")
    result = add([tmp_path / "in"], tmp_path / "archive")
    told = {image.name: [w for w in image.warnings if "compressed by jpeg" in w] for image in result.images}
    assert {name: len(found) for name, found in told.items()} == {"jpeg.tif": 1, "lzw.tif": 0}
