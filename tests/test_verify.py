"""Whatever happens to an archive on its disk, `verify` reports it, and says where."""

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import collection
from tilevault.archive.store import Archive
from tilevault.codecs.errors import ImageNotFound, InvalidRequest, TilevaultError
from tilevault.workflows.ingest import add
from tilevault.workflows.receipt import ReceiptEntry, compare, read_receipt, write_receipt
from tilevault.workflows.verify import Damage, ImageVerified, Note, ReceiptChecked, Verification, verify


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    collection.write_ct_series(folder / "ct", slices=3, side=96)
    collection.write_scene(folder / "maps" / "scene.tif", side=300)
    (folder / "maps" / "scene.tfw").write_text("10\n0\n0\n-10\n399965\n5200015\n")
    return folder


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound archive of two images, several tiles each."""
    path = tmp_path_factory.mktemp("archive") / "a"
    assert add([source], path, tile=64).totals["exit_code"] == 0
    return path


@pytest.fixture
def archive(whole: Path, tmp_path: Path) -> Archive:
    """A copy to damage."""
    shutil.copytree(whole, tmp_path / "a")
    return Archive.open(tmp_path / "a")


def run(archive: Archive, *images: str, **options: Any) -> tuple[Verification, list[Any]]:
    records: list[Any] = []
    result = verify(archive, images or None, tell=records.append, **options)
    return result, records


def damage_of(records: list[Any]) -> list[Damage]:
    found = [damage for record in records if isinstance(record, ImageVerified) for damage in record.damage]
    return found + [record for record in records if isinstance(record, Damage)]


def image_of(archive: Archive, kind: str) -> Any:
    return next(archive[name] for name in archive if archive[name].summary["kind"] == kind)


def flip(path: Path, at: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.write_bytes(data)


# -- sound ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", ["exists", "size", "digest", "pixels"])
def test_a_sound_archive_is_clean_and_all_of_it_was_checked(archive: Archive, depth: str) -> None:
    result, records = run(archive, depth=depth)
    assert result.exit_code == 0
    assert damage_of(records) == []
    assert (result.images, result.damaged_images, result.damage) == (2, 0, 0)
    assert result.checked == result.expected >= 50
    assert [r.status for r in records if isinstance(r, ImageVerified)] == ["ok", "ok"]


def test_pixels_counts_tiles_and_files_too(archive: Archive) -> None:
    image = image_of(archive, "dicom")
    shallow, _ = run(archive, image.id, depth="digest")
    deep, _ = run(archive, image.id, depth="pixels")
    tiles = int(np.prod(image.grid.tiles))
    assert deep.expected == shallow.expected + tiles + len(image.source.files)


def test_verifying_changes_nothing(archive: Archive) -> None:
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in archive.path.rglob("*") if p.is_file()}
    run(archive, depth="pixels")
    assert before == {
        p: (p.stat().st_mtime_ns, p.read_bytes()) for p in archive.path.rglob("*") if p.is_file()
    }


def test_a_check_of_nothing_is_not_clean(tmp_path: Path) -> None:
    result, records = run(Archive.create(tmp_path / "empty"))
    assert (result.checked, result.exit_code) == (0, 4)
    assert [record.kind for record in records if isinstance(record, Note)] == ["empty"]


def test_images_are_named_like_anywhere(archive: Archive) -> None:
    image = image_of(archive, "geotiff")
    result, records = run(archive, image.id[:6], "maps/scene.tif")
    assert result.images == 1
    assert records[0].image == image.id
    with pytest.raises(ImageNotFound):
        run(archive, "nowhere")
    with pytest.raises(InvalidRequest):
        run(archive, depth="deep")


# -- damage --------------------------------------------------------------------------------------------------


def objects(path: Path) -> list[str]:
    """One object of each kind, by the folders that it lies in."""
    kinds: dict[tuple[str, ...], str] = {}
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        relative = file.relative_to(path).as_posix()
        parts = relative.split("/")
        kind = tuple(part for part in parts if not part.isdecimal() and len(part) != 32)
        kinds.setdefault((parts[1] if parts[0] in ("images", "commits") else "", *kind), relative)
    return list(kinds.values())


def lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


def make_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


CORRUPTIONS: dict[str, Callable[[Path], None]] = {
    "first bit": lambda path: flip(path, 0),
    "middle bit": flip,
    "last bit": lambda path: flip(path, -1),
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 1),
    "empty": lambda path: os.truncate(path, 0),
    "longer": lengthen,
    "deleted": Path.unlink,
    "a link": make_link,
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_damage_to_any_kind_of_object_is_reported(whole: Path, tmp_path: Path, name: str) -> None:
    kinds = objects(whole)
    assert len(kinds) > 40
    for i, relative in enumerate(kinds):
        path = tmp_path / str(i)
        shutil.copytree(whole, path)
        CORRUPTIONS[name](path / relative)
        if relative == "archive.json":
            with pytest.raises(TilevaultError):
                Archive.open(path)
            continue
        for depth in ("digest", "pixels"):
            result, records = run(Archive.open(path), depth=depth)
            assert result.exit_code == 4, f"{relative} {name} at {depth}"
            # An image whose only commit is gone is told by the generation that it leaves behind.
            images = {damage.image for damage in damage_of(records)}
            assert images == {relative.split("/")[1]}, f"{relative} {name} at {depth}: {records}"
        shutil.rmtree(path)


def test_a_damaged_tile_is_named_by_image_level_and_position(archive: Archive) -> None:
    image = image_of(archive, "geotiff")
    reader = image.readers["data"]
    at = (0, 2, 1)
    shard, _ = reader.array.grid.shard_of(at)
    offset, length = reader._locate(at)
    flip(image.path / reader.array.shard_key(shard), offset + length // 2)
    result, records = run(archive)
    assert result.exit_code == 4
    assert result.damaged_images == 1
    (tile,) = [damage for damage in damage_of(records) if damage.kind == "tile"]
    assert (tile.image, tile.level, tile.index) == (image.id, 0, at)
    assert tile.window == {"start": [0, 128, 64], "stop": [4, 192, 128]}
    assert tile.object == "0/data/c/0/0/0"


def test_a_damaged_chunk_of_a_coarse_level_is_named(archive: Archive) -> None:
    image = image_of(archive, "geotiff")
    flip(image.path / "3" / "data" / "c" / "0" / "0" / "0")
    _, records = run(archive)
    (chunk,) = damage_of(records)
    assert (chunk.kind, chunk.level, chunk.index) == ("digest", 3, (0, 0, 0))


def test_swapped_objects_are_reported(archive: Archive) -> None:
    image = image_of(archive, "dicom")
    first, second = image.path / "tiles/data/ends/c/0/0/0/0", image.path / "tiles/data/digests/c/0/0/0/0/0"
    blob = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(blob)
    result, records = run(archive)
    assert result.exit_code == 4
    assert {damage.object for damage in damage_of(records)} >= {
        "tiles/data/ends/c/0/0/0/0",
        "tiles/data/digests/c/0/0/0/0/0",
    }


def test_an_object_of_another_image_is_reported(archive: Archive) -> None:
    scene, ct = image_of(archive, "geotiff"), image_of(archive, "dicom")
    (listed,) = (entry.key for entry in ct.manifest.objects if entry.key.startswith("source/files"))
    for key in ("source/image.json", listed, "zarr.json", "manifest.json"):
        kept = (ct.path / key).read_bytes()
        (ct.path / key).write_bytes((scene.path / key).read_bytes())
        result, records = run(archive)
        assert result.exit_code == 4
        assert {damage.image for damage in damage_of(records)} == {ct.id}
        (ct.path / key).write_bytes(kept)


def test_a_commit_of_another_image_is_reported(archive: Archive) -> None:
    scene, ct = image_of(archive, "geotiff"), image_of(archive, "dicom")
    commits = archive.path / "commits"
    shutil.copyfile(commits / scene.id / "0.json", commits / ct.id / "0.json")
    result, records = run(archive)
    assert result.exit_code == 4
    assert "chain" in {damage.kind for damage in damage_of(records) if damage.image == ct.id}


def test_a_file_that_nobody_lists_is_reported(archive: Archive) -> None:
    image = image_of(archive, "dicom")
    (image.path / "0" / "c" / "9").mkdir(parents=True)
    (image.path / "0" / "c" / "9" / "9").write_bytes(b"x")
    result, records = run(archive, depth="exists")
    assert result.exit_code == 4
    assert [(d.kind, d.object) for d in damage_of(records)] == [("extra", "0/c/9/9")]


def test_depths_see_what_they_promise(archive: Archive) -> None:
    image = image_of(archive, "dicom")
    shard = image.path / "0" / "c" / "0" / "0" / "0"
    flip(shard, 100)
    assert [run(archive, depth=d)[0].exit_code for d in ("exists", "size", "digest")] == [0, 0, 4]
    os.truncate(shard, 100)
    assert [run(archive, depth=d)[0].exit_code for d in ("exists", "size", "digest")] == [0, 4, 4]
    shard.unlink()
    assert [run(archive, depth=d)[0].exit_code for d in ("exists", "size", "digest")] == [4, 4, 4]


def test_a_wrong_file_is_found_by_rebuilding_it(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chain can be sound and the rebuilt file wrong only by a fault of ours: here, a made-up one."""
    from tilevault.archive.source import Source

    honest = Source.rebuild

    def lying(self: Source, i: int) -> Any:
        pieces = b"".join(honest(self, i))
        return iter([pieces if i != 1 else pieces[:-1] + bytes([pieces[-1] ^ 1])])

    monkeypatch.setattr(Source, "rebuild", lying)
    result, records = run(archive, "ct/IM000001", depth="pixels")
    assert result.exit_code == 4
    assert [(d.kind, d.source) for d in damage_of(records)] == [("file", "ct/IM000001")]


