// What the page knows of the session, and how it sends commands. `state` is the session's, `view` this tab's own.

import { ONCE, isNotebook, request } from "./transport.js";

export const $ = (id) => document.getElementById(id);

export let state = { clip: null, revision: 0, project: { points: [], groups: [], operations: [] }, undo: [], redo: [] };
export const view = {
  frame: 0, playing: false, moved: 0,
  selected: null, chosen: new Set(), // the point that was selected last, and all that are
  tool: "point", fixing: false, boxing: false, brushing: false, // what a drag does
  press: null, drag: null, trial: null, box: null, stroke: null, region: null, drawn: null, cross: null, loupe: null, // while it lasts
  mode: "side", wipe: 0.5, onion: false, uncertain: false, masks: false, full: false, result: null, failed: false, waits: "", followed: null, holding: false, flash: false,
};

export const isChosen = (id) => view.chosen.has(id);

/** The points that are selected, in the project's order. */
export const chosen = () => state.project.points.filter((point) => view.chosen.has(point.id)).map((point) => point.id);

/** Select points; the last of them is the one that numbers and keys are about. */
export function choose(ids) {
  view.chosen = new Set(ids);
  view.selected = ids.length ? ids[ids.length - 1] : null;
}

const listeners = [];

/** Call work(before) whenever the session's state has changed. */
export function whenChanged(work) {
  listeners.push(work);
}

/** Ask the session; waits while it does not answer, and says so. Throws an Error with its sentence and its `status`. */
export async function ask(path, options = {}) {
  const answer = await reach(path, options);
  const found = await answer.json().catch(() => ({ error: `the editor answered ${answer.status}: try again` }));
  if (!answer.ok) throw Object.assign(new Error(found.error || `the editor answered ${answer.status}`), { status: answer.status });
  return found;
}

const PATIENCE = 10_000; // in a notebook nothing fails while a cell is at work: milliseconds until that is told
const late = new Set(); // requests that wait for an answer

function wait(asked, is) {
  if (is) late.add(asked);
  else late.delete(asked);
  $("gone").hidden = late.size === 0;
}

/** Send a request until there is an answer; says that it waits. Throws where its signal gives it up, and for files. */
export async function reach(path, options) {
  // An answer may get lost behind the work: what is sent again is not to be done again.
  const id = options.method === "POST" ? { [ONCE]: `${Date.now()}-${Math.random()}` } : {};
  const asked = { ...options, headers: { ...options.headers, ...id } };
  const timer = isNotebook && !options.signal ? setTimeout(() => wait(asked, true), PATIENCE) : 0;
  try {
    for (let pause = 500; ; pause = Math.min(2 * pause, 8000)) {
      try {
        return await request(path, asked);
      } catch (error) {
        if (options.signal?.aborted) throw error;
        if (options.body instanceof Blob) throw new Error("the editor does not take the file: is it still running, and the file not too large?");
        wait(asked, true);
        await new Promise((done) => setTimeout(done, pause));
      }
    }
  } finally {
    clearTimeout(timer);
    wait(asked, false);
  }
}

export const post = (path, content) =>
  ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content) });

export function tell(error) {
  $("error").textContent = error ? String(error.message || error) : "";
  $("error").hidden = !error;
  if (error) dispatchEvent(new CustomEvent("problem", { detail: error }));
}

/** Work, and say what is being done; returns null where it went wrong, which `say` is told. */
export async function busily(what, work, say = tell) {
  $("busy").textContent = what;
  $("toast").hidden = true;
  try {
    tell(null);
    return await work();
  } catch (error) {
    if (error.status === 409) throw error; // another tab was faster
    say(error);
    return null;
  } finally {
    $("busy").textContent = "";
  }
}

/** Say what was done, with a button that takes it back. */
export function toast(words, back) {
  $("toast").replaceChildren(make("span", { text: words }), button("Undo", () => (($("toast").hidden = true), back())));
  $("toast").hidden = false;
}

let last = Promise.resolve(); // commands wait for one another: each is for the project that the one before made
let waiting = 0; // how many of them

export function queue(work) {
  waiting += 1;
  // What goes wrong in one, or where its answer is shown, is told; those behind it are done all the same.
  last = last.then(work).catch((error) => (tell(error), null)).finally(() => (waiting -= 1));
  return last;
}

/** Tell whether commands are under way: what can be done after them is not known yet. */
export const isWaiting = () => waiting > 0;

const asking = [];

/** Call work(command, answer) when a command is sent, with the promise of its answer. */
export const whenAsked = (work) => asking.push(work);

let line = []; // commands that wait for others: {command, content}

/** The commands that wait for the one that is under way. */
export const inLine = () => line;

function changeLine(next) {
  line = next;
  dispatchEvent(new CustomEvent("line"));
}

/** Leave undone what waits. */
export const leaveLine = () => changeLine([]);

/** Send a command; returns {answer}, or null where it went wrong, which `say` is told, or where it was left undone. */
export function attempt(command, content = {}, say = tell) {
  const own = { command, content };
  changeLine([...line, own]);
  return queue(async () => {
    if (!line.includes(own)) return null;
    changeLine(line.filter((each) => each !== own));
    const base = state.revision;
    const asked = () => {
      const answer = post("/api/do", { do: command, base, ...content });
      for (const work of asking) work(command, answer);
      return answer;
    };
    let found = null;
    try {
      found = await busily(command.replace("_", " "), asked, say);
    } catch (error) { // the box of conflicts says it, once
      dispatchEvent(new CustomEvent("problem", { detail: error }));
      dispatchEvent(new CustomEvent("conflict", { detail: { base, command: { do: command, ...content } } }));
    }
    if (!found) return null;
    take(found.state);
    return { answer: found.answer };
  });
}

/** Send a command; returns its answer. */
export async function run(command, content = {}) {
  const found = await attempt(command, content);
  return found && found.answer;
}

export async function refresh() {
  const found = await busily("loading", () => ask("/api/state"));
  if (found) take(found);
}

export function take(next) {
  const before = state;
  state = next;
  const kept = chosen();
  if (kept.length < view.chosen.size) choose(kept);
  for (const work of listeners) work(before);
}

// --- what this browser remembers ---

const own = new Map(); // where the browser lets nobody keep anything, as in a notebook's frame: until the page goes

export function remember(name, value) {
  own.set(name, value);
  try {
    localStorage.setItem(name, value);
  } catch {} // `own` has it
}

export function remembered(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return own.get(name) ?? null;
  }
}

// --- elements ---

/** Make an element with attributes; a `text` goes in as text. */
export function make(tag, { text, ...attributes } = {}, ...children) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export function button(text, work, label) {
  const made = make("button", { text, type: "button", ...(label ? { "aria-label": label } : {}) });
  made.addEventListener("click", work);
  return made;
}

const called = (each) => each && (each.getAttribute("aria-label") || each.textContent);

/** Put other children into an element; what had the focus has it again, or else the first that can have it. */
export function refill(parent, children) {
  const held = parent.contains(document.activeElement) ? called(document.activeElement) : null;
  parent.replaceChildren(...children);
  if (!held) return;
  const all = [...parent.querySelectorAll("button, input")].filter((each) => !each.disabled);
  (all.find((each) => called(each) === held) || all[0] || $("source")).focus();
}
