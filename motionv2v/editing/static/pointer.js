// What a pointer does on the clip: name, select, bend, put right, draw, brush, shift what is seen.

import * as boxes from "./boxes.js";
import * as cutout from "./cutout.js";
import * as handles from "./handles.js";
import { redraw } from "./paint.js";
import { lens, pan, place, zoomAt } from "./stage.js";
import { isNotebook } from "./transport.js";
import { $, choose, chosen, isChosen, run, state, tell, view } from "./session.js";

const HIT = { mouse: 12, pen: 12, touch: 22 }; // screen pixels around a dot that catch the pointer
const NEAR_LINE = 0.6; // of that, around a path
const DRAG = { mouse: 3, pen: 3, touch: 8 }; // screen pixels before a press is a drag
const canvas = $("source");
const touches = new Map(); // fingers on the canvas, by their ids
let pinch = null;
let act = { list: () => {}, pause: () => {}, space: false };

/** Begin: `list()` is called when what is selected has changed, `pause()` before something is done at a frame. */
export function start(list, pause) {
  Object.assign(act, { list, pause });
}

export const holdSpace = (held) => (act.space = held);

const reach = (event) => (HIT[event.pointerType] || 12) / lens().k;

/** The dot under a pointer, of what is selected first: {id, away}, or null. */
function nearest(event, fix) {
  const [x, y] = place(event);
  const most = reach(event);
  let best = null;
  state.project.points.forEach((point, row) => {
    const [px, py] = (fix ? state.source : state.target).xy[row][view.frame];
    const away = Math.hypot(px - x, py - y) - (isChosen(point.id) ? most / 4 : 0);
    if (away <= most && (!best || away < best.away)) best = { id: point.id, away };
  });
  return best;
}

/** The path under a pointer: {id, frame}, the time that is nearest to it; or null. */
export function onPath(event) {
  const [x, y] = place(event);
  const most = reach(event) * NEAR_LINE;
  let best = null;
  state.project.points.forEach((point, row) => {
    if (state.project.points.length > 40 && !isChosen(point.id)) return;
    const path = state.target.xy[row];
    for (let t = 0; t + 1 < path.length; t += 1) {
      const [[ax, ay], [bx, by]] = [path[t], path[t + 1]];
      const length = (bx - ax) ** 2 + (by - ay) ** 2;
      const share = length ? Math.max(0, Math.min(1, ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length)) : 0;
      const away = Math.hypot(ax + share * (bx - ax) - x, ay + share * (by - ay) - y) - (isChosen(point.id) ? most / 4 : 0);
      if (away <= most && (!best || away < best.away)) best = { id: point.id, frame: Math.round(t + share), away };
    }
  });
  return best;
}

/** Select what lies under a pointer, if it is not selected yet. */
export function selectAt(event) {
  const hit = nearest(event, false) || onPath(event);
  if (!hit || isChosen(hit.id)) return;
  pick(hit.id, event);
  act.list();
}

/** Select what was pressed: with Shift as well as what is, a group as one, a point of a selected group alone. */
function pick(id, event) {
  if (event.shiftKey && view.tool === "select") return choose(isChosen(id) ? chosen().filter((each) => each !== id) : [...chosen(), id]);
  const group = state.project.groups.find((each) => each.points.includes(id));
  if (isChosen(id)) return (view.selected = id);
  choose(group ? [...group.points.filter((each) => each !== id), id] : [id]);
}

