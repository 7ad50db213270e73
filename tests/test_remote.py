"""Archives behind a URL: the same values, few requests, our errors, and nothing of a credential.

A plain web server (`web_server`); buckets are `test_remote_s3`'s.
"""

import copy
import shutil
import time
from collections.abc import Iterator

import numpy as np
import pytest

import collection
from tilevault import Archive, add
from tilevault.archive import TileCache
from tilevault.archive.blobs import LocalBlobs
from tilevault.archive.listing import LISTING, listing_bytes
from tilevault.archive.ranges import merged
from tilevault.codecs.errors import (
    AccessDenied,
    ImageNotFound,
    IntegrityError,
    InvalidRequest,
    LimitExceeded,
    ManifestCorrupt,
    ShortRead,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
    TileCorrupt,
    TileMissing,
    TilevaultError,
    UnsafeName,
)
from web_server import WebServer, serving

remote = pytest.importorskip("tilevault.archive.remote")
pytest.importorskip("obstore", reason="the extra [remote] is not installed")


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Archive:
    """A CT series (lowpass53) and a scene (means)."""
    folder = tmp_path_factory.mktemp("remote")
    collection.write_ct_series(folder / "in" / "ct", slices=3)
    scene = collection.write_scene(folder / "in" / "scene.tif", side=1300)
    collection.write_scene(folder / "in" / "twice.tif", side=64)
    assert scene.exists()
    add([folder / "in"], folder / "archive", workers=1)
    return Archive.open(folder / "archive")


@pytest.fixture
def web(local, tmp_path) -> Iterator[WebServer]:
    """A server of a copy of the archive, without listing.json."""
    shutil.copytree(local.path, tmp_path / "archive")
    with serving(tmp_path) as server:
        yield server


def far(web: WebServer, **options) -> Archive:
    return Archive.open(f"{web.url}/archive", **options)


def named(archive: Archive, name: str) -> str:
    return next(i for i in archive if archive[i].description.name == name)


# -- values and requests ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ct", "scene.tif"])
def test_everything_is_read_as_from_a_folder(local, web, name):
    here = local[name]
    there = far(web)[here.id]
    assert (there.shape, there.dtype, there.levels) == (here.shape, here.dtype, here.levels)
    for level in here.levels:
        np.testing.assert_array_equal(there.read(level=level), here.read(level=level))
    np.testing.assert_array_equal(there[..., 30:40, ::7], here[..., 30:40, ::7])
    np.testing.assert_array_equal(there.words[..., 5:6], here.words[..., 5:6])
    assert [file.name for file in there.source.files] == [file.name for file in here.source.files]
    if here.round_trip == "file-exact":
        assert b"".join(there.source.rebuild(0)) == b"".join(here.source.rebuild(0))
    assert there.quality.bits.tolist() == here.quality.bits.tolist()


def test_a_window_costs_few_requests_and_few_bytes(local, web):
    """Counted: what opening takes, what planning takes, and one request for neighbours in a shard."""
    here = local["scene.tif"]
    archive = far(web)
    assert web.paths() == ["/archive/archive.json"]
    web.clear()
    image = archive[here.id]
    assert [r[0] for r in web.requests] == ["HEAD", "HEAD", "GET"]  # records 0 and 1, then 0
    image[:, :512, :512]
    wanted = ["manifest.json", "image.json", "ends", "digests", "shard index", "tile"]
    assert len(web.paths()) == 1 + len(wanted)
    tile = here.readers["data"].tile_bytes((0, 0, 0), 6)
    assert web.requests[-1][2] == len(tile)
    web.clear()
    image[:, :512, :512]
    assert len(web.requests) == 1
    web.clear()
    np.testing.assert_array_equal(image[:, :512, 600:1300], here[:, :512, 600:1300])
    both = sum(len(here.readers["data"].tile_bytes((0, 0, i), 6)) for i in (1, 2))
    assert len(web.requests) == 1  # neighbours: together
    assert both <= web.bytes_sent <= both + 8


def test_a_preview_reads_the_stored_level_only(local, web):
    here = local["scene.tif"]
    image = far(web)[here.id]
    assert image.info is not None
    web.clear()
    np.testing.assert_array_equal(image.read(level=4), here.read(level=4))
    stored = [o.size for o in here.manifest.objects if o.key.startswith("4/data/c/")]
    # The manifest, the description (which `info` has read) and the chunks.
    assert all("/4/data/c/" in path for path in web.paths())
    assert web.bytes_sent == sum(stored)


