// What is drawn on the canvas of the clip, and on that of the draft.

import * as boxes from "./boxes.js";
import * as cutout from "./cutout.js";
import { edit, there } from "./frames.js";
import { changes, ghost } from "./ghosts.js";
import * as handles from "./handles.js";
import { mapped, once } from "./maps.js";
import { preview } from "./presets.js";
import { lens, ratio } from "./stage.js";
import { $, inLine, isChosen, state, view } from "./session.js";

const MANY = 40; // points: of more, the paths that are not chosen are thin, and short; and so are more chosen ones
const NEAR = 12; // frames: as much of these paths is drawn
const EVERY = 4; // frames: a longer tick, one of a model's latent frames
const ONION = [-2, -1, 1, 2];
const last = document.createElement("canvas"); // the draft as it was shown last
let lastOf = 0; // the edit that it is of

let asked = false;

/** Draw soon, once for all that has changed. */
export function redraw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    if (state.clip) paint();
    else clear();
  });
}

/** The canvas's drawing context, in pixels of the clip; `k` of the canvas make one. */
function begin(canvas) {
  const wide = Math.max(1, Math.round(canvas.clientWidth * ratio()));
  const tall = Math.max(1, Math.round((wide * state.clip.height) / state.clip.width));
  if (canvas.width !== wide) canvas.width = wide;
  if (canvas.height !== tall) canvas.height = tall;
  const context = canvas.getContext("2d");
  const { k, left, top } = lens();
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, wide, tall);
  const own = k * ratio();
  context.imageSmoothingEnabled = own < 4; // closer, pixels are to be seen
  return { context, k: own, x: (value) => (value - left) * own, y: (value) => (value - top) * own, wide, tall };
}

const lay = (on, bitmap) => on.context.drawImage(bitmap, on.x(0), on.y(0), state.clip.width * on.k, state.clip.height * on.k);

/** Show a draft that has come, and keep it for as long as the next one takes. */
export function keepDraft(bitmap) {
  lastOf = edit();
  [last.width, last.height] = [bitmap.width, bitmap.height];
  last.getContext("2d").drawImage(bitmap, 0, 0);
}

export function forgetDraft() {
  last.width = last.height = 0;
}

export const isEdited = () => state.project.operations.some(({ on }) => on);

/** The draft of this frame, or else what was shown last; without an edit the clip itself; null where there is none. */
function draft() {
  if (view.result) return there("result", view.frame) || null;
  if (!isEdited()) return there("source", view.frame) || null;
  return there("full", view.frame) || there("draft", view.frame) || (last.width ? last : null);
}

/** What a person is to know of the draft that is shown; "" where it is this frame's, of this edit. */
function sayDraft(drawn, isFresh) {
  if (view.result) return drawn ? "" : `fetching the result of run ${view.result}…`;
  if (!isEdited()) return "nothing is edited yet";
  if (isFresh) return "";
  if (view.waits) return view.waits;
  if (view.failed) return "the draft could not be drawn";
  if (view.full && there("draft", view.frame)) return "drawing it at full size…";
  if (!drawn) return "drawing the draft…";
  return lastOf === edit() ? "draft of another frame: drawing this one…" : "draft of the edit before: drawing the new one…";
}

/** Say it where the draft is shown. */
function tellDraft(words) {
  const place = { side: "draft-says", draft: "clip-says", wipe: "clip-says" }[view.mode];
  for (const id of ["draft-says", "clip-says"]) {
    const said = id === place ? words : "";
    if ($(id).textContent !== said) $(id).textContent = said;
  }
}

/** Nothing is open: nothing is shown. */
function clear() {
  for (const id of ["source", "draft"]) $(id).getContext("2d").reset();
  tellDraft("");
}

