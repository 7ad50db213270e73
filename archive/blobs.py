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
    StoreTimeout,
    StoreUnavailable,
    TileMissing,
    TilevaultError,
    UnsafeName,
)

__all__ = ["STAGING", "Blob", "BlobStat", "LocalBlobs", "check_key"]

STAGING = ".staging"
"""Folder of temporary files and receipts; its name is no valid key."""
_KEY = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}(?:/[a-z0-9][a-z0-9._-]{0,127}){0,15}")
_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_OTHER_KIND = {errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO}
_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_COPY = 1 << 20
REMOVALS = 5
"""How often a folder is emptied in which another process still writes."""
MAX_NOTE = 64 << 20
"""Bytes of a note in the staging area at most."""


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


class Blob:
    """An object that is open for reading; closed as soon as nobody refers to it."""

    def __init__(self, key: str, descriptor: int) -> None:
        self._key = key
        self._descriptor = descriptor

    def __del__(self) -> None:
        os.close(self._descriptor)

    def read(self, start: int = 0, stop: int | None = None, limit: int | None = None) -> bytes:
        """See `LocalBlobs.read`."""
        with _translated(self._key):
            return _read_range(self._key, self._descriptor, start, stop, limit)


class LocalBlobs:
    """The objects below one folder."""

    lists = True
    """See `archive.places.Blobs`."""
    far = False

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    @property
    def location(self) -> str:
        """The folder as it was named."""
        return os.fspath(self.root)

    def __getstate__(self) -> dict[str, str]:
        return {"root": os.fspath(self.root)}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.root = Path(state["root"])

    def has_root(self) -> bool:
        """Whether the folder itself is there. Raises `IntegrityError` where something else lies there."""
        try:
            with _translated(os.fspath(self.root)):
                os.close(os.open(self.root, _FOLDER))
        except TileMissing:
            return False
        return True

    def make_root(self) -> None:
        """Make the folder itself, and those above it."""
        with _translated(os.fspath(self.root), writing=True):
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def read(self, key: str, start: int = 0, stop: int | None = None, limit: int | None = None) -> bytes:
        """Bytes ``start`` to ``stop`` (default: all). Raises `TileMissing` or `ShortRead`.

        An object of more than ``limit`` bytes is not what it should be: `IntegrityError`.
        """
        # Straight down: a read of a tile makes ten of these, and context managers would be a third of it.
        with _translated(key):
            fd = self._open(key)
            try:
                return _read_range(key, fd, start, stop, limit)
            finally:
                os.close(fd)

    def open(self, key: str) -> Blob:
        """The object, to be read more than once: finding it takes longer than reading a little of it."""
        with _translated(key):
            return Blob(key, self._open(key))

    def size(self, key: str) -> int | None:
        """Bytes of the object, or None where there is none."""
        try:
            with self._opened(key) as fd:
                return os.fstat(fd).st_size
        except TileMissing:
            return None

    def digest(self, key: str, expected: int | None = None) -> BlobStat:
        """Size and SHA-256 of the object as it lies there now, no SHA-256 if its size is not ``expected``."""
        digest, size = hashlib.sha256(), 0
        with self._opened(key) as fd:
            found = os.fstat(fd).st_size
            if expected not in (None, found):
                return BlobStat(found, "")
            # One byte more than there should be, so that what grows meanwhile is noticed.
            while piece := os.read(fd, max(1, min(_COPY, found - size + 1))):
                digest.update(piece)
                size += len(piece)
        return BlobStat(size, digest.hexdigest())

    def create(self, key: str, pieces: Iterable[bytes | memoryview]) -> BlobStat:
        """Write an object that is not there yet, durably (its directory is synced by `sync`).

        The same bytes under the key already: success. Other bytes: `Conflict`.
        """
        with (
            _translated(key, writing=True),
            self._folder(key, make=True) as (folder, name),
            self._staged(list(pieces)) as (written, staging, temporary),
        ):
            try:
                os.link(temporary, name, src_dir_fd=staging, dst_dir_fd=folder, follow_symlinks=False)
            except FileExistsError:
                self._settle(key, written)
        return written

    def replace(self, key: str, pieces: Iterable[bytes | memoryview]) -> BlobStat:
        """Write an object in place of a broken one, in a generation that no commit names.

        Whoever reads meanwhile gets the old bytes or the new ones.
        """
        with (
            _translated(key, writing=True),
            self._folder(key, make=True) as (folder, name),
            self._staged(list(pieces)) as (written, staging, temporary),
        ):
            os.rename(temporary, name, src_dir_fd=staging, dst_dir_fd=folder)
        return written

    def link(self, key: str, existing: str) -> None:
        """Give the bytes of ``existing`` a second key without copying them."""
        with (
            _translated(key, writing=True),
            self._folder(key, make=True) as (target, new),
            _translated(existing),
            self._folder(existing) as (source, old),
        ):
            try:
                os.link(old, new, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
            except FileExistsError:
                self._settle(key, self.digest(existing))

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Every file below ``prefix`` in order, as it is called on disk (even where that is no valid key)."""
        top = self._tree(prefix)
        start = len(os.path.join(self.root, ""))  # noqa: PTH118 - strings: a check walks through thousands
        for path, is_folder in _walk(os.fspath(top)) if top else ():
            name = path[start:]
            if not is_folder and not name.startswith(f"{STAGING}/"):
                yield name

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders directly below ``prefix``, sorted."""
        return self._listed(prefix, folders=True)

    def names(self, prefix: str) -> list[str]:
        """Names of the files directly below ``prefix``, sorted."""
        return self._listed(prefix, folders=False)

    def _listed(self, prefix: str, folders: bool) -> list[str]:
        top = self._tree(prefix)
        below = _below(os.fspath(top)) if top else []
        return [os.path.basename(path) for path, is_folder in below if is_folder == folders]  # noqa: PTH119

    def remove_tree(self, prefix: str) -> None:
        """Delete every object below ``prefix`` (never follows a link). Another process may be at it too.

        Raises `StoreUnavailable` if somebody keeps writing there.
        """
        top = self._tree(check_key(prefix))
        if top is None:
            return
        for _ in range(REMOVALS - 1):
            with contextlib.suppress(StoreUnavailable), _translated(prefix):
                _remove(os.fspath(top))
                return
        with _translated(prefix):
            _remove(os.fspath(top))

    def remove_empty(self, prefix: str) -> None:
        """Delete a folder, if it is there and nothing is in it."""
        with contextlib.suppress(TilevaultError, OSError), self._folder(prefix) as (folder, name):
            os.rmdir(name, dir_fd=folder)

    def sync(self, prefix: str) -> None:
        """Make the names below ``prefix``, and its own, durable: fsync each directory, children first."""
        top = self._tree(check_key(prefix))
        if top is None:
            raise TileMissing(f"{prefix}: is not there", object=prefix)
        with _translated(prefix, writing=True):
            for folder in reversed([path for path, is_folder in _walk(os.fspath(top)) if is_folder]):
                _sync_folder(folder)
            while top != self.root:
                _sync_folder(top)
                top = top.parent
            _sync_folder(top)

    def sync_root(self) -> None:
        """Make the names directly in the archive's folder durable, and its own."""
        with _translated(os.fspath(self.root), writing=True):
            _sync_folder(self.root)
            _sync_folder(self.root.absolute().parent)

    def keep_note(self, folder: str, name: str, data: bytes) -> None:
        """Leave ``data`` in the staging area for a later run; not durable. Raises `StoreError` and others."""
        temporary = f"{name}.{secrets.token_hex(8)}.tmp"
        with _translated(name, writing=True), self._descent([STAGING, folder], make=True) as at:
            _write(temporary, at, [data], sync=False)
            os.rename(temporary, name, src_dir_fd=at, dst_dir_fd=at)

    def note(self, folder: str, name: str) -> bytes:
        """What `keep_note` left. Raises `TileMissing`."""
        with _translated(name), self._descent([STAGING, folder]) as at:
            fd = _open_regular(name, at, name)
            try:
                data = os.pread(fd, MAX_NOTE + 1, 0)
            finally:
                os.close(fd)
        if len(data) > MAX_NOTE:
            raise IntegrityError(f"{name}: is longer than a note may be", object=name)
        return data

    def drop_notes(self, folder: str) -> None:
        """Remove the notes of a folder; another run that leaves some meanwhile does no harm."""
        with contextlib.suppress(TilevaultError, OSError), self._descent([STAGING]) as staging:
            with self._descent([STAGING, folder]) as at:
                for name in os.listdir(at):  # noqa: PTH208 - by descriptor, so that no link is followed
                    os.unlink(name, dir_fd=at)
            os.rmdir(folder, dir_fd=staging)

    def _settle(self, key: str, written: BlobStat) -> None:
        found = self.digest(key)
        if found != written:
            raise Conflict(f"{key}: other content is there already", object=key)

    @contextlib.contextmanager
    def _staged(self, pieces: list[bytes | memoryview]) -> Iterator[tuple[BlobStat, int, str]]:
        """A synced temporary file: what was written, its folder's descriptor, its name; gone at the end."""
        with self._descent([STAGING], make=True) as staging:
            temporary = f"{secrets.token_hex(16)}.tmp"
            try:
                try:
                    written = _write(temporary, staging, pieces)
                except OSError as error:
                    if error.errno != errno.EIO:
                        raise
                    # A file whose fsync failed is never trusted again: another name, once.
                    os.unlink(temporary, dir_fd=staging)
                    temporary = f"{secrets.token_hex(16)}.tmp"
                    written = _write(temporary, staging, pieces)
                yield written, staging, temporary
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=staging)

    @contextlib.contextmanager
    def _opened(self, key: str) -> Iterator[int]:
        """A file descriptor of the object; each part of the key is opened without following links."""
        with _translated(key):
            fd = self._open(key)
            try:
                yield fd
            finally:
                os.close(fd)

    def _open(self, key: str) -> int:
        *folders, name = check_key(key).split("/")
        folder = self._descend(folders, make=False)
        try:
            return _open_regular(name, folder, key)
        finally:
            os.close(folder)

    @contextlib.contextmanager
    def _folder(self, key: str, make: bool = False) -> Iterator[tuple[int, str]]:
        """Descriptor of the folder that holds an object, and the object's name in it."""
        *folders, name = check_key(key).split("/")
        with self._descent(folders, make) as at:
            yield at, name

    @contextlib.contextmanager
    def _descent(self, folders: list[str], make: bool = False) -> Iterator[int]:
        """`_descend` for a while."""
        at = self._descend(folders, make)
        try:
            yield at
        finally:
            os.close(at)

    def _descend(self, folders: list[str], make: bool = False) -> int:
        """Descriptor of a folder below the root, to be closed; no link is followed on the way.

        Raises `StoreUnavailable` if the root itself is gone, with which no object is known to be missing.
        """
        try:
            at = os.open(self.root, _FOLDER)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise StoreUnavailable(f"{self.root}: the folder of the archive is not there") from error
        try:
            for folder in folders:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(folder, 0o700, dir_fd=at)
                above, at = at, os.open(folder, _FOLDER | os.O_NOFOLLOW, dir_fd=at)
                os.close(above)
        except BaseException:
            os.close(at)
            raise
        return at

    def _tree(self, prefix: str) -> Path | None:
        """Path of the folder ``prefix``, None where there is none; no part of it is a link."""
        if not prefix:
            return self.root
        try:
            with _translated(prefix), self._descent(check_key(prefix).split("/")):
                return self.root / prefix
        except TileMissing:
            return None


