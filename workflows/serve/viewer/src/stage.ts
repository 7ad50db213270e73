// The panes of an image page: one, two in step, or one with a divider between two images.

import type { CompareMode } from "./address";
import { captionOf, type ImageDetail, type Problem } from "./api";
import { h } from "./dom";
import { clamp } from "./numbers";
import { orientationMarks } from "./overlays";
import { Pane } from "./pane";
import { QualityOverlay } from "./quality";
import type { Picture } from "./tiles";

export interface StageHost {
  detail: ImageDetail;
  index: () => Record<string, number>;
  /** Parameters of the pictures that are to be shown. */
  query: (index?: Record<string, number>) => string;
  wheel: ((steps: number) => void) | null;
  drag: (dx: number, dy: number) => boolean;
  hover: (at: [number, number] | null) => void;
  moved: () => void;
  onproblem: (problem: Problem, url: string) => void;
}

interface View {
  pane: Pane;
  overlay: QualityOverlay;
  details: ImageDetail[];
}

export class Stage {
  readonly element = h("div", { class: "stage" });
  private views: View[] = [];
  private leader = 0;

  constructor(private readonly host: StageHost) {}

  /** One image, or two; keeps the place. */
  arrange(other: ImageDetail | null, mode: CompareMode): void {
    const place = this.place;
    this.clear();
    this.element.dataset.mode = other ? mode : "single";
    const { detail } = this.host;
    const shown = !other ? [[detail]] : mode === "side" ? [[detail], [other]] : [[detail, other]];
    // All screens have their size before there is a view that keeps to it.
    const screens = shown.map(([first]) => this.screen(first!, shown.length > 1));
    this.views = shown.map((details, at) => this.view(screens[at]!, details, at));
    if (other && mode === "swipe") this.element.append(this.divider(other));
    this.show();
    if (place) this.go(place);
  }

  private screen(detail: ImageDetail, captioned: boolean): HTMLElement {
    const screen = h("div", { class: "screen" });
    const caption = captioned && h("p", { class: "caption" }, captionOf(detail));
    this.element.append(h("div", { class: "pane" }, screen, caption, orientationMarks(detail)));
    return screen;
  }

  private view(screen: HTMLElement, details: ImageDetail[], at: number): View {
    const [detail] = details as [ImageDetail];
    const lead = () => {
      this.leader = at;
    };
    for (const name of ["pointerenter", "pointerdown", "focusin", "wheel"]) {
      screen.addEventListener(name, lead, { capture: true, passive: true });
    }
    const pane = new Pane(screen, {
      label: `${detail.name}, ${captionOf(detail)}. Arrow keys move, plus and minus zoom, question mark lists all keys.`,
      wheel: this.host.wheel,
      drag: this.host.drag,
      hover: (pixel) => {
        for (const view of this.views) view.overlay.mark(pixel);
        this.host.hover(pixel);
      },
      moved: () => this.moved(at),
      navigator: !screen.parentElement?.querySelector(".caption"),
    });
    return { pane, overlay: new QualityOverlay(pane), details };
  }

  private divider(other: ImageDetail): HTMLElement {
    const handle = h("div", {
      class: "divider", role: "slider", tabindex: 0, "aria-label": "Divider between the two images",
      "aria-valuemin": 0, "aria-valuemax": 100, "aria-orientation": "horizontal",
    }, h("span", { class: "grip", "aria-hidden": "true" }));
    const captions = [h("p", { class: "caption" }, captionOf(this.host.detail)), h("p", { class: "caption end" }, captionOf(other))];
    let at = 0.5;
    const set = (share: number) => {
      at = clamp(share, 0, 1);
      handle.style.left = `${at * 100}%`;
      handle.setAttribute("aria-valuenow", String(Math.round(at * 100)));
      this.views[0]?.pane.divide(at);
    };
    handle.addEventListener("pointerdown", (event) => {
      handle.setPointerCapture(event.pointerId);
      event.preventDefault();
      handle.focus();
    });
    handle.addEventListener("pointermove", (event) => {
      if (!handle.hasPointerCapture(event.pointerId)) return;
      const box = this.element.getBoundingClientRect();
      set((event.clientX - box.left) / box.width);
    });
    handle.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -0.02, ArrowRight: 0.02, Home: -1, End: 1 }[event.key];
      if (step == null) return;
      event.preventDefault();
      event.stopPropagation();
      set(at + step);
    });
    this.element.append(...captions);
    set(0.5);
    return handle;
  }

  private moved(at: number): void {
    const view = this.views[at];
    if (!view) return;
    view.overlay.draw();
    if (at === this.leader) {
      const box = view.pane.viewer.viewport.getBounds(true);
      this.views.forEach((other, i) => {
        if (i !== at) other.pane.viewer.viewport.fitBounds(box, true);
      });
      this.host.moved();
    }
  }

  /** Asks for the pictures of the state. */
  show(): void {
    const query = this.host.query();
    for (const view of this.views) view.pane.show(view.details.map((detail) => this.picture(detail, query)));
  }

  /** Fetches the tiles in view of other positions. */
  prefetch(positions: Record<string, number>[]): void {
    for (const position of positions) {
      const query = this.host.query(position);
      for (const view of this.views) view.pane.prefetch(view.details.map((detail) => this.picture(detail, query)));
    }
  }

  private picture(detail: ImageDetail, query: string): Picture {
    return { detail, query, onproblem: this.host.onproblem };
  }

  /** Quality overlays, with the images they lie over. */
  get overlays(): { overlay: QualityOverlay; details: ImageDetail[] }[] {
    return this.views;
  }

  get pane(): Pane | null {
    return (this.views[this.leader] ?? this.views[0])?.pane ?? null;
  }

  get canvases(): HTMLCanvasElement[] {
    return this.views.map(({ pane }) => pane.canvas);
  }

  get place(): [number, number, number] | null {
    return this.pane?.place ?? null;
  }

  go(place: [number, number, number]): void {
    this.leader = 0;
    for (const { pane } of this.views) pane.whenShown(() => pane.go(place));
  }

  /** What is on the screen, as one picture. */
  snapshot(): Promise<Blob | null> {
    const [first] = this.canvases;
    if (!first) return Promise.resolve(null);
    const whole = h("canvas", { width: first.width * this.views.length, height: first.height });
    const pen = whole.getContext("2d")!;
    this.views.forEach(({ pane, overlay }, i) => {
      const covered = !overlay.canvas.hidden && overlay.canvas.width > 0;
      pen.filter = covered ? "grayscale(1) brightness(.6)" : "none";
      pen.drawImage(pane.canvas, i * first.width, 0);
      pen.filter = "none";
      if (covered) {
        pen.drawImage(overlay.canvas, i * first.width, 0, first.width, first.height);
      }
    });
    return new Promise((resolve) => whole.toBlob(resolve, "image/png"));
  }

  clear(): void {
    for (const { pane } of this.views) pane.destroy();
    this.views = [];
    this.leader = 0;
    this.element.replaceChildren();
  }
}
