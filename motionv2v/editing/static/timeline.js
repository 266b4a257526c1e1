// The timeline: a lane for each point, where it is visible, and its marks, keyframes and boxes as ticks to go to.

import { isBend, keysOf } from "./curves.js";
import { about } from "./operations.js";
import { $, button, isChosen, make, refill, run, state, tell, toast, view } from "./session.js";
import { show } from "./transport.js";

const MOST = 12; // lanes: of more points, those that are edited, and the selected one
let page = { go: () => {}, select: () => {}, undo: () => {} };
export const start = (given) => (page = given);
const WORDS = { mark: "mark", key: "keyframe", pin: "as it was", box: "box", stroke: "brush" };

/** The frames that something is said of a point in: [frame, {kinds, operations: those with a keyframe there}]. */
function ticks(point) {
  const found = new Map();
  const say = (frame, kind, operation, isMoved) => {
    const own = found.get(Number(frame)) || { kinds: new Set(), operations: [], isMoved: false };
    own.kinds.add(kind);
    own.isMoved = own.isMoved || isMoved;
    if (operation) own.operations.push(operation);
    found.set(Number(frame), own);
  };
  for (const mark of [point, ...(point.marks || [])]) say(mark.t, "mark");
  for (const { id, on, op } of state.project.operations) {
    if (!on || !about(op).includes(point.id)) continue;
    const values = isBend(op) ? op.by || state.offsets[id] : {};
    for (const frame of Object.keys(keysOf(op))) say(frame, "key", id, !values[frame]?.every((side) => side === 0));
    for (const frame of Object.keys(op.boxes || {})) say(frame, "box");
    for (const frame of Object.keys(op.strokes || {})) say(frame, "stroke");
  }
  for (const { kinds, isMoved } of found.values()) if (kinds.has("key") && !isMoved) kinds.add("pin"); // a bend's ends
  return [...found].sort((one, other) => one[0] - other[0]);
}

/** The frames of keyframes of a point, in order. */
export const keys = (id) => {
  const point = state.project.points.find((each) => each.id === id);
  return point ? ticks(point).filter(([, { kinds }]) => kinds.has("key")).map(([frame]) => frame) : [];
};

/** Take away what is said of a point in a frame, and no more: its keyframe, else its mark, its box, its strokes. */
export async function removeAt(id, frame) {
  const point = state.project.points.find((each) => each.id === id);
  const said = point && ticks(point).find(([at]) => at === frame);
  const [kinds, operations] = said ? [said[1].kinds, said[1].operations] : [new Set(), []];
  const before = state.revision;
  let what = "keyframe";
  if (operations.length) await run("remove_key", { name: operations[operations.length - 1], frame });
  else if ((point?.marks || []).some((mark) => mark.t === frame)) (what = "mark"), await run("unfix", { name: id, frame });
  else if (kinds.has("box")) (what = "box"), await run("remove_box", { names: [id], frame });
  else if (kinds.has("stroke")) (what = "brush"), await run("remove_strokes", { names: [id], frame });
  else return tell(`${point ? point.name : "This"} has nothing at frame ${frame} to delete. Shift+Delete removes the point.`);
  if (state.revision !== before) toast(`Deleted the ${what} of ${point.name} at ${frame}.`, page.undo);
}

/** Runs of frames that are all visible or all hidden: [first, last, visible]. */
export function runs(visible) {
  const found = [];
  visible.forEach((is, frame) => {
    const last = found[found.length - 1];
    if (last && last[2] === is) last[1] = frame;
    else found.push([frame, frame, is]);
  });
  return found;
}

const span = ([first, last]) => (first === last ? `${first}` : `${first} to ${last}`);

