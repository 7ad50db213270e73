// The line under an image: where the pointer is, in pixels and on the map, and what is there.

import { captionOf, imagePath, json, type ImageDetail, type Values } from "./api";
import { bandName } from "./display";
import { h, throttle } from "./dom";
import { value } from "./numbers";

const EVERY_MS = 90;

type Words = (string | Node)[];

export class Readout {
  readonly element = h("div", { class: "readout" });
  private readonly where = h("span", { class: "where" });
  private readonly what = h("output", { class: "what" });
  private readonly beside = h("output", { class: "beside" });
  private other: ImageDetail | null = null;
  private asking: AbortController | null = null;
  private readonly ask: (query: string) => void;

  constructor(private readonly detail: ImageDetail, private readonly index: () => Record<string, number>) {
    this.element.append(this.where, this.what, this.beside);
    this.ask = throttle(EVERY_MS, (query) => void this.fetch(query));
    this.compare(null);
    this.at(null);
  }

  /** What the pixels of another image are told beside. */
  compare(other: ImageDetail | null): void {
    this.other = other;
    this.beside.textContent = "";
    // Room for the second line from the start: the image must not move when it comes.
    this.element.classList.toggle("long", Boolean(other) || (this.detail.shape[this.detail.axes.indexOf("c")] ?? 1) > 1);
  }

  /** Shows a pixel of level 0, or nothing. */
  at(pixel: [number, number] | null): void {
    if (!pixel) {
      this.asking?.abort();
      this.where.textContent = matchMedia("(hover: none)").matches ? "Tap the image to read its values." : "Point at the image to read its values.";
      this.what.textContent = this.beside.textContent = "";
      return;
    }
    const [x, y] = pixel;
    this.where.textContent = [`x ${x}, y ${y}`, this.onMap(x, y)].filter(Boolean).join(" · ");
    const said = new URLSearchParams({ y: String(y), x: String(x) });
    for (const [axis, at] of Object.entries(this.index())) said.set(axis, String(at));
    this.ask(said.toString());
  }

  private onMap(x: number, y: number): string {
    const { transform, crs, crs_unit: unit } = this.detail;
    if (!transform) return "";
    const [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0] = transform;
    const east = a * (x + 0.5) + b * (y + 0.5) + c;
    const north = d * (x + 0.5) + e * (y + 0.5) + f;
    const digits = /^degree/.test(unit ?? "") ? 6 : 1;
    return `${east.toFixed(digits)}, ${north.toFixed(digits)}${crs ? ` (${crs})` : ""}`;
  }

  private async fetch(query: string): Promise<void> {
    this.asking?.abort();
    const mine = (this.asking = new AbortController());
    const [here, there] = await Promise.all([this.detail, this.other].map((of) => of && valueOf(of, query, mine.signal)));
    if (mine.signal.aborted) return;
    this.what.replaceChildren(...(here ?? []));
    this.beside.replaceChildren(...(this.other && there ? [`${captionOf(this.other)}: `, ...there] : []));
  }
}

async function valueOf(detail: ImageDetail, query: string, signal: AbortSignal): Promise<Words> {
  try {
    return valuesInWords(await json<Values>(`${imagePath(detail.id)}/values?${query}`, signal), detail);
  } catch {
    return ["no value"];
  }
}

/** Rescaled values with their unit, and what is stored where that differs. */
function valuesInWords(found: Values, detail: ImageDetail): Words {
  const { values, rescaled } = found;
  if (!found.valid) return ["no data"];
  const unit = found.unit ? ` ${found.unit}` : "";
  const list = (numbers: (number | null)[]) =>
    numbers.map((n, i) => (numbers.length > 1 ? `${bandName(detail, i)} ${value(n)}`.trim() : value(n))).join(", ");
  const same = !rescaled || rescaled.every((n, i) => n === values[i]);
  if (same) return [`${list(values)}${unit}`];
  // A narrow screen leaves out what is stored.
  return [`${list(rescaled)}${unit}`, h("span", { class: "stored" }, ` (stored ${values.map(value).join(", ")})`)];
}
