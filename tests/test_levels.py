"""Means and nearest samples against the obvious loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tilevault.archive.levels import reduce_mask, reduce_mean, reduce_nearest, valid_samples


def _mean_twin(values, level, valid, absent):
    step = 1 << level
    rows, cols = -(-values.shape[0] // step), -(-values.shape[1] // step)
    out = np.empty((rows, cols), values.dtype)
    for i in range(rows):
        for j in range(cols):
            block = np.s_[i * step : (i + 1) * step, j * step : (j + 1) * step]
            picked = [int(v) for v in values[block][valid[block]]]
            out[i, j] = (2 * sum(picked) + len(picked)) // (2 * len(picked)) if picked else absent
    return out


@given(
    arrays(np.int16, st.tuples(st.integers(1, 20), st.integers(1, 20))),
    st.integers(0, 4),
    st.data(),
)
def test_integer_means_are_those_of_the_loop(values, level, data):
    valid = data.draw(arrays(np.bool_, values.shape))
    expected = _mean_twin(values, level, valid, -7)
    np.testing.assert_array_equal(reduce_mean(values, level, valid, -7), expected)


def test_extremes_do_not_overflow():
    for dtype in (np.uint32, np.int32, np.uint16):
        for extreme in (np.iinfo(dtype).max, np.iinfo(dtype).min):
            values = np.full((9, 9), extreme, dtype)
            assert (reduce_mean(values, 3, None, None) == extreme).all()


def test_floats_skip_what_is_not_valid():
    values = np.array([[1, np.nan, -9999, 3]], np.float32)
    valid = valid_samples(values, -9999, None)
    np.testing.assert_array_equal(reduce_mean(values, 2, valid, -9999), np.float32([[2]]))
    empty = valid_samples(values[:, 1:3], -9999, None)
    assert reduce_mean(values[:, 1:3], 1, empty, -9999)[0, 0] == -9999
    assert np.isnan(reduce_mean(values[:, 1:2], 1, valid_samples(values[:, 1:2], None, None), None)[0, 0])


def test_masks_and_nodata_meet():
    values = np.array([[5, 7]], np.uint8)
    mask = np.array([[255, 0]], np.uint8)
    assert valid_samples(values, None, None) is None
    np.testing.assert_array_equal(valid_samples(values, 5, mask), [[False, False]])
    np.testing.assert_array_equal(valid_samples(values, float("nan"), mask), [[True, False]])


@pytest.mark.parametrize("shape", [(1, 1), (7, 9), (3, 16, 5)])
def test_nearest_and_masks(shape):
    values = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    np.testing.assert_array_equal(reduce_nearest(values, 2), values[..., ::4, ::4])
    mask = np.zeros(shape[-2:], np.uint8)
    mask[-1, -1] = 255
    reduced = reduce_mask(mask, 1)
    assert reduced[-1, -1] == 255
    assert int((reduced != 0).sum()) == 1
