// Where the clip lies on its canvas: the one pair of functions between the screen's pixels and the clip's.

import { $, state, view } from "./session.js";

const MOST = 32; // times fit
const LEAST = 0.1; // shows the margin around the frame
export const ratio = () => window.devicePixelRatio || 1;

let zoom = 1; // times what fits
let centre = null; // of what is seen, in the clip; null is the clip's own

/** How large a pixel of the clip is in those of the page, and what of the clip is at the canvas's top-left corner. */
export function lens() {
  const box = $("source").getBoundingClientRect();
  const { width, height } = state.clip;
  const k = (box.width / width) * zoom;
  const [x, y] = centre || [width / 2, height / 2];
  const tall = (box.width * height) / width; // before the first frame is there, the box has another height
  return { box, k, left: x - box.width / (2 * k), top: y - tall / (2 * k) };
}

/** A pointer's place in pixels of the clip, (0, 0) the corner of the top-left one. */
export function place(event) {
  const { box, k, left, top } = lens();
  return [left + (event.clientX - box.left) / k, top + (event.clientY - box.top) / k];
}

/** Where a place of the clip is in the window. */
export function inWindow([x, y]) {
  const { box, k, left, top } = lens();
  return [box.left + (x - left) * k, box.top + (y - top) * k];
}

export const shownZoom = () => (state.clip ? Math.round(lens().k * ratio() * 100) : 100);

/** Enlarge by a factor, so that what is under a place of the window stays there. */
export function zoomAt(factor, at) {
  if (!state.clip) return;
  const { box } = lens();
  const event = at || { clientX: box.left + box.width / 2, clientY: box.top + box.height / 2 };
  const [x, y] = place(event);
  zoom = Math.max(LEAST, Math.min(MOST, zoom * factor));
  const { k, left, top } = lens();
  const now = place(event);
  move(left + box.width / (2 * k) + x - now[0], top + (box.width * state.clip.height) / state.clip.width / (2 * k) + y - now[1]);
}

/** Shift what is seen, in pixels of the page. */
export function pan(dx, dy) {
  if (!state.clip) return;
  const { k } = lens();
  const [x, y] = centre || [state.clip.width / 2, state.clip.height / 2];
  move(x - dx / k, y - dy / k);
}

function move(x, y) {
  const { width, height } = state.clip;
  centre = [Math.max(0, Math.min(width, x)), Math.max(0, Math.min(height, y))];
  changed();
}

export function fit() {
  zoom = 1;
  centre = null;
  changed();
}

/** One pixel of the clip is one of the screen, times a factor. */
export function actual(times = 1) {
  zoomAt(times / (lens().k * ratio()));
}

/** What is seen of the clip: {zoom, centre}. */
export const seen = () => ({ zoom, centre });

/** Look at what was `seen` before. */
export function see(given) {
  ({ zoom, centre } = given);
  changed();
}

const sayZoom = () => ($("zoom").textContent = `${shownZoom()} %`);
new ResizeObserver(sayZoom).observe($("source")); // another window, another view: what fits is another size

const listeners = [];
export const whenMoved = (work) => listeners.push(work);
function changed() {
  view.moved += 1;
  sayZoom();
  for (const work of listeners) work();
}
