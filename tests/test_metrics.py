"""Quality measures against scikit-image and against slow obvious twins."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from tilevault.codecs import InvalidRequest
from tilevault.codecs.metrics import (
    MS_SSIM_WEIGHTS,
    PSNR_CAP,
    PSNR_EXACT,
    Quality,
    max_abs_error,
    measure,
    ms_ssim,
    ms_ssim_scales,
    psnr,
    squared_error,
    ssim,
)

Plane = NDArray[Any]
INTEGERS = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8")
GAUSSIAN: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def pair(shape: tuple[int, ...], dtype: str, seed: int, noise: float = 0.02) -> tuple[Plane, Plane, float]:
    """A textured reference, the same with errors, and the reference's range."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    low, high = (-30.0, 900.0) if kind.kind == "f" else (np.iinfo(kind).min / 2, np.iinfo(kind).max / 2)
    walk = np.cumsum(rng.normal(size=shape), axis=-1) + np.cumsum(rng.normal(size=shape), axis=-2)
    span = max(float(np.ptp(walk)), 1e-9)
    x = (walk - walk.min()) / span * (high - low) + low
    y = np.clip(x + rng.normal(size=shape) * noise * (high - low), low, high)
    if kind.kind != "f":
        x, y = np.rint(x), np.rint(y)
    x, y = x.astype(kind), y.astype(kind)
    return x, y, max(float(x.max()) - float(x.min()), 1.0)


shapes = st.tuples(st.integers(11, 70), st.integers(11, 70))
seeds = st.integers(0, 1 << 32)


# -- oracle: scikit-image ---------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(shapes, st.sampled_from(("u1", "i1", "u2", "i2", "i4", "f4", "f8", ">u2")), seeds, st.floats(0, 0.3))
def test_ssim_and_psnr_are_those_of_scikit_image(
    shape: tuple[int, int], dtype: str, seed: int, noise: float
) -> None:
    x, y, peak = pair(shape, dtype, seed, noise)
    wide_x, wide_y = x.astype(np.float64), y.astype(np.float64)
    expected = structural_similarity(wide_x, wide_y, data_range=peak, **GAUSSIAN)
    assert ssim(x, y, peak) == pytest.approx(expected, abs=1e-9)
    if not np.array_equal(x, y):
        expected = peak_signal_noise_ratio(wide_x, wide_y, data_range=peak)
        assert psnr(x, y, peak) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("shape", [(11, 176), (176, 200), (161, 333), (80, 81), (255, 97), (512, 512)])
@pytest.mark.parametrize("dtype", ["u1", "i2", "f4"])
def test_ms_ssim_is_the_product_of_scikit_images_terms(shape: tuple[int, int], dtype: str) -> None:
    x, y, peak = pair(shape, dtype, 3, 0.06)
    scales = ms_ssim_scales(*shape)
    a, b, product = x.astype(np.float64), y.astype(np.float64), 1.0
    total = 1 if scales == 5 else sum(MS_SSIM_WEIGHTS[:scales])
    for scale, weight in enumerate(MS_SSIM_WEIGHTS[:scales]):
        # A huge K1 makes the luminance term 1: what is left is contrast and structure.
        k1 = 0.01 if scale == scales - 1 else 1e9
        term = structural_similarity(a, b, data_range=peak, K1=k1, **GAUSSIAN)
        product *= term ** (weight / total)
        a, b = halved(a), halved(b)
    assert ms_ssim(x, y, peak) == pytest.approx(product, abs=1e-8)


def halved(plane: Plane) -> Plane:
    """2 x 2 means, an odd edge doubled."""
    rows, columns = plane.shape
    even = np.pad(plane, ((0, rows % 2), (0, columns % 2)), mode="edge")
    return even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2).mean(axis=(1, 3))


def test_scales_are_as_many_as_the_window_fits_into() -> None:
    assert [ms_ssim_scales(n, 512) for n in (1, 10, 20, 21, 40, 41, 80, 81, 160, 161, 512)] == [
        1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5,
    ]  # fmt: skip


# -- twins ------------------------------------------------------------------------------------------------