function lane(point, row) {
  const visible = state.target.visible[row];
  const share = (frames) => `${(100 * frames) / visible.length}%`;
  const hidden = runs(visible).filter((run) => !run[2]).map(span);
  const track = make("div", { class: "track" });
  track.dataset.id = point.id;
  for (const [first, last, is] of runs(visible)) {
    const bar = make("span", { class: is ? "bar" : "bar hides" });
    Object.assign(bar.style, { left: share(first), width: share(last + 1 - first) });
    if (is) bar.style.background = point.color;
    track.append(bar);
  }
  const doubt = state.trust && state.trust[row];
  if (doubt) {
    const sign = make("span", { class: "doubt", text: "!", title: doubt.says });
    sign.style.left = share(doubt.frames[0] + 0.5);
    track.append(sign);
  }
  ticks(point).forEach(([frame, { kinds, operations }], index) => {
    const words = [...kinds].map((kind) => WORDS[kind]).join(", ");
    const tick = button("", () => page.go(frame), `${point.name}, frame ${frame}: ${words}`);
    tick.className = `tick ${[...kinds].join(" ")}`;
    tick.dataset.frame = frame;
    if (operations.length) {
      tick.dataset.operation = operations[operations.length - 1];
      tick.title = "Drag it, or Shift with arrows: to another frame";
    }
    tick.tabIndex = index ? -1 : 0; // one stop of Tab for each lane; arrows go on from there
    tick.style.left = share(frame + 0.5);
    track.append(tick);
  });
  track.addEventListener("keydown", (event) => {
    const on = document.activeElement.dataset.frame;
    if (event.key === "Delete" && !event.shiftKey && on !== undefined) {
      event.preventDefault();
      event.stopPropagation();
      const { settled } = document.activeElement; // it may be on its way to another frame
      return Promise.resolve(settled ?? Number(on)).then((frame) => removeAt(point.id, frame));
    }
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step && event.shiftKey && on !== undefined) {
      event.preventDefault();
      event.stopPropagation();
      return carry(document.activeElement, step);
    }
    if (LEAVES.includes(event.key) && carried) {
      event.preventDefault();
      event.stopPropagation();
      if (event.key === "Escape") carried.to = carried.from;
      return settle();
    }
    const all = [...track.querySelectorAll(".tick")];
    const next = step && all[all.indexOf(document.activeElement) + step];
    if (!next) return;
    event.preventDefault();
    event.stopPropagation();
    for (const tick of all) tick.tabIndex = tick === next ? 0 : -1;
    next.focus();
    page.go(Number(next.dataset.frame));
  });
  const name = button(point.name, () => page.select(point.id), `Select ${point.name}`);
  name.setAttribute("aria-pressed", String(isChosen(point.id)));
  const where = hidden.length ? `hidden in frames ${hidden.join(", ")}` : "visible in all frames";
  return make("div", { class: "lane", role: "group", "aria-label": `${point.name}: ${where}` }, name, track);
}

// --- by keys: a keyframe that is carried to another frame, and stays there when nothing more is pressed ---

const SETTLES = 600; // milliseconds
const [LEAVES, HELD] = [["Escape", "Enter"], ["Shift", "Control", "Alt", "Meta"]]; // keys that end it, and that do nothing by themselves
let carried = null; // {tick, id, operation, from, to, timer}

// What any other key does is done to the keyframe where it is by then.
document.addEventListener("keydown", (event) => {
  const goesOn = event.shiftKey && ["ArrowLeft", "ArrowRight"].includes(event.key) && event.target === carried?.tick;
  if (carried && !goesOn && ![...LEAVES, ...HELD].includes(event.key)) settle();
}, true);

function carry(tick, step) {
  const { operation, frame } = tick.dataset;
  if (!operation) return tell("Only keyframes are moved in time: a mark or a box is of its frame.");
  carried = carried || { tick, id: tick.closest(".track").dataset.id, operation, from: Number(frame), to: Number(frame) };
  carried.to = Math.max(0, Math.min(state.clip.frames - 1, carried.to + step));
  tick.style.left = `${(100 * (carried.to + 0.5)) / state.clip.frames}%`;
  page.go(carried.to);
  clearTimeout(carried.timer);
  carried.timer = setTimeout(settle, SETTLES);
}

function settle() {
  const own = carried;
  carried = null;
  clearTimeout(own.timer);
  own.tick.dataset.frame = own.to; // for the next key, which may come before the answer
  own.tick.settled = lay(own);
}

/** Move a keyframe to where it was carried; returns the frame where it lies then. */
async function lay({ tick, id, operation, from, to }) {
  const before = state.revision;
  const moved = to === from ? null : run("move_key", { name: operation, frame: from, to });
  await new Promise((done) => setTimeout(done)); // the key that is pressed may take the focus elsewhere
  const hasFocus = tick === document.activeElement;
  await moved;
  const frame = state.revision === before ? from : to;
  draw();
  if (hasFocus) [...$("lanes").querySelectorAll(".tick")].find((each) => each.dataset.frame === String(frame) && each.closest(".track").dataset.id === id)?.focus();
  return frame;
}

/** Draw the lanes. */
export function draw() {
  if (carried) return; // it is drawn when that is done
  const { points } = state.project;
  const isNamed = (point) => points.length <= MOST || isChosen(point.id) || ticks(point).length > 1;
  const rows = points.map((point, row) => [point, row]).filter(([point]) => isNamed(point)).slice(0, 2 * MOST);
  refill($("lanes"), rows.map(([point, row]) => lane(point, row)));
  const left = points.length - rows.length;
  $("timeline-more").textContent = left ? `${left} more points: those that are edited have a row, and the selected one.` : "";
  $("timeline").hidden = !points.length;
  if (!state.clip) return;
  for (const id of ["range-first", "range-last"]) $(id).max = state.clip.frames - 1;
  at();
}

