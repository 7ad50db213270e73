"""Where an exported file goes: names from outside are kept if they are harmless, replaced if they are not.

A name is harmless if it stays below the folder of the export on any common system and hits no other file of
the same export. Pure: names in, relative paths out.
"""

import re
import unicodedata
from collections.abc import Sequence

from tilevault.codecs.errors import UnsafeName

__all__ = ["ExportNames", "contained"]

PART_BYTES = 240
"""Longest part of a path; file systems allow 255 bytes, a temporary name needs some."""
PATH_BYTES = 1024
"""Longest relative path."""
PARTS = 32
"""Deepest nesting of folders."""
HOSTILE = re.compile(r'[<>:"|?*\\]')
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\..*)?", re.IGNORECASE)
SAFE = re.compile(r"[A-Za-z0-9._-]{1,64}")


def contained(name: str) -> tuple[str, ...]:
    """The parts of a relative path ``a/b/c``, or `UnsafeName` with the reason.

    Refused: absolute paths, ``.`` and ``..``, control and unassigned characters, what Windows forbids
    (``<>:"|?*\\``, device names, trailing dots and spaces), and overlong names.
    """
    parts = tuple(name.split("/"))
    if len(parts) > PARTS or len(name.encode("utf-8", "surrogatepass")) > PATH_BYTES:
        raise UnsafeName(f"a name too long or too deep: {name[:60]!r}...")
    for part in parts:
        reason = _objection(part)
        if reason:
            raise UnsafeName(f"{reason}: {name[:200]!r}")
    return parts


def _objection(part: str) -> str:
    if part in ("", ".", ".."):
        return "not a relative path below the folder"
    if not part.isprintable():
        return "a name with control or unassigned characters"
    if HOSTILE.search(part) or part[-1] in ". " or part[0] == " " or RESERVED.fullmatch(part):
        return "a name that is not usable everywhere"
    if len(part.encode("utf-8")) > PART_BYTES:
        return "a name too long"
    return ""


class ExportNames:
    """Gives every file of one export its own relative path.

    The first file of a name gets it. A file whose name is not harmless, or is taken (also when only case or
    Unicode normalisation differ, or when it would be both a file and a folder), gets one made of identifiers.
    """

    def __init__(self) -> None:
        self._files: dict[tuple[str, ...], str] = {}
        self._folders: set[tuple[str, ...]] = set()

    def claim(self, name: str, sha256: str, identifiers: Sequence[str], suffix: str) -> tuple[str, ...]:
        """The path for a file that was called ``name``.

        ``sha256`` is its content: the same content may have the same name twice. ``identifiers`` are tried in
        order as folders and stem of the other name (UIDs), where they are harmless; else the digest is used.
        """
        if len(identifiers) and all(SAFE.fullmatch(part) for part in identifiers):
            derived = "/".join((*identifiers[:-1], identifiers[-1] + suffix))
        else:
            derived = sha256 + suffix
        for candidate in (name, derived, sha256 + suffix):
            try:
                parts = contained(candidate)
            except UnsafeName:
                continue
            if self._take(parts, sha256):
                return parts
        raise UnsafeName(f"no free name for a file called {name[:200]!r}")

    def _take(self, parts: tuple[str, ...], sha256: str) -> bool:
        folded = tuple(unicodedata.normalize("NFKC", part).casefold() for part in parts)
        parents = {folded[:depth] for depth in range(1, len(folded))}
        taken = self._files.get(folded)
        if taken is not None:
            return taken == sha256
        if folded in self._folders or any(parent in self._files for parent in parents):
            return False
        self._files[folded] = sha256
        self._folders |= parents
        return True
