"""What an archive promises to those who read it: NumPy's slicing, checked, from no more tiles than needed."""

import errno
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import rasterio
import rioxarray  # noqa: F401  (the accessor .rio)
import xarray
from hypothesis import given
from hypothesis import strategies as st

import collection
from test_damage import noise, problems, write_masked, write_tiff
from tilevault.archive.blobs import LocalBlobs
from tilevault.archive.image import Window, window_of
from tilevault.archive.store import Archive, Image
from tilevault.codecs.errors import (
    AccessDenied,
    ImageNotFound,
    IntegrityError,
    InvalidRequest,
    StoreFull,
    StoreUnavailable,
    TileCorrupt,
    TilevaultError,
    UnsupportedSyntax,
)
from tilevault.workflows import storing
from tilevault.workflows.ingest import add

SLICES, SIDE = 7, 150
SHAPE = (SLICES, SIDE, SIDE)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """An archive: a CT series, a scene of 3 bands with nodata, a masked band, a report without pixels."""
    folder = tmp_path_factory.mktemp("filled")
    source = folder / "in"
    collection.write_ct_series(source / "ct", slices=SLICES, side=SIDE)
    write_tiff(source / "maps" / "scene.tif", noise((3, 300, 410), 1), compress="lzw", nodata=0)
    valid = np.zeros((200, 260), np.uint8)
    valid[20:150, 30:] = 255
    write_masked(source / "maps" / "masked.tif", noise((1, 200, 260), 2), valid)
    report = pydicom.dcmread(source / "ct" / "IM000000")
    for name in ("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel"):
        delattr(report, name)
    report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = "1.2.3.99"
    report.SeriesInstanceUID, report.Modality = "1.2.3.98", "SR"
    report.save_as(source / "report.dcm")
    assert add([source], folder / "archive", tile=64).totals["exit_code"] == 0
    return Archive.open(folder / "archive"), valid


@pytest.fixture
def ct(filled):
    """The CT series, freshly opened."""
    return filled[0]["ct"]


@pytest.fixture(scope="module")
def volume():
    """What it holds."""
    return collection.ct_volume(SLICES, SIDE)


# -- slicing ------------------------------------------------------------------------------------------------


def keys(n: int) -> st.SearchStrategy:
    """An integer or a slice of an axis of ``n``, as NumPy takes it."""
    bound = st.none() | st.integers(-2 * n, 2 * n)
    step = st.none() | st.integers(-n - 1, n + 1).filter(bool)
    return st.integers(-n, n - 1) | st.builds(slice, bound, bound, step)


@st.composite
def indices(draw, shape):
    """A basic index into an array of ``shape``."""
    picked = [draw(keys(n)) for n in shape[: draw(st.integers(0, len(shape)))]]
    if draw(st.booleans()):
        at = draw(st.integers(0, len(picked)))
        tail = [draw(keys(n)) for n in shape[len(shape) - (len(picked) - at) :]]
        return (*picked[:at], ..., *tail)
    return tuple(picked) if len(picked) != 1 or draw(st.booleans()) else picked[0]


@given(index=indices((5, 7, 9)))
def test_the_window_of_an_index_holds_what_numpy_picks(index):
    array = np.arange(5 * 7 * 9).reshape(5, 7, 9)
    window, inner = window_of(index, array.shape)
    np.testing.assert_array_equal(array[window.slices][inner], array[index])


@given(data=st.data())
def test_slicing_is_that_of_numpy(filled, volume, data):
    image = filled[0]["ct"]
    index = data.draw(indices(SHAPE))
    picked = image[index]
    np.testing.assert_array_equal(picked, volume[index])
    assert (picked.shape, picked.dtype) == (volume[index].shape, volume.dtype)
    np.testing.assert_array_equal(image.words[index], volume[index])


@pytest.mark.parametrize(
    "index",
    [
        SLICES,
        -SLICES - 1,
        (0, 0, SIDE),
        (0, 0, 0, 0),
        (..., ...),
        1.0,
        "x",
        [0, 1],
        None,
        True,
        slice(None, None, 0),
        slice("a"),
        (slice(0.5), 0),
        np.array([1, 2]),
        np.array([True] * SLICES),
    ],
)
def test_other_indices_are_refused(ct, index):
    with pytest.raises(InvalidRequest):
        ct[index]
    with pytest.raises(InvalidRequest):
        ct.words[index]


