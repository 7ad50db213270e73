"""Low bands of tiles in the place of levels that are means: only where no tile has nodata."""

from pathlib import Path

import numpy as np
import pytest

import collection
import tilevault
from tilevault import Archive
from tilevault.archive import Image, Window
from tilevault.archive.generation import valid_array
from tilevault.workflows.serve.parts import Part, read_part

SIDE, TILE = 1000, 128
BANDS = (2, 1, 0)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """A scene with a swath's empty borders, in tiles of which some have none of these."""
    folder = tmp_path_factory.mktemp("low")
    collection.write_scene(folder / "scene.tif", side=SIDE)
    tilevault.add([folder / "scene.tif"], folder / "archive", tile=TILE)
    (image,) = Archive.open(folder / "archive").values()
    return image


def _is_valid(scene: Image, window: Window, level: int) -> bool:
    """Whether the tiles of a window have no nodata, by looking at their samples."""
    rows, columns = (
        slice((a << level) // TILE * TILE, -(-(b << level) // TILE) * TILE)
        for a, b in zip(window.start[-2:], window.stop[-2:], strict=True)
    )
    return bool((scene[:, rows, columns] != scene.info.nodata).all())


@pytest.mark.parametrize("level", [1, 2])
def test_the_low_band_is_that_of_the_tiles_and_only_where_nothing_is_missing(
    scene: Image, level: int
) -> None:
    side, seen = TILE, set()
    for y in range(0, SIDE >> level, side):
        for x in range(0, SIDE >> level, side):
            stop = (4, *(min(a + side, -(-SIDE >> level)) for a in (y, x)))
            window = Window((0, y, x), stop)
            low = scene.low_band(window, level)
            assert (low is not None) == _is_valid(scene, window, level)
            seen.add(low is not None)
            if low is not None:
                assert np.array_equal(low, scene.readers["data"].read(window, level))
                spread = float(scene.read(window, level).std())
                assert float(np.abs(low - scene.read(window, level).astype(float)).mean()) < spread / 4
    assert seen == {True, False}


def test_stored_levels_are_read_as_they_are(scene: Image) -> None:
    assert scene.low_band(Window((0, 0, 0), (4, 16, 16)), 3) is None


@pytest.mark.parametrize("level", [1, 2])
def test_pictures_are_made_of_them_band_by_band(scene: Image, level: int) -> None:
    at = 512 >> level
    part = Part(level, (at, at + 64), (at, at + 64))
    window = Window((0, at, at), (4, at + 64, at + 64))
    low = scene.low_band(window, level)
    assert low is not None
    made, mask = read_part(scene, part, BANDS, ())
    assert mask is None
    assert np.array_equal(made, low[list(BANDS)])


def test_images_that_count_nothing_have_none(tmp_path: Path) -> None:
    """Without nodata the tiles' low bands are the levels; `read` gives them."""
    collection.write_ct_series(tmp_path / "ct", slices=3, side=128)
    tilevault.add([tmp_path / "ct"], tmp_path / "archive")
    (image,) = Archive.open(tmp_path / "archive").values()
    assert image.low_band(Window((0, 0, 0), (1, 16, 16)), 1) is None


def test_valid_samples_are_counted_by_tile(scene: Image) -> None:
    counts, words = scene.plain(valid_array(scene.description.data)), scene[...]
    for at in np.ndindex(*scene.grid.tiles):
        assert counts[at] == (words[scene.grid.tile_window(at).slices] != 0).sum()


@pytest.mark.parametrize("level", [1, 2])
def test_a_picture_over_the_border_reduces_only_what_is_cut(scene: Image, level: int) -> None:
    """Every cell is the low band, or what a picture of that cell alone would be made of."""
    cell, n = TILE >> level, SIDE >> level
    made, _ = read_part(scene, Part(level, (3, n), (5, n)), BANDS, ())
    for y in range(0, n, cell):
        for x in range(0, n, cell):
            rows, columns = (max(y, 3), min(y + cell, n)), (max(x, 5), min(x + cell, n))
            alone, _ = read_part(scene, Part(level, rows, columns), BANDS, ())
            assert np.array_equal(made[:, rows[0] - 3 : rows[1] - 3, columns[0] - 5 : columns[1] - 5], alone)
    assert ((made == 0).all(0) == (scene.read(level=level)[list(BANDS), 3:, 5:] == 0).all(0)).mean() > 0.999
