"""The report as HTML: one page that needs no network, no scripts and no other file; light and dark.

Every text in it comes from files that strangers made, so everything passes `text`; and a content security
policy forbids what the page does not use.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from tilevault.workflows.console import human_bytes
from tilevault.workflows.report import MAX_PICTURES, Report, ReportFile, ReportImage, bytes_read
from tilevault.workflows.report_charts import SCALE, bar_chart, data_uri, heat_map, share_bar, text
from tilevault.workflows.report_quality import draw_quality
from tilevault.workflows.report_style import STYLE

__all__ = ["MAX_ROWS", "render_page"]

MAX_ROWS = 10_000
"""Rows of a table, at most."""
OPEN_REJECTED = 8
"""Rejected files that are listed before the page asks whether to see more."""
OPEN_HEAT_MAPS = 9
"""Heat maps to be seen at once: those of the images with most tiles. The others unfold."""
MAX_MODALITIES = 12

EXPLAINED = {
    "file-exact": "rebuilt byte for byte and compared with the source",
    "metadata-exact": "pixels and all metadata equal; the layout of the file may differ",
    "lossy": "reduced on request; pixels are not those of the source",
}

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render_page(report: Report) -> str:
    """The whole page. No value of ``report`` reaches it unescaped."""
    stops = ",".join(f"rgb({r},{g},{b})" for r, g, b in SCALE)
    body = "".join(
        (
            _head(report),
            _notice(report),
            _tiles(report),
            _overview(report),
            _files(report.files),
            draw_quality([(i.name, i.quality) for i in report.images if i.quality is not None]),
            _heat_maps(report.images),
            _images(report),
            f"<footer>Written by tilevault {text(report.version, 40)}, {text(report.made, 40)}.</footer>",
        )
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="robots" content="noindex"><meta name="referrer" content="no-referrer">'
        f"<title>{text(report.title, 80)}: archive report</title>"
        f"<style>{STYLE.replace('SCALE', stops)}</style></head><body><main>{body}</main></body></html>\n"
    )


def _head(report: Report) -> str:
    return (
        f"<header><h1>{text(report.title, 120)}</h1>"
        f"<p>Archive report, {text(report.made.replace('T', ' '), 40)}</p></header>"
    )


def _notice(report: Report) -> str:
    if report.thumbnails and any(image.thumbnail for image in report.images):
        return (
            '<p class="notice"><strong>This page holds patient data.</strong> It shows pictures, file names '
            "and identifiers of what was archived. Keep it where the images themselves may be kept.</p>"
        )
    return (
        '<p class="notice"><strong>This page may hold patient data.</strong> Pictures were left out, but '
        "file names and identifiers are in it. Keep it where the images themselves may be kept.</p>"
    )


def _tile(label: str, value: str, remark: str = "", kind: str = "") -> str:
    shown = text(remark, 120) or "&nbsp;"
    return (
        f'<div class="tile {kind}"><span>{text(label)}</span><b>{text(value)}</b><span>{shown}</span></div>'
    )


def _tiles(report: Report) -> str:
    stored = [image for image in report.images if image.bytes_stored]
    source, kept = sum(i.bytes_source for i in stored), sum(i.bytes_stored for i in stored)
    statuses = {
        s: sum(i.status == s for i in report.images) for s in sorted({i.status for i in report.images})
    }
    rejected = sum(f.status == "rejected" for f in report.files)
    failed = statuses.get("failed", 0)
    read = bytes_read(report.images)
    tiles = [
        _tile("Images", f"{len(report.images):,}", ", ".join(f"{n:,} {s}" for s, n in statuses.items())),
        _tile("Files", f"{report.files_read:,}", f"{len(report.files):,} of them no image"),
        _tile("Source", human_bytes(source), "of the images in the archive"),
        _tile("Stored", human_bytes(kept), "everything that is kept of them"),
        _tile("Ratio", f"{source / kept:.2f}" if kept else "–", "source / stored"),
    ]
    if report.seconds > 0:
        speed = f"{read / report.seconds / 1e6:.1f} MB/s" if read else "–"
        tiles.append(_tile("Throughput", speed, f"{_duration(report.seconds)}, read to proved"))
    if rejected or failed:
        remark = ", ".join(f"{n:,} {w}{_s(n)}" for n, w in ((rejected, "file"), (failed, "image")) if n)
        tiles.append(_tile("Not archived", f"{rejected + failed:,}", remark, "bad"))
    return f'<section class="tiles">{"".join(tiles)}</section>'


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _overview(report: Report) -> str:
    classes = [
        (name, kind) for name, kind in (("file-exact", "good"), ("metadata-exact", "fair"), ("lossy", "warn"))
    ]
    alive = [image for image in report.images if image.status != "failed"]
    shares = [
        (f"{name}: {EXPLAINED[name]}", sum(i.round_trip == name for i in alive), kind)
        for name, kind in classes
    ]
    shares.append(("failed: nothing of it is in the archive", len(report.images) - len(alive), "bad"))
    pairs = "".join(f"<dt>{text(k, 40)}</dt><dd>{text(v, 80)}</dd>" for k, v in report.settings.items())
    ratios = _ratios(report.images)
    chart = (
        bar_chart(ratios, "ratio by modality", "1 = no smaller")
        if ratios
        else '<p class="note">Nothing was stored.</p>'
    )
    return (
        "<h2>What it came to</h2><p>Sizes of files against all that the archive keeps of them: coded tiles, "
        "headers, digests and coarse levels.</p>"
        f'<div class="pair"><div class="card"><h3>Ratio by modality</h3>{chart}</div>'
        f'<div class="card"><h3>Round trip</h3>{share_bar(shares)}<dl>{pairs}</dl></div></div>'
    )


def _ratios(images: Iterable[ReportImage]) -> list[tuple[str, float, str]]:
    groups: dict[str, list[int]] = {}
    for image in images:
        if image.bytes_stored:
            group = groups.setdefault(image.modality, [0, 0, 0])
            for i, n in enumerate((image.bytes_source, image.bytes_stored, 1)):
                group[i] += n
    largest = sorted(groups.items(), key=lambda item: -item[1][0])
    rest = [numbers for _, numbers in largest[MAX_MODALITIES:]]
    if rest:
        largest = [*largest[:MAX_MODALITIES], ("others", [sum(column) for column in zip(*rest, strict=True)])]
    return [
        (name, source / stored, f"{human_bytes(source)} in {human_bytes(stored)}, {count:,} image{_s(count)}")
        for name, (source, stored, count) in largest
    ]


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _heat_maps(images: Sequence[ReportImage]) -> str:
    tiled = [i for i in images if i.bits_per_pixel is not None and i.bits_per_pixel.size > 1]
    tiled.sort(key=lambda i: -(0 if i.bits_per_pixel is None else i.bits_per_pixel.size))
    if not tiled:
        return ""
    cards = [_heat_card(image) for image in tiled]
    folded = ""
    if len(cards) > OPEN_HEAT_MAPS:
        folded = (
            f'<details class="more"><summary>{len(cards) - OPEN_HEAT_MAPS:,} more</summary>'
            f'<div class="maps">{"".join(cards[OPEN_HEAT_MAPS:])}</div></details>'
        )
    return (
        "<h2>Where the bits go</h2><p>Coded bits per pixel of each tile, all samples of a pixel together; "
        "each map has a scale of its own. A stack of small planes is drawn along its axis.</p>"
        f'<div class="maps">{"".join(cards[:OPEN_HEAT_MAPS])}</div>{folded}'
    )


def _heat_card(image: ReportImage) -> str:
    values = image.bits_per_pixel
    if values is None:
        return ""
    rows, columns = values.shape
    along = image.bits_along
    plane = along == "yx" and image.shape is not None
    extent = (image.shape[-2], image.shape[-1]) if plane and image.shape else (1, columns)
    png, low, high = heat_map(np.nan_to_num(values), extent, image.tile if plane else (1, 1))
    grid = f"{rows} x {columns} tiles" if plane else f"{columns} blocks along {text(along, 16)}"
    kind = "heat" if plane else "heat strip"
    picture = "" if image.thumbnail is None else f'<img alt="preview" src="{data_uri(image.thumbnail)}">'
    label = f"bits per pixel, {grid}: {low:.2f} to {high:.2f}, median {np.median(values):.2f}"
    return (
        f'<div class="card map"><figure>{picture}<img class="{kind}" alt="{label}" title="{label}" '
        f'src="{data_uri(png)}"></figure><p title="{text(image.name, 400)}">{text(image.name, 60)}</p>'
        f'<div class="key">{low:.2f}<i></i>{high:.2f} bits per pixel, {grid}</div></div>'
    )


def _images(report: Report) -> str:
    if not report.images:
        return '<h2>Images</h2><p class="note">There were none.</p>'
    failed_first = sorted(report.images, key=lambda image: image.status != "failed")
    rows = "".join(_image_row(image) for image in failed_first[:MAX_ROWS])
    notes = []
    if len(report.images) > MAX_ROWS:
        notes.append(f"The first {MAX_ROWS:,} of {len(report.images):,} images are listed.")
    if report.thumbnails and len(report.images) > MAX_PICTURES:
        notes.append(f"Pictures of the first {MAX_PICTURES} images only.")
    note = f'<p class="note">{" ".join(notes)}</p>' if notes else ""
    return (
        f'<h2>Images</h2>{note}<div class="card wide"><table><thead><tr><th></th><th>Image</th>'
        '<th>Modality</th><th>Samples</th><th class="n">Source</th><th class="n">Stored</th>'
        '<th class="n">Ratio</th><th>Round trip</th><th>Status</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _image_row(image: ReportImage) -> str:
    picture = "" if image.thumbnail is None else f'<img alt="" src="{data_uri(image.thumbnail)}">'
    files = f"{image.sources:,} file{_s(image.sources)}"
    why = f'<div class="why">{text(image.code, 40)}: {text(image.reason, 400)}</div>' if image.code else ""
    ratio = f"{image.bytes_source / image.bytes_stored:.2f}" if image.bytes_stored else "–"
    stored = human_bytes(image.bytes_stored) if image.bytes_stored else "–"
    proved = "–" if image.status == "failed" else _tag(image.round_trip)
    if image.fidelity != "exact" and image.status != "failed":
        proved += f'<div class="id">{text(image.fidelity, 40)}</div>'
    return (
        f'<tr><td class="pic">{picture}</td>'
        f'<td class="name">{text(image.name, 160)}<div class="id">{text(image.id[:12])} · {files}</div>'
        f"{why}{_warnings(image.warnings)}</td>"
        f'<td class="nowrap">{text(image.modality, 24)}</td><td class="nowrap">{_samples(image)}</td>'
        f'<td class="n">{human_bytes(image.bytes_source)}</td><td class="n">{stored}</td>'
        f'<td class="n">{ratio}</td><td>{proved}</td><td>{_tag(image.status)}</td></tr>'
    )


def _samples(image: ReportImage) -> str:
    if image.shape is None:
        return "no pixels" if image.axes or image.status != "failed" else "–"
    shape = " x ".join(str(n) for n in image.shape)
    return f'{shape}<div class="id">{text(" ".join(image.axes), 24)} · {text(image.dtype, 16)}</div>'


def _tag(word: str) -> str:
    kinds = {
        "file-exact": "good",
        "metadata-exact": "fair",
        "lossy": "warn",
        "added": "good",
        "extended": "good",
        "failed": "bad",
        "rejected": "bad",
    }
    return f'<span class="tag {kinds.get(word, "mute")}">{text(word, 24)}</span>'


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    shown = "".join(f"<li>{text(w, 300)}</li>" for w in warnings[:20])
    more = f"<li>and {len(warnings) - 20:,} more</li>" if len(warnings) > 20 else ""
    return (
        f"<details><summary>{len(warnings):,} warning{_s(len(warnings))}</summary>"
        f"<ul>{shown}{more}</ul></details>"
    )


def _files(files: Sequence[ReportFile]) -> str:
    if not files:
        return ""
    rejected = sorted((f for f in files if f.status == "rejected"), key=lambda f: f.source)
    skipped = sorted((f for f in files if f.status != "rejected"), key=lambda f: f.source)
    shown = _file_table(rejected[:OPEN_REJECTED]) if rejected else ""
    if len(rejected) > OPEN_REJECTED:
        count = f"{len(rejected) - OPEN_REJECTED:,} more rejected"
        rest = _file_table(rejected[OPEN_REJECTED:])
        shown += f'<details class="more"><summary>{count}</summary>{rest}</details>'
    if skipped:
        # A hospital CD has hundreds of these; they matter less than what was to be an image.
        unfolded = "" if rejected else " open"
        count = f"{len(skipped):,} file{_s(len(skipped))} skipped"
        shown += f'<details class="more"{unfolded}><summary>{count}</summary>{_file_table(skipped)}</details>'
    return (
        "<h2>Files that are no image in the archive</h2><p>Rejected: claims to be an image and is not sound, "
        f"or not supported. Skipped: neither DICOM nor TIFF.</p>{shown}"
    )


def _file_table(files: Sequence[ReportFile]) -> str:
    rows = "".join(
        f'<tr><td class="name">{text(f.source, 200)}</td><td>{_tag(f.status)}</td>'
        f'<td><code>{text(f.code, 40)}</code></td><td class="reason">{text(f.reason, 400)}</td></tr>'
        for f in files[:MAX_ROWS]
    )
    note = ""
    if len(files) > MAX_ROWS:
        note = f'<p class="note">The first {MAX_ROWS:,} of {len(files):,} are listed.</p>'
    return (
        f'{note}<div class="card wide"><table><thead><tr><th>File</th><th></th><th>Code</th><th>Reason</th>'
        f"</tr></thead><tbody>{rows}</tbody></table></div>"
    )
