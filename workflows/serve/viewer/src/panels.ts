// The sections of the panel beside an image, but for how it is displayed.

import type { ImageState } from "./address";
import { captionOf, isLossy, problem, type ImageDetail, type QualityMap } from "./api";
import { inWords } from "./catalogue";
import type { DisplayHost } from "./display";
import { field, h, select, throttle } from "./dom";
import { bytes, value } from "./numbers";
import { legend, measureName, QualityMaps, type QualityOverlay } from "./quality";

type Overlays = () => { overlay: QualityOverlay; details: ImageDetail[] }[];

export function section(title: string, content: HTMLElement, open: boolean): HTMLDetailsElement {
  return h("details", { class: "section", open }, h("summary", {}, h("h2", {}, title)), h("div", { class: "inside" }, content));
}

export interface QualityPanel {
  element: HTMLElement | null;
  refresh: () => void;
  toggle: () => void;
  hover: (at: [number, number] | null) => void;
  /** Shows what the state asks for, over new panes; `other` is the image beside. */
  restore: (other: ImageDetail | null) => void;
}

/** Map, legend and numbers of the per-tile record; of two images of the lossy one. */
export function qualityPanel(host: DisplayHost, index: () => Record<string, number>, overlays: Overlays): QualityPanel {
  let maps = new QualityMaps(host.detail);
  let shown: QualityMap | null = null;
  let wanted = "";
  let ready = false;
  const key = h("div", { class: "stack" });
  const numbers = h("dl", { class: "numbers" });
  const hint = h("p", { class: "note" }, "Point at a tile for its numbers.");
  const choice = select([["", "Not shown"]], "", (measure) => host.change({ ...host.state(), quality: measure || null }));
  const strength = h("input", { type: "range", min: 0.1, max: 1, step: 0.05, value: 0.6, oninput: () => paint() });
  const strengthField = field("Opacity of the map", strength);
  const element = h("div", { class: "stack" }, field("Map over the image", choice), strengthField, key, numbers, hint);

  function paint(): void {
    for (const { overlay, details } of overlays()) {
      overlay.opacity = Number(strength.value);
      overlay.set(details.some(({ id }) => id === maps.detail.id) ? shown : null);
    }
  }

  async function load(measure: string | null, asked: string): Promise<void> {
    try {
      const map = measure ? await maps.get(measure, index()) : null;
      if (asked !== wanted) return;
      shown = map;
      key.replaceChildren(...(map ? [h("p", { class: "note" }, map.long_name), legend(map)] : []));
    } catch (error) {
      if (asked !== wanted) return;
      shown = null;
      key.replaceChildren(h("p", { class: "bad", role: "alert" }, problem(error).sentence));
    }
    paint();
  }

  function refresh(): void {
    const { quality } = host.state();
    choice.value = quality ?? "";
    strengthField.hidden = !quality;
    const asks = JSON.stringify([maps.detail.id, quality, index()]);
    if (!ready || asks === wanted) return;
    wanted = asks;
    void load(quality, asks);
  }

  async function restore(other: ImageDetail | null): Promise<void> {
    const measured = [host.detail, other].find((detail) => detail && isLossy(detail)) ?? host.detail;
    if (measured.id !== maps.detail.id) maps = new QualityMaps(measured);
    ready = true;
    paint();
    const listing = await maps.listing.catch(() => ({ measures: {} }));
    choice.replaceChildren(h("option", { value: "" }, "Not shown"),
      ...Object.entries(listing.measures).map(([name, { long_name }]) => h("option", { value: name }, measureName(name, long_name))));
    refresh();
  }

  const ask = throttle(120, (x: number, y: number) => {
    maps.tile(index(), x, y).then(
      (found) => {
        hint.hidden = true;
        const rows: [string, string][] = [["Tile (row, column)", found.tile.join(", ")], ...found.numbers];
        numbers.replaceChildren(...rows.flatMap(([name, said]) => [h("dt", {}, name), h("dd", {}, said)]));
      },
      () => numbers.replaceChildren(),
    );
  });

  const panel = () => element.closest("details");
  return {
    element: host.detail.shape.length ? element : null,
    refresh,
    restore: (other) => void restore(other),
    toggle: () => {
      const { quality } = host.state();
      panel()?.setAttribute("open", "");
      const first = isLossy(maps.detail) ? "psnr" : "bits_per_sample";
      host.change({ ...host.state(), quality: quality ? null : first });
    },
    hover: (at) => {
      if (at && (shown || (panel()?.open && !panel()?.closest("[hidden]")))) ask(...at);
    },
  };
}

