"""One small image of each kind that a viewer meets, in one archive, and a running server of it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

import dicom_builder
from tilevault import Archive, add

__all__ = ["HEIGHT", "WIDTH", "build", "running", "serve_command", "smooth"]

HEIGHT, WIDTH = 300, 410
"""Of every image: odd sizes at most levels, several tiles of 64."""
GEO = {"crs": "EPSG:32633", "transform": Affine(10, 0, 500_000, 0, -10, 5_200_000)}


def smooth(low: float, high: float, dtype: str, seed: int = 0) -> NDArray[Any]:
    """A ramp with waves and a little noise from ``low`` to ``high``, (y, x): no two parts look alike."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : 1 : HEIGHT * 1j, 0 : 1 : WIDTH * 1j]
    values = 0.6 * x + 0.2 * y + 0.1 * np.sin(9 * y + 7 * x + seed) + 0.1 * rng.random((HEIGHT, WIDTH))
    return np.clip(low + values * (high - low), low, high).astype(dtype)


def build(folder: Path) -> dict[str, str]:
    """Write the images, archive them at ``folder / "archive"``, and return their ids by name."""
    source = folder / "source"
    source.mkdir(parents=True)
    _write_dicom(source)
    _write_tiffs(source)
    add([source], folder / "archive", tile=64)
    ids = {}
    for image_id, image in Archive.open(folder / "archive").items():
        name = re.sub(r"\..*", "", image.source.files[0].name.rpartition("/")[2])
        ids[re.sub(r"-\d+$", "", name)] = image_id
    return ids


# -- medical ------------------------------------------------------------------------------------------------


def _write_dicom(source: Path) -> None:
    square = {"Rows": HEIGHT, "Columns": WIDTH}
    for z in range(5):
        _dicom(
            source / f"ct-{z}.dcm",
            "1.2.10",
            smooth(-1000 + 40 * z, 2000, "int16", z),
            Modality="CT",
            PixelRepresentation=1,
            InstanceNumber=str(z + 1),
            ImagePositionPatient=f"0\\0\\{2 * z}",
            ImageOrientationPatient="1\\0\\0\\0\\1\\0",
            PixelSpacing="0.5\\0.5",
            RescaleSlope="1",
            RescaleIntercept="-24",
            WindowCenter="40",
            WindowWidth="400",
            **square,
        )
        _dicom(
            source / f"pet-{z}.dcm",
            "1.2.11",
            smooth(0, 30_000, "uint16", z),
            Modality="PT",
            InstanceNumber=str(z + 1),
            ImagePositionPatient=f"0\\0\\{2 * z}",
            ImageOrientationPatient="1\\0\\0\\0\\1\\0",
            PixelSpacing="0.5\\0.5",
            RescaleSlope=f"{0.1 * (z + 1):.1f}",
            RescaleIntercept="0",
            **square,
        )
    _dicom(
        source / "inverted.dcm",
        "1.2.12",
        smooth(0, 4095, "uint16"),
        PhotometricInterpretation="MONOCHROME1",
        BitsStored=12,
        HighBit=11,
        **square,
    )
    colours = np.stack([smooth(0, 255, "uint8", k) for k in range(3)], axis=-1)
    eight = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "vr": "OB", **square}
    for name, series, photometric in (("rgb", "1.2.13", "RGB"), ("ybr", "1.2.14", "YBR_FULL")):
        _dicom(
            source / f"{name}.dcm",
            series,
            colours,
            SamplesPerPixel=3,
            PlanarConfiguration=0,
            PhotometricInterpretation=photometric,
            **eight,
        )
    pairs = np.stack([colours[:, 0::2, 0], colours[:, 1::2, 0], colours[:, 0::2, 1], colours[:, 0::2, 2]], -1)
    _dicom(
        source / "subsampled.dcm",
        "1.2.15",
        pairs,
        SamplesPerPixel=3,
        PlanarConfiguration=0,
        PhotometricInterpretation="YBR_FULL_422",
        **eight,
    )
    table = np.random.default_rng(3).integers(0, 256, (3, 256), np.uint16) * 257
    make = dicom_builder.Builder()
    palette = b"".join(make.element(0x00281101 + k, "US", [256, 0, 16]) for k in range(3)) + b"".join(
        make.element(0x00281201 + k, "OW", table[k].tobytes()) for k in range(3)
    )
    _dicom(
        source / "palette.dcm",
        "1.2.16",
        smooth(0, 255, "uint8"),
        PhotometricInterpretation="PALETTE COLOR",
        before=palette,
        **eight,
    )


