"""The catalogue in SQLite: what is searched, rebuilt from the commits when it is missing, damaged or behind.

The commits decide what exists; the index only finds it faster. It records the newest commit of each image and
is compared with the archive when it is opened (with the digests of the records) and while it is used (with
their numbers). It lies outside the archive, which may be read-only: in the user's cache folder, readable by
its owner only since it holds names; in a temporary folder where there is none. Any number of processes may
share it: readers see whole updates (WAL), writers come one after another.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilevault.archive.manifest import CommitRecord
from tilevault.archive.store import Archive, Image
from tilevault.codecs.errors import StoreUnavailable, TilevaultError
from tilevault.workflows.serve.index_rows import ImageRow, InstanceRow, image_row, instance_rows
from tilevault.workflows.serve.index_schema import SCHEMA, SUMMARIES, VERSION

__all__ = ["Index", "Refreshed", "index_path"]

BUSY_SECONDS = 30.0
FRESH_SECONDS = 1.0
"""An index that was compared with the archive so recently is not compared again."""
SHARE = 20
"""Comparing may take one part in so many of the time."""


def index_path(archive: Archive) -> Path:
    """Where the index of an archive lies: ``$TILEVAULT_CACHE`` or ``tilevault`` in the user's caches."""
    named = os.environ.get("TILEVAULT_CACHE")
    if named:
        folder = Path(named)
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tilevault"
    place = os.path.realpath(archive.path)
    return folder / f"index-{hashlib.sha256(os.fsencode(place)).hexdigest()[:24]}.sqlite"


@dataclass(frozen=True)
class Refreshed:
    """What a comparison with the archive has changed."""

    images: int
    """In the index now."""
    instances: int
    updated: int
    removed: int
    problems: Mapping[str, str]
    """Images that cannot be read, and the code of the error."""
    seconds: float


