// Elements in one expression, and the few things that every part of the page does with them.

type Attributes = Record<string, string | number | boolean | ((event: never) => void) | null | undefined>;
type Child = Node | string | null | undefined | false;

/** An element: `onclick` and the like become listeners, true an empty attribute, false and null none. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: (Child | Child[])[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value as EventListener);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, String(value));
  }
  element.append(...children.flat().filter((child): child is Node | string => child != null && child !== false));
  return element;
}

/** An icon of a 24 x 24 grid, drawn with lines in the colour of the text. */
export function icon(path: string): SVGSVGElement {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

export const ICONS = {
  back: "M15 5l-7 7 7 7",
  close: "M6 6l12 12M18 6L6 18",
  help: "M9 9a3 3 0 1 1 4.5 2.6c-1 .6-1.5 1.2-1.5 2.4M12 17.5v.5M12 2.5a9.5 9.5 0 1 0 0 19 9.5 9.5 0 0 0 0-19z",
  panel: "M4 7h10M18 7h2M4 17h2M10 17h10M14 5v4M6 15v4",
  plus: "M12 5v14M5 12h14",
  minus: "M5 12h14",
  fit: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  contrast: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM12 3v18M12 8h7M12 12h9M12 16h7",
  search: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM16 16l5 5",
} as const;

/** A button that shows an icon and says its name to screen readers and on hover. */
export function iconButton(
  name: keyof typeof ICONS,
  label: string,
  onclick: () => void,
  attributes: Attributes = {},
): HTMLButtonElement {
  return h("button", { type: "button", class: "icon", "aria-label": label, title: label, onclick, ...attributes },
    icon(ICONS[name]) as unknown as Node);
}

/** A control with its label above it. */
export function field(label: string, control: HTMLElement, extra = ""): HTMLLabelElement {
  return h("label", { class: `field ${extra}` }, h("span", {}, label), control);
}

/** A `select` of pairs value, text. */
export function select(
  options: [string, string][],
  value: string,
  onchange: (value: string) => void,
  attributes: Attributes = {},
): HTMLSelectElement {
  const element = h("select", { onchange: () => onchange(element.value), ...attributes },
    options.map(([key, text]) => h("option", { value: key }, text)));
  element.value = value;
  return element;
}

/** Calls at most once per `wait` milliseconds: at once, and for the last call again at the end. */
export function throttle<A extends unknown[]>(wait: number, run: (...args: A) => void): (...args: A) => void {
  let last = 0;
  let timer = 0;
  return (...args) => {
    window.clearTimeout(timer);
    const left = last + wait - performance.now();
    const go = () => {
      last = performance.now();
      run(...args);
    };
    if (left <= 0) go();
    else timer = window.setTimeout(go, left);
  };
}

/** Calls once nothing has been asked for `wait` milliseconds. */
export function debounce<A extends unknown[]>(wait: number, run: (...args: A) => void): (...args: A) => void {
  let timer = 0;
  return (...args) => {
    window.clearTimeout(timer);
    timer = window.setTimeout(() => run(...args), wait);
  };
}

/** Says something to screen readers, and shows it for a moment. */
export function announce(text: string): void {
  const line = document.getElementById("announcements");
  if (!line) return;
  line.textContent = text;
  line.classList.add("shown");
  window.clearTimeout(Number(line.dataset.timer));
  line.dataset.timer = String(window.setTimeout(() => line.classList.remove("shown"), 2500));
}
