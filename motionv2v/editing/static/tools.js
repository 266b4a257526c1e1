// What a drag does, how the clip is looked at, and the table of all that can be done.

import { offer, openPalette, openSheet } from "./actions.js";
import * as boxes from "./boxes.js";
import * as eases from "./eases.js";
import * as groups from "./groups.js";
import * as handles from "./handles.js";
import { isEdited, redraw } from "./paint.js";
import * as pointer from "./pointer.js";
import * as presets from "./presets.js";
import * as stage from "./stage.js";
import * as timeline from "./timeline.js";
import * as layers from "./layers.js";
import { isNotebook } from "./transport.js";
import { inTurn } from "./turns.js";
import { $, ask, choose as chooseIds, chosen, run, state, tell, view, whenChanged, isWaiting } from "./session.js";

let page = {};
const TOOLS = { point: "point", select: "select", draw: "draw", boxing: "box", brushing: "brush", fixing: "fix", hand: "hand", visibility: "visibility" };
const HINTS = {
  point: "Drag a point where it shall be at this frame, or a path where it shall be at that time. Shift: along one axis. Alt: put the tracker right. Arrows: one pixel. Comma and full stop: frames.",
  select: "Drag about points to select them; with Ctrl, round them. Drag a point to move all that are selected. Escape, with nothing selected: bend again.",
  draw: "Draw where the selected points shall go from this frame on, at the pace of your hand. Escape, with nothing selected: bend again.",
  boxing: "Drag a box about the selected point's thing in this frame: it lies inside. By keys: Enter begins a box, arrows move it, Shift with arrows sizes it, Enter keeps it. Escape, with nothing selected: bend again.",
  brushing: "Brush over what is the selected point's thing in this frame, or over what is not (X). Escape, with nothing selected: bend again.",
  fixing: "Where the tracker is wrong: drag a square to where its point is, or select a point and click there. Escape, with nothing selected: bend again.",
  hand: "Drag to shift what is seen; the wheel enlarges, 0 fits. Escape, with nothing selected: bend again.",
  visibility: "Brush over frames in the timeline, over several rows if you like, to hide what is shown or show what is hidden. X: show only. Escape, with nothing selected: bend again.",
  handles: "Drag a point, and all that are selected go with it; a corner scales them, the round handle turns them (Shift: by 15 degrees). S and T do so by keys.",
  cross: "Arrows move the cross, Shift with arrows by ten; Enter names a point there. Escape: no point.",
};

export function hint() {
  if (!state.clip) return "Open a video or a picture, then click on a thing.";
  if (view.cross) return HINTS.cross;
  if (!state.project.points.length && view.tool === "point") return "Click on a thing to name a point on it.";
  if (handles.now() && view.tool === "point") return HINTS.handles;
  return HINTS[view.tool];
}

/** Offer trackers where a click names a point. */
export const offerTracker = () => ($("tracker-row").hidden = !(state.trackers || []).length || view.tool !== "point");

/** Choose what a drag does: a word of TOOLS; again, or null, bends. */
export function choose(tool) {
  view.tool = tool && tool !== view.tool ? tool : "point";
  for (const word of ["fixing", "boxing", "brushing"]) view[word] = view.tool === word;
  view.box = view.stroke = view.cross = null;
  $("brush-options").hidden = !view.brushing;
  offerTracker();
  for (const [name, id] of Object.entries(TOOLS)) $(id).setAttribute("aria-pressed", String(view.tool === name));
  $("source").dataset.tool = view.tool;
  page.list();
}

/** How the clip and its draft are looked at. */
export function look(mode) {
  view.mode = mode;
  $("stage").dataset.mode = mode;
  $("mode").value = mode;
  $("wipe-row").hidden = mode !== "wipe";
  $("wipe").value = 100 * view.wipe;
  redraw();
}

/** While a key is held the clip is shown in place of its draft. */
export function hold(held) {
  view.holding = held;
  redraw();
}

export function turnOn(word) {
  view[word] = !view[word];
  $(`show-${word}`).checked = view[word];
  if (word === "masks") layers.carry();
  if (word === "uncertain") tellUncertain();
  page.show();
}

