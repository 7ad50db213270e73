// Sliders through the planes of a volume, the frames of a film, the times of a series.

import type { ImageDetail } from "./api";
import { stackedAxes } from "./display";
import { h } from "./dom";

const NAMES: Record<string, string> = { z: "Slice", t: "Time", frame: "Frame" };

export function sliceBar(
  detail: ImageDetail, index: () => Record<string, number>, change: (axis: string, at: number) => void,
): { element: HTMLElement; refresh: () => void } {
  const sliders = stackedAxes(detail).map(([axis, count]) => {
    const name = NAMES[axis] ?? axis;
    const slider = h("input", {
      type: "range", min: 0, max: count - 1, step: 1, "aria-label": name, "data-axis": axis,
      oninput: () => change(axis, Number(slider.value)),
    });
    const said = h("output", {});
    const refresh = () => {
      const at = index()[axis] ?? 0;
      slider.value = String(at);
      slider.setAttribute("aria-valuetext", `${at + 1} of ${count}`);
      said.textContent = `${at + 1} / ${count}`;
    };
    return { element: h("label", { class: "slices" }, h("span", {}, name), slider, said), refresh };
  });
  const element = h("div", { class: "slice-bar", hidden: !sliders.length }, sliders.map((slider) => slider.element));
  return { element, refresh: () => sliders.forEach((slider) => slider.refresh()) };
}
