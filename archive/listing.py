"""What an archive holds, where the place cannot tell: a web server answers for a name, and lists none.

``listing.json`` names the images. It has no authority: an image exists if its newest commit record does, and
that is looked for under every name. Commit records are numbered without gaps, so that the newest one is found
by asking.
"""

import re
from typing import TYPE_CHECKING

from tilevault.archive.documents import seal, unseal
from tilevault.codecs.errors import InvalidRequest, LimitExceeded, ManifestCorrupt, TileMissing

if TYPE_CHECKING:
    from tilevault.archive.places import Blobs

__all__ = ["LISTING", "commit_numbers", "listing_bytes", "read_listing"]

LISTING = "listing.json"
MAX_LISTING = 64 << 20
"""Bytes of a listing at most: some two million images."""
MAX_COMMITS = 10**6
"""A server that answers for so many commit records answers for anything."""
_ID = re.compile("[0-9a-f]{32}")
_RECORD = re.compile(r"(0|[1-9][0-9]{0,8})\.json")


def listing_bytes(images: list[str]) -> bytes:
    """``listing.json`` of these images: sealed."""
    return seal({"format": 1, "images": sorted(images)})


def read_listing(blobs: "Blobs") -> list[str]:
    """Ids of the images that may be there. Raises `InvalidRequest` where nothing tells, `ManifestCorrupt`."""
    try:
        document = unseal(blobs.read(LISTING, limit=MAX_LISTING), LISTING)
    except TileMissing as error:
        raise InvalidRequest(
            f"{blobs.location}: a web server does not tell what it holds, and there is no {LISTING} "
            "(`tilevault publish` writes one): name an image by its whole id"
        ) from error
    images = document.get("images")
    known = isinstance(images, list) and all(isinstance(one, str) and _ID.fullmatch(one) for one in images)
    if document.get("format") != 1 or not known or images is None:
        raise ManifestCorrupt(f"{LISTING}: is no list of images", object=LISTING)
    return sorted(set(images))


def commit_numbers(blobs: "Blobs", image: str) -> list[int]:
    """The numbers of an image's commit records, ascending; where nothing lists them, as far as they go."""
    if not blobs.lists:
        return list(range(_probed(blobs, image)))
    found = (_RECORD.fullmatch(name) for name in blobs.names(f"commits/{image}"))
    return sorted(int(match[1]) for match in found if match)


def _probed(blobs: "Blobs", image: str) -> int:
    """How many commit records an image has, found with some 2 log2 n questions."""

    def there(n: int) -> bool:
        return blobs.size(f"commits/{image}/{n}.json") is not None

    if not there(0):
        return 0
    step = 1
    while there(step):
        step *= 2
        if step > MAX_COMMITS:
            raise LimitExceeded(f"{blobs.location}: answers for every commit record that is asked for")
    low, high = step // 2, step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if there(middle) else (low, middle)
    return low + 1
