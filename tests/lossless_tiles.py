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


def from_two() -> np.ndarray:
    """Three planes of 48 x 48 in 8 bits: one follows another, the third follows the mean of both."""
    one = make("walk", (48, 48), "u1") // 2 + 60
    two = one + make("noise", (48, 48), "u1") % 8
    three = (one.astype(int) + two) // 2 + make("noise", (49, 48), "u1")[1:] % 2
    return np.stack([two, three.astype("u1"), one])


def golden():
    """Name -> (codec, tile): one of each kind of frame, table and transform."""
    from tilevault.codecs import LosslessCodec

    plain, pixels = LosslessCodec(), LosslessCodec(pack=False)
    size, small = LosslessCodec(pack=False, prefer="size"), LosslessCodec(prefer="size")
    grey = make("walk", (1, 48, 48), "u1")
    walk = make("walk", (130, 24), "i2")
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
        "colour-other-u8": (pixels, from_two()),
        "stack-u16": (pixels, make("walk", (5, 24, 20), "u2")),
        "rank-5": (pixels, make("ramp", (2, 1, 3, 18, 22), "i2")),
        "one-level": (LosslessCodec(1, False), make("walk", (20, 50), "u1")),
        "smooth-u16": (pixels, smooth(216, 208)),
        "bands-i16": (pixels, bands()),
        "transposed-u16": (pixels, interpolated(70, 96)),
        "transposed-stack-i16": (pixels, np.stack([interpolated(40, 56, i) for i in (3, 4)]).astype("i2")),
        "transposed-f32": (pixels, interpolated(60, 64).astype("f4")),
        "huffman-u16": (LosslessCodec(pack=False, entropy="huffman"), make("twelve", (64, 96), "u2")),
        "huffman-i8": (LosslessCodec(pack=False, entropy="huffman"), make("sparse", (90, 90), "i1")),
        "planes-u16": (plain, _stack("u2")),
        "planes-f32": (plain, _stack("f4")),
        "planes-u8": (plain, _own_values()),
        "predicted-u16": (size, make("twelve", (140, 48), "u2")),
        "predicted-i8": (size, make("walk", (20, 33), "i1")),
        "predicted-stack-i16": (size, np.stack([walk, walk // 2 + 40, walk[::-1]])),
        "predicted-colour-u8": (small, np.concatenate([grey, grey + 9, grey ^ 1])),
        "predicted-packed-u16": (small, make("gaps", (64, 64), "u2")),
        "predicted-f32": (size, make("walk", (40, 40), "f4")),
        "predicted-u32": (size, make("walk", (130, 21), "u4") * np.uint32(999_999)),
        "clusters-i16": (small, scaled((52, 60))),
        "zstd-f64": (plain, make("ramp", (20, 30), "f8")),
    }


def scaled(shape, dtype="i2", factor=44.7):
    """A few integers times about ``factor``, which drifts a little over the image; nodata in a corner."""
    steps = make("walk", shape, "i8", 5) // 5 % 8 + 24
    y, x = np.arange(shape[-2])[:, None], np.arange(shape[-1])
    drift = 1 + (x + y) / (x + y).max() / 7 / factor
    tile = np.rint(steps * factor * drift).astype(dtype)
    tile[..., x + y < shape[-1] // 8] = 0
    return tile


def smooth(height, width):
    """Noise without its high frequencies: what fitted prediction is for."""
    image = make("noise", (height + 9, width + 9), "u2").astype(np.int64) % 4096
    for _ in range(3):
        image = (image[:-3] + image[1:-2] + image[2:-1] + image[3:]) // 4
        image = (image[:, :-3] + image[:, 1:-2] + image[:, 2:-1] + image[:, 3:]) // 4
    return image.astype("u2")


def interpolated(height, width, seed=3):
    """Noise whose rows were interpolated to 8/5 of their samples, as scanners do."""
    noise = make("noise", (height, width), "u8", seed)
    noise = (noise ^ (noise >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    rows = (noise >> np.uint64(45)).astype(np.int64) % 4096
    at, part = np.divmod(np.arange(width) * 5, 8)
    return ((rows[:, at] * (8 - part) + rows[:, at + 1] * part) // 8).astype("u2")


def bands():
    """Bands of one scene, each like one or two before it."""
    first, second = smooth(60, 64).astype(np.int64), make("walk", (60, 64), "i4")
    third = (3 * first - 5 * second) // 4 + make("noise", (60, 64), "u1") % 4
    return np.stack([first, second, third, first // 3 - 700]).astype("i2")


def _stack(dtype):
    """Bands upsampled by repetition, one of them irregularly; floats cross zero and are absent in places."""
    fine = make("twelve", (30, 28), dtype)
    double = np.repeat(np.repeat(make("walk", (16, 15), dtype), 2, 0), 2, 1)[1:31, :28]
    coarse = np.repeat(np.repeat(make("walk", (7, 7), dtype, 5), 6, 0), 6, 1)[4:34, 2:30]
    rows = np.cumsum(make("gaps", (30, 1), "u1")[:, 0] > 60)
    irregular = make("noise", (31, 28), "u2").astype(dtype)[rows]
    stack = np.stack([fine, double, coarse, irregular, np.full_like(fine, 7)])
    if stack.dtype.kind == "f":
        stack[0] = stack[0] * -2.5
        stack[0, 3:9, 3:20] = 1e30
    return stack


def _own_values():
    """Each plane has values that the others have not."""
    rough = make("walk", (128, 128), "i8") + make("noise", (128, 128), "i8") % 8
    return np.stack([(rough % 32) * 8 + 3, (rough % 200) + 20, 255 - (rough % 16) * 16]).astype("u1")


def varint(n):
    """A number as frame headers hold it: base 128, the least significant group first."""
    out = b""
    while n >= 128:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


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
