"""The images of the lossless benchmark, cut into tiles as the archive cuts them.

Everything that the formats read in the data folder, and its PNG files. Pixels that are there twice count
once. Left out: what a lossy codec or a resampling has touched, bits, and types beyond 32 bit (both are not
transformed). Series are one image; series and single slices of one folder of patients keep their names.
"""

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray

from tilevault.archive.formats import SourceFile, SourceImage, formats
from tilevault.archive.grid import TileGrid, tile_shape
from tilevault.archive.image import ImageInfo, Window
from tilevault.codecs.errors import TilevaultError
from tilevault.workflows.plan import has_low_bands, packed_sizes, sampled_tiles, worth_packing

__all__ = ["BenchImage", "Tile", "images"]

Tile = NDArray[Any]
SIDE = 512
VALIDATION = (
    "medical/robyoung__", "medical/QIICR__dcmqi", "medical/fuzun45__", "medical/datalad__",
    "satellite/makepath__", "satellite/opengeos__", "satellite/GeoTIFF__", "satellite/CNES__",
    "satellite/opendatacube__", "satellite/developmentseed__",
)  # fmt: skip
APART = ("satellite/mapbox__rio-pansharpen", "satellite/cogeotiff__", "satellite/ebiederstadt__")
"""Decimated or resampled: shown, but in no mean."""
LOSSY = ("J2KI", "UNCI", "JLSN", "JPLY", "Fake_MONOHR1", "HTJ2K_08_RGB", "torchxrayvision")
"""UNCI are the decoded J2KI files: a wavelet codec finds its own traces in them."""
RADIOGRAPHY = ("CR", "DX", "RG", "XA", "MG", "RF", "PX")
DECODERS = {
    "1.2.840.10008.1.2.5": None,  # pydicom's own
    "1.2.840.10008.1.2.4.80": imagecodecs.jpegls_decode,
    "1.2.840.10008.1.2.4.90": imagecodecs.jpeg2k_decode,
    "1.2.840.10008.1.2.4.201": imagecodecs.jpeg2k_decode,
    "1.2.840.10008.1.2.4.57": imagecodecs.ljpeg_decode,
    "1.2.840.10008.1.2.4.70": imagecodecs.ljpeg_decode,
}


@dataclass(frozen=True)
class BenchImage:
    """One image: what it is called, how it counts, its tiles."""

    name: str
    group: str
    """Modality, or what a satellite band is."""
    origin: str
    """validation, training, pictures or apart."""
    info: ImageInfo
    pack: bool
    """Whether the archive would permit histogram packing."""
    tiles: tuple[Tile, ...]
    """Native byte order, C order, at their valid extents."""

    @property
    def samples(self) -> int:
        """Of all tiles."""
        return sum(tile.size for tile in self.tiles)

    @property
    def nbytes(self) -> int:
        """Of all tiles, as words."""
        return sum(tile.nbytes for tile in self.tiles)

    @property
    def colour_axis(self) -> bool:
        """Whether the tiles are (c, y, x)."""
        return self.info.axes == ("c", "y", "x")


class ArrayReader(AbstractContextManager["ArrayReader"]):
    """An array in the place of a format's reader."""

    def __init__(self, info: ImageInfo, words: Tile) -> None:
        self.info, self.words = info, words

    def read(self, window: Window) -> Tile:
        """The words of the window."""
        return self.words[window.slices]

    def __exit__(self, *exc: object) -> None:
        """Nothing to close."""


def images(data: Path, names: str = "") -> Iterator[BenchImage]:
    """The images whose name contains ``names``, each pixel content once: as validation if it is."""
    seen: set[bytes] = set()
    for name, group, info, reader in sorted(_sources(data), key=lambda s: _origin(s[0]) != "validation"):
        if names not in name:
            continue
        with reader:
            words = np.ascontiguousarray(reader.read(Window((0,) * len(info.shape), info.shape)))
            key = hashlib.sha256(words.tobytes()).digest()
            if key in seen:
                continue
            seen.add(key)
        sampled = (packed_sizes(words[window.slices]) for window in sampled_tiles(info, SIDE))
        pack = not has_low_bands(info) or worth_packing(sampled)
        yield BenchImage(_short(name), group, _origin(name), info, pack, tuple(_tiles(info, words)))


