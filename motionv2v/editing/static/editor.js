// The editor page: draws what the session knows, and sends it commands. No state of its own but the view.

import * as actions from "./actions.js";
import * as boxes from "./boxes.js";
import "./conflicts.js";
import "./contextual.js";
import "./problems.js";
import * as drawn from "./drawn.js";
import * as frames from "./frames.js";
import * as groups from "./groups.js";
import * as kept from "./kept.js";
import * as layers from "./layers.js";
import { forgetDraft, isEdited, keepDraft, redraw } from "./paint.js";
import * as pointer from "./pointer.js";
import "./runs.js";
import * as presets from "./presets.js";
import * as stage from "./stage.js";
import * as timeline from "./timeline.js";
import * as tools from "./tools.js";
import "./tracking.js";
import { $, ask, busily, button, choose, chosen, make, queue, refill, refresh, run, state, take, tell, view, whenChanged } from "./session.js";

whenChanged((before) => {
  if (!before.clip || !state.clip || before.project.clip !== state.project.clip) {
    frames.forgetClip();
    forgetDraft();
    if (state.clip) document.documentElement.style.setProperty("--aspect", state.clip.width / state.clip.height);
    if (state.clip) stage.fit();
    if (state.clip) timeline.showStrip();
    view.frame = 0;
    if (view.result) showResult(null);
    if (state.clip) kept.restore();
  }
  const drawn = ({ project }) => JSON.stringify([project.operations, project.points, project.order]);
  if (drawn(before) !== drawn(state)) {
    frames.forgetEdit();
    view.full = false;
    if (view.result) showResult(null);
  }
  list();
  show(view.frame);
});

/** Undo, redo or take up a branch, and go to the frame where that is seen. */
async function turn(command, content = {}) {
  const found = await run(command, content);
  if (!found) return;
  const named = found.names.flatMap((name) => state.project.groups.find((group) => group.id === name)?.points ?? [name]);
  const known = named.filter((name) => state.project.points.some((point) => point.id === name));
  if (known.length) choose(known);
  view.flash = true; // so that it is seen where something changed
  setTimeout(() => ((view.flash = false), redraw()), 400);
  list();
  show(found.frame);
}

// --- frames ---

let last = null; // which frame, of which edit, is shown
let expected = ""; // what may be bent next, as the session was told

async function show(index) {
  if (!state.clip) return closed();
  view.frame = Math.max(0, Math.min(state.clip.frames - 1, index));
  $("frame").max = state.clip.frames - 1;
  $("frame").value = view.frame;
  $("where").textContent = `${view.frame} / ${state.clip.frames - 1}`;
  timeline.at();
  groups.place();
  tools.sayUncertain();
  const wanted = (last = view.frame);
  view.failed = false;
  try {
    const own = await frames.picture("source", wanted);
    if (!own) return; // the other clip's frame is on its way
    redraw();
    if (view.onion) Promise.all([-2, -1, 1, 2].map((off) => wanted + off).filter((t) => t >= 0 && t < state.clip.frames).map((t) => frames.picture("source", t))).then(redraw, tell);
    if (wanted !== last) return;
    if (view.masks && isEdited()) layers.look(wanted); // they may come long before the draft
    if (view.result) {
      if (await frames.picture("result", wanted)) redraw();
      if (!view.playing && wanted === last) frames.fetchAround(wanted, state.clip.frames, "result");
      return;
    }
    if (!state.project.points.length) forgetDraft();
    if (!isEdited()) return keepDraft(own), redraw(); // the clip itself, which stays until there is a draft
    if (view.waits) return redraw();
    const made = await frames.picture("draft", wanted);
    if (made && wanted === view.frame) keepDraft(made);
    redraw();
    if (view.result) return; // a person looks at that by now
    if (made && !view.playing) frames.fetchAround(wanted, state.clip.frames);
    if (made && made.height < state.clip.height) drawLater(wanted);
    if (view.full && (await frames.picture("full", wanted)) && wanted === view.frame) redraw();
    if (view.uncertain && wanted === view.frame) await frames.picture("uncertain", wanted);
    redraw();
  } catch (error) {
    if (view.waits) return redraw(); // a person stopped what it is drawn of
    view.failed = wanted === view.frame;
    redraw();
    tell(error);
  }
}

const REST = 2000; // milliseconds without an edit or another frame, after which it is drawn at full size
let resting = 0;

