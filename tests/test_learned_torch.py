"""torch in float64 and the NumPy twin compute the networks of the learned mode alike, bit for bit.

Sums are below 2^30 and shifts at most 30, so that floor(sum x 2^-shift + 1/2) is exact in float64: what is
trained in torch is what the archive decodes with.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

import learned_models as models
import learned_twin as twin
import nn_twin

torch = pytest.importorskip("torch")

MODELS = ["generated", *map(str, models.trained())]
NETWORKS = ("first of level 0", "second of level 0", "first", "second", "restoration")


def column(values):
    """By channel, beside (1, channels, rows, columns)."""
    return torch.from_numpy(values.astype(np.float64)).reshape(1, -1, 1, 1)


def run(blob, inputs, rows, columns):
    """As `nn_twin.run`: inputs (channels, height, width), outputs of whole positions, in float64."""
    functional = torch.nn.functional
    reader = nn_twin.Reader(blob)
    reader.take("4s2H")
    waiting = [torch.from_numpy(x.astype(np.float64))[None] for x in inputs]
    tensors, outputs = [], []
    for _ in range(struct.unpack_from("<H", blob, 6)[0]):
        (kind,) = reader.take("B")
        if kind == nn_twin.INPUT:
            factor, channels, low, high = reader.take("bHhh")
            x = waiting.pop(0)
            if factor > 1:
                border = (0, -x.shape[3] % factor, 0, -x.shape[2] % factor)
                x = functional.pixel_unshuffle(functional.pad(x, border, mode="replicate"), factor)
            assert x.shape == (1, channels, rows, columns)
            tensors.append(x.clamp(low, high))
        elif kind in (nn_twin.CONV, nn_twin.DEPTHWISE):
            source, size, wide = reader.take("HBB")
            x = tensors[source]
            n = reader.take("H")[0] if kind == nn_twin.CONV else x.shape[1]
            shift, bias = column(reader.array("u1", n)), column(reader.array("<i4", n))
            low, high = column(reader.array("<i2", n)), column(reader.array("<i2", n))
            inputs_each = x.shape[1] if kind == nn_twin.CONV else 1
            weights = reader.array(f"<i{wide}", n, inputs_each, size, size).astype(np.float64)
            x = functional.pad(x, (size // 2,) * 4, mode="replicate")
            x = functional.conv2d(x, torch.from_numpy(weights), groups=x.shape[1] // inputs_each)
            x = torch.floor((x + bias) * 2.0**-shift + 0.5)
            tensors.append(torch.maximum(torch.minimum(x, high), low))
        elif kind == nn_twin.ADD:
            a, b = reader.take("HH")
            n = tensors[a].shape[1]
            low, high = column(reader.array("<i2", n)), column(reader.array("<i2", n))
            tensors.append(torch.maximum(torch.minimum(tensors[a] + tensors[b], high), low))
        elif kind == nn_twin.CONCAT:
            a, b = reader.take("HH")
            tensors.append(torch.cat([tensors[a], tensors[b]], 1))
        else:
            source, factor = reader.take("HB")
            outputs.append(functional.pixel_shuffle(tensors[source], factor)[0].numpy())
    return outputs


def networks(name):
    return models.networks() if name == "generated" else twin.Model.read(Path(name).read_bytes()).networks


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (23, 18)], ids=str)
@pytest.mark.parametrize("which", range(5), ids=NETWORKS)
def test_torch_is_the_twin(which, shape, model):
    blob = networks(model)[which]
    rows, columns = shape
    for most in (3, 300, 5000):
        numbers = models.Numbers(f"{which}{shape}{most}")
        if which == 4:
            inputs = [numbers.within(-most, most, 1, 4 * rows - 1, 4 * columns - 3)]
        else:
            inputs = [numbers.within(-most, most, 6, rows, columns)]
            if which in (1, 3):
                (hidden, _), known = nn_twin.run(networks(model)[which - 1], inputs, rows, columns), inputs[0]
                inputs = [hidden, known[::-1]]
        for a, b in zip(
            run(blob, inputs, rows, columns), nn_twin.run(blob, inputs, rows, columns), strict=True
        ):
            np.testing.assert_array_equal(a, b)
            assert np.abs(b).max() > 0
