// The editor page: draws what the session knows, and sends it commands. No state of its own but the view.

import * as boxes from "./boxes.js";
import "./conflicts.js";
import "./problems.js";
import "./runs.js";
import * as timeline from "./timeline.js";
import { request } from "./transport.js";
import { $, ask, busily, button, queue, refill, refresh, run, state, take, tell, view, whenChanged } from "./session.js";

const HIT = { mouse: 12, pen: 12, touch: 22 }; // screen pixels around a dot that catch the pointer
const DRAG = 3; // screen pixels before a press is a drag
const KEPT = 96; // decoded frames of each kind

const frames = { source: new Map(), draft: new Map() };
let opened = 0; // clips so far: a frame of an earlier one is not shown
let generation = 0; // of what the draft is drawn of: answers of an earlier one are not shown

whenChanged((before) => {
  if (!before.clip || !state.clip || before.project.clip !== state.project.clip) {
    opened += 1;
    for (const kept of Object.values(frames)) kept.clear();
    view.frame = 0;
  }
  const drawn = ({ project }) => JSON.stringify(project.operations) + JSON.stringify(project.points);
  if (drawn(before) !== drawn(state)) {
    generation += 1;
    frames.draft.clear();
  }
  list();
  show(view.frame);
});

/** Undo or redo, and go to the frame where that is seen. */
async function turn(command) {
  const found = await run(command);
  if (found) show(found.frame);
}

// --- frames ---

async function picture(which, index) {
  const kept = frames[which];
  if (kept.has(index)) return kept.get(index);
  const asked = generation;
  const clip = opened;
  const answer = await request(`/api/frame/${which}/${index}`);
  if (!answer.ok) {
    const found = await answer.json().catch(() => ({}));
    if (clip !== opened) return null;
    throw new Error(found.error || `no frame ${index}`);
  }
  const bitmap = await createImageBitmap(await answer.blob());
  if (clip !== opened || (which === "draft" && asked !== generation)) return null;
  kept.set(index, bitmap);
  if (kept.size > KEPT) kept.delete(kept.keys().next().value);
  return bitmap;
}

async function show(index) {
  if (!state.clip) return;
  view.frame = Math.max(0, Math.min(state.clip.frames - 1, index));
  $("frame").max = state.clip.frames - 1;
  $("frame").value = view.frame;
  $("where").textContent = `${view.frame} / ${state.clip.frames - 1}`;
  timeline.at();
  const wanted = view.frame;
  try {
    const bitmap = await picture("source", wanted);
    if (!bitmap) return; // the other clip's frame is on its way
    if (wanted === view.frame) paint(bitmap);
    if (!state.project.points.length) return clear($("draft"));
    const drawn = await picture("draft", wanted);
    if (drawn && wanted === view.frame) fit($("draft"), drawn);
  } catch (error) {
    tell(error);
  }
}

function clear(canvas) {
  canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
}

function fit(canvas, bitmap) {
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
}

// --- drawing ---

/** How many pixels of the canvas one of the clip has: the only place where the two meet. */
function scale(canvas) {
  return canvas.width / state.clip.width;
}

function paint(bitmap) {
  const canvas = $("source");
  const ratio = window.devicePixelRatio || 1;
  const wide = Math.max(1, Math.round(canvas.clientWidth * ratio));
  canvas.width = wide;
  canvas.height = Math.max(1, Math.round((wide * state.clip.height) / state.clip.width));
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const k = scale(canvas);
  state.project.points.forEach((point, row) => {
    const { source, target } = state;
    line(context, source.xy[row], k, "#bbb", 1.5 * ratio, [6, 5]);
    line(context, target.xy[row], k, "#000", 5 * ratio, []);
    line(context, target.xy[row], k, point.color, 2.5 * ratio, []);
    for (const mark of point.marks || []) square(context, mark.x * k, mark.y * k, mark.t === view.frame, ratio);
    const drag = view.drag && view.drag.id === point.id ? view.drag : null;
    let [x, y] = target.xy[row][view.frame];
    if (drag && !drag.fix) [x, y] = [x + drag.dx, y + drag.dy];
    dot(context, x * k, y * k, point, target.visible[row][view.frame], ratio);
    if (!view.fixing && !(drag && drag.fix)) return;
    [x, y] = source.xy[row][view.frame]; // what is put right is where the tracker has it
    if (drag) [x, y] = [x + drag.dx, y + drag.dy];
    square(context, x * k, y * k, point.id === view.selected, ratio);
  });
  for (const stroke of boxes.strokesOf(view.frame)) brushed(context, stroke, k, ratio);
  for (const { box, color } of boxes.inFrame(view.frame)) frame(context, box, k, color, ratio);
}

