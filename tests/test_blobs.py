"""Write-once objects: whole or absent, never overwritten, never outside the folder."""

import contextlib
import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilevault.archive.blobs import STAGING, BlobStat, LocalBlobs, check_key
from tilevault.codecs.errors import (
    AccessDenied,
    Conflict,
    IntegrityError,
    ShortRead,
    StoreError,
    StoreFull,
    StoreTimeout,
    StoreUnavailable,
    TileMissing,
    TilevaultError,
    UnsafeName,
)


@pytest.fixture
def blobs(tmp_path):
    return LocalBlobs(tmp_path)


def _staged(blobs):
    folder = blobs.root / STAGING
    return sorted(folder.iterdir()) if folder.exists() else []


def test_an_object_comes_back_by_parts(blobs):
    written = blobs.create("a/b/c", [b"hello ", memoryview(b"world")])
    assert (written.size, blobs.digest("a/b/c")) == (11, written)
    assert blobs.read("a/b/c") == b"hello world"
    assert blobs.read("a/b/c", 6, 9) == b"wor"
    assert blobs.size("a/b/c") == 11
    assert not _staged(blobs)
    assert (blobs.root / "a/b/c").stat().st_mode & 0o777 == 0o600


def test_the_same_bytes_again_are_a_success_and_others_a_conflict(blobs):
    blobs.create("k", [b"one"])
    blobs.create("k", [b"o", b"ne"])
    with pytest.raises(Conflict):
        blobs.create("k", [b"two"])
    assert blobs.read("k") == b"one"
    assert not _staged(blobs)


def test_many_writers_of_one_key_have_one_winner(blobs):
    def write(i):
        try:
            blobs.create("k", [b"%d" % i])
        except Conflict:
            return None
        return i

    with ThreadPoolExecutor(8) as pool:
        winners = [i for i in pool.map(write, range(64)) if i is not None]
    assert [b"%d" % i for i in winners] == [blobs.read("k")]


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../b",
        "a//b",
        "a/",
        "a\x00b",
        "A",
        "a\\b",
        ".staging/x",
        "é",
        "a/./b",
        "a b",
    ],
)
def test_an_unsafe_key_is_refused(blobs, key):
    for call in (blobs.read, blobs.size, lambda k: blobs.create(k, [b""]), blobs.remove_tree):
        with pytest.raises(UnsafeName):
            call(key)


@given(st.text(max_size=40))
def test_a_key_cannot_leave_the_folder(key):
    try:
        check_key(key)
    except UnsafeName:
        return
    assert os.path.normpath(f"/top/{key}") == f"/top/{key}"


def test_links_are_never_followed(blobs, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret").write_bytes(b"secret")
    (blobs.root / "link").symlink_to(outside / "secret")
    (blobs.root / "folder").symlink_to(outside)
    (blobs.root / "fifo").parent.mkdir(exist_ok=True)
    os.mkfifo(blobs.root / "fifo")
    for key in ("link", "folder/secret", "fifo"):
        with pytest.raises(IntegrityError):
            blobs.read(key)
    blobs.create("tree/x", [b"x"])
    (blobs.root / "tree/link").symlink_to(outside)
    blobs.remove_tree("tree")
    assert (outside / "secret").read_bytes() == b"secret"


def test_what_is_not_there_is_missing_and_short_reads_are_errors(blobs):
    with pytest.raises(TileMissing):
        blobs.read("nothing")
    blobs.create("k", [b"abc"])
    with pytest.raises(ShortRead):
        blobs.read("k", 0, 4)
    assert blobs.size("nothing") is None
    assert blobs.names("nowhere") == []


def _failing(monkeypatch, name, number, times):
    real, left = getattr(os, name), [times]

    def fail(*arguments, **named):
        if left[0] > 0:
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        return real(*arguments, **named)

    monkeypatch.setattr(os, name, fail)


def test_a_failed_fsync_is_tried_once_more_under_another_name(blobs, monkeypatch):
    _failing(monkeypatch, "fsync", errno.EIO, 1)
    assert blobs.create("k", [b"abc"]).size == 3
    _failing(monkeypatch, "fsync", errno.EIO, 2)
    with pytest.raises(StoreError):
        blobs.create("other", [b"abc"])
    assert blobs.size("other") is None
    assert not _staged(blobs)


@pytest.mark.parametrize("call", ["write", "fsync", "link", "open"])
def test_a_full_disk_leaves_nothing(blobs, monkeypatch, call):
    blobs.create("before", [b"x"])
    _failing(monkeypatch, call, errno.ENOSPC, 1)
    with pytest.raises(StoreFull):
        blobs.create("k", [b"abc"])
    assert blobs.size("k") is None
    assert not _staged(blobs)
    assert blobs.read("before") == b"x"


WRITES = {
    "create": lambda blobs: blobs.create("new/k", [b"abc"]),
    "replace": lambda blobs: blobs.replace("new/k", [b"abc"]),
    "link": lambda blobs: blobs.link("new/k", "before"),
    "keep_note": lambda blobs: blobs.keep_note("notes", "k", b"abc"),
    "sync": lambda blobs: blobs.sync("tree"),
    "sync_root": lambda blobs: blobs.sync_root(),
    "make_root": lambda blobs: LocalBlobs(blobs.root / "deep" / "er").make_root(),
}
READS = {
    "read": lambda blobs: blobs.read("before"),
    "size": lambda blobs: blobs.size("before"),
    "digest": lambda blobs: blobs.digest("before"),
    "keys": lambda blobs: list(blobs.keys("tree")),
    "names": lambda blobs: blobs.names("tree"),
    "folders": lambda blobs: blobs.folders("tree"),
    "note": lambda blobs: blobs.note("left", "k"),
    "has_root": lambda blobs: blobs.has_root(),
}
REASONS = [
    (errno.EACCES, AccessDenied, 8),
    (errno.EPERM, AccessDenied, 8),
    (errno.EROFS, AccessDenied, 8),
    (errno.ENOSPC, StoreFull, 6),
    (errno.EDQUOT, StoreFull, 6),
    (errno.EMFILE, StoreUnavailable, 5),
    (errno.ESTALE, StoreUnavailable, 5),
    (errno.ETIMEDOUT, StoreTimeout, 5),
    (errno.EIO, StoreError, 5),
]


@pytest.fixture
def held(blobs):
    """With something in it to read."""
    blobs.create("before", [b"x"])
    blobs.create("tree/a/b", [b"y"])
    blobs.keep_note("left", "k", b"z")
    return blobs


@pytest.mark.parametrize(("number", "error", "exit_code"), REASONS, ids=lambda v: getattr(v, "__name__", v))
@pytest.mark.parametrize("call", sorted({*WRITES, *READS}))
def test_a_place_that_cannot_be_used_says_so_and_never_that_something_is_missing(
    held, monkeypatch, call, number, error, exit_code
):
    def fail(*arguments, **named):
        raise OSError(number, os.strerror(number))

    for name in ("open", "mkdir", "link", "fsync", "scandir"):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, fail)
            try:
                {**WRITES, **READS}[call](held)
            except error as caught:
                assert (type(caught), caught.exit_code) == (error, exit_code)  # noqa: PT017
                continue
        # What does not need the function works; all need `open`, but for the folder that is made.
        assert name != "open" or call == "make_root"


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("mkdir", ["create", "replace", "link", "keep_note", "make_root"]),
        ("open", ["create", "replace", "link", "keep_note", "sync", "sync_root"]),
        ("fsync", ["create", "replace", "sync", "sync_root"]),
    ],
)
def test_a_folder_that_goes_away_while_written_to_is_no_missing_object(held, monkeypatch, name, calls):
    """/proc answers like this to whoever makes a folder there; so does a disk that was taken away."""
    _failing(monkeypatch, name, errno.ENOENT, 1000)
    for call in calls:
        with pytest.raises(StoreUnavailable):
            WRITES[call](held)


