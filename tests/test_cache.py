"""The cache of decoded tiles: bounded, shared by threads, one decoding for all who wait, never a detour."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import collection
from tilevault import Archive, add
from tilevault.archive import TileCache, Window
from tilevault.archive.tile_reader import TileReader
from tilevault.codecs.errors import InvalidRequest, StoreTimeout, TileCorrupt


@pytest.fixture(scope="module")
def archived(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    collection.write_scene(folder / "in" / "scene.tif", side=1200)
    add([folder / "in"], folder / "archive", workers=1)
    return folder / "archive"


def scene(archived: Path, cache: TileCache | None = None):
    archive = Archive.open(archived, cache=cache)
    return archive[next(iter(archive))]


@pytest.fixture
def decoded(monkeypatch) -> list[tuple[int, ...]]:
    """The tiles that are decoded from now on."""
    real, seen = TileReader.tile_levels, []

    def noted(self, index, levels, restore=True, data=None):
        seen.append((self.array.path, *index, *levels))
        time.sleep(0.01)
        return real(self, index, levels, restore, data)

    monkeypatch.setattr(TileReader, "tile_levels", noted)
    return seen


def test_what_was_read_is_read_from_memory_and_is_the_same(archived, decoded):
    cache = TileCache(1 << 30)
    plain, image = scene(archived), scene(archived, cache)
    expected = plain[:, 100:700, 400:900]
    decoded.clear()
    for _ in range(3):
        np.testing.assert_array_equal(image[:, 100:700, 400:900], expected)
    assert len(decoded) == len(set(decoded)) == 4
    assert (cache.misses, cache.hits) == (4, 8)
    assert cache.size_bytes == sum(4 * 2 * h * w for h in (512, 512) for w in (512, 512))


def test_another_archive_object_and_another_copy_share_what_is_the_same(archived, tmp_path, decoded):
    import shutil

    cache = TileCache(1 << 30)
    first = scene(archived, cache)[:, :512, :512]
    again = scene(Path(shutil.copytree(archived, tmp_path / "copy")), cache)[:, :512, :512]
    np.testing.assert_array_equal(first, again)
    assert len(decoded) == 1


def test_levels_roles_and_stored_chunks_are_kept_apart(archived):
    cache = TileCache(1 << 30)
    plain, image = scene(archived), scene(archived, cache)
    for _ in range(2):
        for level in plain.levels:
            np.testing.assert_array_equal(image.read(level=level), plain.read(level=level))
    assert cache.hits > cache.misses


def test_what_a_caller_does_to_his_array_stays_with_him(archived):
    image = scene(archived, TileCache(1 << 30))
    window = Window((0, 0), (512, 512))
    first = image.read(window)
    kept = first.copy()
    first[...] = 0
    np.testing.assert_array_equal(image.read(window), kept)
    tile = image.readers["data"].tile((0, 0, 0))
    with pytest.raises(ValueError, match="read-only"):
        tile[0, 0, 0] = 1


def test_no_more_is_kept_than_allowed_and_what_was_used_last_stays():
    cache = TileCache(100)
    for i in range(10):
        cache.get(i, lambda: np.zeros(40, np.uint8))
        assert cache.size_bytes <= 100
    assert (len(cache), cache.size_bytes) == (2, 80)
    cache.get(8, lambda: pytest.fail("8 was used last but one"))
    cache.get(10, lambda: np.zeros(40, np.uint8))
    cache.get(8, lambda: pytest.fail("8 was used after 9"))
    assert cache.get("large", lambda: np.zeros(101, np.uint8)).nbytes == 101
    assert len(cache) == 2
    cache.clear()
    assert (len(cache), cache.size_bytes) == (0, 0)
    for wrong in (-1, 1.5, None):
        with pytest.raises(InvalidRequest):
            TileCache(wrong)


def test_a_part_of_an_array_does_not_keep_the_whole():
    cache = TileCache(1000)
    whole = np.zeros(10**6, np.uint8)
    assert cache.get("part", lambda: whole[:10]).base is None
    assert whole.flags.writeable


def test_many_who_ask_at_once_decode_once(archived, decoded):
    image = scene(archived, TileCache(1 << 30))
    expected = scene(archived)[:, :512, :512]
    decoded.clear()
    gate = threading.Barrier(16)

    def viewer(_: int):
        gate.wait()
        return image.read(Window((0, 0), (512, 512)))

    with ThreadPoolExecutor(16) as pool:
        for words in pool.map(viewer, range(16)):
            np.testing.assert_array_equal(words, expected)
    assert len(decoded) == 1


def together(cache: TileCache, make, viewers: int = 8) -> list[object]:
    """What each of several threads gets that ask for one key while it is being made."""

    def one(_: int) -> object:
        try:
            return cache.get("key", make)
        except BaseException as error:
            return error

    with ThreadPoolExecutor(viewers) as pool:
        return list(pool.map(one, range(viewers)))


def test_an_error_goes_to_all_who_wait_and_nothing_is_kept():
    cache, calls = TileCache(100), []

    def fails():
        calls.append(1)
        time.sleep(0.2)
        raise StoreTimeout("no answer", object="x")

    results = together(cache, fails)
    assert [(type(r), r.message, r.details) for r in results] == [
        (StoreTimeout, "no answer", {"object": "x"})
    ] * 8
    assert len({id(r) for r in results}) == 8  # each has a traceback of its own
    assert len(calls) < 8
    assert len(cache) == 0
    assert cache.get("key", lambda: np.ones(1)) == 1


def test_an_interruption_of_one_is_not_that_of_others():
    cache, calls = TileCache(100), []

    def interrupted_once():
        calls.append(1)
        time.sleep(0.1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return np.ones(1)

    results = together(cache, interrupted_once)
    assert sum(isinstance(r, KeyboardInterrupt) for r in results) == 1
    assert sum(isinstance(r, np.ndarray) for r in results) == 7
    assert len(calls) == 2


def test_damage_is_found_with_a_full_cache(archived, tmp_path):
    import shutil

    path = Path(shutil.copytree(archived, tmp_path / "copy"))
    image = scene(path, TileCache(1 << 30))
    image[...]
    shard = max((path / "images").glob("*/*/0/data/c/0/0/*"))
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.chmod(0o600)
    shard.write_bytes(data)
    assert any(finding.kind == "tile" for finding in image.check("pixels").findings)
    with pytest.raises(TileCorrupt):
        scene(path, TileCache(1 << 30))[...]
