// The panel of points: groups, and the points in them and beside them; names, colours, locks, doubts.

import * as menu from "./menu.js";
import { $, button, choose, chosen, isChosen, make, refill, run, state, toast, view } from "./session.js";

const MOST = 60; // rows: of more points, those that are selected or looked for
const open = new Set(); // groups that are unfolded

let page = { list: () => {}, go: () => {}, fix: () => {}, undo: () => {} };
export const start = (given) => (page = given);

function select(ids) {
  choose(ids);
  page.list();
}

const allOf = (ids) => ids.length > 0 && ids.every(isChosen);

/** What is said of a point or of a group with its name: a colour, its name, more buttons. */
function head(each, { title, ids, change, locked }) {
  const color = make("input", { type: "color", class: "swatch", value: each.color.toLowerCase(), "aria-label": `Colour of ${each.name}` });
  color.value = each.color.toLowerCase();
  color.addEventListener("change", () => change({ color: color.value }));
  const name = button(title, (event) => select(event.ctrlKey || event.metaKey || event.shiftKey ? [...chosen(), ...ids] : ids));
  name.className = "name";
  name.title = title;
  name.setAttribute("aria-pressed", String(allOf(ids)));
  const lock = button("Lock", () => change({ locked: !locked }), `Lock ${each.name}`);
  lock.setAttribute("aria-pressed", String(locked));
  const pen = button("\u270e", () => rename(each, name, change), `Rename ${each.name}`);
  pen.title = "Rename";
  return [color, name, pen, lock];
}

function pointRow(point) {
  const title = `${point.name}, from frame ${point.t}${point.tracks ? ", imported" : ""}`;
  const change = (given) => run("change_point", { name: point.id, ...given });
  const made = make("li", { class: "row" }, ...head(point, { title, ids: [point.id], change, locked: Boolean(point.locked) }));
  const remove = button("\u00d7", () => removePoints([point.id]), `Remove ${point.name}`);
  remove.title = "Remove";
  made.append(remove);
  for (const mark of point.marks || []) {
    made.append(button(`Fixed at ${mark.t} \u00d7`, () => run("unfix", { name: point.id, frame: mark.t }), `Take back the mark of ${point.name} at ${mark.t}`));
  }
  const doubt = state.trust && state.trust[state.project.points.indexOf(point)];
  if (doubt) made.append(card(point, doubt));
  return made;
}

/** What is wrong with a path, and what to do. */
function card(point, { frames, after, says }) {
  const first = frames[0];
  const look = () => (select([point.id]), page.go(first));
  return make("div", { class: "card", role: "group", "aria-label": `Doubts about ${point.name}` },
    make("span", { text: `! ${says}` }),
    button(`Go to ${first}`, look, `Go to frame ${first}, where ${point.name} is in doubt`),
    button("Click it again", () => (look(), page.fix()), `Click ${point.name} again at ${first}`),
    button("Try another tracker", (event) => followBy(event.currentTarget, point), `Try another tracker for ${point.name}`),
    button(`Hidden from ${after + 1}`, () => run("set_visible", { names: [point.id], first: after + 1, last: state.clip.frames - 1, visible: false }), `${point.name} is hidden from ${after + 1}`));
}

/** Choose what follows a point; then say what came of it, and how to have it back. */
export function followBy(anchor, { id, name, tracker, tracks }) {
  const row = state.project.points.findIndex((point) => point.id === id);
  const seen = () => state.source.visible[row].filter(Boolean).length;
  const follow = async (next) => {
    const [revision, before] = [state.revision, seen()];
    await run("track_by", { name: id, tracker: next.name });
    if (state.revision === revision) return;
    toast(`${name} is followed by ${next.called}: seen in ${seen()} of ${state.clip.frames} frames, before in ${before}.`, page.undo);
  };
  const current = tracks ? null : tracker || "";
  const items = state.trackers.map((each) => ({ words: each.called, sentence: each.says, checked: each.name === current, run: () => each.name !== current && follow(each) }));
  menu.open(anchor, `Follow ${name} by`, [{ name: "Its path is found anew, from where you clicked", items }]);
}

