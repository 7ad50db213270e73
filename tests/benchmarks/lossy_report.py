"""What the measurements of the lossy benchmark say: BD-rates, quality at one rate, bounds, speeds, plots."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import exp, log, nan
from pathlib import Path
from typing import Any

import numpy as np
from lossy_curves import LEAST_BITS, SAME_HEADERS, along, bd_rate, relative_rates
from lossy_field import Case

__all__ = ["ablation", "bd_table", "plot_curves", "plot_rates", "report"]

LOW_RATES = 40.0
"""dB below which the ablation is told apart."""
ANCHOR = "OpenJPEG"
JXL = ("JPEG XL e7", "JPEG XL e7, bits declared")
"""Two curves of one codec: on each tile the better one counts."""
SETS = {
    "medical greys": ("CT", "MR", "radiography"),
    "satellite, 8 to 16 bit": (
        "one band, 16 bit", "one band, 8 bit", "multi-band, 16 bit", "multi-band, 8 bit",
    ),
    "colour, 8 bit": ("colour, 8 bit", "photographs"),
    "float": ("float",),
}  # fmt: skip
FIELDS = (
    ("bits", 1.0, 3),
    ("ssim", 1.0, 4),
    ("ms_ssim", 1.0, 5),
    ("max_error", 100.0, 2),
    ("border", 1.0, 2),
)
"""Of the table at one PSNR: field, factor, digits."""
AT_DECIBELS = 42.0
BOUNDS = (1, 2, 4, 8, 16)
Record = dict[str, Any]
Delta = dict[str, dict[str, float]]


def names(record: Record) -> list[str]:
    """The curves that are shown, the others' first."""
    return [c["name"] for c in record["coders"] if c["name"] not in (ANCHOR, JXL[1])]


def _ours(record: Record) -> list[str]:
    return [c["name"] for c in record["coders"] if c["ours"]]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else nan


def bd_table(
    record: Record,
    chosen: Mapping[str, Case],
    anchor: str = ANCHOR,
    ms: bool = False,
    below: float = math.inf,
    least: float = LEAST_BITS,
) -> Delta:
    """Image -> curve -> BD-rate in percent: the mean over the image's tiles.

    ``below``: so many dB; ``least``: bits per sample of the anchor.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for key, case in record["cases"].items():
        curves = case["curves"]
        for name in names(record):
            ways = JXL if name == JXL[0] else (name,)
            deltas = [
                bd_rate(chosen[key], curves[anchor], curves[way], ms, below, least)
                for way in ways
                if way in curves and anchor in curves
            ]
            rates = [delta[0] for delta in deltas if delta is not None]
            if rates and name != anchor:
                found.setdefault(case["image"], {}).setdefault(name, []).append(min(rates))
    return {image: {name: _mean(v) for name, v in row.items()} for image, row in found.items()}


def _groups(record: Record) -> dict[str, str]:
    return {case["image"]: case["group"] for case in record["cases"].values()}


def _cells(values: Sequence[float], digits: int = 1, plus: bool = True) -> str:
    sign = "+" if plus else ""
    return " | ".join("-" if v != v else f"{v:{sign}.{digits}f}" for v in values)


def _means_table(record: Record, deltas: Delta, columns: Sequence[str]) -> Iterator[str]:
    groups = _groups(record)
    yield "| kind | images | " + " | ".join(columns) + " |"
    yield "|---" * (len(columns) + 2) + "|"
    for kind, members in SETS.items():
        inside = [m for m in members if m in groups.values()]
        for label, wanted in [(kind, members), *((f"&nbsp; {m}", (m,)) for m in inside if len(inside) > 1)]:
            rows = [row for image, row in deltas.items() if groups[image] in wanted]
            if rows:
                means = [_mean([row[n] for row in rows if n in row]) for n in columns]
                yield f"| {label} | {len(rows)} | {_cells(means)} |"


def _images_table(record: Record, deltas: Delta, columns: Sequence[str]) -> Iterator[str]:
    groups = _groups(record)
    yield "| image | kind | " + " | ".join(columns) + " |"
    yield "|---" * (len(columns) + 2) + "|"
    for image, row in sorted(deltas.items(), key=lambda item: (groups[item[0]], item[0])):
        yield f"| {image[:44]} | {groups[image]} | {_cells([row.get(n, nan) for n in columns])} |"


def ablation(record: Record, chosen: Mapping[str, Case]) -> Iterator[str]:
    """Markdown: each variant of ours against the one before it; those that bound the error are no part."""
    ours = [c["name"] for c in record["coders"] if c["ours"] and not c["bounded"]]
    if len(ours) < 2:
        return
    for below in (math.inf, LOW_RATES):
        where = "" if below == math.inf else f", below {below:g} dB"
        yield f"\n## Ablation: BD-rate of each variant against the one before it{where}, % (images)\n"
        yield "| kind | " + " | ".join(f"{b} against {a}" for a, b in pairwise(ours)) + " |"
        yield "|---" * len(ours) + "|"
        groups = _groups(record)
        steps = [bd_table(record, chosen, a, below=below, least=SAME_HEADERS) for a in ours[:-1]]
        for kind, members in SETS.items():
            found = [
                [row[b] for image, row in step.items() if groups[image] in members and b in row]
                for step, b in zip(steps, ours[1:], strict=True)
            ]
            if any(found):
                cells = [f"{_cells([_mean(rates)])} ({len(rates)})" for rates in found]
                yield f"| {kind} | {' | '.join(cells)} |"


def _quality_table(record: Record) -> Iterator[str]:
    """At one PSNR: what it costs, and what the other measures say."""
    yield (
        "| kind | codec | tiles | bits per sample | SSIM | MS-SSIM "
        "| max error, % of peak | border / interior |"
    )
    yield "|---" * 8 + "|"
    for kind, members in SETS.items():
        for name in [ANCHOR, *names(record)]:
            rows = [
                values
                for case in record["cases"].values()
                if case["group"] in members and name in case["curves"]
                if (values := _at(case, name)) is not None
            ]
            columns = [_mean(column) for column in zip(*rows, strict=True)]
            cells = [
                f"{scale * mean:.{digits}f}"
                for mean, (_, scale, digits) in zip(columns, FIELDS, strict=False)
            ]
            if rows:
                yield f"| {kind} | {name} | {len(rows)} | " + " | ".join(cells) + " |"


def _at(case: dict[str, Any], name: str) -> list[float] | None:
    """`FIELDS` at the table's PSNR, the error as a share of the peak; None where the curve misses it."""
    values = {field: along(case["curves"][name], AT_DECIBELS, field) for field, _, _ in FIELDS}
    if None in values.values():
        return None
    found = {field: value for field, value in values.items() if value is not None}
    return [*(found | {"max_error": found["max_error"] / case["peak"]}).values()]


