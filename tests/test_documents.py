"""Stored JSON: one spelling, every bit bound, hostile documents refused."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilevault.archive.documents import MAX_DEPTH, canonical, parse, seal, unseal
from tilevault.codecs.errors import ManifestCorrupt

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text() | st.sampled_from(["$float", "$", "$$float"]), inner, max_size=4)
    ),
    max_leaves=20,
)


def _same(a, b):
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b


@given(values)
def test_a_document_comes_back_and_is_plain_json(value):
    assert _same(parse(canonical(value), "x"), value)
    json.loads(canonical(value), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@given(st.dictionaries(st.text().filter(lambda k: k != "sha256"), values, max_size=4))
def test_a_seal_opens(document):
    assert _same(unseal(seal(document), "x"), document)


def test_every_flipped_bit_of_a_sealed_document_is_noticed():
    data = seal({"image": "abc", "n": 3, "list": [1, 2.5, None, "é"], "f": float("nan")})
    for bit in range(8 * len(data)):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ManifestCorrupt):
            unseal(bytes(broken), "x")


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1,"a":2}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b"[" * 100_000,
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
        b"\xff\xfe",
        b"",
        b'{"$float":"1e5"}',
        b'{"$other":1}',
        b"1" * 5000,
    ],
)
def test_hostile_json_is_refused(data):
    with pytest.raises(ManifestCorrupt):
        parse(data, "x")


def test_depth_at_the_limit_is_read():
    assert parse(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, "x") is not None


def test_a_document_larger_than_the_limit_is_refused():
    with pytest.raises(ManifestCorrupt, match="more than"):
        parse(b'"aaaaaaaa"', "x", limit=9)