function drawLater(frame) {
  clearTimeout(resting);
  const edit = frames.edit();
  const isStill = () => frame === last && edit === frames.edit() && !view.playing && !view.press && !view.result && !["source", "paths"].includes(view.mode);
  resting = setTimeout(() => isStill() && frames.picture("full", frame).then(redraw, tell), REST);
}

/** Show the result of a run in the place of the draft; null: the draft again. */
function showResult(name) {
  if (name !== view.result) frames.forgetResult();
  view.result = name;
  $("draft-name").textContent = name ? `result of run ${name}` : "draft";
  if (name && (view.mode === "source" || view.mode === "paths")) tools.look("side");
  for (const each of document.querySelectorAll("[data-shows-run]")) each.setAttribute("aria-pressed", String(each.dataset.showsRun === name));
  show(view.frame);
}

addEventListener("result", ({ detail }) => showResult(detail));

/** Show that no clip is open any more. */
function closed() {
  if (view.playing) play();
  [$("frame").max, $("frame").value, $("where").textContent] = [0, 0, "0 / 0"];
  redraw();
}

stage.whenMoved(redraw);

// --- keys ---

document.addEventListener("keydown", (event) => {
  if (event.key === " ") pointer.holdSpace(true);
  if (event.key === "Escape" && timeline.cancel()) return;
  if (event.target === $("source") && !event.ctrlKey && !event.metaKey && tools.onCanvas(event)) return event.preventDefault();
  actions.key(event);
});
document.addEventListener("keyup", (event) => {
  if (event.key === " ") pointer.holdSpace(false);
  if (event.key === "`") tools.hold(false);
});

addEventListener("blur", () => (pointer.holdSpace(false), tools.hold(false))); // keys are let go elsewhere

// --- panels ---

/** Select a point alone. */
function select(id) {
  choose(id ? [id] : []);
  list();
}

/** What was undone and left for another edit. */
function branch({ steps, label }, number) {
  const words = `Other branch (${steps} ${steps === 1 ? "step" : "steps"}, to ${label})`;
  return make("li", {}, make("span", { text: words }), button("Take it up", () => turn("take_branch", { number }), `Take up: ${words}`));
}

function list() {
  $("clip-name").textContent = state.clip ? `${state.clip.name}: ${state.clip.frames} frames, ${state.clip.width}x${state.clip.height}` : "no clip";
  $("hint").textContent = tools.hint();
  for (const [id, steps] of [["undo", state.undo], ["redo", state.redo]]) {
    $(id).disabled = !steps.length;
    $(id).title = steps.length ? steps[steps.length - 1] : "nothing";
  }
  refill($("branches"), (state.branches || []).map(branch));
  groups.list();
  layers.list();
  drawn.list();
  timeline.draw();
  redraw();
  expectBend();
  if (document.activeElement !== $("prompt")) $("prompt").value = state.project.prompt || "";
  $("exports").hidden = !state.project.points.length;
  for (const id of ["save", "copy-command", "copy-edit", "edit-json"]) $(id).hidden = !state.clip;
}

/** Tell the session which points are selected, whenever these are others: it gets ready for their being bent. */
function expectBend() {
  const key = JSON.stringify([state.clip && state.project.clip, state.project.points, chosen()]);
  if (key === expected || !state.clip) return;
  expected = key;
  frames.expect(chosen(), view.frame);
}

$("frame").addEventListener("input", (event) => show(Number(event.target.value)));
$("prompt").addEventListener("change", (event) => run("set", { prompt: event.target.value }));
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

const page = { list, go: show, show: () => show(view.frame), select, fix: () => view.fixing || tools.choose("fixing"), undo: () => turn("undo"), turn, play };
pointer.start(list, () => view.playing && play());
pointer.onWheel((by) => show(view.frame + by));
for (const part of [groups, layers, presets, timeline, tools]) part.start(page);

const TRACKS = /\.(npz|npy|csv|pkl|pickle|json)$/i;

const ASKED = { "project-file": ["project", "not a project: one ends in .mv2v"], "tracks-file": ["tracks", "no file of tracks: one ends in .npz, .npy, .csv, .pkl or .json"] };

/** Open what a file is by its name: a project, tracks, or else a clip; nothing but what an input asks for. */
function send(file, id) {
  const kind = /\.mv2v$/i.test(file.name) ? "project" : TRACKS.test(file.name) ? "tracks" : "upload";
  const [asked, refusal] = ASKED[id] || [kind];
  if (kind !== asked) return tell(`${file.name} is ${refusal}.`);
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
    if (event.target.files.length) send(event.target.files[0], id);
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
