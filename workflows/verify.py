"""Checks that what is stored is what was stored, and says exactly what is not.

Each image is checked along its chain (`Image.check`); at depth ``pixels`` its source files are also put
together again and hashed. Then the archive as a whole: generations that no commit names, and what a receipt
says should be there. A check that looked at nothing, or at less than there is, is not a clean one.
"""

import hashlib
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tilevault.archive.blobs import STAGING, LocalBlobs
from tilevault.archive.check import DEPTHS, UNANSWERED, Finding
from tilevault.codecs.errors import IntegrityError, InvalidRequest, TilevaultError
from tilevault.workflows.finding import image_of
from tilevault.workflows.parallel import in_order
from tilevault.workflows.receipt import compare, read_receipt

if TYPE_CHECKING:
    from tilevault.archive.store import Archive, Image

__all__ = ["Damage", "ImageVerified", "Note", "ReceiptChecked", "Verification", "verify"]


@dataclass(frozen=True)
class Damage:
    """One thing that is not as it was stored."""

    image: str
    kind: str
    """``missing``, ``size``, ``digest``, ``extra``: an object. ``tile``: a tile's bytes or pixels.
    ``file``: a source file does not come out as it went in. ``chain``: commit, manifest or description.
    ``uncommitted``: a complete generation that no commit names."""
    message: str
    object: str | None = None
    """Key relative to the generation, or of a commit or generation in the archive."""
    level: int | None = None
    array: str | None = None
    index: tuple[int, ...] | None = None
    """Position in the tile grid (``tile``), or of the chunk or shard (other kinds), along the axes."""
    window: dict[str, list[int]] | None = None
    """Samples of the level that a damaged tile holds: ``start`` and ``stop`` along the array's axes."""
    source: str | None = None
    """Name of the source file (``file``)."""


@dataclass(frozen=True)
class ImageVerified:
    """One image, with what was looked at and what there is to look at."""

    image: str
    name: str | None
    depth: str
    status: str
    """``ok`` or ``damaged``."""
    checked: int
    expected: int
    """Objects; at depth ``pixels`` tiles and source files too."""
    damage: tuple[Damage, ...] = ()


@dataclass(frozen=True)
class ReceiptChecked:
    """One entry of a receipt."""

    image: str
    commit: int
    status: str
    """``kept``, ``removed``, ``lost``, ``replaced`` or ``corrupt``."""
    message: str

    @property
    def exit_code(self) -> int:
        """0 for what is kept; what a receipt names and is gone is a failure, however it went."""
        return 0 if self.status == "kept" else IntegrityError.exit_code


@dataclass(frozen=True)
class Note:
    """Something to know that is no damage."""

    kind: str
    """``interrupted``: a generation under way or given up. ``staging``: temporary files and receipts of
    shards. ``removed``: a removed image whose files are still there. ``empty``: nothing was checked."""
    message: str
    path: str | None = None


@dataclass
class Verification:
    """The sum of it."""

    depth: str
    sample: float | None = None
    images: int = 0
    damaged_images: int = 0
    checked: int = 0
    expected: int = 0
    damage: int = 0
    receipt_entries: int = 0
    receipt_failures: int = 0
    seconds: float = 0.0
    exit_code: int = 0

    def conclude(self) -> None:
        """Set the exit code: 4 for damage, a broken receipt, nothing checked, or less than there is."""
        incomplete = self.checked < self.expected if self.sample is None else False
        failed = self.damage or self.receipt_failures or self.checked == 0 or incomplete
        self.exit_code = IntegrityError.exit_code if failed else 0


Record = ImageVerified | ReceiptChecked | Note | Damage


def verify(
    archive: "Archive",
    images: Sequence[str] | None = None,
    depth: str = "digest",
    sample: float | None = None,
    seed: int = 0,
    against: Path | None = None,
    workers: int | None = None,
    tell: Callable[[Record], None] | None = None,
    progress: Callable[..., None] | None = None,
) -> Verification:
    """Check ``images`` (default: all, and the archive around them), ``workers`` images at a time.

    ``sample``: percent of the objects, tiles and files of each image, the same ones for the same ``seed``.
    ``tell`` gets every record as it is known: an `ImageVerified` with its damage, then what concerns the
    archive or the receipt. Raises `ImageNotFound` and `InvalidRequest`; damage is reported, never raised.
    """
    if depth not in DEPTHS:
        raise InvalidRequest(f"depth is one of {', '.join(DEPTHS)}, not {depth!r}")
    started = time.monotonic()
    entries = () if against is None else read_receipt(against)
    named = (image_of(archive, name) for name in images or ())
    chosen = list(archive) if images is None else list(dict.fromkeys(named))
    result = Verification(depth, sample)

    def say(record: Record) -> None:
        _count(result, record)
        if tell is not None:
            tell(record)

    for done in in_order(partial(_image, archive, depth, sample, seed), chosen, workers):
        say(done)
        if progress is not None:
            progress(files=result.images, files_total=len(chosen))
    for record in _around(archive, chosen, everything=images is None):
        say(record)
    for entry in entries:
        status, message = compare(archive.blobs, entry)
        say(ReceiptChecked(entry.image, entry.commit, status, message))
    if not result.checked:
        say(Note("empty", "nothing was checked"))
    result.seconds = round(time.monotonic() - started, 3)
    result.conclude()
    return result


