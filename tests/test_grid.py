"""Tiles and shards: every sample in exactly one, nominal sizes as the format says."""

from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilevault.archive.grid import TileGrid, reduced_extent, tile_shape
from tilevault.archive.image import Window
from tilevault.codecs.errors import InvalidRequest

shapes = st.lists(st.integers(1, 24), min_size=2, max_size=3).map(tuple)


@given(shapes, st.data())
def test_every_sample_lies_in_one_tile_and_one_shard(shape, data):
    tile = tuple(data.draw(st.integers(1, 16)) for _ in shape)
    grid = TileGrid.plan(shape, tile, 2, shard_bytes=data.draw(st.integers(1, 20000)))
    for windows in (
        [grid.tile_window(i) for i in grid.tile_indices()],
        [grid.shard_window(i) for i in grid.shard_indices()],
    ):
        seen = np.zeros(shape, int)
        for window in windows:
            seen[window.slices] += 1
        assert (seen == 1).all()


@given(shapes, st.data())
def test_shard_of_gives_each_tile_its_own_place(shape, data):
    tile = tuple(data.draw(st.integers(1, 16)) for _ in shape)
    grid = TileGrid.plan(shape, tile, 2, shard_bytes=data.draw(st.integers(1, 20000)))
    places = [grid.shard_of(i) for i in grid.tile_indices()]
    assert len(set(places)) == len(places) == prod(grid.tiles)
    for index, (shard, place) in zip(grid.tile_indices(), places, strict=True):
        assert 0 <= place < prod(grid.tiles_per_shard)
        assert grid.tile_window(index).intersect(grid.shard_window(shard)) == grid.tile_window(index)


@given(shapes, st.data())
def test_tile_indices_within_are_those_that_meet_the_window(shape, data):
    tile = tuple(data.draw(st.integers(1, 16)) for _ in shape)
    grid = TileGrid.plan(shape, tile, 1)
    start = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    window = Window(start, tuple(data.draw(st.integers(a, n)) for a, n in zip(start, shape, strict=True)))
    met = {i for i in grid.tile_indices() if 0 not in grid.tile_window(i).intersect(window).shape}
    assert set(grid.tile_indices(window)) == met


@pytest.mark.parametrize(
    ("shape", "axes", "expected"),
    [
        ((100, 100), ("y", "x"), (128, 128)),
        ((512, 512), ("y", "x"), (512, 512)),
        ((1760, 2140), ("y", "x"), (512, 512)),
        ((3, 480, 640), ("c", "y", "x"), (3, 480, 512)),
        ((200, 600, 600), ("c", "y", "x"), (16, 512, 512)),
        ((70, 45, 53), ("z", "y", "x"), (70, 64, 64)),
        ((300, 128, 128), ("z", "y", "x"), (16, 128, 128)),
        ((300, 512, 512), ("z", "y", "x"), (1, 512, 512)),
        ((4, 3, 64, 64), ("frame", "c", "y", "x"), (4, 3, 64, 64)),
    ],
)
def test_tile_shape(shape, axes, expected):
    assert tile_shape(shape, axes) == expected


def test_shards_hold_whole_frames_and_row_bands():
    series = TileGrid.plan((300, 512, 512), (1, 512, 512), 2)
    assert series.shard == (32, 512, 512)
    scene = TileGrid.plan((40000, 40000), (512, 512), 2)
    assert scene.shard == (512, 79 * 512)


def test_reduced_extent_counts_even_positions():
    for n, k in product(range(1, 100), range(6)):
        assert reduced_extent(n, k) == len(range(0, n, 1 << k))


def test_a_window_that_ends_before_it_begins_is_refused():
    with pytest.raises(InvalidRequest):
        Window((3,), (2,))
