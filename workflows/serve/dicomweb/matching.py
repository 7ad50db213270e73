"""QIDO-RS attribute matching (PS3.4 C.2.2.2, PS3.18 8.3.4.1) as conditions of SQL on the index.

Text goes into the statement as parameters only; tags are integers before they are spelt into it. Wildcards
are matched in linear time per star, whatever the pattern.
"""

import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from tilevault.archive.formats.dicom_json import tag_text
from tilevault.archive.formats.dicom_names import tag_of, vr_of
from tilevault.codecs.errors import InvalidRequest
from tilevault.workflows.serve.index_rows import INSTANCE_TAGS, SERIES_TAGS, STUDY_TAGS

__all__ = ["Condition", "attribute_path", "condition", "register", "wildcard_matches"]

LONGEST_VALUE = 1024
MOST_UIDS = 1000
MODALITIES, CLASSES, MODALITY, SOP_CLASS = 0x00080061, 0x00080062, 0x00080060, 0x00080016
STUDY, SERIES, INSTANCE = 0x0020000D, 0x0020000E, 0x00080018
UID_COLUMNS = {STUDY: "study", SERIES: "series", INSTANCE: "sop"}
OF_LEVEL = {"study": STUDY_TAGS, "series": STUDY_TAGS | SERIES_TAGS, "instance": INSTANCE_TAGS}
"""Attributes that are matched on each level (those of the levels above an instance come with it)."""
NUMERIC = frozenset(("DS", "IS", "US", "SS", "UL", "SL", "UV", "SV", "FL", "FD"))
UIDS = re.compile(r"[0-9.]{1,64}")
TIMES = frozenset(("DA", "TM", "DT"))
WIDTHS = {"DA": 8, "TM": 12, "DT": 20}
"""Digits of a date, of a time, of both, down to the microsecond."""


@dataclass(frozen=True)
class Condition:
    """A condition of a WHERE clause."""

    sql: str
    parameters: tuple[str | float, ...] = ()


def attribute_path(name: str) -> tuple[int, ...] | None:
    """The tags of ``Attribute`` or ``Sequence.Attribute``; None for what names none."""
    parts = name.split(".")
    tags = [tag_of(part) for part in parts] if len(parts) <= 2 else [None]
    return None if None in tags else tuple(tag for tag in tags if tag is not None)


def condition(level: str, path: tuple[int, ...], value: str) -> Condition | None:
    """The condition that a matching parameter states on ``study``, ``series`` or ``instance`` rows.

    None where the attribute is none that the index knows on this level. Raises `InvalidRequest` for a value
    that is none of the attribute's kind. An empty value, or ``*`` alone, matches everything.
    """
    if len(value) > LONGEST_VALUE:
        raise InvalidRequest(f"a value to match is of {LONGEST_VALUE} characters at most")
    tag = path[0]
    if level == "study" and tag in (MODALITIES, CLASSES, MODALITY, SOP_CLASS):
        return _in_study("modalities" if tag in (MODALITIES, MODALITY) else "classes", value)
    if tag == MODALITIES:
        # Of the study, where series or instances are searched.
        inner = _in_study("modalities", value)
        return Condition(f"study IN (SELECT study FROM studies WHERE {inner.sql})", inner.parameters)
    column = _column(level, tag)
    if column is None:
        return None
    if value in ("", "*", '""'):
        return Condition("1")
    if tag in UID_COLUMNS and len(path) == 1:
        return _in_list(UID_COLUMNS[tag], _uids(value))
    test = _test(vr_of(path[-1]), value, "v.value")
    source = f"json_each({column}, '$.\"{tag_text(tag)}\".Value') AS v"
    if len(path) == 2:
        source = (
            f"json_each({column}, '$.\"{tag_text(tag)}\".Value') AS item, "
            f"json_each(item.value, '$.\"{tag_text(path[1])}\".Value') AS v"
        )
    return Condition(f"EXISTS (SELECT 1 FROM {source} WHERE {test.sql})", test.parameters)


def _column(level: str, tag: int) -> str | None:
    if tag in OF_LEVEL[level]:
        return "attributes"
    return "above" if level == "instance" and tag in STUDY_TAGS | SERIES_TAGS else None


def _in_study(column: str, value: str) -> Condition:
    wanted = [one for one in re.split(r"[\\,]", value) if one not in ("", "*")]
    if not wanted:
        return Condition("1")
    tests = " OR ".join("wildcard(?, v.value)" for _ in wanted)
    return Condition(f"EXISTS (SELECT 1 FROM json_each({column}) AS v WHERE {tests})", tuple(wanted))


def _uids(value: str) -> list[str]:
    found = [uid.strip() for uid in re.split(r"[\\,]", value) if uid.strip()]
    if len(found) > MOST_UIDS or not all(UIDS.fullmatch(uid) for uid in found):
        raise InvalidRequest(f"not a list of at most {MOST_UIDS} UIDs")
    return found


