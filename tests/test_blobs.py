"""Write-once objects: whole or absent, never overwritten, never outside the folder."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilevault.archive.blobs import STAGING, LocalBlobs, check_key
from tilevault.codecs.errors import (
    Conflict,
    IntegrityError,
    ShortRead,
    StoreError,
    StoreFull,
    TileMissing,
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
