"""The children that look at what came over the network: one examines, one stores; each serves one request.

Run as ``python -m tilevault.workflows.serve.dicomweb.child ROLE``; a request is one JSON line on standard
input, answers are JSON lines on standard output. The examiner parses each file and decodes each of its frames
under limits, without a network, without a file that it could write. The storer archives what has passed.
"""

import json
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

from tilevault.codecs.errors import NotRecognized, TilevaultError
from tilevault.workflows.serve.dicomweb.confine import confine, more_cpu

__all__ = ["main"]

EXAMINE_MEMORY = 1 << 30
STORE_MEMORY = 4 << 30
EXAMINE_SECONDS = 30
"""Of processor time, for each file."""
LONGEST_TEXT = 300
LOADED = {
    "examine": ("tilevault.archive.formats.dicom", "tilevault.codecs"),
    "store": ("tilevault.workflows.ingest", "tilevault.archive.formats.geotiff"),
}
"""What is loaded before files and memory get scarce."""


def main() -> int:
    """Serve one request in the role that the command line names."""
    role = {"examine": _examine, "store": _store}[sys.argv[1]]
    for module in LOADED[sys.argv[1]]:
        import_module(module)
    confined = confine(EXAMINE_MEMORY if role is _examine else STORE_MEMORY, writes=role is _store)
    _answer({"ready": True, "confined": confined})
    line = sys.stdin.buffer.readline()
    if line:
        for answer in role(json.loads(line)):
            _answer(answer)
    return 0


def _answer(document: dict[str, Any]) -> None:
    os.write(1, json.dumps(document).encode() + b"\n")


def _examine(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name in request["names"]:
        more_cpu(EXAMINE_SECONDS)
        try:
            yield {"name": name, **_examined(Path(request["folder"], name))}
        except TilevaultError as error:
            yield {"name": name, "code": error.code, "reason": error.message[:LONGEST_TEXT]}
        except (MemoryError, RecursionError):
            yield {"name": name, "code": "LimitExceeded", "reason": "takes more memory than is allowed"}


def _examined(path: Path) -> dict[str, Any]:
    from tilevault.archive.formats import dicom

    with path.open("rb") as file:
        if not dicom.recognizes(file.read(4096)):
            raise NotRecognized("not a DICOM file")
    (scanned,) = dicom.scan(path, path.name)
    images, rejected = dicom.assemble([scanned])
    for _, error in rejected:
        raise error
    uids = scanned.record["uids"]
    for image in images:
        if image.info is not None and image.codec is not None:
            _decode_frames(dicom, image)
    return {
        "study": uids["study"],
        "series": uids["series"],
        "sop": uids["sop"],
        "class": uids["class"],
        "sha256": scanned.sha256,
    }


def _decode_frames(dicom: Any, image: Any) -> None:
    """Decode every frame of an encapsulated image, as adding it will."""
    from tilevault.codecs import FrameCodec

    codec = FrameCodec(image.codec, **image.layout["codec"])
    chunk = tuple(image.layout["chunk"])
    with dicom.open_reader(image) as reader:
        counts = [-(-n // size) for n, size in zip(image.info.shape, chunk, strict=True)]
        for index in product(*(range(n) for n in counts)):
            codec.decode_tile(reader.read_stream(index), chunk, image.info.dtype)


def _store(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    from tilevault.workflows.ingest import add

    try:
        result = add([request["folder"]], request["archive"], workers=request["workers"])
    except TilevaultError as error:
        yield {"code": error.code, "reason": error.message[:LONGEST_TEXT]}
        return
    yield {
        "files": [{"name": one.source, "status": one.status, "code": one.code} for one in result.files],
        "images": [
            {"image": one.image, "status": one.status, "code": one.code, "names": list(one.sources)}
            for one in result.images
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
