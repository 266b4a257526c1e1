// The menu of all that is possible here: by the right button on the clip, or by a finger that rests there.

import { actions, perform, words } from "./actions.js";
import * as menu from "./menu.js";
import * as pointer from "./pointer.js";
import { $, chosen, state } from "./session.js";

const RESTS = 600; // milliseconds
const STAYS = 8; // screen pixels
const GROUPS = ["Points and paths", "What a drag does", "View", "All"];
const canvas = $("source");
let isDown = false;
let finger = null; // that may come to rest: {x, y, timer}

function open(event) {
  const groups = GROUPS.map((name) => ({ name, items: actions.filter((action) => action.group === name && action.works()).map(item) }));
  const at = new DOMRect(event.clientX, event.clientY, 0, 0);
  const title = chosen().length ? $("selection-says").textContent : state.clip.name;
  menu.open({ getBoundingClientRect: () => at }, title, groups.filter(({ items }) => items.length));
}

const item = (action) => ({ words: action.label, sentence: words(action), run: () => perform(action) });

/** Open the menu at an event, once no button and no finger is down: what is let go outside a menu closes it. */
function ask(event) {
  if (!state.clip) return;
  pointer.release();
  if (event.pointerType !== "") pointer.selectAt(event); // a key opens it for what is selected
  if (!isDown) return open(event);
  const once = new AbortController();
  addEventListener("pointerup", () => (once.abort(), setTimeout(() => open(event))), { signal: once.signal });
  addEventListener("pointercancel", () => once.abort(), { signal: once.signal });
}

function leave() {
  clearTimeout(finger?.timer);
  finger = null;
}

for (const [kind, down] of [["pointerdown", true], ["pointerup", false], ["pointercancel", false]]) addEventListener(kind, () => (isDown = down), true);

canvas.addEventListener("contextmenu", (event) => {
  event.preventDefault();
  leave(); // a browser that knows fingers at rest is faster
  ask(event);
});
canvas.addEventListener("pointerdown", (event) => {
  const isSecond = finger !== null;
  leave();
  if (event.pointerType !== "touch" || isSecond) return;
  finger = { x: event.clientX, y: event.clientY, timer: setTimeout(() => (leave(), ask(event)), RESTS) };
});
canvas.addEventListener("pointermove", (event) => {
  if (finger && Math.hypot(event.clientX - finger.x, event.clientY - finger.y) > STAYS) leave();
});
for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, leave);
