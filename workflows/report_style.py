"""How the report looks: one style sheet, light and dark by what the reader's system prefers."""

__all__ = ["STYLE"]

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
h2{font-size:19px;margin:44px 0 2px;letter-spacing:-.01em}
h2+p{margin:0 0 14px;color:var(--soft);max-width:84ch}
.notice{margin:22px 0;padding:12px 16px;border-radius:10px;background:var(--notice);
border:1px solid var(--warn);border-left-width:5px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(144px,100%),1fr));gap:12px}
.tile,.card{background:var(--card);border:1px solid var(--line);border-radius:12px}
.tile{padding:14px 16px;min-width:0}
.tile span{display:block;color:var(--soft);font-size:13px}
.tile b{display:block;font-size:23px;line-height:1.25;font-weight:650;letter-spacing:-.02em;
font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.tile.bad b{color:var(--bad)}
.card{padding:16px 18px}
.pair{display:grid;grid-template-columns:minmax(0,3fr) minmax(0,2fr);gap:12px;align-items:start}
.pair .card{overflow-x:auto}
@media(max-width:860px){.pair{grid-template-columns:minmax(0,1fr)}}
@media(max-width:600px){main{padding:24px 14px 48px}svg.bars{min-width:520px}}
.card h3{margin:0 0 10px;font-size:15px}
svg.bars{width:100%;height:auto;display:block;font-size:13px}
svg .label{text-anchor:end;fill:var(--ink)}
svg .value{fill:var(--ink);font-weight:600}
svg .remark{fill:var(--soft);text-anchor:end}
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
.maps{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(340px,100%),1fr));gap:12px}
.map{padding:12px;min-width:0}
.map figure{margin:0;display:flex;gap:8px;height:150px}
.map figure img{flex:1 1 0;min-width:0;height:150px;object-fit:contain;background:#000;border-radius:6px}
.map figure img.heat{image-rendering:pixelated;background:var(--page)}
.map figure img.strip{object-fit:fill}
details.more>summary{margin:14px 2px;font-size:14px}
.map p{margin:8px 0 6px;font-size:13px;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.card.lossy{margin:0 0 12px}
.card.lossy h3{margin:0 0 2px;overflow-wrap:anywhere}
.card.lossy>.note{margin:0 0 10px}
.card.lossy .map{padding:0}
.closeups{margin-top:14px;grid-template-columns:repeat(auto-fill,minmax(min(420px,100%),1fr))}
.map figure img.close{image-rendering:pixelated;background:none;object-position:left}
svg.histogram{width:100%;height:150px;display:block}
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
td.name{min-width:220px;max-width:360px;overflow-wrap:anywhere}
td.reason{min-width:240px;overflow-wrap:anywhere}
td.nowrap{white-space:nowrap}
code,.id{font:12px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;color:var(--soft)}
.tag{display:inline-block;padding:1px 9px;border-radius:99px;font-size:12px;white-space:nowrap;
border:1px solid currentColor;background:none}
.tag.good{color:var(--good)}.tag.fair{color:var(--fair)}.tag.warn{color:var(--warn)}
.tag.bad{color:var(--bad)}.tag.mute{color:var(--soft)}
td details{font-size:12.5px;color:var(--soft);margin-top:2px}
summary{cursor:pointer}
td details ul{margin:4px 0 0;padding-left:18px}
.why{color:var(--bad);font-size:12.5px}
.note{color:var(--soft);font-size:13px;margin:10px 2px}
footer{margin-top:44px;color:var(--soft);font-size:13px}
@media print{body{background:#fff}.tile,.card{break-inside:avoid}}
"""
