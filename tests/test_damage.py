"""Every bit of a small archive: flipped, it is reported, and never comes back as pixels."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio

from tilevault.archive.store import Archive
from tilevault.codecs.errors import TilevaultError
from tilevault.workflows.ingest import add

PARTS = 8
"""Into which the bits are dealt, so that test processes can share them."""


def write_tiff(path: Path, words: np.ndarray, **options) -> Path:
    """A plain GeoTIFF of ``words`` (bands, y, x)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"transform": rasterio.Affine(10, 0, 500000, 0, -10, 4000000), "crs": "EPSG:32631", **options}
    count, height, width = words.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=words.dtype, **options
    ) as dataset:
        dataset.write(words)
    return path


def write_masked(path: Path, words: np.ndarray, valid: np.ndarray) -> None:
    """A GeoTIFF with an internal mask."""
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        write_tiff(path, words, compress="deflate")
        with rasterio.open(path, "r+") as dataset:
            dataset.write_mask(valid)


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Smooth 12-bit words with noise."""
    rng = np.random.default_rng(seed)
    ramp = np.add.outer(np.arange(shape[-2]) * 3, np.arange(shape[-1]) * 2)
    return (500 + ramp + rng.integers(0, 60, shape)).astype(np.uint16)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An archive of one image, at most 16 KiB on disk."""
    folder = tmp_path_factory.mktemp("small")
    words = noise((1, 24, 20))
    write_tiff(folder / "in" / "a.tif", words, crs=None)
    result = add([folder / "in"], folder / "archive", tile=64)
    assert result.totals["exit_code"] == 0, result
    files = [p for p in (folder / "archive").rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 16 << 10
    return folder / "archive", words[0]


def problems(path: Path) -> list[str]:
    """What an opening and a check of every digest have to say against an archive."""
    try:
        archive = Archive.open(path)
        images = [archive[name] for name in archive]
        found = [f.message for image in images for f in image.check("digest").findings]
        found += [f"uncommitted {generation}" for _, generation, _ in archive.uncommitted()]
        for image in images:
            archive.commits(image.id)
    except TilevaultError as error:
        return [error.message]
    return found


def read_all(path: Path) -> list[np.ndarray]:
    """Pixels of all images, or nothing where reading is refused."""
    try:
        return [image[...] for image in Archive.open(path).values()]
    except TilevaultError:
        return []


def _objects(path: Path) -> list[Path]:
    return sorted(p.relative_to(path) for p in path.rglob("*") if p.is_file())


def test_a_sound_archive_has_no_problems(small):
    path, words = small
    assert problems(path) == []
    np.testing.assert_array_equal(read_all(path)[0], words)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(PARTS))
