// The per-tile record of an image: a map over it, its legend, and the numbers of one tile.

import { imagePath, json, type ImageDetail, type QualityListing, type QualityMap } from "./api";
import { h } from "./dom";
import { value } from "./numbers";
import type { Pane } from "./pane";

const NAMES: Record<string, string> = {
  psnr: "PSNR", ssim: "SSIM", ms_ssim: "MS-SSIM", max_abs_error: "Largest error", bits: "Coded bits",
  bits_per_sample: "Bits per sample", step: "Quantiser step", restoration_gain: "Gain by restoration",
  samples: "Samples compared", psnr_unrestored: "PSNR without restoration",
  ssim_unrestored: "SSIM without restoration", ms_ssim_unrestored: "MS-SSIM without restoration",
  max_abs_error_unrestored: "Largest error without restoration",
};
const OF_A_TILE = ["psnr", "ssim", "ms_ssim", "max_abs_error", "bits_per_sample", "step", "restoration_gain"];
const EXACT_COLOUR = "#d7dde5";

/** A measure in a word or three. */
export function measureName(measure: string, longName = measure): string {
  return NAMES[measure] ?? longName;
}

/** Maps of one image that were asked for; of each plane, one for each measure. */
export class QualityMaps {
  private readonly maps = new Map<string, Promise<QualityMap>>();
  readonly listing: Promise<QualityListing>;

  constructor(readonly detail: ImageDetail) {
    this.listing = json<QualityListing>(`${imagePath(detail.id)}/quality`);
    this.listing.catch(() => undefined);
  }

  get(measure: string, index: Record<string, number>): Promise<QualityMap> {
    const at = new URLSearchParams(Object.entries(index).map(([axis, n]) => [axis, String(n)])).toString();
    const path = `${imagePath(this.detail.id)}/quality/${measure}.json${at && `?${at}`}`;
    let map = this.maps.get(path);
    if (!map) {
      map = json<QualityMap>(path);
      map.catch(() => this.maps.delete(path));
      this.maps.set(path, map);
    }
    return map;
  }

  /** The numbers of the tile under a pixel. */
  async tile(index: Record<string, number>, x: number, y: number): Promise<{ tile: number[]; numbers: [string, string][] }> {
    const { measures } = await this.listing;
    const maps = await Promise.all(OF_A_TILE.filter((name) => name in measures).map((name) => this.get(name, index)));
    const numbers = maps.map((map): [string, string] => [
      measureName(map.measure, map.long_name), inWords(map, valueAt(map, ...tileOf(map, x, y))),
    ]);
    return { tile: maps[0] ? tileOf(maps[0], x, y) : [], numbers };
  }
}

function tileOf(map: QualityMap, x: number, y: number): [number, number] {
  return [Math.floor(y / map.tile[0]), Math.floor(x / map.tile[1])];
}

function valueAt(map: QualityMap, row: number, column: number): number | null {
  return map.values[row]?.[column] ?? null;
}

function isExact(map: QualityMap, number: number): boolean {
  return map.exact != null && number >= map.exact;
}

function unitOf(map: QualityMap): string {
  return map.units && map.units !== "1" ? ` ${map.units}` : "";
}

function inWords(map: QualityMap, number: number | null): string {
  if (number == null) return "–";
  return isExact(map, number) ? "exact" : `${value(Number(number.toPrecision(4)))}${unitOf(map)}`;
}

/** Colour of a share from 0 to 1 of the scale, as CSS. */
export function colour(anchors: number[][], share: number): string {
  const at = Math.min(1, Math.max(0, share)) * (anchors.length - 1);
  const low = Math.min(Math.floor(at), anchors.length - 2);
  const [from, to] = [anchors[low]!, anchors[low + 1]!];
  return `rgb(${from.map((part, i) => Math.round(part + (to[i]! - part) * (at - low))).join(" ")})`;
}

function shade(map: QualityMap, number: number): string {
  if (isExact(map, number)) return EXACT_COLOUR;
  return colour(map.colours, map.high > map.low ? (number - map.low) / (map.high - map.low) : 0.5);
}

/** The map as coloured squares over a pane. */
export class QualityOverlay {
  readonly canvas = h("canvas", { class: "quality-map", "aria-hidden": "true" });
  private map: QualityMap | null = null;
  private marked: [number, number] | null = null;
  opacity = 0.6;

  constructor(private readonly pane: Pane) {
    pane.viewer.canvas.append(this.canvas);
  }

  set(map: QualityMap | null): void {
    this.map = map;
    this.draw();
  }

  /** Frames the tile under a pixel. */
  mark(at: [number, number] | null): void {
    this.marked = at && this.map ? tileOf(this.map, ...at) : null;
    this.draw();
  }

  draw(): void {
    const { clientWidth: width, clientHeight: height } = this.pane.element;
    const scale = devicePixelRatio;
    const [across, down] = [Math.round(width * scale), Math.round(height * scale)];
    if (this.canvas.width !== across || this.canvas.height !== down) {
      this.canvas.width = across;
      this.canvas.height = down;
    }
    const pen = this.canvas.getContext("2d")!;
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, width, height);
    this.canvas.hidden = !this.map;
    if (this.map) this.paint(pen, this.map);
  }

  private paint(pen: CanvasRenderingContext2D, map: QualityMap): void {
    const [tall, wide] = map.tile;
    const box = this.pane.bounds;
    const [top, left] = [Math.max(0, Math.floor(box.y / tall)), Math.max(0, Math.floor(box.x / wide))];
    for (let row = top; row < map.values.length && row * tall < box.y + box.height; row += 1) {
      const line = map.values[row]!;
      for (let column = left; column < line.length && column * wide < box.x + box.width; column += 1) {
        this.square(pen, map, row, column);
      }
    }
  }

  private square(pen: CanvasRenderingContext2D, map: QualityMap, row: number, column: number): void {
    const [tall, wide] = map.tile;
    const [height, width] = map.extent;
    const [left, top] = this.pane.screenOf(column * wide, row * tall);
    const [right, bottom] = this.pane.screenOf(Math.min((column + 1) * wide, width), Math.min((row + 1) * tall, height));
    pen.globalAlpha = this.opacity;
    pen.fillStyle = shade(map, map.values[row]![column]!);
    pen.fillRect(left, top, right - left, bottom - top);
    const here = this.marked?.[0] === row && this.marked[1] === column;
    pen.globalAlpha = here ? 1 : 0.35;
    pen.strokeStyle = here ? "#fff" : "#000";
    pen.lineWidth = here ? 2 : 1;
    pen.strokeRect(left + 0.5, top + 0.5, right - left - 1, bottom - top - 1);
  }
}

/** Scale of colours with its ends. */
export function legend(map: QualityMap): HTMLElement {
  const flat = map.values.flat();
  const exact = flat.filter((number) => isExact(map, number)).length;
  const [low, high] = [inWords(map, map.low), inWords(map, map.high)];
  const scale = h("div", { class: "scale", role: "img", "aria-label": `${map.long_name}: from ${low} to ${high}` });
  scale.style.background = `linear-gradient(90deg, ${map.colours.map((_, i) => colour(map.colours, i / (map.colours.length - 1))).join(",")})`;
  const told = exact < flat.length;
  return h("div", { class: "legend" },
    told && scale,
    told && h("div", { class: "ends" }, h("span", {}, low), high !== low && h("span", {}, high)),
    exact > 0 && h("div", { class: "exact" }, h("i"), `exact: ${exact} of ${flat.length} tiles`));
}
