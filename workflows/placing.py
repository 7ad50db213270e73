"""Puts one finished file into a folder, or nothing: never half a file, never over another one.

The bytes go to a temporary name beside the target; only when the caller is satisfied with them does the
file get its name, by a hard link, which fails if the name is taken. Every folder on the way is opened
without following links, so a name can not lead out of the export.
"""

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from tilevault.codecs.errors import (
    AccessDenied,
    Conflict,
    InvalidRequest,
    StoreError,
    StoreFull,
    StoreUnavailable,
    TilevaultError,
)

__all__ = ["Placing", "file_sha256", "os_failure", "placed"]

PIECE = 4 << 20
TEMPORARY = ".tilevault-"
WRONG_PATH = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EEXIST)


def os_failure(failure: OSError, what: str) -> TilevaultError:
    """Our error for a failed system call: full, forbidden, wrong request, or the storage's fault."""
    text = f"{what}: {failure.strerror or failure}"
    if failure.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(text)
    if failure.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return AccessDenied(text)
    if failure.errno in (
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EEXIST,
    ):
        return InvalidRequest(text)
    return StoreUnavailable(text) if failure.errno == errno.EIO else StoreError(text)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, lower-case hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


class Placing:
    """A file on its way: `open` it, or `write_pieces`, or let a writer make `path`; then `settle`."""

    def __init__(self, folder: int, path: Path, temporary: str) -> None:
        self.path = path.with_name(temporary)
        """The temporary file, not there yet."""
        self._folder = folder
        self._temporary = temporary
        self._final = path
        self._measured: tuple[int, str] | None = None

    def open(self) -> BinaryIO:
        """Create the temporary file (0600) for writing and seeking."""
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW
        return os.fdopen(os.open(self._temporary, flags, 0o600, dir_fd=self._folder), "w+b")

    def write_pieces(self, pieces: Iterator[bytes | memoryview]) -> str:
        """Write the pieces one after the other; returns the SHA-256 of all, lower-case hex."""
        digest, size = hashlib.sha256(), 0
        with self.open() as file:
            for piece in pieces:
                digest.update(piece)
                size += file.write(piece)
        self._measured = size, digest.hexdigest()
        return self._measured[1]

    def measure(self) -> tuple[int, str]:
        """Bytes and SHA-256 of what has been written."""
        if self._measured is None:
            self._measured = self.path.stat().st_size, file_sha256(self.path)
        return self._measured

    def settle(self) -> str:
        """Give the file its name: ``"written"``, or ``"present"`` where an equal file has it already.

        Raises `Conflict` where another file has the name. The content is on the disk before the name is.
        """
        descriptor = os.open(self._temporary, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self._folder)
        try:
            # A writer that goes by the path may have made the file anew, with other permissions.
            os.fchmod(descriptor, 0o600)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            self._link()
        except FileExistsError:
            if self._equals_existing():
                return "present"
            raise Conflict(f"another file is there already: {self._final}", path=str(self._final)) from None
        return "written"

    def _link(self) -> None:
        name = self._final.name
        try:
            os.link(self._temporary, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except FileExistsError:
            raise
        except OSError as failure:
            if failure.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                raise
            # No hard links here (exFAT, some network shares): claim the name, then replace the empty claim.
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=self._folder))
            os.rename(self._temporary, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def _equals_existing(self) -> bool:
        mine = os.stat(self._temporary, dir_fd=self._folder, follow_symlinks=False)
        other = os.stat(self._final.name, dir_fd=self._folder, follow_symlinks=False)
        if not stat.S_ISREG(other.st_mode) or mine.st_size != other.st_size:
            return False
        return file_sha256(self.path) == file_sha256(self._final)


@contextmanager
def placed(root: Path, parts: Sequence[str]) -> Iterator[Placing]:
    """A `Placing` for ``root/parts[0]/.../parts[-1]``; folders below ``root`` are made (0700), links refused.

    Nothing stays behind unless `settle` succeeded. Failing system calls become our errors.
    """
    path = root.joinpath(*parts)
    try:
        folder = _open_folder(root, parts[:-1])
    except OSError as failure:
        raise os_failure(failure, f"cannot make the folder of {path}") from failure
    temporary = TEMPORARY + secrets.token_hex(8)
    try:
        try:
            yield Placing(folder, path, temporary)
        except OSError as failure:
            raise os_failure(failure, f"cannot write {path}") from failure
        finally:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
    finally:
        os.close(folder)


def _open_folder(root: Path, parents: Sequence[str]) -> int:
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for part in parents:
        try:
            with suppress(FileExistsError):
                os.mkdir(part, 0o700, dir_fd=folder)
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
        finally:
            os.close(folder)
        folder = inner
    return folder
