"""Maps: places on a map give the pixels that rio-tiler finds in the GeoTIFF itself, by TiTiler's routes."""

import gc
import io
import time
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rio_tiler.io import Reader

from tilevault.archive import Archive
from tilevault.codecs.errors import ImageNotFound, InvalidRequest, LimitExceeded
from tilevault.workflows import add
from tilevault.workflows.serve import maps as maps_module
from tilevault.workflows.serve import raster as raster_module
from tilevault.workflows.serve.app import create_app
from tilevault.workflows.serve.scene import NotGeoreferenced, SceneReader
from tilevault.workflows.serve.settings import Settings

testclient = pytest.importorskip("starlette.testclient")

pytestmark = pytest.mark.filterwarnings("ignore::rio_tiler.errors.NoOverviewWarning")

SIDE = 700


def terrain(bands: int, dtype: str, seed: int = 5) -> np.ndarray[Any, Any]:
    """Smooth bands with edges, (bands, SIDE, SIDE)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    made = [
        np.sin(7 * x + k) * np.cos(5 * y - k) + 0.3 * (x + y > 1) + rng.normal(0, 0.02, x.shape)
        for k in range(bands)
    ]
    top = 250 if dtype == "uint8" else 3000
    return ((np.stack(made) + 1.2) * top / 3).astype(dtype)


def write(path: Path, values: np.ndarray[Any, Any], crs: str | None, **more: Any) -> Path:
    profile = {"driver": "GTiff", "count": len(values), "height": SIDE, "width": SIDE, "dtype": values.dtype}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", **profile, crs=crs, **more) as file:
            file.write(values)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("scenes")
    utm = {"crs": "EPSG:32633", "transform": Affine(30, 0, 400_000, 0, -30, 5_300_000)}
    nodata = terrain(1, "int16")
    nodata[:, 100:220, 300:640] = -32768
    return {
        "utm": write(folder / "utm.tif", terrain(4, "uint16"), **utm),
        "rgb": write(folder / "rgb.tif", terrain(3, "uint8"), **utm, photometric="RGB"),
        "degrees": write(
            folder / "degrees.tif",
            nodata,
            "EPSG:4326",
            transform=Affine(0.001, 0, 10, 0, -0.001, 50),
            nodata=-32768,
        ),
        "plain": write(folder / "plain.tif", terrain(1, "uint8"), None),
    }


@pytest.fixture(scope="module")
def archive(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Archive:
    path = tmp_path_factory.mktemp("maps") / "archive"
    add([files[name].parent for name in files][:1], path)
    return Archive.open(path)


@pytest.fixture(scope="module")
def client(archive: Archive) -> Iterator[Any]:
    app = create_app(Settings(archive=str(archive.path)))
    with testclient.TestClient(app, base_url="http://127.0.0.1") as opened:
        yield opened


def reader(archive: Archive, name: str) -> SceneReader:
    return SceneReader(archive[f"{name}.tif"])


def middle(scene: SceneReader, zoom: int) -> tuple[int, int, int]:
    west, south, east, north = scene.get_geographic_bounds(scene.tms.rasterio_geographic_crs)
    tile = scene.tms.tile((west + east) / 2, (south + north) / 2, zoom)
    return tile.x, tile.y, tile.z


@pytest.mark.parametrize("name", ["utm", "rgb", "degrees"])
def test_place_and_zooms_are_those_of_the_file(files: dict[str, Path], archive: Archive, name: str) -> None:
    scene = reader(archive, name)
    with Reader(str(files[name])) as original:
        assert scene.bounds == pytest.approx(original.bounds)
        assert (scene.minzoom, scene.maxzoom) == (original.minzoom, original.maxzoom)
        west, south, east, north = original.get_geographic_bounds(original.tms.rasterio_geographic_crs)
        for lon, lat in (
            (west * 0.3 + east * 0.7, south * 0.6 + north * 0.4),
            ((west + east) / 2, (south + north) / 2),
        ):
            ours, theirs = scene.point(lon, lat), original.point(lon, lat)
            assert ours.array.tolist() == theirs.array.tolist()


@pytest.mark.parametrize("resampling", ["nearest", "bilinear"])
@pytest.mark.parametrize("name", ["utm", "rgb", "degrees"])
def test_tiles_at_full_size_are_those_of_the_file(
    files: dict[str, Path], archive: Archive, name: str, resampling: str
) -> None:
    scene = reader(archive, name)
    x, y, z = middle(scene, scene.maxzoom + 1)
    with Reader(str(files[name])) as original:
        theirs = original.tile(
            x, y, z, indexes=(1,), resampling_method=resampling, reproject_method=resampling
        ).array
    ours = scene.tile(x, y, z, indexes=(1,), resampling=resampling).array
    assert np.mean(np.ma.getmaskarray(ours) != np.ma.getmaskarray(theirs)) < 0.002
    both = ~np.ma.getmaskarray(ours) & ~np.ma.getmaskarray(theirs)
    assert both.any()
    difference = np.abs(ours.data.astype(int) - theirs.data.astype(int))[both]
    assert np.mean(difference == 0) > 0.99
    assert np.percentile(difference, 99.9) <= 1


@pytest.mark.parametrize("name", ["utm", "degrees"])
def test_coarse_tiles_look_like_the_file(files: dict[str, Path], archive: Archive, name: str) -> None:
    scene = reader(archive, name)
    x, y, z = middle(scene, scene.minzoom)
    ours = scene.tile(x, y, z, indexes=(1,)).array
    with Reader(str(files[name])) as original:
        theirs = original.tile(
            x, y, z, indexes=(1,), resampling_method="average", reproject_method="bilinear"
        ).array
    both = ~np.ma.getmaskarray(ours) & ~np.ma.getmaskarray(theirs)
    assert np.mean(np.ma.getmaskarray(ours) == np.ma.getmaskarray(theirs)) > 0.97
    spread = float(theirs.std())
    assert np.abs(ours.data.astype(float) - theirs.data.astype(float))[both].mean() < 0.12 * spread


def test_a_coarse_tile_reads_a_coarse_level(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = reader(archive, "utm")
    asked = []
    read = type(scene.input).read

    def noted(image: Any, window: Any = None, level: int = 0, index: Any = None, restore: bool = True) -> Any:
        asked.append((level, window.shape[-2:]))
        return read(image, window, level, index, restore)

    monkeypatch.setattr(type(scene.input), "read", noted)
    scene.preview(max_size=64)
    assert asked == [(3, (88, 88))]
    asked.clear()
    x, y, z = middle(scene, scene.maxzoom + 2)
    scene.tile(x, y, z)
    assert asked
    assert asked[0][0] == 0
    assert max(asked[0][1]) < 120


def test_nodata_and_what_lies_beyond_the_edge_is_masked(archive: Archive) -> None:
    scene = reader(archive, "degrees")
    whole = scene.preview(max_size=SIDE, resampling="nearest").array
    absent = np.ma.getmaskarray(whole)[0]
    assert absent[100:220, 300:640].all()
    assert absent.sum() == 120 * 340
    left, bottom, right, top = scene.bounds
    wide = scene.part((left - 1, bottom, right, top), scene.crs, height=100, width=100).array
    assert np.ma.getmaskarray(wide)[:, :, :40].all()
    with pytest.raises(ImageNotFound):
        scene.point(left - 1, bottom)


def test_what_has_no_place_is_said_so(archive: Archive, client: Any) -> None:
    with pytest.raises(NotGeoreferenced):
        reader(archive, "plain")
    answer = client.get(f"/maps/{archive['plain.tif'].id}/info")
    assert answer.status_code == 409
    assert answer.json()["code"] == "NotGeoreferenced"


def test_sizes_are_bounded(archive: Archive) -> None:
    scene = reader(archive, "utm")
    with pytest.raises(LimitExceeded):
        scene.preview(height=5000, width=10)
    with pytest.raises(InvalidRequest):
        scene.part((1.0, 1.0, 1.0, 2.0))
    with pytest.raises(InvalidRequest):
        scene.tile(*middle(scene, 8), indexes=(5,))
    with pytest.raises(LimitExceeded):
        # Each side is allowed, and so are the bands: gigabytes all the same.
        scene.preview(height=4096, width=4096, indexes=(1,) * 16)


def test_bands_that_are_warped_one_by_one_are_the_same(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = reader(archive, "utm")
    together = scene.preview(indexes=(1, 2, 3), dst_crs=CRS.from_epsg(3857))
    monkeypatch.setattr(raster_module, "AT_ONCE", 1)
    apart = scene.preview(indexes=(1, 2, 3), dst_crs=CRS.from_epsg(3857))
    np.testing.assert_array_equal(together.array.data, apart.array.data)
    np.testing.assert_array_equal(together.array.mask, apart.array.mask)


def test_a_band_of_many_is_read_without_the_others(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bands that share tiles come together only where that is no more than an answer may take."""
    scene = reader(archive, "utm")
    read, shapes = type(scene.input).read, []

    def noted(image: Any, window: Any = None, level: int = 0, *more: Any) -> Any:
        values = read(image, window, level, *more)
        shapes.append(values.shape)
        return values

    expected = scene.preview(max_size=64, indexes=(4, 1)).array
    monkeypatch.setattr(type(scene.input), "read", noted)
    monkeypatch.setattr(raster_module, "MAX_SAMPLES", 3 * 88 * 88)
    found = scene.preview(max_size=64, indexes=(4, 1)).array
    assert max(np.prod(shape) for shape in shapes) == 88 * 88
    np.testing.assert_array_equal(found.data, expected.data)


