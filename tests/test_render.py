"""Previews against other implementations of the same formulas, and PNG files against another decoder."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tilevault.archive.image import ImageInfo
from tilevault.archive.render import png_bytes, to_preview
from tilevault.codecs.errors import InvalidRequest


def info(values: Any, axes: tuple[str, ...] | None = None, kind: str = "medical", **fields: Any) -> ImageInfo:
    attributes = fields.pop("attributes", {})
    return ImageInfo(
        shape=values.shape,
        dtype=values.dtype,
        axes=axes or {2: ("y", "x"), 3: ("c", "y", "x")}[values.ndim],
        kind=kind,
        attributes=attributes,
        **fields,
    )


def decoded(png: bytes) -> Any:
    return pytest.importorskip("imageio.v3").imread(io.BytesIO(png), extension=".png")


# -- PNG -------------------------------------------------------------------------------------------------

pictures = st.sampled_from([(), (2,), (3,), (4,)]).flatmap(
    lambda tail: hnp.array_shapes(min_dims=2, max_dims=2, max_side=20).flatmap(
        lambda shape: hnp.arrays(np.uint8, shape + tail)
    )
)


@given(pictures)
def test_png_decodes_to_the_same_picture(picture: Any) -> None:
    np.testing.assert_array_equal(decoded(png_bytes(picture)), picture)


def test_png_of_a_strided_view() -> None:
    picture = np.arange(400, dtype=np.uint8).reshape(20, 20)[::2, ::-3]
    np.testing.assert_array_equal(decoded(png_bytes(picture)), picture)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((2, 2), np.uint16),
        np.zeros((0, 2), np.uint8),
        np.zeros((2, 2, 5), np.uint8),
        np.zeros(4, np.uint8),
    ],
)
def test_png_refuses_what_is_no_picture(bad: Any) -> None:
    with pytest.raises(InvalidRequest):
        png_bytes(bad)


# -- grey ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("center", "width"), [(40.0, 400.0), (0.5, 1.0), (-600.0, 1500.0), (40.0, 2.0)])
def test_window_is_that_of_pydicom(center: float, width: float) -> None:
    """Oracle: pydicom's VOI LUT on the same rescaled values."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.pixels import apply_windowing

    words = np.arange(-32, 4096, 7, dtype=np.int16).reshape(1, -1)
    ds = pydicom.Dataset()
    ds.WindowCenter, ds.WindowWidth = center, width
    ds.RescaleSlope, ds.RescaleIntercept = 1.5, -1024
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsStored, ds.PixelRepresentation = 16, 1
    low, high = (-32768 * 1.5 - 1024), (32767 * 1.5 - 1024)
    expected = (apply_windowing(words * 1.5 - 1024, ds) - low) / (high - low) * 255
    attributes = {
        "window": {"center": center, "width": width},
        "rescale": {"slope": 1.5, "intercept": -1024.0, "type": "HU"},
    }
    got = to_preview(words, info(words, attributes=attributes))
    assert np.abs(got - expected).max() <= 0.5 + 1e-6
    inverted = to_preview(words, info(words, attributes={**attributes, "photometric": "MONOCHROME1"}))
    np.testing.assert_array_equal(inverted, 255 - got)


def test_window_of_float_pixels_is_exact() -> None:
    values = np.array([[-1.0, 0.0, 0.25, 0.5, 1.0, 2.0]], np.float32)
    got = to_preview(values, info(values, attributes={"window": {"center": 0.5, "width": 1.0}}))
    assert got[0].tolist() == [0, 0, 64, 128, 255, 255]


def test_rescale_of_the_plane_shown() -> None:
    words = np.full((3, 2, 2), 10, np.int16)
    attributes = {
        "window": {"center": 100.0, "width": 201.0},
        "rescale": {"slope": [1.0, 10.0, 5.0], "intercept": [0.0, 0.0, 0.0]},
    }
    described = info(words, ("z", "y", "x"), attributes=attributes)
    # The middle plane: 10 * 10 lies half a unit above the centre of the linear ramp.
    assert to_preview(words, described)[0, 0] == round((0.5 / 200 + 0.5) * 255)


def test_stretch_is_that_of_scikit_image() -> None:
    """Oracle: exposure.rescale_intensity between the same percentiles."""
    exposure = pytest.importorskip("skimage.exposure")
    values = np.random.default_rng(1).normal(1000, 200, (64, 64)).astype(np.float32)
    low, high = np.percentile(values, (2, 98), method="nearest")
    expected = exposure.rescale_intensity(values.astype(float), (low, high), (0, 255))
    got = to_preview(values, info(values, kind="satellite"))
    assert np.abs(got - expected).max() <= 0.5 + 1e-3


