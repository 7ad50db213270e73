"""Which bytes to ask for together: ranges of one object that lie close to each other become one request.

A request costs some hundredths of a second, in which a network brings tens of kilobytes: a small gap is
read along with what is wanted.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["GAP", "LONGEST", "Request", "merged"]

GAP = 64 << 10
"""Bytes between two ranges that are read along, at most."""
LONGEST = 8 << 20
"""Bytes of a merged request at most: memory, and an answer has to come in time."""

T = TypeVar("T")


@dataclass(frozen=True)
class Request(Generic[T]):
    """One range of an object, and the wanted ranges in it."""

    start: int
    stop: int
    wanted: tuple[tuple[int, int, T], ...]
    """(start, stop, what for), in the object's coordinates."""


def merged(wanted: Iterable[tuple[int, int, T]], gap: int = GAP, longest: int = LONGEST) -> list[Request[T]]:
    """Requests that cover all ``wanted`` ranges ``(start, stop, what for)``, each in one of them, in order.

    None is longer than ``longest``, except for a single range that is.
    """
    made: list[Request[T]] = []
    for one in sorted(wanted, key=lambda of: of[:2]):
        start, stop, _ = one
        last = made[-1] if made else None
        if last is not None and start - last.stop <= gap and max(stop, last.stop) - last.start <= longest:
            made[-1] = Request(last.start, max(stop, last.stop), (*last.wanted, one))
        else:
            made.append(Request(start, stop, (one,)))
    return made