export function paint() {
  const clip = there("source", view.frame);
  const drawn = draft();
  const isFresh = view.result || !isEdited() || Boolean(there(view.full ? "full" : "draft", view.frame));
  for (const each of document.querySelectorAll("figure.draft, #stage")) each.classList.toggle("updating", Boolean(drawn && !isFresh));
  tellDraft(sayDraft(drawn, isFresh));
  if (view.mode === "side") {
    const on = begin($("draft"));
    if (drawn) lay(on, drawn);
    if (drawn && view.uncertain && !view.result) hatch(on);
  }
  if (!clip) return;
  const on = begin($("source"));
  onion(on);
  lay(on, view.mode === "draft" && drawn && !view.holding ? drawn : clip);
  on.context.globalAlpha = 1;
  if (view.mode === "wipe" && drawn && !view.holding) wipe(on, drawn);
  if (view.uncertain && !view.result && ["draft", "wipe"].includes(view.mode)) hatch(on);
  if (view.mode === "source") return;
  if (view.masks) masks(on);
  held(on, clip);
  paths(on);
  for (const stroke of boxes.strokesOf(view.frame)) brushed(on, stroke);
  for (const { box, color } of boxes.inFrame(view.frame)) frame(on, box, color);
  for (const { command, content } of inLine()) if (command === "add_point" && content.frame === view.frame) waiting(on, content);
  if (view.followed) line(on, view.followed.map(([, place]) => place), "#fff", 2, [2, 4]);
  planned(on);
  handled(on);
  if (view.region) region(on, view.region);
  if (view.drawn) line(on, view.drawn, "#fff", 3, []);
  if (view.cross) cross(on, view.cross);
  if (view.loupe) loupe(on, clip);
}

// --- pictures ---

function onion(on) {
  if (!view.onion) return;
  // Below the frame itself, which is then let through a little.
  for (const off of ONION) {
    const other = there("source", view.frame + off);
    if (!other) continue;
    on.context.globalAlpha = 0.5 / Math.abs(off);
    lay(on, other);
  }
  on.context.globalAlpha = 0.6;
}

function wipe(on, drawn) {
  const at = on.x(state.clip.width * view.wipe);
  on.context.save();
  on.context.beginPath();
  on.context.rect(at, 0, on.wide - at, on.tall);
  on.context.clip();
  lay(on, drawn);
  on.context.restore();
  for (const [color, width] of [["#000", 4], ["#fff", 2]]) segment(on, [[at, 0], [at, on.tall]], color, width * ratio());
}

function segment({ context }, [from, to], color, width) {
  context.strokeStyle = color;
  context.lineWidth = width;
  context.beginPath();
  context.moveTo(...from);
  context.lineTo(...to);
  context.stroke();
}

/** Hatch what is rather wrong than right: lines, so that no colour is needed to see it. */
function hatch(on) {
  const bitmap = there("uncertain", view.frame);
  if (!bitmap) return;
  const where = once(bitmap, "", () => mapped(bitmap, (value) => [0, 0, 0, value > 127 ? 255 : 0]));
  const lines = document.createElement("canvas");
  [lines.width, lines.height] = [on.wide, on.tall];
  const over = { ...on, context: lines.getContext("2d") };
  over.context.imageSmoothingEnabled = false;
  lay(over, where);
  over.context.globalCompositeOperation = "source-in";
  over.context.fillStyle = over.context.createPattern(stripes(), "repeat");
  over.context.fillRect(0, 0, on.wide, on.tall);
  on.context.drawImage(lines, 0, 0);
}

function stripes() {
  const made = document.createElement("canvas");
  const side = Math.round(8 * ratio());
  made.width = made.height = side;
  const context = made.getContext("2d");
  for (const [color, width] of [["#000", side / 3], ["#fff", side / 6]]) {
    context.strokeStyle = color;
    context.lineWidth = width;
    for (const off of [-side, 0, side]) {
      context.beginPath();
      context.moveTo(off - 1, side + 1);
      context.lineTo(off + side + 1, -1);
      context.stroke();
    }
  }
  return made;
}

