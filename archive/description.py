"""What a generation says of itself in ``source/image.json``: the image, its arrays, its levels.

From this value everything else about a generation's layout follows: which arrays there are, how they are
cut, which coarse levels are stored in which chunks. Reading one from an archive checks every field
against the limits before anything is allocated.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from tilevault.archive.documents import parse
from tilevault.archive.grid import DECOMPOSITIONS, TileGrid, reduced_extent, tile_shape
from tilevault.archive.image import ImageInfo
from tilevault.archive.limits import check_grid, check_info
from tilevault.archive.plain import CHUNK_BYTES, PlainArray
from tilevault.archive.tiles import TiledArray
from tilevault.codecs import FrameCodec, LearnedCodec, LosslessCodec
from tilevault.codecs.base import TileCodec
from tilevault.codecs.errors import InvalidRequest, ManifestCorrupt, TilevaultError

__all__ = ["Description", "info_from_json", "info_to_json"]

FIRST_STORED_LEVEL = 3
SMALLEST_LEVEL = 32
"""The longer side of a stored level is at least this."""
BLOCK_SIDE = 4096
"""Level-0 side of the square that one pyramid task reduces; the chunks of stored levels follow from it, so it
is part of the format."""
DOWNSAMPLINGS = ("lowpass53", "mean", "nearest")
ROUND_TRIPS = ("file-exact", "metadata-exact", "lossy")
EXACT = "exact"
SMALL = 64 << 10
"""Bytes of an ``image.json`` that is remembered, for whoever opens an image for each tile."""
_CODECS: dict[str, type[TileCodec]] = {
    "tilevault.lossless": LosslessCodec,
    "tilevault.frame": FrameCodec,
    "tilevault.learned": LearnedCodec,
}


def info_to_json(info: ImageInfo) -> dict[str, Any]:
    """JSON values of an `ImageInfo`."""
    return {
        "shape": list(info.shape),
        "dtype": info.dtype.name,
        "axes": list(info.axes),
        "kind": info.kind,
        "bits_stored": info.bits_stored,
        "nodata": info.nodata,
        "categorical": info.categorical,
        "has_mask": info.has_mask,
        "native_blocks": None if info.native_blocks is None else list(info.native_blocks),
        "attributes": dict(info.attributes),
    }


def info_from_json(document: Mapping[str, Any]) -> ImageInfo:
    """The `ImageInfo` that was stored. Raises `ManifestCorrupt` or `LimitExceeded`."""
    try:
        info = ImageInfo(
            shape=tuple(_list(document["shape"])),
            dtype=np.dtype(_text(document["dtype"])),
            axes=tuple(_list(document["axes"])),
            kind=document["kind"],
            bits_stored=document["bits_stored"],
            nodata=document["nodata"],
            categorical=document["categorical"],
            has_mask=document["has_mask"],
            native_blocks=_tuple(document["native_blocks"]),
            attributes=_mapping(document["attributes"]),
        )
    except (KeyError, TypeError, ValueError, SyntaxError) as error:
        raise ManifestCorrupt(f"image.json: not the description of an image: {error}") from error
    check_info(info)
    return info


@dataclass(frozen=True)
class Description:
    """All that a generation records about itself besides its bytes."""

    image: str
    kind: str
    key: str
    format: str
    name: str
    round_trip: str
    """``file-exact``, ``metadata-exact`` or ``lossy``."""
    info: ImageInfo | None
    """None: files without pixels, kept verbatim."""
    codec: TileCodec | None
    tile: tuple[int, ...] | None
    shard: tuple[int, ...] | None
    mask_shard: tuple[int, ...] | None = None
    """Shard (y, x) of the mask's array, where there is a mask."""
    downsampling: str | None = None
    levels: tuple[int, ...] = (0,)
    """Stored levels, 0 first."""
    search: Mapping[str, Any] = field(default_factory=dict)
    layout: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    fidelity: str = EXACT
    """``exact``, or the target of a lossy image."""

    @classmethod
    def plan(
        cls, info: ImageInfo, codec: TileCodec, tile: tuple[int, ...] | None = None, **fields: Any
    ) -> "Description":
        """Cut an image into tiles (default: as `tile_shape` says) and shards."""
        tile = tile or tile_shape(info.shape, info.axes)
        check_info(info)
        grid = TileGrid.plan(info.shape, tile, info.dtype.itemsize)
        longest = max(info.shape[-2:])
        levels = [
            k
            for k in range(FIRST_STORED_LEVEL, DECOMPOSITIONS + 1)
            if reduced_extent(longest, k) >= SMALLEST_LEVEL
        ]
        mask_shard = TileGrid.plan(info.shape[-2:], tile[-2:], 1).shard if info.has_mask else None
        return cls(
            info=info,
            codec=codec,
            tile=tile,
            shard=grid.shard,
            mask_shard=mask_shard,
            levels=(0, *levels),
            **fields,
        )

    def with_downsampling(self, downsampling: str) -> "Description":
        """The same, once the tiles have shown how levels can be made."""
        return replace(self, downsampling=downsampling)

    @property
    def data(self) -> TiledArray:
        """The array of pixels."""
        info, codec = self._pixels()
        assert self.tile is not None
        assert self.shard is not None
        return TiledArray(self.level_path(0), info.dtype, TileGrid(info.shape, self.tile, self.shard), codec)

    @property
    def mask(self) -> TiledArray | None:
        """The array of validity, where there is one: tiles of the same side."""
        info, _ = self._pixels()
        if not info.has_mask:
            return None
        assert self.tile is not None
        assert self.mask_shard is not None
        grid = TileGrid(info.shape[-2:], self.tile[-2:], self.mask_shard)
        return TiledArray("0/mask", np.dtype(np.uint8), grid, LosslessCodec(pack=False))

    @property
    def counts_valid(self) -> bool:
        """Whether the valid samples of each tile are counted: scenes of integers with nodata and no mask.

        Their levels are means, and the low bands of tiles that have no nodata look the same for less work.
        """
        info = self.info
        return (
            info is not None
            and isinstance(self.codec, LosslessCodec)
            and info.nodata is not None
            and info.dtype.kind in "iu"
            and info.bits_stored is None
            and not info.has_mask
            and not info.categorical
        )

    @property
    def arrays(self) -> dict[str, TiledArray]:
        """The tiled arrays by role: ``data``, and ``mask`` where there is one."""
        if self.info is None:
            return {}
        return {"data": self.data, **({"mask": self.mask} if self.mask else {})}

    def level_path(self, level: int, role: str = "data") -> str:
        """Zarr path of a level's array: medical levels are arrays, satellite levels are groups."""
        info, _ = self._pixels()
        return str(level) if info.kind == "medical" else f"{level}/{role}"

    def level_shape(self, level: int, role: str = "data") -> tuple[int, ...]:
        """Shape of a level's array."""
        info, _ = self._pixels()
        shape = info.shape if role == "data" else info.shape[-2:]
        return (*shape[:-2], *(reduced_extent(n, level) for n in shape[-2:]))

    def coarse(self, level: int, role: str = "data") -> PlainArray:
        """The plain array of a stored coarse level; its chunks cover the same squares on every level."""
        info, _ = self._pixels()
        dtype = info.dtype if role == "data" else np.dtype(np.uint8)
        shape = self.level_shape(level, role)
        block = self.block(role)
        side = [min(b >> level, n) for b, n in zip(block[-2:], shape[-2:], strict=True)]
        return PlainArray(self.level_path(level, role), shape, dtype, (*block[:-2], *side))

    def block(self, role: str = "data") -> tuple[int, ...]:
        """Level-0 extent that one pyramid task reduces: at most 1 MiB at the first coarse level."""
        info, _ = self._pixels()
        itemsize = info.dtype.itemsize if role == "data" else 1
        shape = info.shape if role == "data" else info.shape[-2:]
        side = BLOCK_SIDE
        while (side >> FIRST_STORED_LEVEL) ** 2 * itemsize > CHUNK_BYTES:
            side //= 2
        block = [1] * len(shape)
        block[-2:] = side, side
        plane = prod(reduced_extent(min(side, n), FIRST_STORED_LEVEL) for n in shape[-2:]) * itemsize
        room = max(1, CHUNK_BYTES // plane)
        for axis in reversed(range(len(shape) - 2)):
            block[axis] = min(shape[axis], room)
            room //= block[axis]
            if block[axis] < shape[axis]:
                break
        return tuple(block)

    def to_json(self) -> dict[str, Any]:
        """JSON values, as ``source/image.json`` holds them; exact images do not say that they are."""
        lossy = {} if self.fidelity == EXACT else {"fidelity": self.fidelity}
        return {
            **lossy,
            "image": self.image,
            "kind": self.kind,
            "key": self.key,
            "format": self.format,
            "name": self.name,
            "round_trip": self.round_trip,
            "info": None if self.info is None else info_to_json(self.info),
            "codec": None if self.codec is None else self.codec.to_dict(),
            "tile": None if self.tile is None else list(self.tile),
            "shard": None if self.shard is None else list(self.shard),
            "mask_shard": None if self.mask_shard is None else list(self.mask_shard),
            "downsampling": self.downsampling,
            "levels": list(self.levels),
            "search": dict(self.search),
            "layout": dict(self.layout),
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_bytes(cls, data: bytes) -> "Description":
        """From ``source/image.json``; of small documents the last are remembered by their bytes.

        Raises `ManifestCorrupt` or `LimitExceeded`.
        """
        return _remembered(data) if len(data) <= SMALL else cls.from_json(parse(data, "image.json"))

    @classmethod
    def from_json(cls, document: Any) -> "Description":
        """Raises `ManifestCorrupt` or `LimitExceeded`."""
        try:
            fields = dict(document)
            info, codec = fields.pop("info"), fields.pop("codec")
            edges = {name: _tuple(fields.pop(name)) for name in ("tile", "shard", "mask_shard")}
            made = cls(
                info=None if info is None else info_from_json(info),
                codec=None if codec is None else _codec_from_json(codec),
                levels=tuple(_list(fields.pop("levels"))),
                search=_mapping(fields.pop("search")),
                layout=_mapping(fields.pop("layout")),
                warnings=tuple(_text(warning) for warning in _list(fields.pop("warnings"))),
                downsampling=fields.pop("downsampling"),
                **edges,  # type: ignore[arg-type]  # unpacked by name: mypy sees one type for all
                **{name: _text(value) for name, value in fields.items()},  # type: ignore[arg-type]  # likewise
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ManifestCorrupt(f"image.json: {error}") from error
        made.check()
        if made.info is not None and made.downsampling not in DOWNSAMPLINGS:
            raise ManifestCorrupt("image.json: the levels it describes cannot be")
        return made

    def check(self) -> None:
        """Raises `ManifestCorrupt` if the arrays cannot be so, `LimitExceeded` if they are too large."""
        if self.info is None:
            sound = self.codec is None and self.tile is None and self.shard is None and not self.levels
        else:
            first, *coarse = self.levels or (None,)
            sound = (
                self.codec is not None
                and self.tile is not None
                and self.shard is not None
                and (self.mask_shard is not None) == self.info.has_mask
                and (first, type(first)) == (0, int)
                and all(type(k) is int and FIRST_STORED_LEVEL <= k <= DECOMPOSITIONS for k in coarse)
                and coarse == sorted(set(coarse))
            )
        if not sound or self.round_trip not in ROUND_TRIPS or not self._sound_fidelity():
            raise ManifestCorrupt("image.json: the arrays it describes cannot be")
        if self.info is not None:
            check_info(self.info)
            for array in self.arrays.values():
                check_grid(self.info, array.grid, array.codec)

    def _sound_fidelity(self) -> bool:
        """Whether codec, round trip and fidelity tell the same: lossy pixels never pass for exact ones."""
        stated = self.codec.fidelity if isinstance(self.codec, LearnedCodec) else EXACT
        return self.fidelity == stated and (self.round_trip == "lossy") == (stated != EXACT)

    def _pixels(self) -> tuple[ImageInfo, TileCodec]:
        if self.info is None or self.codec is None:
            raise InvalidRequest(f"image {self.image} holds no pixels; its files are kept as they are")
        return self.info, self.codec


@lru_cache(64)
def _remembered(data: bytes) -> Description:
    return Description.from_json(parse(data, "image.json"))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text, not {value!r:.100}")
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"an object, not {value!r:.100}")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"a list, not {value!r:.100}")
    return value


def _tuple(value: Any) -> tuple[int, ...] | None:
    return None if value is None else tuple(_list(value))


def _codec_from_json(document: Any) -> TileCodec:
    name = document.get("name") if isinstance(document, dict) else None
    if name not in _CODECS:
        raise ManifestCorrupt(f"image.json: no codec of the name {str(name)[:100]!r} is allowed")
    try:
        return _CODECS[name].from_dict(document)
    except TilevaultError as error:
        raise ManifestCorrupt(f"image.json: codec configuration: {error}") from error