def _bounds_table(record: Record) -> Iterator[str]:
    """Of the coders that bound the error: bits per sample at each bound, and whether it held."""
    bounded = [c["name"] for c in record["coders"] if c["bounded"]]
    yield "| kind | codec | tiles | " + " | ".join(f"N = {n}" for n in BOUNDS) + " | held |"
    yield "|---" * (len(BOUNDS) + 4) + "|"
    for kind, members in SETS.items():
        for name in bounded:
            rows = [
                {int(p["quality"]): p for p in case["curves"][name]}
                for case in record["cases"].values()
                if case["group"] in members and name in case["curves"] and case["dtype"][0] in "iu"
            ]
            rows = [row for row in rows if all(n in row for n in BOUNDS)]
            if rows:
                bits = [exp(_mean([log(row[n]["bits"]) for row in rows])) for n in BOUNDS]
                held = all(row[n]["max_error"] <= n for row in rows for n in BOUNDS)
                kept = "yes" if held else "**no**"
                yield f"| {kind} | {name} | {len(rows)} | {_cells(bits, 3, plus=False)} | {kept} |"


def _speeds_table(record: Record) -> Iterator[str]:
    ways = ("encode 1", "decode 1", "encode 2", "decode 2")
    yield "| MB/s | codec | encode | decode | encode, 2 threads | decode, 2 threads |"
    yield "|---" * 6 + "|"
    for kind, rows in record["speeds"].items():
        for name, row in rows.items():
            yield f"| {kind} | {name} | {_cells([row[way] for way in ways], 1, plus=False)} |"


