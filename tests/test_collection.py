"""The images to test with are what they claim to be, and the same each time."""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pydicom
import rasterio

import collection


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_collection_is_the_same_each_time(tmp_path: Path) -> None:
    first, second = (collection.build(tmp_path / name, slices=2, side=300) for name in ("first", "second"))
    assert digests(first) == digests(second)
    assert len(digests(first)) > 100


def test_ct_series_is_a_signed_volume_with_regular_geometry(tmp_path: Path) -> None:
    slices = [pydicom.dcmread(path) for path in collection.write_ct_series(tmp_path / "ct", slices=3)]
    assert len({ds.SOPInstanceUID for ds in slices}) == 3
    assert len({ds.SeriesInstanceUID for ds in slices}) == 1
    z = [ds.ImagePositionPatient[2] for ds in slices]
    assert np.allclose(np.diff(z), 2.5)
    volume = np.stack([ds.pixel_array for ds in slices])
    assert volume.dtype == np.int16
    assert volume.min() == collection.PADDING < collection.AIR
    assert volume.max() > 500


def test_scene_has_bands_that_go_together_and_a_border_of_nodata(tmp_path: Path) -> None:
    with rasterio.open(collection.write_scene(tmp_path / "scene.tif", side=400)) as image:
        bands = image.read()
        assert (image.crs.to_epsg(), image.nodata, bands.dtype) == (32633, 0, np.uint16)
    inside = bands[0] > 0
    assert 0.5 < inside.mean() < 0.98
    assert (inside == (bands[3] > 0)).all()
    assert np.corrcoef(bands[0][inside], bands[2][inside])[0, 1] > 0.7
