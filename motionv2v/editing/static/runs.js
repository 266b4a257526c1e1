// Runs of models: what they need, started once for each seed, watched while they work, gone on with, shown, exported.

import { $, ask, busily, button, make, post, refill, run, state, tell, view, whenChanged } from "./session.js";
import { drop, save, show } from "./transport.js";

const FORMATS = [["mp4", "mp4"], ["webm", "webm"], ["gif", "gif"], ["zip", "PNG pictures (zip)"], ["png", "contact sheet (png)"]];
const SAID = { queued: "waits", interrupted: "stopped in the middle" };
const MOST = 12; // runs that are listed; those at work and in the line always are
const PAUSE = 700, LONG = 3000; // milliseconds between two looks at runs, and behind one that failed
let shown = "";
let told = ""; // how the runs stood when the tree was asked for
let watching = null;
let ended = 0; // runs that are done
let exported = []; // runs of which there may be a film to take along

// --- before ---

const number = (id) => ($(id).value === "" ? null : Number($(id).value));

const panel = () => ({ checkpoint: $("checkpoint").value.trim(), num_steps: number("num-steps"), guidance: number("guidance") });

function settings() {
  const words = $("seeds").value.split(/[\s,]+/).filter(Boolean);
  const wrong = words.find((word) => !/^\d{1,10}$/.test(word));
  if (wrong) throw new Error(`Seeds are whole numbers, such as 1, 2, 3: \u201c${wrong}\u201d is none.`);
  const seeds = words.map(Number);
  return seeds.length ? { ...panel(), seeds } : panel();
}

/** Say what a run needs, or why none can be started. */
async function estimate() {
  const why = state.clip ? (state.project.points.length ? "" : "Click on a thing first: an edit needs a point.") : "Open a video or a picture first.";
  $("run-why").textContent = why;
  $("run").disabled = Boolean(why);
  if (why) return ($("needs").textContent = "");
  $("needs").textContent = "working out what it needs…";
  try {
    const asked = settings();
    const found = await ask("/api/estimate", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(asked) });
    if (JSON.stringify(asked) !== JSON.stringify(settings())) return;
    const time = found.seconds === null ? `Time: ${found.basis}` : `About ${clock(found.seconds)} (${found.basis})`;
    $("needs").textContent = [`${time}. Memory: ${found.memory}.`, ...found.notes.map((note) => `${note}.`), found.why].join(" ").trim();
    $("needs").classList.toggle("said", !found.fits);
  } catch (error) {
    $("needs").textContent = error.message;
    $("needs").classList.add("said");
  }
}

let pending = 0;
const later = () => {
  clearTimeout(pending);
  pending = setTimeout(estimate, 400);
};

/** Write seconds as people read them. */
function clock(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")} min`;
  return `${Math.floor(whole / 3600)}:${String(Math.floor((whole % 3600) / 60)).padStart(2, "0")} h`;
}

// --- while they work ---

const order = (path, content = {}) => busily("", () => post(path, content)).then(watch);

async function watch() {
  const found = await ask("/api/runs").catch(() => null);
  clearTimeout(watching);
  if (!found) return void (watching = setTimeout(watch, LONG));
  const now = JSON.stringify(found);
  if (now !== shown) {
    shown = now;
    // What is being watched goes on playing: only rows that changed are made anew.
    const rows = found.runs.filter((each, at) => at < MOST || ["running", "queued"].includes(each.state)).map((each) => kept(each, found.queue));
    if (rows.some((row, at) => $("runs").children[at] !== row) || $("runs").children.length !== rows.length) refill($("runs"), rows);
    $("line").hidden = !found.queue.length;
    $("line-go").hidden = !found.is_held;
    const done = found.runs.filter((each) => each.state === "done").length;
    if (done !== ended) later(); // the next run's time is told by it
    ended = done;
    sources(found.runs);
    const stand = JSON.stringify(found.runs.map(({ id, state }) => [id, state]));
    if (stand !== told) tree();
    told = stand;
  }
  const works = found.runs.some((each) => each.state === "running") || (found.queue.length && !found.is_held);
  if (works) watching = setTimeout(watch, PAUSE);
}

const rows = new Map(); // by id: what a row was made of, and the row

function kept(each, queue) {
  const made = JSON.stringify([each, queue.indexOf(each.id), queue.length]);
  const was = rows.get(each.id);
  if (was?.made === made) return was.element;
  was?.element.querySelectorAll("img, video").forEach(drop);
  rows.set(each.id, { made, element: row(each, queue) });
  return rows.get(each.id).element;
}