def twin_ssim(x: Plane, y: Plane, peak: float, valid: NDArray[np.bool_]) -> float:
    """By the definition, whole maps at a time, any extent and any mask."""
    w = valid.astype(np.float64)
    x, y = np.where(valid, x, 0).astype(np.float64), np.where(valid, y, 0).astype(np.float64)
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    inside = valid.copy()
    for axis, extent in enumerate(valid.shape):
        if extent >= 11:
            np.moveaxis(inside, axis, 0)[:5] = False
            np.moveaxis(inside, axis, 0)[-5:] = False
    modes = ["reflect"] * 2
    if not inside.any():
        inside, modes = valid, ["constant" if n >= 11 else "reflect" for n in valid.shape]

    def mean(values: Plane) -> Plane:
        return gaussian_filter(values, 1.5, truncate=3.5, mode=modes) / np.where(weight > 0, weight, 1)

    weight = gaussian_filter(w, 1.5, truncate=3.5, mode=modes)
    middle = x[valid].mean()
    x, y = np.where(valid, x - middle, 0), np.where(valid, y - middle, 0)
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    mx, my = mx + middle, my + middle
    index = (2 * mx * my + c1) / (mx**2 + my**2 + c1) * (2 * cov + c2) / (vx + vy + c2)
    return float(index[inside].mean())


@settings(max_examples=80, deadline=None)
@given(st.tuples(st.integers(1, 30), st.integers(1, 30)), seeds, st.sampled_from((0.0, 0.3, 0.9)))
def test_ssim_of_any_extent_and_mask_is_the_twins(shape: tuple[int, int], seed: int, masked: float) -> None:
    x, y, peak = pair(shape, "i2", seed)
    peak = max(peak, 5000.0)  # errors far beyond the range have no digits to compare
    valid = np.random.default_rng(seed).random(shape) >= masked
    if not valid.any():
        valid.flat[seed % valid.size] = True
    if np.array_equal(x[valid], y[valid]):
        return
    expected = twin_ssim(x, y, peak, valid)
    assert ssim(x, y, peak, valid) == pytest.approx(expected, abs=1e-7)


def test_only_the_border_is_valid() -> None:
    x, y, peak = pair((40, 50), "u2", 5)
    valid = np.zeros(x.shape, bool)
    valid[:3, 7:40] = True
    assert ssim(x, y, peak, valid) == pytest.approx(twin_ssim(x, y, peak, valid), abs=1e-9)
    assert 0 < ms_ssim(x, y, peak, valid) < 1


def test_masked_scales_average_valid_samples_only() -> None:
    x, y, peak = pair((200, 180), "u2", 6)
    valid = np.ones(x.shape, bool)
    valid[40:90, 30:77] = False
    a, b, w, product = x.astype(float), y.astype(float), valid, 1.0
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        term = twin_ssim if scale == 4 else twin_structure
        product *= term(a, b, peak, w) ** weight
        total = halved(w.astype(float))
        a, b = (halved(np.where(w, p, 0)) / np.where(total > 0, total, 1) for p in (a, b))
        w = total > 0
    assert ms_ssim(x, y, peak, valid) == pytest.approx(product, abs=1e-9)
    spoilt = np.where(valid, y, 0).astype(y.dtype)
    assert measure(x, spoilt, peak, valid) == measure(x, y, peak, valid)


def twin_structure(x: Plane, y: Plane, peak: float, valid: NDArray[np.bool_]) -> float:
    """Mean contrast-structure where the window lies in the plane."""
    w = valid.astype(np.float64)
    weight = gaussian_filter(w, 1.5, truncate=3.5)

    def mean(values: Plane) -> Plane:
        return gaussian_filter(np.where(valid, values, 0), 1.5, truncate=3.5) / np.where(
            weight > 0, weight, 1
        )

    c2 = (0.03 * peak) ** 2
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    inside = valid.copy()
    inside[:5] = inside[-5:] = inside[:, :5] = inside[:, -5:] = False
    return float(((2 * cov + c2) / (vx + vy + c2))[inside].mean())


