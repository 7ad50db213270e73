"""What the measurements of the lossless benchmark say: bars, Markdown, a plot."""

from collections.abc import Callable, Iterator
from math import exp, log, nan
from pathlib import Path
from typing import Any

__all__ = ["bars", "plot", "report"]

OURS = ("resolution", "size")
Image = dict[str, Any]


def _greys(image: Image) -> bool:
    return image["dtype"] in ("int16", "uint16") and not image["group"].startswith(("colour", "multi-band"))


def _bands(image: Image) -> bool:
    return image["group"] == "multi-band, 16 bit"


def _bytes_bands(image: Image) -> bool:
    return image["group"] == "multi-band, 8 bit"


def _rgb(image: Image) -> bool:
    return image["dtype"] == "uint8" and len(image["shape"]) >= 3 and image["shape"][-3] == 3


def _select(record: Any, want: Callable[[Image], bool], origins: str) -> dict[str, Image]:
    return {n: i for n, i in record["images"].items() if i["origin"] in origins.split() and want(i)}


def _ratios(chosen: dict[str, Image], ours: str, other: str, what: str = "bytes") -> Iterator[float]:
    for image in chosen.values():
        a, b = image["codecs"].get(ours), image["codecs"].get(other)
        if a and b:
            yield a[what] / b[what]


def _mean(ratios: Iterator[float]) -> float:
    logs = [log(r) for r in ratios if r > 0]
    return exp(sum(logs) / len(logs)) if logs else nan


def _speed(chosen: dict[str, Image], name: str, way: str) -> float:
    """MB/s of words over the timed tiles."""
    entries = [i["codecs"][name] for i in chosen.values() if i["codecs"].get(name, {}).get("timed")]
    seconds = sum(e[way] for e in entries)
    return sum(e["timed"] for e in entries) / seconds / 1e6 if seconds else nan


def _eighth(chosen: dict[str, Image], name: str, what: str) -> float:
    entries = [i["codecs"][name]["eighth"] for i in chosen.values() if not i["pack"] and name in i["codecs"]]
    return _mean(e[what] for e in entries if e)


def _not_smaller(chosen: dict[str, Image], ours: str, other: str) -> list[str]:
    return [n for n, i in chosen.items() if any(r >= 1 for r in _ratios({n: i}, ours, other))]


def bars(record: Any) -> list[dict[str, Any]]:
    """Each promise with its bar, what was measured on validation images and on all, and whether it is met."""
    rows: list[dict[str, Any]] = []
    all_of_them = "validation training"
    greys, bands, rgb = (
        [_select(record, want, origins) for origins in ("validation", all_of_them)]
        for want in (_greys, _bands, _rgb)
    )

    def add(what: str, bar: float, values: list[float], least: bool = False) -> None:
        known = [v for v in values if v == v]
        met = bool(known) and all(v >= bar if least else v <= bar for v in known)
        rows.append(
            {"what": what, "bar": bar, "least": least, "values": values, "met": met if known else None}
        )

    def ratio(what: str, bar: float, sets: list[dict[str, Image]], ours: str, other: str) -> None:
        add(what, bar, [_mean(_ratios(s, ours, other)) for s in sets])

    ratio("size: bytes / JPEG XL e7, 16-bit greys (goal)", 1.00, greys, "size", "JPEG XL e7")
    ratio("size: bytes / JPEG XL e7, 16-bit greys (least)", 1.03, greys, "size", "JPEG XL e7")
    ratio("size: bytes / JPEG-LS, 16-bit greys", 0.92, greys, "size", "JPEG-LS")
    ratio("size: bytes / JPEG XL e7, multi-band satellite, 16 bit", 0.95, bands, "size", "JPEG XL e7")
    photos = [_select(record, _bytes_bands, o) for o in ("validation", all_of_them)]
    ratio("size: bytes / JPEG XL e7, orthophotos, 8 bit", 0.95, photos, "size", "JPEG XL e7")
    for way, bar in (("encode", 0.75), ("decode", 1.0)):
        add(
            f"size: {way} speed / JPEG-LS, 16-bit greys", bar,
            [_speed(s, "size", way) / _speed(s, "JPEG-LS", way) for s in greys], least=True,
        )  # fmt: skip
    ratio("resolution: bytes / JPEG-LS, 16-bit greys", 0.97, greys, "resolution", "JPEG-LS")
    every = [_select(record, lambda i: True, o) for o in ("validation", all_of_them + " pictures apart")]
    add(
        "resolution: images not smaller than JPEG 2000", 0,
        [float(len(_not_smaller(s, "resolution", "JPEG 2000"))) for s in every],
    )  # fmt: skip
    for way in ("encode", "decode"):
        add(
            f"resolution: {way} speed / HTJ2K, 16-bit greys", 1.0,
            [_speed(s, "resolution", way) / _speed(s, "HTJ2K", way) for s in greys], least=True,
        )  # fmt: skip
    for ours in OURS:
        ratio(f"{ours}: bytes / JPEG XL e3, 8-bit RGB", 1.0, rgb, ours, "JPEG XL e3")
    pictures = _select(record, _rgb, "pictures")
    for ours in OURS:
        add(f"{ours}: bytes / JPEG XL e3, Kodak", 1.0, [nan, _mean(_ratios(pictures, ours, "JPEG XL e3"))])
    add(
        "resolution: share of bytes for 1/8 size (*)",
        0.04,
        [_eighth(s, "resolution", "bytes") for s in every],
    )
    add(
        "resolution: share of time for 1/8 size (*)",
        1 / 15,
        [_eighth(s, "resolution", "time") for s in every],
    )
    for name, ways in record.get("threads", {}).items():
        for way, gain in ways.items():
            add(f"{name}: {way}, two threads against one", 1.8, [nan, gain], least=True)
    return rows


