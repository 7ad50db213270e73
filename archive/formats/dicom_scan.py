"""Finds where things lie in a DICOM file: one pass forward, no recursion, no length believed.

The scanner does not interpret: it walks elements, items and fragments (PS3.5 section 7, PS3.10 section 7),
checks every length against the bytes that are there, keeps the raw values of the elements that were asked
for, and notes where the pixel data begins and ends. Everything that passes is hashed on the way, so that
the digest is that of the bytes that were parsed.
"""

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tilevault.archive.formats.dicom_source import HEADER_LIMIT, FileSource, InflateSource
from tilevault.codecs.errors import InconsistentHeader, LimitExceeded, NotRecognized, UnsafeName

__all__ = [
    "DEFLATED",
    "EXPLICIT_BIG",
    "EXPLICIT_LITTLE",
    "IMPLICIT_LITTLE",
    "PIXEL_TAGS",
    "PREFIX_BYTES",
    "Element",
    "Fragment",
    "InflateSource",
    "PixelValue",
    "Scanned",
    "Wanted",
    "begins_data_set",
    "looks_like",
    "scan_elements",
    "uid_text",
]

ELEMENT_LIMIT = 256 << 20
"""Bytes of one element that is not pixel data."""
ELEMENT_COUNT_LIMIT = 1_000_000
DEPTH_LIMIT = 32
FRAGMENT_LIMIT = 1 << 22
VALUE_LIMIT = 8 << 20
"""Longest value that is kept for interpretation."""
PREFIX_BYTES = 64 << 10
"""Beginning of each fragment that is looked at for the codec's own header."""

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"

PROGRAMS = (
    b"MZ",
    b"\x7fELF",
    b"#!",
    b"\xfe\xed\xfa",
    b"\xce\xfa\xed\xfe",
    b"\xcf\xfa\xed\xfe",
    b"\xca\xfe\xba\xbe",
)
"""Beginnings of PE, ELF, scripts and Mach-O: a file can be one of them and DICOM at once."""
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
TRANSFER_SYNTAX = 0x00020010
PIXEL_TAGS = {0x7FE00010: "integer", 0x7FE00008: "float", 0x7FE00009: "double"}

SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
KNOWN_VRS = SHORT_VRS | LONG_VRS
_SHORT_FORM = struct.Struct("<HH2sH")
"""Group, element, VR and length (PS3.5 table 7.1-2)."""
BULK_VRS = frozenset(("OB", "OW", "OF", "OD", "OL", "OV"))


class Element(NamedTuple):
    """A value that was asked for: raw bytes, or the items of a sequence."""

    vr: str
    """Two letters, or "" in implicit VR."""
    big_endian: bool
    value: bytes
    items: Sequence[Mapping[int, "Element"]] = ()


class Fragment(NamedTuple):
    """One item of encapsulated pixel data."""

    length: int
    header: Any
    """What ``inspect`` made of its first bytes."""


@dataclass
class PixelValue:
    """Where the pixel data lies."""

    tag: int
    vr: str
    offset: int
    """First byte of the value (for encapsulated data: of the first item); inflated bytes where deflated."""
    length: int | None
    """Bytes of the value; None where it is encapsulated."""
    offset_table: bytes = b""
    first_fragment: int = 0
    """File offset of the item header of the first fragment."""
    fragments: list[Fragment] = field(default_factory=list)
    end: int = 0
    """Offset of the first byte after the value and its delimiter."""


@dataclass
class Scanned:
    """What one pass over a file found."""

    meta: dict[int, Element]
    elements: dict[int, Element]
    syntax: str
    """Declared transfer syntax UID, or the native one that the data set looks like."""
    declared: bool
    explicit: bool
    big_endian: bool
    data_set_offset: int
    """File offset of the data set (of the deflated stream, where it is deflated)."""
    pixel: PixelValue | None
    warnings: list[str]


