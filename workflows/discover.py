"""Finding and scanning source files: which are images, which are something else, which only claim to be."""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tilevault.archive.formats import SourceFile, formats
from tilevault.codecs.errors import InvalidRequest, NotRecognized, TilevaultError

__all__ = ["FileResult", "Found", "find_files", "scan_files"]

HEAD_BYTES = 4096


@dataclass(frozen=True)
class FileResult:
    """A file that is no image of ours, and why."""

    source: str
    status: str
    """``skipped`` (neither DICOM nor TIFF) or ``rejected`` (claims to be one and is not sound)."""
    code: str
    reason: str


@dataclass(frozen=True)
class Found:
    """A file to be looked at."""

    path: str
    name: str
    """Relative to the source it was found under, with ``/`` between its parts."""


def find_files(sources: Sequence[str | os.PathLike[str]], archive: Path) -> Iterator[Found]:
    """Every file below the sources, in order; the archive itself is left out.

    Raises `InvalidRequest` for a source that is not there.
    """
    for source in sources:
        top = Path(source)
        if top.is_dir():
            yield from _below(top, archive.absolute())
        elif top.exists():
            yield Found(os.fspath(top.absolute()), top.name)
        else:
            raise InvalidRequest(f"{source}: there is no such file or folder")


def _below(top: Path, archive: Path) -> Iterator[Found]:
    for folder, folders, files in os.walk(top):
        folders[:] = sorted(name for name in folders if Path(folder, name).absolute() != archive)
        # A link to a folder is reported, not followed: it may lead anywhere, and round in a circle.
        links = [name for name in folders if Path(folder, name).is_symlink()]
        for name in sorted([*files, *links]):
            path = Path(folder, name)
            yield Found(os.fspath(path.absolute()), path.relative_to(top).as_posix())


def scan_files(files: Sequence[Found]) -> list[list[SourceFile] | FileResult]:
    """Scan each file with the format that recognises it."""
    return [_scan(found) for found in files]


def _scan(found: Found) -> list[SourceFile] | FileResult:
    path = Path(found.path)
    try:
        head = _head(found)
    except NotRecognized as error:
        return FileResult(found.name, "skipped", error.code, error.message)
    except OSError as error:
        return FileResult(found.name, "rejected", "Unreadable", f"{found.name}: {error.strerror}")
    if not head:
        return FileResult(found.name, "skipped", "NotRecognized", f"{found.name}: is empty (0 bytes)")
    for module in formats().values():
        if module.recognizes(head):
            try:
                scanned: list[SourceFile] = module.scan(path, found.name)
            except NotRecognized as error:
                return FileResult(found.name, "skipped", error.code, error.message)
            except TilevaultError as error:
                return FileResult(found.name, "rejected", error.code, error.message)
            return scanned
    return FileResult(found.name, "skipped", "NotRecognized", f"{found.name}: neither DICOM nor TIFF")


def _head(found: Found) -> bytes:
    """The first bytes of a regular file. Raises `NotRecognized` for anything else."""
    try:
        mode = os.stat(found.path).st_mode  # noqa: PTH116 - once for each of many thousand files
    except (OSError, ValueError):
        mode = 0
    if not stat.S_ISREG(mode):
        kind = "a link to a folder, which is not followed" if stat.S_ISDIR(mode) else "not a regular file"
        raise NotRecognized(f"{found.name}: is {kind}")
    descriptor = os.open(found.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return os.read(descriptor, HEAD_BYTES)
    finally:
        os.close(descriptor)
