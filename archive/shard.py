"""One shard object, as the Zarr v3 codec ``sharding_indexed`` lays it out (index at the end).

::

    tile bytes, crc32c | tile bytes, crc32c | ... | (offset u64, nbytes u64) per place | crc32c of the index

All integers little-endian. A place outside the array (in a shard at the far edge) has offset and nbytes
2**64 - 1. Assembled and read here rather than by zarr, so that every length is checked and no missing tile
turns into a fill value.
"""

from collections.abc import Mapping
from math import prod

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from tilevault.codecs.errors import TileCorrupt

__all__ = ["CRC_BYTES", "build_shard", "crc32c", "index_bytes", "parse_index"]

CRC_BYTES = 4
_ABSENT = 2**64 - 1


def crc32c(data: bytes | memoryview) -> bytes:
    """CRC-32C (Castagnoli) as the Zarr codec ``crc32c`` appends it: 4 bytes, little-endian."""
    return int(google_crc32c.value(bytes(data))).to_bytes(CRC_BYTES, "little")


def index_bytes(tiles_per_shard: tuple[int, ...]) -> int:
    """Length of the index at the end of a shard, its checksum included."""
    return 16 * prod(tiles_per_shard) + CRC_BYTES


def build_shard(tiles: Mapping[int, bytes], tiles_per_shard: tuple[int, ...]) -> list[bytes]:
    """The pieces of a shard object; ``tiles`` maps place (C order) to the codec's bytes."""
    index = np.full((prod(tiles_per_shard), 2), _ABSENT, dtype="<u8")
    pieces, offset = [], 0
    for place, data in sorted(tiles.items()):
        pieces += [data, crc32c(data)]
        index[place] = offset, len(data) + CRC_BYTES
        offset += len(data) + CRC_BYTES
    raw = index.tobytes()
    return [*pieces, raw, crc32c(raw)]


def parse_index(tail: bytes, size: int, tiles_per_shard: tuple[int, ...], key: str) -> NDArray[np.uint64]:
    """The (place, 2) table of offsets and lengths from a shard's last `index_bytes` bytes.

    Raises `TileCorrupt` if the checksum differs or a tile would lie outside the shard's ``size`` bytes.
    """
    if len(tail) != index_bytes(tiles_per_shard) or crc32c(tail[:-CRC_BYTES]) != tail[-CRC_BYTES:]:
        raise TileCorrupt(f"{key}: the index of the shard is damaged", object=key)
    index = np.frombuffer(tail[:-CRC_BYTES], dtype="<u8").reshape(-1, 2)
    room = np.uint64(size - len(tail))
    present = index[:, 0] != np.uint64(_ABSENT)
    offset, length = index[present, 0], index[present, 1]
    if np.any(offset > room) or np.any(length > room - np.minimum(offset, room)):
        raise TileCorrupt(f"{key}: the index names bytes outside the shard", object=key)
    return index
