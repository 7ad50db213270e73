"""What ``ls --where`` asks for: conditions on an image's search keys, all of which must hold.

Pure: strings in, a predicate on the summary of an image out.
"""

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tilevault.codecs.errors import InvalidRequest

__all__ = ["Query"]

ALSO = {"time": ("studydate",)}
"""Keys that answer a condition on another key."""
DATES = re.compile(r"(\d{8})?-(\d{8})?")
"""DICOM range matching of dates (PS3.4 C.2.2.2.5): ``from-to``, ``from-``, ``-to``."""
INSTANT = re.compile(
    r"(?P<Y>\d{4})(?:-?(?P<m>\d\d)(?:-?(?P<d>\d\d)"
    r"(?:[T ]?(?P<H>\d\d)(?::?(?P<M>\d\d)(?::?(?P<S>\d\d)(?P<f>\.\d+)?)?)?)?)?)?"
    r"(?:Z|[+-]00:?00)?"
)


@dataclass(frozen=True)
class Query:
    """Conditions of the form KEY=VALUE.

    Keys are those of an image's summary, in any case; a value may hold ``*`` and ``?``. Four are special:
    ``bbox=W,S,E,N`` (degrees; images that intersect it), ``time=FROM/TO`` (ISO 8601 or DICOM dates; either
    end may be empty or ``..``), ``name=``, and keys ending in ``Date``, which take ``20240101-20241231``.
    """

    conditions: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, expressions: Sequence[str]) -> "Query":
        """Read KEY=VALUE expressions; `InvalidRequest` says which one makes no sense."""
        conditions = []
        for expression in expressions:
            key, sign, value = expression.partition("=")
            key = key.strip().lower()
            if not sign or not key:
                raise InvalidRequest(f"--where wants KEY=VALUE, not {expression!r}")
            _condition(key, value)
            conditions.append((key, value))
        return cls(tuple(conditions))

    def unknown(self, known: Iterable[str]) -> list[str]:
        """The keys of the conditions that are none of ``known``, in any case."""
        folded = {key.lower() for key in known}
        return [key for key, _ in self.conditions if not ({key, *ALSO.get(key, ())} & folded)]

    def matches(self, summary: Mapping[str, Any]) -> bool:
        """Whether an image with this summary meets every condition."""
        folded = {str(key).lower(): value for key, value in summary.items()}
        return all(_condition(key, value)(folded) for key, value in self.conditions)


def _condition(key: str, value: str) -> Callable[[Mapping[str, Any]], bool]:
    if key == "bbox":
        box = _box(value)
        return lambda summary: _intersects(box, summary.get("bbox"))
    if key == "time":
        first, last = _period(value)
        return lambda summary: _overlaps(first, last, summary)
    if key.endswith("date") and (dates := DATES.fullmatch(value)) and value != "-":
        low, high = dates[1] or "00000000", dates[2] or "99999999"
        return lambda summary: any(low <= _digits(text) <= high for text in _texts(summary.get(key)))
    pattern = re.compile(fnmatch.translate(_only_wildcards(value)), re.IGNORECASE)
    return lambda summary: any(pattern.match(text) for text in _texts(summary.get(key)))


def _only_wildcards(value: str) -> str:
    # fnmatch also knows [sets]; here a bracket is a bracket.
    return value.replace("[", "[[]")


def _texts(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, list | tuple):
        return [text for item in value for text in _texts(item)]
    return [str(value)]


def _digits(date: str) -> str:
    return re.sub(r"\D", "", date)[:8]


def _box(value: str) -> tuple[float, float, float, float]:
    try:
        west, south, east, north = (float(part) for part in value.split(","))
    except ValueError:
        raise InvalidRequest(f"bbox wants W,S,E,N in degrees, not {value!r}") from None
    if not (south <= north and all(abs(edge) < 1e9 for edge in (west, south, east, north))):
        raise InvalidRequest(f"bbox wants W,S,E,N with S <= N, not {value!r}")
    return west, south, east, north


def _intersects(box: tuple[float, float, float, float], other: Any) -> bool:
    if not isinstance(other, list | tuple) or len(other) != 4:
        return False
    west, south, east, north = other
    if south > box[3] or north < box[1]:
        return False
    # West of E > E: the box goes across the antimeridian (RFC 7946, 5.2).
    return any(a <= d and c <= b for a, b in _spans(box[0], box[2]) for c, d in _spans(west, east))


def _spans(west: float, east: float) -> list[tuple[float, float]]:
    return [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]


def _period(value: str) -> tuple[str, str]:
    first, slash, last = value.partition("/")
    if not slash:
        last = first
    low = "" if first in ("", "..") else _instant(first, "0")
    high = "~" if last in ("", "..") else _instant(last, "9")
    if low > high:
        raise InvalidRequest(f"time wants FROM/TO, not {value!r}")
    return low, high


def _instant(text: str, fill: str) -> str:
    match = INSTANT.fullmatch(text.strip())
    if match is None:
        raise InvalidRequest(f"not a date or time: {text!r}")
    parts = [match[name] or fill * 2 for name in ("m", "d", "H", "M", "S")]
    return match["Y"] + "".join(parts)


def _overlaps(first: str, last: str, summary: Mapping[str, Any]) -> bool:
    times = _texts(summary.get("time")) or _texts(summary.get("studydate"))
    for text in times:
        begin, _, end = text.partition("/")
        try:
            if _instant(begin, "0") <= last and first <= _instant(end or begin, "9"):
                return True
        except InvalidRequest:
            continue
    return False
