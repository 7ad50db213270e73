"""Metadata against its readers (ome-zarr-models, xarray, rioxarray) and against the rules of the schemas."""

import base64
import contextlib
import itertools
import json
import math
import re
import struct
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from tilevault.archive.image import ImageInfo
from tilevault.archive.metadata import (
    array_path,
    coordinate_arrays,
    fill_value,
    group_documents,
    json_safe,
    level_shape,
)
from tilevault.codecs.errors import InvalidRequest

# rioxarray multiplies affine transforms in a way that affine 3 announces to retire.
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

LEVELS = (0, 3, 4, 5)
UTM_TRANSFORM = [30.0, 0.0, 500000.0, 0.0, -30.0, 4600000.0]


def write(
    root: Path, info: ImageInfo, name: str, downsampling: str, levels=LEVELS, values=None
) -> zarr.Group:
    """An image group as a store would write it, with plain Zarr codecs."""
    documents = group_documents(info, levels, name, downsampling)
    json.dumps(documents, allow_nan=False)
    group = zarr.create_group(root, attributes=documents[""])
    for level in levels:
        if info.kind == "satellite":
            group.create_group(str(level), attributes=documents[str(level)])
        shape = level_shape(info, level)
        sharded = level == 0
        array = group.create_array(
            array_path(info, level),
            shape=shape,
            dtype=info.dtype,
            chunks=tuple(min(8, n) for n in shape),
            shards=tuple(-(-n // min(8, n)) * min(8, n) for n in shape) if sharded else None,
            dimension_names=info.axes,
            fill_value=fill_value(info),
            attributes=documents[array_path(info, level)],
        )
        if values is not None and level == 0:
            array[...] = values
        if info.has_mask:
            mask = group.create_array(
                f"{level}/mask",
                shape=shape[-2:],
                dtype="uint8",
                chunks=shape[-2:],
                dimension_names=("y", "x"),
                attributes=documents[f"{level}/mask"],
            )
            mask[...] = 255
    for path, (data, dims, attributes) in coordinate_arrays(info, levels, downsampling).items():
        json.dumps(attributes, allow_nan=False)
        array = group.create_array(
            path, shape=data.shape, dtype=data.dtype, dimension_names=dims, attributes=attributes
        )
        array[...] = data
    return group


# -- medical ---------------------------------------------------------------------------------------------

MEDICAL_AXES = [
    ("y", "x"),
    ("z", "y", "x"),
    ("t", "z", "y", "x"),
    ("frame", "y", "x"),
    ("c", "y", "x"),
    ("frame", "c", "y", "x"),
    ("c", "z", "y", "x"),
    ("t", "c", "z", "y", "x"),
]


def medical(axes=("z", "y", "x"), dtype="int16", **attributes: Any) -> ImageInfo:
    extents = {"t": 2, "z": 5, "frame": 4, "c": 3, "y": 70, "x": 45}
    return ImageInfo(
        shape=tuple(extents[a] for a in axes),
        dtype=np.dtype(dtype),
        axes=axes,
        kind="medical",
        bits_stored=attributes.pop("bits_stored", None),
        attributes={"name": "1.2.3", "modality": "CT", "photometric": "MONOCHROME2", **attributes},
    )


AXIAL = [[-0.7, 0, 0, 100.0], [0, 0.5, 0, -80.0], [0, 0, 2.5, 12.0], [0, 0, 0, 1]]


@pytest.mark.parametrize("downsampling", ["lowpass53", "mean", "nearest"])
@pytest.mark.parametrize("axes", MEDICAL_AXES, ids="".join)
def test_ome_validator_accepts_every_axis_order(
    tmp_path: Path, axes: tuple[str, ...], downsampling: str
) -> None:
    from ome_zarr_models.v05 import Image

    info = medical(
        axes,
        spacing={"z": 2.5, "y": 0.5, "x": 0.7},
        affine=AXIAL,
        window={"center": 40.0, "width": 400.0},
        rescale={"slope": 1.0, "intercept": -1024.0, "type": "HU"},
        photometric="RGB" if "c" in axes else "MONOCHROME2",
    )
    group = write(tmp_path / "image", info, "1.2.3", downsampling)
    group.create_group("tiles")  # other members of a generation do not disturb
    group.create_array("quality/bits", shape=(1, 1), dtype="uint32")
    image = Image.from_zarr(zarr.open_group(tmp_path / "image", mode="r"))
    multiscale = image.ome_attributes.multiscales[0]
    assert [d.path for d in multiscale.datasets] == ["0", "3", "4", "5"]
    assert [a.name for a in multiscale.axes] == list(axes)
    assert [a.model_extra.get("orientation", {}).get("value") for a in multiscale.axes if a.name == "x"] == [
        "left-to-right"
    ]


@pytest.mark.parametrize("downsampling", ["lowpass53", "mean", "nearest"])
def test_coarse_samples_lie_where_the_downsampling_puts_them(downsampling: str) -> None:
    """Twin: the position of coarse sample i is the mean position of the fine samples it stands for."""
    spacing = {"z": 2.5, "y": 0.5, "x": 0.7}
    ome = group_documents(medical(spacing=spacing), LEVELS, "n", downsampling)[""]["ome"]
    for level, dataset in zip(LEVELS, ome["multiscales"][0]["datasets"], strict=True):
        scale, *translation = dataset["coordinateTransformations"]
        offset = translation[0]["translation"] if translation else [0, 0, 0]
        step = 1 << level
        covered = range(step) if downsampling == "mean" else range(1)
        for axis, name in enumerate("zyx"):
            per = spacing[name]
            for i in (0, 1, 3):
                expected = i * per if name == "z" else np.mean([(i * step + j) * per for j in covered])
                assert scale["scale"][axis] * i + offset[axis] == pytest.approx(expected)


def test_unknown_spacing_has_no_unit() -> None:
    axes = group_documents(medical(spacing={"y": 0.5, "x": 0.5}), LEVELS, "n", "mean")[""]["ome"][
        "multiscales"
    ][0]
    assert axes["axes"] == [
        {"name": "z", "type": "space"},
        {"name": "y", "type": "space", "unit": "millimeter"},
        {"name": "x", "type": "space", "unit": "millimeter"},
    ]
    assert axes["datasets"][0]["coordinateTransformations"] == [{"type": "scale", "scale": [1.0, 0.5, 0.5]}]


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, "0.5", None])
def test_a_senseless_spacing_counts_as_unknown(bad: Any) -> None:
    multiscale = group_documents(medical(spacing={"y": bad, "x": bad}), (0,), "n", "mean")[""]["ome"][
        "multiscales"
    ][0]
    assert multiscale["datasets"][0]["coordinateTransformations"][0]["scale"] == [1.0, 1.0, 1.0]


