"""Small Zarr arrays in zstd chunks, and the Zarr v3 documents of all nodes, spelt here to the byte.

Coarse levels, tables and coordinates are plain: any Zarr reader opens them without this package. They are
written and read here and not through zarr, so that the same content gives the same bytes whatever
version of zarr is installed, and a hostile document cannot make a reader allocate what it likes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np
import zstandard

from tilevault.archive.documents import canonical
from tilevault.archive.image import Window, Words
from tilevault.codecs.errors import TileCorrupt

__all__ = [
    "CHUNK_BYTES",
    "PlainArray",
    "array_document",
    "compress",
    "expand",
    "group_document",
    "table_chunks",
]

CHUNK_BYTES = 1 << 20
"""Largest raw chunk of a plain array; chunk shapes follow from it, so it is part of the format."""
ZSTD_LEVEL = 5


def group_document(attributes: Mapping[str, Any]) -> bytes:
    """``zarr.json`` of a group."""
    return canonical({"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)})


def array_document(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    chunks: tuple[int, ...],
    codecs: list[dict[str, Any]],
    fill_value: Any = 0,
    attributes: Mapping[str, Any] | None = None,
    dimension_names: tuple[str, ...] | None = None,
) -> bytes:
    """``zarr.json`` of an array (Zarr core 3.0, "Array metadata")."""
    document: dict[str, Any] = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": _fill(fill_value, dtype),
        "codecs": codecs,
        "attributes": dict(attributes or {}),
        "storage_transformers": [],
    }
    if dimension_names is not None:
        document["dimension_names"] = list(dimension_names)
    return canonical(document)


def _fill(value: Any, dtype: np.dtype[Any]) -> Any:
    """A fill value as the Zarr specification spells it for the data type."""
    number = np.asarray(value).astype(dtype)[()]
    if dtype.kind == "c":
        return [_fill(number.real, number.real.dtype), _fill(number.imag, number.imag.dtype)]
    if dtype.kind != "f":
        return number.item()
    if np.isnan(number):
        return "NaN"
    if np.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return float(number)


def table_chunks(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """A chunk shape of at most 1 MiB, split along the first axes first."""
    chunks = [max(1, n) for n in shape]
    for axis in range(len(chunks)):
        rest = prod(chunks[axis + 1 :]) * itemsize
        chunks[axis] = min(chunks[axis], max(1, CHUNK_BYTES // rest))
        if prod(chunks) * itemsize <= CHUNK_BYTES:
            break
    return tuple(chunks)


@dataclass(frozen=True)
class PlainArray:
    """An array whose chunks are little-endian C-order words under zstd (with content size and checksum)."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]

    @classmethod
    def table(cls, path: str, shape: tuple[int, ...], dtype: Any) -> "PlainArray":
        """An array in chunks of at most 1 MiB."""
        dtype = np.dtype(dtype)
        return cls(path, shape, dtype, table_chunks(shape, dtype.itemsize))

    def document(
        self,
        fill_value: Any = 0,
        attributes: Mapping[str, Any] | None = None,
        dimension_names: tuple[str, ...] | None = None,
    ) -> bytes:
        """The array's ``zarr.json``."""
        codecs: list[dict[str, Any]] = [
            {"name": "bytes", "configuration": {"endian": "little"}}
            if self.dtype.itemsize > 1
            else {"name": "bytes"},
            {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": True}},
        ]
        return array_document(
            self.shape, self.dtype, self.chunks, codecs, fill_value, attributes, dimension_names
        )

    def chunk_indices(self, within: Window | None = None) -> Iterator[tuple[int, ...]]:
        """Positions of the chunks that ``within`` (default: all) meets, C order (a scalar has one)."""
        return product(*self._chunk_ranges(within))

    def chunk_count(self, within: Window | None = None) -> int:
        """How many chunks ``within`` (default: all) meets."""
        return prod(len(span) for span in self._chunk_ranges(within))

    def _chunk_ranges(self, within: Window | None) -> list[range]:
        within = within or Window((0,) * len(self.shape), self.shape)
        bounds = zip(within.start, within.stop, self.chunks, strict=True)
        return [range(a // c, -(-b // c)) if b > a else range(0) for a, b, c in bounds]

    @property
    def longest_chunk(self) -> int:
        """Bytes of a chunk object at most: zstd makes what it cannot compress a little longer."""
        raw = prod(self.chunks) * self.dtype.itemsize
        return raw + raw // 128 + 1024

    def chunk_key(self, index: tuple[int, ...]) -> str:
        """Key of a chunk relative to the generation."""
        return "/".join([self.path, "c", *map(str, index)])

    def window(self, index: tuple[int, ...]) -> Window:
        """The samples of a chunk that lie in the array."""
        start = tuple(i * c for i, c in zip(index, self.chunks, strict=True))
        return Window(
            start, tuple(min(a + c, n) for a, c, n in zip(start, self.chunks, self.shape, strict=True))
        )

    def encode_chunk(self, index: tuple[int, ...], words: Words) -> bytes:
        """A chunk object from the words of `window`; the rest of the chunk is zero."""
        full = np.zeros(self.chunks, self.dtype.newbyteorder("<"))
        full[self.window(index).shift(self.window(index).start).slices] = words
        return compress(full.tobytes())

    def decode_chunk(self, index: tuple[int, ...], data: bytes) -> Words:
        """The words of `window`. Raises `TileCorrupt` unless ``data`` holds exactly one chunk."""
        raw = expand(data, prod(self.chunks) * self.dtype.itemsize, self.chunk_key(index))
        full = np.frombuffer(raw, self.dtype.newbyteorder("<")).reshape(self.chunks)
        own = full[self.window(index).shift(self.window(index).start).slices]
        return np.ascontiguousarray(own, self.dtype)

    def encode(self, words: Words) -> dict[str, bytes]:
        """All chunk objects by key."""
        return {
            self.chunk_key(index): self.encode_chunk(index, words[self.window(index).slices])
            for index in self.chunk_indices()
        }


def compress(data: bytes, level: int = ZSTD_LEVEL) -> bytes:
    """One zstd frame with content size and checksum."""
    return zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True).compress(data)


def expand(data: bytes, size: int, what: str) -> bytes:
    """Undo `compress`, allocating ``size`` bytes and no more. Raises `TileCorrupt` if it is not that."""
    try:
        if zstandard.frame_content_size(data) != size:
            raise TileCorrupt(f"{what}: does not hold {size} bytes", object=what)
        raw = zstandard.ZstdDecompressor().decompress(data, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise TileCorrupt(f"{what}: {error}", object=what) from error
    return raw