def test_a_level_of_a_prefix_touches_the_prefix_only(local, web):
    here = local["ct"]
    assert here.downsampling == "lowpass53"
    ends = here.readers["data"].tables.ends
    for level in (1, 2):
        image = far(web)[here.id]
        image.readers["data"]._prepare(list(here.grid.tile_indices()))
        web.clear()
        np.testing.assert_array_equal(image.read(level=level), here.read(level=level))
        prefixes = int(ends[..., 5 - level].sum())
        assert prefixes <= web.bytes_sent <= prefixes + 3 * 64 * 1024
        assert web.bytes_sent < int(ends[..., 5].sum())


def test_cached_tiles_are_not_asked_for(local, web):
    here = local["scene.tif"]
    image = far(web, cache=TileCache(1 << 30))[here.id]
    image[:, :512, :512]
    web.clear()
    image[:, :512, :512]
    assert not web.requests
    np.testing.assert_array_equal(image[:, :512, :1024], here[:, :512, :1024])
    assert len(web.requests) == 1


def test_ranges_are_put_together():
    wanted = [(100, 200, "b"), (0, 50, "a"), (1000, 1100, "c"), (150, 180, "d")]
    (first, second) = merged(wanted, gap=50, longest=10**6)
    assert (first.start, first.stop) == (0, 200)
    assert [one[2] for one in first.wanted] == ["a", "b", "d"]
    assert (second.start, second.stop, second.wanted) == (1000, 1100, ((1000, 1100, "c"),))
    assert len(merged(wanted, gap=49)) == 3
    assert [(r.start, r.stop) for r in merged([(i * 10, i * 10 + 10, i) for i in range(10)], longest=40)] == [
        (0, 40),
        (40, 80),
        (80, 100),
    ]
    assert [r.stop for r in merged([(0, 100, 0), (100, 101, 1)], longest=40)] == [100, 101]
    assert merged([]) == []


# -- names ------------------------------------------------------------------------------------------------


def test_without_a_listing_an_id_is_needed_and_that_is_said(local, web):
    archive = far(web)
    for ask in (lambda: list(archive), lambda: archive["scene.tif"], lambda: len(archive)):
        with pytest.raises(InvalidRequest, match=r"listing\.json.*whole id"):
            ask()
    assert archive[named(local, "ct")].description.name == "ct"
    with pytest.raises(TilevaultError):
        archive["0" * 32]


def test_a_listing_names_the_images_and_has_no_authority(local, web, tmp_path):
    own = Archive.open(tmp_path / "archive")
    assert own.write_listing() == len(local) == 3
    archive = far(web)
    assert list(archive) == list(local)
    assert archive["scene.tif"].id == local["scene.tif"].id
    assert set(archive) == set(local)
    # One that is not there, or is removed, is listed in vain.
    (tmp_path / "archive" / LISTING).write_bytes(listing_bytes([*local, "0" * 32]))
    assert list(archive) == list(local)
    own.remove(named(local, "twice.tif"))
    assert len(archive) == 2
    for damaged in (b"{}", b"", listing_bytes(["../x"]), listing_bytes([1])):  # type: ignore[list-item]
        (tmp_path / "archive" / LISTING).write_bytes(damaged)
        with pytest.raises(ManifestCorrupt):
            list(archive)


def test_a_listing_changes_nothing_else(local, tmp_path):
    own = Archive.open(shutil.copytree(local.path, tmp_path / "copy"))
    own.write_listing()
    own.write_listing()
    assert list(own) == list(local)
    assert not own[named(own, "ct")].check("digest").findings
    assert Archive.create(own.path)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 9, 33])
def test_the_newest_commit_is_found_by_asking(local, web, tmp_path, count):
    own, name = Archive.open(tmp_path / "archive"), named(local, "ct")
    first = (tmp_path / "archive" / "commits" / name / "0.json").read_bytes()
    for n in range(1, count):
        (tmp_path / "archive" / "commits" / name / f"{n}.json").write_bytes(first)
    web.clear()
    assert far(web)._commit_numbers(name) == own._commit_numbers(name) == list(range(count))
    assert len(web.paths("HEAD")) <= 2 * (count.bit_length() + 1)


def test_a_server_that_has_an_answer_for_everything_does_not_hold_us(local, web):
    name = named(local, "ct")
    web.replaced = {f"commits/{name}": b"<html>"}
    with pytest.raises(LimitExceeded, match="answers for every"):
        far(web)[name]


def test_what_is_no_archive(web):
    with pytest.raises(ImageNotFound, match="no archive here"):
        Archive.open(f"{web.url}/nothing")


# -- faults -----------------------------------------------------------------------------------------------