def test_numpy_integers_and_numpy_itself_are_welcome(ct, volume):
    np.testing.assert_array_equal(ct[np.int64(2), np.uint8(3)], volume[2, 3])
    np.testing.assert_array_equal(np.asarray(ct), volume)
    assert np.asarray(ct, np.float32).dtype == np.float32


def counted(monkeypatch) -> list[str]:
    """Keys of the shard reads that follow."""
    real, read = LocalBlobs.read, []

    def noted(self, key, start=0, stop=None, limit=None):
        if "/0/" in key and "/c/" in key and "/tiles/" not in key:
            read.append(key)
        return real(self, key, start, stop, limit)

    monkeypatch.setattr(LocalBlobs, "read", noted)
    return read


def test_only_touched_tiles_are_read(filled, monkeypatch):
    image = filled[0]["maps/scene.tif"]
    image.readers  # noqa: B018  (tables are read once)
    read = counted(monkeypatch)
    assert image[:, 5:5].size == 0
    assert not read
    image[0, 64:128, 64:128]
    tiles = len(read) - 1
    assert tiles == 1  # and the shard's index
    image[0, 63:65, 63:65]
    assert len(read) - 1 - tiles <= 4 + 1
    before = len(read)
    image[1, ::-1, 70]
    assert len(read) - before <= -(-300 // 64) + -(-300 // 64)


def test_a_damaged_tile_is_an_error_where_it_is_touched_and_only_there(filled, tmp_path):
    path = Path(shutil.copytree(filled[0].path, tmp_path / "copy"))
    image = Archive.open(path)["maps/scene.tif"]
    sound = noise((3, 300, 410), 1)
    shard = next(p for p in (image.path / "0/data/c").rglob("*") if p.is_file())
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.write_bytes(data)
    with pytest.raises(TileCorrupt) as caught:
        image[:, :64, :64]
    assert caught.value.details["array"] == "0/data"
    np.testing.assert_array_equal(image[:, 64:, 64:], sound[:, 64:, 64:])


# -- levels, masks, windows ---------------------------------------------------------------------------------


def test_windows_levels_and_positions(ct, volume):
    np.testing.assert_array_equal(ct.read(), volume)
    np.testing.assert_array_equal(ct.read(Window((3, 4), (9, 70))), volume[:, 3:9, 4:70])
    np.testing.assert_array_equal(ct.read(Window((1, 3, 4), (3, 9, 70))), volume[1:3, 3:9, 4:70])
    np.testing.assert_array_equal(ct.read(Window((3, 4), (9, 70)), index={"z": 5}), volume[5, 3:9, 4:70])
    for level in ct.levels:
        whole = ct.read(level=level)
        assert whole.shape == ct.level_shape(level) == (SLICES, *(-(-SIDE >> level) for _ in "yx"))
        np.testing.assert_array_equal(ct.read(Window((1, 2), (3, 4)), level), whole[:, 1:3, 2:4])
    for refused in (
        {"window": Window((0, 0), (SIDE, SIDE + 1))},
        {"window": Window((0,), (1,))},
        {"window": Window((0, 0), (20, 20)), "level": 3},
        {"level": 6},
        {"level": -1},
        {"index": {"z": SLICES}},
        {"index": {"z": -1}},
        {"index": {"t": 0}},
        {"index": {"x": 0}},
        {"index": {"z": 1.5}},
        {"level": 0.5},
    ):
        with pytest.raises(InvalidRequest):
            ct.read(**refused)


def test_masks(filled):
    archive, valid = filled
    image = archive["maps/masked.tif"]
    np.testing.assert_array_equal(image.read_mask(), valid)
    np.testing.assert_array_equal(image.read_mask(Window((10, 20), (60, 90))), valid[10:60, 20:90])
    for level in image.levels:
        mask = image.read_mask(level=level)
        step = 1 << level
        rows, columns = (-(-n // step) for n in valid.shape)
        any_valid = [
            [valid[y * step : (y + 1) * step, x * step : (x + 1) * step].any() for x in range(columns)]
            for y in range(rows)
        ]
        np.testing.assert_array_equal(mask, np.uint8(255) * np.array(any_valid, np.uint8))
    for window in (Window((0, 0), (201, 1)), Window((0, 0, 0), (1, 1, 1))):
        with pytest.raises(InvalidRequest):
            image.read_mask(window)
    with pytest.raises(InvalidRequest):
        archive["ct"].read_mask()


def test_quality_counts_the_bits_that_are_stored(filled):
    image = filled[0]["maps/scene.tif"]
    bits = image.quality.bits
    assert bits.shape == image.grid.tiles
    shards = [o.size for o in image.manifest.objects if o.key.startswith("0/data/c/")]
    tiles = int(np.prod(image.grid.tiles))
    places = len(shards) * int(np.prod(image.grid.tiles_per_shard))
    assert bits.sum() // 8 + 4 * tiles + len(shards) * 4 + 16 * places == sum(shards)
    assert image.quality.samples.sum() == np.prod(image.shape)
    assert (image.quality.bits_per_sample > 0).all()


def test_values_are_masked_and_words_are_not(tmp_path):
    words = np.array([0xF123, 0x0FFF, 0x8800, 0x07FF] * 4, np.uint16)
    (path,) = collection.write_ct_series(tmp_path / "in", slices=1, side=4)
    dataset = pydicom.dcmread(path)
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 1
    dataset.PixelData = words.astype("<u2").tobytes()
    dataset.save_as(path)
    add([tmp_path / "in"], tmp_path / "archive")
    (image,) = Archive.open(tmp_path / "archive").values()
    stored = image.words[...]
    np.testing.assert_array_equal(stored.view(np.uint16).reshape(-1), words)
    np.testing.assert_array_equal(image[...].reshape(-1), [0x123, -1, -2048, 0x7FF] * 4)


def test_files_without_pixels_answer_too(filled):
    archive, _ = filled
    image = archive["report.dcm"]
    assert image.info is None
    assert (image.levels, image.stored_levels) == ((), ())
    assert "no pixels" in repr(image)
    for ask in (
        lambda: image[...],
        lambda: image.words[...],
        lambda: image.shape,
        lambda: image.grid,
        lambda: image.quality.bits,
        image.read,
        image.read_mask,
        image.to_xarray,
    ):
        with pytest.raises(InvalidRequest):
            ask()
    data = (archive.path.parent / "in" / "report.dcm").read_bytes()
    assert b"".join(image.source.rebuild(0)) == data
    assert image.check("pixels").findings == ()


# -- xarray -------------------------------------------------------------------------------------------------


def test_xarray_is_lazy_checked_and_in_hounsfield_units(ct, volume, monkeypatch):
    read = counted(monkeypatch)
    array = ct.to_xarray()
    assert not read
    assert (array.dims, array.shape, array.dtype) == (("z", "y", "x"), SHAPE, volume.dtype)
    np.testing.assert_array_equal(array[2:4, 10:20, ::3], volume[2:4, 10:20, ::3])
    np.testing.assert_array_equal(array.isel(x=[5, 1, 100], z=3), volume[3][:, [5, 1, 100]])
    hu = ct.to_xarray(units="hu")
    before = len(read)
    assert (hu.dtype, hu.shape, hu.attrs["units"]) == (np.float64, SHAPE, "HU")
    assert len(read) == before
    np.testing.assert_array_equal(hu[3], volume[3].astype(float))
    assert 0 < len(read) - before <= len(ct.manifest.objects)
    np.testing.assert_array_equal(ct.to_xarray(level=3), ct.read(level=3))
    with pytest.raises(InvalidRequest):
        ct.to_xarray(units="ADC")
    with pytest.raises(InvalidRequest):
        ct.to_xarray(level=9)


def rescaled_stack(tmp_path: Path, pairs: list[tuple[float, float]], times: int) -> Image:
    """A PET-like series: each slice with a rescale of its own, each position ``times`` times."""
    paths = collection.write_ct_series(tmp_path / "in", slices=len(pairs), side=8)
    for k, (path, (slope, intercept)) in enumerate(zip(paths, pairs, strict=True)):
        dataset = pydicom.dcmread(path)
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = slope, intercept, "BQML"
        dataset.ImagePositionPatient[2] = 5.0 * (k % (len(pairs) // times))
        dataset.save_as(path)
    add([tmp_path / "in"], tmp_path / "archive")
    (image,) = Archive.open(tmp_path / "archive").values()
    return image


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("times", [1, 3])
def test_each_slice_has_its_own_rescale(tmp_path, times, same):
    slopes = [0.5, 2.0, 3.0]
    pairs = [(slope + (0 if same else t), 4.0 * slope) for t in range(times) for slope in slopes]
    image = rescaled_stack(tmp_path, pairs, times)
    assert image.shape == ((times,) if times > 1 else ()) + (3, 8, 8)
    factor = np.array(pairs).reshape(*image.shape[:-2], 2)
    expected = image[...] * factor[..., 0, None, None] + factor[..., 1, None, None]
    found = image.to_xarray(units="BQML")
    assert found.dims == image.info.axes
    assert found.chunk({"y": 5}).mean().compute() == pytest.approx(expected.mean())
    for key in (..., 0, (..., 2, slice(None, None, -2)), (slice(None), 1), (..., -1, 3), slice(1, 2)):
        np.testing.assert_array_equal(found[key], expected[key])
    np.testing.assert_array_equal(found.isel(z=[2, 0], x=[1, 5]), expected[..., [2, 0], :, :][..., [1, 5]])


def placed(folder: Path, change: Callable[[pydicom.Dataset, int], None], slices: int = 4) -> Image:
    """A series whose slices ``change`` puts somewhere else."""
    for k, path in enumerate(collection.write_ct_series(folder / "in", slices=slices, side=16)):
        dataset = pydicom.dcmread(path)
        change(dataset, k)
        dataset.save_as(path)
    add([folder / "in"], folder / "archive")
    (image,) = Archive.open(folder / "archive").values()
    return image


@pytest.mark.parametrize("level", [0, 3])
def test_coordinates_of_an_axial_volume_are_the_patients(tmp_path, level):
    image = placed(tmp_path, lambda dataset, k: None)
    array = image.to_xarray(level)
    shift = 25 * (2**level - 1) / 2 if image.downsampling == "mean" else 0
    np.testing.assert_allclose(array.z, -60 + 2.5 * np.arange(4))
    for name in ("y", "x"):
        np.testing.assert_allclose(array[name], -187.5 + shift + 25 * 2**level * np.arange(16 >> level))
        assert array[name].attrs == {"units": "mm"}
    np.testing.assert_allclose(array.patient_z, array.z)
    assert array.patient_x.dims == ("z",)


def test_coordinates_along_the_axes_of_an_oblique_volume(tmp_path):
    """A voxel's coordinates, along the directions of the image's axes, give its place in the patient."""
    row, column = np.array([0.8, 0.6, 0]), np.array([0, 0, -1])
    normal = np.cross(row, column)

    def turned(dataset, k):
        dataset.ImageOrientationPatient = [*row, *column]
        dataset.ImagePositionPatient = list(np.array([10, -20, 30]) + 3 * k * normal)

    image = placed(tmp_path, turned)
    array = image.to_xarray()
    voxel = array[2, 5, 7]
    found = float(voxel.x) * row + float(voxel.y) * column + float(voxel.z) * normal
    affine = np.array(image.info.attributes["affine"])
    np.testing.assert_allclose(found, (affine @ [7, 5, 2, 1])[:3])
    corner = [float(voxel[f"patient_{name}"]) for name in "xyz"]
    np.testing.assert_allclose(corner, (affine @ [0, 0, 2, 1])[:3])


def test_frames_that_are_no_volume_know_their_places(tmp_path):
    places = [-60.0, -57.5, -40.0, -37.5]

    def gap(dataset, k):
        dataset.ImagePositionPatient[2] = places[k]

    image = placed(tmp_path, gap)
    array = image.to_xarray()
    assert array.dims == ("frame", "y", "x")
    np.testing.assert_allclose(array.patient_z, places)
    assert array.patient_z.dims == ("frame",)
    assert "17.5 mm instead of 2.5 mm" in " ".join(image.description.warnings)


def test_a_rescale_beyond_the_stored_type_does_not_wrap(tmp_path):
    image = rescaled_stack(tmp_path, [(1000, -32768)] * 2, 1)
    assert isinstance(image.info.attributes["rescale"]["slope"], int | float)
    found = image.to_xarray(units="BQML")
    np.testing.assert_array_equal(found, image[...].astype(np.float64) * 1000 - 32768)


def test_a_scene_names_its_bands_and_what_is_no_data(tmp_path):
    words = noise((3, 40, 50), 8)
    path = write_tiff(tmp_path / "in" / "a.tif", words, nodata=7)
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = ("blue", None, "red")
        dataset.scales, dataset.offsets = (0.5,) * 3, (2.0,) * 3
        dataset.units = ("K",) * 3
    add([tmp_path / "in"], tmp_path / "archive")
    (image,) = Archive.open(tmp_path / "archive").values()
    array = image.to_xarray()
    assert list(array.c.values) == ["blue", "band 2", "red"]
    np.testing.assert_array_equal(array.sel(c="red"), words[2])
    assert (array.rio.nodata, array.attrs["_FillValue"].dtype) == (7, np.uint16)
    assert (array.attrs["scale_factor"], array.attrs["add_offset"], array.attrs["units"]) == (0.5, 2, "K")
    decoded = xarray.decode_cf(array.to_dataset(name="data"))["data"]
    np.testing.assert_allclose(decoded, np.where(words == 7, np.nan, words * 0.5 + 2))
    for units in ("K", "HU"):
        with pytest.raises(InvalidRequest):
            image.to_xarray(units=units)


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # affine, from rioxarray
@pytest.mark.parametrize("level", [0, 1, 3])
def test_xarray_of_a_scene_knows_where_it_lies(filled, level):
    array = filled[0]["maps/scene.tif"].to_xarray(level)
    step = 1 << level
    np.testing.assert_allclose(np.diff(array.x), 10 * step)
    np.testing.assert_allclose(np.diff(array.y), -10 * step)
    first = 500000 + 10 * (step / 2)
    assert array.x[0] == pytest.approx(first)
    assert array.rio.crs.to_epsg() == 32631
    a, _, c, _, e, f = tuple(array.rio.transform())[:6]
    assert (a, e) == pytest.approx((10 * step, -10 * step))
    assert (c, f) == pytest.approx((500000, 4000000))


# -- the mapping --------------------------------------------------------------------------------------------


def test_the_archive_is_a_mapping(filled):
    archive, _ = filled
    ids = list(archive)
    assert (len(archive), ids) == (4, sorted(ids))
    assert [image.id for image in archive.values()] == ids == [name for name, _ in archive.items()]
    assert all(name in archive and name[:9] in archive for name in ids)
    for other in (5, None, b"ct", ["ct"], 1.5):
        assert other not in archive
        assert archive.get(other) is None
        with pytest.raises(ImageNotFound):
            archive[other]
        with pytest.raises(ImageNotFound):
            archive.remove(other)
    assert "nothing like it" not in archive
    assert archive.get("nothing like it") is None


def test_an_image_answers_to_its_names(filled):
    archive, _ = filled
    ct = archive["ct"]
    names = [ct.id, ct.id[:6], ct.summary["SeriesInstanceUID"], "ct/IM000003"]
    assert {archive[name].id for name in names} == {ct.id}
    for unknown in ("", "IM000003", "ct/IM", "scene.tif", ct.id[:3], "0" * 32, "../../x", "\0", "f" * 31):
        with pytest.raises(ImageNotFound):
            archive[unknown]


def test_ambiguous_names_are_refused(tmp_path):
    for folder in ("a", "b"):
        write_tiff(tmp_path / folder / "same.tif", noise((1, 32, 32), ord(folder)))
        add([tmp_path / folder], tmp_path / "archive")
    archive = Archive.open(tmp_path / "archive")
    with pytest.raises(ImageNotFound) as caught:
        archive["same.tif"]
    assert caught.value.details["matches"] == list(archive)


def test_search(filled):
    archive, _ = filled
    (found,) = archive.search({"Modality": "CT", "PatientID": "DEMO-0001"})
    assert found.id == archive["ct"].id
    assert not list(archive.search({"Modality": "CT", "PatientID": "x"}))
    assert len(list(archive.search({}))) == 4


def test_opening_what_is_no_archive(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "nowhere", tmp_path / "file", tmp_path / "file" / "below", tmp_path / "empty"):
        with pytest.raises(ImageNotFound):
            Archive.open(path)
    for path in (tmp_path / "file", tmp_path):
        with pytest.raises(InvalidRequest):
            Archive.create(path)
    with pytest.raises(TilevaultError):
        Archive.open("a\0b")
    made = Archive.create(tmp_path / "deep" / "er" / "archive")
    assert Archive.create(made.path).path == made.path
    (made.path / "archive.json").write_text("{}")
    with pytest.raises(IntegrityError):
        Archive.open(made.path)


def refuse(monkeypatch, path: Path, number: int, only: int = ~0) -> None:
    """Below ``path`` nothing is opened any more, or nothing with one of the flags ``only``.

    Root may do everything, so the refusal is made up.
    """
    real = os.open

    def refused(name, flags, mode=0o777, *, dir_fd=None):
        folder = Path() if dir_fd is None else Path(f"/proc/self/fd/{dir_fd}").readlink()
        if (folder / name).is_relative_to(path) and (only == ~0 or flags & only):
            raise OSError(number, os.strerror(number))
        return real(name, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refused)


@pytest.mark.parametrize(
    ("number", "error", "exit_code"),
    [(errno.EACCES, AccessDenied, 8), (errno.EROFS, AccessDenied, 8), (errno.ESTALE, StoreUnavailable, 5)],
)
def test_a_place_that_cannot_be_used_is_neither_absent_nor_damaged(
    single, monkeypatch, number, error, exit_code
):
    source, path = single
    (name,) = Archive.open(path)
    image, known = Archive.open(path)[name], Archive.open(path)[name]
    known.readers  # noqa: B018  (and with them the manifest)
    refuse(monkeypatch, path, number)
    calls = (
        lambda: Archive.open(path),
        lambda: image[...],
        lambda: image.check(),
        lambda: known.check("pixels"),
        lambda: known.check("exists"),
        lambda: add([source], path),
    )
    for call in calls:
        with pytest.raises(error) as caught:
            call()
        assert caught.value.exit_code == exit_code


@pytest.mark.parametrize("damaged", [False, True])
def test_tiles_that_may_not_be_read_are_not_called_damaged(single, monkeypatch, damaged):
    _, path = single
    (image,) = Archive.open(path).values()
    image.readers  # noqa: B018
    if damaged:
        shard = next(p for p in (image.path / "0/data/c").rglob("*") if p.is_file())
        data = bytearray(shard.read_bytes())
        data[5] ^= 1
        shard.write_bytes(data)
    real = LocalBlobs.read

    def refused(self, key, *arguments, **named):
        if "/0/data/c/" in key:
            raise AccessDenied("no")
        return real(self, key, *arguments, **named)

    monkeypatch.setattr(LocalBlobs, "read", refused)
    with pytest.raises(AccessDenied):
        image.check("pixels")


def test_a_place_that_may_only_be_read(single, tmp_path, monkeypatch):
    source, path = single
    write_tiff(tmp_path / "more" / "b.tif", noise((1, 40, 40), 5))
    refuse(monkeypatch, path, errno.EROFS, only=os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    assert add([source], path).images[0].status == "present"
    result = add([tmp_path / "more"], path, workers=1)
    assert [image.status for image in result.images] == ["failed"]
    assert result.totals["exit_code"] == AccessDenied.exit_code == 8
    (image,) = Archive.open(path).values()
    assert image.check("pixels").findings == ()


def test_without_xarray_the_extra_is_named(ct, monkeypatch):
    monkeypatch.delitem(sys.modules, "tilevault.archive.xarrays", raising=False)
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(UnsupportedSyntax, match=r"tilevault\[xarray\]"):
        ct.to_xarray()


# -- removing, and writers at the same time -----------------------------------------------------------------


@pytest.fixture
def single(tmp_path):
    """The source and the archive of one small image."""
    write_tiff(tmp_path / "in" / "a.tif", noise((1, 70, 70)), compress="lzw")
    add([tmp_path / "in"], tmp_path / "archive")
    return tmp_path / "in", tmp_path / "archive"


def test_what_is_added_while_a_removal_deletes_is_not_deleted(single, monkeypatch):
    source, path = single
    archive = Archive.open(path)
    (name,) = archive
    real, statuses, begun = LocalBlobs.remove_tree, [], []

    def late(self, prefix):
        if not begun:
            begun.append(prefix)
            statuses.append(add([source], path).images[0].status)
        real(self, prefix)

    monkeypatch.setattr(LocalBlobs, "remove_tree", late)
    archive.remove(name)
    assert statuses == ["added"]
    assert list(archive) == [name]
    assert archive[name].check("pixels").findings == ()
    assert problems(path) == []


@pytest.mark.parametrize("again", ["remove", "add"])
def test_an_interrupted_removal_is_finished(single, monkeypatch, again):
    source, path = single
    archive = Archive.open(path)
    (name,) = archive
    with monkeypatch.context() as patched:
        patched.setattr(LocalBlobs, "remove_tree", lambda self, prefix: None)
        archive.remove(name)
    assert list(archive) == []
    (old,) = (path / "images" / name).iterdir()
    if again == "remove":
        assert archive.remove(name).n == 1
        assert not (path / "images" / name).exists()
        with pytest.raises(ImageNotFound):
            archive.remove(name)
    else:
        assert add([source], path).images[0].status == "added"
        assert not old.exists()
        assert archive[name].check("pixels").findings == ()


def test_reading_what_is_being_removed_is_an_error_of_ours(single):
    _, path = single
    archive = Archive.open(path)
    (image,) = archive.values()
    image.readers  # noqa: B018
    archive.remove(image.id)
    with pytest.raises(IntegrityError):
        image[...]
    assert image.id not in archive


def test_removing_while_the_same_image_is_added_again_and_again(single, monkeypatch):
    """A removal between any two steps of an add: the add ends well or the image stays removed."""
    source, path = single
    archive = Archive.open(path)
    (name,) = archive
    for step in (
        "_sample_packing",
        "_write_shard",
        "_write_tables",
        "_write_documents",
        "_prove_metadata",
        "_commit",
    ):
        real, done = getattr(storing, step), []

        def removing(*arguments, real=real, done=done, **named):
            if not done:
                done.append(True)
                with_another = Archive.open(path)
                if name in with_another:
                    with_another.remove(name)
            return real(*arguments, **named)

        if name in archive:
            archive.remove(name)
        with monkeypatch.context() as patched:
            patched.setattr(storing, step, removing)
            result = add([source], path, workers=1)
        assert (step, done, result.images[0].status) == (step, [True], "added")
        assert archive[name].check("pixels").findings == ()


def test_a_full_disk_stops_the_image_and_leaves_the_rest(single, tmp_path, monkeypatch):
    _, path = single
    write_tiff(tmp_path / "more" / "b.tif", noise((1, 90, 90), 5), compress="lzw")
    write_tiff(tmp_path / "more" / "c.tif", noise((1, 90, 90), 6), compress="lzw")
    real, failures = os.fsync, []

    def full(fd):
        name = Path(f"/proc/self/fd/{fd}").readlink().name
        if name.endswith(".tmp") and len(failures) < 1:
            failures.append(name)
            raise OSError(28, "No space left on device")
        real(fd)

    monkeypatch.setattr(os, "fsync", full)
    result = add([tmp_path / "more"], path, workers=1)
    assert sorted(i.status for i in result.images) == ["added", "failed"]
    assert result.totals["exit_code"] == StoreFull.exit_code == 6
    assert len(Archive.open(path)) == 2
    assert not list((path / ".staging").rglob("*.tmp"))
    monkeypatch.setattr(os, "fsync", real)
    assert add([tmp_path / "more"], path).totals["exit_code"] == 0
    assert problems(path) == []


def test_a_damaged_image_does_not_keep_others_out(single, tmp_path):
    _, path = single
    (record,) = path.glob("commits/*/0.json")
    record.write_bytes(record.read_bytes()[:-3])
    write_tiff(tmp_path / "more" / "b.tif", noise((1, 90, 90), 5), compress="lzw")
    collection.write_ct_series(tmp_path / "more" / "ct", slices=2, side=32)
    result = add([tmp_path / "more"], path)
    assert (result.totals["added"], result.totals["exit_code"]) == (2, 0)
    archive = Archive.open(path)
    assert len(archive) == 3
    assert archive["b.tif"].check("pixels").findings == ()
