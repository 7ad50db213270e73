// One image, or two: the state of the view, and who is told when it changes.

import { emptyImage, type ImageState } from "./address";
import { imageDetail, problem, type ImageDetail, type Pair, type Problem } from "./api";
import { fidelityTag, inWords, type Page } from "./catalogue";
import { displayPanel, moved, natureOf, pictureQuery, shownPairs, stackedAxes, startIndex, withPairs } from "./display";
import { announce, debounce, h, iconButton, throttle } from "./dom";
import { imageKeys } from "./keys";
import { clamp } from "./numbers";
import { pixelLength, ScaleBar } from "./overlays";
import { comparePanel, exportPanel, factsPanel, qualityPanel, section } from "./panels";
import { Readout } from "./readout";
import { sliceBar } from "./slices";
import { Stage } from "./stage";
import { WindowPreview } from "./window_preview";

const AHEAD = 2;
/** Neighbouring slices that are fetched ahead, on either side. */
const PATIENCE_MS = 250;
/** So long the first image waits for the second before it is shown alone. */
const DRAG_WIDTH = 300;
/** Screen pixels of a drag that double, or halve, the width of a window. */

/** The page; the address is remembered through `remember`. */
export function imagePage(start: ImageState, remember: (state: ImageState) => void, help: () => void): Page {
  const element = h("div", { class: "image-page" });
  const asking = new AbortController();
  let view: ImageView | null = null;
  element.append(h("main", { id: "main", class: "loading", "aria-busy": "true" }, h("p", { class: "note" }, "Opening the image …")));
  imageDetail(start.id, asking.signal).then(
    (detail) => {
      view = new ImageView(element, detail, start, remember, help);
    },
    (error) => {
      if (!asking.signal.aborted) element.replaceChildren(failure(problem(error)));
    },
  );
  return {
    element,
    destroy: () => {
      asking.abort();
      view?.destroy();
    },
    goto: (state: never) => view?.goto(state as ImageState) ?? false,
  };
}

function failure(what: Problem): HTMLElement {
  return h("main", { id: "main", class: "message" },
    h("h2", {}, "The image cannot be opened"), h("p", { role: "alert" }, what.sentence),
    h("p", {}, h("a", { class: "button", href: "#/" }, "Back to all images")));
}

/** A page whose image is known. */
export class ImageView {
  readonly stage: Stage;
  private other: ImageDetail | null = null;
  private readonly display;
  private readonly quality;
  private readonly compare;
  private readonly slices;
  private readonly readout: Readout;
  private readonly bar: ScaleBar;
  private readonly preview: WindowPreview;
  private readonly notice = h("p", { class: "notice", role: "alert", hidden: true });
  private readonly panel: HTMLElement;
  private readonly windowTool: HTMLButtonElement;
  private readonly zoomText = h("output", { class: "zoom", "aria-label": "Zoom" });
  private readonly failed = new Map<string, Problem>();
  private readonly stop = new AbortController();
  private shownPairs: Pair[];
  private tool: "pan" | "window" = "pan";

  constructor(
    private readonly root: HTMLElement, readonly detail: ImageDetail, private state: ImageState,
    private readonly rememberNow: (state: ImageState) => void, private readonly help: () => void,
  ) {
    const index = () => this.index;
    const host = { state: () => this.state, detail, change: (next: ImageState) => this.change(next) };
    this.shownPairs = shownPairs(state, detail);
    this.stage = new Stage({
      detail, index,
      query: (position) => pictureQuery(this.state, position ?? this.index),
      wheel: stackedAxes(detail).length ? (steps) => this.step(steps) : null,
      drag: (dx, dy) => this.tool === "window" && this.dragWindow(dx, dy),
      hover: (at) => this.hover(at),
      moved: () => this.moved(),
      onproblem: (what, url) => this.tellProblem(what, url),
    });
    this.readout = new Readout(detail, index);
    this.bar = new ScaleBar(pixelLength(detail));
    this.slices = sliceBar(detail, index, (axis, at) => this.change({ ...this.state, index: { ...this.index, [axis]: at } }));
    this.display = displayPanel(host);
    this.quality = qualityPanel(host, index, () => this.stage.overlays);
    this.compare = comparePanel(host);
    this.windowTool = iconButton("contrast", "Drag changes the window (W)", () => this.toggleTool(), { "aria-pressed": "false" });
    this.windowTool.hidden = !["grey", "bands"].includes(natureOf(detail));
    this.panel = this.makePanel();
    this.preview = new WindowPreview(() => this.stage.canvases);
    this.build();
    imageKeys(this, this.stop.signal);
    this.listen();
    void this.arrange();
  }

  private makePanel(): HTMLElement {
    const { detail } = this;
    return h("aside", { class: "panel", "aria-label": "Display and details", id: "panel" },
      section("Display", this.display.element, true),
      this.quality.element && section("Quality", this.quality.element, Boolean(this.state.quality)),
      this.compare.element && section("Compare", this.compare.element, Boolean(this.state.other)),
      section("Export", exportPanel(detail, () => void this.save(), () => void this.copyLink()), false),
      section("About", factsPanel(detail), false));
  }

