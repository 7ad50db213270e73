"""What is in an image, digest by digest: identity, manifest, commit record, receipt of a shard.

The chain: a commit record (sealed, chained to the one before) names a generation and the SHA-256 of its
manifest; the manifest lists every object of the generation with size and SHA-256; the tables in ``tiles/``
bind each resolution segment of each tile by BLAKE3. An image exists if and only if its newest commit record
exists and verifies.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from tilevault.archive.blobs import check_key
from tilevault.archive.documents import canonical, parse, seal, sha256_hex, unseal
from tilevault.codecs.errors import ManifestCorrupt, UnsafeName

__all__ = [
    "FORMAT_VERSION",
    "MAX_COMMIT",
    "MAX_MANIFEST",
    "CommitRecord",
    "Manifest",
    "ManifestObject",
    "StoredManifest",
    "generation_id",
    "image_id",
    "source_set",
]

FORMAT_VERSION = 1
"""Version of the layout on disk; a reader refuses another."""
ENCODER_VERSION = 1
"""Changes when the same input would be stored as other bytes; part of a generation's name."""
ID_DIGITS = 32
SHORTEST_ENTRY = 100
"""Bytes of a manifest's entry at least."""
_USUAL = re.compile(
    rb'\{(?:"inputs":"([0-9a-f]{64})",)?"key":"([a-z0-9._/-]+)","sha256":"([0-9a-f]{64})","size":(0|[1-9][0-9]{0,17})\}'
)
SMALL = 16 << 10
"""Bytes of a commit record that is remembered: an archive that is opened for each read has the same ones."""
FEW = 64
"""Entries that are looked for one by one before the whole manifest is read into values."""
MAX_MANIFEST = 64 << 20
"""Bytes of a manifest at most: some 300,000 objects, where 2**36 samples take some 20,000."""
MAX_COMMIT = 16 << 20
"""Bytes of a commit record at most."""


def image_id(kind: str, key: str, fidelity: str = "exact") -> str:
    """The identity of an image: first 32 hexadecimal digits of SHA-256 over {kind, key, fidelity}."""
    return sha256_hex(canonical({"kind": kind, "key": key, "fidelity": fidelity}))[:ID_DIGITS]


def source_set(digests: Iterable[str]) -> str:
    """Digest of a set of files, whatever their order and names."""
    return sha256_hex(canonical(sorted(set(digests))))


def generation_id(inputs: Mapping[str, Any]) -> str:
    """Name of a generation: digest of its sources, codec configuration, format and encoder version."""
    return sha256_hex(canonical({**inputs, "format": FORMAT_VERSION, "encoder": ENCODER_VERSION}))[:ID_DIGITS]


@dataclass(frozen=True)
class ManifestObject:
    """One stored object of a generation."""

    key: str
    """Relative to the generation."""
    size: int
    sha256: str
    inputs: str | None = None
    """Shards: digest of what went in (sources, window, codec); the same inputs give the same shard."""

    def to_json(self) -> dict[str, Any]:
        """JSON values, without what is absent."""
        document = {"key": self.key, "size": self.size, "sha256": self.sha256}
        return document if self.inputs is None else {**document, "inputs": self.inputs}

    @classmethod
    def from_json(cls, document: Any) -> "ManifestObject":
        """Checks every field. Raises `ManifestCorrupt`."""
        try:
            made = cls(
                check_key(document["key"]), document["size"], document["sha256"], document.get("inputs")
            )
        except (KeyError, TypeError, AttributeError, UnsafeName) as error:
            raise ManifestCorrupt(f"manifest: not an object entry: {str(document)[:200]}") from error
        digests = (made.sha256, made.sha256 if made.inputs is None else made.inputs)
        if type(made.size) is not int or made.size < 0 or not all(_is_digest(d) for d in digests):
            raise ManifestCorrupt(f"manifest: {made.key}: size or digest is not one")
        return made


