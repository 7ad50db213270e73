// What the server says, as it says it. Addresses are relative to the page, so that a proxy may put the
// server under any path.

/** Search result. What holds no pixels has neither axes nor shape. */
export interface ImageEntry {
  id: string;
  name: string;
  kind: string;
  axes: string[] | null;
  shape: number[] | null;
  dtype: string | null;
  fidelity: string;
  round_trip: string;
  summary: Record<string, unknown>;
  thumbnail: string | null;
}

export interface ImageList {
  total: number;
  images: ImageEntry[];
}

export interface FileEntry {
  name: string;
  size: number;
  href: string;
}

/** Lowest and highest value. */
export type Pair = [number, number];

/** All that is known of an image before its first pixel. */
export interface ImageDetail extends Omit<ImageEntry, "axes" | "shape" | "dtype" | "thumbnail"> {
  axes: string[];
  shape: number[];
  dtype: string;
  bits_stored: number | null;
  categorical: boolean;
  /** Height and width of each level. */
  levels: { level: number; shape: Pair }[];
  tile: Pair;
  /** Rescaled units. */
  windows: { name: string; center: number; width: number }[];
  /** Stored values. */
  range: { min: number; max: number } | null;
  /** What becomes black and white of `shown_bands` unless a view says otherwise; stored values. */
  display: Pair[] | null;
  bands: { name: string | null; description: string | null; color_interp: string | null }[];
  shown_bands: number[];
  rescale: { slope: number | null; intercept: number | null; per_plane: boolean } | null;
  unit: string | null;
  /** Millimetres. */
  spacing: { x?: number; y?: number; z?: number } | null;
  /** Direction cosines of rows and columns in the patient (LPS), or null. */
  orientation: number[] | null;
  crs: string | null;
  /** Unit of the coordinates that `transform` gives. */
  crs_unit: string | null;
  /** a to f: x = a column + b row + c, y = d column + e row + f, from the outer corner; or null. */
  transform: number[] | null;
  files: FileEntry[];
  /** The other copies of the same source. */
  related: { id: string; name: string; fidelity: string }[];
  warnings: string[];
}

export function isLossy(entry: { fidelity: string }): boolean {
  return entry.fidelity !== "exact";
}

/** What tells the copies of an image apart. */
export function captionOf(entry: { fidelity: string }): string {
  return isLossy(entry) ? `lossy, ${entry.fidelity}` : "lossless";
}

/** Values at a pixel. */
export interface Values {
  values: (number | null)[];
  rescaled: (number | null)[] | null;
  unit: string | null;
  valid: boolean;
}

/** What is recorded of each tile, by measure. */
export interface QualityListing {
  measures: Record<string, { units: string; long_name: string }>;
}

/** A measure of every tile of one plane. */
export interface QualityMap {
  measure: string;
  long_name: string;
  units: string;
  /** Rows and columns of a tile, and of the image. */
  tile: [number, number];
  extent: [number, number];
  /** Ends of the scale. */
  low: number;
  high: number;
  /** From this value on nothing was lost. */
  exact: number | null;
  /** The colours of the scale, evenly spread. */
  colours: number[][];
  values: number[][];
}

/** What the server answers instead, or that it does not answer. */
export class Problem extends Error {
  constructor(readonly status: number, readonly code: string, detail: string) {
    super(detail);
  }

  /** Whether the archive is damaged there. */
  get damage(): boolean {
    return this.status === 500 && this.code !== "InternalError";
  }

  /** In a sentence, for people. */
  get sentence(): string {
    if (this.status === 0) return "The server cannot be reached.";
    if (this.status === 401) return "You are not signed in, or no longer. Load the page again to sign in.";
    if (this.status === 404) return "There is no such image here, or it is not for you to see.";
    if (this.status === 503) return "The server is busy. Try again in a moment.";
    if (this.damage) return `Damaged in the archive: ${this.message}`;
    return this.message || `The server answered ${this.status}.`;
  }
}

/** The answer, if it is a good one. Raises `Problem`; an abort stays an abort. */
export async function ask(path: string, signal?: AbortSignal): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, { signal, headers: { Accept: "application/json, image/*, */*" } });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(0, "Unreachable", "");
  }
  if (response.ok) return response;
  throw await problemOf(response);
}

async function problemOf(response: Response): Promise<Problem> {
  try {
    const said = (await response.json()) as { code?: string; detail?: string };
    return new Problem(response.status, said.code ?? "", said.detail ?? "");
  } catch {
    return new Problem(response.status, "", "");
  }
}

export async function json<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await ask(path, signal)).json() as Promise<T>;
}

export function problem(error: unknown): Problem {
  return error instanceof Problem ? error : new Problem(-1, "", error instanceof Error ? error.message : "");
}

/** The detail of an image, with what one without pixels lacks. Raises `Problem`. */
export async function imageDetail(id: string, signal?: AbortSignal): Promise<ImageDetail> {
  const said = await json<Partial<ImageDetail> & ImageEntry>(imagePath(id), signal);
  return {
    levels: [], windows: [], bands: [], shown_bands: [], files: [], related: [], warnings: [], tile: [512, 512],
    bits_stored: null, categorical: false, range: null, display: null, rescale: null, unit: null, spacing: null,
    orientation: null, crs: null, crs_unit: null, transform: null,
    ...said, axes: said.axes ?? [], shape: said.shape ?? [], dtype: said.dtype ?? "",
  };
}

export function imagePath(id: string): string {
  return `api/images/${id}`;
}
