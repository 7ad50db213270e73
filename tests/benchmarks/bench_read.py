"""Reading: what a tile, a preview and a window cost, beside decoding alone and beside rasterio.

A scene of 20,000 x 20,000 (``--side``) uint16 samples is made of one band of a GeoTIFF (``--texture``;
default: generated, see `collection.scene`), mirrored until it fills it. It is archived by `add` with its
defaults, and written as a COG (deflate, with and without predictor; blocks of 512 x 512). Then, warm:

* tile: a random aligned 512 x 512 tile, on one thread. *decode*: its bytes, already in memory, through the
  codec. *open image*: `Image.read`. *open nothing*: archive, image and tile for each. *COG*: `rasterio.open`
  and read for each. They take turns, tile by tile; of each tile and way the least of ``--repeat`` times
  counts, then the median over tiles (others on the machine only ever make a read slower).
* window: 2048 x 2048 on one thread and on all.
* preview: all of it at 1/16, bytes and time against all of it at full size.
* prefix: a scene with low-pass levels: bytes of a window at levels 1 and 2.
* requests: what a web server on this machine is asked for, for windows and a preview.
* http: the samples of random aligned tiles from `tilevault serve`, a process of its own, by one client that
  keeps its connection, and by `Image.read` here, in turn. The server's cache is too small for the tiles.

    python tests/benchmarks/bench_read.py [--side N] [--texture band.tif] [--archive folder] [--json out.json]
"""

import argparse
import http.client
import json
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import rasterio
from rasterio.shutil import copy
from rasterio.windows import Window as RasterWindow

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import collection
import serve_zoo
from tilevault import Archive, add
from tilevault.archive import Image, TileCache, Window
from tilevault.archive.blobs import LocalBlobs
from web_server import serving

TILE = 512
COGS = {"deflate": "NO", "deflate, predictor 2": "YES"}


def texture(path: Path | None) -> np.ndarray[Any, Any]:
    """One band of uint16 samples."""
    if path is None:
        return collection.scene(2048)[3, 300:1800, 400:1900]
    with rasterio.open(path, driver="GTiff") as dataset:
        return np.asarray(dataset.read(1), np.uint16)


def write_scene(path: Path, side: int, band: np.ndarray[Any, Any]) -> None:
    """The band and its mirror images, ``side`` samples along each axis, as an uncompressed tiled GeoTIFF."""
    block = np.block([[band, band[:, ::-1]], [band[::-1], band[::-1, ::-1]]])
    grid = {"crs": "EPSG:32631", "transform": rasterio.Affine(10, 0, 500000, 0, -10, 5000000)}
    blocks = {"tiled": True, "blockxsize": TILE, "blockysize": TILE}
    shape = {"count": 1, "height": side, "width": side, "dtype": "uint16"}
    columns = np.arange(side) % block.shape[1]
    with rasterio.open(path, "w", driver="GTiff", **shape, **grid, **blocks) as dataset:
        for top in range(0, side, TILE):
            rows = np.arange(top, min(top + TILE, side)) % block.shape[0]
            window = RasterWindow(0, top, side, len(rows))
            dataset.write(block[np.ix_(rows, columns)], 1, window=window)


