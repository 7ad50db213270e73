"""Synthetic tiles that are hard in different ways, and the golden vectors made of them.

``python tests/lossless_tiles.py`` writes vectors that are missing; it never touches one that exists.
"""

from pathlib import Path

import numpy as np

VECTORS = Path(__file__).parent / "vectors" / "lossless"
TEXTURES = ["noise", "constant", "hot", "ramp", "walk", "extremes", "gaps", "sparse", "twelve"]


def make(texture, shape, dtype, seed=0):
    """A tile of ``shape`` and ``dtype`` with a texture; the same arguments give the same tile for ever."""
    dtype = np.dtype(dtype)
    n = int(np.prod(shape))
    # A multiplicative hash of the index: no library's generator to change under the golden vectors.
    index = np.arange(n, dtype=np.uint64) + np.uint64(seed * 7919 + 1)
    random = (index * np.uint64(0x9E3779B97F4A7C15)) ^ (index >> np.uint64(7))
    random = (random * np.uint64(0xBF58476D1CE4E5B9)) >> np.uint64(20)
    y, x = np.arange(n) // shape[-1], np.arange(n) % shape[-1]
    if texture == "noise":
        values = random.astype(np.int64)
    elif texture == "constant":
        values = np.full(n, 77 + seed % 50)
    elif texture == "hot":
        values = np.where(np.arange(n) == seed % n, 127, 0)
    elif texture == "ramp":
        values = 3 * x + 2 * y
    elif texture == "walk":
        values = np.cumsum((random % np.uint64(7)).astype(np.int64) - 3) + 60
    elif texture == "extremes":
        values = np.where((x // 3 + y // 2) % 2 == 1, (1 << 63) - 1, -(1 << 63))
    elif texture == "gaps":
        values = (random % np.uint64(5)).astype(np.int64) * 23
    elif texture == "sparse":
        values = np.where(random % np.uint64(50) == 0, (random >> np.uint64(9)).astype(np.int64) % 4, 0)
    else:
        values = (1000 + x * y // 4 + (random % np.uint64(9)).astype(np.int64)) & 0xFFF
    values = np.asarray(values, np.int64)
    if dtype.kind in "iu":
        if texture == "extremes":
            limits = np.iinfo(dtype)
            values = np.where(values > 0, limits.max, limits.min).astype(dtype)
        return values.astype(dtype).reshape(shape)
    if dtype.kind == "b":
        return (values & 1).astype(bool).reshape(shape)
    if texture == "noise":  # any bits at all: NaNs with payloads, infinities, denormals
        words = (
            random.view(np.uint8)[: n * dtype.itemsize]
            if dtype.itemsize <= 8
            else np.tile(random, 2).view(np.uint8)
        )
        return np.frombuffer(words.tobytes(), dtype).reshape(shape)
    return ((values % 4096) / 8 - 100).astype(dtype).reshape(shape)


def golden():
    """Name -> (codec, tile): one of each kind of frame, table and transform."""
    from tilevault.codecs import LosslessCodec

    plain, pixels = LosslessCodec(), LosslessCodec(pack=False)
    grey = make("walk", (1, 48, 48), "u1")
    return {
        "constant": (plain, make("constant", (1, 30, 40), "i2")),
        "raw": (plain, make("noise", (9, 11), "u2")),
        "grey-u8": (pixels, make("walk", (33, 65), "u1")),
        "twelve-u16": (pixels, make("twelve", (64, 96), "u2")),
        "signed-i16": (pixels, make("walk", (70, 41), "i2")),
        "sparse-i8": (pixels, make("sparse", (90, 90), "i1")),
        "packed-u16": (plain, make("gaps", (64, 64), "u2")),
        "packed-f32": (plain, make("gaps", (48, 64), "f4")),
        "walk-u32": (pixels, make("walk", (40, 40), "u4")),
        "walk-f32": (pixels, make("walk", (40, 40), "f4")),
        "extremes-i32": (pixels, make("extremes", (60, 60), "i4")),
        "colour-u8": (pixels, np.concatenate([grey, grey + 9, grey ^ 1])),
        "stack-u16": (pixels, make("walk", (5, 24, 20), "u2")),
        "rank-5": (pixels, make("ramp", (2, 1, 3, 18, 22), "i2")),
        "one-level": (LosslessCodec(1, False), make("walk", (20, 50), "u1")),
        "zstd-f64": (plain, make("ramp", (20, 30), "f8")),
    }


def write_missing():
    """Write the vectors that are not there yet."""
    VECTORS.mkdir(parents=True, exist_ok=True)
    for name, (codec, tile) in golden().items():
        path = VECTORS / f"{name}.tile"
        if path.exists():
            continue
        data = codec.encode_tile(tile)
        path.write_bytes(data)
        levels = {
            f"reduce{k}": codec.decode_tile(data, tile.shape, tile.dtype, k) for k in range(codec.resolutions)
        }
        np.savez_compressed(VECTORS / f"{name}.npz", **levels)


if __name__ == "__main__":
    write_missing()
