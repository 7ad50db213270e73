"""The codecs of the field, each as two functions on tiles of any rank, one thread each.

Image codecs know one plane, or three or four components: they get each plane by itself, and where a tile is
(c, y, x) also all of it at once, and the smaller of both counts. What GeoTIFF holds of a tile with
INTERLEAVE=PIXEL is made with the same libraries that GDAL calls, at GDAL's default levels: differences along
x, then deflate 6 or Zstandard 9; LERC without loss.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from tilevault.codecs import LosslessCodec

__all__ = ["Codec", "Stream", "field_codecs", "own_codecs"]

Tile = NDArray[Any]


@dataclass(frozen=True)
class Stream:
    """What a codec made of a tile."""

    parts: tuple[bytes, ...]
    joint: bool

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(map(len, self.parts))


@dataclass(frozen=True)
class Codec:
    """One column of the tables."""

    name: str
    encode_plane: Callable[[Tile], bytes]
    decode_plane: Callable[[bytes], Tile]
    types: str = "u1 u2"
    """Other integers of the same size are offset, other types are not coded."""
    joint: Sequence[int] = ()
    """Numbers of components that it takes at once, as (y, x, c)."""
    slow: bool = False
    """Timed once only."""
    geotiff: bool = False

    def takes(self, tile: Tile) -> bool:
        """Whether the codec has a way to code this type."""
        return self._prepared(tile) is not None

    def encode(self, tile: Tile, joint: bool) -> Stream:
        """All planes alone, or all components at once."""
        taken = self._prepared(tile)
        if taken is None:
            raise TypeError(f"{self.name} does not code {tile.dtype}")
        if joint:
            return Stream((bytes(self.encode_plane(np.ascontiguousarray(np.moveaxis(taken, 0, -1)))),), True)
        planes = taken.reshape(-1, *taken.shape[-2:])
        return Stream(tuple(bytes(self.encode_plane(plane)) for plane in planes), False)

    def decode(self, stream: Stream, tile: Tile) -> Tile:
        """The tile as the codec took it."""
        parts = [np.asarray(self.decode_plane(part)) for part in stream.parts]
        if stream.joint:
            return np.moveaxis(parts[0], -1, 0)
        return np.stack(parts).reshape(tile.shape)

    def same(self, back: Tile, tile: Tile) -> bool:
        """Whether the decoded tile is what went in."""
        taken = self._prepared(tile)
        return taken is not None and back.dtype == taken.dtype and np.array_equal(back, taken, equal_nan=True)

    def joins(self, tile: Tile, colour_axis: bool) -> bool:
        """Whether the codec can take the tile's components at once."""
        return colour_axis and tile.ndim == 3 and tile.shape[0] in self.joint

    def _prepared(self, tile: Tile) -> Tile | None:
        if tile.dtype.str[1:] in self.types.split():
            return tile
        unsigned = f"u{tile.itemsize}"
        if tile.dtype.kind == "i" and unsigned in self.types.split():
            return (tile.astype(np.int64) - int(tile.min())).astype(unsigned)
        return None


class OwnCodec(Codec):
    """tilevault.lossless: takes the whole tile as it is, whatever its rank and type."""

    def __init__(self, name: str, codec: LosslessCodec) -> None:
        super().__init__(name, codec.encode_tile, np.asarray)
        object.__setattr__(self, "codec", codec)

    codec: LosslessCodec

    def takes(self, tile: Tile) -> bool:
        """Every type of the benchmark."""
        return True

    def encode(self, tile: Tile, joint: bool) -> Stream:
        """One stream."""
        return Stream((self.encode_plane(tile),), False)

    def decode(self, stream: Stream, tile: Tile) -> Tile:
        """With the tile's shape and type, which the archive keeps."""
        return self.codec.decode_tile(stream.parts[0], tile.shape, tile.dtype)

    def same(self, back: Tile, tile: Tile) -> bool:
        """Bit for bit."""
        return back.dtype == tile.dtype and back.tobytes() == tile.tobytes()


