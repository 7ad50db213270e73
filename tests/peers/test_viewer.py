"""The viewer in a real browser: headless Chromium against a running `tilevault serve`.

What is on the screen is compared with what is in the archive, pixel by pixel where that can be.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import pytest

import collection
import tilevault
from browsing import SHOWN, Served, chromium, drawn, find_chromium, new_page, point, show, until
from tilevault.workflows.serve import viewer

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium"),
    pytest.mark.skipif(not (viewer.BUILT / "index.html").exists(), reason="not built: make viewer"),
]

DESKTOP, PHONE = {"width": 1200, "height": 800}, {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("viewer")
    collection.write_ct_series(folder / "ct", slices=8, side=160)
    collection.write_scene(folder / "scene.tif", side=500)
    for bound in ({}, {"lossy": "psnr=45"}):
        added = tilevault.add([folder / "ct", folder / "scene.tif"], folder / "archive", tile=128, **bound)
        assert added.totals["added"] == 2, added
    return folder


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    served = Served(folder / "archive")
    yield served
    served.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Any, served: Served) -> Iterator[Any]:
    """A page that must stay without complaints of the browser, and within its own host."""
    page, complaints, hosts = new_page(browser, viewport=DESKTOP, accept_downloads=True), [], set()
    page.on("console", lambda said: complain(complaints, said))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: hosts.add(urlparse(request.url).netloc))
    page.complaints = complaints
    yield page
    page.context.close()
    assert page.complaints == []
    assert {host for host in hosts if host} == {urlparse(served.url).netloc}


def complain(complaints: list[str], said: Any) -> None:
    """Take note of what the browser says, but for its advice on how these tests read canvases."""
    if said.type in ("error", "warning") and "willReadFrequently" not in said.text:
        complaints.append(said.text)


def state(page: Any) -> dict[str, str]:
    """What the address says of the view, once it has caught up."""
    page.wait_for_timeout(400)
    query = page.evaluate("location.hash").partition("?")[2]
    return dict(pair.split("=", 1) for pair in query.split("&") if pair)


def windowed(value: float, center: float, width: float) -> float:
    """PS3.3 C.11.2.1.2.1."""
    return float(np.clip((value - (center - 0.5)) / (width - 1) + 0.5, 0, 1) * 255)


def test_the_catalogue_is_browsed_and_searched(page: Any, served: Served) -> None:
    page.goto(served.url)
    page.wait_for_selector(".card img")
    assert page.locator(".card").count() == len(served.images) == 4
    assert page.inner_text(".count") == "4 images"
    until(page, "[...document.querySelectorAll('.card img')].every(i => i.complete && i.naturalWidth)")
    page.fill("#search", "scene")
    until(page, "document.querySelectorAll('.card').length === 2")
    page.select_option("[aria-label=Kind]", "lossy")
    until(page, "document.querySelectorAll('.card').length === 1")
    assert page.inner_text(".card .tag") == "lossy psnr=45"
    page.fill("#search", "nothing like it")
    page.wait_for_selector("text=Nothing found")
    page.reload()
    page.wait_for_selector("text=Nothing found")
    page.click("text=Show all")
    until(page, "document.querySelectorAll('.card').length === 4")
    page.click(".card a >> nth=0")
    page.wait_for_selector(SHOWN)
    page.go_back()
    page.wait_for_selector(".grid")


def test_a_slice_is_drawn_as_its_window_says_and_read_as_it_is_kept(page: Any, served: Served) -> None:
    image = served.image("medical")
    attributes = image.description.info.attributes  # type: ignore[union-attr]
    for x, y in ((80, 80), (61, 92), (97, 40)):
        # The middle of that pixel in the middle of the view.
        show(page, served, image, f"?z=3&at={x}.5,{y}.5,8")
        found_x, found_y, said = point(page, 0.5, 0.5)
        assert (found_x, found_y) == (x, y)
        value = image[3, y, x].item() * attributes["rescale"]["slope"] + attributes["rescale"]["intercept"]
        assert said.split(" (")[0] == f"{value:g} HU"
        window = attributes["window"]
        grey = drawn(page, 0.5, 0.5)[0]
        assert abs(grey - windowed(value, window["center"], window["width"])) <= 1
    marks = page.locator(".marks b").all_inner_texts()
    assert marks == ["L", "R", "A", "P"]
    assert re.fullmatch(r"[\d.]+ (mm|cm)", page.inner_text(".scale-bar"))


def test_slices_are_turned_by_wheel_keys_and_slider_and_fetched_ahead(page: Any, served: Served) -> None:
    image = served.image("medical")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    show(page, served, image, "?z=3")
    page.wait_for_timeout(600)
    assert {int(z) for url in asked for z in re.findall(r"/tiles/.*[?&]z=(\d+)", url)} == {1, 2, 3, 4, 5}
    page.keyboard.press("PageDown")
    assert state(page)["z"] == "4"
    box = page.locator(".screen").bounding_box()
    page.mouse.move(box["x"] + 300, box["y"] + 200)
    page.mouse.wheel(0, 120)
    assert state(page)["z"] == "5"
    page.focus("input[data-axis=z]")
    page.keyboard.press("End")
    assert state(page)["z"] == "7"
    assert page.inner_text(".slices output") == "8 / 8"
    page.wait_for_selector(SHOWN)
    x, y, said = point(page, 0.502, 0.503)
    assert said.startswith(f"{image[7, y, x].item():g} ") or f"(stored {image[7, y, x].item()})" in said
    page.mouse.move(box["x"] + 300, box["y"] + 200)
    page.keyboard.down("Control")
    zoom = page.inner_text(".zoom")
    page.mouse.wheel(0, -300)
    page.keyboard.up("Control")
    page.wait_for_timeout(700)
    assert page.inner_text(".zoom") != zoom
    assert state(page)["z"] == "7"


def test_windows_are_dragged_chosen_and_typed(page: Any, served: Served) -> None:
    image = served.image("medical")
    show(page, served, image, "?at=70.5,90.5,5")
    box = page.locator(".screen").bounding_box()
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.down(button="right")
    page.mouse.move(box["x"] + 320, box["y"] + 260, steps=6)
    page.mouse.up(button="right")
    center, width = map(float, state(page)["window"].split(","))
    assert width > 400
    assert center > 40
    page.select_option(".panel select >> nth=0", label="Lung")
    assert state(page)["window"] == "-600,1500"
    page.wait_for_selector(SHOWN)
    _, _, said = point(page, 0.5, 0.5)
    page.wait_for_timeout(300)
    assert abs(drawn(page, 0.5, 0.5)[0] - windowed(float(said.split()[0]), -600, 1500)) <= 2
    page.fill(".panel .pair input >> nth=1", "3000")
    page.keyboard.press("Enter")
    assert state(page)["window"] == "-600,3000"
    page.focus(".openseadragon-canvas")
    page.keyboard.press("Shift+ArrowLeft")
    assert float(state(page)["window"].split(",")[1]) < 3000
    page.keyboard.press("r")
    assert "window" not in state(page)
    page.keyboard.press("w")
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 100, box["y"] + 200, steps=6)
    page.mouse.up()
    assert float(state(page)["window"].split(",")[1]) < 400


def test_bands_are_chosen_and_the_place_on_the_map_is_told(page: Any, served: Served) -> None:
    image = served.image("satellite")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    show(page, served, image)
    page.select_option(".panel select >> nth=0", label="Three bands")
    page.select_option("[aria-label=Red]", "4")
    until(page, "decodeURIComponent(location.href).includes('bands=4,')")
    page.wait_for_selector(SHOWN)
    page.wait_for_timeout(300)
    assert any("bidx=4&" in url for url in asked)
    x, y, said = point(page, 0.502, 0.503)
    assert re.findall(r"stored (.*)\)", said)[0].count(",") == 3
    a, _, c, _, e, f = image.description.info.attributes["transform"]  # type: ignore[union-attr]
    place = f"{a * (x + 0.5) + c:.1f}, {e * (y + 0.5) + f:.1f} (EPSG:32633)"
    assert place in page.inner_text(".readout .where")
    page.select_option(".panel select >> nth=0", label="One band")
    page.select_option("text=Colours >> xpath=.. >> select", "viridis")
    page.wait_for_timeout(500)
    page.wait_for_selector(SHOWN)
    red, green, blue, _ = drawn(page, 0.502, 0.503)
    assert len({red, green, blue}) > 1
    assert re.fullmatch(r"[\d.]+ k?m", page.inner_text(".scale-bar"))


def test_the_quality_map_has_a_legend_and_tells_the_numbers_of_a_tile(page: Any, served: Served) -> None:
    image = served.image("medical", lossy=True)
    show(page, served, image, "?z=3")
    page.keyboard.press("q")
    page.wait_for_selector(".legend .scale")
    assert state(page)["quality"] == "psnr"
    point(page, 0.502, 0.503)
    page.wait_for_selector(".numbers dd")
    names, values = (page.locator(f".numbers {tag}").all_inner_texts() for tag in ("dt", "dd"))
    told = dict(zip(names, values, strict=True))
    tile = tuple(at // n for at, n in zip((3, 80, 80), image.grid.tile, strict=True))
    assert told["Tile (row, column)"] == f"{tile[1]}, {tile[2]}"
    assert float(told["PSNR"].split()[0]) == pytest.approx(image.quality.psnr[tile], rel=1e-3)
    assert float(told["Largest error"].split()[0]) == image.quality.max_abs_error[tile]
    canvas = "document.querySelector('.quality-map')"
    count = f"{canvas}.getContext('2d').getImageData(0,0,{canvas}.width,{canvas}.height).data.some(v => v)"
    assert page.evaluate(count)
    # Over colours of its own the map's would not be those of its legend.
    grey = "getComputedStyle(document.querySelector('.openseadragon-canvas canvas:not(.quality-map)')).filter"
    assert "grayscale(1)" in page.evaluate(grey)
    page.keyboard.press("q")
    assert "quality" not in state(page)
    assert page.evaluate(f"{canvas}.hidden")


def test_two_copies_move_in_step(page: Any, served: Served) -> None:
    image, other = served.image("medical"), served.image("medical", lossy=True)
    show(page, served, image)
    page.keyboard.press("s")
    until(page, "document.querySelectorAll('.screen:not(.busy)').length === 2")
    assert page.locator(".caption").all_inner_texts() == ["lossless", "lossy, psnr=45"]
    assert state(page)["with"] == other.id
    first, second = (page.locator(".screen").nth(n).bounding_box() for n in (0, 1))
    page.mouse.move(second["x"] + 150, second["y"] + 350)
    page.keyboard.press("+")
    page.keyboard.press("+")
    page.mouse.down()
    page.mouse.move(second["x"] + 190, second["y"] + 390, steps=5)
    page.mouse.up()
    page.wait_for_timeout(1000)
    until(page, "document.querySelectorAll('.screen:not(.busy)').length === 2")
    places = []
    for box in (first, second):
        page.mouse.move(box["x"] + 120, box["y"] + 330)
        page.wait_for_timeout(300)
        places.append(page.inner_text(".readout .where"))
    assert places[0] == places[1]
    assert re.fullmatch(r"lossy, psnr=45: -?[\d.]+ HU", page.inner_text(".readout .beside"))
    # What is drawn is each image's own.
    show(page, served, image, f"?z=4&with={other.id}&at=90.5,70.5,6")
    until(page, "document.querySelectorAll('.screen:not(.busy)').length === 2")
    for n, one in enumerate((image, other)):
        assert abs(drawn(page, 0.5, 0.5, n)[0] - windowed(one[4, 70, 90].item(), 40, 400)) <= 1
    page.keyboard.press("x")
    page.wait_for_selector(".divider")
    page.wait_for_selector(SHOWN)
    page.focus(".divider")
    page.keyboard.press("End")
    assert page.get_attribute(".divider", "aria-valuenow") == "100"
    page.keyboard.press("Home")
    assert page.get_attribute(".divider", "aria-valuenow") == "0"
    assert state(page)["mode"] == "swipe"


def test_an_address_leads_back_to_the_view(page: Any, served: Served) -> None:
    image = served.image("satellite")
    show(page, served, image, "?bands=4,3,2&at=300,200,1.5")
    said = state(page)
    assert said["bands"] == "4,3,2"
    assert [float(n) for n in said["at"].split(",")] == pytest.approx([300, 200, 1.5], rel=0.01)
    assert page.inner_text(".zoom") == "150 %"
    x, y, _ = point(page, 0.502, 0.503)
    assert abs(x - 300) <= 1
    assert abs(y - 200) <= 1


def test_files_and_views_are_exported(page: Any, served: Served, folder: Path) -> None:
    image = served.image("satellite")
    show(page, served, image)
    page.click("text=Export")
    with page.expect_download() as coming:
        page.click("text=PNG of the view")
    assert Path(coming.value.path()).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert page.locator(".files a").count() == len(image.source.files)
    ct = served.image("medical")
    show(page, served, ct)
    page.click("summary:has-text('Export')")
    with page.expect_download() as coming:
        page.click(".files a >> nth=2")
    got = Path(coming.value.path()).read_bytes()
    assert got in {path.read_bytes() for path in (folder / "ct").iterdir()}


def test_damage_is_shown_as_damage(browser: Any, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "archive", tmp_path / "archive")
    served = Served(tmp_path / "archive")
    image = served.image("satellite")
    shard = max(
        (p for p in (image.path / "0" / "data").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    data = bytearray(shard.read_bytes())
    middle = len(data) // 3
    data[middle : middle + 64] = bytes(b ^ 0x55 for b in data[middle : middle + 64])
    shard.write_bytes(data)
    page = new_page(browser, viewport=DESKTOP)
    try:
        # At twice the size, so that level 0 is asked for.
        page.goto(f"{served.url}#/image/{image.id}?at=250,250,2")
        page.wait_for_selector(".notice")
        page.wait_for_selector(SHOWN)
        assert "Damaged in the archive" in page.inner_text(".notice")
        assert "Corrupt" in page.inner_text(".notice code")
        seen = {tuple(drawn(page, x, 0.5)[:3]) for x in np.linspace(0.3, 0.7, 40)}
        # The hatch and its edges are on a line between its two colours; pixels of the scene are not.
        assert all(red > green and red > blue for red, green, blue in seen)
    finally:
        page.context.close()
        served.stop()


def test_failures_of_the_server_are_told_in_words(browser: Any, served: Served) -> None:
    page = new_page(browser, viewport=DESKTOP)
    page.goto(f"{served.url}#/image/{'0' * 32}")
    page.wait_for_selector("[role=alert]")
    assert "no such image" in page.inner_text("[role=alert]")
    page.route("**/api/images?*", lambda route: route.abort())
    page.goto(f"{served.url}#/")
    page.wait_for_selector("[role=alert]")
    assert page.inner_text("[role=alert]") == "The server cannot be reached."
    page.unroute("**/api/images?*")
    page.click("text=Try again")
    page.wait_for_selector(".card img")
    problem = '{"status": 401, "code": "NotAuthenticated", "detail": "a token is wanted"}'
    page.route("**/tiles/**", lambda route: route.fulfill(status=401, body=problem))
    page.goto(f"{served.url}#/image/{served.image('medical').id}")
    page.wait_for_selector(".notice")
    assert "not signed in" in page.inner_text(".notice")
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_usable_on_a_phone(browser: Any, served: Served, scheme: str) -> None:
    page = new_page(browser, viewport=PHONE, has_touch=True, is_mobile=True, color_scheme=scheme)
    overflow = "document.documentElement.scrollWidth - innerWidth"
    page.goto(served.url)
    page.wait_for_selector(".card img")
    assert page.evaluate(overflow) <= 0
    show(page, served, served.image("medical"), f"?with={served.image('medical', lossy=True).id}&mode=swipe")
    assert page.evaluate(overflow) <= 0
    assert page.locator(".panel").is_hidden()
    box = page.locator(".screen").bounding_box()
    assert box["height"] > 450
    page.touchscreen.tap(box["x"] + 100, box["y"] + box["height"] / 2)
    until(page, "/HU/.test(document.querySelector('.readout').textContent)")
    page.tap(".panel-toggle")
    page.wait_for_selector(".panel:visible")
    assert page.evaluate(overflow) <= 0
    small = """[...document.querySelectorAll('button, select, summary, input, a.icon')]
        .filter(e => e.offsetParent && e.getBoundingClientRect().height < 31).map(e => e.outerHTML)"""
    assert page.evaluate(small) == []
    page.context.close()


def test_everything_has_a_name_and_is_reached_by_the_keyboard(page: Any, served: Served) -> None:
    show(page, served, served.image("medical"))
    page.keyboard.press("?")
    assert page.locator("dialog[open]").count() == 1
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("""() => {
            const e = document.activeElement;
            const style = getComputedStyle(e);
            const seen = style.outlineStyle !== 'none' || e.className === 'openseadragon-canvas';
            return [e.tagName, e.className, seen];
        }""")
        )
    tags = {tag for tag, _, _ in reached}
    assert {"A", "BUTTON", "INPUT", "SELECT", "SUMMARY"} <= tags
    assert any(name == "openseadragon-canvas" for _, name, _ in reached)
    assert all(seen for tag, _, seen in reached if tag != "BODY")
    nameless = """[...document.querySelectorAll('button, a, select, input, [role=slider]')].filter(e =>
        !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.[0]?.textContent.trim()))
        .map(e => e.outerHTML)"""
    assert page.evaluate(nameless) == []
    assert page.evaluate("[...document.images].every(image => image.hasAttribute('alt'))")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(browser: Any, served: Served, scheme: str) -> None:
    """WCAG 2.1, 1.4.3: 4.5 to 1."""
    page = new_page(browser, color_scheme=scheme)
    page.goto(served.url)
    names = ("page", "card", "ink", "soft", "accent", "on-accent", "good", "warn", "bad", "hover", "notice")
    script = "names => names.map(n => getComputedStyle(document.documentElement).getPropertyValue('--' + n))"
    colours = dict(zip(names, page.evaluate(script, list(names)), strict=True))
    pairs = [
        (text, ground)
        for text in ("ink", "soft", "accent", "good", "warn", "bad")
        for ground in ("page", "card")
    ]
    pairs += [("on-accent", "accent"), ("ink", "hover"), ("ink", "notice"), ("soft", "notice")]
    poor = {pair: round(contrast(colours[pair[0]], colours[pair[1]]), 2) for pair in pairs}
    assert {pair: ratio for pair, ratio in poor.items() if ratio < 4.5} == {}
    page.context.close()


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours as #rgb or #rrggbb."""

    def luminance(text: str) -> float:
        digits = text.strip().lstrip("#")
        digits = "".join(2 * c for c in digits) if len(digits) == 3 else digits
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_nothing_jumps_while_a_page_loads(page: Any, served: Served) -> None:
    """Cumulative layout shift: below 0.1 is good (web.dev/cls)."""
    page.add_init_script("""window.shift = 0; new PerformanceObserver(list => {
        for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value;
    }).observe({type: 'layout-shift', buffered: true});""")
    for place in ("#/", f"#/image/{served.image('medical').id}"):
        page.goto("about:blank")
        page.goto(served.url + place)
        page.wait_for_timeout(1500)
        assert page.evaluate("window.shift") < 0.1