def test_nodata_nan_and_mask_do_not_count_and_are_black() -> None:
    values = np.linspace(100, 200, 64 * 64).reshape(64, 64).astype(np.float32)
    clean = to_preview(values, info(values, kind="satellite"))
    dirty, mask = values.copy(), np.full((64, 64), 255, np.uint8)
    dirty[0, :8], dirty[1, :8], dirty[2, :8] = -9999, np.nan, 1e9
    mask[2, :8] = 0
    got = to_preview(dirty, info(values, kind="satellite", nodata=-9999), mask=mask)
    assert (got[:3, :8] == 0).all()
    assert np.abs(got[3:, :, 0].astype(int) - clean[3:]).max() <= 2
    assert (got[3:, :, 1] == 255).all()


def test_an_alpha_band_is_the_opacity_and_no_colour() -> None:
    values = np.zeros((4, 8, 8), np.uint8)
    values[:3], values[3, :, 4:] = 90, 255
    values[3, 0, 4] = 128
    names = ("red", "green", "blue", "alpha")
    bands = {"bands": [{"color_interp": name} for name in names]}
    got = to_preview(values, info(values, kind="satellite", attributes=bands))
    assert got.shape == (8, 8, 4)
    assert (got[:, :4] == 0).all()
    assert (got[:, 4:, :3] == 90).all()
    assert got[0, 4, 3] == 128
    grey = {"bands": [{"color_interp": "gray"}, {"color_interp": "alpha"}]}
    assert to_preview(values[[0, 3]], info(values[[0, 3]], kind="satellite", attributes=grey)).shape == (
        8,
        8,
        2,
    )


def test_a_smaller_preview_keeps_the_colour_at_the_edge_of_a_mask() -> None:
    values = np.full((64, 64), 200, np.uint8)
    values[0, 0] = 0
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 4:] = 255
    mask[0, 0] = 255
    got = to_preview(values, info(values, kind="satellite"), max_side=8, mask=mask)
    assert got.shape == (8, 8, 2)
    seen = got[1:, :, 1] > 0
    assert (got[1:, :, 0][seen] == 255).all(), "no dark rim"
    assert 0 < got[4, 0, 1] < 255


def test_a_nodata_value_outside_the_dtype_hides_no_pixel() -> None:
    values = np.full((4, 4), 241, np.uint8)  # -9999 mod 256
    values[0, 0] = 0
    assert to_preview(values, info(values, kind="satellite", nodata=-9999))[1, 1] == 255


def test_eight_bit_medical_images_are_shown_as_they_are() -> None:
    values = np.arange(100, dtype=np.uint8).reshape(10, 10)
    np.testing.assert_array_equal(to_preview(values, info(values)), values)


@pytest.mark.parametrize(
    "dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "c8", "c16", "?"]
)
def test_every_dtype_and_its_extremes_render(dtype: str) -> None:
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        values = np.array([[limits.min, 0], [1, limits.max]], kind)
    elif kind.kind == "b":
        values = np.array([[True, False], [True, True]])
    else:
        real = np.finfo(kind)
        values = np.array([[real.max, 0 if kind.kind == "c" else real.min], [np.nan, np.inf]], kind)
    picture = to_preview(values, info(values, kind="satellite"))
    assert picture.dtype == np.uint8
    assert picture.shape == (2, 2)
    assert picture.max() == 255


@given(hnp.arrays(np.float32, (5, 6)), st.integers(1, 8))
def test_no_float_image_fails(values: Any, side: int) -> None:
    picture = to_preview(values, info(values, kind="satellite"), side)
    assert picture.dtype == np.uint8
    assert max(picture.shape) <= side


@pytest.mark.parametrize("value", [0, 7, 255])
def test_constant_and_empty_images_are_black(value: int) -> None:
    values = np.full((4, 4), value, np.uint16)
    assert not to_preview(values, info(values)).any()
    assert not to_preview(values, info(values, kind="satellite", nodata=value)).any()


# -- colour ----------------------------------------------------------------------------------------------


