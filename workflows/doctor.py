"""``tilevault doctor``: what is installed; and, through readers.py, what each reader makes of an archive."""

import importlib
import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING

from tilevault.workflows.console import Console, printable
from tilevault.workflows.readers import (
    ABSENT,
    FAULT,
    OK,
    Finding,
    look_at,
    one_of_each_kind,
    said,
    version_of,
)

if TYPE_CHECKING:
    from tilevault.archive.store import Archive

__all__ = ["Finding", "doctor", "examine"]

REQUIRED = (
    "numpy", "zarr", "zstandard", "blake3", "google-crc32c", "dask", "distributed", "pydicom", "rasterio",
    "pyproj", "rich",
)  # fmt: skip
OPTIONAL = {
    "imagecodecs": "pixels of encapsulated DICOM (extra dicom)",
    "obstore": "remote archives (extra remote)",
    "xarray": "to_xarray (extra xarray)",
    "rioxarray": "CRS and transform in xarray (extra xarray)",
    "rio-cogeo": "validation of exported COGs (extra cog)",
    "ome-zarr-models": "validation of OME-NGFF",
    "torch": "learned codecs (extra learned)",
}


def examine(archive: str | None, console: Console) -> int:
    """Print the findings; returns 0, or the exit code of the gravest fault."""
    findings = doctor(archive)
    subject = None
    for finding in findings:
        if finding.subject != subject:
            subject = finding.subject
            console.line(subject if subject == "installation" else f"image {subject}")
        console.record(
            "finding",
            subject=finding.subject,
            name=finding.name,
            status=finding.status,
            detail=finding.detail,
        )
        console.line(f"  {finding.status:<8} {finding.name:<24} {printable(finding.detail)}")
    faults = [finding for finding in findings if finding.status == FAULT]
    console.record("total", findings=len(findings), faults=len(faults))
    console.line(f"{len(faults)} fault{'' if len(faults) == 1 else 's'} in {len(findings)} findings")
    return max((finding.exit_code for finding in faults), default=0)


def doctor(archive: "str | os.PathLike[str] | Archive | None" = None) -> list[Finding]:
    """Look at the installation and, with an archive, at its first medical and first satellite image.

    Raises what opening the archive raises; whatever a reader does with an image is a finding.
    """
    from tilevault.archive.store import Archive

    findings = list(_installation())
    if archive is None:
        return findings
    opened = archive if isinstance(archive, Archive) else Archive.open(os.fspath(archive))
    chosen = one_of_each_kind(opened)
    if not chosen:
        findings.append(Finding("images", OK, "none with pixels", "archive"))
    for image in chosen:
        findings.extend(look_at(image))
    return findings


def _installation() -> Iterator[Finding]:
    yield Finding("tilevault", OK, version_of("tilevault") or "not installed as a package")
    yield Finding("python", OK, f"{platform.python_version()}, {platform.machine()}, {sys.platform}")
    yield Finding("processors", OK, str(_processors()))
    for name in REQUIRED:
        version = version_of(name)
        yield Finding(name, OK if version else FAULT, version or "missing", exit_code=0 if version else 70)
    yield _gdal()
    for name, use in OPTIONAL.items():
        version = version_of(name)
        yield Finding(name, OK if version else ABSENT, version or f"not installed: no {use}")
    yield _native()
    yield from _codecs()


def _processors() -> int:
    """Those that this process may use, which in a container are fewer than the machine has."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _gdal() -> Finding:
    try:
        from tilevault.archive.formats.geotiff_probe import gdal_version

        return Finding("GDAL", OK, f"{gdal_version()}, in rasterio")
    except Exception as error:  # a broken binary package fails in ways of its own
        return Finding("GDAL", FAULT, said(error), exit_code=70)


def _native() -> Finding:
    try:
        native = importlib.import_module("tilevault.codecs._native")
    except ImportError as error:
        return Finding("native core", FAULT, said(error), exit_code=70)
    active = getattr(native, "simd", None)
    path = active() if callable(active) else active
    return Finding("native core", OK, f"loaded; SIMD path: {path or 'the one it was compiled for'}")


def _codecs() -> Iterator[Finding]:
    """Whether Zarr, asked as any program would ask it, finds our codecs."""
    found = {entry.name: entry for entry in metadata.entry_points(group="zarr.codecs")}
    for name in ("tilevault.lossless", "tilevault.frame"):
        try:
            entry = found[name].load()
            yield Finding(f"codec {name}", OK, f"found by Zarr: {entry.__module__}.{entry.__qualname__}")
        except KeyError:
            yield Finding(f"codec {name}", FAULT, "no entry point: install the package again", exit_code=70)
        except Exception as error:  # whatever its import raises
            yield Finding(f"codec {name}", FAULT, said(error), exit_code=70)
