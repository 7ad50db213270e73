"""Files beside a TIFF that other software reads together with it: kept whole, never interpreted.

Only names that follow from the TIFF's own name are looked for, so a folder is never listed.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from tilevault.archive.formats import SourceFile
from tilevault.archive.formats.geotiff_bytes import check_unchanged, hash_file, open_regular, stat_of

__all__ = ["find_sidecars", "sidecar_names"]

BESIDE_STEM = (".tfw", ".tifw", ".tiffw", ".wld", ".prj", ".rpb", ".imd", ".pvl", "_RPC.TXT")
"""World files, projection, RPCs and vendor metadata: ``scene.tif`` -> ``scene.tfw``."""
BESIDE_NAME = (".aux.xml", ".msk", ".ovr", ".msk.ovr", ".tfw", ".wld")
"""GDAL's own: ``scene.tif`` -> ``scene.tif.aux.xml``."""


def sidecar_names(name: str) -> list[str]:
    """The names that a sidecar of the file ``name`` may have, in lower and upper case."""
    stem = Path(name).stem
    names = [f"{stem}{end}" for end in BESIDE_STEM] + [f"{name}{end}" for end in BESIDE_NAME]
    upper = [f"{stem}{end.upper()}" for end in BESIDE_STEM] + [f"{stem}_rpc.txt"]
    return list(dict.fromkeys(names + upper))


def find_sidecars(path: Path, name: str) -> list[SourceFile]:
    """The sidecars of the file at ``path`` that exist as regular files, scanned and named beside ``name``."""
    return list(_found(path, name))


def _found(path: Path, name: str) -> Iterator[SourceFile]:
    folder = name.rpartition("/")[0]
    seen: set[tuple[int, int]] = set()
    for candidate in sidecar_names(path.name):
        where = path.with_name(candidate)
        if not where.is_file():
            continue
        fd = open_regular(str(where))
        try:
            stat = stat_of(fd)
            if stat[:2] in seen:  # one file under two spellings, on a file system that ignores case
                continue
            seen.add(stat[:2])
            digest = hash_file(fd)
            check_unchanged(fd, stat)
        finally:
            os.close(fd)
        full = f"{folder}/{candidate}" if folder else candidate
        yield SourceFile(full, str(where), stat[2], digest, stat, "sidecar", {})
