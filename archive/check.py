"""Looking for damage in one image, from a glance at the names to decoding every tile.

Each depth includes the ones before: ``exists`` (every listed object is there, and no other), ``size``,
``digest`` (SHA-256 of each object, segment by segment where it is a shard, so that the damage gets a place),
and ``pixels`` (every tile is decoded and compared with the digest of what went in). The result counts what
was looked at against what there is, so that a check of nothing cannot pass for a clean one. Where the store
does not answer, nothing is known of the image, and no damage is told: the check ends with the store's error.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from tilevault.archive.blobs import BlobStat, check_key
from tilevault.archive.image import Window
from tilevault.archive.manifest import ManifestObject
from tilevault.archive.models import model_key, model_of
from tilevault.archive.places import Blobs
from tilevault.codecs.errors import (
    AccessDenied,
    IntegrityError,
    InvalidRequest,
    StoreTimeout,
    StoreUnavailable,
    TileMissing,
    TilevaultError,
    UnsafeName,
)
from tilevault.codecs.weights import MAX_MODEL

if TYPE_CHECKING:
    from tilevault.archive.store import Image

__all__ = ["DEPTHS", "UNANSWERED", "CheckResult", "Finding", "check_image"]

DEPTHS = ("exists", "size", "digest", "pixels")
UNANSWERED = (AccessDenied, StoreTimeout, StoreUnavailable)
"""What says nothing of an image, sound or damaged."""


@dataclass(frozen=True)
class Finding:
    """One damaged thing."""

    image: str
    kind: str
    """``missing``, ``size``, ``digest``, ``tile``, ``extra`` or ``chain``."""
    object: str
    """Key relative to the generation."""
    message: str
    level: int | None = None
    array: str | None = None
    index: tuple[int, ...] | None = None
    """Grid position of a damaged tile."""


@dataclass(frozen=True)
class CheckResult:
    """What was looked at, out of what there is, and what was found."""

    image: str
    depth: str
    checked: int
    expected: int
    """Objects, and for ``pixels`` tiles too."""
    findings: tuple[Finding, ...]


def check_image(image: "Image", depth: str, sample: float | None, seed: int) -> CheckResult:
    """Check one image (`Image.check`); ``sample`` is a percentage of the objects and tiles.

    Raises `InvalidRequest` for another depth or sample, `AccessDenied`, `StoreTimeout` or `StoreUnavailable`.
    """
    if depth not in DEPTHS:
        raise InvalidRequest(f"depth is one of {', '.join(DEPTHS)}, not {depth!r}")
    if sample is not None and not 0 < sample <= 100:
        raise InvalidRequest(f"a sample is a percentage above 0 and up to 100, not {sample}")
    try:
        objects = image.manifest.objects
        described = image.description
    except UNANSWERED:
        raise
    except TilevaultError as error:
        return CheckResult(image.id, depth, 0, 1, (_chain(image, error),))
    chosen = random.Random(seed)
    findings = list(_extra(image))
    checked = 0
    for entry in objects:
        if _picked(chosen, sample):
            checked += 1
            findings += _object(image, entry, depth)
    expected = len(objects)
    digest = model_of(described.codec)
    if digest:
        checked, expected = checked + 1, expected + 1
        findings += _model(image, digest, depth)
    if depth == "pixels" and described.info is not None and not _unreadable(findings):
        for role, array in described.arrays.items():
            expected += prod(array.grid.tiles)
            for at in array.grid.tile_indices():
                if _picked(chosen, sample):
                    checked += 1
                    findings += _tile(image, role, at)
    return CheckResult(image.id, depth, checked, expected, tuple(_once(findings)))


def _picked(chosen: random.Random, sample: float | None) -> bool:
    return sample is None or chosen.random() * 100 < sample


def _chain(image: "Image", error: TilevaultError) -> Finding:
    return Finding(image.id, "chain", str(error.details.get("object", "manifest.json")), error.message)


def _extra(image: "Image") -> Iterator[Finding]:
    """Files in the generation's folder that the manifest does not list, where the place lists its files."""
    if not image.blobs.lists:
        return
    listed = image.manifest.by_key
    for key in image.blobs.keys(image.prefix):
        relative = key.removeprefix(f"{image.prefix}/")
        if relative not in listed and relative != "manifest.json":
            yield Finding(image.id, "extra", relative, f"{relative} is not listed in the manifest")


