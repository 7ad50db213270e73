"""The learned mode's native coder: what it decodes is what the specification says, on every path."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import learned_models as models
import learned_streams as streams
import learned_twin as twin
from tilevault.codecs import _native

MODELS = ["generated", *map(str, models.trained())]


@cache
def blob_of(name):
    return models.model() if name == "generated" else Path(name).read_bytes()


@cache
def native(name, path=""):
    return _native.Model(blob_of(name), path)


@cache
def plain(name):
    return twin.Model.read(blob_of(name))


def encode(samples, least, most, code, slope=4.0, restore=True, model="generated"):
    """Bytes, and the samples that the encoder says decoders will have, without and with restoration."""
    without, with_ = np.zeros_like(samples), np.zeros_like(samples)
    data = _native.encode_lossy(native(model), samples, least, most, code, slope, restore, without, with_)
    return data, without, with_


def decode(data, shape, least, most, model="generated", path=""):
    without, with_ = np.full(shape, least - 1, np.int32), np.full(shape, least - 1, np.int32)
    array = np.frombuffer(data, np.uint8)
    _native.decode_lossy(native(model, path), array, least, most, without, with_)
    return without, with_


def same(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def check(samples, least, most, code, model="generated", **choices):
    """Encoder, native decoder and twin agree; the bytes and the samples without and with restoration."""
    data, *promised = encode(samples, least, most, code, model=model, **choices)
    found = decode(data, samples.shape, least, most, model)
    same(found, promised)
    same(found, twin.decode(plain(model), data, samples.shape, least, most))
    only = np.zeros(samples.shape, np.int32)
    _native.decode_lossy(native(model), np.frombuffer(data, np.uint8), least, most, only, None)
    np.testing.assert_array_equal(only, found[0])
    return data, *found


def off_by(samples, decoded):
    return float(np.sqrt(np.mean((samples - decoded.astype(float)) ** 2)))


# --- The specification's twin ----------------------------------------------------------------------------

SHAPES = [(1, 1, 1), (1, 1, 2), (1, 1, 67), (1, 50, 1), (1, 2, 3), (3, 33, 65), (4, 31, 18), (1, 96, 80)]
BOUNDS = [(0, 255), (-1024, 3071), (0, 65535), (-32768, 32767), (-(2**24), 100 - 2**24)]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("texture", models.TEXTURES)
def test_native_is_the_twin(texture, shape, model):
    for i, (least, most) in enumerate(BOUNDS):
        samples = models.TEXTURES[texture](f"{texture}{i}", shape, least, most)
        code = (0, 300, 650, 900, 1407)[(i + len(texture)) % 5]
        check(samples, least, most, code, model=model, slope=(0.3, 3.0, 50.0)[i % 3])


@pytest.mark.parametrize("model", MODELS)
def test_finer_steps_lose_less(model):
    samples = models.photo("steps", (1, 70, 90), 0, 4095)
    errors, sizes = [], []
    for code in (1100, 900, 700, 500, 300):
        data, without, _ = check(samples, 0, 4095, code, model=model)
        errors.append(off_by(samples, without))
        sizes.append(len(data))
    assert errors == sorted(errors, reverse=True)
    assert sizes == sorted(sizes)
    assert errors[-1] < 3 < 200 < errors[0]


@settings(max_examples=60)
@given(
    texture=st.sampled_from(sorted(models.TEXTURES)),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(1, 40)),
    least=st.integers(-(2**24), 2**24 - 2**16),
    span=st.integers(0, 2**16 - 1),
    code=st.integers(0, 1407),
    slope=st.floats(0.01, 1000),
    seed=st.integers(0, 999),
)
def test_any_tile(texture, shape, least, span, code, slope, seed):
    samples = models.TEXTURES[texture](f"any{seed}", shape, least, least + span)
    check(samples, least, least + span, code, slope=slope)


@pytest.mark.parametrize("planes", [3, 4])
def test_planes_are_predicted_from_planes_without_restoration(planes):
    samples = models.photo("planes", (planes, 60, 44), 0, 255)
    data, *_ = check(samples, 0, 255, 500)
    head = twin.Header.read(data, planes)
    assert any(head.reference)


@pytest.mark.parametrize("path", _native.network_paths())
@pytest.mark.parametrize("model", MODELS)
def test_every_instruction_set_decodes_alike(path, model):
    for texture in models.TEXTURES:
        samples = models.TEXTURES[texture]("paths", (3, 75, 66), 0, 65535)
        data, *promised = encode(samples, 0, 65535, 600, model=model)
        same(decode(data, samples.shape, 0, 65535, model, path), promised)
    samples = models.photo("paths", (1, 75, 66), 0, 65535)
    data, *_ = encode(samples, 0, 65535, 600, model=model)
    data = streams.with_strengths(plain(model), data, (75, 66), [1, 3, 2, 0])
    expected = twin.decode(plain(model), data, (1, 75, 66), 0, 65535)
    same(decode(data, (1, 75, 66), 0, 65535, model, path), expected)
    assert (expected[0] != expected[1]).mean() > 0.5


def test_paths_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="no such path"):
        _native.Model(models.model(), "abacus")


# --- Restoration -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("shape", [(1, 2), (3, 130), (64, 64), (65, 129), (97, 70)], ids=str)
def test_strengths_of_blocks(shape, model):
    samples = models.photo("strengths", (1, *shape), 0, 255)
    data, *_ = encode(samples, 0, 255, 800, model=model)
    blocks = -(-shape[0] // 64) * -(-shape[1] // 64)
    for first in range(4):
        strengths = [(first + i) % 4 for i in range(blocks)]
        stream = streams.with_strengths(plain(model), data, shape, strengths)
        without, with_ = decode(stream, samples.shape, 0, 255, model)
        same((without, with_), twin.decode(plain(model), stream, samples.shape, 0, 255))
        for i, strength in enumerate(strengths):
            y, x = divmod(i, -(-shape[1] // 64))
            block = np.s_[0, 64 * y : 64 * y + 64, 64 * x : 64 * x + 64]
            if strength == 0:
                np.testing.assert_array_equal(without[block], with_[block])


def test_restoration_is_used_where_it_helps_and_never_harms():
    samples = models.noisy("restored", (1, 130, 140), 0, 4095)
    for code, slope in ((600, 4.0), (660, 900.0), (760, 4.0)):
        data, without, with_ = check(samples, 0, 4095, code, slope=slope)
        changed = without != with_
        assert changed[0, :64, :64].mean() > 0.5
        assert not changed[0, :64, 64:128].any()
        assert off_by(samples, with_) < off_by(samples, without)
        assert twin.Header.read(data, 1).restored
        data, without, with_ = encode(samples, 0, 4095, code, slope=slope, restore=False)
        np.testing.assert_array_equal(without, with_)
        assert not twin.Header.read(data, 1).restored


# --- Streams that no encoder writes ------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "kind", [{}, {"active": 0.2}, {"escapes": 0.9}, {"active": 1, "narrow": 0.95}], ids=str
)
@pytest.mark.parametrize("code", [0, 640, 1407])
def test_any_symbols(code, kind, model):
    least, most = -3000, 90000
    for i, (shape, planes) in enumerate(
        [
            ((1, 70, 67), [(-3000, 93000)]),
            ((3, 20, 35), [(0, 4095), (-4095, 8190, 1, -128), (-(2**24), 2**17 - 1, 1, 127)]),
            ((3, 5, 9), [(2**24, 0), (3, 1, 1, 64), (-7, 0, 2, -1)]),
            ((2, 1, 1), [(0, 1), (5, 9, 0)]),
        ]
    ):
        head = streams.header(code, planes, many=(i + code) % 2 == 1, bits=(12, 17, 0, 5)[i])
        data, expected = streams.invented(plain(model), f"{code}{kind}{i}", shape, least, most, head, **kind)
        same(twin.decode(plain(model), data, shape, least, most), expected)
        same(decode(data, shape, least, most, model), expected)


def test_networks_depend_on_nothing_that_was_decoded_before():
    """What lies beyond active blocks holds numbers of earlier tiles; none of them may be seen."""
    samples = models.sparse("sparse", (1, 160, 170), 0, 4095)
    data, *promised = encode(samples, 0, 4095, 500)
    for name in models.TEXTURES:
        other = models.TEXTURES[name]("before", (1, 160, 170), 0, 4095)
        decode(encode(other, 0, 4095, 200)[0], other.shape, 0, 4095)
        same(decode(data, samples.shape, 0, 4095), promised)


# --- Golden vectors --------------------------------------------------------------------------------------

DIGESTS = json.loads((streams.VECTORS / "digests.json").read_text())


def digest(data):
    return hashlib.sha256(data).hexdigest()


def test_the_generated_model_is_the_same_everywhere():
    assert digest(models.model()) == DIGESTS["model"]["bytes"]


@pytest.mark.parametrize("path", _native.network_paths())
@pytest.mark.parametrize("name", streams.GOLDEN)
def test_golden_vectors_decode_for_ever(name, path):
    """Old bytes decode to the same pixels; encoders may change bytes, so those are not made again."""
    data = (streams.VECTORS / f"{name}.tile").read_bytes()
    samples = decode(data, streams.GOLDEN[name], *streams.BOUNDS, path=path)
    found = [digest(data), *(digest(part.astype("<i4").tobytes()) for part in samples)]
    assert found == [DIGESTS[name][k] for k in ("bytes", "plain", "restored")]
    assert streams.digests(data, streams.GOLDEN[name]) == DIGESTS[name]