/** Show which frame it is. */
export function at() {
  if (!state.clip) return;
  $("lanes").style.setProperty("--at", (view.frame + 0.5) / state.clip.frames);
  for (const tick of $("lanes").querySelectorAll(".tick")) {
    if (Number(tick.dataset.frame) === view.frame) tick.setAttribute("aria-current", "true");
    else tick.removeAttribute("aria-current");
  }
}

// --- by pointer: go to a frame, move a keyframe, brush what is hidden ---

const lanes = $("lanes");
let press = null;

function cell(event) {
  const tracks = [...lanes.querySelectorAll(".track")];
  const box = tracks[0].getBoundingClientRect();
  const frame = Math.max(0, Math.min(state.clip.frames - 1, Math.floor(((event.clientX - box.left) / box.width) * state.clip.frames)));
  const row = tracks.findIndex((track) => event.clientY < track.getBoundingClientRect().bottom);
  return { tracks, frame, row: row < 0 ? tracks.length - 1 : row };
}

lanes.addEventListener("pointerdown", (event) => {
  const track = event.target.closest(".track");
  if (!track || event.button) return;
  const { frame, row } = cell(event);
  const tick = event.target.closest(".tick");
  press = { row, frame, x: event.clientX, moved: false, tick };
  if (view.tool === "visibility") {
    const index = state.project.points.findIndex((point) => point.id === track.dataset.id);
    press.visible = view.flipped ? true : !state.target.visible[index][frame];
  }
  if (view.tool === "visibility" || tick) lanes.setPointerCapture(event.pointerId);
  if (view.tool === "visibility") brush(event);
  else if (!tick) page.go(frame);
});

lanes.addEventListener("pointermove", (event) => {
  if (!press || !event.buttons) return;
  if (Math.abs(event.clientX - press.x) > 3) press.moved = true;
  if (press.visible !== undefined) return brush(event);
  if (press.tick && press.moved) press.tick.style.left = `${(100 * (cell(event).frame + 0.5)) / state.clip.frames}%`;
  else if (!press.tick) page.go(cell(event).frame); // scrub
});

/** Show what the brush has gone over. */
function brush(event) {
  const { tracks, frame, row } = cell(event);
  press.first = Math.min(press.frame, frame);
  press.last = Math.max(press.frame, frame);
  press.rows = [Math.min(press.row, row), Math.max(press.row, row)];
  tracks.forEach((track, index) => {
    const is = index >= press.rows[0] && index <= press.rows[1];
    let over = track.querySelector(".brushed");
    if (!is) return over?.remove();
    over = over || track.appendChild(make("span", { class: "brushed" }));
    Object.assign(over.style, { left: `${(100 * press.first) / state.clip.frames}%`, width: `${(100 * (press.last + 1 - press.first)) / state.clip.frames}%` });
  });
}

lanes.addEventListener("pointerup", (event) => {
  const done = press;
  if (!done) return;
  const { tracks, frame } = cell(event);
  end();
  if (done.visible !== undefined) {
    const names = tracks.slice(done.rows[0], done.rows[1] + 1).map((track) => track.dataset.id);
    return run("set_visible", { names, first: done.first, last: done.last, visible: done.visible });
  }
  if (!done.tick) return;
  const from = Number(done.tick.dataset.frame);
  const operation = done.tick.dataset.operation;
  if (!done.moved || frame === from) return draw(), page.go(from);
  if (!operation) return draw(), tell("Only keyframes are moved in time: a mark or a box is of its frame.");
  run("move_key", { name: operation, frame: from, to: frame, duplicate: event.altKey }).then(draw);
});

function end() {
  press = null;
  for (const over of lanes.querySelectorAll(".brushed")) over.remove();
}

/** End what is being brushed without doing it; returns whether there was anything. */
export function cancel() {
  const was = Boolean(press);
  if (was) end(), draw();
  return was;
}

lanes.addEventListener("pointercancel", cancel);
lanes.addEventListener("lostpointercapture", () => press && end());

/** The frames that are chosen to be hidden or shown together: [first, last], of this one if none are. */
export function range() {
  const given = ["range-first", "range-last"].map((id) => $(id).value);
  if (given.includes("")) return [view.frame, view.frame];
  return given.map(Number).sort((one, other) => one - other);
}

/** Show small frames of the clip above the lanes. */
export function showStrip() {
  const strip = $("filmstrip");
  show(strip, `/api/filmstrip?clip=${encodeURIComponent(state.project.clip)}`);
  strip.onclick = (event) => page.go(Math.floor((event.offsetX / strip.clientWidth) * state.clip.frames));
}
