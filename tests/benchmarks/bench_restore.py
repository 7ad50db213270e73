"""What restoration gains: the reference DnCNN on JPEG and JPEG 2000, and our own fast network beside it.

One crop from the middle of up to three validation images of each group (of series: of the middle slice) and
of Kodak photographs (`pictures`), brought to 8-bit grey as `tilevault restore` sees it. PSNR against 255;
restored samples are rounded to bytes. Our own network has no JPEG to restore: its tile is coded to have
JPEG's PSNR *before* restoration; its gain is the one that readers get, strengths chosen and stored.

    python tests/benchmarks/bench_restore.py [--side 128] [--each 3] [--model FILE]

Writes ``restore.json`` and ``restore.md`` into ``--out``.
"""

import argparse
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from bench_lossy import machine
from lossless_images import BenchImage, images
from numpy.typing import NDArray
from PIL import Image as Picture

from tilevault.codecs import LearnedCodec
from tilevault.codecs.lossy_modes import LEARNED, MODES
from tilevault.codecs.lossy_network import SLOPE, encode_near
from tilevault.codecs.metrics import measure
from tilevault.codecs.models.grey import luma, to_grey
from tilevault.codecs.models.jpeg_crops import compressed, decompressed
from tilevault.codecs.models.reference_blob import load_reference
from tilevault.codecs.weights import CURRENT_MODEL

try:
    import torch

    from tilevault.codecs.models.dncnn import FoldedDnCNN, restored
except ImportError as error:
    print(f"nothing measured: {error}", file=sys.stderr)
    sys.exit(0)

QUALITIES = 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100
RATES = 0.25, 0.5, 1.0, 2.0
"""Bits per pixel of JPEG 2000."""
SEEN = "robyoung/MR2"
"""Its pixels, after a lossy codec, are also in a training source (MR2_UNCI of pydicom-data)."""
LEAST_DEVIATION = 4.0
"""Of a crop's bytes: in the middle of an image there may be nothing."""
NAMES = {
    "one band, 16 bit": "Landsat", "multi-band, 8 bit": "aerial", "float": "elevation",
    "colour, 8 bit": "visible light", "photographs": "Kodak",
}  # fmt: skip

Plane = NDArray[np.uint8]
Scores = dict[str, float]


@dataclass(frozen=True)
class Crop:
    """A crop in 8 bits."""

    name: str
    group: str
    plane: Plane


def crops(data: Path, side: int, each: int) -> Iterator[Crop]:
    """Of the first ``each`` images of each group: validation images, and photographs of the Kodak set."""
    counts: Counter[str] = Counter()
    for image in images(data):
        group = NAMES.get(image.group, image.group)
        if image.origin not in ("validation", "pictures") or counts[group] == each or SEEN in image.name:
            continue
        plane = middle(grey(image), side)
        if plane.std() >= LEAST_DEVIATION:
            counts[group] += 1
            yield Crop(image.name, group, plane)


