// The handles about several points that are selected: the corners scale them about their centre, the knob turns them.

import { lens } from "./stage.js";
import { chosen, run, state, tell, view } from "./session.js";

const PAD = 24; // screen pixels between the outermost dots and the box
const KNOB = 30; // from the box to the knob
const STEP = 15; // degrees, with Shift
const LEAST = 0.05; // and its inverse: how much one drag scales
const TOOLS = ["point", "select"];

/** Where the handles are in this frame, in pixels of the clip: {centre, corners, knob}; null where there are none. */
export function now() {
  const names = chosen();
  if (names.length < 2 || !TOOLS.includes(view.tool) || view.mode === "source") return null;
  const { points } = state.project;
  const places = points.flatMap(({ id }, row) => (view.chosen.has(id) ? [state.target.xy[row][view.frame]] : []));
  const sides = [0, 1].map((side) => places.map((place) => place[side]));
  const pad = PAD / lens().k;
  const [left, top] = sides.map((all) => Math.min(...all) - pad);
  const [right, bottom] = sides.map((all) => Math.max(...all) + pad);
  return {
    centre: centre(names, view.frame),
    corners: [[left, top], [right, top], [right, bottom], [left, bottom]],
    knob: [(left + right) / 2, top - KNOB / lens().k],
  };
}

/** What tells the centre of points in a frame, of those that are ever seen; as the session has it where all are. */
export function centres(names) {
  const asked = new Set(names);
  const rows = state.project.points.flatMap(({ id }, row) => (asked.has(id) ? [row] : []));
  const seen = rows.filter((row) => state.target.visible[row].some(Boolean));
  const paths = (seen.length ? seen : rows).map((row) => state.target.xy[row]);
  return (t) => [0, 1].map((side) => paths.reduce((sum, path) => sum + path[t][side], 0) / paths.length);
}

const centre = (names, t) => centres(names)(t);

/** The handle within reach of a place: "scale", "rotate" or null. */
export function at([x, y], reach) {
  const handles = now();
  if (!handles) return null;
  const near = ([u, v]) => Math.hypot(u - x, v - y) <= reach;
  if (near(handles.knob)) return "rotate";
  return handles.corners.some(near) ? "scale" : null;
}

/** Go on with a drag of a handle, from one place to another; it has gone `before`, null at first. */
export function dragged(kind, from, place, straight, before) {
  const [x, y] = centre(chosen(), view.frame);
  const far = ([u, v]) => Math.max(Math.hypot(u - x, v - y), 1e-3);
  const drag = { kind, names: chosen(), frame: view.frame };
  if (kind === "scale") return { ...drag, factor: Math.max(LEAST, Math.min(1 / LEAST, far(place) / far(from))) };
  const angle = ([u, v]) => (Math.atan2(v - y, u - x) * 180) / Math.PI;
  const turn = angle(place) - angle(from);
  const was = before ? before.turned : 0;
  const turned = turn + 360 * Math.round((was - turn) / 360); // more than once round, if the hand goes there
  return { ...drag, turned, degrees: straight ? STEP * Math.round(turned / STEP) : turned };
}

/** Do what a drag of a handle, or a key, says. */
export function keep({ kind, names, frame, factor, degrees }) {
  if (names.length < 2) return tell("Select two points or more first: one alone has no size.");
  return kind === "scale" ? run("scale_points", { names, frame, factor }) : run("rotate_points", { names, frame, degrees });
}
