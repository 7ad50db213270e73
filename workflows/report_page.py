"""The report as HTML: one page that needs no network, no scripts and no other file; light and dark.

Every text in it comes from files that strangers made, so everything passes `text`; and a content security
policy forbids what the page does not use.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from tilevault.workflows.console import human_bytes
from tilevault.workflows.report import MAX_PICTURES, Report, ReportFile, ReportImage
from tilevault.workflows.report_charts import SCALE, bar_chart, data_uri, heat_map, share_bar, text

__all__ = ["MAX_ROWS", "render_page"]

MAX_ROWS = 10_000
"""Rows of a table, at most."""
MAX_HEAT_MAPS = 48
"""Heat maps shown large: those of the images with most tiles."""
MAX_MODALITIES = 12

EXPLAINED = {
    "file-exact": "rebuilt byte for byte and compared with the source",
    "metadata-exact": "pixels and all metadata equal; the layout of the file may differ",
    "lossy": "reduced on request; pixels are not those of the source",
}

STYLE = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#1a2029;--soft:#5b6675;--line:#e2e6ec;
--accent:#2f6fde;--good:#1f8a5b;--fair:#2f6fde;--warn:#b7791f;--bad:#c8402f;--mute:#9aa5b4;--notice:#fff6e0}
@media(prefers-color-scheme:dark){:root{--page:#0f1318;--card:#181e26;--ink:#e6ebf2;--soft:#97a3b4;
--line:#2a323d;--accent:#6ea0ff;--good:#4cc38a;--fair:#6ea0ff;--warn:#e0a93f;--bad:#f0705f;--mute:#5d6876;
--notice:#2b2412}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1180px;margin:0 auto;padding:36px 24px 64px}
header h1{font-size:28px;line-height:1.2;margin:0 0 4px;letter-spacing:-.01em;overflow-wrap:anywhere}
header p{margin:0;color:var(--soft)}
h2{font-size:18px;margin:40px 0 4px}
h2+p{margin:0 0 14px;color:var(--soft);max-width:72ch}
.notice{margin:22px 0;padding:12px 16px;border-radius:10px;background:var(--notice);
border:1px solid var(--warn);border-left-width:5px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(168px,1fr));gap:12px}
.tile,.card{background:var(--card);border:1px solid var(--line);border-radius:12px}
.tile{padding:14px 16px}
.tile span{display:block;color:var(--soft);font-size:13px}
.tile b{display:block;font-size:26px;line-height:1.25;font-weight:650;letter-spacing:-.02em;
font-variant-numeric:tabular-nums;white-space:nowrap}
.tile.bad b{color:var(--bad)}
.card{padding:16px 18px}
.pair{display:grid;grid-template-columns:3fr 2fr;gap:12px;align-items:start}
@media(max-width:860px){.pair{grid-template-columns:1fr}}
.card h3{margin:0 0 10px;font-size:15px}
svg.bars{width:100%;height:auto;display:block;font-size:13px}
svg .label{text-anchor:end;fill:var(--ink)}
svg .value{fill:var(--ink);font-weight:600}
svg .remark{fill:var(--soft);font-weight:400}
svg .bar{fill:var(--accent)}
svg .one{stroke:var(--mute);stroke-dasharray:3 3}
svg .tick{fill:var(--soft);text-anchor:middle;font-size:11px}
svg.shares{width:100%;height:14px;border-radius:7px;display:block}
.good{fill:var(--good);background:var(--good)}.fair{fill:var(--fair);background:var(--fair)}
.warn{fill:var(--warn);background:var(--warn)}.bad{fill:var(--bad);background:var(--bad)}
.mute{fill:var(--mute);background:var(--mute)}
.tile.bad{background:var(--card)}
.legend{list-style:none;margin:12px 0 0;padding:0;display:grid;gap:6px}
.legend i{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:8px}
dl{display:grid;grid-template-columns:auto 1fr;gap:2px 14px;margin:14px 0 0;font-size:13px}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
.maps{display:grid;grid-template-columns:repeat(auto-fill,minmax(340px,1fr));gap:12px}
.map{padding:12px;min-width:0}
.map figure{margin:0;display:flex;gap:8px;height:150px}
.map figure img{flex:1 1 0;min-width:0;height:150px;object-fit:contain;background:#000;border-radius:6px}
.map figure img.heat{image-rendering:pixelated;background:var(--page)}
.map figure img.strip{object-fit:fill}
.map p{margin:8px 0 6px;font-size:13px;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.key{display:flex;align-items:center;gap:8px;font-size:12px;color:var(--soft);
font-variant-numeric:tabular-nums}
.key i{flex:1;height:8px;border-radius:4px;background:linear-gradient(90deg,SCALE)}
.wide{overflow-x:auto;padding:0}
table{border-collapse:collapse;width:100%;font-size:13.5px}
th,td{text-align:left;padding:8px 12px;border-bottom:1px solid var(--line);vertical-align:middle}
thead th{color:var(--soft);font-weight:500;font-size:12.5px;white-space:nowrap;border-bottom-width:2px}
tbody tr:last-child td{border-bottom:0}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.pic{width:76px;padding:6px 0 6px 12px}
td.pic img{width:64px;height:64px;object-fit:contain;background:#000;border-radius:6px;display:block}
td.name{max-width:340px;overflow-wrap:anywhere}
td.nowrap{white-space:nowrap}
code,.id{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;color:var(--soft)}
.tag{display:inline-block;padding:1px 9px;border-radius:99px;font-size:12px;white-space:nowrap;
border:1px solid currentColor;background:none}
.tag.good{color:var(--good)}.tag.fair{color:var(--fair)}.tag.warn{color:var(--warn)}
.tag.bad{color:var(--bad)}.tag.mute{color:var(--soft)}
details{font-size:12.5px;color:var(--soft);margin-top:2px}
summary{cursor:pointer}
details ul{margin:4px 0 0;padding-left:18px}
.why{color:var(--bad);font-size:12.5px}
.note{color:var(--soft);font-size:13px;margin:10px 2px}
footer{margin-top:44px;color:var(--soft);font-size:13px}
@media print{body{background:#fff}.tile,.card{break-inside:avoid}}
"""

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
            _heat_maps(report.images),
            _images(report),
            _files(report.files),
            f"<footer>Written by tilevault {text(report.version)}, {text(report.made)}.</footer>",
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
        f"<p>Archive report, {text(report.made.replace('T', ' '))}</p></header>"
    )


