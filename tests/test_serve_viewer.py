"""The viewer's files, the page that stands in for them, and what its sources promise.

The viewer itself is tried in a browser: tests/peers/test_viewer.py.
"""

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from starlette.testclient import TestClient

import collection
import tilevault
from tilevault import Archive
from tilevault.archive import Image
from tilevault.workflows.serve import pictures, viewer
from tilevault.workflows.serve.app import create_app
from tilevault.workflows.serve.settings import Settings
from tilevault.workflows.serve.tokens import add_token

SOURCES = Path(viewer.__file__).with_name("viewer")
HOSTILE = "<script>alert(1)<script>.tif"
BASE = "http://localhost:8480"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("viewer")
    collection.write_ct_series(folder / "ct", slices=3, side=96)
    collection.write_scene(folder / "scene.tif", side=300)
    place = {"crs": "EPSG:32633", "transform": Affine(10, 0, 5e5, 0, -10, 5e6)}
    with rasterio.open(folder / HOSTILE, "w", "GTiff", 40, 30, 1, dtype="uint8", **place) as file:
        file.write(np.arange(1200).reshape(1, 30, 40).astype("u1"))
    tilevault.add([folder], folder / "archive", tile=64)
    return folder / "archive"


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A folder as `make viewer` leaves it, with something in it that is not to be served."""
    folder = tmp_path / "dist"
    folder.mkdir()
    (folder / "index.html").write_text("<!doctype html><title>viewer</title>")
    (folder / "viewer.js").write_text("'use strict'")
    (folder / "viewer.js.map").write_text("{}")
    (tmp_path / "package.json").write_text("{}")
    return folder


@pytest.fixture
def client(archive: Path, built: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr(viewer, "BUILT", built)
    with TestClient(create_app(Settings(str(archive))), base_url=BASE) as client:
        yield client


@pytest.fixture
def plain(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr(viewer, "BUILT", tmp_path / "nothing")
    with TestClient(create_app(Settings(str(archive))), base_url=BASE) as client:
        yield client


def test_the_page_and_its_files_are_served_with_their_types(client: TestClient) -> None:
    page, script = client.get("/"), client.get("/viewer/viewer.js")
    assert page.status_code == script.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert script.text == "'use strict'"


@pytest.mark.parametrize("path", ["/", "/viewer/viewer.js"])
def test_known_files_are_not_sent_again(client: TestClient, path: str) -> None:
    first = client.get(path)
    again = client.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


def test_pages_may_load_from_this_server_alone(client: TestClient, plain: TestClient) -> None:
    for answer in (client.get("/"), client.get("/viewer/viewer.js"), plain.get("/")):
        policy = answer.headers["content-security-policy"]
        allowed = {word for part in policy.split(";") for word in part.split()[1:]}
        assert allowed <= {"'self'", "'none'"}
        assert "default-src 'self'" in policy


@pytest.mark.parametrize(
    "name", ["viewer.js.map", "missing.js", "..%2fpackage.json", "%2e%2e/package.json", "index.html%00"]
)
def test_nothing_else_is_served(client: TestClient, name: str) -> None:
    answer = client.get(f"/viewer/{name}")
    assert answer.status_code in (400, 404)
    assert answer.headers["content-type"] == "application/problem+json"


class Tags(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_without_the_viewer_the_images_are_listed_by_a_page_without_scripts(
    plain: TestClient, archive: Path
) -> None:
    text = plain.get("/").text
    assert "make viewer" in text
    tags = Tags(text).found
    assert "script" not in {tag for tag, _ in tags}
    pictures = [str(attributes["src"]) for tag, attributes in tags if tag == "img"]
    assert len(pictures) == len(list(Archive.open(archive)))
    for link in [*pictures, *(str(attributes["href"]) for tag, attributes in tags if tag == "a")]:
        assert plain.get("/" + link).status_code == 200


def test_threat_names_of_files_are_text_on_the_page(plain: TestClient) -> None:
    text = plain.get("/").text
    assert "&lt;script&gt;alert(1)" in text
    assert "<script" not in text


def test_the_plain_page_shows_what_a_token_may_read(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer, "BUILT", tmp_path / "nothing")
    ids = sorted(Archive.open(archive))
    secret, _ = add_token(tmp_path / "tokens.json", "one", ["read", "search"], [f"image:{ids[0]}"], None)
    settings = Settings(str(archive), tokens=tmp_path / "tokens.json")
    with TestClient(create_app(settings), base_url=BASE) as client:
        for path in ("/", "/viewer/viewer.js"):
            refused = client.get(path)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"].startswith("Basic")
        text = client.get("/", auth=("any name", secret)).text
    assert re.findall("[0-9a-f]{32}", text).count(ids[0]) == 2
    assert not any(other in text for other in ids[1:])


def test_a_description_tells_where_pixels_lie(client: TestClient, archive: Path) -> None:
    for image in Archive.open(archive).values():
        said = client.get(f"/api/images/{image.id}").json()
        attributes = image.description.info.attributes if image.description.info else {}
        assert said["orientation"] == attributes.get("orientation")
        assert said["transform"] == attributes.get("transform")
        if image.description.name.endswith("ct"):
            assert said["orientation"] == [1, 0, 0, 0, 1, 0]
            assert said["crs_unit"] is None
        if "scene" in image.description.name:
            assert len(said["transform"]) == 6
            assert said["crs_unit"] == "metre"


def test_contrast_is_taken_from_a_level_that_is_kept(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a scene is stretched by must not cost the decoding of all of it."""
    scene = next(image for image in Archive.open(archive).values() if "scene" in image.description.name)
    assert 2 not in scene.stored_levels
    monkeypatch.setattr(pictures, "SAMPLED_SIDE", 75)
    levels = []
    read = pictures.read_part

    def noted(image: Image, part: pictures.Part, *rest: Any) -> Any:
        levels.append(part.level)
        return read(image, part, *rest)

    monkeypatch.setattr(pictures, "read_part", noted)
    pictures.range_of(scene)
    assert levels == [scene.stored_levels[1]]