/** Carried masks: a tint with an outline in their things' colours. */
function masks(on) {
  const bitmap = there("masks", view.frame);
  if (!bitmap) return;
  const colors = (state.things || []).map(({ color }) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16)));
  const key = JSON.stringify(colors);
  const tint = once(bitmap, key, () => mapped(bitmap, (value) => (value && colors[value - 1] ? [...colors[value - 1], 120] : [0, 0, 0, 0])));
  on.context.imageSmoothingEnabled = false;
  lay(on, tint);
}

/** What a hand drags, cut out of the clip, where it takes it. */
function held(on, clip) {
  const found = cutout.now(clip);
  if (!found) return;
  const { centre: [x, y], place: [u, v], cos, sin, flip } = found;
  const { context } = on;
  context.save();
  context.globalAlpha = 0.85;
  context.translate(on.x(u), on.y(v));
  context.transform(cos, sin, -sin * flip, cos * flip, 0, 0);
  context.translate(-on.x(x), -on.y(y));
  lay(on, found.picture);
  context.restore();
}

// --- paths ---

function paths(on) {
  const { source, target, project } = state;
  const many = project.points.length > MANY;
  const isWhole = view.chosen.size <= MANY; // else what is selected shows by its dots alone
  const changed = changes();
  const ghosts = project.points.map((_, row) => ghost(row, changed));
  project.points.forEach((point, row) => {
    const chosen = isChosen(point.id);
    if (many && !(chosen && isWhole)) return thin(on, target.xy[row], point.color);
    line(on, source.xy[row], "#bbb", 1.5, [6, 5]);
    const path = ghosts[row];
    const end = (state.trust && state.trust[row]) || null;
    const trusted = end ? path.slice(0, end.after + 1) : path;
    line(on, trusted, "#000", 5, []);
    line(on, trusted, point.color, chosen ? 3.5 : 2.5, []);
    if (end) {
      line(on, path.slice(end.after), "#000", 4, [2, 6]);
      line(on, path.slice(end.after), point.color, 2.5, [2, 6]);
      mark(on, path[Math.min(end.after + 1, path.length - 1)], "!");
    }
    if (chosen || !many) ticks(on, path, chosen);
    for (const each of point.marks || []) square(on, [each.x, each.y], each.t === view.frame);
  });
  if (view.trial) runners(on, ghosts);
  project.points.forEach((point, row) => {
    const drag = dragged(point);
    const path = ghosts[row];
    dot(on, path[view.frame], point, target.visible[row][view.frame]);
    if (drag && drag.frame !== view.frame) {
      dot(on, path[drag.frame], point, true, 0.5);
      mark(on, path[drag.frame], String(drag.frame));
    }
    if (!view.fixing && !(drag && drag.fix)) return;
    let [x, y] = source.xy[row][view.frame]; // what is put right is where the tracker has it
    if (drag) [x, y] = [x + drag.dx, y + drag.dy];
    square(on, [x, y], isChosen(point.id));
  });
}

/** What is tried goes along its way, at the clip's own speed, over and over. */
function runners(on, ghosts) {
  const { from, to, begun } = view.trial;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const long = to - from + state.clip.fps / 2; // with a pause at the end
  const now = still ? to : Math.min(to, from + ((((performance.now() - begun) / 1000) * state.clip.fps) % long));
  const [first, share] = [Math.floor(now), now % 1];
  state.project.points.forEach((point, row) => {
    const [here, next] = [first, Math.min(first + 1, to)].map((t) => ghosts[row][t]);
    if (isChosen(point.id)) dot(on, [0, 1].map((side) => here[side] + share * (next[side] - here[side])), point, true, 0.7);
  });
  if (!still) setTimeout(redraw);
}

/** One of many paths: as much of it as is near in time. */
function thin(on, path, color) {
  const first = Math.max(0, view.frame - NEAR);
  line(on, path.slice(first, view.frame + NEAR + 1), color, 1, []);
}

