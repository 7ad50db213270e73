"""Source files out of the archive: byte for byte where they are kept so, else as `export` writes them."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from tilevault.archive.formats import SourceFile
from tilevault.archive.store import Image
from tilevault.codecs import errors
from tilevault.codecs.errors import ImageNotFound, LossyRefused, TilevaultError
from tilevault.workflows.export import export
from tilevault.workflows.serve.answers import etag_of, file_response, not_modified
from tilevault.workflows.serve.services import Services

__all__ = ["source_response"]

MEDIA_TYPES = {"dicom": "application/dicom", "geotiff": "image/tiff; application=geotiff"}
SUFFIXES = {"dicom": ".dcm"}
PIECE = 1 << 20


async def source_response(services: Services, request: Request, image: Image, number: int) -> Response:
    """File ``number`` of an image that is opened for this answer alone (`Services.open`).

    Raises `ImageNotFound` where there is none, `LossyRefused` of a lossy image: its files are no more.
    """
    files = await services.run(lambda: image.source.files)
    if number >= len(files):
        raise ImageNotFound(f"there are {len(files)} files")
    file = files[number]
    if image.round_trip == "lossy" and file.format != "sidecar":
        raise LossyRefused("this image is lossy: its files cannot be had as they were", image=image.id)
    etag = etag_of("file", image.commit.sha256, number)
    if (known := not_modified(request, etag)) is not None:
        return known
    media_type = MEDIA_TYPES.get(file.format, "application/octet-stream")
    name = file.name + ("" if "." in file.name.rpartition("/")[2] else SUFFIXES.get(file.format, ""))
    if _is_rebuilt(image, file):
        pieces = await services.run(image.source.rebuild, number)
        headers = {"ETag": etag, "Tilevault-Round-Trip": "file-exact"}
        return file_response(services, pieces, file.size, file.sha256, media_type, name, headers)
    # Each takes a thread for a while, and as much disk as the file.
    async with services.exports:
        pieces, size, sha256 = await services.run(_exported, services, image, file)
    headers = {"ETag": etag, "Tilevault-Round-Trip": image.round_trip}
    return file_response(services, pieces, size, sha256, media_type, name, headers)


def _is_rebuilt(image: Image, file: SourceFile) -> bool:
    return image.round_trip == "file-exact" or file.format in ("sidecar", "dicom") or image.info is None


def _exported(services: Services, image: Image, file: SourceFile) -> tuple[Iterator[bytes], int, str]:
    """The file that `export` writes, and proves, in a temporary folder that goes with the pieces."""
    folder = tempfile.TemporaryDirectory(prefix="tilevault-")
    try:
        done = export(services.archive, [image.id], Path(folder.name), workers=1)
        written = next(one for one in done if one.source in (file.name, image.id))
        if written.path is None or written.sha256 is None:
            raise _failure(written.code, written.reason)
        return _pieces(Path(written.path), folder), written.bytes, written.sha256
    except BaseException:
        folder.cleanup()
        raise


def _pieces(path: Path, folder: tempfile.TemporaryDirectory[str]) -> Iterator[bytes]:
    with folder, path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece


def _failure(code: str | None, reason: str | None) -> TilevaultError:
    """The error that an export told of by its code."""
    kind = getattr(errors, code or "", None)
    if not (isinstance(kind, type) and issubclass(kind, TilevaultError)):
        kind = TilevaultError
    return kind(reason or "the file could not be written")