def test_every_flipped_bit_is_reported_and_never_read(small, tmp_path, part):
    path = tmp_path / "copy"
    shutil.copytree(small[0], path)
    for name in _objects(path):
        data = (path / name).read_bytes()
        # The bytes that a read uses; the rest is bound by digests that only a check computes.
        used = name.parts[-3:-1] != ("source", "blocks")
        for bit in range(part, 8 * len(data), PARTS):
            broken = bytearray(data)
            broken[bit // 8] ^= 1 << bit % 8
            (path / name).write_bytes(broken)
            assert problems(path), f"bit {bit} of {name}"
            if used and bit // 8 % 8 == part:
                for pixels in read_all(path):
                    np.testing.assert_array_equal(pixels, small[1], err_msg=f"bit {bit} of {name}")
        (path / name).write_bytes(data)
    assert problems(path) == []


@pytest.mark.parametrize("how", ["delete", "truncate", "empty", "grow", "zero"])
def test_every_damaged_object_is_reported_and_never_read(small, tmp_path, how):
    path = tmp_path / "copy"
    shutil.copytree(small[0], path)
    for name in _objects(path):
        data = (path / name).read_bytes()
        if how == "delete":
            (path / name).unlink()
        else:
            changed = {
                "truncate": data[:-1],
                "empty": b"",
                "grow": data + b"\0",
                "zero": bytes(len(data)),
            }[how]
            (path / name).write_bytes(changed)
        assert problems(path), f"{how} {name}"
        for pixels in read_all(path):
            np.testing.assert_array_equal(pixels, small[1], err_msg=f"{how} {name}")
        (path / name).write_bytes(data)


def test_objects_that_change_places_are_reported_and_never_read(small, tmp_path):
    path = tmp_path / "copy"
    shutil.copytree(small[0], path)
    names = _objects(path)
    contents = {name: (path / name).read_bytes() for name in names}
    for a, b in zip(names, names[1:] + names[:1], strict=True):
        if contents[a] == contents[b]:
            continue
        (path / a).write_bytes(contents[b])
        (path / b).write_bytes(contents[a])
        assert problems(path), f"{a} <-> {b}"
        for pixels in read_all(path):
            np.testing.assert_array_equal(pixels, small[1], err_msg=f"{a} <-> {b}")
        (path / a).write_bytes(contents[a])
        (path / b).write_bytes(contents[b])


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """An archive of several shards' worth of tiles, with nodata and a mask."""
    folder = tmp_path_factory.mktemp("large")
    words = noise((2, 700, 900), seed=3)
    write_tiff(folder / "in" / "scene.tif", words, compress="deflate", tiled=True)
    assert add([folder / "in"], folder / "archive", tile=64).totals["exit_code"] == 0
    return folder / "archive", words


def test_random_flips_of_a_larger_archive_name_the_tile(large, tmp_path):
    path = tmp_path / "copy"
    shutil.copytree(large[0], path)
    archive = Archive.open(path)
    (name,) = archive
    shard = next(p for p in path.rglob("0/data/c/*/*/*") if p.is_file())
    data = shard.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(60):
        broken = bytearray(data)
        broken[rng.integers(len(data) - 16 * 2 * 11 * 15 - 4)] ^= 1 << int(rng.integers(8))
        shard.write_bytes(broken)
        findings = archive[name].check("digest").findings
        tiles = [f for f in findings if f.kind == "tile"]
        assert any(f.kind == "digest" for f in findings)
        # A flip in a tile's own bytes has one place; one in its crc32c harms no read of ours.
        assert len(tiles) <= 1
        for f in tiles:
            assert (f.level, f.array) == (0, "0/data")
            with pytest.raises(TilevaultError, match="digest"):
                archive[name].readers["data"].tile(f.index)
        tile_rows = archive[name].grid.tiles
        for index in np.ndindex(*tile_rows):
            window = archive[name].grid.tile_window(index)
            if not any(f.index == index for f in tiles) and rng.random() < 0.02:
                np.testing.assert_array_equal(archive[name][window.slices], large[1][window.slices])
    shard.write_bytes(data)
    assert problems(path) == []


def test_tiles_that_change_places_inside_a_shard_are_noticed(large, tmp_path):
    path = tmp_path / "copy"
    shutil.copytree(large[0], path)
    archive = Archive.open(path)
    image = archive[next(iter(archive))]
    reader = image.readers["data"]
    (_, first), (_, second) = (reader.array.grid.shard_of((0, 0, i)) for i in (0, 1))
    shard = next(p for p in path.rglob("0/data/c/*/*/*") if p.is_file())
    from tilevault.archive.shard import crc32c, index_bytes

    data = bytearray(shard.read_bytes())
    tail = index_bytes(reader.array.grid.tiles_per_shard)
    index = np.frombuffer(bytes(data[-tail:-4]), "<u8").reshape(-1, 2).copy()
    index[[first, second]] = index[[second, first]]
    data[-tail:] = index.tobytes() + crc32c(index.tobytes())
    shard.write_bytes(data)
    with pytest.raises(TilevaultError):
        archive[image.id][0, :64, :64]
    damaged = {f.index for f in archive[image.id].check("digest").findings if f.kind == "tile"}
    assert damaged == {(0, 0, 0), (0, 0, 1)}