class Index:
    """The index of one archive; safe to use from any thread."""

    def __init__(self, archive: Archive, path: Path | None = None, anew: bool = False) -> None:
        """Opened, made or mended, and brought up to date; ``anew``: what is there is not used.

        ``path``: where, if not at `index_path`.
        """
        self.archive = archive
        self._temporary: str | None = None
        self.path = self._usable(index_path(archive) if path is None else path)
        self._local = threading.local()
        self._epoch = 0
        self._writing = threading.RLock()
        self._opened: set[sqlite3.Connection] = set()
        self._compared, self._cost = 0.0, 0.0
        with self._writing:
            self._discard(None) if anew else self._prepare()
        self.state = self.refresh(thorough=True)
        """What opening it has found."""

    def close(self) -> None:
        """Close every connection; a temporary index is deleted."""
        with self._writing:
            self._epoch += 1
            for db in self._opened:
                with contextlib.suppress(sqlite3.Error):
                    db.close()
            self._opened.clear()
            if self._temporary is not None:
                shutil.rmtree(self._temporary, ignore_errors=True)

    def rows(
        self,
        query: str,
        parameters: Sequence[Any] | Mapping[str, Any] = (),
        prepare: Callable[[sqlite3.Connection], None] | None = None,
    ) -> list[sqlite3.Row]:
        """The rows of a SELECT, on an index that has just been compared with the archive.

        ``prepare`` makes functions known that the query uses. Raises `StoreUnavailable`.
        """
        self.refresh_if_due()
        epoch = self._epoch
        try:
            return self._select(query, parameters, prepare)
        except sqlite3.DatabaseError as error:
            self._mend(error, epoch)
            return self._select(query, parameters, prepare)

    def connection(self) -> sqlite3.Connection:
        """This thread's connection, for functions that a query needs."""
        held: tuple[int, sqlite3.Connection] | None = getattr(self._local, "held", None)
        if held is not None and held[0] == self._epoch:
            return held[1]
        made = self._connect()
        self._local.held = (self._epoch, made)
        return made

    def refresh_if_due(self) -> None:
        """Compare with the archive, unless that was done a moment ago or another thread is at it."""
        due = self._compared + max(FRESH_SECONDS, SHARE * self._cost)
        if time.monotonic() >= due and self._writing.acquire(blocking=False):
            try:
                self.refresh()
            finally:
                self._writing.release()

    def refresh(self, thorough: bool = False) -> Refreshed:
        """Bring up to date: images whose newest commit is another than the recorded one are read again.

        ``thorough``: the digests of the commit records are compared too, not only their numbers, and images
        that could not be read are tried again.
        """
        began = time.monotonic()
        with self._writing:
            try:
                return self._refreshed(thorough, began)
            except sqlite3.DatabaseError as error:
                self._discard(error)
                return self._refreshed(True, began)

    def image_changed(self, image: str) -> None:
        """Look at one image now: it was just added or removed by this process."""
        with self._writing:
            try:
                self._update(image)
            except sqlite3.DatabaseError as error:
                self._discard(error)
                self._refreshed(True, time.monotonic())

    # -- comparing and writing ----------------------------------------------------------------------------

    def _refreshed(self, thorough: bool, began: float) -> Refreshed:
        known = {row["id"]: row for row in self._select("SELECT id, n, commit_sha256, problem FROM images")}
        there = dict(self._newest_numbers())
        updated = removed = 0
        for image in known.keys() - there.keys():
            self._replace(image, None, [], None)
            removed += 1
        for image, n in there.items():
            row = known.get(image)
            behind = row is None or row["n"] != n or (thorough and row["problem"] is not None)
            if behind or (thorough and row is not None and row["commit_sha256"] != self._digest(image)):
                updated += self._update(image)
        self._compared = time.monotonic()
        self._cost = self._compared - began if not updated else self._cost
        counts = self._select("SELECT (SELECT COUNT(*) FROM images WHERE kind IS NOT NULL) AS images, "
                              "(SELECT COUNT(*) FROM instances) AS instances")[0]  # fmt: skip
        problems = {
            row["id"]: row["problem"]
            for row in self._select("SELECT id, problem FROM images WHERE problem IS NOT NULL")
        }
        return Refreshed(
            counts["images"], counts["instances"], updated, removed, problems, self._compared - began
        )

    def _newest_numbers(self) -> Iterator[tuple[str, int]]:
        """(image, number of its newest commit record), from names alone."""
        blobs = self.archive.blobs
        for image in blobs.folders("commits"):
            numbers = [
                int(stem)
                for stem, _, suffix in (name.partition(".") for name in blobs.names(f"commits/{image}"))
                if suffix == "json" and stem.isascii() and stem.isdecimal() and len(stem) < 10
            ]
            if numbers:
                yield image, max(numbers)

    def _digest(self, image: str) -> str | None:
        try:
            newest = self.archive.newest_commit(image)
        except TilevaultError:
            return None
        return None if newest is None else newest.sha256

    def _update(self, image: str) -> bool:
        """Read an image and put it in the place of what was recorded of it."""
        try:
            commit = self.archive.newest_commit(image)
        except TilevaultError as error:
            n = max((n for name, n in self._newest_numbers() if name == image), default=0)
            self._replace(image, None, [], (n, None, error.code))
            return True
        if commit is None:
            self._replace(image, None, [], None)
        elif commit.generation is None:
            self._replace(image, None, [], (commit.n, commit.sha256, None))
        else:
            self._store(Image(self.archive, commit), commit)
        return True

    def _store(self, image: Image, commit: CommitRecord) -> None:
        instances, problem = [], None
        try:
            instances = list(instance_rows(image))
        except TilevaultError as error:
            problem = error.code
        self._replace(image.id, image_row(image), instances, (commit.n, commit.sha256, problem))

    def _replace(
        self,
        image: str,
        row: ImageRow | None,
        instances: Sequence[InstanceRow],
        state: tuple[int, str | None, str | None] | None,
    ) -> None:
        """Put these rows in the place of those of ``image``, in one transaction.

        ``state``: (n, SHA-256 of the commit record, problem), or None to forget the image altogether.
        """
        with self._transaction() as db:
            touched = {
                r["study"]
                for r in db.execute("SELECT DISTINCT study FROM instances WHERE image = ?", (image,))
            }
            db.execute("DELETE FROM instances WHERE image = ?", (image,))
            db.execute("DELETE FROM images WHERE id = ?", (image,))
            if state is not None:
                db.execute(
                    "INSERT INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (image, *state)
                    + ((None,) * 7 if row is None else (row.kind, row.name, row.fidelity, row.study,
                                                        row.series, row.added, row.record)),
                )  # fmt: skip
            exact = row is None or row.fidelity == "exact"
            db.executemany(
                "INSERT INTO instances VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (_instance_values(image, exact, one) for one in instances),
            )
            touched |= {i.study for i in instances}
            for study in touched:
                for statement in SUMMARIES:
                    db.execute(statement, {"study": study})

    # -- connections ----------------------------------------------------------------------------------------

    def _usable(self, path: Path) -> Path:
        """``path`` if files can be made there, else a place in a temporary folder."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        except OSError:
            self._temporary = tempfile.mkdtemp(prefix="tilevault-index-")
            return Path(self._temporary) / "index.sqlite"
        return path

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        self._opened.add(db)
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA foreign_keys = OFF")
        return db

    def _prepare(self) -> None:
        """An index of this version, sound as far as SQLite can tell, or an empty one."""
        try:
            db = self.connection()
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == VERSION and db.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok":
                return
            if version or db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
                self._discard(None)
                return
            self._create(db)
        except sqlite3.DatabaseError as error:
            self._discard(error)

    def _create(self, db: sqlite3.Connection) -> None:
        db.execute("BEGIN IMMEDIATE")
        if db.execute("PRAGMA user_version").fetchone()[0] != VERSION:
            for statement in SCHEMA:
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")

    def _discard(self, error: sqlite3.Error | None) -> None:
        """Delete the file and begin anew; `StoreUnavailable` where the trouble is not in the file."""
        if (
            isinstance(error, sqlite3.OperationalError)
            and "malformed" not in str(error)
            and not self._missing(error)
        ):
            raise StoreUnavailable(f"the index cannot be used: {error}") from error
        # Other threads may be reading: their connections stay, on a file without a name, until they are done.
        self._epoch += 1
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            self._create(self.connection())
        except (OSError, sqlite3.Error) as failure:
            raise StoreUnavailable(f"the index cannot be made: {failure}") from failure

    @staticmethod
    def _missing(error: sqlite3.Error) -> bool:
        """Whether a table or column is not there: the file was replaced by another one."""
        return "no such" in str(error) or "has no column" in str(error)

    def _mend(self, error: sqlite3.Error, epoch: int) -> None:
        """Make the index anew, unless another thread has done so since ``epoch``."""
        with self._writing:
            if epoch == self._epoch:
                self._discard(error)
                self._refreshed(True, time.monotonic())

    def _select(
        self,
        query: str,
        parameters: Sequence[Any] | Mapping[str, Any] = (),
        prepare: Callable[[sqlite3.Connection], None] | None = None,
    ) -> list[sqlite3.Row]:
        db = self.connection()
        if prepare is not None:
            prepare(db)
        return db.execute(query, parameters).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        db = self.connection()
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise


def _instance_values(image: str, exact: bool, one: InstanceRow) -> tuple[Any, ...]:
    uids = one.study, one.series, one.sop, one.original
    above = {**one.attributes["series"], **one.attributes["study"]}
    described = _json(one.attributes["instance"]), _json(above)
    return image, one.file, *uids, exact, False, one.number, one.sha256, one.syntax, *described


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
