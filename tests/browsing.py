"""For tests in a real browser: a running server, headless Chromium, and what one does with a page."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peer_server import PEERS
from tilevault import Archive
from tilevault.archive import Image

__all__ = ["SHOWN", "Served", "chromium", "drawn", "find_chromium", "point", "show", "until"]

SERVE = "import sys; from tilevault.workflows.cli import main; sys.exit(main())"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
SHOWN = ".screen:not(.busy)"
"""A screen all of whose tiles have come."""
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LIBRARIES = "usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib"


def find_chromium() -> str | None:
    """Path of the system's Chromium, or of the one that `tests/peers/install.sh` has unpacked."""
    unpacked = PEERS / "root" / "usr/lib/chromium/chromium"
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return found or (str(unpacked) if unpacked.exists() else None)


@contextmanager
def chromium(*more: str) -> Iterator[Any]:
    """A browser of playwright's; ``more``: further switches of its command line."""
    from playwright.sync_api import sync_playwright

    path = find_chromium()
    assert path is not None
    environment = dict(os.environ)
    if Path(path).is_relative_to(PEERS):
        libraries = [str(PEERS / "root" / part) for part in LIBRARIES]
        environment["LD_LIBRARY_PATH"] = ":".join(libraries)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*FLAGS, *more], env=environment)
        yield browser
        browser.close()


class Served:
    """A running server and the archive behind it."""

    def __init__(self, archive: Path) -> None:
        command = [sys.executable, "-c", SERVE, "serve", str(archive), "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://[^ ]+", line)
        assert found, line
        self.url = found[0].strip()
        self.images = dict(Archive.open(archive).items())

    def image(self, kind: str, lossy: bool = False) -> Image:
        """The CT (``medical``) or the scene (``satellite``)."""
        (found,) = (
            image
            for image in self.images.values()
            if image.info and image.info.kind == kind and (image.round_trip == "lossy") == lossy
        )
        return found

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=30)


def until(page: Any, expression: str, seconds: float = 20) -> None:
    """Wait until an expression is true. (Playwright's own way needs `eval`, which the policy forbids.)"""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(50)


def show(page: Any, served: Served, image: Image, query: str = "") -> None:
    """Open an image and wait until all of it that is in view has come."""
    page.goto(f"{served.url}#/image/{image.id}{query}")
    page.wait_for_selector(SHOWN)
    until(page, "document.querySelector('.zoom').textContent !== ''")


def point(page: Any, x: float, y: float) -> tuple[int, int, str]:
    """Point at a share of the first screen: pixel (x, y) that the viewer names there, and what it says."""
    box = page.locator(".screen").first.bounding_box()
    # What stood there before may be of another slice.
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.wait_for_timeout(150)
    # The middle of the pixel of the screen that `drawn` reads.
    across, down = int(box["width"] * x) + 0.5, int(box["height"] * y) + 0.5
    page.mouse.move(box["x"] + across, box["y"] + down)
    until(page, "/x \\d+/.test(document.querySelector('.readout .where').textContent)")
    page.wait_for_timeout(150)
    until(page, "document.querySelector('.readout .what').textContent !== ''")
    found = re.search(r"x (\d+), y (\d+)", page.inner_text(".readout .where"))
    assert found
    return int(found[1]), int(found[2]), page.inner_text(".readout .what")


def drawn(page: Any, x: float, y: float, screen: int = 0) -> list[int]:
    """RGBA at a share of a screen's canvas."""
    script = """([x, y, n]) => {
        const canvas = document.querySelectorAll('.screen')[n].querySelector('.openseadragon-canvas canvas');
        const [i, j] = [Math.floor(x * canvas.width), Math.floor(y * canvas.height)];
        return [...canvas.getContext('2d').getImageData(i, j, 1, 1).data];
    }"""
    return list(page.evaluate(script, [x, y, screen]))