def _in_list(column: str, values: Sequence[str]) -> Condition:
    return Condition(f"{column} IN ({', '.join('?' * len(values))})", tuple(values))


def _test(vr: str, value: str, column: str) -> Condition:
    """A test of one stored value."""
    if vr == "UI":
        return _in_list(column, _uids(value))
    if vr in TIMES:
        low, high = _period(vr, value)
        return Condition(f"moment({column}, '{vr}') BETWEEN ? AND ?", (low, high))
    if vr in NUMERIC:
        try:
            number = float(value)
        except ValueError:
            raise InvalidRequest(f"not a number: {value[:40]!r}") from None
        if number != number or abs(number) == float("inf"):
            raise InvalidRequest(f"not a number: {value[:40]!r}")
        return Condition(f"CAST({column} AS REAL) = ?", (number,))
    if vr == "PN":
        return Condition(f"person(?, {column})", (value.casefold(),))
    if vr == "SQ":
        raise InvalidRequest("a sequence is matched by one of its attributes: Sequence.Attribute")
    if "*" in value or "?" in value:
        return Condition(f"wildcard(?, {column})", (value,))
    return Condition(f"{column} = ?", (value,))


def _period(vr: str, value: str) -> tuple[str, str]:
    """First and last moment of a date, a time or a range of them (PS3.4 C.2.2.2.5), as digits."""
    value = value.strip()
    # A time zone of DT begins with a minus too: four digits at the end of a text with a full date before.
    first, sign, last = value.partition("-")
    if not sign:
        last = first
    if not (first or last):
        raise InvalidRequest(f"not a range: {value[:40]!r}")
    low, high = _digits(first), _digits(last)
    width = WIDTHS[vr]
    if (
        len(low) > width
        or len(high) > width
        or (vr == "DA" and any(len(x) not in (0, 8) for x in (low, high)))
    ):
        raise InvalidRequest(f"not a date or time: {value[:40]!r}")
    return low.ljust(width, "0"), high.ljust(width, "9")


def _digits(text: str) -> str:
    found = re.sub(r"[.:]", "", text.strip())
    if found and not (found.isascii() and found.isdecimal()):
        raise InvalidRequest(f"not a date or time: {text[:40]!r}")
    return found


# -- functions in SQL ----------------------------------------------------------------------------------------


def register(db: sqlite3.Connection) -> None:
    """Make the functions that conditions use known to a connection."""
    db.create_function("wildcard", 2, _wildcard, deterministic=True)
    db.create_function("person", 2, _person, deterministic=True)
    db.create_function("moment", 2, _moment, deterministic=True)


def _wildcard(pattern: str, value: object) -> bool:
    return value is not None and wildcard_matches(pattern, str(value))


def wildcard_matches(pattern: str, text: str) -> bool:
    """Whether ``*`` (anything) and ``?`` (one character) make ``pattern`` fit all of ``text``."""
    first, *middle = _pieces(pattern)
    if not middle:
        return len(first[1]) == len(text) and first[0].match(text) is not None
    *middle, last = middle
    if len(text) < len(first[1]) + len(last[1]) or first[0].match(text) is None:
        return False
    end = len(text) - len(last[1])
    if last[0].match(text, end) is None:
        return False
    at = len(first[1])
    for fixed, _ in middle:
        # The leftmost place is as good as any: what follows has the most room.
        found = fixed.search(text, at, end)
        if found is None:
            return False
        at = found.end()
    return True


@lru_cache(maxsize=256)
def _pieces(pattern: str) -> list[tuple[re.Pattern[str], str]]:
    """What stands between the stars: expressions of a fixed length."""
    runs = re.split(r"\*+", pattern)
    fixed = ("".join("." if c == "?" else re.escape(c) for c in run) for run in runs)
    return [(re.compile(text, re.DOTALL), run) for text, run in zip(fixed, runs, strict=True)]


@lru_cache(maxsize=4096)
def _person(pattern: str, value: str | None) -> bool:
    """Whether a name (a JSON object of component groups) matches, in any of its groups or all of them."""
    import json

    try:
        groups = json.loads(value or "{}")
        texts = [str(text).casefold() for text in groups.values()]
    except (ValueError, AttributeError):
        texts = [str(value).casefold()]
    wanted = pattern.rstrip("^")
    return any(wildcard_matches(wanted, text.rstrip("^")) for text in [*texts, "=".join(texts)])


def _moment(value: object, vr: str) -> str | None:
    """A stored date or time as digits down to the microsecond; None where it is none."""
    text = re.sub(r"[.:]", "", re.split("[-+]", str(value))[0].strip())
    if not text.isdecimal():
        return None
    return text.ljust(WIDTHS[vr], "0")
