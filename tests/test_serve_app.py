"""The server's frame: routes behind the guard, problems, health."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import collection
import tilevault
from tilevault import Archive
from tilevault.workflows.serve.app import create_app
from tilevault.workflows.serve.settings import Settings


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    collection.write_ct_series(folder / "ct", slices=3, side=96)
    collection.write_scene(folder / "scene.tif", side=300)
    tilevault.add([folder / "ct", folder / "scene.tif"], folder / "archive", tile=64)
    return folder / "archive"


@pytest.fixture(scope="module")
def client(archive: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(str(archive))), base_url="http://localhost:8480") as client:
        yield client


def test_health_is_for_everybody(client: TestClient) -> None:
    assert client.get("/health").json() == {"status": "ok", "version": tilevault.__version__}


def test_an_image_tells_what_it_is(client: TestClient, archive: Path) -> None:
    for name, image in Archive.open(archive).items():
        answer = client.get(f"/api/images/{name}")
        assert answer.status_code == 200
        assert answer.json()["shape"] == list(image.shape)


@pytest.mark.parametrize("path", ["/api/images/" + "0" * 32, "/api/images/scene.tif", "/nothing"])
def test_what_is_not_there_is_a_problem(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] in ("ImageNotFound", "NotFound")


@pytest.mark.parametrize(
    ("path", "methods"), [("/api/images", "GET, HEAD"), ("/dicom-web/studies", "GET, HEAD, POST")]
)
def test_a_method_that_is_none_is_told_all_that_are(client: TestClient, path: str, methods: str) -> None:
    answer = client.delete(path)
    assert (answer.status_code, answer.headers["allow"]) == (405, methods)
    assert answer.json()["code"] == "MethodNotAllowed"
