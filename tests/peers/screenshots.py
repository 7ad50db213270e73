"""The pictures of the documentation: ``python tests/peers/screenshots.py docs/pictures``.

Everything on them is generated, or comes with pydicom and scikit-image: the collection of `make demo`,
archived losslessly and in part lossily, served, and looked at in a headless Chromium. Needs what
`make test-peers` installs and builds.
"""

import io
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image as Picture

import tilevault
from tilevault.archive import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import browsing
import collection

LARGEST = 80_000
"""Bytes of a picture."""
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 780}
CT, SCENE = "Axial 2.5 mm", "scene.tif"
Shot = Callable[[Any, browsing.Served], None]


def copy(served: browsing.Served, name: str, lossy: bool = False) -> Image:
    """The lossless or the lossy image of that name."""
    images = served.images.values()
    (found,) = (i for i in images if i.description.name.endswith(name) and (i.round_trip == "lossy") == lossy)
    return found


def catalogue(page: Any, served: browsing.Served) -> None:
    """All images."""
    page.goto(served.url)
    page.wait_for_selector(".card img")
    seen = "i.getBoundingClientRect().top > innerHeight || i.complete && i.naturalWidth"
    browsing.until(page, f"[...document.querySelectorAll('.card img')].every(i => {seen})")


def window(page: Any, served: browsing.Served) -> None:
    """A slice in the window of the lung, with what is under the pointer."""
    browsing.show(page, served, copy(served, CT), "?z=9&window=-600,1500")
    browsing.point(page, 0.36, 0.45)


def bands(page: Any, served: browsing.Served) -> None:
    """Infrared, red and green of the scene."""
    browsing.show(page, served, copy(served, SCENE), "?bands=4,3,2")
    browsing.point(page, 0.55, 0.4)


def quality(page: Any, served: browsing.Served) -> None:
    """The quality map of the lossy scene, with the numbers of a tile."""
    browsing.show(page, served, copy(served, SCENE, lossy=True), "?quality=psnr")
    page.wait_for_selector(".legend .scale")
    browsing.point(page, 0.4, 0.55)
    page.wait_for_selector(".numbers dd")


def compare(page: Any, served: browsing.Served) -> None:
    """Lossless and lossy in step."""
    image, other = copy(served, CT), copy(served, CT, lossy=True)
    browsing.show(page, served, image, f"?z=9&with={other.id}&at=150.5,250.5,3&window=-600,1500")
    browsing.until(page, "document.querySelectorAll('.screen:not(.busy)').length === 2")
    browsing.point(page, 0.55, 0.45)


def phone(page: Any, served: browsing.Served) -> None:
    """The divider between the two copies, on a telephone."""
    image, other = copy(served, CT), copy(served, CT, lossy=True)
    browsing.show(page, served, image, f"?z=9&with={other.id}&mode=swipe")
    box = page.locator(".screen").bounding_box()
    page.touchscreen.tap(box["x"] + 150, box["y"] + box["height"] / 2)
    browsing.until(page, "/HU/.test(document.querySelector('.readout').textContent)")


SHOTS: dict[str, tuple[Shot, dict[str, Any]]] = {
    "viewer-catalogue": (catalogue, {"viewport": DESKTOP}),
    "viewer-window": (window, {"viewport": DESKTOP}),
    "viewer-bands": (bands, {"viewport": DESKTOP, "color_scheme": "dark"}),
    "viewer-quality": (quality, {"viewport": DESKTOP}),
    "viewer-compare": (compare, {"viewport": DESKTOP}),
    "viewer-phone": (phone, {"viewport": PHONE, "has_touch": True, "is_mobile": True}),
}


@contextmanager
def serving() -> Iterator[browsing.Served]:
    """A server on an archive of generated images."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["TILEVAULT_CACHE"] = str(folder / "cache")
        collection.build(folder / "collection", slices=20, side=1800)
        ct, scene = folder / "collection/hospital/ct", folder / "collection/maps/scene.tif"
        tilevault.add([ct, scene.parent, folder / "collection/pictures"], folder / "archive")
        tilevault.add([ct, scene], folder / "archive", tile=128, lossy="psnr=45")
        served = browsing.Served(folder / "archive")
        try:
            yield served
        finally:
            served.stop()


def webp(png: bytes) -> bytes:
    """A picture as WebP, as good as its limit of bytes allows."""
    picture = Picture.open(io.BytesIO(png)).convert("RGB")
    for quality in range(85, 20, -5):
        made = io.BytesIO()
        picture.save(made, "WEBP", quality=quality, method=6)
        if made.tell() <= LARGEST:
            return made.getvalue()
    raise ValueError(f"a picture of {picture.size} does not fit into {LARGEST} bytes")


def main(out: Path, wanted: str = "") -> None:
    """Take those pictures whose names contain ``wanted``."""
    out.mkdir(parents=True, exist_ok=True)
    with serving() as served, browsing.chromium() as browser:
        for name, (shot, options) in SHOTS.items():
            if not re.search(wanted, name):
                continue
            page = browsing.new_page(browser, **options)
            shot(page, served)
            page.wait_for_timeout(800)
            made = webp(page.screenshot())
            (out / f"{name}.webp").write_bytes(made)
            print(f"{name}.webp  {len(made)} bytes")
            page.context.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
