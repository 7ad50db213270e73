// Tiles of one picture for OpenSeadragon: our levels are counted from full size, and a tile that does not
// come is drawn as what it is, missing, never as pixels.

import OpenSeadragon from "openseadragon";
import { ask, imagePath, problem, Problem, type ImageDetail } from "./api";

const KEPT_BYTES = 96 << 20;
const TRIES = 4;

/** Encoded tiles by address, the longest unused forgotten first; what is being fetched is fetched once. */
class Kept {
  private readonly tiles = new Map<string, Blob>();
  private readonly coming = new Map<string, Promise<Blob>>();
  private size = 0;

  /** Fetched, or as it was. Raises `Problem`. */
  get(url: string): Promise<Blob> {
    const known = this.tiles.get(url);
    if (known) {
      this.tiles.delete(url);
      this.tiles.set(url, known);
      return Promise.resolve(known);
    }
    const running = this.coming.get(url);
    if (running) return running;
    const started = patiently(url).then((blob) => this.keep(url, blob));
    this.coming.set(url, started);
    const done = () => this.coming.delete(url);
    started.then(done, done);
    return started;
  }

  has(url: string): boolean {
    return this.tiles.has(url) || this.coming.has(url);
  }

  private keep(url: string, blob: Blob): Blob {
    this.tiles.set(url, blob);
    this.size += blob.size;
    for (const [oldest, { size }] of this.tiles) {
      if (this.size <= KEPT_BYTES || oldest === url) break;
      this.tiles.delete(oldest);
      this.size -= size;
    }
    return blob;
  }
}

const kept = new Kept();

/** A server that is busy says so; we come again. */
async function patiently(url: string): Promise<Blob> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await (await ask(url)).blob();
    } catch (error) {
      if (problem(error).status !== 503 || attempt === TRIES) throw error;
      await new Promise((resume) => window.setTimeout(resume, 300 * 2 ** attempt));
    }
  }
}

export interface Picture {
  detail: ImageDetail;
  /** Parameters of `pictures`: index, window, bands and so on. */
  query: string;
  onproblem: (problem: Problem, url: string) => void;
}

/** Address of a tile. */
export function tileUrl(picture: Picture, level: number, row: number, column: number): string {
  const side = Math.max(...picture.detail.tile);
  const query = [picture.query, `tilesize=${side}`].filter(Boolean).join("&");
  return `${imagePath(picture.detail.id)}/tiles/${level}/${row}/${column}.png?${query}`;
}

/** Height and width of level 0. */
export function extent(detail: ImageDetail): [number, number] {
  return detail.shape.slice(-2) as [number, number];
}

export function tileSource(picture: Picture): OpenSeadragon.TileSource {
  const { detail } = picture;
  const [height, width] = extent(detail);
  const coarsest = Math.max(0, ...detail.levels.map(({ level }) => level));
  const side = Math.max(...detail.tile);
  const source = new OpenSeadragon.TileSource({
    width, height, tileWidth: side, tileHeight: side, tileOverlap: 0, minLevel: 0, maxLevel: coarsest,
  } as OpenSeadragon.TileSourceOptions);
  source.getTileUrl = (level: number, x: number, y: number) => tileUrl(picture, coarsest - level, y, x);
  source.hasTransparency = () => true;
  source.downloadTileStart = (job) => {
    void load(job.src, picture, side).then((bitmap) => job.finish(bitmap, null, "imageBitmap"));
  };
  source.downloadTileAbort = () => undefined;
  return source;
}

async function load(url: string, picture: Picture, side: number): Promise<ImageBitmap> {
  try {
    return await createImageBitmap(await kept.get(url));
  } catch (error) {
    picture.onproblem(problem(error), url);
    return placeholder(side, problem(error).damage);
  }
}

/** Fetches ahead of need; what goes wrong will be told when it is needed. */
export function prefetch(urls: string[]): void {
  for (const url of urls) if (!kept.has(url)) kept.get(url).catch(() => undefined);
}

/** Hatched, red and crossed where the archive is damaged, grey where only the way to it failed. */
async function placeholder(side: number, damage: boolean): Promise<ImageBitmap> {
  const canvas = new OffscreenCanvas(side, side);
  const pen = canvas.getContext("2d")!;
  pen.fillStyle = damage ? "#3a1512" : "#22262c";
  pen.fillRect(0, 0, side, side);
  pen.strokeStyle = damage ? "#e0604f" : "#5d6876";
  pen.lineWidth = side / 64;
  pen.beginPath();
  const step = side / 16;
  for (let at = -side; at < side; at += step) {
    pen.moveTo(at, side);
    pen.lineTo(at + side, 0);
  }
  pen.stroke();
  return createImageBitmap(canvas);
}
