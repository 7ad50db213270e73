"""The chain from commit to objects: what is written is read back, and nothing else is taken for it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilevault.archive.documents import canonical, parse, seal, sha256_hex
from tilevault.archive.manifest import (
    CommitRecord,
    Manifest,
    ManifestObject,
    generation_id,
    image_id,
    source_set,
)
from tilevault.codecs.errors import ManifestCorrupt

DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)
IDS = st.text("0123456789abcdef", min_size=32, max_size=32)
KEYS = st.lists(
    st.text("abcxyz019", min_size=1, max_size=6), min_size=1, max_size=4
).map("/".join)  # fmt: skip
OBJECTS = st.builds(ManifestObject, KEYS, st.integers(0, 2**60), DIGESTS, st.none() | DIGESTS)
JSON = st.dictionaries(st.text(max_size=5), st.none() | st.integers(-9, 9) | st.text(max_size=5), max_size=3)


def _commit(data: bytes, **fields: object) -> CommitRecord:
    values = {"image": "a" * 32, "n": 0, "generation": "b" * 32, "previous": None, "sources": "c" * 64}
    return CommitRecord(**{**values, "manifest": sha256_hex(data), **fields})


@given(st.lists(OBJECTS, unique_by=lambda entry: entry.key, max_size=6), st.randoms())
def test_a_manifest_comes_back_and_order_does_not_matter(objects, random):
    manifest = Manifest("a" * 32, "b" * 32, tuple(objects))
    data = manifest.to_bytes()
    random.shuffle(objects)
    assert Manifest("a" * 32, "b" * 32, tuple(objects)).to_bytes() == data
    read = Manifest.from_bytes(data, _commit(data))
    assert read.objects == tuple(sorted(objects, key=lambda entry: entry.key))
    assert read.by_key == manifest.by_key


def test_a_manifest_of_another_image_or_generation_is_refused():
    data = Manifest("a" * 32, "b" * 32, ()).to_bytes()
    for other in ({"image": "0" * 32}, {"generation": "0" * 32}, {"manifest": "0" * 64}):
        with pytest.raises(ManifestCorrupt):
            Manifest.from_bytes(data, _commit(data, **other))


def test_a_key_that_is_listed_twice_is_refused():
    entry = {"key": "a", "size": 0, "sha256": "0" * 64}
    document = json.loads(Manifest("a" * 32, "b" * 32, ()).to_bytes())
    data = canonical({**document, "objects": [entry, entry]})
    with pytest.raises(ManifestCorrupt, match="twice"):
        Manifest.from_bytes(data, _commit(data))


@given(
    IDS,
    st.integers(0, 99),
    st.none() | st.tuples(IDS, DIGESTS),
    st.none() | DIGESTS,
    st.none() | DIGESTS,
    JSON,
    JSON,
)
def test_a_commit_record_comes_back(image, n, made, previous, sources, summary, provenance):
    generation, manifest = made or (None, None)
    record = CommitRecord(image, n, generation, manifest, previous, sources, summary, provenance)
    read = CommitRecord.from_bytes(record.to_bytes(), image, n)
    assert read == record
    assert read.sha256 == sha256_hex(record.to_bytes())
    for other in ((image, n + 1), (image[::-1] + "x", n)):
        with pytest.raises(ManifestCorrupt):
            CommitRecord.from_bytes(record.to_bytes(), *other)


@pytest.mark.parametrize(
    "change",
    [
        {"generation": None},
        {"manifest": None},
        {"generation": "../" + "b" * 29},
        {"manifest": "0" * 63},
        {"previous": 5},
        {"summary": []},
        {"provenance": None},
        {"format": 2},
        {"n": True},
        {"more": 1},
    ],
)
def test_a_commit_record_with_a_field_that_cannot_be_is_refused(change):
    document = parse(_commit(b"", n=1).to_bytes(), "commit")
    del document["sha256"]
    CommitRecord.from_bytes(seal(document), "a" * 32, 1)
    with pytest.raises(ManifestCorrupt):
        CommitRecord.from_bytes(seal({**document, **change}), "a" * 32, 1)


def test_identities_are_of_the_content_alone():
    assert image_id("dicom", "k") == image_id("dicom", "k", "exact")
    assert len({image_id("dicom", "k"), image_id("geotiff", "k"), image_id("dicom", "k", "psnr45")}) == 3
    assert source_set(["b", "a", "b"]) == source_set(["a", "b"]) != source_set(["a"])
    assert generation_id({"a": 1, "b": 2}) == generation_id({"b": 2, "a": 1}) != generation_id({"a": 1})
