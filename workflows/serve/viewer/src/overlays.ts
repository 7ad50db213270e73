// What is written over an image: which way is which in a patient, and how long a millimetre or metre is.

import type { ImageDetail } from "./api";
import { h } from "./dom";
import { length, roundLength } from "./numbers";

const OPPOSITE: Record<string, string> = { L: "R", R: "L", P: "A", A: "P", H: "F", F: "H" };
const OBLIQUE = 0.25;
/** Direction cosines below this are not named. */
const METRES_PER_DEGREE = 111320;

/** A direction in the patient (LPS) in letters, the greatest component first. */
export function letters(direction: number[]): string {
  const names: [string, string][] = [["L", "R"], ["P", "A"], ["H", "F"]];
  return direction
    .map((cosine, axis) => ({ size: Math.abs(cosine), name: names[axis]![cosine > 0 ? 0 : 1]! }))
    .filter(({ size }) => size > OBLIQUE)
    .sort((a, b) => b.size - a.size)
    .map(({ name }) => name)
    .join("");
}

export function opposite(text: string): string {
  return [...text].map((letter) => OPPOSITE[letter]).join("");
}

/** Letters at the four edges; null where the orientation is not known. */
export function orientationMarks(detail: ImageDetail): HTMLElement | null {
  const cosines = detail.orientation;
  if (!cosines || cosines.length !== 6) return null;
  const right = letters(cosines.slice(0, 3));
  const bottom = letters(cosines.slice(3));
  const said = `Orientation: right ${right}, left ${opposite(right)}, top ${opposite(bottom)}, bottom ${bottom}`;
  return h("div", { class: "marks", role: "img", "aria-label": said },
    h("b", { class: "right" }, right), h("b", { class: "left" }, opposite(right)),
    h("b", { class: "top" }, opposite(bottom)), h("b", { class: "bottom" }, bottom));
}

/** Length of a pixel along x; null where none is known. */
export function pixelLength(detail: ImageDetail): { amount: number; unit: string } | null {
  const [a = 0, , , d = 0, e = 0, f = 0] = detail.transform ?? [];
  const along = Math.hypot(a, d);
  const unit = detail.crs_unit ?? "";
  if (along > 0 && /^degree/.test(unit)) {
    const latitude = f + (e * detail.shape.at(-2)!) / 2;
    const amount = along * METRES_PER_DEGREE * Math.cos((latitude * Math.PI) / 180);
    return amount > 0 ? { amount, unit: "m" } : null;
  }
  if (along > 0) return /^met(re|er)s?$|^m$/.test(unit) ? { amount: along, unit: "m" } : null;
  const across = detail.spacing?.x;
  return across ? { amount: across, unit: "mm" } : null;
}

/** A bar of a round length. */
export class ScaleBar {
  readonly element = h("div", { class: "scale-bar", hidden: true });
  private readonly text = h("span");

  constructor(private readonly pixel: { amount: number; unit: string } | null) {
    this.element.append(this.text);
  }

  /** `zoom`: screen pixels per pixel. */
  draw(zoom: number): void {
    if (!this.pixel || !(zoom > 0)) return;
    const perScreenPixel = this.pixel.amount / zoom;
    const amount = roundLength(110 * perScreenPixel);
    this.element.hidden = false;
    this.element.style.width = `${amount / perScreenPixel}px`;
    const text = length(amount, this.pixel.unit);
    if (this.text.textContent !== text) this.text.textContent = text;
  }
}