@dataclass
class _Level:
    """A sequence (its items) or a data set (its elements) that the scanner is in."""

    of_items: bool
    end: int | None
    """Offset at which it ends; None: at its delimiter."""
    explicit: bool
    big_endian: bool
    into: dict[int, Element] | None = None
    """Where asked-for values of a data set go; None where nobody asked."""
    items: list[Mapping[int, Element]] | None = None
    """Where the items of an asked-for sequence go."""
    fragments: bool = False
    """Items are fragments of a nested encapsulated value, not data sets."""


@dataclass(frozen=True)
class Wanted:
    """What the scanner keeps, and what it asks about pixel data on the way."""

    values: frozenset[int]
    sequences: frozenset[int]
    declared_bytes: Callable[[Mapping[int, Element]], int]
    """Bytes of native pixel data that the elements so far declare."""
    inspect: Callable[[str, bytes], Any]
    """Header of a codec stream from a transfer syntax and a fragment's first bytes."""


class _Scanner:
    def __init__(
        self, source: FileSource, wanted: Wanted, syntax: str, explicit: bool, big_endian: bool
    ) -> None:
        self.source = source
        self.wanted = wanted
        self.syntax = syntax
        self.warnings: list[str] = []
        self.count = 0
        self.elements: dict[int, Element] = {}
        self.levels = [_Level(False, None, explicit, big_endian, into=self.elements)]
        self.pixel: PixelValue | None = None

    def run(self) -> None:
        """Walk to the end of the source."""
        while self.levels:
            level = self.levels[-1]
            outermost = len(self.levels) == 1
            if level.end is not None and self.source.offset > level.end:
                raise InconsistentHeader("an element reaches beyond its sequence", offset=level.end)
            if self.source.at_end() if outermost else self.source.offset == level.end:
                self.levels.pop()
            elif level.of_items:
                self.item(level)
            elif outermost and self.source.peek(4) == b"\0\0\0\0":
                self.zero_padding()
            elif not (outermost and self.short_elements(level)):
                self.element(level)

    def short_elements(self, level: _Level, group: int | None = None) -> bool:
        """Pass the elements (of ``group``) that are loaded and of the usual form; whether there were any.

        The usual form is explicit VR, little endian, a length of 16 bits. What is special in any way is left
        to `element`, which treats these the same and takes four times as long.
        """
        if level.big_endian or not level.explicit or level.into is None:
            return False
        values, into = self.wanted.values, level.into
        buffer, begin = self.source.loaded()
        at, end = begin, len(buffer)
        while at + 8 <= end:
            own, number, vr, length = _SHORT_FORM.unpack_from(buffer, at)
            stop = at + 8 + length
            if vr not in SHORT_VRS or stop > end or own in (0xFFFE, 0x7FE0) or own != (group or own):
                break
            tag = own << 16 | number
            if tag in values:
                if tag in into:
                    break
                into[tag] = Element(vr.decode(), False, buffer[at + 8 : stop])
            self.count += 1
            at = stop
        if self.count > ELEMENT_COUNT_LIMIT:
            raise LimitExceeded("number of elements", limit=ELEMENT_COUNT_LIMIT)
        self.source.advance(at - begin)
        return at > begin

    def zero_padding(self) -> None:
        """Zero bytes after the last element, to the end of the file."""
        begin = self.source.offset
        while block := self.source.peek(1 << 16):
            if block.count(0) != len(block):
                raise InconsistentHeader("bytes after the data set are no elements", offset=begin)
            self.source.skip(len(block))
        self.warnings.append(f"{self.source.offset - begin} zero bytes after the data set")

    def one_more(self) -> None:
        self.count += 1
        if self.count > ELEMENT_COUNT_LIMIT:
            raise LimitExceeded("number of elements", limit=ELEMENT_COUNT_LIMIT)

    def element_header(self, level: _Level) -> tuple[int, str, int]:
        """(tag, VR, length) of the next element; VR is "" where there is none."""
        order = ">" if level.big_endian else "<"
        head = self.source.read(8, "element header")
        group, number = struct.unpack(order + "HH", head[:4])
        tag, vr = group << 16 | number, head[4:6]
        if group == 0xFFFE or not level.explicit or not (vr.isalpha() and vr.isupper()):
            return tag, "", int(struct.unpack(order + "I", head[4:])[0])
        if vr in LONG_VRS or (vr not in SHORT_VRS and self.is_long_form(head[6:])):
            return tag, vr.decode(), int(struct.unpack(order + "I", self.source.read(4, "element length"))[0])
        return tag, vr.decode(), int(struct.unpack(order + "H", head[6:])[0])

    def is_long_form(self, reserved: bytes) -> bool:
        """Whether an element of unknown VR has a 32-bit length (PS3.5 6.2.2 says so; some have 16 bits)."""
        following = self.source.peek(6)
        return reserved == b"\0\0" and following[4:6] not in KNOWN_VRS

    def element(self, level: _Level) -> None:
        """An element, or the end of the item."""
        self.one_more()
        tag, vr, length = self.element_header(level)
        name = f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
        if tag == ITEM_END and level.end is None and len(self.levels) > 1:
            self.levels.pop()
        elif tag >> 16 == 0xFFFE:
            raise InconsistentHeader("a delimiter that ends nothing", offset=self.source.offset - 8)
        elif len(self.levels) == 1 and tag in PIXEL_TAGS:
            self.pixel_data(level, tag, vr, length)
        elif length == UNDEFINED:
            self.sequence(level, tag, vr, None)
        else:
            self.check_length(length, name)
            if level.into is not None and tag in self.wanted.sequences and vr in ("SQ", ""):
                self.sequence(level, tag, vr, length)
            elif level.into is not None and tag in self.wanted.values:
                self.value(level, tag, vr, length, name)
            else:
                self.source.skip(length, name)

    def value(self, level: _Level, tag: int, vr: str, length: int, name: str) -> None:
        """Keep an element's bytes (the first time, where a tag comes twice)."""
        into = {} if level.into is None else level.into
        if length > VALUE_LIMIT:
            self.warnings.append(f"{name} is too long to be interpreted")
            self.source.skip(length, name)
        elif tag in into:
            self.warnings.append(f"{name} comes more than once; the first one counts")
            self.source.skip(length, name)
        else:
            into[tag] = Element(vr, level.big_endian, self.source.read(length, name))

    def sequence(self, level: _Level, tag: int, vr: str, length: int | None) -> None:
        """Enter a sequence, or a nested encapsulated value."""
        items: list[Mapping[int, Element]] | None = None
        if level.into is not None and tag in self.wanted.sequences and tag not in level.into:
            items = []
            level.into[tag] = Element("SQ", level.big_endian, b"", items)
        end = None if length is None else self.source.offset + length
        # UN of undefined length is a sequence in implicit VR little endian (PS3.5 section 6.2.2, note).
        explicit, big = (False, False) if vr == "UN" else (level.explicit, level.big_endian)
        self.push(_Level(True, end, explicit, big, items=items, fragments=vr in BULK_VRS))

    def item(self, level: _Level) -> None:
        """An item, or the end of the sequence."""
        self.one_more()
        tag, length = self.item_header(level.big_endian)
        if tag == SEQUENCE_END and level.end is None:
            self.levels.pop()
        elif tag != ITEM:
            raise InconsistentHeader(
                f"tag {tag:08X} where an item should begin", offset=self.source.offset - 8
            )
        elif level.fragments:
            self.check_length(length, "fragment")
            self.source.skip(length, "fragment")
        else:
            if length != UNDEFINED:
                self.check_length(length, "item")
            end = None if length == UNDEFINED else self.source.offset + length
            into: dict[int, Element] | None = None
            if level.items is not None:
                into = {}
                level.items.append(into)
            self.push(_Level(False, end, level.explicit, level.big_endian, into=into))

    def item_header(self, big_endian: bool) -> tuple[int, int]:
        group, number, length = struct.unpack(
            ">HHI" if big_endian else "<HHI", self.source.read(8, "item header")
        )
        return group << 16 | number, length

    def push(self, level: _Level) -> None:
        if len(self.levels) > 2 * DEPTH_LIMIT:
            raise LimitExceeded("nesting of sequences", limit=DEPTH_LIMIT)
        self.levels.append(level)

    def check_length(self, length: int, name: str) -> None:
        """The bytes are there, within every enclosing item; else the error that fits."""
        if length == UNDEFINED:
            raise InconsistentHeader(f"{name} has no length", offset=self.source.offset)
        end = next((level.end for level in reversed(self.levels) if level.end is not None), None)
        if end is not None and self.source.offset + length > end:
            raise InconsistentHeader(f"{name} reaches beyond its sequence", offset=self.source.offset)
        if length > ELEMENT_LIMIT:
            self.source.need(length, name)
            raise LimitExceeded(f"length of {name}", limit=ELEMENT_LIMIT, actual=length)
        self.source.need(length, name)

    def pixel_data(self, level: _Level, tag: int, vr: str, length: int) -> None:
        """The pixel data of the image itself: native, or a sequence of fragments."""
        if self.pixel is not None:
            raise InconsistentHeader("pixel data comes more than once", offset=self.source.offset)
        if self.source.offset > HEADER_LIMIT:
            raise LimitExceeded("bytes before the pixel data", limit=HEADER_LIMIT)
        self.pixel = PixelValue(tag, vr, self.source.offset, None if length == UNDEFINED else length)
        if length == UNDEFINED:
            self.fragments(level, self.pixel)
        else:
            self.source.allow(self.wanted.declared_bytes(self.elements))
            self.source.skip(length, "pixel data")
        self.pixel.end = self.source.offset

    def fragments(self, level: _Level, pixel: PixelValue) -> None:
        """Basic Offset Table, fragments, delimiter (PS3.5 section A.4)."""
        while True:
            tag, length = self.item_header(level.big_endian)
            if tag == SEQUENCE_END:
                break
            if tag != ITEM or length == UNDEFINED:
                raise InconsistentHeader(
                    f"tag {tag:08X} where a fragment should begin", offset=self.source.offset - 8
                )
            self.source.need(length, "fragment")
            if not pixel.first_fragment:
                if length > 4 * FRAGMENT_LIMIT:
                    raise LimitExceeded("length of the offset table", limit=4 * FRAGMENT_LIMIT)
                pixel.offset_table = self.source.read(length, "offset table")
                pixel.first_fragment = self.source.offset
                continue
            if len(pixel.fragments) >= FRAGMENT_LIMIT:
                raise LimitExceeded("number of fragments", limit=FRAGMENT_LIMIT)
            header = self.wanted.inspect(self.syntax, self.source.peek(min(length, PREFIX_BYTES))[:length])
            self.source.skip(length, "fragment")
            pixel.fragments.append(Fragment(length, header))
        if not pixel.first_fragment:
            raise InconsistentHeader("encapsulated pixel data without an offset table", offset=pixel.offset)


