"""A receipt: which commits an archive acknowledged, kept by whoever handed the images in.

A commit that is lost together with its folder leaves no trace in the archive; a receipt is the trace. It
names no patient and no file.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilevault.archive.documents import sha256_hex
from tilevault.archive.listing import commit_numbers
from tilevault.archive.manifest import CommitRecord
from tilevault.archive.places import Blobs
from tilevault.codecs.errors import InvalidRequest, TileMissing, TilevaultError
from tilevault.workflows.placing import os_failure, placed

__all__ = ["ReceiptEntry", "compare", "read_receipt", "write_receipt"]

VERSION = 1
MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class ReceiptEntry:
    """One acknowledged commit."""

    image: str
    commit: int
    commit_sha256: str
    generation: str
    manifest: str

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, document: Any) -> "ReceiptEntry":
        """Checks every field. Raises `InvalidRequest`."""
        digits = {"image": 32, "commit_sha256": 64, "generation": 32, "manifest": 64}
        if not isinstance(document, dict) or not all(
            _is_hex(document.get(name), count) for name, count in digits.items()
        ):
            raise InvalidRequest(f"not an entry of a receipt: {str(document)[:200]}")
        number = document.get("commit")
        if type(number) is not int or number < 0:
            raise InvalidRequest(f"not a commit number: {str(number)[:50]}")
        return cls(commit=number, **{name: document[name] for name in digits})


def _is_hex(text: Any, digits: int) -> bool:
    return isinstance(text, str) and bool(re.fullmatch(f"[0-9a-f]{{{digits}}}", text))


def write_receipt(path: Path, entries: Iterable[ReceiptEntry]) -> str:
    """Write a receipt, mode 0600, whole or not at all: ``"written"``, or ``"present"`` if it is there.

    Raises `Conflict` where another file has the name.
    """
    ordered = sorted(set(entries), key=lambda entry: (entry.image, entry.commit))
    document = {"tilevault_receipt": VERSION, "images": [entry.to_json() for entry in ordered]}
    text = json.dumps(document, indent=1) + "\n"
    with placed(path.parent, (path.name,)) as placing:
        placing.write_pieces(iter([text.encode("ascii")]))
        return placing.settle()


def read_receipt(path: Path) -> tuple[ReceiptEntry, ...]:
    """The entries of a receipt. Raises `InvalidRequest` where it is none."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InvalidRequest(f"too large for a receipt: {path}")
        document = json.loads(path.read_bytes())
    except OSError as failure:
        raise os_failure(failure, f"cannot read {path}") from failure
    except (ValueError, RecursionError) as failure:
        raise InvalidRequest(f"not a receipt: {path}: {failure}") from failure
    if not isinstance(document, dict) or document.get("tilevault_receipt") != VERSION:
        raise InvalidRequest(f"not a receipt of version {VERSION}: {path}")
    images = document.get("images")
    if not isinstance(images, list):
        raise InvalidRequest(f"a receipt without a list of images: {path}")
    return tuple(ReceiptEntry.from_json(image) for image in images)


def compare(blobs: Blobs, entry: ReceiptEntry) -> tuple[str, str]:
    """What became of an acknowledged commit: (status, explanation).

    ``"kept"``: it is the newest, or every later commit descends from it. ``"removed"``: the same, but a later
    commit removes the image. ``"lost"``: it is not there. ``"replaced"``: another record has its number, or
    what follows does not descend from it. ``"corrupt"``: it is there and does not verify.
    """
    folder = f"commits/{entry.image}"
    numbers = commit_numbers(blobs, entry.image)
    if entry.commit not in numbers:
        newest = f"the newest is {numbers[-1]}" if numbers else "the image has none"
        return "lost", f"commit {entry.commit} is not there; {newest}"
    expected: str | None = entry.commit_sha256
    record = None
    for number in range(entry.commit, numbers[-1] + 1):
        try:
            data = blobs.read(f"{folder}/{number}.json")
            if number == entry.commit and sha256_hex(data) != entry.commit_sha256:
                return "replaced", f"commit {number} is another record than the one that was acknowledged"
            record = CommitRecord.from_bytes(data, entry.image, number)
        except TileMissing:
            return "lost", f"commit {number}, which follows it, is not there"
        except TilevaultError as failure:
            return "corrupt", failure.message
        if number > entry.commit and record.previous != expected:
            return "replaced", f"commit {number} does not follow from commit {number - 1}"
        expected = record.sha256
    if record is not None and record.generation is None:
        return "removed", f"commit {record.n} removes the image"
    return "kept", f"commit {entry.commit} of {numbers[-1]}"
