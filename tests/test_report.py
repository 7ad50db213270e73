"""The report page: hostile names stay text, large collections stay small, nothing comes from elsewhere."""

import base64
import re
import shutil
import stat
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.errors import NotGeoreferencedWarning

import collection
from tilevault.archive.image import ImageInfo
from tilevault.archive.render import png_bytes
from tilevault.archive.store import Archive
from tilevault.codecs.errors import Conflict, TilevaultError
from tilevault.workflows.ingest import AddResult, add
from tilevault.workflows.report import (
    MAX_PICTURES,
    Report,
    ReportFile,
    ReportImage,
    _bits_per_pixel,
    gather,
    write_report,
)
from tilevault.workflows.report_charts import heat_map, text
from tilevault.workflows.report_page import render_page

THUMBNAIL = png_bytes(np.random.default_rng(0).integers(0, 255, (128, 128), dtype=np.uint8))
TAGS = frozenset(
    re.findall(
        r"\w+",
        "html head meta title style body main header h1 h2 h3 p strong section div span b i ul li dl dt dd "
        "svg text rect line figure img details summary table thead tbody tr th td code footer",
    )
)


class Page(HTMLParser):
    """Tags, attributes and text of a page, as a browser takes them."""

    VOID = frozenset(("meta", "img"))

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def check(self) -> "Page":
        """Well formed, only our tags, no scripts, nothing from elsewhere."""
        assert self.open == []
        for tag, attributes in self.tags:
            assert tag in TAGS, tag
            for name, value in attributes.items():
                assert not name.startswith("on")
                assert name not in ("href", "style", "srcset", "action")
                assert name != "src" or (value or "").startswith("data:image/png;base64,")
        return self


def image(**fields: Any) -> ReportImage:
    return ReportImage(
        **{
            "id": "0123456789abcdef" * 2,
            "name": "study/IM0001",
            "status": "added",
            "round_trip": "file-exact",
            "bytes_source": 524288,
            "bytes_stored": 262144,
            "sources": 1,
            "modality": "CT",
            "shape": (512, 512),
            "axes": ("y", "x"),
            "dtype": "int16",
            "codec": "tilevault.lossless",
            **fields,
        }
    )


def report(*images: ReportImage, files: tuple[ReportFile, ...] = (), **fields: Any) -> Report:
    return Report(
        **{
            "title": "archive",
            "images": images,
            "files": files,
            "files_read": len(images) + len(files),
            "seconds": 2.0,
            "made": "2026-01-01T00:00:00+00:00",
            "version": "0.1.0",
            "settings": {"tile side": "512"},
            **fields,
        }
    )