# -- around the images ---------------------------------------------------------------------------------------


def test_a_lost_commit_is_reported(archive: Archive) -> None:
    image = image_of(archive, "dicom")
    shutil.rmtree(archive.path / "commits" / image.id)
    result, records = run(archive)
    assert result.exit_code == 4
    (lost,) = damage_of(records)
    assert (lost.kind, lost.image) == ("uncommitted", image.id)
    assert lost.object == f"images/{image.id}/{image.generation}"


def test_an_unfinished_generation_is_only_mentioned(archive: Archive) -> None:
    image = image_of(archive, "dicom")
    begun = archive.path / "images" / image.id / ("0" * 32)
    begun.mkdir()
    (begun / "zarr.json").write_text("{}")
    (archive.path / ".staging").mkdir(exist_ok=True)
    (archive.path / ".staging" / "left.tmp").write_bytes(b"x")
    result, records = run(archive)
    assert result.exit_code == 0
    assert {record.kind for record in records if isinstance(record, Note)} == {"interrupted", "staging"}


def test_a_removal_that_was_cut_off_is_mentioned(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    image = image_of(archive, "dicom")
    monkeypatch.setattr(type(archive.blobs), "remove_tree", lambda self, prefix: None)
    archive.remove(image.id)
    result, records = run(archive)
    assert result.exit_code == 0
    assert [record.kind for record in records if isinstance(record, Note)] == ["removed"]


# -- samples -------------------------------------------------------------------------------------------------


def test_a_sample_is_a_part_and_the_same_each_time(archive: Archive) -> None:
    results = [run(archive, depth="pixels", sample=30.0, seed=seed)[0] for seed in (1, 1, 2)]
    for result in results:
        assert result.exit_code == 0
        assert 0 < result.checked < result.expected
    assert results[0].checked == results[1].checked
    assert run(archive, depth="pixels", sample=100.0)[0].checked == results[0].expected


def test_samples_find_damage_sooner_or_later(archive: Archive) -> None:
    image = image_of(archive, "dicom")
    flip(image.path / "0" / "c" / "0" / "0" / "0", 50)
    found = [run(archive, sample=40.0, seed=seed)[0].exit_code for seed in range(12)]
    assert set(found) == {0, 4}


# -- receipts ------------------------------------------------------------------------------------------------


@pytest.fixture
def receipt(archive: Archive, tmp_path: Path) -> Path:
    commits = [archive[name].commit for name in archive]
    entries = [ReceiptEntry(c.image, c.n, c.sha256, str(c.generation), str(c.manifest)) for c in commits]
    path = tmp_path / "receipt.json"
    assert write_receipt(path, entries) == "written"
    return path


def statuses(records: list[Any]) -> list[str]:
    return sorted(record.status for record in records if isinstance(record, ReceiptChecked))


def test_a_receipt_is_private_and_never_overwritten(receipt: Path) -> None:
    assert receipt.stat().st_mode & 0o777 == 0o600
    entries = read_receipt(receipt)
    assert len(entries) == 2
    assert write_receipt(receipt, entries) == "present"
    with pytest.raises(TilevaultError) as conflict:
        write_receipt(receipt, entries[:1])
    assert conflict.value.code == "Conflict"
    assert read_receipt(receipt) == entries


def test_what_a_receipt_names_is_there(archive: Archive, receipt: Path) -> None:
    result, records = run(archive, against=receipt)
    assert (result.exit_code, statuses(records)) == (0, ["kept", "kept"])
    assert result.receipt_entries == 2


def test_a_later_commit_keeps_the_earlier_one(
    archive: Archive, source: Path, receipt: Path, tmp_path: Path
) -> None:
    collection.write_ct_series(tmp_path / "more" / "ct", slices=4, side=96)
    assert add([tmp_path / "more"], archive.path, tile=64).totals["extended"] == 1
    result, records = run(archive, against=receipt)
    assert (result.exit_code, statuses(records)) == (0, ["kept", "kept"])


def test_an_image_lost_with_all_its_traces_is_reported(archive: Archive, receipt: Path) -> None:
    image = image_of(archive, "dicom")
    shutil.rmtree(archive.path / "commits" / image.id)
    shutil.rmtree(archive.path / "images" / image.id)
    assert run(archive)[0].exit_code == 0
    result, records = run(archive, against=receipt)
    assert (result.exit_code, statuses(records)) == (4, ["kept", "lost"])


def test_an_archive_rolled_back_is_reported(archive: Archive, receipt: Path, tmp_path: Path) -> None:
    older = tmp_path / "older"
    shutil.copytree(archive.path, older)
    collection.write_ct_series(tmp_path / "more" / "ct", slices=4, side=96)
    added = add([tmp_path / "more"], archive.path, tile=64)
    entries = [
        ReceiptEntry(i.image, i.commit["n"], i.commit["sha256"], i.commit["generation"], i.commit["manifest"])
        for i in added.images
        if i.commit
    ]
    write_receipt(tmp_path / "newer.json", entries)
    assert run(archive, against=tmp_path / "newer.json")[0].exit_code == 0
    result, records = run(Archive.open(older), against=tmp_path / "newer.json")
    assert (result.exit_code, statuses(records)) == (4, ["lost"])


def test_a_replaced_commit_is_reported(archive: Archive, receipt: Path) -> None:
    entry = read_receipt(receipt)[0]
    other = ReceiptEntry(entry.image, entry.commit, "0" * 64, entry.generation, entry.manifest)
    assert compare(archive.blobs, entry)[0] == "kept"
    assert compare(archive.blobs, other)[0] == "replaced"


def test_a_removed_image_is_reported(archive: Archive, receipt: Path) -> None:
    archive.remove(image_of(archive, "dicom").id)
    result, records = run(archive, against=receipt)
    assert (result.exit_code, statuses(records)) == (4, ["kept", "removed"])


def test_a_damaged_commit_is_reported(archive: Archive, receipt: Path) -> None:
    image = image_of(archive, "dicom")
    flip(archive.path / "commits" / image.id / "0.json")
    _, records = run(archive, against=receipt)
    assert statuses(records) == ["kept", "replaced"]


HOSTILE = [
    b"",
    b"{}",
    b"[1]",
    b"\xff\xfe",
    b'{"tilevault_receipt": 2, "images": []}',
    b'{"tilevault_receipt": 1, "images": {}}',
    b'{"tilevault_receipt": 1, "images": [1]}',
    b'{"tilevault_receipt": 1}',
    b"[" * 100_000,
    json.dumps(
        {
            "tilevault_receipt": 1,
            "images": [
                {
                    "image": "../../../../../../../etc/passwd",
                    "commit": 0,
                    "commit_sha256": "0" * 64,
                    "generation": "0" * 32,
                    "manifest": "0" * 64,
                }
            ],
        }
    ).encode(),
]


@pytest.mark.parametrize("data", HOSTILE, ids=lambda data: f"{zlib.crc32(data):08x}")
def test_what_is_no_receipt_is_refused(archive: Archive, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "no-receipt"
    path.write_bytes(data)
    with pytest.raises(InvalidRequest):
        run(archive, against=path)
    with pytest.raises(InvalidRequest):
        read_receipt(tmp_path / "absent")
