"""Damaged and hostile tiles and models of the learned mode: Corrupt, or samples in bounds, and at once."""

from __future__ import annotations

import struct
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import learned_models as models
import learned_streams as streams
import learned_twin as twin
import nn_twin
from tilevault.codecs import _native

MODEL = _native.Model(models.model())
TWIN = twin.Model.read(models.model())
LEAST, MOST = -100, 923


def encode(samples, code=700, slope=4.0, least=LEAST, most=MOST, model=MODEL):
    scratch = np.zeros_like(samples)
    return _native.encode_lossy(model, samples, least, most, code, slope, True, scratch, scratch.copy())


def outcome(data, shape, least=LEAST, most=MOST, model=MODEL):
    """Samples without and with restoration, all in bounds; None if refused. Anything else fails the test."""
    out = [np.full(shape, least - 1, np.int32) for _ in range(2)]
    try:
        _native.decode_lossy(model, np.frombuffer(bytes(data), np.uint8), least, most, *out)
    except _native.Corrupt:
        return None
    for samples in out:
        assert least <= samples.min()
        assert samples.max() <= most
    return out


def refused(data, shape, match=None):
    out = [np.zeros(shape, np.int32) for _ in range(2)]
    array = np.frombuffer(bytes(data), np.uint8)
    with pytest.raises(_native.Corrupt, match=match):
        _native.decode_lossy(MODEL, array, LEAST, MOST, *out)


STREAMS = [(t, shape) for t in models.TEXTURES for shape in ((1, 9, 14), (3, 8, 11), (1, 1, 1))]


@pytest.mark.parametrize(("texture", "shape"), STREAMS, ids=str)
def test_truncated_at_every_byte(texture, shape):
    data = encode(models.TEXTURES[texture]("cut", shape, LEAST, MOST))
    for n in range(len(data)):
        assert outcome(data[:n], shape) is None


