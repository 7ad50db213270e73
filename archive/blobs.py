"""Write-once objects on a local disk, addressed by keys that cannot leave the archive's folder.

An object appears under its key whole and durable, or not at all: temporary file, write, fsync, link. Nothing
is ever overwritten; creating an object that is there with the same bytes is a success. Symbolic links
inside an archive are never followed, at any depth.
"""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tilevault.codecs.errors import (
    AccessDenied,
    Conflict,
    IntegrityError,
    ShortRead,
    StoreError,
    StoreFull,
    StoreUnavailable,
    TileMissing,
    TilevaultError,
    UnsafeName,
)

__all__ = ["STAGING", "BlobStat", "LocalBlobs", "check_key"]

STAGING = ".staging"
"""Folder of temporary files and receipts; its name is no valid key."""
_KEY = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}(?:/[a-z0-9][a-z0-9._-]{0,127}){0,15}")
_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_COPY = 1 << 20


@dataclass(frozen=True)
class BlobStat:
    """What was written: bytes and their SHA-256."""

    size: int
    sha256: str


def check_key(key: str) -> str:
    """``key`` if it is one; raises `UnsafeName`."""
    if not _KEY.fullmatch(key) or ".." in key:
        raise UnsafeName(f"not a key of an archive: {key[:200]!r}")
    return key


class LocalBlobs:
    """The objects below one folder."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def __getstate__(self) -> dict[str, str]:
        return {"root": os.fspath(self.root)}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.root = Path(state["root"])

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Bytes ``start`` to ``stop`` (default: all). Raises `TileMissing` or `ShortRead`."""
        with self._opened(key) as fd:
            size = os.fstat(fd).st_size
            stop = size if stop is None else stop
            if not 0 <= start <= stop <= size:
                raise ShortRead(f"{key}: bytes {start} to {stop} were asked for, it has {size}", object=key)
            pieces, at = [], start
            while at < stop:
                piece = os.pread(fd, stop - at, at)
                if not piece:
                    raise ShortRead(f"{key}: ends at byte {at}, {stop} expected", object=key)
                pieces.append(piece)
                at += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def size(self, key: str) -> int | None:
        """Bytes of the object, or None where there is none."""
        try:
            with self._opened(key) as fd:
                return os.fstat(fd).st_size
        except TileMissing:
            return None

    def digest(self, key: str) -> BlobStat:
        """Size and SHA-256 of the object as it lies there now."""
        digest, size = hashlib.sha256(), 0
        with self._opened(key) as fd:
            while piece := os.read(fd, _COPY):
                digest.update(piece)
                size += len(piece)
        return BlobStat(size, digest.hexdigest())

    def create(self, key: str, pieces: Iterable[bytes | memoryview]) -> BlobStat:
        """Write an object that is not there yet, durably (its directory is synced by `sync`).

        The same bytes under the key already: success. Other bytes: `Conflict`.
        """
        pieces = list(pieces)
        target = self._path(key)
        with _translated(key):
            self._make_folder(target.parent)
            written, temporary = self._stage(pieces)
            try:
                os.link(temporary, target, follow_symlinks=False)
            except FileExistsError:
                self._settle(key, written)
            finally:
                temporary.unlink()
        return written

    def link(self, key: str, existing: str) -> None:
        """Give the bytes of ``existing`` a second key without copying them."""
        source, target = self._path(existing), self._path(key)
        with _translated(key):
            self._make_folder(target.parent)
            try:
                os.link(source, target, follow_symlinks=False)
            except FileExistsError:
                self._settle(key, self.digest(existing))

    def replace_broken(self, key: str) -> None:
        """Remove an object of a generation that no commit names, so that it can be written again."""
        with _translated(key), contextlib.suppress(FileNotFoundError):
            self._path(key).unlink()

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Every file below ``prefix`` in order, as it is called on disk (even where that is no valid key)."""
        top = self._path(prefix) if prefix else self.root
        yield from _walk(top, prefix, skip=STAGING if not prefix else None)

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders directly below ``prefix``, sorted."""
        try:
            with _translated(prefix), os.scandir(self._path(prefix)) as entries:
                return sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))
        except TileMissing:
            return []

    def names(self, prefix: str) -> list[str]:
        """Names of the files directly below ``prefix``, sorted."""
        try:
            with _translated(prefix), os.scandir(self._path(prefix)) as entries:
                return sorted(e.name for e in entries if not e.is_dir(follow_symlinks=False))
        except TileMissing:
            return []

    def remove_tree(self, prefix: str) -> None:
        """Delete every object below ``prefix`` (never follows a link)."""
        check_key(prefix)
        with _translated(prefix):
            for folder, folders, files in os.walk(self.root / prefix, topdown=False, followlinks=False):
                for name in files:
                    Path(folder, name).unlink()
                for name in folders:
                    child = Path(folder, name)
                    if child.is_symlink():
                        child.unlink()
                    else:
                        child.rmdir()
            if (self.root / prefix).is_dir():
                (self.root / prefix).rmdir()

    def sync(self, prefix: str) -> None:
        """Make the names below ``prefix``, and its own, durable: fsync each directory, children first."""
        top = self._path(prefix)
        with _translated(prefix):
            for folder, _, _ in os.walk(top, topdown=False, followlinks=False):
                _sync_folder(Path(folder))
            while top != self.root:
                top = top.parent
                _sync_folder(top)

    def sync_root(self) -> None:
        """Make the names directly in the archive's folder durable, and its own."""
        with _translated(os.fspath(self.root)):
            _sync_folder(self.root)
            _sync_folder(self.root.absolute().parent)

    def _stage(self, pieces: list[bytes | memoryview]) -> tuple[BlobStat, Path]:
        """Write a synced temporary file. A file whose fsync failed is never trusted again: new name, once."""
        self._make_folder(self.root / STAGING)
        for attempt in (0, 1):
            temporary = self.root / STAGING / f"{secrets.token_hex(16)}.tmp"
            try:
                return _write(temporary, pieces), temporary
            except OSError as error:
                temporary.unlink(missing_ok=True)
                if error.errno != errno.EIO or attempt:
                    raise
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        raise AssertionError("unreachable")

    def _settle(self, key: str, written: BlobStat) -> None:
        found = self.digest(key)
        if found != written:
            raise Conflict(f"{key}: other content is there already", object=key)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            if folder != self.root:
                self._make_folder(folder.parent)
            folder.mkdir(mode=0o700, exist_ok=True)

    @contextlib.contextmanager
    def _opened(self, key: str) -> Iterator[int]:
        """A file descriptor of the object; each part of the key is opened without following links."""
        *folders, name = check_key(key).split("/")
        with _translated(key), contextlib.ExitStack() as stack:
            at = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, at)
            for folder in folders:
                at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
                stack.callback(os.close, at)
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)
            stack.callback(os.close, fd)
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise IntegrityError(f"{key}: is not a regular file", object=key)
            yield fd


