// Where the thing of a point is in a frame, as a person says: boxes, by pointer or by keys, and strokes of a brush.

import { $, chosen, run, state, tell, view } from "./session.js";
import { about } from "./operations.js";

const clamp = (value, most) => Math.round(Math.max(0, Math.min(most, value)) * 100) / 100;

/** The points of the thing that is selected: those that move as one with them, if they do. */
export function thing() {
  const ids = chosen();
  const whole = (state.things || []).find(({ points }) => ids.every((id) => points.includes(id)));
  return whole ? whole.points : ids;
}

/** Make a box [x0, y0, x1, y1] of two of its corners, in the frame. */
export function between([x, y], [u, v]) {
  const { width, height } = state.clip;
  return [clamp(Math.min(x, u), width), clamp(Math.min(y, v), height), clamp(Math.max(x, u), width), clamp(Math.max(y, v), height)];
}

/** The boxes of a frame: {box, color, selected}; the one that is being drawn is the last. */
export function inFrame(frame) {
  const found = [];
  for (const { on, op } of state.project.operations) {
    if (!on || !op.boxes || !op.boxes[frame]) continue;
    const ids = about(op);
    const point = state.project.points.find((each) => ids.includes(each.id));
    found.push({ box: op.boxes[frame], color: point ? point.color : "#fff" });
  }
  if (view.box) found.push({ box: view.box, color: "#fff" });
  return found;
}

/** Say that what `view.box` shows is where the selected point's thing is. */
export function keep() {
  const { box } = view;
  view.box = null;
  if (!view.selected) return tell("Select a point first: the box says where its thing is.");
  return run("set_box", { names: thing(), frame: view.frame, box });
}

// --- strokes ---

/** Begin a stroke of the brush at a place. */
export function begin([x, y]) {
  view.stroke = { path: [[clamp(x, state.clip.width), clamp(y, state.clip.height)]], radius: Number($("radius").value), sign: $("sign").value };
}

/** Go on with the stroke, to places that are a little apart. */
export function goOn(places) {
  const { path, radius } = view.stroke;
  for (const place of places) {
    const [x, y] = path[path.length - 1];
    const apart = Math.hypot(place[0] - x, place[1] - y);
    if (apart >= Math.max(0.5, radius / 8)) path.push([clamp(place[0], state.clip.width), clamp(place[1], state.clip.height)]);
  }
}

/** The strokes of a frame, as `edit.json` has them; the one that is being drawn is the last. */
export function strokesOf(frame) {
  const said = state.project.operations.filter(({ on, op }) => on && op.strokes && op.strokes[frame]);
  return [...said.flatMap(({ op }) => op.strokes[frame]), ...(view.stroke ? [view.stroke] : [])];
}

export function keepStroke(stroke) {
  if (!view.selected) return tell("Select a point first: the brush says where its thing is.");
  return run("add_stroke", { names: thing(), frame: view.frame, stroke });
}

// --- keys ---

/** Do what a key means while boxes are drawn; returns whether it meant anything. Enter begins one and keeps it. */
export function key(event) {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (event.key === "Enter") {
    if (view.box) keep();
    else view.box = first();
    return true;
  }
  if (!view.box || !(event.key in steps)) return false;
  const [dx, dy] = steps[event.key];
  const [x0, y0, x1, y1] = view.box;
  view.box = event.shiftKey ? between([x0, y0], [x1 + dx, y1 + dy]) : between([x0 + dx, y0 + dy], [x1 + dx, y1 + dy]);
  return true;
}

/** A box to begin with: an eighth of the frame about the selected point. */
function first() {
  const row = state.project.points.findIndex((point) => point.id === view.selected);
  if (row < 0) {
    tell("Select a point first: the box says where its thing is.");
    return null;
  }
  const [x, y] = state.source.xy[row][view.frame];
  const side = Math.min(state.clip.width, state.clip.height) / 8;
  return between([x - side, y - side], [x + side, y + side]);
}
