"""Streams of the learned mode that no encoder writes: invented symbol by symbol, or an encoder's with other
symbols in their places. `python tests/learned_streams.py` writes those golden vectors that are not there yet.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import numpy as np

import learned_models as models
import learned_twin as twin
from learned_models import Numbers
from tilevault.codecs import _native

VECTORS = Path(__file__).parent / "vectors" / "learned"


def written(symbols: list[tuple[int, int]], states: int) -> bytes:
    """The states and words (format.md 9.2) of symbols, each a first slot and a number of slots."""
    state, words = [2**16] * states, []
    for i in reversed(range(len(symbols))):
        first, n = symbols[i]
        x = state[i % states]
        if x >= n * 2**17:
            words.append(x % 2**16)
            x //= 2**16
        state[i % states] = x // n * 2**15 + x % n + first
    return struct.pack(f"<{states}I{len(words)}H", *state, *reversed(words))


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value % 128 | 128)
        value //= 128
    return bytes(out + bytes([value]))


def header(
    code: int, planes: list[tuple[int, ...]], many: bool = False, restored: bool = True, bits: int = 12
) -> bytes:
    """planes: low and range, and from the second one on reference and weight."""
    out = bytearray(struct.pack("<HB", code, many + 2 * restored + 4 * bits))
    for p, (low, size, *reference) in enumerate(planes):
        out += varint(2 * low if low >= 0 else -2 * low - 1) + varint(size)
        if p:
            out += bytes([reference[0]]) + (struct.pack("b", reference[1]) if reference[0] else b"")
    return bytes(out)


def raw_symbols(value: int, bits: int) -> list[tuple[int, int]]:
    """Of at most 12 bits."""
    return [(value << (15 - bits), 1 << (15 - bits))]


class Invented(twin.Symbols):
    """Stands where a reader stands, and makes up what it is asked for."""

    def __init__(self, name: str, active: float = 0.7, escapes: float = 0.05, narrow: float = 0.0) -> None:
        super().__init__(b"", [2**16], [])
        self.numbers = iter(Numbers(name).within(0, 2**15 - 1, 1 << 17).tolist())
        self.active, self.escapes, self.narrow = active, escapes, narrow

    def below(self, n: int) -> int:
        return next(self.numbers) * n >> 15

    def slot(self) -> int:
        return next(self.numbers)

    def take(self, first: int, n: int) -> None:
        self.taken.append((first, n))

    def bit(self, chance: int) -> bool:
        value = self.below(1000) < 1000 * self.active
        self.take(*((0, chance) if value else (chance, 2**15 - chance)))
        return value

    def token(self, starts: np.ndarray) -> int:
        what = self.below(1000) / 1000
        if what < self.escapes:
            t = twin.ESCAPE
        elif what < self.escapes + self.narrow:
            t = int(np.argmax(np.diff(starts)))
        else:
            t = int(np.searchsorted(starts, self.slot(), "right")) - 1
        self.take(int(starts[t]), int(starts[t + 1] - starts[t]))
        return t

    def raw(self, bits: int) -> int:
        """Lengths of escapes and strengths are as allowed, and no coefficient is too large."""
        if bits in (3, 5):
            value = self.below(5 if bits == 3 else 8)
            self.taken += raw_symbols(value, bits)
            return value
        return super().raw(bits)


def invented(
    model: twin.Model, name: str, shape: twin.Shape, least: int, most: int, head: bytes, **kind: float
) -> tuple[bytes, tuple[np.ndarray, np.ndarray]]:
    """A stream with this header, and its samples without and with restoration."""
    symbols = Invented(name, **kind)
    parsed = twin.Header.read(head, shape[0])
    samples = twin.decoded(model, parsed, symbols, shape, least, most)
    return head + written(symbols.taken, parsed.states), samples


def with_strengths(model: twin.Model, data: bytes, shape: tuple[int, int], strengths: list[int]) -> bytes:
    """A tile of one plane whose blocks of 64 x 64 are restored so much."""
    head = twin.Header.read(data, 1)
    symbols = twin.Symbols.read(data[head.size :], head.states)
    twin.coded_plane(symbols, model, model.step(head.code), *shape)
    taken = symbols.taken + raw_symbols(4, 3)
    for k in strengths:
        taken += raw_symbols(k, 2)
    return data[:2] + bytes([data[2] | 2]) + data[3 : head.size] + written(taken, head.states)


# --- Golden vectors ------------------------------------------------------------------------------------

BOUNDS = (-1000, 3095)
GOLDEN = {
    "photo": (1, 96, 80),
    "predicted": (3, 33, 29),
    "blocks": (1, 70, 131),
    "fine": (2, 17, 20),
    "noisy": (1, 70, 131),
    "escapes": (1, 20, 31),
    "sparse": (1, 140, 130),
    "constant": (4, 3, 5),
}


def golden(name: str) -> bytes:
    """A new stream of this name; the stored ones may differ, since encoders may change."""
    model, shape = twin.Model.read(models.model()), GOLDEN[name]
    if name == "escapes":
        head = header(500, [(-1000, 4095)], many=True)
        return invented(model, name, shape, *BOUNDS, head, active=1.0, escapes=0.5)[0]
    if name == "constant":
        head = header(1407, [(-1000, 0), (9, 0, 1, -128), (0, 0, 2, 33), (7, 0, 0)])
        return head + written([], 1)
    texture = models.TEXTURES.get(name, models.photo)
    samples, scratch = texture(name, shape, *BOUNDS), np.zeros(shape, np.int32)
    code = {"photo": 750, "fine": 100, "noisy": 700}.get(name, 600)
    data = _native.encode_lossy(
        _native.Model(models.model()), samples, *BOUNDS, code, 4.0, True, scratch, scratch.copy()
    )
    return with_strengths(model, data, shape[1:], [3, 0, 1, 2, 0, 3]) if name == "blocks" else data


def digests(data: bytes, shape: twin.Shape) -> dict[str, str]:
    """SHA-256 of the bytes, and of the samples as int32, without and with restoration."""
    samples = twin.decode(twin.Model.read(models.model()), data, shape, *BOUNDS)
    parts = [data, *(part.astype("<i4").tobytes() for part in samples)]
    names = ("bytes", "plain", "restored")
    return {k: hashlib.sha256(part).hexdigest() for k, part in zip(names, parts, strict=True)}


def write_missing() -> None:
    VECTORS.mkdir(exist_ok=True)
    for name in GOLDEN:
        if not (VECTORS / f"{name}.tile").exists():
            (VECTORS / f"{name}.tile").write_bytes(golden(name))
    found = {name: digests((VECTORS / f"{name}.tile").read_bytes(), GOLDEN[name]) for name in GOLDEN}
    found["model"] = {"bytes": hashlib.sha256(models.model()).hexdigest()}
    (VECTORS / "digests.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    write_missing()
