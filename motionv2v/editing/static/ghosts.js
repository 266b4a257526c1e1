// The paths as what a hand does now will leave them: what the session answers when it is let go, worked out here.

import { between, ramp } from "./curves.js";
import { about } from "./operations.js";
import { state, view } from "./session.js";

const KEYS = new Set(["tween", "keyframes"]);
export const isBend = (op) => KEYS.has(op.op) && Boolean(op.keep_motion);

const same = (one, other) => JSON.stringify([...one].map(String).sort()) === JSON.stringify([...other].sort());

/** The operation that bends these points, if nothing behind it moves any of them again; as the session finds it. */
export function bending(names) {
  for (const operation of [...state.project.operations].reverse()) {
    const { on, op } = operation;
    if (!on) continue;
    const isList = Array.isArray(op.points);
    if (isBend(op) && isList && same(op.points, names)) return operation;
    if (!isList || op.points.some((id) => names.includes(id))) return null;
  }
  return null;
}

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

/** How the places of points are about to change: a function of a point's id, its place, and the frame; null: not. */
export function change() {
  const { drag, trial } = view;
  if (trial) return tried(trial);
  if (!drag || drag.fix) return null;
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