def _notice(report: Report) -> str:
    if report.thumbnails and any(image.thumbnail for image in report.images):
        return (
            '<p class="notice"><strong>This page holds patient data.</strong> It shows pictures, file names '
            "and identifiers of what was archived. Keep it where the images themselves may be kept.</p>"
        )
    return (
        '<p class="notice"><strong>This page may hold patient data.</strong> Pictures were left out, but file '
        "names and identifiers are in it. Keep it where the images themselves may be kept.</p>"
    )


def _tile(label: str, value: str, remark: str = "", kind: str = "") -> str:
    return (
        f'<div class="tile {kind}"><span>{label}</span><b>{value}</b><span>{remark or "&nbsp;"}</span></div>'
    )


def _tiles(report: Report) -> str:
    stored = [image for image in report.images if image.bytes_stored]
    source, kept = sum(i.bytes_source for i in stored), sum(i.bytes_stored for i in stored)
    statuses = {
        s: sum(i.status == s for i in report.images) for s in sorted({i.status for i in report.images})
    }
    rejected = sum(f.status == "rejected" for f in report.files)
    failed = statuses.get("failed", 0)
    read = sum(i.bytes_source for i in report.images if i.status in ("added", "extended"))
    tiles = [
        _tile("Images", f"{len(report.images):,}", ", ".join(f"{n:,} {s}" for s, n in statuses.items())),
        _tile("Files", f"{report.files_read:,}", f"{len(report.files):,} of them no image"),
        _tile("Source", human_bytes(source), "of the images in the archive"),
        _tile("Stored", human_bytes(kept), "everything that is kept of them"),
        _tile("Ratio", f"{source / kept:.2f}" if kept else "–", "source / stored"),
    ]
    if report.seconds > 0:
        speed = f"{read / report.seconds / 1e6:.3g} MB/s" if read else "–"
        tiles.append(_tile("Throughput", speed, f"{_duration(report.seconds)}, read to proved"))
    if rejected or failed:
        remark = ", ".join(f"{n:,} {w}" for n, w in ((rejected, "files"), (failed, "images")) if n)
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
    pairs = "".join(f"<dt>{text(k)}</dt><dd>{text(v, 80)}</dd>" for k, v in report.settings.items())
    ratios = _ratios(report.images)
    chart = bar_chart(ratios, "source / stored") if ratios else '<p class="note">Nothing was stored.</p>'
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
    cards = "".join(_heat_card(image) for image in tiled[:MAX_HEAT_MAPS])
    more = len(tiled) - MAX_HEAT_MAPS
    note = (
        f'<p class="note">{more:,} more images have several tiles and are not drawn.</p>' if more > 0 else ""
    )
    return (
        "<h2>Where the bits go</h2><p>Coded bits per pixel of each tile, all samples of a pixel together; "
        "each map has a scale of its own. A stack of small planes is drawn along its axis.</p>"
        f'<div class="maps">{cards}</div>{note}'
    )