def seconds(call: Callable[[], Any]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@contextmanager
def counted() -> Iterator[list[tuple[str, int]]]:
    """Key and bytes of every read of a folder."""
    real, seen = LocalBlobs.read, []

    def noted(self: LocalBlobs, key: str, *args: Any, **options: Any) -> bytes:
        data = real(self, key, *args, **options)
        seen.append((key, len(data)))
        return data

    LocalBlobs.read = noted  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        LocalBlobs.read = real  # type: ignore[method-assign]


def tile_bars(folder: Path, name: str, cogs: dict[str, Path], tiles: int, repeat: int) -> dict[str, float]:
    """Milliseconds of a tile, each way."""
    image = Archive.open(folder)[name]
    reader, cached = image.readers["data"], Archive.open(folder, cache=TileCache(1 << 30))[name]
    least: dict[str, list[float]] = {}
    for y, x in random_tiles(image, tiles):
        window = tile_window(y, x)
        data = reader.tile_bytes((y, x), reader.array.codec.resolutions)
        pixels = image.read(window)
        ways: dict[str, Callable[[], Any]] = {
            "decode": lambda data=data: reader.array.codec.decode_tile(data, (TILE, TILE), image.dtype),
            "open image": lambda window=window: image.read(window),
            "open nothing": lambda window=window: Archive.open(folder)[name].read(window),
            "from the cache": lambda window=window: cached.read(window),
        }
        for kind, path in cogs.items():
            ways[f"COG, {kind}"] = lambda path=path, y=y, x=x: read_cog(path, y, x)
            if not np.array_equal(ways[f"COG, {kind}"](), pixels):
                raise SystemExit("the COG holds other pixels")
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(repeat):
            for way, call in ways.items():
                times[way].append(seconds(call))
        for way, found in times.items():
            least.setdefault(way, []).append(min(found))
    return {way: 1e3 * median(found) for way, found in least.items()}


def random_tiles(image: Image, tiles: int) -> list[tuple[int, int]]:
    """Rows and columns of whole tiles, none twice."""
    rows, columns = (n // TILE for n in image.shape)
    return [divmod(n, columns) for n in random.Random(7).sample(range(rows * columns), tiles)]


def tile_window(y: int, x: int) -> Window:
    """A tile's samples."""
    return Window((y * TILE, x * TILE), ((y + 1) * TILE, (x + 1) * TILE))


def http_bar(folder: Path, name: str, tiles: int, repeat: int) -> dict[str, float]:
    """Milliseconds of a tile, here and from the server: of each tile the least of all rounds; the median."""
    image = Archive.open(folder)[name]
    places = random_tiles(image, tiles)
    times: dict[str, list[list[float]]] = {"here": [], "http": []}
    with serve_zoo.running(folder, "--cache", 16) as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://"))

        def ask(y: int, x: int) -> bytes:
            window = ",".join(f"{n * TILE}:{(n + 1) * TILE}" for n in (y, x))
            connection.request("GET", f"/api/images/{name}/pixels/0?window={window}")
            return connection.getresponse().read()

        for y, x in places:
            here = image.read(tile_window(y, x))
            if ask(y, x) != here.astype(here.dtype.newbyteorder("<")).tobytes():
                raise SystemExit("the server gives other samples")
        for _ in range(repeat):
            times["here"].append([seconds(lambda p=p: image.read(tile_window(*p))) for p in places])
            times["http"].append([seconds(lambda p=p: ask(*p)) for p in places])
        connection.close()
    return {way: 1e3 * median(map(min, zip(*found, strict=True))) for way, found in times.items()}


def read_cog(path: Path, y: int, x: int) -> np.ndarray[Any, Any]:
    """A tile of a COG that is opened for it."""
    with rasterio.open(path, driver="GTiff") as dataset:
        return np.asarray(dataset.read(1, window=RasterWindow(x * TILE, y * TILE, TILE, TILE)))


def threads_bar(image: Image, repeat: int) -> dict[str, float]:
    """Seconds of a window of 16 tiles and more, one thread and all."""
    side = min(2048, image.shape[-1])
    window = Window((0, 0), (side, side))
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(repeat):
        for threads, found in times.items():
            image.threads = threads
            found.append(seconds(lambda: image.read(window)))
    image.threads = True
    one, more = min(times[False]), min(times[True])
    return {"one_thread_ms": 1e3 * one, "all_threads_ms": 1e3 * more, "times": one / more}


def preview_bar(folder: Path, name: str, repeat: int) -> dict[str, float]:
    """Bytes and time of level 4, opened for it, against all of level 0, opened before."""
    with counted() as seen:
        Archive.open(folder)[name].read(level=4)
    image = Archive.open(folder)[name]
    small = min(seconds(lambda: Archive.open(folder)[name].read(level=4)) for _ in range(3 * repeat))
    rows = range(0, image.shape[-2], 2048)

    def full() -> None:
        for top in rows:
            image.read(Window((top, 0), (min(top + 2048, image.shape[-2]), image.shape[-1])))

    whole = min(seconds(full) for _ in range(max(1, repeat // 3)))
    read, stored = sum(size for _, size in seen), sum(entry.size for entry in image.manifest.objects)
    return {
        "bytes": read,
        "bytes_of_all": read / stored,
        "reads": len(seen),
        "preview_ms": 1e3 * small,
        "full_ms": 1e3 * whole,
        "time_of_full": small / whole,
    }


def prefix_bar(scratch: Path, band: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Bytes of a window at the levels between, of an image whose levels are low-pass bands."""
    smooth = np.asarray(band, np.uint32) * 3 // 2 + 7  # without gaps between the values, nothing is packed
    rng = np.random.default_rng(1)
    noisy = np.asarray(smooth + rng.integers(0, 2, smooth.shape), np.uint16)
    write_scene(scratch / "lowpass.tif", 3000, noisy)
    add([scratch / "lowpass.tif"], scratch / "lowpass", workers=1)
    archive = Archive.open(scratch / "lowpass")
    image = archive[next(iter(archive))]
    found: dict[str, Any] = {"downsampling": image.downsampling}
    for level in (0, 1, 2):
        image.read(Window((0, 0), (8, 8)), level)
        side = 2048 >> level
        with counted() as seen:
            image.read(Window((0, 0), (side, side)), level)
        found[f"level_{level}_bytes"] = sum(size for _, size in seen)
    return found


def remote_bar(folder: Path, name: str) -> dict[str, Any]:
    """Requests and bytes over HTTP."""
    found = {}
    with serving(folder.parent) as web:

        def tell(what: str) -> None:
            found[what] = {"requests": len(web.requests), "bytes": web.bytes_sent}
            web.clear()

        archive = Archive.open(f"{web.url}/{folder.name}")
        image = archive[name]
        image.read(Window((TILE, TILE), (2 * TILE, 2 * TILE)))
        tell("first tile, archive and image opened")
        image.read(Window((TILE, 4 * TILE), (2 * TILE, 5 * TILE)))
        tell("another tile of that shard")
        image.read(Window((100, 100), (1100, 2100)))
        tell("a window of 1000 x 2000")
        fresh = archive[name]
        web.clear()
        fresh.read(level=4)
        tell("1/16 preview, image opened")
    return found


def report(result: dict[str, Any]) -> None:
    """The bars, a line each."""
    tile, preview = result["tile"], result["preview"]
    decode = tile["decode"]
    size = f"{result['side']} x {result['side']}, {result['stored_MB']:.0f} MB stored"
    print(f"scene of {size}, levels by {result['downsampling']}; {result['machine']}")
    for way, ms in tile.items():
        print(f"  tile, {way:28} {ms:7.3f} ms   {ms / decode:5.2f} x decode")
    cog = min(ms for way, ms in tile.items() if way.startswith("COG"))
    bar("tile, image open / decode", tile["open image"] / decode, 1.3)
    bar("tile, nothing open / faster COG", tile["open nothing"] / cog, 1.0)
    bar("tile, HTTP / image open", result["http"]["http"] / result["http"]["here"], 3.0)
    bar("preview 1/16, share of bytes", preview["bytes_of_all"], 0.02)
    bar("preview 1/16, share of time", preview["time_of_full"], 0.02)
    print(f"  tile over HTTP {result['http']['http']:.3f} ms, here {result['http']['here']:.3f} ms")
    threads = result["threads"]
    print(f"  2048 x 2048: {threads['one_thread_ms']:.1f} ms on one thread, {threads['times']:.2f} x on all")
    print(f"  prefix: {result['prefix']}")
    for what, counts in result["remote"].items():
        print(f"  over HTTP, {what:40} {counts['requests']:3} requests, {counts['bytes']:9} bytes")


def bar(what: str, found: float, most: float) -> None:
    """One promise."""
    print(f"  {what:34} {found:7.4f}   at most {most:<6} {'met' if found <= most else 'NOT MET'}")


def main() -> None:
    """Make or take the scene, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--texture", type=Path)
    parser.add_argument("--archive", type=Path, help="where scene, archive and COGs are kept for another run")
    parser.add_argument("--tiles", type=int, default=40)
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        scratch = options.archive or Path(made)
        result = measured(scratch, Path(made), options)
    report(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


def measured(scratch: Path, passing: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All bars."""
    band, plain, folder = texture(options.texture), scratch / "scene.tif", scratch / "scene"
    cogs = {kind: scratch / f"cog_{predictor}.tif" for kind, predictor in COGS.items()}
    if not folder.is_dir():
        scratch.mkdir(parents=True, exist_ok=True)
        write_scene(plain, options.side, band)
        for kind, path in cogs.items():
            packing = {"COMPRESS": "DEFLATE", "PREDICTOR": COGS[kind], "BLOCKSIZE": str(TILE)}
            copy(plain, path, driver="COG", OVERVIEWS="NONE", NUM_THREADS="ALL_CPUS", **packing)
        add([plain], folder)
        plain.unlink()
    archive = Archive.open(folder)
    image = archive[next(iter(archive))]
    return {
        "side": image.shape[-1],
        "stored_MB": image.summary["bytes_stored"] / 1e6,
        "downsampling": image.downsampling,
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "date": time.strftime("%Y-%m-%d"),
        "tile": tile_bars(folder, image.id, cogs, options.tiles, options.repeat),
        "http": http_bar(folder, image.id, options.tiles, options.repeat),
        "threads": threads_bar(image, options.repeat),
        "preview": preview_bar(folder, image.id, options.repeat),
        "prefix": prefix_bar(passing, band),
        "remote": remote_bar(folder, image.id),
    }


if __name__ == "__main__":
    main()
