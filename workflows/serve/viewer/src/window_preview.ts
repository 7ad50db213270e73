// While a window is dragged, the picture that is on the screen is stretched at once by a filter; the pictures
// of the new window follow when the drag pauses. Clipped greys stay clipped until they have come.

import type { Pair } from "./api";

const SVG = "http://www.w3.org/2000/svg";

export class WindowPreview {
  private readonly functions: SVGElement[] = [];

  constructor(private readonly canvases: () => HTMLCanvasElement[]) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("class", "filters");
    svg.setAttribute("aria-hidden", "true");
    const filter = document.createElementNS(SVG, "filter");
    filter.setAttribute("id", "window-preview");
    filter.setAttribute("color-interpolation-filters", "sRGB");
    const transfer = document.createElementNS(SVG, "feComponentTransfer");
    for (const name of ["feFuncR", "feFuncG", "feFuncB"]) {
      const one = document.createElementNS(SVG, name);
      one.setAttribute("type", "linear");
      transfer.append(one);
      this.functions.push(one);
    }
    filter.append(transfer);
    svg.append(filter);
    document.body.append(svg);
  }

  /** Shows pictures that were made for pairs `from` as if they were made for pairs `to`. */
  show(from: Pair[], to: Pair[]): void {
    this.functions.forEach((one, i) => {
      const [low, high] = from[i] ?? from[0]!;
      const [newLow, newHigh] = to[i] ?? to[0]!;
      one.setAttribute("slope", String((high - low) / (newHigh - newLow)));
      one.setAttribute("intercept", String((low - newLow) / (newHigh - newLow)));
    });
    for (const canvas of this.canvases()) canvas.style.filter = "url(#window-preview)";
  }

  clear(): void {
    for (const canvas of this.canvases()) canvas.style.filter = "";
  }

  destroy(): void {
    document.querySelector("svg.filters")?.remove();
  }
}