# -- errors of single samples -----------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(INTEGERS), st.integers(1, 6), st.integers(1, 9), st.data())
def test_integer_sums_are_exact(dtype: str, rows: int, columns: int, data: st.DataObject) -> None:
    limits = np.iinfo(dtype)
    extremes = st.sampled_from((limits.min, limits.max, 0, 1)) | st.integers(limits.min, limits.max)
    cells = st.lists(extremes, min_size=rows * columns, max_size=rows * columns)
    x, y = data.draw(cells), data.draw(cells)
    differences = [abs(a - b) for a, b in zip(x, y, strict=True)]
    a, b = (np.array(v, dtype).reshape(rows, columns) for v in (x, y))
    assert squared_error(a, b) == (sum(d * d for d in differences), rows * columns)
    assert max_abs_error(a, b) == max(differences)


@pytest.mark.parametrize("dtype", ["u2", "i2", "u4", "i4"])
def test_no_sum_overflows(dtype: str) -> None:
    limits = np.iinfo(dtype)
    x = np.full((1024, 1024), limits.min, dtype)
    y = np.full((1024, 1024), limits.max, dtype)
    span = limits.max - limits.min
    assert squared_error(x, y) == (span * span << 20, 1 << 20)
    assert psnr(x, y, span) == pytest.approx(0, abs=1e-9)


def test_floats_and_what_is_not_finite() -> None:
    x = np.array([[1.5, np.nan, 2.0], [np.inf, 0.25, -1.0]], "f4")
    y = np.array([[1.0, 7.0, 2.0], [3.0, 0.5, -1.0]], "f4")
    assert squared_error(x, y) == (0.3125, 4)
    assert max_abs_error(x, y) == 0.5
    assert np.isfinite(measure(x, y, 3.0)).all()
    y[0, 0] = np.nan
    with pytest.raises(InvalidRequest, match="1 decoded samples are not finite"):
        measure(x, y, 3.0)
    assert max_abs_error(x, y, x != 1.5) == 0.25


def test_masked_samples_count_for_nothing() -> None:
    x = np.zeros((3, 4, 5), "u2")
    y = x.copy()
    y[:, 1, 1], y[0, 0, 0], y[2, 3, 4] = 60000, 3, 4
    valid = np.ones((4, 5), bool)
    valid[1, 1] = False
    assert squared_error(x, y, valid) == (25, 57)
    assert max_abs_error(x, y, valid) == 4
    assert psnr(x, y, 10, valid) == pytest.approx(10 * np.log10(100 / (25 / 57)))


# -- conventions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 3, 5), (11, 11), (12, 300), (4, 2, 31, 17)])
@pytest.mark.parametrize("dtype", ["?", "u1", "i2", "i8", "f4"])
def test_what_is_identical_is_finite_and_best(shape: tuple[int, ...], dtype: str) -> None:
    x = np.random.default_rng(1).integers(0, 2, shape).astype(dtype)
    for peak in (0, 1e-30, 1, 1e9):
        assert measure(x, x.copy(), peak) == Quality(0.0, PSNR_EXACT, 1.0, 1.0)
    nothing = np.zeros(shape, bool)
    assert measure(x, ~x if dtype == "?" else x + 1, 1, nothing) == Quality(0.0, PSNR_EXACT, 1.0, 1.0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 24), min_size=2, max_size=4), st.sampled_from((*INTEGERS, "f2", "f4")), seeds)
