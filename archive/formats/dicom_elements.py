"""All elements of a kept DICOM header, with their raw values: for who wants to show them.

The scanner (`dicom_scan`) has walked these bytes when they were archived and kept what it needed; here every
element is taken apart, nested ones too, since a client may ask for any. Lengths are checked again: what does
not parse is `InconsistentHeader`. Private elements of implicit data sets get the VR that pydicom's dictionary
of private elements knows, or UN.
"""

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import pydicom.datadict

from tilevault.archive.formats.dicom_scan import (
    BULK_VRS,
    DEPTH_LIMIT,
    ELEMENT_COUNT_LIMIT,
    ITEM,
    ITEM_END,
    LONG_VRS,
    PIXEL_TAGS,
    SEQUENCE_END,
    SHORT_VRS,
    UNDEFINED,
)
from tilevault.codecs.errors import InconsistentHeader, LimitExceeded

__all__ = ["DataSet", "RawElement", "parse_elements", "value_at"]

PIXEL_REPRESENTATION = 0x00280103
AMBIGUOUS = {"OB or OW": "OW", "US or OW": "OW", "US or SS or OW": "OW"}
"""VRs that depend on other elements, in implicit data sets: words, where they may be."""
_HEAD = {False: struct.Struct("<HH2sH"), True: struct.Struct(">HH2sH")}
_LONG = {False: struct.Struct("<I"), True: struct.Struct(">I")}


class RawElement(NamedTuple):
    """One element as it is written."""

    tag: int
    vr: str
    """Two letters; UN where neither the data set nor a dictionary tells."""
    value: memoryview
    """Raw bytes, padding included; of a sequence empty."""
    big_endian: bool
    items: "Sequence[DataSet] | None" = None
    """Of a sequence; None for any other element."""


DataSet = Mapping[int, RawElement]
"""Elements by tag, ascending; the first of elements with the same tag counts."""


def parse_elements(data: bytes, explicit: bool, big_endian: bool) -> tuple[DataSet, RawElement | None]:
    """The elements of a data set, up to its pixel data; second, the pixel data's element, without value.

    Raises `InconsistentHeader` or `LimitExceeded`.
    """
    walk = _Walk(memoryview(data))
    try:
        found, _ = walk.data_set(0, len(data), explicit, big_endian, False, outermost=True)
    except struct.error as error:
        raise InconsistentHeader(f"a kept header ends within an element: {error}") from error
    return found, walk.pixel


