// The list of operations: each on or off, in its place, with its fields; and a form for one more.

import { form, start } from "./fields.js";
import { $, ask, attempt, button, make, run, state, whenChanged } from "./session.js";

const ALIASES = { keyframes: "tween" };
const rows = new Map(); // by the operation's id; kept while the list changes, so that what is typed stays
let offered = []; // the operations that there are, as the session says
let adding = null; // the form of the operation that is about to be added

const kindOf = (op) => offered.find((each) => each.op === (ALIASES[op.op] || op.op));

/** Which points an operation is about, by their ids. */
export function about(op) {
  const { points } = state.project;
  const named = op.points ?? "all";
  if (named === "all") return points.map((point) => point.id);
  return (Array.isArray(named) ? named : [named]).map((each) => (typeof each === "number" ? points[each]?.id : each));
}

function makeRow(id) {
  const box = make("input", { type: "checkbox" });
  const name = button("", () => toggle());
  const up = button("\u2191", () => move(-1));
  const down = button("\u2193", () => move(1));
  const remove = button("Remove", () => run("remove_operation", { name: id }));
  const boxes = make("span", { class: "boxes" });
  const said = make("small", { class: "said", role: "alert" });
  const element = make("li", { class: "operation" }, box, name, up, down, remove, boxes, said);
  const row = { element, form: null };
  name.className = "name";
  name.setAttribute("aria-expanded", "false");
  const say = (error) => (said.textContent = error ? error.message.replace(/^operations\[\d+\] /, "") : "");
  const told = (work) => {
    say(null);
    return work.then((found) => found || update()); // where it went wrong, it is shown as it is
  };
  const operation = () => state.project.operations.find((each) => each.id === id);
  const place = () => state.project.operations.indexOf(operation());
  box.addEventListener("change", () => told(attempt("change_operation", { name: id, on: box.checked }, say)));

  async function move(by) {
    const found = await told(attempt("move_operation", { name: id, place: place() + by }, say));
    if (found) (by < 0 ? up : down).disabled ? name.focus() : (by < 0 ? up : down).focus();
  }

  function toggle() {
    if (row.form) {
      row.form.element.remove();
      row.form = null;
    } else {
      row.form = form(kindOf(operation().op), change);
      element.append(row.form.element);
      row.form.set(operation().op);
    }
    name.setAttribute("aria-expanded", String(Boolean(row.form)));
  }

  function change(given) {
    return attempt("change_operation", { name: id, given }, (error) => {
      const rest = row.form.say(error.message);
      if (rest) row.form.controls.get(Object.keys(given).pop()).say(rest);
    });
  }

  function update() {
    const own = operation();
    if (!own) return;
    box.checked = own.on;
    const title = (own.label === own.op.op ? `${own.label} ${called(own.op)}` : own.label).trim();
    name.textContent = title;
    box.setAttribute("aria-label", `${title} is on`);
    for (const [each, what] of [[up, "up"], [down, "down"]]) each.setAttribute("aria-label", `Move ${title} ${what}`);
    remove.setAttribute("aria-label", `Remove ${title}`);
    up.disabled = place() === 0;
    down.disabled = place() === state.project.operations.length - 1;
    const removers = (word, what, command) => Object.keys(own.op[word] || {}).map((frame) => button(
      `${what} at ${frame} \u00d7`,
      () => run(command, { names: about(own.op), frame: Number(frame), operation: id }),
      `Remove the ${what.toLowerCase()} of ${title} at ${frame}`,
    ));
    boxes.replaceChildren(...removers("boxes", "Box", "remove_box"), ...removers("strokes", "Brush", "remove_strokes"));
    if (row.form) row.form.set(own.op);
  }
  return { ...row, element, update };
}

function called(op) {
  if (op.points === undefined || op.points === "all") return "";
  return about(op).map((id) => state.project.points.find((point) => point.id === id)?.name ?? id).join(", ");
}

function list() {
  const { operations } = state.project;
  for (const [id, row] of rows) {
    if (operations.some((each) => each.id === id)) continue;
    row.element.remove();
    rows.delete(id);
  }
  operations.forEach((operation, place) => {
    if (!rows.has(operation.id)) rows.set(operation.id, makeRow(operation.id));
    const row = rows.get(operation.id);
    const there = $("operations").children[place];
    if (there !== row.element) $("operations").insertBefore(row.element, there || null);
    row.update();
  });
  $("add").hidden = !state.project.points.length;
}

// --- one more ---

function prepare() {
  const asked = offered.find((each) => each.op === $("add-kind").value);
  $("add-says").textContent = asked.sentence;
  adding = { asked, form: form(asked, null) };
  $("add-fields").replaceChildren(adding.form.element);
  adding.form.set(start(asked));
  $("add-said").textContent = "";
}

async function add() {
  const { asked } = adding;
  const given = adding.form.values();
  if (!given) return;
  for (const name of Object.keys(given)) if (given[name] === null) delete given[name];
  const found = await attempt("add_operation", { kind: asked.op, given }, (error) => ($("add-said").textContent = adding.form.say(error.message)));
  if (found) $("add-said").textContent = "";
}

const points = (of) => JSON.stringify(of.project.points.map(({ id, name }) => [id, name]));

ask("/api/operations").then((found) => {
  offered = found;
  $("add-kind").append(...offered.map((each) => make("option", { text: each.op, value: each.op })));
  $("add-kind").addEventListener("change", prepare);
  $("add-button").addEventListener("click", add);
  $("add-details").addEventListener("toggle", () => $("add-details").open && prepare());
  whenChanged((before) => {
    list();
    if ($("add-details").open && points(before) !== points(state)) prepare();
  });
  list();
});