def _heat_card(image: ReportImage) -> str:
    values = image.bits_per_pixel
    if values is None:
        return ""
    png, low, high = heat_map(np.nan_to_num(values))
    rows, columns = values.shape
    along = image.bits_along
    grid = f"{rows} x {columns} tiles" if along == "yx" else f"{columns} blocks along {text(along)}"
    kind = "heat" if along == "yx" else "heat strip"
    picture = "" if image.thumbnail is None else f'<img alt="preview" src="{data_uri(image.thumbnail)}">'
    label = f"bits per pixel, {grid}: {low:.2f} to {high:.2f}, median {np.median(values):.2f}"
    return (
        f'<div class="card map"><figure>{picture}<img class="{kind}" alt="{label}" title="{label}" '
        f'src="{data_uri(png)}"></figure><p title="{text(image.name)}">{text(image.name, 60)}</p>'
        f'<div class="key">{low:.2f}<i></i>{high:.2f} bits per pixel, {grid}</div></div>'
    )


def _images(report: Report) -> str:
    if not report.images:
        return '<h2>Images</h2><p class="note">There were none.</p>'
    rows = "".join(_image_row(image) for image in report.images[:MAX_ROWS])
    notes = []
    if len(report.images) > MAX_ROWS:
        notes.append(f"The first {MAX_ROWS:,} of {len(report.images):,} images are listed.")
    if report.thumbnails and len(report.images) > MAX_PICTURES:
        notes.append(f"Pictures of the first {MAX_PICTURES} images only.")
    note = f'<p class="note">{" ".join(notes)}</p>' if notes else ""
    return (
        f'<h2>Images</h2>{note}<div class="card wide"><table><thead><tr><th></th><th>Image</th><th>Modality</th>'
        '<th>Samples</th><th class="n">Source</th><th class="n">Stored</th><th class="n">Ratio</th>'
        f"<th>Round trip</th><th>Status</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _image_row(image: ReportImage) -> str:
    picture = "" if image.thumbnail is None else f'<img alt="" src="{data_uri(image.thumbnail)}">'
    files = f"{image.sources:,} file{_s(image.sources)}"
    why = f'<div class="why">{text(image.code)}: {text(image.reason, 400)}</div>' if image.code else ""
    ratio = f"{image.bytes_source / image.bytes_stored:.2f}" if image.bytes_stored else "–"
    stored = human_bytes(image.bytes_stored) if image.bytes_stored else "–"
    return (
        f'<tr><td class="pic">{picture}</td>'
        f'<td class="name">{text(image.name, 160)}<div class="id">{text(image.id[:12])} · {files}</div>'
        f"{why}{_warnings(image.warnings)}</td>"
        f'<td class="nowrap">{text(image.modality, 24)}</td><td class="nowrap">{_samples(image)}</td>'
        f'<td class="n">{human_bytes(image.bytes_source)}</td><td class="n">{stored}</td>'
        f'<td class="n">{ratio}</td><td>{_tag(image.round_trip)}</td><td>{_tag(image.status)}</td></tr>'
    )


def _samples(image: ReportImage) -> str:
    if image.shape is None:
        return "no pixels" if image.axes or image.status != "failed" else "–"
    shape = " x ".join(str(n) for n in image.shape)
    return f'{shape}<div class="id">{text(" ".join(image.axes))} · {text(image.dtype)}</div>'


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
    return f'<span class="tag {kinds.get(word, "mute")}">{text(word)}</span>'


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
    ordered = sorted(files, key=lambda f: (f.status != "rejected", f.source))
    rows = "".join(
        f'<tr><td class="name">{text(f.source, 200)}</td><td>{_tag(f.status)}</td>'
        f"<td><code>{text(f.code, 40)}</code></td><td>{text(f.reason, 400)}</td></tr>"
        for f in ordered[:MAX_ROWS]
    )
    note = ""
    if len(files) > MAX_ROWS:
        note = (
            f'<p class="note">The first {MAX_ROWS:,} of {len(files):,} are listed, rejected ones first.</p>'
        )
    return (
        "<h2>Files that are no image in the archive</h2><p>Rejected: claims to be an image and is not sound, or "
        "not supported. Skipped: neither DICOM nor TIFF, and nothing is lost with it.</p>"
        f'{note}<div class="card wide"><table><thead><tr><th>File</th><th></th><th>Code</th><th>Reason</th>'
        f"</tr></thead><tbody>{rows}</tbody></table></div>"
    )
