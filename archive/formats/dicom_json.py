"""The DICOM JSON model (PS3.18 annex F) of a header: for queries and viewers, never for keeping.

Numbers written as text (DS, IS) become JSON numbers where they are such, and stay text where not. Values of
binary VRs are inline up to 1 KiB; longer ones, and pixels, are a BulkDataURI.
"""

import base64
import math
import struct
from collections.abc import Callable, Sequence
from typing import Any

from tilevault.archive.formats.dicom_elements import DataSet, RawElement
from tilevault.archive.formats.dicom_header import character_sets, decoded
from tilevault.archive.formats.dicom_tags import CHARACTER_SET

__all__ = ["BULK_VRS", "json_model", "little_endian", "tag_text"]

INLINE_BYTES = 1024
"""Binary values up to this length are part of the JSON."""
BULK_VRS = {"OB": 1, "OD": 8, "OF": 4, "OL": 4, "OV": 8, "OW": 2, "UN": 1}
"""Binary VRs, and the bytes of their words."""
NUMBERS = {
    **{"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q"},
    **{"FL": "f", "FD": "d", "AT": "HH"},
}
ONE_VALUE = frozenset(("LT", "ST", "UT", "UR"))
"""Text in which a backslash is a backslash."""
IN_CHARACTER_SET = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
EXACT = 2**53
"""Integers up to here are the same in every JSON parser."""
NAME_GROUPS = ("Alphabetic", "Ideographic", "Phonetic")


def tag_text(tag: int) -> str:
    """``0020000D``"""
    return f"{tag:08X}"


def json_model(
    elements: DataSet,
    bulk: Callable[[str], str],
    path: str = "",
    inherited: Sequence[str] = ("latin-1",),
    only: frozenset[int] | None = None,
) -> dict[str, Any]:
    """A data set as JSON values. ``bulk`` gives the URI of a value by its path ``TAG/item/TAG``.

    ``only``: the elements that are wanted. Group lengths are left out.
    """
    charset = elements.get(CHARACTER_SET)
    encodings = inherited if charset is None else character_sets(bytes(charset.value))[0]
    model: dict[str, Any] = {}
    for tag, element in elements.items():
        if tag & 0xFFFF and (only is None or tag in only):
            model[tag_text(tag)] = _element(element, bulk, path + tag_text(tag), encodings)
    return model


def _element(
    element: RawElement, bulk: Callable[[str], str], path: str, encodings: Sequence[str]
) -> dict[str, Any]:
    vr = element.vr
    if element.items is not None:
        items = [
            json_model(item, bulk, f"{path}/{i + 1}/", encodings) for i, item in enumerate(element.items)
        ]
        return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    raw = element.value
    if vr in BULK_VRS or vr not in _KNOWN:
        if not raw:
            return {"vr": vr if vr in BULK_VRS else "UN"}
        if len(raw) > INLINE_BYTES:
            return {"vr": vr if vr in BULK_VRS else "UN", "BulkDataURI": bulk(path)}
        return {
            "vr": vr if vr in BULK_VRS else "UN",
            "InlineBinary": base64.b64encode(little_endian(element)).decode(),
        }
    found = _numbers(element) if vr in NUMBERS else _texts(vr, bytes(raw), encodings)
    return {"vr": vr, "Value": found} if found else {"vr": vr}


def little_endian(element: RawElement) -> bytes:
    """The bytes of a binary value in little endian order."""
    size = BULK_VRS.get(element.vr, 1)
    raw = bytes(element.value)
    if not element.big_endian or size == 1 or len(raw) % size:
        return raw
    swapped = bytearray(len(raw))
    for i in range(size):
        swapped[i::size] = raw[size - 1 - i :: size]
    return bytes(swapped)


def _numbers(element: RawElement) -> list[Any]:
    order, code = ">" if element.big_endian else "<", NUMBERS[element.vr]
    size = struct.calcsize(order + code)
    count = len(element.value) // size
    if element.vr == "AT":
        pairs = struct.iter_unpack(order + code, element.value[: count * size])
        return [f"{group:04X}{number:04X}" for group, number in pairs]
    return [_plain(x) for x in struct.unpack(f"{order}{count}{code}", element.value[: count * size])]


def _plain(x: Any) -> Any:
    """A number as JSON can hold it, else as text (PS3.18 F.2.3)."""
    if isinstance(x, float):
        return x if math.isfinite(x) else "NaN" if math.isnan(x) else "Infinity" if x > 0 else "-Infinity"
    return x if abs(x) <= EXACT else str(x)


def _texts(vr: str, raw: bytes, encodings: Sequence[str]) -> list[Any]:
    text = decoded(raw, encodings) if vr in IN_CHARACTER_SET else raw.decode("latin-1")
    text = text.rstrip(" \0")
    if not text:
        return []
    if vr in ONE_VALUE:
        return [text]
    parts = [part.strip(" \0") for part in text.split("\\")]
    if vr == "PN":
        names = [_name(part) for part in parts]
        # A name of nothing but delimiters is none: clients (OHIF) read into a first value, whatever it is.
        return names if any(names) else []
    convert = {"DS": _decimal, "IS": _integer}.get(vr)
    return [(convert(part) if convert else part) if part else None for part in parts]


def _name(text: str) -> dict[str, str] | None:
    groups = [group.strip(" ^\0") for group in text.split("=")[:3]]
    return {name: group for name, group in zip(NAME_GROUPS, groups, strict=False) if group} or None


def _decimal(text: str) -> Any:
    try:
        number = float(text)
    except ValueError:
        return text
    if not math.isfinite(number):
        return text
    return int(number) if number == int(number) and abs(number) <= EXACT else number


def _integer(text: str) -> Any:
    try:
        return _plain(int(text))
    except ValueError:
        return text


_KNOWN = frozenset(
    (
        *("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FL", "FD", "IS", "LO", "LT", "PN", "SH", "SL", "SS"),
        *("ST", "SV", "TM", "UC", "UI", "UL", "UR", "US", "UT", "UV"),
    )
)
