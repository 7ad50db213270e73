"""What is in the archive, as its commit records say: kept in memory, and brought up to date when it is asked.

Only commits that are new are read. Whether there are any is looked at every few seconds at most, so a search
costs no more than the listing of one folder.
"""

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

from tilevault.archive.manifest import CommitRecord
from tilevault.archive.store import Archive
from tilevault.codecs.errors import IntegrityError

__all__ = ["ID", "Catalogue", "Entry"]

ID = re.compile("[0-9a-f]{32}")
PAUSE = 20
"""Looking again is put off for so many times as long as it took."""


@dataclass(frozen=True)
class Entry:
    """One image that exists."""

    commit: CommitRecord

    @property
    def id(self) -> str:
        """32 hexadecimal digits."""
        return self.commit.image

    @property
    def summary(self) -> Mapping[str, Any]:
        """What listings show and search."""
        return self.commit.summary

    @property
    def study(self) -> str | None:
        """StudyInstanceUID, of an image that has one."""
        study = self.summary.get("StudyInstanceUID")
        return study if isinstance(study, str) else None


class Catalogue:
    """The images of one archive; safe to use from any thread."""

    def __init__(self, archive: Archive, seconds: float) -> None:
        self._archive = archive
        self._seconds = seconds
        self._entries: Mapping[str, Entry] = {}
        self._due = -math.inf
        self._turn = Lock()

    def entries(self) -> Mapping[str, Entry]:
        """Images by id, as they were a few seconds ago or later. Blocks.

        An image whose newest commit cannot be read is left out: `tilevault verify` tells of it.
        """
        if time.monotonic() < self._due:
            return self._entries
        # One thread looks; the others go on with what was known, unless nothing was.
        if self._turn.acquire(blocking=self._due == -math.inf):
            try:
                if time.monotonic() >= self._due:
                    started = time.monotonic()
                    self._entries = self._current()
                    taken = time.monotonic() - started
                    self._due = time.monotonic() + max(self._seconds, PAUSE * taken)
            finally:
                self._turn.release()
        return self._entries

    def find(self, image: str) -> Entry | None:
        """The entry of an image, also of one that has come since; None where there is none."""
        return self._newest(image) if ID.fullmatch(image) else None

    def _current(self) -> dict[str, Entry]:
        ids = (name for name in self._archive.blobs.folders("commits") if ID.fullmatch(name))
        return {image: entry for image in ids if (entry := self._newest(image)) is not None}

    def _newest(self, image: str) -> Entry | None:
        known = self._entries.get(image)
        if known is not None:
            later = f"commits/{image}/{known.commit.n + 1}.json"
            if self._archive.blobs.size(later) is None:
                return known
        try:
            commit = self._archive.newest_commit(image)
        except IntegrityError:
            return None
        return None if commit is None or commit.generation is None else Entry(commit)
