"""Archives in a bucket, against a real S3 server on this machine: values, requests, refusals, credentials."""

import json
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import numpy as np
import pytest

import collection
from s3_server import ENVIRONMENT, Faults, S3Server, serving_s3
from tilevault import Archive, add
from tilevault.archive import Window
from tilevault.archive.remote import RETRIES, RemoteBlobs
from tilevault.codecs.errors import (
    AccessDenied,
    ImageNotFound,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
    TileCorrupt,
    TileMissing,
    TilevaultError,
)
from tilevault.workflows.cli import main

obstore = pytest.importorskip("obstore", reason="the extra [remote] is not installed")

BUCKET, PREFIX = "images-of-ours", "some/archive"
URL = f"s3://{BUCKET}/{PREFIX}"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """A CT series (lowpass53) and a scene (means)."""
    folder = tmp_path_factory.mktemp("s3")
    collection.write_ct_series(folder / "in" / "ct", slices=3)
    collection.write_scene(folder / "in" / "scene.tif", side=1300)
    add([folder / "in"], folder / "archive", workers=1)
    return Archive.open(folder / "archive")


@pytest.fixture(scope="module")
def running() -> Iterator[S3Server]:
    with serving_s3() as server:
        yield server


def store() -> object:
    from obstore.store import S3Store

    return S3Store(BUCKET, prefix=PREFIX, client_options={"allow_http": True})


@pytest.fixture(scope="module")
def filled(running: S3Server, local: Archive) -> Iterator[S3Server]:
    """The server, with a copy of the archive in a bucket."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": running.url}.items():
            patched.setenv(name, value)
        running.make_bucket(BUCKET)
        for key in list(local.blobs.keys()):
            obstore.put(store(), key, local.blobs.read(key))
        yield running


@pytest.fixture
def s3(filled: S3Server) -> S3Server:
    """Nothing counted, nothing wrong."""
    filled.clear()
    return filled


@pytest.fixture
def replace(s3: S3Server, local: Archive) -> Iterator[Callable[[bytes | None], None]]:
    """Gives the scene's first shard other content, or removes it, until the test ends."""
    key = first_shard(local)

    def put(data: bytes | None) -> None:
        if data is None:
            obstore.delete(store(), key)
        else:
            obstore.put(store(), key, data)

    yield put
    s3.clear()
    put(local.blobs.read(key))


