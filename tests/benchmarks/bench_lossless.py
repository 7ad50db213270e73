"""Size and speed of tilevault.lossless against the codecs of the field, one thread each, in one run.

Every image of the data folder (`lossless_images.py`), cut into tiles as the archive cuts them. Each
repetition runs every codec on a tile before the next one begins, so that all see the same machine; times are
medians, summed over the tiles, in processor time of this process, because that does not depend on who else
uses the machine. Slow codecs are timed once. Signed pixels are offset for codecs that take none. Every
decoded tile is compared.

    python tests/benchmarks/bench_lossless.py [--quick] [--repeat 3] [--images CT] [--threads-only]

Sizes of the other codecs are kept in ``<out>/field-sizes.json``, so that ``--quick`` (our sizes on all
images, speed on one tile of each, no memory) takes a minute or two.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import imagecodecs
import numpy as np
from lossless_field import Codec, OwnCodec, Stream, field_codecs, own_codecs
from lossless_images import BenchImage, Tile, images
from lossless_report import bars, plot, report

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import collection
from tilevault import Archive, add

MEMORY_TILE = (3, 1024, 1024)
ONE_EIGHTH = 3
ROUNDS = 8


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    began = time.process_time()
    result = run()
    return result, time.process_time() - began


class Sizes:
    """Bytes of a tile under one of the others' codecs, and which way was smaller; kept between runs."""

    def __init__(self, path: Path) -> None:
        self.path, self.version = path, imagecodecs.__version__
        self.known: dict[str, list[Any] | None] = {}
        if path.exists():
            kept = json.loads(path.read_text())
            self.known = kept["sizes"] if kept["version"] == self.version else {}

    def of(self, codec: Codec, tile: Tile, colour_axis: bool) -> tuple[int, bool] | None:
        """(bytes, joint); None where the codec does not take the type, or loses something (LERC: NaN)."""
        if not codec.takes(tile):
            return None
        digest = hashlib.sha256(tile.tobytes()).hexdigest()[:24]
        key = f"{codec.name} {tile.dtype.str} {tile.shape} {codec.joins(tile, colour_axis)} {digest}"
        if key not in self.known:
            ways = [False, True] if codec.joins(tile, colour_axis) else [False]
            streams = [codec.encode(tile, way) for way in ways]
            exact = [s for s in streams if codec.same(codec.decode(s, tile), tile)]
            self.known[key] = list(min((s.size, s.joint) for s in exact)) if exact else None
        known = self.known[key]
        return (int(known[0]), bool(known[1])) if known else None

    def save(self) -> None:
        """Write what is known."""
        self.path.write_text(json.dumps({"version": self.version, "sizes": self.known}) + "\n")


