"""The released OHIF in Chromium, with the configuration of the guide: what it lists, and what it draws."""

import base64
import io
import json
import re
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.filebase import DicomBytesIO

from browsing import chromium, find_chromium
from ohif_site import BUILT, WEBGL, ohif_site
from peer_server import Server

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = [
    pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium"),
    pytest.mark.skipif(not BUILT.exists(), reason="OHIF is not there (tests/peers/install_ohif.sh)"),
]

PATIENCE = 90_000
"""Milliseconds: OHIF has megabytes of scripts, and draws without a graphics card here."""
CANVAS = "canvas.cornerstone-canvas"
TOUR = ".shepherd-element, .shepherd-modal-overlay-container"


@pytest.fixture(scope="module")
def site(server: Server) -> Iterator[str]:
    with ohif_site(server.url) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium(*WEBGL) as browser:
        yield browser


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page; nothing that it asks of us may fail."""
    page = browser.new_page(viewport={"width": 1000, "height": 700})
    page.set_default_timeout(PATIENCE)
    refused: list[str] = []

    def note(answer: Any) -> None:
        if "/dicom-web/" in answer.url and answer.status >= 300:
            refused.append(f"{answer.status} {answer.url}")

    page.on("response", note)
    yield page
    page.close()
    assert not refused


def test_the_list_of_studies(page: Any, site: str, server: Server) -> None:
    """Those without a name, a date or a modality do not keep it from listing the others."""
    with urllib.request.urlopen(f"{server.dicomweb}/studies") as answer:
        count = len(json.load(answer))
    page.goto(site)
    error = page.get_by_text("Data Source Connection Error")
    # Where it fails, there is one row, which says that there are no studies.
    page.locator("tbody tr").nth(5).or_(error).first.wait_for()
    assert error.count() == 0
    page.get_by_text(re.compile(rf"\bof {count}$")).wait_for()


def test_a_study_is_drawn_as_it_is_archived(page: Any, site: str, originals: dict[str, bytes]) -> None:
    page.goto(f"{site}/viewer?StudyInstanceUIDs=1.2.3")
    # The tour that OHIF offers whoever comes first lies over everything, sooner or later.
    page.add_style_tag(content=f"{TOUR} {{ display: none !important }}")
    page.wait_for_selector(CANVAS)
    slices = {n: shown(originals[f"1.2.3.1.{n}"]) for n in range(1, 21)}
    first = wait_for_slice(page, slices, set(slices))
    # The next one on the wheel is the neighbour.
    page.locator(CANVAS).hover()
    page.mouse.wheel(0, 100)
    wait_for_slice(page, slices, {first - 1, first + 1})


def shown(file: bytes) -> NDArray[np.float64]:
    """A slice in the window that it names, 0 to 1."""
    data = pydicom.dcmread(DicomBytesIO(file))
    values = data.pixel_array * float(data.RescaleSlope) + float(data.RescaleIntercept)
    low = float(data.WindowCenter) - float(data.WindowWidth) / 2
    return np.clip((values - low) / float(data.WindowWidth), 0, 1)


def wait_for_slice(page: Any, slices: dict[int, NDArray[np.float64]], wanted: set[int]) -> int:
    """The number of the slice that is on the screen, as soon as it is one of those."""
    best = 0
    for _ in range(PATIENCE // 500):
        likeness = {n: like(drawn(page), slice_) for n, slice_ in slices.items()}
        best = max(likeness, key=lambda n: likeness[n])
        if likeness[best] > 0.98 and best in wanted:
            return best
        page.wait_for_timeout(500)
    raise AssertionError(f"slice {best} of {sorted(wanted)}, {likeness[best]:.3f}")


def drawn(page: Any) -> NDArray[np.float64]:
    """What OHIF has drawn: the square in the middle that a slice fills."""
    url = page.evaluate(f"document.querySelector('{CANVAS}').toDataURL()")
    picture = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("L")
    side, (width, height) = min(picture.size), picture.size
    left, top = (width - side) // 2, (height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((128, 128), Image.Resampling.BOX), np.float64)


def like(picture: NDArray[np.float64], slice_: NDArray[np.float64]) -> float:
    """Correlation; 0 of a picture of one colour."""
    if picture.std() == 0:
        return 0.0
    return float(np.corrcoef(picture.ravel(), slice_.ravel())[0, 1])
