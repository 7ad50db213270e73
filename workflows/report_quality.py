"""The part of the report that lossy images have: maps of quality, a histogram, the worst tiles seen close.

As in the rest of the report, gathering is apart from drawing: `QualityView` is plain values. The originals
are gone once an image is stored; what is shown of them was cut out while they were there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tilevault.archive.image import ImageInfo
from tilevault.archive.lossy import Closeup
from tilevault.archive.render import png_bytes
from tilevault.workflows.lossy import quality_text
from tilevault.workflows.report_charts import data_uri, heat_map, text

if TYPE_CHECKING:
    from tilevault.archive.store import Image

__all__ = ["QualityMap", "QualityView", "draw_quality", "gather_quality", "tile_map"]

OPEN_VIEWS = 6
"""Images whose quality is seen at once; the others unfold."""
BINS = 24
NARROWEST = 0.5
"""Decibels that a histogram and a map span at least: differences of a hundredth are no picture."""
CHART_WIDTH, CHART_HEIGHT, FOOT = 340, 132, 18
ENLARGED = 2


@dataclass(frozen=True)
class QualityMap:
    """One measure over the tiles."""

    label: str
    values: NDArray[np.float64]
    """(rows, columns) of tiles, or (1, n) along an axis."""
    along: str
    """``yx``, or the axis."""
    narrowest: float = 0.0
    """What the scale spans at least."""


@dataclass(frozen=True)
class QualityView:
    """What the report shows of one lossy image."""

    fidelity: str
    said: str
    """The measures in a line."""
    maps: tuple[QualityMap, ...] = ()
    extent: tuple[int, int] = (1, 1)
    tile: tuple[int, int] = (1, 1)
    decibels: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """PSNR of each tile that lost something."""
    exact: int = 0
    """Tiles that lost nothing."""
    worst: tuple[Closeup, ...] = ()


def gather_quality(image: "Image", worst: Sequence[Closeup], pictures: bool) -> QualityView | None:
    """What there is to show of a lossy image; None for another."""
    info, summary = image.info, image.quality.summary
    if info is None or summary is None:
        return None
    tables = image.quality.tables
    arrays, lossy = tables.arrays, ~tables.exact
    decibels = arrays["psnr"][lossy].astype(np.float64)
    top = float(decibels.max()) if decibels.size else 0.0
    psnr = np.where(lossy, arrays["psnr"], top).astype(np.float64)
    maps = (
        _map("PSNR, dB", psnr, info, np.min, NARROWEST),
        _map("largest error", arrays["max_abs_error"].astype(np.float64), info, np.max),
    )
    rows, columns = image.grid.tile[-2:]
    return QualityView(
        fidelity=image.fidelity,
        said=quality_text(summary),
        maps=maps,
        extent=(info.shape[-2], info.shape[-1]),
        tile=(rows, columns),
        decibels=decibels,
        exact=int(tables.exact.sum()),
        worst=tuple(worst) if pictures else (),
    )


def _map(
    label: str, values: NDArray[np.float64], info: ImageInfo, reduce: Any, narrowest: float = 0.0
) -> QualityMap:
    spread, along = tile_map(values, info, reduce)
    return QualityMap(label, spread, along, narrowest)


def tile_map(values: NDArray[np.float64], info: ImageInfo, reduce: Any) -> tuple[NDArray[np.float64], str]:
    """Values over (rows, columns) of tiles, the worst of others; along their axis where planes are a tile."""
    stacked = [i for i, name in enumerate(info.axes[:-2]) if name != "c" and values.shape[i] > 1]
    if values.shape[-1] == values.shape[-2] == 1 and stacked:
        axis = stacked[-1]
        others = tuple(i for i in range(values.ndim) if i != axis)
        return np.asarray(reduce(values, axis=others))[np.newaxis], info.axes[axis]
    return np.asarray(reduce(values, axis=tuple(range(values.ndim - 2)))), "yx"


def draw_quality(views: Sequence[tuple[str, QualityView]]) -> str:
    """The section; nothing where no image is lossy. ``views``: (name, view) of each lossy image."""
    if not views:
        return ""
    largest = sorted(views, key=lambda shown: -(shown[1].decibels.size + shown[1].exact))
    cards = [_card(name, view) for name, view in largest]
    folded = ""
    if len(cards) > OPEN_VIEWS:
        rest = "".join(cards[OPEN_VIEWS:])
        folded = (
            f'<details class="more"><summary>{len(cards) - OPEN_VIEWS:,} more lossy images</summary>'
            f"{rest}</details>"
        )
    return (
        "<h2>What was lost</h2><p>Measured while the images were added, with the decoder that readers use. "
        "Maps show each tile; where planes are stacked, the worst of them. Close-ups show where the worst "
        "tiles differ most: as it was, as it is read now, and the difference, grey where there is none.</p>"
        f"{''.join(cards[:OPEN_VIEWS])}{folded}"
    )


def _card(name: str, view: QualityView) -> str:
    drawn = [_map_figure(shown, view) for shown in view.maps if shown.values.size > 1]
    if view.decibels.size > 1:
        drawn.append(_histogram(view))
    closeups = "".join(_closeup(closeup) for closeup in view.worst)
    maps = f'<div class="maps quality">{"".join(drawn)}</div>' if drawn else ""
    close = f'<div class="maps closeups">{closeups}</div>' if closeups else ""
    return (
        f'<div class="card lossy"><h3>{text(name, 120)} <span class="tag warn">{text(view.fidelity, 40)}'
        f'</span></h3><p class="note">{text(view.said, 200)}</p>{maps}{close}</div>'
    )


def _map_figure(shown: QualityMap, view: QualityView) -> str:
    plane = shown.along == "yx"
    extent = view.extent if plane else (1, shown.values.shape[1])
    png, low, high = heat_map(shown.values, extent, view.tile if plane else (1, 1), shown.narrowest)
    kind = "heat" if plane else "heat strip"
    where = "" if plane else f", along {text(shown.along, 16)}"
    label = f"{text(shown.label, 40)}{where}"
    told = f"{label}: {low:.6g} to {high:.6g}"
    return (
        f'<div class="map"><figure><img class="{kind}" alt="{label}" title="{told}" '
        f'src="{data_uri(png)}"></figure><div class="key">{low:.5g}<i></i>{high:.5g}</div>'
        f"<p>{label}</p></div>"
    )


def _histogram(view: QualityView) -> str:
    """Tiles by PSNR, as bars."""
    low, high = float(view.decibels.min()), float(view.decibels.max())
    if high - low < NARROWEST:
        middle = (low + high) / 2
        low, high = middle - NARROWEST / 2, middle + NARROWEST / 2
    counts, edges = np.histogram(view.decibels, BINS, (low, high))
    width, room = CHART_WIDTH / BINS, CHART_HEIGHT - FOOT
    bars = "".join(
        f'<rect class="bar" x="{i * width + 1:.1f}" y="{room - room * n / counts.max():.1f}" '
        f'width="{width - 2:.1f}" height="{room * n / counts.max():.1f}" rx="1.5"/>'
        for i, n in enumerate(counts)
        if n
    )
    line = f'<line class="one" x1="0" y1="{room}" x2="{CHART_WIDTH}" y2="{room}"/>'
    ticks = "".join(
        f'<text class="tick" x="{x:.0f}" y="{CHART_HEIGHT - 4}">{edges[i]:.2f}</text>'
        for i, x in ((0, 18), (BINS // 2, CHART_WIDTH / 2), (BINS, CHART_WIDTH - 18))
    )
    exact = f", {view.exact:,} more lost nothing" if view.exact else ""
    return (
        f'<div class="map"><figure><svg class="histogram" viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" '
        f'role="img" aria-label="tiles by PSNR">{bars}{line}{ticks}</svg></figure>'
        f'<div class="key">most in a bar: {int(counts.max()):,}</div>'
        f"<p>{view.decibels.size:,} tiles by PSNR in dB{exact}</p></div>"
    )


def _closeup(closeup: Closeup) -> str:
    pictures = "".join(
        f'<img class="close" alt="{what}" title="{what}" src="{data_uri(png)}">'
        for what, png in _rendered(closeup).items()
    )
    at = ", ".join(str(i) for i in closeup.tile)
    y, x = closeup.start[-2:]
    return (
        f'<div class="map"><figure>{pictures}</figure><p>tile ({at}), from row {y}, column {x}: '
        f"{closeup.psnr:.2f} dB, largest error {closeup.max_abs_error:.6g}</p></div>"
    )


def _rendered(closeup: Closeup) -> Mapping[str, bytes]:
    """Original and decoded on one scale; the difference on a scale of its own, 0 in the middle."""
    original, decoded = closeup.original.astype(np.float64), closeup.decoded.astype(np.float64)
    finite = np.isfinite(original) & closeup.counted
    low, high = np.percentile(original[finite], (0.5, 99.5)) if finite.any() else (0.0, 1.0)
    difference = np.where(finite, decoded - original, 0)
    most = float(np.abs(difference).max()) or 1.0
    scales = {
        "original": (original, low, high),
        "as it is read": (decoded, low, high),
        f"difference, {-most:.4g} to {most:.4g}": (difference, -most, most),
    }
    return {what: _grey(words, bottom, top) for what, (words, bottom, top) in scales.items()}


def _grey(values: NDArray[np.float64], low: float, high: float) -> bytes:
    place = (np.nan_to_num(values, posinf=high, neginf=low) - low) / ((high - low) or 1.0)
    grey = np.rint(255 * np.clip(place, 0, 1)).astype(np.uint8)
    return png_bytes(grey.repeat(ENLARGED, 0).repeat(ENLARGED, 1))
