"""A reader of archives, written from docs/format.md alone: nothing of the package is imported here.

It is what somebody would write who has the document and an archive, and nothing else. It checks every
digest on the way, reads the words of images, their levels and masks, and puts the source files together
again. It is simple and slow: images are read whole, and the tile frame of section 2 is decoded by the twin
that was written from it. Of the coded frames of section 3 it decodes those that need no further standard.
"""

import hashlib
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from itertools import product
from math import ceil, floor, prod
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zstandard
from blake3 import blake3
from numpy.typing import NDArray

import learned_twin
import lossless_twin

__all__ = ["Damaged", "Image", "images", "open_image"]

Array = NDArray[Any]
KEY = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}(/[a-z0-9][a-z0-9._-]{0,127}){0,15}")
VERSION = 1


class Damaged(Exception):
    """Something is not what it should be."""


def need(condition: Any, what: str) -> None:
    if not condition:
        raise Damaged(what)


# --- 1.2 digests, 1.3 documents ----------------------------------------------------------------------------


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def blake3_128(data: bytes) -> bytes:
    return blake3(data).digest()[:16]


def crc32c(data: bytes) -> bytes:
    return struct.pack("<I", google_crc32c.value(data))


def canonical(value: Any) -> bytes:
    text = json.dumps(spelt(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")


def spelt(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return {"$float": repr(value)}
    if isinstance(value, dict):
        return {"$" * name.startswith("$") + name: spelt(member) for name, member in value.items()}
    return [spelt(member) for member in value] if isinstance(value, list) else value


def parse(data: bytes) -> Any:
    def members(pairs: list[tuple[str, Any]]) -> Any:
        need(len(dict(pairs)) == len(pairs), "a member comes twice")
        if [name for name, _ in pairs] == ["$float"]:
            return float(pairs[0][1])
        need(all(name[:1] != "$" or name[:2] == "$$" for name, _ in pairs), "a member has an unknown meaning")
        return {name.removeprefix("$"): member for name, member in pairs}

    return json.loads(data.decode("utf-8", "surrogatepass"), object_pairs_hook=members)


def unseal(data: bytes) -> dict[str, Any]:
    document = parse(data)
    seal = document.pop("sha256")
    need(sha256(canonical(document)) == seal, "a seal does not match")
    need(canonical({**document, "sha256": seal}) == data, "a sealed document is not spelt canonically")
    return document


def inflate(data: bytes) -> bytes:
    """One Zstandard frame with content size."""
    size = zstandard.frame_content_size(data)
    need(0 <= size <= 1 << 30, "a Zstandard frame without a sound content size")
    return zstandard.ZstdDecompressor().decompress(data, max_output_size=size, allow_extra_data=False)


# --- 1.4 to 1.7, 6.1 the chain -----------------------------------------------------------------------------


def images(archive: Path) -> list[str]:
    """Names of the images that exist."""
    names = sorted(path.name for path in (archive / "commits").iterdir())
    return [name for name in names if commits(archive, name)[-1]["generation"] is not None]


def commits(archive: Path, image: str) -> list[dict[str, Any]]:
    """Every commit record of an image, the chain checked."""
    head = unseal((archive / "archive.json").read_bytes())
    expected = {"format": "tilevault", "version": VERSION, "digests": ["sha256", "blake3-128", "crc32c"]}
    need(head == expected, "another format")
    folder = archive / "commits" / image
    records, previous = [], None
    for n in range(len(list(folder.iterdir()))):
        data = (folder / f"{n}.json").read_bytes()
        record = unseal(data)
        need((record["format"], record["image"], record["n"]) == (VERSION, image, n), "another record")
        need(record["previous"] == previous, "the chain of commit records is broken")
        previous = sha256(data)
        records.append(record)
    return records


def open_image(archive: Path, image: str) -> "Image":
    """The image as its newest commit record names it."""
    record = commits(archive, image)[-1]
    need(record["generation"] is not None, "the image was removed")
    folder = archive / "images" / image / record["generation"]
    data = (folder / "manifest.json").read_bytes()
    need(sha256(data) == record["manifest"], "the manifest is not the one of the commit record")
    manifest = parse(data)
    named = manifest["format"], manifest["image"], manifest["generation"]
    need(named == (VERSION, image, record["generation"]), "another manifest")
    return Image(folder, image, record, manifest["objects"])


class Image:
    """One generation."""

    def __init__(
        self, folder: Path, name: str, commit: dict[str, Any], objects: list[dict[str, Any]]
    ) -> None:
        self.folder, self.name, self.commit = folder, name, commit
        self.objects = {entry["key"]: entry for entry in objects}
        need(len(self.objects) == len(objects), "a key comes twice")
        need(all(KEY.fullmatch(key) and ".." not in key for key in self.objects), "not a key")
        self.description = parse(self.object("source/image.json"))
        identity = {name: self.description[name] for name in ("kind", "key")}
        identity["fidelity"] = self.description.get("fidelity", "exact")
        need(self.description["image"] == name == sha256(canonical(identity))[:32], "another image")
        self.info = self.description["info"]
        self.files = parse(inflate(self.object("source/files.json.zst")))
        digests = sorted({file["sha256"] for file in self.files})
        need(sha256(canonical(digests)) == commit["sources"], "other files than the commit record binds")
        self._words: dict[str, Array] = {}
        self._models: dict[str, learned_twin.Model] = {}

    def object(self, key: str) -> bytes:
        """A whole object, checked against its entry."""
        need(key in self.objects, f"{key} is not listed")
        data = (self.folder / key).read_bytes()
        entry = self.objects[key]
        need((len(data), sha256(data)) == (entry["size"], entry["sha256"]), f"{key} is damaged")
        return data

    def check_objects(self) -> None:
        """Every object is there and sound, and there is no other (6.2)."""
        found = {p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if p.is_file()}
        need(found == {*self.objects, "manifest.json"}, "objects are missing, or not listed")
        for key in self.objects:
            self.object(key)

    # --- arrays ---------------------------------------------------------------------------------------

    def has_array(self, path: str) -> bool:
        return f"{path}/zarr.json" in self.objects

    def metadata(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.object(f"{path}/zarr.json"))
        need((found["zarr_format"], found["node_type"]) == (3, "array"), f"{path} is no array")
        return found

    def plain(self, path: str) -> Array:
        """A plain array (1.11)."""
        about = self.metadata(path)
        need([c["name"] for c in about["codecs"]] == ["bytes", "zstd"], f"{path} is not plain")
        shape, chunk = about["shape"], about["chunk_grid"]["configuration"]["chunk_shape"]
        out = np.empty(shape, about["data_type"])
        for index in grid(shape, chunk):
            raw = inflate(self.object("/".join([path, "c", *map(str, index)])))
            full = np.frombuffer(raw, out.dtype.newbyteorder("<")).reshape(chunk)
            place = box(index, chunk, shape)
            out[place] = full[tuple(slice(s.stop - s.start) for s in place)]
        return out

    def path(self, level: int, role: str = "data") -> str:
        return str(level) if self.info["kind"] == "medical" else f"{level}/{role}"

    # --- 1.10, 1.12 level 0 ---------------------------------------------------------------------------

    def words(self, role: str = "data") -> Array:
        """All of level 0, its segments and words checked."""
        if role not in self._words:
            self._words[role] = self._reduced(role, 0)
        return self._words[role]

    def _reduced(self, role: str, level: int) -> Array:
        """Every tile at a level, by decoding no more segments than that needs."""
        about, sharding, codec = self.layout(role)
        lossless = codec["name"] == "tilevault.lossless"
        need(lossless or level == 0, "this codec has one resolution")
        depth = codec["configuration"]["decompositions"] if lossless else 0
        shape, dtype = about["shape"], np.dtype(about["data_type"])
        out = np.empty((*shape[:-2], *(-(-n >> level) for n in shape[-2:])), dtype)
        pixels = self.plain(f"tiles/{role}/pixels")
        for index, data in self.tiles(role, depth + 1 - level):
            place = box(index, sharding["chunk_shape"], shape)
            extent = tuple(s.stop - s.start for s in place)
            if lossless:
                words = decode_tile(data, extent, dtype, level, depth)
            elif codec["name"] == "tilevault.learned":
                words = decode_lossy(data, extent, dtype, codec["configuration"], self.model)
            else:
                need(codec["name"] == "tilevault.frame", "another codec")
                words = decode_frame(data, extent, dtype, codec["configuration"])
            if level == 0:
                little = words.astype(dtype.newbyteorder("<")).tobytes()
                need(blake3_128(little) == pixels[index].tobytes(), "decodes to other words")
            corner = [s.start >> level for s in place[-2:]]
            ends = (a + n for a, n in zip(corner, words.shape[-2:], strict=True))
            out[(*place[:-2], *map(slice, corner, ends))] = words
        return out

    def model(self, name: str) -> learned_twin.Model:
        """10 The model that lossy tiles need, by its digest."""
        if name not in self._models:
            blob = (self.folder.parents[2] / "models" / name / "model.tvlm").read_bytes()
            need(sha256(blob) == name, "the model is another")
            self._models[name] = learned_twin.Model.read(blob)
        return self._models[name]

    def layout(self, role: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """zarr.json, sharding configuration and tile codec of level 0."""
        about = self.metadata(self.path(0, role))
        (outer,) = about["codecs"]
        need(outer["name"] == "sharding_indexed", "level 0 is not sharded")
        sharding = outer["configuration"]
        need([c["name"] for c in sharding["index_codecs"]] == ["bytes", "crc32c"], "another index")
        codec, crc = sharding["codecs"]
        need((crc["name"], sharding["index_location"]) == ("crc32c", "end"), "another layout of shards")
        if role == "data":
            shard = about["chunk_grid"]["configuration"]["chunk_shape"]
            told = [self.description[name] for name in ("codec", "tile", "shard")]
            need(told == [codec, sharding["chunk_shape"], shard], "image.json and zarr.json disagree")
        return about, sharding, codec

    def tiles(self, role: str, segments: int) -> Iterator[tuple[tuple[int, ...], bytes]]:
        """(grid position, first ``segments`` segments) of every tile, each segment checked."""
        about, sharding, _ = self.layout(role)
        shape, tile = about["shape"], sharding["chunk_shape"]
        shard = about["chunk_grid"]["configuration"]["chunk_shape"]
        per = [s // t for s, t in zip(shard, tile, strict=True)]
        ends, digests = self.plain(f"tiles/{role}/ends"), self.plain(f"tiles/{role}/digests")
        for at in grid(shape, shard):
            data = self.object("/".join([self.path(0, role), "c", *map(str, at)]))
            index = shard_index(data, prod(per))
            for place, (offset, length) in enumerate(index):
                position = tuple(int(i) for i in np.unravel_index(place, per))
                where = tuple(a * p + i for a, p, i in zip(at, per, position, strict=True))
                if any(i * t >= n for i, t, n in zip(where, tile, shape, strict=True)):
                    need(offset == length == 2**64 - 1, "a tile outside of the array")
                    continue
                need(offset + length <= len(data) - 16 * len(index) - 4, "a tile is missing")
                need(length == int(ends[where][-1]) + 4, "a tile has another length")
                body = data[offset : offset + length]
                need(crc32c(body[:-4]) == body[-4:], "crc32c of a tile")
                yield where, checked(body[:-4], ends[where], digests[where], segments)

    def streams(self) -> dict[tuple[int, ...], bytes]:
        """Grid position -> bit stream of `tilevault.frame` images (section 3)."""
        return dict(self.tiles("data", 1))

    # --- 1.13, 1.14 values and levels -----------------------------------------------------------------

    def values(self) -> Array:
        words, bits = self.words(), self.info["bits_stored"]
        width = 8 * words.dtype.itemsize
        if bits is None or bits >= width or words.dtype.kind not in "iu":
            return words
        high = self.info["attributes"].get("high_bit", bits - 1)
        field = (words.astype(object) >> (high - bits + 1)) & ((1 << bits) - 1)
        if words.dtype.kind == "i":
            field = np.where(field >> (bits - 1), field - (1 << bits), field)
        return field.astype(words.dtype)

    def level(self, level: int, role: str = "data") -> Array:
        """A level by its definition, from level 0, whether it is stored or not."""
        how = self.description["downsampling"]
        if level == 0:
            return self.values() if role == "data" else self.words("mask")
        if how == "lowpass53":
            return self._clamped(self._reduced("data", level))
        finest = self.values() if role == "data" else self.words("mask")
        if how == "nearest":
            return finest[..., :: 1 << level, :: 1 << level]
        if role == "mask":
            return np.where(squares(finest != 0, level).any((-3, -1)), 255, 0).astype(np.uint8)
        return self._mean(finest, level)

    def _clamped(self, low: Array) -> Array:
        bits = self.info["bits_stored"]
        if bits is None or bits >= 8 * low.dtype.itemsize:
            return low
        bottom = -(1 << (bits - 1)) if low.dtype.kind == "i" else 0
        return np.clip(low, bottom, bottom + (1 << bits) - 1)

    def _mean(self, values: Array, level: int) -> Array:
        nodata, floats = self.info["nodata"], values.dtype.kind == "f"
        valid = np.ones(values.shape, bool)
        if nodata is not None and nodata == nodata:
            valid &= values != values.dtype.type(nodata)
        if floats:
            valid &= values == values
        if self.info["has_mask"]:
            valid &= self.words("mask") != 0
        count = squares(valid, level).sum((-3, -1))
        absent = nodata if nodata is not None else np.nan if floats else 0
        if floats:
            total = np.where(valid, values, 0).astype(np.float64)
            with np.errstate(invalid="ignore", over="ignore"):
                for _ in range(level):
                    total = added(added(total).swapaxes(-1, -2)).swapaxes(-1, -2)
                mean = (total / np.maximum(count, 1)).astype(values.dtype)
        else:
            total = squares(np.where(valid, values, 0).astype(np.int64), level).sum((-3, -1))
            mean = np.floor_divide(2 * total + count, np.maximum(2 * count, 1)).astype(values.dtype)
        return np.where(count > 0, mean, values.dtype.type(absent))

    # --- 1.15, 4, 5 files ------------------------------------------------------------------------------

    def verbatim(self, i: int) -> bytes:
        """The verbatim stream of a file."""
        parts = []
        for key, offset, length in self.files[i]["pieces"]:
            block = inflate(self.object(key))
            need(offset + length <= len(block) <= 1 << 22, "a piece lies outside of its block")
            parts.append(block[offset : offset + length])
        return b"".join(parts)

    def rebuild(self, i: int) -> bytes:
        """The bytes of a file, checked."""
        file = self.files[i]
        if file["format"] == "sidecar" or self.info is None or file["record"].get("pixels", 0) is None:
            data = self.verbatim(i)
        elif self.description["format"] == "dicom":
            data = rebuild_dicom(self, i)
        else:
            need(self.description["round_trip"] == "file-exact", "the file is metadata-exact only")
            data = rebuild_tiff(self, i)
        need((len(data), sha256(data)) == (file["size"], file["sha256"]), f"{file['name']} comes out wrong")
        return data

    def position(self, file: int, frame: int) -> tuple[int, ...]:
        """Index along the stacked axes (4.2)."""
        layout = self.description["layout"]
        flat = file * layout["per_file"] + frame if "per_file" in layout else layout["places"][file][frame]
        return tuple(int(i) for i in np.unravel_index(flat, layout["shape"])) if layout["shape"] else ()

    def frame_words(self, file: int, frame: int) -> Array:
        """A frame's words: (y, x) or (c, y, x)."""
        at = iter(self.position(file, frame))
        return self.words()[
            tuple(slice(None) if a in ("c", "y", "x") else next(at) for a in self.info["axes"])
        ]

    def frame_stream(self, file: int, frame: int) -> bytes:
        at = iter(self.position(file, frame))
        full = [0 if a in ("c", "y", "x") else next(at) for a in self.info["axes"]]
        return self.streams()[tuple(i // t for i, t in zip(full, self.description["tile"], strict=True))]


def grid(shape: list[int], block: list[int]) -> Iterator[tuple[int, ...]]:
    """Positions of the blocks of an array, C order."""
    return product(*(range(ceil(n / b)) for n, b in zip(shape, block, strict=True)))


def box(index: tuple[int, ...], block: list[int], shape: list[int]) -> tuple[slice, ...]:
    """What a block covers of an array."""
    return tuple(slice(i * b, min(i * b + b, n)) for i, b, n in zip(index, block, shape, strict=True))


def squares(values: Array, level: int) -> Array:
    """(..., y, x) -> (..., y', 2^k, x', 2^k), with zeros beyond the image."""
    step = 1 << level
    high, wide = (-(-n // step) for n in values.shape[-2:])
    padded = np.zeros((*values.shape[:-2], high * step, wide * step), values.dtype)
    padded[..., : values.shape[-2], : values.shape[-1]] = values
    return padded.reshape(*values.shape[:-2], high, step, wide, step)


def added(values: Array) -> Array:
    """Neighbours along x added up; a last one without a neighbour stays."""
    out = values[..., ::2].copy()
    out[..., : values.shape[-1] // 2] += values[..., 1::2]
    return out


def shard_index(data: bytes, places: int) -> list[tuple[int, int]]:
    size = 16 * places
    need(len(data) >= size + 4, "a shard is shorter than its index")
    raw = data[len(data) - size - 4 : -4]
    need(crc32c(raw) == data[-4:], "crc32c of a shard's index")
    return list(struct.iter_unpack("<QQ", raw))


def checked(body: bytes, ends: Array, digests: Array, segments: int) -> bytes:
    start = 0
    for end, digest in zip(ends[:segments].tolist(), digests[:segments], strict=True):
        need(start <= end, "the ends of segments do not ascend")
        need(blake3_128(body[start:end]) == digest.tobytes(), "a segment is damaged")
        start = end
    return body[:start]


# --- 2 tiles -----------------------------------------------------------------------------------------------

OTHER_TYPES = ("b1", "u8", "i8", "f2", "f8", "c8", "c16")
"""Types 7 to 13 of section 2.1."""


def decode_tile(data: bytes, extent: tuple[int, ...], dtype: np.dtype[Any], level: int, depth: int) -> Array:
    """A tile of `tilevault.lossless` that has exactly this valid extent."""
    rank, kind = data[1] & 7, data[1] >> 3
    if kind < 7:
        return np.asarray(lossless_twin.decode(data, extent, dtype, level, depth), dtype)
    need(dtype == np.dtype(OTHER_TYPES[kind - 7]), "another type")
    at, found = 2, []
    for _ in range(rank):
        n, at = lossless_twin.varint(data, at)
        found.append(n)
    need(tuple(found) == extent, "another extent")
    raw = {0: lambda d: d, 1: lambda d: d * prod(extent), 2: inflate}[data[0]](data[at:])
    words = np.frombuffer(raw, dtype.newbyteorder("<")).reshape(extent)
    return words[..., :: 1 << level, :: 1 << level].astype(dtype)


# --- 8 lossy tiles -----------------------------------------------------------------------------------------


def decode_lossy(
    data: bytes,
    extent: tuple[int, ...],
    dtype: np.dtype[Any],
    told: dict[str, Any],
    model: Callable[[str], learned_twin.Model],
) -> Array:
    """A tile of `tilevault.learned` that has exactly this valid extent."""
    mode = data[1] & 127
    need(data[0] == 1 and mode in (0, 1, 2), "another version or mode")
    at, plane, values = 2, None, None
    if data[1] & 128:
        count, at = varint(data, at)
        values = np.frombuffer(data[at : at + count * dtype.itemsize], dtype.newbyteorder("<"))
        size, at = varint(data, at + count * dtype.itemsize)
        plane, at = nested(data[at : at + size]), at + size
    if mode == 2:
        words = learned(data[at:], dtype, told, model(told["model"]))
    else:
        words = quantised(data[at:], dtype, told) if mode == 1 else nested(data[at:])
    need(words.shape == extent and words.dtype == dtype, "another extent or type")
    if plane is not None and values is not None:
        for place in np.ndindex(*extent):
            k = int(plane[tuple(min(i, n - 1) for i, n in zip(place, plane.shape, strict=True))])
            if k:
                words[place] = values[k - 1]
    return words


def learned(data: bytes, dtype: np.dtype[Any], told: dict[str, Any], model: learned_twin.Model) -> Array:
    """9 The samples with restoration."""
    rank, at, extents = *varint(data, 0), []
    for _ in range(rank):
        n, at = varint(data, at)
        extents.append(n)
    shape = prod(extents[:-2]), extents[-2], extents[-1]
    low, high, nodata = told["low"], told["high"], told["nodata"]
    nodata = float(nodata.replace("Infinity", "inf")) if isinstance(nodata, str) else nodata
    if dtype.kind == "f":
        offset, scale = (float(v) for v in np.frombuffer(data[at : at + 8], "<f4"))
        _, found = learned_twin.decode(model, data[at + 8 :], shape, 0, 65535)
        words = (offset + scale * found.astype(np.float64)).astype(dtype)
        words = words if low is None else np.clip(words, dtype.type(low), dtype.type(high))
        if nodata is not None and np.isfinite(nodata):
            value = dtype.type(nodata)
            words[words == value] = np.nextafter(value, dtype.type(0 if value else 1))
        return words.reshape(extents)
    low = np.iinfo(dtype).min if low is None else max(ceil(low), np.iinfo(dtype).min)
    high = np.iinfo(dtype).max if high is None else min(floor(high), np.iinfo(dtype).max)
    _, found = learned_twin.decode(model, data[at:], shape, max(low, -(2**24)), min(high, 2**24))
    if nodata is not None and float(nodata).is_integer() and low <= nodata <= high:
        found[found == int(nodata)] = int(nodata) + (1 if nodata < high else -1)
    return found.astype(dtype).reshape(extents)


def quantised(data: bytes, dtype: np.dtype[Any], told: dict[str, Any]) -> Array:
    low, high = told["low"], told["high"]
    if dtype.kind == "f":
        step = float(np.frombuffer(data[:4], "<f4")[0])
        z, at = varint(data, 4)
        least = z // 2 if z % 2 == 0 else -(z + 1) // 2
        back = [(float(int(q) + least) * step) for q in nested(data[at:]).reshape(-1)]
        words = np.array(back, np.float64).astype(dtype).reshape(nested(data[at:]).shape)
        return words if low is None else np.clip(words, dtype.type(low), dtype.type(high))
    m, at = varint(data, 0)
    indices = nested(data[at:])
    back = [min(low + ((int(q) * m + 128) >> 8), high) for q in indices.reshape(-1)]
    return np.array(back, dtype).reshape(indices.shape)


def nested(data: bytes) -> Array:
    """A frame of section 2 whose type and extents are its own."""
    rank, kind, at, extent = data[1] & 7, data[1] >> 3, 2, []
    for _ in range(rank):
        n, at = varint(data, at)
        extent.append(n)
    dtype = np.dtype(("u1", "i1", "u2", "i2", "u4", "i4", "f4")[kind])
    return decode_tile(data, tuple(extent), dtype, 0, 5).copy()


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while data[at] & 128:
        value, shift, at = value | (data[at] & 127) << shift, shift + 7, at + 1
    return value | data[at] << shift, at + 1


# --- 3 frames ----------------------------------------------------------------------------------------------

RLE, DEFLATED, DEFLATED_FRAME = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.8.1"


def decode_frame(
    data: bytes, extent: tuple[int, ...], dtype: np.dtype[Any], configuration: dict[str, Any]
) -> Array:
    syntax, planes = configuration["transfer_syntax"], configuration["samples"] or prod(extent[:-2])
    bits = configuration["bits_allocated"] or 8 * dtype.itemsize
    if syntax == RLE:
        return rle(data, planes, prod(extent[-2:]), dtype, bits).reshape(extent)
    if syntax == DEFLATED:
        offset, length = struct.unpack_from("<QQ", data)
        raw = zlib.decompressobj(-15).decompress(data[16:])[offset : offset + length]
    else:
        need(syntax == DEFLATED_FRAME, f"frames of {syntax} need a decoder of their own standard")
        raw = zlib.decompressobj(-15).decompress(data)
    half = configuration["photometric"] in ("YBR_FULL_422", "YBR_PARTIAL_422") and planes == 2
    return native_words(raw, extent, dtype, (bits, planes), configuration["planar"] == 1, half)


def rle(data: bytes, planes: int, size: int, dtype: np.dtype[Any], bits: int) -> Array:
    count, *offsets = struct.unpack_from("<16I", data)
    each = -(-bits // 8)
    need(count == planes * each, "another number of RLE segments")
    octets = np.zeros((planes, size, dtype.itemsize), np.uint8)
    starts = [*offsets[:count], len(data)]
    for i in range(count):
        segment = packbits(data[starts[i] : starts[i + 1]])
        need(len(segment) >= size, "an RLE segment is too short")
        octets[i // each, :, each - 1 - i % each] = np.frombuffer(segment, np.uint8)[:size]
    return octets.reshape(-1).view(dtype.newbyteorder("<")).astype(dtype)


def packbits(data: bytes) -> bytes:
    out, at = bytearray(), 0
    while at + 1 < len(data):
        n = data[at]
        if n < 128:
            out += data[at + 1 : at + 2 + n]
            at += 2 + n
        else:
            out += data[at + 1 : at + 2] * (257 - n) if n > 128 else b""
            at += 2 if n > 128 else 1
    return bytes(out)


def native_words(
    raw: bytes,
    extent: tuple[int, ...],
    dtype: np.dtype[Any],
    sample: tuple[int, int],
    planar: bool,
    subsampled: bool,
) -> Array:
    """Words of little-endian native pixels (4.3); ``sample``: bits allocated, planes."""
    (bits, planes), (rows, columns), count = sample, extent[-2:], prod(extent)
    if bits == 1:
        run = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")[:count]
    else:
        octets = np.zeros((count, dtype.itemsize), np.uint8)
        octets[:, : bits // 8] = np.frombuffer(raw, np.uint8)[: count * (bits // 8)].reshape(count, -1)
        run = octets.reshape(-1).view(dtype.newbyteorder("<")).astype(dtype)
    if subsampled:
        pairs = run.reshape(-1, rows, columns // 2, 2, 2)
        return np.moveaxis(pairs, 3, 1).reshape(extent)
    if planar:
        return run.reshape(extent)
    return np.moveaxis(run.reshape(-1, rows, columns, planes), -1, 1).reshape(extent)


# --- 4 DICOM -----------------------------------------------------------------------------------------------


def rebuild_dicom(image: Image, i: int) -> bytes:
    pixels, verbatim = image.files[i]["record"]["pixels"], image.verbatim(i)
    frames = range(pixels["frames"])
    if pixels["coding"] == "native":
        middle = native_pixels(pixels, [image.frame_words(i, f) for f in frames])
    elif pixels["coding"] == "deflated":
        middle = image.frame_stream(i, 0)[16:]
    else:
        parts = []
        for f, lengths in zip(frames, pixels["fragments"], strict=True):
            stream, at = image.frame_stream(i, f), 0
            for n in lengths if isinstance(lengths, list) else [lengths]:
                parts.append(b"\xfe\xff\x00\xe0" + struct.pack("<I", n) + stream[at : at + n])
                at += n
        middle = b"".join(parts)
    return verbatim[: pixels["offset"]] + middle + verbatim[pixels["offset"] :]


def native_pixels(pixels: dict[str, Any], frames: list[Array]) -> bytes:
    """The pixel data value as far as frames reach into it (4.3)."""
    layout = {"planes": 1, "bits_allocated": 16, **pixels["layout"]}
    flags = ("planar", "big_endian", "swapped", "subsampled")
    planar, big_endian, swapped, subsampled = (layout.get(name, False) for name in flags)
    bits, rows, columns = (layout[name] for name in ("bits_allocated", "rows", "columns"))
    runs = []
    for words in frames:
        planes = words.reshape(layout["planes"], rows, columns)
        if subsampled:
            luma, chroma = planes.reshape(2, rows, columns // 2, 2)
            runs.append(np.concatenate([luma, chroma], -1).reshape(-1))
        else:
            runs.append((planes if planar else np.moveaxis(planes, 0, -1)).reshape(-1))
    run = np.concatenate(runs)
    spare = 8 * pixels["length"] - run.size * bits
    left_over = [pixels["left_over"] >> i & 1 for i in range(spare)]
    if bits == 1:
        logical = np.packbits(np.append(run, np.array(left_over, np.uint8)), bitorder="little")
    else:
        octets = run.astype(run.dtype.newbyteorder("<")).view(np.uint8).reshape(run.size, -1)[:, : bits // 8]
        octets = octets[:, ::-1] if big_endian else octets
        tail = np.packbits(np.array(left_over, np.uint8), bitorder="little")
        logical = np.append(octets.reshape(-1), tail)
    if swapped:
        logical = logical.reshape(-1, 2)[:, ::-1].reshape(-1)
    return logical.tobytes()


# --- 5 TIFF ------------------------------------------------------------------------------------------------


def rebuild_tiff(image: Image, i: int) -> bytes:
    stream, size = image.verbatim(i), image.files[i]["size"]
    need(stream[:8] == b"tvtiff1\0", "not the verbatim stream of a TIFF")
    (n,) = struct.unpack_from("<Q", stream, 8)
    at = 16 + 16 * n
    file, filled = np.zeros(size, np.uint8), np.zeros(size, bool)
    for offset, length in struct.iter_unpack("<QQ", stream[16:at]):
        put(file, filled, offset, stream[at : at + length])
        at += length
    for offset, run in pixel_runs(file.tobytes(), image):
        put(file, filled, offset, run)
    rest = np.frombuffer(stream[at:], np.uint8)
    need(rest.size == np.count_nonzero(~filled), "the verbatim stream has another length")
    file[~filled] = rest
    return file.tobytes()


def put(file: Array, filled: Array, offset: int, data: bytes) -> None:
    place = slice(offset, offset + len(data))
    need(not filled[place].any() and place.stop <= file.size, "ranges of the TIFF overlap")
    file[place], filled[place] = np.frombuffer(data, np.uint8), True


def pixel_runs(file: bytes, image: Image) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of the pixels of a plain TIFF, from its structure and level 0."""
    order, tags = first_directory(file)
    width, height, samples = tags[256][0], tags[257][0], tags.get(277, [1])[0]
    planar = tags.get(284, [1])[0] == 2 and samples > 1
    tiled = not tags.keys().isdisjoint((322, 323, 324, 325))
    rows = tags[323][0] if tiled else min(height, tags.get(278, [height])[0])
    columns = tags[322][0] if tiled else width
    positions, counts = (tags[324], tags[325]) if tiled else (tags[273], tags[279])
    words = image.words().reshape(samples, height, width)
    words = words.astype(words.dtype.newbyteorder(order))
    need(tags[258][0] == 8 * words.dtype.itemsize, "the words are not those of the file")
    pixel = words.dtype.itemsize * (1 if planar else samples)
    places = product(
        words[:, np.newaxis] if planar else [words], range(0, height, rows), range(0, width, columns)
    )
    for (source, top, left), position, count in zip(places, positions, counts, strict=True):
        part = np.moveaxis(source[:, top : top + rows, left : left + columns], 0, -1)
        if count and part.shape[1] == columns:
            yield position, part.tobytes()
        elif count:
            for y, line in enumerate(part):
                yield position + y * columns * pixel, line.tobytes()


INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}


def first_directory(file: bytes) -> tuple[str, dict[int, tuple[int, ...]]]:
    """Byte order, and the unsigned integer tags of the first directory (TIFF 6.0 section 2, BigTIFF)."""
    order = {b"II": "<", b"MM": ">"}[file[:2]]
    big = struct.unpack_from(order + "H", file, 2)[0] == 43
    word, many, head, entry = ("Q", "Q", 12, 20) if big else ("I", "H", 8, 12)
    (at,) = struct.unpack_from(order + word, file, 8 if big else 4)
    (count,) = struct.unpack_from(order + many, file, at)
    tags = {}
    for i in range(count):
        place = at + struct.calcsize(many) + i * entry
        tag, kind, values = struct.unpack_from(order + "HH" + word, file, place)
        if kind in INTEGERS:
            form = f"{order}{values}{INTEGERS[kind]}"
            where = place + head
            if struct.calcsize(form) > entry - head:
                (where,) = struct.unpack_from(order + word, file, where)
            tags[tag] = struct.unpack_from(form, file, where)
    return order, tags
