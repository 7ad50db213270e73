"""The drawings of the report: bars as inline SVG, heat maps as small PNGs. Pure; no scripts, no files."""

import base64
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from tilevault.archive.render import png_bytes
from tilevault.workflows.console import printable

__all__ = ["bar_chart", "data_uri", "heat_map", "share_bar", "text"]

SCALE = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
"""Five colours of the viridis scale, dark (few bits) to light (many): ordered for every kind of sight."""
HEAT_SIDE = 160
"""Pixels along the longer side of a heat map."""

CHART_WIDTH, LABEL_WIDTH, REMARK_WIDTH, ROW = 720, 120, 275, 34


def text(value: object, limit: int | None = None) -> str:
    """``value`` for HTML: no markup, no control or direction-changing characters, cut at ``limit``."""
    return escape(printable(value, limit), quote=True)


def data_uri(png: bytes) -> str:
    """A PNG as an address that needs no network."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def bar_chart(rows: Sequence[tuple[str, float, str]], name: str, one: str) -> str:
    """Horizontal bars: (label, value, remark); a dashed line, called ``one``, marks the value 1."""
    top = max([value for _, value, _ in rows] + [1.0])
    span = CHART_WIDTH - LABEL_WIDTH - REMARK_WIDTH
    height = ROW * len(rows) + 22
    drawn = []
    for i, (label, value, remark) in enumerate(rows):
        y, width = i * ROW + 4, max(2.0, span * value / top)
        base = y + 16
        drawn.append(
            f'<text class="label" x="{LABEL_WIDTH - 12}" y="{base}">{text(label, 16)}</text>'
            f'<rect class="bar" x="{LABEL_WIDTH}" y="{y}" width="{width:.1f}" height="22" rx="4"/>'
            f'<text class="value" x="{LABEL_WIDTH + width + 10:.1f}" y="{base}">{value:.2f}</text>'
            f'<text class="remark" x="{CHART_WIDTH}" y="{base}">{text(remark)}</text>'
        )
    x = LABEL_WIDTH + span / top
    drawn.append(
        f'<line class="one" x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{height - 18}"/>'
        f'<text class="tick" x="{x:.1f}" y="{height - 5}">{text(one)}</text>'
    )
    return (
        f'<svg class="bars" viewBox="0 0 {CHART_WIDTH} {height}" role="img" aria-label="{text(name)}">'
        f"{''.join(drawn)}</svg>"
    )


def share_bar(parts: Sequence[tuple[str, int, str]]) -> str:
    """One bar cut into shares: (label, count, CSS class), with a legend."""
    parts = [part for part in parts if part[1]]
    total = sum(count for _, count, _ in parts) or 1
    x, drawn, legend = 0.0, [], []
    for label, count, kind in parts:
        width = 100 * count / total
        drawn.append(f'<rect class="{kind}" x="{x:.3f}" y="0" width="{width:.3f}" height="10"/>')
        legend.append(f'<li><i class="{kind}"></i><b>{count:,}</b> {text(label)}</li>')
        x += width
    return (
        '<svg class="shares" viewBox="0 0 100 10" preserveAspectRatio="none" role="img" '
        f'aria-label="shares">{"".join(drawn)}</svg><ul class="legend">{"".join(legend)}</ul>'
    )


def heat_map(
    values: NDArray[np.float64], extent: tuple[int, int], tile: tuple[int, int], narrowest: float = 0.0
) -> tuple[bytes, float, float]:
    """A PNG of the tiles in their places, and the values of its darkest and lightest colour.

    ``values``: (rows, columns) of tiles, finite; ``extent`` and ``tile`` in pixels (y, x): the last row and
    column of tiles may be narrower. Where all tiles cost the same, all have the middle colour. More tiles
    than the picture has pixels are sampled. The colours span ``narrowest`` at least.
    """
    low, high = float(values.min()), float(values.max())
    if high - low < narrowest:
        low, high = (low + high - narrowest) / 2, (low + high + narrowest) / 2
    place = np.full(values.shape, 0.5) if low == high else (values - low) / (high - low)
    scale = HEAT_SIDE / max(extent)
    index = []
    for n, side, count in zip(extent, tile, values.shape, strict=True):
        length = max(1, round(n * scale))
        index.append(np.minimum(((np.arange(length) + 0.5) * n / length).astype(int) // side, count - 1))
    seen = place[np.ix_(*index)]
    anchors = np.linspace(0, 1, len(SCALE))
    colours = [np.interp(seen, anchors, [colour[i] for colour in SCALE]) for i in range(3)]
    return png_bytes(np.rint(np.stack(colours, axis=-1)).astype(np.uint8)), low, high
