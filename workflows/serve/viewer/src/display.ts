// How values become grey or colour: window, bands, stretch, colours. The controls, and the parameters of the
// pictures that the server makes.

import type { ImageState } from "./address";
import type { ImageDetail, Pair } from "./api";
import { field, h, select } from "./dom";
import { value } from "./numbers";

/** What can be chosen for an image. */
export type Nature = "labels" | "colour" | "bands" | "grey";

const COLOURMAPS: [string, string][] = [
  ["", "Grey"], ["viridis", "Viridis"], ["magma", "Magma"], ["inferno", "Inferno"], ["cividis", "Cividis"],
  ["terrain", "Terrain"], ["rdylgn", "Red–yellow–green"],
];
export function natureOf(detail: ImageDetail): Nature {
  if (detail.categorical) return "labels";
  const bands = bandCount(detail);
  if (bands < 2) return "grey";
  return detail.kind === "satellite" ? "bands" : "colour";
}

export function bandCount(detail: ImageDetail): number {
  const at = detail.axes.indexOf("c");
  return at < 0 ? 1 : detail.shape[at]!;
}

/** Axes to scroll through, with their extents. */
export function stackedAxes(detail: ImageDetail): [string, number][] {
  return detail.axes
    .map((axis, i): [string, number] => [axis, detail.shape[i]!])
    .filter(([axis, count]) => !["c", "y", "x"].includes(axis) && count > 1);
}

/** Where the image is entered: the middle, as thumbnails show it. */
export function startIndex(detail: ImageDetail): Record<string, number> {
  return Object.fromEntries(stackedAxes(detail).map(([axis, count]) => [axis, axis === "t" ? 0 : count >> 1]));
}

/** Parameters of a picture. */
export function pictureQuery(state: ImageState, index: Record<string, number>): string {
  const said = new URLSearchParams();
  for (const [axis, at] of Object.entries(index)) said.set(axis, String(at));
  if (state.window) said.set("window", state.window.join(","));
  for (const band of state.bands ?? []) said.append("bidx", String(band));
  for (const pair of state.rescale ?? []) said.append("rescale", pair.join(","));
  if (state.colormap) said.set("colormap_name", state.colormap);
  return said.toString().replaceAll("%2C", ",");
}

/** Values that are black and white now, of each band or of all: rescaled of a medical image, else stored. */
export function shownPairs(state: ImageState, detail: ImageDetail): Pair[] {
  if (state.window) return [around(...state.window)];
  if (state.rescale) return state.rescale;
  const [preset] = detail.windows;
  if (preset && isMedical(detail)) return [around(preset.center, preset.width)];
  if (detail.display && !state.bands) return detail.display.map((pair) => rescaled(detail, pair));
  return [wholeRange(detail)];
}

function around(center: number, width: number): Pair {
  return [center - width / 2, center + width / 2];
}

function wholeRange(detail: ImageDetail): Pair {
  if (detail.dtype === "uint8" || !detail.range) return [0, 255];
  const [low, high] = rescaled(detail, [detail.range.min, detail.range.max]);
  return [low, Math.max(high, low + 1e-6)];
}

/** Medical images are windowed in the unit of the modality. */
function rescaled(detail: ImageDetail, pair: Pair): Pair {
  const { slope, intercept } = detail.rescale ?? {};
  if (!isMedical(detail) || slope == null || intercept == null) return pair;
  const [a, b] = pair.map((n) => n * slope + intercept) as Pair;
  return a < b ? [a, b] : [b, a];
}

function isMedical(detail: ImageDetail): boolean {
  return detail.kind !== "satellite";
}

/** The state with other pairs: a window, or a stretch where windows are not known. */
export function withPairs(state: ImageState, detail: ImageDetail, pairs: Pair[]): ImageState {
  const least = /^float/.test(detail.dtype) ? 1e-6 : 1;
  const [centers, widths] = [pairs.map(([low, high]) => (low + high) / 2), pairs.map(([low, high]) => Math.max(high - low, least))];
  if (isMedical(detail)) return { ...state, window: [tidy(centers[0]!, widths[0]!), tidy(widths[0]!, widths[0]!)], rescale: null };
  const made = centers.map((center, i): Pair => around(center, widths[i]!).map((n) => tidy(n, widths[i]!)) as Pair);
  return { ...state, window: null, rescale: made };
}

/** Pairs after a drag, in shares of their widths: wider and higher. */
export function moved(pairs: Pair[], factor: number, up: number): Pair[] {
  return pairs.map(([low, high]) => {
    const width = high - low;
    return around((low + high) / 2 + up * width, width * factor);
  });
}

/** No more digits than can be seen. */
function tidy(number: number, width: number): number {
  const step = 10 ** Math.floor(Math.log10(width) - 3);
  return Number((Math.round(number / step) * step).toPrecision(7));
}

export interface DisplayHost {
  state: () => ImageState;
  detail: ImageDetail;
  change: (state: ImageState) => void;
}

/** The controls; `refresh` brings them up to date with the state. */
export function displayPanel(host: DisplayHost): { element: HTMLElement; refresh: () => void } {
  const { detail } = host;
  const nature = natureOf(detail);
  const parts: { element: HTMLElement; refresh: () => void }[] = [];
  if (nature === "labels") parts.push(note("Classes, in the colours that the image brings."));
  if (nature === "colour") parts.push(note("Colours as stored."));
  if (nature === "bands") parts.push(bandControls(host));
  if (nature === "grey" || nature === "bands") parts.push(windowControls(host));
  if (nature === "grey" || nature === "bands") parts.push(colourControl(host));
  const element = h("div", { class: "stack" }, parts.map((part) => part.element));
  return { element, refresh: () => parts.forEach((part) => part.refresh()) };
}