def own_codecs(pack: bool) -> list[OwnCodec]:
    """Ours, with packing as the archive permits it: always for `size`, which has no cheap levels to lose."""
    return [
        OwnCodec(name, LosslessCodec(pack=pack or name == "size", prefer=name))
        for name in ("resolution", "size")
    ]


def field_codecs(float_tiles: bool = False) -> list[Codec]:
    """The others; ``float_tiles``: GeoTIFF's floating-point predictor in the place of the integers'."""
    ic, every = imagecodecs, "u1 i1 u2 i2 u4 i4 f4"

    def jxl(effort: int) -> Codec:
        return Codec(
            f"JPEG XL e{effort}",
            lambda t: ic.jpegxl_encode(t, lossless=True, effort=effort, numthreads=1),
            lambda b: ic.jpegxl_decode(b, numthreads=1),
            types="u1 u2 f4",
            joint=range(2, 17),
            slow=effort > 4,
        )

    return [
        Codec("JPEG-LS", ic.jpegls_encode, ic.jpegls_decode, joint=(3, 4)),
        Codec(
            "JPEG 2000",
            lambda t: ic.jpeg2k_encode(t, level=0, reversible=True, codecformat="j2k", numthreads=1),
            lambda b: ic.jpeg2k_decode(b, numthreads=1),
            joint=(3, 4),
        ),
        Codec("HTJ2K", lambda t: ic.htj2k_encode(t, reversible=True), ic.htj2k_decode, joint=(3, 4)),
        jxl(1),
        jxl(3),
        jxl(7),
        _shuffled(every),
        _tiff("TIFF deflate", lambda b: ic.deflate_encode(b, 6), ic.deflate_decode, float_tiles),
        _tiff("TIFF zstd", lambda b: ic.zstd_encode(b, 9), ic.zstd_decode, float_tiles),
        Codec(
            "LERC",
            lambda t: ic.lerc_encode(t, 0),
            ic.lerc_decode,
            types=every,
            joint=range(2, 17),
            geotiff=True,
        ),
    ]


def _header(tile: Tile) -> bytes:
    """Type and shape, 16 bytes: about what our own frames say about themselves."""
    return tile.dtype.str.encode().ljust(4) + np.array([*tile.shape, 1][:3], "<u4").tobytes()


def _shaped(data: bytes) -> tuple[bytes, tuple[int, ...], np.dtype[Any]]:
    y, x, c = np.frombuffer(data[4:16], "<u4")
    return data[16:], (int(y), int(x), int(c)), np.dtype(data[:4].decode().strip())


def _shuffled(types: str) -> Codec:
    def encode(tile: Tile) -> bytes:
        bits = imagecodecs.bitshuffle_encode(tile.tobytes(), itemsize=tile.itemsize)
        return _header(tile) + imagecodecs.zstd_encode(bits, level=3)

    def decode(data: bytes) -> Tile:
        body, (y, x, _), dtype = _shaped(data)
        raw = imagecodecs.bitshuffle_decode(imagecodecs.zstd_decode(body), itemsize=dtype.itemsize)
        return np.frombuffer(raw, dtype).reshape(y, x)

    return Codec("zstd bitshuffle", encode, decode, types=types)


def _tiff(
    name: str, compress: Callable[[Any], bytes], inflate: Callable[[bytes], bytes], float_tiles: bool
) -> Codec:
    """PREDICTOR=2, or 3 for floats."""

    def encode(tile: Tile) -> bytes:
        if float_tiles:
            body = imagecodecs.floatpred_encode(tile, axis=1)
        else:
            body = imagecodecs.delta_encode(tile, axis=1)
        return _header(tile) + compress(body)

    def decode(data: bytes) -> Tile:
        body, (y, x, c), dtype = _shaped(data)
        shape = (y, x) if c == 1 else (y, x, c)
        raw = np.frombuffer(inflate(body), dtype).reshape(shape)
        if float_tiles:
            return np.asarray(imagecodecs.floatpred_decode(raw, axis=1))
        return np.asarray(imagecodecs.delta_decode(raw, axis=1))

    types = "f4" if float_tiles else "u1 i1 u2 i2 u4 i4"
    return Codec(name, encode, decode, types=types, joint=range(2, 17), geotiff=True)
