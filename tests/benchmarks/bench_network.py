"""How fast integer networks run on one thread, by layer and path, beside torch and ONNX Runtime if installed.

GMAC/s counts the multiplications of the network, none of padding. The rivals get the same layers: torch
in float32 (integers carried in floats), ONNX Runtime QLinearConv in 8 bits with power-of-two scales.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tilevault.codecs import _native

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from nn_twin import Builder

LAYERS = 4
KINDS = [
    ("1x1", 64, 128),
    ("1x1", 32, 64),
    ("3x3", 32, 32),
    ("3x3", 64, 64),
    ("dw3x3", 64, 64),
    ("dw3x3", 32, 32),
]


def best(run: Callable[[], object], seconds: float) -> float:
    """The least time of one run, in seconds."""
    run()
    end, least = time.perf_counter() + seconds, float("inf")
    while time.perf_counter() < end:
        start = time.perf_counter()
        run()
        least = min(least, time.perf_counter() - start)
    return least


def shapes(kind: str, channels: int, wide: int) -> list[tuple[int, int, int, int]]:
    """(out, in, size, groups) of the layers of a chain."""
    if kind == "1x1":
        return [(wide, channels, 1, 1), (channels, wide, 1, 1)] * (LAYERS // 2)
    return [(channels, channels, 3, channels if kind == "dw3x3" else 1)] * LAYERS


def chain(layers: list[tuple[int, int, int, int]], low: int, high: int) -> bytes:
    rng = np.random.default_rng(0)
    net = Builder()
    x = net.input(layers[0][1], low, high)
    for out, inputs, size, groups in layers:
        weights = rng.integers(-4, 5, (out, inputs // groups, size, size))
        if groups > 1:
            x = net.depthwise(x, weights[:, 0], 0, 3, low, high)
        else:
            x = net.conv(x, weights, 0, 6, low, high)
    net.output(x)
    return net.blob()


def block(net: Builder, x: int, wide: int, low: int, high: int) -> int:
    rng, n = np.random.default_rng(1), net.channels[x]
    y = net.depthwise(x, rng.integers(-4, 5, (n, 3, 3)), 0, 3, low, high)
    y = net.conv(y, rng.integers(-4, 5, (wide, n, 1, 1)), 0, 6, 0, high)
    return net.add(x, net.conv(y, rng.integers(-4, 5, (n, wide, 1, 1)), 0, 6, low, high), low, high)


def restoration(channels: int, blocks: int, most: int = 1023) -> bytes:
    rng, net = np.random.default_rng(2), Builder()
    x = net.concat(net.input(16, -most, most, 4), net.input(6, 0, 63))
    x = net.conv(x, rng.integers(-4, 5, (channels, 22, 1, 1)), 0, 5, -most, most)
    for _ in range(blocks):
        x = block(net, x, 2 * channels, -most, most)
    net.output(net.conv(x, rng.integers(-1, 2, (32, channels, 3, 3)), 0, 6, -most, most), 4)
    return net.blob()


def entropy(channels: int, blocks: int, most: int = 255) -> bytes:
    rng, net = np.random.default_rng(3), Builder()
    x = net.input(5, -most, most)
    x = net.conv(x, rng.integers(-4, 5, (channels, 5, 3, 3)), 0, 5, 0, most)
    for _ in range(blocks):
        x = block(net, x, 64, 0, most)
    halves = net.conv(net.input(3, -most, most), rng.integers(-4, 5, (16, 3, 3, 3)), 0, 5, 0, most)
    x = net.conv(net.concat(x, halves), rng.integers(-4, 5, (32, channels + 16, 1, 1)), 0, 6, 0, most)
    net.output(net.conv(x, rng.integers(-4, 5, (6, 32, 1, 1)), 0, 6, -most, most))
    return net.blob()


def planes(channels: int, rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(4).integers(0, 256, (channels, rows, columns), np.int16)


def last(channels: int, size: int) -> np.ndarray:
    """Planes whose channels lie side by side, as a network before this one would leave them."""
    return np.ascontiguousarray(planes(channels, size, size).transpose(1, 2, 0)).transpose(2, 0, 1)


def torch_run(layers: list[tuple[int, int, int, int]], size: int) -> Callable[[], object]:
    import torch

    torch.set_num_threads(1)
    x = torch.from_numpy(planes(layers[0][1], size, size).astype(np.float32))[None]
    x = x.contiguous(memory_format=torch.channels_last)
    weights = [
        torch.ones(o, i // g, k, k).contiguous(memory_format=torch.channels_last) for o, i, k, g in layers
    ]

    def run() -> object:
        y = x
        with torch.inference_mode():
            for w, (_, _, k, g) in zip(weights, layers, strict=True):
                y = (
                    torch.nn.functional.conv2d(y, w, padding=k // 2, groups=g)
                    .mul_(0.25)
                    .round_()
                    .clamp_(0, 255)
                )
        return y

    return run


def onnx_run(layers: list[tuple[int, int, int, int]], size: int) -> Callable[[], object]:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    constants = [
        helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
        helper.make_tensor("scale", TensorProto.FLOAT, [], [64.0]),
        helper.make_tensor("zero", TensorProto.UINT8, [], [0]),
        helper.make_tensor("zero_w", TensorProto.INT8, [], [0]),
    ]
    nodes = []
    for n, (o, i, k, g) in enumerate(layers):
        values = np.random.default_rng(n).integers(-4, 5, o * (i // g) * k * k).tolist()
        constants.append(helper.make_tensor(f"w{n}", TensorProto.INT8, [o, i // g, k, k], values))
        names = [f"x{n}", "one", "zero", f"w{n}", "one", "zero_w", "scale", "zero"]
        nodes.append(helper.make_node("QLinearConv", names, [f"x{n + 1}"], pads=[k // 2] * 4, group=g))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.UINT8, [1, c, size, size])
        for name, c in (("x0", layers[0][1]), (f"x{len(layers)}", layers[-1][0]))
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    x = planes(layers[0][1], size, size).astype(np.uint8)[None]
    return lambda: session.run(None, {"x0": x})


def rival(
    make: Callable[..., Callable[[], object]],
    layers: list[tuple[int, int, int, int]],
    size: int,
    seconds: float,
) -> str:
    try:
        run = make(layers, size)
    except ImportError:
        return "-"
    products = sum(o * (i // g) * k * k for o, i, k, g in layers) * size * size
    return f"{products / best(run, seconds) / 1e9:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128, help="positions along each side")
    parser.add_argument("--seconds", type=float, default=0.3, help="for each measurement")
    parser.add_argument("--paths", nargs="+", default=_native.network_paths()[1:] or _native.network_paths())
    args = parser.parse_args()
    size, seconds = args.size, args.seconds
    print(f"{platform.machine()}, one thread, {size} x {size} positions, GMAC/s\n")
    print(f"| layers | values | {' | '.join(args.paths)} | torch fp32 | ONNX Runtime int8 |")
    print(f"|---|---|{'---|' * (len(args.paths) + 2)}")
    for kind, channels, wide in KINDS:
        layers = shapes(kind, channels, wide)
        for low, high in ((0, 255), (-1023, 1023)):
            found = []
            for path in args.paths:
                net = _native.Network(chain(layers, low, high), path=path)
                x, y = last(channels, size), last(channels, size)
                each = best(lambda n=net, a=x, b=y: n.run([a], [b], size, size), seconds)
                found.append(net.products * size**2 / each / 1e9)
            said = f"{kind} {channels}" + (f" -> {wide} -> {channels}" if wide != channels else "")
            others = [rival(m, layers, size, seconds) if low == 0 else "" for m in (torch_run, onnx_run)]
            cells = [said, f"{low}..{high}", *(f"{v:.0f}" for v in found), *others]
            print(f"| {' | '.join(cells)} |", flush=True)
    print(
        f"\n| network | kMAC per position | {' | '.join(f'{p}: GMAC/s, Mpositions/s' for p in args.paths)} |"
    )
    print(f"|---|---|{'---|' * len(args.paths)}")
    for name, blob, inputs, output in [
        ("restoration, 64 channels, 3 blocks", restoration(64, 3), [(1, 4), (6, 1)], (2, 4)),
        ("restoration, 32 channels, 2 blocks", restoration(32, 2), [(1, 4), (6, 1)], (2, 4)),
        ("entropy, 32 channels, 2 blocks", entropy(32, 2), [(5, 1), (3, 1)], (6, 1)),
        ("entropy, 24 channels, 1 block", entropy(24, 1), [(5, 1), (3, 1)], (6, 1)),
    ]:
        found = []
        for path in args.paths:
            net = _native.Network(blob, path=path)
            x = [planes(c, f * size, f * size) for c, f in inputs]
            y = [np.zeros((output[0], output[1] * size, output[1] * size), np.int16)]
            each = best(lambda n=net, a=x, b=y: n.run(a, b, size, size), seconds) / size**2
            found.append(f"{net.products / each / 1e9:.0f}, {1e-6 / each:.2f}")
        print(f"| {name} | {net.products / 1000:.1f} | {' | '.join(found)} |", flush=True)


if __name__ == "__main__":
    main()
