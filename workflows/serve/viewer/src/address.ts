// What is looked at, as the part of the address behind #, so that a copied address shows the same again.

/** Search of the catalogue. */
export interface CatalogueState {
  page: "catalogue";
  q: string;
  kind: string;
  sort: string;
}

/** How two images are shown. */
export type CompareMode = "side" | "swipe";

/** View of an image. Nothing that is null is said to the server: it then shows what the image recommends. */
export interface ImageState {
  page: "image";
  id: string;
  /** Positions along the axes other than c, y, x. */
  index: Record<string, number>;
  /** Centre and width, rescaled units. */
  window: [number, number] | null;
  /** Bands from 1, one or three. */
  bands: number[] | null;
  /** Lowest and highest value shown, for each band or for all. */
  rescale: [number, number][] | null;
  colormap: string | null;
  /** Centre in pixels of level 0, and screen pixels per pixel. */
  at: [number, number, number] | null;
  /** Measure of the quality map. */
  quality: string | null;
  /** Image beside this one. */
  other: string | null;
  mode: CompareMode;
}

export type State = CatalogueState | ImageState;

const STACKED = ["t", "z", "frame"];

export function emptyImage(id: string): ImageState {
  return {
    page: "image", id, index: {}, window: null, bands: null, rescale: null, colormap: null, at: null,
    quality: null, other: null, mode: "side",
  };
}

/** Reads the part behind #; what makes no sense is left out. */
export function parse(hash: string): State {
  const [path = "", query = ""] = hash.replace(/^#/, "").split("?");
  const given = new URLSearchParams(query);
  const id = /^\/image\/([0-9a-f]{6,64})$/.exec(path)?.[1];
  if (!id) {
    return {
      page: "catalogue", q: given.get("q") ?? "", kind: given.get("kind") ?? "", sort: given.get("sort") ?? "",
    };
  }
  const state = emptyImage(id);
  for (const axis of STACKED) {
    const at = given.get(axis);
    if (at != null && /^\d+$/.test(at)) state.index[axis] = Number(at);
  }
  const window = numbers(given.get("window"), 2);
  if (window && window[1]! > 0) state.window = [window[0]!, window[1]!];
  const bands = numbers(given.get("bands"));
  if (bands && (bands.length === 1 || bands.length === 3)) state.bands = bands;
  const pairs = given.getAll("rescale").map((text) => numbers(text, 2));
  if (pairs.length && pairs.every((pair) => pair && pair[1]! > pair[0]!)) {
    state.rescale = pairs as [number, number][];
  }
  const at = numbers(given.get("at"), 3);
  if (at && at[2]! > 0) state.at = [at[0]!, at[1]!, at[2]!];
  state.colormap = given.get("colors");
  state.quality = given.get("quality");
  const other = given.get("with");
  state.other = other && /^[0-9a-f]{6,64}$/.test(other) ? other : null;
  state.mode = given.get("mode") === "swipe" ? "swipe" : "side";
  return state;
}

/** The part behind #, with #. */
export function format(state: State): string {
  const said = new URLSearchParams();
  if (state.page === "catalogue") {
    for (const name of ["q", "kind", "sort"] as const) if (state[name]) said.set(name, state[name]);
    return `#/${tail(said)}`;
  }
  for (const [axis, at] of Object.entries(state.index)) said.set(axis, String(at));
  if (state.window) said.set("window", state.window.map(short).join(","));
  if (state.bands) said.set("bands", state.bands.join(","));
  for (const pair of state.rescale ?? []) said.append("rescale", pair.map(short).join(","));
  if (state.colormap) said.set("colors", state.colormap);
  if (state.quality) said.set("quality", state.quality);
  if (state.other) said.set("with", state.other);
  if (state.other && state.mode === "swipe") said.set("mode", "swipe");
  if (state.at) said.set("at", state.at.map(short).join(","));
  return `#/image/${state.id}${tail(said)}`;
}

function tail(said: URLSearchParams): string {
  const text = said.toString().replaceAll("%2C", ",");
  return text && `?${text}`;
}

function short(number: number): string {
  return String(Number(number.toPrecision(7)));
}

function numbers(text: string | null, count?: number): number[] | null {
  if (!text) return null;
  const found = text.split(",").map(Number);
  return found.every(Number.isFinite) && (count == null || found.length === count) ? found : null;
}
