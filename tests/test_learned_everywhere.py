"""One lossy archive, decoded in every way there is: the pixels have one digest.

Readers decode with the native networks, in one thread or in several; the independent reader with NumPy, and
here also with torch's tensors, on the CPU and, where there is one, on a GPU.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio import Affine

import independent_reader
import nn_twin
from tilevault import Archive, add
from tilevault.archive import parallel
from tilevault.archive.store import Image
from tilevault.codecs.weights import CURRENT_MODEL

Planes = NDArray[np.int64]
SIDES = (200, 150)
TILE = 64


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of 2 x 200 x 150 in twelve tiles, some of which restoration improves."""
    folder = tmp_path_factory.mktemp("everywhere")
    draw = np.random.default_rng(3)
    y, x = np.mgrid[: SIDES[0], : SIDES[1]]
    waves = 900 + 600 * np.sin(x / 17) * np.cos(y / 13) + 500 * (x + y > 170)
    words = (waves + draw.normal(0, 9, (2, *SIDES))).astype(np.uint16)
    form = {"driver": "GTiff", "width": SIDES[1], "height": SIDES[0], "count": 2, "dtype": "uint16"}
    place = {"crs": "EPSG:32633", "transform": Affine(10, 0, 500_000, 0, -10, 5_000_000)}
    with rasterio.open(folder / "scene.tif", "w", **form, **place) as out:
        out.write(words)
    result = add([folder / "scene.tif"], folder / "archive", lossy="psnr=38", tile=TILE)
    assert [entry.status for entry in result.images] == ["added"]
    return folder / "archive"


def only(archive: Path) -> Image:
    opened = Archive.open(archive)
    (name,) = opened
    return opened[name]


def digest(words: NDArray[np.generic]) -> str:
    assert words.shape == (2, *SIDES)
    return hashlib.sha256(np.ascontiguousarray(words).tobytes()).hexdigest()


@pytest.fixture(scope="module")
def expected(archive: Path) -> str:
    """Of one thread."""
    image = only(archive)
    image.threads = False
    learned = image.quality.tables.arrays["model"][..., 0] == bytes.fromhex(CURRENT_MODEL)[0]
    gains = image.quality.tables.arrays["restoration_gain"]
    assert learned.sum() >= 6
    assert (gains > 0).sum() >= 3
    assert digest(image.read(restore=False)) != digest(image.read())
    return digest(image.read())


def test_the_digest_is_the_one_that_was_recorded(archive: Path, expected: str) -> None:
    """A reader that compares each tile with the pixels that were archived agrees."""
    image = only(archive)
    for index in np.ndindex(image.readers["data"].array.grid.tiles):
        image.readers["data"].check_pixels(index)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads(threads: int, archive: Path, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    used: set[int] = set()
    both = threading.Barrier(threads)

    def meet() -> None:
        both.wait(timeout=60)  # so that no thread does all the work
        used.add(threading.get_ident())

    with ThreadPoolExecutor(threads, initializer=meet) as pool:
        monkeypatch.setattr(parallel, "_pool", lambda far: pool)
        found = digest(only(archive).read())
    assert len(used) == threads
    assert found == expected


def test_the_numpy_reference(archive: Path, expected: str) -> None:
    (name,) = independent_reader.images(archive)
    assert digest(independent_reader.open_image(archive, name).words()) == expected


def on_tensors(device: str) -> Callable[..., list[Planes]]:
    """`nn_twin.run` by torch, float64."""
    import torch

    from tilevault.codecs.models.integer import integer_network

    @cache
    def network(blob: bytes) -> Callable[..., list[object]]:
        return integer_network(blob, device)

    def run(blob: bytes, inputs: Sequence[Planes], rows: int, columns: int) -> list[Planes]:
        entered = [torch.from_numpy(np.array(x, np.float64))[None].to(device) for x in inputs]
        with torch.no_grad():
            outputs = network(blob)(*entered)
        return [np.rint(y[0].cpu().numpy()).astype(np.int64) for y in outputs]

    return run


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_torch(where: str, archive: Path, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    if where == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    torch.set_num_threads(1)
    calls: list[int] = []
    run = on_tensors(where)

    def counted(*given: object) -> list[Planes]:
        calls.append(1)
        return run(*given)

    monkeypatch.setattr(nn_twin, "run", counted)
    (name,) = independent_reader.images(archive)
    assert digest(independent_reader.open_image(archive, name).words()) == expected
    assert len(calls) > 60
