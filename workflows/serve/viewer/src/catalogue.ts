// The images of the archive: search, filter, thumbnails.

import { emptyImage, format, type CatalogueState } from "./address";
import { isLossy, json, problem, type ImageEntry, type ImageList } from "./api";
import { debounce, field, h, icon, ICONS, select } from "./dom";

const PAGE = 60;

export interface Page {
  element: HTMLElement;
  destroy: () => void;
  /** Shows another state of the same page; false where a new page is needed. */
  goto?: (state: never) => boolean;
}

export function cataloguePage(start: CatalogueState, remember: (state: CatalogueState) => void): Page {
  let state = start;
  let shown = 0;
  let total = 0;
  let asking: AbortController | null = null;
  const grid = h("ul", { class: "grid", "aria-label": "Images" });
  const count = h("p", { class: "count", role: "status" }, "\u00a0");
  const more = h("button", { type: "button", class: "more", hidden: true, onclick: () => void load(false) }, "Show more");
  const message = h("div", { class: "message", hidden: true });

  const change = (part: Partial<CatalogueState>) => {
    state = { ...state, ...part };
    remember(state);
    void load(true);
  };
  const box = h("input", {
    type: "search", id: "search", placeholder: "Name, id, patient, modality, date …", autocomplete: "off",
    spellcheck: "false", value: state.q,
    oninput: debounce(250, () => change({ q: box.value.trim() })),
  });
  const kind = select([["", "All images"], ["medical", "Medical"], ["satellite", "Satellite"], ["lossless", "Lossless"], ["lossy", "Lossy"]], state.kind,
    (value) => change({ kind: value }), { "aria-label": "Kind" });
  const sort = select([["", "By name"], ["-added", "Newest first"], ["-date", "Latest taken first"], ["-size", "Largest first"]], state.sort,
    (value) => change({ sort: value }), { "aria-label": "Order" });

  async function load(anew: boolean): Promise<void> {
    if (!anew && asking) return;
    asking?.abort();
    const mine = (asking = new AbortController());
    if (anew) shown = 0;
    grid.setAttribute("aria-busy", "true");
    const said = new URLSearchParams({ limit: String(PAGE), offset: String(shown) });
    for (const name of ["q", "kind", "sort"] as const) if (state[name]) said.set(name, state[name]);
    try {
      const list = await json<ImageList>(`api/images?${said}`, mine.signal);
      if (anew) grid.replaceChildren();
      grid.append(...list.images.map(card));
      shown += list.images.length;
      total = list.total;
      tell(null);
    } catch (error) {
      if (mine.signal.aborted) return;
      if (anew) grid.replaceChildren();
      tell(problem(error).sentence);
    } finally {
      if (asking === mine) asking = null;
      if (!mine.signal.aborted) grid.removeAttribute("aria-busy");
    }
    if (asking === null) watch();
  }

  function tell(error: string | null): void {
    const filtered = Boolean(state.q || state.kind);
    message.hidden = !error && total > 0;
    count.textContent = error ? "\u00a0" : `${total} image${total === 1 ? "" : "s"}${filtered ? " found" : ""}`;
    more.hidden = Boolean(error) || shown >= total;
    if (error) {
      message.replaceChildren(h("h2", {}, "The images cannot be listed"), h("p", { role: "alert" }, error),
        h("button", { type: "button", onclick: () => void load(true) }, "Try again"));
    } else if (total === 0) {
      message.replaceChildren(...(filtered
        ? [h("h2", {}, "Nothing found"), h("p", {}, "No image here matches. Fewer words may find more."),
          h("button", { type: "button", onclick: reset }, "Show all")]
        : [h("h2", {}, "The archive is empty"), h("p", {}, "Put files into it: ", h("code", {}, "tilevault add FILES ARCHIVE"))]));
    }
  }

  function reset(): void {
    box.value = "";
    kind.value = "";
    change({ q: "", kind: "" });
    box.focus();
  }

  const end = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting) && !more.hidden) void load(false);
  }, { rootMargin: "600px" });
  const watch = () => {
    end.unobserve(more);
    end.observe(more);
  };

  grid.append(...Array.from({ length: 12 }, () => h("li", { class: "card waiting", "aria-hidden": "true" })));
  const element = h("div", { class: "catalogue" },
    h("header", { class: "masthead" },
      h("h1", {}, h("a", { href: "#/" }, "tilevault")),
      h("search", {} as never,
        h("label", { class: "searchbox" }, icon(ICONS.search) as unknown as Node, h("span", { class: "hidden" }, "Search images"), box),
        field("Kind", kind, "bare"), field("Order", sort, "bare"))),
    h("main", { id: "main" }, count, grid, message, more));
  void load(true);
  return {
    element,
    destroy: () => {
      asking?.abort();
      end.disconnect();
    },
  };
}

/** What an image is, in a few words. */
export function inWords(entry: Pick<ImageEntry, "axes" | "shape" | "summary">): string {
  const [axes, shape] = [entry.axes ?? [], entry.shape ?? []];
  const bands = shape[axes.indexOf("c")] ?? 1;
  const planes = shape.filter((_, i) => !["c", "y", "x"].includes(axes[i]!)).reduce((n, count) => n * count, 1);
  const parts = [
    typeof entry.summary.Modality === "string" && entry.summary.Modality,
    shape.length ? `${shape.at(-1)} × ${shape.at(-2)}` : "no pixels",
    planes > 1 && `${planes} ${axes.includes("z") ? "slices" : "frames"}`,
    bands > 1 && `${bands} bands`,
  ];
  return parts.filter(Boolean).join(" · ");
}

/** How true an image is to what was handed in. */
export function fidelityTag(entry: { fidelity: string }): HTMLElement {
  const lossy = isLossy(entry);
  return h("span", { class: `tag ${lossy ? "warn" : "good"}` }, lossy ? `lossy ${entry.fidelity}` : "lossless");
}

/** The last part of a path. */
export function baseName(name: string): string {
  return name.slice(name.lastIndexOf("/") + 1) || name;
}

/** The folders of a path; the end of a long one is what is seen. */
function folderOf(name: string): HTMLElement | null {
  const folder = name.slice(0, Math.max(0, name.lastIndexOf("/")));
  return folder ? h("span", { class: "folder" }, h("bdi", {}, folder)) : null;
}

function card(entry: ImageEntry): HTMLLIElement {
  const picture = entry.thumbnail
    ? h("img", { src: entry.thumbnail.replace(/^\//, ""), alt: "", loading: "lazy", decoding: "async", width: 256, height: 256 })
    : h("span", { class: "none" }, "no pixels");
  if (picture instanceof HTMLImageElement) {
    picture.addEventListener("error", () => picture.replaceWith(h("span", { class: "none bad" }, "cannot be shown")));
  }
  const inside = [
    h("span", { class: "thumbnail" }, picture),
    h("span", { class: "words" },
      h("b", {}, baseName(entry.name)), folderOf(entry.name), h("span", { class: "what" }, inWords(entry)), fidelityTag(entry)),
  ];
  const to = format(emptyImage(entry.id));
  return h("li", { class: "card" }, h("a", { href: to }, inside));
}