def begins_data_set(head: bytes) -> bool:
    """Whether ``head`` begins with two plausible elements of group 0002 or 0008: a file without preamble."""
    for order in "<>":
        at, previous = 0, -1
        for place in range(2):
            length = _plausible(head[at : at + 12], order, place == 0)
            if length is None:
                break
            group, number = struct.unpack(order + "HH", head[at : at + 4])
            if (group << 16 | number) <= previous:
                break
            previous = group << 16 | number
            at += length
            if at == len(head) and len(head) < 4096:
                return True
        else:
            return True
    return False


def _plausible(head: bytes, order: str, first: bool) -> int | None:
    """Length of the element that ``head`` begins with, header included, if it looks like one."""
    if len(head) < 8:
        return None
    group, number = struct.unpack(order + "HH", head[:4])
    if first and not ((group == 8 and number <= 0x0070) or (group == 2 and number <= 0x0016)):
        return None
    vr = head[4:6]
    if vr in SHORT_VRS:
        return 8 + int(struct.unpack(order + "H", head[6:8])[0])
    if vr in LONG_VRS and head[6:8] == b"\0\0" and len(head) == 12:
        length = int(struct.unpack(order + "I", head[8:])[0])
        return 12 + length if length < 4096 else None
    length = int(struct.unpack(order + "I", head[4:8])[0])
    # Implicit VR exists in little endian only; short text and numbers come first.
    return 8 + length if order == "<" and length <= 1024 and length % 2 == 0 else None