def _open_regular(name: str, folder: int, key: str) -> int:
    """Descriptor of a regular file, to be closed; the name of anything else is an `IntegrityError`."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise IntegrityError(f"{key}: is not a regular file", object=key)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _read_range(key: str, fd: int, start: int, stop: int | None, limit: int | None) -> bytes:
    size = os.fstat(fd).st_size
    if limit is not None and size > limit:
        raise IntegrityError(f"{key}: has {size} bytes, more than the {limit} allowed", object=key)
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


def _write(name: str, folder: int, pieces: list[bytes | memoryview], sync: bool = True) -> BlobStat:
    digest, size = hashlib.sha256(), 0
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    fd = os.open(name, flags, 0o600, dir_fd=folder)
    try:
        for piece in pieces:
            view = memoryview(piece).cast("B")
            digest.update(view)
            size += len(view)
            while view:
                view = view[os.write(fd, view) :]
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)
    return BlobStat(size, digest.hexdigest())


def _sync_folder(folder: str | Path) -> None:
    fd = os.open(folder, _FOLDER)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _below(folder: str) -> list[tuple[str, bool]]:
    """What lies directly in a folder, sorted, each with whether it is a folder itself (a link is none)."""
    try:
        with _translated(folder), os.scandir(folder) as entries:
            return sorted((e.path, e.is_dir(follow_symlinks=False)) for e in entries)
    except TileMissing:
        return []


def _remove(top: str) -> None:
    for path, is_folder in reversed([(top, True), *_walk(top)]):
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(path) if is_folder else os.unlink(path)  # noqa: PTH106, PTH108 - as `_walk` gives it


def _walk(top: str) -> Iterator[tuple[str, bool]]:
    """All that lies below a folder, folders before their content. Not recursive: depth is from outside."""
    waiting = _below(top)[::-1]
    while waiting:
        path, is_folder = waiting.pop()
        yield path, is_folder
        if is_folder:
            waiting += _below(path)[::-1]


class _translated:
    """OSError becomes ours, once, here; ``writing``: what is not there is then no object that was lost.

    Called like a function. A class, because it is entered for each object of a check.
    """

    def __init__(self, what: str, writing: bool = False) -> None:
        self.what, self.writing = what, writing

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise _store_error(self.what, error, self.writing) from error
        if isinstance(error, ValueError):
            raise UnsafeName(f"{self.what!r}: {error}") from error


def _store_error(what: str, error: OSError, writing: bool) -> TilevaultError:
    if error.errno == errno.ENOENT and not writing:
        return TileMissing(f"{what}: is not there", object=what)
    said = f"{what}: {error.strerror or error}"
    if error.errno in _FULL:
        return StoreFull(said, object=what)
    if error.errno in _DENIED:
        return AccessDenied(said, object=what)
    if error.errno in _OTHER_KIND:
        return IntegrityError(f"{what}: a link or a file of another kind lies there", object=what)
    if error.errno == errno.EIO:
        return StoreError(said, object=what)
    if error.errno == errno.ETIMEDOUT:
        return StoreTimeout(said, object=what)
    return StoreUnavailable(said, object=what)
