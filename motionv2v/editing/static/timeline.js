// The timeline: a lane for each point, where it is visible, and its marks, keyframes and boxes as ticks to go to.

import { about } from "./operations.js";
import { $, button, make, refill, state, view } from "./session.js";

const MOST = 12; // lanes: of more points, those that are edited, and the selected one
const WORDS = { mark: "mark", key: "keyframe", box: "box", stroke: "brush" };

/** The frames that something is said of a point in: {frame: kinds}. */
function ticks(point) {
  const found = new Map();
  const say = (frame, kind) => found.set(Number(frame), new Set([...(found.get(Number(frame)) || []), kind]));
  for (const mark of [point, ...(point.marks || [])]) say(mark.t, "mark");
  for (const { on, op } of state.project.operations) {
    if (!on || !about(op).includes(point.id)) continue;
    for (const frame of Object.keys(op.keyframes || {})) say(frame, "key");
    for (const frame of Object.keys(op.boxes || {})) say(frame, "box");
    for (const frame of Object.keys(op.strokes || {})) say(frame, "stroke");
  }
  return [...found].sort((one, other) => one[0] - other[0]);
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

function lane(point, row, go, select) {
  const visible = state.target.visible[row];
  const share = (frames) => `${(100 * frames) / visible.length}%`;
  const hidden = runs(visible).filter((run) => !run[2]).map(span);
  const track = make("div", { class: "track" });
  for (const [first, last, is] of runs(visible)) {
    const bar = make("span", { class: is ? "bar" : "bar hides" });
    Object.assign(bar.style, { left: share(first), width: share(last + 1 - first) });
    if (is) bar.style.background = point.color;
    track.append(bar);
  }
  ticks(point).forEach(([frame, kinds], index) => {
    const words = [...kinds].map((kind) => WORDS[kind]).join(", ");
    const tick = button("", () => go(frame), `${point.name}, frame ${frame}: ${words}`);
    tick.className = `tick ${[...kinds].join(" ")}`;
    tick.dataset.frame = frame;
    tick.tabIndex = index ? -1 : 0; // one stop of Tab for each lane; arrows go on from there
    tick.style.left = share(frame + 0.5);
    track.append(tick);
  });
  track.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const all = [...track.querySelectorAll(".tick")];
    const next = step && all[all.indexOf(document.activeElement) + step];
    if (!next) return;
    event.preventDefault();
    for (const tick of all) tick.tabIndex = tick === next ? 0 : -1;
    next.focus();
    go(Number(next.dataset.frame));
  });
  track.addEventListener("click", (event) => {
    if (event.target.closest(".tick")) return;
    const box = track.getBoundingClientRect();
    go(Math.floor(((event.clientX - box.left) / box.width) * visible.length));
  });
  const name = button(point.name, () => select(point.id), `Select ${point.name}`);
  name.setAttribute("aria-pressed", String(point.id === view.selected));
  const where = hidden.length ? `hidden in frames ${hidden.join(", ")}` : "visible in all frames";
  return make("div", { class: "lane", role: "group", "aria-label": `${point.name}: ${where}` }, name, track);
}

/** Draw the lanes; go(frame) and select(id) are what a click on them does. */
export function draw(go, select) {
  const { points } = state.project;
  const isNamed = (point) => points.length <= MOST || point.id === view.selected || ticks(point).length > 1;
  const rows = points.map((point, row) => [point, row]).filter(([point]) => isNamed(point)).slice(0, 2 * MOST);
  refill($("lanes"), rows.map(([point, row]) => lane(point, row, go, select)));
  const left = points.length - rows.length;
  $("timeline-more").textContent = left ? `${left} more points: those that are edited have a row, and the selected one.` : "";
  $("timeline").hidden = !points.length;
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