def test_no_result_is_nan_or_infinite(shape: list[int], dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    constant, other = (np.full(shape, int(v)).astype(dtype) for v in rng.integers(0, 120, 2))
    x, y, peak = pair(tuple(shape), dtype, seed, 0.4)
    for a, b in ((constant, other), (constant, y), (x, constant), (x, y), (x, x[..., ::-1])):
        for mask in (None, rng.random(shape[-2:]) < 0.5):
            found = measure(a, b, peak, mask)
            assert np.isfinite(found).all()
            assert found.psnr <= PSNR_CAP or found == Quality(0.0, PSNR_EXACT, 1.0, 1.0)
            assert -1 <= found.ssim <= 1 + 1e-12
            assert 0 <= found.ms_ssim <= 1 + 1e-12


def test_an_error_too_small_for_decibels_is_not_exact() -> None:
    x = np.zeros((2, 2))
    y = x + 1e-300
    assert psnr(x, y, 1.0) == PSNR_CAP
    assert psnr(x, x + 1e-100, 1.0) == PSNR_CAP


def test_planes_are_pooled_and_averaged() -> None:
    pairs = [pair((40, 60), "u2", seed, noise) for seed, noise in ((1, 0.01), (2, 0.1), (3, 0.0))]
    x, y = (np.stack([p[k] for p in pairs]) for k in (0, 1))
    peak = 40000.0
    assert ssim(x, y, peak) == pytest.approx(np.mean([ssim(a, b, peak) for a, b, _ in pairs]))
    assert ms_ssim(x, y, peak) == pytest.approx(np.mean([ms_ssim(a, b, peak) for a, b, _ in pairs]))
    squares, count = squared_error(x, y)
    assert squares == sum(squared_error(a, b)[0] for a, b, _ in pairs)
    assert psnr(x, y, peak) == pytest.approx(10 * np.log10(peak**2 / (squares / count)))
    valid = np.ones(x.shape, bool)
    valid[0, :20], valid[1] = False, False
    votes = [10 * 50, 30 * 50]
    votes[0] = int(valid[0, 5:-5, 5:-5].sum())
    means = [ssim(x[0], y[0], peak, valid[0]), ssim(x[2], y[2], peak)]
    assert ssim(x, y, peak, valid) == pytest.approx(np.average(means, weights=votes))


def test_measure_is_its_parts_and_takes_any_layout() -> None:
    x, y, peak = pair((2, 90, 100), "u2", 8)
    parts = Quality(max_abs_error(x, y), psnr(x, y, peak), ssim(x, y, peak), ms_ssim(x, y, peak))
    assert measure(x, y, peak) == parts
    assert measure(np.asfortranarray(x), y.astype(">u2").astype("u2"), peak) == parts
    assert measure(x[:, ::-1, ::-1], y[:, ::-1, ::-1], peak).ssim == pytest.approx(parts.ssim, abs=1e-12)


def test_an_offset_far_beyond_the_range_costs_no_precision() -> None:
    x, y, peak = pair((60, 60), "u1", 9)
    far = 2.0**40
    a, b = x + far, y + far
    structure = structural_similarity(x.astype(float), y.astype(float), data_range=peak, K1=1e9, **GAUSSIAN)
    assert ssim(a, b, peak) == pytest.approx(structure, abs=1e-9)


def test_these_digits_are_the_same_on_every_machine() -> None:
    k = np.arange(48 * 40, dtype=np.int64).reshape(48, 40)
    x, y = (k * k % 251).astype("u1"), (k * k % 251 // 3 * 3).astype("u1")
    assert ssim(x, y, 250) == 0.999899358745215
    assert ssim(x, y, 250, k % 7 != 3) == 0.9998965254608185
    assert squared_error(x, y) == (int(((x.astype(int) - y) ** 2).sum()), x.size)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: psnr(x, x, -1.0),
        lambda x: psnr(x, x, float("nan")),
        lambda x: ssim(x, x, float("inf")),
        lambda x: measure(x, x + 1, 0),
        lambda x: measure(x, x[:2], 1),
        lambda x: measure(x, x.astype("i4"), 1),
        lambda x: measure(x[0], x[0], 1),
        lambda x: measure(x[:0], x[:0], 1),
        lambda x: measure(x.astype("c8"), x.astype("c8"), 1),
        lambda x: measure(x, x, 1, np.ones((2, 2), bool)),
        lambda x: measure(x, x, 1, np.ones((4, 5), "u1")),
        lambda x: measure(x, x, 1, np.ones((1, 4, 5), bool)),
    ],
)
def test_what_cannot_be_compared_is_refused(call: Callable[[Plane], Any]) -> None:
    with pytest.raises(InvalidRequest):
        call(np.zeros((4, 5), "u2"))
