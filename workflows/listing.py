"""What ``ls`` and ``info`` show: the commits of an archive as a table, one image in full."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tilevault.codecs.errors import TilevaultError
from tilevault.workflows.console import Column, Console, human_bytes, printable
from tilevault.workflows.lossy import quality_text
from tilevault.workflows.query import Query

if TYPE_CHECKING:
    from tilevault.archive.store import Archive, Image

__all__ = ["describe_image", "image_record", "list_images", "short_ids"]

SHORTEST_ID = 8
LISTED = 16
"""Entries of a list that are shown."""
RECORDED = (
    "name",
    "kind",
    "shape",
    "axes",
    "dtype",
    "files",
    "bytes_source",
    "bytes_stored",
    "round_trip",
    "fidelity",
    "quality",
    "codec",
    "downsampling",
    "levels",
    "warnings",
)
"""Keys of a summary that are facts about the stored image; the others are search keys."""
COLUMNS = (
    Column("image"),
    Column("name", flexible=True),
    Column("what"),
    Column("shape", right=True),
    Column("dtype", optional=True),
    Column("ratio", right=True),
    Column("round trip"),
    Column("added", optional=True),
)


def short_ids(ids: Sequence[str]) -> dict[str, str]:
    """The shortest beginning of each id (at least 8 digits) that no other id has."""
    ordered = sorted(ids)
    short = {}
    for i, one in enumerate(ordered):
        neighbours = ordered[max(0, i - 1) : i] + ordered[i + 1 : i + 2]
        need = max((_common(one, other) + 1 for other in neighbours), default=0)
        short[one] = one[: max(SHORTEST_ID, need)]
    return short


def _common(one: str, other: str) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def list_images(archive: "Archive", where: Sequence[str], console: Console) -> int:
    """Show the images that match; one that does not verify is reported and gives exit code 4."""
    query = Query.parse(where)
    ids = list(archive)
    short = short_ids(ids)
    code, rows, source, stored = 0, [], 0, 0
    keys: set[str] = set()
    for name in ids:
        try:
            image = archive[name]
        except TilevaultError as failure:
            console.error(failure, image=name)
            code = code or failure.exit_code
            continue
        keys.update(image.summary)
        if not query.matches(image.summary):
            continue
        record = image_record(image)
        console.record("image", **record)
        rows.append(_row(short[name], record))
        source += record["bytes_source"] or 0
        stored += record["bytes_stored"] or 0
    if rows:
        console.table(COLUMNS, rows)
    if keys:
        _warn_of_unknown(query, keys, console)
    ratio = (
        f", {human_bytes(source)} in {human_bytes(stored)} (ratio {source / stored:.2f})" if stored else ""
    )
    console.line(f"{len(rows)} image{'' if len(rows) == 1 else 's'}{ratio}")
    return code


def _warn_of_unknown(query: Query, known: set[str], console: Console) -> None:
    """A mistyped key finds nothing, which must not look like an archive that lacks what was looked for."""
    folded = {key.lower(): key for key in sorted(known)}
    for key in dict.fromkeys(query.unknown(known)):
        near = [folded[one] for one in difflib.get_close_matches(key, folded, 3)]
        hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(folded.values())}"
        text = f"no image has the key {key!r}; {hint}"
        console.record("warning", code="UnknownKey", message=text, key=key, known=list(folded.values()))
        console.note(f"tilevault: warning: {printable(text)}")


def image_record(image: "Image") -> dict[str, Any]:
    """The JSON keys that `ls` and `info` share."""
    summary = dict(image.summary)
    record: dict[str, Any] = {"image": image.id, **{key: summary.get(key) for key in RECORDED}}
    source, stored = record["bytes_source"], record["bytes_stored"]
    record["ratio"] = round(source / stored, 4) if source and stored else None
    record["fidelity"] = record["fidelity"] or "exact"
    record["commit"] = image.commit.n
    record["generation"] = image.generation
    record["added"] = image.commit.provenance.get("time")
    record["search"] = {key: value for key, value in summary.items() if key not in RECORDED}
    return record


def _row(short: str, record: Mapping[str, Any]) -> list[str]:
    return [
        short,
        record["name"] or "",
        _what(record),
        "x".join(str(n) for n in record["shape"] or ()),
        record["dtype"] or "",
        f"{record['ratio']:.2f}" if record["ratio"] else "",
        _round_trip(record),
        str(record["added"] or "")[:10],
    ]


def _round_trip(record: Mapping[str, Any]) -> str:
    """The class, and of a lossy image its bound."""
    lossy = record["round_trip"] == "lossy"
    return f"lossy {record['fidelity']}" if lossy else record["round_trip"] or ""


def _what(record: Mapping[str, Any]) -> str:
    """Modality of a medical image, number of bands of another."""
    modality = record["search"].get("Modality")
    if modality:
        return ",".join(modality) if isinstance(modality, list) else str(modality)
    axes, shape = record["axes"], record["shape"]
    if not axes or not shape:
        return "files" if not shape else ""
    bands = shape[axes.index("c")] if "c" in axes else 1
    return f"{bands} band{'' if bands == 1 else 's'}"


def describe_image(image: "Image", console: Console) -> None:
    """Everything about one image: one JSON record, or several paragraphs."""
    record = {**image_record(image), **_details(image)}
    console.record("info", **record)
    if console.json_lines:
        return
    for title, pairs in _paragraphs(record):
        shown = [(name, value) for name, value in pairs if value not in (None, "")]
        if shown:
            console.line(title)
            console.fields(shown, indent=2)
            console.line()
    for warning in record["warnings"]:
        console.line(f"warning: {printable(warning)}")


def _details(image: "Image") -> dict[str, Any]:
    files = image.source.files
    details: dict[str, Any] = {
        "provenance": dict(image.commit.provenance),
        "commit_sha256": image.commit.sha256,
        "manifest_sha256": image.commit.manifest,
        "previous_commit": image.commit.previous,
        "objects": len(image.manifest.objects),
        "sources": [
            {
                "name": f.name,
                "size": f.size,
                "sha256": f.sha256,
                "format": f.format,
                "warnings": list(f.warnings),
            }
            for f in files
        ],
        "warnings": sorted({w for f in files for w in f.warnings} | set(image.description.warnings)),
        "pixels": None,
    }
    info = image.info
    if info is None:
        return details
    grid = image.grid
    details["pixels"] = {
        "bits_stored": info.bits_stored,
        "nodata": info.nodata,
        "categorical": info.categorical,
        "mask": info.has_mask,
        "bytes": info.nbytes,
        "tile": list(grid.tile),
        "shard": list(grid.shard),
        "tiles": prod(grid.tiles),
        "shards": prod(grid.shards),
        "stored_levels": list(image.stored_levels),
        "levels": [{"level": k, "shape": list(_level_shape(info.shape, k))} for k in image.levels],
        "quality": _quality(image),
        "attributes": dict(info.attributes),
    }
    return details


def _level_shape(shape: Sequence[int], level: int) -> tuple[int, ...]:
    from tilevault.archive.grid import reduced_extent

    return (*shape[:-2], *(reduced_extent(n, level) for n in shape[-2:]))


def _quality(image: "Image") -> dict[str, Any]:
    """Coded bits per sample over the tiles, and the tile that takes most."""
    quality = image.quality
    rate = quality.bits_per_sample
    worst = np.unravel_index(int(rate.argmax()), rate.shape)
    return {
        "bits_per_sample": {
            "min": round(float(rate.min()), 4),
            "mean": round(float(quality.bits.sum(dtype=np.int64) / quality.samples.sum()), 4),
            "max": round(float(rate.max()), 4),
            "max_at_tile": [int(i) for i in worst],
        }
    }


def _paragraphs(record: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    added = str(record["added"] or "").replace("T", " ")
    yield (
        f"image {record['image']}",
        [
            ("name", record["name"]),
            ("kind", record["kind"]),
            ("round trip", _round_trip(record)),
            ("quality", None if record["quality"] is None else quality_text(record["quality"])),
            (
                "size",
                f"{record['bytes_source']:,} bytes in {record['bytes_stored']:,} (ratio {record['ratio']})",
            ),
            ("commit", f"{record['commit']}, {added}"),
            ("generation", f"{record['generation']}, {record['objects']} objects"),
            ("made by", _provenance(record["provenance"])),
        ],
    )
    yield "search keys", [(key, _flat(value)) for key, value in record["search"].items()]
    pixels = record["pixels"]
    if pixels is not None:
        yield "pixels", _pixel_pairs(record, pixels)
        yield "attributes", [(key, _flat(value)) for key, value in pixels["attributes"].items()]
    sources = record["sources"]
    shown = [
        (f"{i}", f"{s['name']}  {s['size']:,} bytes  {s['sha256']}") for i, s in enumerate(sources[:LISTED])
    ]
    if len(sources) > LISTED:
        shown.append(("...", f"{len(sources) - LISTED} more (all of them with --json)"))
    yield f"{len(sources)} source file{'' if len(sources) == 1 else 's'}", list(shown)


def _pixel_pairs(record: Mapping[str, Any], pixels: Mapping[str, Any]) -> list[tuple[str, Any]]:
    by = " x "
    rate = pixels["quality"]["bits_per_sample"]
    bits = pixels["bits_stored"]
    return [
        ("shape", f"{by.join(map(str, record['shape']))}  ({', '.join(record['axes'])})"),
        ("dtype", record["dtype"] + (f", {bits} bits stored" if bits else "")),
        ("nodata", pixels["nodata"]),
        ("mask", "yes" if pixels["mask"] else None),
        ("codec", record["codec"]),
        ("tiles", f"{pixels['tiles']} of {by.join(map(str, pixels['tile']))}"),
        ("shards", f"{pixels['shards']} of {by.join(map(str, pixels['shard']))}"),
        ("levels", ", ".join(_level_text(level, pixels) for level in pixels["levels"])),
        ("downsampling", record["downsampling"]),
        ("bits per sample", f"{rate['mean']} (tiles from {rate['min']} to {rate['max']})"),
    ]


def _level_text(level: Mapping[str, Any], pixels: Mapping[str, Any]) -> str:
    size = "x".join(str(n) for n in level["shape"][-2:])
    return f"{level['level']} ({size}{', stored' if level['level'] in pixels['stored_levels'] else ''})"


def _provenance(provenance: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_flat(value)}" for key, value in provenance.items() if key != "time")


def _flat(value: Any) -> str:
    """A JSON value on one line, cut where it is long; nothing for what is empty."""
    if isinstance(value, Mapping):
        parts = [f"{key}={flat}" if key else flat for key, item in value.items() if (flat := _flat(item))]
        value = ", ".join(parts)
    elif isinstance(value, list | tuple):
        more = f", ... ({len(value)})" if len(value) > LISTED else ""
        flats = [_flat(item) for item in value[:LISTED]]
        value = ", ".join(
            f"({f})" if isinstance(i, list | dict) else f for f, i in zip(flats, value, strict=False)
        )
        value += more
    return "" if value is None else printable(value, 160)
