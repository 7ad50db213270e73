"""``export --format dicom``: a DICOM file for each instance, with the pixels as the archive gives them.

Exact pixels come out under their own UID, altered ones under a new one and marked. The file is read back,
by the scanner that reads sources, and its words compared, before it gets its name.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from tilevault.archive.formats import SourceFile, formats
from tilevault.archive.formats.dicom_write import Loss, write_dicom
from tilevault.archive.source import StoredFrames
from tilevault.codecs.errors import VerifyAfterEncodeFailed
from tilevault.workflows.lossy import quality_text
from tilevault.workflows.placing import Placing

if TYPE_CHECKING:
    from tilevault.archive.store import Image

__all__ = ["derived_uid", "loss_of", "write_instance"]


def loss_of(image: "Image", number: int) -> Loss | None:
    """What an export says of the pixels of instance ``number``; None where they are exact.

    The ratio is that of the whole image: bytes of its uncompressed samples over those of its coded tiles.
    """
    summary = image.quality.summary if image.info is not None else None
    if summary is None or image.info is None:
        return None
    coded = int(image.quality.bits.sum(dtype="u8")) // 8
    said = quality_text(summary)
    return Loss(image.fidelity, image.info.nbytes / max(1, coded), said, derived_uid(image, number))


def derived_uid(image: "Image", number: int) -> str:
    """The SOPInstanceUID of an instance of a lossy image: the same for the same pixels of the same source.

    Made of the source's UID, the bound, and the recorded digests of what its tiles decode to, so that it is
    known without decoding.
    """
    file, tables = image.source.files[number], image.readers["data"].tables
    digest = hashlib.sha256(f"{file.record['uids']['sop']}\0{image.fidelity}\0".encode())
    for frame in range(file.record["pixels"]["frames"]):
        window = StoredFrames(image, number).window(frame)
        for index in image.grid.tile_indices(window):
            digest.update(tables.pixels[index].tobytes())
    return f"2.25.{int.from_bytes(digest.digest()[:16], 'big')}"


def write_instance(image: "Image", number: int, placing: Placing) -> str:
    """Write instance ``number`` of an image, and read it back; returns what that shows."""
    file = image.source.files[number]
    frames = StoredFrames(image, number)
    loss = loss_of(image, number)
    with placing.open() as out:
        write_dicom(out, file, image.source.verbatim(number), frames, loss)
    _prove(file, frames, placing.path)
    return "pixel-exact" if loss is None else "decoded"


def _prove(file: SourceFile, frames: StoredFrames, path: Path) -> None:
    """Raise `VerifyAfterEncodeFailed` unless the file at ``path`` holds the words of the archive."""
    module = formats()["dicom"]
    written = module.scan(path, file.name)[0]
    images, rejected = module.assemble([written])
    if rejected or len(images) != 1 or images[0].info is None or images[0].codec is not None:
        raise VerifyAfterEncodeFailed(f"{file.name}: the file that was written is not an image again")
    pixels = file.record["pixels"]
    wanted = {name: pixels[name] for name in ("rows", "columns", "frames", "samples", "stored", "signed")}
    if {name: written.record["pixels"][name] for name in wanted} != wanted:
        raise VerifyAfterEncodeFailed(f"{file.name}: the file that was written has another form")
    rows = slice(0, int(pixels["rows"]))
    with module.open_reader(images[0]) as reader:
        for frame in range(pixels["frames"]):
            if reader.frame_words(0, frame, rows).tobytes() != frames.words(frame, rows).tobytes():
                raise VerifyAfterEncodeFailed(f"{file.name}: frame {frame} has other pixels")