  private build(): void {
    const { detail } = this;
    document.title = `${detail.name} – tilevault`;
    const zooms = h("div", { class: "zooms", role: "group", "aria-label": "Zoom" },
      iconButton("plus", "Zoom in (+)", () => this.stage.pane?.zoomBy(1.5)),
      iconButton("minus", "Zoom out (−)", () => this.stage.pane?.zoomBy(1 / 1.5)),
      iconButton("fit", "Whole image (0)", () => this.stage.pane?.home()));
    const back = h("a", { class: "icon", href: "#/", "aria-label": "All images", title: "All images" });
    back.append(iconButton("back", "", () => undefined).firstChild!);
    this.root.replaceChildren(
      h("header", { class: "bar" }, back,
        h("div", { class: "title" }, h("h1", {}, detail.name), h("p", {}, h("span", {}, inWords(detail)), fidelityTag(detail))),
        this.windowTool,
        iconButton("panel", "Panel (P)", () => this.togglePanel(), { "aria-controls": "panel", class: "icon panel-toggle" }),
        iconButton("help", "Keys (?)", this.help)),
      h("main", { id: "main", class: "view" },
        h("div", { class: "frame" }, this.stage.element, zooms, this.bar.element, this.notice),
        this.slices.element,
        h("div", { class: "foot" }, this.readout.element, this.zoomText)),
      this.panel);
    this.togglePanel(!matchMedia("(max-width: 760px)").matches);
    this.refresh();
  }

  private listen(): void {
    const { signal } = this.stop;
    this.stage.element.addEventListener("picture-shown", () => {
      this.preview.clear();
      this.prefetch();
    }, { signal });
    let last: [number, number] | null = null;
    this.stage.element.addEventListener("contextmenu", (event) => event.preventDefault(), { signal });
    this.stage.element.addEventListener("pointerdown", (event) => {
      if (event.button === 2) last = [event.clientX, event.clientY];
    }, { signal, capture: true });
    addEventListener("pointermove", (event) => {
      if (!last || !(event.buttons & 2)) return;
      this.dragWindow(event.clientX - last[0], event.clientY - last[1]);
      last = [event.clientX, event.clientY];
    }, { signal });
    addEventListener("pointerup", () => (last = null), { signal });
  }

  /** Positions along the axes that are scrolled, within the image. */
  get index(): Record<string, number> {
    const start = startIndex(this.detail);
    return Object.fromEntries(stackedAxes(this.detail).map(([axis, count]) =>
      [axis, clamp(this.state.index[axis] ?? start[axis]!, 0, count - 1)]));
  }

  /** A step along the innermost stacked axis. */
  step(by: number): void {
    const [axis, count] = stackedAxes(this.detail).at(-1) ?? [];
    if (!axis || !count) return;
    const at = clamp(this.index[axis]! + by, 0, count - 1);
    if (at !== this.index[axis]) this.change({ ...this.state, index: { ...this.index, [axis]: at } });
  }

  /** Another state of this view, shown and remembered. */
  change(next: ImageState): void {
    const old = this.state;
    this.state = next;
    this.remember();
    this.refresh();
    if (next.other !== old.other || next.mode !== old.mode) void this.arrange();
    else if (pictureQuery(next, this.index) !== this.shownQuery) this.showSoon();
  }

  private shownQuery = "";
  private readonly showSoon = throttle(80, () => this.show());
  private readonly remember = debounce(150, () => {
    if (!this.stop.signal.aborted) this.rememberNow({ ...this.state, at: this.stage.place ?? this.state.at });
  });

  private show(): void {
    this.note();
    this.stage.show();
  }

  /** Takes note of what is about to be shown. */
  private note(): void {
    this.shownQuery = pictureQuery(this.state, this.index);
    this.shownPairs = shownPairs(this.state, this.detail);
    this.failed.clear();
    this.notice.hidden = true;
  }

  private readonly prefetch = debounce(120, () => {
    const [axis, count] = stackedAxes(this.detail).at(-1) ?? [];
    if (!axis || !count) return;
    const near = Array.from({ length: AHEAD }, (_, i) => [i + 1, -i - 1]).flat();
    this.stage.prefetch(near.map((by) => this.index[axis]! + by).filter((at) => at >= 0 && at < count)
      .map((at) => ({ ...this.index, [axis]: at })));
  });

  private async arrange(): Promise<void> {
    const { other, mode } = this.state;
    const timer = window.setTimeout(() => this.place(null), this.stage.pane ? 1e9 : PATIENCE_MS);
    try {
      this.other = other ? (this.other?.id === other ? this.other : await imageDetail(other)) : null;
    } catch (error) {
      this.other = null;
      this.state = { ...this.state, other: null };
      announce(problem(error).sentence);
    }
    window.clearTimeout(timer);
    if (this.stop.signal.aborted || other !== this.state.other && this.state.other) return;
    this.place(this.other, mode);
  }