let uncertain = null; // the share of each frame
let asked = 0; // times that it was asked for; the last one alone is told

async function tellUncertain() {
  $("uncertain-says").textContent = "";
  uncertain = null;
  const own = (asked += 1);
  if (!view.uncertain || !state.clip || !isEdited()) return;
  const found = await inTurn("drawn", () => own === asked, () => ask("/api/uncertain")).catch(tell); // it is of all drafts
  if (!found || own !== asked) return;
  uncertain = found.shares;
  sayUncertain();
}

export function sayUncertain() {
  if (!view.uncertain || !uncertain) return;
  const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
  const all = uncertain.reduce((sum, share) => sum + share, 0) / uncertain.length;
  $("uncertain-says").textContent = `Uncertain (hatched): ${percent(uncertain[view.frame] ?? 0)} of this frame, ${percent(all)} of the clip: made up, stretched, or near an edge that is not sure.`;
}

// --- keys that the canvas takes for itself ---

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Do what a key means on the canvas; returns whether it meant anything. */
export function onCanvas(event) {
  if (!state.clip || event.altKey) return false;
  if (view.boxing && boxes.key(event)) return redraw(), true;
  const arrow = ARROWS[event.key];
  const step = event.shiftKey ? 10 : 1;
  if (view.cross) {
    if (arrow) view.cross = [clamp(view.cross[0] + step * arrow[0], state.clip.width), clamp(view.cross[1] + step * arrow[1], state.clip.height)];
    else if (event.key === "Enter") pointer.add(...view.cross), (view.cross = null);
    else return false;
    return redraw(), true;
  }
  if (arrow && chosen().length) {
    const [dx, dy] = arrow.map((side) => side * step);
    if (view.fixing) pointer.fixBy(view.selected, dx, dy);
    else run("bend", { names: chosen(), frame: view.frame, dx, dy });
    return true;
  }
  return false;
}

const clamp = (value, most) => Math.max(0, Math.min(most - 1, value));

// --- what the actions do ---

const hasClip = () => Boolean(state.clip);
const hasSeveral = () => hasClip() && chosen().length > 1;
const scale = (factor) => handles.keep({ kind: "scale", names: chosen(), frame: view.frame, factor });
const rotate = (degrees) => handles.keep({ kind: "rotate", names: chosen(), frame: view.frame, degrees });
const hasChosen = () => hasClip() && chosen().length > 0;

function cross() {
  if (view.tool !== "point") choose(null);
  view.cross = [state.clip.width / 2, state.clip.height / 2];
  $("source").focus();
  page.list();
}

function escape() {
  if (view.press || view.drag || view.box || view.stroke || view.cross) {
    view.cross = null;
    pointer.release();
    return page.list();
  }
  if (chosen().length) return page.select(null);
  choose(null);
  if (isNotebook) $("source").blur(); // and the wheel is the notebook's again
}

function nextPoint(by) {
  const { points } = state.project;
  if (!points.length) return;
  const at = points.findIndex((point) => point.id === view.selected);
  page.select(points[(at + by + points.length + (at < 0 && by < 0 ? 1 : 0)) % points.length].id);
}

function nextKey(by) {
  const all = timeline.keys(view.selected);
  const there = by > 0 ? all.find((frame) => frame > view.frame) : all.filter((frame) => frame < view.frame).pop();
  if (there === undefined) return tell("There is no keyframe on that side.");
  page.go(there);
}

function middle() {
  const all = timeline.keys(view.selected);
  const before = all.filter((frame) => frame <= view.frame).pop() ?? 0;
  const after = all.find((frame) => frame > view.frame) ?? state.clip.frames - 1;
  page.go(Math.round((before + after) / 2));
}

function hide(last) {
  const [first, end] = last === undefined ? timeline.range() : [view.frame, last];
  const rows = state.project.points.map((point, row) => [point.id, row]).filter(([id]) => chosen().includes(id));
  const visible = !rows.some(([, row]) => state.target.visible[row][first]);
  return run("set_visible", { names: chosen(), first, last: end, visible });
}

