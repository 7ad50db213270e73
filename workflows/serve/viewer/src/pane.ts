// One view onto one picture, or onto two that lie on each other with the second cut off at a divider.
// A new picture (another slice, another window) is loaded behind the one that is shown and takes its place
// when it is whole, so that pixels of two slices are never seen together.

import OpenSeadragon from "openseadragon";
import { extent, prefetch, tileSource, tileUrl, type Picture } from "./tiles";
import { clamp } from "./numbers";

const CRISP_ZOOM = 2;
/** From this many screen pixels per pixel on, pixels are squares. */
const GREATEST_ZOOM = 32;

export interface PaneOptions {
  label: string;
  /** Whether the wheel belongs to slices; with Ctrl it always zooms. */
  wheel: ((steps: number) => void) | null;
  /** Whether a drag (screen pixels) is taken, and so does not pan. */
  drag: (dx: number, dy: number) => boolean;
  /** The pixel under the pointer, level 0; null where it leaves. */
  hover: (at: [number, number] | null) => void;
  moved: () => void;
  navigator: boolean;
}

export class Pane {
  readonly element: HTMLElement;
  readonly viewer: OpenSeadragon.Viewer;
  private shown: OpenSeadragon.TiledImage[] = [];
  private pictures: Picture[] = [];
  private wanted: Picture[] | null = null;
  private busy = false;
  private gone = false;
  private clipAt = 0.5;

