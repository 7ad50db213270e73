"""A generation as it lies on disk, after a real `add`, in the hands of programs that know nothing of us."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import rasterio
import rioxarray  # noqa: F401  (the accessor .rio)
import xarray
import zarr
from numpy.typing import NDArray
from ome_zarr_models.v05 import Image as OmeImage
from pydicom.uid import generate_uid
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

import collection
from test_damage import noise, write_masked, write_tiff
from tilevault.archive.shard import CRC_BYTES, index_bytes, parse_index
from tilevault.archive.store import Archive, Image
from tilevault.codecs import LosslessCodec
from tilevault.workflows.ingest import add

SIDE = 300

pytestmark = pytest.mark.filterwarnings(
    "ignore:Use `@` matmul:PendingDeprecationWarning"
)  # affine, rioxarray


def _stack(folder: Path, change: Any) -> None:
    """Four slices, each changed by ``change(dataset, k)``."""
    for k, path in enumerate(collection.write_ct_series(folder, slices=4, side=SIDE)):
        dataset = pydicom.dcmread(path)
        dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[folder.name])
        # The collection numbers its instances alike in every folder; those of another series are others.
        uid = generate_uid(entropy_srcs=[folder.name, str(k)])
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
        change(dataset, k)
        dataset.save_as(path)


def _without_position(dataset: pydicom.Dataset, k: int) -> None:
    del dataset.ImagePositionPatient, dataset.ImageOrientationPatient, dataset.SliceLocation


def _in_colour(dataset: pydicom.Dataset, k: int) -> None:
    rgb = np.random.default_rng(k).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    del dataset.PixelPaddingValue
    dataset.PixelData = rgb.tobytes()


def _in_time(dataset: pydicom.Dataset, k: int) -> None:
    dataset.ImagePositionPatient[2] = 2.5 * (k % 2)


def _twelve_bits(dataset: pydicom.Dataset, k: int) -> None:
    """Twelve bits are samples; the four above them hold an overlay, as old scanners wrote it."""
    dataset.BitsStored, dataset.HighBit = 12, 11
    words = np.frombuffer(dataset.PixelData, "<u2") & 0x0FFF
    dataset.PixelData = (words | np.arange(words.size) % 3 << 12).astype("<u2").tobytes()


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """One image of each kind."""
    folder = tmp_path_factory.mktemp("conventions")
    source = folder / "in"
    collection.write_ct_series(source / "volume", slices=5, side=SIDE)
    collection.write_ct_series(source / "single", slices=1, side=SIDE, patient="OTHER")
    _stack(source / "frames", _without_position)
    _stack(source / "colour", _in_colour)
    _stack(source / "times", _in_time)
    _stack(source / "twelve", _twelve_bits)
    words = noise((3, SIDE, SIDE + 57), 4)
    write_tiff(source / "bands.tif", words, compress="lzw")
    write_tiff(source / "nodata.tif", np.where(words > 900, 0, words).astype("uint16"), nodata=0)
    path = write_tiff(source / "float.tif", words[:1].astype(np.float32) / 7, nodata=-1e38)
    # A double beyond float32, as many tools leave it beside float32 pixels; GDAL takes it for -inf.
    text, beyond = b"-9.9999999999999998e+37", b"-9.999999999999999e+307"
    assert path.read_bytes().count(text) == 1
    path.write_bytes(path.read_bytes().replace(text, beyond))
    write_tiff(source / "many.tif", noise((20, SIDE, SIDE), 5), interleave="band")
    valid = np.zeros((SIDE, SIDE), np.uint8)
    valid[30:200, 50:] = 255
    write_masked(source / "masked.tif", noise((1, SIDE, SIDE), 6), valid)
    assert add([source], folder / "archive", tile=128).totals["exit_code"] == 0
    return Archive.open(folder / "archive")


MEDICAL = ("volume", "single", "frames", "colour", "times", "twelve")
SATELLITE = ("bands.tif", "nodata.tif", "float.tif", "many.tif", "masked.tif")
AXES = {
    "volume": ("z", "y", "x"),
    "single": ("y", "x"),
    "frames": ("frame", "y", "x"),
    "colour": ("c", "z", "y", "x"),
    "times": ("t", "z", "y", "x"),
    "twelve": ("z", "y", "x"),
}


def named(archive: Archive, name: str) -> Image:
    """The image; a folder of one file is called by the file."""
    return archive[f"{name}/IM000000" if name == "single" else name]


def level_path(image: Image, level: int) -> str:
    """Path of the pixels of a level."""
    return str(level) if image.info.kind == "medical" else f"{level}/data"


@pytest.mark.parametrize("name", MEDICAL + SATELLITE)
def test_zarr_reads_what_we_read(archive, name):
    image = named(archive, name)
    group = zarr.open_group(image.path, mode="r")
    level0 = group[level_path(image, 0)]
    np.testing.assert_array_equal(level0[...], image.words[...])
    assert level0.dtype == image.dtype
    assert len(image.stored_levels) > 1
    for level in image.stored_levels[1:]:
        stored = group[level_path(image, level)]
        assert stored.metadata.dimension_names == image.info.axes
        np.testing.assert_array_equal(stored[...], image.read(level=level))
    if image.info.has_mask:
        for level in image.stored_levels:
            np.testing.assert_array_equal(group[f"{level}/mask"][...], image.read_mask(level=level))
    np.testing.assert_array_equal(group["quality/bits"][...], image.quality.bits)
    np.testing.assert_array_equal(group["tiles/data/ends"][...], image.readers["data"].tables.ends)


@pytest.mark.parametrize("name", MEDICAL)
def test_medical_groups_are_ome_ngff(archive, name):
    image = named(archive, name)
    assert image.info.axes == AXES[name]
    ome = OmeImage.from_zarr(zarr.open_group(image.path, mode="r"))
    (multiscale,) = ome.attributes.ome.multiscales
    assert [d.path for d in multiscale.datasets] == [str(k) for k in image.stored_levels]
    assert [axis.name for axis in multiscale.axes] == list(image.info.axes)
    types = {"t": "time", "c": "channel", "frame": "frame"}
    assert [axis.type for axis in multiscale.axes] == [types.get(a, "space") for a in image.info.axes]
    millimetres = {"z": 2.5, "y": 400 / SIDE, "x": 400 / SIDE}
    for level, dataset in zip(image.stored_levels, multiscale.datasets, strict=True):
        step = {"y": 2**level, "x": 2**level}
        scale, *rest = dataset.coordinateTransformations
        spacing = [millimetres.get(a, 1) for a in image.info.axes]
        steps = [step.get(a, 1) for a in image.info.axes]
        assert scale.scale == pytest.approx(np.multiply(spacing, steps))
        # A mean lies in the middle of its square; a sample of the low band where its even sample lies.
        shifts = [(n - 1) / 2 if image.downsampling == "mean" else 0 for n in steps]
        offsets = rest[0].translation if rest else [0] * len(steps)
        assert offsets == pytest.approx(np.multiply(spacing, shifts))


@pytest.mark.parametrize("name", SATELLITE)
def test_rioxarray_finds_where_each_level_lies(archive, name):
    image = named(archive, name)
    for level in image.stored_levels:
        with xarray.open_zarr(image.path / str(level), consolidated=False, decode_coords="all") as opened:
            data = opened["data"]
            assert data.rio.crs.to_epsg() == 32631
            transform = data.rio.transform()
            lazy = image.to_xarray(level)
            assert tuple(transform)[:6] == pytest.approx(tuple(lazy.rio.transform())[:6])
            shift = (1 - 2**level) / 2 if image.downsampling == "lowpass53" else 0
            assert (transform.a, transform.e) == pytest.approx((10 * 2**level, -10 * 2**level))
            assert (transform.c, transform.f) == pytest.approx((500000 + 10 * shift, 4000000 - 10 * shift))
            np.testing.assert_allclose(opened["x"], lazy.x)
            np.testing.assert_allclose(opened["y"], lazy.y)
            expected = image.read(level=level)
            found = data.values
            if image.info.nodata is not None and found.dtype != expected.dtype:
                found = np.where(np.isnan(found), expected.dtype.type(image.info.nodata), found)
            np.testing.assert_array_equal(found.astype(expected.dtype), expected)


def test_nodata_beyond_the_type_is_what_gdal_takes_it_for(archive):
    image = named(archive, "float.tif")
    with rasterio.open(archive.path.parent / "in" / "float.tif") as dataset:
        assert dataset.nodata == -np.inf
    assert image.to_xarray().attrs["_FillValue"] == -np.inf
    assert zarr.open_group(image.path, mode="r")["0/data"].fill_value == -np.inf


@pytest.mark.parametrize("name", SATELLITE)
def test_our_arrays_say_what_the_stored_ones_say(archive, name):
    image = named(archive, name)
    for level in image.stored_levels:
        path = image.path / str(level)
        with xarray.open_zarr(path, consolidated=False, mask_and_scale=False, decode_coords="all") as opened:
            lazy = image.to_xarray(level)
            np.testing.assert_array_equal(lazy, opened["data"])
            described = {"long_name", "_FillValue", "units", "scale_factor", "add_offset"}
            theirs, ours = (
                {k: d.attrs[k] for k in described & d.attrs.keys()} for d in (opened["data"], lazy)
            )
            assert ours == theirs
            assert lazy.rio.nodata == opened["data"].rio.nodata
            assert lazy.rio.grid_mapping == opened["data"].rio.grid_mapping == "spatial_ref"


def test_levels_of_plain_words_are_low_bands_and_of_others_means(archive):
    found = {name: named(archive, name).downsampling for name in ("bands.tif", "colour")}
    assert set(found.values()) == {"lowpass53"}, found
    assert (named(archive, "twelve")[...] != named(archive, "twelve").words[...]).any()
    found = {name: named(archive, name).downsampling for name in ("twelve", "nodata.tif", "masked.tif")}
    assert set(found.values()) == {"mean"}, found


# -- shards: ours, zarr's -----------------------------------------------------------------------------------


def layout(shard: bytes, places: tuple[int, ...]) -> list[tuple[int, bytes]]:
    """(place, tile with its crc32c) in the order in which they lie in a shard; nothing lies between them."""
    index = parse_index(shard[-index_bytes(places) :], len(shard), places, "shard")
    present = [(int(o), place, int(n)) for place, (o, n) in enumerate(index) if int(o) != 2**64 - 1]
    found, at = [], 0
    for offset, place, length in sorted(present):
        assert offset == at
        found.append((place, shard[offset : offset + length]))
        at += length
    assert at + index_bytes(places) == len(shard)
    return found


def written_by_zarr(image: Image, words: NDArray[Any], path: Path) -> dict[str, bytes]:
    """The shards that zarr itself writes for the same array: objects by key."""
    grid = image.grid
    sharding = ShardingCodec(
        chunk_shape=grid.tile,
        codecs=[image.codec, Crc32cCodec()],
        index_codecs=[BytesCodec(endian="little"), Crc32cCodec()],
    )
    array = zarr.create_array(
        path,
        shape=grid.shape,
        chunks=grid.shard,
        dtype=image.dtype,
        serializer=sharding,
        compressors=None,
        filters=None,
        fill_value=0,
        config={"write_empty_chunks": True},
    )
    array[...] = words
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in (path / "c").rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["volume", "bands.tif", "colour"])
def test_zarr_writes_shards_of_the_same_structure(archive, tmp_path, name):
    image = named(archive, name)
    words = image.words[...]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr speaks of codecs and chunk shapes that it would rather see
        theirs = written_by_zarr(image, words, tmp_path / "theirs")
    folder = image.path / level_path(image, 0)
    ours = {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in (folder / "c").rglob("*") if p.is_file()
    }
    assert ours.keys() == theirs.keys()
    places = image.grid.tiles_per_shard
    for key, shard in ours.items():
        own = dict(layout(shard, places))
        other = dict(layout(theirs[key], places))
        # zarr also stores the places of a shard that lie outside the array; ours leave them out.
        assert own.keys() <= other.keys()
        for place, tile in own.items():
            decoded = [
                image.codec.decode_tile(data[:-CRC_BYTES], image.grid.tile, image.dtype)
                for data in (tile, other[place])
            ]
            np.testing.assert_array_equal(*decoded)


def test_a_shard_of_whole_tiles_is_the_one_that_zarr_writes(tmp_path):
    words = noise((1, 256, 256), 9)
    write_tiff(tmp_path / "in" / "a.tif", words, compress="lzw")
    add([tmp_path / "in"], tmp_path / "archive", tile=128)
    (image,) = Archive.open(tmp_path / "archive").values()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = written_by_zarr(image, words[0], tmp_path / "theirs")
    folder = image.path / "0/data"
    assert isinstance(image.codec, LosslessCodec)
    for key, data in theirs.items():
        assert sorted(layout((folder / key).read_bytes(), (2, 2))) == sorted(layout(data, (2, 2)))
