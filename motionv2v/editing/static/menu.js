// A menu beside what it is about: what is gone over is tried, what is chosen is kept, Escape leaves all as it was.

import { $, make, refill } from "./session.js";

const box = $("menu");
let leave = () => {};
let back = null; // what had the focus

/**
 * Open the menu with groups [{name, items: [{words, sentence, checked, run, hover}]}] beside an element.
 *
 * Of items that are `checked` or not one is chosen; others are done.
 * An item's hover() tries it; left() is called when nothing is tried any more, which for what is chosen is when its
 * run() has ended: until then it is shown as it was tried.
 */
export function open(anchor, title, groups, left = () => {}) {
  close();
  leave = left;
  back = document.activeElement;
  box.setAttribute("aria-label", title);
  refill(box, [make("strong", { text: title }), ...groups.map(section)]);
  box.showPopover();
  const { left: x, bottom, top } = anchor.getBoundingClientRect();
  const below = bottom + box.offsetHeight < innerHeight;
  box.style.left = `${Math.max(0, Math.min(x, innerWidth - box.offsetWidth))}px`;
  box.style.top = `${Math.max(0, below ? bottom : Math.min(top, innerHeight) - box.offsetHeight)}px`;
  (items().find((each) => each.getAttribute("aria-checked") === "true") || items()[0]).focus();
}

function section({ name, items }) {
  return make("div", { role: "group", "aria-label": name }, make("span", { class: "title", text: name }), ...items.map(entry));
}

function entry({ words, sentence, checked, run, hover = () => {} }) {
  const kind = checked === undefined ? { role: "menuitem" } : { role: "menuitemradio", "aria-checked": String(Boolean(checked)) };
  const made = make("button", { type: "button", ...kind, tabindex: -1 }, make("b", { text: words }));
  if (sentence) made.append(" ", make("small", { text: sentence }));
  for (const kind of ["pointerenter", "focus"]) made.addEventListener(kind, hover);
  made.addEventListener("click", () => choose(run));
  return made;
}

function choose(run) {
  const end = leave;
  leave = () => {};
  close();
  Promise.resolve(run()).finally(end);
}

// From one item to the next something is tried all the time.
box.addEventListener("pointerleave", () => leave());
box.addEventListener("focusout", ({ relatedTarget }) => box.contains(relatedTarget) || leave());

const items = () => [...box.querySelectorAll("button")];

export function close() {
  if (box.matches(":popover-open")) box.hidePopover();
}

box.addEventListener("toggle", (event) => {
  if (event.newState === "open") return;
  leave();
  if (document.activeElement === document.body) back?.focus();
});

box.addEventListener("keydown", (event) => {
  event.stopPropagation(); // its keys are not the page's
  const all = items();
  const at = all.indexOf(document.activeElement);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1 + all.length, Home: 0, End: all.length - 1 }[event.key];
  if (event.key === "Escape" || event.key === "Tab") close();
  else if (to === undefined) return;
  else all[to % all.length].focus();
  event.preventDefault();
});
