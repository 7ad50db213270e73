"""Pictures, pixels and files over HTTP: what each kind of image looks like, at every level."""

import hashlib
import io
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import rasterio

import serve_zoo
from tilevault import Archive
from tilevault.archive.render import to_preview
from tilevault.archive.store import Image
from tilevault.workflows import add
from tilevault.workflows.serve.app import create_app
from tilevault.workflows.serve.parts import level_sides, top_level
from tilevault.workflows.serve.settings import Settings

testclient = pytest.importorskip("starlette.testclient")

NAMES = (
    *("ct", "pet", "inverted", "rgb", "ybr", "subsampled", "palette"),
    *("scene", "rgba", "elevation", "classes", "masked"),
)
H, W = serve_zoo.HEIGHT, serve_zoo.WIDTH


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


@pytest.fixture(scope="module")
def ids(folder: Path) -> dict[str, str]:
    found = serve_zoo.build(folder)
    assert set(found) == set(NAMES)
    return found


@pytest.fixture(scope="module")
def client(folder: Path, ids: dict[str, str]) -> Iterator[Any]:
    app = create_app(Settings(str(folder / "archive")))
    with testclient.TestClient(app, base_url="http://localhost") as client:
        yield client


@pytest.fixture
def image_of(folder: Path, ids: dict[str, str]) -> Any:
    return lambda name: Archive.open(folder / "archive")[ids[name]]


def decoded(answer: Any) -> np.ndarray[Any, Any]:
    assert answer.status_code == 200, answer.text
    return np.asarray(PIL.Image.open(io.BytesIO(answer.content)))


