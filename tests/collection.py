"""A small mixed collection, such as a hospital and a mapping agency might leave in one folder.

Part of it is real (the DICOM files that pydicom ships, the pictures that scikit-image ships), part is
generated, the same bytes each time: a CT volume and a satellite scene large enough to be tiled, and what
lies around in real folders: a text file, a truncated DICOM file. The demo, the tests and the examples of
the documentation share it.
"""

import importlib.util
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import rasterio
from affine import Affine
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

__all__ = ["build", "ct_volume", "scene", "write_ct_series", "write_scene"]

Array = NDArray[Any]

AIR, PADDING = -1000, -2000
"""Hounsfield units of air, and the value that scanners put outside their field of view."""

TILED = {"tiled": True, "blockxsize": 512, "blockysize": 512}

PICTURES: dict[str, dict[str, Any]] = {
    # name of the file in scikit-image: how it is written as a TIFF
    "astronaut.png": {"photometric": "RGB", "compress": "deflate"},
    "camera.png": {},
    "coffee.png": {"interleave": "band", "photometric": "RGB"},
    "hubble_deep_field.jpg": TILED | {"compress": "lzw"},
    "moon.png": {"compress": "packbits"},
    "retina.jpg": TILED | {"compress": "deflate", "predictor": 2},
}