def cli(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out + said.err


def first_shard(local: Archive) -> str:
    here = local["scene.tif"]
    return f"{here.prefix}/{here.readers['data'].array.shard_key((0, 0, 0))}"


# -- values and requests ------------------------------------------------------------------------------------


def test_it_lists_reads_and_checks(
    s3: S3Server, local: Archive, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    archive = Archive.open(URL)
    assert list(archive) == list(local)
    for name in ("ct", "scene.tif"):
        here, there = local[name], archive[name]
        for level in here.levels:
            np.testing.assert_array_equal(there.read(level=level), here.read(level=level))
        assert not there.check("pixels").findings
    assert sorted(archive.blobs.keys()) == sorted(local.blobs.keys())
    assert archive.blobs.folders("commits") == local.blobs.folders("commits")
    assert archive.blobs.names(f"commits/{here.id}") == local.blobs.names(f"commits/{here.id}")
    assert archive.blobs.folders("nothing") == []
    assert cli(capsys, "ls", URL)[0] == 0
    code, said = cli(capsys, "verify", URL)
    assert (code, "no damage found" in said) == (0, True), said
    code, said = cli(capsys, "rm", URL, here.id, "--yes")
    assert (code, "can only be read" in said) == (3, True)


def test_a_window_asks_for_its_ranges_and_for_neighbours_together(s3: S3Server, local: Archive) -> None:
    here, there = local["scene.tif"], Archive.open(URL)[local["scene.tif"].id]
    there[:, :8, :8]  # what is read once for the image
    s3.clear()
    window = Window((0, 600), (400, 1200))  # of tiles 1 and 2 of the first row
    np.testing.assert_array_equal(there.read(window), here.read(window))
    tiles = sum(len(here.readers["data"].tile_bytes((0, 0, column), 6)) for column in (1, 2))
    ((method, path, asked, sent),) = s3.requests
    assert (method, path) == ("GET", f"/{BUCKET}/{PREFIX}/{first_shard(local)}")
    start, stop = (int(n) for n in asked.removeprefix("bytes=").split("-"))
    assert tiles <= sent == stop + 1 - start <= tiles + 8


def test_opening_for_one_tile_reads_a_small_part(s3: S3Server, local: Archive) -> None:
    """The archive's, the image's and the tables' documents, a shard's index, one tile."""
    here = local["scene.tif"]
    there = Archive.open(URL)[here.id]
    there[:, :512, :512]
    tile = len(here.readers["data"].tile_bytes((0, 0, 0), 6))
    assert len(s3.requests) <= 12
    of_shard = [sent for _, path, _, sent in s3.requests if path.endswith(first_shard(local))]
    assert len(of_shard) == 2
    assert tile <= sum(of_shard) <= tile + 8192


def test_a_preview_reads_the_stored_level_only(s3: S3Server, local: Archive) -> None:
    here = local["scene.tif"]
    there = Archive.open(URL)[here.id]
    assert there.info is not None
    s3.clear()
    np.testing.assert_array_equal(there.read(level=4), here.read(level=4))
    stored = sum(entry.size for entry in here.manifest.objects if entry.key.startswith("4/data/c/"))
    assert sum(sent for _, _, _, sent in s3.requests) == stored


# -- what is not there, and damage --------------------------------------------------------------------------


def test_what_is_not_there(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageNotFound):
        Archive.open(f"s3://{BUCKET}/nothing")
    with pytest.raises(ImageNotFound):
        Archive.open("s3://no-such-bucket/archive")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreUnavailable) as raised:
        Archive.open(URL, timeout=0.5)
    assert_no_credentials(raised.value)


Replace = Callable[[bytes | None], None]


def test_damage_is_named(s3: S3Server, local: Archive, replace: Replace) -> None:
    here, data = local["scene.tif"], bytearray(local.blobs.read(first_shard(local)))
    data[2000] ^= 1
    replace(bytes(data))
    with pytest.raises(TileCorrupt):
        Archive.open(URL)[here.id][:, :512, :512]
    replace(None)
    with pytest.raises(TileMissing):
        Archive.open(URL)[here.id][:, :512, :512]


@pytest.mark.parametrize("length", [0, 40, 5000, None], ids=str)
def test_an_object_that_changes_between_requests_gives_no_pixels(
    s3: S3Server, local: Archive, replace: Replace, length: int | None
) -> None:
    """Shorter, or as long with another content: after the shard's index was read."""
    there, data = Archive.open(URL)[local["scene.tif"].id], local.blobs.read(first_shard(local))
    there[:, :512, :512]
    replace(data[::-1] if length is None else data[:length])
    with pytest.raises((TileCorrupt, StoreError)):
        there[:, :512, 512:1024]


def test_an_object_that_changes_in_the_middle_of_an_answer_gives_no_pixels(
    s3: S3Server, local: Archive, replace: Replace
) -> None:
    """The first half is of one content; what is asked for again must not be put behind it."""
    there, data = Archive.open(URL)[local["scene.tif"].id], local.blobs.read(first_shard(local))
    there[:, :512, :512]
    s3.faults = Faults(cut=1, at_cut=lambda: replace(bytes(b ^ 1 for b in data)))
    with pytest.raises((TileCorrupt, StoreError)):
        there[:, :512, 512:1024]
    assert s3.faults.cut == 0


# -- faults of the server -----------------------------------------------------------------------------------


def test_a_busy_store_is_asked_again(s3: S3Server, local: Archive) -> None:
    here, there = local["scene.tif"], Archive.open(URL)[local["scene.tif"].id]
    there[:, :8, :8]
    s3.clear()
    s3.faults = Faults(failing=2)
    np.testing.assert_array_equal(there[:, :512, 512:1024], here[:, :512, 512:1024])
    assert len(s3.requests) == 3


def test_an_answer_that_breaks_off_is_asked_for_again(s3: S3Server, local: Archive) -> None:
    here, there = local["scene.tif"], Archive.open(URL)[local["scene.tif"].id]
    there[:, :8, :8]
    s3.faults = Faults(cut=2)
    np.testing.assert_array_equal(there[:, :512, 512:1024], here[:, :512, 512:1024])
    there = Archive.open(URL, timeout=0.5)[here.id]
    there[:, :8, :8]
    s3.clear()
    s3.faults = Faults(cut=-1)
    with pytest.raises(StoreUnavailable):
        there[:, 512:1024, :512]
    assert len(s3.requests) <= 3 * (1 + RETRIES + 1)


def test_an_answer_that_stalls_is_a_timeout(s3: S3Server, local: Archive) -> None:
    there = Archive.open(URL, timeout=0.4)[local["scene.tif"].id]
    there[:, :8, :8]
    s3.faults = Faults(stall=1.5)
    began = monotonic()
    with pytest.raises(StoreTimeout):
        there[:, :512, 512:1024]
    assert monotonic() - began < 30


@pytest.mark.parametrize("span", ["bytes 0-4/9", "bytes 7-6/5", "lines 1-2/3", ""])
def test_another_range_than_asked_for(s3: S3Server, local: Archive, span: str) -> None:
    there = Archive.open(URL)[local["scene.tif"].id]
    there[:, :8, :8]
    s3.faults = Faults(span=span)
    with pytest.raises(StoreError):
        there[:, :512, 512:1024]


def assert_no_credentials(error: TilevaultError) -> None:
    """Neither in the message nor in what is printed with it, ``--debug`` included."""
    told = [str(error), error.message, json.dumps(error.details), *traceback.format_exception(error)]
    for name, value in ENVIRONMENT.items():
        assert name == "AWS_REGION" or value not in "".join(told), name


ASKED: dict[str, Callable[[RemoteBlobs], object]] = {
    "range": lambda blobs: blobs.read("archive.json", 1, 5),
    "whole": lambda blobs: blobs.read("archive.json"),
    "size": lambda blobs: blobs.size("archive.json"),
    "digest": lambda blobs: blobs.digest("archive.json"),
    "names": lambda blobs: blobs.names("commits"),
    "keys": lambda blobs: list(blobs.keys()),
}


@pytest.mark.parametrize("what", ASKED)
@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("400 Bad Request", "AuthorizationHeaderMalformed", StoreUnavailable),
        ("400 Bad Request", "ExpiredToken", AccessDenied),
        ("403 Forbidden", "SignatureDoesNotMatch", AccessDenied),
        ("403 Forbidden", "InvalidAccessKeyId", AccessDenied),
        ("404 Not Found", "NoSuchKey", TileMissing),
        ("301 Moved Permanently", "PermanentRedirect", StoreUnavailable),
        ("500 Internal Server Error", "InternalError", StoreUnavailable),
        ("503 Slow Down", "SlowDown", StoreUnavailable),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_refusal_is_our_error_and_repeats_no_credential(
    s3: S3Server, status: str, code: str, expected: type[TilevaultError], what: str
) -> None:
    blobs = RemoteBlobs(URL, timeout=0.2)
    s3.faults = Faults(status=status, code=code)
    if what == "size" and expected is TileMissing:
        assert blobs.size("archive.json") is None
        return
    with pytest.raises(TilevaultError) as raised:
        ASKED[what](blobs)
    without_body = what in ("size", "digest")  # answers to HEAD cannot tell the code
    assert isinstance(raised.value, StoreUnavailable if without_body and code == "ExpiredToken" else expected)
    if expected is StoreUnavailable and not without_body and not status.startswith("3"):
        assert code in raised.value.message
    assert_no_credentials(raised.value)


def test_the_command_line_repeats_no_credential(s3: S3Server, capsys: pytest.CaptureFixture[str]) -> None:
    for status, code in (("403 Forbidden", 8), ("400 Bad Request", 5)):
        s3.faults = Faults(status=status)
        for option in ("--json", "--debug"):
            returned, said = cli(capsys, "ls", URL, option)
            assert returned == code, said
            for value in ("SOMEBODYSKEYID", "very-secret-key", "session-token-of-somebody"):
                assert value not in said


def test_an_anonymous_reader_of_what_is_not_public(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    with pytest.raises(AccessDenied):
        Archive.open(URL)