function note(text: string): { element: HTMLElement; refresh: () => void } {
  return { element: h("p", { class: "note" }, text), refresh: () => undefined };
}

function windowControls(host: DisplayHost): { element: HTMLElement; refresh: () => void } {
  const { detail } = host;
  const medical = isMedical(detail);
  const [first, second] = medical ? ["Centre", "Width"] : ["Low", "High"];
  const set = () => {
    if (one.value === "" || two.value === "") return;
    const [a, b] = [Number(one.value), Number(two.value)];
    const [low, high] = medical ? around(a, b) : [a, b];
    if (high > low) host.change(withPairs(host.state(), detail, [[low, high]]));
  };
  const number = () => h("input", { type: "number", step: "any", inputmode: "decimal", onchange: set });
  const [one, two] = [number(), number()];
  const presets = presetsOf(detail);
  const chosen = select(
    [["", "As recommended"], ...presets.map(([name], i): [string, string] => [String(i), name]), ["own", "By hand"]],
    "", (key) => {
      const preset = presets[Number(key)];
      if (key === "") host.change({ ...host.state(), window: null, rescale: null });
      else if (key !== "own" && preset) host.change(withPairs(host.state(), detail, [preset[1]]));
    });
  const unit = detail.unit ? ` (${detail.unit})` : "";
  const element = h("div", { class: "stack" },
    field(`${medical ? "Window" : "Stretch"}${medical ? unit : ""}`, chosen),
    h("div", { class: "pair" }, field(first!, one), field(second!, two)));
  const refresh = () => {
    const state = host.state();
    const pairs = shownPairs(state, detail);
    const [low, high] = pairs[0]!;
    const same = pairs.every((pair) => pair[0] === low && pair[1] === high);
    const shown = medical ? [(low + high) / 2, high - low] : [low, high];
    [one, two].forEach((input, i) => {
      input.value = same ? value(Number(shown[i]!.toPrecision(6))) : "";
      input.placeholder = same ? "" : "by band";
    });
    const at = presets.findIndex(([, pair]) => same && pair[0] === low && pair[1] === high);
    chosen.value = !state.window && !state.rescale ? "" : at >= 0 ? String(at) : "own";
  };
  return { element, refresh };
}

/** Windows that the server knows for the image, and all that is in it. */
export function presetsOf(detail: ImageDetail): [string, Pair][] {
  const own = isMedical(detail) ? detail.windows : [];
  const named = own.map(({ name, center, width }): [string, Pair] => [
    name === "DICOM" ? "Of the file" : name.charAt(0).toUpperCase() + name.slice(1), around(center, width),
  ]);
  return [...named, ["Whole range", wholeRange(detail)]];
}

/** What a band is called; "" where it has no name. */
export function bandName(detail: ImageDetail, i: number): string {
  const band = detail.bands[i];
  const interpretation = band?.color_interp === "undefined" ? null : band?.color_interp;
  return band?.name || band?.description || interpretation || "";
}

function bandControls(host: DisplayHost): { element: HTMLElement; refresh: () => void } {
  const { detail } = host;
  const count = bandCount(detail);
  const options = Array.from({ length: count }, (_, i): [string, string] => {
    const name = bandName(detail, i);
    return [String(i + 1), name ? `${i + 1} ${name}` : `Band ${i + 1}`];
  });
  const mode = select([["", "As recommended"], ["3", "Three bands"], ["1", "One band"]], "", (key) => {
    const state = host.state();
    const start = detail.shown_bands.length === 3 ? detail.shown_bands : [1, Math.min(2, count), Math.min(3, count)];
    const bands = key === "" ? null : key === "1" ? [1] : start;
    host.change({ ...state, bands, rescale: null, colormap: key === "1" ? state.colormap : null });
  });
  const pick = () => {
    const wanted = Number(mode.value);
    const bands = pickers.slice(0, wanted).map((picker) => Number(picker.value));
    host.change({ ...host.state(), bands, rescale: null });
  };
  const pickers = ["Red", "Green", "Blue"].map((name) => select(options, "1", pick, { "aria-label": name }));
  const labels = pickers.map((picker, i) => field(["Red", "Green", "Blue"][i]!, picker));
  const row = h("div", { class: "triple" }, labels);
  const refresh = () => {
    const { bands } = host.state();
    mode.value = bands ? String(bands.length) : "";
    row.hidden = !bands;
    labels.forEach((label, i) => {
      label.hidden = Boolean(bands && i >= bands.length);
      label.querySelector("span")!.textContent = bands?.length === 1 ? "Band" : ["Red", "Green", "Blue"][i]!;
      pickers[i]!.value = String(bands?.[i] ?? i + 1);
    });
  };
  return { element: h("div", { class: "stack" }, field("Bands", mode), row), refresh };
}

function colourControl(host: DisplayHost): { element: HTMLElement; refresh: () => void } {
  const choose = select(COLOURMAPS, "", (key) => host.change({ ...host.state(), colormap: key || null }));
  const label = field("Colours", choose);
  const refresh = () => {
    const state = host.state();
    label.hidden = natureOf(host.detail) === "bands" && state.bands?.length !== 1;
    choose.value = state.colormap ?? "";
  };
  return { element: label, refresh };
}