def test_damage_is_an_error_and_never_pixels(local, web, tmp_path):
    here = local["scene.tif"]
    shard = tmp_path / "archive" / here.prefix / here.readers["data"].array.shard_key((0, 0, 0))
    data = bytearray(shard.read_bytes())
    data[1000] ^= 4
    shard.chmod(0o600)
    shard.write_bytes(data)
    image = far(web)[here.id]
    with pytest.raises(TileCorrupt, match="digest"):
        image[:, :512, :512]
    with pytest.raises(TileCorrupt):
        image[:, :600, :600]
    assert [f.kind for f in image.check("pixels").findings if f.index] == ["tile"]
    shard.write_bytes(data[:5000])
    with pytest.raises(TileCorrupt, match="truncated"):
        far(web)[here.id][:, :512, :512]
    shard.unlink()
    with pytest.raises(TileMissing):
        far(web)[here.id][:, :512, :512]


def test_a_server_that_sends_other_bytes_than_asked_for(local, web):
    here = local["ct"]
    image = far(web)[here.id]
    assert image.info is not None
    web.replaced = {"/tiles/": b"x" * 200, "manifest": b"{}"}
    with pytest.raises(IntegrityError):
        image[0]
    web.replaced = {"archive.json": b"x" * (17 << 20)}
    with pytest.raises(IntegrityError, match="allowed"):
        far(web)


def test_a_server_without_ranges_is_named(local, web):
    image = far(web)[local["scene.tif"].id]
    web.ranges = False
    with pytest.raises(StoreUnavailable, match="range requests"):
        image[:, :512, :512]


def test_an_answer_that_breaks_off_is_asked_for_again_a_few_times(local, web):
    here = local["scene.tif"]
    image = far(web)[here.id]
    web.cut = 2
    np.testing.assert_array_equal(image[:, :512, :512], here[:, :512, :512])
    web.cut = -1
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        image[:, 512:1024, :512]
    assert time.monotonic() - began < 20


def test_a_server_that_is_gone(local):
    with serving(local.path.parent) as web:
        image = Archive.open(f"{web.url}/{local.path.name}", timeout=1)[local["ct"].id]
    with pytest.raises(StoreUnavailable):
        image[0]


def test_a_slow_server_is_a_timeout(local, web):
    image = far(web, timeout=0.5)[local["ct"].id]
    web.delay, web.slow = 2.0, "/0/c/"
    began = time.monotonic()
    with pytest.raises(StoreTimeout):
        image[0]
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, AccessDenied),
        (403, AccessDenied),
        (404, TileMissing),
        (410, StoreUnavailable),
        (416, (ShortRead, TileCorrupt)),  # as damage, where a shard ends before its index
        (429, StoreUnavailable),
        (500, StoreUnavailable),
        (502, StoreUnavailable),
        (503, StoreUnavailable),
    ],
)
def test_refusals(local, web, status, error):
    image = far(web, timeout=0.5)[local["ct"].id]
    web.statuses = {"/0/c/": status}
    with pytest.raises(error):
        image[0]
    for ask in (lambda: far(web, timeout=0.5), lambda: Archive.open(f"{web.url}/archive/x", timeout=0.5)):
        web.statuses = {"archive.json": status}
        with pytest.raises(ImageNotFound if error is TileMissing else error):
            ask()


def test_a_busy_server_is_asked_again(local, web):
    here, image = local["scene.tif"], far(web)[local["scene.tif"].id]
    image[:, :8, :8]
    web.clear()
    web.failing = 2
    np.testing.assert_array_equal(image[:, :512, 512:1024], here[:, :512, 512:1024])
    assert [size > 100 for _, _, size in web.requests] == [False, False, True]


def test_an_answer_that_stalls_is_a_timeout(local, web):
    image = far(web, timeout=0.4)[local["scene.tif"].id]
    image[:, :8, :8]
    web.stall = 1.5
    began = time.monotonic()
    with pytest.raises(StoreTimeout):
        image[:, :512, 512:1024]
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("span", ["", "bytes 0-4/9", "bytes 7-6/5", "bytes */9", "lines 1-2/3", "bytes 0-9"])
def test_another_range_than_asked_for(local, web, span):
    image = far(web)[local["scene.tif"].id]
    image[:, :8, :8]
    web.span = span
    with pytest.raises(StoreError):
        image[:, :512, 512:1024]


@pytest.mark.parametrize("length", [0, 40, 5000, None], ids=str)
def test_an_object_that_changes_between_requests_gives_no_pixels(local, web, length):
    """Shorter, or as long with another content: after the shard's index was read."""
    here, image = local["scene.tif"], far(web)[local["scene.tif"].id]
    image[:, :512, :512]
    data = local.blobs.read(f"{here.prefix}/{here.readers['data'].array.shard_key((0, 0, 0))}")
    web.replaced = {"/0/data/c/": data[::-1] if length is None else data[:length]}
    with pytest.raises((TileCorrupt, StoreError)):
        image[:, :512, 512:1024]