const dragged = (point) => (view.drag && view.drag.names.includes(point.id) ? view.drag : null);

/** A tick at each frame across the path: where they are close it is slow. */
function ticks(on, path, chosen) {
  const { context } = on;
  const size = (chosen ? 4 : 2.5) * ratio();
  context.strokeStyle = "#000";
  context.lineWidth = ratio();
  context.beginPath();
  for (let t = 1; t < path.length - 1; t += 1) {
    const [dx, dy] = [path[t + 1][0] - path[t - 1][0], path[t + 1][1] - path[t - 1][1]];
    const far = Math.hypot(dx, dy);
    if (far * on.k < 2) continue; // a thing that rests is no speed
    const half = t % EVERY ? size : 2 * size;
    const [x, y] = [on.x(path[t][0]), on.y(path[t][1])];
    context.moveTo(x - (dy / far) * half, y + (dx / far) * half);
    context.lineTo(x + (dy / far) * half, y - (dx / far) * half);
  }
  context.stroke();
}

function line(on, path, color, width, dash) {
  const { context } = on;
  context.setLineDash(dash.map((length) => length * ratio()));
  context.strokeStyle = color;
  context.lineWidth = width * ratio();
  context.beginPath();
  path.forEach(([x, y], index) => (index ? context.lineTo(on.x(x), on.y(y)) : context.moveTo(on.x(x), on.y(y))));
  context.stroke();
  context.setLineDash([]);
}

function dot(on, [px, py], point, visible, alpha = 1) {
  const { context } = on;
  const chosen = isChosen(point.id);
  context.globalAlpha = alpha;
  context.beginPath();
  context.arc(on.x(px), on.y(py), (chosen ? 8 : 6) * ratio(), 0, 2 * Math.PI);
  context.lineWidth = 3 * ratio();
  context.strokeStyle = chosen ? "#fff" : "#000";
  context.stroke();
  if (visible) {
    context.fillStyle = point.color;
    context.fill();
  } else {
    context.lineWidth = 2 * ratio();
    context.strokeStyle = point.color; // hidden: a ring
    context.stroke();
  }
  context.globalAlpha = 1;
  if (view.flash && chosen) {
    context.beginPath();
    context.arc(on.x(px), on.y(py), 18 * ratio(), 0, 2 * Math.PI);
    context.stroke();
  }
}

/** Words beside a place. */
function mark(on, [x, y], words) {
  const { context } = on;
  context.font = `bold ${14 * ratio()}px system-ui, sans-serif`;
  context.lineWidth = 4 * ratio();
  context.strokeStyle = "#000";
  context.fillStyle = "#fff";
  const at = [on.x(x) + 10 * ratio(), on.y(y) - 8 * ratio()];
  context.strokeText(words, ...at);
  context.fillText(words, ...at);
}

/** A mark: where a person says that the point is. */
function square(on, [x, y], here) {
  const side = (here ? 7 : 4) * ratio();
  for (const [color, width] of [["#fff", 4], ["#d55e00", 2]]) {
    on.context.strokeStyle = color;
    on.context.lineWidth = width * ratio();
    on.context.strokeRect(on.x(x) - side, on.y(y) - side, 2 * side, 2 * side);
  }
}

/** Where a point was asked for that is not followed yet. */
function waiting(on, { x, y }) {
  for (const [color, width, dash] of [["#000", 4, []], ["#fff", 2, [3, 3]]]) {
    const ring = Array.from({ length: 25 }, (_, t) => [x + (8 / on.k) * ratio() * Math.cos((t * Math.PI) / 12), y + (8 / on.k) * ratio() * Math.sin((t * Math.PI) / 12)]);
    line(on, ring, color, width, dash);
  }
}

/** Points, and a ball, that a form would add. */
function planned(on) {
  const found = preview();
  if (!found) return;
  for (const [x, y] of found.dots) waiting(on, { x, y });
  for (const [color, width, dash] of [["#000", 3, []], ["#fff", 1.5, [4, 4]]]) line(on, found.outline, color, width, dash);
}