@pytest.mark.parametrize(("texture", "shape"), STREAMS, ids=str)
def test_every_bit_flipped(texture, shape):
    data = bytearray(encode(models.TEXTURES[texture]("flipped", shape, LEAST, MOST)))
    began, accepted = time.monotonic(), 0
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        found = outcome(data, shape)
        if found is not None and bit % 29 == 0:
            for a, b in zip(found, twin.decode(TWIN, bytes(data), shape, LEAST, MOST), strict=True):
                np.testing.assert_array_equal(a, b)
        accepted += found is not None
        data[bit // 8] ^= 1 << bit % 8
    assert accepted < 8 * len(data)
    assert time.monotonic() - began < 0.05 * 8 * len(data) + 2


@pytest.mark.parametrize(("texture", "shape"), STREAMS, ids=str)
def test_appended_junk(texture, shape):
    data = encode(models.TEXTURES[texture]("junk", shape, LEAST, MOST))
    for junk in (b"\0", b"\0\0", b"\xff\xff", b"\0" * 9, data):
        refused(data + junk, shape)


@settings(max_examples=300)
@given(st.binary(max_size=120), st.integers(1, 3))
def test_any_bytes(data, planes):
    outcome(data, (planes, 5, 7))


@settings(max_examples=300)
@given(st.binary(max_size=200), st.integers(0, 1407), st.integers(0, 1))
def test_any_symbols_behind_a_sound_header(data, code, flags):
    head = streams.header(code, [(-100, 1000), (-3000, 9000, 1, 64)], flags == 1)
    states = struct.pack(f"<{1 + 3 * flags}I", *[2**16 + i for i in range(1 + 3 * flags)])
    outcome(head + states + data[len(data) % 2 :], (2, 12, 11))


# --- Headers -----------------------------------------------------------------------------------------------


def constant_tile(head, flags=0):
    return head + streams.written([], 4 if flags else 1)


SOUND = [(7, 0), (8, 0, 0), (-9, 0, 1, -128)]


def test_the_header_these_tests_start_from_is_sound():
    for flags in (0, 1):
        plain, restored = outcome(constant_tile(streams.header(1407, SOUND, flags == 1), flags), (3, 2, 2))
        np.testing.assert_array_equal(plain, restored)
        assert plain[:, 0, 0].tolist() == [7, 8, -9 + ((-128 * 8 + 32) >> 6)]


@pytest.mark.parametrize(
    ("head", "match"),
    [
        (streams.header(1408, SOUND), "step"),
        (streams.header(65535, SOUND), "step"),
        (streams.header(9, SOUND, bits=18), "range of the tile"),
        (streams.header(9, SOUND, bits=63), "range of the tile"),
        (streams.header(9, [(2**24 + 1, 0), *SOUND[1:]]), "range"),
        (streams.header(9, [(-(2**24) - 1, 0), *SOUND[1:]]), "range"),
        (streams.header(9, [(-(2**31), 0), *SOUND[1:]]), "range"),
        (streams.header(9, [(2**31 - 1, 1), *SOUND[1:]]), "range"),
        (streams.header(9, [(0, 2**17), *SOUND[1:]]), "range"),
        (streams.header(9, [(0, 2**32 - 1), *SOUND[1:]]), "range"),
        (streams.header(9, [(0, 2**32), *SOUND[1:]]), "out of range"),
        (streams.header(9, [(2**31, 0), *SOUND[1:]]), "out of range"),
        (streams.header(9, [SOUND[0], (0, 0, 2, 5), SOUND[2]]), "not before"),
        (streams.header(9, [SOUND[0], SOUND[1], (0, 0, 3, 5)]), "not before"),
        (streams.header(9, [SOUND[0], SOUND[1], (0, 0, 255, 5)]), "not before"),
        (b"\x09\0\0\x80\0" + streams.header(9, SOUND)[4:], "out of range"),
    ],
)
def test_absurd_headers(head, match):
    refused(constant_tile(head), (3, 2, 2), match)


def test_states_at_the_beginning():
    head = streams.header(9, SOUND)
    for state in (0, 2**16 - 1):
        refused(head + struct.pack("<I", state), (3, 2, 2), "state")
    for state in (2**16 + 1, 2**32 - 1):
        refused(head + struct.pack("<I", state), (3, 2, 2), "first state")
    refused(head, (3, 2, 2), "end before")
    refused(streams.header(9, SOUND, many=True) + struct.pack("<I", 2**16), (3, 2, 2), "end before")


def test_too_many_planes():
    data = constant_tile(streams.header(9, [(0, 0)] + [(0, 0, 0)] * 4095))
    assert outcome(data, (4096, 1, 1)) is not None
    with pytest.raises(ValueError, match="shape"):
        outcome(data, (4097, 1, 1))


def tile_with(symbols, size=255, restored=True):
    return streams.header(600, [(0, size)], restored=restored) + streams.written(symbols, 1)


def token(row, t):
    return [(int(TWIN.starts[row, t]), int(TWIN.starts[row, t + 1] - TWIN.starts[row, t]))]


def raw(value, bits):
    out = []
    while bits:
        part = min(bits, 12)
        bits -= part
        out += streams.raw_symbols(value >> bits & (1 << part) - 1, part)
    return out


def low_escape(n, value):
    scale = int(TWIN.low_scale[0])
    out = token(8 * scale + 4, twin.ESCAPE) + raw(n, 5)
    return out + raw(value, n) + raw(0, int(TWIN.raw_bits[scale])) if n <= 20 else out


REST = [(28672, 4096)]  # the one block of the coarsest level is not active
UNLIKELY = [(4096, 28672)]


def one_sample(coefficient, strength=0):
    """A tile of 1 x 1: LL, no active block on any level, a strength."""
    return coefficient + REST + 4 * UNLIKELY + raw(strength, 3)


def test_escapes_and_coefficients_are_bounded():
    raw_bits = int(TWIN.raw_bits[int(TWIN.low_scale[0])])
    most = 2**17 >> raw_bits
    assert outcome(tile_with(one_sample(low_escape(3, 0))), (1, 1, 1)) is not None
    for n in (21, 31):
        refused(tile_with(one_sample(low_escape(n, 0))), (1, 1, 1), "coefficient")
    for q in (most, -most):
        z = (2 * q if q >= 0 else -2 * q - 1) + 1
        n = z.bit_length() - 1
        assert outcome(tile_with(one_sample(low_escape(n, z - 2**n))), (1, 1, 1)) is not None
    for z in (2 * most + 3, 2 * most + 2, 2**21 - 1, 2**21 - 2):
        n = z.bit_length() - 1
        refused(tile_with(one_sample(low_escape(n, z - 2**n))), (1, 1, 1), "coefficient")


def test_strengths_are_bounded():
    sound = low_escape(3, 0)
    for strength in range(4):
        assert outcome(tile_with(one_sample(sound, strength)), (1, 1, 1)) is not None
        unflagged = tile_with(one_sample(sound, strength), restored=False)
        assert (outcome(unflagged, (1, 1, 1)) is None) == (strength > 0)
    for strength in (5, 6, 7):
        refused(tile_with(one_sample(sound, strength)), (1, 1, 1), "strength")
    refused(tile_with(one_sample(sound, 4) + raw(2, 2), restored=False), (1, 1, 1), "should not be")
    assert outcome(tile_with(one_sample(sound, 4) + raw(0, 2), restored=False), (1, 1, 1)) is not None
    refused(tile_with(one_sample(sound, 4)), (1, 1, 1))
    assert outcome(tile_with(one_sample(sound, 4) + raw(3, 2)), (1, 1, 1)) is not None


# --- What encoders refuse, and what they must not write ---------------------------------------------


def test_samples_that_leave_the_range_of_a_prediction_are_coded_without_one():
    """Twice the reference fits all samples but a few, whose residuals span more than a range may."""
    for sign in (1, -1):
        n = models.Numbers("far").within(0, 1, 64, 64)
        first, second = 32767 * n, 65535 * (n if sign > 0 else 1 - n)
        first[5, 5:7], second[5, 5:7] = (65535, 0), (0 if sign > 0 else 65535, 65535 if sign > 0 else 0)
        samples = np.stack([first, second]).astype(np.int32)
        scratch = [np.zeros_like(samples) for _ in range(2)]
        data = _native.encode_lossy(MODEL, samples, 0, 65535, 100, 4.0, True, *scratch)
        found = outcome(data, samples.shape, 0, 65535)
        assert found is not None
        for a, b in zip(found, scratch, strict=True):
            np.testing.assert_array_equal(a, b)


def test_predictions_of_large_samples_do_not_wrap():
    head = streams.header(9, [(2**24, 0), (-(2**24), 0, 1, 127), (0, 0, 1, 127), (0, 0, 2, -128)])
    found = outcome(constant_tile(head), (4, 1, 1), -(2**31) + 1, 2**31 - 1)
    expected = twin.decode(TWIN, constant_tile(head), (4, 1, 1), -(2**31) + 1, 2**31 - 1)
    np.testing.assert_array_equal(found[0], expected[0])
    head = streams.header(9, [(0, 0), (0, 0, 1, -128), (0, 0, 1, -128)])
    found = outcome(constant_tile(head), (3, 1, 1), -(2**31) + 1, -(2**31) + 9)
    assert found[0].ravel().tolist() == [-(2**31) + 9] * 3


@pytest.mark.parametrize(
    ("least", "most", "code", "slope"),
    [
        (0, 255, 1408, 1.0),
        (9, 8, 9, 1.0),
        (0, 255, 9, 0.0),
        (0, 255, 9, float("nan")),
        (1, 255, 9, 1.0),
        (0, 254, 9, 1.0),
    ],
)
def test_encoders_refuse(least, most, code, slope):
    with pytest.raises(ValueError, match="out of range"):
        encode(np.array([[[0, 255]]], np.int32), code, slope, least, most)


@pytest.mark.parametrize(
    "planes",
    [(0, 2**16), (-(2**24) - 1, 0), (2**24 - 5, 2**24 + 1), (2**31 - 9, 2**31 - 1), (-(2**31), 2**31 - 1)],
)
def test_encoders_refuse_samples(planes):
    samples = np.array(planes, np.int32).reshape(2, 1, 1)
    with pytest.raises(ValueError, match="sample is out of range"):
        encode(samples, 9, 1.0, -(2**31), 2**31 - 1)


def test_any_model_gets_coefficients_that_can_be_sent():
    """The smallest step that tables allow, and the largest contrast."""
    blob = bytearray(models.model())
    at = 8 + 2 * 4096 + 2 * 128
    blob[at : at + 32] = struct.pack("<16H", *[1024] * 16)
    model = _native.Model(bytes(blob))
    samples = models.extremes("hard", (1, 70, 70), 0, 65535)
    samples[0, :40, :40] = 65535
    assert outcome(encode(samples, 0, 100.0, 0, 65535, model), samples.shape, 0, 65535, model) is not None


# --- Work --------------------------------------------------------------------------------------------------


def seconds(data, shape):
    took = []
    for _ in range(5):
        began = time.process_time()
        assert outcome(data, shape) is not None
        took.append(time.process_time() - began)
    return min(took)


def test_no_stream_takes_much_longer_than_a_sound_one():
    shape = (1, 120, 130)
    sound = encode(models.noise("work", shape, LEAST, MOST), 300)
    budget = 6 * seconds(sound, shape) + 0.02
    head = streams.header(300, [(LEAST, MOST - LEAST)], bits=10)
    for i, kind in enumerate([{"escapes": 1.0}, {"narrow": 1.0, "escapes": 0.0}, {"escapes": 0.3}]):
        data, _ = streams.invented(TWIN, f"work{i}", shape, LEAST, MOST, head, active=1.0, **kind)
        assert seconds(data, shape) < budget


# --- Models ------------------------------------------------------------------------------------------------

TABLES = len(models.tables())


def not_a_model(blob, match=None):
    with pytest.raises(_native.Corrupt, match=match):
        _native.Model(bytes(blob))


def test_models_cut_at_every_length():
    blob = models.model()
    for n in [*range(0, TABLES, 53), *range(TABLES, len(blob))]:
        not_a_model(blob[:n])
    for junk in (b"\0", blob):
        not_a_model(blob + junk, "follow")


LOG, MANTISSA, GAIN, LOW, RAW, ROWS = 8, 8200, 8456, 8488, 8744, 8808


@pytest.mark.parametrize(
    ("at", "value", "match"),
    [
        (0, b"TVLN", "not a model"),
        (4, b"\2", "not a model"),
        (6, b"\1", "not a model"),
        (LOG, struct.pack("<h", -1), "logarithm"),
        (LOG, struct.pack("<h", 1), "logarithm of one"),
        (LOG + 2 * 4095, struct.pack("<h", 4097), "logarithm"),
        (MANTISSA, struct.pack("<H", 511), "step"),
        (MANTISSA + 254, struct.pack("<H", 1025), "step"),
        (GAIN, struct.pack("<H", 1023), "gain"),
        (GAIN + 30, b"\0\0", "gain"),
        (LOW + 255, b"\x40", "scale"),
        (RAW, b"\x0d", "raw bits"),
        (RAW + 63, b"\xff", "raw bits"),
        (ROWS, b"\xff\xff", "too much"),
        (ROWS + 30, b"\0\0", "to one"),
        (ROWS + 64 * 512 - 2, b"\0\0", "to one"),
        (TABLES, struct.pack("<I", 2**32 - 1), "ends before"),
        (TABLES, struct.pack("<I", 0), "ends before"),
    ],
)
def test_absurd_tables(at, value, match):
    blob = bytearray(models.model())
    blob[at : at + len(value)] = value
    not_a_model(blob, match)


def test_a_row_needs_its_escape():
    blob = bytearray(models.model())
    row = np.frombuffer(blob, "<u2", 32, ROWS).copy()
    row[15] += row[31]
    row[31] = 0
    blob[ROWS : ROWS + 64] = row.tobytes()
    not_a_model(blob, "to one")


def plain_network(inputs, outputs, size=1, factor=1, out_factor=1):
    """Each output is a convolution of all inputs together."""
    net = nn_twin.Builder()
    tensors = [net.input(n * max(1, factor) ** 2, -100, 100, factor) for n in inputs]
    x = tensors[0]
    for other in tensors[1:]:
        x = net.concat(x, other)
    for n in outputs:
        weights = np.ones((n * out_factor**2, net.channels[x], size, size), int)
        net.output(net.conv(x, weights, 0, 9), out_factor)
    return net.blob()


def test_networks_of_other_shapes():
    blobs = models.networks()

    def refused_with(place, blob, match="other inputs or outputs"):
        not_a_model(models.with_networks((*blobs[:place], blob, *blobs[place + 1 :])), match)

    for i in (0, 2):
        hidden = models.HIDDEN[i // 2]
        for blob in (
            plain_network([5], [hidden, 6]),
            plain_network([6], [hidden]),
            plain_network([6], [hidden, 5]),
            plain_network([6], [hidden + 1, 6]),
            plain_network([6], [hidden, 6, 6]),
            plain_network([6, 6], [hidden, 6]),
            plain_network([6], [hidden, 6], factor=2),
            plain_network([6], [hidden, 6], factor=-2),
            plain_network([6], [hidden, 6], out_factor=2),
        ):
            refused_with(i, blob)
        for blob in (
            plain_network([hidden], [6]),
            plain_network([6, hidden], [6]),
            plain_network([hidden, 6], [6, 6]),
            plain_network([hidden, 6], [5]),
            plain_network([hidden, 6], [6], factor=-2),
        ):
            refused_with(i + 1, blob)
        refused_with(i + 1, plain_network([hidden, 6], [6], size=3), "beyond a position's hidden state")
        _native.Model(
            models.with_networks((*blobs[: i + 1], plain_network([hidden, 6], [6]), *blobs[i + 2 :]))
        )
    for blob in (
        plain_network([1], [1]),
        plain_network([1], [1], factor=4, out_factor=2),
        plain_network([1], [1], factor=2, out_factor=4),
        plain_network([2], [1], factor=4, out_factor=4),
        plain_network([1, 1], [1], factor=4, out_factor=4),
    ):
        refused_with(4, blob)
    refused_with(0, b"", "ends before")
    refused_with(3, blobs[3] + b"\0", "bytes follow")


def test_only_the_hidden_state_must_not_be_looked_beyond():
    """A kernel on the other input is what models have; one on a way from the hidden state is refused."""
    for through in ("conv", "depthwise", "add"):
        net = nn_twin.Builder()
        state, known = net.input(8, -100, 100), net.input(6, -100, 100)
        y = net.conv(known, np.ones((8, 6, 5, 5), int), 0, 9)
        x = net.conv(state, np.ones((8, 8, 1, 1), int), 0, 9)
        if through == "conv":
            x = net.conv(x, np.ones((8, 8, 3, 3), int), 0, 9)
        elif through == "depthwise":
            x = net.depthwise(x, np.ones((8, 5, 5), int), 0, 9)
        net.output(net.conv(net.add(x, y), np.ones((6, 8, 1, 1), int), 0, 9))
        blobs = models.networks()
        blob = models.with_networks((blobs[0], net.blob(), *blobs[2:]))
        if through == "add":
            _native.Model(blob)
        else:
            not_a_model(blob, "hidden state")


@settings(max_examples=120)
@given(
    places=st.lists(
        st.tuples(st.integers(8, len(models.model()) - 1), st.integers(0, 255)), min_size=1, max_size=3
    )
)
def test_altered_models_are_refused_or_are_what_they_say(places):
    blob = bytearray(models.model())
    for at, value in places:
        blob[at] = value
    try:
        model = _native.Model(bytes(blob))
    except _native.Corrupt:
        return
    samples = models.photo("altered", (1, 20, 23), LEAST, MOST)
    data = encode(samples, 600, model=model)
    found = outcome(data, samples.shape, model=model)
    expected = twin.decode(twin.Model.read(bytes(blob)), data, samples.shape, LEAST, MOST)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