def test_ybr_full_is_that_of_pydicom() -> None:
    pytest.importorskip("pydicom")
    from pydicom.pixels import convert_color_space

    ybr = np.random.default_rng(2).integers(0, 256, (3, 16, 16), dtype=np.uint8)
    expected = convert_color_space(ybr.transpose(1, 2, 0), "YBR_FULL", "RGB")
    got = to_preview(ybr, info(ybr, attributes={"photometric": "YBR_FULL"}))
    assert np.abs(got.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("width", [1, 2, 5, 8])
@pytest.mark.parametrize("side", [None, 4, 1])
def test_ybr_422_planes_are_put_together(width: int, side: int | None) -> None:
    rng = np.random.default_rng(3)
    luma = rng.integers(0, 256, (6, width), dtype=np.uint8)
    chroma = rng.integers(0, 256, (6, width), dtype=np.uint8)
    full = np.empty((3, 6, width), np.uint8)
    full[0] = luma
    for x in range(width):
        pair = x - x % 2
        full[1, :, x] = chroma[:, pair]
        full[2, :, x] = chroma[:, pair + 1 if pair + 1 < width else max(pair - 1, 0)]
    stored = np.stack([luma, chroma])
    np.testing.assert_array_equal(
        to_preview(stored, info(stored, attributes={"photometric": "YBR_FULL_422"}), side),
        to_preview(full, info(full, attributes={"photometric": "YBR_FULL"}), side),
    )


def test_rgb_is_scaled_from_its_significant_bits() -> None:
    values = np.array([[[0]], [[2048]], [[4095]]], np.uint16)
    described = info(values, bits_stored=12, attributes={"photometric": "RGB"})
    assert to_preview(values, described)[0, 0].tolist() == [0, 128, 255]


def test_colour_table_and_indices_beyond_it() -> None:
    values = np.array([[0, 1, 2, 200]], np.uint8)
    table = {"1": [[10, 20, 30, 255], [40, 50, 60, 255], [70, 80, 90, 255]]}
    got = to_preview(values, info(values, kind="satellite", categorical=True, attributes={"colormap": table}))
    assert got[0].tolist() == [[10, 20, 30], [40, 50, 60], [70, 80, 90], [0, 0, 0]]


@pytest.mark.parametrize(("unit", "bits"), [(1, 8), (1, 16), (256, 16)])
def test_dicom_palette_takes_the_nearest_entry(unit: int, bits: int) -> None:
    values = np.array([[0, 5, 6, 7, 255]], np.uint8)
    palette = {
        "red": [0, 255 * unit, unit],
        "green": [0, 0, 0],
        "blue": [128 * unit, 0, 0],
        "first": 5,
        "bits": bits,
    }
    got = to_preview(values, info(values, attributes={"photometric": "PALETTE COLOR", "palette": palette}))
    assert got[0].tolist() == [[0, 0, 128], [0, 0, 128], [255, 0, 0], [1, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize("first", [0, 10])
def test_dicom_palette_is_that_of_pydicom(first: int) -> None:
    """Oracle: pydicom's own lookup."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.pixels import apply_color_lut

    rng = np.random.default_rng(7)
    palette: dict[str, Any] = {"first": first, "bits": 16}
    ds = pydicom.Dataset()
    ds.PhotometricInterpretation = "PALETTE COLOR"
    for colour in ("Red", "Green", "Blue"):
        table = rng.integers(0, 65536, 200).astype("<u2")
        palette[colour.lower()] = table.tolist()
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [200, first, 16])
        setattr(ds, f"{colour}PaletteColorLookupTableData", table.tobytes())
    words = rng.integers(0, 256, (16, 16), dtype=np.uint8)
    expected = apply_color_lut(words, ds)
    got = to_preview(words, info(words, attributes={"photometric": "PALETTE COLOR", "palette": palette}))
    np.testing.assert_array_equal(got, expected >> 8)


@pytest.mark.parametrize(
    "attributes",
    [
        {"colormap": {"1": []}},
        {"colormap": {"1": [[1, 2]]}},
        {"colormap": {"1": "nonsense"}},
        {"colormap": {"2": [[1, 2, 3, 4]]}},
        {"colormap": {"1": [[1, 2, 3], [1]]}},
        {"palette": {"red": [1, 2], "green": [1], "blue": [1, 2], "first": 0, "bits": 8}},
        {"palette": {"red": [], "green": [], "blue": [], "first": 0, "bits": 8}},
        {"palette": {"red": [2**70], "green": [1], "blue": [2], "first": 0, "bits": 8}},
        {"palette": {"red": [1], "green": [1], "blue": [1], "first": "x", "bits": 8}},
        {"palette": {"red": [1], "green": [1], "blue": [1], "first": 2**70, "bits": 8}},
        {"palette": {"red": [1], "green": [1], "blue": [1], "first": 0}},
        {"palette": {"red": 1, "green": 1, "blue": 1, "first": 0, "bits": 8}},
        {"palette": {"red": 1}},
    ],
)
def test_threat_a_broken_colour_table_falls_back_to_grey(attributes: dict[str, Any]) -> None:
    values = np.array([[0, 1], [2, 3]], np.uint8)
    assert to_preview(values, info(values, kind="satellite", attributes=attributes)).shape == (2, 2)


def test_bands_by_colour_interpretation() -> None:
    values = np.arange(4, dtype=np.uint8)[:, None, None] * 10 + np.zeros((4, 2, 2), np.uint8)
    bands = [{"color_interp": c} for c in ("blue", "green", "red", "undefined")]
    got = to_preview(values, info(values, kind="satellite", attributes={"bands": bands}))
    assert got[0, 0].tolist() == [20, 10, 0]


def test_multispectral_bands_are_stretched_one_by_one() -> None:
    ramp = np.arange(64, dtype=np.uint16).reshape(8, 8)
    values = np.stack([ramp, ramp * 100, ramp + 5000, ramp * 0])
    got = to_preview(values, info(values, kind="satellite"))
    assert got.shape == (8, 8, 3)
    assert got[-1, -1].tolist() == [255, 255, 255]
    assert got[0, 0].tolist() == [0, 0, 0]


def test_two_bands_show_the_first() -> None:
    values = np.stack([np.arange(64).reshape(8, 8), np.full((8, 8), 255)]).astype(np.uint8)
    assert to_preview(values, info(values, kind="satellite")).ndim == 2


# -- geometry --------------------------------------------------------------------------------------------


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 40))
def test_previews_fit_and_keep_the_proportions(height: int, width: int, side: int) -> None:
    values = np.zeros((height, width), np.uint8)
    picture = to_preview(values, info(values), side)
    assert max(picture.shape) <= side or side >= max(height, width)
    assert max(picture.shape) <= max(height, width)
    assert 0 < picture.shape[0] / height <= 1.0


def test_a_reduced_preview_is_the_mean_of_blocks() -> None:
    values = np.random.default_rng(4).integers(0, 256, (30, 45), dtype=np.uint8)
    expected = values.reshape(10, 3, 15, 3).mean(axis=(1, 3))
    got = to_preview(values, info(values), 15)
    assert np.abs(got - expected).max() <= 0.5


def test_labels_are_never_mixed() -> None:
    values = np.random.default_rng(5).integers(0, 2, (40, 40), dtype=np.uint8)
    table = {"1": [[255, 0, 0, 255], [0, 0, 255, 255]]}
    described = info(values, kind="satellite", categorical=True, attributes={"colormap": table})
    colours = {tuple(c) for c in to_preview(values, described, 10).reshape(-1, 3).tolist()}
    assert colours == {(255, 0, 0), (0, 0, 255)}


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        (("z", "y", "x"), (5, 4, 6)),
        (("t", "z", "y", "x"), (2, 5, 4, 6)),
        (("frame", "y", "x"), (1, 4, 6)),
        (("frame", "c", "y", "x"), (3, 3, 4, 6)),
        (("c", "z", "y", "x"), (3, 5, 4, 6)),
        (("t", "c", "z", "y", "x"), (2, 3, 5, 4, 6)),
    ],
)
def test_the_middle_plane_of_a_stack_is_shown(axes: tuple[str, ...], shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(6).integers(0, 256, shape, dtype=np.uint8)
    index = tuple(slice(None) if a in "cyx" else n // 2 for a, n in zip(axes, shape, strict=True))
    middle = values[index]
    described = info(values, axes, attributes={"photometric": "RGB"})
    expected = middle.transpose(1, 2, 0) if "c" in axes else middle
    np.testing.assert_array_equal(to_preview(values, described), expected)
    np.testing.assert_array_equal(to_preview(middle, described), expected)


def test_what_is_no_picture_of_the_image_is_refused() -> None:
    described = info(np.zeros((3, 4, 4), np.uint8))
    for values in (np.zeros(4, np.uint8), np.zeros((0, 4), np.uint8), np.zeros((2, 3, 4, 4), np.uint8)):
        with pytest.raises(InvalidRequest):
            to_preview(values, described)
    with pytest.raises(InvalidRequest):
        to_preview(np.zeros((3, 4, 4), np.uint8), described, max_side=0)
    with pytest.raises(InvalidRequest):
        to_preview(np.zeros((3, 4, 4), np.uint8), described, mask=np.zeros((2, 2), np.uint8))