def build(folder: Path, *, slices: int = 24, side: int = 3000) -> Path:
    """Write the collection into ``folder`` (which must not exist yet) and return it.

    ``slices`` is the number of 512 x 512 slices of the CT volume, ``side`` the extent of the scene in pixels.
    """
    folder.mkdir(parents=True)
    write_ct_series(folder / "hospital" / "ct", slices=slices)
    _copy_pydicom_files(folder / "hospital" / "pydicom")
    write_scene(folder / "maps" / "scene.tif", side=side)
    _write_terrain(folder / "maps", side=side // 3)
    _write_pictures(folder / "pictures")
    (folder / "hospital" / "README.txt").write_text("Put the disc into the drive and start VIEWER.EXE.\n")
    whole = folder / "hospital" / "ct" / "IM000000"
    (folder / "hospital" / "interrupted-copy.dcm").write_bytes(whole.read_bytes()[:300_000])
    return folder


# -- CT ---------------------------------------------------------------------------------------------------


def ct_volume(slices: int = 24, side: int = 512, seed: int = 7) -> Array:
    """A chest phantom in Hounsfield units: int16, axes (z, y, x).

    Air, lungs with vessels, soft tissue, bone; the noise is grainy like that of filtered back projection
    (its spectrum rises and falls), which is what a lossless codec spends its bits on.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    vessels = _shaped(rng, side, lambda f: f * np.exp(-((f / 0.025) ** 2)))
    volume = np.empty((slices, side, side), np.int16)
    for k in range(slices):
        z = k / max(slices - 1, 1)
        hu = np.full((side, side), float(AIR))
        hu[_inside(x, y, 0, 0, 0.80 + 0.04 * z, 0.58)] = -90  # fat under the skin
        hu[_inside(x, y, 0, 0, 0.74 + 0.04 * z, 0.52)] = 45  # muscle
        for at in (-0.36, 0.36):
            lung = _inside(x, y, at, -0.03, 0.26 - 0.05 * abs(z - 0.5), 0.36)
            hu[lung] = -860
            hu[lung & (np.roll(vessels, (5 * k, 3 * k), (0, 1)) > 1.6)] = 30
        hu[_inside(x, y, 0.08 - 0.05 * z, -0.08, 0.20, 0.17)] = 55  # heart
        hu[_inside(x, y, 0, 0.36, 0.11, 0.09)] = 420  # vertebra
        hu[_inside(x, y, 0, 0.36, 0.05, 0.04)] = 160
        for rib in np.linspace(0.2, 2 * np.pi - 0.2, 14) + 0.6 * z:
            hu[_inside(x, y, 0.70 * np.cos(rib), 0.48 * np.sin(rib), 0.035, 0.022)] = 700
        hu[_inside(x, y, 0, 0.78, 1.0, 0.05)] = -650  # table
        volume[k] = np.rint(hu + 14 * _grain(rng, side)).clip(-1024, 3071)
    volume[:, x**2 + y**2 > 1] = PADDING
    return volume


def write_ct_series(
    folder: Path, slices: int = 24, side: int = 512, seed: int = 7, patient: str = "DEMO-0001"
) -> list[Path]:
    """Write `ct_volume` as one CT series, a file without extension per slice, as they lie on a disc."""
    folder.mkdir(parents=True)
    study, series, frame = (
        generate_uid(entropy_srcs=[patient, str(seed), level]) for level in ("study", "series", "frame")
    )
    paths = []
    for k, pixels in enumerate(ct_volume(slices, side, seed)):
        header = FileMetaDataset()
        header.MediaStorageSOPClassUID = CTImageStorage
        header.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[series, str(k)])
        header.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"IM{k:06d}"
        ds = FileDataset(str(path), {}, file_meta=header, preamble=bytes(128))
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, header.MediaStorageSOPInstanceUID
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
        ds.PatientID, ds.PatientName = patient, "Phantom^Chest"
        ds.PatientSex, ds.PatientBirthDate = "O", "19700101"
        ds.StudyDate = ds.SeriesDate = ds.ContentDate = "20240229"
        ds.StudyTime = ds.SeriesTime = ds.ContentTime = "101500"
        ds.AccessionNumber, ds.StudyID, ds.ReferringPhysicianName = "A1", "1", ""
        ds.Modality, ds.Manufacturer = "CT", "tilevault phantom"
        ds.StudyDescription, ds.SeriesDescription = "Chest phantom", "Axial 2.5 mm"
        ds.SeriesNumber, ds.InstanceNumber = 3, k + 1
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.KVP, ds.PatientPosition = "120", "HFS"
        _describe_plane(ds, pixels, z=-60 + 2.5 * k)
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _describe_plane(ds: FileDataset, pixels: Array, z: float) -> None:
    """Pixels and geometry of one axial slice at ``z`` mm (CT image module, PS3.3 C.8.2.1)."""
    rows, columns = pixels.shape
    spacing = 400 / columns
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = rows, columns, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.add_new("PixelPaddingValue", "SS", PADDING)
    ds.PixelSpacing = [spacing, spacing]
    ds.SliceThickness = ds.SpacingBetweenSlices = 2.5
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = [-200 + spacing / 2, -200 + spacing / 2, z]
    ds.SliceLocation = z
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, 0, "HU"
    ds.WindowCenter, ds.WindowWidth = 40, 400
    ds.PixelData = pixels.astype("<i2").tobytes()


# -- satellite --------------------------------------------------------------------------------------------


def scene(side: int = 3000, seed: int = 11) -> Array:
    """Four correlated bands (blue, green, red, near infrared): uint16 reflectance x 10,000, axes (c, y, x).

    Hills under a low sun, fields, a lake; 0 is nodata outside the slanted swath. Each band has noise of its
    own, growing with the signal as a sensor's does.
    """
    rng = np.random.default_rng(seed)
    height, cover = _fractal(rng, side, 1.9), _fractal(rng, side, 1.5)
    slope = np.gradient(height, axis=1)
    shade = np.clip(1 + 0.13 * slope / slope.std(), 0.55, 1.5)
    green = 1 / (1 + np.exp(-3 * cover))
    fields = rng.random((side // 40 + 2, side // 60 + 2)).repeat(40, 0).repeat(60, 1)[:side, :side] - 0.5
    lake = height < -1.3
    y, x = np.mgrid[:side, :side]
    outside = (x + 0.15 * y < 0.10 * side) | (x + 0.15 * y > 1.08 * side)
    bands = np.empty((4, side, side), np.uint16)
    soil, plants, water = (900, 1250, 1700, 2300), (350, 620, 420, 3600), (420, 360, 220, 110)
    for band, (bare, leaf, wet) in zip(bands, zip(soil, plants, water, strict=True), strict=True):
        ground = bare + (leaf - bare) * np.clip(green + 0.35 * fields, 0, 1)
        signal = np.where(lake, wet, ground * shade)
        noise = rng.standard_normal((side, side)) * np.sqrt(0.04 * signal + 9)
        band[:] = np.rint(signal + noise).clip(1, 10_000)
    bands[:, outside] = 0
    return bands


def write_scene(path: Path, side: int = 3000, seed: int = 11) -> Path:
    """Write `scene` as a tiled, deflated GeoTIFF in UTM zone 33N with 10 m pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    place = {"crs": CRS.from_epsg(32633), "transform": Affine(10, 0, 399960, 0, -10, 5200020)}
    packing = {"compress": "deflate", "predictor": 2, "zlevel": 1}
    with _new_tiff(path, scene(side, seed), nodata=0, **TILED, **packing, **place) as image:
        image.descriptions = ("blue", "green", "red", "nir")
        image.scales, image.offsets = (1e-4,) * 4, (0.0,) * 4
        image.units = ("reflectance",) * 4
        image.colorinterp = (ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined)
        image.update_tags(TIFFTAG_DATETIME="2024:06:12 10:20:31", PLATFORM="generated")
        image.update_tags(4, wavelength_nm="842")
    return path


def _write_terrain(folder: Path, side: int) -> None:
    """An elevation model (float32, strips, NaN as nodata) and its classes (palette)."""
    height = (640 + 180 * _fractal(np.random.default_rng(3), side, 2.4)).astype(np.float32)
    classes = np.digitize(height, (480, 640, 820)).astype(np.uint8)
    height[: side // 8, : side // 5] = np.nan
    place = {"crs": CRS.from_epsg(4326), "transform": Affine(1 / 3600, 0, 13.5, 0, -1 / 3600, 47.0)}
    packing = {"nodata": float("nan"), "compress": "deflate", "predictor": 3}
    with _new_tiff(folder / "elevation.tif", height[None], **packing, **place) as image:
        image.units = ("m",)
        image.update_tags(AREA_OR_POINT="Point")
    with _new_tiff(folder / "classes.tif", classes[None], compress="lzw", **place) as image:
        image.write_colormap(1, {0: (40, 90, 160), 1: (60, 140, 60), 2: (170, 150, 90), 3: (240, 240, 240)})


@contextmanager
def _new_tiff(path: Path, pixels: Array, **options: Any) -> Iterator[Any]:
    """A new TIFF with ``pixels`` (c, y, x) in it, still open for what else belongs into it."""
    count, height, width = pixels.shape
    extent = {"count": count, "height": height, "width": width, "dtype": pixels.dtype.name}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # the pictures have no place on purpose
        image = rasterio.open(path, "w", driver="GTiff", **extent, **options)
    with image:
        image.write(pixels)
        yield image


# -- what others ship ---------------------------------------------------------------------------------------


def _copy_pydicom_files(folder: Path) -> None:
    """pydicom's own test files: every transfer syntax, good and deliberately bad ones."""
    shipped = Path(pydicom.__file__).parent / "data" / "test_files"
    disc = shipped / "dicomdirtests"
    folder.mkdir(parents=True)
    for path in sorted(shipped.glob("*.dcm")):
        shutil.copyfile(path, folder / path.name)
    for name in ("77654033", "98892001", "98892003"):  # two patients' studies, files without extension
        shutil.copytree(disc / name, folder / "disc" / name, copy_function=shutil.copyfile)
    shutil.copyfile(disc / "DICOMDIR", folder / "disc" / "DICOMDIR")


def _write_pictures(folder: Path) -> None:
    """scikit-image's pictures as TIFFs without coordinates; none where it is not installed."""
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        return
    from skimage.io import imread

    shipped = Path(found.origin).parent / "data"
    folder.mkdir(parents=True)
    for name, options in PICTURES.items():
        if not (shipped / name).is_file():
            continue
        pixels = np.atleast_3d(imread(shipped / name)).transpose(2, 0, 1)
        with _new_tiff(folder / f"{Path(name).stem}.tif", pixels, **options):
            pass


# -- noise --------------------------------------------------------------------------------------------------


def _inside(x: Array, y: Array, x0: float, y0: float, a: float, b: float) -> Array:
    inside: Array = ((x - x0) / a) ** 2 + ((y - y0) / b) ** 2 < 1
    return inside


def _shaped(rng: np.random.Generator, side: int, gain: Any) -> Array:
    """Noise of mean 0 and variance 1 whose spectrum follows ``gain`` of the spatial frequency."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    spectrum = np.fft.rfft2(rng.standard_normal((side, side), np.float32)) * gain(frequency)
    spectrum[0, 0] = 0
    field = np.fft.irfft2(spectrum, (side, side))
    shaped: Array = field / field.std()
    return shaped


def _fractal(rng: np.random.Generator, side: int, slope: float) -> Array:
    """Terrain-like noise: its amplitude falls with the ``slope``-th power of the frequency."""
    return _shaped(rng, side, lambda f: np.maximum(f, 1 / side) ** -slope)


def _grain(rng: np.random.Generator, side: int) -> Array:
    """Noise of filtered back projection: a ramp, rounded off by the reconstruction kernel."""
    return _shaped(rng, side, lambda f: f * np.exp(-((f / 0.22) ** 2)))