def measure(image: BenchImage, sizes: Sizes, repeat: int, timed_tiles: int, slow: bool) -> dict[str, Any]:
    """Codec -> bytes, and of the timed tiles: bytes of words, seconds to encode and to decode."""
    owns = own_codecs(image.pack)
    others = field_codecs(float_tiles=image.info.dtype.kind == "f")
    row: dict[str, Any] = {}
    for codec in [*owns, *others]:
        if codec.geotiff and image.info.kind != "satellite":
            continue
        ways = _ways(codec, image, sizes)
        if ways is None:
            continue
        row[codec.name] = {"bytes": sum(size for size, _ in ways), "joint": [way for _, way in ways],
                           "timed": 0, "encode": 0.0, "decode": 0.0}  # fmt: skip
    step = max(1, len(image.tiles) // timed_tiles)
    for i in range(0, len(image.tiles), step)[:timed_tiles]:
        running = [c for c in [*owns, *others] if c.name in row and (slow or not c.slow)]
        _time_tile(image.tiles[i], running, row, i, repeat)
    for own in owns:
        row[own.name]["eighth"] = _eighth(own, image)
    for entry in row.values():
        del entry["joint"]
    return row


def _ways(codec: Codec, image: BenchImage, sizes: Sizes) -> list[tuple[int, bool]] | None:
    if isinstance(codec, OwnCodec):
        return [(codec.encode(tile, False).size, False) for tile in image.tiles]
    found = [sizes.of(codec, tile, image.colour_axis) for tile in image.tiles]
    return [way for way in found if way is not None] if all(way is not None for way in found) else None


def _time_tile(tile: Tile, codecs: list[Codec], row: dict[str, Any], i: int, repeat: int) -> None:
    times: dict[str, tuple[list[float], list[float]]] = {codec.name: ([], []) for codec in codecs}
    for turn in range(repeat):
        for codec in codecs:
            if codec.slow and turn > 0:
                continue
            joint = row[codec.name]["joint"][i]
            stream, encoding = _timed(lambda c=codec, j=joint: c.encode(tile, j))
            back, decoding = _timed(lambda c=codec, s=stream: c.decode(s, tile))
            if not codec.same(back, tile):
                raise SystemExit(f"{codec.name} did not give its tile back")
            times[codec.name][0].append(encoding)
            times[codec.name][1].append(decoding)
    for name, (encoding_times, decoding_times) in times.items():
        row[name]["timed"] += tile.nbytes
        row[name]["encode"] += median(encoding_times)
        row[name]["decode"] += median(decoding_times)


def _eighth(own: OwnCodec, image: BenchImage) -> dict[str, float] | None:
    """What 1/8 of the resolution needs of the bytes and of the time, on tiles of some size."""
    tiles = [tile for tile in image.tiles if min(tile.shape[-2:]) >= 256]
    if not tiles:
        return None
    codec, touched, total, part, whole = own.codec, 0, 0, 0.0, 0.0
    for tile in tiles[:4]:
        data = codec.encode_tile(tile)
        ends = codec.segment_ends(data)
        touched, total = touched + ends[codec.decompositions - ONE_EIGHTH], total + len(data)
        prefix = data[: ends[codec.decompositions - ONE_EIGHTH]]
        for reduce, given in ((ONE_EIGHTH, prefix), (0, data)):
            # Short runs want a finer clock than that of the process.
            turns = []
            for _ in range(5):
                began = time.perf_counter()
                codec.decode_tile(given, tile.shape, tile.dtype, reduce)
                turns.append(time.perf_counter() - began)
            if reduce:
                part += min(turns)
            else:
                whole += min(turns)
    return {"bytes": touched / total, "time": part / whole}


def threads(found: list[BenchImage]) -> dict[str, dict[str, float]]:
    """Wall time of one thread over that of two, best of five, on the tiles of several images.

    A run takes every tile eight times, so that it lasts a tenth of a second or more: of one round of 20 ms,
    the half of a tile for which one thread waits at the end is 2 %, and beginning and ending take as much.
    """
    tiles = [tile for image in found for tile in image.tiles if tile.size >= 1 << 17][:24]
    out = {}
    for own in own_codecs(pack=False):
        codec = own.codec
        coded = [codec.encode_tile(tile) for tile in tiles]
        jobs: dict[str, Callable[[int], Any]] = {
            "encode": lambda i, c=codec: c.encode_tile(tiles[i]),
            "decode": lambda i, c=codec, d=coded: c.decode_tile(d[i], tiles[i].shape, tiles[i].dtype),
        }
        order = [*range(len(tiles))] * ROUNDS
        out[own.name] = {name: _speed_up(job, order) for name, job in jobs.items()}
    return out


def _speed_up(job: Callable[[int], Any], order: list[int]) -> float:
    best = {1: np.inf, 2: np.inf}

    def run(i: int) -> None:
        job(i)  # results go at once, as in a reader that is done with them

    for _ in range(5):
        for workers in best:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(run, range(workers)))  # threads and their buffers are there
                began = time.perf_counter()
                list(pool.map(run, order))
                best[workers] = min(best[workers], time.perf_counter() - began)
    return best[1] / best[2]