def assembled(client: Any, image_id: str, level: int, height: int, width: int, more: str = "") -> Any:
    """A whole level from its tiles of 64."""
    rows = [
        np.concatenate(
            [
                decoded(client.get(f"/api/images/{image_id}/tiles/{level}/{r}/{c}.png?tilesize=64{more}"))
                for c in range(-(-width // 64))
            ],
            axis=1,
        )
        for r in range(-(-height // 64))
    ]
    return np.concatenate(rows, axis=0)


def whole(image: Image, index: dict[str, int]) -> np.ndarray[Any, Any]:
    """Level 0 as `tilevault.archive.render` shows it."""
    info = image.info
    assert info is not None
    mask = image.read_mask() if info.has_mask else None
    return to_preview(image.read(index=index), info, mask=mask)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "pet"])
def test_tiles_of_full_size_are_the_picture_of_the_whole(
    client: Any, ids: dict[str, str], image_of: Any, name: str
) -> None:
    image = image_of(name)
    middle = {"z": 2} if name == "ct" else {}
    expected = whole(image, middle).astype(int)
    found = assembled(client, ids[name], 0, H, W).astype(int)
    assert found.shape == expected.shape
    # Percentiles are those of a coarse level: they may lie a few steps beside those of all samples.
    stretched = name in ("scene", "elevation", "masked", "inverted")
    assert np.abs(found - expected).max() <= (12 if stretched else 0)
    assert np.abs(found - expected).mean() <= (4 if stretched else 0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", [1, 2, 3, 5])
def test_tiles_of_a_level_have_one_contrast(client: Any, ids: dict[str, str], name: str, level: int) -> None:
    sides = [-(-n // (1 << level)) for n in (H, W)]
    pieces = assembled(client, ids[name], level, *sides)
    at_once = decoded(client.get(f"/api/images/{ids[name]}/tiles/{level}/0/0.png?tilesize=512"))
    np.testing.assert_array_equal(pieces, at_once)


@pytest.mark.parametrize("name", NAMES)
def test_every_level_down_to_one_pixel_is_like_the_next(client: Any, ids: dict[str, str], name: str) -> None:
    levels = client.get(f"/api/images/{ids[name]}").json()["levels"]
    assert [one["level"] for one in levels] == list(range(10))
    assert levels[0]["shape"] == [H, W]
    assert levels[-1]["shape"] == [1, 1]
    means = []
    for one in levels[:6]:
        picture = decoded(client.get(f"/api/images/{ids[name]}/tiles/{one['level']}/0/0.png"))
        assert list(picture.shape[:2]) == one["shape"]
        means.append(picture.reshape(-1, *picture.shape[2:]).mean(axis=0))
    if name not in ("palette",):  # colours in no order: their mean says nothing
        assert np.abs(np.array(means) - means[0]).max() < 16
    for one in levels[6:]:
        assert client.get(f"/api/images/{ids[name]}/tiles/{one['level']}/0/0.png").status_code == 200


def test_planes_with_factors_of_their_own_share_one_scale(
    client: Any, ids: dict[str, str], image_of: Any
) -> None:
    """The same activity is the same grey in every slice, although slopes grow from slice to slice."""
    shown = [decoded(client.get(f"/api/images/{ids['pet']}/tiles/0/0/0.png?z={z}")) for z in range(5)]
    image = image_of("pet")
    slopes = image.info.attributes["rescale"]["slope"]
    real = [np.asarray(image.read(index={"z": z}), float) * slopes[z] for z in range(5)]
    grey = np.concatenate([s.ravel() for s in shown]).astype(int)
    values = np.concatenate([r.ravel() for r in real])
    inside = (grey > 0) & (grey < 255)
    fit = np.polyfit(values[inside], grey[inside], 1)
    assert np.abs(np.polyval(fit, values[inside]) - grey[inside]).max() <= 1.5


def test_chroma_at_half_width_has_its_colours_at_every_level(client: Any, ids: dict[str, str]) -> None:
    fine = decoded(client.get(f"/api/images/{ids['subsampled']}/tiles/0/0/0.png")).astype(float)
    coarse = decoded(client.get(f"/api/images/{ids['subsampled']}/tiles/2/0/0.png")).astype(float)
    blocks = fine[: H // 4 * 4, : W // 4 * 4].reshape(H // 4, 4, W // 4, 4, 3).mean(axis=(1, 3))
    assert np.abs(blocks - coarse[: H // 4, : W // 4]).mean() < 4


def test_a_window_is_that_of_the_standard(client: Any, ids: dict[str, str], image_of: Any) -> None:
    hounsfield = np.asarray(image_of("ct").read(index={"z": 1}), float) - 24
    expected = np.clip(((hounsfield - (300 - 0.5)) / (1500 - 1) + 0.5) * 255, 0, 255)
    found = decoded(client.get(f"/api/images/{ids['ct']}/tiles/0/0/0.png?z=1&window=300,1500"))
    assert np.abs(found - expected).max() <= 0.5 + 1e-6


def test_bands_rescale_and_colour_maps(client: Any, ids: dict[str, str], image_of: Any) -> None:
    values = np.asarray(image_of("scene").read(), float)
    address = f"/api/images/{ids['scene']}/tiles/0/0/0.png"
    one = decoded(client.get(f"{address}?bidx=4&rescale=0,5000"))
    expected = np.clip(values[3] / 5000 * 255, 0, 255)
    assert np.abs(one - expected).max() <= 0.5 + 1e-6
    three = decoded(client.get(f"{address}?bidx=5,4,1&rescale=0,5000&rescale=0,4000&rescale=100,3000"))
    for band, (low, high), shown in zip(
        (4, 3, 0), ((0, 5000), (0, 4000), (100, 3000)), three.transpose(2, 0, 1), strict=True
    ):
        expected = np.clip((values[band] - low) / (high - low) * 255, 0, 255)
        assert np.abs(shown - expected).max() <= 0.5 + 1e-6
    repeated = decoded(
        client.get(f"{address}?bidx=5&bidx=4&bidx=1&rescale=0,5000&rescale=0,4000&rescale=100,3000")
    )
    np.testing.assert_array_equal(three, repeated)
    pytest.importorskip("rio_tiler")
    from rio_tiler.colormap import cmap

    table = np.array([cmap.get("viridis")[i][:3] for i in range(256)], np.uint8)
    coloured = decoded(client.get(f"{address}?bidx=4&rescale=0,5000&colormap_name=viridis"))
    np.testing.assert_array_equal(coloured, table[one])


def test_bands_by_another_order_than_their_colours_stay_in_it(client: Any, ids: dict[str, str]) -> None:
    address = f"/api/images/{ids['rgba']}/tiles/1/0/0.png"
    straight, turned = decoded(client.get(address)), decoded(client.get(f"{address}?bidx=3,2,1"))
    np.testing.assert_array_equal(turned, straight[..., [2, 1, 0, 3]])


def test_what_is_not_there_is_black_or_transparent(client: Any, ids: dict[str, str]) -> None:
    masked = decoded(client.get(f"/api/images/{ids['masked']}/tiles/0/0/0.png"))
    assert masked.shape == (H, W, 2)
    assert not masked[:120, :150].any()
    assert (masked[120:, :, 1] == 255).all()
    rgba = decoded(client.get(f"/api/images/{ids['rgba']}/tiles/0/0/0.webp"))
    assert not rgba[:, :90, 3].any()
    assert (rgba[:, 110:, 3] == 255).all()
    jpeg = decoded(client.get(f"/api/images/{ids['rgba']}/tiles/0/0/0.jpg"))
    assert jpeg[:, :90].mean() < 3
    assert not decoded(client.get(f"/api/images/{ids['elevation']}/tiles/0/0/0.png"))[42:88, 102:228].any()


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("ct", "tiles/10/0/0.png"),
        ("ct", "tiles/0/5/0.png?tilesize=64"),
        ("ct", "tiles/0/0/0.gif"),
        ("ct", "tiles/0/0/0.png?tilesize=7"),
        ("ct", "tiles/0/0/0.png?z=5"),
        ("ct", "tiles/0/0/0.png?z=-1"),
        ("ct", "tiles/0/0/0.png?z=1&z=2"),
        ("ct", "tiles/0/0/0.png?windw=40,400"),
        ("ct", "tiles/0/0/0.png?window=40"),
        ("ct", "tiles/0/0/0.png?window=nan,1"),
        ("ct", "tiles/0/0/0.png?window=1,-1"),
        ("ct", "tiles/0/0/0.png?bidx=2"),
        ("scene", "tiles/0/0/0.png?bidx=6"),
        ("scene", "tiles/0/0/0.png?bidx=0"),
        ("scene", "tiles/0/0/0.png?bidx=1,2"),
        ("scene", "tiles/0/0/0.png?rescale=5,5"),
        ("scene", "tiles/0/0/0.png?rescale=1e999,5"),
        ("scene", "tiles/0/0/0.png?z=0"),
        ("scene", "tiles/0/0/0.png?bidx=1&colormap_name=../../etc/passwd"),
        ("scene", "tiles/0/0/0.png?colormap_name=viridis"),
        ("scene", "tiles/999999999999999999999999/0/0.png"),
        ("scene", "tiles/0/999999999999999999999/0.png"),
        ("scene", "thumbnail?size=5000"),
        ("scene", "thumbnail?size=0"),
        ("scene", "values?y=0"),
        ("scene", f"values?y={H}&x=0"),
        ("scene", "pixels/0?window=0:400,0:9"),
        ("scene", "pixels/0?window=-4:4,0:9"),
        ("scene", "pixels/0?bidx=9"),
        ("scene", "pixels/0?rescale=0,1"),
        ("scene", "files/1"),
        ("scene", "image_files/10/0_0.png"),
    ],
)
def test_what_cannot_be_is_refused_in_our_words(
    client: Any, ids: dict[str, str], name: str, address: str
) -> None:
    answer = client.get(f"/api/images/{ids[name]}/{address}")
    assert 400 <= answer.status_code < 500
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert problem["code"] in ("InvalidRequest", "ImageNotFound", "UnsupportedSyntax")


# -- thumbnails and deep zoom -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_thumbnail_fits_and_is_not_empty(client: Any, ids: dict[str, str], name: str) -> None:
    for size in (1, 33, 256, 1024):
        answer = client.get(f"/api/images/{ids[name]}/thumbnail?size={size}")
        picture = decoded(answer)
        assert max(picture.shape[:2]) <= size
        assert max(picture.shape[:2]) > min(size, W) / 2 - 1
    assert picture.std() > 5


def test_deep_zoom_has_the_tiles_of_the_same_levels(client: Any, ids: dict[str, str]) -> None:
    descriptor = client.get(f"/api/images/{ids['scene']}/image.dzi")
    assert descriptor.headers["content-type"] == "application/xml"
    root = ET.fromstring(descriptor.text)
    space = {"d": "http://schemas.microsoft.com/deepzoom/2008"}
    size = root.find("d:Size", space)
    assert size is not None
    assert (int(size.attrib["Width"]), int(size.attrib["Height"])) == (W, H)
    assert root.attrib["Overlap"] == "0"
    top = int(np.ceil(np.log2(max(H, W))))
    for dz in range(top + 1):
        ours = client.get(f"/api/images/{ids['scene']}/tiles/{top - dz}/0/0.png")
        theirs = client.get(f"/api/images/{ids['scene']}/image_files/{dz}/0_0.png")
        assert theirs.content == ours.content
    assert decoded(client.get(f"/api/images/{ids['scene']}/image_files/0/0_0.png")).shape[:2] == (1, 1)


# -- numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", [0, 2, 4])
def test_pixels_are_the_stored_samples(
    client: Any, ids: dict[str, str], image_of: Any, name: str, level: int
) -> None:
    image = image_of(name)
    height, width = level_sides(image.info, level)
    rows, columns = (height // 3, height), (0, max(1, width // 2))
    answer = client.get(
        f"/api/images/{ids[name]}/pixels/{level}?window={rows[0]}:{rows[1]},{columns[0]}:{columns[1]}"
    )
    assert answer.status_code == 200
    shape = tuple(int(n) for n in answer.headers["tilevault-shape"].split(","))
    got = np.frombuffer(answer.content, answer.headers["tilevault-dtype"]).reshape(shape)
    middle = {"z": 2} if "z" in image.info.axes else {}
    expected = image.read(level=level, index=middle)[..., slice(*rows), slice(*columns)]
    np.testing.assert_array_equal(got, expected)
    assert client.get(f"/api/images/{ids[name]}/pixels/6").status_code == 400


def test_values_at_a_place(client: Any, ids: dict[str, str], image_of: Any) -> None:
    stored = image_of("ct").read(index={"z": 3})
    told = client.get(f"/api/images/{ids['ct']}/values?y=17&x=230&z=3").json()
    assert told["values"] == [int(stored[17, 230])]
    assert told["rescaled"] == [float(stored[17, 230]) - 24]
    assert (told["unit"], told["valid"]) == ("HU", True)
    slope = image_of("pet").info.attributes["rescale"]["slope"][4]
    value = int(image_of("pet").read(index={"z": 4})[9, 9])
    told = client.get(f"/api/images/{ids['pet']}/values?y=9&x=9&z=4").json()
    assert told["rescaled"] == pytest.approx([value * slope])
    scene = client.get(f"/api/images/{ids['scene']}/values?y=299&x=409").json()
    assert scene["values"] == [int(v) for v in image_of("scene").read()[:, 299, 409]]
    assert client.get(f"/api/images/{ids['elevation']}/values?y=50&x=150").json()["valid"] is False
    assert client.get(f"/api/images/{ids['elevation']}/values?y=0&x=0").json()["values"] == ["NaN"]
    assert client.get(f"/api/images/{ids['masked']}/values?y=5&x=5").json()["valid"] is False
    assert client.get(f"/api/images/{ids['masked']}/values?y=200&x=5").json()["valid"] is True


# -- files --------------------------------------------------------------------------------------------------


def test_files_come_back_as_they_were(client: Any, ids: dict[str, str], folder: Path) -> None:
    for name in NAMES:
        told = client.get(f"/api/images/{ids[name]}").json()
        for file in told["files"]:
            answer = client.get(file["href"])
            assert answer.status_code == 200
            disposition = answer.headers["content-disposition"]
            assert disposition.startswith("attachment; filename=")
            if told["round_trip"] == "file-exact":
                assert hashlib.sha256(answer.content).hexdigest() == file["sha256"]
            else:
                assert answer.headers["tilevault-round-trip"] == "metadata-exact"
                with (
                    rasterio.MemoryFile(answer.content) as memory,
                    memory.open() as mine,
                    rasterio.open(folder / "source" / Path(file["name"]).name) as theirs,
                ):
                    np.testing.assert_array_equal(mine.read(), theirs.read())
                    assert (mine.crs, mine.transform) == (theirs.crs, theirs.transform)


def test_a_name_from_outside_cannot_leave_its_header() -> None:
    from tilevault.workflows.serve.answers import attachment

    for name in (
        'a"; filename="b',
        "x\r\nSet-Cookie: a=b",
        "../../etc/passwd",
        "a\\b\\c.dcm",
        "",
        "...",
        "é\u202e.tif",
    ):
        header = attachment(name)
        assert header.isascii()
        assert header.isprintable()
        assert header.count('"') == 2
        assert "/" not in header


# -- the catalogue ------------------------------------------------------------------------------------------


def test_the_catalogue_searches_sorts_and_pages(client: Any, ids: dict[str, str]) -> None:
    everything = client.get("/api/images").json()
    assert everything["total"] == len(NAMES)
    assert {one["id"] for one in everything["images"]} == set(ids.values())
    pages = [client.get(f"/api/images?limit=5&offset={k}").json()["images"] for k in (0, 5, 10)]
    assert [one["id"] for page in pages for one in page] == [one["id"] for one in everything["images"]]
    assert client.get("/api/images?q=elev").json()["images"][0]["id"] == ids["elevation"]
    assert client.get("/api/images?q=DOE jane").json()["total"] == 7
    assert client.get("/api/images?q=nothing of that kind").json()["total"] == 0
    assert client.get("/api/images?kind=satellite").json()["total"] == 5
    assert client.get("/api/images?kind=ct").json()["images"][0]["id"] == ids["ct"]
    sizes = [one["bytes_source"] for one in client.get("/api/images?sort=-size").json()["images"]]
    assert sizes == sorted(sizes, reverse=True)
    for wrong in ("sort=colour", "limit=x", "offset=-1", "limt=3", "q=" + "x" * 201):
        assert client.get(f"/api/images?{wrong}").status_code == 400


def test_new_and_removed_images_appear_and_go_while_it_runs(tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    for number, path in enumerate((first, second)):
        path.mkdir()
        serve_zoo._tiff(path / f"{path.name}.tif", serve_zoo.smooth(0, 900, "uint16", number)[None])
    add([first], tmp_path / "archive", tile=64)
    app = create_app(Settings(str(tmp_path / "archive")))
    with testclient.TestClient(app, base_url="http://localhost") as client:
        assert client.get("/api/images").json()["total"] == 1
        (image_id,) = (one["id"] for one in client.get("/api/images").json()["images"])
        add([second], tmp_path / "archive", tile=64)
        Archive.open(tmp_path / "archive").remove(image_id)
        app.state.services.catalogue._due = -1.0
        app.state.services._images.clear()
        (left,) = client.get("/api/images").json()["images"]
        assert left["name"].endswith("two.tif")
        assert client.get(f"/api/images/{image_id}").status_code == 404
        assert client.get(f"/api/images/{image_id}/tiles/0/0/0.png").status_code == 404
        assert client.get(f"/api/images/{left['id']}/tiles/0/0/0.png").status_code == 200


def test_a_series_that_grows_is_served_at_its_new_commit(tmp_path: Path) -> None:
    import collection

    paths = collection.write_ct_series(tmp_path / "ct", slices=4, side=64)
    add(paths[:2], tmp_path / "archive")
    app = create_app(Settings(str(tmp_path / "archive")))
    with testclient.TestClient(app, base_url="http://localhost") as client:
        (one,) = client.get("/api/images").json()["images"]
        tile = f"/api/images/{one['id']}/tiles/0/0/0.png?z=0"
        before = client.get(tile)
        assert client.get(tile, headers={"If-None-Match": before.headers["etag"]}).status_code == 304
        add(paths, tmp_path / "archive")
        services = app.state.services
        services._images = type(services._images)((k, (v[0], -1.0)) for k, v in services._images.items())
        after = client.get(tile, headers={"If-None-Match": before.headers["etag"]})
        assert after.status_code == 200
        assert client.get(f"/api/images/{one['id']}").json()["shape"] == [4, 64, 64]


# -- caching, damage ----------------------------------------------------------------------------------------


def test_an_etag_saves_the_work_and_changes_with_the_view(client: Any, ids: dict[str, str]) -> None:
    address = f"/api/images/{ids['scene']}/tiles/1/0/0.png"
    answer = client.get(address)
    assert answer.headers["cache-control"].startswith("private")
    etag = answer.headers["etag"]
    again = client.get(address, headers={"If-None-Match": f'"other", W/{etag}'})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(f"{address}?bidx=1", headers={"If-None-Match": etag}).status_code == 200
    assert client.head(address).headers["content-length"] == answer.headers["content-length"]


def test_damage_is_an_error_and_never_pixels(folder: Path, ids: dict[str, str], tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folder / "archive", tmp_path / "archive")
    image = Archive.open(tmp_path / "archive")[ids["scene"]]
    shards = [
        path for path in (image.path / "0").rglob("*") if path.is_file() and path.stat().st_size > 50_000
    ]
    for path in shards:
        data = bytearray(path.read_bytes())
        data[::997] = bytes(b ^ 0x55 for b in data[::997])
        path.chmod(0o644)
        path.write_bytes(data)
    app = create_app(Settings(str(tmp_path / "archive")))
    with testclient.TestClient(app, base_url="http://localhost") as client:
        for address in ("tiles/0/0/0.png", "pixels/0?window=0:9,0:9", "values?y=1&x=1", "files/0"):
            answer = client.get(f"/api/images/{ids['scene']}/{address}")
            assert answer.status_code == 500
            assert answer.json()["code"] == "TileCorrupt"
            assert str(tmp_path) not in answer.text


def test_a_file_that_turns_out_damaged_is_never_whole(client: Any, ids: dict[str, str]) -> None:
    """The digest of all that was sent is known before the last piece goes out."""
    import anyio

    from tilevault.codecs.errors import TileCorrupt
    from tilevault.workflows.serve.answers import _checked

    services = client.app.state.services
    seen: list[bytes] = []

    async def read() -> None:
        async for piece in _checked(
            services, iter([b"one", b"two", b"three"]), hashlib.sha256(b"x").hexdigest()
        ):
            seen.append(piece)

    with pytest.raises(TileCorrupt):
        anyio.run(read)
    assert seen == [b"one", b"two"]


def test_the_top_level_is_one_sample() -> None:
    from tilevault.archive.image import ImageInfo

    for sides, top in (((1, 1), 0), ((2, 1), 1), ((512, 512), 9), ((513, 4), 10)):
        assert top_level(ImageInfo(sides, np.dtype("u1"), ("y", "x"), "medical")) == top