def test_the_page_says_what_happened() -> None:
    grid = np.array([[1.5, 2.0], [3.0, 4.25]])
    page = Page(
        render_page(
            report(
                image(
                    thumbnail=THUMBNAIL, bits_per_pixel=grid, tile=(256, 256), warnings=("HighBit is odd",)
                ),
                image(name="scene.tif", modality="GeoTIFF", round_trip="metadata-exact", bytes_stored=131072),
                image(
                    name="bad",
                    status="failed",
                    bytes_stored=0,
                    code="VerifyAfterEncodeFailed",
                    reason="tile 3",
                ),
                files=(
                    ReportFile("README.TXT", "skipped", "NotRecognized", "neither DICOM nor TIFF"),
                    ReportFile("cut.dcm", "rejected", "TruncatedSource", "ends early"),
                ),
            )
        )
    ).check()
    for expected in (
        "This page holds patient data.",
        "2.67",  # 1 MiB of files in 384 KiB
        "2.00",
        "4.00",
        "HighBit is odd",
        "VerifyAfterEncodeFailed",
        "TruncatedSource",
        "README.TXT",
        "2 x 2 tiles",
        "0.5 MB/s",
        "tile side",
    ):
        assert expected in page.text, expected
    pictures = [a["src"] for t, a in page.tags if t == "img"]
    assert len(pictures) == 3  # preview beside the heat map, the heat map, the thumbnail in the table
    assert f"data:image/png;base64,{base64.b64encode(THUMBNAIL).decode()}" in pictures


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "'; background:url(https://example.org)",
        "</style><script>",
        "</title><script>",
        "&lt;b&gt;",
        "\u202egpj.exe\u2066",
        "a\x00b\x1b[2J\r\n\x85",
        "\ud800",
        "x" * 5000,
        "]]><!--",
    ],
)
def test_threat_a_hostile_name_is_text_everywhere(hostile: str) -> None:
    made = report(
        image(
            id=hostile,
            name=hostile,
            status=hostile,
            round_trip=hostile,
            modality=hostile,
            axes=(hostile, "x"),
            dtype=hostile,
            codec=hostile,
            code=hostile,
            reason=hostile,
            warnings=(hostile,),
            bits_per_pixel=np.ones((1, 3)),
            bits_along=hostile,
        ),
        files=(
            ReportFile(hostile, hostile, hostile, hostile),
            ReportFile(hostile, "rejected", hostile, hostile),
        ),
        title=hostile,
        version=hostile,
        made=hostile,
        settings={hostile: hostile},
    )
    rendered = render_page(made)
    page = Page(rendered).check()
    assert len([t for t, _ in page.tags if t == "img"]) == 1
    encoded = rendered.encode("utf-8")
    assert len(encoded) < 60_000
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", rendered)


@settings(max_examples=200)
@given(st.text(st.characters(codec=None), max_size=300))
def test_any_text_comes_out_as_one_piece_of_text(value: str) -> None:
    page = Page(f"<p>{text(value)}</p>")
    assert page.tags == [("p", {})]
    assert "".join(page.words).isprintable()


def test_nothing_is_loaded_from_elsewhere() -> None:
    rendered = render_page(report(image(bits_per_pixel=np.ones((2, 2)), warnings=("w",))))
    rendered = re.sub(r"data:image/png;base64,[\w+/=]+", "", rendered)
    assert "default-src 'none'" in rendered
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<script|<link|javascript:", rendered)


def test_thumbnails_can_be_left_out_and_the_page_says_what_is_still_in_it() -> None:
    page = Page(render_page(report(image(name="DOE^JANE.dcm"), thumbnails=False))).check()
    assert "Pictures were left out" in page.text
    assert "may hold patient data" in page.text
    assert "DOE^JANE.dcm" in page.text
    assert [t for t, _ in page.tags if t == "img"] == []


def test_ten_thousand_images_make_a_page_that_opens() -> None:
    pictured = [image(thumbnail=THUMBNAIL, bits_per_pixel=np.ones((64, 64))) for _ in range(MAX_PICTURES)]
    others = [image(name=f"study/{i:08}/" + "n" * 100) for i in range(12_000 - MAX_PICTURES)]
    files = tuple(ReportFile(f"cd/{i}", "skipped", "NotRecognized", "no image") for i in range(12_000))
    rendered = render_page(report(*pictured, *others, files=files))
    assert len(rendered) < 25_000_000
    assert "The first 10,000 of 12,000 images are listed." in rendered
    assert f"Pictures of the first {MAX_PICTURES} images only." in rendered


def test_nothing_is_wider_than_a_narrow_screen() -> None:
    """Columns of a grid may shrink below the width that they would like to have."""
    page = render_page(report(image(bits_per_pixel=np.ones((2, 2)))))
    wishes = re.findall(r"minmax\(([^()]*(?:\([^()]*\))?[^()]*)\)", page)
    assert wishes
    assert all(wish.startswith(("0,", "min(")) for wish in wishes), wishes
    assert "white-space" not in page.partition(".tile b{")[2].partition("}")[0]


