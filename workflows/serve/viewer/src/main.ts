// The page: which part of it the address asks for, and what all parts share.

import { format, parse, type State } from "./address";
import { cataloguePage, type Page } from "./catalogue";
import { h } from "./dom";
import { helpDialog } from "./help";
import { imagePage } from "./image_page";

let page: Page | null = null;
let shown: State | null = null;
const root = document.getElementById("root")!;
const help = helpDialog();
document.body.append(help, h("p", { id: "announcements", role: "status", "aria-live": "polite" }));

function remember(state: State): void {
  shown = state;
  history.replaceState(null, "", format(state));
}

function open(): void {
  const state = parse(location.hash);
  if (page?.goto?.(state as never)) {
    shown = state;
    return;
  }
  page?.destroy();
  shown = state;
  page = state.page === "image"
    ? imagePage(state, remember, () => help.showModal())
    : cataloguePage(state, remember);
  root.replaceChildren(page.element);
  window.scrollTo(0, 0);
}

document.querySelector(".skip")!.addEventListener("click", (event) => {
  // The part of the address behind # is the view.
  event.preventDefault();
  const main = document.getElementById("main");
  main?.setAttribute("tabindex", "-1");
  main?.focus();
});
// The ring around an image that has the focus is for those who use keys; a touch gives it the focus, too.
addEventListener("keydown", () => document.documentElement.toggleAttribute("data-keys", true), { capture: true });
addEventListener("pointerdown", () => document.documentElement.removeAttribute("data-keys"), { capture: true });
addEventListener("hashchange", () => {
  if (!shown || format(shown) !== location.hash) open();
});
addEventListener("keydown", (event) => {
  const target = event.target as HTMLElement;
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName) && (target as HTMLInputElement).type !== "range") return;
  if (event.key === "?") help.showModal();
  else if (event.key === "/" && document.getElementById("search")) document.getElementById("search")!.focus();
  else return;
  event.preventDefault();
});
open();