/** The other copies of an image, and how two are shown. */
export function comparePanel(host: DisplayHost): { element: HTMLElement | null; refresh: () => void } {
  const { detail } = host;
  if (!detail.related.length) return { element: null, refresh: () => undefined };
  const options = detail.related.map((entry): [string, string] => [
    entry.id, `${captionOf(entry)} · ${entry.id.slice(0, 8)}`,
  ]);
  const choice = select([["", "Nothing"], ...options], "", (id) => host.change({ ...host.state(), other: id || null }));
  const mode = select([["side", "Side by side, in step"], ["swipe", "One over the other, with a divider"]], "side",
    (to) => host.change({ ...host.state(), mode: to as ImageState["mode"] }));
  const modeField = field("Show", mode);
  const refresh = () => {
    const state = host.state();
    choice.value = state.other ?? "";
    mode.value = state.mode;
    modeField.hidden = !state.other;
  };
  return { element: h("div", { class: "stack" }, field("Compare with", choice), modeField), refresh };
}

export function exportPanel(detail: ImageDetail, save: () => void, copy: () => void): HTMLElement {
  const total = detail.files.reduce((sum, file) => sum + file.size, 0);
  const exact = !isLossy(detail);
  const list = h("ul", { class: "files" }, detail.files.map((file) =>
    h("li", {}, h("a", { href: file.href.replace(/^\//, ""), download: true }, file.name), h("span", {}, bytes(file.size)))));
  const word = detail.round_trip === "file-exact" ? "as they came, every byte" : "written anew, pixels and tags as they came";
  return h("div", { class: "stack" },
    h("div", { class: "buttons" },
      h("button", { type: "button", onclick: save }, "PNG of the view"),
      h("button", { type: "button", onclick: copy }, "Copy the link")),
    exact && detail.files.length
      ? h("div", {}, h("p", { class: "note" }, `${detail.files.length} file${detail.files.length === 1 ? "" : "s"}, ${bytes(total)}: ${word}.`), list)
      : h("p", { class: "note" }, exact ? "There are no files to export." : "The files as they came cannot be had of a lossy image. Use: tilevault export."));
}

/** What is known of the image, as a list. */
export function factsPanel(detail: ImageDetail): HTMLElement {
  const rows: [string, string][] = [
    ["Id", detail.id],
    ["What", inWords(detail)],
    ["Values", `${detail.dtype}${detail.bits_stored ? `, ${detail.bits_stored} bits` : ""}`],
    ["Kept", `${detail.round_trip}${detail.fidelity === "exact" ? "" : `, ${detail.fidelity}`}`],
    ["Tiles", `${detail.tile[1]} × ${detail.tile[0]}`],
  ];
  const spacing = detail.spacing;
  if (spacing) {
    const parts = [spacing.x, spacing.y, spacing.z].filter((n): n is number => n != null);
    rows.push(["Spacing", `${parts.map(value).join(" × ")} mm`]);
  }
  if (detail.crs) rows.push(["Reference system", detail.crs]);
  for (const warning of detail.warnings) rows.push(["Note", warning]);
  for (const [name, said] of Object.entries(detail.summary)) {
    if (typeof said === "string" || typeof said === "number") rows.push([name, String(said)]);
  }
  return h("dl", { class: "facts" }, rows.flatMap(([name, said]) => [h("dt", {}, name), h("dd", {}, said)]));
}
