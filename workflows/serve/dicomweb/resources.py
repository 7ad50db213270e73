"""What a DICOMweb path names: a service, a study, a series, an instance; as UIDs, as conditions, as URLs."""

import re
from dataclasses import dataclass

from starlette.requests import Request

from tilevault.codecs.errors import ImageNotFound, UnsafeName
from tilevault.workflows.serve.access import NO_IMAGE, Subject
from tilevault.workflows.serve.dicomweb.matching import Condition

__all__ = ["PREFIX", "Place", "catalogue", "study_subject"]

PREFIX = "/dicom-web"
_UID = re.compile(r"[0-9.]{1,64}")


@dataclass(frozen=True)
class Place:
    """The resource of a request; None for what its path does not name."""

    service: str
    """URL of the service, without a slash at its end."""
    study: str | None = None
    series: str | None = None
    sop: str | None = None

    @classmethod
    def of(cls, request: Request) -> "Place":
        """The place that a request is about. Raises `UnsafeName` for what is no UID."""
        named = {name: request.path_params.get(name) for name in ("study", "series", "sop")}
        for uid in named.values():
            if uid is not None and not _UID.fullmatch(uid):
                raise UnsafeName("a UID is 1 to 64 digits and dots")
        base = request.base_url
        netloc, (host, port) = base.netloc, request.scope.get("server") or ("", None)
        if base.port is None and base.hostname == host and port not in (None, 80, 443):
            # Some clients (dicomweb-client) name the host without the port that they have connected to.
            netloc = f"{netloc}:{port}"
        return cls(f"{base.scheme}://{netloc}{base.path.rstrip('/')}{PREFIX}", **named)

    def conditions(self, level: str) -> list[Condition]:
        """What the path says of the rows of a level."""
        named = {"study": self.study, "series": self.series, "sop": self.sop}
        return [Condition(f"{column} = ?", (uid,)) for column, uid in named.items() if uid is not None]

    def url(self, study: str, series: str | None = None, sop: str | None = None) -> str:
        """Where a study, series or instance is retrieved."""
        parts = ["studies", study]
        parts += [] if series is None else ["series", series]
        parts += [] if sop is None else ["instances", sop]
        return "/".join([self.service, *parts])


def study_subject(request: Request) -> Subject:
    """For the guard: the study that a path names."""
    study = request.path_params["study"]
    if not _UID.fullmatch(study):
        # What cannot be a UID names nothing; nobody learns more.
        raise ImageNotFound(NO_IMAGE)
    below = (str(request.path_params.get(name, "")) for name in ("series", "sop"))
    series, instance = (uid if _UID.fullmatch(uid) else None for uid in below)
    return Subject(study=study, series=series, instance=instance)


def catalogue(request: Request) -> Subject:
    """For the guard: everything; the answer holds what may be read."""
    return Subject()