def _object(image: "Image", entry: ManifestObject, depth: str) -> Iterator[Finding]:
    key = f"{image.prefix}/{entry.key}"
    try:
        found = _look(image.blobs, check_key(key), depth, entry.size)
        if depth != "exists" and found.size != entry.size:
            message = f"{entry.key} has {found.size} bytes instead of {entry.size}"
            yield from _places(image, entry, "size", message)
        elif found.sha256 not in ("", entry.sha256):
            yield from _places(image, entry, "digest", f"{entry.key} does not match its digest")
    except TileMissing:
        yield from _places(image, entry, "missing", f"{entry.key} is missing")
    except (IntegrityError, UnsafeName) as error:
        yield Finding(image.id, "digest", entry.key, error.message)


def _model(image: "Image", digest: str, depth: str) -> Iterator[Finding]:
    """The archive's own copy of the model that the image's tiles need."""
    key = model_key(digest)
    try:
        found = _look(image.blobs, key, depth, MAX_MODEL)
        if found.sha256 not in ("", digest):
            yield Finding(image.id, "digest", key, f"{key} does not match its digest")
    except TileMissing:
        yield Finding(image.id, "missing", key, f"{key} is missing")
    except IntegrityError as error:
        yield Finding(image.id, "digest", key, error.message)


def _look(blobs: Blobs, key: str, depth: str, expected: int) -> BlobStat:
    """What lies under a key, its digest only at a depth that asks for it, and where the size is right."""
    if depth in ("digest", "pixels"):
        return blobs.digest(key, expected)
    size = blobs.size(key)
    if size is None:
        raise TileMissing(f"{key} is missing", object=key)
    return BlobStat(size, "")


def _places(image: "Image", entry: ManifestObject, kind: str, message: str) -> Iterator[Finding]:
    """The damaged object, and where it is a shard, the tiles that cannot be trusted any more."""
    yield Finding(image.id, kind, entry.key, message, level=_level(entry.key))
    found = _shard_of(image, entry.key)
    if found is None:
        return
    role, window = found
    try:
        for error in image.readers[role].damaged(window):
            yield _tile_finding(image, error)
    except UNANSWERED:
        raise
    except TilevaultError as error:
        yield _chain(image, error)


def _tile(image: "Image", role: str, at: tuple[int, ...]) -> Iterator[Finding]:
    try:
        image.readers[role].check_pixels(at)
    except UNANSWERED:
        raise
    except TilevaultError as error:
        yield _tile_finding(image, error)


def _tile_finding(image: "Image", error: TilevaultError) -> Finding:
    details: dict[str, Any] = error.details
    index = details.get("index")
    return Finding(
        image.id,
        "tile",
        str(details.get("object", "")),
        error.message,
        level=details.get("level"),
        array=details.get("array"),
        index=None if index is None else tuple(index),
    )


def _shard_of(image: "Image", key: str) -> tuple[str, Window] | None:
    """Role and window of the shard that lies under ``key``, if it is one."""
    for role, array in image.description.arrays.items():
        index = array.shard_index(key)
        if index is not None:
            return role, array.grid.shard_window(index)
    return None


def _level(key: str) -> int | None:
    first = key.partition("/")[0]
    return int(first) if first.isdecimal() else None


def _unreadable(findings: list[Finding]) -> bool:
    """Damage in the tables themselves: no tile can be judged."""
    return any(f.object.startswith(("tiles/", "source/image.json")) and f.kind != "extra" for f in findings)


def _once(findings: list[Finding]) -> list[Finding]:
    """Without a tile that was found damaged twice (by its shard's digest and by decoding it)."""
    return list({(f.kind, f.object, f.array, f.index): f for f in findings}.values())
