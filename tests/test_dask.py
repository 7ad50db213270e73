"""`Image.to_dask`: lazy, aligned with tiles, equal to `Image.read`, checked; tasks carry no pixels."""

import subprocess
import sys
from pathlib import Path

import dask.array as da
import numpy as np
import pytest

import collection
from tilevault import Archive, add
from tilevault.archive import dask_arrays
from tilevault.codecs.errors import InvalidRequest, ManifestCorrupt, TileCorrupt
from web_server import serving


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Archive:
    folder = tmp_path_factory.mktemp("dask")
    collection.write_ct_series(folder / "in" / "ct", slices=5)
    collection.write_scene(folder / "in" / "scene.tif", side=1300)
    add([folder / "in"], folder / "archive", workers=1)
    return Archive.open(folder / "archive")


@pytest.mark.parametrize("name", ["ct", "scene.tif"])
@pytest.mark.parametrize("level", range(6))
def test_values_are_those_of_read(archive, name, level):
    image = archive[name]
    array = image.to_dask(level)
    assert isinstance(array, da.Array)
    assert (array.shape, array.dtype) == (image.level_shape(level), image.dtype)
    np.testing.assert_array_equal(array.compute(), image.read(level=level))
    np.testing.assert_array_equal(
        array[..., 3:9, 1:20:3].compute(), image.read(level=level)[..., 3:9, 1:20:3]
    )


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("name", ["ct", "scene.tif"])
def test_no_tile_is_in_two_chunks(archive, name, level, monkeypatch):
    monkeypatch.setattr(dask_arrays, "CHUNK_BYTES", 3 << 20)
    image = archive[name]
    *lead, y, x = image.grid.tile
    tile = [*lead, y >> level, x >> level]
    for chunks, side in zip(image.to_dask(level).chunks, tile, strict=True):
        assert all(sum(chunks[:i]) % side == 0 for i in range(len(chunks)))


def test_chunks_can_be_chosen(archive):
    image = archive["scene.tif"]
    array = image.to_dask(chunks=(1, 600, -1))
    assert array.chunks == ((1,) * 4, (600, 600, 100), (1300,))
    np.testing.assert_array_equal(array[2, 590:610].compute(), image[2, 590:610])
    assert image.to_dask(level=4).chunks == ((4,), (82,), (82,))
    for wrong in ((1, 2), (0, 1, 1), "nonsense", (-7, 1, 1)):
        with pytest.raises(InvalidRequest):
            image.to_dask(chunks=wrong)
    with pytest.raises(InvalidRequest):
        image.to_dask(level=9)


def test_making_it_reads_nothing_and_tasks_carry_configuration_only(archive):
    from distributed.protocol import deserialize, serialize

    array = archive["scene.tif"].to_dask()
    header, frames = serialize(dict(array.__dask_graph__()))
    assert sum(len(memoryview(frame).cast("B")) for frame in frames) < 20_000
    graph = deserialize(header, frames)
    again = da.Array(graph, array.name, array.chunks, array.dtype)
    np.testing.assert_array_equal(
        again[0, :10].compute(scheduler="synchronous"), archive["scene.tif"][0, :10]
    )


def test_two_of_the_same_have_one_name(archive):
    image = archive["ct"]
    assert image.to_dask().name == image.to_dask().name
    assert image.to_dask(1).name != image.to_dask().name != archive["scene.tif"].to_dask().name


def test_worker_processes_read_for_themselves(archive):
    array = archive["ct"].to_dask(chunks=(1, -1, -1))
    found = array.max(axis=(1, 2)).compute(scheduler="processes", num_workers=2)
    np.testing.assert_array_equal(found, archive["ct"][...].max(axis=(1, 2)))


def test_damage_fails_the_computation(archive, tmp_path):
    import shutil

    copy = Archive.open(shutil.copytree(archive.path, tmp_path / "copy"))
    array = copy["scene.tif"].to_dask(chunks=(4, 512, 512))
    shard = min((copy.path / "images").glob("*/*/0/data/c/0/0/*"))
    data = bytearray(shard.read_bytes())
    data[999] ^= 16
    shard.chmod(0o600)
    shard.write_bytes(data)
    with pytest.raises(TileCorrupt):
        array.compute()
    sound = (slice(None), slice(600, 700), slice(600, 700))
    np.testing.assert_array_equal(array[sound].compute(), archive["scene.tif"][sound])


def test_an_image_that_is_another_now_is_not_read(tmp_path):
    collection.write_ct_series(tmp_path / "in", slices=3)
    late = tmp_path / "in" / "IM000002"
    late.rename(tmp_path / "late")
    add([tmp_path / "in"], tmp_path / "archive", workers=1)
    archive = Archive.open(tmp_path / "archive")
    array = archive[next(iter(archive))].to_dask()
    (tmp_path / "late").rename(late)
    add([tmp_path / "in"], tmp_path / "archive", workers=1)
    with pytest.raises(ManifestCorrupt, match="no longer"):
        array.compute()


def test_a_remote_archive_is_read_by_its_url(archive):
    with serving(archive.path.parent) as web:
        image = Archive.open(f"{web.url}/{Path(archive.path).name}")[archive["ct"].id]
        np.testing.assert_array_equal(image.to_dask(1).compute(), archive["ct"].read(level=1))


def test_an_image_needs_no_dask(archive):
    code = (
        "import sys; from tilevault.archive import Archive; a = Archive.open(sys.argv[1]);"
        "a[next(iter(a))].read(level=3); print('dask' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(archive.path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
