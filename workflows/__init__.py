"""The work on whole collections: Dask tasks and the command line."""

from typing import TYPE_CHECKING, Any

__all__ = ["AddResult", "Event", "FileResult", "ImageResult", "add"]

if TYPE_CHECKING:
    from tilevault.workflows.ingest import AddResult, Event, FileResult, ImageResult, add


def __getattr__(name: str) -> Any:
    # Dask takes most of a second to load; the command line has answers that do not need it.
    if name in __all__:
        from tilevault.workflows import ingest

        return getattr(ingest, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
