"""The whole path on a small mixed collection, told step by step: ``python tests/demo.py FOLDER``.

Uses the command line as anyone would, and believes none of it: what it says is compared with the files by
other means (SHA-256, rasterio, pydicom). Ends with exit code 1 if anything is not identical.
"""

import json
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import rasterio
from rasterio.windows import Window

import collection
from tilevault.archive.formats import geotiff

PROGRAM = Path(sys.executable).parent / "tilevault"
SOME_REJECTED = 3
"""Exit code of `tilevault add` when it added what was sound and rejected the rest."""
DAMAGED = 4
"""Exit code of whatever meets damage."""
TILE, TILE_Y, TILE_X = 512, 1536, 2048
"""The tile of the scene that is read: it has the shore of a lake in it."""

wrong: list[str] = []


def main(folder: Path) -> int:
    """Run the demo in ``folder``; 0 if everything came back as it went in."""
    began = time.perf_counter()
    source, archive, report, out = (folder / n for n in ("collection", "archive", "report.html", "export"))
    pictures = folder / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    for old in (source, archive, out, pictures):
        shutil.rmtree(old, ignore_errors=True)
    report.unlink(missing_ok=True)

    step("A collection: DICOM and GeoTIFF, real and generated, and what lies around")
    collection.build(source)
    files = sorted(path for path in source.rglob("*") if path.is_file())
    parts = {path: "/".join(path.relative_to(source).parts[:-1][:2]) for path in files}
    for part in sorted(set(parts.values())):
        inside = [path for path in files if parts[path] == part]
        say(f"{part:20} {len(inside):4} files  {megabytes(inside):6.1f} MB")

    step("Add it. Each tile is decoded again and each file rebuilt before anything is committed")
    records = tilevault("add", source, archive, "--report", report, "--json", expect=SOME_REJECTED)
    show_added(records)

    step("What is in the archive")
    tilevault("ls", archive, "--where", "Modality=CT")
    tilevault("ls", archive, "--where", "bbox=13,46,15,48")

    step("Read a tile at two levels: only what is needed is read, and every byte is checked")
    pictures.mkdir()
    read_tiles(archive, source, pictures)

    step("Verify all of it, down to the pixels")
    verified = tilevault("verify", archive, "--depth", "pixels", "--json")[-1]
    say(
        "{images} images, {checked} of {expected} objects, tiles and files checked, {damage} damaged".format(
            **verified
        )
    )
    check(verified["checked"] == verified["expected"] > 0, "verify did not look at everything")

    step("Flip one bit of it: the damage is found, named, and never returned as pixels")
    damage(archive, folder / "never.npy")

    step("Get everything back, and compare with what went in")
    tilevault("export", archive, "-o", out, "--format", "original", "--json", quiet=True)
    compare(source, out, records)

    step("Add it again: nothing is stored twice")
    again = tilevault("add", source, archive, "--json", expect=SOME_REJECTED)
    counts = Counter(record["status"] for record in again if record["type"] == "image")
    say(", ".join(f"{count} images {status}" for status, count in sorted(counts.items())))
    check(set(counts) <= {"present"}, "adding again stored something")

    print(f"\nThe pictures are in {pictures}, the archive is {archive}.")
    print(f"The demo took {time.perf_counter() - began:.0f} s. Its report, to open in a browser: {report}")
    if wrong:
        print(f"\nNOT IDENTICAL: {len(wrong)}", *wrong, sep="\n  ")
    return 1 if wrong else 0


def step(title: str) -> None:
    """Begin the next part of the story."""
    print(f"\n== {title}", flush=True)


def say(text: str) -> None:
    """A line of it."""
    print(f"   {text}", flush=True)


def check(holds: bool, otherwise: str) -> None:
    """Remember what does not hold; the demo goes on and fails in the end."""
    if not holds:
        wrong.append(otherwise)
        say(f"WRONG: {otherwise}")


def megabytes(paths: Iterable[Path]) -> float:
    """Their size."""
    return sum(path.stat().st_size for path in paths) / 1e6


def tilevault(*words: str | Path, expect: int = 0, quiet: bool = False) -> list[dict[str, Any]]:
    """Run a command: with ``--json`` its records, else its output is shown and there are none."""
    command = [str(word) for word in words]
    print(f"$ tilevault {shlex.join(command)}", flush=True)
    capture = subprocess.PIPE if "--json" in command else None
    began = time.perf_counter()
    done = subprocess.run([PROGRAM, *command], stdout=capture, text=True, check=False)
    if not quiet:
        say(f"({time.perf_counter() - began:.1f} s)")
    if done.returncode != expect:
        sys.exit(f"FAILED: {command[0]} ended with exit code {done.returncode} instead of {expect}")
    return [json.loads(line) for line in (done.stdout or "").splitlines()]