// --- what a hand draws ---

/** A stroke of the brush: light where it adds, dark with a dashed middle where it removes. */
function brushed(on, { path, radius, sign }) {
  const adds = sign !== "remove";
  const places = path.length > 1 ? path : [path[0], path[0]];
  on.context.save();
  on.context.lineCap = on.context.lineJoin = "round";
  on.context.globalAlpha = 0.45;
  line(on, places, adds ? "#fff" : "#000", (2 * radius * on.k) / ratio(), []);
  on.context.globalAlpha = 1;
  line(on, places, adds ? "#000" : "#fff", 1.5, adds ? [] : [5, 5]);
  on.context.restore();
}

/** A box: its thing lies inside. */
function frame(on, [x0, y0, x1, y1], color) {
  const corners = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]];
  line(on, corners, "#000", 4, []);
  line(on, corners, color, 2, [8, 4]);
}

/** The handles about what is selected, as far as they are dragged. */
function handled(on) {
  const found = handles.now();
  if (!found || view.press?.id || view.fixing) return;
  const [x, y] = found.centre;
  const { factor = 1, degrees = 0 } = view.drag?.kind ? view.drag : {};
  const angle = (degrees * Math.PI) / 180;
  const [cos, sin] = [factor * Math.cos(angle), factor * Math.sin(angle)];
  const turn = ([u, v]) => [x + cos * (u - x) - sin * (v - y), y + sin * (u - x) + cos * (v - y)];
  const corners = found.corners.map(turn);
  const stem = [[0, 1].map((side) => (corners[0][side] + corners[1][side]) / 2), turn(found.knob)];
  for (const [color, width, dash] of [["#000", 3, []], ["#fff", 1.5, [4, 4]]]) {
    line(on, [...corners, corners[0]], color, width, dash);
    line(on, stem, color, width, dash);
  }
  for (const corner of corners) square(on, corner, false);
  on.context.beginPath();
  on.context.arc(on.x(stem[1][0]), on.y(stem[1][1]), 6 * ratio(), 0, 2 * Math.PI);
  for (const [color, width] of [["#fff", 4], ["#0072b2", 2]]) {
    on.context.strokeStyle = color;
    on.context.lineWidth = width * ratio();
    on.context.stroke();
  }
}

/** What points are being chosen by: a rectangle or a lasso. */
function region(on, { path }) {
  on.context.fillStyle = "#0072b233";
  line(on, [...path, path[0]], "#000", 3, []);
  line(on, [...path, path[0]], "#fff", 1.5, [4, 4]);
}

function cross(on, [x, y]) {
  for (const [color, width] of [["#000", 4], ["#fff", 1.5]]) {
    segment(on, [[on.x(x), 0], [on.x(x), on.tall]], color, width * ratio());
    segment(on, [[0, on.y(y)], [on.wide, on.y(y)]], color, width * ratio());
  }
}

/** What is under the finger, enlarged, in the corner that is away from it. */
function loupe(on, clip) {
  const side = 110 * ratio();
  const [x, y] = view.loupe;
  const reach = side / (5 * on.k); // of the clip, to each side, at two and a half times
  const at = [on.x(x) < on.wide / 2 ? on.wide - side : 0, 0];
  const scale = clip.width / state.clip.width;
  on.context.fillStyle = "#111";
  on.context.fillRect(...at, side, side);
  on.context.drawImage(clip, (x - reach) * scale, (y - reach) * scale, 2 * reach * scale, 2 * reach * scale, ...at, side, side);
  for (const [color, width] of [["#000", 3], ["#fff", 1]]) {
    segment(on, [[at[0] + side / 2, 0], [at[0] + side / 2, side]], color, width * ratio());
    segment(on, [[at[0], side / 2], [at[0] + side, side / 2]], color, width * ratio());
  }
}
