"""TileCodec: what every codec of this package promises, and its one adapter to Zarr.

A codec turns the valid samples of one tile into bytes and back. As a Zarr v3 serializer it sees whole
chunks: what Zarr hands in is coded at the chunk's full extent, and a frame that was written at a smaller
extent (see `TileCodec.encode_tile`) comes back padded with zeros.
"""

import asyncio
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray
from zarr.abc.codec import ArrayBytesCodec

from tilevault.codecs.errors import InvalidRequest, ManifestCorrupt

if TYPE_CHECKING:
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, NDBuffer
    from zarr.core.chunk_grids import ChunkGrid
    from zarr.core.common import JSON
    from zarr.core.dtype.wrapper import TBaseDType, TBaseScalar, ZDType

__all__ = ["TileCodec"]


@dataclass(frozen=True)
class TileCodec(ArrayBytesCodec):
    """Tiles to bytes and back. The fields of a subclass are its Zarr configuration (JSON values only)."""

    is_fixed_size: ClassVar[bool] = False  # type: ignore[misc]  # a class constant, not a field
    codec_name: ClassVar[str]
    """Name in Zarr metadata; the entry point in the group ``zarr.codecs`` has the same."""

    @property
    @abstractmethod
    def resolutions(self) -> int:
        """How many segments `segment_ends` tells; ``reduce`` is below this."""

    @abstractmethod
    def encode_tile(self, tile: NDArray[Any]) -> bytes:
        """The bytes of one tile.

        tile: the valid samples only, two to five axes, the last two y and x, any memory order.
        Raises InvalidRequest for arrays that the codec does not code.
        """

    @abstractmethod
    def decode_tile(
        self, data: bytes | memoryview, shape: tuple[int, ...], dtype: DTypeLike, reduce: int = 0
    ) -> NDArray[Any]:
        """The samples of one tile, shape ``(*lead, ceil(y / 2**reduce), ceil(x / 2**reduce))``.

        shape: the chunk's; the frame's own extents are at most that along each axis, and what lies beyond
        them is 0. data: all bytes, or those up to ``segment_ends(data)[resolutions - 1 - reduce]``.
        Raises TileCorrupt if the bytes do not decode to that, and nothing else because of the bytes.
        """

    @abstractmethod
    def segment_ends(self, data: bytes | memoryview) -> tuple[int, ...]:
        """End offset of each resolution's segment in ``data``, coarsest first; the last is its length.

        data: all bytes of the tile. Raises TileCorrupt if its header is not sound.
        """

    # --- Zarr's side -----------------------------------------------------------------------------

    @classmethod
    def from_dict(cls, data: "dict[str, JSON]") -> Self:
        """From ``{"name": ..., "configuration": {...}}``; raises ManifestCorrupt for anything else."""
        name, configuration = data.get("name"), data.get("configuration", {})
        if name != cls.codec_name or not isinstance(configuration, Mapping):
            raise ManifestCorrupt(f"not a configuration of {cls.codec_name}: {data!r:.200}")
        unknown = sorted(
            str(key) for key in configuration if key not in {field.name for field in fields(cls)}
        )
        if unknown or set(data) - {"name", "configuration", "must_understand"}:
            raise ManifestCorrupt(f"{cls.codec_name} has no configuration {unknown or sorted(data)!r:.200}")
        try:
            return cls(**{str(key): value for key, value in configuration.items()})
        except (TypeError, ValueError, InvalidRequest) as error:
            raise ManifestCorrupt(f"{cls.codec_name}: {error}") from error

    def to_dict(self) -> "dict[str, JSON]":
        """As it lies in ``zarr.json``."""
        return {
            "name": self.codec_name,
            "configuration": {field.name: getattr(self, field.name) for field in fields(self)},
        }

    def validate(
        self, *, shape: tuple[int, ...], dtype: "ZDType[TBaseDType, TBaseScalar]", chunk_grid: "ChunkGrid"
    ) -> None:
        """Raises InvalidRequest for arrays of fewer than two or more than five axes, or not of numbers."""
        native = dtype.to_native_dtype()
        if not 2 <= len(shape) <= 5:
            raise InvalidRequest(f"{self.codec_name} codes arrays of two to five axes, not {len(shape)}")
        if native.kind not in "biufc":
            raise InvalidRequest(f"{self.codec_name} does not code {native}")

    def evolve_from_array_spec(self, array_spec: "ArraySpec") -> Self:
        """The codec itself: shape and type of a chunk come with each call."""
        return self

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: "ArraySpec") -> int:
        """Not known before encoding."""
        raise NotImplementedError

    def _encode_sync(self, chunk_array: "NDBuffer", chunk_spec: "ArraySpec") -> "Buffer | None":
        tile = np.asarray(chunk_array.as_numpy_array()).reshape(chunk_spec.shape)
        return chunk_spec.prototype.buffer.from_bytes(self.encode_tile(tile))

    def _decode_sync(self, chunk_bytes: "Buffer", chunk_spec: "ArraySpec") -> "NDBuffer":
        data = np.ascontiguousarray(chunk_bytes.as_numpy_array()).view(np.uint8)
        tile = self.decode_tile(data.data, chunk_spec.shape, chunk_spec.dtype.to_native_dtype())
        return chunk_spec.prototype.nd_buffer.from_numpy_array(tile)

    async def _encode_single(self, chunk_data: "NDBuffer", chunk_spec: "ArraySpec") -> "Buffer | None":
        return await asyncio.to_thread(self._encode_sync, chunk_data, chunk_spec)

    async def _decode_single(self, chunk_data: "Buffer", chunk_spec: "ArraySpec") -> "NDBuffer":
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)
