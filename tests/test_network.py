"""Integer networks: every path of the engine equals the NumPy twin bit for bit; hostile blobs are refused."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nn_twin as twin
from tilevault.codecs import _native

PATHS = _native.network_paths()
LIMIT = 1 << 22


def run(blob, inputs, rows, columns, outputs, path="", limit=LIMIT):
    """outputs: (channels, height, width) of each."""
    out = [np.full(shape, -12345, np.int16) for shape in outputs]
    _native.Network(blob, limit, path).run(inputs, out, rows, columns)
    return out


def check(blob, inputs, rows, columns, crop=0, limit=LIMIT):
    """All paths give what the twin gives; outputs end `crop` pixels before their positions do."""
    expected = [y[:, : y.shape[1] - crop, : y.shape[2] - crop] for y in twin.run(blob, inputs, rows, columns)]
    for path in PATHS:
        found = run(blob, inputs, rows, columns, [y.shape for y in expected], path, limit)
        for a, b in zip(expected, found, strict=True):
            np.testing.assert_array_equal(a, b, path)
    return expected


def values(rng, shape, low=-32768, high=32767):
    return rng.integers(low, high, shape, np.int16, endpoint=True)


def room(rng, weights, most, limit=LIMIT):
    """Weights (out, ...) shrunk below the limit, and biases that for some channels fill what is left."""
    weights = weights.copy()
    for o in range(len(weights)):
        while np.abs(weights[o]).sum() * most >= limit:
            weights[o] = weights[o] // 2 + (weights[o] < 0)
    left = limit - 1 - np.abs(weights.reshape(len(weights), -1)).sum(1) * most
    bias = np.where(rng.random(len(weights)) < 0.5, left, rng.integers(0, left, endpoint=True))
    return weights, bias * rng.choice([-1, 1], len(weights))


@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.tuples(st.integers(1, 128), st.integers(1, 128)),
    size=st.sampled_from([1, 1, 3, 5]),
    rows=st.integers(1, 9),
    columns=st.integers(1, 40),
    most=st.sampled_from([1, 127, 255, 1023, 32767]),
    wide=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_dense_layers(seed, channels, size, rows, columns, most, wide):
    rng = np.random.default_rng(seed)
    inputs, outputs = channels
    if size > 1:
        inputs, outputs = (inputs + 3) // 4, (outputs + 3) // 4
    top = 2047 if wide else 127
    weights, bias = room(rng, rng.integers(-top, top, (outputs, inputs, size, size), endpoint=True), most)
    net = twin.Builder()
    x = net.input(inputs, -most if rng.random() < 0.5 else 0, most)
    low = rng.integers(-32768, 32767, outputs)
    shift = (
        rng.integers(0, 31, outputs, endpoint=False) if rng.random() < 0.3 else rng.integers(0, 12, outputs)
    )
    net.output(
        net.conv(x, weights, bias, shift, low, np.minimum(32767, low + rng.integers(0, 65536, outputs)))
    )
    check(net.blob(), [values(rng, (inputs, rows, columns))], rows, columns)


LAYERS = [(48, 96, 1), (96, 48, 1), (48, 16, 3), (17, 33, 1), (65, 80, 1), (20, 40, 3)]


@pytest.mark.parametrize("columns", [23, 24, 39, 40, 56, 130])
@pytest.mark.parametrize("bounds", [(-32768, 32639), (-32768, 32640), (0, 255), (-128, 127), (-16383, 16383)])
def test_weights_of_one_byte_in_rows_of_many_pixels(bounds, columns):
    """What matrix tiles take, and inputs whose upper byte cannot be rounded."""
    rng = np.random.default_rng(columns)
    for inputs, outputs, size in LAYERS:
        limit, most = 1 << 30, max(map(abs, bounds))
        weights = rng.integers(-128, 127, (outputs, inputs, size, size), endpoint=True)
        weights, bias = room(rng, weights, most, limit)
        net = twin.Builder()
        x = net.input(inputs, *bounds)
        net.output(
            net.conv(x, np.clip(weights, -127, 127), bias, rng.integers(0, 20, outputs), -30000, 30001)
        )
        extremes = rng.choice(np.array([*bounds, 127, 128, -128, -129], np.int16), (inputs, 3, columns))
        check(net.blob(), [extremes], 3, columns, limit=limit)


@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.integers(1, 128),
    size=st.sampled_from([3, 5]),
    rows=st.integers(1, 9),
    columns=st.integers(1, 40),
    most=st.sampled_from([1, 255, 1023, 32767]),
)
@settings(max_examples=60, deadline=None)
def test_depthwise_layers(seed, channels, size, rows, columns, most):
    rng = np.random.default_rng(seed)
    weights, bias = room(rng, rng.integers(-2047, 2047, (channels, size, size), endpoint=True), most)
    net = twin.Builder()
    x = net.input(channels, -most, most)
    net.output(net.depthwise(x, weights, bias, rng.integers(0, 12, channels), -30000, 30001))
    check(net.blob(), [values(rng, (channels, rows, columns))], rows, columns)


def separable(net, rng, x, wide, most=1023):
    """[DW3x3, 1x1 expand ReLU, 1x1 contract, skip]."""
    n = net.channels[x]
    w, b = room(rng, rng.integers(-40, 41, (n, 3, 3)), most)
    y = net.depthwise(x, w, b, 7, -most, most)
    w, b = room(rng, rng.integers(-40, 41, (wide, n, 1, 1)), most)
    y = net.conv(y, w, b, 8, 0, most)
    w, b = room(rng, rng.integers(-40, 41, (n, wide, 1, 1)), most)
    return net.add(x, net.conv(y, w, b, 8, -most, most), -most, most)


def restoration(rng, channels=64, blocks=3, wide=128):
    """Pixels at a quarter of the resolution and six maps there -> two corrections of the pixels."""
    net = twin.Builder()
    x = net.concat(net.input(16, -1023, 1023, 4), net.input(6, 0, 63))
    w, b = room(rng, rng.integers(-60, 61, (channels, 22, 1, 1)), 1023)
    x = net.conv(x, w, b, 6, -1023, 1023)
    for _ in range(blocks):
        x = separable(net, rng, x, wide)
    w, b = room(rng, rng.integers(-60, 61, (32, channels, 3, 3)), 1023)
    net.output(net.conv(x, w, b, 6, -1023, 1023), 4)
    return net.blob()


def entropy(rng, channels=32, blocks=2):
    """What is known of a level and its coarser one -> features, and first parameters."""
    net = twin.Builder()
    known = net.input(2, -255, 255)
    x = net.concat(known, net.input(3, 0, 255, -2))
    w, b = room(rng, rng.integers(-60, 61, (channels, 5, 3, 3)), 255)
    x = net.conv(x, w, b, 6, 0, 255)
    for _ in range(blocks):
        x = separable(net, rng, x, 64, 255)
    net.output(x)
    w, b = room(rng, rng.integers(-60, 61, (6, channels, 1, 1)), 255)
    net.output(net.conv(x, w, b, 6, [-128, -128, -128, 0, 0, 0], [127, 127, 127, 63, 63, 63]))
    return net.blob()


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (5, 4), (64, 61), (33, 130)])
def test_restoration(shape):
    rng = np.random.default_rng(7)
    rows, columns = -(-shape[0] // 4), -(-shape[1] // 4)
    inputs = [values(rng, (1, *shape), -1200, 1200), values(rng, (6, rows, columns), 0, 63)]
    blob = restoration(rng)
    (expected,) = twin.run(blob, inputs, rows, columns)
    for path in PATHS:
        (found,) = run(blob, inputs, rows, columns, [(2, *shape)], path)
        np.testing.assert_array_equal(expected[:, : shape[0], : shape[1]], found, path)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (6, 1), (13, 17), (40, 64)])
def test_entropy_model(shape):
    rng = np.random.default_rng(8)
    inputs = [
        values(rng, (2, *shape), -300, 300),
        values(rng, (3, -(-shape[0] // 2), -(-shape[1] // 2)), -9, 300),
    ]
    check(entropy(rng), inputs, *shape)


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 12),
    columns=st.integers(1, 20),
    layers=st.integers(1, 10),
)
@settings(max_examples=60, deadline=None)
def test_random_graphs(seed, rows, columns, layers):
    rng = np.random.default_rng(seed)
    net = twin.Builder()
    inputs, bounds = [], []
    for _ in range(rng.integers(1, 4)):
        factor = int(rng.choice([1, 2, 4, -2]))
        n = int(rng.integers(1, 5)) * max(1, factor) ** 2
        net.input(n, -1000, 1000, factor)
        bounds.append(1000)
        cut = rng.integers(0, max(1, factor), 2)
        shape = (
            (-(-rows // 2), -(-columns // 2))
            if factor < 0
            else (rows * factor - cut[0], columns * factor - cut[1])
        )
        inputs.append(values(rng, (n // max(1, factor) ** 2, *shape)))
    for _ in range(layers):
        source = int(rng.integers(len(net.channels)))
        n, kind = net.channels[source], rng.integers(4)
        most = int(rng.choice([1, 100, 255, 5000]))
        if kind == 0:
            size, outputs = int(rng.choice([1, 3])), int(rng.integers(1, 70))
            w, b = room(rng, rng.integers(-127, 128, (outputs, n, size, size)), bounds[source])
            net.conv(source, w, b, rng.integers(0, 10, outputs), -most, most)
        elif kind == 1:
            w, b = room(rng, rng.integers(-127, 128, (n, 3, 3)), bounds[source])
            net.depthwise(source, w, b, rng.integers(0, 10, n), 0, most)
        else:
            same = [i for i, c in enumerate(net.channels) if c == n]
            other = int(rng.choice(same if kind == 2 else range(len(net.channels))))
            if kind == 2:
                net.add(source, other, -most, most)
            elif n + net.channels[other] <= 128:
                net.concat(source, other)
                most = max(bounds[source], bounds[other])
            else:
                continue
        bounds.append(most)
        if rng.random() < 0.3:
            net.output(len(net.channels) - 1)
    last = len(net.channels) - 1
    net.output(last, 2 if net.channels[last] % 4 == 0 else 1)
    check(net.blob(), inputs, rows, columns)


def test_rounding_is_half_up_and_exact():
    net = twin.Builder()
    x = net.input(1, -32768, 32767)
    net.output(net.conv(x, np.ones((31, 1, 1, 1), int), 0, np.arange(31)))
    line = np.arange(-32768, 32768, 7, dtype=np.int16)[None, None]
    (y,) = check(net.blob(), [line], 1, line.shape[2])
    halves = np.floor(line[0].astype(float) / 2.0 ** np.arange(31)[:, None] + 0.5)
    np.testing.assert_array_equal(y[:, 0], halves)
    # as a float32 network says it
    single = np.floor(
        line[0].astype(np.float32) * np.float32(2) ** -np.arange(31, dtype=np.float32)[:, None]
        + np.float32(0.5)
    )
    np.testing.assert_array_equal(single, halves)


def test_planes_may_lie_in_any_order():
    rng = np.random.default_rng(3)
    blob = entropy(rng)
    inputs = [values(rng, (2, 20, 24), -255, 255), values(rng, (3, 10, 12), 0, 255)]
    expected = twin.run(blob, inputs, 20, 24)
    last = [np.ascontiguousarray(x.transpose(1, 2, 0)).transpose(2, 0, 1) for x in inputs]
    wide = np.zeros((20, 50, 40), np.int16)
    out = [wide[:, ::2, :32].transpose(2, 0, 1)[:, :, :24], np.zeros((6, 20, 24), np.int16, "F")]
    _native.Network(blob).run([last[0], inputs[1][:, :, :]], out, 20, 24)
    for a, b in zip(expected, out, strict=True):
        np.testing.assert_array_equal(a, b)


def tiny(**change):
    net = twin.Builder()
    x = net.input(2, -10, 10)
    weights = change.pop("weights", np.full((3, 2, 1, 1), 5))
    net.output(net.conv(x, weights, **change))
    return net


def refused(blob, message, limit=LIMIT):
    with pytest.raises(_native.Corrupt, match=message):
        _native.Network(bytes(blob), limit)


def test_sums_stay_below_the_limit():
    for path in PATHS:
        _native.Network(tiny(bias=[0, 399, -399]).blob(), 500, path)
    refused(tiny(bias=[0, 0, 400]).blob(), "record 1: channel 2 could sum up to 500, the limit is 500", 500)
    refused(tiny(bias=[0, -400, 0]).blob(), "channel 1 could sum up to 500", 500)
    refused(tiny(bias=-(2**31)).blob(), "could sum up to 2147483748", 1 << 30)
    with pytest.raises(ValueError, match="limit"):
        _native.Network(tiny().blob(), (1 << 30) + 1)


def test_int32_carries_the_largest_limit():
    rng = np.random.default_rng(5)
    net = twin.Builder()
    x = net.input(8, -32768, 32767)
    weights = rng.choice([-2047, 2047], (4, 8, 1, 1))
    bias = (1 << 30) - 1 - np.abs(weights).sum((1, 2, 3)) * 32768
    net.output(net.conv(x, weights, bias, [30, 29, 15, 16]))
    line = rng.choice(np.array([-32768, 32767], np.int16), (8, 3, 33))
    line[:, 0, :4] = np.where(weights[:, :, 0, 0].T > 0, 32767, -32768)
    check(net.blob(), [line], 3, 33, limit=1 << 30)


def test_truncated_blobs_are_refused():
    blob = restoration(np.random.default_rng(1), 8, 1, 16)
    for n in range(0, len(blob), 7):
        refused(blob[:n], "ends before|not a network|without|another version")
    refused(blob + b"\0", "bytes follow")


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, b"X", "not a network"),
        (4, b"\2", "another version"),
        (6, b"\xff\xff", "too many records"),
        (6, b"\0\0", "bytes follow"),
        (8, b"\6", "unknown kind 6"),
        (9, b"\3", "unknown factor 3"),
        (9, b"\2", "channels that no unshuffling gives"),
        (10, b"\0", "1 to 128 channels"),
        (10, b"\x81", "1 to 128 channels"),
        (12, b"\xff\x7f", "low is above high"),
        (17, b"\1", "a source that is not before it"),
        (19, b"\2", "kernel size 2"),
        (19, b"\5", "ends before"),
        (20, b"\3", "one or two bytes"),
        (21, b"\0", "1 to 128 channels"),
        (21, b"\xff", "1 to 128 channels"),
        (21, b"\x80", "ends before"),
        (23, b"\x1f", "a shift of 31"),
        (38, b"\xff\x7f", "low is above high in channel 0"),
    ],
)
def test_hostile_records_are_refused(at, value, message):
    blob = bytearray(tiny(low=-100, high=100).blob())
    blob[at : at + len(value)] = value
    refused(blob, message)


def test_hostile_graphs_are_refused():
    net = twin.Builder()
    net.channels += [1, 1]
    net.concat(0, 1)
    refused(net.blob(), "not before it")
    net = twin.Builder()
    net.input(2, 0, 1)
    net.input(3, 0, 1)
    net.add(0, 1)
    refused(net.blob(), "different channels")
    net = twin.Builder()
    a = net.input(100, 0, 1)
    net.concat(a, a)
    refused(net.blob(), "1 to 128 channels")
    net = twin.Builder()
    net.output(net.input(6, 0, 1), 2)
    refused(net.blob(), "cannot be shuffled")
    net = twin.Builder()
    net.output(net.input(9, 0, 1), 3)
    refused(net.blob(), "unknown factor 3")
    refused(b"TVNN" + struct.pack("<HH", 1, 0), "without input or output")


@given(seed=st.integers(0, 2**32 - 1), flips=st.integers(1, 6))
@settings(max_examples=150, deadline=None)
def test_damaged_blobs_are_refused_or_run(seed, flips):
    rng = np.random.default_rng(seed)
    blob = bytearray(entropy(np.random.default_rng(2), 5, 1))
    for _ in range(flips):
        blob[rng.integers(8 if rng.random() < 0.9 else 0, len(blob))] = rng.integers(256)
    try:
        network = _native.Network(bytes(blob))
    except _native.Corrupt:
        return
    inputs = [values(rng, (2, 5, 6)), values(rng, (3, 3, 3))]
    out = [np.zeros((5, 5, 6), np.int16), np.zeros((6, 5, 6), np.int16)]
    try:
        network.run(inputs, out, 5, 6)
    except ValueError:
        return
    for a, b in zip(twin.run(bytes(blob), inputs, 5, 6), out, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("inputs", "outputs", "grid"),
    [
        ([(2, 4, 4)], [(3, 4, 4)], (0, 4)),
        ([(2, 4, 4)], [(3, 4, 4)], (4, 5)),
        ([(3, 4, 4)], [(3, 4, 4)], (4, 4)),
        ([(2, 4, 4)], [(2, 4, 4)], (4, 4)),
        ([(2, 4, 4)], [(3, 4, 3)], (4, 4)),
        ([(2, 4, 4), (2, 4, 4)], [(3, 4, 4)], (4, 4)),
        ([(2, 4, 4)], [], (4, 4)),
    ],
)
def test_planes_that_do_not_fit_are_refused(inputs, outputs, grid):
    network = _native.Network(tiny().blob())
    with pytest.raises(ValueError, match=r"grid|inputs"):
        network.run([np.zeros(s, np.int16) for s in inputs], [np.zeros(s, np.int16) for s in outputs], *grid)


def test_unknown_paths_are_refused():
    assert PATHS[0] == "portable"
    with pytest.raises(ValueError, match="no such path"):
        _native.Network(tiny().blob(), LIMIT, "abacus")