def _count(result: Verification, record: Record) -> None:
    if isinstance(record, ImageVerified):
        result.images += 1
        result.damaged_images += record.status == "damaged"
        result.checked += record.checked
        result.expected += record.expected
        result.damage += len(record.damage)
    elif isinstance(record, Damage):
        result.damage += 1
    elif isinstance(record, ReceiptChecked):
        result.receipt_entries += 1
        result.receipt_failures += record.exit_code != 0


def _image(archive: "Archive", depth: str, sample: float | None, seed: int, name: str) -> ImageVerified:
    """Check one image; whatever fails is its damage, unless the place as a whole cannot be read."""
    try:
        archive.commits(name)
        image = archive[name]
        found = image.check(depth, sample, seed)
    except UNANSWERED:
        raise
    except TilevaultError as failure:
        damage = Damage(name, "chain", failure.message, failure.details.get("object"))
        return ImageVerified(name, None, depth, "damaged", 0, 1, (damage,))
    damage_found = [_damage(image, finding) for finding in found.findings]
    checked, expected = found.checked, found.expected
    if depth == "pixels" and not any(d.kind == "chain" for d in damage_found):
        files, there, failures = _files(image, sample, seed)
        checked, expected = checked + files, expected + there
        damage_found += failures
    status = "damaged" if damage_found else "ok"
    return ImageVerified(
        name, image.summary.get("name"), depth, status, checked, expected, tuple(damage_found)
    )


def _damage(image: "Image", finding: Finding) -> Damage:
    index, window, level = finding.index, None, finding.level
    if index is not None and finding.array is not None:
        array = next((a for a in image.description.arrays.values() if a.path == finding.array), None)
        if array is not None:
            box = array.grid.tile_window(index)
            window = {"start": list(box.start), "stop": list(box.stop)}
    position = re.search(r"/c((?:/\d+)+)$", finding.object)
    if index is None and position is not None:
        index = tuple(int(part) for part in position[1].split("/")[1:])
    return Damage(
        finding.image, finding.kind, finding.message, finding.object, level, finding.array, index, window
    )


def _files(image: "Image", sample: float | None, seed: int) -> tuple[int, int, list[Damage]]:
    """Put source files together again where that is promised, and hash them: (checked, there, damage)."""
    try:
        files = image.source.files
    except UNANSWERED:
        raise
    except TilevaultError as failure:
        return 0, 1, [Damage(image.id, "chain", failure.message, failure.details.get("object"))]
    chosen = random.Random(f"{seed} {image.id}")
    exact = image.round_trip == "file-exact"
    promised = [i for i, file in enumerate(files) if exact or file.format == "sidecar"]
    checked, damage = 0, []
    for i in promised:
        if sample is None or chosen.random() * 100 < sample:
            checked += 1
            damage += list(_file(image, i))
    return checked, len(promised), damage


def _file(image: "Image", number: int) -> Iterator[Damage]:
    file = image.source.files[number]
    digest = hashlib.sha256()
    try:
        for piece in image.source.rebuild(number):
            digest.update(piece)
    except UNANSWERED:
        raise
    except TilevaultError as failure:
        yield Damage(image.id, "file", failure.message, source=file.name)
        return
    if digest.hexdigest() != file.sha256:
        yield Damage(image.id, "file", "does not come out as it went in", source=file.name)


def _around(archive: "Archive", chosen: Sequence[str], everything: bool) -> Iterator[Record]:
    """What lies around the images: generations without a commit, and leftovers."""
    for image, generation, complete in archive.uncommitted():
        if not everything and image not in chosen:
            continue
        key = f"images/{image}/{generation}"
        if complete:
            message = "complete, but no commit names it: a commit was lost, or add was interrupted at its end"
            yield Damage(image, "uncommitted", message, key)
        else:
            yield Note("interrupted", f"unfinished generation of image {image}; add again to finish it", key)
    if everything and archive.blobs.lists:
        yield from _removed(archive)
    if everything and isinstance(archive.blobs, LocalBlobs):
        yield from _leftovers(archive)
    if not archive.blobs.lists:
        yield Note("unlisted", "a web server does not tell what it holds: nothing superfluous was looked for")


def _removed(archive: "Archive") -> Iterator[Note]:
    for image in archive.blobs.folders("images"):
        try:
            newest = archive.newest_commit(image)
        except TilevaultError:
            continue
        if newest is not None and newest.generation is None:
            yield Note("removed", f"image {image} was removed, its files are still there", f"images/{image}")


def _leftovers(archive: "Archive") -> Iterator[Note]:
    folder = archive.path / STAGING
    try:
        names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    except OSError as failure:
        names = []
        yield Note("staging", f"cannot be listed: {failure.strerror}", STAGING)
    if names:
        yield Note("staging", f"{len(names)} temporary files or folders of runs that did not finish", STAGING)
