"""Stored JSON documents: one canonical spelling, strict reading, a digest inside where nothing else binds it.

Canonical: UTF-8, sorted keys, no spaces, no NaN; a key that begins with ``$`` is written with one more. A
*sealed* document carries the SHA-256 of itself without that key, and must be spelt canonically, so that every
bit of the file is bound.
"""

import hashlib
import json
import math
from typing import Any

from tilevault.codecs.errors import ManifestCorrupt

__all__ = ["MAX_DOCUMENT", "canonical", "parse", "seal", "sha256_hex", "too_large", "unseal"]

MAX_DOCUMENT = 1 << 28
"""Bytes of a document at most."""
MAX_CONTAINERS = 1 << 22
MAX_VALUES = 1 << 24
"""Lists and objects, and values in them: what is small as text can be large in memory."""
MAX_DEPTH = 32
_SEAL = "sha256"
_FLOAT = "$float"


def sha256_hex(data: bytes | memoryview) -> str:
    """SHA-256 of ``data`` as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def canonical(document: Any) -> bytes:
    """The one spelling of a JSON value; floats that JSON has no word for become {"$float": "nan"}."""
    try:
        text = _spelt(document)
        ours = '"$' in text
    except ValueError:
        ours = True
    if ours:
        # Rare, so that nearly all documents are spelt without a copy of them.
        text = _spelt(_finite(document))
    return text.encode("utf-8", "surrogatepass")


def _spelt(document: Any) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def parse(data: bytes, what: str, limit: int = MAX_DOCUMENT) -> Any:
    """Read a JSON document: bounded size and depth, no duplicate keys, no NaN. Raises `ManifestCorrupt`."""
    if excess := too_large(data, limit):
        raise ManifestCorrupt(f"{what}: {excess}", object=what)
    try:
        document = _DECODER.decode(data.decode("utf-8", "surrogatepass"))
        if _containers(data) > MAX_DEPTH:
            _check_depth(document)
    except (ValueError, RecursionError) as error:
        raise ManifestCorrupt(f"{what}: not a sound JSON document: {error}", object=what) from error
    return document


def too_large(data: bytes, limit: int = MAX_DOCUMENT) -> str | None:
    """What is too much in a document, by counting bytes before anything is made of them; None if nothing."""
    if len(data) > limit:
        return f"{len(data)} bytes, more than the {limit} allowed"
    if _containers(data) > MAX_CONTAINERS or data.count(b",") > MAX_VALUES:
        return f"more than {MAX_CONTAINERS} lists and objects or {MAX_VALUES} values"
    return None


def _containers(data: bytes) -> int:
    return data.count(b"[") + data.count(b"{")


def seal(document: dict[str, Any]) -> bytes:
    """Canonical bytes of ``document`` with its own digest under "sha256"."""
    return canonical({**document, _SEAL: sha256_hex(canonical(document))})


def unseal(data: bytes, what: str) -> dict[str, Any]:
    """Read a sealed document, without its seal. Raises `ManifestCorrupt` if one bit differs."""
    document = parse(data, what)
    if not isinstance(document, dict) or _SEAL not in document:
        raise ManifestCorrupt(f"{what}: has no seal", object=what)
    document.pop(_SEAL)
    if seal(document) != data:
        raise ManifestCorrupt(f"{what}: does not match its seal", object=what)
    return document


def _unique(pairs: list[tuple[str, Any]]) -> Any:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key occurs twice")
    if len(document) == 1 and _FLOAT in document:
        if document[_FLOAT] not in ("nan", "inf", "-inf"):
            raise ValueError("not a float that needs a word")
        return float(document[_FLOAT])
    for key in document:
        if key[:1] == "$":
            return {_unescaped(key): value for key, value in pairs}
    return document


def _unescaped(key: str) -> str:
    if key.startswith("$") and not key.startswith("$$"):
        raise ValueError(f"no meaning is known of the key {key[:100]!r}")
    return key.removeprefix("$")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)


def _check_depth(document: Any) -> None:
    level, depth = [document], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
        level = [child for node in level if isinstance(node, dict | list) for child in _children(node)]


def _children(node: Any) -> Any:
    return node.values() if isinstance(node, dict) else node


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: repr(value)}
    if isinstance(value, dict):
        return {_escaped(key): _finite(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(child) for child in value]
    return value


def _escaped(key: str) -> str:
    """Keys with one ``$`` are this module's own words."""
    return f"${key}" if key.startswith("$") else key