function row(each, queue) {
  const title = `Run ${each.id}: ${each.checkpoint}${each.checkpoint === "draft" || each.seed === null ? "" : `, seed ${each.seed}`}`;
  const made = make("li", { class: "run" }, make("span", { class: "name", text: `${title}, ${SAID[each.state] || each.state}` }));
  const at = `/api/runs/${each.id}`;
  const does = (text, path, content) => made.append(button(text, () => order(path, content), `${text} run ${each.id}`));
  if (each.state === "queued") {
    const place = queue.indexOf(each.id);
    if (place > 0) does("Earlier", `${at}/move`, { place: place - 1 });
    if (place < queue.length - 1) does("Later", `${at}/move`, { place: place + 1 });
    does("Take out", `${at}/cancel`);
  }
  if (each.state === "running") {
    does("Cancel", `${at}/cancel`);
    progress(made, each);
  }
  if (["cancelled", "interrupted", "failed"].includes(each.state)) {
    const how = each.progress ? `Stopped at ${each.progress.where}: ` : "";
    const what = each.command ? `${how}it goes on with the same result as if it had not stopped.` : "An earlier version of the editor began it: start it anew.";
    made.append(make("small", { text: what }));
    if (each.command) does("Resume", `${at}/resume`);
    does("Discard", `${at}/discard`);
  }
  const lines = each.progress ? each.log.filter((line) => !/, [^,]* left$/.test(line)) : each.log; // how far it is stands above
  if (each.state === "done") finished(made, each);
  else if (lines.length) made.append(make("pre", { text: lines.slice(-4).join("\n"), role: "region", tabindex: "0", "aria-label": `What run ${each.id} told` }));
  return made;
}

function progress(made, { id, progress: told, has_preview: has, log }) {
  const bar = make("progress", { "aria-label": `How far run ${id} is`, max: "1" });
  if (told) bar.value = told.done / told.of;
  const left = told && told.left !== null ? `, ${clock(told.left)} left` : "";
  made.append(bar, make("small", { class: "where", text: told ? `${told.where}${left}` : log.length ? "" : "starting" }));
  if (!has) return;
  const picture = make("img", { class: "preview", alt: `What run ${id} has so far` });
  show(picture, `/api/runs/${id}/preview.webp?of=${told.done}`);
  made.append(picture);
}

// In a notebook a film comes whole, in parts: those that nobody looks at are not asked for.
const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    target.dispatchEvent(new Event("seen"));
  }
});

function finished(made, each) {
  const film = make("video", { "aria-label": `Result of run ${each.id}` });
  film.controls = film.loop = film.muted = true;
  film.preload = "metadata";
  const play = (name) => show(film, `/api/runs/${each.id}/${name}`);
  film.addEventListener("seen", () => play("edited.mp4"), { once: true });
  seen.observe(film);
  const beside = button("Beside the source", () => {
    const was = beside.getAttribute("aria-pressed") === "true";
    beside.setAttribute("aria-pressed", String(!was));
    play(was ? "edited.mp4" : "comparison.mp4");
  }, `Show the result of run ${each.id} beside the source`);
  beside.setAttribute("aria-pressed", "false");
  const pane = button("In the pane", () => dispatchEvent(new CustomEvent("result", { detail: view.result === each.id ? null : each.id })), `Show the result of run ${each.id} in place of the draft`);
  pane.dataset.showsRun = each.id;
  pane.setAttribute("aria-pressed", String(view.result === each.id));
  const use = button("Use as source", () => run("use_result", { run: each.id }), `Use the result of run ${each.id} as source`);
  const copy = each.command ? button("Copy command", () => copied(each.command), `Copy the command line of run ${each.id}`) : "";
  const took = each.seconds === null || each.seconds === undefined ? "" : `took ${clock(each.seconds)}`;
  made.append(make("small", { text: took }), pane, beside, use, copy, film);
}

/** Copy a text, or show it where the browser lets nobody copy. */
function copied(text) {
  const failed = () => ($("hint").textContent = text);
  if (!navigator.clipboard) return failed();
  navigator.clipboard.writeText(text).then(() => ($("hint").textContent = "Copied."), failed);
}

// --- what came from what ---

let asking = false;
let stale = false; // something changed since the tree was asked for