def _dicom(path: Path, series: str, words: NDArray[Any], **values: Any) -> None:
    """One instance; each series is a study of its own."""
    number = values.get("InstanceNumber", "1")
    uids = {"SOPInstanceUID": f"{series}.1.{number}", "SeriesInstanceUID": f"{series}.1"}
    path.write_bytes(dicom_builder.image(words.tobytes(), StudyInstanceUID=series, **uids, **values))


# -- satellite ----------------------------------------------------------------------------------------------


def _write_tiffs(source: Path) -> None:
    bands = np.stack([smooth(200 * k, 3000 + 500 * k, "uint16", k) for k in range(5)])
    _tiff(source / "scene.tif", bands, nodata=0, colours=("blue", "green", "red", "undefined", "undefined"))
    rgba = np.stack(
        [smooth(0, 255, "uint8", k) for k in range(3)] + [np.full((HEIGHT, WIDTH), 255, np.uint8)]
    )
    rgba[3, :, :100] = 0
    _tiff(source / "rgba.tif", rgba, photometric="RGB", alpha="yes")
    elevation = smooth(-12.5, 3210.25, "float32")
    elevation[40:90, 100:230] = -9999
    elevation[0, 0] = np.nan
    _tiff(source / "elevation.tif", elevation[None], nodata=-9999)
    classes = (smooth(0, 8, "uint8") // 1)[None]
    colormap = {k: (30 * k, 255 - 30 * k, 17 * k, 255) for k in range(9)}
    _tiff(source / "classes.tif", classes, colormap=colormap)
    valid = np.full((HEIGHT, WIDTH), 255, np.uint8)
    valid[:120, :150] = 0
    _tiff(source / "masked.tif", smooth(10, 5000, "int32")[None], mask=valid)


def _tiff(
    path: Path,
    values: NDArray[Any],
    colours: tuple[str, ...] = (),
    colormap: dict[int, tuple[int, ...]] | None = None,
    mask: NDArray[np.uint8] | None = None,
    **options: Any,
) -> None:
    profile = {
        "count": len(values),
        "height": HEIGHT,
        "width": WIDTH,
        "dtype": values.dtype,
        **GEO,
        **options,
    }
    with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="GTiff", compress="deflate", **profile) as file:
            file.write(values)
            if colours:
                file.colorinterp = [ColorInterp[name] for name in colours]
            if colormap:
                file.write_colormap(1, colormap)
            if mask is not None:
                file.write_mask(mask)


# -- a server -----------------------------------------------------------------------------------------------


def serve_command(archive: Path, *options: object) -> list[str]:
    """`tilevault serve` on a free port, which its first line tells as JSON."""
    module = [sys.executable, "-m", "tilevault.workflows.cli"]
    return [*module, "serve", str(archive), "--port", "0", "--json", *map(str, options)]


@contextmanager
def running(archive: Path, *options: object, stop: signal.Signals = signal.SIGTERM) -> Iterator[str]:
    """A server process of its own on a free port of the loopback; its address, without a slash at the end."""
    process = subprocess.Popen(
        serve_command(archive, *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield str(json.loads(line)["url"]).rstrip("/")
    finally:
        process.send_signal(stop)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()
