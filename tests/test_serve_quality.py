"""The quality of each tile over HTTP: the numbers that were recorded, and pictures of them."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from dicom_builder import image as dicom
from tilevault import Archive
from tilevault.workflows import add

testclient = pytest.importorskip("starlette.testclient")

ROWS, COLUMNS, TILE = 150, 220, 64


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """A CT plane, lossless and lossy."""
    folder = tmp_path_factory.mktemp("quality")
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0:ROWS, 0:COLUMNS]
    noise = np.where(x < COLUMNS // 2, 2, 40)
    words = (1500 + 600 * np.sin(x / 19) * np.cos(y / 23) + rng.normal(0, 1, x.shape) * noise).astype("<u2")
    source = folder / "in"
    source.mkdir()
    (source / "a.dcm").write_bytes(dicom(words.tobytes(), Rows=ROWS, Columns=COLUMNS, Modality="CT"))
    add([source], folder / "archive", tile=TILE)
    add([source], folder / "archive", tile=TILE, lossy="max-error=4")
    return Archive.open(folder / "archive")


@pytest.fixture(scope="module")
def client(archives: Archive) -> Iterator[Any]:
    from tilevault.workflows.serve.app import create_app
    from tilevault.workflows.serve.settings import Settings

    with testclient.TestClient(
        create_app(Settings(archive=str(archives.path))), base_url="http://127.0.0.1"
    ) as opened:
        yield opened


def of(archive: Archive, fidelity: str) -> Any:
    (found,) = (image for image in archive.values() if image.fidelity == fidelity)
    return found


def test_a_lossless_image_tells_what_its_tiles_cost(archives: Archive, client: Any) -> None:
    image = of(archives, "exact")
    told = client.get(f"/api/images/{image.id}/quality").json()
    assert list(told["measures"]) == ["bits_per_sample"]
    assert told["tile"][-2:] == [TILE, TILE]
    assert told["summary"] is None
    found = client.get(f"/api/images/{image.id}/quality/bits_per_sample.json").json()
    assert np.array_equal(found["values"], image.quality.bits_per_sample[..., :, :])
    assert found["low"] == np.min(found["values"])
    assert found["high"] == np.max(found["values"])


def test_a_lossy_image_tells_what_was_lost(archives: Archive, client: Any) -> None:
    image = of(archives, "max-error=4")
    told = client.get(f"/api/images/{image.id}/quality").json()
    assert {"psnr", "ssim", "ms_ssim", "max_abs_error", "step", "restoration_gain"} <= set(told["measures"])
    assert "model" not in told["measures"]
    for name in told["measures"]:
        found = client.get(f"/api/images/{image.id}/quality/{name}.json").json()
        recorded = (
            image.quality.bits_per_sample if name == "bits_per_sample" else getattr(image.quality, name)
        )
        assert np.array_equal(np.array(found["values"]), np.asarray(recorded, np.float64))
        assert found["units"] == told["measures"][name]["units"]
    worst = client.get(f"/api/images/{image.id}/quality/max_abs_error.json").json()
    assert 0 < np.max(worst["values"]) <= 4


def test_pictures_have_a_pixel_per_tile_and_order_the_tiles(archives: Archive, client: Any) -> None:
    image = of(archives, "exact")
    answer = client.get(f"/api/images/{image.id}/quality/bits_per_sample.png")
    assert answer.headers["content-type"] == "image/png"
    picture = np.asarray(PIL.Image.open(io.BytesIO(answer.content))).astype(int)
    values = image.quality.bits_per_sample
    assert picture.shape == (*values.shape[-2:], 3)
    # Viridis grows in green from dark to light.
    assert picture[..., 1].ravel()[np.argmin(values)] == 1
    assert picture[..., 1].ravel()[np.argmax(values)] == 231
    fixed = client.get(f"/api/images/{image.id}/quality/bits_per_sample.png?rescale=100,200")
    assert (np.asarray(PIL.Image.open(io.BytesIO(fixed.content)))[..., 1] == 1).all()


def test_a_position_along_another_axis_is_picked_else_the_worst_is_shown(tmp_path: Path) -> None:
    from tilevault.workflows.serve.quality import measure_map

    rng = np.random.default_rng(8)
    values = (1000 + np.cumsum(rng.normal(0, 20, (3, 80, 80)), axis=2)).astype("<i2")
    for z in range(3):
        words = (values[z] if z != 1 else rng.integers(0, 4000, (80, 80))).astype("<u2")
        (tmp_path / f"{z}.dcm").write_bytes(
            dicom(
                words.tobytes(),
                Rows=80,
                Columns=80,
                Modality="CT",
                SOPInstanceUID=f"1.2.3.{z + 1}",
                InstanceNumber=[z + 1],
                SeriesInstanceUID="1.2.9",
                ImagePositionPatient=[0, 0, float(z)],
                ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            )
        )
    add([tmp_path], tmp_path / "archive", tile=64)
    (image,) = Archive.open(tmp_path / "archive").values()
    bits = image.quality.bits_per_sample
    assert bits.ndim == 3
    assert bits.shape[0] > 1
    assert np.array_equal(measure_map(image, "bits_per_sample", {"z": 2}), bits[-1])
    assert np.array_equal(measure_map(image, "bits_per_sample", {}), bits.max(axis=0))


@pytest.mark.parametrize(
    "query",
    ["psnr.json", "no.json", "model.png", "bits_per_sample.json?z=0", "bits_per_sample.png?rescale=2,1"],
)
def test_what_is_not_recorded_is_said_so(archives: Archive, client: Any, query: str) -> None:
    answer = client.get(f"/api/images/{of(archives, 'exact').id}/quality/{query}")
    if "z=0" in query:
        assert answer.status_code == 200, "an axis that the image lacks is no question about it"
        return
    assert answer.status_code == 400
    assert json.loads(answer.content)["code"] == "InvalidRequest"


def test_unknown_images_are_not_found(client: Any) -> None:
    assert client.get(f"/api/images/{'0' * 32}/quality").status_code == 404