def grey(image: BenchImage) -> Plane:
    """The middle tile: its luma if it has three bands, else the middle plane."""
    tile = image.tiles[len(image.tiles) // 2]
    planes = tile.reshape(-1, *tile.shape[-2:])
    if image.colour_axis and len(planes) == 3 and tile.dtype == np.uint8:
        return np.rint(luma(planes)).astype(np.uint8)
    return to_grey(planes[len(planes) // 2])


def middle(plane: Plane, side: int) -> Plane:
    """At most ``side`` x ``side``."""
    y, x = (max(0, n - side) // 2 for n in plane.shape)
    return np.ascontiguousarray(plane[y : y + side, x : x + side])


def jpeg2000(plane: Plane, bits: float) -> tuple[Plane, int]:
    """Irreversible 9/7 at about ``bits`` per pixel: what it decodes to, and its bytes."""
    file = BytesIO()
    Picture.fromarray(plane).save(
        file, "JPEG2000", irreversible=True, quality_mode="rates", quality_layers=[8 / bits]
    )
    return np.asarray(Picture.open(file)), len(file.getvalue())


def scores(plane: Plane, before: Plane, after: Plane) -> Scores:
    """PSNR before, and what is gained."""
    was, now = measure(plane, before, 255.0), measure(plane, after, 255.0)
    return {"psnr": was.psnr, "gain": now.psnr - was.psnr, "ssim": was.ssim, "ssim_gain": now.ssim - was.ssim}


def fast(plane: Plane, decibels: float) -> Scores | None:
    """Our own network on a tile of that PSNR before restoration; None where the mode does not code it."""
    codec = LearnedCodec("psnr", decibels, 0, 255, model=CURRENT_MODEL)
    data = encode_near(codec, codec.content(plane, None)[0], SLOPE, True)
    if data is None:
        return None
    before, after = (
        MODES[LEARNED].decode(codec, memoryview(data), plane.shape, plane.dtype, restore)
        for restore in (False, True)
    )
    return {**scores(plane, before, after), "bits": 8 * len(data) / plane.size}


def measured(crop: Crop, network: FoldedDnCNN) -> dict[str, Any]:
    """All qualities and rates of one crop."""

    def beside(decoded: Plane, size: int) -> dict[str, Any]:
        after = restored(network, decoded[np.newaxis])[0]
        dncnn = {**scores(crop.plane, decoded, after), "bits": 8 * size / crop.plane.size}
        return {"dncnn": dncnn, "fast": fast(crop.plane, dncnn["psnr"]) if dncnn["psnr"] < 100 else None}

    files = {quality: compressed(crop.plane, quality) for quality in QUALITIES}
    return {
        "group": crop.group,
        "jpeg": {str(q): beside(decompressed(file), len(file)) for q, file in files.items()},
        "jpeg2000": {str(bits): beside(*jpeg2000(crop.plane, bits)) for bits in RATES},
    }


def report(record: dict[str, Any]) -> str:
    """The tables: dB by group of images, then SSIM over all groups, each DnCNN / ours."""
    found = list(record["crops"].values())
    groups = list(dict.fromkeys(crop["group"] for crop in found))
    counts = ", ".join(f"{sum(c['group'] == g for c in found)} {g}" for g in groups)
    lines = [f"Crops of {record['side']} x {record['side']}: {counts}. Model {record['model'][:12]}.", ""]
    lines += _table(found, groups, "JPEG quality", "jpeg")
    lines += _table(found, groups, "JPEG 2000, bit/pixel", "jpeg2000")
    return "\n".join(lines)


def _table(found: list[Any], groups: list[str], codec: str, key: str) -> Iterator[str]:
    yield f"| {codec} | PSNR | {' | '.join(groups)} | all | SSIM | gain in SSIM |"
    yield "|" + "---|" * (5 + len(groups))
    for step in found[0][key]:
        rows = [(crop["group"], crop[key][step]) for crop in found]
        cells = [step, f"{_mean(rows, 'dncnn', 'psnr'):.1f}"]
        cells += [_pair([row for row in rows if row[0] == group], "gain", "+.2f") for group in groups]
        cells += [_pair(rows, "gain", "+.2f"), f"{_mean(rows, 'dncnn', 'ssim'):.3f}"]
        yield f"| {' | '.join([*cells, _pair(rows, 'ssim_gain', '+.4f')])} |"
    yield ""


def _pair(rows: list[tuple[str, Any]], field: str, form: str) -> str:
    return f"{_mean(rows, 'dncnn', field):{form}} / {_mean(rows, 'fast', field):{form}}"


def _mean(rows: list[tuple[str, Any]], part: str, field: str) -> float:
    """Over groups, of the means over their images."""
    by_group: dict[str, list[float]] = {}
    for group, row in rows:
        if row[part]:
            by_group.setdefault(group, []).append(row[part][field])
    means = [sum(values) / len(values) for values in by_group.values()]
    return sum(means) / len(means) if means else math.nan


def main() -> None:
    """Measure; write JSON and Markdown; print the Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("TILEVAULT_DATA", "../shared/data"))
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--each", type=int, default=3, help="images of each group, at most")
    parser.add_argument("--model", type=Path, help="default: the one that comes with the package")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    if not Path(options.data).is_dir():
        print(f"no images in {options.data}: nothing measured", file=sys.stderr)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    model = load_reference(options.model)
    network = FoldedDnCNN.of(model)
    record: dict[str, Any] = {"machine": machine(), "model": model.digest, "side": options.side, "crops": {}}
    for crop in crops(Path(options.data), options.side, options.each):
        print(crop.name, file=sys.stderr)
        record["crops"][crop.name] = measured(crop, network)
    text = report(record)
    (options.out / "restore.json").write_text(json.dumps(record, indent=1) + "\n")
    (options.out / "restore.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
