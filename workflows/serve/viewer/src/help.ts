// The keys, in a dialog that `?` opens.

import { h, iconButton } from "./dom";

export const KEYS: [string, string][] = [
  ["+  −", "zoom in, out"],
  ["0", "whole image"],
  ["1", "one screen pixel for each pixel"],
  ["← ↑ → ↓", "move (the image has the focus)"],
  ["Page ↑  Page ↓", "previous, next slice (also , and .)"],
  ["Home  End", "first, last slice (the image has the focus)"],
  ["W", "a drag moves the image / changes the window"],
  ["Shift ← →", "narrower, wider window"],
  ["Shift ↑ ↓", "lower, higher window"],
  ["R", "window, bands and colours as recommended"],
  ["V", "value in the middle of the view"],
  ["Q", "quality map"],
  ["S", "side by side with the other copy"],
  ["X", "divider between the two copies"],
  ["E", "save the view as PNG"],
  ["P", "panel"],
  ["/", "search (catalogue)"],
  ["?", "these keys"],
];

export function helpDialog(): HTMLDialogElement {
  const dialog = h("dialog", { class: "help", "aria-labelledby": "help-title" },
    h("header", {}, h("h2", { id: "help-title" }, "Keys"), iconButton("close", "Close", () => dialog.close())),
    h("dl", {}, KEYS.flatMap(([key, what]) => [h("dt", {}, key), h("dd", {}, what)])),
    h("p", { class: "note" }, "With a mouse: drag moves, the right button changes the window, the wheel turns the slices of a volume and zooms other images; Ctrl and the wheel always zoom. With fingers: one moves, two zoom, a tap reads the value."));
  return dialog;
}
