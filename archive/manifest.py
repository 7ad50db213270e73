"""What is in an image, digest by digest: identity, manifest, commit record, receipt of a shard.

The chain: a commit record (sealed, chained to the one before) names a generation and the SHA-256 of its
manifest; the manifest lists every object of the generation with size and SHA-256; the tables in ``tiles/``
bind each resolution segment of each tile by BLAKE3. An image exists if and only if its newest commit record
exists and verifies.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
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
    "generation_id",
    "image_id",
    "source_set",
]

FORMAT_VERSION = 1
"""Version of the layout on disk; a reader refuses another."""
ENCODER_VERSION = 1
"""Changes when the same input would be stored as other bytes; part of a generation's name."""
ID_DIGITS = 32
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
        what = f"manifest of {commit.image}"
        if sha256_hex(data) != commit.manifest:
            raise ManifestCorrupt(f"{what}: does not match the commit record", image=commit.image)
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
        """Read commit ``n`` of ``image``. Raises `ManifestCorrupt` if it is not exactly that."""
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


def _is_hex(text: Any, digits: int) -> bool:
    return isinstance(text, str) and len(text) == digits and set(text) <= set("0123456789abcdef")


def _is_digest(text: Any) -> bool:
    return _is_hex(text, 64)
