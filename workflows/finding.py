"""Which image somebody means by a name: what `Archive` answers to, and what people type instead.

Tried only where the archive itself knows no such name: the last part of a source's name (``scene.tif`` of
``maps/scene.tif``), and a name as a listing shows it, with escapes. What then still has no answer, or more
than one, is an error that names the candidates.
"""

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tilevault.codecs.errors import ImageNotFound, InputRejected, IntegrityError
from tilevault.workflows.console import printable

if TYPE_CHECKING:
    from tilevault.archive.store import Archive, Image

__all__ = ["find_image", "image_of"]

CANDIDATES = 8
"""Names or images that an error lists, at most."""
LIKENESS = 0.6
"""Share of a name that another has in common with it to be offered instead (`difflib`)."""
CLOSE = 0.15
"""What is less alike than the best by more than this is not offered."""


def find_image(archive: "Archive", name: str) -> "Image":
    """The image of a name that a person typed. Raises `ImageNotFound`, which says what comes near."""
    try:
        return archive[name]
    except ImageNotFound as failure:
        several = [str(one) for one in failure.details.get("matches") or ()]
        if several:
            raise ImageNotFound(_several(archive, name, several), matches=several) from failure
        known = _names(archive)
        found = sorted(image for image, names in known.items() if _answers(name, names))
        if len(found) > 1:
            raise ImageNotFound(_several(archive, name, found), matches=found) from failure
        if not found:
            near = _near(name, known.values())
            hint = f"; did you mean {', '.join(near)}?" if near else "; `tilevault ls` lists what there is"
            message = f"no image answers to {name!r} in {archive.location}{hint}"
            raise ImageNotFound(message, matches=[], near=near) from failure
        return archive[found[0]]


def image_of(archive: "Archive", name: str) -> str:
    """The id of the image that a name means, also of one whose newest commit is damaged."""
    known = list(archive)
    if name in known:
        return name
    # A prefix is enough to name an image whose newest commit cannot be read.
    begun = [one for one in known if len(name) >= 4 and one.startswith(name)]
    return begun[0] if len(begun) == 1 else find_image(archive, name).id


def _names(archive: "Archive") -> dict[str, set[str]]:
    """Image id -> what it is called: its name, its series, its files. Damaged images have no names."""
    known = {}
    for image_id in archive:
        try:
            image = archive[image_id]
            names = {file.name for file in image.source.files}
        except (IntegrityError, InputRejected):
            continue
        summary = (image.summary.get(key) for key in ("name", "SeriesInstanceUID"))
        known[image_id] = names | {str(one) for one in summary if one}
    return known


def _answers(name: str, names: Iterable[str]) -> bool:
    return bool(name) and any(name in _spellings(one) for one in names)


def _spellings(name: str) -> set[str]:
    last = name.rpartition("/")[2]
    return {name, last, printable(name), printable(last)}


def _near(name: str, known: Iterable[set[str]]) -> list[str]:
    """Names that look like it, most alike first, as they can be typed."""
    spelt = {printable(one): printable(one) for names in known for one in names}
    for one in list(spelt):
        spelt.setdefault(one.rpartition("/")[2], one)
    folded: dict[str, str] = {}
    for one, whole in spelt.items():
        folded.setdefault(one.casefold(), whole)
    wanted = {name.casefold(), name.casefold().replace("\\", "/").rpartition("/")[2]}
    close = {c for one in wanted for c in difflib.get_close_matches(one, folded, CANDIDATES, LIKENESS)}
    ratios = {one: max(difflib.SequenceMatcher(None, one, w).ratio() for w in wanted) for one in close}
    best = sorted(close, key=lambda one: (-ratios[one], one))
    return list(dict.fromkeys(folded[one] for one in best if ratios[one] > ratios[best[0]] - CLOSE))[:3]


def _several(archive: "Archive", name: str, images: list[str]) -> str:
    """What to say where more than one image answers."""
    shown = []
    for image in images[:CANDIDATES]:
        try:
            summary = archive[image].summary
            lossy = f", {summary['fidelity']}" if "fidelity" in summary else ""
            shown.append(f"{image[:12]} ({printable(summary.get('name', ''), 60)}{printable(lossy, 40)})")
        except (IntegrityError, InputRejected):
            shown.append(image[:12])
    more = f" and {len(images) - CANDIDATES} more" if len(images) > CANDIDATES else ""
    where = f"{len(images)} images answer to {name!r} in {archive.location}"
    return f"{where}: {', '.join(shown)}{more}; give an id"
