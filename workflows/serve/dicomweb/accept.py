"""What a client accepts (PS3.18 8.7, RFC 9110 12.5.1): media ranges with quality and DICOM's own parameters.

Quotes may stand or be missing, a parameter may come more than once (OHIF names a transfer syntax and ``*``),
and the query parameter ``accept`` comes before the header. Pure.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tilevault.codecs.errors import InvalidRequest

__all__ = ["MediaRange", "accepted", "media_type"]

LONGEST = 4096
MOST = 64


@dataclass(frozen=True)
class MediaRange:
    """One alternative of an Accept header."""

    type: str
    """``type/subtype``, lower case; of a multipart range that of its parts."""
    multipart: bool = False
    transfer_syntaxes: tuple[str, ...] = ()
    """UIDs or ``*``, in the order of preference; empty where none is named."""
    quality: float = 1.0

    def matches(self, media: str) -> bool:
        """Whether the range includes a media type."""
        own, other = self.type.split("/"), media.split("/")
        return all(a in ("*", b) for a, b in zip(own, other, strict=True))


def accepted(values: Sequence[str]) -> list[MediaRange]:
    """The ranges of Accept values, best first; ``*/*`` where there is none. Raises `InvalidRequest`."""
    text = ",".join(values)
    if len(text) > LONGEST:
        raise InvalidRequest(f"an Accept of {len(text)} characters")
    ranges = [_range(part) for part in _split(text, ",") if part.strip()]
    if len(ranges) > MOST:
        raise InvalidRequest(f"an Accept of {len(ranges)} alternatives")
    if not ranges:
        return [MediaRange("*/*")]
    return sorted((one for one in ranges if one.quality > 0), key=lambda one: -one.quality)


def media_type(text: str) -> tuple[str, dict[str, list[str]]]:
    """``type/subtype`` in lower case, and the parameters. Raises `InvalidRequest`."""
    head, *rest = _split(text, ";")
    kind = head.strip().lower()
    if kind.count("/") != 1 or not all(kind.split("/")):
        raise InvalidRequest(f"not a media type: {text[:100]!r}")
    parameters: dict[str, list[str]] = {}
    for part in rest:
        name, sign, value = part.partition("=")
        if sign:
            parameters.setdefault(name.strip().lower(), []).append(_unquoted(value.strip()))
    return kind, parameters


def _range(text: str) -> MediaRange:
    kind, parameters = media_type(text)
    inner = parameters.get("type", [])
    multipart = kind == "multipart/related"
    if multipart:
        # A client may leave out what the parts shall be, or write the type of its choice without quotes.
        kind = inner[0].lower() if inner else "*/*"
        if kind.count("/") != 1:
            raise InvalidRequest(f"not a media type: {kind[:100]!r}")
    try:
        quality = min(1.0, max(0.0, float(parameters.get("q", ["1"])[0])))
    except ValueError:
        raise InvalidRequest(f"not a quality: {parameters['q'][0][:20]!r}") from None
    return MediaRange(kind, multipart, tuple(parameters.get("transfer-syntax", ())), quality)


def _split(text: str, separator: str) -> Iterator[str]:
    """Parts of a header value; what stands in quotes is not looked into."""
    part, quoted, escaped = "", False, False
    for letter in text:
        if letter == separator and not quoted:
            yield part
            part = ""
            continue
        part += letter
        if escaped:
            escaped = False
        elif letter == "\\" and quoted:
            escaped = True
        elif letter == '"':
            quoted = not quoted
    yield part


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return text[1:-1].replace('\\"', '"')
    return text