_UID = re.compile(r"[0-9.]{1,64}")


def uid_text(value: bytes, what: str) -> str:
    """A UID without its padding, "" where empty; `UnsafeName` unless it is [0-9.]{1,64}."""
    text = value.rstrip(b"\0 ").decode("latin-1")
    if text and not _UID.fullmatch(text):
        raise UnsafeName(f"{what} is not a UID", found=text[:80])
    return text


def scan_elements(source: FileSource, wanted: Wanted) -> tuple[Scanned, FileSource]:
    """Walk the whole file; what was found, and the source, whose `finish` gives the digest."""
    suspicious = []
    if source.peek(132)[128:] == b"DICM":
        if source.read(132).startswith(PROGRAMS):
            suspicious.append("the preamble is the beginning of a program or script")
    elif not begins_data_set(source.peek(4096)):
        raise NotRecognized("not a DICOM file")
    meta = _scan_meta(source, wanted)
    uid = meta.elements.get(TRANSFER_SYNTAX)
    declared = uid_text(uid.value, "TransferSyntaxUID") if uid else ""
    begin = source.offset
    if declared == DEFLATED:
        source = InflateSource(source)
    explicit, big_endian = looks_like(source.peek(6), declared)
    syntax = declared or (EXPLICIT_BIG if big_endian else EXPLICIT_LITTLE if explicit else IMPLICIT_LITTLE)
    body = _Scanner(source, wanted, syntax, explicit, big_endian)
    if not declared:
        body.warnings.append(f"no transfer syntax; the data set looks like {syntax}")
    elif explicit != (declared != IMPLICIT_LITTLE):
        body.warnings.append(
            f"data set is {'explicit' if explicit else 'implicit'} VR, unlike its transfer syntax"
        )
    body.run()
    if body.pixel is not None and source.offset - body.pixel.end > HEADER_LIMIT:
        raise LimitExceeded("bytes after the pixel data", limit=HEADER_LIMIT)
    found = Scanned(
        meta=meta.elements,
        elements=body.elements,
        syntax=syntax,
        declared=bool(declared),
        explicit=explicit,
        big_endian=big_endian,
        data_set_offset=begin,
        pixel=body.pixel,
        warnings=suspicious + meta.warnings + body.warnings,
    )
    return found, source


def _scan_meta(source: FileSource, wanted: Wanted) -> _Scanner:
    """File Meta Information: group 0002, explicit VR little endian; its group length is not believed."""
    meta = _Scanner(source, wanted, "", explicit=True, big_endian=False)
    while source.peek(2) == b"\2\0":
        if not meta.short_elements(meta.levels[0], group=2):
            meta.element(meta.levels[0])
        if len(meta.levels) > 1:
            raise InconsistentHeader("a sequence in the file meta information", offset=source.offset)
    return meta


def looks_like(head: bytes, declared: str) -> tuple[bool, bool]:
    """(explicit VR, big endian) of a data set that begins with ``head``."""
    explicit = declared != IMPLICIT_LITTLE
    if len(head) < 6:
        return explicit, declared == EXPLICIT_BIG
    letters = head[4:6].isalpha() and head[4:6].isupper()
    explicit = head[4:6] in KNOWN_VRS or (explicit and bool(declared) and letters)
    if declared:
        return explicit, explicit and declared == EXPLICIT_BIG
    little, big = struct.unpack("<H", head[:2])[0], struct.unpack(">H", head[:2])[0]
    return explicit, explicit and big < little