async function tree() {
  stale = true;
  if (asking) return;
  asking = true;
  let found = [];
  while (stale) {
    stale = false;
    found = await ask("/api/tree").catch(() => []);
  }
  asking = false;
  const items = found.map((node) => {
    const drift = node.drift === null || node.drift === undefined ? "" : `, ${node.drift.toFixed(1)} dB like the first source where no edit was`;
    const text = node.kind === "clip" ? node.label : `run ${node.run}: ${node.label}; ${node.checkpoint}${node.seed === null ? "" : `, seed ${node.seed}`}${node.prompt ? `, “${node.prompt}”` : ""}${drift}`;
    const item = make("li", {}, make("span", { class: "name", text }));
    item.style.paddingInlineStart = `${node.depth}rem`;
    if (node.is_open) item.setAttribute("aria-current", "true");
    else if (node.state === "done") item.append(button("Use", () => run("use_result", { run: node.run }), `Use run ${node.run}`));
    return item;
  });
  $("tree-empty").hidden = items.length > 1;
  refill($("tree"), items);
}

function lineage() {
  const made = state.project.made_from || [];
  const last = made[made.length - 1];
  const drift = last && last.drift !== null ? `, ${last.drift.toFixed(1)} dB like the first source where no edit was` : "";
  $("generation").textContent = made.length ? `This clip is ${made.length} edit${made.length > 1 ? "s" : ""} from its first source${drift}.` : "";
}

// --- to take along ---

function sources(runs) {
  const was = $("export-what").value;
  exported = runs;
  const done = runs.filter((each) => each.state === "done").map((each) => [each.id, `run ${each.id}`]);
  const open = state.clip ? [["source", "the clip"], ["draft", "the draft"]] : [];
  $("export-row").hidden = !open.length && !done.length;
  $("export-what").replaceChildren(...[...open, ...done].map(([value, text]) => new Option(text, value)));
  if ([...$("export-what").options].some((option) => option.value === was)) $("export-what").value = was;
}

const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`);

/** Show the command line that makes the edit, with the model and what else stands in the panel, of the first seed. */
function sayCommand() {
  let found = panel();
  try {
    found = settings();
  } catch {} // seeds that are none are told where they stand
  const flags = { checkpoint: found.checkpoint, seed: found.seeds?.[0], num_steps: found.num_steps, guidance: found.guidance };
  const given = Object.entries(flags).filter(([, value]) => ![undefined, null, "", "draft"].includes(value));
  $("command").textContent = state.command ? [state.command, ...given.map(([name, value]) => quoted(`--${name}=${value}`))].join(" ") : "";
}

/** Show edit.json where a person opened it; it is asked for only then. */
async function showEdit() {
  $("edit-shown").hidden = !state.project.points.length;
  if ($("edit-shown").hidden || !$("edit-shown").open) return;
  const { revision } = state;
  const found = await ask("/api/edit.json").catch(tell);
  if (found && revision === state.revision) $("edit-text").textContent = JSON.stringify(found, null, 1);
}

$("export-as").append(...FORMATS.map(([value, text]) => new Option(text, value)));
$("export-clip").addEventListener("click", async () => {
  const said = await busily("exporting", () => save(`/api/export/${$("export-what").value}.${$("export-as").value}`));
  if (said) $("hint").textContent = said;
});
$("copy-command").addEventListener("click", () => copied($("command").textContent));
$("edit-shown").addEventListener("toggle", showEdit);
$("copy-edit").addEventListener("click", async () => {
  const found = await busily("", () => ask("/api/edit.json"));
  if (found) copied(JSON.stringify(found, null, 1));
});
$("run").addEventListener("click", async () => {
  if (await busily("starting", () => post("/api/run", settings()))) watch();
});
$("dice").addEventListener("click", () => {
  $("seeds").value = [$("seeds").value.trim(), crypto.getRandomValues(new Uint32Array(1))[0] % 100_000].filter((each) => each !== "").join(", ");
  later();
  sayCommand();
});
$("line-go").addEventListener("click", () => order("/api/line/go_on"));
$("line-clear").addEventListener("click", () => order("/api/line/clear"));
for (const id of ["checkpoint", "seeds", "num-steps", "guidance"]) $(id).addEventListener("input", () => (later(), sayCommand()));

whenChanged((before) => {
  const of = ({ clip, project }) => [project.clip, clip?.frames, project.points.length > 0, project.points.length > 20].join();
  if (of(before) !== of(state) || $("run").disabled === Boolean(state.project.points.length)) later();
  if (before.project.clip !== state.project.clip) tree();
  if (Boolean(before.clip) !== Boolean(state.clip)) sources(exported);
  lineage();
  if (!before.session) $("checkpoint").value = state.checkpoint; // what the editor was started with
  sayCommand();
  showEdit();
});
ask("/api/runs").then(({ runs }) => sources(runs), tell);
watch();
later();