def _origin(name: str) -> str:
    if name.startswith("pictures"):
        return "pictures"
    if name.startswith(APART):
        return "apart"
    return "validation" if name.startswith(VALIDATION) else "training"


def _short(name: str) -> str:
    """The owner of the source and the file."""
    parts = name.split("/")
    owner = parts[1].split("__")[0] if len(parts) > 2 else parts[0]
    return f"{owner}/{Path(parts[-1]).stem}"


def _tiles(info: ImageInfo, words: Tile) -> Iterator[Tile]:
    shape = tile_shape(info.shape, info.axes, SIDE, info.dtype.itemsize)
    grid = TileGrid.plan(info.shape, shape, info.dtype.itemsize)
    for index in np.ndindex(*grid.tiles):
        yield np.ascontiguousarray(words[grid.tile_window(index).slices], info.dtype.newbyteorder("="))


def _sources(data: Path) -> Iterator[tuple[str, str, ImageInfo, Any]]:
    for image in _assembled(data):
        info, name = image.info, image.sources[0].name
        if info is None or info.dtype.itemsize > 4 or info.bits_stored == 1 or any(s in name for s in LOSSY):
            continue
        if image.codec is not None:
            words = _decoded(Path(image.sources[0].path or ""))
            if words is None or words.shape != info.shape:
                continue
            reader: Any = ArrayReader(info, words.astype(info.dtype))
        else:
            reader = formats()[image.format].open_reader(image)
        yield name, _group(image, info), info, reader
    for path in sorted(data.rglob("*.png")):
        words = np.asarray(imagecodecs.png_decode(path.read_bytes()))
        axes = ("y", "x")
        if words.ndim == 3:
            words, axes = np.ascontiguousarray(np.moveaxis(words, -1, 0)), ("c", "y", "x")
        info = ImageInfo(words.shape, words.dtype, axes, "medical")
        group = "photographs" if words.ndim == 3 else "radiography"
        yield str(path.relative_to(data)), group, info, ArrayReader(info, words)


def _assembled(data: Path) -> Iterator[SourceImage]:
    """Images of all files; files that a collection cannot hold beside others come by themselves."""
    for module in formats().values():
        files: list[SourceFile] = []
        for path in sorted(p for p in data.rglob("*") if p.is_file()):
            with path.open("rb") as file:
                known = module.recognizes(file.read(4096))
            if known:
                try:
                    files += module.scan(path, str(path.relative_to(data)))
                except TilevaultError:
                    continue  # malformed on purpose
        found, rejected = module.assemble(files)
        yield from found
        for file, _ in rejected:
            yield from module.assemble([file])[0]


def _group(image: SourceImage, info: ImageInfo) -> str:
    if info.dtype.kind == "f":
        return "float"
    if image.format == "geotiff":
        bands = "one band" if "c" not in info.axes else "multi-band"
        return f"{bands}, {8 * info.dtype.itemsize} bit"
    if "c" in info.axes:
        return f"colour, {8 * info.dtype.itemsize} bit"
    modality = str(image.search.get("Modality") or "OT")
    return "radiography" if modality in RADIOGRAPHY else modality


def _decoded(path: Path) -> Tile | None:
    """The words of an encapsulated image of one frame that no lossy codec has touched, or None."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(path, force=True)
        syntax = str(dataset.file_meta.TransferSyntaxUID)
        if syntax not in DECODERS or int(dataset.get("NumberOfFrames") or 1) != 1:
            return None
        if DECODERS[syntax] is None:
            words = dataset.pixel_array
        else:
            frame = next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))
            words = np.asarray(DECODERS[syntax](frame))
    if dataset.PixelRepresentation and words.dtype.kind == "u":
        shift = 16 - dataset.BitsStored
        words = (words.astype(np.uint16) << shift).view(np.int16) >> shift
    return np.ascontiguousarray(np.moveaxis(words, -1, 0) if words.ndim == 3 else words)