def test_no_image_is_held_on_to(archive: Archive) -> None:
    """Opened images are let go of by their size; what maps keep must not keep them."""
    app = create_app(Settings(str(archive.path)))
    services = app.state.services
    with testclient.TestClient(app, base_url="http://localhost") as own:
        assert own.get(f"/maps/{archive['utm.tif'].id}/preview?max_size=32").status_code == 200
        held = weakref.ref(services.image(archive["utm.tif"].id))
        services._images.clear()
        for _ in range(100):
            # What has just answered may still be on its way out of its thread.
            gc.collect()
            if held() is None:
                break
            time.sleep(0.05)
        assert held() is None


def test_many_values_are_no_categories(
    archive: Archive, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"/maps/{archive['utm.tif'].id}/statistics?categorical=true"
    assert client.get(address).status_code == 200
    monkeypatch.setattr(maps_module, "MAX_CATEGORIES", 20)
    answer = client.get(address)
    assert (answer.status_code, answer.json()["code"]) == (413, "LimitExceeded")


def test_tilejson_leads_to_tiles(archive: Archive, client: Any) -> None:
    image = archive["utm.tif"].id
    told = client.get(
        f"/maps/{image}/WebMercatorQuad/tilejson.json", params={"bidx": [3, 2, 1], "tile_format": "png"}
    )
    document = told.json()
    assert told.status_code == 200
    assert document["tilejson"] == "3.0.0"
    assert document["scheme"] == "xyz"
    west, south, east, north = document["bounds"]
    assert west < east
    assert south < north
    assert document["center"][2] == document["minzoom"]
    x, y, z = middle(reader(archive, "utm"), document["maxzoom"])
    address = document["tiles"][0].format(z=z, x=x, y=y)
    answer = client.get(address)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert "bidx=3&bidx=2&bidx=1" in address
    assert decoded(answer.content).shape == (4, 256, 256)
    assert client.get(address.replace(f"/{z}/{x}/{y}", f"/{z}/0/0")).status_code == 404


def decoded(data: bytes) -> np.ndarray[Any, Any]:
    """(bands, y, x) of a picture or a TIFF."""
    picture = np.asarray(PIL.Image.open(io.BytesIO(data)))
    return picture[np.newaxis] if picture.ndim == 2 else np.moveaxis(picture, -1, 0)


def values_of(data: bytes) -> np.ndarray[Any, Any]:
    """(bands, y, x) of a GeoTIFF, its mask left out."""
    with rasterio.MemoryFile(data) as file, file.open() as opened:
        return np.asarray(opened.read())


@pytest.mark.parametrize(
    ("query", "shape"),
    [
        ("preview.png?max_size=100", (2, 100, 100)),
        ("preview.jpg?max_size=100&bidx=1&bidx=2&bidx=3", (3, 100, 100)),
        ("preview.png?max_size=50&colormap_name=viridis&rescale=0,3000", (4, 50, 50)),
        ("preview/60x40.png?return_mask=false", (1, 40, 60)),
    ],
)
def test_previews(archive: Archive, client: Any, query: str, shape: tuple[int, ...]) -> None:
    answer = client.get(f"/maps/{archive['utm.tif'].id}/{query}")
    assert answer.status_code == 200, answer.text
    assert decoded(answer.content).shape == shape


def test_tiles_of_one_image_are_stretched_alike(archive: Archive, client: Any) -> None:
    """A tile's contrast is that of the image, not of what happens to lie in the tile."""
    scene = reader(archive, "utm")
    x, y, z = middle(scene, scene.maxzoom + 2)
    values = scene.tile(x, y, z, indexes=(1,)).array.data[0].astype(float)
    band = scene.statistics(indexes=(1,))["b1"]
    low, high = band.percentile_2, band.percentile_98
    seen = decoded(
        client.get(f"/maps/{scene.input.id}/tiles/WebMercatorQuad/{z}/{x}/{y}.png?bidx=1").content
    )[0]
    assert np.abs(seen - np.clip((values - low) / (high - low), 0, 1) * 255).max() <= 1.5


def test_values_come_as_they_are(archive: Archive, client: Any) -> None:
    scene = reader(archive, "utm")
    answer = client.get(
        f"/maps/{scene.input.id}/preview.tif?max_size={SIDE}&bidx=2&bidx=4&resampling=nearest"
    )
    found = values_of(answer.content)
    for i, band in enumerate((1, 3)):
        assert np.array_equal(found[i], scene.input.read(index={"c": band}))


def test_statistics_and_points(archive: Archive, client: Any) -> None:
    image = archive["utm.tif"]
    found = client.get(f"/maps/{image.id}/statistics?bidx=2&p=10&p=90").json()
    values = image.read(index={"c": 1})
    assert set(found) == {"b2"}
    assert found["b2"]["mean"] == pytest.approx(values.mean(), rel=0.01)
    assert {"percentile_10", "percentile_90", "histogram"} <= set(found["b2"])
    west, south, east, north = SceneReader(image).get_geographic_bounds(rasterio.crs.CRS.from_epsg(4326))
    point = client.get(f"/maps/{image.id}/point/{(west + east) / 2},{(south + north) / 2}").json()
    assert len(point["values"]) == 4
    assert client.get(f"/maps/{image.id}/point/-120.5,-10").status_code == 404


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("tiles/WebMercatorQuad/40/1/1.png", 404),
        ("tiles/NoSuchSet/4/1/1.png", 404),
        ("tiles/WebMercatorQuad/4/99/1.png", 404),
        ("preview.exe", 400),
        ("tiles/WebMercatorQuad/0/0/0@9x.png", 400),
        ("preview.png?expression=b1/b2", 415),
        ("preview.png?bidx=9", 400),
        ("preview.png?bidx=-1", 400),
        ("preview.png?rescale=5", 400),
        ("preview.png?rescale=9,1", 400),
        ("preview.png?rescale=nan,1", 400),
        ("preview.png?colormap_name=../../etc", 400),
        ("preview.png?resampling=magic", 400),
        ("preview.png?max_size=99999", 400),
        ("preview.png?dst_crs=/etc/passwd", 400),
        ("preview.png?dst_crs=EPSG:99999999", 400),
        ("preview.png?bidx=1&bidx=2", 400),
        ("bbox/1,1,1,1.png", 400),
        ("bbox/a,b,c,d.png", 400),
        ("bbox/-190,-95,190,95/5000x5000.png", 400),
        ("point/inf,1", 400),
        ("statistics?histogram_bins=1000000000", 400),
    ],
)
def test_bad_requests_are_told_so(archive: Archive, client: Any, path: str, status: int) -> None:
    answer = client.get(f"/maps/{archive['utm.tif'].id}/{path}")
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert "detail" in answer.json()


def test_the_whole_world_is_no_trouble(archive: Archive, client: Any) -> None:
    for path in (
        "tiles/WebMercatorQuad/0/0/0.png",
        "tiles/WorldCRS84Quad/0/1/0.png",
        "bbox/-180,-90,180,90.png",
    ):
        answer = client.get(f"/maps/{archive['utm.tif'].id}/{path}")
        assert answer.status_code == 200, answer.text


def test_a_client_that_has_a_picture_need_not_get_it_again(archive: Archive, client: Any) -> None:
    address = f"/maps/{archive['utm.tif'].id}/preview.png?max_size=64"
    first = client.get(address)
    again = client.get(address, headers={"If-None-Match": first.headers["etag"]})
    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
    other = client.get(f"{address}&bidx=2", headers={"If-None-Match": first.headers["etag"]})
    assert other.status_code == 200
    assert other.headers["etag"] != first.headers["etag"]
