"""The reference model as it is stored: bytes, taken apart again completely checked.

``TVDN``, little-endian: version 1 and number of layers (u16 each); then of each layer its output and input
channels (u16 each), of each output channel the shift of its weights (u8) and its bias in 2^-20 (i32), and the
weights, (out, in, 3, 3) in C order, in 12 bits: weight = integer / 2^shift. First the low bytes of all, then
their upper four bits, the first of two in the lower half of a byte. One input channel at the beginning, one
output channel at the end, nothing behind the last layer. A file is named by its SHA-256.

Twelve bits change the residual by 0.7 % of itself (root mean square), eight by 9 %.

It is no part of the format of archives: what reads them never looks at it.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tilevault.codecs.errors import ModelMismatch

__all__ = ["CURRENT_REFERENCE", "IntegerLayer", "Layer", "ReferenceModel", "load_reference"]

CURRENT_REFERENCE = "4d062dbea39d9b8c163074e2327867311b4c47f82dee126f9e47993df13199d4"
"""What comes with the package."""
SUFFIX = ".tvdn"
MAX_SIZE, MAX_LAYERS, MAX_CHANNELS, MAX_SHIFT = 4 << 20, 64, 256, 30
LARGEST = 2047
"""Integer that a weight becomes, at most."""
BIAS_SHIFT = 20
_MAGIC, _VERSION = b"TVDN", 1
_SHIPPED = Path(__file__).parents[1] / "trained"


@dataclass(frozen=True)
class Layer:
    """A convolution in floats."""

    weight: NDArray[np.float64]
    """(out, in, 3, 3)"""
    bias: NDArray[np.float64]
    """(out,)"""


@dataclass(frozen=True)
class IntegerLayer:
    """A convolution as it is stored."""

    weight: NDArray[np.int16]
    """(out, in, 3, 3), -2048 to 2047"""
    shift: NDArray[np.uint8]
    """(out,)"""
    bias: NDArray[np.int32]
    """(out,), in 2^-20"""

    @classmethod
    def of(cls, layer: Layer) -> "IntegerLayer":
        """The nearest; of each output channel the largest shift that its weights leave room for."""
        most = np.abs(layer.weight).max((1, 2, 3))
        shift = np.floor(np.log2(LARGEST / np.maximum(most, 2.0**-19))).clip(0, MAX_SHIFT)
        weight = np.rint(layer.weight * 2.0 ** shift[:, None, None, None]).clip(-LARGEST, LARGEST)
        bias = np.rint(layer.bias * 2.0**BIAS_SHIFT).clip(-(2**31), 2**31 - 1)
        return cls(weight.astype(np.int16), shift.astype(np.uint8), bias.astype(np.int32))

    def layer(self) -> Layer:
        """In floats, exactly."""
        scale = 2.0 ** -self.shift.astype(np.float64)
        return Layer(
            self.weight * scale[:, None, None, None], self.bias.astype(np.float64) * 2.0**-BIAS_SHIFT
        )


@dataclass(frozen=True)
class ReferenceModel:
    """All layers, first to last."""

    integers: tuple[IntegerLayer, ...]

    @classmethod
    def from_layers(cls, layers: Sequence[Layer]) -> "ReferenceModel":
        """Quantised from floats; normalisation is folded in already."""
        return cls(tuple(map(IntegerLayer.of, layers)))

    def layers(self) -> list[Layer]:
        """In floats."""
        return [layer.layer() for layer in self.integers]

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """The file."""
        parts = [_MAGIC, struct.pack("<HH", _VERSION, len(self.integers))]
        for layer in self.integers:
            parts.append(struct.pack("<HH", *layer.weight.shape[:2]))
            parts += [layer.shift.tobytes(), layer.bias.astype("<i4").tobytes(), _packed(layer.weight)]
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, blob: bytes) -> "ReferenceModel":
        """Raises `ModelMismatch` for what `to_bytes` does not write."""
        if len(blob) < 8 or blob[:4] != _MAGIC:
            raise ModelMismatch("no reference model: it does not begin with TVDN")
        version, count = struct.unpack_from("<HH", blob, 4)
        if version != _VERSION or not 2 <= count <= MAX_LAYERS:
            raise ModelMismatch(f"a reference model of version {version} with {count} layers")
        layers, at, channels = [], 8, 1
        for number in range(count):
            layer, at = _read_layer(blob, at, number)
            if layer.weight.shape[1] != channels:
                raise ModelMismatch(f"layer {number} takes {layer.weight.shape[1]} channels, not {channels}")
            layers.append(layer)
            channels = layer.weight.shape[0]
        if channels != 1 or at != len(blob):
            raise ModelMismatch(
                f"a reference model that ends with {channels} channels at {at} of {len(blob)}"
            )
        return cls(tuple(layers))


def _packed(weight: NDArray[np.int16]) -> bytes:
    words = weight.astype("<i2").ravel().view(np.uint16)
    upper = np.append(words >> 8 & 15, np.zeros(words.size % 2, np.uint16)).astype(np.uint8)
    return (words & 255).astype(np.uint8).tobytes() + (upper[::2] | upper[1::2] << 4).tobytes()


def _unpacked(blob: bytes, at: int, count: int) -> NDArray[np.int16]:
    low = np.frombuffer(blob, np.uint8, count, at).astype(np.uint16)
    pairs = np.frombuffer(blob, np.uint8, -(-count // 2), at + count).astype(np.uint16)
    upper = np.stack([pairs & 15, pairs >> 4], 1).ravel()[:count]
    return ((low | upper << 8) << 4).view(np.int16) >> 4


def _read_layer(blob: bytes, at: int, number: int) -> tuple[IntegerLayer, int]:
    if len(blob) < at + 4:
        raise ModelMismatch(f"the reference model ends before layer {number}")
    out, channels = struct.unpack_from("<HH", blob, at)
    if not (1 <= out <= MAX_CHANNELS and 1 <= channels <= MAX_CHANNELS):
        raise ModelMismatch(f"layer {number} of {channels} to {out} channels")
    count = 9 * out * channels
    end = at + 4 + 5 * out + count + -(-count // 2)
    if len(blob) < end:
        raise ModelMismatch(f"the reference model ends in layer {number}")
    shift = np.frombuffer(blob, np.uint8, out, at + 4)
    bias = np.frombuffer(blob, "<i4", out, at + 4 + out).astype(np.int32)
    weight = _unpacked(blob, at + 4 + 5 * out, count)
    if shift.max() > MAX_SHIFT:
        raise ModelMismatch(f"layer {number} is shifted by {shift.max()} bits")
    return IntegerLayer(weight.reshape(out, channels, 3, 3), shift, bias), end


def load_reference(path: Path | None = None) -> ReferenceModel:
    """The model in the file ``path``, or the one that comes with the package, whose digest is checked.

    Raises `ModelMismatch` for a file that is not there, is no model, or is not the one that its name says.
    """
    file = path or _SHIPPED / f"{CURRENT_REFERENCE}{SUFFIX}"
    try:
        if file.stat().st_size > MAX_SIZE:
            raise ModelMismatch(f"{file} is too large for a reference model")
        blob = file.read_bytes()
    except OSError as failure:
        raise ModelMismatch(f"the reference model {file} cannot be read: {failure.strerror}") from failure
    found = hashlib.sha256(blob).hexdigest()
    if path is None and found != CURRENT_REFERENCE:
        raise ModelMismatch(f"the reference model {CURRENT_REFERENCE} has become {found}")
    return ReferenceModel.from_bytes(blob)
