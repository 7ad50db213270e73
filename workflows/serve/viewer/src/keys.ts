// What keys do on an image page. They are listed in `help`.

import type { ImageView } from "./image_page";
import { stackedAxes } from "./display";

const PAN = 60;
const WINDOW_STEP = 20;

export function imageKeys(view: ImageView, signal: AbortSignal): void {
  const pane = () => view.stage.pane;
  const anywhere: Record<string, () => void> = {
    "+": () => pane()?.zoomBy(1.5), "=": () => pane()?.zoomBy(1.5), "-": () => pane()?.zoomBy(1 / 1.5),
    "0": () => pane()?.home(),
    "1": () => {
      const place = pane()?.place;
      if (place) pane()?.go([place[0], place[1], 1], false);
    },
    PageUp: () => view.step(-1), ",": () => view.step(-1), PageDown: () => view.step(1), ".": () => view.step(1),
    w: () => view.toggleTool(), r: () => view.reset(), v: () => view.readMiddle(), q: () => view.toggleQuality(),
    s: () => view.toggleCompare("side"), x: () => view.toggleCompare("swipe"), e: () => void view.save(),
    p: () => view.togglePanel(),
  };
  const onImage: Record<string, () => void> = {
    ArrowLeft: () => pane()?.panBy(-PAN, 0), ArrowRight: () => pane()?.panBy(PAN, 0),
    ArrowUp: () => pane()?.panBy(0, -PAN), ArrowDown: () => pane()?.panBy(0, PAN),
    Home: () => view.step(-Infinity), End: () => view.step(Infinity),
  };
  const shifted: Record<string, () => void> = {
    ArrowLeft: () => view.dragWindow(-WINDOW_STEP, 0), ArrowRight: () => view.dragWindow(WINDOW_STEP, 0),
    ArrowUp: () => view.dragWindow(0, WINDOW_STEP), ArrowDown: () => view.dragWindow(0, -WINDOW_STEP),
  };
  document.addEventListener("keydown", (event) => {
    const target = event.target as HTMLElement;
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const range = (target as HTMLInputElement).type === "range";
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName) && !range) return;
    const focused = pane()?.focused;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const own = range && /^(Arrow|Page|Home|End)/.test(event.key);
    const action = own ? undefined
      : focused && event.shiftKey && shifted[key] ? shifted[key]
      : focused && onImage[key] && (stackedAxes(view.detail).length || key.startsWith("Arrow")) ? onImage[key]
      : anywhere[key];
    if (!action) return;
    event.preventDefault();
    action();
  }, { signal });
}