def orientation_of(info: ImageInfo) -> list[str | None]:
    axes = group_documents(info, (0,), "n", "mean")[""]["ome"]["multiscales"][0]["axes"]
    return [a.get("orientation", {}).get("value") for a in axes]


def test_orientation_words() -> None:
    # LPS: +x is towards the patient's left, +y towards posterior, +z towards superior.
    assert orientation_of(medical(affine=np.eye(4).tolist())) == [
        "inferior-to-superior",
        "anterior-to-posterior",
        "right-to-left",
    ]
    sagittal = [[0, 0, 1, 0], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]]
    assert orientation_of(medical(affine=sagittal)) == [
        "right-to-left",
        "superior-to-inferior",
        "anterior-to-posterior",
    ]
    assert orientation_of(medical(("y", "x"), orientation=[1, 0, 0, 0, 0, -1])) == [
        "superior-to-inferior",
        "right-to-left",
    ]


def test_oblique_degenerate_and_animal_images_have_no_orientation() -> None:
    turn = math.sqrt(0.5)
    oblique = [[turn, -turn, 0, 0], [turn, turn, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    zero = np.zeros((4, 4)).tolist()
    same = [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    for affine in (oblique, zero, same):
        assert orientation_of(medical(affine=affine)) == [None] * 3
    animal = medical(affine=np.eye(4).tolist(), anatomical_orientation_type="QUADRUPED")
    assert orientation_of(animal) == [None] * 3


def omero_of(info: ImageInfo) -> Any:
    return group_documents(info, (0,), "n", "mean")[""]["ome"].get("omero")


def test_display_window_is_in_stored_values() -> None:
    info = medical(
        window={"center": 40.0, "width": 400.0}, rescale={"slope": 2.0, "intercept": -1024.0}, bits_stored=12
    )
    assert omero_of(info)["channels"][0]["window"] == {"min": -2048, "max": 2047, "start": 432, "end": 632}
    falling = medical(window={"center": 0.0, "width": 10.0}, rescale={"slope": -1.0, "intercept": 0.0})
    assert omero_of(falling)["channels"][0]["window"]["start"] == -5


def test_display_block_only_where_it_is_sound() -> None:
    assert omero_of(medical()) is None  # 16 bits, no window: a viewer stretches better than a guess
    assert omero_of(medical(window={"center": math.nan, "width": 1.0})) is None
    assert (
        omero_of(medical(window={"center": 0.0, "width": 1.0}, rescale={"slope": 0, "intercept": 0})) is None
    )
    assert (
        omero_of(
            medical(window={"center": 1.0, "width": 2.0}, rescale={"slope": [1, 2], "intercept": [0, 0]})
        )
        is None
    )
    assert omero_of(medical(("y", "x"), "uint8", photometric="PALETTE COLOR")) is None
    assert (
        omero_of(medical(("y", "x"), "uint8", photometric="MONOCHROME1"))["channels"][0]["inverted"] is True
    )
    rgb = omero_of(medical(("c", "y", "x"), "uint8", photometric="RGB"))
    assert [c["color"] for c in rgb["channels"]] == ["FF0000", "00FF00", "0000FF"]
    assert rgb["channels"][0]["window"] == {"min": 0, "max": 255, "start": 0, "end": 255}
    ybr = omero_of(medical(("c", "y", "x"), "uint8", photometric="YBR_FULL"))
    assert [c["active"] for c in ybr["channels"]] == [True, False, False]


def test_exact_geometry_is_kept_beside() -> None:
    own = group_documents(medical(affine=AXIAL, positions=[[1.5, 2, 3]]), LEVELS, "n", "lowpass53")[""][
        "tilevault"
    ]
    assert own["source"]["affine"] == AXIAL
    assert own["source"]["positions"] == [[1.5, 2, 3]]
    assert own["downsampling"] == "lowpass53"
    assert own["levels"] == list(LEVELS)


# -- satellite -------------------------------------------------------------------------------------------


def crs(code: str | None) -> dict[str, Any]:
    from rasterio.crs import CRS

    if code is None:
        return {"crs_wkt": None, "crs_code": None}
    made = CRS.from_string(code)
    authority = made.to_authority()
    return {"crs_wkt": made.to_wkt(), "crs_code": ":".join(authority) if authority else None}


def satellite(
    shape=(61, 83), dtype="uint16", code: str | None = "EPSG:32633", transform=UTM_TRANSFORM, **fields: Any
) -> ImageInfo:
    extra = fields.pop("attributes", {})
    return ImageInfo(
        shape=shape,
        dtype=np.dtype(dtype),
        axes=("c", "y", "x")[-len(shape) :],
        kind="satellite",
        attributes={"name": "scene", "transform": transform, **crs(code), **extra},
        **fields,
    )


def open_level(root: Path, level: int) -> Any:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("rioxarray")
    return xarray.open_zarr(root / str(level), consolidated=False, decode_coords="all")


LAEA = "+proj=laea +lat_0=10 +lon_0=-81 +datum=WGS84 +units=m +no_defs"
LOCAL = 'LOCAL_CS["site grid",UNIT["metre",1]]'
GRID_MAPPINGS = {
    "EPSG:32633": "transverse_mercator",
    "EPSG:4326": "latitude_longitude",
    LAEA: "lambert_azimuthal_equal_area",
    LOCAL: None,
    None: None,
}


NODATA_CASES = [
    ("uint8", 0),
    ("int16", -32768),
    ("uint16", None),
    ("uint16", 65535.0),
    ("float32", math.nan),
    ("float32", -3.4028234663852886e38),
    ("float32", -9999.9),
    ("float64", math.inf),
    ("float32", None),
    ("complex64", None),
]


@pytest.mark.parametrize(
    ("dtype", "nodata", "code"),
    [(*case, "EPSG:32633") for case in NODATA_CASES]
    + [("uint8", 0, code) for code in ("EPSG:4326", LAEA, LOCAL, None)],
)
def test_rioxarray_finds_crs_transform_and_nodata(
    tmp_path: Path, dtype: str, nodata: Any, code: str | None
) -> None:
    from affine import Affine
    from rasterio.crs import CRS

    transform = [1 / 3600, 0.0, 13.5, 0.0, -1 / 3600, 47.1] if code == "EPSG:4326" else UTM_TRANSFORM
    info = satellite((2, 61, 83), dtype, code, transform, nodata=nodata, has_mask=True)
    values = np.arange(2 * 61 * 83).reshape(2, 61, 83).astype(dtype)
    if nodata is not None:
        values[:, 5, 5] = np.dtype(dtype).type(nodata)
    root = tmp_path / "image"
    write(root, info, "scene", "mean", values=values)
    for level in LEVELS:
        opened = open_level(root, level)
        data = opened["data"]
        source = CRS.from_wkt(info.attributes["crs_wkt"]) if code else None
        assert (CRS.from_wkt(data.rio.crs.to_wkt()) if data.rio.crs else None) == source
        step = 1 << level
        expected = Affine(*transform) @ Affine.scale(step)
        if code == "EPSG:4326":
            # Through float64 pixel centres, as rioxarray prefers them: a last digit may differ.
            assert tuple(data.rio.transform()) == pytest.approx(tuple(expected), rel=1e-14)
        else:
            assert data.rio.transform() == expected
        assert data.rio.shape == (-(-61 // step), -(-83 // step))
        assert data.rio.bounds()[0] == pytest.approx(transform[2], rel=1e-14)
        assert set(opened.coords) == {"x", "y", "spatial_ref"}
        assert opened.spatial_ref.attrs.get("grid_mapping_name") == GRID_MAPPINGS[code]
        assert opened.x.attrs["axis"] == "X"
        if code not in (LOCAL, None):
            assert opened.x.attrs["standard_name"] == (
                "longitude" if code == "EPSG:4326" else "projection_x_coordinate"
            )
    data = open_level(root, 0)["data"]
    if nodata is None:
        np.testing.assert_array_equal(data.values, values)
        assert data.rio.encoded_nodata is None
        assert data.rio.nodata is None
    else:
        # NaN where the source has nodata, and only there: the value survives its JSON spelling exactly.
        assert np.array_equal(
            np.isnan(data.values), np.broadcast_to(_is(values, nodata, dtype), values.shape)
        )
        np.testing.assert_equal(np.dtype(dtype).type(data.rio.encoded_nodata), np.dtype(dtype).type(nodata))


def _is(values: Any, nodata: Any, dtype: str) -> Any:
    return np.isnan(values) if math.isnan(nodata) else values == np.dtype(dtype).type(nodata)


@pytest.mark.parametrize("downsampling", ["lowpass53", "mean", "nearest"])
@pytest.mark.parametrize(
    "transform", [UTM_TRANSFORM, [20.0, 5.0, 1000.0, -5.0, -20.0, 2000.0]], ids=["north-up", "rotated"]
)
def test_coarse_pixels_lie_where_the_downsampling_puts_them(
    downsampling: str, transform: list[float]
) -> None:
    """Twin: the centre of coarse pixel i is the mean centre of the fine pixels it stands for."""
    from affine import Affine

    info = satellite(transform=transform)
    documents = group_documents(info, LEVELS, "n", downsampling)
    fine = Affine(*transform)
    for level in LEVELS:
        step = 1 << level
        covered = (
            [(dx, dy) for dx in range(step) for dy in range(step)] if downsampling == "mean" else [(0, 0)]
        )
        coarse = Affine(*documents[str(level)]["spatial:transform"])
        for i, j in ((0, 0), (2, 1)):
            centres = [fine @ (i * step + dx + 0.5, j * step + dy + 0.5) for dx, dy in covered]
            assert coarse @ (i + 0.5, j + 0.5) == pytest.approx(np.mean(centres, axis=0))
        entry = documents[""]["multiscales"]["layout"][LEVELS.index(level)]
        assert entry["spatial:transform"] == documents[str(level)]["spatial:transform"]
        relative = Affine(
            entry["transform"]["scale"][1],
            0,
            entry["transform"]["translation"][1],
            0,
            entry["transform"]["scale"][0],
            entry["transform"]["translation"][0],
        )
        assert tuple(fine @ relative)[:6] == pytest.approx(tuple(coarse)[:6])


def test_coordinates_are_the_pixel_centres() -> None:
    from affine import Affine

    info = satellite((4, 6))
    for level in (0, 1, 3):
        arrays = coordinate_arrays(info, (0, 1, 3), "lowpass53")
        transform = Affine(
            *group_documents(info, (0, 1, 3), "n", "lowpass53")[str(level)]["spatial:transform"]
        )
        for i, x in enumerate(arrays[f"{level}/x"][0]):
            for j, y in enumerate(arrays[f"{level}/y"][0]):
                assert transform @ (i + 0.5, j + 0.5) == pytest.approx((x, y))


def test_a_rotated_image_has_a_transform_but_no_coordinate_arrays(tmp_path: Path) -> None:
    from affine import Affine

    transform = [20.0, 5.0, 1000.0, -5.0, -20.0, 2000.0]
    root = tmp_path / "image"
    write(root, satellite(transform=transform), "scene", "mean")
    data = open_level(root, 0)["data"]
    assert set(data.coords) == {"spatial_ref"}
    assert data.rio.transform() == Affine(*transform)
    assert data.rio.crs.to_epsg() == 32633


def test_a_transform_with_a_negative_zero_is_a_transform() -> None:
    spelt = [30.0, "float64:8000000000000000", 500000.0, 0.0, -30.0, 4600000.0]
    assert (
        group_documents(satellite(transform=spelt), (0,), "n", "mean")["0"]["spatial:transform"]
        == UTM_TRANSFORM
    )


@pytest.mark.parametrize(
    "bad", [["float64:7ff8000000000000", 0, 0, 0, 1, 0], [1, 0, 0], ["x"] * 6, [None] * 6]
)
def test_a_transform_that_is_none_is_left_out(bad: list[Any]) -> None:
    documents = group_documents(satellite(transform=bad), (0,), "n", "mean")
    assert "spatial:transform" not in documents["0"]
    assert set(coordinate_arrays(satellite(transform=bad), (0,), "mean")) == {"0/spatial_ref"}


def test_control_points_without_a_transform(tmp_path: Path) -> None:
    gcps = [
        [0.0, 0.0, 11.0, 48.0, "float64:8000000000000000", "1", ""],
        [60.5, 82.5, 12.0, 47.0, 5.0, "2", "corner"],
    ]
    attributes = {"gcps": gcps, "gcps_crs_wkt": crs("EPSG:4326")["crs_wkt"]}
    info = satellite(code=None, transform=None, attributes=attributes)
    root = tmp_path / "image"
    write(root, info, "scene", "lowpass53")
    data = open_level(root, 0)["data"]
    assert [(g.row, g.col, g.x, g.y, g.z, g.id, g.info) for g in data.rio.get_gcps()] == [
        (0.0, 0.0, 11.0, 48.0, 0.0, "1", ""),
        (60.5, 82.5, 12.0, 47.0, 5.0, "2", "corner"),
    ]
    assert data.rio.crs.to_epsg() == 4326
    coarse = open_level(root, 3)["data"].rio.get_gcps()[1]
    # The centre of pixel i of level 3 is the centre of pixel 8 * i of level 0.
    assert 8 * (coarse.col - 0.5) + 0.5 == pytest.approx(82.5)
    assert 8 * (coarse.row - 0.5) + 0.5 == pytest.approx(60.5)
    assert "proj:code" not in group_documents(info, LEVELS, "n", "mean")[""]


def test_an_image_without_any_georeference_opens(tmp_path: Path) -> None:
    root = tmp_path / "image"
    values = np.arange(61 * 83, dtype="uint16").reshape(61, 83)
    write(root, satellite(code=None, transform=None), "scene", "mean", values=values)
    data = open_level(root, 0)["data"]
    np.testing.assert_array_equal(data.values, values)
    assert data.rio.crs is None
    names = [
        c["name"]
        for c in group_documents(satellite(code=None, transform=None), (0,), "n", "mean")[""][
            "zarr_conventions"
        ]
    ]
    assert names == ["multiscales"]


def test_scale_and_offset_where_the_bands_agree(tmp_path: Path) -> None:
    band = {"name": "B1", "description": "red", "unit": "K", "scale": 0.5, "offset": 100.0}
    info = satellite((2, 61, 83), attributes={"bands": [band, band]}, nodata=0)
    values = np.full((2, 61, 83), 10, "uint16")
    values[0, 0, 0] = 0
    root = tmp_path / "image"
    write(root, info, "scene", "mean", values=values)
    data = open_level(root, 0)["data"]
    assert data.values[1, 0, 0] == 105.0
    assert np.isnan(data.values[0, 0, 0])
    assert data.attrs["units"] == "K"
    assert data.attrs["long_name"] == ["red", "red"]
    other = satellite((2, 61, 83), attributes={"bands": [band, {**band, "scale": 0.25}]})
    assert "scale_factor" not in group_documents(other, (0,), "n", "mean")["0/data"]


@pytest.mark.parametrize("unit", ["days", "days since 2000-01-01", "Hours since launch", " seconds", "DAY"])
def test_threat_a_unit_of_time_does_not_turn_pixels_into_dates(tmp_path: Path, unit: str) -> None:
    info = satellite(attributes={"bands": [{"name": "age", "unit": unit}]})
    values = np.full((61, 83), 7, "uint16")
    write(tmp_path / "image", info, "scene", "mean", values=values)
    np.testing.assert_array_equal(open_level(tmp_path / "image", 0)["data"].values, values)


@pytest.mark.parametrize(
    ("dtype", "nodata", "expected"),
    [
        ("uint8", 7, 7),
        ("uint8", -9999, 0),
        ("uint8", 0.5, 0),
        ("uint8", math.nan, 0),
        ("uint8", math.inf, 0),
        ("uint16", None, 65535),
        ("int16", None, -32768),
        ("float32", None, math.nan),
        ("float32", 1e300, math.nan),
        ("float32", -math.inf, -math.inf),
        ("int64", -(2**63), -(2**63)),
        ("uint64", 2**64 - 1, 2**64 - 1),
    ],
)
def test_fill_value(dtype: str, nodata: Any, expected: Any) -> None:
    info = satellite(dtype=dtype, nodata=nodata)
    filled = fill_value(info)
    assert filled.dtype == np.dtype(dtype)
    np.testing.assert_equal(filled.item(), expected)
    written = group_documents(info, (0,), "n", "mean")["0/data"].get("_FillValue")
    if nodata is None or not np.isclose(float(nodata), float(expected), equal_nan=True):
        assert written is None
    elif np.dtype(dtype).kind == "f":
        np.testing.assert_equal(struct.unpack("<d", base64.b64decode(written))[0], expected)
    else:
        assert written == expected
    assert fill_value(medical(dtype="int16")) == 0


def test_documents_keep_the_rules_of_the_convention_schemas() -> None:
    """Shape rules of multiscales, proj: and spatial: v0.1."""
    fields = {"uuid", "schema_url", "spec_url", "name", "description"}
    for code, transform, mask in itertools.product(
        ["EPSG:32633", LAEA, None],
        [UTM_TRANSFORM, [20.0, 5.0, 1000.0, -5.0, -20.0, 2000.0], None],
        [True, False],
    ):
        documents = group_documents(
            satellite((3, 61, 83), "uint8", code, transform, has_mask=mask), LEVELS, "n", "mean"
        )
        assert ("0/mask" in documents) == mask
        for path, attributes in documents.items():
            declared = {c["name"]: c for c in attributes["zarr_conventions"]}
            for convention in declared.values():
                assert set(convention) == fields
                assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", convention["uuid"])
                assert "/refs/tags/v0.1/" in convention["schema_url"]
            assert ("proj:" in declared) == any(k.startswith("proj:") for k in attributes)
            assert ("spatial:" in declared) == any(k.startswith("spatial:") for k in attributes)
            if "proj:code" in attributes:
                assert re.fullmatch(r"[^:]+:[^:]+", attributes["proj:code"])
            for key, length in (("transform", 6), ("bbox", 4), ("shape", 2), ("dimensions", 2)):
                assert len(attributes.get(f"spatial:{key}", [0] * length)) == length
            if path == "":
                assert "spatial:transform" not in attributes
                assert "spatial:shape" not in attributes
                layout = attributes["multiscales"]["layout"]
                assert [entry["asset"] for entry in layout] == ["0", "3", "4", "5"]
                assert all("transform" in entry for entry in layout)
                if "spatial:" in declared:
                    assert all("spatial:transform" in entry for entry in layout)
            elif path.endswith(("data", "mask")):
                assert attributes["spatial:dimensions"] == ["y", "x"]
        assert ("proj:code" in documents["0"]) == (code == "EPSG:32633")
        assert ("proj:wkt2" in documents["0"]) == (code is not None)


def test_an_oblique_mercator_has_no_cf_parameters() -> None:
    """CF would lose its angle to the grid (EPSG:26931, Alaska zone 1) and name another CRS."""
    attributes = coordinate_arrays(satellite(code="EPSG:26931"), (0,), "mean")["0/spatial_ref"][2]
    assert "grid_mapping_name" not in attributes
    assert "Alaska zone 1" in attributes["crs_wkt"]


def test_an_unreadable_crs_keeps_its_text() -> None:
    info = satellite(attributes={"crs_wkt": 'PROJCS["cut off', "crs_code": None})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert coordinate_arrays(info, (0,), "mean")["0/spatial_ref"][2]["crs_wkt"] == 'PROJCS["cut off'
        assert "proj:wkt2" not in group_documents(info, (0,), "n", "mean")["0"]


# -- both ------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@given(json_values)
def test_any_attribute_becomes_json(value: Any) -> None:
    spelt = json.dumps(json_safe(value), allow_nan=False)
    if not re.search(r"NaN|Infinity", spelt):
        assert json.loads(spelt) == json.loads(json.dumps(value))


@pytest.mark.parametrize("levels", [(), (3, 0), (0, 0, 3), (-1, 0)])
def test_levels_must_ascend(levels: tuple[int, ...]) -> None:
    with pytest.raises(InvalidRequest):
        group_documents(medical(), levels, "n", "mean")
    with pytest.raises(InvalidRequest):
        coordinate_arrays(satellite(), levels, "mean")


def test_an_unknown_downsampling_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        group_documents(satellite(), (0,), "n", "median")


# -- real images -----------------------------------------------------------------------------------------


def scanned(folder: Path) -> Iterator[Any]:
    """The images below ``folder`` as the formats describe them; their pixels are not read."""
    from tilevault.archive.formats import formats
    from tilevault.codecs.errors import InputRejected

    for module in formats().values():
        files = []
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            with path.open("rb") as stream:
                if not module.recognizes(stream.read(4096)):
                    continue
            with contextlib.suppress(InputRejected):
                files += module.scan(path, path.relative_to(folder).as_posix())
        yield from (image for image in module.assemble(files)[0] if image.info is not None)


@pytest.mark.data
def test_real_images_validate_and_keep_their_place(data_dir: Path, tmp_path: Path) -> None:
    from affine import Affine
    from ome_zarr_models.v05 import Image
    from rasterio.crs import CRS

    kinds = Counter()
    for i, image in enumerate(scanned(data_dir)):
        info, root = image.info, tmp_path / str(i)
        kinds[info.kind] += 1
        documents_only = write(root, info, image.sources[0].name, "mean", levels=(0, 3))
        if info.kind == "medical":
            Image.from_zarr(documents_only)
            continue
        data = open_level(root, 0)["data"]
        wkt = info.attributes["crs_wkt"] or info.attributes["gcps_crs_wkt"]
        assert (data.rio.crs is None) == (wkt is None), image.sources[0].name
        if wkt:
            assert data.rio.crs == CRS.from_wkt(wkt), image.sources[0].name
        if info.attributes["transform"]:
            expected = Affine(*(float(v) for v in info.attributes["transform"]))
            assert tuple(data.rio.transform()) == pytest.approx(tuple(expected), rel=1e-9, abs=1e-9)
    assert kinds["medical"] > 50
    assert kinds["satellite"] > 20
