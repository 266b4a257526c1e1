// Everything that the page can be told to do, in one table: keys, the sheet of keys, and the palette are made of it.

import { $, button, make, refill, remember, remembered, tell } from "./session.js";

const LETTERS_OFF = "motionv2v.letters-off"; // in this browser
export const actions = []; // {id, group, label, keys, run, works}
const byKey = new Map();

/** Add actions of a group: [id, label, keys, run, works]; works() tells whether it can be done now. */
export function offer(group, rows) {
  for (const [id, label, keys, run, works = () => true] of rows) {
    const action = { id, group, label, keys: keys ? keys.split("  ") : [], run, works };
    actions.push(action);
    for (const key of action.keys) byKey.set(key, action);
    const own = document.querySelector(`[data-action="${id}"]`);
    if (!own) continue;
    own.addEventListener("click", () => perform(action));
    own.title = [label, ...action.keys].join(" · ");
  }
}

export function perform(action) {
  if (!action.works()) return tell(`${action.label}: not possible now; ${needs(action)}`);
  return action.run();
}

const needs = (action) => (/point|path|selec|keyframe|hide|show|mask|brush|box/i.test(action.label) ? "open a clip and select a point first" : "open a clip first");

/** Write what was pressed as the table writes keys: Ctrl+Shift+z, Shift+ArrowUp, ?. */
export function written(event) {
  const isSign = event.key.length === 1 && !/[a-z0-9 ]/i.test(event.key);
  const name = event.key === " " ? "Space" : event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const parts = [event.ctrlKey || event.metaKey ? "Ctrl" : "", event.altKey ? "Alt" : "", event.shiftKey && !isSign ? "Shift" : ""];
  return [...parts.filter(Boolean), name].join("+");
}

const lettersOff = () => remembered(LETTERS_OFF) === "yes";

/** Do what a key means; returns whether it means anything here. */
export function key(event) {
  if (event.isComposing || event.defaultPrevented) return false;
  const target = event.target;
  const writes = target.matches("input[type=text], input[type=number], input[type=search], textarea");
  const name = written(event);
  const isPlain = !/^(Ctrl|Alt)\+/.test(name) && !/^(Shift\+)?(Arrow|Home|End|Delete|Escape|Enter|Tab|F\d|Page)/.test(name);
  if (writes && (isPlain || /^Ctrl\+(Shift\+)?[azy]$/.test(name) || /^(Shift\+)?(Arrow|Home|End|Delete|Enter|Page)/.test(name))) return false;
  if (target.matches("select") && isPlain) return false;
  if (name === "Space" && target.matches("button, input, a, summary, select")) return false;
  if (/^(Shift\+)?(Home|End|Page)/.test(name) && target.matches("input[type=range], select")) return false;
  if (/^(Shift\+)?Arrow/.test(name) && target.matches("input[type=range]:not(#frame), select")) return false;
  if (isPlain && name !== "Space" && lettersOff()) return false;
  if (document.querySelector("dialog[open]")) return false;
  const action = byKey.get(name);
  if (!action) return false;
  event.preventDefault();
  if (name !== "Space" || !event.repeat) perform(action); // held, it shifts what is seen
  return true;
}

// --- the sheet: all actions by group, with their keys; each is a button ---

export const words = (action) => action.keys.map((each) => each.replace("Arrow", "")).join(" or ");

export function openSheet() {
  const groups = [...new Set(actions.map((action) => action.group))];
  const rows = groups.map((group) => make("section", {}, make("h3", { text: group }), ...actions.filter((each) => each.group === group).map(row)));
  $("sheet-actions").replaceChildren(...rows);
  $("letters-off").checked = lettersOff();
  $("sheet").showModal();
}

function row(action) {
  const made = button(action.label, () => ($("sheet").close(), perform(action)));
  made.dataset.of = action.id;
  made.append(make("kbd", { text: words(action) }));
  return made;
}

$("letters-off").addEventListener("change", (event) => remember(LETTERS_OFF, event.target.checked ? "yes" : "no"));
$("sheet-close").addEventListener("click", () => $("sheet").close());

// --- the palette: actions by what they are called ---

let at = 0;

function found() {
  const wanted = $("palette-text").value.toLowerCase().split(/\s+/).filter(Boolean);
  return actions.filter((action) => wanted.every((word) => `${action.group} ${action.label}`.toLowerCase().includes(word)));
}

function list() {
  const rows = found();
  at = Math.max(0, Math.min(rows.length - 1, at));
  refill($("palette-list"), rows.map((action, index) => {
    const made = make("li", { id: `palette-${action.id}`, role: "option", "aria-selected": String(index === at) }, make("span", { class: "name", text: action.label }), make("kbd", { text: words(action) }));
    made.addEventListener("click", () => choose(action));
    return made;
  }));
  const own = rows[at] && $(`palette-${rows[at].id}`);
  $("palette-text").setAttribute("aria-activedescendant", own ? own.id : "");
  own?.scrollIntoView({ block: "nearest" });
}

function choose(action) {
  $("palette").close();
  perform(action);
}

export function openPalette() {
  $("palette-text").value = "";
  at = 0;
  $("palette").showModal();
  list();
}

$("palette-text").addEventListener("input", () => ((at = 0), list()));
$("palette-text").addEventListener("keydown", (event) => {
  const rows = found();
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step) {
    event.preventDefault();
    at = (at + step + rows.length) % Math.max(1, rows.length);
    list();
  }
  if (event.key === "Enter" && rows[at]) {
    event.preventDefault();
    choose(rows[at]);
  }
});