def archive_threads(side: int = 4096, slices: int = 96) -> dict[str, dict[str, float]]:
    """The same through the archive: `add` and reading all tiles, one worker against two, best of three."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        collection.write_ct_series(source / "ct", slices=slices)
        collection.write_scene(source / "scene.tif", side=side)
        best: dict[str, dict[int, float]] = {"write": {}, "read": {}}
        for turn in range(3):
            for workers in (1, 2):
                path = Path(folder) / f"archive-{turn}-{workers}"
                began = time.perf_counter()
                add([source], path, workers=workers)
                written = time.perf_counter() - began
                began = time.perf_counter()
                with ThreadPoolExecutor(workers) as pool:
                    archive = Archive.open(path)
                    for image in map(archive.__getitem__, archive):
                        windows = map(image.grid.tile_window, np.ndindex(*image.grid.tiles))
                        list(pool.map(image.read, windows))
                read = time.perf_counter() - began
                for name, seconds in (("write", written), ("read", read)):
                    best[name][workers] = min(best[name].get(workers, np.inf), seconds)
                shutil.rmtree(path)
    return {"archive": {name: times[1] / times[2] for name, times in best.items()}}


def memory() -> dict[str, dict[str, float]]:
    """Peak MiB of a fresh process beyond the tile itself: 16 bit, 3 planes of 1024 x 1024."""
    names = [codec.name for codec in (*own_codecs(False), *field_codecs())]
    out = {}
    for name in names:
        run = subprocess.run(
            [sys.executable, __file__, "--peak-of", name], capture_output=True, text=True, check=True
        )
        out[name] = json.loads(run.stdout)
    return out


def _peak_of(name: str) -> None:
    """In a process of its own: print the peak of encoding, and of decoding, one tile."""
    codec = next(c for c in (*own_codecs(False), *field_codecs()) if c.name == name)
    rng = np.random.default_rng(1)
    walk = np.cumsum(rng.integers(-40, 41, MEMORY_TILE), axis=2) + 30000
    tile = np.ascontiguousarray(walk, np.uint16)
    small = np.ascontiguousarray(tile[:, :64, :64])
    codec.decode(codec.encode(small, False), small)  # libraries are loaded, tables are built
    peaks, stream = {}, Stream((), False)
    for step in ("encode", "decode"):
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        if step == "encode":
            stream = codec.encode(tile, False)
        else:
            codec.decode(stream, tile)
        peaks[step] = (_status("VmHWM") - before) / 1024
    print(json.dumps(peaks))


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field + ":")))


def machine() -> dict[str, str]:
    """Where and with what the numbers were made."""
    cpu = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        cpu = next(
            (s.split(":")[1].strip() for s in cpuinfo.read_text().splitlines() if "model name" in s), cpu
        )
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return {
        "cpu": cpu,
        "python": platform.python_version(),
        "imagecodecs": imagecodecs.__version__,
        "commit": commit.stdout.strip(),
        "command": " ".join(sys.argv),
    }


def main() -> None:
    """Measure; write Markdown, JSON and a plot; print the Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("TILEVAULT_DATA", "../shared/data"))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--images", default="", help="only those whose path contains this")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument(
        "--threads-only", action="store_true", help="two threads against one; nothing else may run"
    )
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        _peak_of(options.peak_of)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    if options.threads_only:
        greys = list(images(Path(options.data), options.images or "WG04"))
        print(json.dumps(threads(greys) | archive_threads(), indent=1))
        return
    sizes = Sizes(options.out / "field-sizes.json")
    found = list(images(Path(options.data), options.images))
    record: dict[str, Any] = {"machine": machine(), "quick": options.quick, "images": {}}
    for image in found:
        print(image.name, file=sys.stderr)
        row = measure(image, sizes, 2 if options.quick else options.repeat,
                      1 if options.quick else 1 << 30, slow=not options.quick)  # fmt: skip
        record["images"][image.name] = {
            "group": image.group, "origin": image.origin, "samples": image.samples, "bytes": image.nbytes,
            "dtype": str(image.info.dtype), "shape": list(image.info.shape), "pack": image.pack,
            "codecs": row,
        }  # fmt: skip
        sizes.save()
    record["threads"] = threads(found) | ({} if options.quick else archive_threads())
    record["memory"] = {} if options.quick else memory()
    record["bars"] = bars(record)
    text = report(record)
    (options.out / "lossless.json").write_text(json.dumps(record, indent=1) + "\n")
    (options.out / "lossless.md").write_text(text)
    plot(record, options.out / "lossless.png")
    print(text)


if __name__ == "__main__":
    main()