canvas.addEventListener("pointerdown", (event) => {
  if (!state.clip) return;
  if (event.pointerType === "touch") {
    touches.set(event.pointerId, event);
    if (touches.size === 2) return beginPinch();
  }
  canvas.setPointerCapture(event.pointerId);
  const press = { x: event.clientX, y: event.clientY, from: place(event), moved: false, touch: event.pointerType === "touch", type: event.pointerType };
  if (event.button === 1 || (event.button === 0 && (act.space || view.tool === "hand"))) {
    event.preventDefault();
    view.press = { ...press, pan: true };
    return;
  }
  if (event.button) return;
  act.pause();
  view.cross = null;
  if (view.boxing || view.brushing) {
    if (view.brushing) boxes.begin(press.from);
    view.press = { ...press, boxes: view.boxing };
    return;
  }
  if (view.tool === "draw") {
    if (!chosen().length) return tell("Select a point or a group first: the path is drawn for it.");
    view.drawn = [press.from];
    view.press = { ...press, times: [event.timeStamp], draws: true };
    return;
  }
  const fix = view.fixing || event.altKey;
  const handle = fix ? null : handles.at(press.from, reach(event));
  if (handle) {
    view.press = { ...press, handle };
    return;
  }
  const hit = nearest(event, fix) || (fix && nearest(event, false)); // a bent point is caught where it is seen as well
  const line = hit || fix ? null : onPath(event);
  view.press = { ...press, fix, id: hit ? hit.id : line ? line.id : null, frame: line ? line.frame : view.frame, onLine: Boolean(line), again: hit && isChosen(hit.id), lasso: event.ctrlKey || event.metaKey };
  if (hit) {
    pick(hit.id, event);
    act.list();
  }
  redraw();
});

canvas.addEventListener("pointermove", (event) => {
  if (touches.has(event.pointerId)) touches.set(event.pointerId, event);
  if (pinch) return goOnPinching();
  const press = view.press;
  if (!press) return;
  if (!event.buttons) return release();
  if (Math.hypot(event.clientX - press.x, event.clientY - press.y) > (DRAG[press.type] || 3)) press.moved = true;
  if (press.pan) {
    pan(event.clientX - (press.seenX ?? press.x), event.clientY - (press.seenY ?? press.y));
    [press.seenX, press.seenY] = [event.clientX, event.clientY];
    return;
  }
  if (press.touch) view.loupe = place(event);
  const all = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
  const moves = all.length ? all : [event];
  if (view.stroke) return boxes.goOn(moves.map(place)), redraw();
  if (press.draws) {
    view.drawn.push(...moves.map(place));
    press.times.push(...moves.map((each) => each.timeStamp || event.timeStamp));
    return redraw();
  }
  if (press.moved && press.boxes) {
    view.box = boxes.between(press.from, place(event));
    return redraw();
  }
  if (!press.moved) return;
  if (press.handle) {
    view.drag = handles.dragged(press.handle, press.from, place(event), event.shiftKey, view.drag);
    cutout.follow(redraw);
    return redraw();
  }
  if (!press.id) {
    if (view.tool === "select") goOnChoosing(place(event));
    return redraw();
  }
  bendTo(place(event), event.shiftKey);
});

function bendTo([x, y], straight) {
  const { press } = view;
  if (press.onLine && !isChosen(press.id)) choose([press.id]);
  const names = press.fix ? [press.id] : chosen();
  const locked = state.project.points.find((point) => names.includes(point.id) && point.locked);
  if (locked) return tell(`${locked.name} is locked: unlock it first`);
  let [dx, dy] = [x - press.from[0], y - press.from[1]];
  if (straight) Math.abs(dx) > Math.abs(dy) ? (dy = 0) : (dx = 0);
  view.drag = { id: press.id, names, fix: press.fix, frame: press.frame, dx, dy };
  cutout.follow(redraw);
  redraw();
}

/** Choose the points in a rectangle, or with Ctrl in a lasso. */
function goOnChoosing([x, y]) {
  const { press } = view;
  const [u, v] = press.from;
  const path = press.lasso ? [...(view.region ? view.region.path : [press.from]), [x, y]] : [[u, v], [x, v], [x, y], [u, y]];
  view.region = { path };
  choose(state.project.points.filter((point, row) => inside(state.target.xy[row][view.frame], path)).map((point) => point.id));
}

/** Tell whether a place lies in a polygon: a line from it to the right meets its sides an odd number of times. */
export function inside([x, y], path) {
  let odd = false;
  path.forEach(([ax, ay], index) => {
    const [bx, by] = path[(index + 1) % path.length];
    if (ay > y !== by > y && x < ax + ((y - ay) / (by - ay)) * (bx - ax)) odd = !odd;
  });
  return odd;
}