function lock() {
  const points = state.project.points.filter((point) => chosen().includes(point.id));
  const locked = !points.every((point) => point.locked);
  for (const { id } of points) run("change_point", { name: id, locked });
}

function flip() {
  if (view.brushing) $("sign").value = $("sign").value === "add" ? "remove" : "add";
  else view.flipped = !view.flipped;
  page.list();
}

function brushSize(by) {
  $("radius").value = Math.max(0.5, Number($("radius").value) * (by > 0 ? 1.25 : 0.8)).toFixed(1);
}

/** Go round the canvas, the points, the timeline and the panel. */
function round(by) {
  const parts = [$("source"), $("points").querySelector(".name") || $("find-point"), $("lanes").querySelector("button") || $("frame"), $("add-details").querySelector("summary")];
  const can = parts.filter((part) => part && part.checkVisibility());
  const at = can.findIndex((part) => part === document.activeElement || part.closest("section").contains(document.activeElement));
  can[(at + by + can.length) % can.length].focus();
}

const group = async () => {
  const id = await run("make_group", { names: chosen() });
  if (id) page.list();
};

export function start(given) {
  page = given;
  offer("Frames", [
    ["play", "Play or pause", "Space", () => page.play(), hasClip],
    ["back", "Frame back", ",", () => page.go(view.frame - 1), hasClip],
    ["on", "Frame on", ".", () => page.go(view.frame + 1), hasClip],
    ["back-ten", "Ten frames back", "<", () => page.go(view.frame - 10), hasClip],
    ["on-ten", "Ten frames on", ">", () => page.go(view.frame + 10), hasClip],
    ["arrow-back", "Step back, where nothing else takes the arrow", "ArrowLeft", () => page.go(view.frame - 1), hasClip],
    ["arrow-on", "Step on, where nothing else takes the arrow", "ArrowRight", () => page.go(view.frame + 1), hasClip],
    ["first", "First frame", "Home", () => page.go(0), hasClip],
    ["last", "Last frame", "End", () => page.go(state.clip.frames - 1), hasClip],
    ["key-before", "Keyframe before", "[  PageUp", () => nextKey(-1), hasChosen],
    ["key-after", "Keyframe after", "]  PageDown", () => nextKey(1), hasChosen],
    ["middle", "Middle of two keyframes", "\\", middle, hasChosen],
  ]);
  offer("Points and paths", [
    ["cross", "Place a point by keys", "p", cross, hasClip],
    ["key", "Keyframe here for the selected points", "k", () => run("bend", { names: chosen(), frame: view.frame, dx: 0, dy: 0 }), hasChosen],
    ["tracker", "Try another tracker for the selected point", "w", () => groups.followBy($("selection"), state.project.points.find((point) => point.id === view.selected)), hasChosen],
    ["ease", "How the way to the next keyframe is gone along", "e", () => eases.open(document.activeElement.closest(".tick") || $("ease")), hasChosen],
    ["delete-key", "Delete what the selected point has at this frame", "Delete", () => timeline.removeAt(view.selected, view.frame), hasChosen],
    ["remove", "Remove the selected points", "Shift+Delete", () => groups.removePoints(chosen()), hasChosen],
    ["next", "Select the next point", "n", () => nextPoint(1), hasClip],
    ["previous", "Select the previous point", "Shift+n", () => nextPoint(-1), hasClip],
    ["all", "Select all points", "Ctrl+a", () => (chooseIds(state.project.points.map((point) => point.id)), page.list()), hasClip],
    ["lock", "Lock or unlock the selected points", "l", lock, hasChosen],
    ["group", "Group the selected points", "g", group, hasChosen],
    ["spread", "More points about the selected one: a grid, a ball", "Shift+g", presets.openSpread, hasChosen],
    ["camera", "Move the camera: choose how", "c", () => $("camera").focus(), hasClip],
    ["scale-up", "Scale the selected points up, about their centre", "s", () => scale(1.05), hasSeveral],
    ["scale-down", "Scale the selected points down", "Shift+s", () => scale(1 / 1.05), hasSeveral],
    ["turn-right", "Turn the selected points to the right", "t", () => rotate(5), hasSeveral],
    ["turn-left", "Turn the selected points to the left", "Shift+t", () => rotate(-5), hasSeveral],
    ["hide", "Hide or show the selected points here, or in the range", "q", () => hide(), hasChosen],
    ["hide-on", "Hide or show the selected points from here on", "Shift+q", () => hide(state.clip.frames - 1), hasChosen],
  ]);
  offer("What a drag does", [
    ["point", "Bend, and name points", "Shift+p", () => choose(null)],
    ["select", "Select points by a rectangle or a lasso", "v", () => choose("select"), hasClip],
    ["draw", "Draw a path by hand", "d", () => choose("draw"), hasClip],
    ["fix", "Fix the track", "f", () => choose("fixing"), hasClip],
    ["box", "Box a thing", "m", () => choose("boxing"), hasClip],
    ["brush", "Brush a mask", "Shift+m", () => choose("brushing"), hasClip],
    ["visibility", "Brush visibility on the timeline", "b", () => choose("visibility"), hasClip],
    ["hand", "Shift what is seen", "h", () => choose("hand"), hasClip],
    ["flip", "Flip the brush: is or is not", "x", flip],
    ["smaller", "Smaller brush", "-", () => brushSize(-1)],
    ["larger", "Larger brush", "=", () => brushSize(1)],
    ["escape", "Cancel: the gesture, then the selection, then the tool", "Escape", escape],
  ]);
  offer("View", [
    ["fit", "Fit the clip", "0", () => stage.fit(), hasClip],
    ["actual", "One pixel for one", "Shift+0  )", () => stage.actual(), hasClip],
    ["closer", "Closer", "+", () => stage.zoomAt(1.5), hasClip],
    ["farther", "Farther", "_", () => stage.zoomAt(1 / 1.5), hasClip],
    ["look-source", "Look at the clip alone", "1", () => look("source"), hasClip],
    ["look-paths", "Look at the clip with its paths", "2", () => look("paths"), hasClip],
    ["look-draft", "Look at the draft", "3", () => look("draft"), hasClip],
    ["look-wipe", "Wipe between clip and draft", "5", () => look("wipe"), hasClip],
    ["look-side", "Clip and draft side by side", "6", () => look("side"), hasClip],
    ["full", "Draw the draft at full size, until the next edit", "r", () => ((view.full = !view.full), page.show()), hasClip],
    ["onion", "Onion skin: the frames before and after", "o", () => turnOn("onion"), hasClip],
    ["uncertain", "Hatch what is uncertain", "u", () => turnOn("uncertain"), hasClip],
    ["show-masks", "Show the masks", "Shift+u", () => turnOn("masks"), hasClip],
    ["hold", "Hold to see the clip in place of its draft", "`", () => hold(true), hasClip],
    ["round", "Next part of the page", "F6", () => round(1)],
    ["round-back", "Part of the page before", "Shift+F6", () => round(-1)],
  ]);
  offer("All", [
    ["undo", "Undo", "Ctrl+z", () => page.turn("undo"), () => isWaiting() || state.undo.length > 0],
    ["redo", "Redo", "Ctrl+Shift+z  Ctrl+y", () => page.turn("redo"), () => isWaiting() || state.redo.length > 0],
    ["run", "Run at full size", "Ctrl+Enter", () => $("run").click(), () => !$("run").disabled],
    ["sheet", "All actions and their keys", "?", openSheet],
    ["palette", "Find an action by its name", "Ctrl+k", openPalette],
  ]);
  $("mode").addEventListener("change", () => look($("mode").value));
  $("wipe").addEventListener("input", () => ((view.wipe = Number($("wipe").value) / 100), redraw()));
  for (const word of ["onion", "uncertain", "masks"]) $(`show-${word}`).addEventListener("change", () => turnOn(word));
  whenChanged(tellUncertain);
  look(view.mode);
}