def test_throughput_is_that_of_the_terminal(stored: tuple[Archive, AddResult]) -> None:
    from tilevault.workflows.commands import _totals_line

    archive, result = stored
    more = replace(result.images[0], status="present", bytes_source=10**9)
    result = replace(result, images=(*result.images, more), totals={**result.totals, "seconds": 2.0})
    line = _totals_line(dict(result.totals), result.images)
    (told,) = re.findall(r"[0-9.]+ MB/s", line)
    assert f"<b>{told}</b>" in render_page(gather(archive, result))
    assert float(told.split()[0]) < 400, "what was there already was not read"


def test_a_report_of_nothing() -> None:
    page = Page(render_page(report())).check()
    assert "Nothing was stored." in page.text
    assert "There were none." in page.text


def test_images_without_pixels_and_odd_numbers() -> None:
    page = Page(
        render_page(
            report(
                image(shape=None, axes=(), dtype="", modality="SR"),
                image(bytes_source=0, bytes_stored=10, modality="SEG"),
                image(status="planned", bytes_stored=0),
                image(bits_per_pixel=np.array([[0.0, np.nan]]), bits_along="z"),
                seconds=0.0,
            )
        )
    ).check()
    assert "no pixels" in page.text
    assert "Throughput" not in page.text


def test_many_modalities_are_summed_up() -> None:
    page = render_page(report(*(image(modality=f"M{i:02}", bytes_source=1000 * (i + 1)) for i in range(40))))
    assert page.count('class="bar"') == 13
    assert "others" in page


# -- heat maps -------------------------------------------------------------------------------------------


def decoded(png: bytes) -> Any:
    import io

    return pytest.importorskip("imageio.v3").imread(io.BytesIO(png), extension=".png")


