"""Rate and distortion of lossy tiles: ours against the codecs of the field, on images nothing is tuned on.

Up to three tiles of each validation image (`lossy_field.cases`), the codecs as their users run them
(`lossy_field`), PSNR against the image's valid range. Curves of the others are kept in
``<out>/lossy_peers.json`` under the tile's digest and the libraries' version, so that a later run measures
ours only, and the speeds, which are taken anew: all codecs in turn, at about 42 dB.

    python tests/benchmarks/bench_lossy.py [--origin validation] [--images CT] [--tiles 3] [--no-speed]
    python tests/benchmarks/bench_lossy.py --ablation

Writes ``lossy.json``, ``lossy.md``, ``lossy-rates.png`` and ``lossy-curves.png``; with ``--ablation`` none.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import imagecodecs
from lossless_images import images
from lossy_curves import Curves, speeds
from lossy_field import Case, Coder, cases, coders
from lossy_report import ablation, plot_curves, plot_rates, report

from tilevault.codecs.metrics import measure

SPEED_DECIBELS = 42.0


def measured(case: Case, found: list[Coder], curves: Curves) -> dict[str, Any]:
    """The case and its curves, as JSON."""
    return {
        "image": case.image, "tile": case.index, "group": case.group, "origin": case.origin,
        "shape": list(case.tile.shape), "dtype": str(case.tile.dtype), "low": case.low, "peak": case.peak,
        "masked": 0 if case.valid is None else int(case.valid.size - case.valid.sum()),
        "curves": {coder.name: points for coder in found if (points := curves.of(coder, case))},
    }  # fmt: skip


def timed(chosen: list[Case], found: list[Coder], curves: Curves, repeat: int) -> dict[str, Any]:
    """MB/s on one tile of each image, by kind of image."""
    first: dict[str, Case] = {}
    for case in chosen:
        first.setdefault(case.image, case)
    kinds = {
        "16-bit planes": [c for c in first.values() if c.tile.dtype.kind != "f" and c.tile.itemsize == 2],
        "8-bit RGB": [c for c in first.values() if c.colour and c.tile.shape[0] == 3],
    }
    return {k: speeds(v, found, curves, SPEED_DECIBELS, repeat) for k, v in kinds.items() if v}


def measuring(chosen: list[Case]) -> float | None:
    """Milliseconds that the four measures take of a plane of 512 x 512 words, one thread, median of 15."""
    planes = [c.tile for c in chosen if c.tile.shape == (512, 512) and c.tile.itemsize == 2]
    if not planes:
        return None
    other = planes[0] ^ 1
    times = []
    for _ in range(15):
        began = time.process_time()
        measure(planes[0], other, 4000.0)
        times.append(1000 * (time.process_time() - began))
    return median(times)


def libraries() -> str:
    """imagecodecs and those of its libraries that are measured."""
    wanted = ("imagecodecs-", "openjpeg", "openjph", "libjxl", "charls", "libavif", "libwebp")
    return ", ".join(v for v in imagecodecs.version().split(", ") if v.startswith(wanted))


def machine() -> dict[str, str]:
    """Where and with what the numbers were made."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return {
        "cpu": cpu, "python": platform.python_version(), "libraries": libraries(),
        "commit": commit.stdout.strip(), "command": " ".join(sys.argv),
    }  # fmt: skip


def main() -> None:
    """Measure; write JSON, Markdown and plots; print the Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("TILEVAULT_DATA", "../shared/data"))
    parser.add_argument("--origin", default="validation", help="validation, training, pictures or apart")
    parser.add_argument("--images", default="", help="only those whose path contains this")
    parser.add_argument("--tiles", type=int, default=3, help="of each image, at most")
    parser.add_argument("--repeat", type=int, default=3, help="turns of the speeds")
    parser.add_argument("--no-speed", action="store_true")
    parser.add_argument("--ablation", action="store_true", help="only what our parts are worth")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    curves, chosen = Curves(options.out / "lossy_peers.json"), []
    found = [c for c in coders() if c.part] if options.ablation else coders()
    record: dict[str, Any] = {
        "machine": machine(), "cases": {},
        "coders": [{"name": c.name, "ours": c.ours, "bounded": c.bounded} for c in found],
    }  # fmt: skip
    for image in images(Path(options.data), options.images):
        if image.origin != options.origin:
            continue
        print(image.name, file=sys.stderr)
        for case in cases(image, options.tiles):
            chosen.append(case)
            record["cases"][case.name] = measured(case, found, curves)
        curves.save()
    if options.ablation:
        print("\n".join(ablation(record, {case.name: case for case in chosen})))
        return
    record["speeds"] = {} if options.no_speed else timed(chosen, found, curves, options.repeat)
    record["speed_decibels"] = SPEED_DECIBELS
    record["measuring_ms"] = None if options.no_speed else measuring(chosen)
    text = report(record, {case.name: case for case in chosen})
    (options.out / "lossy.json").write_text(json.dumps(record, indent=1) + "\n")
    (options.out / "lossy.md").write_text(text)
    plot_rates(record, {case.name: case for case in chosen}, options.out / "lossy-rates.png")
    plot_curves(record, options.out / "lossy-curves.png")
    print(text)


if __name__ == "__main__":
    main()