class _Walk:
    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.count = 0
        self.depth = 0
        self.pixel: RawElement | None = None

    def data_set(
        self, at: int, end: int, explicit: bool, big: bool, signed: bool, outermost: bool = False
    ) -> tuple[DataSet, int]:
        """Elements from ``at`` to ``end``, or to the delimiter of an item; and where they end."""
        found: dict[int, RawElement] = {}
        creators: dict[int, str] = {}
        while at + 8 <= end:
            tag, vr, length, at = self.header(at, explicit, big)
            if tag == ITEM_END:
                return _ordered(found), at
            if outermost and tag in PIXEL_TAGS:
                self.pixel = RawElement(tag, vr or "OW", self.data[:0], big)
                break
            if tag == 0 and length == 0:
                break
            vr = self.known_vr(tag, vr, length, creators, signed)
            if length == UNDEFINED or (vr == "SQ" and length):
                element, at = self.nested(tag, vr, length, at, explicit, big, signed)
            else:
                if length > end - at:
                    raise InconsistentHeader(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) reaches beyond its end")
                items: Sequence[DataSet] | None = () if vr == "SQ" else None
                element = RawElement(tag, vr, self.data[at : at + length], big, items)
                at += length
            if tag not in found:
                found[tag] = element
                if tag == PIXEL_REPRESENTATION and len(element.value) >= 2:
                    signed = bool(int.from_bytes(element.value[:2], "big" if big else "little"))
                elif tag >> 16 & 1 and 0x10 <= tag & 0xFFFF <= 0xFF:
                    creators[tag & 0xFFFF00FF] = bytes(element.value).decode("latin-1").strip(" \0")
        return _ordered(found), end

    def header(self, at: int, explicit: bool, big: bool) -> tuple[int, str, int, int]:
        """(tag, VR or "", length, offset of the value); VRs as the scanner reads them."""
        self.count += 1
        if self.count > ELEMENT_COUNT_LIMIT:
            raise LimitExceeded("number of elements", limit=ELEMENT_COUNT_LIMIT)
        group, number, letters, short = _HEAD[big].unpack_from(self.data, at)
        tag = group << 16 | number
        if group == 0xFFFE or not explicit or not (letters.isalpha() and letters.isupper()):
            return tag, "", _LONG[big].unpack_from(self.data, at + 4)[0], at + 8
        if letters in SHORT_VRS or (letters not in LONG_VRS and short):
            return tag, letters.decode(), short, at + 8
        return tag, letters.decode(), _LONG[big].unpack_from(self.data, at + 8)[0], at + 12

    def known_vr(self, tag: int, vr: str, length: int, creators: Mapping[int, str], signed: bool) -> str:
        """The VR, from a dictionary where the data set does not tell or says UN."""
        if vr and (vr != "UN" or length == UNDEFINED):
            return vr
        found = _dictionary_vr(tag, creators.get((tag & 0xFFFF0000) | (tag >> 8 & 0xFF), ""))
        if found.startswith("US or SS"):
            return "SS" if signed and found == "US or SS" else "US" if found == "US or SS" else "OW"
        found = AMBIGUOUS.get(found, found)
        # Whoever wrote UN could not tell: a sequence inside would be implicit, and is left alone.
        return "UN" if vr == "UN" and found == "SQ" else found

    def nested(
        self, tag: int, vr: str, length: int, at: int, explicit: bool, big: bool, signed: bool
    ) -> tuple[RawElement, int]:
        """A sequence, or an encapsulated value, and where it ends."""
        end = len(self.data) if length == UNDEFINED else at + length
        if end > len(self.data):
            raise InconsistentHeader(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) reaches beyond its end")
        self.depth += 1
        if self.depth > DEPTH_LIMIT:
            raise LimitExceeded("nesting of sequences", limit=DEPTH_LIMIT)
        depth, begin = self.depth, at
        items: list[DataSet] = []
        if vr == "UN":
            explicit, big = False, False
        try:
            at = self.items(items, at, end, explicit, big, signed, vr in BULK_VRS)
        except InconsistentHeader:
            # The scanner passed over a sequence whose length is known; what is sound in it is shown.
            if length == UNDEFINED:
                raise
        self.depth = depth - 1
        at = at if length == UNDEFINED else end
        if vr in BULK_VRS:
            return RawElement(tag, vr, self.data[begin:at], big), at
        return RawElement(tag, "SQ", self.data[:0], big, items), at

    def items(
        self, items: list[DataSet], at: int, end: int, explicit: bool, big: bool, signed: bool, bulk: bool
    ) -> int:
        """Collect the items of a sequence (none of a ``bulk`` value, which are fragments); where they end."""
        while at + 8 <= end:
            mark, _, size, at = self.header(at, False, big)
            if mark == SEQUENCE_END:
                break
            stop = end if size == UNDEFINED else at + size
            if mark != ITEM or stop > end:
                raise InconsistentHeader(f"no item, or one beyond its sequence: {mark:08X}")
            if bulk:
                at = stop
                continue
            item, at = self.data_set(at, stop, explicit, big, signed)
            items.append(item)
        return at


def _ordered(found: dict[int, RawElement]) -> dict[int, RawElement]:
    tags = list(found)
    return found if tags == sorted(tags) else dict(sorted(found.items()))


@lru_cache(maxsize=8192)
def _dictionary_vr(tag: int, creator: str) -> str:
    if tag & 0xFFFF == 0:
        return "UL"
    if tag >> 16 & 1:
        if 0x10 <= tag & 0xFFFF <= 0xFF:
            return "LO"
        try:
            return str(pydicom.datadict.private_dictionary_VR(tag, creator)) if creator else "UN"
        except KeyError:
            return "UN"
    try:
        return str(pydicom.datadict.dictionary_VR(tag))
    except KeyError:
        return "UN"


def value_at(data: DataSet, path: Sequence[Any]) -> RawElement | None:
    """The element at ``path`` (tag, or tag, item from 1, tag, ...); None if there is none."""
    if not path:
        return None
    element = data.get(path[0])
    if len(path) == 1 or element is None:
        return element
    items = element.items or ()
    return value_at(items[path[1] - 1], path[2:]) if 1 <= path[1] <= len(items) else None