def test_heat_map_puts_tiles_where_they_are() -> None:
    # 1.25 x 2 tiles: the second row of tiles is a quarter as high as the first.
    png, low, high = heat_map(np.array([[1.0, 2.0], [3.0, 4.0]]), (640, 1024), (512, 512))
    picture = decoded(png)
    assert picture.shape == (100, 160, 3)
    assert (low, high) == (1.0, 4.0)
    assert picture[0, 0].tolist() == [68, 1, 84]
    assert picture[99, 159].tolist() == [253, 231, 37]
    assert (picture[:80, 0] == picture[0, 0]).all()
    assert (picture[80:, 0] == picture[99, 0]).all()
    assert not (picture[79, 0] == picture[80, 0]).all()


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([32, 64, 512]), st.sampled_from([32, 512]))
def test_heat_map_of_any_grid(height: int, width: int, tile_y: int, tile_x: int) -> None:
    grid = np.random.default_rng(0).random((-(-height // tile_y), -(-width // tile_x)))
    png, low, high = heat_map(grid, (height, width), (tile_y, tile_x))
    assert (low, high) == (grid.min(), grid.max())
    assert 1 <= min(decoded(png).shape[:2]) <= max(decoded(png).shape[:2]) == 160


def described(axes: tuple[str, ...], shape: tuple[int, ...]) -> ImageInfo:
    return ImageInfo(shape, np.dtype("u2"), axes, "medical")


def test_bits_per_pixel_count_all_samples_of_a_pixel() -> None:
    info = described(("c", "y", "x"), (3, 64, 100))
    bits = np.array([[[64 * 64 * 12, 64 * 36 * 6]]])
    samples = np.array([[[3 * 64 * 64, 3 * 64 * 36]]])
    density, along = _bits_per_pixel(bits, samples, info)
    assert along == "yx"
    np.testing.assert_allclose(density, [[12, 6]])


def test_bits_per_pixel_of_stacks() -> None:
    planes = described(("z", "y", "x"), (5, 32, 32))
    bits, samples = np.array([2048, 4096, 512]), np.array([2048, 2048, 1024])
    density, along = _bits_per_pixel(bits.reshape(3, 1, 1), samples.reshape(3, 1, 1), planes)
    assert along == "z"
    np.testing.assert_allclose(density, [[1, 2, 0.5]])
    tiled = described(("t", "z", "y", "x"), (2, 2, 64, 32))
    density, along = _bits_per_pixel(np.arange(8).reshape(2, 2, 2, 1), np.full((2, 2, 2, 1), 2), tiled)
    assert along == "yx"
    np.testing.assert_allclose(density, [[(0 + 2 + 4 + 6) / 8], [(1 + 3 + 5 + 7) / 8]])


# -- from an archive -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Archive, AddResult]:
    """A CT series, a scene of several tiles, and files that are no images."""
    source, where = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("archive") / "archive"
    series = collection.write_ct_series(source / "ct", slices=3, side=96)
    collection.write_scene(source / "scene.tif", side=700)
    (source / "README.TXT").write_text("not an image")
    (source / "cut.dcm").write_bytes(series[0].read_bytes()[:8000])
    result = add([source], where, workers=1)
    return Archive.open(where), result


def test_gathering_from_an_archive(stored: tuple[Archive, AddResult]) -> None:
    archive, result = stored
    gathered = gather(archive, result)
    images = {image.modality: image for image in gathered.images}
    assert set(images) == {"CT", "GeoTIFF"}
    assert {(f.source.rpartition("/")[2], f.status) for f in gathered.files} == {
        ("README.TXT", "skipped"),
        ("cut.dcm", "rejected"),
    }
    ct, scene = images["CT"], images["GeoTIFF"]
    assert (ct.shape, ct.axes, ct.sources, ct.bits_along) == ((3, 96, 96), ("z", "y", "x"), 3, "yx")
    assert (scene.shape, scene.bits_along, scene.tile) == ((4, 700, 700), "yx", (512, 512))
    assert scene.bits_per_pixel is not None
    assert scene.bits_per_pixel.shape == (2, 2)
    # All that is coded is in the map: bits per pixel times pixels of the tile.
    pixels = np.outer([512, 188], [512, 188])
    assert (scene.bits_per_pixel * pixels).sum() == archive[scene.id].quality.bits.sum()
    for image_, colours in ((ct, ()), (scene, (3,))):
        assert image_.thumbnail is not None
        picture = decoded(image_.thumbnail)
        assert max(picture.shape[:2]) <= 128
        assert picture.shape[2:] == colours
        assert picture.std() > 10
    assert gathered.settings["codecs"] == "tilevault.lossless"
    page = Page(render_page(gathered)).check()
    assert "TruncatedSource" in page.text


def test_thumbnails_are_left_out_on_request(stored: tuple[Archive, AddResult]) -> None:
    gathered = gather(*stored, thumbnails=False)
    assert not gathered.thumbnails
    assert all(image.thumbnail is None for image in gathered.images)
    assert any(image.bits_per_pixel is not None for image in gathered.images)


def test_a_damaged_image_costs_its_picture_and_not_the_report(
    stored: tuple[Archive, AddResult], tmp_path: Path
) -> None:
    archive, result = stored
    copy = tmp_path / "archive"
    shutil.copytree(archive.path, copy)
    scene = next(image for image in gather(archive, result).images if image.modality == "GeoTIFF")
    shutil.rmtree(Archive.open(copy)[scene.id].path / "0" / "data" / "c")
    write_report(tmp_path / "report.html", Archive.open(copy), result)
    page = Page((tmp_path / "report.html").read_text()).check()
    assert "TileMissing" in page.text
    shutil.rmtree(copy / "commits")
    bare = gather(Archive.open(copy), result)
    assert [image.status for image in bare.images] == [image.status for image in result.images]
    assert all(image.thumbnail is None for image in bare.images)


# -- the file --------------------------------------------------------------------------------------------


class Result:
    """What `add` returns when it was given nothing."""

    images = ()
    files = (ReportFile("a", "skipped", "NotRecognized", "no image"),)
    totals = {"files": 1, "seconds": 0.5}  # noqa: RUF012


def test_the_file_is_private_whole_and_never_over_another(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, None, Result())  # type: ignore[arg-type] # shaped like AddResult
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().endswith("</html>\n")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    other = tmp_path / "mine.html"
    other.write_text("mine")
    with pytest.raises(Conflict):
        write_report(other, None, Result())  # type: ignore[arg-type] # shaped like AddResult
    assert other.read_text() == "mine"


def test_a_report_that_cannot_be_written_is_our_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TilevaultError):
        write_report(tmp_path / "file" / "report.html", None, Result())  # type: ignore[arg-type] # as above


# -- lossy images -------------------------------------------------------------------------------------------


def lossy_scene(folder: Path) -> tuple[Archive, AddResult]:
    """An archive of one lossy scene of 2 x 3 tiles, one of them empty."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:400, 0:700]
    words = (900 + 400 * np.sin(x / 30) * np.cos(y / 20) + rng.normal(0, 12, x.shape)).astype(np.uint16)
    words[256:, 512:] = 900
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            folder / "a <b> scene.tif", "w", driver="GTiff", width=700, height=400, count=1, dtype="uint16"
        ) as out:
            out.write(words, 1)
    result = add([folder], folder.parent / "archive", tile=256, lossy="psnr=40")
    assert [image.status for image in result.images] == ["added"]
    return Archive.open(folder.parent / "archive"), result


def test_what_was_lost_is_drawn(tmp_path: Path) -> None:
    archive, result = lossy_scene(tmp_path / "in")
    report = gather(archive, result)
    (shown,) = report.images
    assert (shown.fidelity, shown.round_trip) == ("psnr=40", "lossy")
    view = shown.quality
    assert view is not None
    assert [m.values.shape for m in view.maps] == [(2, 3), (2, 3)]
    assert (view.exact, view.decibels.size) == (1, 5)
    assert 40 <= view.decibels.min() <= view.decibels.max() <= 40.1
    assert len(view.worst) == 4
    page = Page(render_page(report))
    shown_pictures = [
        attrs["alt"] for tag, attrs in page.tags if tag == "img" and attrs.get("class") == "close"
    ]
    assert shown_pictures.count("original") == shown_pictures.count("as it is read") == 4
    assert {tag for tag, _ in page.tags} <= TAGS
    words = " ".join(page.words)
    assert "a <b> scene.tif" in words
    assert "5 tiles by PSNR in dB, 1 more lost nothing" in words
    heat = [attrs["alt"] for tag, attrs in page.tags if "heat" in str(attrs.get("class"))]
    assert {"PSNR, dB", "largest error"} <= set(heat)


def test_closeups_are_where_the_worst_tiles_differ_most(tmp_path: Path) -> None:
    archive, result = lossy_scene(tmp_path / "in")
    (entry,) = result.images
    image = archive[entry.image]
    decibels = [closeup.psnr for closeup in entry.worst]
    assert decibels == sorted(decibels)
    for closeup in entry.worst:
        y, x = closeup.start
        height, width = closeup.original.shape
        assert max(height, width) <= 64
        assert np.array_equal(image[y : y + height, x : x + width], closeup.decoded)
        assert image.quality.psnr[closeup.tile] == pytest.approx(closeup.psnr, abs=1e-5)
        assert 0 < np.abs(closeup.original.astype(int) - closeup.decoded).max() <= closeup.max_abs_error


def test_a_page_without_pictures_has_no_closeups(tmp_path: Path) -> None:
    archive, result = lossy_scene(tmp_path / "in")
    (shown,) = gather(archive, result, thumbnails=False).images
    assert shown.quality is not None
    assert shown.quality.worst == ()
    again = add([tmp_path / "in"], tmp_path / "archive", tile=256, lossy="psnr=40")
    (present,) = gather(archive, again).images
    assert present.quality is not None
    assert (present.quality.worst, present.quality.exact) == ((), 1)


def test_an_exact_image_has_no_section_of_losses() -> None:
    from tilevault.workflows.report_quality import draw_quality

    assert draw_quality([]) == ""


def test_a_map_of_nearly_equal_tiles_is_not_blown_up() -> None:
    values = np.array([[45.0, 45.01]])
    assert heat_map(values, (1, 2), (1, 1), 0.5)[1:] == pytest.approx((44.755, 45.255))