  constructor(host: HTMLElement, private readonly options: PaneOptions) {
    this.element = host;
    this.viewer = OpenSeadragon({
      element: host,
      drawer: "canvas",
      showNavigationControl: false,
      showNavigator: options.navigator,
      navigatorPosition: "TOP_RIGHT",
      navigatorSizeRatio: 0.16,
      navigatorAutoFade: false,
      animationTime: matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 0.4,
      springStiffness: 9,
      maxZoomPixelRatio: GREATEST_ZOOM,
      minZoomImageRatio: 0.5,
      visibilityRatio: 0.3,
      smoothTileEdgesMinZoom: Infinity,
      imageLoaderLimit: 6,
      maxTilesPerFrame: 8,
      timeout: 60000,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true, flickEnabled: false },
      gestureSettingsTouch: { dblClickToZoom: true, dblClickDragToZoom: false },
      crossOriginPolicy: false,
    } as unknown as OpenSeadragon.Options);
    this.element.classList.add("busy");
    this.viewer.canvas.setAttribute("aria-label", options.label);
    this.viewer.canvas.setAttribute("role", "application");
    this.listen();
  }

  private listen(): void {
    const { viewer, options } = this;
    viewer.addHandler("fully-loaded-change", (event) => {
      this.element.classList.toggle("busy", !event.fullyLoaded);
    });
    viewer.addHandler("canvas-key", (event) => {
      event.preventDefaultAction = true;
    });
    viewer.addHandler("canvas-scroll", (event) => {
      const original = event.originalEvent as WheelEvent;
      if (!options.wheel || original.ctrlKey || original.metaKey) return;
      event.preventDefaultAction = true;
      options.wheel(event.scroll > 0 ? -1 : 1);
    });
    viewer.addHandler("canvas-drag", (event) => {
      const delta = event.delta as OpenSeadragon.Point;
      if (options.drag(delta.x, delta.y)) event.preventDefaultAction = true;
    });
    viewer.addHandler("canvas-drag-end", (event) => {
      if (options.drag(0, 0)) event.preventDefaultAction = true;
    });
    viewer.addHandler("canvas-click", (event) => {
      if (event.quick) options.hover(this.pixelAt(event.position as OpenSeadragon.Point));
    });
    viewer.canvas.addEventListener("pointermove", (event) => {
      if (event.pointerType === "touch") return;
      const box = viewer.canvas.getBoundingClientRect();
      options.hover(this.pixelAt(new OpenSeadragon.Point(event.clientX - box.left, event.clientY - box.top)));
    });
    viewer.canvas.addEventListener("pointerleave", (event) => {
      if (event.pointerType !== "touch") options.hover(null);
    });
    const redraw = () => {
      this.sharpen();
      this.showNavigator();
      this.clip();
      options.moved();
    };
    for (const name of ["update-viewport", "resize", "open"] as const) viewer.addHandler(name, redraw);
  }

  /** Shows pictures of the same extent, the first below; the newest request wins. */
  show(pictures: Picture[]): void {
    this.wanted = pictures;
    if (!this.busy) void this.next();
  }

  private async next(): Promise<void> {
    const pictures = this.wanted;
    if (!pictures || this.gone) return;
    this.wanted = null;
    this.busy = true;
    try {
      await this.replace(pictures);
    } finally {
      this.busy = false;
    }
    if (this.wanted) void this.next();
  }

  private async replace(pictures: Picture[]): Promise<void> {
    const first = !this.shown.length;
    const added = await Promise.all(pictures.map((picture) => this.add(picture, first)));
    if (!first) await Promise.all(added.map((item) => loaded(item)));
    if (this.gone) return;
    for (const item of added) item.setOpacity(1);
    this.clipItems(added);
    const world = this.viewer.world;
    for (const item of this.shown) if (world.getIndexOfItem(item) >= 0) world.removeItem(item);
    this.shown = added;
    this.pictures = pictures;
    this.sharpen();
    this.showNavigator();
    this.viewer.element.dispatchEvent(new CustomEvent("picture-shown", { bubbles: true }));
    this.options.moved();
  }

  private add(picture: Picture, visible: boolean): Promise<OpenSeadragon.TiledImage> {
    return new Promise((resolve, reject) => {
      this.viewer.addTiledImage({
        tileSource: tileSource(picture), x: 0, y: 0, width: 1, opacity: visible ? 1 : 0, preload: true,
        success: (event: unknown) => resolve((event as { item: OpenSeadragon.TiledImage }).item),
        error: reject,
      } as never);
    });
  }

  /** Runs at once if there is a picture, or else with the first. */
  whenShown(run: () => void): void {
    if (this.shown.length) run();
    else this.element.addEventListener("picture-shown", run, { once: true });
  }

  /** Fetches the tiles in view of other pictures of the image that is shown. */
  prefetch(pictures: Picture[]): void {
    for (const picture of pictures) {
      const tiles = this.visibleTiles(picture);
      prefetch(tiles.map(([level, row, column]) => tileUrl(picture, level, row, column)));
    }
  }

  private visibleTiles(picture: Picture): [number, number, number][] {
    const coarsest = Math.max(0, ...picture.detail.levels.map(({ level }) => level));
    const level = clamp(Math.ceil(-Math.log2(this.zoom * devicePixelRatio) - 1), 0, coarsest);
    const side = Math.max(...picture.detail.tile) << level;
    const [height, width] = extent(picture.detail);
    const box = this.bounds;
    const tiles: [number, number, number][] = [];
    const last = (end: number, size: number) => Math.floor((clamp(end, 1, size) - 1) / side);
    for (let row = Math.floor(Math.max(0, box.y) / side); row <= last(box.y + box.height, height); row += 1) {
      for (let column = Math.floor(Math.max(0, box.x) / side); column <= last(box.x + box.width, width); column += 1) {
        tiles.push([level, row, column]);
      }
    }
    return tiles;
  }

  /** Height and width of level 0. */
  get extent(): [number, number] {
    return this.pictures[0] ? extent(this.pictures[0].detail) : [0, 0];
  }

  /** What is seen, in pixels of level 0. */
  get bounds(): OpenSeadragon.Rect {
    const item = this.shown[0];
    const box = this.viewer.viewport.getBounds(true);
    return item ? item.viewportToImageRectangle(box) : box;
  }

  /** Screen pixels (CSS) per pixel of level 0. */
  get zoom(): number {
    const item = this.shown[0];
    return item ? item.viewportToImageZoom(this.viewer.viewport.getZoom(true)) : 1;
  }

  /** Centre in pixels of level 0, and zoom; where the view is going, not where it is. */
  get place(): [number, number, number] | null {
    const item = this.shown[0];
    if (!item) return null;
    const center = item.viewportToImageCoordinates(this.viewer.viewport.getCenter(false));
    return [center.x, center.y, item.viewportToImageZoom(this.viewer.viewport.getZoom(false))];
  }

  /** Goes to a place. */
  go([x, y, zoom]: [number, number, number], immediately = true): void {
    const item = this.shown[0];
    if (!item) return;
    const viewport = this.viewer.viewport;
    viewport.zoomTo(item.imageToViewportZoom(zoom), undefined, immediately);
    viewport.panTo(item.imageToViewportCoordinates(new OpenSeadragon.Point(x, y)), immediately);
  }

  home(): void {
    this.viewer.viewport.goHome();
  }

  zoomBy(factor: number): void {
    this.viewer.viewport.zoomBy(factor);
    this.viewer.viewport.applyConstraints();
  }

  panBy(dx: number, dy: number): void {
    const viewport = this.viewer.viewport;
    viewport.panBy(viewport.deltaPointsFromPixels(new OpenSeadragon.Point(dx, dy)));
    viewport.applyConstraints();
  }

  get focused(): boolean {
    return this.element.contains(document.activeElement);
  }

  get canvas(): HTMLCanvasElement {
    return (this.viewer.drawer as unknown as { canvas: HTMLCanvasElement }).canvas;
  }

  /** Where a pixel of level 0 is on the screen, from the pane's corner. */
  screenOf(x: number, y: number): [number, number] {
    const item = this.shown[0];
    if (!item) return [0, 0];
    const at = this.viewer.viewport.pixelFromPoint(
      item.imageToViewportCoordinates(new OpenSeadragon.Point(x, y)), true);
    return [at.x, at.y];
  }

  /** Which pixel of level 0 is at a place on the screen; null outside the image. */
  pixelAt(at: OpenSeadragon.Point): [number, number] | null {
    const item = this.shown[0];
    if (!item) return null;
    const point = item.viewportToImageCoordinates(this.viewer.viewport.pointFromPixel(at, true));
    const [height, width] = extent(this.pictures[0]!.detail);
    const inside = point.x >= 0 && point.y >= 0 && point.x < width && point.y < height;
    return inside ? [Math.floor(point.x), Math.floor(point.y)] : null;
  }

  get middle(): [number, number] | null {
    const { clientWidth, clientHeight } = this.element;
    return this.pixelAt(new OpenSeadragon.Point(clientWidth / 2, clientHeight / 2));
  }

  /** Puts the divider of two pictures at a share of the width. */
  divide(at: number): void {
    this.clipAt = at;
    this.clip();
  }

  private clip(): void {
    this.clipItems(this.shown);
  }

  private clipItems(items: OpenSeadragon.TiledImage[]): void {
    const [, upper] = items;
    if (!upper) return;
    const { x: width, y: height } = upper.getContentSize();
    const point = this.viewer.viewport.pointFromPixel(
      new OpenSeadragon.Point(this.element.clientWidth * this.clipAt, 0), true);
    const left = clamp(upper.viewportToImageCoordinates(point).x, 0, width);
    const old = upper.getClip();
    if (old && Math.abs(old.x - left) < 1e-6 * width) return;
    upper.setClip(new OpenSeadragon.Rect(left, 0, Math.max(width - left, 1e-3), height));
  }

  /** The overview is of use only where not everything is seen. */
  private showNavigator(): void {
    const navigator = this.viewer.navigator?.element;
    if (!navigator || !this.shown.length) return;
    const box = this.bounds;
    const [height, width] = this.extent;
    const whole = box.width >= width * 0.999 && box.height >= height * 0.999;
    navigator.style.visibility = whole ? "hidden" : "visible";
  }

  /** Great pixels are squares, whose colours are exactly those of the picture. */
  private sharpen(): void {
    this.viewer.drawer.setImageSmoothingEnabled(this.zoom < CRISP_ZOOM);
  }

  destroy(): void {
    this.gone = true;
    this.viewer.destroy();
  }
}

/** Once all that is in view has come, or after a time in which the server ought to have answered. */
function loaded(item: OpenSeadragon.TiledImage): Promise<void> {
  return new Promise((resolve) => {
    if (item.getFullyLoaded()) return resolve();
    const timer = window.setTimeout(done, 20000);
    function done(): void {
      window.clearTimeout(timer);
      resolve();
    }
    item.addHandler("fully-loaded-change", (event) => {
      if (event.fullyLoaded) done();
    });
  });
}
