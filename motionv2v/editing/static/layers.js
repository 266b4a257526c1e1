// The panel of things: which lies in front, where a person said that they are, masks of files, what is carried.

import { thing } from "./boxes.js";
import * as frames from "./frames.js";
import { redraw } from "./paint.js";
import { $, ask, busily, button, chosen, make, post, queue, refill, run, state, take, tell, view, whenChanged } from "./session.js";

let page = { go: () => {}, show: () => {} };
export const start = (given) => (page = given);

const EVERY = 200; // milliseconds between two looks at masks that are on their way
const WAITS = "stopped while masks were carried: the draft needs them all";
let carried = null; // of the edit that is shown, once nothing more comes: [{doubts, frames}]
let told = []; // how often masks came for each frame
let reached = []; // which frames all things have come to
let way = ""; // "carrying", "stopped" or "done"
let asked = 0;
let stopping = null; // the last time that somebody stopped it: what was told before that is no longer so

export function called({ points }) {
  const group = state.project.groups.find((each) => [...each.points].sort().join() === [...points].sort().join());
  if (group) return group.name;
  const names = points.map((id) => state.project.points.find((point) => point.id === id)?.name ?? id);
  return names.length > 3 ? `${names.slice(0, 2).join(", ")} and ${names.length - 2} more` : names.join(", ");
}

function row(each, place) {
  const { things } = state;
  const name = called(each);
  const move = (by) => {
    const order = things.map(({ points }) => points[0]);
    order.splice(place + by, 0, order.splice(place, 1)[0]);
    return run("set_order", { names: order });
  };
  const up = button("\u2191", () => move(-1), `Move ${name} to the front`);
  const down = button("\u2193", () => move(1), `Move ${name} to the back`);
  up.disabled = place === 0;
  down.disabled = place === things.length - 1;
  const swatch = make("span", { class: "dot" });
  swatch.style.background = each.color;
  const made = make("li", {}, swatch, make("span", { class: "name", text: name }), up, down);
  const said = each.masks.length ? "masks of a file" : each.said.length ? `said in frames ${each.said.join(", ")}` : "found by itself";
  made.append(make("small", { class: "wide", text: `${said}. ${status(place)}` }));
  const weakest = weak(place);
  if (weakest !== null) made.append(button(`Weakest: frame ${weakest}. Go`, () => page.go(weakest), `Go to the weakest frame of ${name}, ${weakest}`));
  for (const id of each.masks) made.append(button("Masks \u00d7", () => run("remove_masks", { name: id }), `Remove the masks of ${name}`));
  return made;
}

function status(place) {
  const own = view.masks && carried && carried[place];
  if (!own) return "";
  return way === "stopped" ? `Carried so far: in ${own.frames} of ${state.clip.frames} frames.` : `Up to date: in ${own.frames} of ${state.clip.frames} frames.`;
}

/** The frame whose mask is doubted most; null where none is carried. */
function weak(place) {
  const own = view.masks && carried && carried[place];
  if (!own || !own.frames) return null;
  const most = Math.max(...own.doubts); // those of frames without a mask are null, which counts as 0
  return most > 0 ? own.doubts.indexOf(most) : null;
}

export function list() {
  const things = state.things || [];
  refill($("things"), things.map(row));
  $("things-says").textContent = things.length ? "" : "Nothing moves yet: what is bent, boxed or brushed is a thing, and has a layer.";
  $("masks").disabled = !state.clip || !chosen().length;
  progress();
}

/** Say how far masks are carried, and mark the frames that have one. */
function progress() {
  const on = view.masks && (state.things || []).length > 0;
  const there = reached.filter(Boolean).length;
  const count = `${there} of ${told.length} frames`;
  $("carrying").hidden = !on || !["carrying", "stopped"].includes(way);
  const words = { carrying: told.some(Boolean) ? `carrying the masks: ${count}` : "getting ready to carry the masks", stopped: `stopped: ${count}` };
  const said = words[way];
  if (said && $("carrying-says").textContent !== said) $("carrying-says").textContent = said;
  for (const [id, when] of [["carrying-stop", "carrying"], ["carrying-on", "stopped"]]) {
    if ($(id) === document.activeElement && way !== when) $("source").focus();
    $(id).hidden = way !== when;
  }
  const share = (frames) => `${(100 * frames) / told.length}%`;
  $("carried").replaceChildren(...(on ? reached : []).flatMap((is, t) => {
    if (!is) return [];
    const bar = make("i");
    [bar.style.left, bar.style.width] = [share(t), share(1)];
    return [bar];
  }));
}

/** Fetch the masks of a frame that is looked at, and show them as soon as they are there. */
export const look = (frame) => frames.picture("masks", frame).then((made) => made && frame === view.frame && redraw(), tell);

/** Have masks carried, and show them as they come; those of an edit before are dropped. */
export async function carry() {
  asked += 1;
  const own = asked;
  const goesOn = view.waits && !view.masks; // who no longer looks at them wants the draft
  [carried, told, reached, way] = [null, [], [], ""];
  const isWanted = () => own === asked && view.masks && (state.things || []).length > 0;
  if (!isWanted()) view.waits = ""; // else it is known once the session has answered
  list();
  if (goesOn) carryOn();
  while (isWanted()) {
    try {
      const since = stopping;
      await since;
      const found = await ask("/api/masks/carrying");
      if (!isWanted()) return;
      if (since !== stopping) continue;
      hear(found);
    } catch (error) {
      if (own !== asked) return;
      way = "";
      list();
      wait("");
      return tell(error);
    }
    if (way !== "carrying") return;
    await new Promise((done) => setTimeout(done, EVERY));
  }
}

/** Let the draft wait, and say for what; when it waits no longer it is drawn. */
function wait(words) {
  const hasWaited = view.waits;
  view.waits = words;
  if (hasWaited && !words) page.show();
}

function hear(found) {
  const isOver = found.state !== "carrying";
  const news = found.told.flatMap((count, t) => (isOver || count !== (told[t] || 0) ? [t] : []));
  [told, reached, way, carried] = [found.told, found.reached, found.state, isOver ? found.things : null];
  for (const t of news) frames.forget("masks", t);
  if (news.includes(view.frame)) look(view.frame);
  if (isOver) list();
  else progress();
  wait(way === "stopped" ? WAITS : "");
}

function stop() {
  view.waits = WAITS; // at once, for the draft that was asked for will not come
  stopping = post("/api/masks/stop", {}).catch(tell);
}

const carryOn = () => post("/api/masks/carry_on", {}).then(() => (carry(), page.show()), tell);

$("carrying-stop").addEventListener("click", stop);
$("carrying-on").addEventListener("click", carryOn);

whenChanged((before) => JSON.stringify([before.things, before.revision]) !== JSON.stringify([state.things, state.revision]) && carry());

$("masks").addEventListener("change", (event) => {
  const [file] = event.target.files;
  event.target.value = "";
  if (!file) return;
  const names = thing();
  if (!names.length) return tell("Select the points of the thing first: the masks say where it is.");
  return queue(async () => {
    const given = new URLSearchParams({ name: file.name, names: names.join(","), frame: view.frame, base: state.revision });
    const found = await busily(`reading ${file.name}`, () => ask(`/api/masks?${given}`, { method: "POST", body: file }));
    if (!found) return;
    take(found.state);
    $("hint").textContent = [`Masks of ${found.frames} frames are where the thing is.`, ...found.notices].join(" ");
  });
});
