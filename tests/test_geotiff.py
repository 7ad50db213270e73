"""GeoTIFF in, GeoTIFF out: what is read is what rasterio reads, what is written equals what was read."""

import hashlib
import stat
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import skimage
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.rpc import RPC
from rio_cogeo.cogeo import cog_validate

from tiff_builder import ASCII, BYTE, DOUBLE, SHORT, page, tiff
from tilevault.archive.formats import SourceImage, geotiff
from tilevault.archive.formats.geotiff import compare, prove_metadata, write_cog, write_original
from tilevault.archive.image import Window
from tilevault.codecs.errors import (
    Conflict,
    InvalidRequest,
    ManifestCorrupt,
    SourceChanged,
    UnsupportedSyntax,
    VerifyAfterEncodeFailed,
)

Array = NDArray[Any]
DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64"]
COMPLEX = ["complex64", "complex128"]


@contextmanager
def quiet() -> Iterator[None]:
    """rasterio's own writer and reader warn of images without georeferencing; the package must not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def noise(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Array:
    """Any bit pattern that the dtype holds, signalling NaNs and negative zeros among the floats."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    words = np.frombuffer(np.random.default_rng(seed).bytes(size), dtype).reshape(shape).copy()
    if words.dtype.kind == "f":
        flat = words.reshape(-1)
        nan = {4: 0x7F800001, 8: 0x7FF0000000000001}[words.itemsize]
        flat[:1].view(f"u{words.itemsize}")[:] = nan
        flat[1:2] = -0.0
    return words


def write(path: Path, image: Array, **profile: Any) -> Path:
    planes = image[np.newaxis] if image.ndim == 2 else image
    settings_ = {"driver": "GTiff", "count": len(planes), "dtype": image.dtype.name} | profile
    with quiet(), rasterio.open(path, "w", height=planes.shape[1], width=planes.shape[2], **settings_) as out:
        out.write(planes)
    return path


def pixels(path: Path) -> Array:
    with quiet(), rasterio.open(path, driver="GTiff") as src:
        return src.read()


def scanned(path: Path) -> SourceImage:
    files = geotiff.scan(path, path.name)
    images, rejected = geotiff.assemble(files)
    assert not rejected
    assert len(images) == 1
    return images[0]


def everything(image: SourceImage) -> Window:
    assert image.info is not None
    return Window((0,) * len(image.info.shape), image.info.shape)


def round_trip(path: Path, cog: bool = False) -> SourceImage:
    """Scan, read, prove, write, compare; rebuild too where the file says that it can be."""
    image = scanned(path)
    assert image.info is not None
    out = path.with_name("original.tif")
    prove_metadata(image)
    with geotiff.open_reader(image) as reader:
        words = reader.read(everything(image))
        expected = pixels(path)
        assert words.dtype == image.info.dtype == expected.dtype
        assert words.shape == image.info.shape
        assert words.tobytes() == expected.tobytes()
        write_original(out, image, reader.read, reader.read_mask, reader.verbatim(0))
        assert compare(path, out) == []
        if image.round_trip == "file-exact":
            data = b"".join(geotiff.rebuild(image.sources[0], reader.verbatim(0), reader))
            assert data == path.read_bytes()
        if cog:
            made = path.with_name("cog.tif")
            write_cog(made, image, reader.read, reader.read_mask, reader.verbatim(0))
            check_cog(made, path)
            made.unlink()
    assert {p.name for p in path.parent.iterdir()} <= {path.name, "original.tif", *SIDECARS}
    out.unlink()
    return image


def check_cog(made: Path, source: Path) -> None:
    with quiet():
        valid, errors, notes = cog_validate(made, strict=True)
    assert (valid, errors, notes) == (True, [], [])
    assert pixels(made).tobytes() == pixels(source).tobytes()


SIDECARS = ("image.tfw", "image.tif.aux.xml", "image.tif.msk", "image.tif.ovr", "image_RPC.TXT")


# What rasterio writes


