"""Values of a DICOM header: text in its character set, UIDs, and numbers of whatever VR they were written in.

A needed attribute that cannot be read is an `InconsistentHeader`; an optional one is left out with a warning.
Nothing is guessed beyond the defaults that a warning names.
"""

import re
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache

import pydicom.charset

from tilevault.archive.formats.dicom_scan import Element, uid_text
from tilevault.archive.formats.dicom_tags import (
    ACQUISITION_NUMBER,
    CHARACTER_SET,
    IMAGE,
    INSTANCE_NUMBER,
    PADDING,
    PALETTE_DESCRIPTORS,
    TEMPORAL_IDENTIFIER,
    TEMPORAL_INDEX,
)
from tilevault.codecs.errors import InconsistentHeader

__all__ = ["Header", "character_sets", "decoded"]

REMEMBERED = 64
"""Bytes of a value whose numbers are remembered, at most."""
_INTEGER = re.compile(r"[+-]?[0-9]{1,12}")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_STRUCTS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}


class Header:
    """Values of a data set by tag; complaints about optional ones are collected in ``warnings``."""

    def __init__(self, elements: Mapping[int, Element], warnings: list[str]) -> None:
        self.elements = elements
        self.warnings = warnings
        self._encodings = self._character_sets()

    def _character_sets(self) -> list[str]:
        element = self.elements.get(CHARACTER_SET)
        if element is None:
            return ["latin-1"]
        found, known = character_sets(element.value)
        if not known:
            self.warnings.append("SpecificCharacterSet has an unknown term")
        return found

    def has(self, tag: int) -> bool:
        """Whether the element is there with a value."""
        element = self.elements.get(tag)
        if element is None:
            return False
        if _number_vr(element, tag) in _STRUCTS:
            return bool(element.value)
        return bool(element.value.strip(b"\0 ") or element.items)

    def text(self, tag: int) -> str:
        """Decoded text without padding, "" where absent; bytes that do not decode are replaced."""
        element = self.elements.get(tag)
        if element is None:
            return ""
        return decoded(element.value, self._encodings).strip(" \0")

    def uid(self, tag: int, what: str) -> str:
        """A UID, "" where absent; `UnsafeName` where it is none."""
        element = self.elements.get(tag)
        return uid_text(element.value, what) if element is not None else ""

    def numbers(self, tag: int, what: str) -> list[float]:
        """Numbers of any numeric VR; an empty list, with a warning, where they cannot be read."""
        if not self.has(tag):
            return []
        try:
            return _numbers(self.elements[tag], tag)
        except ValueError as error:
            self.warnings.append(f"{what} is not a number: {error}")
            return []

    def number(self, tag: int, what: str) -> float | None:
        """The first of `numbers`, or None."""
        found = self.numbers(tag, what)
        return found[0] if found else None

    def integer(self, name: str, default: int | None = None) -> int:
        """A needed attribute of the image; the default, with a warning, where it is absent."""
        tag = IMAGE[name]
        if not self.has(tag):
            if default is None:
                raise InconsistentHeader(f"image without {name}")
            self.warnings.append(f"no {name}; taken as {default}")
            return default
        try:
            found = _numbers(self.elements[tag], tag)
        except ValueError as error:
            raise InconsistentHeader(f"{name} is not a number: {error}") from error
        if len(found) != 1 or found[0] != int(found[0]):
            raise InconsistentHeader(f"{name} is not one integer", found=str(found)[:80])
        return int(found[0])

    def items(self, tag: int) -> list["Header"]:
        """The items of a sequence."""
        element = self.elements.get(tag)
        return [Header(item, self.warnings) for item in element.items] if element is not None else []

    def first(self, tag: int) -> "Header":
        """The first item of a sequence, or an empty data set."""
        items = self.items(tag)
        return items[0] if items else Header({}, self.warnings)


def character_sets(value: bytes) -> tuple[list[str], bool]:
    """Python encodings of a Specific Character Set (0008,0005), and whether all its terms are known."""
    terms = [term.strip(" \0") for term in value.decode("latin-1").split("\\")]
    known = pydicom.charset.python_encoding
    found = [str(known[term]) for term in terms if term in known]
    return found or ["latin-1"], len(found) == len(terms)


def decoded(value: bytes, encodings: Sequence[str]) -> str:
    """Text in its character sets (PS3.5 6.1.2); what does not decode is replaced."""
    if b"\x1b" not in value:
        return _decode(value, encodings[0])
    head, *escaped = value.split(b"\x1b")
    return "".join([_decode(head, encodings[0]), *(_decode_escaped(part) for part in escaped)])


def _decode(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding, "replace")
    except LookupError:
        return data.decode("latin-1")


def _decode_escaped(part: bytes) -> str:
    """Text after an ISO 2022 escape; the escape itself is dropped."""
    for code, encoding in pydicom.charset.CODES_TO_ENCODINGS.items():
        if code and (b"\x1b" + part).startswith(code):
            name = str(encoding)
            if name.startswith("iso2022"):
                return _decode(b"\x1b" + part, name)
            return _decode(part[len(code) - 1 :], name)
    return part.decode("latin-1")


def _numbers(element: Element, tag: int) -> list[float]:
    # Most numbers are the same in all files of a series.
    parsed = _parsed if len(element.value) <= REMEMBERED else _parsed.__wrapped__
    return list(parsed(element.value, _number_vr(element, tag), element.big_endian))


@lru_cache(maxsize=4096)
def _parsed(value: bytes, vr: str, big_endian: bool) -> tuple[float, ...]:
    if vr in _STRUCTS:
        code = _STRUCTS[vr]
        size = struct.calcsize(code)
        if len(value) % size:
            raise ValueError(f"{len(value)} bytes of {vr}")
        order = ">" if big_endian else "<"
        found = list(struct.unpack(f"{order}{len(value) // size}{code}", value))
    else:
        found = [_number(part.strip(" \0\t")) for part in value.decode("latin-1").split("\\")]
    if any(x != x or x in (float("inf"), float("-inf")) for x in found):
        raise ValueError("not finite")
    return tuple(found)


def _number_vr(element: Element, tag: int) -> str:
    """The VR, or the dictionary's where the data set does not say (a US of four bytes is taken as UL)."""
    if element.vr not in ("", "UN"):
        return element.vr
    vr = _IMPLICIT.get(tag, "DS")
    return "UL" if vr == "US" and len(element.value) == 4 else vr


def _number(text: str) -> float:
    if _INTEGER.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text):
        return float(text)
    raise ValueError(repr(text[:40]))


_IMPLICIT = {
    **dict.fromkeys(IMAGE.values(), "US"),
    IMAGE["NumberOfFrames"]: "IS",
    TEMPORAL_INDEX: "UL",
    **dict.fromkeys((INSTANCE_NUMBER, ACQUISITION_NUMBER, TEMPORAL_IDENTIFIER), "IS"),
    **dict.fromkeys((*PALETTE_DESCRIPTORS, PADDING), "US"),
}
"""VR of numbers in implicit VR (PS3.6), where it is not DS."""