def test_a_damaged_tile_is_refused_and_the_others_are_shown(archive: Path, tmp_path: Path) -> None:
    shutil.copytree(archive, tmp_path / "archive")
    scene = next(i for i in Archive.open(tmp_path / "archive").values() if "scene" in i.description.name)
    shard = max((scene.path / "0" / "data" / "c").rglob("*"), key=lambda path: path.stat().st_size)
    data = bytearray(shard.read_bytes())
    data[100] ^= 0x55
    shard.write_bytes(data)
    with TestClient(create_app(Settings(str(tmp_path / "archive"))), base_url=BASE) as client:
        assert client.get(f"/api/images/{scene.id}").json()["range"]["max"] > 0
        tiles = [client.get(f"/api/images/{scene.id}/tiles/0/{n}/{n}.png?tilesize=64") for n in range(4)]
    codes = [tile.status_code for tile in tiles]
    assert codes == [500, 200, 200, 200]
    assert tiles[0].json()["code"] == "TileCorrupt"


# -- the sources of the viewer -----------------------------------------------------------------------------


def test_the_lock_file_names_no_host_and_pins_what_the_package_names() -> None:
    package = json.loads((SOURCES / "package.json").read_text())
    lock = json.loads((SOURCES / "package-lock.json").read_text())
    root = lock["packages"][""]
    for kind in ("dependencies", "devDependencies"):
        assert root[kind] == package[kind]
        for name, version in package[kind].items():
            assert re.fullmatch(r"\d+\.\d+\.\d+", version)
            assert lock["packages"][f"node_modules/{name}"]["version"] == version
    for name, entry in lock["packages"].items():
        assert not entry.keys() & {"resolved", "link", "inBundle"}
        assert not name or re.fullmatch(r"sha512-[\w+/]{86}==", entry["integrity"])


def test_the_page_names_only_files_that_are_built_beside_it() -> None:
    tags = Tags((SOURCES / "src" / "index.html").read_text()).found
    named = [v for _, attributes in tags for k, v in attributes.items() if k in ("src", "href") and v]
    loaded = [name for name in named if name.startswith("viewer/")]
    assert sorted(loaded) == ["viewer/icon.svg", "viewer/style.css", "viewer/viewer.js"]
    assert set(named) - set(loaded) == {"#main", "api/images"}
    assert all(Path(name).suffix in viewer.TYPES for name in loaded)
    assert not any("style" in attributes or k.startswith("on") for _, attributes in tags for k in attributes)


def test_every_key_that_is_listed_does_something() -> None:
    """And the other way round: a key that works and is not listed is found by nobody."""
    listed = (SOURCES / "src" / "help.ts").read_text().split("KEYS")[1]
    letters = {key.lower() for key in re.findall(r'\["([A-Z])", ', listed)}
    handled = set(re.findall(r"^ {4}([a-z]): ", (SOURCES / "src" / "keys.ts").read_text(), re.M))
    handled |= set(re.findall(r"[ ,{]([a-z]): \(\) =>", (SOURCES / "src" / "keys.ts").read_text()))
    assert letters == handled


@pytest.mark.skipif(not (viewer.BUILT / "index.html").exists(), reason="the viewer is not built: make viewer")
def test_the_built_viewer_loads_nothing_from_elsewhere() -> None:
    assets = viewer.load_assets(viewer.BUILT)
    assert set(assets) == {"index.html", "viewer.js", "style.css", "icon.svg", "LICENSES.txt"}
    assert b"OpenSeadragon" in assets["LICENSES.txt"].body
    assert not re.search(rb"@import|url\((?!['\"]?(#|data:))", assets["style.css"].body)