@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dtype", DTYPES + COMPLEX)
def test_every_dtype_in_strips_and_tiles(
    tmp_path: Path, dtype: str, count: int, tiled: bool, interleave: str
) -> None:
    blocks = {"tiled": True, "blockxsize": 32, "blockysize": 16} if tiled else {"blockysize": 7}
    image = noise((count, 45, 70), dtype)
    path = write(tmp_path / "image.tif", image, interleave=interleave, photometric="MINISBLACK", **blocks)
    found = round_trip(path)
    assert found.round_trip == "file-exact"
    assert found.info is not None
    assert found.info.axes == (("y", "x") if count == 1 else ("c", "y", "x"))
    assert found.info.native_blocks is not None
    assert found.info.native_blocks[-2:] == ((16, 32) if tiled else (7, 70))


@pytest.mark.parametrize(
    ("compress", "predictor", "dtype"),
    [
        ("deflate", 1, "uint16"),
        ("deflate", 2, "uint8"),
        ("deflate", 2, "int32"),
        ("deflate", 3, "float32"),
        ("deflate", 3, "float64"),
        ("lzw", 2, "int16"),
        ("lzw", 3, "float32"),
        ("zstd", 2, "uint32"),
        ("zstd", 1, "complex64"),
        ("packbits", 1, "uint8"),
        ("lerc", 1, "float32"),
        ("lerc_deflate", 1, "uint16"),
        ("lzma", 1, "int16"),
    ],
)
@pytest.mark.parametrize("tiled", [False, True])
def test_compressions_and_predictors(
    tmp_path: Path, compress: str, predictor: int, dtype: str, tiled: bool
) -> None:
    image = np.arange(2 * 50 * 60).reshape(2, 50, 60).astype(dtype)
    options = {"predictor": predictor} if predictor > 1 else {}
    blocks = {"tiled": True, "blockxsize": 32, "blockysize": 32} if tiled else {"blockysize": 9}
    try:
        path = write(tmp_path / "image.tif", image, compress=compress, **options, **blocks)
    except rasterio.errors.RasterioError:
        pytest.skip(f"this GDAL does not write {compress}")
    assert round_trip(path).round_trip == "metadata-exact"