def _bars_table(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| promise | bar | validation | all | met |"
    yield "|---|---|---|---|---|"
    for row in rows:
        sign = ">=" if row["least"] else "<="
        values = " | ".join("-" if v != v else f"{v:.3f}" for v in row["values"])
        met = {True: "yes", False: "**no**", None: "-"}[row["met"]]
        yield f"| {row['what']} | {sign} {row['bar']:.3g} | {values} | {met} |"


def _remarks(record: Any) -> Iterator[str]:
    packed = sum(image["pack"] for image in record["images"].values())
    yield (
        f"(*) tiles whose prefix serves. {packed} of {len(record['images'])} images are packed, have nodata "
        "or are floats: their levels from 1/8 on are stored as arrays of their own."
    )
    yield "Validation: sources that nothing is tuned on. All: training sources, too."


def _names(record: Any) -> list[str]:
    names: list[str] = []
    for image in record["images"].values():
        names += [n for n in image["codecs"] if n not in names]
    return names


def _images_table(record: Any, names: list[str], origin: str) -> Iterator[str]:
    chosen = _select(record, lambda i: True, origin)
    if not chosen:
        return
    yield f"\n### {origin.capitalize()}: bits per sample\n"
    yield "| image | kind | shape | " + " | ".join(names) + " |"
    yield "|---" * (len(names) + 3) + "|"
    for name, image in sorted(chosen.items(), key=lambda item: (item[1]["group"], item[0])):
        codecs = image["codecs"]
        bits = [f"{8 * codecs[n]['bytes'] / image['samples']:.3f}" if n in codecs else "-" for n in names]
        shape = " x ".join(map(str, image["shape"]))
        yield f"| {name[:40]} | {image['group']} | {shape} | " + " | ".join(bits) + " |"


def _means_table(record: Any, names: list[str]) -> Iterator[str]:
    """Geometric means of the size, of raw, per modality and origin."""
    yield "| kind | origin | images | " + " | ".join(names) + " |"
    yield "|---" * (len(names) + 3) + "|"
    groups = sorted({(i["group"], i["origin"]) for i in record["images"].values()})
    for group, origin in groups:
        chosen = _select(record, lambda i, g=group: i["group"] == g, origin)
        cells = []
        for n in names:
            complete = all(n in i["codecs"] for i in chosen.values())
            shares = (8 * i["codecs"][n]["bytes"] / i["samples"] for i in chosen.values() if n in i["codecs"])
            cells.append(f"{_mean(shares):.3f}" if complete else "-")
        yield f"| {group} | {origin} | {len(chosen)} | " + " | ".join(cells) + " |"


def _speed_table(record: Any, names: list[str]) -> Iterator[str]:
    sets = {
        "16-bit greys": _select(record, _greys, "validation training"),
        "multi-band, 16 bit": _select(record, _bands, "validation training"),
        "8-bit RGB": _select(record, _rgb, "validation training pictures"),
    }
    yield "| MB/s | " + " | ".join(names) + " |"
    yield "|---" * (len(names) + 1) + "|"
    for title, chosen in sets.items():
        for way in ("encode", "decode"):
            cells = [f"{s:.0f}" if (s := _speed(chosen, n, way)) == s else "-" for n in names]
            yield f"| {title}, {way} | " + " | ".join(cells) + " |"
    for way in ("encode", "decode"):
        peaks = record.get("memory", {})
        cells = [f"{peaks[n][way]:.0f}" if n in peaks else "-" for n in names]
        yield f"| memory beyond a tile of 6 MiB, {way}, MiB | " + " | ".join(cells) + " |"


def _losses(record: Any) -> Iterator[str]:
    """Where another codec is smaller, image by image."""
    for ours in OURS:
        for other in (
            "JPEG 2000",
            "JPEG-LS",
            "JPEG XL e3",
            "JPEG XL e7",
            "zstd bitshuffle",
            "TIFF deflate",
            "TIFF zstd",
            "LERC",
        ):
            chosen = _select(record, lambda i, o=ours: o in i["codecs"], "validation training pictures apart")
            lost = {n: next(_ratios({n: chosen[n]}, ours, other)) for n in _not_smaller(chosen, ours, other)}
            if lost:
                worst = sorted(lost, key=lambda n: -lost[n])[:6]
                listed = ", ".join(f"{n[:40]} ({100 * (lost[n] - 1):+.1f} %)" for n in worst)
                more = "" if len(lost) <= 6 else f", and {len(lost) - 6} more"
                count = f"{len(lost)} of {len(chosen)} images"
                yield f"* `{ours}` is not smaller than {other} on {count}: {listed}{more}"


def report(record: Any) -> str:
    """All of it as Markdown."""
    names = _names(record)
    where = record["machine"]
    lines = [
        "# Lossless tiles: size and speed", "",
        where["cpu"], f"imagecodecs {where['imagecodecs']}, commit {where['commit']}, one thread each",
        f"`{where['command']}`", "",
        "## Bars", "", *_bars_table(record["bars"]), "", *_remarks(record), "",
        "## Geometric means, bits per sample", "", *_means_table(record, names), "",
        "## Speed and memory", "", *_speed_table(record, names), "",
        "## Where we lose", "", *_losses(record), "",
        "## Images",
    ]  # fmt: skip
    for origin in ("validation", "training", "pictures", "apart"):
        lines += _images_table(record, names, origin)
    return "\n".join(lines) + "\n"


def plot(record: Any, path: Path) -> None:
    """Size of JPEG XL e7's against speed: one column per kind of image, encoding above, decoding below."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    kinds = {"16-bit greys": _greys, "multi-band satellite, 16 bit": _bands, "8-bit RGB": _rgb}
    figure, axes = plt.subplots(2, 3, figsize=(15, 9), sharex="row", constrained_layout=True)
    for column, (title, want) in enumerate(kinds.items()):
        chosen = _select(record, want, "validation training pictures")
        for row, way in enumerate(("encode", "decode")):
            axis = axes[row, column]
            for name in _names(record):
                if any(name not in image["codecs"] for image in chosen.values()):
                    continue  # a mean over fewer images says something else
                size, speed = _mean(_ratios(chosen, name, "JPEG XL e7")), _speed(chosen, name, way)
                if size != size or speed != speed:
                    continue
                ours = name in OURS
                axis.plot(
                    speed, size, "o", color="#c0392b" if ours else "#34495e", markersize=9 if ours else 6
                )
                axis.annotate(
                    name, (speed, size), xytext=(6, 4), textcoords="offset points", fontsize=9,
                    color="#c0392b" if ours else "#34495e", fontweight="bold" if ours else "normal",
                )  # fmt: skip
            axis.set_xscale("log")
            axis.axhline(1, color="#bbbbbb", linewidth=0.8, zorder=0)
            axis.set_title(title if row == 0 else "")
            axis.set_xlabel(f"{way}, MB/s, one thread")
            axis.set_ylabel("bytes / JPEG XL e7 (geometric mean)" if column == 0 else "")
            axis.margins(x=0.25, y=0.1)
            axis.grid(alpha=0.25)
    figure.savefig(path, dpi=110)
    plt.close(figure)
