// Paths that were drawn by hand: their smoothing, always from the stroke as it was drawn.

import { $, button, make, run, state } from "./session.js";

const rows = new Map(); // by the operation's id, so that a slider keeps the pointer and the focus

function makeRow(id) {
  const own = () => state.project.operations.find((each) => each.id === id);
  const slider = make("input", { type: "range", min: 0, max: 12, step: 0.5 });
  const shown = make("output", {});
  const even = make("input", { type: "checkbox" });
  const few = make("input", { type: "checkbox" });
  slider.addEventListener("input", () => (shown.textContent = words(slider.value)));
  slider.addEventListener("change", () => run("redraw_path", { name: id, smoothing: Number(slider.value) }));
  even.addEventListener("change", () => run("redraw_path", { name: id, even: even.checked }));
  few.addEventListener("change", () => run("redraw_path", { name: id, few: few.checked }));
  const title = make("span", { class: "name" });
  const element = make("li", {}, title, make("label", {}, "Smoothing ", slider, shown), make("label", {}, even, " even speed"), make("label", {}, few, " few keyframes"), button("Remove", () => run("remove_operation", { name: id })));
  const update = () => {
    const { label, drawn } = own();
    title.textContent = label;
    slider.setAttribute("aria-label", `Smoothing of ${label}`);
    element.lastChild.setAttribute("aria-label", `Remove the drawn ${label}`);
    if (document.activeElement !== slider || String(drawn.smoothing) !== slider.value) slider.value = drawn.smoothing;
    shown.textContent = words(drawn.smoothing);
    even.checked = drawn.even;
    few.checked = drawn.few;
  };
  return { element, update };
}

const words = (value) => ` ${value} frames`;

export function list() {
  const made = state.project.operations.filter((each) => each.drawn);
  for (const [id, row] of rows) {
    if (made.some((each) => each.id === id)) continue;
    row.element.remove();
    rows.delete(id);
  }
  for (const { id } of made) {
    if (!rows.has(id)) {
      rows.set(id, makeRow(id));
      $("drawn").append(rows.get(id).element);
    }
    rows.get(id).update();
  }
}
