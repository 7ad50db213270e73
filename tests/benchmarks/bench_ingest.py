"""End to end: how much of the codec's own speed does `add` keep?

For each collection, interleaved and repeated: (a) *codec*: all tiles of the image, already in memory, are
encoded and decoded again on N threads, nothing else; (b) *add*: the files are archived by `add` with N
workers into a new archive on disk (scan, read, encode, digests, shards, fsync, tables, pyramid, proof,
commit). Wall time, medians. Then the stages of one add, each alone on one thread, so that the rest has names.

    python tests/benchmarks/bench_ingest.py [--repeat 3] [--workers 2] [--json out.json]
"""

import argparse
import hashlib
import json
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import collection
from tilevault import Archive, add
from tilevault.archive import Image, Window
from tilevault.archive.formats import formats
from tilevault.archive.reading import read_level
from tilevault.archive.tiles import encode_tile
from tilevault.codecs import LosslessCodec

Tile = np.ndarray[Any, Any]


def build(folder: Path) -> dict[str, Path]:
    """The collections: three CT series, a plain scene (file-exact), a deflated one (metadata-exact)."""
    for i in range(3):
        collection.write_ct_series(folder / "ct" / str(i), slices=200, seed=i, patient=f"P{i}")
    (folder / "plain").mkdir()
    (folder / "deflate").mkdir()
    pixels = collection.scene(6000)
    for name, options in (("plain", {}), ("deflate", {"compress": "deflate", "predictor": 2})):
        write_tiff(folder / name / "scene.tif", pixels, **options)
    return {name: folder / name for name in ("ct", "plain", "deflate")}


def write_tiff(path: Path, pixels: np.ndarray[Any, Any], **options: Any) -> None:
    """A GeoTIFF in strips."""
    import rasterio

    count, height, width = pixels.shape
    grid = {"crs": "EPSG:32631", "transform": rasterio.Affine(10, 0, 500000, 0, -10, 5000000)}
    shape = {"count": count, "height": height, "width": width, "dtype": pixels.dtype.name}
    with rasterio.open(path, "w", driver="GTiff", **shape, **grid, **options) as dataset:
        dataset.write(pixels)


def timed(call: Callable[[], Any]) -> float:
    """Wall seconds of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def codec_run(tiles: list[tuple[Tile, LosslessCodec]], workers: int) -> None:
    """Encode and decode every tile on ``workers`` threads."""

    def one(pair: tuple[Tile, LosslessCodec]) -> None:
        tile, codec = pair
        decoded = codec.decode_tile(codec.encode_tile(tile), tile.shape, tile.dtype)
        if not np.array_equal(decoded, tile):
            raise SystemExit("a tile did not come back")

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, tiles))


def tiles_of(image: Image) -> list[tuple[Tile, LosslessCodec]]:
    """Every tile of an image, in memory, with the codec that the archive chose."""
    words = image.words[...]
    windows = (image.grid.tile_window(index) for index in image.grid.tile_indices())
    return [(np.ascontiguousarray(words[window.slices]), image.codec) for window in windows]


def measure(source: Path, scratch: Path, workers: int, repeat: int) -> dict[str, float]:
    """One collection: MB/s of the raw samples, and the stages."""
    add([source], scratch / "first", workers=workers)
    images = list(Archive.open(scratch / "first").values())
    tiles = [pair for image in images for pair in tiles_of(image)]
    raw = sum(tile.nbytes for tile, _ in tiles)
    codec, adds = [], []
    for i in range(repeat):
        codec.append(timed(lambda: codec_run(tiles, workers)))
        adds.append(timed(lambda i=i: add([source], scratch / f"run{i}", workers=workers)))  # type: ignore[misc]
        shutil.rmtree(scratch / f"run{i}")
    own, whole = median(codec), median(adds)
    return {
        "MB": raw / 1e6,
        "stored_MB": sum(image.summary["bytes_stored"] for image in images) / 1e6,
        "codec_MB_s": raw / own / 1e6,
        "add_MB_s": raw / whole / 1e6,
        "add_of_codec": own / whole,
        **stages(source, images, tiles),
    }


def stages(source: Path, images: list[Image], tiles: list[tuple[Tile, LosslessCodec]]) -> dict[str, float]:
    """Seconds of each stage of an add, alone, on one thread."""
    module = formats()[images[0].description.format]
    paths = sorted(path for path in source.rglob("*") if path.is_file())
    assembled, _ = module.assemble([file for path in paths for file in module.scan(path, path.name)])

    def read() -> None:
        for one in assembled:
            image = next(i for i in images if i.description.key == one.key)
            with module.open_reader(one) as reader:
                for index in image.grid.shard_indices():
                    reader.read(image.grid.shard_window(index))

    def rebuild() -> None:
        for image in images:
            image.threads = False
            for i in range(len(image.source.files)):
                digest = hashlib.sha256()
                for piece in image.source.rebuild(i):
                    digest.update(piece)

    def level() -> None:
        for image in images:
            window = Window((0,) * len(image.shape), image.level_shape(3))
            read_level(image.description, image.readers, "data", window, 3, threads=False)

    encoded = [(codec, codec.encode_tile(tile), tile) for tile, codec in tiles]
    return {
        "s_scan": timed(lambda: [module.scan(path, path.name) for path in paths]),
        "s_read": timed(read),
        "s_encode": timed(lambda: [codec.encode_tile(tile) for tile, codec in tiles]),
        "s_encode_and_digests": timed(lambda: [encode_tile(codec, tile, False) for tile, codec in tiles]),
        "s_decode": timed(lambda: [c.decode_tile(data, t.shape, t.dtype) for c, data, t in encoded]),
        "s_rebuild": timed(rebuild) if images[0].round_trip == "file-exact" else 0.0,
        "s_level_3": timed(level),
    }


def main() -> None:
    """Print the table, and write it as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        sources = build(Path(scratch) / "in")
        found = {}
        for name, source in sources.items():
            folder = Path(scratch) / f"out-{name}"
            folder.mkdir()
            found[name] = measure(source, folder, options.workers, options.repeat)
            shutil.rmtree(folder)
    keys = list(next(iter(found.values())))
    print(f"| | {' | '.join(found)} |")
    print(f"|---|{'---|' * len(found)}")
    for key in keys:
        print(f"| {key} | {' | '.join(f'{found[name][key]:.3g}' for name in found)} |")
    if options.json:
        machine = {"machine": platform.processor() or platform.machine(), "python": platform.python_version()}
        options.json.write_text(json.dumps({**machine, "results": found}, indent=1))


if __name__ == "__main__":
    main()
