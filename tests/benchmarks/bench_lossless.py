"""Size and speed of tilevault.lossless against the codecs of the field, one thread, same run.

The greys of the WG04 compression set (its lossless files, decoded once), cut into tiles of 512 x 512. Each
repetition runs every codec on a tile before the next repetition begins, so that all see the same machine;
the numbers are medians over the repetitions, summed over the tiles. Time is processor time of this
process, because it does not depend on who else uses the machine. Signed pixels are offset for codecs that
take none. Every decoded tile is compared.

    python tests/benchmarks/bench_lossless.py [--repeat 5] [--codecs jpeg-ls,zstd] [--json out.json]
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray

from tilevault.codecs import LosslessCodec

Tile = NDArray[Any]
SIDE = 512
WG04 = "medical/robyoung__dicom-test-files/data/WG04"
FILES = {
    "CT1": f"{WG04}/JLSL/CT1_JLSL",
    "CT2": f"{WG04}/J2KR/CT2_J2KR",
    "MR1": f"{WG04}/J2KR/MR1_J2KR",
    "MR2": f"{WG04}/J2KR/MR2_J2KR",
    "MR3": f"{WG04}/J2KR/MR3_J2KR",
    "MR4": f"{WG04}/J2KR/MR4_J2KR",
    "NM1": "medical/pydicom__pydicom-data/data_store/data/JPEG2000_UNC.dcm",
    "RG2": f"{WG04}/JPLL/RG2_JPLL",
    "RG3": f"{WG04}/J2KR/RG3_J2KR",
    "SC1": f"{WG04}/JLSL/SC1_JLSL",
    "XA1": f"{WG04}/JLSL/XA1_JLSL",
}
"""Each distinct lossless grey image once; NM1 is the uncompressed file of the same scan."""
DECODERS = {
    "1.2.840.10008.1.2.4.80": imagecodecs.jpegls_decode,
    "1.2.840.10008.1.2.4.90": imagecodecs.jpeg2k_decode,
    "1.2.840.10008.1.2.4.70": imagecodecs.ljpeg_decode,
}


@dataclass(frozen=True)
class Codec:
    """One column of the table."""

    name: str
    encode: Callable[[Tile], bytes]
    decode: Callable[[bytes, Tile], Tile]
    signed: bool = False  # takes signed pixels as they are


def _codecs() -> list[Codec]:
    ours, pixels = LosslessCodec(), LosslessCodec(pack=False)

    def shuffled(tile: Tile) -> bytes:
        return bytes(
            imagecodecs.zstd_encode(imagecodecs.bitshuffle_encode(tile.tobytes(), itemsize=2), level=3)
        )

    def unshuffled(data: bytes, tile: Tile) -> Tile:
        raw = imagecodecs.bitshuffle_decode(imagecodecs.zstd_decode(data), itemsize=2)
        return np.frombuffer(raw, tile.dtype).reshape(tile.shape)

    def jxl(effort: int) -> Codec:
        return Codec(
            f"JXL e{effort}",
            lambda t: imagecodecs.jpegxl_encode(t, lossless=True, effort=effort, numthreads=1),
            lambda b, t: imagecodecs.jpegxl_decode(b, numthreads=1),
        )

    return [
        Codec("tilevault", ours.encode_tile, lambda b, t: ours.decode_tile(b, t.shape, t.dtype), True),
        Codec(
            "tilevault -pack", pixels.encode_tile, lambda b, t: pixels.decode_tile(b, t.shape, t.dtype), True
        ),
        Codec("JPEG-LS", imagecodecs.jpegls_encode, lambda b, t: imagecodecs.jpegls_decode(b)),
        Codec("zstd", shuffled, unshuffled, True),
        Codec(
            "JPEG 2000",
            lambda t: imagecodecs.jpeg2k_encode(t, level=0, reversible=True, codecformat="j2k", numthreads=1),
            lambda b, t: imagecodecs.jpeg2k_decode(b, numthreads=1),
        ),
        Codec(
            "HTJ2K",
            lambda t: imagecodecs.htj2k_encode(t, reversible=True),
            lambda b, t: imagecodecs.htj2k_decode(b),
        ),
        jxl(1),
        jxl(3),
    ]


def _read(path: Path) -> Tile:
    dataset = pydicom.dcmread(path, force=True)
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_compressed:
        return np.ascontiguousarray(dataset.pixel_array)
    frame = next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))
    image = np.asarray(DECODERS[str(syntax)](frame))
    if dataset.PixelRepresentation and image.dtype.kind == "u":
        shift = 16 - dataset.BitsStored
        return (image.astype(np.uint16) << shift).view(np.int16) >> shift
    return image


def _tiles(image: Tile) -> Iterator[Tile]:
    for y in range(0, image.shape[0], SIDE):
        for x in range(0, image.shape[1], SIDE):
            yield np.ascontiguousarray(image[y : y + SIDE, x : x + SIDE])


def _unsigned(tile: Tile) -> Tile:
    return tile if tile.dtype.kind == "u" else (tile.astype(np.int32) - int(tile.min())).astype(np.uint16)


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    began = time.process_time()
    result = run()
    return result, time.process_time() - began


def measure(image: Tile, codecs: list[Codec], repeat: int) -> dict[str, list[float]]:
    """Codec -> bytes, seconds to encode, seconds to decode."""
    totals = {codec.name: [0.0, 0.0, 0.0] for codec in codecs}
    for tile in _tiles(image):
        times: dict[str, list[list[float]]] = {codec.name: [[], []] for codec in codecs}
        for _ in range(repeat):
            for codec in codecs:
                taken = tile if codec.signed else _unsigned(tile)
                data, encoding = _timed(lambda c=codec, t=taken: c.encode(t))
                back, decoding = _timed(lambda c=codec, t=taken, d=data: c.decode(d, t))
                if not np.array_equal(np.asarray(back).reshape(taken.shape), taken):
                    raise SystemExit(f"{codec.name} did not give its tile back")
                times[codec.name][0].append(encoding)
                times[codec.name][1].append(decoding)
                size = len(data)
                if len(times[codec.name][0]) == 1:
                    totals[codec.name][0] += size
        for name, (encoding_times, decoding_times) in times.items():
            totals[name][1] += median(encoding_times)
            totals[name][2] += median(decoding_times)
    return totals


def _machine() -> dict[str, str]:
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next(
            (line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line),
            cpu,
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


def _markdown(results: dict[str, dict[str, list[float]]], samples: dict[str, int], names: list[str]) -> str:
    lines = ["| image | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for image, row in results.items():
        bits = [f"{8 * row[name][0] / samples[image]:.3f}" for name in names]
        lines.append(f"| {image} (bits/sample) | " + " | ".join(bits) + " |")
    raw = 2 * sum(samples.values())
    total = {name: [sum(row[name][i] for row in results.values()) for i in range(3)] for name in names}
    lines.append("| total bytes | " + " | ".join(f"{total[n][0]:,.0f}" for n in names) + " |")
    if "JPEG-LS" in names:
        lines.append(
            "| of JPEG-LS | " + " | ".join(f"{total[n][0] / total['JPEG-LS'][0]:.4f}" for n in names) + " |"
        )
    lines.append("| encode MB/s | " + " | ".join(f"{raw / total[n][1] / 1e6:.0f}" for n in names) + " |")
    lines.append("| decode MB/s | " + " | ".join(f"{raw / total[n][2] / 1e6:.0f}" for n in names) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print Markdown, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("TILEVAULT_DATA", "../shared/data"))
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--codecs", default="")
    parser.add_argument("--images", default=",".join(FILES))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    wanted = options.codecs.lower().split(",") if options.codecs else None
    codecs = [
        c
        for c in _codecs()
        if wanted is None or c.name.lower().startswith("tilevault") or c.name.lower() in wanted
    ]
    results, samples = {}, {}
    for name in options.images.split(","):
        image = _read(Path(options.data) / FILES[name])
        samples[name] = image.size
        results[name] = measure(image, codecs, options.repeat)
        print(f"{name} done", file=sys.stderr)
    print(_markdown(results, samples, [codec.name for codec in codecs]))
    if options.json:
        record = {"machine": _machine(), "samples": samples, "bytes_encode_decode_seconds": results}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
