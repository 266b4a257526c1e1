// The paths as what a hand does now will leave them: what the session answers when it is let go, worked out here.

import { between, ramp } from "./curves.js";
import { centre } from "./handles.js";
import { about } from "./operations.js";
import { state, view } from "./session.js";

const KEYS = new Set(["tween", "keyframes"]);
export const isBend = (op) => KEYS.has(op.op) && Boolean(op.keep_motion);

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
const valuesOf = ({ id, op }) => (isBend(op) ? state.offsets[id] : op.keyframes);

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

/** How a drag of a handle moves points: about their centre in each frame. */
function posed(drag) {
  const share = shares(drag);
  const centres = share.map((_, t) => centre(drag.names, t));
  return (id, place, t) => {
    if (!drag.names.includes(id)) return place;
    const [dx, dy] = [0, 1].map((side) => place[side] - centres[t][side]);
    const size = drag.kind === "scale" ? drag.factor ** share[t] : 1;
    const angle = drag.kind === "rotate" ? (drag.degrees * share[t] * Math.PI) / 180 : 0;
    const [cos, sin] = [size * Math.cos(angle), size * Math.sin(angle)];
    return [centres[t][0] + cos * dx - sin * dy, centres[t][1] + sin * dx + cos * dy];
  };
}

/** How the places of points are about to change: a function of a point's id, its place, and the frame; null: not. */
export function change() {
  const { drag, trial } = view;
  if (trial) return tried(trial);
  if (!drag || drag.fix) return null;
  if (drag.kind) return posed(drag);
  const way = dragged(drag);
  return (id, [x, y], t) => (drag.names.includes(id) ? [x + way[t][0], y + way[t][1]] : [x, y]);
}

/** What other fields of operations of keyframes, {operation: fields}, make of the points that they are about. */
function tried({ changes }) {
  const on = state.project.operations.filter((each) => each.on);
  // Places that are said behind it are where the points are, whatever was done before.
  const isSeen = ({ op }, place) => !on.slice(place + 1).some((each) => KEYS.has(each.op.op) && !isBend(each.op) && same(about(each.op), about(op)));
  const ways = on.filter((each, place) => changes[each.id] && isSeen(each, place)).map((operation) => ({
    names: about(operation.op),
    way: minus(path(operation, changes[operation.id]), path(operation)),
  }));
  return (id, place, t) => ways.reduce(([x, y], { names, way }) => (names.includes(id) ? [x + way[t][0], y + way[t][1]] : [x, y]), place);
}

/** The path of a point, by its row, as it will be. */
export function ghost(row, of = change()) {
  const own = state.target.xy[row];
  return of ? own.map((place, t) => of(state.project.points[row].id, place, t)) : own;
}