/** A stroke of the brush: light where it adds, dark with a dashed middle where it removes. */
function brushed(context, { path, radius, sign }, k, ratio) {
  const adds = sign !== "remove";
  const places = path.length > 1 ? path : [path[0], path[0]];
  context.save();
  context.lineCap = context.lineJoin = "round";
  context.globalAlpha = 0.45;
  line(context, places, k, adds ? "#fff" : "#000", 2 * radius * k, []);
  context.globalAlpha = 1;
  line(context, places, k, adds ? "#000" : "#fff", 1.5 * ratio, adds ? [] : [5, 5]);
  context.restore();
}

/** A box: its thing lies inside. */
function frame(context, [x0, y0, x1, y1], k, color, ratio) {
  for (const [style, width, dash] of [["#000", 4, []], [color, 2, [8, 4]]]) {
    context.setLineDash(dash.map((length) => length * ratio));
    context.strokeStyle = style;
    context.lineWidth = width * ratio;
    context.strokeRect(x0 * k, y0 * k, (x1 - x0) * k, (y1 - y0) * k);
  }
  context.setLineDash([]);
}

function line(context, path, k, color, width, dash) {
  context.setLineDash(dash);
  context.strokeStyle = color;
  context.lineWidth = width;
  context.beginPath();
  path.forEach(([x, y], index) => (index ? context.lineTo(x * k, y * k) : context.moveTo(x * k, y * k)));
  context.stroke();
  context.setLineDash([]);
}

function dot(context, x, y, point, visible, ratio) {
  const radius = (point.id === view.selected ? 8 : 6) * ratio;
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.lineWidth = 3 * ratio;
  context.strokeStyle = point.id === view.selected ? "#fff" : "#000";
  context.stroke();
  if (visible) {
    context.fillStyle = point.color;
    context.fill();
  } else {
    context.lineWidth = 2 * ratio;
    context.strokeStyle = point.color; // hidden: a ring
    context.stroke();
  }
}

/** A mark: where a person says that the point is. */
function square(context, x, y, here, ratio) {
  const side = (here ? 7 : 4) * ratio;
  for (const [color, width] of [["#fff", 4], ["#d55e00", 2]]) {
    context.strokeStyle = color;
    context.lineWidth = width * ratio;
    context.strokeRect(x - side, y - side, 2 * side, 2 * side);
  }
}

// --- pointer ---

/** A pointer's place in pixels of the clip, (0, 0) the corner of the top-left one. */
function place(event) {
  const box = $("source").getBoundingClientRect();
  const size = state.clip.width / box.width; // for both sides: before the first frame is there, the height is another
  return [(event.clientX - box.left) * size, (event.clientY - box.top) * size];
}

function nearest(event, fix) {
  const box = $("source").getBoundingClientRect();
  const [x, y] = place(event);
  const reach = ((HIT[event.pointerType] || 12) * state.clip.width) / box.width;
  let best = null;
  state.project.points.forEach((point, row) => {
    const [px, py] = (fix ? state.source : state.target).xy[row][view.frame];
    const away = Math.hypot(px - x, py - y);
    if (away <= reach && (!best || away < best.away)) best = { id: point.id, away };
  });
  return best && best.id;
}

const canvas = $("source");

canvas.addEventListener("pointerdown", (event) => {
  if (!state.clip || event.button) return;
  canvas.setPointerCapture(event.pointerId);
  if (view.boxing || view.brushing) {
    if (view.brushing) boxes.begin(place(event));
    view.press = { boxes: view.boxing, x: event.clientX, y: event.clientY, from: place(event), moved: false };
    return;
  }
  const fix = view.fixing || event.altKey;
  const id = nearest(event, fix) || (fix && nearest(event, false)); // a bent point is caught where it is seen as well
  view.press = { id, fix, x: event.clientX, y: event.clientY, from: place(event), moved: false };
  if (view.press.id) select(view.press.id);
});

canvas.addEventListener("pointermove", (event) => {
  const press = view.press;
  if (!press) return;
  if (!event.buttons) return release();
  if (Math.hypot(event.clientX - press.x, event.clientY - press.y) > DRAG) press.moved = true;
  if (view.stroke) {
    const all = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
    boxes.goOn((all.length ? all : [event]).map(place));
    return redraw();
  }
  if (press.moved && press.boxes) {
    view.box = boxes.between(press.from, place(event));
    return redraw();
  }
  if (!press.moved || !press.id) return;
  const held = state.project.points.find((point) => point.id === press.id);
  if (held.locked) return tell(`${held.name} is locked: unlock it first`);
  const [x, y] = place(event);
  let [dx, dy] = [x - press.from[0], y - press.from[1]];
  if (event.shiftKey) Math.abs(dx) > Math.abs(dy) ? (dy = 0) : (dx = 0);
  view.drag = { id: press.id, fix: press.fix, dx, dy };
  redraw();
});