def show_added(records: list[dict[str, Any]]) -> None:
    """The totals of an add, its largest images, and what it did not take."""
    images = [record for record in records if record["type"] == "image"]
    for image in sorted(images, key=lambda image: -image["bytes_source"])[:5]:
        ratio = image["bytes_source"] / image["bytes_stored"]
        size = f"{image['bytes_source'] / 1e6:6.1f} MB -> {image['bytes_stored'] / 1e6:5.1f} MB"
        say(f"{image['image'][:8]}  {image['name'][:40]:40} {size}  ratio {ratio:.2f}  {image['round_trip']}")
    say(f"... and {len(images) - 5} more")
    for image in images:
        check(image["status"] == "added", f"{image['name']}: {image['status']}, {image['reason']}")
    refused = [record for record in records if record["type"] == "file"]
    for (status, code), count in Counter((record["status"], record["code"]) for record in refused).items():
        example = next(record for record in refused if record["code"] == code)
        say(f"{status} {count} files, {code}. {Path(example['source']).name}: {example['reason']}")
    total = next(record for record in records if record["type"] == "total")
    source, stored = total["bytes_source"] / 1e6, total["bytes_stored"] / 1e6
    seconds = total["seconds"]
    say(
        f"{total['images']} images of {total['files']} files: {source:.1f} MB in {stored:.1f} MB "
        f"(ratio {source / stored:.2f}), {seconds:.1f} s, {source / seconds:.1f} MB/s"
    )


def read_tiles(archive: Path, source: Path, pictures: Path) -> None:
    """One tile of the scene and one slice of the volume, as pictures at two levels and as values."""
    scene, ct = "maps/scene.tif", "hospital/ct/IM000012"
    for level in (0, 2):
        window = f"{TILE_Y >> level}:{TILE_Y + TILE >> level},{TILE_X >> level}:{TILE_X + TILE >> level}"
        picture = pictures / f"scene-level{level}.png"
        tilevault("read", archive, scene, "--window", window, "--level", str(level), "-o", picture)
    for level in (0, 1):
        picture = pictures / f"ct-level{level}.png"
        tilevault("read", archive, ct, "--index", "z=12", "--level", str(level), "-o", picture)

    values = pictures / "scene-tile.npy"
    window = f"{TILE_Y}:{TILE_Y + TILE},{TILE_X}:{TILE_X + TILE}"
    tilevault("read", archive, scene, "--window", window, "-o", values)
    with rasterio.open(source / scene) as image:
        expected = image.read(window=Window(TILE_X, TILE_Y, TILE, TILE))
    same = np.array_equal(np.load(values, allow_pickle=False), expected)
    check(same, "a tile of the scene differs from the source")
    values = pictures / "ct-slice.npy"
    tilevault("read", archive, ct, "--index", "z=12", "-o", values)
    slice12 = pydicom.dcmread(source / ct).pixel_array
    same = np.array_equal(np.load(values, allow_pickle=False).squeeze(), slice12)
    check(same, "a slice of the volume differs from the source")
    say("both read as values too: equal to what rasterio and pydicom read from the sources")


def damage(archive: Path, never: Path) -> None:
    """Flip one bit in the largest object, see it reported and refused, and flip it back."""
    largest = max((p for p in archive.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    at = largest.stat().st_size // 2
    flip(largest, at)
    records = tilevault("verify", archive, "--json", expect=DAMAGED)
    tiles = [record for record in records if record.get("kind") == "tile"]
    check(len(tiles) == 1, f"one tile was damaged, {len(tiles)} are reported")
    for tile in tiles:
        start, stop = tile["window"]["start"], tile["window"]["stop"]
        (y0, x0), (y1, x1) = start[-2:], stop[-2:]
        say(f"image {tile['image'][:8]}, level {tile['level']}, rows {y0} to {y1}, columns {x0} to {x1}")
        window = f"{y0}:{y1},{x0}:{x1}"
        tilevault("read", archive, tile["image"], "--window", window, "-o", never, expect=DAMAGED)
    check(not never.exists(), "a damaged tile was read")
    flip(largest, at)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return sha256(path.read_bytes()).hexdigest()


def flip(path: Path, at: int) -> None:
    """Change one bit of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


def compare(source: Path, out: Path, records: list[dict[str, Any]]) -> None:
    """Every file of the collection came back as promised, or ``records`` say why it was not taken."""
    refused = {record["source"] for record in records if record["type"] == "file"}
    promised = {
        name: record["round_trip"]
        for record in records
        if record["type"] == "image"
        for name in record["sources"]
    }
    counts: Counter[str] = Counter()
    names = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    for name in sorted(names):
        before, after = source / name, out / name
        if name in refused:
            counts["not taken, with a reason"] += 1
            check(not after.exists(), f"{name} was not taken, and came back")
        elif not after.exists():
            # Two files of the same content are kept once, under the first one's name.
            copy = any(digest(out / other) == digest(before) for other in promised if (out / other).is_file())
            check(copy, f"{name} did not come back")
            counts["copies of files that came back"] += 1
        elif promised.get(name) == "metadata-exact":
            differences = geotiff.compare(before, after)
            check(not differences, f"{name}: {differences[:3]}")
            counts["pixels, georeference and tags equal (metadata-exact)"] += 1
        else:
            check(digest(before) == digest(after), f"{name}: SHA-256 differs")
            counts["SHA-256 equal (file-exact)"] += 1
    back = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    check(back <= names, f"came back, but never went in: {sorted(back - names)[:3]}")
    for what, count in counts.items():
        say(f"{count:4} files  {what}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/demo.py FOLDER")
    sys.exit(main(Path(sys.argv[1])))