def test_an_object_that_grew_gives_its_pixels_and_is_found_by_verify(local, web):
    """What was archived is all there; what was added to it is damage nevertheless."""
    here, image = local["scene.tif"], far(web)[local["scene.tif"].id]
    image[:, :512, :512]
    data = local.blobs.read(f"{here.prefix}/{here.readers['data'].array.shard_key((0, 0, 0))}")
    web.replaced = {"/0/data/c/": data + b"more"}
    np.testing.assert_array_equal(image[:, :512, 512:1024], here[:, :512, 512:1024])
    assert image.check("size").findings


# -- what is not done -------------------------------------------------------------------------------------


def test_nothing_is_written(local, web, tmp_path):
    archive = far(web)
    (tmp_path / "more").mkdir()
    collection.write_scene(tmp_path / "more" / "a.tif", side=64)
    for write in (
        lambda: archive.remove(local["ct"].id),
        archive.write_listing,
        lambda: archive.path,
        lambda: archive[local["ct"].id].path,
        lambda: Archive.create(f"{web.url}/new"),
        lambda: archive.writable,
    ):
        with pytest.raises(InvalidRequest, match="can only be read"):
            write()


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/x",
        "file:///etc",
        "http://",
        "s3://",
        "http://user:secret@host/x",
        "https://:secret@host/x",
        "https://host/x?token=secret",
        "https://host/x#secret",
        "s3://bucket:99/x",
        "http://host:port/x",
        "http://host/a/../b",
        "http://host/a/%2e%2e/b",
        "http://host/a\nb",
    ],
)
def test_other_urls_are_refused_without_repeating_secrets(url):
    with pytest.raises((InvalidRequest, UnsafeName)) as raised:
        Archive.open(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_timeouts_that_are_none(timeout):
    with pytest.raises(InvalidRequest):
        Archive.open("http://127.0.0.1:9/x", timeout=timeout)


def test_keys_are_checked_before_anything_is_asked(web):
    blobs = far(web).blobs
    web.clear()
    for key in ("../x", "/x", "a//b", "A", "a/../b", "", "a\0"):
        for ask in (blobs.read, blobs.size, blobs.digest, blobs.open):
            with pytest.raises(UnsafeName):
                ask(key)
    assert not web.requests
    again = copy.copy(blobs)  # as for a worker: by its state
    assert again._store is not blobs._store
    assert again.read("archive.json") == blobs.read("archive.json")


def test_both_kinds_of_place_answer_alike(local, web):
    near, away = local.blobs, far(web).blobs
    assert isinstance(near, LocalBlobs)
    key = f"{local['ct'].prefix}/manifest.json"
    assert near.read(key, 3, 9) == away.read(key, 3, 9) == away.open(key).read(3, 9)
    assert near.read(key, 5) == away.read(key, 5)
    assert near.size(key) == away.size(key)
    assert near.digest(key) == away.digest(key)
    assert near.digest(key, 7) == away.digest(key, 7)
    assert near.size("nothing") is away.size("nothing") is None
    assert away.read(key, 4, 4) == b""
    for blobs in (near, away):
        with pytest.raises(IntegrityError):
            blobs.read(key, limit=10)
        with pytest.raises(TileMissing):
            blobs.read("nothing")
        with pytest.raises(TileMissing):
            blobs.digest("nothing")


# -- the command line -------------------------------------------------------------------------------------


def run(capsys, *arguments: str) -> tuple[int, str]:
    from tilevault.workflows.cli import main

    code = main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out + said.err


def test_commands_that_read_take_a_url(local, web, tmp_path, capsys):
    url, ct = f"{web.url}/archive", local["ct"].id
    code, said = run(capsys, "ls", url)
    assert (code, "listing.json" in said) == (3, True)
    code, said = run(capsys, "publish", tmp_path / "archive")
    assert (code, said) == (0, "listing.json: 3 images\n")
    assert run(capsys, "publish", url)[0] == 3
    code, said = run(capsys, "ls", url)
    assert (code, "scene.tif" in said) == (0, True)
    assert run(capsys, "info", url, ct)[0] == 0
    assert run(capsys, "read", url, ct, "-o", tmp_path / "ct.npy")[0] == 0
    np.testing.assert_array_equal(np.load(tmp_path / "ct.npy"), local["ct"][...])
    code, said = run(capsys, "verify", url, "--depth", "pixels")
    assert (code, "no damage found" in said) == (0, True), said
    assert run(capsys, "export", url, "-o", tmp_path / "out")[0] == 0
    assert len([path for path in (tmp_path / "out").rglob("*") if path.is_file()]) == 5
    code, said = run(capsys, "rm", url, ct, "--yes")
    assert (code, "can only be read" in said) == (3, True)
    code, said = run(capsys, "add", tmp_path / "out", url)
    assert (code, "can only be read" in said) == (3, True), said
