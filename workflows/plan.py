"""What will be read and written for one image: pure decisions, but for a look at a few tiles."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import zstandard

from tilevault.archive.description import Description
from tilevault.archive.documents import canonical, sha256_hex
from tilevault.archive.formats import SourceImage, formats
from tilevault.archive.grid import TileGrid, tile_shape
from tilevault.archive.image import ImageInfo, Window, Words
from tilevault.archive.manifest import generation_id, image_id
from tilevault.archive.tiles import TiledArray
from tilevault.codecs import FrameCodec, LearnedCodec, LosslessCodec
from tilevault.codecs.base import TileCodec

__all__ = [
    "describe",
    "generation_of",
    "has_low_bands",
    "image_name",
    "packed_sizes",
    "sampled_tiles",
    "settle_downsampling",
    "shard_inputs",
    "source_batches",
    "worth_packing",
]

SAMPLED_TILES = 4
PACKING_GAIN = 0.10
"""Histogram packing costs the cheap levels, so it must save at least this share of the bytes."""
LEVEL_SHARE = 0.04
"""Raw bytes of the largest stored level of encapsulated frames, as a share of the frames' own bytes."""
FILES_PER_BATCH = 256
BYTES_PER_BATCH = 64 << 20


def has_low_bands(info: ImageInfo) -> bool:
    """Whether levels may be low bands of the wavelet: continuous integers, every sample valid."""
    return (
        info.dtype.kind in "iu"
        and info.dtype.itemsize <= 4
        and not info.categorical
        and info.nodata is None
        and not info.has_mask
        and info.bits_stored != 1
    )


def sampled_tiles(info: ImageInfo, side: int) -> Iterator[Window]:
    """A few tiles spread evenly over an image."""
    grid = TileGrid.plan(
        info.shape, tile_shape(info.shape, info.axes, side, info.dtype.itemsize), info.dtype.itemsize
    )
    count = prod(grid.tiles)
    for i in range(min(SAMPLED_TILES, count)):
        flat = (2 * i + 1) * count // (2 * min(SAMPLED_TILES, count))
        yield grid.tile_window(tuple(int(j) for j in np.unravel_index(flat, grid.tiles)))


def packed_sizes(words: Words) -> tuple[int, int]:
    """Bytes of a tile without and with packing: of values that do not occur, of what repeats."""
    plain, packed = LosslessCodec(pack=False), LosslessCodec(pack=True)
    return len(plain.encode_tile(words)), len(packed.encode_tile(words))


def worth_packing(sizes: Iterable[tuple[int, int]]) -> bool:
    """Whether packing makes the sampled tiles (`packed_sizes`) clearly smaller."""
    plain, packed = np.sum([*sizes, (0, 0)], axis=0)
    return bool(packed < (1 - PACKING_GAIN) * plain)


def describe(
    image: SourceImage, side: int, pack: bool, prefer: str, lossy: LearnedCodec | None = None
) -> Description:
    """The description of an image that is about to be stored, with ``lossy`` where it has one.

    Raises `LimitExceeded`.
    """
    name = image_name(image)
    common: dict[str, Any] = {
        "image": image_id(image.kind, image.key, image.fidelity),
        "fidelity": image.fidelity,
        "kind": image.kind,
        "key": image.key,
        "format": image.format,
        "name": name,
        "round_trip": image.round_trip,
        "search": image.search,
        "layout": image.layout,
        "warnings": image.warnings,
    }
    if image.info is None:
        return Description(info=None, codec=None, tile=None, shard=None, levels=(), **common)
    if image.codec is None:
        codec: TileCodec = lossy or LosslessCodec(pack=pack, prefer=prefer)
        tile = tile_shape(image.info.shape, image.info.axes, side, image.info.dtype.itemsize)
        planned = Description.plan(image.info, codec, tile, **common)
    else:
        codec = FrameCodec(image.codec, **image.layout["codec"])
        planned = Description.plan(image.info, codec, tuple(image.layout["chunk"]), **common)
        planned = replace(planned, levels=_affordable(planned, sum(file.size for file in image.sources)))
    planned.check()
    return planned


def image_name(image: SourceImage) -> str:
    """What people call it: the format's name for it, the file, or the folder that all its files share."""
    if "name" in image.search:
        return str(image.search["name"])
    names = [file.name for file in image.sources if file.format != "sidecar"]
    folder = os.path.commonpath(names)
    return folder or str(image.search.get("SeriesDescription") or names[0])


def _affordable(description: Description, stored: int) -> tuple[int, ...]:
    """The stored levels of frames that stay as they are: only a small share of what the frames take."""
    info = description.info
    assert info is not None
    raw = {k: prod(description.level_shape(k)) * info.dtype.itemsize for k in description.levels}
    kept = [k for k in description.levels[1:] if raw[k] <= LEVEL_SHARE * stored]
    return (0, *(kept or description.levels[1:][-1:]))


def settle_downsampling(description: Description, plain: bool) -> Description:
    """Decide how levels are made, now that all words are known to be plain values or not."""
    info, codec = description.info, description.codec
    assert info is not None
    if (
        info.categorical
        or info.bits_stored == 1
        or info.dtype.kind == "c"
        or info.dtype.name in ("int64", "uint64")
    ):
        return description.with_downsampling("nearest")
    low_bands = has_low_bands(info) and plain and isinstance(codec, LosslessCodec) and not codec.pack
    return description.with_downsampling("lowpass53" if low_bands else "mean")


def generation_of(image: SourceImage, description: Description, removal: str | None = None) -> str:
    """The generation's name: the same work has the same name, so an interrupted run finds itself.

    ``removal`` is the SHA-256 of the commit record that removed the image before, if one did: what is added
    after a removal never lies where the removal may still be deleting.
    """
    return generation_id(
        {
            "image": description.image,
            "removal": removal,
            "description": sha256_hex(canonical(description.to_json())),
            "sources": [[file.name, file.sha256, file.format] for file in image.sources],
            "codec": None if description.codec is None else description.codec.to_dict(),
            "tile": description.tile,
            "shard": description.shard,
            "zstd": list(zstandard.ZSTD_VERSION),
        }
    )


def shard_inputs(image: SourceImage, array: TiledArray, role: str, index: tuple[int, ...]) -> str:
    """Digest of what goes into a shard. The same inputs give the same bytes, in whatever generation."""
    window = array.grid.shard_window(index)
    module = formats()[image.format]
    document: Mapping[str, Any] = {
        "role": role,
        "codec": array.codec.to_dict(),
        "dtype": array.dtype.name,
        "tile": array.grid.tile,
        "shard": array.grid.tiles_per_shard,
        "sources": module.window_inputs(image, window) if role == "data" else image.sources[0].sha256,
        "window": None if role == "data" else [window.start, window.stop],
    }
    return sha256_hex(canonical(document))


def source_batches(image: SourceImage) -> list[range]:
    """Runs of source files whose non-pixel bytes one task stores."""
    batches, start, size = [], 0, 0
    for i, file in enumerate(image.sources):
        whole = image.info is None or file.format == "sidecar"
        size += file.size if whole else min(file.size, 1 << 16)
        if i + 1 - start >= FILES_PER_BATCH or size >= BYTES_PER_BATCH:
            batches.append(range(start, i + 1))
            start, size = i + 1, 0
    if start < len(image.sources):
        batches.append(range(start, len(image.sources)))
    return batches
