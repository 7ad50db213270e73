"""The pictures of the guides to DICOMweb and maps: ``python tests/peers/screenshots_peers.py docs/pictures``.

A generated CT series in the released OHIF, and a generated scene as the map server draws it. Needs what
`make test-peers` installs.
"""

import os
import sys
import tempfile
import urllib.request
from pathlib import Path

from screenshots import webp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import browsing
import collection
import tilevault
from ohif_site import WEBGL, ohif_site

DESKTOP = {"width": 1280, "height": 800}
DRAWN_SECONDS = 90


def ohif(served: browsing.Served) -> bytes:
    """The series in OHIF, as PNG."""
    study = next(i for i in served.images.values() if i.info and i.info.kind == "medical")
    uid = study.source.files[0].record["uids"]["study"]
    with ohif_site(served.url.rstrip("/")) as site, browsing.chromium(*WEBGL) as browser:
        page = browser.new_page(viewport=DESKTOP)
        page.set_default_timeout(DRAWN_SECONDS * 1000)
        # Neither its notice nor its tour: a person sees them once.
        page.goto(f"{site}/viewer?StudyInstanceUIDs={uid}")
        page.get_by_text("Confirm and hide").click()
        page.get_by_text("Skip all").click()
        page.locator("canvas.cornerstone-canvas").hover()
        page.wait_for_timeout(5000)
        return bytes(page.screenshot())


def scene(served: browsing.Served) -> bytes:
    """The scene in Web Mercator, infrared, red and green, as PNG."""
    image = next(i for i in served.images.values() if i.info and i.info.kind == "satellite")
    address = (
        f"{served.url.rstrip('/')}/maps/{image.id}/preview.png"
        "?dst_crs=EPSG:3857&max_size=640&bidx=4&bidx=3&bidx=2"
    )
    with urllib.request.urlopen(address, timeout=60) as answer:
        return bytes(answer.read())


def main(out: Path) -> None:
    """Take both."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["TILEVAULT_CACHE"] = str(folder / "cache")
        collection.write_ct_series(folder / "ct", slices=20)
        (folder / "maps").mkdir()
        collection.write_scene(folder / "maps" / "scene.tif", side=1800)
        tilevault.add([folder / "ct", folder / "maps"], folder / "archive")
        served = browsing.Served(folder / "archive")
        try:
            for made, png in (("maps-scene", scene(served)), ("dicomweb-ohif", ohif(served))):
                (out / f"{made}.webp").write_bytes(webp(png))
                print(f"{made}.webp  {(out / made).with_suffix('.webp').stat().st_size} bytes")
        finally:
            served.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