@dataclass(frozen=True)
class Manifest:
    """Every object of one generation, sorted by key."""

    image: str
    generation: str
    objects: tuple[ManifestObject, ...]

    @cached_property
    def by_key(self) -> dict[str, ManifestObject]:
        """The objects by key."""
        return {entry.key: entry for entry in self.objects}

    def to_bytes(self) -> bytes:
        """Canonical bytes; the same objects give the same bytes."""
        return canonical(
            {
                "format": FORMAT_VERSION,
                "image": self.image,
                "generation": self.generation,
                "objects": [entry.to_json() for entry in sorted(self.objects, key=lambda o: o.key)],
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, commit: "CommitRecord") -> "Manifest":
        """Read the manifest that ``commit`` names. Raises `ManifestCorrupt` unless all agrees."""
        _check_manifest(data, commit)
        what = f"manifest of {commit.image}"
        document = parse(data, what)
        try:
            named = document["image"], document["generation"], document["format"]
            objects = tuple(ManifestObject.from_json(entry) for entry in document["objects"])
        except (KeyError, TypeError) as error:
            raise ManifestCorrupt(f"{what}: a field is missing: {error}", image=commit.image) from error
        made = cls(commit.image, str(commit.generation), objects)
        if named != (commit.image, commit.generation, FORMAT_VERSION) or len(made.by_key) != len(objects):
            raise ManifestCorrupt(f"{what}: is of another image or lists a key twice", image=commit.image)
        return made


class StoredManifest:
    """The bytes of a manifest, in which single entries are found without making values of all of them.

    A read needs about ten of the thousands of entries that a large image has.
    """

    def __init__(self, data: bytes, commit: "CommitRecord") -> None:
        """Raises `ManifestCorrupt` unless ``data`` is the manifest that ``commit`` names."""
        _check_manifest(data, commit)
        self._data, self._commit = data, commit
        self._found: dict[str, ManifestObject | None] = {}

    @property
    def most(self) -> int:
        """No more objects than this are listed."""
        return len(self._data) // SHORTEST_ENTRY

    @cached_property
    def whole(self) -> Manifest:
        """All of it. Raises `ManifestCorrupt`."""
        return Manifest.from_bytes(self._data, self._commit)

    def entry(self, key: str) -> ManifestObject | None:
        """The entry of an object; None where there is none. Raises `ManifestCorrupt`."""
        if key in self._found:
            return self._found[key]
        if "whole" in self.__dict__ or len(self._found) >= FEW or not self._is_canonical:
            return self.whole.by_key.get(key)
        found = self._found[key] = self._find(key)
        return found

    @property
    def _is_canonical(self) -> bool:
        """Whether it begins as a canonical one of this image does; `whole` says what else is wrong."""
        named = {"generation": self._commit.generation, "image": self._commit.image}
        head = canonical({"format": FORMAT_VERSION, **named})
        return self._data.startswith(head[:-1] + b',"objects":[')

    def _find(self, key: str) -> ManifestObject | None:
        # Keys and digests have no quotation marks and no braces. Where somebody wrote other texts to deceive,
        # an entry that is found is his as well, and is checked like any other.
        member = b'"key":"' + check_key(key).encode() + b'"'
        at = self._data.find(member)
        if at < 0:
            return None
        start, stop = self._data.rfind(b"{", 0, at), self._data.find(b"}", at) + 1
        entry = _entry(self._data[start:stop], f"manifest of {self._commit.image}")
        if entry.key != key or self._data.find(member, stop) >= 0:
            raise ManifestCorrupt(f"manifest of {self._commit.image}: lists {key} twice")
        return entry


def _entry(data: bytes, what: str) -> ManifestObject:
    """One entry from its JSON; of one that is spelt as usual the pattern says all there is to check."""
    usual = _USUAL.fullmatch(data)
    if usual is None:
        return ManifestObject.from_json(parse(data, what))
    inputs, key, digest, size = (None if part is None else part.decode() for part in usual.groups())
    return ManifestObject(check_key(str(key)), int(size or 0), str(digest), inputs)


def _check_manifest(data: bytes, commit: "CommitRecord") -> None:
    if sha256_hex(data) != commit.manifest:
        what = f"manifest of {commit.image}: does not match the commit record"
        raise ManifestCorrupt(what, image=commit.image)


@dataclass(frozen=True)
class CommitRecord:
    """The record that makes a generation the image, or (generation None) removes the image."""

    image: str
    n: int
    generation: str | None
    manifest: str | None
    """SHA-256 of the manifest's bytes."""
    previous: str | None
    """SHA-256 of the bytes of commit n - 1."""
    sources: str | None
    """Digest of the set of source files (`source_set`)."""
    summary: Mapping[str, Any] = field(default_factory=dict)
    """What a listing shows and searches."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Versions, options and time; the only part that two runs of the same work may spell differently."""

    @property
    def key(self) -> str:
        """Where the record lies in the archive."""
        return f"commits/{self.image}/{self.n}.json"

    @cached_property
    def sha256(self) -> str:
        """Digest of the record's bytes: what a receipt and the next commit hold."""
        return sha256_hex(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Sealed canonical bytes."""
        return seal(
            {
                "format": FORMAT_VERSION,
                "image": self.image,
                "n": self.n,
                "generation": self.generation,
                "manifest": self.manifest,
                "previous": self.previous,
                "sources": self.sources,
                "summary": dict(self.summary),
                "provenance": dict(self.provenance),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, image: str, n: int) -> "CommitRecord":
        """Read commit ``n`` of ``image``; small ones are remembered by their bytes.

        Raises `ManifestCorrupt` if it is not exactly that.
        """
        return _remembered(data, image, n) if len(data) <= SMALL else cls._parsed(data, image, n)

    @classmethod
    def _parsed(cls, data: bytes, image: str, n: int) -> "CommitRecord":
        what = f"commits/{image}/{n}.json"
        document = unseal(data, what)
        if document.pop("format", None) != FORMAT_VERSION:
            raise ManifestCorrupt(f"{what}: written by another version of the format", image=image)
        try:
            made = cls(**document)
        except TypeError as error:
            raise ManifestCorrupt(f"{what}: {error}", image=image) from error
        sound = (
            (made.image, made.n, type(made.n)) == (image, n, int)
            and (made.generation is None) == (made.manifest is None)
            and (made.generation is None or _is_hex(made.generation, ID_DIGITS))
            and all(d is None or _is_digest(d) for d in (made.manifest, made.previous, made.sources))
            and isinstance(document.get("summary"), dict)
            and isinstance(document.get("provenance"), dict)
        )
        if not sound:
            raise ManifestCorrupt(f"{what}: a field is not what it should be", image=image)
        return made


@lru_cache(256)
def _remembered(data: bytes, image: str, n: int) -> CommitRecord:
    return CommitRecord._parsed(data, image, n)


def _is_hex(text: Any, digits: int) -> bool:
    return isinstance(text, str) and len(text) == digits and set(text) <= set("0123456789abcdef")


def _is_digest(text: Any) -> bool:
    return _is_hex(text, 64)