  private place(other: ImageDetail | null, mode: ImageState["mode"] = "side"): void {
    const { at } = this.state;
    this.note();
    this.stage.arrange(other, mode);
    if (at) this.stage.go(at);
    this.quality.restore(other);
    this.readout.compare(other);
    this.refresh();
  }

  private refresh(): void {
    this.display.refresh();
    this.slices.refresh();
    this.quality.refresh();
    this.compare.refresh();
  }

  private hover(at: [number, number] | null): void {
    this.readout.at(at);
    this.quality.hover(at);
  }

  /** Reads the middle of the view, for those who do not point. */
  readMiddle(): void {
    const at = this.stage.pane?.middle ?? null;
    for (const { overlay } of this.stage.overlays) overlay.mark(at);
    this.hover(at);
    window.setTimeout(() => announce(this.readout.element.textContent ?? ""), 400);
  }

  private moved(): void {
    const zoom = this.stage.pane?.zoom ?? 1;
    this.bar.draw(zoom);
    const text = `${zoom >= 0.0995 ? Math.round(zoom * 100) : (zoom * 100).toPrecision(2)} %`;
    if (this.zoomText.textContent !== text) this.zoomText.textContent = text;
    if (this.stage.place) {
      this.state = { ...this.state, at: this.stage.place };
      this.remember();
    }
  }

  /** To the right is wider, downwards is higher, which is darker. True: the drag is taken. */
  dragWindow(dx: number, dy: number): boolean {
    if (this.windowTool.hidden) return false;
    if (!dx && !dy) return true;
    const pairs = moved(shownPairs(this.state, this.detail), 2 ** (dx / DRAG_WIDTH), dy / DRAG_WIDTH);
    const next = withPairs(this.state, this.detail, pairs);
    if (!this.state.colormap) this.preview.show(this.shownPairs, shownPairs(next, this.detail));
    this.state = next;
    this.display.refresh();
    this.remember();
    this.windowSoon();
    return true;
  }

  private readonly windowSoon = debounce(140, () => this.show());

  reset(): void {
    this.change({ ...this.state, window: null, bands: null, rescale: null, colormap: null });
  }

  toggleTool(): void {
    if (this.windowTool.hidden) return;
    this.tool = this.tool === "pan" ? "window" : "pan";
    this.windowTool.setAttribute("aria-pressed", String(this.tool === "window"));
    this.stage.element.dataset.tool = this.tool;
    announce(this.tool === "window" ? "A drag changes the window" : "A drag moves the image");
  }

  togglePanel(shown = this.panel.hidden): void {
    this.panel.hidden = !shown;
    this.root.classList.toggle("with-panel", shown);
    this.root.querySelector(".panel-toggle")?.setAttribute("aria-expanded", String(shown));
  }

  toggleQuality(): void {
    this.quality.toggle();
  }

  toggleCompare(mode: "side" | "swipe"): void {
    const other = this.state.other && this.state.mode === mode ? null : (this.state.other ?? this.detail.related[0]?.id ?? null);
    if (!other && !this.state.other) announce("There is no other copy of this image");
    else this.change({ ...this.state, other, mode });
  }

  async save(): Promise<void> {
    const blob = await this.stage.snapshot();
    if (!blob) return;
    const link = h("a", { href: URL.createObjectURL(blob), download: `${this.detail.name.replace(/[^\w.-]+/g, "_")}-view.png` });
    link.click();
    window.setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    announce("The view is saved as PNG");
  }

  private async copyLink(): Promise<void> {
    this.rememberNow({ ...this.state, at: this.stage.place ?? this.state.at });
    try {
      await navigator.clipboard.writeText(location.href);
      announce("The link to this view is copied");
    } catch {
      announce("Copy the address of this page: it leads to this view");
    }
  }

  private tellProblem(what: Problem, url: string): void {
    this.failed.set(url.replace(/\?.*/, ""), what);
    const count = this.failed.size;
    const tiles = count === 1 ? "1 tile is not shown" : `${count} tiles are not shown`;
    this.notice.hidden = false;
    this.notice.replaceChildren(h("b", {}, tiles), ` ${what.sentence}`,
      what.code ? h("code", {}, what.code) : "",
      what.damage ? "" : h("button", { type: "button", onclick: () => void this.arrange() }, "Try again"));
  }

  /** Another address of the same image; false where another page is needed. */
  goto(state: ImageState): boolean {
    if (state.id !== this.detail.id) return false;
    this.state = { ...emptyImage(state.id), ...state };
    void this.arrange();
    return true;
  }

  destroy(): void {
    this.stop.abort();
    this.stage.clear();
    this.preview.destroy();
    document.title = "tilevault";
  }
}