canvas.addEventListener("pointerup", (event) => {
  const { press, drag, box, stroke } = view;
  release();
  if (!press) return;
  if (stroke) return boxes.keepStroke(stroke);
  if (press.boxes) {
    view.box = box;
    return press.moved ? boxes.keep() : select(nearest(event, false) || view.selected); // whose box it will be
  }
  if (drag && drag.fix) return fixBy(drag.id, drag.dx, drag.dy);
  if (drag) return run("bend", { names: [drag.id], frame: view.frame, dx: drag.dx, dy: drag.dy });
  if (press.id || press.moved) return;
  const [x, y] = place(event);
  if (press.fix) return view.selected ? run("fix", { name: view.selected, frame: view.frame, x, y }) : tell("Select the point first that the tracker has lost.");
  run("add_point", { frame: view.frame, x, y }).then((id) => id && select(id));
});

/** Say that the tracker is wrong in this frame: the point is so far from where the tracker has it. */
function fixBy(id, dx, dy) {
  const row = state.project.points.findIndex((point) => point.id === id);
  const [x, y] = state.source.xy[row][view.frame];
  return run("fix", { name: id, frame: view.frame, x: x + dx, y: y + dy });
}

/** Turn on what a drag on the clip does: "fixing" puts the tracker right, "boxing" and "brushing" say where a thing is; null bends. */
function setTool(tool) {
  view.fixing = tool === "fixing";
  view.boxing = tool === "boxing";
  view.brushing = tool === "brushing";
  view.box = view.stroke = null;
  $("brush-options").hidden = !view.brushing;
  for (const [id, name] of [["fix", "fixing"], ["box", "boxing"], ["brush", "brushing"]]) $(id).setAttribute("aria-pressed", String(tool === name));
  canvas.classList.toggle("fixing", Boolean(tool));
  list();
  redraw();
}

for (const name of ["pointercancel", "lostpointercapture"]) canvas.addEventListener(name, release);

function release() {
  view.press = view.drag = view.box = view.stroke = null;
  redraw();
}

function redraw() {
  const bitmap = frames.source.get(view.frame);
  if (bitmap && state.clip) paint(bitmap);
}

function select(id) {
  view.selected = id;
  list();
  redraw();
}

// --- keys ---

document.addEventListener("keydown", (event) => {
  const writes = event.target.matches("input[type=text], input[type=number], textarea");
  const key = event.key.toLowerCase();
  if ((event.ctrlKey || event.metaKey) && !writes && (key === "z" || key === "y")) {
    event.preventDefault();
    return turn(key === "y" || event.shiftKey ? "redo" : "undo");
  }
  if (event.target.matches("select")) return;
  if (writes || event.ctrlKey || event.metaKey || event.altKey || !state.clip) return;
  const step = event.shiftKey ? 10 : 1;
  const arrows = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  if (view.boxing && event.target === canvas && boxes.key(event)) {
    event.preventDefault();
    return redraw();
  }
  if (event.key in arrows && event.target === canvas && view.selected) {
    event.preventDefault();
    const [dx, dy] = arrows[event.key];
    if (view.fixing) return fixBy(view.selected, dx, dy);
    return run("bend", { names: [view.selected], frame: view.frame, dx, dy });
  }
  if (event.key === "Escape") return view.drag || view.box || view.stroke ? release() : view.fixing || view.boxing || view.brushing ? setTool(null) : select(null);
  if (key === "f") return setTool(view.fixing ? null : "fixing");
  if (key === "b") return setTool(view.boxing ? null : "boxing");
  if (event.key === "Delete" && view.selected && event.target === canvas) return run("remove_point", { name: view.selected });
  if (event.key === " " && !event.target.matches("button, input, a, summary")) {
    event.preventDefault();
    return play();
  }
  if (key === "," || key === "<") return show(view.frame - step);
  if (key === "." || key === ">") return show(view.frame + step);
  if (event.key === "Home" || event.key === "End") {
    event.preventDefault(); // the page would scroll away from the clip
    return show(event.key === "Home" ? 0 : state.clip.frames - 1);
  }
});

// --- panels ---

function pointRow(point) {
  const made = document.createElement("li");
  const color = document.createElement("input");
  color.type = "color";
  color.className = "swatch";
  color.value = point.color.toLowerCase();
  color.setAttribute("aria-label", `Colour of ${point.name}`);
  color.addEventListener("change", () => run("change_point", { name: point.id, color: color.value }));
  const name = button(`${point.name}, from frame ${point.t}${point.tracks ? ", imported" : ""}`, () => select(point.id));
  name.className = "name";
  name.setAttribute("aria-pressed", String(point.id === view.selected));
  const lock = button("Lock", () => run("change_point", { name: point.id, locked: !point.locked }), `Lock ${point.name}`);
  lock.setAttribute("aria-pressed", String(Boolean(point.locked)));
  made.append(color, name, button("Rename", () => rename(point, name), `Rename ${point.name}`), lock);
  made.append(button("Remove", () => run("remove_point", { name: point.id }), `Remove ${point.name}`));
  for (const mark of point.marks || []) {
    made.append(button(`Fixed at ${mark.t} \u00d7`, () => run("unfix", { name: point.id, frame: mark.t }), `Take back the mark of ${point.name} at ${mark.t}`));
  }
  return made;
}

