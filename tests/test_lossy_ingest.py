"""Lossy images, end to end: bounds are met and recorded, what must stay exact does, or is refused."""

import hashlib
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio import Affine

from dicom_builder import BASE, EXPLICIT, EXPLICIT_BIG, IMPLICIT, Builder, encapsulate, image
from tilevault import Archive, add
from tilevault.archive.store import Image
from tilevault.codecs.errors import InvalidRequest, LossyRefused
from tilevault.workflows.export import Exported, export
from tilevault.workflows.lossy import LossyTarget
from tilevault.workflows.results import AddResult
from tilevault.workflows.verify import verify

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
RT_DOSE = "1.2.840.10008.5.1.4.1.1.481.2"
CT = "1.2.840.10008.5.1.4.1.1.2"


def waves(shape: tuple[int, ...], dtype: str = "int16", seed: int = 0) -> NDArray[Any]:
    """Something like a slice: waves and noise, some 12 bits."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : shape[-2], 0 : shape[-1]]
    return (900 + 600 * np.sin(x / 17) * np.cos(y / 13) + rng.normal(0, 9, shape)).astype(dtype)


def slices(count: int = 3, syntax: str = EXPLICIT, **values: Any) -> list[bytes]:
    """A small CT series."""
    made = []
    for i in range(count):
        words = waves((48, 64), seed=i)
        data = words.astype(">i2" if syntax == EXPLICIT_BIG else "<i2").tobytes()
        fields = {
            "Rows": 48,
            "Columns": 64,
            "PixelRepresentation": 1,
            "SOPClassUID": CT,
            "SOPInstanceUID": f"1.2.3.4.{i}",
            "Modality": "CT",
            "InstanceNumber": str(i),
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "ImagePositionPatient": [0, 0, 2 * i],
            "PixelSpacing": [1, 1],
            **values,
        }
        made.append(image(data, syntax, **fields))
    return made


def rle_image(grey: NDArray[Any]) -> bytes:
    """An image in RLE: each row a run of 64 literal bytes."""
    rle = struct.pack("<16I", 1, 64, *[0] * 14) + b"".join(bytes([63]) + row.tobytes() for row in grey)
    form = {"Rows": 48, "Columns": 64, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    value = encapsulate([[rle + bytes(len(rle) % 2)]])
    return image(value, "1.2.840.10008.1.2.5", vr="OB", length=0xFFFFFFFF, **form)


def put(folder: Path, files: Sequence[bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, content in enumerate(files):
        (folder / f"{i}.dcm").write_bytes(content)
    return folder


def scene(path: Path, words: NDArray[Any], **form: Any) -> Path:
    """A GeoTIFF of (c, y, x) words."""
    bands, height, width = words.shape
    settings = {
        "crs": "EPSG:32633",
        "transform": Affine(10, 0, 500_000, 0, -10, 5_000_000),
        "width": width,
        "height": height,
        "count": bands,
        "dtype": words.dtype.name,
        **form,
    }
    mask = settings.pop("mask", None)
    tags = settings.pop("tags", {})
    descriptions = settings.pop("descriptions", ())
    colours = settings.pop("colours", None)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", driver="GTiff", **settings) as out,
    ):
        out.write(words)
        if mask is not None:
            out.write_mask(mask)
        if tags:
            out.update_tags(**tags)
        for i, text in enumerate(descriptions, 1):
            out.set_band_description(i, text)
        if colours:
            out.write_colormap(1, colours)
    return path


def only(result: AddResult, archive: Path) -> Image:
    """The one image that was added."""
    (entry,) = result.images
    assert (entry.status, entry.code) == ("added", None), entry.reason
    return Archive.open(archive)[entry.image]


def reasons(result: AddResult) -> list[tuple[str, str | None]]:
    return [(entry.status, entry.code) for entry in result.images]


# --- the bound, measured and recorded -----------------------------------------------------------------


@pytest.mark.parametrize("bound", [1, 2, 4, 8, 16])
def test_every_sample_of_a_series_is_within_the_bound(tmp_path: Path, bound: int) -> None:
    put(tmp_path / "in", slices())
    found = only(add([tmp_path / "in"], tmp_path / "a", lossy=f"max-error={bound}"), tmp_path / "a")
    originals = np.stack([waves((48, 64), seed=i) for i in range(3)])
    errors = np.abs(found[...].astype(int) - originals.astype(int))
    assert 0 < errors.max() <= bound
    assert found.quality.max_abs_error.max() == errors.max()
    assert found.fidelity == found.summary["fidelity"] == f"max-error={bound}"
    assert found.round_trip == found.summary["round_trip"] == "lossy"


def test_each_tile_has_the_stated_quality_and_the_record_of_it_is_true(tmp_path: Path) -> None:
    words = np.stack([waves((600, 700), "uint16", seed=i) for i in range(3)])
    scene(tmp_path / "in" / "scene.tif", words)
    found = only(add([tmp_path / "in"], tmp_path / "a", tile=256, lossy="psnr=44.5"), tmp_path / "a")
    low, high = int(words.min()), int(words.max())
    assert found.summary["quality"]["range"] == [low, high]
    quality, grid = found.quality, found.grid
    assert quality.psnr.shape == grid.tiles == (1, 3, 3)
    back = found[...]
    for index in grid.tile_indices():
        box = grid.tile_window(index).slices
        errors = back[box].astype(float) - words[box].astype(float)
        mse = float(np.mean(errors**2))
        psnr = 10 * np.log10((high - low) ** 2 / mse)
        assert 44.5 <= psnr <= 44.6
        assert quality.psnr[index] == pytest.approx(psnr, abs=1e-4)
        assert quality.max_abs_error[index] == np.abs(errors).max()
        assert quality.bits[index] == 8 * int(found.readers["data"].tables.ends[(*index, 0)])
        assert quality.samples[index] == errors.size
        assert quality.step[index] > 1
    assert quality.summary == found.summary["quality"]
    assert quality.summary is not None
    whole = float(np.mean((back.astype(float) - words.astype(float)) ** 2))
    assert quality.summary["psnr"] == pytest.approx(10 * np.log10((high - low) ** 2 / whole), abs=1e-3)
    attributes = json.loads((found.path / "quality" / "zarr.json").read_text())["attributes"]["tilevault"]
    assert attributes == {"fidelity": "psnr=44.5", **quality.summary}


def test_floats_with_nan_and_nodata(tmp_path: Path) -> None:
    words = waves((1, 300, 280), "float32") / 7
    words[0, 30:90, 40:200] = -9999
    words[0, 200:210] = np.nan
    scene(tmp_path / "in" / "scene.tif", words, nodata=-9999)
    found = only(add([tmp_path / "in"], tmp_path / "a", lossy="max-error=0.25"), tmp_path / "a")
    back, special = found[...], ~np.isfinite(words[0]) | (words[0] == -9999)
    assert back[special].tobytes() == words[0][special].tobytes()
    assert np.abs(back[~special].astype(float) - words[0][~special].astype(float)).max() <= 0.25
    assert found.quality.tables.arrays["samples"].sum() == (~special).sum()
    assert not np.isnan(found.read(level=3)[0, 0])


def test_masked_samples_do_not_count_and_the_mask_is_kept(tmp_path: Path) -> None:
    words = np.stack([waves((300, 280), "uint16", seed=i) for i in range(2)])
    mask = np.full((300, 280), 255, np.uint8)
    mask[40:200, 100:250] = 0
    noise = np.random.default_rng(1).integers(0, 60_000, words.shape).astype("uint16")
    clean = np.where(mask != 0, words, 0).astype("uint16")
    dirty = np.where(mask != 0, words, noise)
    stored = []
    for name, content in (("clean", clean), ("dirty", dirty)):
        scene(tmp_path / name / "scene.tif", content, mask=mask)
        found = only(add([tmp_path / name], tmp_path / f"a-{name}", lossy="psnr=40"), tmp_path / f"a-{name}")
        assert np.array_equal(found.read_mask(), mask)
        assert found.quality.tables.arrays["samples"].sum() == 2 * (mask != 0).sum()
        assert found.summary["quality"]["range"] == [
            int(words[:, mask != 0].min()),
            int(words[:, mask != 0].max()),
        ]
        stored.append(int(found.quality.bits.sum()))
    assert stored[0] == stored[1]


def test_nodata_of_integers_comes_back_exactly(tmp_path: Path) -> None:
    words = np.stack([waves((200, 260), "uint16", seed=i) for i in range(3)])
    words[words == 900] = 901
    words[:, 20:120, 30:200] = 900
    scene(tmp_path / "in" / "scene.tif", words, nodata=900)
    for bound in ("psnr=35", "max-error=6"):
        result = add([tmp_path / "in"], tmp_path / "a", lossy=bound)
        found = only(result, tmp_path / "a")
        assert np.array_equal(found[...] == 900, words == 900)


# --- beside each other, again, more -------------------------------------------------------------------


def test_lossless_and_lossy_copies_live_side_by_side(tmp_path: Path) -> None:
    put(tmp_path / "in", slices())
    ids = {
        only(add([tmp_path / "in"], tmp_path / "a", lossy=bound), tmp_path / "a").id
        for bound in (None, "psnr=45", "psnr=50", "max-error=2")
    }
    assert len(ids) == len(Archive.open(tmp_path / "a")) == 4
    again = add([tmp_path / "in"], tmp_path / "a", lossy="psnr=45.0")
    assert [entry.status for entry in again.images] == ["present"]
    assert again.images[0].quality is not None
    checked = verify(Archive.open(tmp_path / "a"), depth="pixels")
    assert (checked.exit_code, checked.checked) == (0, checked.expected)


def test_the_same_input_gives_the_same_objects(tmp_path: Path) -> None:
    put(tmp_path / "in", slices())
    manifests = {
        only(add([tmp_path / "in"], tmp_path / name, lossy="psnr=42"), tmp_path / name).commit.manifest
        for name in ("a", "b")
    }
    assert len(manifests) == 1


def test_a_lossy_series_grows_from_its_files_only(tmp_path: Path) -> None:
    files = slices(4)
    put(tmp_path / "in", files[:2])
    first = only(add([tmp_path / "in"], tmp_path / "a", lossy="psnr=45"), tmp_path / "a")
    put(tmp_path / "late", files[2:])
    for i in (0, 1):  # the names of the first two are taken
        (tmp_path / "late" / f"{i}.dcm").rename(tmp_path / "late" / f"late{i}.dcm")
    refused = add([tmp_path / "late"], tmp_path / "a", lossy="psnr=45")
    assert reasons(refused) == [("failed", "LossyRefused")]
    assert "hand in all of its files" in str(refused.images[0].reason)
    grown = add([tmp_path / "in", tmp_path / "late"], tmp_path / "a", lossy="psnr=45")
    assert [entry.status for entry in grown.images] == ["extended"]
    found = Archive.open(tmp_path / "a")[first.id]
    assert found.shape == (4, 48, 64)
    originals = np.stack([waves((48, 64), seed=i) for i in range(2)] * 2)
    peak = found.summary["quality"]["range"]
    mse = np.mean((found[...].astype(float) - np.stack([waves((48, 64), seed=i) for i in range(4)])) ** 2)
    assert originals.shape == found.shape
    assert 10 * np.log10((peak[1] - peak[0]) ** 2 / mse) >= 45


def test_an_interrupted_add_goes_on_from_its_receipts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tilevault.archive.generation import Generation

    scene(tmp_path / "in" / "scene.tif", np.stack([waves((300, 300), "uint16")]))

    def fails(*args: object, **more: object) -> None:
        raise OSError("the machine stops")

    with monkeypatch.context() as patched:
        patched.setattr(Generation, "commit", fails)
        broken = add([tmp_path / "in"], tmp_path / "a", lossy="psnr=40")
    assert [entry.status for entry in broken.images] == ["failed"]
    encoded: list[object] = []
    original = Generation.write_shard
    monkeypatch.setattr(
        Generation, "write_shard", lambda self, *a, **k: (encoded.append(a), original(self, *a, **k))[1]
    )
    found = only(add([tmp_path / "in"], tmp_path / "a", lossy="psnr=40"), tmp_path / "a")
    assert encoded == []
    assert found.quality.psnr.min() >= 40


# --- reading --------------------------------------------------------------------------------------------


def test_levels_are_means_of_what_is_decoded(tmp_path: Path) -> None:
    words = np.stack([waves((600, 700), "uint16")])
    scene(tmp_path / "in" / "scene.tif", words)
    found = only(add([tmp_path / "in"], tmp_path / "a", lossy="psnr=40"), tmp_path / "a")
    assert found.downsampling == "mean"
    full = found[...].astype(np.int64)
    for level in (1, 3):
        step = 1 << level
        squares = full[: 600 // step * step, :696].reshape(600 // step, step, 696 // step, step)
        expected = (2 * squares.sum((1, 3)) + step**2) // (2 * step**2)
        assert np.array_equal(found.read(level=level)[:, : 696 // step], expected)
        assert np.array_equal(found.read(level=level, restore=False), found.read(level=level))


def test_who_needs_exact_pixels_gets_an_error(tmp_path: Path) -> None:
    put(tmp_path / "in", slices())
    found = only(add([tmp_path / "in"], tmp_path / "a", lossy="psnr=45"), tmp_path / "a")
    with pytest.raises(LossyRefused):
        found.require_lossless()
    done = export(Archive.open(tmp_path / "a"), None, tmp_path / "out", "npy", require_lossless=True)
    assert [(one.status, one.code) for one in done] == [("failed", "LossyRefused")]
    exact = only(add([tmp_path / "in"], tmp_path / "b"), tmp_path / "b")
    exact.require_lossless()
    assert (exact.quality.measures, exact.quality.summary) == ((), None)
    with pytest.raises(AttributeError):
        _ = exact.quality.psnr


def test_a_damaged_tile_is_found_and_not_read(tmp_path: Path) -> None:
    scene(tmp_path / "in" / "scene.tif", np.stack([waves((300, 300), "uint16")]))
    found = only(add([tmp_path / "in"], tmp_path / "a", lossy="psnr=40"), tmp_path / "a")
    shard = next((found.path / "0" / "data" / "c").rglob("0"))
    while shard.is_dir():
        shard = shard / "0"
    shard.chmod(0o600)
    content = bytearray(shard.read_bytes())
    content[40] ^= 1
    shard.write_bytes(bytes(content))
    checked = verify(Archive.open(tmp_path / "a"), depth="digest")
    assert checked.exit_code == 4


# --- never by accident ------------------------------------------------------------------------------------


def test_the_default_is_lossless(tmp_path: Path) -> None:
    put(tmp_path / "in", slices())
    found = only(add([tmp_path / "in"], tmp_path / "a"), tmp_path / "a")
    assert (found.round_trip, found.fidelity) == ("file-exact", "exact")


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"SOPClassUID": SEGMENTATION}, "Segmentation"),
        ({"SOPClassUID": RT_DOSE}, "RT Dose"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.30"}, "Parametric Map"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.7"}, "Label Map"),
        ({"Modality": "SEG"}, "SEG"),
        ({"Modality": "RTDOSE"}, "RTDOSE"),
    ],
)
def test_labels_doses_and_parameters_in_dicom_are_refused(
    tmp_path: Path, values: dict[str, Any], word: str
) -> None:
    put(tmp_path / "in", slices(**values))
    result = add([tmp_path / "in"], tmp_path / "a", lossy="psnr=45", yes_lossy=True)
    assert reasons(result) == [("failed", "LossyRefused")]
    assert word in str(result.images[0].reason)
    assert result.totals["exit_code"] == 3
    assert reasons(add([tmp_path / "in"], tmp_path / "a")) == [("added", None)]


def test_palettes_bits_and_coded_frames_in_dicom_are_refused(tmp_path: Path) -> None:
    palette = Builder().element(0x00281101, "US", [256, 0, 16]) + Builder().element(
        0x00281201, "OW", np.arange(256, dtype="<u2").tobytes()
    )
    grey = waves((48, 64)).astype("u1")
    form = {"Rows": 48, "Columns": 64, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    rle = struct.pack("<16I", 1, 64, *[0] * 14) + b"".join(bytes([63]) + grey[y].tobytes() for y in range(48))
    files = {
        "palette": image(grey.tobytes(), PhotometricInterpretation="PALETTE COLOR", before=palette, **form),
        "bits": image(bytes(48 * 8), vr="OB", Rows=48, Columns=64, BitsAllocated=1, BitsStored=1, HighBit=0),
        "frames": image(
            encapsulate([[rle + bytes(len(rle) % 2)]]),
            "1.2.840.10008.1.2.5",
            vr="OB",
            length=0xFFFFFFFF,
            **form,
        ),
        "deflated": image(grey.tobytes(), "1.2.840.10008.1.2.1.99", **form),
    }
    for name, content in files.items():
        put(tmp_path / name, [content])
        result = add([tmp_path / name], tmp_path / f"a-{name}", lossy="psnr=45", yes_lossy=True)
        assert reasons(result) == [("failed", "LossyRefused")], (name, result)
        assert not (tmp_path / f"a-{name}").exists() or not list(Archive.open(tmp_path / f"a-{name}"))


def test_overlays_in_high_bits_are_refused(tmp_path: Path) -> None:
    words = waves((48, 64), "uint16")
    words[10, 10] |= 0x8000
    put(tmp_path / "in", [image(words.tobytes(), Rows=48, Columns=64, BitsStored=12, HighBit=11)])
    result = add([tmp_path / "in"], tmp_path / "a", lossy="psnr=45")
    assert reasons(result) == [("failed", "LossyRefused")]
    assert "BitsStored" in str(result.images[0].reason)


@pytest.mark.parametrize(
    "form",
    [
        {"colours": {i: (i, 0, 0, 255) for i in range(256)}},
        {"tags": {"flag_values": "1,2,4", "flag_meanings": "cloud water snow"}},
        {"tags": {"LAYER_TYPE": "thematic"}},
    ],
)
def test_colour_tables_and_flags_in_geotiff_are_refused(tmp_path: Path, form: dict[str, Any]) -> None:
    scene(tmp_path / "in" / "scene.tif", waves((1, 90, 80), "uint8"), **form)
    result = add([tmp_path / "in"], tmp_path / "a", lossy="max-error=1", yes_lossy=True)
    assert reasons(result) == [("failed", "LossyRefused")]


def test_category_names_in_a_sidecar_are_refused(tmp_path: Path) -> None:
    path = scene(tmp_path / "in" / "scene.tif", waves((1, 90, 80), "uint8"))
    path.with_name("scene.tif.aux.xml").write_text(
        "<PAMDataset><PAMRasterBand band='1'><CategoryNames><Category>a</Category></CategoryNames>"
        "</PAMRasterBand></PAMDataset>"
    )
    result = add([tmp_path / "in"], tmp_path / "a", lossy="max-error=1", yes_lossy=True)
    assert reasons(result) == [("failed", "LossyRefused")]


@pytest.mark.parametrize("name", ["LC08_QA_PIXEL.tif", "T33_SCL_20m.tif", "labels.tif"])
def test_names_of_flags_are_refused_unless_overruled(tmp_path: Path, name: str) -> None:
    scene(tmp_path / "in" / name, waves((1, 90, 80), "uint16"))
    assert reasons(add([tmp_path / "in"], tmp_path / "a", lossy="max-error=1")) == [
        ("failed", "LossyRefused")
    ]
    sure = add([tmp_path / "in"], tmp_path / "a", lossy="max-error=1", yes_lossy=True)
    assert reasons(sure) == [("added", None)]


def test_few_values_are_refused_unless_overruled(tmp_path: Path) -> None:
    few = np.random.default_rng(0).integers(0, 63, (1, 90, 80)).astype("uint16") * 9
    scene(tmp_path / "in" / "scene.tif", few)
    refused = add([tmp_path / "in"], tmp_path / "a", lossy="max-error=3")
    assert reasons(refused) == [("failed", "LossyRefused")]
    assert "63 distinct values" in str(refused.images[0].reason)
    dry = add([tmp_path / "in"], tmp_path / "a", lossy="max-error=3", dry_run=True)
    assert reasons(dry) == [("failed", "LossyRefused")]
    sure = add([tmp_path / "in"], tmp_path / "a", lossy="max-error=3", yes_lossy=True)
    assert reasons(sure) == [("added", None)]
    several = np.concatenate([few, few + 1])
    scene(tmp_path / "bands" / "scene.tif", several)
    assert reasons(add([tmp_path / "bands"], tmp_path / "b", lossy="max-error=3")) == [("added", None)]


def test_sixty_four_values_are_a_picture(tmp_path: Path) -> None:
    words = np.random.default_rng(0).integers(0, 64, (1, 90, 80)).astype("uint8")
    words[0, 0, :64] = np.arange(64)
    scene(tmp_path / "in" / "scene.tif", words)
    assert reasons(add([tmp_path / "in"], tmp_path / "a", lossy="max-error=1")) == [("added", None)]


def test_labels_are_refused_and_otherwise_never_averaged(tmp_path: Path) -> None:
    put(tmp_path / "in", slices())
    refused = add([tmp_path / "in"], tmp_path / "a", lossy="psnr=45", labels=True, yes_lossy=True)
    assert reasons(refused) == [("failed", "LossyRefused")]
    found = only(add([tmp_path / "in"], tmp_path / "a", labels=True), tmp_path / "a")
    assert found.downsampling == "nearest"


@pytest.mark.parametrize("dtype", ["float64", "complex64"])
def test_types_without_lossy_coding_are_refused(tmp_path: Path, dtype: str) -> None:
    scene(tmp_path / "in" / "scene.tif", waves((1, 90, 80), "float64").astype(dtype))
    assert reasons(add([tmp_path / "in"], tmp_path / "a", lossy="psnr=45")) == [("failed", "LossyRefused")]


def test_a_refused_image_keeps_no_other_from_being_added(tmp_path: Path) -> None:
    put(tmp_path / "in", slices())
    put(
        tmp_path / "in" / "seg",
        slices(SOPClassUID=SEGMENTATION, SeriesInstanceUID="1.2.9", StudyInstanceUID="1.2"),
    )
    for i, path in enumerate(sorted((tmp_path / "in" / "seg").iterdir())):
        path.write_bytes(
            slices(3, SOPClassUID=SEGMENTATION, SeriesInstanceUID="1.2.9", SOPInstanceUID=f"1.9.{i}")[i]
        )
    result = add([tmp_path / "in"], tmp_path / "a", lossy="psnr=45")
    assert sorted(reasons(result)) == [("added", None), ("failed", "LossyRefused")]


def test_a_dry_run_says_what_would_be_altered_and_alters_nothing(tmp_path: Path) -> None:
    put(tmp_path / "in", slices())
    result = add([tmp_path / "in"], tmp_path / "a", lossy="psnr=45", dry_run=True)
    (entry,) = result.images
    assert (entry.status, entry.fidelity, entry.round_trip) == ("planned", "psnr=45", "lossy")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "45",
        "psnr",
        "psnr=",
        "psnr=-3",
        "psnr=0",
        "psnr=nan",
        "psnr=1e9",
        "max-error=0",
        "ssim=0.9",
        "psnr=4 5",
    ],
)
def test_a_bound_that_is_none_is_a_request_that_cannot_be(text: str) -> None:
    with pytest.raises(InvalidRequest):
        LossyTarget.parse(text)


def test_bounds_that_are_equal_are_spelt_alike() -> None:
    assert LossyTarget.parse("psnr=45.0").fidelity == LossyTarget.parse("psnr=45").fidelity == "psnr=45"
    assert LossyTarget.parse("max-error=2.50").fidelity == "max-error=2.5"


# --- out again --------------------------------------------------------------------------------------------


def exported(archive: Path, out: Path, format: str) -> list[Exported]:
    return export(Archive.open(archive), None, out, format)


def test_originals_of_lossy_images_cannot_be_had(tmp_path: Path) -> None:
    put(tmp_path / "in", slices(1))
    scene(tmp_path / "in" / "scene.tif", np.stack([waves((90, 80), "uint16")]))
    assert add([tmp_path / "in"], tmp_path / "a", lossy="psnr=45").totals["added"] == 2
    done = exported(tmp_path / "a", tmp_path / "out", "original")
    assert {(one.status, one.code) for one in done} == {("failed", "LossyRefused")}
    assert {
        word for one in done for word in ("--format dicom", "--format cog") if word in str(one.reason)
    } == {
        "--format dicom",
        "--format cog",
    }
    assert not list((tmp_path / "out").rglob("*.*"))


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, EXPLICIT_BIG])
def test_dicom_of_a_lossy_image_says_so_as_the_standard_wants(tmp_path: Path, syntax: str) -> None:
    build = Builder(explicit=syntax != IMPLICIT, big=syntax == EXPLICIT_BIG)
    before = b"".join(
        (
            build.element(0x00280106, "SS", b"\0\0"),
            build.element(0x00282110, "CS", "01"),
            build.element(0x00282112, "DS", ["7.5", "2.000"]),
            build.element(0x00282114, "CS", ["ISO_10918_1", "ISO_14495_1"]),
        )
    )
    put(tmp_path / "in", slices(2, syntax, before=before))
    found = only(add([tmp_path / "in"], tmp_path / "a", lossy="max-error=4"), tmp_path / "a")
    done = exported(tmp_path / "a", tmp_path / "out", "dicom")
    assert [(one.status, one.proof) for one in done] == [("written", "decoded")] * 2
    ratio = found.info.nbytes / (int(found.quality.bits.sum()) // 8) if found.info else 0
    for i, one in enumerate(done):
        data = pydicom.dcmread(str(one.path))
        source = pydicom.dcmread(tmp_path / "in" / f"{i}.dcm")
        assert data.file_meta.TransferSyntaxUID == EXPLICIT
        assert data.file_meta.MediaStorageSOPInstanceUID == data.SOPInstanceUID != source.SOPInstanceUID
        assert data.SOPInstanceUID.startswith("2.25.")
        assert data.SOPInstanceUID.is_valid
        assert data.LossyImageCompression == "01"
        assert [getattr(v, "original_string", v) for v in data.LossyImageCompressionRatio][:2] == [
            "7.5",
            "2.000",
        ]
        assert float(data.LossyImageCompressionRatio[2]) == pytest.approx(ratio, rel=1e-4)
        assert list(data.LossyImageCompressionMethod) == ["ISO_10918_1", "ISO_14495_1", "TILEVAULT_LIC1"]
        assert data.ImageType[0] == "DERIVED"
        assert "max-error=4" in data.DerivationDescription
        (code,) = data.DerivationCodeSequence
        assert (code.CodeValue, code.CodingSchemeDesignator) == ("113040", "DCM")
        (item,) = data.SourceImageSequence
        assert item.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert item.ReferencedSOPClassUID == source.SOPClassUID
        assert item.PurposeOfReferenceCodeSequence[0].CodeValue == "121320"
        assert "SmallestImagePixelValue" not in data
        for keyword in (
            "SeriesInstanceUID",
            "StudyInstanceUID",
            "PatientID",
            "PatientName",
            "ImagePositionPatient",
        ):
            assert data[keyword].value == source[keyword].value
        assert np.array_equal(data.pixel_array, found[i])
        assert np.abs(data.pixel_array.astype(int) - waves((48, 64), seed=i).astype(int)).max() <= 4


def test_the_same_export_gives_the_same_file_and_other_pixels_another_uid(tmp_path: Path) -> None:
    put(tmp_path / "in", slices(1))
    uids = []
    for bound in ("max-error=4", "max-error=5"):
        add([tmp_path / "in"], tmp_path / bound, lossy=bound)
        digests = set()
        for again in ("x", "y"):
            (one,) = exported(tmp_path / bound, tmp_path / f"{bound}-{again}", "dicom")
            digests.add(hashlib.sha256(Path(str(one.path)).read_bytes()).hexdigest())
        assert len(digests) == 1
        uids.append(str(pydicom.dcmread(str(one.path)).SOPInstanceUID))
    assert len(set(uids)) == 2


def test_dicom_of_an_exact_image_is_the_instance_itself(tmp_path: Path) -> None:
    put(tmp_path / "in", slices(2, EXPLICIT_BIG))
    add([tmp_path / "in"], tmp_path / "a")
    done = exported(tmp_path / "a", tmp_path / "out", "dicom")
    assert [(one.status, one.proof) for one in done] == [("written", "pixel-exact")] * 2
    for i, one in enumerate(done):
        data, source = pydicom.dcmread(str(one.path)), pydicom.dcmread(tmp_path / "in" / f"{i}.dcm")
        assert data.SOPInstanceUID == source.SOPInstanceUID
        assert not any(
            k in data for k in ("LossyImageCompression", "DerivationDescription", "SourceImageSequence")
        )
        assert np.array_equal(data.pixel_array, source.pixel_array)
        assert {e.tag for e in data if e.tag.group != 2} == {e.tag for e in source if e.tag.group != 2}


def test_frames_come_out_uncompressed(tmp_path: Path) -> None:
    grey = waves((48, 64)).astype("u1")
    rle = struct.pack("<16I", 1, 64, *[0] * 14) + b"".join(bytes([63]) + grey[y].tobytes() for y in range(48))
    form = {"Rows": 48, "Columns": 64, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    put(
        tmp_path / "in",
        [
            image(
                encapsulate([[rle + bytes(len(rle) % 2)]]),
                "1.2.840.10008.1.2.5",
                vr="OB",
                length=0xFFFFFFFF,
                **form,
            )
        ],
    )
    add([tmp_path / "in"], tmp_path / "a")
    (one,) = exported(tmp_path / "a", tmp_path / "out", "dicom")
    assert (one.status, one.proof) == ("written", "pixel-exact"), one.reason
    data = pydicom.dcmread(str(one.path))
    assert data.file_meta.TransferSyntaxUID == EXPLICIT
    assert np.array_equal(data.pixel_array, grey)


def test_a_scene_comes_out_with_its_loss_in_its_tags(tmp_path: Path) -> None:
    words = np.stack([waves((300, 280), "uint16", seed=i) for i in range(2)])
    scene(tmp_path / "in" / "scene.tif", words, tags={"ORIGIN": "test"})
    found = only(add([tmp_path / "in"], tmp_path / "a", lossy="psnr=42"), tmp_path / "a")
    (one,) = exported(tmp_path / "a", tmp_path / "out", "cog")
    assert (one.status, one.proof) == ("written", "decoded"), one.reason
    with rasterio.open(str(one.path)) as dataset:
        tags = dataset.tags()
        assert np.array_equal(dataset.read(), found[...])
        assert dataset.crs.to_epsg() == 32633
    assert tags["ORIGIN"] == "test"
    assert tags["TILEVAULT_LOSSY"] == "psnr=42"
    assert "dB" in tags["TILEVAULT_LOSSY_MEASURED"]
    for format in ("npy", "png"):
        assert [x.status for x in exported(tmp_path / "a", tmp_path / "out", format)] == ["written"]


def test_every_word_of_the_header_is_kept(tmp_path: Path) -> None:
    put(tmp_path / "in", slices(1, after=Builder().element(0x00990010, "LO", "ACME")))
    content = (tmp_path / "in" / "0.dcm").read_bytes()
    found = only(add([tmp_path / "in"], tmp_path / "a", lossy="max-error=2"), tmp_path / "a")
    record = found.source.files[0].record["pixels"]
    kept = b"".join(found.source.verbatim(0))
    assert kept == content[: record["offset"]] + content[record["offset"] + record["length"] :]
    assert found.source.files[0].sha256 == hashlib.sha256(content).hexdigest()
    with pytest.raises(InvalidRequest):
        found.source.rebuild(0)
    assert BASE["PatientID"][2] in kept.decode("latin-1")


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, EXPLICIT_BIG])
def test_padding_of_dicom_is_nodata(tmp_path: Path, syntax: str) -> None:
    words = waves((48, 64))
    words[:10] = -2000
    build = Builder(explicit=syntax != IMPLICIT, big=syntax == EXPLICIT_BIG)
    data = words.astype(">i2" if syntax == EXPLICIT_BIG else "<i2").tobytes()
    # The attribute is often US although the words are signed.
    padding = build.element(0x00280120, "US", [63536])
    content = image(data, syntax, Rows=48, Columns=64, PixelRepresentation=1, before=padding)
    put(tmp_path / "in", [content])
    found = only(add([tmp_path / "in"], tmp_path / "a", lossy="max-error=8"), tmp_path / "a")
    assert found.summary["quality"]["range"] == [int(words[10:].min()), int(words.max())]
    assert np.array_equal(found[...] == -2000, words == -2000)
    assert found.quality.tables.arrays["samples"].sum() == 38 * 64
