"""To which study a series belongs: the first one that it was stored with, and no other ever after.

An archived image holds the instances of a series, and what a token may do with the image goes by its study.
An instance that names a series of one study and another study would join that image: whoever may write the
one study could so come to read the other.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tilevault.workflows.serve.services import Services

__all__ = ["Claims", "SeriesOwners"]


class SeriesOwners:
    """Studies by series: of what is archived, and of what is being stored now. Safe from any thread."""

    def __init__(self, services: "Services") -> None:
        self._services = services
        self._lock = Lock()
        self._claimed: dict[str, str] = {}
        self._users: Counter[str] = Counter()

    @contextlib.contextmanager
    def claims(self) -> Iterator["Claims"]:
        """What one request claims, until it is stored or refused."""
        made = Claims(self)
        try:
            yield made
        finally:
            with self._lock:
                for series in made.held:
                    self._users[series] -= 1
                    if not self._users[series]:
                        del self._users[series], self._claimed[series]

    def claim(self, series: str, study: str) -> str:
        """The study that a series belongs to: ``study``, unless another one was first."""
        with self._lock:
            if series not in self._claimed:
                archived = self._archived(series)
                self._claimed[series] = study if archived is None else archived
            self._users[series] += 1
            return self._claimed[series]

    def _archived(self, series: str) -> str | None:
        """The study of an archived series, empty if that is not known; None where there is no such series."""
        rows = self._services.index.rows(
            "SELECT study FROM instances WHERE series = :series "
            "UNION ALL SELECT IFNULL(study, '') AS study FROM images WHERE series = :series LIMIT 1",
            {"series": series},
        )
        return rows[0]["study"] if rows else None


class Claims:
    """Of one request."""

    def __init__(self, owners: SeriesOwners) -> None:
        self._owners = owners
        self.held: dict[str, str] = {}

    def owner(self, series: str, study: str) -> str:
        """The study that a series belongs to, from now on: ``study``, unless another one was first."""
        if series not in self.held:
            self.held[series] = self._owners.claim(series, study)
        return self.held[series]