/** Put a field in the place of a point's name until it is left; Escape leaves the name as it was. */
function rename(point, shown) {
  const field = document.createElement("input");
  field.type = "text";
  field.className = "name";
  field.value = point.name;
  field.maxLength = 60;
  field.setAttribute("aria-label", `New name of ${point.name}`);
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") field.value = point.name;
    if (event.key === "Escape" || event.key === "Enter") field.blur();
  });
  field.addEventListener("blur", () => {
    field.replaceWith(shown);
    if (field.value !== point.name) run("change_point", { name: point.id, label: field.value });
  });
  shown.replaceWith(field);
  field.select();
}

function list() {
  $("clip-name").textContent = state.clip ? `${state.clip.name}: ${state.clip.frames} frames, ${state.clip.width}x${state.clip.height}` : "no clip";
  $("hint").textContent = !state.clip
    ? "Open a video, then click on a thing."
    : !state.project.points.length
      ? "Click on a thing to name a point on it."
      : view.boxing
        ? "Drag a box about the selected point's thing in this frame: it lies inside. By keys: Enter begins a box, arrows move it, Shift with arrows sizes it, Enter keeps it. Escape: bend again."
      : view.brushing
        ? "Brush over what is the selected point's thing in this frame, or over what is not. Escape: bend again."
      : view.fixing
        ? "Where the tracker is wrong: drag a square to where its point is, or select a point and click there. Escape: bend again."
        : "Drag a point where it shall be at this frame. Shift: along one axis. Alt: put the tracker right. Arrows: one pixel. Comma and full stop: frames.";
  for (const [id, steps] of [["undo", state.undo], ["redo", state.redo]]) {
    $(id).disabled = !steps.length;
    $(id).title = steps.length ? steps[steps.length - 1] : "nothing";
  }
  refill($("points"), state.project.points.map(pointRow));
  if (state.clip) timeline.draw(show, select);
  if (document.activeElement !== $("prompt")) $("prompt").value = state.project.prompt || "";
  $("command").textContent = state.command || "";
  $("exports").hidden = !state.project.points.length;
  $("save").hidden = !state.clip;
}

$("undo").addEventListener("click", () => turn("undo"));
$("redo").addEventListener("click", () => turn("redo"));
$("frame").addEventListener("input", (event) => show(Number(event.target.value)));
$("play").addEventListener("click", play);
$("prompt").addEventListener("change", (event) => run("set", { prompt: event.target.value }));
$("fix").addEventListener("click", () => setTool(view.fixing ? null : "fixing"));
$("box").addEventListener("click", () => setTool(view.boxing ? null : "boxing"));
$("brush").addEventListener("click", () => setTool(view.brushing ? null : "brushing"));
for (const id of ["which", "format"]) {
  $(id).addEventListener("change", () => ($("export").href = `/api/tracks/${$("which").value}.${$("format").value}`));
}
function play() {
  view.playing = !view.playing;
  $("play").setAttribute("aria-pressed", String(view.playing));
  $("play").textContent = view.playing ? "Pause" : "Play";
  const begun = performance.now();
  const first = view.frame;
  const next = () => {
    if (!view.playing || !state.clip) return;
    const index = (first + Math.floor(((performance.now() - begun) / 1000) * state.clip.fps)) % state.clip.frames;
    if (index !== view.frame) show(index);
    requestAnimationFrame(next);
  };
  next();
}

const TRACKS = /\.(npz|npy|csv|pkl|pickle|json)$/i;

/** Open what a file is by its name: a project, tracks, or else a clip. */
function send(file) {
  const kind = /\.mv2v$/i.test(file.name) ? "project" : TRACKS.test(file.name) ? "tracks" : "upload";
  return queue(async () => {
    const address = `/api/${kind}?name=${encodeURIComponent(file.name)}${kind === "upload" ? "" : `&base=${state.revision}`}`;
    const found = await busily(`opening ${file.name}`, () => ask(address, { method: "POST", body: file }));
    if (!found) return;
    take(found.state);
    if (found.notices.length) $("hint").textContent = found.notices.join(" ");
  });
}

for (const id of ["file", "project-file", "tracks-file"]) {
  $(id).addEventListener("change", (event) => {
    if (event.target.files.length) send(event.target.files[0]);
    event.target.value = ""; // the same file again is a change as well
  });
}
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) send(event.dataTransfer.files[0]);
});
window.addEventListener("resize", redraw);

refresh();
