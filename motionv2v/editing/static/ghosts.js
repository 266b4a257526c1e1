// The paths as what a hand does now will leave them: what the session answers when it is let go, worked out here.

import { between, isBend, isTween, ramp } from "./curves.js";
import { centres } from "./handles.js";
import { about } from "./operations.js";
import { state, view } from "./session.js";

const same = (one, other) => JSON.stringify([...one].map(String).sort()) === JSON.stringify([...other].sort());

/** What bends, scales or turns just these points, the last first, behind all else that moves any of them. */
function* latest(names) {
  for (const operation of [...state.project.operations].reverse()) {
    const { on, op } = operation;
    if (!on) continue;
    const isPose = ["scale", "rotate"].includes(op.op) && !op.center;
    if (Array.isArray(op.points) && same(op.points, names) && (isPose || isBend(op))) yield operation;
    else if (!Array.isArray(op.points) || op.points.some((id) => names.includes(id))) return;
  }
}

/** The operation that bends these points, if nothing behind it moves any of them in another way. */
export const bending = (names) => [...latest(names)].find(({ op }) => isBend(op));

/** What a bend has: its keyframes as offsets {frame: [dx, dy]}, or places if it does not keep the points' motion. */
const valuesOf = ({ id, op }) => op.by || (isBend(op) ? state.offsets[id] : op.keyframes);

const path = ({ id, op }, changes = {}) => {
  const given = { values: valuesOf({ id, op }), interpolation: op.interpolation || "linear", ease: op.ease, ...changes };
  return between(given.values, state.clip.frames, given.interpolation, given.ease);
};

const minus = (one, other) => one.map(([x, y], t) => [x - other[t][0], y - other[t][1]]);

/** How far a drag of points takes them in each frame. */
function dragged({ names, frame, dx, dy }) {
  const { frames } = state.clip;
  const bent = bending(names);
  if (!bent) return between({ 0: [0, 0], [frames - 1]: [0, 0], [frame]: [dx, dy] }, frames, "smooth", "even");
  const before = path(bent);
  const [x, y] = before[frame];
  return minus(path(bent, { values: { ...valuesOf(bent), [frame]: [x + dx, y + dy] } }), before);
}

/** How much of a scaling or a turn of points at a frame each frame gets, as the session does it. */
function shares({ kind, names, frame }) {
  const { frames } = state.clip;
  let start = 0;
  for (const { op } of latest(names)) {
    if (op.op !== kind) continue;
    const end = op.end_frame ?? ("start_frame" in op ? frames - 1 : 0);
    if (end === frame) return ramp(op.start_frame ?? 0, end, frames, op.ease);
    if (end < frame) start = Math.max(start, end);
  }
  return ramp(start, frame, frames);
}

const shift = (way) => ([x, y], t) => [x + way[t][0], y + way[t][1]];

/** How a drag of a handle moves points: about their centre in each frame. */
function posed(drag) {
  const centre = centres(drag.names);
  const turns = shares(drag).map((share, t) => {
    const size = drag.kind === "scale" ? drag.factor ** share : 1;
    const angle = drag.kind === "rotate" ? (drag.degrees * share * Math.PI) / 180 : 0;
    return { about: centre(t), cos: size * Math.cos(angle), sin: size * Math.sin(angle) };
  });
  return ([x, y], t) => {
    const { about: [u, v], cos, sin } = turns[t];
    return [u + cos * (x - u) - sin * (y - v), v + sin * (x - u) + cos * (y - v)];
  };
}

/** How places are about to change: [{names, place(xy, t)}], one after the other; [] where nothing is done. */
export function changes() {
  const { drag, trial } = view;
  if (trial) return tried(trial);
  if (!drag || drag.fix) return [];
  return [{ names: new Set(drag.names), place: drag.kind ? posed(drag) : shift(dragged(drag)) }];
}

/** What other fields of operations of keyframes make of the points that they are about. */
function tried({ fields }) {
  const on = state.project.operations.filter((each) => each.on);
  // Places that are said behind it are where the points are, whatever was done before.
  const isSeen = ({ op }, place) => !on.slice(place + 1).some((each) => isTween(each.op) && !isBend(each.op) && same(about(each.op), about(op)));
  const found = on.filter((each, place) => fields[each.id] && isSeen(each, place));
  return found.map((each) => ({ names: new Set(about(each.op)), place: shift(minus(path(each, fields[each.id]), path(each))) }));
}

/** The path of a point, by its row, as it will be. */
export function ghost(row, all = changes()) {
  const { id } = state.project.points[row];
  return all.reduce((path, { names, place }) => (names.has(id) ? path.map(place) : path), state.target.xy[row]);
}