canvas.addEventListener("pointerup", (event) => {
  touches.delete(event.pointerId);
  if (pinch) {
    if (!touches.size) pinch = null;
    return release();
  }
  const { press, drag, box, stroke, drawn, region } = view;
  release();
  if (!press || press.pan) return;
  if (stroke) return boxes.keepStroke(stroke);
  if (press.draws) return press.moved && keepDrawn(drawn, press.times);
  if (press.boxes) {
    view.box = box;
    if (press.moved) return boxes.keep();
    const hit = nearest(event, false); // whose box it will be
    if (hit) pick(hit.id, event);
    return act.list();
  }
  if (press.handle) return drag && handles.keep(drag);
  if (region) return act.list();
  if (drag && drag.fix) return fixBy(drag.id, drag.dx, drag.dy);
  if (drag) return run("bend", { names: drag.names, frame: drag.frame, dx: drag.dx, dy: drag.dy });
  if (press.moved) return;
  if (press.again) {
    if (chosen().length > 1 && !event.shiftKey) choose([press.id]); // a point of the group that was selected
    return act.list();
  }
  if (press.id && !press.onLine) return;
  const [x, y] = place(event);
  if (press.fix) return view.selected ? run("fix", { name: view.selected, frame: view.frame, x, y }) : tell("Select the point first that the tracker has lost.");
  if (view.tool === "select") {
    choose(press.onLine ? [press.id] : []);
    return act.list();
  }
  add(x, y);
});

/** Name a point at a place of this frame, and select it. */
export function add(x, y) {
  const tracker = $("tracker").value; // "" is the editor's own
  return run("add_point", { frame: view.frame, x, y, ...(tracker ? { tracker } : {}) }).then((id) => {
    if (!id) return;
    choose([id]);
    act.list();
  });
}

/** Say that the tracker is wrong in this frame: the point is so far from where the tracker has it. */
export function fixBy(id, dx, dy) {
  const row = state.project.points.findIndex((point) => point.id === id);
  const [x, y] = state.source.xy[row][view.frame];
  return run("fix", { name: id, frame: view.frame, x: x + dx, y: y + dy });
}

function keepDrawn(path, times) {
  const places = path.map(([x, y], index) => [x, y, Math.max(0, times[index] - times[0])]);
  for (let i = 1; i < places.length; i += 1) places[i][2] = Math.max(places[i][2], places[i - 1][2]); // clocks of joined events
  const few = places.filter((_, index) => index % Math.ceil(places.length / 4000) === 0);
  return run("draw_path", { names: chosen(), frame: view.frame, path: few, smoothing: 1, even: false });
}

// --- two fingers, and the wheel ---

function beginPinch() {
  release(); // the first finger's stroke is none
  pinch = between();
}

function between() {
  const [one, other] = [...touches.values()];
  return { x: (one.clientX + other.clientX) / 2, y: (one.clientY + other.clientY) / 2, apart: Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY) || 1 };
}

function goOnPinching() {
  if (touches.size < 2) return;
  const now = between();
  pan(now.x - pinch.x, now.y - pinch.y);
  zoomAt(now.apart / pinch.apart, { clientX: now.x, clientY: now.y });
  pinch = now;
}

canvas.addEventListener("pointercancel", (event) => {
  touches.delete(event.pointerId);
  if (!touches.size) pinch = null;
  release();
});
canvas.addEventListener("lostpointercapture", () => view.press && release());

/** End what a hand does, without doing it. */
export function release() {
  view.press = view.drag = view.box = view.stroke = view.region = view.drawn = view.loupe = null;
  redraw();
}

/** Let the wheel enlarge; with Shift it goes through the frames, show(by). */
export function onWheel(step) {
  canvas.addEventListener("wheel", (event) => {
    if (!state.clip || (isNotebook && document.activeElement !== canvas)) return; // then it scrolls the notebook
    event.preventDefault();
    if (event.shiftKey) return step(Math.sign(event.deltaY || event.deltaX));
    zoomAt(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), event);
  }, { passive: false });
}