@pytest.mark.parametrize("endianness", ["LITTLE", "BIG"])
@pytest.mark.parametrize("bigtiff", ["NO", "YES"])
@pytest.mark.parametrize("compress", ["none", "deflate"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64", "complex64"])
def test_byte_orders_and_bigtiff(
    tmp_path: Path, endianness: str, bigtiff: str, compress: str, dtype: str
) -> None:
    image = noise((2, 33, 40), dtype)
    crs = CRS.from_epsg(32633)
    path = write(
        tmp_path / "image.tif",
        image,
        ENDIANNESS=endianness,
        BIGTIFF=bigtiff,
        compress=compress,
        crs=crs,
        transform=Affine(10, 0, 5e5, 0, -10, 5e6),
        nodata=3,
    )
    found = round_trip(path)
    layout = found.sources[0].record["layout"]
    assert (layout["big_endian"], layout["bigtiff"]) == (endianness == "BIG", bigtiff == "YES")


@pytest.mark.parametrize("compress", ["none", "deflate", "zstd"])
@pytest.mark.parametrize(
    ("nbits", "dtype"),
    [
        *((bits, "uint8") for bits in (1, 2, 4, 7)),
        *((bits, "uint16") for bits in (9, 12, 15)),
        *((bits, "uint32") for bits in (20, 31)),
    ],
)
def test_odd_bit_depths_keep_their_depth(tmp_path: Path, nbits: int, dtype: str, compress: str) -> None:
    image = noise((2, 37, 51), dtype) & np.array((1 << nbits) - 1, dtype)
    path = write(tmp_path / "image.tif", image, nbits=nbits, compress=compress)
    found = round_trip(path)
    assert found.info is not None
    assert found.info.bits_stored == nbits


def test_half_floats_are_archived_as_rasterio_reads_them(tmp_path: Path) -> None:
    image = noise((1, 20, 30), "uint16").view("float16").astype("float32")
    assert round_trip(write(tmp_path / "image.tif", image, nbits=16)).round_trip == "metadata-exact"


@pytest.mark.parametrize("photometric", ["YCBCR", "RGB"])
def test_jpeg_is_archived_as_decoded(tmp_path: Path, photometric: str) -> None:
    image = np.kron(noise((3, 8, 10), "uint8"), np.ones((1, 8, 8), "uint8"))
    path = write(
        tmp_path / "image.tif",
        image,
        compress="jpeg",
        photometric=photometric,
        tiled=True,
        blockxsize=32,
        blockysize=32,
    )
    found = round_trip(path, cog=True)
    assert found.sources[0].record["raster"]["color_interp"] == ["red", "green", "blue"]


@pytest.mark.parametrize(
    ("dtype", "nodata", "expected"),
    [
        ("uint8", 0, 0),
        ("uint8", 255, 255),
        ("int16", -32768, -32768),
        ("uint32", 4294967295, 4294967295),
        ("int64", -(2**63), -(2**63)),
        ("uint64", 2**64 - 1, 2**64 - 1),
        ("int64", 2**53 + 1, 2**53 + 1),
        ("float32", float("nan"), float("nan")),
        ("float32", float("inf"), float("inf")),
        ("float32", float("-inf"), float("-inf")),
        ("float32", -3.4028234663852886e38, -3.4028234663852886e38),
        ("float64", 1e-300, 1e-300),
        ("complex64", 7, 7.0),
    ],
)
def test_nodata_of_every_kind(tmp_path: Path, dtype: str, nodata: Any, expected: Any) -> None:
    built = tiff([page(noise((20, 20), dtype), tags={42113: (ASCII, f"{nodata}".encode() + b"\0")})])
    path = tmp_path / "image.tif"
    path.write_bytes(built.data)
    found = round_trip(path)
    assert found.info is not None
    assert found.info.nodata == pytest.approx(expected, nan_ok=True, rel=0, abs=0)
    assert found.info.attributes["nodata_text"] == f"{nodata}"


@pytest.mark.parametrize("text", ["-9999", "1e40", "300", "0.5", "nan"])
def test_nodata_that_no_sample_can_have_is_kept_as_text(tmp_path: Path, text: str) -> None:
    built = tiff([page(noise((20, 20), "uint8"), tags={42113: (ASCII, text.encode() + b" \0")})])
    path = tmp_path / "image.tif"
    path.write_bytes(built.data)
    found = round_trip(path)
    assert found.info is not None
    assert found.info.nodata is None
    assert found.info.attributes["nodata_text"] == text + " "


def test_masks_colour_interpretation_and_alpha(tmp_path: Path) -> None:
    image = noise((4, 40, 60), "uint8")
    path = write(
        tmp_path / "image.tif",
        image,
        photometric="RGB",
        alpha="YES",
        tiled=True,
        blockxsize=32,
        blockysize=32,
        compress="deflate",
    )
    found = round_trip(path, cog=True)
    assert found.info is not None
    assert not found.info.has_mask
    assert found.sources[0].record["raster"]["color_interp"][3] == "alpha"


@pytest.mark.parametrize("nodata", [None, 5])
@pytest.mark.parametrize("compress", ["none", "deflate"])
def test_an_internal_mask_is_read_and_written(tmp_path: Path, compress: str, nodata: int | None) -> None:
    image, mask = noise((2, 45, 70), "uint16"), noise((45, 70), "uint8") > 99
    path = tmp_path / "image.tif"
    with (
        quiet(),
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=2,
            height=45,
            width=70,
            dtype="uint16",
            compress=compress,
            nodata=nodata,
        ) as out,
    ):
        out.write(image)
        out.write_mask(mask)
    found = round_trip(path, cog=True)
    assert found.info is not None
    assert found.info.has_mask
    with geotiff.open_reader(found) as reader:
        part = reader.read_mask(Window((3, 5), (40, 66)))
    assert np.array_equal(part, np.where(mask, 255, 0)[3:40, 5:66])


@pytest.mark.parametrize("compress", [1, 8])
@pytest.mark.parametrize(
    ("photometric", "samples", "dtype"),
    [(0, 1, "uint8"), (0, 1, "float32"), (2, 3, "uint16"), (2, 4, "uint8"), (5, 4, "uint8"), (5, 4, "uint16"),
     (5, 5, "uint8"), (3, 1, "uint8")],
)  # fmt: skip
def test_samples_are_archived_as_they_lie_in_the_file(
    tmp_path: Path, photometric: int, samples: int, dtype: str, compress: int
) -> None:
    """No inversion of white-is-zero, no palette applied, no CMYK turned into RGBA."""
    image = noise((samples, 24, 40), dtype)
    colours = {5: 4, 2: 3}.get(photometric, 1)
    tags: dict[int, Any] = {262: (SHORT, [photometric]), 338: (SHORT, [0] * (samples - colours))}
    if samples == colours:
        del tags[338]
        tags |= {338: None} if samples > 1 else {}
    if photometric == 3:
        tags[320] = (SHORT, list(range(768)))
    built = page(image, tags=tags)
    if compress == 8:
        built.tags[259] = (SHORT, [8])
        built.blocks = [zlib.compress(block) for block in built.blocks if block is not None]
    path = tmp_path / "image.tif"
    path.write_bytes(tiff([built]).data)
    found = scanned(path)
    out = tmp_path / "out.tif"
    prove_metadata(found)
    with geotiff.open_reader(found) as reader:
        assert reader.read(everything(found)).tobytes() == image.tobytes()
        write_original(out, found, reader.read, None, reader.verbatim(0))
    assert compare(path, out) == []
    assert pixels(path).tobytes() == pixels(out).tobytes()
    assert found.info is not None
    assert found.info.categorical == (photometric == 3)


@pytest.mark.parametrize("dtype", DTYPES + COMPLEX)
def test_cogs_of_every_dtype(tmp_path: Path, dtype: str) -> None:
    nodata = float("nan") if dtype.startswith("float") else 3
    image = noise((1, 520, 530), dtype)
    found = round_trip(
        write(tmp_path / "image.tif", image, photometric="MINISBLACK", nodata=nodata), cog=True
    )
    assert found.info is not None


def test_palettes_are_categorical(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    with (
        quiet(),
        rasterio.open(path, "w", driver="GTiff", count=1, height=20, width=30, dtype="uint8") as out,
    ):
        out.write(noise((20, 30), "uint8"), 1)
        out.write_colormap(1, {i: (i, 255 - i, i // 2, 255) for i in range(256)})
    found = round_trip(path, cog=True)
    assert found.info is not None
    assert found.info.categorical
    assert found.info.attributes["colormap"]["1"][7] == [7, 248, 3, 255]


def test_tags_scales_units_descriptions(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    with (
        quiet(),
        rasterio.open(
            path, "w", driver="GTiff", count=3, height=20, width=30, dtype="int16", photometric="MINISBLACK"
        ) as out,
    ):
        out.write(noise((3, 20, 30), "int16"))
        out.update_tags(
            TIFFTAG_DATETIME="2020:02:29 23:59:58",
            TIFFTAG_SOFTWARE="héllo",
            AREA_OR_POINT="Point",
            A="<&>\n\"'",
        )
        out.update_tags(ns="MINE", key="value", empty="")
        out.update_tags(2, ns="YOURS", b="2")
        out.update_tags(1, STATISTICS_MAXIMUM="12")
        out.descriptions = ("red edge", None, "größe")
        out.units = ("m", "", "K")
        out.scales = (0.1, 2.0, 1.0)
        out.offsets = (-1.0, 0.0, 273.15)
        out.colorinterp = (ColorInterp.gray, ColorInterp.undefined, ColorInterp.undefined)
    found = round_trip(path, cog=True)
    assert found.info is not None
    bands = found.info.attributes["bands"]
    assert bands[0]["name"] == "red edge"
    assert (bands[2]["unit"], bands[2]["offset"], bands[0]["scale"]) == ("K", 273.15, 0.1)
    assert bands[1]["tags"]["YOURS"] == {"b": "2"}
    assert found.info.attributes["tags"]["MINE"]["key"] == "value"
    assert found.info.attributes["area_or_point"] == "Point"
    assert found.search["time"] == "2020-02-29T23:59:58"


@pytest.mark.parametrize(
    "transform", [Affine(30, 0, 3e5, 0, -30, 4e6), Affine.rotation(20) @ Affine(3, 1, 8, 0, -2, 9)]
)
@pytest.mark.parametrize("epsg", [4326, 32610, 3031, None])
def test_georeferencing(tmp_path: Path, epsg: int | None, transform: Affine) -> None:
    crs = CRS.from_epsg(epsg) if epsg else None
    path = write(tmp_path / "image.tif", noise((20, 30), "uint8"), crs=crs, transform=transform)
    found = round_trip(path, cog=True)
    assert found.info is not None
    assert found.info.attributes["transform"] == list(transform)[:6]
    assert found.info.attributes["crs_code"] == (f"EPSG:{epsg}" if epsg else None)
    assert (found.search["bbox"] is None) == (epsg is None or (epsg == 4326 and transform.a == 30))


def test_bounds_are_longitudes_and_latitudes(tmp_path: Path) -> None:
    path = write(
        tmp_path / "image.tif",
        noise((100, 200), "uint8"),
        crs=CRS.from_epsg(32633),
        transform=Affine(10, 0, 499000, 0, -10, 5400000),
    )
    west, south, east, north = scanned(path).search["bbox"]
    assert 14.98 < west < 15.0 < east < 15.02
    assert 48.7 < south < north < 48.8


def test_ground_control_points(tmp_path: Path) -> None:
    points = [
        GroundControlPoint(r, c, 10 + c / 100, 50 - r / 100, 3.5, id=f"{r}{c}", info="")
        for r in (0, 19)
        for c in (0, 29)
    ]
    path = write(tmp_path / "image.tif", noise((20, 30), "uint8"), gcps=points, crs=CRS.from_epsg(4326))
    found = round_trip(path, cog=True)
    assert found.info is not None
    assert len(found.info.attributes["gcps"]) == 4
    assert found.info.attributes["gcps_crs_wkt"]
    assert found.search["bbox"] == pytest.approx([10, 49.81, 10.29, 50])


def test_rational_polynomials(tmp_path: Path) -> None:
    rpc = RPC(
        height_off=100, height_scale=500, lat_off=48.5, lat_scale=0.25, long_off=2.5, long_scale=0.5,
        line_off=10, line_scale=10, samp_off=15, samp_scale=15, line_num_coeff=[1e-3 * i for i in range(20)],
        line_den_coeff=[1.0] + [0.0] * 19, samp_num_coeff=[0.1] * 20, samp_den_coeff=[1.0] + [1e-9] * 19,
        err_bias=None, err_rand=None,
    )  # fmt: skip
    path = write(tmp_path / "image.tif", noise((20, 30), "uint16"), rpcs=rpc)
    assert {p.name for p in tmp_path.iterdir()} == {"image.tif"}
    found = round_trip(path)
    assert found.info is not None
    assert found.info.attributes["rpcs"]["lat_off"] == 48.5
    assert found.search["bbox"] == pytest.approx([2, 48.25, 3, 48.75])


def test_overviews_are_recorded_and_not_promised(tmp_path: Path) -> None:
    path = write(
        tmp_path / "image.tif",
        noise((300, 400), "uint8"),
        compress="deflate",
        tiled=True,
        blockxsize=128,
        blockysize=128,
    )
    with quiet(), rasterio.open(path, "r+") as out:
        out.build_overviews([2, 4], Resampling.nearest)
    found = round_trip(path, cog=True)
    assert found.sources[0].record["layout"]["overviews"] == [[150, 200], [75, 100]]
    assert any("overviews" in w for w in found.warnings)


@pytest.mark.parametrize(("count", "dtype"), [(20, "uint8"), (40, "float32"), (200, "uint16")])
def test_many_bands(tmp_path: Path, count: int, dtype: str) -> None:
    found = round_trip(
        write(tmp_path / "image.tif", noise((count, 30, 40), dtype), compress="deflate"), cog=True
    )
    assert found.search["bands"] == count


def test_images_larger_than_a_tile(tmp_path: Path) -> None:
    image = np.add.outer(np.arange(1100), np.arange(1300)).astype("uint16")
    found = round_trip(
        write(tmp_path / "image.tif", np.stack([image, image * 3]), compress="deflate"), cog=True
    )
    with geotiff.open_reader(found) as reader:
        part = reader.read(Window((1, 500, 1000), (2, 530, 1300)))
    assert np.array_equal(part[0], (image * 3)[500:530, 1000:1300])


# What the builder writes


def test_unknown_private_and_exif_tags_survive(tmp_path: Path) -> None:
    """Everything but the pixel layout is carried over as bytes, known to GDAL or not."""
    tags = {
        65000: (DOUBLE, [1.5, -2.5]),
        270: (ASCII, b"caf\xe9\0"),
        700: (BYTE, b"<x:xmpmeta/>"),
        34675: (BYTE, bytes(200)),
    }
    for order in "<>":
        built = tiff([page(noise((10, 10), "int16"), order=order, tags=tags)], order=order)
        path = tmp_path / "image.tif"
        path.write_bytes(built.data)
        image = scanned(path)
        out = tmp_path / "out.tif"
        with geotiff.open_reader(image) as reader:
            write_original(out, image, reader.read, None, reader.verbatim(0))
        for _, value in tags.values():
            raw = value if isinstance(value, bytes) else np.array(value, f"{order}f8").tobytes()
            assert raw in out.read_bytes()
        out.unlink()


def test_plain_files_are_rebuilt_with_all_their_oddities(tmp_path: Path) -> None:
    """Padding of tiles, gaps, sparse blocks, surplus bytes at the end: all of it comes back."""
    for order in "<>":
        for big in (False, True):
            for first in (False, True):
                for kind in (
                    {"rows": 7},
                    {"tile": (16, 32)},
                    {"tile": (10, 6), "planar": True},
                    {"absent": [1], "rows": 9},
                ):
                    built = tiff(
                        [page(noise((3, 40, 50), "uint16"), order=order, **kind)],
                        order=order, big=big, directories_first=first, gap=b"\xaa\xbb\xcc",
                    )  # fmt: skip
                    path = tmp_path / "image.tif"
                    path.write_bytes(built.data + b"surplus")
                    assert round_trip(path).round_trip == "file-exact"


def test_sparse_blocks_are_recorded_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    path.write_bytes(tiff([page(noise((40, 50), "int16"), rows=10, absent=[0, 2])]).data)
    found = round_trip(path)
    assert found.sources[0].record["layout"]["sparse_blocks"] == 2
    assert "2 of 4 blocks are absent; they read as 0, though no nodata value is declared" in found.warnings
    tags = {42113: (ASCII, b"-7\0")}
    path.write_bytes(tiff([page(noise((40, 50), "int16"), rows=10, absent=[0, 2], tags=tags)]).data)
    found = round_trip(path)
    assert "2 of 4 blocks are absent; they read as nodata (-7)" in found.warnings
    with geotiff.open_reader(found) as reader:
        assert np.all(reader.read(Window((0, 0), (10, 50))) == -7)


def test_sidecars_are_kept_whole_and_not_interpreted(tmp_path: Path) -> None:
    path = write(tmp_path / "image.tif", noise((20, 30), "uint8"))
    for name in SIDECARS:
        (tmp_path / name).write_bytes(b"1\n0\n0\n-1\n0\n0\n" + name.encode())
    files = geotiff.scan(path, "folder/image.tif")
    assert files[0].name == "folder/image.tif"
    assert {f.name for f in files[1:]} == {f"folder/{name}" for name in SIDECARS}
    assert {f.format for f in files[1:]} == {"sidecar"}
    image = geotiff.assemble(files)[0][0]
    assert image.info is not None
    assert image.info.attributes["transform"] is None
    assert sum("is kept, not interpreted" in w for w in image.warnings) == len(SIDECARS)
    with geotiff.open_reader(image) as reader:
        for i, file in enumerate(image.sources[1:], 1):
            data = b"".join(reader.verbatim(i))
            assert data == (tmp_path / Path(file.name).name).read_bytes()
            assert hashlib.sha256(data).hexdigest() == file.sha256
    round_trip(path)


# Contract of reader and writer


def test_windows_outside_of_the_image_are_refused(tmp_path: Path) -> None:
    image = scanned(write(tmp_path / "image.tif", noise((20, 30), "uint8")))
    with geotiff.open_reader(image) as reader:
        for window in (Window((0, 0), (21, 30)), Window((0, 0), (20, 31)), Window((0,), (5,))):
            with pytest.raises(InvalidRequest):
                reader.read(window)
        with pytest.raises(InvalidRequest):
            reader.read_mask(Window((0, 0), (1, 1)))
        with pytest.raises(InvalidRequest):
            reader.read_stream((0, 0))
        assert reader.read(Window((3, 4), (3, 9))).shape == (0, 5)


def test_a_source_that_changes_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "image.tif", noise((20, 30), "uint8"))
    image = scanned(path)
    with geotiff.open_reader(image) as reader:
        reader.read(everything(image))
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        with pytest.raises(SourceChanged):
            reader.read(everything(image))
        with pytest.raises(SourceChanged):
            list(reader.verbatim(0))
    with pytest.raises(SourceChanged):
        geotiff.open_reader(image)
    with pytest.raises(SourceChanged):
        prove_metadata(image)


def test_a_source_that_is_replaced_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "image.tif", noise((20, 30), "uint8"))
    image = scanned(path)
    with geotiff.open_reader(image) as reader:
        other = write(tmp_path / "other.tif", noise((20, 30), "uint8", 1))
        other.replace(path)
        with pytest.raises(SourceChanged):
            reader.read(everything(image))


def test_nothing_is_overwritten_and_failures_leave_nothing(tmp_path: Path) -> None:
    image = scanned(write(tmp_path / "image.tif", noise((20, 30), "uint8")))
    out = tmp_path / "out.tif"
    with geotiff.open_reader(image) as reader:
        kept = b"".join(reader.verbatim(0))
        for function in (write_original, write_cog):
            out.write_bytes(b"precious")
            with pytest.raises(Conflict):
                function(out, image, reader.read, None, iter([kept]))
            assert out.read_bytes() == b"precious"
            out.unlink()

            def fail(window: Window) -> Array:
                raise SourceChanged("gone")

            with pytest.raises(SourceChanged):
                function(out, image, fail, None, iter([kept]))
            with pytest.raises(ManifestCorrupt):
                function(out, image, reader.read, None, iter([kept[:60]]))
            assert {p.name for p in tmp_path.iterdir()} == {"image.tif"}
        write_original(out, image, reader.read, None, iter([kept]))
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
        made = tmp_path / "cog.tif"
        write_cog(made, image, reader.read, None, iter([kept]))
        assert stat.S_IMODE(made.stat().st_mode) == 0o600


def test_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Opening warns of missing georeferencing, and filters of warnings are global: none may get out."""
    image = noise((3, 64, 80), "float32")
    path = write(tmp_path / "image.tif", image, compress="deflate", blockysize=4)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(20):
                found = scanned(path)
                with geotiff.open_reader(found) as reader:
                    y = (number * 7 + i) % 60
                    part = reader.read(Window((0, y, 0), (3, y + 4, 80)))
                    assert part.tobytes() == image[:, y : y + 4].tobytes()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_an_export_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    image = scanned(write(tmp_path / "image.tif", noise((3, 90, 80), "float32"), compress="deflate"))
    with geotiff.open_reader(image) as reader:
        for name in ("a", "b"):
            write_original(tmp_path / name, image, reader.read, None, reader.verbatim(0))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_damaged_verbatim_streams_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "image.tif", noise((20, 30), "uint8"), tiled=True, blockxsize=16, blockysize=16)
    image = scanned(path)
    with geotiff.open_reader(image) as reader:
        kept = b"".join(reader.verbatim(0))
        words = reader.read(everything(image))

        class Stored:
            def read(self, window: Window) -> Array:
                return words[window.slices]

        assert b"".join(geotiff.rebuild(image.sources[0], iter([kept]), Stored())) == path.read_bytes()
        for end in range(len(kept)):
            with pytest.raises(ManifestCorrupt):
                b"".join(geotiff.rebuild(image.sources[0], iter([kept[:end]]), Stored()))


def test_compare_sees_every_difference(tmp_path: Path) -> None:
    base: dict[str, Any] = {
        "crs": CRS.from_epsg(32633),
        "transform": Affine(10, 0, 5e5, 0, -10, 5e6),
        "nodata": 1,
    }
    image = noise((2, 20, 30), "float32")
    path = write(tmp_path / "a.tif", image, **base)
    changed = image.copy()
    changed.view("u4")[1, 19, 29] ^= 1
    zero = image.copy()
    zero[0, 0, 1] = 0.0
    cases = [
        (changed, {}, "pixels"),
        (zero, {}, "pixels"),
        (image, {"nodata": 2}, "nodata"),
        (image, {"crs": CRS.from_epsg(32634)}, "crs_wkt"),
        (image, {"transform": Affine(10, 0, 5e5 + 1, 0, -10, 5e6)}, "transform"),
        (image.view("uint32"), {}, "dtypes"),
        (image[:1], {}, "bands"),
    ]
    for other, settings_, what in cases:
        lines = compare(path, write(tmp_path / "b.tif", other, **(base | settings_)))
        assert any(what in line for line in lines), (what, lines)
    assert compare(path, write(tmp_path / "b.tif", image, compress="deflate", **base)) == []


def test_proof_names_what_an_export_would_lose(tmp_path: Path) -> None:
    image = scanned(write(tmp_path / "image.tif", noise((20, 30), "uint8")))
    record = image.sources[0].record
    record["raster"]["tags"]["INVENTED"] = {"a": "1"}
    with pytest.raises(VerifyAfterEncodeFailed, match="INVENTED"):
        prove_metadata(image)


# Real files


@pytest.mark.parametrize("name", ["multipage.tif", "multipage_rgb.tif"])
def test_several_images_in_one_file_are_unsupported(name: str) -> None:
    path = Path(skimage.__file__).parent / "data" / name
    with pytest.raises(UnsupportedSyntax, match="full-size images"):
        geotiff.scan(path, name)


@pytest.mark.data
def test_real_files_come_back(data_dir: Path, tmp_path: Path) -> None:
    files = sorted(p for p in (data_dir / "satellite").rglob("*") if p.suffix in (".tif", ".tiff"))
    assert len(files) >= 30
    for i, file in enumerate(files):
        link = tmp_path / "image.tif"
        link.unlink(missing_ok=True)
        link.symlink_to(file)
        round_trip(link, cog=i % 16 == 0)


# Any image


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.data(),
    st.sampled_from([*DTYPES, *COMPLEX]),
    st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 40)),
)
def test_any_plain_image_comes_back(
    tmp_path: Path, data: st.DataObject, dtype: str, shape: tuple[int, int, int]
) -> None:
    order, big = data.draw(st.sampled_from("<>")), data.draw(st.booleans())
    blocks: dict[str, Any] = data.draw(
        st.one_of(
            st.fixed_dictionaries({"rows": st.integers(1, 50)}),
            st.fixed_dictionaries({"tile": st.tuples(st.integers(1, 50), st.integers(1, 50))}),
        )
    )
    image = noise(shape if shape[0] > 1 else shape[1:], dtype, data.draw(st.integers(0, 99)))
    built = tiff(
        [page(image, order=order, planar=data.draw(st.booleans()), **blocks)],
        order=order,
        big=big,
        directories_first=data.draw(st.booleans()),
        gap=b"\0" * data.draw(st.integers(0, 5)),
    )  # fmt: skip
    path = tmp_path / "image.tif"
    path.write_bytes(built.data)
    found = round_trip(path)
    assert found.round_trip == "file-exact"
    with geotiff.open_reader(found) as reader:
        assert reader.read(everything(found)).tobytes() == image.tobytes()