def _write(path: Path, pieces: list[bytes | memoryview]) -> BlobStat:
    digest, size = hashlib.sha256(), 0
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        for piece in pieces:
            view = memoryview(piece).cast("B")
            digest.update(view)
            size += len(view)
            while view:
                view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    return BlobStat(size, digest.hexdigest())


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _walk(folder: Path, prefix: str, skip: str | None) -> Iterator[str]:
    with _translated(prefix):
        try:
            entries = sorted(os.scandir(folder), key=lambda e: e.name)
        except FileNotFoundError:
            return
    for entry in entries:
        name = f"{prefix}/{entry.name}" if prefix else entry.name
        if entry.is_dir(follow_symlinks=False):
            if entry.name != skip:
                yield from _walk(Path(entry.path), name, None)
        else:
            yield name


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    """OSError becomes ours, once, here."""
    try:
        yield
    except TilevaultError:
        raise
    except FileNotFoundError as error:
        raise TileMissing(f"{what}: is not there", object=what) from error
    except OSError as error:
        raise _store_error(what, error) from error


def _store_error(what: str, error: OSError) -> TilevaultError:
    if error.errno in _FULL:
        return StoreFull(f"{what}: {error.strerror}", object=what)
    if error.errno in _DENIED:
        return AccessDenied(f"{what}: {error.strerror}", object=what)
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return IntegrityError(f"{what}: a link or a file lies where a folder should be", object=what)
    if error.errno == errno.EIO:
        return StoreError(f"{what}: {error.strerror}", object=what)
    return StoreUnavailable(f"{what}: {error.strerror}", object=what)