def report(record: Record, chosen: Mapping[str, Case]) -> str:
    """All of it as Markdown."""
    where, columns = record["machine"], names(record)
    psnr, ms = bd_table(record, chosen), bd_table(record, chosen, ms=True)
    images = {case["image"] for case in record["cases"].values()}
    lines = [
        "# Lossy tiles: rate, quality, speed", "",
        where["cpu"], f"commit {where['commit']}, {len(images)} images, {len(record['cases'])} tiles",
        where["libraries"], f"`{where['command']}`", "",
        f"## BD-rate against {ANCHOR}, % (negative: fewer bits at equal PSNR)", "",
        *_means_table(record, psnr, columns), "",
        f"## BD-rate against {ANCHOR} at equal MS-SSIM, %", "", *_means_table(record, ms, columns),
        *ablation(record, chosen), "",
        f"## At {AT_DECIBELS:.0f} dB, means over the tiles that the curve spans", "",
        *_quality_table(record), "",
        "## Bounded error: bits per sample (geometric means)", "", *_bounds_table(record), "",
    ]  # fmt: skip
    if record["speeds"]:
        lines += [f"## Speed at about {record['speed_decibels']:.0f} dB, MB/s of words", ""]
        lines += [*_speeds_table(record), ""]
    if record["measuring_ms"]:
        what = "PSNR, SSIM, MS-SSIM and the largest error of a tile of 512 x 512 words take"
        lines += [f"{what} {record['measuring_ms']:.1f} ms on one thread.", ""]
    return "\n".join([*lines, "## Images: BD-rate, %", "", *_images_table(record, psnr, columns), ""])


def _style(record: Record, name: str, k: int) -> dict[str, Any]:
    """Ours in red, the last variant strongest."""
    ours = _ours(record)
    if name in ours:
        return {"color": "#c0392b", "linewidth": 2.2, "alpha": 0.4 + 0.6 * (ours.index(name) + 1) / len(ours)}
    colours = ("#34495e", "#2980b9", "#27ae60", "#8e44ad", "#d68910", "#7f8c8d")
    return {"color": colours[k % len(colours)], "linewidth": 1.4}


def plot_rates(record: Record, chosen: Mapping[str, Case], path: Path) -> None:
    """Bits against the anchor's at equal PSNR: geometric mean of the tiles that reach it, by kind."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    kinds = [k for k, m in SETS.items() if any(c["group"] in m for c in record["cases"].values())]
    figure, axes = plt.subplots(
        1, len(kinds), figsize=(4.6 * len(kinds), 4.6), squeeze=False, layout="constrained"
    )
    grid = np.arange(28.0, 60.01, 0.5)
    for axis, kind in zip(axes[0], kinds, strict=True):
        inside = {k: c for k, c in record["cases"].items() if c["group"] in SETS[kind]}
        for k, name in enumerate(names(record)):
            rates = []
            for key, case in inside.items():
                ways = [
                    case["curves"][w] for w in (JXL if name == JXL[0] else (name,)) if w in case["curves"]
                ]
                logs = [relative_rates(chosen[key], case["curves"][ANCHOR], way, grid) for way in ways]
                if logs:
                    rates.append(np.fmin.reduce(logs))
            if not rates:
                continue
            table = np.stack(rates)
            # A mean over few of the tiles says something else than one over most.
            enough = np.isfinite(table).sum(0) >= max(1, len(inside) // 2)
            means = np.where(enough, np.nansum(table, 0) / np.maximum(1, np.isfinite(table).sum(0)), np.nan)
            axis.plot(grid, 100 * np.expm1(means), label=name, **_style(record, name, k))
        axis.axhline(0, color="#888888", linewidth=1, linestyle=":")
        axis.set(title=kind, xlabel="PSNR, dB", ylim=(-50, 100))
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8)
    axes[0, 0].set_ylabel(f"bits against {ANCHOR}, %")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def plot_curves(record: Record, path: Path) -> None:
    """PSNR over bits per sample: the first tile of each image."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    first: dict[str, dict[str, Any]] = {}
    for case in record["cases"].values():
        first.setdefault(case["image"], case)
    columns = min(5, len(first))
    rows = -(-len(first) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.2 * columns, 3.3 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(first) :]:
        axis.set_visible(False)
    for axis, (image, case) in zip(axes.flat, first.items(), strict=False):
        for k, name in enumerate([ANCHOR, *names(record)]):
            points = sorted(case["curves"].get(name, []), key=lambda p: p["psnr"])
            inside = [p for p in points if p["psnr"] < 66]
            style = _style(record, name, k - 1) if k else {"color": "black", "linewidth": 1.8}
            axis.plot([p["bits"] for p in inside], [p["psnr"] for p in inside], ".-", label=name, **style)
        axis.set_xscale("log")
        axis.set_title(f"{image[:34]} ({case['group']})", fontsize=8)
        axis.grid(alpha=0.25, which="both")
    axes[0, 0].legend(fontsize=6)
    figure.supxlabel("bits per sample")
    figure.supylabel("PSNR, dB")
    figure.savefig(path, dpi=90)
    plt.close(figure)
