"""Peak memory of adding one large scene: a generated 32,000 x 32,000 scene of 16 bits, 2 GB of samples.

python tests/benchmarks/bench_memory.py [--side 32000] [--workers 2]
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

ADD = """
import sys
from tilevault import add
result = add([sys.argv[1]], sys.argv[2], workers=int(sys.argv[3]))
print(result.images[0].status, result.totals["bytes_stored"])
"""


def write_scene(path: Path, side: int) -> None:
    """Terrain-like rows with noise, deflated in strips, written band of rows by band of rows."""
    rng = np.random.default_rng(0)
    rows = (np.cumsum(rng.integers(-3, 4, (512, side)), axis=1) + 2000).astype(np.uint16)
    grid = {"crs": "EPSG:32631", "transform": rasterio.Affine(10, 0, 500000, 0, -10, 5000000)}
    options = {"compress": "deflate", "zlevel": 1, "predictor": 2, "bigtiff": "yes", "num_threads": 2}
    shape = {"count": 1, "height": side, "width": side, "dtype": "uint16"}
    with rasterio.open(path, "w", driver="GTiff", **shape, **grid, **options) as dataset:
        for y in range(0, side, 512):
            height = min(512, side - y)
            noise = rng.integers(0, 30, (height, side), dtype=np.uint16)
            words = np.roll(rows, 7 * y, axis=1)[:height] + noise
            dataset.write(words, 1, window=Window(0, y, side, height))


def main() -> None:
    """Write the scene, add it in a process of its own, print that process's peak."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=32_000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        scene = Path(scratch) / "scene.tif"
        write_scene(scene, options.side)
        began = time.perf_counter()
        command = [
            sys.executable,
            "-c",
            ADD,
            str(scene),
            str(Path(scratch) / "archive"),
            str(options.workers),
        ]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    raw, stored = options.side**2 * 2 / 1e6, int(said[1]) / 1e6
    print("| samples MB | stored MB | seconds | MB/s | peak MiB | status |")
    print("|---|---|---|---|---|---|")
    print(f"| {raw:.0f} | {stored:.0f} | {seconds:.1f} | {raw / seconds:.0f} | {peak:.0f} | {said[0]} |")


if __name__ == "__main__":
    main()
