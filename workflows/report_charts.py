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
MAX_CELLS = 128
"""Tiles along a side of a heat map, at most; larger grids are averaged."""

CHART_WIDTH, LABEL_WIDTH, VALUE_WIDTH, ROW = 720, 150, 230, 34


def text(value: object, limit: int | None = None) -> str:
    """``value`` for HTML: no markup, no control or direction-changing characters, cut at ``limit``."""
    return escape(printable(value, limit), quote=True)


def data_uri(png: bytes) -> str:
    """A PNG as an address that needs no network."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def bar_chart(rows: Sequence[tuple[str, float, str]], unit: str) -> str:
    """Horizontal bars: (label, value, remark); a dashed line marks the value 1."""
    top = max([value for _, value, _ in rows] + [1.0])
    span = CHART_WIDTH - LABEL_WIDTH - VALUE_WIDTH
    height = ROW * len(rows) + 26
    drawn = []
    for i, (label, value, remark) in enumerate(rows):
        y, width = i * ROW + 6, max(2.0, span * value / top)
        middle = y + 15
        drawn.append(
            f'<text class="label" x="{LABEL_WIDTH - 12}" y="{middle}">{text(label, 20)}</text>'
            f'<rect class="bar" x="{LABEL_WIDTH}" y="{y}" width="{width:.1f}" height="20" rx="4"/>'
            f'<text class="value" x="{LABEL_WIDTH + width + 10:.1f}" y="{middle}">{value:.2f}'
            f'<tspan class="remark" dx="10">{text(remark)}</tspan></text>'
        )
    one = LABEL_WIDTH + span / top
    drawn.append(
        f'<line class="one" x1="{one:.1f}" y1="0" x2="{one:.1f}" y2="{height - 22}"/>'
        f'<text class="tick" x="{one:.1f}" y="{height - 6}">1 {text(unit)}</text>'
    )
    return (
        f'<svg class="bars" viewBox="0 0 {CHART_WIDTH} {height}" role="img" '
        f'aria-label="{text(unit)} per modality">{"".join(drawn)}</svg>'
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


def heat_map(values: NDArray[np.float64]) -> tuple[bytes, float, float]:
    """A PNG with one pixel per tile, and the values of its darkest and lightest colour.

    ``values``: (rows, columns), finite. Where all tiles cost the same, all have the middle colour.
    """
    cells = _averaged(values)
    low, high = float(cells.min()), float(cells.max())
    place = np.full(cells.shape, 0.5) if low == high else (cells - low) / (high - low)
    anchors = np.linspace(0, 1, len(SCALE))
    colours = [np.interp(place, anchors, [colour[i] for colour in SCALE]) for i in range(3)]
    return png_bytes(np.rint(np.stack(colours, axis=-1)).astype(np.uint8)), low, high


def _averaged(values: NDArray[np.float64]) -> NDArray[np.float64]:
    for axis in (0, 1):
        n = values.shape[axis]
        if n > MAX_CELLS:
            edges = np.linspace(0, n, MAX_CELLS + 1).astype(int)
            values = np.add.reduceat(values, edges[:-1], axis=axis)
            sizes = np.diff(edges)
            values = values / (sizes[:, np.newaxis] if axis == 0 else sizes)
    return values
