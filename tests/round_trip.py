"""Files into an archive and out again, all of them: what is kept, how small, how exact.

Instances that an archive refuses because it holds the same instance in another encoding are archived again,
each in an archive of its own, so that every file is judged.

    python tests/round_trip.py FOLDER ...        prints a table in Markdown, by folder
"""

import argparse
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tilevault import Archive, add
from tilevault.workflows.export import export
from tilevault.workflows.ingest import FileResult
from tilevault.workflows.verify import verify


@dataclass
class Outcome:
    """What became of the files of some folders."""

    images: int = 0
    exact: int = 0
    """Files that came back byte for byte."""
    equal: int = 0
    """GeoTIFFs that came back metadata-exact, as `export` proved."""
    bytes_source: int = 0
    bytes_stored: int = 0
    skipped: list[FileResult] = field(default_factory=list)
    rejected: list[FileResult] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """Whatever must not happen; empty if all is well."""


def round_trip(folder: Path, scratch: Path, workers: int | None = None) -> Outcome:
    """Archive, verify by pixels, export and compare everything below ``folder``."""
    outcome = Outcome()
    alone: list[Path] = []
    rejected = _once([folder], folder, scratch / "all", outcome, workers)
    for file in rejected:
        if file.code == "DuplicateConflict":
            alone.append(folder / file.source)
        else:
            outcome.rejected.append(file)
    for i, path in enumerate(alone):
        outcome.rejected += _once([path], path.parent, scratch / str(i), outcome, workers)
    return outcome


def _once(
    sources: Sequence[Path], top: Path, scratch: Path, outcome: Outcome, workers: int | None
) -> list[FileResult]:
    result = add(sources, scratch / "archive", workers=workers)
    outcome.images += len(result.images)
    outcome.faults += [f"{i.name}: {i.code}: {i.reason}" for i in result.images if i.status != "added"]
    outcome.bytes_source += sum(i.bytes_source for i in result.images)
    outcome.bytes_stored += sum(i.bytes_stored for i in result.images)
    outcome.skipped += [file for file in result.files if file.status == "skipped"]
    archive = Archive.open(scratch / "archive")
    if result.images:
        checked = verify(archive, depth="pixels", workers=workers)
        if checked.exit_code or checked.checked != checked.expected:
            outcome.faults.append(f"{top}: verify: {checked}")
        _export(archive, top, scratch / "out", outcome)
    shutil.rmtree(scratch)
    return [file for file in result.files if file.status == "rejected"]


def _export(archive: Archive, top: Path, out: Path, outcome: Outcome) -> None:
    for done in export(archive, None, out):
        if done.status != "written" or done.path is None:
            outcome.faults.append(f"{done.source}: {done.status}: {done.code}: {done.reason}")
        elif done.proof == "metadata-exact":
            outcome.equal += 1
        elif _sha256(Path(done.path)) == _sha256(top / str(done.source)):
            outcome.exact += 1
        else:
            outcome.faults.append(f"{done.source}: came back with other bytes")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def main() -> int:
    """The table, and every rejected file with its reason."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    options = parser.parse_args()
    print("| folder | images | files exact | metadata-exact | source MB | stored MB | ratio | rejected |")
    print("|---|---|---|---|---|---|---|---|")
    total, notes, faults = Outcome(), [], []
    for folder in options.folders:
        with tempfile.TemporaryDirectory() as scratch:
            found = round_trip(folder, Path(scratch))
        print(_row(folder.name, found), flush=True)
        for name in ("images", "exact", "equal", "bytes_source", "bytes_stored"):
            setattr(total, name, getattr(total, name) + getattr(found, name))
        total.rejected += found.rejected
        notes += [f"* {folder.name}: {file.code}: {file.reason}" for file in found.rejected]
        faults += found.faults
    print(_row("**all**", total))
    print("\n".join(notes))
    print("\n".join(faults), file=sys.stderr)
    return 1 if faults else 0


def _row(name: str, o: Outcome) -> str:
    ratio = o.bytes_source / o.bytes_stored if o.bytes_stored else 0.0
    sizes = f"{o.bytes_source / 1e6:.2f} | {o.bytes_stored / 1e6:.2f} | {ratio:.2f}"
    return f"| {name} | {o.images} | {o.exact} | {o.equal} | {sizes} | {len(o.rejected)} |"


if __name__ == "__main__":
    raise SystemExit(main())
