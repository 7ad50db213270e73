"""Map clients that are not ours: GDAL reads the tiles of a TileJSON, and finds the scene in its place."""

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.warp import Resampling, reproject

from peer_server import Server
from tilevault import Archive
from tilevault.workflows import add

# rio-tiler hushes this warning in each of its threads by itself; one that ends early lets it out in another.
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore:Dataset has no geotransform")]

SIDE, EXTENT = 600, 20037508.342789244
"""Pixels of the scene; half the side of the Web Mercator square in metres."""

XYZ = """<GDAL_WMS><Service name="TMS"><ServerUrl>{address}</ServerUrl></Service>
<DataWindow><UpperLeftX>-{extent}</UpperLeftX><UpperLeftY>{extent}</UpperLeftY><LowerRightX>{extent}</LowerRightX>
<LowerRightY>-{extent}</LowerRightY><TileLevel>{zoom}</TileLevel><TileCountX>1</TileCountX>
<TileCountY>1</TileCountY><YOrigin>top</YOrigin></DataWindow><Projection>EPSG:3857</Projection>
<BlockSizeX>256</BlockSizeX><BlockSizeY>256</BlockSizeY><BandsCount>2</BandsCount>
<ZeroBlockHttpCodes>404</ZeroBlockHttpCodes></GDAL_WMS>"""


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, serve: Callable[[Path], Server]
) -> tuple[str, Path, str]:
    """Address of a server, the GeoTIFF, and the id of its image."""
    if not _knows_wms():
        pytest.skip("this GDAL has no client of map tiles")
    folder = tmp_path_factory.mktemp("served")
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    values = (1500 + 900 * np.sin(11 * x) * np.cos(9 * y) + 300 * (x * x + y * y > 0.5)).astype("uint16")
    scene = folder / "scene.tif"
    place = {"crs": "EPSG:32632", "transform": Affine(20, 0, 500_000, 0, -20, 5_500_000)}
    with rasterio.open(
        scene, "w", driver="GTiff", width=SIDE, height=SIDE, count=1, dtype="uint16", **place
    ) as file:
        file.write(values, 1)
    add([scene], folder / "archive")
    (image,) = Archive.open(folder / "archive")
    return serve(folder / "archive").url, scene, image


def _knows_wms() -> bool:
    with rasterio.Env() as env:
        return "WMS" in env.drivers()


def document(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=30) as answer:
        return json.load(answer)


def test_gdal_reads_the_tiles_that_a_tilejson_names(served: tuple[str, Path, str]) -> None:
    address, scene, image = served
    told = document(f"{address}/maps/{image}/WebMercatorQuad/tilejson.json?tile_format=png&rescale=0,3000")
    (tiles,) = told["tiles"]
    assert tiles.startswith(address)
    for name in "zxy":
        tiles = tiles.replace(f"{{{name}}}", f"${{{name}}}")
    source = XYZ.format(address=tiles.replace("&", "&amp;"), extent=EXTENT, zoom=told["maxzoom"])
    with rasterio.open(source) as tiled, rasterio.open(scene) as original:
        west, south, east, north = rasterio.warp.transform_bounds("EPSG:4326", "EPSG:3857", *told["bounds"])
        window = tiled.window(west, south, east, north).round_offsets().round_lengths()
        seen, opacity = tiled.read(window=window).astype(float)
        expected = np.full(seen.shape, np.nan)
        reproject(
            rasterio.band(original, 1),
            expected,
            dst_transform=tiled.window_transform(window),
            dst_crs=tiled.crs,
            dst_nodata=np.nan,
            resampling=Resampling.bilinear,
        )
    shown = opacity == 255
    inside = ~np.isnan(expected)
    assert np.mean(shown == inside) > 0.99
    both = shown & inside
    assert both.mean() > 0.5
    # Half a grey level of rounding in the picture; a place that was wrong by a pixel would be 20 off.
    assert np.abs(seen - expected / 3000 * 255)[both].mean() < 1


def test_gdal_reads_a_box_as_a_geotiff(served: tuple[str, Path, str]) -> None:
    address, scene, image = served
    with rasterio.open(scene) as original:
        left, bottom, right, top = original.bounds
        query = "?coord_crs=EPSG:32632&dst_crs=EPSG:32632&resampling=nearest"
        box = f"{address}/maps/{image}/bbox/{left},{bottom},{right},{top}/{SIDE}x{SIDE}.tif{query}"
        with urllib.request.urlopen(box, timeout=30) as answer:
            data = answer.read()
        with rasterio.MemoryFile(data) as file, file.open() as found:
            assert found.crs == original.crs
            assert found.transform.almost_equals(original.transform, 1e-6)
            assert np.array_equal(found.read(1), original.read(1))