@pytest.mark.parametrize("call", sorted(WRITES.keys() - {"make_root"}) + sorted(READS.keys() - {"has_root"}))
def test_an_archive_that_is_gone_is_unavailable_and_not_damaged(held, tmp_path_factory, call):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "moved"
    held.root.rename(elsewhere)
    assert not held.has_root()
    with pytest.raises(StoreUnavailable):
        {**WRITES, **READS}[call](held)
    elsewhere.rename(held.root)


@pytest.mark.parametrize("key", ["file/k", "file/deep/k"])
def test_a_file_where_a_folder_should_be_is_damage_and_stays(blobs, key):
    (blobs.root / "file").write_bytes(b"here")
    (blobs.root / "folder" / "k").mkdir(parents=True)
    for call in (
        blobs.read,
        blobs.size,
        lambda k: blobs.create(k, [b"x"]),
        lambda k: blobs.replace(k, [b"x"]),
    ):
        for place in (key, "folder/k"):
            with pytest.raises(IntegrityError) as caught:
                call(place)
            assert not isinstance(caught.value, TileMissing)
    with pytest.raises(IntegrityError):
        LocalBlobs(blobs.root / "file").has_root()
    assert (blobs.root / "file").read_bytes() == b"here"
    assert not _staged(blobs)


def test_linking_what_is_missing_names_what_is_missing(blobs):
    blobs.create("a/k", [b""])
    with pytest.raises(TileMissing) as caught:
        blobs.link("b/k", "a/other")
    assert caught.value.details["object"] == "a/other"


def test_no_descriptor_is_left_open(held):
    before = sorted(Path("/proc/self/fd").iterdir())
    for name in ("create", "keep_note", "sync", "sync_root", "make_root", *READS):
        {**WRITES, **READS}[name](held)
    for key in ("nothing", "before/k", "tree", "tree/a/none", "no/where"):
        for call in (held.read, held.size, held.digest, held.names):
            with contextlib.suppress(TilevaultError):
                call(key)
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_a_digest_is_taken_only_where_the_size_is_right(blobs):
    written = blobs.create("k", [bytes(3 << 20), b"end"])
    assert blobs.digest("k", written.size) == blobs.digest("k") == written
    assert blobs.digest("k", 5) == BlobStat(written.size, "")
    empty = blobs.create("empty", [])
    assert blobs.digest("empty", 0) == empty


def test_keys_and_sync(blobs):
    blobs.create("a/b", [b""])
    blobs.create("a/c/d", [b""])
    blobs.link("a/e", "a/b")
    (blobs.root / STAGING / "left.tmp").write_bytes(b"")
    assert list(blobs.keys()) == ["a/b", "a/c/d", "a/e"]
    assert list(blobs.keys("a/c")) == ["a/c/d"]
    blobs.sync("a")
    blobs.remove_tree("a")
    assert list(blobs.keys()) == []