function groupRow(group) {
  const points = state.project.points.filter((point) => group.points.includes(point.id));
  const change = (given) => run("change_group", { name: group.id, ...given });
  const made = make("li", { class: "row group" });
  const fold = button(open.has(group.id) ? "\u25be" : "\u25b8", () => (open.has(group.id) ? open.delete(group.id) : open.add(group.id), page.list()), `Points of ${group.name}`);
  fold.setAttribute("aria-expanded", String(open.has(group.id)));
  const locked = points.every((point) => point.locked);
  made.append(fold, ...head(group, { title: `${group.name} (${points.length})`, ids: group.points, change, locked }));
  made.append(button("Ungroup", () => run("remove_group", { name: group.id }), `Ungroup ${group.name}`));
  made.append(button("Remove", () => removePoints(group.points), `Remove ${group.name}`));
  if (open.has(group.id)) made.append(make("ul", {}, ...points.slice(0, MOST).map(pointRow)));
  return made;
}

/** Put a field in the place of a name until it is left; Escape leaves the name as it was. */
function rename(each, shown, change) {
  const field = make("input", { type: "text", class: "name", maxlength: 60, "aria-label": `New name of ${each.name}` });
  field.value = each.name;
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") field.value = each.name;
    if (event.key !== "Escape" && event.key !== "Enter") return;
    event.stopPropagation(); // it ends the name alone
    field.blur();
    if (shown.isConnected) shown.focus();
  });
  field.addEventListener("blur", () => {
    field.replaceWith(shown);
    if (field.value !== each.name) change({ label: field.value });
    else page.list();
  });
  shown.replaceWith(field);
  field.select();
}

/** Remove points, and say how to have them back. */
export async function removePoints(ids) {
  const { points } = state.project;
  const names = points.filter((point) => ids.includes(point.id)).map((point) => point.name);
  const before = state.revision;
  await run("remove_points", { names: ids });
  if (state.revision !== before) toast(`Removed ${names.length > 3 ? `${names.length} points` : names.join(", ")}.`, page.undo);
}

export function list() {
  const { points, groups } = state.project;
  const grouped = new Set(groups.flatMap((group) => group.points));
  const wanted = $("find-point").value.toLowerCase();
  const free = points.filter((point) => !grouped.has(point.id));
  const looked = wanted ? points.filter((point) => point.name.toLowerCase().includes(wanted)) : free;
  const shown = looked.length > MOST ? [...looked.filter((point) => isChosen(point.id)), ...looked.filter((point) => !isChosen(point.id))].slice(0, MOST) : looked;
  // Who types a name is not disturbed by what was done before.
  if (!document.activeElement.matches("#points input.name")) refill($("points"), [...(wanted ? [] : groups.map(groupRow)), ...shown.map(pointRow)]);
  $("find-row").hidden = points.length <= 12;
  $("points-more").textContent = looked.length > shown.length ? `${looked.length - shown.length} more: look for them by name.` : "";
  const ids = chosen();
  $("selection").hidden = !ids.length;
  $("selection-says").textContent = ids.length === 1 ? points.find((point) => point.id === ids[0]).name : `${ids.length} points`;
  $("group").disabled = ids.length < 1;
  place();
}

// --- where the selection is, in numbers: a way without dragging ---

export function place() {
  const row = state.project.points.findIndex((point) => point.id === view.selected);
  if (row < 0 || !state.clip) return;
  const [x, y] = state.target.xy[row][view.frame];
  for (const [id, value] of [["at-x", x], ["at-y", y]]) if (document.activeElement !== $(id)) $(id).value = value.toFixed(1);
}

for (const [id, side] of [["at-x", 0], ["at-y", 1]]) {
  $(id).addEventListener("change", () => {
    const row = state.project.points.findIndex((point) => point.id === view.selected);
    if (row < 0 || $(id).value === "") return;
    const way = Number($(id).value) - state.target.xy[row][view.frame][side];
    if (Math.abs(way) > 0.05) run("bend", { names: chosen(), frame: view.frame, dx: side ? 0 : way, dy: side ? way : 0 });
  });
}
$("find-point").addEventListener("input", () => page.list());
